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
    Router, middleware,
    routing::{any, get, post},
};
use tokio::sync::Semaphore;

pub(crate) use self::{body::Most, problem::Problem};

use crate::{fetch::Fetcher, library::Library, tally::Tally};

/// How long the body of a request may take to come.
const READING: Duration = Duration::from_mins(1);

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
    /// Bytes of the bodies in work.
    taken: Arc<AtomicUsize>,
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
        .route("/function/{name}/{*rest}", any(invoke::invoke))
        .route("/{name}", any(invoke::invoke))
        .route("/{name}/{*rest}", any(invoke::invoke));
    managing.merge(calling).with_state(api.clone()).merge(openapi::routes())
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
            taken: Arc::default(),
            later: Arc::new(Semaphore::new(LATER)),
        }
    }
}
