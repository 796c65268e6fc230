//! Shared access signatures: who a token speaks for, whether it is signed with the right key and still in time.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::hmac;

/// Everything but the unreserved characters of RFC 3986 is encoded, as all SDKs do.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes everything but unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, STRICT).to_string()
}

/// Percent-decodes; `+` stays `+`. `None` if the result is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is not a shared access signature with sr, sig and se")]
    Malformed,
    #[error("the token's resource {0:?} is not the caller's")]
    Resource(String),
    #[error("the token ended {0} s ago")]
    Expired(u64),
    #[error("the token's signature is wrong")]
    Signature,
}

/// A token as received. `sr` stays encoded, because the signature covers its very bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    sr: String,
    signature: Vec<u8>,
    expiry: String,
    /// The policy name, `skn`; module and device keys have none.
    pub(crate) policy: Option<String>,
}

// === impl Token ===

impl Token {
    pub(crate) fn parse(text: &str) -> Result<Self, TokenError> {
        let fields = text.trim().strip_prefix("SharedAccessSignature ").ok_or(TokenError::Malformed)?;
        let (mut sr, mut signature, mut expiry, mut policy) = (None, None, None, None);
        for field in fields.split('&') {
            let (name, value) = field.split_once('=').ok_or(TokenError::Malformed)?;
            match name {
                "sr" => sr = Some(value.to_owned()),
                "sig" => {
                    let plain = decode(value).ok_or(TokenError::Malformed)?;
                    signature = Some(BASE64.decode(plain).map_err(|_| TokenError::Malformed)?);
                }
                "se" => expiry = Some(value.to_owned()),
                "skn" if !value.is_empty() => policy = decode(value),
                _ => {}
            }
        }
        match (sr, signature, expiry) {
            (Some(sr), Some(signature), Some(expiry)) => Ok(Self { sr, signature, expiry, policy }),
            _ => Err(TokenError::Malformed),
        }
    }

    /// When it ends, in seconds since 1970.
    pub(crate) fn expiry(&self) -> Result<u64, TokenError> {
        self.expiry.parse().map_err(|_| TokenError::Malformed)
    }

    /// Checks the resource, the time and the signature. The resource must be `<one of the hosts>/<path>`, ignoring case.
    pub(crate) fn verify(
        &self,
        hosts: &[&str],
        path: &[&str],
        keys: &[&[u8]],
        now: u64,
    ) -> Result<(), TokenError> {
        let plain = decode(&self.sr).ok_or(TokenError::Malformed)?;
        let mut parts = plain.split('/');
        let host = parts.next().unwrap_or_default();
        // The hub's own tools put the port there too, where it is not 443.
        let host = host.split_once(':').map_or(host, |(host, _)| host);
        // edgeHub decodes the device and the module once more after it split the resource.
        let rest: Option<Vec<String>> = parts.map(decode).collect();
        let rest = rest.ok_or(TokenError::Malformed)?;
        let same = hosts.iter().any(|name| name.eq_ignore_ascii_case(host))
            && rest.len() == path.len()
            && rest.iter().zip(path).all(|(ours, theirs)| ours.to_lowercase() == theirs.to_lowercase());
        if !same {
            return Err(TokenError::Resource(plain));
        }
        let expiry = self.expiry()?;
        if expiry <= now {
            return Err(TokenError::Expired(now - expiry));
        }
        let signed = format!("{}\n{}", self.sr, self.expiry);
        let valid = keys.iter().any(|key| {
            hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes(), &self.signature).is_ok()
        });
        if valid { Ok(()) } else { Err(TokenError::Signature) }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// HMAC-SHA256, base64: what the workload API's sign call answers.
pub(crate) fn sign(key: &[u8], data: &[u8]) -> String {
    BASE64.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data))
}

/// A whole token for a resource; with a policy name where the key is a policy's.
pub(crate) fn make(resource: &str, key: &[u8], policy: Option<&str>, expiry: u64) -> String {
    let sr = encode(resource);
    let signature = encode(&sign(key, format!("{sr}\n{expiry}").as_bytes()));
    let skn = policy.map(|name| format!("&skn={name}")).unwrap_or_default();
    format!("SharedAccessSignature sr={sr}&sig={signature}&se={expiry}{skn}")
}
