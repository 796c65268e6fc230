//! The module's HTTP routes, put together, and what they share.

mod body;
mod door;
mod edgefaas;
mod invoke;
mod logs;
mod manage;
mod openapi;
mod problem;
mod upload;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::Response,
    routing::{any, get, post},
};
use tokio::sync::Semaphore;

pub(crate) use self::{
    body::{Most, Room},
    problem::Problem,
};

use crate::{fetch::Fetcher, library::Library, tally::Tally};

/// How long the body of a request may take to come.
const READING: Duration = Duration::from_mins(1);
/// How long nothing may come of it.
const IDLE: Duration = Duration::from_secs(10);

/// Calls whose answers nobody waits for. One more is answered 503.
const LATER: usize = 16;

/// What the routes share.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) library: Library,
    pub(crate) tally: Tally,
    fetcher: Fetcher,
    /// Where the module listens.
    listens: SocketAddr,
    /// How long the body of a request may take to come.
    reading: Duration,
    /// How long nothing may come of it.
    idle: Duration,
    /// Bytes of the calls' bodies in work.
    taken: Arc<AtomicUsize>,
    /// Bytes of the management's bodies in work: callers, who need no token, cannot take this room.
    taken_by_files: Arc<AtomicUsize>,
    /// Places for calls whose answers nobody waits for.
    later: Arc<Semaphore>,
}

/// The routes.
pub(crate) fn routes(api: &Api) -> Router {
    let managing = Router::new()
        .route("/mgmt", get(edgefaas::list).post(edgefaas::fetch).delete(edgefaas::remove))
        .route("/mgmt/{name}", post(edgefaas::install))
        .route("/functions", get(manage::list))
        .route("/functions/{name}", get(manage::get).put(manage::put).delete(manage::remove))
        .route("/functions/{name}/content", get(manage::content))
        .route("/functions/{name}/logs", get(logs::logs))
        .route("/system/functions", get(manage::open_faas))
        .route_layer(middleware::from_fn_with_state(api.clone(), door::guard));
    let calling = Router::new()
        .route("/async-function/{name}", post(invoke::invoke_later))
        .route("/function/{name}", any(invoke::invoke))
        .route("/function/{name}/", any(invoke::invoke))
        .route("/function/{name}/{*rest}", any(invoke::invoke))
        .route("/{name}", any(invoke::invoke))
        .route("/{name}/", any(invoke::invoke))
        .route("/{name}/{*rest}", any(invoke::invoke));
    managing
        .merge(calling)
        .route_layer(middleware::from_fn_with_state(api.clone(), count))
        .with_state(api.clone())
        .merge(openapi::routes())
}

/// Counts what is wrong with requests, by route. What a function itself answers is its own affair.
async fn count(State(api): State<Api>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let by_function = response.extensions().get::<invoke::ByFunction>().is_some();
    if response.status().is_client_error() && !by_function {
        let route = route.as_ref().map_or("", MatchedPath::as_str);
        api.tally.bad_requests.with_label_values(&[route]).inc();
    }
    response
}

// === impl Api ===

impl Api {
    pub(crate) fn new(library: Library, tally: Tally, fetcher: Fetcher, listens: SocketAddr) -> Self {
        Self {
            library,
            tally,
            fetcher,
            listens,
            reading: READING,
            idle: IDLE,
            taken: Arc::default(),
            taken_by_files: Arc::default(),
            later: Arc::new(Semaphore::new(LATER)),
        }
    }
}
