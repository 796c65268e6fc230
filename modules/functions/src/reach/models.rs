//! The models that functions use: each loaded once, for all.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use shunt_infer::{Backends, Model, ModelError, ModelStore, Tensor};
use shunt_module::Health;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
};

/// Most models in memory. Beyond it the one that was asked for least recently goes, as soon as nobody runs it.
const MOST: usize = 8;
/// So long a model that did not load is not tried again: its file is read and checked each time.
const AGAIN: Duration = Duration::from_secs(5);
/// The part of the module's health.
const PART: &str = "models";

/// The models; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Models(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    health: Health,
    /// The module's own runtime: what a call began to load is loaded also when the call has gone.
    runtime: Handle,
    /// Runs at a time: one a core. A run whose call has gone keeps its place to its end, so that there are never more.
    /// Full: the others wait, within their own time.
    runs: Arc<Semaphore>,
    /// Loads at a time.
    loads: Arc<Semaphore>,
    /// The one asked for last is the last.
    known: Mutex<Vec<Known>>,
}

#[derive(Debug)]
struct Known {
    name: String,
    loaded: watch::Receiver<Option<Loaded>>,
}

#[derive(Debug, Clone)]
enum Loaded {
    Ready(Arc<Model>),
    Failed(Arc<Trouble>),
}

/// Why a model cannot be used, and since when.
#[derive(Debug)]
struct Trouble {
    at: Instant,
    error: Unusable,
}

/// Why a model cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Unusable {
    /// The catalog does not know it, or its file is not there.
    #[error("{0}")]
    Missing(String),
    /// It cannot be loaded.
    #[error("{0}")]
    Broken(String),
}

// === impl Models ===

impl Models {
    pub(super) fn new(folder: PathBuf, health: Health) -> Self {
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        Self(Arc::new(Shared {
            folder,
            health,
            runtime: Handle::current(),
            runs: Arc::new(Semaphore::new(cores)),
            loads: Arc::new(Semaphore::new(1)),
            known: Mutex::default(),
        }))
    }

    /// The model of this name, loaded at the first question for it.
    pub(super) async fn get(&self, name: &str) -> Result<Arc<Model>, Unusable> {
        let mut loaded = self.known(name);
        // Borrowed from no lock of ours: the value is cloned at once.
        let loaded = loaded.wait_for(Option::is_some).await.map(|loaded| loaded.clone());
        match loaded {
            Ok(Some(Loaded::Ready(model))) => Ok(model),
            Ok(Some(Loaded::Failed(trouble))) => Err(trouble.error.clone()),
            Ok(None) | Err(_) => Err(Unusable::Broken(format!("the model {name:?} could not be loaded"))),
        }
    }

    /// Runs a model, on a thread for heavy work. Dropping the future lets the run go on to its end.
    pub(super) async fn run(
        &self,
        model: Arc<Model>,
        inputs: Vec<Tensor>,
    ) -> Result<Result<Vec<Tensor>, ModelError>, String> {
        let turn = Arc::clone(&self.0.runs).acquire_owned().await.map_err(|error| error.to_string())?;
        let running = self.0.runtime.spawn_blocking(move || {
            let _turn = turn;
            model.run(inputs)
        });
        running.await.map_err(|_| "the back end ended by a panic".to_owned())
    }

    fn known(&self, name: &str) -> watch::Receiver<Option<Loaded>> {
        let mut known = self.0.known.lock();
        let place = known.iter().position(|known| known.name == name);
        let found = place.map(|place| known.remove(place)).filter(Known::is_fresh);
        let found = found.unwrap_or_else(|| {
            if known.len() >= MOST {
                known.remove(0);
            }
            Known { name: name.to_owned(), loaded: self.load(name.to_owned()) }
        });
        let loaded = found.loaded.clone();
        known.push(found);
        loaded
    }

    /// Begins to load a model.
    fn load(&self, name: String) -> watch::Receiver<Option<Loaded>> {
        let (sender, receiver) = watch::channel(None);
        let shared = Arc::clone(&self.0);
        self.0.runtime.spawn(async move {
            let Ok(turn) = Arc::clone(&shared.loads).acquire_owned().await else { return };
            let loading = shared.runtime.spawn_blocking({
                let shared = Arc::clone(&shared);
                move || {
                    let _turn = turn;
                    load(&shared.folder, &name)
                }
            });
            let loaded = loading.await.unwrap_or_else(|_| {
                Err(Unusable::Broken("the back end ended by a panic while it loaded the model".to_owned()))
            });
            sender.send_replace(Some(match loaded {
                Ok(model) => {
                    shared.health.note(PART, format!("{} is loaded", model.name()));
                    Loaded::Ready(Arc::new(model))
                }
                Err(error) => {
                    // Other functions serve on, so the module is ready.
                    tracing::warn!("A model that a function asks for cannot be used: {error}.");
                    shared.health.note(PART, error.to_string());
                    Loaded::Failed(Arc::new(Trouble { at: Instant::now(), error }))
                }
            }));
        });
        receiver
    }
}

// === impl Known ===

impl Known {
    /// May it still be handed out?
    fn is_fresh(&self) -> bool {
        match &*self.loaded.borrow() {
            Some(Loaded::Failed(trouble)) => trouble.at.elapsed() < AGAIN,
            Some(Loaded::Ready(_)) | None => true,
        }
    }
}

fn load(folder: &Path, name: &str) -> Result<Model, Unusable> {
    let broken = |error: &dyn ToString| Unusable::Broken(error.to_string());
    let store = ModelStore::open(folder).map_err(|error| broken(&error))?;
    let model = Model::load(&store, name, &Backends::installed()).map_err(|error| match error {
        ModelError::Unknown { .. } | ModelError::Missing { .. } => Unusable::Missing(error.to_string()),
        _ => broken(&error),
    })?;
    model.warm_up().map_err(|error| broken(&error))?;
    Ok(model)
}
