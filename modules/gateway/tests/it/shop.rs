//! An app that subscribes, and does with events what a test wants.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use shunt_testkit::eventually;
use tokio::net::TcpListener;

use crate::rig::{Gateway, PATIENCE, environment};

/// What the app answers on a path.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    Text(u16, &'static str),
    Never,
}

/// An event as it came.
#[derive(Debug, Clone)]
pub(crate) struct Posted {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) event: Value,
}

/// The app.
#[derive(Debug, Clone)]
pub(crate) struct Shop {
    pub(crate) address: SocketAddr,
    desk: Arc<Desk>,
}

#[derive(Debug, Default)]
struct Desk {
    /// Null: the path is not there.
    subscriptions: Mutex<Value>,
    /// How often it was asked.
    asked: AtomicU64,
    answers: Mutex<BTreeMap<String, Answer>>,
    posted: Mutex<Vec<Posted>>,
}

async fn take(State(desk): State<Arc<Desk>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path().to_owned();
    let event = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let is_probe = event["id"] == "probe";
    desk.posted.lock().unwrap().push(Posted { path: path.clone(), headers, event });
    let answer = desk.answers.lock().unwrap().get(&path).copied();
    match answer {
        Some(Answer::Text(status, text)) if !is_probe => {
            (StatusCode::from_u16(status).unwrap(), text).into_response()
        }
        Some(Answer::Never) if !is_probe => std::future::pending().await,
        _ => StatusCode::OK.into_response(),
    }
}

async fn subscribe(State(desk): State<Arc<Desk>>) -> Response {
    desk.asked.fetch_add(1, Ordering::Relaxed);
    match desk.subscriptions.lock().unwrap().clone() {
        Value::Null => StatusCode::NOT_FOUND.into_response(),
        told => axum::Json(told).into_response(),
    }
}

impl Shop {
    /// An app with these subscriptions, on a fresh port.
    pub(crate) async fn open(subscriptions: Value) -> Self {
        Self::open_at("127.0.0.1:0".parse().unwrap(), subscriptions).await
    }

    pub(crate) async fn open_at(address: SocketAddr, subscriptions: Value) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Arc::new(Desk { subscriptions: Mutex::new(subscriptions), ..Desk::default() });
        let pages = Router::new().route("/dapr/subscribe", get(subscribe)).fallback(take);
        tokio::spawn(axum::serve(listener, pages.with_state(Arc::clone(&desk))).into_future());
        Self { address, desk }
    }

    /// From now on the app answers so on this path; anywhere else it takes everything.
    pub(crate) fn answers(&self, path: &str, answer: Answer) {
        self.desk.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// From now on the app tells these subscriptions.
    pub(crate) fn wants(&self, subscriptions: Value) {
        *self.desk.subscriptions.lock().unwrap() = subscriptions;
    }

    /// Waits until it was asked three times more for what it wants: what it told before was taken up then.
    pub(crate) async fn is_asked(&self) {
        let before = self.desk.asked.load(Ordering::Relaxed);
        eventually(PATIENCE, || async { self.desk.asked.load(Ordering::Relaxed) >= before + 3 }).await;
    }

    /// What came on this path, probes left out.
    pub(crate) fn posted(&self, path: &str) -> Vec<Posted> {
        let posted = self.desk.posted.lock().unwrap();
        posted.iter().filter(|posted| posted.path == path && posted.event["id"] != "probe").cloned().collect()
    }

    /// Waits until so many came on this path, and gives them.
    pub(crate) async fn has(&self, path: &str, count: usize) -> Vec<Posted> {
        eventually(PATIENCE, || async { self.posted(path).len() >= count }).await;
        self.posted(path)
    }

    /// Waits until what is published on the topic comes to this path: before, nobody keeps it.
    pub(crate) async fn listens(&self, gateway: &Gateway, topic: &str, path: &str) {
        eventually(PATIENCE, || async {
            let probe = json!({"id": "probe", "datacontenttype": "text/plain"});
            publish(gateway, topic, &probe).await;
            let posted = self.desk.posted.lock().unwrap();
            posted.iter().any(|posted| posted.path == path && posted.event["id"] == "probe")
        })
        .await;
    }
}

/// Publishes this event as it is.
pub(crate) async fn publish(gateway: &Gateway, topic: &str, event: &Value) {
    let posting = gateway.post(&format!("/v1.0/publish/pubsub/{topic}"));
    let posting = posting.header("content-type", "application/cloudevents+json").body(event.to_string());
    let answer = posting.send().await.unwrap();
    assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
}

/// The environment of a gateway that knows these apps and asks them often; `pubsub` are settings of the pubsub.
pub(crate) fn variables(
    folder: &Path,
    bus: &str,
    apps: &[(&str, SocketAddr)],
    pubsub: Value,
    more: &[(&str, &str)],
) -> BTreeMap<String, String> {
    let apps: BTreeMap<_, _> =
        apps.iter().map(|(id, address)| (*id, json!({"address": address.to_string()}))).collect();
    let mut knobs =
        json!({"ask_s": 0.1, "retry_first_s": 0.05, "retry_longest_s": 0.2, "attempts": 3, "forget_s": 0.2});
    knobs.as_object_mut().unwrap().extend(pubsub.as_object().unwrap().clone());
    let mut variables = environment(folder, bus, more);
    variables.insert("SHUNT_GATEWAY_APPS".to_owned(), serde_json::to_string(&apps).unwrap());
    variables.insert("SHUNT_GATEWAY_PUBSUBS".to_owned(), json!({"pubsub": knobs}).to_string());
    variables
}

/// The value of a metric with these labels; 0 where it is not there.
pub(crate) async fn metric(gateway: &Gateway, line: &str) -> u64 {
    let page = gateway.get("/metrics").send().await.unwrap().text().await.unwrap();
    let value = page.lines().find_map(|text| text.strip_prefix(line)?.trim().parse::<f64>().ok());
    value.unwrap_or(0.0) as u64
}

/// How many events for this app came to this end.
pub(crate) async fn ended(gateway: &Gateway, app: &str, outcome: &str) -> u64 {
    let labels = format!("{{app=\"{app}\",outcome=\"{outcome}\"}}");
    metric(gateway, &format!("shunt_gateway_delivered_events_total{labels}")).await
}
