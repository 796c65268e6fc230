//! The workload API of IoT Edge: signatures and certificates for this module, over a Unix socket or HTTP.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    fault::{Fault, chain},
    tls,
    topic::encode,
};

/// A call, the answer included.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The daemon serves ten requests at a time on a socket and closes the next connection without an answer.
const TRIES: u32 = 5;
/// Certificates and keys; nothing of the workload API is larger.
const MAX_ANSWER: usize = 1 << 20;
/// What we ask for; the current daemon decides by itself.
const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(720);

/// The workload API, for one module. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Workload {
    address: WorkloadAddress,
    api_version: String,
    module: String,
    generation: String,
}

/// Where the workload API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WorkloadAddress {
    Unix(PathBuf),
    Http(String),
}

/// A certificate with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkloadCertificate {
    /// The key, PKCS#8 in PEM form.
    pub private_key: String,
    /// The certificate and those above it, PEM.
    pub chain: String,
    /// Until when it is valid, RFC 3339.
    pub expiration: String,
}

/// Why the workload API gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// It cannot be reached, or does not answer.
    #[error("the workload api at {address} does not answer: {reason}")]
    NoAnswer {
        /// Where it should listen.
        address: String,
        /// What happened.
        reason: String,
    },
    /// It refused.
    #[error("the workload api refused {call}: {status} {message}")]
    Refused {
        /// The call.
        call: &'static str,
        /// The HTTP status: 403 if this process is not in the module's container, 404 if there is no such thing.
        status: u16,
        /// Its words.
        message: String,
    },
    /// It answered something else.
    #[error("the workload api's answer to {call} makes no sense: {reason}")]
    Malformed {
        /// The call.
        call: &'static str,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Digest {
    digest: String,
}

#[derive(Deserialize)]
struct TrustBundle {
    certificate: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IssuedCertificate {
    private_key: PrivateKey,
    certificate: String,
    expiration: String,
}

#[derive(Deserialize)]
struct PrivateKey {
    #[serde(default)]
    bytes: String,
}

// === impl Workload ===

impl Workload {
    pub(crate) fn new(address: WorkloadAddress, api_version: &str, module: &str, generation: &str) -> Self {
        Self {
            address,
            api_version: api_version.to_owned(),
            module: module.to_owned(),
            generation: generation.to_owned(),
        }
    }

    /// The HMAC-SHA256 of the data under the module's own key, which never leaves the daemon.
    pub async fn sign(&self, data: &[u8]) -> Result<Vec<u8>, WorkloadError> {
        let call = "sign";
        let body = json!({"keyId": "primary", "algo": "HMACSHA256", "data": STANDARD.encode(data)});
        let answer: Digest =
            self.call(call, Method::POST, &self.generation_path("sign"), Some(&body)).await?;
        STANDARD
            .decode(&answer.digest)
            .map_err(|_| WorkloadError::Malformed { call, reason: "the digest is not base64".to_owned() })
    }

    /// The certificates (PEM, one or several) of those whom modules of this device trust.
    pub async fn trust_bundle(&self) -> Result<String, WorkloadError> {
        let answer: TrustBundle = self.call("trust-bundle", Method::GET, "trust-bundle", None).await?;
        Ok(answer.certificate)
    }

    /// A server certificate for this module, for the name or address that clients use.
    pub async fn server_certificate(&self, common_name: &str) -> Result<WorkloadCertificate, WorkloadError> {
        let call = "certificate/server";
        let expiration = expiration()
            .map_err(|error| WorkloadError::Malformed { call, reason: format!("the clock: {error}") })?;
        let body = json!({"commonName": common_name, "expiration": expiration});
        let path = self.generation_path("certificate/server");
        self.call::<IssuedCertificate>(call, Method::POST, &path, Some(&body)).await.map(Into::into)
    }

    /// A client certificate that proves this module's identity.
    pub async fn identity_certificate(&self) -> Result<WorkloadCertificate, WorkloadError> {
        // This path carries no generation id.
        let path = format!("modules/{}/certificate/identity", encode(&self.module));
        let body = json!({});
        self.call::<IssuedCertificate>("certificate/identity", Method::POST, &path, Some(&body))
            .await
            .map(Into::into)
    }

    fn generation_path(&self, last: &str) -> String {
        format!("modules/{}/genid/{}/{last}", encode(&self.module), encode(&self.generation))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, WorkloadError> {
        let no_answer =
            |reason: String| WorkloadError::NoAnswer { address: self.address.to_string(), reason };
        let client = self.client().map_err(|fault| no_answer(fault.reason()))?;
        let url = format!("{}/{path}?api-version={}", self.address.base(), encode(&self.api_version));
        let mut tried = 0;
        let (status, text) = loop {
            tried += 1;
            let mut request = client.request(method.clone(), &url);
            if let Some(body) = body {
                request = request.json(body);
            }
            let error = match request.send().await {
                Ok(answer) => {
                    let status = answer.status();
                    match read_body(answer, MAX_ANSWER).await {
                        Ok(text) => break (status, text),
                        Err(error) => error,
                    }
                }
                Err(error) => error.into(),
            };
            // A reset is how the daemon throttles. All these calls may be made twice.
            if tried == TRIES || error.is_timeout() {
                return Err(no_answer(chain(&error)));
            }
            tracing::debug!(
                call,
                tried,
                error = chain(&error),
                "The workload API gave no answer; trying again."
            );
            tokio::time::sleep(
                Duration::from_millis(50 * u64::from(tried)).mul_f64(0.5 + rand::random::<f64>()),
            )
            .await;
        };
        if !status.is_success() {
            let message = serde_json::from_slice::<Value>(&text)
                .ok()
                .and_then(|answer| answer.get("message")?.as_str().map(str::to_owned))
                .unwrap_or_else(|| status.canonical_reason().unwrap_or("without a message").to_owned());
            let message = if status == StatusCode::NOT_FOUND && call == "trust-bundle" {
                format!("{message} (no trust bundle is set up on this device)")
            } else {
                message
            };
            return Err(WorkloadError::Refused { call, status: status.as_u16(), message });
        }
        serde_json::from_slice(&text)
            .map_err(|error| WorkloadError::Malformed { call, reason: error.to_string() })
    }

    fn client(&self) -> Result<reqwest::Client, Fault> {
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::no_trust()?)
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(CALL_LIMIT)
            .timeout(CALL_LIMIT)
            // Calls are far apart; a kept connection would count against the daemon's ten.
            .pool_max_idle_per_host(0);
        let builder = match &self.address {
            WorkloadAddress::Unix(path) => builder.unix_socket(path.as_path()),
            WorkloadAddress::Http(_) => builder,
        };
        builder.build().map_err(Fault::HttpSetUp)
    }
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error(transparent)]
    Request(#[from] reqwest::Error),
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

// === impl HttpError ===

impl HttpError {
    fn is_timeout(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_timeout())
    }
}

/// Reads a body up to a limit.
pub(crate) async fn read_body(mut answer: reqwest::Response, limit: usize) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Err(HttpError::TooLong(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn expiration() -> Result<String, time::error::Format> {
    OffsetDateTime::from(SystemTime::now() + CERTIFICATE_LIFETIME).format(&Rfc3339)
}

// === impl WorkloadAddress ===

impl WorkloadAddress {
    /// `unix:///path` or `http://host:port`; a slash at the end is tolerated.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches('/');
        if let Some(path) = text.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(Self::Unix(path.into()));
        }
        if text.strip_prefix("http://").is_some_and(|host| !host.is_empty())
            && reqwest::Url::parse(text).is_ok()
        {
            return Ok(Self::Http(text.to_owned()));
        }
        Err(format!("is {text:?}; unix:///path and http://host:port are allowed"))
    }

    fn base(&self) -> &str {
        match self {
            // The name is not looked up.
            Self::Unix(_) => "http://localhost",
            Self::Http(base) => base,
        }
    }
}

impl fmt::Display for WorkloadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Http(base) => f.write_str(base),
        }
    }
}

// === impl WorkloadCertificate ===

impl From<IssuedCertificate> for WorkloadCertificate {
    fn from(issued: IssuedCertificate) -> Self {
        Self {
            private_key: issued.private_key.bytes,
            chain: issued.certificate,
            expiration: issued.expiration,
        }
    }
}

impl fmt::Debug for WorkloadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        f.debug_struct("WorkloadCertificate").field("expiration", &self.expiration).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    /// Answers one request after the other with these texts; an empty text closes without an answer.
    async fn serve(listener: UnixListener, answers: Vec<&'static str>) -> Vec<String> {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            if answer.is_empty() {
                continue;
            }
            let mut request = Vec::new();
            while !String::from_utf8_lossy(&request).contains("\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            requests.push(String::from_utf8_lossy(&request).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        requests
    }

    fn workload(folder: &tempfile::TempDir) -> (Workload, UnixListener) {
        let path = folder.path().join("workload.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let address = WorkloadAddress::parse(&format!("unix://{}/", path.display())).unwrap();
        (Workload::new(address, "2022-08-03", "$edgeHub", "63 8"), listener)
    }

    #[tokio::test]
    async fn names_are_encoded_and_a_reset_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let (workload, listener) = workload(&folder);
        let answer =
            "HTTP/1.1 200 OK\r\nContent-Length: 18\r\nConnection: close\r\n\r\n{\"digest\":\"aGk=\"}\n";
        let server = tokio::spawn(serve(listener, vec!["", "", answer]));
        assert_eq!(workload.sign(b"x").await.unwrap(), b"hi");
        let requests = server.await.unwrap();
        assert!(
            requests[0].starts_with(
                "POST /modules/%24edgeHub/genid/63%208/sign?api-version=2022-08-03 HTTP/1.1\r\n"
            ),
            "{}",
            requests[0]
        );
    }

    #[tokio::test]
    async fn http_addresses_work_too() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = WorkloadAddress::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let workload = Workload::new(address, "2018-06-28", "m", "1");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !String::from_utf8_lossy(&request).contains("\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let answer =
                "HTTP/1.1 200 OK\r\nContent-Length: 21\r\nConnection: close\r\n\r\n{\"certificate\":\"PEM\"}";
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request).into_owned()
        });
        assert_eq!(workload.trust_bundle().await.unwrap(), "PEM");
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /trust-bundle?api-version=2018-06-28 HTTP/1.1"), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_carries_the_daemons_words() {
        let folder = tempfile::tempdir().unwrap();
        let (workload, listener) = workload(&folder);
        let forbidden = "HTTP/1.1 403 Forbidden\r\nContent-Length: 23\r\nConnection: close\r\n\r\n{\"message\":\"forbidden\"}";
        let nonsense = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        let server = tokio::spawn(serve(listener, vec![forbidden, nonsense]));
        let error = workload.sign(b"x").await.unwrap_err().to_string();
        assert_eq!(error, "the workload api refused sign: 403 forbidden");
        let error = workload.trust_bundle().await.unwrap_err().to_string();
        assert!(error.contains("trust-bundle makes no sense: missing field `certificate`"), "{error}");
        assert!(server.await.unwrap()[1].starts_with("GET /trust-bundle?api-version="));
    }

    #[tokio::test]
    async fn a_missing_socket_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (workload, listener) = workload(&folder);
        drop(listener);
        std::fs::remove_file(folder.path().join("workload.sock")).unwrap();
        let error = workload.trust_bundle().await.unwrap_err().to_string();
        assert!(error.contains("workload.sock does not answer"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn addresses_are_unix_or_http() {
        assert_eq!(WorkloadAddress::parse("unix:///a/b/"), Ok(WorkloadAddress::Unix("/a/b".into())));
        assert_eq!(WorkloadAddress::parse("http://h:80/"), Ok(WorkloadAddress::Http("http://h:80".into())));
        for bad in ["", "unix://", "unix://a", "https://h", "http://", "/a/b"] {
            assert!(WorkloadAddress::parse(bad).is_err(), "{bad}");
        }
    }
}
