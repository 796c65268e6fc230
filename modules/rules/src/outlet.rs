//! Alerts and window results to the bus, and actions to whom they are about.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request, header},
};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;
use serde_json::{Map, Value};
use shunt_bus::{Bus, Delivery};
use shunt_hub::{Hub, InvokeLimits};
use shunt_module::{Events, services::Services};
use shunt_rules::{Act, Output};
use shunt_wire::{
    Envelope, Kind, Name,
    events::{Alert, AlertState},
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    board::Board,
    tally::{Done, Tally},
};

/// Most actions in work. One more is dropped and counted: what hangs must not hold back the rules.
const ACTS: usize = 32;
/// What a call of a module may take.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// What a direct method may take.
const METHOD_LIMIT: Duration = Duration::from_secs(10);
/// Of the answer to a call, so many bytes are read and thrown away, so that the connection can be used again.
const ANSWER: usize = 1024 * 1024;

/// Where everything that comes out of the rules goes.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    pub(crate) bus: Bus,
    pub(crate) hub: Option<Hub>,
    pub(crate) events: Events,
    pub(crate) services: Services,
    pub(crate) tally: Tally,
    pub(crate) board: Board,
    pub(crate) tasks: TaskTracker,
    pub(crate) places: Arc<Semaphore>,
    /// How many outputs are out: published, their actions begun.
    pub(crate) done: watch::Sender<u64>,
}

// === impl Outlet ===

impl Outlet {
    /// Places for actions.
    pub(crate) fn places() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(ACTS))
    }

    /// Works until it is told to end, and then until all that was given is out.
    pub(crate) async fn run(self, mut outputs: mpsc::Receiver<Output>, end: CancellationToken) {
        while let Some(Some(output)) = end.run_until_cancelled(outputs.recv()).await {
            self.give(output).await;
        }
        while let Ok(output) = outputs.try_recv() {
            self.give(output).await;
        }
    }

    async fn give(&self, output: Output) {
        match output {
            Output::Window { rule, id, window } => {
                self.tally.windows.inc();
                self.publish(Kind::WINDOW, rule, id, &window).await;
            }
            Output::Alert { rule, id, publish, alert, acts } => {
                let state = word(alert.state);
                self.tally.alert(rule.as_str(), state);
                tracing::info!(%rule, state, message = alert.message, "A rule has an alert.");
                for act in acts {
                    self.act(&rule, act, &alert).await;
                }
                if publish {
                    self.publish(Kind::ALERT, rule, id, &alert).await;
                }
            }
        }
        self.done.send_modify(|done| *done += 1);
    }

    /// Publishes; waits for the broker, and with it the engine.
    async fn publish(&self, kind: Kind, rule: Name, id: String, data: &impl Serialize) {
        let mut event = self.events.event(kind, rule);
        // The same after a restart, so that who knows it already can tell.
        event.id = id;
        self.send(event, data).await;
    }

    async fn send(&self, event: Envelope, data: &impl Serialize) {
        let published = match event.with_json(data) {
            Ok(event) => self.bus.publish(event, Delivery::Assured).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = published {
            self.tally.unpublished.inc();
            tracing::warn!(error, "The bus did not take an alert or a window.");
        }
    }

    async fn act(&self, rule: &Name, act: Act, alert: &Alert) {
        let kind = act.kind();
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.tally.act(kind, Done::Dropped);
            let message = format!("{}: {ACTS} actions are in work already", act.describe());
            return self.failed(rule, message).await;
        };
        let (own, rule) = (self.clone(), rule.clone());
        let alert = serde_json::to_value(alert).unwrap_or_default();
        self.tasks.spawn(async move {
            let what = act.describe();
            let done = own.perform(act, alert).await;
            drop(place);
            match done {
                Ok(()) => own.tally.act(kind, Done::Ok),
                Err(error) => {
                    own.tally.act(kind, Done::Failed);
                    tracing::warn!(%rule, what, error, "An action of a rule has failed.");
                    own.failed(&rule, format!("{what}: {error}")).await;
                }
            }
        });
    }

    /// An action has failed: it is noted, and told by an alert if that was not done lately.
    async fn failed(&self, rule: &Name, message: String) {
        if !self.board.failed(rule.as_str(), message.clone()) {
            return;
        }
        self.tally.alert(rule.as_str(), word(AlertState::Failed));
        let mut event = self.events.event(Kind::ALERT, rule.clone());
        let alert = Alert {
            rule: rule.to_string(),
            group: Map::new(),
            state: AlertState::Failed,
            severity: "warning".to_owned(),
            message,
            since: event.time.clone(),
            at: event.time.clone(),
            upstream: true,
            values: Map::new(),
        };
        event.id = format!("{rule}-{}-action-failed", event.time);
        self.send(event, &alert).await;
    }

    async fn perform(&self, act: Act, alert: Value) -> Result<(), String> {
        match act {
            Act::Call { module, path, verb, body } => {
                let body = body.unwrap_or(alert);
                let calling = self.call(module.as_str(), &path, &verb, &body);
                timeout(CALL_LIMIT, calling).await.map_err(|_| format!("no answer in {CALL_LIMIT:?}"))?
            }
            Act::Method { module, name, payload } => self.method(module.as_str(), &name, &payload).await,
            Act::Set { module, settings } => self.method(module.as_str(), "setSettings", &settings).await,
        }
    }

    async fn call(&self, module: &str, path: &str, verb: &str, body: &Value) -> Result<(), String> {
        let get = verb == "GET";
        let request = Request::builder().method(if get { Method::GET } else { Method::POST }).uri(path);
        let request = if get {
            request.body(Body::empty())
        } else {
            request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string()))
        };
        let request = request.map_err(|error| error.to_string())?;
        let response = self.services.call(module, request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        drop(Limited::new(response.into_body(), ANSWER).collect().await);
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }

    async fn method(&self, module: &str, name: &str, payload: &Value) -> Result<(), String> {
        let hub = self.hub.as_ref().ok_or("there is no edgeHub through which a method could be called")?;
        let limits = InvokeLimits { response: METHOD_LIMIT, connect: Duration::ZERO };
        let answer = hub.invoke(module, name, payload, limits).await.map_err(|error| error.to_string())?;
        if (200..300).contains(&answer.status) {
            return Ok(());
        }
        let message = answer.payload.get("message").and_then(Value::as_str).unwrap_or_default();
        Err(format!("it answered {}: {message}", answer.status))
    }
}

/// The state of an alert in a word.
fn word(state: AlertState) -> &'static str {
    match state {
        AlertState::Raised => "raised",
        AlertState::Repeated => "repeated",
        AlertState::Cleared => "cleared",
        AlertState::Failed => "failed",
    }
}
