//! Service invocation: one call from a module to another module's HTTP port, without a broker between.
//!
//! [`Services::call`] finds the module by its presence on the bus, else by its name in the network, keeps
//! connections, and holds to one [`CallPolicy`].
//!
//! ```no_run
//! # async fn example(services: shunt_module::services::Services) -> Result<(), Box<dyn std::error::Error>> {
//! use serde_json::{Value, json};
//!
//! let answer: Value = services.post_json("sentiment", "/sentiment", &json!({"Text": "What a day!"})).await?;
//! # Ok(()) }
//! ```

mod connection;
mod directory;
mod trace;

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header},
};
use http_body_util::{BodyExt, Limited};
use hyper::body::Body as _;
use serde::{Serialize, de::DeserializeOwned};
use shunt_bus::Bus;
use shunt_wire::NameError;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use connection::{Answer, Endpoint, Failure};
use directory::Directory;

pub use directory::ModuleState;
pub use trace::{begin_trace, is_trace};

/// The W3C header that ties together what belongs to one request.
pub const TRACEPARENT: &str = "traceparent";

/// Limits and retries of calls: all in one place.
#[derive(Debug, Clone, PartialEq)]
pub struct CallPolicy {
    /// The longest time to make a connection.
    pub connect: Duration,
    /// The longest time from the call to the head of the answer: connecting, sending, all tries. Before it, finding
    /// the app and waiting for a place among the calls at the same time may take as long again.
    /// [`Services::get_json`] and [`Services::post_json`] must have the whole answer within it.
    pub answer: Duration,
    /// The longest time between two pieces of the answer's body.
    pub pause: Duration,
    /// How often a call is tried again. Only where nothing of it was sent yet, or where it may be repeated: an
    /// idempotent verb without a body. An answer, whatever its status, is never asked for again.
    pub retries: u32,
    /// The pause before the first new try; it doubles with each, and a part of it is left to chance, so that callers
    /// do not come back all at once.
    pub back_off: Duration,
    /// The largest answer in bytes that the conveniences for JSON read.
    pub max_json: usize,
}

/// Calls other modules. Clones share connections and what is known of modules.
#[derive(Debug, Clone)]
pub struct Services {
    directory: Arc<Directory>,
    /// Most calls at the same time to all apps; when it is reached, new ones wait.
    places: Arc<Semaphore>,
    policy: Arc<CallPolicy>,
}

/// Most calls at the same time to all apps. Each app has far fewer.
const CALLS: usize = 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Not a name.
    #[error("there can be no app of that name: {0}")]
    Name(#[from] NameError),
    /// An address that was set is none.
    #[error("the address {address:?} of the app {app:?} is not of the form host:port")]
    Address {
        /// The app.
        app: String,
        /// What was set.
        address: String,
    },
    /// Nobody knows it.
    #[error("the app {app:?} is not known: it is not on the bus, and {why}")]
    Unknown {
        /// The app.
        app: String,
        /// Why its name leads nowhere.
        why: String,
    },
    /// It was there, and is not any more.
    #[error("the app {app:?} is not running: it has left the bus")]
    Offline {
        /// The app.
        app: String,
    },
    /// It tells a host that is neither its name nor where this module is itself.
    #[error(
        "the app {app:?} tells on the bus that it is at {address}, which is not taken from there: set its address"
    )]
    Foreign {
        /// The app.
        app: String,
        /// What it tells.
        address: String,
    },
    /// As many calls as allowed are in work already, and none of them ended in time. Nothing was sent.
    #[error("the app {app:?} was not called: for {limit:?} there were too many calls at the same time")]
    Busy {
        /// The app.
        app: String,
        /// The limit.
        limit: Duration,
    },
    /// Nobody listens, or the way is blocked.
    #[error("the app {app:?} cannot be reached at {address}: {source}")]
    Refused {
        /// The app.
        app: String,
        /// Where it was looked for.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// No answer in time.
    #[error("the app {app:?} did not answer within {limit:?}")]
    TimedOut {
        /// The app.
        app: String,
        /// The limit.
        limit: Duration,
    },
    /// The connection broke off before the answer.
    #[error("the app {app:?} at {address} broke off before it answered: {source}")]
    Broken {
        /// The app.
        app: String,
        /// Where it is.
        address: String,
        /// The cause.
        source: hyper::Error,
    },
    /// The request's own body failed while it was read.
    #[error("the request to the app {app:?} could not be read to its end: {source}")]
    Request {
        /// The app.
        app: String,
        /// The cause.
        source: hyper::Error,
    },
    /// The path is none.
    #[error("{path:?} is not a path")]
    Path {
        /// What was given.
        path: String,
    },
    /// The answer is larger than allowed, or broke off (conveniences only).
    #[error("the answer of the app {app:?} cannot be read: {why}")]
    Body {
        /// The app.
        app: String,
        /// What is wrong.
        why: String,
    },
    /// The answer is an error (conveniences only).
    #[error("the app {app:?} answered {status}: {excerpt}")]
    Status {
        /// The app.
        app: String,
        /// Its status.
        status: StatusCode,
        /// The first 200 characters of its body.
        excerpt: String,
    },
    /// The answer, or what was to be sent, is not the JSON expected (conveniences only).
    #[error("the JSON for or from the app {app:?} is not as expected: {source}")]
    Json {
        /// The app.
        app: String,
        /// The cause.
        source: serde_json::Error,
    },
}

// === impl CallPolicy ===

impl Default for CallPolicy {
    /// 2 s to connect, 30 s to answer, 60 s between two pieces, 2 more tries beginning after 50 ms, JSON up to 4 MiB.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            answer: Duration::from_secs(30),
            pause: Duration::from_mins(1),
            retries: 2,
            back_off: Duration::from_millis(50),
            max_json: 4 << 20,
        }
    }
}

impl CallPolicy {
    /// The pause before this try (1 is the first after a failure): half of it fixed, half left to chance.
    fn pause_before(&self, attempt: u32) -> Duration {
        const LONGEST: Duration = Duration::from_secs(1);
        let whole = self.back_off.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST);
        whole.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

// === impl Services ===

impl Services {
    /// Calls by name in the network and by [`Services::set_addresses`] only; for programs without a bus.
    pub fn new(policy: CallPolicy) -> Self {
        Self {
            directory: Arc::new(Directory::new(true, None)),
            places: Arc::new(Semaphore::new(CALLS)),
            policy: Arc::new(policy),
        }
    }

    /// Calls by presence on this bus first. A task watches it until shutdown.
    ///
    /// Of the hosts that modules tell there, only a module's own name is taken, and `beside`: the host under which this
    /// module itself is reached (`SHUNT_ADVERTISE_HOST`), for modules that run beside it on one machine. An app at any
    /// other host must be set with [`Services::set_addresses`].
    pub fn on_bus(bus: Bus, policy: CallPolicy, beside: Option<String>, shutdown: CancellationToken) -> Self {
        let services = Self { directory: Arc::new(Directory::new(false, beside)), ..Self::new(policy) };
        tokio::spawn(directory::watch(Arc::clone(&services.directory), bus, shutdown));
        services
    }

    /// The same modules and connections under another policy.
    #[must_use]
    pub fn with_policy(&self, policy: CallPolicy) -> Self {
        Self { policy: Arc::new(policy), ..self.clone() }
    }

    /// Addresses (`host:port`) that go before presence and network names; they replace those set before. Nothing is
    /// changed where one of them is none.
    pub fn set_addresses<'a>(
        &self,
        addresses: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), CallError> {
        self.directory.set_addresses(addresses)
    }

    /// The modules that have told of themselves on the bus, by name.
    pub fn modules(&self) -> Vec<ModuleState> {
        self.directory.modules()
    }

    /// One module, if it has told of itself on the bus.
    pub fn module(&self, name: &str) -> Option<ModuleState> {
        self.directory.module(name)
    }

    /// Calls the app's HTTP port: the request's path, query, verb, headers and body are sent as they are; host is
    /// set, and `traceparent` where there is none. Bodies stream both ways. Resolves with the head of the answer.
    ///
    /// Its own headers apart, it is for the caller to leave out what belongs to one connection only.
    pub async fn call(&self, app: &str, request: Request<Body>) -> Result<Response<Body>, CallError> {
        let limit = self.policy.answer;
        let place = async {
            let endpoint = self.directory.find(app).await?;
            // The semaphores are never closed.
            let own = Arc::clone(&endpoint.places).acquire_owned().await.ok();
            let all = Arc::clone(&self.places).acquire_owned().await.ok();
            let busy = || CallError::Busy { app: app.to_owned(), limit };
            Ok::<_, CallError>((endpoint, [own.ok_or_else(busy)?, all.ok_or_else(busy)?]))
        };
        // Not the app's time: it has not been asked yet.
        let placed = timeout(limit, place).await;
        let (endpoint, places) = placed.map_err(|_| CallError::Busy { app: app.to_owned(), limit })??;
        match timeout(limit, self.call_until(app, endpoint, places, request)).await {
            Ok(result) => result,
            Err(_) => Err(CallError::TimedOut { app: app.to_owned(), limit }),
        }
    }

    /// GETs this path (with its query) and reads JSON.
    pub async fn get_json<T: DeserializeOwned>(&self, app: &str, path: &str) -> Result<T, CallError> {
        self.json(app, Method::GET, path, Body::empty()).await
    }

    /// POSTs JSON to this path (with its query) and reads JSON.
    pub async fn post_json<T: DeserializeOwned>(
        &self,
        app: &str,
        path: &str,
        data: &impl Serialize,
    ) -> Result<T, CallError> {
        let data = serde_json::to_vec(data);
        let data = data.map_err(|source| CallError::Json { app: app.to_owned(), source })?;
        self.json(app, Method::POST, path, Body::from(data)).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        app: &str,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<T, CallError> {
        let uri = path.parse::<Uri>().ok().filter(|_| path.starts_with('/'));
        let uri = uri.ok_or_else(|| CallError::Path { path: path.to_owned() })?;
        let mut request = Request::new(body);
        (*request.method_mut(), *request.uri_mut()) = (method, uri);
        if request.method() == Method::POST {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        let limit = self.policy.answer;
        let whole = async {
            let response = self.call(app, request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), self.policy.max_json).collect().await;
            let body =
                body.map_err(|error| CallError::Body { app: app.to_owned(), why: error.to_string() })?;
            Ok::<_, CallError>((status, body.to_bytes()))
        };
        let late = |_| CallError::TimedOut { app: app.to_owned(), limit };
        let (status, body) = timeout(limit, whole).await.map_err(late)??;
        if !status.is_success() {
            let excerpt = String::from_utf8_lossy(&body).chars().take(200).collect();
            return Err(CallError::Status { app: app.to_owned(), status, excerpt });
        }
        serde_json::from_slice(&body).map_err(|source| CallError::Json { app: app.to_owned(), source })
    }

    async fn call_until(
        &self,
        app: &str,
        endpoint: Arc<Endpoint>,
        places: [OwnedSemaphorePermit; 2],
        mut request: Request<Body>,
    ) -> Result<Response<Body>, CallError> {
        prepare(&mut request, &endpoint);
        let again = Again::of(&request);
        let mut tries = 0;
        loop {
            let failure = match endpoint.send(request, &self.policy).await {
                Ok((response, line)) => {
                    let pause = self.policy.pause;
                    return Ok(
                        response.map(|body| Body::new(Answer::new(body, line, endpoint, places, pause)))
                    );
                }
                Err(failure) => failure,
            };
            let Failure { error, unsent, stale } = failure;
            let Some(next) = unsent.or_else(|| again.as_ref().map(Again::request)) else {
                return Err(error);
            };
            // A kept connection that had been closed meanwhile says nothing about the app; their number is bounded.
            if !stale {
                if tries == self.policy.retries || matches!(error, CallError::Unknown { .. }) {
                    return Err(error);
                }
                tries += 1;
                tracing::debug!(app, %error, tries, "A call is tried again.");
                tokio::time::sleep(self.policy.pause_before(tries)).await;
            }
            request = next;
        }
    }
}

/// A request that may be sent once more: an idempotent verb (RFC 9110, section 9.2.2) without a body.
struct Again {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

// === impl Again ===

impl Again {
    fn of(request: &Request<Body>) -> Option<Self> {
        let sound = request.method().is_idempotent() && request.body().is_end_stream();
        sound.then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        })
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// What a connection-level client must set itself: the path alone as target, the host; and the trace.
fn prepare(request: &mut Request<Body>, endpoint: &Endpoint) {
    if request.uri().authority().is_some() || request.uri().scheme().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    }
    *request.version_mut() = hyper::Version::HTTP_11;
    // Without it, a body of unknown length would be left out with verbs that have none as a rule (GET).
    let unknown = request.body().size_hint().exact().is_none();
    let headers = request.headers_mut();
    if unknown && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    headers.insert(header::HOST, endpoint.host().clone());
    trace::pass_on(headers);
}
