//! What serves, exchanged while it serves: find or fetch, load beside the old, warm up, prove, switch in one step.

use std::{
    future,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Map, Value, json};
use shunt_infer::{
    Backends, Catalog, Classifier, Model, ModelEntry, ModelError, ModelStore, Proof, RunOptions, Task,
};
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
    /// At the start: what can be loaded serves, also where something else cannot. Nothing is fetched.
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

/// Files that are being fetched while what is here serves. What cannot be fetched is a problem.
pub(crate) struct Fetching(Option<Pin<Box<dyn Future<Output = Problems> + Send>>>);

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

    /// At the start: what of these settings is here and can serve does. Says in the health what cannot. What is not here
    /// is to be fetched meanwhile: [`Loader::go_on`] when it was.
    pub(crate) async fn start(&mut self, settings: Arc<InferenceSettings>) -> Fetching {
        self.health.set("models", Err("the models are being loaded".to_owned()));
        let Err(problems) = self.load(Arc::clone(&settings), How::Start, Problems::default()).await else {
            return Fetching(None);
        };
        let fetching = self.fetch(settings).await;
        if fetching.0.is_none() {
            self.cannot(&problems);
        } else {
            self.health.set("models", Err(format!("files of models are being fetched: {problems}")));
        }
        fetching
    }

    /// Begins to fetch what these settings name and is not here. One at a time, and none while settings are exchanged,
    /// which fetch for themselves: two would write the same files.
    pub(crate) async fn fetch(&self, settings: Arc<InferenceSettings>) -> Fetching {
        let folders = (self.models_dir.clone(), self.own_dir.clone());
        let missing = spawn_blocking(move || missing(folders, &settings)).await.unwrap_or_default();
        if missing.is_empty() {
            return Fetching(None);
        }
        Fetching(Some(Box::pin(fetch_all(missing, self.own_dir.clone()))))
    }

    /// Loads what was fetched, beside what serves.
    pub(crate) async fn go_on(&mut self, settings: Arc<InferenceSettings>, problems: Problems) {
        if let Err(problems) = self.load(settings, How::Start, problems).await {
            self.cannot(&problems);
        }
    }

    fn cannot(&self, problems: &Problems) {
        tracing::error!("Not all models can be used; waiting for other settings: {problems}.");
        self.health.set("models", Err(problems.to_string()));
    }

    /// Puts proposed settings in force, or refuses them. Are they in force?
    pub(crate) async fn change(&mut self, change: Proposal<InferenceSettings>) -> bool {
        match self.load(Arc::clone(&change.settings), How::Change, Problems::default()).await {
            Ok(()) => {
                change.accept();
                true
            }
            Err(problems) => {
                tracing::warn!("New settings are refused, what served before serves on: {problems}.");
                change.refuse(problems);
                false
            }
        }
    }

    /// The direct method `reload`: reads the files of all models anew.
    pub(crate) async fn reload(&mut self, settings: Arc<InferenceSettings>) -> (u16, Value) {
        match self.load(settings, How::Reload, Problems::default()).await {
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

    async fn load(
        &mut self,
        settings: Arc<InferenceSettings>,
        how: How,
        problems: Problems,
    ) -> Result<(), Problems> {
        let shutdown = self.shutdown.clone();
        let loaded = tokio::select! {
            loaded = self.exchange(settings, how, problems) => loaded,
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

    async fn exchange(
        &mut self,
        settings: Arc<InferenceSettings>,
        how: How,
        problems: Problems,
    ) -> Result<(), Problems> {
        let before = self.served.now();
        if how != How::Start {
            let (folders, wanted) = ((self.models_dir.clone(), self.own_dir.clone()), Arc::clone(&settings));
            let missing = spawn_blocking(move || missing(folders, &wanted)).await.unwrap_or_default();
            let problems = fetch_all(missing, self.own_dir.clone()).await;
            if !problems.is_empty() {
                return Err(problems);
            }
        }
        let folders = (self.models_dir.clone(), self.own_dir.clone());
        let opened = spawn_blocking(move || open(folders)).await;
        let store = opened.unwrap_or_else(|error| Err(ended(&error)))?;
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
        // Settings that need no memory do not wait for any.
        if load.is_needed() {
            self.until_retired().await?;
        }
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

// === impl Fetching ===

impl Fetching {
    /// Nothing is fetched any more. Was anything?
    pub(crate) fn end(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// What could not be fetched, when all was tried. Never, where nothing is fetched.
    pub(crate) async fn ended(&mut self) -> Problems {
        match &mut self.0 {
            Some(fetching) => {
                let problems = fetching.await;
                self.0 = None;
                problems
            }
            None => future::pending().await,
        }
    }
}

/// The models whose files are not here and can be fetched. The others are told of when they are loaded. Heavy: digests
/// are looked at too, so that a damaged file in our folder is fetched again.
fn missing(folders: (PathBuf, PathBuf), settings: &InferenceSettings) -> Vec<(Wanted, ModelEntry)> {
    // Why it cannot be opened is told when the models are loaded.
    let Ok(store) = open(folders) else { return Vec::new() };
    let mut missing: Vec<(Wanted, ModelEntry)> = Vec::new();
    for wanted in wanted(settings, store.catalog()) {
        let Ok(entry) = store.entry(&wanted.name) else { continue };
        let known = missing.iter().any(|(other, _)| other.name == wanted.name);
        if !known && fetch::is_fetchable(entry) && store.find(&wanted.name).is_err() {
            missing.push((wanted, entry.clone()));
        }
    }
    missing
}

/// Fetches the files of these, one after the other.
async fn fetch_all(missing: Vec<(Wanted, ModelEntry)>, folder: PathBuf) -> Problems {
    let mut problems = Problems::default();
    for (Wanted { field, name }, entry) in missing {
        tracing::info!(model = name, "The file of a model is fetched.");
        if let Err(error) = fetch::fetch(&entry, &folder).await {
            problems.note(field, format!("the model {name:?} is not here: {error}"));
        }
    }
    problems
}

// === impl Load ===

impl Load {
    /// Is there a model that does not serve already?
    fn is_needed(&self) -> bool {
        let wanted = wanted(&self.settings, self.store.catalog());
        let first = wanted.first().map(|first| first.name.as_str()).unwrap_or_default();
        wanted.iter().any(|Wanted { field, name }| match *field {
            "shadow" => !self.is_same(first) || self.same_shadow(first, name).is_none(),
            _ => !self.is_same(name),
        })
    }

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
        if let Err(problem) = self.suits(field, name) {
            self.problems.note(field, problem);
            return None;
        }
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
        if let Some((shadow, serving)) = self.same_shadow(first.name(), &wanted.model)
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

    /// The second model that runs already, if it is this one beside that first one, and may run on.
    fn same_shadow(&self, first: &str, second: &str) -> Option<(&Arc<Shadow>, &Serving)> {
        let shadow = self.before.shadow.as_ref()?;
        let serving = self.before.serving.iter().find(|serving| serving.field == "shadow")?;
        let is_same = self.how != How::Reload
            && (shadow.beside(), shadow.classifier().model().name()) == (first, second)
            && self.before.settings.backend == self.settings.backend
            && self.is_as_in_catalog(shadow.classifier().model());
        is_same.then_some((shadow, serving))
    }

    /// Is the model for what the field is for? Where there is no such model that is told when it is loaded.
    fn suits(&self, field: &str, name: &str) -> Result<(), String> {
        let Ok(entry) = self.store.entry(name) else { return Ok(()) };
        let wanted = match (field, entry.task) {
            ("model", Task::Tensors) => "pictures",
            ("expression_model", Task::Classify | Task::Face | Task::Tensors) => "expressions of faces",
            _ => return Ok(()),
        };
        Err(format!("the model {name:?} is for {:?}, but one for {wanted} is wanted here", entry.task))
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
            // There may be many, and all facts together may have 8 KiB; `/models` tells the rest of them.
            "models" => others.push(json!({
                "model": serving.model,
                "digest": serving.digest,
                "backend": serving.backend,
            })),
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
