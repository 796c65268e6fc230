//! Installing, listing, replacing, removing and calling, as a user does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, response::Redirect, routing::get};
use bytes::Bytes;
use functions::{FunctionSettings, FunctionsSettings, Installs};
use futures_core::Stream;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shunt_testkit::eventually;
use tempfile::tempdir;
use tokio::{net::TcpListener, time::timeout};

use crate::yard::{Answer, LIMIT, Yard, guest, send};

const MEAN: &str = "0.666666666667";

fn average() -> Vec<u8> {
    guest("builds/average.wasm")
}

fn echo() -> Vec<u8> {
    guest("builds/echo.wasm")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn status(answer: &Answer) -> (u16, String) {
    (answer.status, answer.text())
}

/// Bytes without end; counts those that were taken.
struct Endless(Arc<AtomicUsize>);

impl Stream for Endless {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.fetch_add(65_536, Ordering::Relaxed);
        std::task::Poll::Ready(Some(Ok(Bytes::from(vec![0; 65_536]))))
    }
}

/// A byte, and then nothing any more.
struct Stuck(bool);

impl Stream for Stuck {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        if std::mem::replace(&mut self.0, true) {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(Some(Ok(Bytes::from_static(b"\0"))))
    }
}

/// A site with files, good and bad; its port, and the bytes that were taken of what has no end.
async fn site() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::new(AtomicUsize::new(0));
    let endless = Arc::clone(&taken);
    let routes = Router::new()
        .route("/average.wasm", get(|| async { average() }))
        .route("/av%65rage.wasm", get(|| async { average() }))
        .route("/files/average", get(|| async { average() }))
        .route("/there/average.wasm", get(|| async { Redirect::temporary("/average.wasm") }))
        .route("/again.wasm", get(|| async { Redirect::temporary("/again.wasm") }))
        .route(
            "/elsewhere.wasm",
            get(move || async move { Redirect::temporary(&format!("http://127.0.0.1:{port}/average.wasm")) }),
        )
        .route("/text.wasm", get(|| async { "hello" }))
        .route("/silent.wasm", get(|| std::future::pending::<()>()))
        .route("/stuck.wasm", get(|| async { Body::from_stream(Stuck(false)) }))
        .route("/endless.wasm", get(move || async move { Body::from_stream(Endless(endless)) }));
    tokio::spawn(axum::serve(listener, routes).into_future());
    (port, taken)
}

#[tokio::test]
async fn the_management_of_edgefaas_is_answered_byte_for_byte() {
    let (port, _) = site().await;
    let yard = Yard::start(FunctionsSettings::default()).await;
    assert_eq!(status(&yard.get("/mgmt").await), (200, "echo\n".to_owned()));
    let created = |name: &str| (200, format!("{name} has been created"));
    let address = format!("http://localhost:{port}/average.wasm");
    assert_eq!(status(&yard.post("/mgmt", address.clone()).await), created("average.wasm"));
    assert_eq!(status(&yard.get("/mgmt").await), (200, "average\necho\n".to_owned()));
    assert_eq!(status(&yard.post("/average", "0,1,1").await), (200, MEAN.to_owned()));
    // Installing again replaces.
    assert_eq!(status(&yard.post("/mgmt", format!("{address}\n")).await), created("average.wasm"));
    assert_eq!(status(&yard.post("/mgmt/average", echo()).await), created("average.wasm"));
    assert_eq!(status(&yard.post("/average", "0,1,1").await), (200, "0,1,1".to_owned()));
    assert_eq!(status(&yard.delete("/mgmt", "average").await), (200, "average has been removed".to_owned()));
    assert_eq!(status(&yard.get("/mgmt").await), (200, "echo\n".to_owned()));
    assert_eq!(yard.post("/average", "0,1,1").await.status, 404);
    let sentence = "echo is built in and can be neither replaced nor removed".to_owned();
    assert_eq!(status(&yard.post("/mgmt/echo", average()).await), (403, sentence.clone()));
    assert_eq!(status(&yard.delete("/mgmt", "echo").await), (403, sentence.clone()));
    assert_eq!(
        status(&yard.post("/mgmt", format!("http://localhost:{port}/echo.py")).await),
        (403, sentence)
    );
    assert_eq!(
        status(&yard.delete("/mgmt", "average").await),
        (404, "there is no function \"average\"".to_owned())
    );
    assert_eq!(status(&yard.post("/echo", "hello").await), (200, "hello".to_owned()));
}

#[tokio::test]
async fn a_text_function_of_edgefaas_is_installed_and_called() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    let text = guest("average/average.py");
    let created = (200, "average.py has been created".to_owned());
    let answer = yard.post("/mgmt/average", text.clone()).await;
    if answer.status == 501 && std::env::var_os("CI").is_none() {
        println!("Passed over: {}", answer.text());
        return;
    }
    assert_eq!(status(&answer), created);
    assert_eq!(status(&yard.post("/average", "0,1,1").await), (200, MEAN.to_owned()));
    assert_eq!(status(&yard.post("/mgmt/average.py", text.clone()).await), created);
    let large = [text, vec![b'#'; 2 << 20]].concat();
    let answer = yard.request(Method::PUT, "/functions/large?language=python").body(large.clone());
    assert_eq!(send(answer).await.status, 413);
    assert_eq!(yard.post("/mgmt/large", large).await.status, 413);
}

#[tokio::test]
async fn the_name_of_a_fetched_function_is_that_of_the_file() {
    let (port, _) = site().await;
    let yard = Yard::start(FunctionsSettings::default()).await;
    let at = |path: &str| format!("http://localhost:{port}/{path}");
    for (path, expected) in [
        ("average.wasm?version=2&x=/y.js#part", "average.wasm"),
        ("av%65rage.wasm", "average.wasm"),
        ("there/average.wasm", "average.wasm"),
        ("files/average", "average.wasm"),
    ] {
        let answer = yard.post("/mgmt", at(path)).await;
        assert_eq!(status(&answer), (200, format!("{expected} has been created")), "{path}");
    }
    for path in ["", ".wasm", "%2e%2e%2fmgmt.wasm", "mgmt.wasm", "functions.wasm", "a%20b.wasm", "-x.wasm"] {
        let answer = yard.post("/mgmt", at(path)).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    }
    for name in ["..%2fetc", "a%2fb", "functions", "readyz", "%00", "a b", &"x".repeat(65)] {
        let name = name.replace(' ', "%20");
        let answer = yard.put(&name, &Value::Null, average()).await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        assert_eq!(yard.post(&format!("/mgmt/{name}"), average()).await.status, 400, "{name}");
    }
    assert_eq!(yard.get("/mgmt").await.text(), "average\necho\n");
}

#[tokio::test]
async fn a_bad_address_is_answered_within_its_limits() {
    let (port, taken) = site().await;
    let settings = FunctionsSettings { fetch_s: 1, max_file_kb: 1024, ..FunctionsSettings::default() };
    let yard = Yard::start(settings).await;
    let at = |path: &str| format!("http://localhost:{port}/{path}");
    for (address, expected, sentence) in [
        (at("silent.wasm"), 504, "it did not come within 1 s, which is the setting fetch_s"),
        (at("stuck.wasm"), 504, "it did not come within 1 s"),
        (at("endless.wasm"), 413, "it has more than 1048576 bytes"),
        (at("again.wasm"), 502, "the host redirects more than 5 times"),
        (at("elsewhere.wasm"), 502, "redirects to 127.0.0.1"),
        (at("none.wasm"), 502, "the host answered 404"),
        (at("text.wasm"), 422, "it is"),
        ("http://localhost:1/x.wasm".to_owned(), 502, "it cannot be fetched"),
        ("file:///etc/passwd".to_owned(), 400, "only http and https"),
        ("http://user:hunter2@localhost/x.wasm".to_owned(), 400, "only http and https"),
        ("average".to_owned(), 400, "it is no address"),
        (format!("http://localhost/{}.wasm", "x".repeat(3000)), 400, "only http and https"),
        ("x".repeat(100_000), 413, "bytes"),
    ] {
        let answer = yard.post("/mgmt", address.clone()).await;
        let shown: String = address.chars().take(80).collect();
        assert_eq!(answer.status, expected, "{shown}: {}", answer.text());
        assert!(answer.text().contains(sentence), "{shown}: {}", answer.text());
        assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    }
    assert!(taken.load(Ordering::Relaxed) < 64 << 20, "{taken:?} bytes were taken");
    assert_eq!(yard.get("/mgmt").await.text(), "echo\n");
}

#[tokio::test]
async fn a_file_without_end_is_answered_at_the_limit() {
    let settings = FunctionsSettings { max_file_kb: 1024, ..FunctionsSettings::default() };
    let yard = Yard::start(settings).await;
    for (method, path) in
        [(Method::POST, "/mgmt/large"), (Method::PUT, "/functions/large"), (Method::POST, "/echo")]
    {
        let taken = Arc::new(AtomicUsize::new(0));
        let body = reqwest::Body::wrap_stream(Endless(Arc::clone(&taken)));
        // The module may close the connection on somebody who goes on sending.
        if let Ok(answer) = yard.request(method, path).body(body).send().await {
            assert_eq!(answer.status(), 413, "{path}");
        }
        assert!(taken.load(Ordering::Relaxed) < 128 << 20, "{path}: {taken:?} bytes were taken");
    }
    let said = yard.request(Method::POST, "/mgmt/large").header("Content-Length", 1_u64 << 30);
    if let Ok(answer) = said.body("x").send().await {
        assert_eq!(answer.status(), 413);
    }
    assert_eq!(yard.get("/mgmt").await.text(), "echo\n");
    assert_eq!(yard.post("/echo", "still there").await.text(), "still there");
}

#[tokio::test]
async fn what_is_no_function_or_not_the_one_that_was_meant_is_refused() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    let wasm = average();
    let truncated = wasm[..wasm.len() / 2].to_vec();
    let digest = sha256(&wasm);
    for (query, grants, body, expected, sentence) in [
        ("", "", b"hello".to_vec(), 422, "neither WebAssembly nor a text function"),
        ("", "", Vec::new(), 422, ""),
        ("", "", truncated, 422, "it is not valid WebAssembly"),
        ("?language=wasm", "", b"\0asmhello".to_vec(), 422, "it is not valid WebAssembly"),
        ("?language=cobol", "", wasm.clone(), 400, "language must be"),
        (&format!("?sha256={}", "0".repeat(64)), "", wasm.clone(), 400, "but should be 000000"),
        ("?sha256=abc", "", wasm.clone(), 400, "64 hexadecimal digits"),
        ("?time_ms=5001", "", wasm.clone(), 400, "time_ms is 5001, but must be from 1 to 5000"),
        ("?memory_mb=0", "", wasm.clone(), 400, "memory_mb is 0"),
        ("?output_kb=x", "", wasm.clone(), 400, "output_kb"),
        ("", "7", wasm.clone(), 400, "Shunt-Grants"),
        ("", r#"{"files": true}"#, wasm.clone(), 400, "unknown field `files`"),
        ("", r#"{"publish": ["shunt/#/x"]}"#, wasm.clone(), 400, "the grant publish"),
        ("", r#"{"hosts": ["http://x/y"]}"#, wasm.clone(), 400, "neither a host nor host:port"),
    ] {
        let mut request = yard.request(Method::PUT, &format!("/functions/bad{query}")).body(body);
        if !grants.is_empty() {
            request = request.header("Shunt-Grants", grants);
        }
        let answer = send(request).await;
        assert_eq!(answer.status, expected, "{query} {grants}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert!(answer.text().contains(sentence), "{query} {grants}: {}", answer.text());
    }
    for (body, sentence) in [
        (json!({}), "one of url, text and base64"),
        (json!({"text": "x", "url": "http://x"}), "one of url, text and base64"),
        (json!({"base64": "%"}), "base64"),
        (json!({"text": "x", "files": 1}), "unknown field"),
    ] {
        let answer = send(yard.request(Method::PUT, "/functions/bad").json(&body)).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(answer.text().contains(sentence), "{}", answer.text());
    }
    assert_eq!(yard.get("/mgmt").await.text(), "echo\n");
    let good = yard.request(Method::PUT, &format!("/functions/good?sha256={}", digest.to_uppercase()));
    assert_eq!(send(good.body(wasm)).await.status, 200);
}

#[tokio::test]
async fn the_listing_tells_what_a_function_is_and_how_it_does() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    let (wasm, grants) = (average(), json!({"state": "means", "publish": ["shunt/label/+"]}));
    let entry = yard.install("mean", &grants, wasm.clone()).await;
    assert_eq!(entry["digest"], sha256(&wasm));
    assert_eq!((&entry["kind"], &entry["size"]), (&json!("function"), &json!(wasm.len())));
    assert_eq!((&entry["installed_by"], &entry["state"]), (&json!("http"), &json!("ready")));
    assert_eq!(
        entry["grants"],
        json!({"state": "means", "store": null, "publish": ["shunt/label/+"], "models": [], "hosts": []})
    );
    assert_eq!(
        entry["limits"],
        json!({"time_ms": 5000, "memory_bytes": 64 << 20, "output_bytes": 8192 << 10})
    );
    assert_eq!(
        (&entry["calls"], &entry["p50_us"], &entry["last_error"]),
        (&json!(0), &Value::Null, &Value::Null)
    );
    let answer = yard.post("/mean", "0,1,1").await;
    assert_eq!(status(&answer), (200, MEAN.to_owned()));
    assert!(answer.header("server-timing").starts_with("call;dur="), "{:?}", answer.headers);
    assert_eq!(yard.post("/mean", "no numbers").await.status, 422);
    let entry = yard.entry("mean").await;
    assert_eq!(
        (&entry["calls"], &entry["errors"], &entry["errors_by_reason"]),
        (&json!(2), &json!(1), &json!({"refused": 1}))
    );
    assert!(entry["p50_us"].as_u64().unwrap() <= entry["p99_us"].as_u64().unwrap());
    assert!(entry["last_error"]["message"].is_string() && entry["last_error"]["at"].is_string());
    assert_eq!(yard.count("shunt_functions_calls_total{function=\"mean\"}").await, 1);
    assert_eq!(
        yard.count("shunt_functions_failed_calls_total{function=\"mean\",reason=\"refused\"}").await,
        1
    );
    assert_eq!(yard.get("/functions/mean/content").await.body, wasm);
    let list = yard.get("/functions").await.json();
    let names: Vec<_> = list.as_array().unwrap().iter().map(|entry| entry["name"].clone()).collect();
    assert_eq!(names, ["echo", "mean"]);
    assert_eq!(yard.methods.call("list", Value::Null).await.1, list);
    let open_faas = yard.get("/system/functions").await.json();
    assert_eq!((&open_faas[1]["name"], &open_faas[1]["invocationCount"]), (&json!("mean"), &json!(2)));
    assert_eq!(yard.post("/function/mean", "0,1,1").await.text(), MEAN);
    assert_eq!(yard.post("/async-function/mean", "0,1,1").await.status, 202);
    eventually(LIMIT, || async { yard.entry("mean").await["calls"] == 4 }).await;
    assert_eq!(send(yard.request(Method::DELETE, "/functions/mean")).await.status, 204);
    assert_eq!(yard.get("/functions/mean").await.status, 404);
    assert_eq!(yard.count("shunt_functions_calls_total{function=\"mean\"}").await, 0);
}

#[tokio::test]
async fn an_install_tells_how_far_it_is_where_lines_are_asked_for() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    let lines = async |body: Vec<u8>| {
        let request = yard.request(Method::PUT, "/functions/mean").header("Accept", "application/x-ndjson");
        let answer = send(request.body(body)).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
        let text = answer.text();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let told = lines(average()).await;
    let (last, before) = told.split_last().unwrap();
    assert_eq!(last["function"]["name"], "mean");
    assert!(before.iter().all(|line| line["progress"]["done"].as_u64() <= line["progress"]["all"].as_u64()));
    let told = lines(b"hello".to_vec()).await;
    assert_eq!(told.last().unwrap()["problem"]["status"], 422);
}

#[tokio::test]
async fn a_function_is_installed_from_a_document() {
    let (port, _) = site().await;
    let yard = Yard::start(FunctionsSettings::default()).await;
    let put = async |body: Value| send(yard.request(Method::PUT, "/functions/mean").json(&body)).await;
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, average());
    let answer = put(json!({"base64": encoded, "grants": {"state": "x"}, "time_ms": 100})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let entry = answer.json();
    assert_eq!((&entry["grants"]["state"], &entry["limits"]["time_ms"]), (&json!("x"), &json!(100)));
    let url = format!("http://localhost:{port}/average.wasm");
    let entry = put(json!({"url": url, "sha256": sha256(&average())})).await.json();
    assert_eq!((&entry["file"], &entry["grants"]["state"]), (&json!("average.wasm"), &Value::Null));
    assert_eq!(put(json!({"url": url, "sha256": "0".repeat(64)})).await.status, 400);
    assert_eq!(yard.post("/mean", "0,1,1").await.text(), MEAN);
}

#[tokio::test]
async fn replacing_a_function_loses_no_call() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    yard.install("mean", &Value::Null, average()).await;
    let calls = async {
        let mut seen = [0, 0];
        while seen[0] < 20 || seen[1] < 20 {
            let (one, other) = tokio::join!(yard.post("/mean", "0,1,1"), yard.post("/mean", "0,1,1"));
            for answer in [one, other] {
                assert_eq!(answer.status, 200, "{}", answer.text());
                seen[usize::from(answer.text() == MEAN)] += 1;
            }
        }
    };
    let swaps = async {
        for body in [echo(), average()].iter().cycle() {
            yard.install("mean", &Value::Null, body.clone()).await;
        }
    };
    let both = async {
        tokio::select! {
            () = calls => {}
            () = swaps => {}
        }
    };
    timeout(LIMIT, both).await.expect("the calls saw both functions");
}

#[tokio::test]
async fn functions_survive_a_restart_and_a_damaged_one_keeps_no_other() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    yard.install("mean", &json!({"state": "means"}), average()).await;
    yard.install("same", &Value::Null, echo()).await;
    let folder = yard.end().await;
    let content = folder.path().join("data/functions/content");
    std::fs::write(content.join(sha256(&echo())), b"damaged").unwrap();
    std::fs::write(content.join("left-behind"), b"x").unwrap();
    let yard = Yard::start_with(FunctionsSettings::default(), folder, |_| ()).await;
    assert_eq!(yard.get("/mgmt").await.text(), "echo\nmean\nsame\n");
    assert_eq!(yard.post("/mean", "0,1,1").await.text(), MEAN);
    assert_eq!(yard.entry("mean").await["grants"]["state"], "means");
    let answer = yard.post("/same", "x").await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert!(yard.entry("same").await["error"].as_str().unwrap().contains("damaged"));
    assert!(!content.join("left-behind").exists());
    // Installing it again puts it right.
    yard.install("same", &Value::Null, echo()).await;
    assert_eq!(yard.post("/same", "x").await.text(), "x");
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_moved_aside_and_nothing_is_removed() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    yard.install("mean", &Value::Null, average()).await;
    let folder = yard.end().await;
    let functions = folder.path().join("data/functions");
    std::fs::write(functions.join("installed.json"), b"{\"functions\": [").unwrap();
    let yard = Yard::start_with(FunctionsSettings::default(), folder, |_| ()).await;
    assert_eq!(yard.get("/mgmt").await.text(), "echo\n");
    let kept = || {
        assert!(functions.join("installed.json.bad").exists());
        assert!(functions.join("content").join(sha256(&average())).exists());
    };
    kept();
    yard.install("other", &Value::Null, echo()).await;
    kept();
    let folder = yard.end().await;
    let yard = Yard::start_with(FunctionsSettings::default(), folder, |_| ()).await;
    assert_eq!(yard.get("/mgmt").await.text(), "echo\nother\n");
    kept();
}

#[tokio::test]
async fn a_damaged_file_of_the_module_twin_is_fetched_again() {
    let (port, _) = site().await;
    let mut settings = FunctionsSettings::default();
    let digest = sha256(&average());
    settings.functions.insert("mean".to_owned(), from_site(port, "average.wasm", &digest));
    let yard = Yard::start(settings.clone()).await;
    eventually(LIMIT, || async { yard.get("/mgmt").await.text() == "echo\nmean\n" }).await;
    let folder = yard.end().await;
    std::fs::write(folder.path().join("data/functions/content").join(&digest), b"damaged").unwrap();
    let yard = Yard::start_with(settings, folder, |_| ()).await;
    eventually(LIMIT, || async { yard.post("/mean", "0,1,1").await.text() == MEAN }).await;
    assert_eq!(yard.entry("mean").await["state"], "ready");
}

#[tokio::test]
async fn what_is_wrong_with_requests_is_counted_by_route() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    assert_eq!(yard.get("/functions/none").await.status, 404);
    assert_eq!(yard.post("/none", "x").await.status, 404);
    assert_eq!(yard.post("/none", "x").await.status, 404);
    let count = async |route: &str| {
        yard.count(&format!("shunt_functions_bad_requests_total{{route=\"{route}\"}}")).await
    };
    assert_eq!((count("/functions/{name}").await, count("/{name}").await), (1, 2));
    // A key of any length is not sent back.
    let long = format!("{{\"{}\": 1}}", "k".repeat(1 << 20));
    let request = yard.request(Method::PUT, "/functions/bad").header("Content-Type", "application/json");
    let answer = send(request.body(long)).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.len() < 4096, "{} bytes", answer.body.len());
}

#[tokio::test]
async fn a_path_that_ends_with_a_slash_and_the_page_of_dapr_wasm_are_answered() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    for path in ["/echo", "/echo/", "/echo/a/b", "/function/echo", "/function/echo/", "/function/echo/a"] {
        assert_eq!(status(&yard.post(path, "hello").await), (200, "hello".to_owned()), "{path}");
    }
    let page = yard.get("/static/home.html").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
}

#[tokio::test]
async fn no_more_functions_than_allowed_are_installed() {
    let settings = FunctionsSettings { max_functions: 1, ..FunctionsSettings::default() };
    let yard = Yard::start(settings).await;
    yard.install("one", &Value::Null, average()).await;
    let answer = yard.put("two", &Value::Null, average()).await;
    assert_eq!(answer.status, 507, "{}", answer.text());
    yard.install("one", &Value::Null, echo()).await;
}

#[tokio::test]
async fn management_beyond_loopback_needs_the_token() {
    let start = async |token: &str| {
        let settings = FunctionsSettings { token: token.to_owned(), ..FunctionsSettings::default() };
        Yard::start_at("0.0.0.0:0".parse().unwrap(), settings, tempdir().unwrap(), |_| ()).await
    };
    let yard = start("").await;
    for (method, path) in [
        (Method::GET, "/mgmt"),
        (Method::POST, "/mgmt"),
        (Method::POST, "/mgmt/x"),
        (Method::DELETE, "/mgmt"),
        (Method::GET, "/functions"),
        (Method::PUT, "/functions/x"),
        (Method::DELETE, "/functions/x"),
        (Method::GET, "/functions/x/content"),
        (Method::GET, "/system/functions"),
    ] {
        let answer = send(yard.request(method.clone(), path).header("X-Shunt-Token", "")).await;
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
        assert!(answer.text().contains("needs the setting token"), "{}", answer.text());
    }
    assert_eq!(yard.post("/echo", "x").await.text(), "x");
    drop(yard);
    let yard = start("open-sesame").await;
    for (header, value, expected) in [
        ("Authorization", "Bearer open-sesame", 200),
        ("authorization", "bearer open-sesame", 200),
        ("X-Shunt-Token", "open-sesame", 200),
        ("X-Shunt-Token", "open-sesam", 401),
        ("X-Shunt-Token", "open-sesame-", 401),
        ("X-Shunt-Token", "", 401),
        ("Authorization", "Basic open-sesame", 401),
        ("Authorization", "Bearer", 401),
        ("Cookie", "open-sesame", 401),
    ] {
        let answer = send(yard.request(Method::GET, "/functions").header(header, value)).await;
        assert_eq!(answer.status, expected, "{header}: {value}");
        assert!(!answer.text().contains("sesame"), "{}", answer.text());
    }
    let install = yard.request(Method::PUT, "/functions/mean").header("X-Shunt-Token", "open-sesame");
    assert_eq!(send(install.body(average())).await.status, 200);
    // Beyond loopback no host may be asked unless the settings name it.
    let fetch = yard.request(Method::POST, "/mgmt").header("X-Shunt-Token", "open-sesame");
    let answer = send(fetch.body("http://localhost/x.py")).await;
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("the setting fetch_hosts"), "{}", answer.text());
    let (_, settings) = yard.methods.call("getSettings", Value::Null).await;
    assert!(!settings.to_string().contains("sesame"), "{settings}");
}

#[tokio::test]
async fn a_page_of_another_host_manages_nothing() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    let own = format!("http://{}", yard.address);
    let local = format!("localhost:{}", yard.address.port());
    for (headers, expected) in [
        (vec![("Origin", own.as_str())], 200),
        (vec![("Host", local.as_str())], 200),
        (vec![("Sec-Fetch-Site", "same-origin")], 200),
        (vec![("Origin", "http://evil.example")], 403),
        (vec![("Origin", "null")], 403),
        (vec![("Sec-Fetch-Site", "cross-site")], 403),
        (vec![("Sec-Fetch-Site", "same-site")], 403),
        (vec![("Host", "evil.example")], 403),
        (vec![("Host", "evil.example"), ("Origin", "http://evil.example")], 403),
        (vec![("Host", "localhost.evil.example")], 403),
    ] {
        let request = headers
            .iter()
            .fold(yard.request(Method::GET, "/mgmt"), |request, (name, value)| request.header(*name, *value));
        let answer = send(request).await;
        assert_eq!(answer.status, expected, "{headers:?}: {}", answer.text());
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
}

#[tokio::test]
async fn a_function_s_answer_is_no_page_of_the_module() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    let request = yard.request(Method::POST, "/echo").header("Content-Type", "text/html");
    let answer = send(request.body("<script>alert(1)</script>")).await;
    assert_eq!(answer.header("content-type"), "text/html");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("content-security-policy"), "sandbox");
    yard.install("web", &Value::Null, guest("builds/hello-http.wasm")).await;
    let answer = yard.get("/web").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-security-policy"), "sandbox");
    let head = send(yard.request(Method::HEAD, "/web")).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn installs_can_be_the_module_twin_s_alone() {
    let (port, _) = site().await;
    let settings = FunctionsSettings { installs: Installs::Twin, ..FunctionsSettings::default() };
    let yard = Yard::start(settings).await;
    for answer in [
        yard.put("mean", &Value::Null, average()).await,
        yard.post("/mgmt/mean", average()).await,
        yard.post("/mgmt", format!("http://localhost:{port}/average.wasm")).await,
        yard.delete("/mgmt", "mean").await,
        send(yard.request(Method::DELETE, "/functions/mean")).await,
    ] {
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(answer.text().contains("by the module twin only"), "{}", answer.text());
    }
    assert_eq!(yard.get("/mgmt").await.text(), "echo\n");
}

fn from_site(port: u16, file: &str, digest: &str) -> FunctionSettings {
    FunctionSettings {
        url: Some(format!("http://localhost:{port}/{file}")),
        sha256: Some(digest.to_owned()),
        ..FunctionSettings::default()
    }
}

#[tokio::test]
async fn the_module_twin_installs_replaces_and_removes() {
    let (port, _) = site().await;
    let yard = Yard::start(FunctionsSettings::default()).await;
    let digest = sha256(&average());
    let mut settings = FunctionsSettings::default();
    settings.functions.insert("mean".to_owned(), from_site(port, "average.wasm", &digest));
    settings.functions.insert("other".to_owned(), from_site(port, "average.wasm", &"0".repeat(64)));
    settings.functions.insert("text".to_owned(), from_site(port, "text.wasm", &sha256(b"hello")));
    settings.functions.get_mut("mean").unwrap().time_ms = Some(9_000);
    yard.change(settings.clone()).await.unwrap();
    eventually(LIMIT, || async { yard.get("/mgmt").await.text() == "echo\nmean\n" }).await;
    let entry = yard.entry("mean").await;
    assert_eq!((&entry["installed_by"], &entry["limits"]["time_ms"]), (&json!("twin"), &json!(9_000)));
    assert_eq!(yard.post("/mean", "0,1,1").await.text(), MEAN);
    let told = |name: &str| {
        let facts = yard.facts.get();
        let list = facts["installed"]["functions"].as_array().unwrap().clone();
        list.into_iter().find(|entry| entry["name"] == name).unwrap_or_default()
    };
    eventually(LIMIT, || async { told("text")["error"].is_string() && told("other")["error"].is_string() })
        .await;
    assert_eq!((&told("mean")["digest"], &told("mean")["kind"]), (&json!(digest[..12]), &json!("function")));
    assert!(told("other")["error"].as_str().unwrap().contains("but should be 0000"), "{}", told("other"));
    // The module twin's word goes before.
    let answer = yard.put("mean", &Value::Null, echo()).await;
    assert_eq!(answer.status, 409, "{}", answer.text());
    assert_eq!(yard.delete("/mgmt", "mean").await.status, 409);
    settings.functions.clear();
    yard.change(settings).await.unwrap();
    eventually(LIMIT, || async { yard.get("/mgmt").await.text() == "echo\n" }).await;
    eventually(LIMIT, || async { told("other") == Value::Null }).await;
}

#[tokio::test]
async fn what_the_module_twin_installs_is_fetched_again_until_it_is_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let file = move || {
        let asked = counted.fetch_add(1, Ordering::Relaxed);
        async move { if asked < 2 { Err(axum::http::StatusCode::SERVICE_UNAVAILABLE) } else { Ok(average()) } }
    };
    tokio::spawn(axum::serve(listener, Router::new().route("/average.wasm", get(file))).into_future());
    let mut settings = FunctionsSettings::default();
    settings.functions.insert("mean".to_owned(), from_site(port, "average.wasm", &sha256(&average())));
    let yard = Yard::start(settings).await;
    eventually(LIMIT, || async { yard.get("/mgmt").await.text() == "echo\nmean\n" }).await;
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    let folder = yard.end().await;
    // It was removed from the settings while the module was not there.
    let yard = Yard::start_with(FunctionsSettings::default(), folder, |_| ()).await;
    eventually(LIMIT, || async { yard.get("/mgmt").await.text() == "echo\n" }).await;
}

#[tokio::test]
async fn grants_limits_and_another_host_come_by_settings_while_functions_are_called() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    yard.install("mean", &json!({"state": "mine"}), average()).await;
    let said = FunctionSettings {
        grants: Some(serde_json::from_value(json!({"state": "theirs"})).unwrap()),
        memory_mb: Some(32),
        ..FunctionSettings::default()
    };
    let mut settings = FunctionsSettings { workers: 1, queue: 8, ..FunctionsSettings::default() };
    settings.functions.insert("mean".to_owned(), said);
    yard.change(settings.clone()).await.unwrap();
    let entry = yard.entry("mean").await;
    assert_eq!(
        (&entry["grants"]["state"], &entry["limits"]["memory_bytes"]),
        (&json!("theirs"), &json!(32 << 20))
    );
    assert_eq!(yard.post("/mean", "0,1,1").await.text(), MEAN);
    settings.functions.get_mut("mean").unwrap().enabled = Some(false);
    yard.change(settings).await.unwrap();
    let answer = yard.post("/mean", "0,1,1").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("functions.mean.enabled"), "{}", answer.text());
}

#[tokio::test]
async fn the_document_tells_every_route() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    let document = yard.get("/openapi.json").await.json();
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    for path in [
        "/mgmt",
        "/mgmt/{name}",
        "/functions",
        "/functions/{name}",
        "/functions/{name}/content",
        "/functions/{name}/logs",
        "/system/functions",
        "/async-function/{name}",
        "/{name}",
    ] {
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
    let page = yard.get("/swagger").await;
    assert_eq!((page.status, page.header("content-security-policy")), (200, "frame-ancestors 'none'"));
}

/// A module in a process of its own, which a signal can kill.
struct Process(tokio::process::Child, String);

impl Process {
    async fn start(folder: &std::path::Path) -> Self {
        let address = shunt_testkit::fresh_address().unwrap();
        let child = tokio::process::Command::new(shunt_testkit::binary("functions"))
            .env_clear()
            .env("SHUNT_HTTP_LISTEN", address.to_string())
            .env("SHUNT_DATA_DIR", folder)
            .env("SHUNT_BUS_URL", "memory:kill")
            .env("SHUNT_LOG", "error")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let process = Self(child, format!("http://{address}"));
        eventually(LIMIT, || async {
            crate::yard::client().get(process.url("/readyz")).send().await.is_ok()
        })
        .await;
        process
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.1)
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_the_old_function_or_the_new_one() {
    let folder = tempdir().unwrap();
    let client = crate::yard::client();
    // What was answered last for each name, and what was asked for since without an answer: a digest, or nothing for
    // one that is removed.
    let mut certain: std::collections::BTreeMap<String, Option<String>> = std::collections::BTreeMap::new();
    let mut open: Option<(String, Option<String>)> = None;
    let files = [average(), echo()];
    let mut step = 0_usize;
    for round in 0..12_u64 {
        let mut process = Process::start(folder.path()).await;
        let list: Value = client.get(process.url("/functions")).send().await.unwrap().json().await.unwrap();
        let found = |name: &str| {
            let entry = list.as_array().unwrap().iter().find(|entry| entry["name"] == name);
            entry.map(|entry| entry["digest"].as_str().unwrap().to_owned())
        };
        for (name, expected) in &mut certain {
            let found = found(name);
            let asked = open.as_ref().filter(|(asked, _)| asked == name).map(|(_, digest)| digest);
            assert!(
                found == *expected || Some(&found) == asked,
                "{round}: {name} is {found:?}, not {expected:?} or {asked:?}"
            );
            *expected = found;
        }
        open = None;
        for entry in list.as_array().unwrap() {
            let name = entry["name"].as_str().unwrap();
            let answer = client.post(process.url(&format!("/{name}"))).body("0,1,1").send().await.unwrap();
            assert_eq!(answer.status(), 200, "{round}: {name}");
        }
        let work = async {
            loop {
                let (name, action) = (format!("f{}", step % 3), step % 5);
                step += 1;
                let path = process.url(&format!("/functions/{name}"));
                let (request, digest) = if action == 4 {
                    (client.delete(path), None)
                } else {
                    let file = &files[step % 2];
                    (client.put(path).body(file.clone()), Some(sha256(file)))
                };
                certain.entry(name.clone()).or_insert(None);
                open = Some((name.clone(), digest.clone()));
                let answer = request.send().await.unwrap();
                assert!(answer.status().is_success() || answer.status() == 404, "{}", answer.status());
                certain.insert(name, digest);
                open = None;
            }
        };
        // The moment differs from round to round.
        let ended: Result<(), _> = timeout(Duration::from_millis(40 + round * 23), work).await;
        assert!(ended.is_err());
        process.0.kill().await.unwrap();
    }
    assert!(step > 12, "only {step} installs and removals were asked for");
}

#[tokio::test]
async fn what_a_function_says_is_read_and_followed() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    assert_eq!(yard.get("/functions/none/logs").await.status, 404);
    // A program's standard error is its log.
    yard.install("words", &Value::Null, guest("builds/wordcount.wasm")).await;
    let answer = yard.get("/functions/words/logs").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    assert_eq!(answer.text(), "");
    let mut following = yard.request(Method::GET, "/functions/echo/logs?follow=true").send().await.unwrap();
    // Nothing comes, and the answer does not end.
    assert!(timeout(Duration::from_millis(50), following.chunk()).await.is_err());
}
