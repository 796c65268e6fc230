//! The settings in force, as the module sees them, and the way changes come to it.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

use crate::{Problems, Settings};

/// The settings in force, shared between the handle, its proposals and the keeper of the twin.
#[derive(Debug)]
pub(crate) struct InForce<S>(Arc<RwLock<Arc<S>>>);

/// New settings that passed all checks and wait for the module's word. Dropping it counts as accepted.
#[derive(Debug)]
pub struct Proposal<S> {
    /// The settings proposed.
    pub settings: Arc<S>,
    in_force: InForce<S>,
    /// Taken by the verdict.
    answer: Option<oneshot::Sender<Result<(), Problems>>>,
}

/// The settings in force, and the changes that come by twin.
#[derive(Debug)]
pub struct SettingsHandle<S> {
    in_force: InForce<S>,
    changes: Option<mpsc::Receiver<Proposal<S>>>,
}

/// The other end of [`SettingsHandle::channel`].
#[derive(Debug)]
pub struct SettingsSender<S> {
    in_force: InForce<S>,
    /// One at a time: a sender waits for the verdict before it proposes again.
    changes: mpsc::Sender<Proposal<S>>,
}

// === impl InForce ===

impl<S> InForce<S> {
    fn new(settings: S) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(settings))))
    }

    pub(crate) fn get(&self) -> Arc<S> {
        Arc::clone(&self.0.read())
    }
}

impl<S> Clone for InForce<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

// === impl Proposal ===

impl<S> Proposal<S> {
    /// They are in force now.
    pub fn accept(self) {
        drop(self);
    }

    /// They cannot be used (a model that does not load, ...): the old ones stay in force; the reported twin says
    /// why.
    pub fn refuse(mut self, problems: Problems) {
        if let Some(answer) = self.answer.take() {
            // Nobody waits for the verdict any more: the module is ending.
            answer.send(Err(problems)).ok();
        }
    }
}

impl<S> Drop for Proposal<S> {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            *self.in_force.0.write() = Arc::clone(&self.settings);
            answer.send(Ok(())).ok();
        }
    }
}

// === impl SettingsHandle ===

impl<S: Settings> SettingsHandle<S> {
    /// Settings that never change, for tests.
    pub fn fixed(settings: S) -> Self {
        Self { in_force: InForce::new(settings), changes: None }
    }

    /// Settings whose changes the test itself proposes; the function resolves to the module's verdict.
    pub fn channel(settings: S) -> (Self, SettingsSender<S>) {
        let in_force = InForce::new(settings);
        let (sender, receiver) = mpsc::channel(1);
        let handle = Self { in_force: in_force.clone(), changes: Some(receiver) };
        (handle, SettingsSender { in_force, changes: sender })
    }

    /// Those in force.
    pub fn current(&self) -> Arc<S> {
        self.in_force.get()
    }

    /// The next change. Cancel-safe. Never resolves if there can be none any more.
    pub async fn change(&mut self) -> Proposal<S> {
        if let Some(changes) = &mut self.changes
            && let Some(proposal) = changes.recv().await
        {
            return proposal;
        }
        self.changes = None;
        std::future::pending().await
    }

    pub(crate) fn in_force(&self) -> InForce<S> {
        self.in_force.clone()
    }
}

// === impl SettingsSender ===

impl<S: Settings> SettingsSender<S> {
    /// Proposes; resolves to the module's verdict.
    pub async fn propose(&self, settings: S) -> Result<(), Problems> {
        let gone = || {
            let mut problems = Problems::default();
            problems.note("", "the module is ending");
            problems
        };
        let (answer, verdict) = oneshot::channel();
        let proposal =
            Proposal { settings: Arc::new(settings), in_force: self.in_force.clone(), answer: Some(answer) };
        if let Err(mpsc::error::SendError(mut proposal)) = self.changes.send(proposal).await {
            proposal.answer = None;
            return Err(gone());
        }
        verdict.await.unwrap_or_else(|_| Err(gone()))
    }

    pub(crate) fn in_force(&self) -> Arc<S> {
        self.in_force.get()
    }
}
