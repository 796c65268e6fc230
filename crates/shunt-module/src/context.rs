//! What a module's `run` gets.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use shunt_bus::Bus;
use shunt_hub::{Hub, Workload};
use shunt_wire::{Envelope, IdSequence, Kind, Name};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    DeadLetters, Facts, Health, Methods, Settings, SettingsHandle, http, logging::LogLevel, metrics,
    standard_methods::StandardMethods,
};

/// After shutdown, open requests (a picture stream, say) get this long.
const OPEN_REQUESTS: Duration = Duration::from_secs(2);

/// Folders and limits that every module shares, from `SHUNT_...` variables.
#[derive(Debug, Clone)]
pub struct Common {
    /// `SHUNT_DATA_DIR`: what must survive a restart (default `/data`).
    pub data_dir: PathBuf,
    /// `SHUNT_FRAMES_DIR`: frames in shared memory; unset: JPEG in the event.
    pub frames_dir: Option<PathBuf>,
    /// `SHUNT_MODELS_DIR`: model files (default `/models`).
    pub models_dir: PathBuf,
    /// `SHUNT_INTERPRETERS_DIR`: the interpreters of text functions (default `/usr/share/shunt/interpreters`).
    pub interpreters_dir: PathBuf,
    /// `SHUNT_DRAIN_LIMIT`: seconds to finish work after SIGTERM (default 8).
    pub drain_limit: Duration,
}

/// What a module's `run` gets.
#[derive(Debug)]
pub struct Context<S> {
    /// The module's name on the device (`IOTEDGE_MODULEID`, else [`Settings::MODULE`]).
    pub name: Name,
    /// Its settings.
    pub settings: SettingsHandle<S>,
    /// The bus.
    pub bus: Bus,
    /// The hub, where there is an identity for it. Twin and methods are served by shunt-module; only `relay`
    /// sends telemetry (law 2).
    pub hub: Option<Hub>,
    /// The workload API, where IoT Edge runs this module: certificates. For a test, set it after
    /// [`Context::for_test`].
    pub workload: Option<Workload>,
    /// Folders and limits.
    pub common: Common,
    /// Direct methods: register the module's own.
    pub methods: Methods,
    /// What the module tells of itself in the reported twin.
    pub facts: Facts,
    /// Health.
    pub health: Health,
    /// Metrics: names `shunt_<module>_<name>_<unit>[_total]`.
    pub metrics: prometheus::Registry,
    /// The listener of the module's HTTP interface, bound already.
    pub listener: TcpListener,
    /// Cancelled when the module has to stop.
    pub shutdown: CancellationToken,
    /// Spawn tasks here; the drain waits for them.
    pub tasks: TaskTracker,
    /// Makes events, also where the context is not at hand: clone it.
    pub events: Events,
    /// Made when it is asked for first.
    pub(crate) services: OnceLock<crate::services::Services>,
    /// `SHUNT_ADVERTISE_HOST`.
    pub(crate) advertise_host: Option<String>,
}

/// Makes events: fresh ids, the time now. Clones share the running number.
#[derive(Debug, Clone)]
pub struct Events(Arc<IdSequence>);

// === impl Common ===

impl Common {
    /// All folders in one, for tests: `data`, `models`, `interpreters`; no frames in shared memory.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            data_dir: folder.join("data"),
            frames_dir: None,
            models_dir: folder.join("models"),
            interpreters_dir: folder.join("interpreters"),
            drain_limit: Duration::from_secs(8),
        }
    }
}

// === impl Events ===

impl Events {
    /// A new sequence, with a prefix drawn by chance, so that no two runs of a module make the same id.
    pub fn new() -> Self {
        Self(Arc::new(IdSequence::new(format!("{:016x}", rand::random::<u64>()))))
    }

    /// An event: fresh id, the time now (RFC 3339 in UTC).
    pub fn event(&self, kind: Kind, source: Name) -> Envelope {
        // Fails only beyond the year 9999.
        let time =
            OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned());
        Envelope::new(self.0.next_id(), kind, source, time)
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Context ===

impl<S: Settings> Context<S> {
    /// A context made of these parts, for tests that run a module in their own process, and the token that stops it.
    /// The name is the module's own; health, metrics and tasks are fresh.
    pub fn for_test(
        settings: SettingsHandle<S>,
        bus: Bus,
        hub: Option<Hub>,
        common: Common,
        listener: TcpListener,
    ) -> (Self, CancellationToken) {
        let (shutdown, health, metrics) =
            (CancellationToken::new(), Health::new(), prometheus::Registry::new());
        let collector = metrics::Common::new(S::MODULE, Some(bus.clone()), hub.clone(), health.clone());
        if let Err(error) = metrics.register(Box::new(collector)) {
            tracing::error!(%error, "The common metrics cannot be registered.");
        }
        let methods = Methods::default();
        let standard = StandardMethods {
            name: S::MODULE.to_owned(),
            bus: bus.clone(),
            hub: hub.clone(),
            in_force: settings.in_force(),
            health: health.clone(),
            metrics: metrics.clone(),
            log: LogLevel::default(),
            started: Instant::now(),
        };
        if let Err(error) = standard.register(&methods) {
            tracing::error!(%error, "The direct methods cannot be registered.");
        }
        let context = Self {
            name: Name::from_static(S::MODULE),
            settings,
            bus,
            hub,
            workload: None,
            common,
            methods,
            facts: Facts::default(),
            health,
            metrics,
            listener,
            shutdown: shutdown.clone(),
            tasks: TaskTracker::new(),
            events: Events::new(),
            services: OnceLock::new(),
            advertise_host: None,
        };
        (context, shutdown)
    }

    /// An event of this module: fresh id, the time now.
    pub fn event(&self, kind: Kind, source: Name) -> Envelope {
        self.events.event(kind, source)
    }

    /// Tells on `shunt/dead-letter/<module>` of events that could not be used.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.bus.clone(), self.events.clone(), self.name.clone())
    }

    /// Calls other modules' HTTP ports, found by their presence on the bus; see [`crate::services`].
    pub fn services(&self) -> crate::services::Services {
        let make = || {
            let policy = crate::services::CallPolicy::default();
            crate::services::Services::on_bus(
                self.bus.clone(),
                policy,
                self.advertise_host.clone(),
                self.shutdown.clone(),
            )
        };
        self.services.get_or_init(make).clone()
    }

    /// Serves `/healthz`, `/readyz`, `/metrics` and the module's own routes on the listener until shutdown.
    /// Call once.
    ///
    /// Request bodies are limited to 1 MiB; a route that needs more sets its own `DefaultBodyLimit`.
    pub fn serve(&self, routes: axum::Router) {
        self.serve_behind(routes, |pages| pages);
    }

    /// The same with something in front of all pages, `/healthz`, `/readyz` and `/metrics` too: a layer that may
    /// answer before them.
    pub fn serve_behind(&self, routes: axum::Router, front: impl FnOnce(axum::Router) -> axum::Router) {
        let copy = self.listener.as_fd().try_clone_to_owned().and_then(|copy| {
            // Non-blocking already: the copy shares the listener's mode.
            TcpListener::from_std(std::net::TcpListener::from(copy))
        });
        let listener = match copy {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "The HTTP interface cannot be served.");
                self.health.set("http", Err(error.to_string()));
                return;
            }
        };
        let (health, metrics, shutdown) = (self.health.clone(), self.metrics.clone(), self.shutdown.clone());
        let pages = front(http::pages(routes, health, metrics));
        let serving = http::serve(listener, pages, shutdown.clone());
        self.tasks.spawn(async move {
            let mut serving = std::pin::pin!(serving);
            tokio::select! {
                () = &mut serving => {}
                () = shutdown.cancelled() => {
                    if timeout(OPEN_REQUESTS, serving).await.is_err() {
                        tracing::debug!("Requests were still open at the end.");
                    }
                }
            }
        });
    }
}
