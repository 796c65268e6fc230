//! What serves, exchanged while it serves: find or fetch, load beside the old, warm up, prove, switch in one step.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Map, Value, json};
use shunt_infer::{Backends, Catalog, Classifier, Model, ModelError, ModelStore, Proof, RunOptions};
use shunt_module::{Common, Facts, Health, Problems, Proposal};
use shunt_vision::{Picture, PixelFormat};
use tokio::{sync::oneshot, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    InferenceSettings,
    engine::{Engine, EngineOptions, Pipeline},
    fetch,
    field_tally::FieldTally,
    served::{Engines, Served},
    shadow::Shadow,
    tally::Tally,
};

/// How long what served before may take to answer what it has begun. Nothing is loaded beside two.
const RETIRING: Duration = Duration::from_secs(30);
/// Most characters of the reason for a back end that the reported twin tells.
const BECAUSE: usize = 160;

/// What is told of a model that serves.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Serving {
    /// The setting that names it: `model`, `expression_model`, `models`, `shadow`.
    #[serde(skip)]
    pub(crate) field: &'static str,
    /// Its name in the catalog.
    pub(crate) model: String,
    /// The sha256 of its file in hexadecimal.
    pub(crate) digest: String,
    /// Who runs it.
    pub(crate) backend: &'static str,
    /// The version of that.
    pub(crate) version: String,
    /// What it runs on.
    pub(crate) device: &'static str,
    /// Why it is run by that.
    pub(crate) because: String,
    /// How near its golden answer it came; not given where the catalog has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proof: Option<Proof>,
    /// Milliseconds from its file to the proof.
    pub(crate) load_ms: f64,
}

/// What is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// At the start: what can be loaded serves, also where something else cannot.
    Start,
    /// For new settings: what is the same serves on, and all or nothing changes.
    Change,
    /// Every file is read anew; all or nothing changes.
    Reload,
}

/// Loads what settings name, on a thread for heavy work, and puts it in force. One load at a time: there is never more
/// in memory than what serves and what is to serve.
#[derive(Debug)]
pub(crate) struct Loader {
    models_dir: PathBuf,
    /// Files that the module fetched itself.
    own_dir: PathBuf,
    served: Served,
    health: Health,
    facts: Facts,
    tally: Tally,
    field_tally: FieldTally,
    shutdown: CancellationToken,
    /// Models are loaded on one thread, always the same: the allocator keeps memory that was freed for the thread that
    /// asked for it, and threads that load in turn would each keep as much as a model takes.
    loads: std::sync::mpsc::SyncSender<Order>,
    /// What served before, or was to serve and was refused: each is cancelled when its memory was given back.
    retiring: Vec<CancellationToken>,
}

/// A load, and where its result goes.
type Order = (Load, oneshot::Sender<(Engines, Problems)>);

/// A load on its thread.
struct Load {
    store: ModelStore,
    settings: Arc<InferenceSettings>,
    before: Arc<Engines>,
    how: How,
    backends: Backends,
    tally: Tally,
    field_tally: FieldTally,
    problems: Problems,
}

/// A model that settings name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    field: &'static str,
    name: String,
}

// === impl Loader ===

impl Loader {
    pub(crate) fn new(
        common: &Common,
        (served, health, facts): (Served, Health, Facts),
        (tally, field_tally): (Tally, FieldTally),
        shutdown: CancellationToken,
    ) -> std::io::Result<Self> {
        // One load at a time is asked for, so there is always room.
        let (loads, orders) = std::sync::mpsc::sync_channel::<Order>(1);
        thread::Builder::new().name("loader".to_owned()).spawn(move || {
            while let Ok((load, answer)) = orders.recv() {
                // A back end may give up on a file; the next one has its chance. Without an answer the load was refused.
                if let Ok(loaded) = catch_unwind(AssertUnwindSafe(|| load.run())) {
                    // Who asked may have gone meanwhile: the module is ending.
                    answer.send(loaded).ok();
                }
            }
        })?;
        Ok(Self {
            loads,
            models_dir: common.models_dir.clone(),
            own_dir: common.data_dir.join("models"),
            served,
            health,
            facts,
            tally,
            field_tally,
            shutdown,
            retiring: Vec::new(),
        })
    }

    /// At the start: what of these settings can serve does. Says in the health what cannot.
    pub(crate) async fn start(&mut self, settings: Arc<InferenceSettings>) {
        self.health.set("models", Err("the models are being loaded".to_owned()));
        if let Err(problems) = self.load(settings, How::Start).await {
            tracing::error!("Not all models can be used; waiting for other settings: {problems}.");
            self.health.set("models", Err(problems.to_string()));
        }
    }

    /// Puts proposed settings in force, or refuses them.
    pub(crate) async fn change(&mut self, change: Proposal<InferenceSettings>) {
        match self.load(Arc::clone(&change.settings), How::Change).await {
            Ok(()) => change.accept(),
            Err(problems) => {
                tracing::warn!("New settings are refused, what served before serves on: {problems}.");
                change.refuse(problems);
            }
        }
    }

    /// The direct method `reload`: reads the files of all models anew.
    pub(crate) async fn reload(&mut self, settings: Arc<InferenceSettings>) -> (u16, Value) {
        match self.load(settings, How::Reload).await {
            Ok(()) => (200, serving(&self.served.now())),
            Err(problems) => (409, json!({"message": format!("what served before serves on: {problems}")})),
        }
    }

    /// Tells in the reported twin how the second model does.
    pub(crate) fn report_shadow(&self) {
        match self.served.shadow() {
            Some(shadow) => self.facts.set("shadow_report", json!(shadow.report())),
            None => self.facts.remove("shadow_report"),
        }
    }

    async fn load(&mut self, settings: Arc<InferenceSettings>, how: How) -> Result<(), Problems> {
        let shutdown = self.shutdown.clone();
        let loaded = tokio::select! {
            loaded = self.exchange(settings, how) => loaded,
            () = shutdown.cancelled() => return Ok(()),
        };
        self.field_tally.swap(loaded.is_ok());
        if loaded.is_ok() {
            self.health.set("models", Ok(()));
        }
        self.facts.set("serving", serving(&self.served.now()));
        self.report_shadow();
        loaded
    }

    async fn exchange(&mut self, settings: Arc<InferenceSettings>, how: How) -> Result<(), Problems> {
        let before = self.served.now();
        let folders = (self.models_dir.clone(), self.own_dir.clone());
        let opened = spawn_blocking(move || open(folders)).await;
        let store = opened.unwrap_or_else(|error| Err(ended(&error)))?;
        let problems = self.fetch_missing(&store, &settings).await;
        if how != How::Start && !problems.is_empty() {
            return Err(problems);
        }
        self.until_retired().await?;
        let load = Load {
            backends: backends(&settings, settings.threads),
            store,
            settings,
            before: Arc::clone(&before),
            how,
            tally: self.tally.clone(),
            field_tally: self.field_tally.clone(),
            problems,
        };
        let (answer, loaded) = oneshot::channel();
        self.loads.try_send((load, answer)).map_err(|error| ended(&error))?;
        let (engines, problems) = loaded.await.map_err(|error| ended(&error))?;
        if how != How::Start && !problems.is_empty() {
            self.retiring.extend(engines.not_in(&before));
            return Err(problems);
        }
        self.retiring.extend(before.not_in(&engines));
        self.served.replace(engines);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Fetches the files that are not here and can be fetched. The others are told of when they are loaded.
    async fn fetch_missing(&self, store: &ModelStore, settings: &InferenceSettings) -> Problems {
        let mut problems = Problems::default();
        let mut tried: Vec<String> = Vec::new();
        for Wanted { field, name } in wanted(settings, store.catalog()) {
            let Ok(entry) = store.entry(&name) else { continue };
            if !fetch::is_fetchable(entry) || tried.contains(&name) {
                continue;
            }
            let (looked, wanted) = (store.clone(), name.clone());
            // Its digest is looked at too: a damaged file in our folder is fetched again.
            let here = spawn_blocking(move || looked.find(&wanted).is_ok()).await.unwrap_or(false);
            if !here {
                tracing::info!(model = name, "The file of a model is fetched.");
                if let Err(error) = fetch::fetch(entry, &self.own_dir).await {
                    problems.note(field, format!("the model {name:?} is not here: {error}"));
                }
            }
            tried.push(name);
        }
        problems
    }

    /// Waits until the memory of what served before was given back.
    async fn until_retired(&mut self) -> Result<(), Problems> {
        let waiting = async {
            while let Some(retiring) = self.retiring.last() {
                retiring.cancelled().await;
                self.retiring.pop();
            }
        };
        timeout(RETIRING, waiting).await.map_err(|_| {
            let mut problems = Problems::default();
            let limit = RETIRING.as_secs();
            problems
                .note("model", format!("the model before has not ended within {limit} s; try again later"));
            problems
        })
    }
}

// === impl Load ===

impl Load {
    /// Loads all models. Heavy. What could not be loaded is a problem of its field.
    fn run(mut self) -> (Engines, Problems) {
        let mut engines = Engines::none(Arc::clone(&self.settings));
        for Wanted { field, name } in wanted(&self.settings, self.store.catalog()) {
            if field == "shadow" {
                continue;
            }
            let Some((engine, serving)) = self.engine(&engines, field, &name) else { continue };
            engines.serving.push(serving);
            match field {
                "model" => engines.classifier = Some(engine),
                "expression_model" => engines.expression = Some(engine),
                _ => engines.others.push(engine),
            }
        }
        if let Some((shadow, serving)) = self.shadow(&engines) {
            engines.serving.push(serving);
            engines.shadow = Some(Arc::new(shadow));
        }
        (engines, self.problems)
    }

    /// The engine of a model: one that is loaded already, or a new one.
    fn engine(&mut self, now: &Engines, field: &'static str, name: &str) -> Option<(Arc<Engine>, Serving)> {
        let again =
            |(engine, serving): (Arc<Engine>, &Serving)| (engine, Serving { field, ..serving.clone() });
        if let Some(same) = now.engine(name) {
            return Some(again(same));
        }
        if self.is_same(name)
            && let Some(same) = self.before.engine(name)
        {
            return Some(again(same));
        }
        let loaded = self.load(field, name, &self.backends).and_then(|(pipeline, serving)| {
            let engine = Engine::start(pipeline, EngineOptions::of(&self.settings), &self.tally)
                .map_err(|error| format!("its threads cannot be started: {error}"))?;
            Ok((engine, serving))
        });
        loaded.map_err(|problem| self.problems.note(field, problem)).ok()
    }

    /// The second model: the one that runs already, or a new one.
    fn shadow(&mut self, now: &Engines) -> Option<(Shadow, Serving)> {
        let wanted = self.settings.shadow.clone()?;
        // Where the first one cannot be used that is told already.
        let engine = now.classifier.as_ref()?;
        let Pipeline::Classifier(compared) = engine.pipeline() else {
            let first = engine.pipeline().model().name();
            self.problems
                .note("shadow", format!("the model {first:?} tells no classes that could be compared"));
            return None;
        };
        let first = compared.model();
        if let Some(shadow) = &self.before.shadow
            && let Some(serving) = self.before.serving.iter().find(|serving| serving.field == "shadow")
            && self.how != How::Reload
            && (shadow.beside(), shadow.classifier().model().name()) == (first.name(), wanted.model.as_str())
            && self.before.settings.backend == self.settings.backend
            && self.is_as_in_catalog(shadow.classifier().model())
            && self.before.classifier.as_ref().is_some_and(|before| Arc::ptr_eq(before, engine))
        {
            return Some((shadow.with_share(wanted.share), serving.clone()));
        }
        let started = self.load("shadow", &wanted.model, &backends(&self.settings, 1)).and_then(
            |(pipeline, serving)| {
                let classifier = classifier(pipeline)?;
                let shadow = Shadow::start(classifier, compared, wanted.share, &self.field_tally)
                    .map_err(|error| format!("its thread cannot be started: {error}"))?;
                Ok((shadow, serving))
            },
        );
        started.map_err(|problem| self.problems.note("shadow.model", problem)).ok()
    }

    /// Loads a model, warms it up, and proves that it works.
    fn load(
        &self,
        field: &'static str,
        name: &str,
        backends: &Backends,
    ) -> Result<(Pipeline, Serving), String> {
        let started = Instant::now();
        let pipeline = Pipeline::load(&self.store, name, backends).map_err(|error| error.to_string())?;
        let proof = prove(&pipeline).map_err(|error| error.to_string())?;
        let model = pipeline.model();
        let serving = Serving {
            field,
            model: name.to_owned(),
            digest: model.digest().to_owned(),
            backend: model.chosen().name,
            version: model.chosen().version.clone(),
            device: model.describe().device,
            because: model.chosen().why.chars().take(BECAUSE).collect(),
            proof,
            load_ms: (started.elapsed().as_secs_f64() * 1e4).round() / 10.0,
        };
        tracing::info!(model = name, ms = serving.load_ms, proof = ?serving.proof, "A model is ready to serve.");
        Ok((pipeline, serving))
    }

    /// May the engine of this model that serves now serve on?
    fn is_same(&self, name: &str) -> bool {
        let (old, new) = (&self.before.settings, &self.settings);
        let as_before = (old.backend, old.threads, old.workers, old.queue, old.batch)
            == (new.backend, new.threads, new.workers, new.queue, new.batch);
        as_before
            && self.how != How::Reload
            && self
                .before
                .engine(name)
                .is_some_and(|(engine, _)| self.is_as_in_catalog(engine.pipeline().model()))
    }

    /// Is the model as the catalog has it now? It may have been exchanged on disk.
    fn is_as_in_catalog(&self, model: &Model) -> bool {
        self.store.entry(model.name()).is_ok_and(|entry| entry == model.entry())
    }
}

/// The catalog, and the folders of files: the one that is mounted, the one that the module fetches into, the
/// repository's.
fn open((models_dir, own_dir): (PathBuf, PathBuf)) -> Result<ModelStore, Problems> {
    let opened = ModelStore::open(&models_dir).and_then(|store| {
        let mut folders = store.folders().to_vec();
        folders.insert(folders.len().min(1), own_dir);
        ModelStore::with_folders(folders)
    });
    opened.map_err(|error| {
        let mut problems = Problems::default();
        problems.note("model", error.to_string());
        problems
    })
}

/// The models that the settings name, and the fields in which they do.
fn wanted(settings: &InferenceSettings, catalog: &Catalog) -> Vec<Wanted> {
    let named = |field, name: &str| Wanted { field, name: name.to_owned() };
    let model = settings.model.as_deref().unwrap_or(&catalog.defaults.classify);
    let expression = settings.expression_model.as_deref().unwrap_or(&catalog.defaults.expression);
    let mut wanted = vec![named("model", model), named("expression_model", expression)];
    wanted.extend(settings.models.iter().map(|name| named("models", name)));
    wanted.extend(settings.shadow.iter().map(|shadow| named("shadow", &shadow.model)));
    wanted
}

fn backends(settings: &InferenceSettings, threads: u32) -> Backends {
    let threads = NonZeroUsize::new(threads as usize).unwrap_or(NonZeroUsize::MIN);
    Backends::installed().prefer(settings.backend).options(RunOptions { threads, accelerator: true })
}

/// Does a model answer, in the shape that its card says, and with its golden answer?
fn prove(pipeline: &Pipeline) -> Result<Option<Proof>, ModelError> {
    let model = pipeline.model();
    match (pipeline, &model.entry().input) {
        (Pipeline::Classifier(classifier), Some(input)) => {
            let picture = Picture::black(input.width(), input.height(), PixelFormat::Rgb8);
            classifier.classify(&picture, None)?;
        }
        (Pipeline::Expression(reader), Some(input)) => {
            reader.read_whole(&Picture::black(input.width(), input.height(), PixelFormat::Grey8))?;
        }
        // The others have run once already; what they answer with has no shape in the catalog.
        _ => {}
    }
    model.prove()
}

fn classifier(pipeline: Pipeline) -> Result<Classifier, String> {
    match pipeline {
        Pipeline::Classifier(classifier) => Ok(classifier),
        other => {
            let model = other.model();
            Err(format!(
                "the model {:?} is for {:?}, but only one for classes runs beside another",
                model.name(),
                model.entry().task
            ))
        }
    }
}

/// What serves, for the reported twin.
fn serving(engines: &Engines) -> Value {
    let mut told = Map::new();
    let mut others = Vec::new();
    for serving in &engines.serving {
        match serving.field {
            "models" => others.push(json!(serving)),
            field => {
                told.insert(field.to_owned(), json!(serving));
            }
        }
    }
    if !others.is_empty() {
        told.insert("models".to_owned(), Value::Array(others));
    }
    Value::Object(told)
}

fn ended(error: &dyn std::fmt::Display) -> Problems {
    let mut problems = Problems::default();
    problems.note("model", format!("loading ended early: {error}"));
    problems
}
