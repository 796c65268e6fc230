//! Runs trials beside the rules in force, which do not notice.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use serde_json::Value;
use shunt_rules::Limits;
use tokio::sync::Semaphore;

use crate::{
    book::Written,
    trial::{self, Answer, Question},
};

/// Most trials at the same time; the next one waits.
const TRIALS: usize = 2;

/// Runs trials. Clones share what rules are in force.
#[derive(Debug, Clone)]
pub(crate) struct Trier {
    in_force: Arc<RwLock<Arc<Written>>>,
    limits: Limits,
    places: Arc<Semaphore>,
}

// === impl Trier ===

impl Trier {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { in_force: Arc::default(), limits, places: Arc::new(Semaphore::new(TRIALS)) }
    }

    /// These rules are in force from now on.
    pub(crate) fn set(&self, rules: BTreeMap<String, Value>) {
        *self.in_force.write() = Arc::new(rules);
    }

    /// A rule in force, as it is written.
    pub(crate) fn rule(&self, name: &str) -> Option<Value> {
        self.in_force.read().get(name).cloned()
    }

    /// Reads the question and answers it, on a thread for heavy work.
    pub(crate) async fn answer(
        &self,
        question: impl FnOnce() -> Result<Question, String> + Send + 'static,
    ) -> Result<Answer, String> {
        // Never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|error| error.to_string())?;
        let (in_force, limits) = (Arc::clone(&self.in_force.read()), self.limits);
        let work = tokio::task::spawn_blocking(move || {
            let answer = question().and_then(|question| trial::answer(&question, &in_force, &limits));
            drop(place);
            answer
        });
        work.await.unwrap_or_else(|error| Err(format!("the trial ended early: {error}")))
    }
}
