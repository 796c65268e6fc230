//! Publish and subscribe by plain HTTP.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use shunt_bus::{Bus, BusOptions, Delivery, memory::MemoryBroker};
use shunt_module::Events;
use shunt_testkit::{Ledger, eventually, fresh_address};
use shunt_wire::{Kind, Name, TopicFilter};
use tokio::time::timeout;

use crate::{
    rig::{Gateway, PATIENCE, memory, problem},
    shop::{Answer, Shop, ended, metric, publish, variables},
};

const TRACE: &str = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";

/// A gateway with one app, which subscribes to this.
async fn with_shop(folder: &Path, subscriptions: Value) -> (Gateway, Shop) {
    let shop = Shop::open(subscriptions).await;
    let apps = [("shop", shop.address)];
    let gateway = Gateway::start(variables(folder, &memory(folder), &apps, json!({}), &[])).await;
    (gateway, shop)
}

fn orders(more: Value) -> Value {
    let mut declared = json!({"pubsubname": "pubsub", "topic": "orders", "route": "/orders"});
    declared.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!([declared])
}

#[tokio::test]
async fn what_is_published_comes_to_the_subscriber_with_dapr_s_fields() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, shop) = with_shop(folder.path(), orders(json!({}))).await;
    shop.listens(&gateway, "orders", "/orders").await;
    let posting = gateway.post("/v1.0/publish/pubsub/orders").json(&json!({"n": 7, "big": 1e300}));
    let answer = posting.header("traceparent", TRACE).header("dapr-app-id", "till-2").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (204, ""));

    let posted = shop.has("/orders", 1).await.remove(0);
    assert_eq!(posted.headers["content-type"], "application/cloudevents+json");
    assert_eq!(posted.headers["traceparent"].to_str().unwrap()[..35], TRACE[..35]);
    let event = posted.event;
    assert_eq!(event["data"], json!({"n": 7, "big": 1e300}));
    for (name, value) in [
        ("type", "com.dapr.event.sent"),
        ("source", "till-2"),
        ("specversion", "1.0"),
        ("datacontenttype", "application/json"),
        ("topic", "orders"),
        ("pubsubname", "pubsub"),
        ("traceid", TRACE),
        ("traceparent", TRACE),
    ] {
        assert_eq!(event[name], value, "{name} of {event:#}");
    }
    assert_eq!(event["id"].as_str().unwrap().len(), 36);
    let listed: Value = gateway.get("/v1.0/metadata").send().await.unwrap().json().await.unwrap();
    let subscription = &listed["subscriptions"][0];
    assert_eq!((&subscription["topic"], &subscription["type"]), (&json!("orders"), &json!("PROGRAMMATIC")));
    gateway.stop().await;
}

#[tokio::test]
async fn a_topic_with_a_source_reaches_those_who_want_the_source_and_those_who_want_all() {
    let folder = tempfile::tempdir().unwrap();
    let subscriptions = json!([
        {"pubsubname": "pubsub", "topic": "orders", "route": "/all"},
        {"pubsubname": "pubsub", "topic": "orders/north", "route": "/north"},
    ]);
    let (gateway, shop) = with_shop(folder.path(), subscriptions).await;
    shop.listens(&gateway, "orders/north", "/all").await;
    shop.listens(&gateway, "orders/north", "/north").await;
    publish(&gateway, "orders/south", &json!({"id": "s", "data": 1})).await;
    publish(&gateway, "orders/north", &json!({"id": "n", "data": 2})).await;
    let all = shop.has("/all", 2).await;
    let north = shop.has("/north", 1).await;
    assert_eq!(all.len(), 2);
    assert_eq!(
        (north.len(), &north[0].event["id"], &north[0].event["topic"]),
        (1, &json!("n"), &json!("orders/north"))
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_user_s_own_event_survives_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, shop) = with_shop(folder.path(), orders(json!({}))).await;
    shop.listens(&gateway, "orders", "/orders").await;
    let own = json!({
        "specversion": "1.0", "id": "A-1", "type": "com.shop.order", "source": "https://shop.example/7",
        "subject": "tisch/4", "time": "2026-11-21T09:00:00Z", "datacontenttype": "text/plain", "data": "zwei Bier",
        "traceparent": TRACE, "priority": 3, "with-dash": "x", "lang": "de", "umlaut": "Größe",
    });
    publish(&gateway, "orders", &own).await;
    let event = shop.has("/orders", 1).await.remove(0).event;
    for (name, value) in own.as_object().unwrap() {
        assert_eq!(&event[name], value, "{name}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn events_of_our_own_modules_come_to_apps() {
    let folder = tempfile::tempdir().unwrap();
    let subscriptions = json!([{"pubsubname": "pubsub", "topic": "emotion", "route": "/seen"}]);
    let (gateway, shop) = with_shop(folder.path(), subscriptions).await;
    let bus = Bus::open(BusOptions::new(memory(folder.path()), Name::from_static("emotion"))).unwrap();
    eventually(PATIENCE, || async {
        let event = Events::new().event(Kind::EMOTION, Name::from_static("front-door"));
        let event = event.with_json(&json!({"emotion": "happiness"})).unwrap();
        bus.publish(event, Delivery::Assured).await.unwrap();
        !shop.posted("/seen").is_empty()
    })
    .await;
    let event = shop.posted("/seen").remove(0).event;
    assert_eq!((&event["type"], &event["source"]), (&json!("shunt.emotion.v1"), &json!("shunt/front-door")));
    assert_eq!((&event["topic"], &event["data"]["emotion"]), (&json!("emotion"), &json!("happiness")));
    gateway.stop().await;
}

#[tokio::test]
async fn what_cannot_be_published_is_answered_as_dapr_does() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::with_apps(folder.path(), &[]).await;
    let check = async |path: &str, kind: &str, body: &str, status: u16, code: &str, word: &str| {
        let posting = gateway.post(path).header("content-type", kind).body(body.to_owned());
        let (told, error, message) = problem(posting.send().await.unwrap()).await;
        assert_eq!((told, error.as_str()), (status, code), "{path} {message}");
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    };
    let (json, cloud) = ("application/json", "application/cloudevents+json");
    let (malformed, metadata) = ("ERR_MALFORMED_REQUEST", "ERR_PUBSUB_REQUEST_METADATA");
    check("/v1.0/publish/other/orders", json, "1", 404, "ERR_PUBSUB_NOT_FOUND", "pubsub other not found")
        .await;
    check("/v1.0/publish/pubsub", json, "1", 404, "ERR_TOPIC_EMPTY", "topic is empty in pubsub pubsub").await;
    check("/v1.0/publish/pubsub/", json, "1", 404, "ERR_TOPIC_EMPTY", "topic is empty").await;
    for topic in ["frame", "emotion/front-door", "presence/relay", "dead-letter/gateway", "alert"] {
        let path = format!("/v1.0/publish/pubsub/{topic}");
        check(&path, json, "1", 403, "ERR_PUBSUB_FORBIDDEN", "is not allowed for app id gateway").await;
    }
    for topic in ["orders/+", "%23", "orders/%2B", "a*", "a/b/c", "spaced%20out"] {
        check(&format!("/v1.0/publish/pubsub/{topic}"), json, "1", 400, malformed, "topic").await;
    }
    check("/v1.0/publish/pubsub/orders?metadata.rawPayload=maybe", json, "1", 400, metadata, "rawPayload")
        .await;
    check("/v1.0/publish/pubsub/orders?metadata.ttlInSeconds=x", json, "1", 400, metadata, "ttlInSeconds")
        .await;
    check("/v1.0/publish/pubsub/orders?metadata.delivery=x", json, "1", 400, metadata, "delivery").await;
    for body in ["", "7", "[]", "{", r#"{"id": 7}"#, r#"{"specversion": "0.3"}"#, r#"{"data_base64": "?"}"#] {
        let code = "ERR_PUBSUB_CLOUD_EVENTS_SER";
        check("/v1.0/publish/pubsub/orders", cloud, body, 500, code, "cannot create cloudevent").await;
    }
    let control = r#"{"id": "a\nb"}"#;
    check("/v1.0/publish/pubsub/orders", cloud, control, 400, "ERR_PUBSUB_PUBLISH_MESSAGE", "control").await;
    let large = "x".repeat((4 << 20) + 1);
    check("/v1.0/publish/pubsub/orders", json, &large, 413, malformed, "").await;
    check("/v1.0/publish/bulk/pubsub/orders", json, "{", 400, "ERR_PUBSUB_EVENTS_SER", "unmarshaling").await;
    let twins = r#"[{"entryId": "1", "event": 1, "contentType": "application/json"},
                    {"entryId": "1", "event": 2, "contentType": "application/json"}]"#;
    check("/v1.0-alpha1/publish/bulk/pubsub/orders", json, twins, 400, "ERR_PUBSUB_EVENTS_SER", "duplicated")
        .await;
    assert!(metric(&gateway, "shunt_gateway_published_events_total{outcome=\"refused\"}").await > 20);
    gateway.stop().await;
}

#[tokio::test]
async fn a_bulk_request_tells_which_entries_failed() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, shop) = with_shop(folder.path(), orders(json!({}))).await;
    shop.listens(&gateway, "orders", "/orders").await;
    let entries = json!([
        {"entryId": "1", "event": "a text", "contentType": "text/plain"},
        {"entryId": "2", "event": {"n": 2}, "contentType": "application/json"},
        {"entryId": "3", "event": {"n": 3}, "contentType": "text/plain"},
        {"entryId": "4", "event": "YQ==", "contentType": "application/octet-stream"},
        {"entryId": "5", "event": {"id": "own", "data": 5}, "contentType": "application/cloudevents+json"},
    ]);
    let answer = gateway.post("/v1.0-alpha1/publish/bulk/pubsub/orders").json(&entries).send().await.unwrap();
    assert_eq!(answer.status(), 500);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["errorCode"], "ERR_PUBSUB_PUBLISH_MESSAGE");
    let failed: Vec<_> =
        body["failedEntries"].as_array().unwrap().iter().map(|entry| &entry["entryId"]).collect();
    assert_eq!(failed, ["3"]);
    let posted = shop.has("/orders", 4).await;
    let with = |test: &dyn Fn(&Value) -> bool| posted.iter().any(|posted| test(&posted.event));
    assert!(with(&|event| event["data"] == "a text" && event["datacontenttype"] == "text/plain"));
    assert!(with(&|event| event["data"] == json!({"n": 2})));
    assert!(with(&|event| event["data_base64"] == "YQ=="));
    assert!(with(&|event| event["id"] == "own" && event["data"] == 5));
    gateway.stop().await;
}

#[tokio::test]
async fn rules_raw_payloads_and_expiry_do_what_they_do_in_dapr() {
    let folder = tempfile::tempdir().unwrap();
    let subscriptions = json!([
        {"pubsubname": "pubsub", "topic": "orders", "routes": {
            "rules": [{"match": "event.type == 'big'", "path": "/big"}], "default": "/rest"}},
        {"pubsubname": "pubsub", "topic": "orders/raw", "route": "/raw", "metadata": {"rawPayload": "true"}},
    ]);
    let (gateway, shop) = with_shop(folder.path(), subscriptions).await;
    shop.listens(&gateway, "orders", "/rest").await;
    let send = async |query: &str, body: &str| {
        let posting = gateway.post(&format!("/v1.0/publish/pubsub/orders/raw?{query}")).body(body.to_owned());
        assert_eq!(posting.send().await.unwrap().status(), 204);
    };
    eventually(PATIENCE, || async {
        send("metadata.rawPayload=true", "bytes").await;
        !shop.posted("/raw").is_empty()
    })
    .await;
    let raw = shop.posted("/raw").remove(0).event;
    assert_eq!(
        (&raw["data_base64"], &raw["datacontenttype"]),
        (&json!("Ynl0ZXM="), &json!("application/octet-stream"))
    );
    assert_eq!((&raw["type"], &raw["source"]), (&json!("com.dapr.event.sent"), &json!("Dapr")));

    publish(&gateway, "orders", &json!({"id": "1", "type": "big"})).await;
    publish(&gateway, "orders", &json!({"id": "2", "type": "small"})).await;
    assert_eq!(shop.has("/big", 1).await[0].event["id"], "1");
    eventually(PATIENCE, || async { shop.posted("/rest").iter().any(|posted| posted.event["id"] == "2") })
        .await;
    // An event whose time is over when it comes from the bus.
    publish(&gateway, "orders", &json!({"id": "3", "expiration": "2020-01-01T00:00:00Z"})).await;
    eventually(PATIENCE, || async { ended(&gateway, "shop", "expired").await == 1 }).await;
    send("metadata.ttlInSeconds=3600", "still good").await;
    eventually(PATIENCE, || async {
        shop.posted("/rest")
            .iter()
            .any(|posted| posted.event["data"] == "still good" && posted.event["expiration"].is_string())
    })
    .await;
    assert!(shop.posted("/rest").iter().all(|posted| posted.event["id"] != "3"));
    gateway.stop().await;
}

#[tokio::test]
async fn what_an_app_does_not_take_goes_to_its_dead_letter_topic() {
    let folder = tempfile::tempdir().unwrap();
    let subscriptions = json!([
        {"pubsubname": "pubsub", "topic": "orders", "route": "/orders", "deadLetterTopic": "poison"},
        {"pubsubname": "pubsub", "topic": "poison", "route": "/poison"},
    ]);
    let (gateway, shop) = with_shop(folder.path(), subscriptions).await;
    shop.listens(&gateway, "orders", "/orders").await;
    shop.listens(&gateway, "poison", "/poison").await;
    for (round, answer) in [
        (1, Answer::Text(500, "broken")),
        (2, Answer::Text(200, r#"{"status": "RETRY"}"#)),
        (3, Answer::Text(200, r#"{"status": "WHAT"}"#)),
        (4, Answer::Text(200, r#"{"status": "DROP"}"#)),
        (5, Answer::Text(404, "")),
    ] {
        shop.answers("/orders", answer);
        let id = format!("event-{round}");
        publish(&gateway, "orders", &json!({"id": id, "type": "order", "source": "till", "data": round}))
            .await;
        let letter = shop.has("/poison", round).await.pop().unwrap().event;
        assert_eq!((&letter["id"], &letter["data"]), (&json!(id), &json!(round)));
        assert_eq!((&letter["type"], &letter["source"]), (&json!("order"), &json!("till")));
        assert_eq!(letter["deadletterhops"], "1");
        // Three attempts as set; what the app drops gets one.
        let attempts = shop.posted("/orders").iter().filter(|posted| posted.event["id"] == id).count();
        assert_eq!(attempts, if round < 4 { 3 } else { 1 }, "round {round}");
    }
    assert_eq!(ended(&gateway, "shop", "dead_letter").await, 5);
    // What says nothing readable is a success, as in Dapr.
    shop.answers("/orders", Answer::Text(200, "garbage <<"));
    publish(&gateway, "orders", &json!({"id": "last"})).await;
    eventually(PATIENCE, || async {
        shop.posted("/orders").iter().any(|posted| posted.event["id"] == "last")
    })
    .await;
    eventually(PATIENCE, || async {
        metric(&gateway, "shunt_gateway_queued_events{app=\"shop\"}").await == 0
    })
    .await;
    assert_eq!(shop.posted("/poison").len(), 5);
    gateway.stop().await;
}

#[tokio::test]
async fn without_a_dead_letter_topic_the_bus_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, shop) = with_shop(folder.path(), orders(json!({}))).await;
    let bus = Bus::open(BusOptions::new(memory(folder.path()), Name::from_static("watcher"))).unwrap();
    let filter = TopicFilter::kind(&Kind::DEAD_LETTER);
    let mut letters = bus.subscribe(&filter, Delivery::Assured).await.unwrap();
    shop.listens(&gateway, "orders", "/orders").await;
    shop.answers("/orders", Answer::Text(503, ""));
    publish(&gateway, "orders", &json!({"id": "lost"})).await;
    let letter = timeout(PATIENCE, letters.next()).await.unwrap().unwrap();
    assert_eq!(letter.topic, "shunt/dead-letter/gateway");
    let letter: Value = letter.envelope.unwrap().json().unwrap();
    assert_eq!(letter["topic"], "shunt/orders/gateway");
    assert_eq!(letter["reason"], "event lost: the app answered 503");
    gateway.stop().await;
}

#[tokio::test]
async fn a_ring_of_dead_letter_topics_ends() {
    let folder = tempfile::tempdir().unwrap();
    let subscriptions = json!([
        {"pubsubname": "pubsub", "topic": "ping", "route": "/ping", "deadLetterTopic": "pong"},
        {"pubsubname": "pubsub", "topic": "pong", "route": "/pong", "deadLetterTopic": "ping"},
        {"pubsubname": "pubsub", "topic": "self", "route": "/self", "deadLetterTopic": "self"},
    ]);
    let (gateway, shop) = with_shop(folder.path(), subscriptions).await;
    for topic in ["ping", "pong", "self"] {
        let path = format!("/{topic}");
        shop.listens(&gateway, topic, &path).await;
        shop.answers(&path, Answer::Text(500, ""));
    }
    publish(&gateway, "ping", &json!({"id": "ring"})).await;
    publish(&gateway, "self", &json!({"id": "own"})).await;
    eventually(PATIENCE, || async { ended(&gateway, "shop", "loop").await == 2 }).await;
    eventually(PATIENCE, || async {
        metric(&gateway, "shunt_gateway_queued_events{app=\"shop\"}").await == 0
    })
    .await;
    // Given up five times and delivered again, given up for good the sixth time: three attempts each.
    assert_eq!(shop.posted("/self").len(), 18);
    assert_eq!(shop.posted("/ping").len() + shop.posted("/pong").len(), 18);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_never_answers_holds_up_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let stuck = Shop::open(orders(json!({}))).await;
    let quick = Shop::open(orders(json!({}))).await;
    let gone = fresh_address().unwrap();
    let apps = [("stuck", stuck.address), ("quick", quick.address), ("gone", gone)];
    let declared = json!([{"app": "gone", "pubsubname": "pubsub", "topic": "orders", "route": "/orders"}]);
    let more = [("SHUNT_GATEWAY_SUBSCRIPTIONS", declared.to_string())];
    let more: Vec<_> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let knobs = json!({"in_flight": 2, "answer_s": 0.5});
    let bus = memory(folder.path());
    let gateway = Gateway::start(variables(folder.path(), &bus, &apps, knobs, &more)).await;
    stuck.listens(&gateway, "orders", "/orders").await;
    quick.listens(&gateway, "orders", "/orders").await;
    stuck.answers("/orders", Answer::Never);
    // More than the bus would hand out to one client without acknowledgements.
    for number in 1..=600 {
        publish(&gateway, "orders", &json!({"id": number.to_string(), "data": number})).await;
    }
    let posted = quick.has("/orders", 600).await;
    let mut ledger = Ledger::default();
    for posted in &posted {
        ledger.note(posted.event["data"].as_u64().unwrap());
    }
    assert!(ledger.missing(1..=600).is_empty(), "{:?}", ledger.missing(1..=600));
    assert!(ended(&gateway, "stuck", "delivered").await < 600);
    assert!(metric(&gateway, "shunt_gateway_queued_events{app=\"gone\"}").await >= 600);
    // The app that was not there comes, and gets all.
    let back = Shop::open_at(gone, json!([])).await;
    back.has("/orders", 600).await;
    assert_eq!(ended(&gateway, "gone", "dead_letter").await, 0);
    // The stuck one is given up with, one after the other.
    eventually(PATIENCE, || async { ended(&gateway, "stuck", "dead_letter").await >= 2 }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_full_line_drops_its_oldest_events_and_counts_them() {
    let folder = tempfile::tempdir().unwrap();
    let gone = fresh_address().unwrap();
    let declared = json!([{"app": "gone", "pubsubname": "pubsub", "topic": "orders", "route": "/orders"}]);
    let declared = declared.to_string();
    let more = [("SHUNT_GATEWAY_SUBSCRIPTIONS", declared.as_str())];
    let knobs = json!({"max_queue_events": 10, "in_flight": 1});
    let bus = memory(folder.path());
    let gateway = Gateway::start(variables(folder.path(), &bus, &[("gone", gone)], knobs, &more)).await;
    eventually(PATIENCE, || async {
        publish(&gateway, "orders", &json!({"id": "probe"})).await;
        metric(&gateway, "shunt_gateway_queued_events{app=\"gone\"}").await > 0
    })
    .await;
    for number in 1..=30 {
        publish(&gateway, "orders", &json!({"id": number.to_string()})).await;
    }
    eventually(PATIENCE, || async { ended(&gateway, "gone", "queue_full").await >= 20 }).await;
    assert_eq!(metric(&gateway, "shunt_gateway_queued_events{app=\"gone\"}").await, 10);
    let back = Shop::open_at(gone, json!([])).await;
    eventually(PATIENCE, || async { back.posted("/orders").iter().any(|posted| posted.event["id"] == "30") })
        .await;
    assert!(back.posted("/orders").iter().all(|posted| posted.event["id"] != "1"));
    gateway.stop().await;
}

#[tokio::test]
async fn an_app_may_change_its_mind() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, shop) = with_shop(folder.path(), orders(json!({}))).await;
    shop.listens(&gateway, "orders", "/orders").await;
    shop.wants(json!([{"pubsubname": "pubsub", "topic": "orders", "route": "/other"},
                      {"pubsubname": "pubsub", "topic": "a/b/c", "route": "/never"}]));
    shop.listens(&gateway, "orders", "/other").await;
    shop.wants(json!([]));
    eventually(PATIENCE, || async {
        let told: Value = gateway.get("/v1.0/metadata").send().await.unwrap().json().await.unwrap();
        told["subscriptions"].as_array().is_none_or(Vec::is_empty)
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_app_that_starts_and_does_not_know_yet_what_it_wants_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(orders(json!({}))).await;
    let apps = [("shop", shop.address)];
    let knobs = json!({"forget_s": 3600});
    let gateway = Gateway::start(variables(folder.path(), &memory(folder.path()), &apps, knobs, &[])).await;
    shop.listens(&gateway, "orders", "/orders").await;
    for told in [json!([]), Value::Null] {
        shop.wants(told);
        shop.is_asked().await;
        publish(&gateway, "orders", &json!({"id": "meanwhile"})).await;
    }
    shop.has("/orders", 2).await;
    assert_eq!(ended(&gateway, "shop", "unsubscribed").await, 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_bulk_request_ends_when_the_bus_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::named(memory(folder.path()).trim_start_matches("memory:"));
    let (gateway, shop) = with_shop(folder.path(), orders(json!({}))).await;
    shop.listens(&gateway, "orders", "/orders").await;
    broker.cut();
    let entry = |id: u32| json!({"entryId": id.to_string(), "event": "x", "contentType": "text/plain"});
    let entries: Vec<_> = (1..=100).map(entry).collect();
    // Ten seconds for each would be more than the client waits.
    let posting = gateway.post("/v1.0/publish/bulk/pubsub/orders").json(&entries);
    let answer = posting.send().await.unwrap();
    assert_eq!(answer.status(), 500);
    let told: Value = answer.json().await.unwrap();
    assert_eq!(told["failedEntries"].as_array().unwrap().len(), 100);
    broker.heal();
    gateway.stop().await;
}

#[tokio::test]
async fn live_values_come_to_apps_without_a_queue() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, shop) = with_shop(folder.path(), orders(json!({"metadata": {"delivery": "fast"}}))).await;
    shop.listens(&gateway, "orders", "/orders").await;
    let posting = gateway.post("/v1.0/publish/pubsub/orders?metadata.delivery=fast").body("now");
    assert_eq!(posting.send().await.unwrap().status(), 204);
    assert_eq!(shop.has("/orders", 1).await[0].event["data"], "now");
    shop.answers("/orders", Answer::Text(500, ""));
    publish(&gateway, "orders", &json!({"id": "missed"})).await;
    eventually(PATIENCE, || async { ended(&gateway, "shop", "not_taken").await == 1 }).await;
    assert_eq!(shop.posted("/orders").len(), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn while_the_bus_is_away_a_publisher_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::named(memory(folder.path()).trim_start_matches("memory:"));
    let (gateway, shop) = with_shop(folder.path(), orders(json!({}))).await;
    shop.listens(&gateway, "orders", "/orders").await;
    broker.cut();
    let posting = gateway.post("/v1.0/publish/pubsub/orders?metadata.delivery=fast").body("now");
    let (status, code, _) = problem(posting.send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (500, "ERR_PUBSUB_PUBLISH_MESSAGE"));
    // An assured one waits for the bus.
    let after = json!({"id": "after"});
    let mut publishing = Box::pin(publish(&gateway, "orders", &after));
    assert!(timeout(Duration::from_millis(500), &mut publishing).await.is_err());
    broker.heal();
    publishing.await;
    assert_eq!(shop.has("/orders", 1).await[0].event["id"], "after");
    timeout(Duration::from_secs(8), gateway.stop()).await.unwrap();
}
