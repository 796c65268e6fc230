//! Functions that reach beyond what they are granted.

use std::{collections::BTreeMap, path::Path, time::Duration};

use shunt_bus::{BusOptions, Delivery};
use shunt_wire::{Kind as EventKind, Mono, Name, Stamps, TopicFilter};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::*;
use crate::{
    grants::Limits,
    host::{CallError, Guest, Host, HostOptions, Kind, Request},
};

const REACHER: &[u8] = include_bytes!("../../tests/guests/builds/reacher.wasm");
const CACHED_STORE: &[u8] = include_bytes!("../../../../functions/builds/cached-store.wasm");
const LIMIT: Duration = Duration::from_mins(1);
const LIMITS: Limits = Limits { time_ms: 20_000, memory_bytes: 64 << 20, output_bytes: 8 << 20 };

/// A host, what functions may reach, and a function that reaches for it.
struct Stage {
    host: Host,
    reacher: Guest,
    reaches: Reaches,
    folder: TempDir,
}

/// State in this file, the models that are there, a bus in the process.
fn reaches_of(state: std::path::PathBuf) -> Reaches {
    let options = shunt_bus::BusOptions::new("memory:reach", shunt_wire::Name::from_static("functions"));
    let bus = shunt_bus::Bus::open(options).unwrap();
    let models = shunt_testkit::shared_dir().map_or_else(Default::default, |shared| shared.join("models"));
    let options = super::ReachOptions { bucket_bytes: 4 << 20, log_lines: 100 };
    Reaches::new(bus, shunt_module::Events::new(), Health::new(), state, models, options)
}

impl Stage {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let reaches = reaches_of(folder.path().join("state.redb"));
        Self::with(folder, reaches)
    }

    fn with(folder: TempDir, reaches: Reaches) -> Self {
        let host = Host::new(HostOptions {
            workers: 2,
            calls: 8,
            queue: 8,
            memory_bytes: 256 << 20,
            compiled: folder.path().join("compiled"),
            interpreters: folder.path().join("interpreters"),
        });
        let host = host.unwrap();
        let reacher = install(&host, REACHER);
        Self { host, reacher, reaches, folder }
    }

    fn reach(&self, grants: &Grants) -> Reach {
        self.reaches.of(&"reacher".parse().unwrap(), grants)
    }

    async fn call(&self, grants: &Grants, orders: &str, limits: Limits) -> Result<String, CallError> {
        let reach = self.reach(grants);
        let call = self.host.call(&self.reacher, request(orders), limits, reach);
        let answer = timeout(LIMIT, call).await.unwrap()?;
        Ok(String::from_utf8(answer.body.to_vec()).unwrap())
    }

    async fn ask(&self, grants: &Grants, orders: &str) -> String {
        self.call(grants, orders, LIMITS).await.unwrap()
    }

    /// Each order and its answer.
    async fn check(&self, grants: &Grants, expected: &[(&str, &str)]) {
        let orders: Vec<&str> = expected.iter().map(|(order, _)| *order).collect();
        let answers = self.ask(grants, &orders.join("\n")).await;
        for ((order, expected), answer) in expected.iter().zip(answers.lines()) {
            assert!(answer.starts_with(expected), "{order}: {answer} and not {expected}");
        }
        assert_eq!(answers.lines().count(), expected.len(), "{answers}");
    }
}

fn install(host: &Host, bytes: &'static [u8]) -> Guest {
    let kind = host.inspect(bytes, None).unwrap();
    host.prepare(&bytes.into(), &crate::library::digest(bytes), kind, &|_| {}).unwrap()
}

fn request(orders: &str) -> Request {
    Request {
        name: "reacher".to_owned(),
        source: "http".to_owned(),
        method: http::Method::POST,
        path: String::new(),
        query: String::new(),
        headers: http::HeaderMap::new(),
        content_type: String::new(),
        body: orders.to_owned().into(),
        cause: None,
    }
}

fn bucket(name: &str) -> Grants {
    Grants { state: Some(name.to_owned()), ..Grants::default() }
}

#[tokio::test]
async fn a_function_without_grants_reaches_nothing() {
    let stage = Stage::start();
    let expected = [
        ("open", "error: Error::AccessDenied"),
        ("open default", "error: Error::AccessDenied"),
        ("open door", "error: Error::AccessDenied"),
        ("old open default", "error: Error::AccessDenied"),
        ("state-get a", "error: Error::Denied"),
        ("state-set a b", "error: Error::Denied"),
        ("state-delete a", "error: Error::Denied"),
        ("state-keys a", "error: Error::Denied"),
        ("publish shunt/label/door text/plain x", "error: PublishError::Denied"),
        ("load mobilenet-v1-quant", "error: ErrorCode::Security"),
        ("load-bytes", "error: ErrorCode::Security: a function brings no model of its own"),
        ("http GET http://127.0.0.1:1/", "error: ErrorCode::HttpRequestDenied"),
        ("http GET https://example.com/", "error: ErrorCode::HttpRequestDenied"),
        ("log 1 hello", "logged"),
    ];
    stage.check(&Grants::default(), &expected).await;
    let lines = stage.reaches.logs().of(&"reacher".parse().unwrap()).lines(0, 10);
    assert_eq!(lines.last().unwrap().message, "hello");
}

#[tokio::test]
async fn a_function_has_its_bucket_and_no_other() {
    let stage = Stage::start();
    let expected = [
        ("open orders", "opened"),
        ("open", "opened"),
        ("open default", "opened"),
        ("open bills", "error: Error::AccessDenied"),
        ("open orders/", "error: Error::AccessDenied"),
        ("open Orders", "error: Error::AccessDenied"),
        ("old open bills", "error: Error::AccessDenied"),
        ("set a 1", "set"),
    ];
    stage.check(&bucket("orders"), &expected).await;
    stage.check(&bucket("bills"), &[("list", ""), ("get a", "none")]).await;
    stage.check(&bucket("orders"), &[("get a", "1")]).await;
}

#[tokio::test]
async fn wasi_keyvalue_of_both_drafts_keeps_values() {
    let stage = Stage::start();
    let expected = [
        ("get a", "none"),
        ("exists a", "false"),
        ("set a 1", "set"),
        ("get a", "1"),
        ("exists a", "true"),
        ("increment a 41", "42"),
        ("increment a -43", "-1"),
        ("increment new 7", "7"),
        ("set word hello", "set"),
        ("increment word 1", "error: Error::Other(\"the value of \\\"word\\\" is no decimal number\")"),
        ("set big 9223372036854775807", "set"),
        ("increment big 1", "error: Error::Other"),
        ("get big", "9223372036854775807"),
        ("old increment big 1", "9223372036854775808"),
        ("increment big 0", "error: Error::Other"),
        ("old set small -1", "set"),
        ("old increment small 0", "error: Error::Other"),
        ("lose a", "lost to theirs"),
        ("get a", "ours"),
        ("count counter 10", "10"),
        ("set-many x p q r", "set"),
        ("get-many p nothing r", "x,none,x"),
        ("old get-many p nothing r", "x,none,x"),
        ("delete-many p nothing q", "deleted"),
        ("list", "a,big,counter,new,r,small,word"),
        ("old list", "a,big,counter,new,r,small,word"),
        ("old exists r", "true"),
        ("old delete r", "deleted"),
        ("old get r", "none"),
        ("delete r", "deleted"),
        ("old cursor 7", "error: Error::Other"),
    ];
    stage.check(&bucket("b"), &expected).await;
}

#[tokio::test]
async fn a_list_of_keys_comes_in_pages() {
    let stage = Stage::start();
    let expected = [("fill 2500", "filled"), ("list", "2500"), ("old list", "2500")];
    stage.check(&bucket("b"), &expected).await;
}

#[tokio::test]
async fn state_has_tags_that_change_with_each_value() {
    let stage = Stage::start();
    let grants = bucket("b");
    let first = stage.ask(&grants, "state-set a one").await;
    assert_eq!(stage.ask(&grants, "state-get a").await, format!("one {first}"));
    let second = stage.ask(&grants, &format!("state-set a two {first}")).await;
    assert_ne!(first, second);
    let orders =
        format!("state-set a three {first}\nstate-delete a {first}\nstate-delete a {second}\nstate-delete a");
    let answers = stage.ask(&grants, &orders).await;
    assert_eq!(answers, "error: Error::Conflict\nerror: Error::Conflict\ntrue\nfalse");
    // An empty tag: only where there is none yet.
    let fresh = stage.ask(&grants, "state-set a four ").await;
    assert_ne!(fresh, second);
    let expected = [
        ("state-set a five ", "error: Error::Conflict"),
        ("state-set ab 1", ""),
        ("state-set b 1", ""),
        ("state-keys a", "a,ab"),
        ("state-get nothing", "none"),
    ];
    stage.check(&grants, &expected).await;
}

#[tokio::test]
async fn what_is_too_large_for_state_is_refused() {
    let stage = Stage::start();
    let key = "k".repeat(1025);
    let orders = [
        (format!("set {key} 1"), "error: Error::Other(\"the key would have 1025, 1024 are allowed\")"),
        (format!("get {key}"), "error: Error::Other"),
        (format!("set {} 1", &key[..1024]), "set"),
        ("set a *1048576".to_owned(), "set"),
        (
            "set a *1048577".to_owned(),
            "error: Error::Other(\"the value would have 1048577, 1048576 are allowed\")",
        ),
        ("state-set a *1048577".to_owned(), "error: Error::TooLarge"),
        // The bucket of this stage has 4 MiB.
        ("set-many *1000000 a b c".to_owned(), "set"),
        ("set-many *1000000 d e f".to_owned(), "error: Error::Other(\"the bucket would have"),
        ("get-many d e f".to_owned(), "none,none,none"),
        ("set-many *1000000 a b c".to_owned(), "set"),
        ("delete-many a b".to_owned(), "deleted"),
        ("set-many *1000000 d e".to_owned(), "set"),
    ];
    let orders: Vec<_> = orders.iter().map(|(order, expected)| (order.as_str(), *expected)).collect();
    stage.check(&bucket("b"), &orders).await;
}

#[tokio::test]
async fn functions_that_count_up_at_the_same_time_lose_no_count() {
    let stage = Stage::start();
    let grants = bucket("b");
    let counting = (0..6).map(|_| stage.ask(&grants, "count swapped 20\nincrement added 5"));
    for answer in futures_all(counting).await {
        assert!(!answer.contains("error"), "{answer}");
    }
    assert_eq!(stage.ask(&grants, "get swapped\nget added").await, "120\n30");
}

async fn futures_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut pinned {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(done) => *output = Some(done),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    pinned.into_iter().filter_map(|(_, output)| output).collect()
}

#[tokio::test]
async fn a_state_file_that_cannot_be_used_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.redb");
    std::fs::write(&file, vec![7; 20_000]).unwrap();
    let health = Health::new();
    let reaches = reaches_in(&file, &health);
    let stage = Stage::with(folder, reaches);
    let expected = [("set a 1", "error: Error::Other(\"the file "), ("state-get a", "error: Error::Other")];
    stage.check(&bucket("b"), &expected).await;
    assert_eq!(health.failing().first().map(|(part, _)| *part), Some("state"));
    // Everything else goes on.
    assert_eq!(stage.ask(&Grants::default(), "log 1 x").await, "logged");
    assert_eq!(std::fs::read(file).unwrap(), vec![7; 20_000]);
}

fn reaches_in(state: &Path, health: &Health) -> Reaches {
    let bus = Bus::open(BusOptions::new("memory:state", Name::from_static("functions"))).unwrap();
    let options = ReachOptions { bucket_bytes: 4 << 20, log_lines: 100 };
    Reaches::new(bus, Events::new(), health.clone(), state.to_owned(), PathBuf::new(), options)
}

#[tokio::test]
async fn events_go_to_granted_topics_only_and_are_what_they_say() {
    let stage = Stage::start();
    let url = format!("memory:{}", stage.folder.path().display());
    let open = |name| Bus::open(BusOptions::new(&url, Name::from_static(name))).unwrap();
    let listener = open("listener");
    let mut events = listener.subscribe(&TopicFilter::everything(), Delivery::Assured).await.unwrap();
    let options = ReachOptions { bucket_bytes: 1 << 20, log_lines: 100 };
    let file = stage.folder.path().join("events.redb");
    let reaches =
        Reaches::new(open("functions"), Events::new(), Health::new(), file, PathBuf::new(), options);
    let stage = Stage::with(stage.folder, reaches);
    let publish = vec!["shunt/label/door".to_owned(), "shunt/average/+".to_owned()];
    let grants = Grants { publish, ..Grants::default() };
    let expected = [
        ("publish shunt/label/door application/json {\"a\":1}", "published"),
        ("publish shunt/average/any text/plain x", "published"),
        (
            "publish shunt/label/garden text/plain x",
            "error: PublishError::Denied(\"reacher may not publish to",
        ),
        ("publish shunt/label/door2 text/plain x", "error: PublishError::Denied"),
        ("publish shunt/label/+ text/plain x", "error: PublishError::Invalid"),
        ("publish shunt/average/# text/plain x", "error: PublishError::Invalid"),
        ("publish shunt/average/a/b text/plain x", "error: PublishError::Invalid"),
        ("publish label/door text/plain x", "error: PublishError::Invalid"),
        ("publish  text/plain x", "error: PublishError::Invalid"),
        ("publish shunt/label/door application/json {", "error: PublishError::Invalid(\"its content type is"),
        ("publish shunt/label/door a\u{7f} x", "error: PublishError::Invalid"),
        (
            "publish shunt/label/door text/plain *1048577",
            "error: PublishError::Invalid(\"the event has 1048577",
        ),
    ];
    stage.check(&grants, &expected).await;
    let mut request = request("publish shunt/label/door text/plain caused");
    request.cause = Some(Arc::new(Cause {
        stamps: Stamps::captured(Mono::from_nanos(7)),
        received_at: Mono::from_nanos(9),
        traceparent: Some("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01".to_owned()),
    }));
    stage.host.call(&stage.reacher, request, LIMITS, stage.reach(&grants)).await.unwrap();
    let mut next = async || timeout(LIMIT, events.next()).await.unwrap().unwrap().envelope.unwrap();
    let first = next().await;
    assert_eq!((first.kind.clone(), first.source.as_str()), (EventKind::LABEL, "door"));
    assert_eq!(first.json::<serde_json::Value>().unwrap(), serde_json::json!({"a": 1}));
    assert_eq!(next().await.body.unwrap().content_type, "text/plain");
    let caused = next().await;
    assert_eq!(caused.body.unwrap().bytes, "caused");
    assert_eq!(caused.stamps.unwrap().capture(), Mono::from_nanos(7));
    assert!(caused.traceparent.unwrap().starts_with("00-0123"));
    // More than a call may publish.
    let many = vec!["publish shunt/label/door text/plain x"; 101].join("\n");
    let answers = stage.ask(&grants, &many).await;
    assert_eq!(answers.lines().filter(|answer| *answer == "published").count(), 100);
    assert!(answers.lines().last().unwrap().contains("a call publishes 100 events at most"));
}

#[tokio::test]
async fn a_log_is_bounded_and_has_nothing_that_a_terminal_obeys() {
    let stage = Stage::start();
    let long = "x".repeat(10_000);
    stage.ask(&Grants::default(), &format!("log 1 \u{1b}[2Jred\nlog 1 {long}\nlog 2000 again")).await;
    let log = stage.reaches.logs().of(&"reacher".parse().unwrap());
    let all = log.lines(0, 10_000);
    // The stage keeps 100 lines, a call says 1,000 at most.
    assert_eq!(all.len(), 100);
    assert_eq!(all.last().unwrap().number, 1000);
    assert!(all.last().unwrap().message.contains("what it says from here on is dropped"));
    assert_eq!(*log.newest().borrow(), 1000);
    stage.ask(&Grants::default(), &format!("log 1 \u{1b}[2Jred\nlog 1 {long}")).await;
    let lines = log.lines(1000, 10);
    assert_eq!(lines[0].message, "\u{fffd}[2Jred");
    assert_eq!(lines[1].message.len(), 4096 + '…'.len_utf8());
}

#[tokio::test]
async fn a_function_uses_the_models_that_it_is_granted() {
    if shunt_testkit::shared_dir().is_none() {
        println!("passed over: there is no ../shared with models");
        return;
    }
    let stage = Stage::start();
    let models = vec!["mobilenet-v1-quant".to_owned(), "no-such-model".to_owned()];
    let grants = Grants { models, ..Grants::default() };
    let huge = u32::MAX;
    let orders = [
        ("load resnet50v2-zoo".to_owned(), "error: ErrorCode::Security"),
        ("load ../../etc/passwd".to_owned(), "error: ErrorCode::Security"),
        ("load no-such-model".to_owned(), "error: ErrorCode::NotFound"),
        ("load mobilenet-v1-quant".to_owned(), "loaded"),
        ("compute mobilenet-v1-quant input:u8:1x224x224x3".to_owned(), "MobilenetV1"),
        ("compute mobilenet-v1-quant 0:u8:1x224x224x3".to_owned(), "MobilenetV1"),
        ("compute mobilenet-v1-quant 1:u8:1x224x224x3".to_owned(), "error: ErrorCode::InvalidArgument"),
        ("compute mobilenet-v1-quant other:u8:1x224x224x3".to_owned(), "error: ErrorCode::InvalidArgument"),
        ("compute mobilenet-v1-quant".to_owned(), "error: ErrorCode::InvalidArgument: the input"),
        ("compute mobilenet-v1-quant 0:u8:1x2 0:u8:1x2".to_owned(), "error: ErrorCode::InvalidArgument"),
        ("compute mobilenet-v1-quant 0:f32:1x224x224x3".to_owned(), "error: ErrorCode::InvalidArgument"),
        ("compute mobilenet-v1-quant 0:bf16:1x224x224x3".to_owned(), "error: ErrorCode::InvalidArgument"),
        ("compute mobilenet-v1-quant 0:u8:1x224x224x3:5".to_owned(), "error: ErrorCode::InvalidArgument"),
        (
            format!("compute mobilenet-v1-quant 0:u8:{huge}x{huge}x{huge}x{huge}:5"),
            "error: ErrorCode::InvalidArg",
        ),
        ("tensor 1000".to_owned(), "[1000]"),
    ];
    let orders: Vec<_> = orders.iter().map(|(order, expected)| (order.as_str(), *expected)).collect();
    stage.check(&grants, &orders).await;
    // Beyond the axes that a tensor may have, a constructor can only end the call.
    let error = stage.call(&grants, "compute mobilenet-v1-quant 0:u8:1x1x1x1x1x1x1x1x1", LIMITS).await;
    assert!(matches!(error, Err(CallError::Failed(_))), "{error:?}");
}

/// A server that answers what its caller says, and how many requests it had.
async fn server(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = answer(&String::from_utf8_lossy(&request[..read]));
            // One that hears enough goes.
            stream.write_all(&answer).await.ok();
        }
    });
    (port, count)
}

#[tokio::test]
async fn a_function_calls_granted_hosts_and_follows_no_redirect() {
    let (other, others) = server(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret".to_vec()).await;
    let (port, _) = server(move |request| {
        let path = request.split(' ').nth(1).unwrap_or_default();
        match path {
            "/there" => format!(
                "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{other}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            .into_bytes(),
            "/huge" => {
                let mut answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
                answer.resize(answer.len() + (17 << 20), b'x');
                answer
            }
            _ => {
                let host = request.to_lowercase().lines().find(|line| line.starts_with("host:")).unwrap_or("").to_owned();
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
                format!("{head} {}\r\n\r\n{host}", host.len()).into_bytes()
            }
        }
    })
    .await;
    let stage = Stage::start();
    let grants = Grants { hosts: vec![format!("127.0.0.1:{port}")], ..Grants::default() };
    let denied = "error: ErrorCode::HttpRequestDenied";
    let orders = [
        (format!("http GET http://127.0.0.1:{port}/"), format!("200 host: 127.0.0.1:{port}")),
        (format!("http POST http://127.0.0.1:{port}/"), "200 host".to_owned()),
        (format!("http GET http://127.1:{port}/"), "200 host".to_owned()),
        (format!("http GET http://127.0.0.1:{port}/there"), "302".to_owned()),
        (format!("http GET http://127.0.0.1:{other}/"), denied.to_owned()),
        (format!("http GET http://localhost:{port}/"), denied.to_owned()),
        (format!("http GET http://[::1]:{port}/"), denied.to_owned()),
        (format!("http GET http://127.0.0.1.evil.example:{port}/"), denied.to_owned()),
        (format!("http GET http://0.0.0.0:{port}/"), denied.to_owned()),
        (
            format!("http CONNECT http://127.0.0.1:{port}/"),
            "error: ErrorCode::HttpRequestMethodInvalid".to_owned(),
        ),
        (format!("http GET ftp://127.0.0.1:{port}/"), "error: ".to_owned()),
    ];
    let expected: Vec<_> =
        orders.iter().map(|(order, expected)| (order.as_str(), expected.as_str())).collect();
    stage.check(&grants, &expected).await;
    assert_eq!(others.load(Ordering::SeqCst), 0);
    // The guest has room for more than an answer may bring.
    let roomy = Limits { memory_bytes: 256 << 20, ..LIMITS };
    let answer = stage.call(&grants, &format!("http GET http://127.0.0.1:{port}/huge"), roomy).await.unwrap();
    let read =
        answer.strip_prefix("error: after ").and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    assert!(read.is_some_and(|read| read <= 16 << 20), "{answer}");
    // Granted by its name, the machine itself is reached by that name only.
    let by_name = Grants { hosts: vec!["localhost".to_owned()], ..Grants::default() };
    let orders = [
        (format!("http GET http://LocalHost:{port}/"), "200 host"),
        (format!("http GET http://127.0.0.1:{port}/"), denied),
    ];
    let expected: Vec<_> = orders.iter().map(|(order, expected)| (order.as_str(), *expected)).collect();
    stage.check(&by_name, &expected).await;
}

#[tokio::test]
async fn a_server_that_never_answers_ends_with_the_call() {
    let (port, count) = server(|_| Vec::new()).await;
    let stage = Stage::start();
    // It accepts connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let grants = Grants { hosts: vec!["127.0.0.1".to_owned()], ..Grants::default() };
    let short = Limits { time_ms: 300, ..LIMITS };
    let order = format!("http GET http://127.0.0.1:{silent_port}/");
    assert!(matches!(stage.call(&grants, &order, short).await, Err(CallError::Time(300))));
    // One that hangs up is an error of the request.
    let answer = stage.ask(&grants, &format!("http GET http://127.0.0.1:{port}/")).await;
    assert!(answer.starts_with("error: ErrorCode::"), "{answer}");
    assert!(count.load(Ordering::SeqCst) >= 1);
}

/// Stores by their names, with the grants of each.
fn stores(stage: &Stage, grants: &[(&str, Grants)]) -> Guest {
    let guest = install(&stage.host, CACHED_STORE);
    assert_eq!(guest.kind(), Kind::StateStore);
    let reaches: BTreeMap<FunctionName, Reach> = grants
        .iter()
        .map(|(name, grants)| {
            let name: FunctionName = name.parse().unwrap();
            let reach = stage.reaches.of(&name, grants);
            (name, reach)
        })
        .collect();
    let (host, store) = (stage.host.clone(), guest.clone());
    stage.reaches.find_stores_with(move |name| {
        let reach = reaches.get(name).ok_or_else(|| format!("there is no function {name}"))?;
        Ok(StoreGuest {
            host: host.clone(),
            guest: store.clone(),
            version: "1".to_owned(),
            reach: reach.clone(),
            limits: LIMITS,
        })
    });
    guest
}

fn in_store(bucket: &str, store: &str) -> Grants {
    Grants { state: Some(bucket.to_owned()), store: Some(store.to_owned()), ..Grants::default() }
}

#[tokio::test]
async fn state_goes_through_a_store_that_is_a_component() {
    let stage = Stage::start();
    stores(&stage, &[("cached", bucket("behind")), ("memory", Grants::default())]);
    for store in ["cached", "memory"] {
        let grants = in_store("orders", store);
        let expected = [
            ("open bills", "error: Error::AccessDenied"),
            ("get a", "none"),
            ("set a 1", "set"),
            ("get a", "1"),
            ("increment a 41", "42"),
            ("lose a", "lost to theirs"),
            ("count counter 5", "5"),
            ("set-many x p q", "set"),
            ("get-many p nothing q", "x,none,x"),
            ("delete-many p", "deleted"),
            ("list", "a,counter,q"),
            ("old increment old 3", "3"),
            ("state-set q y ", "error: Error::Conflict"),
            ("state-set new 1 ", ""),
            ("state-keys n", "new"),
            ("state-delete new", "true"),
            ("state-delete new", "false"),
        ];
        stage.check(&grants, &expected).await;
        let tag = stage.ask(&grants, "state-set tagged 1").await;
        let orders = format!("state-set tagged 2 {tag}\nstate-set tagged 3 {tag}");
        let answers = stage.ask(&grants, &orders).await;
        assert!(answers.ends_with("\nerror: Error::Conflict"), "{answers}");
        // Another bucket of the same store is another bucket.
        assert_eq!(stage.ask(&in_store("bills", store), "get a").await, "none");
        let counting = (0..4).map(|_| stage.ask(&grants, "count swapped 10"));
        futures_all(counting).await;
        assert_eq!(stage.ask(&grants, "get swapped").await, "40");
    }
    // What the store keeps behind it is in the module's own file.
    assert_eq!(stage.ask(&bucket("behind"), "get orders/swapped").await, "40");
}

#[tokio::test]
async fn a_store_that_is_not_there_or_leads_back_to_itself_is_an_error() {
    let stage = Stage::start();
    let grants = [
        ("itself", in_store("a", "itself")),
        ("one", in_store("a", "other")),
        ("other", in_store("a", "one")),
    ];
    stores(&stage, &grants);
    let expected = [
        (
            "nowhere",
            "error: Error::Other(\"the state store nowhere cannot be used: there is no function nowhere\")",
        ),
        ("itself", "error: Error::Other(\"the state store itself leads back to the state store itself\")"),
        ("one", "error: Error::Other(\"the state store one leads back to the state store one\")"),
    ];
    for (store, error) in expected {
        stage.check(&in_store("b", store), &[("get a", error)]).await;
    }
}

#[tokio::test]
async fn a_store_that_traps_begins_anew_and_says_so() {
    let stage = Stage::start();
    stores(&stage, &[("memory", Grants::default())]);
    let grants = in_store("b", "memory");
    assert_eq!(stage.ask(&grants, "set kept 1\nget kept").await, "set\n1");
    // It keeps all in its memory, which has an end.
    let mut answers = String::new();
    for round in 0..12 {
        let orders: Vec<String> = (0..8).map(|number| format!("set {round}-{number} *1000000")).collect();
        answers = stage.ask(&grants, &orders.join("\n")).await;
        if answers.contains("error") {
            break;
        }
    }
    assert!(
        answers.contains("error: Error::Other(\"the state store memory failed: it wanted more memory"),
        "{answers}"
    );
    assert_eq!(stage.ask(&grants, "get kept\nset kept 2\nget kept").await, "none\nset\n2");
    let log = stage.reaches.logs().of(&"memory".parse().unwrap()).lines(0, 100);
    assert!(log.iter().any(|line| line.message.contains("It begins anew with an empty memory.")), "{log:?}");
}
