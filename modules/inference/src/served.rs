//! Which engines are in force.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::{InferenceSettings, engine::Engine, shadow::Shadow, swap::Serving};

/// The engines in force and the settings they go with. Cheap to clone; whoever took an engine goes on with it while
/// another takes its place.
#[derive(Debug, Clone)]
pub(crate) struct Served(Arc<RwLock<Arc<Engines>>>);

/// What serves, and the settings it goes with.
#[derive(Debug)]
pub(crate) struct Engines {
    pub(crate) settings: Arc<InferenceSettings>,
    /// The setting `model`.
    pub(crate) classifier: Option<Arc<Engine>>,
    /// The setting `expression_model`.
    pub(crate) expression: Option<Arc<Engine>>,
    /// The setting `models`.
    pub(crate) others: Vec<Arc<Engine>>,
    /// The setting `shadow`.
    pub(crate) shadow: Option<Arc<Shadow>>,
    /// What is told of all of these.
    pub(crate) serving: Vec<Serving>,
}

// === impl Served ===

impl Served {
    /// Nothing serves yet.
    pub(crate) fn new(settings: Arc<InferenceSettings>) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(Engines::none(settings)))))
    }

    /// All that is in force now, as one.
    pub(crate) fn now(&self) -> Arc<Engines> {
        Arc::clone(&self.0.read())
    }

    /// The settings that the engines go with.
    pub(crate) fn settings(&self) -> Arc<InferenceSettings> {
        Arc::clone(&self.now().settings)
    }

    /// The setting `model`.
    pub(crate) fn classifier(&self) -> Option<Arc<Engine>> {
        self.now().classifier.clone()
    }

    /// The setting `expression_model`.
    pub(crate) fn expression(&self) -> Option<Arc<Engine>> {
        self.now().expression.clone()
    }

    /// Any that is served, by its model's name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Engine>> {
        self.now().all().find(|engine| engine.pipeline().model().name() == name).cloned()
    }

    /// All that are served, each once.
    pub(crate) fn list(&self) -> Vec<Arc<Engine>> {
        let mut list: Vec<Arc<Engine>> = Vec::new();
        for engine in self.now().all() {
            if !list.iter().any(|known| known.pipeline().model().name() == engine.pipeline().model().name()) {
                list.push(Arc::clone(engine));
            }
        }
        list
    }

    /// The second model beside the setting `model`.
    pub(crate) fn shadow(&self) -> Option<Arc<Shadow>> {
        self.now().shadow.clone()
    }

    /// From now on these, in one step.
    pub(crate) fn replace(&self, engines: Engines) {
        let before = std::mem::replace(&mut *self.0.write(), Arc::new(engines));
        // Outside the lock: the last use of an engine ends its threads.
        drop(before);
    }
}

// === impl Engines ===

impl Engines {
    /// Nothing serves.
    pub(crate) fn none(settings: Arc<InferenceSettings>) -> Self {
        let (others, serving) = (Vec::new(), Vec::new());
        Self { settings, classifier: None, expression: None, others, shadow: None, serving }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Engine>> {
        self.classifier.iter().chain(&self.expression).chain(&self.others)
    }

    /// The engine of a model, and what is told of it.
    pub(crate) fn engine(&self, name: &str) -> Option<(Arc<Engine>, &Serving)> {
        let engine = self.all().find(|engine| engine.pipeline().model().name() == name)?;
        // That of a second model may have the same name, and another life.
        let mut serving = self.serving.iter().filter(|serving| serving.field != "shadow");
        Some((Arc::clone(engine), serving.find(|serving| serving.model == name)?))
    }

    /// What is here and not there: each is cancelled when its memory was given back.
    pub(crate) fn not_in(&self, others: &Self) -> Vec<CancellationToken> {
        let mut gone = Vec::new();
        for engine in self.all() {
            if !others.all().any(|other| Arc::ptr_eq(engine, other)) {
                gone.push(engine.freed());
            }
        }
        if let Some(shadow) = &self.shadow
            && !others.shadow.as_ref().is_some_and(|other| shadow.is_same(other))
        {
            gone.push(shadow.freed());
        }
        gone
    }
}
