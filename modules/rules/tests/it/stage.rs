//! The module in this process, and what is around it.

use std::{net::SocketAddr, path::Path, time::Duration};

use rules::RulesSettings;
use serde_json::Value;
use shunt_bus::{Bus, BusOptions, Delivery, Subscription};
use shunt_module::{Common, Context, Methods, SettingsHandle, SettingsSender};
use shunt_testkit::{Mosquitto, eventually};
use shunt_wire::{
    Envelope, Kind, Name, TopicFilter,
    events::{Alert, Emotion, Expression, Face, Probabilities, Rect},
};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long anything may take; a busy machine is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A broker, who sends events, and who hears alerts.
pub(crate) struct Square {
    pub(crate) broker: Mosquitto,
    pub(crate) bus: Bus,
    alerts: Subscription,
}

/// The module.
pub(crate) struct Stage {
    pub(crate) settings: SettingsSender<RulesSettings>,
    pub(crate) address: SocketAddr,
    pub(crate) methods: Methods,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

pub(crate) fn settings(rules: Value) -> RulesSettings {
    RulesSettings { rules: serde_json::from_value(rules).unwrap(), ..RulesSettings::default() }
}

/// An emotion event as the module `emotion` publishes it, so many milliseconds after a fixed time.
pub(crate) fn emotion(number: u64, source: &'static str, at_ms: u64, emotion: Expression) -> Envelope {
    let bounds = Rect { x: 10.0, y: 10.0, width: 50.0, height: 60.0 };
    let face = Face { sequence: number, width: 640, height: 480, track: number / 10, bounds, score: 0.9 };
    let data = Emotion {
        face,
        emotion,
        probability: 0.8,
        probabilities: Probabilities { happiness: 0.8, ..Probabilities::default() },
        models: vec!["blazeface-full-range".to_owned()],
        inference_ms: 20.0,
        model_ms: 18.0,
    };
    let (minute, second) = (at_ms / 60_000, at_ms % 60_000);
    let time = format!("2026-11-21T09:{minute:02}:{:02}.{:03}Z", second / 1_000, second % 1_000);
    Envelope::new(format!("e-{number}"), Kind::EMOTION, Name::from_static(source), time)
        .with_json(&data)
        .unwrap()
}

// === impl Square ===

impl Square {
    pub(crate) async fn open() -> Self {
        let broker = Mosquitto::start().await.unwrap();
        let bus = Bus::open(BusOptions::new(broker.url(), Name::from_static("tester"))).unwrap();
        let alerts = bus.subscribe(&TopicFilter::kind(&Kind::ALERT), Delivery::Assured).await.unwrap();
        Self { broker, bus, alerts }
    }

    pub(crate) async fn send(&self, event: Envelope) {
        timeout(LIMIT, self.bus.publish(event, Delivery::Assured)).await.unwrap().unwrap();
    }

    /// The next alert, and its id.
    pub(crate) async fn alert(&mut self) -> (String, Alert) {
        let received = timeout(LIMIT, self.alerts.next()).await.expect("an alert in time").unwrap();
        received.ack.ack();
        let event = received.envelope.unwrap();
        (event.id.clone(), event.json().unwrap())
    }

    /// No alert has come; whatever was sent before was seen by the module.
    pub(crate) async fn no_alert(&mut self) {
        let more = timeout(Duration::from_millis(300), self.alerts.next()).await;
        assert!(more.is_err(), "{:?}", more.map(|received| received.map(|received| received.payload)));
    }
}

// === impl Stage ===

impl Stage {
    /// In this folder, ready and subscribed.
    pub(crate) async fn start(square: &Square, folder: &Path, settings: RulesSettings) -> Self {
        let bus = Bus::open(BusOptions::new(square.broker.url(), Name::from_static("rules"))).unwrap();
        let (handle, sender) = SettingsHandle::channel(settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (context, stop) = Context::for_test(handle, bus, None, Common::in_folder(folder), listener);
        let methods = context.methods.clone();
        let running = tokio::spawn(rules::run(context));
        let stage = Self { settings: sender, address, methods, stop, running };
        eventually(LIMIT, || async { stage.get("/readyz").await.0 == 200 }).await;
        stage
    }

    /// Waits until the rule has seen so many events.
    pub(crate) async fn seen(&self, rule: &str, events: u64) {
        eventually(LIMIT, || async { self.rule(rule).await["counters"]["events"].as_u64() >= Some(events) })
            .await;
    }

    pub(crate) async fn rule(&self, name: &str) -> Value {
        let (_, text) = self.get(&format!("/rules/{name}")).await;
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let answer = client().get(self.url(path)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub(crate) async fn post(&self, path: &str, body: String) -> (u16, Value) {
        let request = client().post(self.url(path)).header("content-type", "application/json").body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(LIMIT, self.running).await.unwrap().unwrap().unwrap();
    }

    /// Asks it to end in order, and does not wait.
    pub(crate) fn begin_to_end(&self) {
        self.stop.cancel();
    }

    /// Ends it as a kill does.
    pub(crate) async fn kill(self) {
        self.running.abort();
        self.running.await.ok();
    }
}

pub(crate) fn client() -> reqwest::Client {
    // The client wants to know who would do TLS, also where nobody does. A second call changes nothing.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().tcp_nodelay(true).timeout(LIMIT).no_proxy().build().unwrap()
}
