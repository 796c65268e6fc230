//! Keeps the settings as the module twin wants them, and answers in the reported twin.

use std::{future::Future, time::Duration};

use serde_json::{Map, Value, json};
use shunt_hub::{Desired, Hub, HubState};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Facts, MethodQueue, Problems, QueuedCall, Settings, SettingsSender,
    local_settings::LocalSettings,
    report::{self, Outcome},
    settings::Layers,
    store::{Kept, Store},
};

/// After this time a module that still weighs new settings is reported as at work (202).
const IN_PROGRESS: Duration = Duration::from_secs(2);
/// How long one report may take.
const REPORT_LIMIT: Duration = Duration::from_secs(30);
/// The first and the longest wait before a failed report is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Keeps the settings as the twin wants them.
pub(crate) struct Keeper<S> {
    layers: Layers<S>,
    store: Store,
    kept: Kept,
    settings: SettingsSender<S>,
    facts: Facts,
    hub: Hub,
    /// The twin that was weighed last, and what was wrong with it.
    weighed: Option<(Desired, Option<Problems>)>,
    /// The verdicts on the settings; none before the first twin was weighed, and nothing is reported before.
    verdicts: Option<Map<String, Value>>,
    /// Is there something that the hub was not told yet?
    pending: bool,
    /// What other modules of the device have changed.
    local: LocalSettings,
    /// Calls of `setSettings`.
    calls: Option<MethodQueue>,
}

// === impl Keeper ===

impl<S: Settings> Keeper<S> {
    pub(crate) fn new(
        layers: Layers<S>,
        store: Store,
        kept: Kept,
        settings: SettingsSender<S>,
        facts: Facts,
        hub: Hub,
    ) -> Self {
        Self {
            layers,
            store,
            kept,
            settings,
            facts,
            hub,
            weighed: None,
            verdicts: None,
            pending: false,
            local: LocalSettings::default(),
            calls: None,
        }
    }

    /// Answers calls of `setSettings`, within what is granted.
    pub(crate) fn take_calls(&mut self, local: LocalSettings, calls: MethodQueue) {
        (self.local, self.calls) = (local, Some(calls));
    }

    /// Runs until shutdown.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&mut self) {
        let (mut desired, mut state) = (self.hub.desired(), self.hub.state());
        let mut facts = self.facts.subscribe();
        let mut calls = self.calls.take();
        let mut wait = RETRY.0;
        loop {
            let now = desired.borrow_and_update().clone();
            if let Some(now) = now
                && self.weighed.as_ref().is_none_or(|(weighed, _)| *weighed != now)
            {
                self.weigh(now).await;
            }
            if self.pending && *state.borrow_and_update() == HubState::Connected {
                if self.send().await {
                    wait = RETRY.0;
                } else {
                    wait = (wait * 2).min(RETRY.1);
                }
            }
            let again = Instant::now() + wait;
            let gone = tokio::select! {
                changed = desired.changed() => changed.is_err(),
                changed = state.changed() => changed.is_err(),
                // Never an error: a sender is held here.
                _ = facts.changed() => {
                    self.pending = self.verdicts.is_some();
                    false
                }
                call = next_call(&mut calls) => {
                    self.set_locally(call).await;
                    false
                }
                () = tokio::time::sleep_until(again), if self.pending => false,
            };
            if gone {
                return;
            }
        }
    }

    /// Weighs the desired properties: checks them, proposes them to the module, keeps them, prepares the answer.
    async fn weigh(&mut self, desired: Desired) {
        let version = desired.version;
        let problems = match self.layers.with(&desired.properties) {
            Ok(settings) if settings == *self.settings.in_force() => None,
            Ok(settings) => self.propose(&desired, settings).await.err(),
            Err(problems) => Some(problems),
        };
        if let Some(problems) = &problems {
            tracing::warn!(version, %problems, "The desired properties are refused; the settings stay as they were.");
        } else {
            tracing::info!(version, "The settings are as the desired properties want them.");
            // The cloud has the last word, where it can be followed.
            self.local.forget();
            self.kept.desired.clone_from(&desired.properties);
            self.kept.version = version;
        }
        let outcome = problems.as_ref().map_or(Outcome::Applied, Outcome::Refused);
        let in_force = self.settings.in_force();
        let mut report = report::report(&self.layers, &in_force, &desired, &self.kept.desired, outcome);
        // What was refused says why; the other local changes are still in force.
        let mut local = self.local.values().clone();
        local.retain(|field, _| problems.as_ref().is_none_or(|problems| problems.of(field).is_none()));
        report::mark_local(&mut report, &*in_force, &local);
        // The set must be on disk before the cloud hears that it is in force.
        self.save().await;
        self.verdicts = Some(report);
        self.pending = true;
        self.weighed = Some((desired, problems));
    }

    /// Another module of the device changes settings. All of it or nothing, as from the twin.
    async fn set_locally(&mut self, call: QueuedCall) {
        let (status, answer) = match self.local.changed(&call.payload) {
            Ok(changed) => self.try_locally(changed).await,
            Err(refused) => refused,
        };
        call.answer(status, answer);
    }

    async fn try_locally(&mut self, changed: LocalSettings) -> (u16, Value) {
        let settings = match self.layers.with(&changed.over(&self.kept.desired)) {
            Ok(settings) => settings,
            Err(problems) => return (400, json!({"message": problems.to_string()})),
        };
        if settings != *self.settings.in_force()
            && let Err(problems) = self.settings.propose(settings).await
        {
            return (409, json!({"message": problems.to_string()}));
        }
        self.local = changed;
        let values = self.local.values().clone();
        tracing::info!(settings = ?values.keys().collect::<Vec<_>>(), "Settings were changed on the device.");
        if let Some((desired, problems)) = &self.weighed {
            let outcome = problems.as_ref().map_or(Outcome::Applied, Outcome::Refused);
            let in_force = self.settings.in_force();
            let mut report = report::report(&self.layers, &in_force, desired, &self.kept.desired, outcome);
            report::mark_local(&mut report, &*in_force, &values);
            self.verdicts = Some(report);
            self.pending = true;
        }
        (200, json!({"settings": values}))
    }

    async fn propose(&mut self, desired: &Desired, settings: S) -> Result<(), Problems> {
        let (hub, facts) = (self.hub.clone(), self.facts.get());
        let (layers, kept, sender) = (&self.layers, &mut self.kept, &self.settings);
        let mut verdict = std::pin::pin!(sender.propose(settings));
        if let Ok(verdict) = timeout(IN_PROGRESS, &mut verdict).await {
            return verdict;
        }
        let at_work = report::report(layers, &sender.in_force(), desired, &kept.desired, Outcome::InProgress);
        let reporting = async {
            // The final answer follows, so nothing is lost when this one is.
            send(&hub, kept, report::with_facts(at_work, &facts)).await;
            std::future::pending::<()>().await;
        };
        first(verdict, reporting).await
    }

    /// Reports what is pending; tells whether the hub took it.
    async fn send(&mut self) -> bool {
        let Some(verdicts) = self.verdicts.clone() else { return true };
        let report = report::with_facts(verdicts, &self.facts.get());
        self.pending = !send(&self.hub, &mut self.kept, report).await;
        if !self.pending {
            self.save().await;
        }
        !self.pending
    }

    async fn save(&self) {
        let (store, kept) = (self.store.clone(), self.kept.clone());
        let saved = tokio::task::spawn_blocking(move || store.save(&kept)).await;
        if let Ok(Err(error)) = saved {
            tracing::error!(%error, "The settings cannot be kept on disk; a restart without the cloud loses them.");
        }
    }
}

/// Reports; notes in `kept` what the hub has now.
async fn send(hub: &Hub, kept: &mut Kept, report: Map<String, Value>) -> bool {
    let patch = report::patch(&kept.reported, &report);
    match timeout(REPORT_LIMIT, hub.report(&patch)).await {
        Ok(Ok(())) => {
            kept.reported = report;
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "The hub did not take the report of the settings; it is sent again.");
            false
        }
        Err(_) => {
            tracing::warn!("The hub did not answer the report of the settings in time; it is sent again.");
            false
        }
    }
}

/// The next call; never, where there can be none.
async fn next_call(calls: &mut Option<MethodQueue>) -> QueuedCall {
    match calls {
        Some(calls) => calls.next().await,
        None => std::future::pending().await,
    }
}

/// The first future's result; the second runs along.
async fn first<T>(one: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
    tokio::select! {
        result = one => result,
        () = other => std::future::pending().await,
    }
}
