//! What rules do: calls of modules, and through the stand-in of edgeHub direct methods and settings.

use std::{collections::BTreeMap, net::SocketAddr};

use axum::{Json, Router, routing::post};
use serde_json::{Value, json};
use shunt_bus::{Bus, BusOptions};
use shunt_module::{Context, Problems, Settings};
use shunt_sim::{Sim, SimOptions};
use shunt_testkit::eventually;
use shunt_wire::{
    Name,
    events::{AlertState, Expression, Presence},
};
use tokio::sync::{mpsc, oneshot};

use crate::stage::{LIMIT, Square, emotion};

/// A camera that has settings and takes pictures, as far as rules see it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct CameraSettings {
    /// Frames a second.
    fps: f64,
}

impl Default for CameraSettings {
    fn default() -> Self {
        Self { fps: 10.0 }
    }
}

impl Settings for CameraSettings {
    const MODULE: &'static str = "camera";

    fn check(&self, _problems: &mut Problems) {}
}

/// A module of the stand-in in this process.
struct Running {
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<u8>,
}

fn environment(
    sim: &Sim,
    module: &str,
    bus: &str,
    data: &std::path::Path,
    more: &[(&str, &str)],
) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> = sim.module_environment(module);
    let data = data.join(module).display().to_string();
    let own =
        [("SHUNT_BUS_URL", bus), ("SHUNT_HTTP_LISTEN", "127.0.0.1:0"), ("SHUNT_DATA_DIR", data.as_str())];
    for (name, value) in own.iter().chain(more) {
        environment.insert((*name).to_owned(), (*value).to_owned());
    }
    environment
}

impl Running {
    async fn end(self) {
        self.stop.send(()).unwrap();
        assert_eq!(tokio::time::timeout(LIMIT, self.ended).await.unwrap().unwrap(), 0);
    }
}

/// A module that hears calls.
async fn listener() -> (SocketAddr, mpsc::Receiver<Value>) {
    let (calls, heard) = mpsc::channel(16);
    let route = post(move |Json(body): Json<Value>| {
        let calls = calls.clone();
        async move {
            calls.send(body).await.ok();
            "heard"
        }
    });
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(socket, Router::new().route("/alerts", route)).await });
    (address, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_calls_a_module_takes_a_picture_and_throttles_the_camera() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let sim =
        Sim::start(SimOptions { folder: folder.path().join("sim"), ..SimOptions::default() }).await.unwrap();
    sim.add_module("camera").unwrap();
    sim.add_module("rules").unwrap();
    let url = square.broker.url();

    // The camera: notes pictures taken and settings changed.
    let (notes, mut noted) = mpsc::channel::<String>(16);
    let camera_environment =
        environment(&sim, "camera", &url, folder.path(), &[("SHUNT_LOCAL_SETTINGS", "fps")]);
    let (stop, stopped) = oneshot::channel::<()>();
    let camera = Running {
        stop,
        ended: tokio::spawn(async move {
            let stop = async {
                stopped.await.ok();
                "the test"
            };
            shunt_module::live(&camera_environment, stop, |mut context: Context<CameraSettings>| async move {
                let pictures = notes.clone();
                context.methods.on("snapshot", move |_| {
                    let pictures = pictures.clone();
                    async move {
                        pictures.send("snapshot".to_owned()).await.ok();
                        (200, Value::Null)
                    }
                })?;
                loop {
                    tokio::select! {
                        () = context.shutdown.cancelled() => return Ok(()),
                        change = context.settings.change() => {
                            notes.send(format!("fps {}", change.settings.fps)).await.ok();
                            change.accept();
                        }
                    }
                }
            })
            .await
        }),
    };

    // Somebody who is told over HTTP, found by presence on the bus.
    let (address, mut heard) = listener().await;
    let presence = Presence {
        online: true,
        version: "1".to_owned(),
        port: Some(address.port()),
        host: Some("127.0.0.1".to_owned()),
    };
    let pager = BusOptions { presence: Some(presence), ..BusOptions::new(&url, Name::from_static("pager")) };
    let _pager = Bus::open(pager).unwrap();

    let rules = json!({"angry": {
        "from": ["emotion"], "when": "data.emotion == 'anger'",
        "do": [
            {"snapshot": {}},
            {"set": {"module": "camera", "settings": {"fps": "${data.probability > 0.5 ? 2.0 : 5.0}"}}},
            {"set": {"module": "camera", "settings": {"fps": "${null}"}, "on": "cleared"}},
            {"call": {"module": "pager", "path": "/alerts", "body": {"text": "anger at ${source}", "sequence": "${data.sequence}"}}},
            {"method": {"module": "camera", "name": "nothing"}},
        ],
    }});
    let more = [("SHUNT_RULES_RULES", rules.to_string()), ("SHUNT_ADVERTISE_HOST", "127.0.0.1".to_owned())];
    let more: Vec<(&str, &str)> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let rules_environment = environment(&sim, "rules", &url, folder.path(), &more);
    let (stop, stopped) = oneshot::channel::<()>();
    let rules = Running {
        stop,
        ended: tokio::spawn(async move {
            let stop = async {
                stopped.await.ok();
                "the test"
            };
            shunt_module::live(&rules_environment, stop, rules::run).await
        }),
    };
    eventually(LIMIT, || async { sim.is_connected("rules") && sim.is_connected("camera") }).await;
    eventually(LIMIT, || async {
        let told = sim.invoke("rules", "diagnostics", Value::Null, LIMIT).await.unwrap().payload;
        told["health"]["parts"]["subscriptions"]["ready"] == true
    })
    .await;

    square.send(emotion(7, "gate", 0, Expression::Anger)).await;
    assert_eq!(square.alert().await.1.rule, "angry");
    let call = tokio::time::timeout(LIMIT, heard.recv()).await;
    let health =
        sim.invoke("rules", "diagnostics", Value::Null, LIMIT).await.unwrap().payload["health"].clone();
    let call = call.unwrap_or_else(|_| panic!("nobody was called: {health:#}")).unwrap();
    assert_eq!(call, json!({"text": "anger at gate", "sequence": 7}));
    let mut two = Vec::new();
    for _ in 0..2 {
        two.push(tokio::time::timeout(LIMIT, noted.recv()).await.unwrap().unwrap());
    }
    two.sort();
    assert_eq!(two, ["fps 2", "snapshot"]);
    // What failed is told, and kept nothing back.
    eventually(LIMIT, || async {
        let told = sim.invoke("rules", "diagnostics", Value::Null, LIMIT).await.unwrap().payload;
        told["health"].to_string().contains("call the method nothing of camera: it answered 404")
    })
    .await;

    let (_, failed) = square.alert().await;
    assert_eq!((failed.rule.as_str(), failed.state), ("angry", AlertState::Failed));
    assert!(failed.message.contains("call the method nothing of camera"), "{failed:?}");

    square.send(emotion(8, "gate", 1_000, Expression::Happiness)).await;
    assert_eq!(square.alert().await.1.state, AlertState::Cleared);
    assert_eq!(tokio::time::timeout(LIMIT, noted.recv()).await.unwrap().unwrap(), "fps 10");
    rules.end().await;
    camera.end().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_twin_answers_for_each_bad_rule_and_the_last_good_ones_work_on() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let sim =
        Sim::start(SimOptions { folder: folder.path().join("sim"), ..SimOptions::default() }).await.unwrap();
    sim.add_module("rules").unwrap();
    let url = square.broker.url();
    let environment = environment(&sim, "rules", &url, folder.path(), &[]);
    let (stop, stopped) = oneshot::channel::<()>();
    let running = Running {
        stop,
        ended: tokio::spawn(async move {
            let stop = async {
                stopped.await.ok();
                "the test"
            };
            shunt_module::live(&environment, stop, rules::run).await
        }),
    };
    let answer = |expected: &'static str| {
        let sim = &sim;
        async move {
            eventually(LIMIT, || async {
                let twin = sim.twin("rules").unwrap();
                let reported = twin.pointer("/properties/reported").or_else(|| twin.get("reported"));
                let told = reported.and_then(|reported| reported.pointer("/rules/ad")).cloned();
                told.is_some_and(|told| told.as_str().unwrap().contains(expected))
            })
            .await;
        }
    };
    let good = json!({"from": ["emotion"], "when": "data.emotion == 'fear'"});
    sim.patch_desired("rules", &json!({"rules": {"good": good}})).unwrap();
    answer("applied").await;
    sim.patch_desired("rules", &json!({"rules": {"bad": {"from": ["emotion"], "when": "data.x >"}}}))
        .unwrap();
    answer("bad: when (column 9): Syntax error").await;
    eventually(LIMIT, || async {
        let told = sim.invoke("rules", "diagnostics", Value::Null, LIMIT).await.unwrap().payload;
        told["health"]["parts"]["subscriptions"]["ready"] == true
    })
    .await;
    square.send(emotion(1, "gate", 0, Expression::Fear)).await;
    assert_eq!(square.alert().await.1.rule, "good");
    running.end().await;
    sim.stop().await;
}
