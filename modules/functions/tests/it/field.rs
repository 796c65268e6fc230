//! Events and the clock call functions, and the clients of dapr-wasm find what they know.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use functions::{FunctionSettings, FunctionsSettings, Grants};
use serde_json::{Value, json};
use shunt_bus::{Delivery, Received, Subscription};
use shunt_testkit::{eventually, sample_picture};
use shunt_wire::{Envelope, Kind, Name, TopicFilter, events::DeadLetter};
use tokio::time::timeout;

use crate::yard::{LIMIT, Yard, guest, send};

/// `echo` with these triggers, which it may answer on.
fn triggered(on: &[&str], publish: &str) -> FunctionsSettings {
    let grants = Grants { publish: vec!["shunt/result/+".to_owned()], ..Grants::default() };
    let said = FunctionSettings {
        grants: Some(grants),
        on: on.iter().map(|filter| (*filter).to_owned()).collect(),
        publish: Some(publish.to_owned()),
        ..FunctionSettings::default()
    };
    FunctionsSettings { functions: [("echo".to_owned(), said)].into(), ..FunctionsSettings::default() }
}

async fn send_emotion(yard: &Yard, text: &str) {
    let event = Envelope::new(text, Kind::EMOTION, Name::from_static("gate"), "2026-11-21T09:00:00Z");
    let event = event.with_body("text/plain", text.to_owned());
    timeout(LIMIT, yard.bus.publish(event, Delivery::Assured)).await.unwrap().unwrap();
}

async fn listen(yard: &Yard, filter: &str) -> Subscription {
    let filter: TopicFilter = filter.parse().unwrap();
    yard.bus.subscribe(&filter, Delivery::Assured).await.unwrap()
}

async fn next(subscription: &mut Subscription) -> Received {
    timeout(LIMIT, subscription.next()).await.expect("an event in time").unwrap()
}

fn body(received: Received) -> (String, String) {
    received.ack.ack();
    let body = received.envelope.unwrap().body.unwrap();
    (body.content_type, String::from_utf8(body.bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn an_event_calls_a_function_and_its_answer_is_an_event_with_the_same_source() {
    let yard = Yard::start(triggered(&["shunt/emotion/#"], "shunt/result/+")).await;
    let mut results = listen(&yard, "shunt/result/+").await;
    for text in ["happy", "sad"] {
        send_emotion(&yard, text).await;
        let result = next(&mut results).await;
        assert_eq!(result.topic, "shunt/result/gate");
        assert_eq!(body(result), ("text/plain".to_owned(), text.to_owned()));
    }
    let entry = yard.entry("echo").await;
    assert_eq!(entry["triggers"]["on"], json!(["shunt/emotion/#"]));
    assert_eq!(entry["calls"], 2);
}

#[tokio::test]
async fn the_twin_changes_what_calls_a_function_without_a_restart() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    let mut results = listen(&yard, "shunt/result/+").await;
    yard.change(triggered(&["shunt/emotion/#"], "shunt/result/a")).await.unwrap();
    eventually(LIMIT, || async { yard.get("/readyz").await.status == 200 }).await;
    send_emotion(&yard, "one").await;
    assert_eq!(next(&mut results).await.topic, "shunt/result/a");
    let mut by_clock = triggered(&[], "shunt/result/b");
    by_clock.functions.get_mut("echo").unwrap().every_s = Some(0.1);
    yard.change(by_clock).await.unwrap();
    // Its answer to an interval is empty, and so no event.
    eventually(LIMIT, || async { yard.entry("echo").await["calls"].as_u64() >= Some(3) }).await;
    assert_eq!(yard.count("shunt_functions_published_answers_total").await, 1);
}

#[tokio::test]
async fn a_circle_and_a_bad_filter_are_refused_by_the_settings() {
    use shunt_module::{Problems, Settings as _};
    let check = |settings: &FunctionsSettings| {
        let mut problems = Problems::default();
        settings.check(&mut problems);
        problems.to_string()
    };
    assert_eq!(check(&triggered(&["shunt/emotion/#"], "shunt/result/+")), "");
    let circle = check(&triggered(&["shunt/result/#"], "shunt/result/+"));
    assert!(circle.starts_with("functions.echo.publish: its answers would call it again"), "{circle}");
    let filter = check(&triggered(&["airq/#"], "shunt/result/+"));
    assert!(filter.starts_with("functions.echo.on: \"airq/#\" is no filter of events"), "{filter}");
    let single: FunctionSettings = serde_json::from_value(json!({"on": "shunt/emotion/#"})).unwrap();
    assert_eq!(single.on, ["shunt/emotion/#"]);
}

#[tokio::test]
async fn an_event_whose_function_is_not_installed_is_told_of() {
    let mut settings = triggered(&["shunt/emotion/#"], "shunt/result/+");
    let said = settings.functions.remove("echo").unwrap();
    settings.functions.insert("later".to_owned(), said);
    let yard = Yard::start(settings).await;
    let mut letters = listen(&yard, "shunt/dead-letter/functions").await;
    send_emotion(&yard, "x").await;
    let letter: DeadLetter = next(&mut letters).await.envelope.unwrap().json().unwrap();
    assert_eq!(letter.reason, "function later: it is not installed");
}

#[tokio::test]
async fn without_its_functions_dapr_wasm_s_routes_say_what_to_install() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    for (path, name) in
        [("/api/hello", "grayscale"), ("/api/image", "grayscale"), ("/api/classify", "classify")]
    {
        let answer = yard.post(path, "x").await;
        assert_eq!(answer.status, 404, "{path}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&format!("/mgmt/{name}")), "{path}: {detail}");
    }
    let page = yard.get("/static/home.html").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").contains("script-src 'sha256-"), "{page:?}");
}

#[tokio::test]
async fn the_routes_of_dapr_wasm_answer_as_its_services_do() {
    let Some(picture) = sample_picture("astronaut.png") else {
        println!("Skipped: no sample pictures here.");
        return;
    };
    let picture = std::fs::read(picture).unwrap();
    let yard = Yard::start(FunctionsSettings { max_body_kb: 4096, ..FunctionsSettings::default() }).await;
    yard.install("grayscale", &json!({}), guest("builds/grayscale.wasm")).await;
    let raw = yard.post("/grayscale", picture.clone()).await;
    assert_eq!((raw.status, raw.header("content-type")), (200, "image/png"));

    let post = |path: &str, header: (&str, &str)| {
        let request = yard.request(reqwest::Method::POST, path).header(header.0, header.1);
        send(request.body(picture.clone()))
    };
    for (path, header) in [
        ("/api/hello", ("api", "rust")),
        ("/api/hello", ("api", "rust-wasi-socket")),
        ("/api/image", ("dapr-callee-app-id", "image-api-rs")),
        ("/image", ("dapr-callee-app-id", "image-api-wasi-socket-rs")),
        ("/api/grayscale", ("api", "grayscale")),
        ("/grayscale", ("dapr-callee-app-id", "image-api-grayscale")),
    ] {
        let answer = post(path, header).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "image/png"), "{path}");
        assert_eq!(BASE64_STANDARD.decode(&answer.body).unwrap(), raw.body, "{path} {header:?}");
    }
    let large = yard.post("/api/hello", vec![0; 5 << 20]).await;
    assert_eq!((large.status, large.text().as_str()), (200, "ImageTooLarge"));
    assert_eq!(large.header("content-type"), "image/png");
    let no_picture = yard.post("/api/grayscale", "no picture").await;
    assert_eq!(no_picture.status, 422, "{no_picture:?}");

    // The second generation's routes were called twice.
    let told =
        yard.post("/create_event", r#"{"event_ts":1700000000000,"op_type":"classify","input_size":7}"#).await;
    assert_eq!((told.status, told.text().as_str()), (200, r#"{"status":true}"#));
    assert_eq!(yard.get("/init").await.text(), r#"{"status":true}"#);
    let events = yard.get("/events").await.json();
    let size = picture.len();
    let ops: Vec<_> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (&event["id"], &event["op_type"], &event["input_size"]))
        .collect();
    let grayscale = json!("grayscale");
    assert_eq!(ops.len(), 3, "{events}");
    assert_eq!(ops[0], (&json!(1), &grayscale, &json!(size)));
    assert_eq!(ops[2], (&json!(3), &json!("classify"), &json!(7)));
    assert_eq!(
        events[2],
        json!({"id": 3, "event_ts": 1_700_000_000_000_i64, "op_type": "classify", "input_size": 7})
    );
    let bad = yard.post("/create_event", "{}").await;
    assert_eq!(bad.status, 400, "{bad:?}");
    // What was noted survives a restart.
    let folder = yard.end().await;
    let yard = Yard::start_with(FunctionsSettings::default(), folder, |_| ()).await;
    assert_eq!(yard.get("/events").await.json(), events);
}

#[tokio::test]
async fn a_classification_is_told_as_both_generations_do() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    // A function of that name that says what it is sent.
    let said = |text: &str| text.to_owned();
    let install = yard.install("classify", &json!({}), guest("builds/echo.wasm")).await;
    assert_eq!(install["name"], Value::from("classify"));
    let text = "hot dog is detected with 201/255 confidence";
    let answer = yard.post("/api/classify", said(text)).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, text));
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    let go = |text: &str| {
        let request = yard.request(reqwest::Method::POST, "/api/hello").header("api", "go");
        send(request.body(text.to_owned()))
    };
    let sentence =
        "It is very likely a <a href='https://www.google.com/search?q=hot dog'>hot dog</a> in the picture";
    assert_eq!(go(text).await.text(), sentence);
    assert_eq!(
        go("hot dog is detected with 50/255 confidence").await.text(),
        "It does not appears to be any food item in the picture."
    );
    let odd = go("<script>alert(1)</script>").await;
    assert_eq!(odd.status, 502, "{odd:?}");
}
