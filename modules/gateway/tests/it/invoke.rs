//! One app calls another through the gateway.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::IntoResponse,
    routing::{any, get, post},
};
use hyper::body::Frame;
use serde_json::{Value, json};
use shunt_module::check_page;
use shunt_testkit::fresh_address;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use crate::rig::{Gateway, PATIENCE, app, environment, memory, module, problem, raw};

/// An app that tells what it was asked.
async fn echo() -> SocketAddr {
    let tell = |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| json!([name.as_str(), value.to_str().unwrap()])).collect();
        let told = json!({"method": method.as_str(), "uri": uri.to_string(), "headers": headers,
            "body": String::from_utf8_lossy(&body)});
        ([("x-answer", "1"), ("connection", "x-secret"), ("x-secret", "1")], Json(told))
    };
    app(Router::new().fallback(any(tell))).await
}

fn header(told: &Value, name: &str) -> Option<String> {
    let headers = told["headers"].as_array().unwrap();
    headers.iter().find(|header| header[0] == name).map(|header| header[1].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn every_verb_path_query_header_and_body_reaches_the_app_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let address = echo().await;
    let gateway = Gateway::with_apps(folder.path(), &[("echo", address)]).await;
    for verb in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT"] {
        let request = gateway
            .client
            .request(verb.parse().unwrap(), gateway.url("/v1.0/invoke/echo/method/a/b?x=1&y=%20"))
            .header("x-mine", "yes")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .body("hello");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{verb}");
        assert_eq!(answer.headers()["x-answer"], "1");
        let told: Value = answer.json().await.unwrap();
        assert_eq!(told["method"], verb);
        assert_eq!(told["uri"], "/a/b?x=1&y=%20");
        assert_eq!(told["body"], "hello");
        assert_eq!(header(&told, "x-mine").unwrap(), "yes");
        assert_eq!(header(&told, "host").unwrap(), address.to_string());
        assert_eq!(header(&told, "dapr-callee-app-id").unwrap(), "echo");
        let trace = header(&told, "traceparent").unwrap();
        assert_eq!(trace, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    }
    let head = gateway.client.head(gateway.url("/v1.0/invoke/echo/method/")).send().await.unwrap();
    assert_eq!(head.status(), 200);
    gateway.stop().await;
}

#[tokio::test]
async fn paths_stay_as_they_were_sent_and_lead_to_no_other_app() {
    let folder = tempfile::tempdir().unwrap();
    let address = echo().await;
    let gateway = Gateway::with_apps(folder.path(), &[("echo", address)]).await;
    // Over a connection of our own: a client would tidy the path.
    let ask = |path: &'static str| {
        let http = gateway.http;
        async move {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            raw(http, request.as_bytes()).await
        }
    };
    for (path, expected) in [
        ("/v1.0/invoke/echo/method/a%2Fb", "/a%2Fb"),
        ("/v1.0/invoke/echo/method/../../b", "/../../b"),
        ("/v1.0/invoke/echo/method/%2e%2e/b", "/%2e%2e/b"),
        ("/v1.0/invoke/echo/method//a//b/", "//a//b/"),
        ("/v1.0/invoke/echo/method/a/method/b", "/a/method/b"),
        ("/v1.0/invoke/echo/method/", "/"),
        ("/v1.0/invoke/echo/method?x=1", "/?x=1"),
        ("/v1.0/invoke/echo/method", "/"),
        ("/v1.0/invoke/ec%68o/method/a", "/a"),
    ] {
        let answer = ask(path).await;
        assert!(answer.contains(&format!(r#""uri":"{expected}""#)), "{path}: {answer}");
    }
    for path in [
        "/v1.0/invoke/echo",
        "/v1.0/invoke/echo/",
        "/v1.0/invoke//method/a",
        "/v1.0/invoke/echo/methods/a",
        "/v1.0/invoke/x/../echo/method/a",
        "/v1.0/invoke/../invoke/echo/method/a",
        "/v1.0/nothing",
        "/",
    ] {
        let answer = ask(path).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert!(answer.contains(r#""errorCode":"ERR_DIRECT_INVOKE""#), "{path}: {answer}");
        assert!(answer.contains("failed getting app id"), "{path}: {answer}");
    }
    // An id that is no name, an address, a host elsewhere: none of them is called.
    for id in
        ["echo%2F..", "a%20b", "127.0.0.1", "example.org", "echo:80", "user%40echo", "http:%2F%2Fecho", "%FF"]
    {
        let answer = gateway.get(&format!("/v1.0/invoke/{id}/method/a")).send().await.unwrap();
        let (status, code, message) = problem(answer).await;
        assert!(status == 500 || id == "%FF" && status == 404, "{id}: {status} {message}");
        assert_eq!(code, "ERR_DIRECT_INVOKE", "{id}: {message}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn headers_of_one_connection_and_the_gateway_s_own_are_not_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let address = echo().await;
    let gateway =
        Gateway::with(folder.path(), &[("echo", address)], &[("SHUNT_GATEWAY_API_TOKEN", "secret")]).await;
    let answer = gateway
        .get("/v1.0/invoke/echo/method/x")
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("te", "trailers")
        .header("proxy-authorization", "Basic x")
        .header("dapr-caller-app-id", "somebody-else")
        .header("dapr-caller-namespace", "elsewhere")
        .header("dapr-api-token", "secret")
        .send()
        .await
        .unwrap();
    assert!(!answer.headers().contains_key("x-secret"), "{:?}", answer.headers());
    let told: Value = answer.json().await.unwrap();
    for name in [
        "connection",
        "x-hop",
        "te",
        "proxy-authorization",
        "dapr-api-token",
        "dapr-caller-app-id",
        "dapr-caller-namespace",
    ] {
        assert_eq!(header(&told, name), None, "{name}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn an_app_may_be_named_by_a_header_or_by_user_and_password() {
    let folder = tempfile::tempdir().unwrap();
    let address = echo().await;
    let gateway = Gateway::with_apps(folder.path(), &[("echo", address)]).await;
    // Also where the path is one of the gateway's own pages for devices.
    for path in ["/orders/7?x=1", "/device/x", "/", "/healthz", "/readyz", "/metrics"] {
        let answer = gateway.get(path).header("dapr-app-id", "echo").send().await.unwrap();
        let told: Value = answer.json().await.unwrap();
        assert_eq!(told["uri"], path);
        assert_eq!(header(&told, "dapr-app-id"), None);
    }
    let answer = gateway.get("/orders").basic_auth("dapr-app-id", Some("echo")).send().await.unwrap();
    let told: Value = answer.json().await.unwrap();
    assert_eq!((told["uri"].as_str().unwrap(), header(&told, "authorization")), ("/orders", None));
    // Somebody's own password is theirs.
    let answer = gateway.get("/v1.0/invoke/echo/method/x").basic_auth("me", Some("pw")).send().await.unwrap();
    assert!(header(&answer.json().await.unwrap(), "authorization").is_some());
    gateway.stop().await;
}

/// A body whose pieces are sent one by one.
struct Pieces(mpsc::Receiver<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.get_mut().0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[tokio::test]
async fn bodies_stream_through_in_both_directions() {
    let folder = tempfile::tempdir().unwrap();
    // Gives back what comes as it comes.
    let address = app(Router::new().route("/", post(|body: Body| async { body }))).await;
    let gateway = Gateway::with_apps(folder.path(), &[("mirror", address)]).await;
    let (sender, pieces) = mpsc::channel(1);
    let body = reqwest::Body::wrap(Pieces(pieces));
    let mut answer = gateway.post("/v1.0/invoke/mirror/method/").body(body).send().await.unwrap();
    for number in 0..5_u8 {
        // The next piece goes off only when this one has come back.
        sender.send(Bytes::from(vec![number; 200_000])).await.unwrap();
        let mut received = 0;
        while received < 200_000 {
            let piece = answer.chunk().await.unwrap().unwrap();
            assert!(piece.iter().all(|&byte| byte == number));
            received += piece.len();
        }
    }
    drop(sender);
    assert_eq!(answer.chunk().await.unwrap(), None);
    gateway.stop().await;
}

#[tokio::test]
async fn an_app_is_found_by_its_presence_on_the_bus() {
    let folder = tempfile::tempdir().unwrap();
    let (address, bus) = (echo().await, memory(folder.path()));
    let parrot = module(&bus, "parrot", address);
    let gateway = Gateway::start(environment(folder.path(), &bus, &[])).await;
    let answer = gateway.get("/v1.0/invoke/parrot/method/x").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    parrot.close(PATIENCE).await;
    gateway.sees("parrot", false).await;
    let (status, code, message) =
        problem(gateway.get("/v1.0/invoke/parrot/method/x").send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (500, "ERR_DIRECT_INVOKE"));
    let expected =
        r#"failed to invoke, id: parrot, err: the app "parrot" is not running: it has left the bus"#;
    assert_eq!(message, expected);
    gateway.stop().await;
}

#[tokio::test]
async fn an_app_that_cannot_answer_is_told_in_dapr_s_words() {
    let folder = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Takes the request and hangs up.
    let rude = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rude_address = rude.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = rude.accept().await.unwrap();
            assert_ne!(stream.read(&mut [0; 100]).await.unwrap(), 0);
        }
    });
    let apps = [
        ("silent", silent.local_addr().unwrap()),
        ("rude", rude_address),
        ("nobody", fresh_address().unwrap()),
    ];
    let gateway = Gateway::with(folder.path(), &apps, &[("SHUNT_GATEWAY_INVOKE_TIMEOUT_S", "1")]).await;
    for (id, expected) in [
        ("silent", r#"the app "silent" did not answer within 1s"#),
        ("rude", "broke off before it answered"),
        ("nobody", r#"the app "nobody" cannot be reached at 127.0.0.1:"#),
        (
            "no-such-app",
            r#"the app "no-such-app" is not known: it is not on the bus, and the network does not know the name"#,
        ),
    ] {
        let answer = gateway.post(&format!("/v1.0/invoke/{id}/method/x")).body("x").send().await.unwrap();
        let (status, code, message) = problem(answer).await;
        assert_eq!((status, code.as_str()), (500, "ERR_DIRECT_INVOKE"), "{message}");
        assert!(message.starts_with(&format!("failed to invoke, id: {id}, err: ")), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let metrics = gateway.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert_eq!(check_page(&metrics), Ok(()), "{metrics}");
    for count in [
        r#"shunt_gateway_calls_total{app="other",outcome="timeout"} 1"#,
        r#"shunt_gateway_calls_total{app="other",outcome="broken"} 1"#,
        r#"shunt_gateway_calls_total{app="other",outcome="refused"} 2"#,
    ] {
        assert!(metrics.contains(count), "{count}: {metrics}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn an_answer_that_falls_silent_is_broken_off_after_the_set_pause() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, pieces) = mpsc::channel(1);
    sender.send(Bytes::from_static(b"first")).await.unwrap();
    let pieces = Arc::new(Mutex::new(Some(Pieces(pieces))));
    let stream = get(move || {
        let pieces = pieces.lock().unwrap().take();
        async move { Body::new(pieces.unwrap()) }
    });
    let address = app(Router::new().route("/events", stream)).await;
    let apps = [("news", address)];
    let gateway = Gateway::with(folder.path(), &apps, &[("SHUNT_GATEWAY_INVOKE_PAUSE_S", "0.3")]).await;
    let mut answer = gateway.get("/v1.0/invoke/news/method/events").send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "first");
    // The app holds its end open and says nothing more.
    let broken = answer.chunk().await.unwrap_err();
    assert!(!broken.is_timeout(), "{broken}");
    drop(sender);
    gateway.stop().await;
}

#[tokio::test]
async fn an_app_s_own_errors_come_back_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let broken = || async { (StatusCode::INTERNAL_SERVER_ERROR, [("x-why", "tired")], "no, sorry") };
    let moved = || async { (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response() };
    let pages = Router::new().route("/broken", get(broken)).route("/moved", get(moved));
    let gateway = Gateway::with_apps(folder.path(), &[("app", app(pages).await)]).await;
    let answer = gateway.get("/v1.0/invoke/app/method/broken").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["x-why"].to_str().unwrap()), (500, "tired"));
    assert_eq!(answer.text().await.unwrap(), "no, sorry");
    let answer = gateway.post("/v1.0/invoke/app/method/broken").send().await.unwrap();
    assert_eq!(answer.status(), 405);
    assert_eq!(answer.headers()["allow"], "GET,HEAD");
    let request = "GET /v1.0/invoke/app/method/moved HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = raw(gateway.http, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 302") && answer.contains("location: /elsewhere"), "{answer}");
    let metrics = gateway.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"shunt_gateway_calls_total{app="app",outcome="5xx"} 1"#), "{metrics}");
    gateway.stop().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let answers = [
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ];
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_ne!(stream.read(&mut [0; 1000]).await.unwrap(), 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let gateway = Gateway::with_apps(folder.path(), &[("app", address)]).await;
    for _ in 0..2 {
        // Where the break comes at once, even the head of the answer does not get through.
        let whole = async { gateway.post("/v1.0/invoke/app/method/x").send().await?.bytes().await };
        whole.await.unwrap_err();
    }
    assert_eq!(gateway.get("/v1.0/healthz").send().await.unwrap().status(), 204);
    gateway.stop().await;
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_with_or_without_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let address = app(Router::new().route("/", post(|body: Body| async { body }))).await;
    let settings = [("SHUNT_GATEWAY_MAX_BODY_BYTES", "10000")];
    let gateway = Gateway::with(folder.path(), &[("app", address)], &settings).await;
    let answer = gateway.post("/v1.0/invoke/app/method/").body(vec![b'x'; 10_000]).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (200, 10_000));
    let answer = gateway.post("/v1.0/invoke/app/method/").body(vec![b'x'; 10_001]).send().await.unwrap();
    let (status, code, message) = problem(answer).await;
    assert_eq!((status, code.as_str()), (413, "ERR_MALFORMED_REQUEST"));
    assert!(message.contains("larger than 10000 bytes"), "{message}");

    // In pieces, to an app that waits for the end.
    let whole =
        app(Router::new().route("/", post(|body: Bytes| async move { body.len().to_string() }))).await;
    let gateway_of_whole = Gateway::with(folder.path(), &[("app", whole)], &settings).await;
    let piece = format!("{:x}\r\n{}\r\n", 4000, "x".repeat(4000));
    let request = format!(
        "POST /v1.0/invoke/app/method/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        piece.repeat(3)
    );
    let answer = raw(gateway_of_whole.http, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    gateway_of_whole.stop().await;
    gateway.stop().await;
}

#[tokio::test]
async fn heads_beyond_all_measure_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let address = echo().await;
    let gateway = Gateway::with_apps(folder.path(), &[("echo", address)]).await;
    let head = "GET /v1.0/invoke/echo/method/x HTTP/1.1\r\nHost: x\r\n";
    let large = format!("{head}X: {}\r\n\r\n", "x".repeat(100_000));
    let answer = raw(gateway.http, large.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = "X-Same: 1\r\n".repeat(200);
    let answer = raw(gateway.http, format!("{head}{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_call_that_leads_back_to_the_gateway_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let circle = listener.local_addr().unwrap();
    let gateway = Gateway::with_apps(folder.path(), &[("circle", circle)]).await;
    let (status, code, _) =
        problem(gateway.get("/v1.0/invoke/gateway/method/v1.0/metadata").send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (508, "ERR_DIRECT_INVOKE"));

    // An app that hands every request back to the gateway, with all its headers.
    let http = gateway.http;
    tokio::spawn(async move {
        loop {
            let (mut inward, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut outward = tokio::net::TcpStream::connect(http).await.unwrap();
                tokio::io::copy_bidirectional(&mut inward, &mut outward).await.ok();
            });
        }
    });
    let path = "/v1.0/invoke/circle/method/v1.0/invoke/circle/method/v1.0/invoke/circle/method/v1.0/invoke/circle/method/v1.0/invoke/circle/method/v1.0/healthz";
    let (status, code, message) = problem(gateway.get(path).send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (508, "ERR_DIRECT_INVOKE"), "{message}");
    gateway.stop().await;
}

#[tokio::test]
async fn without_the_token_that_is_set_nothing_but_health_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let address = echo().await;
    let settings = [("SHUNT_GATEWAY_API_TOKEN", "secret")];
    let gateway = Gateway::with(folder.path(), &[("echo", address)], &settings).await;
    for path in ["/v1.0/invoke/echo/method/x", "/v1.0/metadata", "/device/echo", "/nothing"] {
        for token in [None, Some(""), Some("secre"), Some("Secret"), Some("secretsecret")] {
            let mut request = gateway.get(path);
            if let Some(token) = token {
                request = request.header("dapr-api-token", token);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401, "{path} {token:?}");
            assert_eq!(answer.text().await.unwrap(), "invalid api token\n");
        }
    }
    let answer =
        gateway.get("/v1.0/invoke/echo/method/x").header("dapr-api-token", "secret").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    for path in ["/v1.0/healthz", "/v1.0/healthz/outbound"] {
        assert_eq!(gateway.get(path).send().await.unwrap().status(), 204);
    }
    assert_eq!(gateway.get("/healthz").send().await.unwrap().status(), 200);
    let answer = gateway.get("/healthz").header("dapr-app-id", "echo").send().await.unwrap();
    assert_eq!(answer.status(), 401);
    gateway.stop().await;
}

#[tokio::test]
async fn many_calls_at_once_all_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let late = |body: String| async move {
        tokio::task::yield_now().await;
        body
    };
    let address = app(Router::new().route("/", post(late))).await;
    let gateway = Gateway::with_apps(folder.path(), &[("app", address)]).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..200 {
        let request = gateway.post("/v1.0/invoke/app/method/").body(number.to_string());
        calls.spawn(async move { (number, request.send().await.unwrap().text().await.unwrap()) });
    }
    while let Some(call) = calls.join_next().await {
        let (number, answer) = call.unwrap();
        assert_eq!(answer, number.to_string());
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::with_apps(folder.path(), &[("app", listener.local_addr().unwrap())]).await;
    let call = gateway.get("/v1.0/invoke/app/method/x").send();
    let app = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_ne!(stream.read(&mut [0; 1000]).await.unwrap(), 0);
        stream
    };
    // The call is dropped as soon as the app has it.
    let mut stream = tokio::select! {
        _ = call => panic!("nobody answers"),
        stream = app => stream,
    };
    let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 10])).await.unwrap();
    assert_eq!(end.unwrap_or(0), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn apps_are_changed_while_the_gateway_runs() {
    let folder = tempfile::tempdir().unwrap();
    let sim = shunt_sim::Sim::start(shunt_sim::SimOptions {
        folder: folder.path().join("sim"),
        ..shunt_sim::SimOptions::default()
    })
    .await
    .unwrap();
    sim.add_module("gateway").unwrap();
    let mut variables = sim.module_environment("gateway");
    variables.extend(environment(folder.path(), &memory(folder.path()), &[]));
    let gateway = Gateway::start(variables).await;
    let address = echo().await;
    let patch = json!({"apps": {"late": {"address": address.to_string(), "subscribe": false}}});
    sim.patch_desired("gateway", &patch).unwrap();
    shunt_testkit::eventually(Duration::from_secs(30), || async {
        gateway.get("/v1.0/invoke/late/method/x").send().await.unwrap().status() == 200
    })
    .await;
    sim.patch_desired("gateway", &json!({"apps": {"late": {"address": "not an address"}}})).unwrap();
    shunt_testkit::eventually(Duration::from_secs(30), || async {
        let twin = sim.twin("gateway").unwrap();
        twin.pointer("/properties/reported/apps").is_some_and(|apps| apps["ac"] == 400)
    })
    .await;
    assert_eq!(gateway.get("/v1.0/invoke/late/method/x").send().await.unwrap().status(), 200);
    gateway.stop().await;
    sim.stop().await;
}
