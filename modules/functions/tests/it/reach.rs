//! A guest that reaches for all there is gets what it is granted, and nothing else.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, routing::get};
use functions::FunctionsSettings;
use serde_json::{Value, json};
use shunt_bus::Delivery;
use shunt_testkit::{Mosquitto, eventually, fresh_address, repo_root};
use shunt_wire::TopicFilter;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    time::timeout,
};

use crate::yard::{LIMIT, Yard, client, guest};

fn reacher() -> Vec<u8> {
    let path = repo_root().join("modules/functions/tests/guests/builds/reacher.wasm");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn yard() -> Yard {
    Yard::start(FunctionsSettings::default()).await
}

/// A yard with a reacher that is granted this.
async fn yard_with(grants: Value) -> Yard {
    let yard = yard().await;
    yard.install("reacher", &grants, reacher()).await;
    yard
}

/// Gives it one order; its answer.
async fn order(yard: &Yard, name: &str, order: &str) -> String {
    let answer = yard.post(&format!("/{name}"), order.to_owned()).await;
    assert_eq!(answer.status, 200, "{order}: {}", answer.text());
    answer.text()
}

async fn orders(yard: &Yard, name: &str, wanted: &[(&str, &str)]) {
    for (asked, answer) in wanted {
        assert_eq!(order(yard, name, asked).await, *answer, "{asked}");
    }
}

/// It is refused, for this reason.
async fn refused(yard: &Yard, name: &str, asked: &str, why: &str) {
    let answer = order(yard, name, asked).await;
    assert!(answer.starts_with("error: ") && answer.contains(why), "{asked}: {answer}");
}

/// A server on this machine; its address, and how many requests came to it.
async fn server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, came) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&came);
    let routes = Router::new().fallback(get(move || async move {
        counted.fetch_add(1, Ordering::Relaxed);
        "here"
    }));
    tokio::spawn(axum::serve(listener, routes).into_future());
    (address, came)
}

#[tokio::test]
async fn a_function_without_grants_reaches_nothing() {
    let yard = yard_with(Value::Null).await;
    let (address, came) = server().await;
    for (asked, why) in [
        ("open", "AccessDenied"),
        ("open shop", "AccessDenied"),
        ("old open shop", "AccessDenied"),
        ("get a", "AccessDenied"),
        ("state-get a", "Denied"),
        ("state-set a b", "Denied"),
        ("state-delete a", "Denied"),
        ("state-keys a", "Denied"),
        ("publish shunt/label/door text/plain hello", "Denied"),
        ("load emotion", "Security"),
        ("load-bytes", "Security"),
        (&format!("http GET http://{address}/"), "HttpRequestDenied"),
    ] {
        refused(&yard, "reacher", asked, why).await;
    }
    assert_eq!(came.load(Ordering::Relaxed), 0);
    // Without a model there is nothing that a tensor could be for.
    assert_eq!(yard.post("/reacher", "tensor 8").await.status, 500);
    assert_eq!(yard.post("/echo", "on").await.text(), "on");
}

#[tokio::test]
async fn a_function_has_its_own_bucket_and_no_other() {
    let yard = yard_with(json!({"state": "shop"})).await;
    yard.install("neighbour", &json!({"state": "home"}), reacher()).await;
    orders(&yard, "neighbour", &[("set secret theirs", "set")]).await;
    orders(
        &yard,
        "reacher",
        &[
            ("open shop", "opened"),
            ("open", "opened"),
            ("get secret", "none"),
            ("set a one", "set"),
            ("old get a", "one"),
            ("exists a", "true"),
            ("increment n -5", "-5"),
            ("increment n 10", "5"),
            ("old increment n 7", "12"),
            ("lose k", "lost to theirs"),
            ("get k", "ours"),
            ("set-many x p q", "set"),
            ("get-many p missing q", "x,none,x"),
            ("delete-many p q", "deleted"),
            ("list", "a,k,n"),
            ("state-keys k", "k"),
            ("state-delete k", "true"),
            ("state-delete k", "false"),
        ],
    )
    .await;
    refused(&yard, "reacher", "open home", "AccessDenied").await;
    refused(&yard, "reacher", "old open home", "AccessDenied").await;
    refused(&yard, "reacher", "open events-service", "AccessDenied").await;
    refused(&yard, "reacher", "state-set big *2000000", "TooLarge").await;
    refused(&yard, "reacher", "increment a 1", "number").await;
    // A tag that is no longer that of the value.
    let tag = order(&yard, "reacher", "state-set t one").await;
    let next = order(&yard, "reacher", &format!("state-set t two {tag}")).await;
    refused(&yard, "reacher", &format!("state-set t three {tag}"), "Conflict").await;
    orders(&yard, "reacher", &[("state-get t", &format!("two {next}"))]).await;
    // More keys than one page has.
    orders(&yard, "reacher", &[("fill 1200", "filled"), ("list", "1203"), ("old list", "1203")]).await;
    orders(&yard, "neighbour", &[("list", "secret")]).await;
    let own = yard.put("thief", &json!({"state": "statestore"}), reacher()).await;
    assert!((400..500).contains(&own.status), "{}", own.text());
}

#[tokio::test]
async fn a_function_publishes_within_its_grant_and_not_beyond_it() {
    let yard = yard_with(json!({"publish": ["shunt/label/+"]})).await;
    let filter: TopicFilter = "shunt/+/door".parse().unwrap();
    let mut events = yard.bus.subscribe(&filter, Delivery::Assured).await.unwrap();
    refused(&yard, "reacher", "publish shunt/alert/door text/plain no", "Denied").await;
    refused(&yard, "reacher", "publish shunt/label/+ text/plain no", "Invalid").await;
    refused(&yard, "reacher", "publish shunt/label/door application/json {", "Invalid").await;
    refused(&yard, "reacher", "publish shunt/label/door text/plain *2000000", "Invalid").await;
    orders(&yard, "reacher", &[("publish shunt/label/door text/plain yes", "published")]).await;
    let received = timeout(LIMIT, events.next()).await.unwrap().unwrap();
    received.ack.ack();
    let event = received.envelope.unwrap();
    assert_eq!(event.body.unwrap().bytes, "yes");
    drop(events);
    let many = vec!["publish shunt/label/door text/plain x"; 101].join("\n");
    let answers = order(&yard, "reacher", &many).await;
    let answers: Vec<_> = answers.lines().collect();
    assert!(answers[..100].iter().all(|answer| *answer == "published"), "{answers:?}");
    assert!(answers[100].contains("100 events at most"), "{answers:?}");
}

#[tokio::test]
async fn a_function_uses_no_model_that_it_is_not_granted() {
    let yard = yard_with(json!({"models": ["no-such-model"]})).await;
    refused(&yard, "reacher", "load emotion", "Security").await;
    refused(&yard, "reacher", "load-bytes", "Security").await;
    let missing = order(&yard, "reacher", "load no-such-model").await;
    assert!(missing.starts_with("error: ") && !missing.contains("Security"), "{missing}");
    orders(&yard, "reacher", &[("tensor 8", "[8]")]).await;
    // Beyond the room for tensors, or the guest's own memory: the call ends, and nothing else.
    assert_ne!(yard.post("/reacher", "tensor 70000000").await.status, 200);
    orders(&yard, "reacher", &[("tensor 8", "[8]")]).await;
}

#[tokio::test]
async fn a_function_calls_the_hosts_that_it_is_granted_and_no_other() {
    let (granted, came) = server().await;
    let (other, never) = server().await;
    let yard = yard_with(json!({"hosts": [granted.to_string()]})).await;
    orders(&yard, "reacher", &[(&format!("http GET http://{granted}/x"), "200 here")]).await;
    refused(&yard, "reacher", &format!("http GET http://{other}/"), "HttpRequestDenied").await;
    // Another name of the same address is another host.
    let named = format!("http GET http://localhost:{}/", granted.port());
    refused(&yard, "reacher", &named, "HttpRequestDenied").await;
    refused(&yard, "reacher", &format!("http CONNECT http://{granted}/"), "").await;
    assert_eq!((came.load(Ordering::Relaxed), never.load(Ordering::Relaxed)), (1, 0));
    let yard = yard_with(json!({"hosts": ["localhost"]})).await;
    orders(&yard, "reacher", &[(&named, "200 here")]).await;
    assert_eq!(came.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_store_that_is_a_component_keeps_the_state_of_others() {
    let yard = yard_with(json!({"state": "shop", "store": "cache"})).await;
    // The store is not there yet.
    refused(&yard, "reacher", "set a one", "cache").await;
    yard.install("cache", &json!({"state": "behind"}), guest("builds/cached-store.wasm")).await;
    yard.install("second", &json!({"state": "shop", "store": "cache"}), reacher()).await;
    yard.install("third", &json!({"state": "home", "store": "cache"}), reacher()).await;
    yard.install("behind", &json!({"state": "behind"}), reacher()).await;
    orders(&yard, "reacher", &[("set a one", "set"), ("lose k", "lost to theirs"), ("list", "a,k")]).await;
    orders(&yard, "second", &[("get a", "one"), ("increment n 3", "3")]).await;
    orders(&yard, "third", &[("get a", "none"), ("list", "")]).await;
    // It writes through.
    orders(&yard, "behind", &[("list", "shop/a,shop/k,shop/n"), ("get shop/a", "one")]).await;
    let count = || order(&yard, "reacher", "count c 5");
    let counts: [String; 4] = tokio::join!(count(), count(), count(), count()).into();
    assert!(counts.iter().any(|count| count == "20"), "{counts:?}");
    // Another one in its place begins with what is on disk.
    yard.install("cache", &json!({"state": "elsewhere"}), guest("builds/cached-store.wasm")).await;
    orders(&yard, "reacher", &[("get a", "none")]).await;
    yard.install("cache", &json!({"state": "behind"}), guest("builds/cached-store.wasm")).await;
    orders(&yard, "reacher", &[("get a", "one"), ("get c", "20")]).await;
}

#[tokio::test]
async fn stores_that_lead_back_to_themselves_are_refused() {
    let yard = yard_with(json!({"state": "shop", "store": "first"})).await;
    let store = || guest("builds/cached-store.wasm");
    yard.install("first", &json!({"state": "a", "store": "second"}), store()).await;
    yard.install("second", &json!({"state": "b", "store": "first"}), store()).await;
    refused(&yard, "reacher", "set a one", "leads back").await;
    // Straightened out, it works.
    yard.install("second", &json!({"state": "b"}), store()).await;
    orders(&yard, "reacher", &[("set a one", "set"), ("get a", "one")]).await;
}

fn spawn(folder: &std::path::Path, bus: &str, http: SocketAddr) -> Child {
    Command::new(env!("CARGO_BIN_EXE_functions"))
        .env_clear()
        .env("SHUNT_BUS_URL", bus)
        .env("SHUNT_HTTP_LISTEN", http.to_string())
        .env("SHUNT_DATA_DIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// The answer to one order, while somebody answers.
async fn ask(http: SocketAddr, asked: &str) -> Option<String> {
    let asking = client().post(format!("http://{http}/reacher")).body(asked.to_owned());
    let answer = asking.send().await.ok()?;
    if answer.status() == 200 { answer.text().await.ok() } else { None }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_was_acknowledged_survives_a_kill_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start().await.unwrap();
    let http = fresh_address().unwrap();
    let mut process = spawn(folder.path(), &broker.url(), http);
    eventually(LIMIT, || async {
        let installing = client().put(format!("http://{http}/functions/reacher")).body(reacher());
        let installing = installing.header("Shunt-Grants", json!({"state": "shop"}).to_string());
        installing.send().await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    for _ in 0..3 {
        eventually(LIMIT, || async { ask(http, "increment n 0").await.is_some() }).await;
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let before: usize = ask(http, "get n").await.unwrap().parse().unwrap();
        let counting = tokio::spawn({
            let acknowledged = Arc::clone(&acknowledged);
            async move {
                while let Some(count) = ask(http, "increment n 1").await {
                    acknowledged.store(count.parse().unwrap(), Ordering::Relaxed);
                }
            }
        });
        eventually(LIMIT, || async { acknowledged.load(Ordering::Relaxed) >= before + 20 }).await;
        process.kill().await.unwrap();
        counting.await.unwrap();
        process = spawn(folder.path(), &broker.url(), http);
        eventually(LIMIT, || async { ask(http, "get n").await.is_some() }).await;
        let kept: usize = ask(http, "get n").await.unwrap().parse().unwrap();
        let acknowledged = acknowledged.load(Ordering::Relaxed);
        // One more may have been on disk when the answer was lost.
        assert!((acknowledged..=acknowledged + 1).contains(&kept), "{kept} of {acknowledged}");
    }
    process.kill().await.unwrap();
}
