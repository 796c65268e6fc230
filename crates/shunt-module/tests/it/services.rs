//! One module calls another.

use std::{
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, Method, Request, StatusCode},
    routing::{any, get, post},
};
use http_body_util::BodyExt;
use hyper::body::Frame;
use serde_json::{Value, json};
use shunt_bus::{Bus, BusOptions, memory::MemoryBroker};
use shunt_module::services::{CallError, CallPolicy, Services, TRACEPARENT};
use shunt_testkit::{eventually, fresh_address};
use shunt_wire::events::Presence;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

/// Little patience, quick tries.
fn policy() -> CallPolicy {
    CallPolicy {
        answer: Duration::from_secs(10),
        back_off: Duration::from_millis(5),
        ..CallPolicy::default()
    }
}

/// Serves these pages; gives the address and how many connections were made.
async fn serve(pages: Router) -> (SocketAddr, Arc<AtomicUsize>) {
    struct Counting(TcpListener, Arc<AtomicUsize>);
    impl axum::serve::Listener for Counting {
        type Io = tokio::net::TcpStream;
        type Addr = SocketAddr;
        async fn accept(&mut self) -> (Self::Io, SocketAddr) {
            let accepted = axum::serve::Listener::accept(&mut self.0).await;
            self.1.fetch_add(1, Ordering::SeqCst);
            accepted
        }
        fn local_addr(&self) -> std::io::Result<SocketAddr> {
            self.0.local_addr()
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let listener = Counting(listener, Arc::clone(&count));
    tokio::spawn(axum::serve(listener, pages).into_future());
    (address, count)
}

/// A server that answers each connection in turn with these bytes, whatever it is asked, and then closes it. Gives
/// the address and the number of requests read.
async fn scripted(answers: Vec<&'static str>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&count);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n")
                && stream.read_buf(&mut head).await.unwrap() > 0
            {}
            if !head.is_empty() {
                seen.fetch_add(1, Ordering::SeqCst);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, count)
}

fn at(address: SocketAddr) -> Services {
    at_under(address, policy())
}

fn at_under(address: SocketAddr, policy: CallPolicy) -> Services {
    let services = Services::new(policy);
    services.set_addresses([("app", address.to_string().as_str())]).unwrap();
    services
}

fn request(method: Method, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

/// A bus inside this process, and a module on it that tells of its port.
fn present(folder: &Path, module: &str, presence: Presence) -> Bus {
    let options = BusOptions::new(format!("memory:{}", folder.display()), module.parse().unwrap());
    Bus::open(BusOptions { presence: Some(presence), ..options }).unwrap()
}

fn presence(address: SocketAddr) -> Presence {
    let host = Some(address.ip().to_string());
    Presence { online: true, version: "1".to_owned(), port: Some(address.port()), host }
}

fn on_bus(folder: &Path) -> Services {
    let options = BusOptions::new(format!("memory:{}", folder.display()), "caller".parse().unwrap());
    let beside = Some("127.0.0.1".to_owned());
    Services::on_bus(Bus::open(options).unwrap(), policy(), beside, CancellationToken::new())
}

#[tokio::test]
async fn a_module_is_found_by_its_presence_and_its_connection_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let pages = Router::new()
        .route("/double", post(|Json(number): Json<i64>| async move { Json(number * 2) }))
        .route("/nothing", get(|| async { StatusCode::NO_CONTENT }));
    let (address, connections) = serve(pages).await;
    let module = present(folder.path(), "calculator", presence(address));
    let services = on_bus(folder.path());
    for number in 0..10 {
        // The first call comes before the bus has told of anybody.
        let doubled: i64 = services.post_json("calculator", "/double", &number).await.unwrap();
        assert_eq!(doubled, number * 2);
        let answer = services.call("calculator", request(Method::GET, "/nothing")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    let state = services.module("calculator").unwrap();
    assert_eq!((state.online, state.address), (true, address.to_string()));

    module.close(PATIENCE).await;
    eventually(PATIENCE, || async { !services.module("calculator").unwrap().online }).await;
    let error = services.get_json::<Value>("calculator", "/").await.unwrap_err();
    assert_eq!(error.to_string(), r#"the app "calculator" is not running: it has left the bus"#);
}

#[tokio::test]
async fn a_module_that_moves_is_found_at_its_new_place() {
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::named(&folder.path().display().to_string());
    let (first, _) = serve(Router::new().route("/", get(|| async { Json(1) }))).await;
    let (second, _) = serve(Router::new().route("/", get(|| async { Json(2) }))).await;
    let services = on_bus(folder.path());
    let module = present(folder.path(), "nomad", presence(first));
    eventually(PATIENCE, || async { services.module("nomad").is_some() }).await;
    assert_eq!(services.get_json::<u8>("nomad", "/").await.unwrap(), 1);
    module.close(PATIENCE).await;
    let _module = present(folder.path(), "nomad", presence(second));
    eventually(PATIENCE, || async { services.module("nomad").unwrap().address == second.to_string() }).await;
    assert_eq!(services.get_json::<u8>("nomad", "/").await.unwrap(), 2);
    drop(broker);
}

#[tokio::test]
async fn an_address_that_was_set_goes_before_presence() {
    let folder = tempfile::tempdir().unwrap();
    let (address, _) = serve(Router::new().route("/", get(|| async { Json("set") }))).await;
    let _module = present(folder.path(), "app", presence(fresh_address().unwrap()));
    let services = on_bus(folder.path());
    services.set_addresses([("app", address.to_string().as_str())]).unwrap();
    assert_eq!(services.get_json::<String>("app", "/").await.unwrap(), "set");
    for address in ["", "host", "host:port", "http://host:1", "user@host:1"] {
        let error = services.set_addresses([("app", address)]).unwrap_err();
        assert!(matches!(error, CallError::Address { .. }), "{address}: {error}");
    }
    assert_eq!(services.get_json::<String>("app", "/").await.unwrap(), "set");
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let services = on_bus(folder.path());
    let error = services.get_json::<Value>("nobody-of-this-name", "/").await.unwrap_err();
    assert!(matches!(error, CallError::Unknown { .. }), "{error}");
    assert!(
        error.to_string().starts_with(r#"the app "nobody-of-this-name" is not known: it is not on the bus"#)
    );
    // Hosts of the outside world and addresses are no apps.
    for name in ["127.0.0.1", "example.org", "localhost", "2130706433", "0x7f000001"] {
        let error = services.get_json::<Value>(name, "/").await.unwrap_err();
        assert!(matches!(error, CallError::Unknown { .. }), "{name}: {error}");
    }
    for name in ["", "a/b", "user@host", "a:80", "[::1]", &"x".repeat(65)] {
        let error = services.get_json::<Value>(name, "/").await.unwrap_err();
        assert!(matches!(error, CallError::Name(_)), "{name}: {error}");
    }
}

#[tokio::test]
async fn nobody_there_and_nobody_answering_are_told_apart() {
    let address = fresh_address().unwrap();
    let error = at(address).get_json::<Value>("app", "/").await.unwrap_err();
    assert!(matches!(error, CallError::Refused { .. }), "{error}");

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hasty = CallPolicy { answer: Duration::from_millis(100), ..policy() };
    let services = at_under(silent.local_addr().unwrap(), hasty);
    let error = services.get_json::<Value>("app", "/").await.unwrap_err();
    assert_eq!(error.to_string(), r#"the app "app" did not answer within 100ms"#);

    // The head of an answer, and then nothing.
    let (address, _) = serve(Router::new().route("/", get(endless))).await;
    let impatient = CallPolicy { pause: Duration::from_millis(100), ..policy() };
    let answer = at_under(address, impatient).call("app", request(Method::GET, "/")).await.unwrap();
    let error = answer.into_body().collect().await.unwrap_err();
    assert!(error.to_string().contains("nothing came for 0.1 s"), "{error}");
}

/// A body whose pieces are sent one by one; it ends when the sender is dropped.
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

fn pieces() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Body::new(Pieces(receiver)))
}

/// A body that begins and never goes on.
async fn endless() -> Body {
    let (sender, body) = pieces();
    sender.send(Bytes::from_static(b"x")).await.unwrap();
    std::mem::forget(sender);
    body
}

const SHORT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7";

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_replaced_for_every_verb() {
    // Each connection answers once and is closed, without a word of it beforehand.
    let (address, _) = scripted(vec![SHORT; 4]).await;
    let services = at_under(address, CallPolicy { retries: 0, ..policy() });
    for _ in 0..4 {
        assert_eq!(services.post_json::<u8>("app", "/", &json!({})).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn what_may_be_repeated_is_tried_again_and_nothing_else_is() {
    let (address, requests) = scripted(vec!["", "", SHORT]).await;
    assert_eq!(at(address).get_json::<u8>("app", "/").await.unwrap(), 7);
    assert_eq!(requests.load(Ordering::SeqCst), 3);

    let (address, requests) = scripted(vec!["", SHORT]).await;
    let error = at(address).post_json::<u8>("app", "/", &json!({})).await.unwrap_err();
    assert!(matches!(error, CallError::Broken { .. }), "{error}");
    assert_eq!(requests.load(Ordering::SeqCst), 1);

    // The number of tries is bounded.
    let (address, requests) = scripted(vec![""; 10]).await;
    let error = at(address).get_json::<u8>("app", "/").await.unwrap_err();
    assert!(matches!(error, CallError::Broken { .. }), "{error}");
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    // The answer begins before the request has ended.
    let (address, _) = serve(Router::new().route("/", post(|body: Body| async { body }))).await;
    let (sender, body) = pieces();
    let request = Request::post("/").body(body).unwrap();
    let mut answer = at(address).call("app", request).await.unwrap().into_body();
    for number in 0..3_u8 {
        sender.send(Bytes::from(vec![number; 100_000])).await.unwrap();
        let mut received = 0;
        while received < 100_000 {
            let piece = answer.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.iter().all(|&byte| byte == number));
            received += piece.len();
        }
    }
    drop(sender);
    assert!(answer.frame().await.is_none());
}

#[tokio::test]
async fn a_trace_is_passed_on_and_verb_path_and_query_stay_as_they_are() {
    let echo = |method: Method, uri: axum::http::Uri, headers: HeaderMap| async move {
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        Json(json!([method.as_str(), uri.to_string(), header(TRACEPARENT), header("host")]))
    };
    let (address, _) = serve(Router::new().fallback(any(echo))).await;
    let services = at(address);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let path = "/a%2Fb/../c//d?x=1&y=%20";
    let mut asked = request(Method::PUT, path);
    asked.headers_mut().insert(TRACEPARENT, trace.parse().unwrap());
    asked.headers_mut().insert("host", "elsewhere".parse().unwrap());
    let answer = services.call("app", asked).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let told: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(told, json!(["PUT", path, trace, address.to_string()]));

    let begun = services.get_json::<Value>("app", "/").await.unwrap();
    assert_eq!(begun[2].as_str().unwrap().len(), trace.len());
}

#[tokio::test]
async fn an_answer_that_is_an_error_or_no_json_or_too_large_is_told() {
    let pages = Router::new()
        .route("/error", get(|| async { (StatusCode::IM_A_TEAPOT, "short and stout") }))
        .route("/text", get(|| async { "text" }))
        .route("/large", get(|| async { vec![b' '; 2000] }));
    let (address, _) = serve(pages).await;
    let services = at_under(address, CallPolicy { max_json: 1000, ..policy() });
    let error = services.get_json::<Value>("app", "/error").await.unwrap_err();
    assert_eq!(error.to_string(), r#"the app "app" answered 418 I'm a teapot: short and stout"#);
    let error = services.get_json::<Value>("app", "/text").await.unwrap_err();
    assert!(matches!(error, CallError::Json { .. }), "{error}");
    let error = services.get_json::<Value>("app", "/large").await.unwrap_err();
    assert!(matches!(error, CallError::Body { .. }), "{error}");
    let error = services.get_json::<Value>("app", "large").await.unwrap_err();
    assert!(matches!(error, CallError::Path { .. }), "{error}");
}

#[tokio::test]
async fn a_module_turns_no_call_to_a_host_of_its_choice() {
    let folder = tempfile::tempdir().unwrap();
    let services = on_bus(folder.path());
    for (number, host) in ["169.254.169.254", "edgeHub", "example.org", "127.0.0.2"].into_iter().enumerate() {
        let name = format!("liar{number}");
        let presence = Presence { host: Some(host.to_owned()), ..presence(fresh_address().unwrap()) };
        let _liar = present(folder.path(), &name, presence);
        eventually(PATIENCE, || async { services.module(&name).is_some() }).await;
        let error = services.get_json::<Value>(&name, "/").await.unwrap_err();
        assert!(matches!(error, CallError::Foreign { .. }), "{host}: {error}");
    }
}

#[tokio::test]
async fn an_app_that_hangs_takes_no_other_app_s_place() {
    let (silent, _) = serve(Router::new().route("/", get(std::future::pending::<()>))).await;
    let (quick, _) = serve(Router::new().route("/", get(|| async { Json(7) }))).await;
    let services = Services::new(policy());
    let (silent, quick) = (silent.to_string(), quick.to_string());
    services.set_addresses([("silent", silent.as_str()), ("quick", quick.as_str())]).unwrap();
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..600 {
        let services = services.clone();
        hanging.spawn(async move { services.get_json::<Value>("silent", "/").await });
    }
    // All of them have been polled.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(services.get_json::<u8>("quick", "/").await.unwrap(), 7);
    let hasty = services.with_policy(CallPolicy { answer: Duration::from_millis(50), ..policy() });
    let error = hasty.call("silent", request(Method::GET, "/")).await.unwrap_err();
    assert!(matches!(error, CallError::Busy { .. }), "{error}");
}

#[tokio::test]
async fn a_body_of_unknown_length_goes_along_with_any_verb() {
    let (address, _) = serve(Router::new().fallback(any(|body: String| async { Json(body) }))).await;
    let (sender, body) = pieces();
    let asked = Request::get("/").body(body).unwrap();
    sender.send(Bytes::from_static(b"query")).await.unwrap();
    drop(sender);
    let answer = at(address).call("app", asked).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.to_bytes(), "\"query\"");
}
