//! Functions in the chain: called by its events, through the gateway, over a restart, and stopped while one loops.

use serde_json::{Value, json};
use shunt_testkit::eventually;

use crate::chain::{Chain, LIMIT, astronaut, is_alive, kill, nothing_lost};

/// A WASI program that never ends: `(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))`.
const LOOPS: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\x07\x13\x02\x06memory\x02\0\x06_start\0\0\x0a\x09\x01\x07\0\x03\x40\x0c\0\x0b\x0b";

/// The address of a route of `functions`, which is another one after each start.
fn url(chain: &Chain, path: &str) -> Option<String> {
    let note = chain.note()?;
    Some(format!("http://{}{path}", note["processes"]["functions"]["address"].as_str()?))
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().tcp_nodelay(true).timeout(LIMIT * 4).build().unwrap()
}

async fn serves(chain: &Chain) {
    eventually(LIMIT, || async {
        chain.get("functions", "/readyz").await.is_some_and(|(status, _)| status == 200)
    })
    .await;
}

#[tokio::test]
async fn emotions_call_a_function_and_what_it_answers_reaches_the_hub() {
    let Some(pictures) = astronaut() else { return };
    let function = json!({"echo": {
        "on": "shunt/emotion/#",
        "publish": "shunt/result/+",
        "grants": {"publish": ["shunt/result/+"]},
    }});
    let (functions, kinds) = (format!("functions.functions={function}"), r#"relay.kinds={"result": {}}"#);
    let chain = Chain::on_pictures(pictures.path(), &["--set", &functions, "--set", kinds]).await;
    // Nothing but results goes to the hub.
    chain.more_at_hub(5).await;
    let tail = chain.shunt(&["tail", "--bus", "--kind", "result", "-n", "1", "--json", "--for", "30s"]).await;
    let event: Value = serde_json::from_str(tail.out.trim()).unwrap_or_else(|_| panic!("{tail:?}"));
    assert_eq!(event["source"], "shunt/front-door", "{event}");
    assert!(event["data"]["emotion"].is_string(), "{event}");
    nothing_lost(&chain.stop().await);
}

#[tokio::test]
async fn a_function_is_invoked_through_the_gateway_by_the_app_ids_of_dapr_wasm_too() {
    let only = ["--source", "/dev/null", "--only", "functions", "--with", "gateway"];
    let chain = Chain::start(&only).await;
    serves(&chain).await;
    let answers = |path: &'static str, wanted: u16| {
        let chain = &chain;
        eventually(LIMIT, move || async move {
            chain.get("gateway", path).await.is_some_and(|answer| answer.0 == wanted)
        })
    };
    answers("/v1.0/invoke/functions/method/echo", 200).await;
    answers("/v1.0/invoke/functions/method/events", 200).await;
    let address = url(&chain, "").unwrap().replace("http://", "");
    let apps = format!(r#"apps={{"events-service": {{"address": "{address}", "subscribe": false}}}}"#);
    let set = chain.shunt(&["twin", "set", "gateway", &apps]).await;
    assert_eq!(set.code, Some(0), "{set:?}");
    answers("/v1.0/invoke/events-service/method/init", 200).await;
    chain.stop().await;
}

#[tokio::test]
async fn installed_functions_survive_a_kill_and_one_that_loops_does_not_hold_up_the_end() {
    let loops = r#"functions.functions={"loops": {"time_ms": 600000}}"#;
    let chain = Chain::start(&["--source", "/dev/null", "--only", "functions", "--set", loops]).await;
    serves(&chain).await;
    let client = client();
    let install = client.post(url(&chain, "/mgmt/loops").unwrap()).body(LOOPS).send().await.unwrap();
    assert_eq!(install.status(), 200);
    assert_eq!(install.text().await.unwrap().trim(), "loops.wasm has been created");
    let before = chain.pid("functions").unwrap();
    kill(before);
    eventually(LIMIT, || async { chain.pid("functions").is_some_and(|pid| pid != before) }).await;
    serves(&chain).await;
    let (_, list) = chain.get("functions", "/mgmt").await.unwrap();
    assert_eq!(list.lines().collect::<Vec<_>>(), ["echo", "loops"]);
    let calling = tokio::spawn(client.post(url(&chain, "/loops").unwrap()).send());
    // The call is under way, and others are answered meanwhile.
    eventually(LIMIT, || async {
        chain.get("functions", "/echo").await.is_some_and(|answer| answer.0 == 200)
    })
    .await;
    let pid = chain.pid("functions").unwrap();
    chain.stop().await;
    assert!(!is_alive(pid), "it ended");
    calling.abort();
}
