//! The gateway as a process of its own, killed at bad moments.

use std::{collections::BTreeMap, net::SocketAddr, process::Stdio};

use reqwest::Client;
use serde_json::{Value, json};
use shunt_testkit::{Ledger, Mosquitto, eventually, fresh_address};
use tokio::process::{Child, Command};

use crate::{
    rig::{PATIENCE, client},
    shop::{Answer, Shop, variables},
};

struct Process {
    child: Child,
    http: SocketAddr,
    client: Client,
}

impl Process {
    async fn start(variables: &BTreeMap<String, String>) -> Self {
        let mut variables = variables.clone();
        let http = fresh_address().unwrap();
        variables.insert("SHUNT_HTTP_LISTEN".to_owned(), http.to_string());
        let child = Command::new(env!("CARGO_BIN_EXE_gateway"))
            .env_clear()
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let process = Self { child, http, client: client() };
        eventually(PATIENCE, || async {
            let ready = process.client.get(process.url("/readyz")).send().await;
            ready.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        process
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    async fn post(&self, path: &str, kind: &str, body: &Value) -> u16 {
        let posting = self.client.post(self.url(path)).header("content-type", kind).body(body.to_string());
        posting.send().await.unwrap().status().as_u16()
    }

    async fn publish(&self, event: &Value) {
        let path = "/v1.0/publish/pubsub/orders";
        assert_eq!(self.post(path, "application/cloudevents+json", event).await, 204);
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

fn orders() -> Value {
    json!([{"pubsubname": "pubsub", "topic": "orders", "route": "/orders"}])
}

/// Waits until what is published reaches the app.
async fn listens(process: &Process, shop: &Shop) {
    eventually(PATIENCE, || async {
        process.publish(&json!({"id": "hello"})).await;
        !shop.posted("/orders").is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_delivered_comes_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start().await.unwrap();
    let shop = Shop::open(orders()).await;
    let apps = [("shop", shop.address)];
    let settings = variables(folder.path(), &broker.url(), &apps, json!({}), &[]);
    let process = Process::start(&settings).await;
    listens(&process, &shop).await;
    // Killed between the delivery and its acknowledgement: the app has the event and has not answered.
    shop.answers("/orders", Answer::Never);
    let data: Vec<_> = (1..=100).collect();
    for number in &data {
        process.publish(&json!({"id": format!("event-{number}"), "data": number})).await;
    }
    let in_hand = || shop.posted("/orders").iter().filter(|posted| posted.event["data"].is_number()).count();
    eventually(PATIENCE, || async { in_hand() > 0 }).await;
    process.kill().await;
    // Killed once more at once, then left alone.
    Process::start(&settings).await.kill().await;
    shop.answers("/orders", Answer::Text(200, ""));
    let process = Process::start(&settings).await;
    let missing = || {
        let mut ledger = Ledger::default();
        for posted in shop.posted("/orders") {
            ledger.note(posted.event["data"].as_u64().unwrap_or(0));
        }
        ledger.missing(1..=100)
    };
    eventually(PATIENCE, || async { missing().is_empty() }).await;
    eventually(PATIENCE, || async {
        let page = process.client.get(process.url("/metrics")).send().await.unwrap().text().await.unwrap();
        page.contains("shunt_gateway_queued_events{app=\"shop\"} 0")
    })
    .await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answered_save_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start().await.unwrap();
    let settings = variables(folder.path(), &broker.url(), &[], json!({}), &[]);
    for round in 1..=3_u32 {
        let process = Process::start(&settings).await;
        let body = json!([{"key": format!("k{round}"), "value": round}]);
        assert_eq!(process.post("/v1.0/state/statestore", "application/json", &body).await, 204);
        process.kill().await;
    }
    let process = Process::start(&settings).await;
    for round in 1..=3_u32 {
        let answer =
            process.client.get(process.url(&format!("/v1.0/state/statestore/k{round}"))).send().await;
        assert_eq!(answer.unwrap().text().await.unwrap(), round.to_string());
    }
    process.kill().await;
}
