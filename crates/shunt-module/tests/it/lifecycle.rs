//! Start, pages, drain, exit code.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use shunt_bus::{Bus, BusOptions, Delivery};
use shunt_module::{Context, HttpProblem, check_page};
use shunt_testkit::eventually;
use shunt_wire::{Kind, Name, TopicFilter, events::Presence};

use crate::heart::{Heart, HeartSettings, environment};

#[tokio::test(flavor = "multi_thread")]
async fn a_module_serves_its_pages_and_ends_with_code_0_when_it_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let heart = Heart::start(environment(folder.path(), &[])).await;
    eventually(Duration::from_secs(5), || async { heart.get("/readyz").await.0 == 200 }).await;
    assert_eq!(heart.get("/healthz").await.0, 200);
    let (status, page) = heart.get("/metrics").await;
    assert_eq!(status, 200);
    let page = unchunked(&page);
    assert_eq!(check_page(&page), Ok(()), "{page}");
    assert!(page.contains("shunt_module_info{module=\"heart\""), "{page}");
    assert_eq!(heart.get("/nothing").await.0, 404);
    assert_eq!(heart.stop().await, 0);
}

/// The body of an answer that may come in chunks.
fn unchunked(body: &str) -> String {
    if !body.starts_with(|sign: char| sign.is_ascii_hexdigit()) || body.starts_with('#') {
        return body.to_owned();
    }
    let lines = body.split("\r\n").enumerate();
    lines.filter(|(index, _)| index % 2 == 1).map(|(_, line)| line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_names_the_parts_that_are_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let heart = Heart::start(environment(folder.path(), &[])).await;
    eventually(Duration::from_secs(5), || async { heart.get("/readyz").await.0 == 200 }).await;
    heart.health.set("valve", Err("it is stuck".to_owned()));
    heart.health.note("mood", "low");
    let (status, body) = heart.get("/readyz").await;
    assert_eq!(status, 503);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["ready"], json!(false));
    assert_eq!(body["parts"]["valve"], json!({"ready": false, "reason": "it is stuck"}));
    assert_eq!(body["parts"]["mood"], json!({"ready": true, "note": "low"}));
    heart.health.set("valve", Ok(()));
    assert_eq!(heart.get("/readyz").await.0, 200);
    heart.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let heart = Heart::start(environment(folder.path(), &[])).await;
    let post = |length: usize| {
        format!(
            "POST /echo HTTP/1.1\r\nhost: heart\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{}",
            "x".repeat(length)
        )
    };
    assert_eq!(heart.ask(&post(10)).await, (200, "x".repeat(10)));
    assert_eq!(heart.ask(&post(1024 * 1024 + 1)).await.0, 413);
    heart.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_settings_end_the_module_with_code_78() {
    let folder = tempfile::tempdir().unwrap();
    let variables = environment(
        folder.path(),
        &[
            ("SHUNT_HEART_RATE", "500"),
            ("SHUNT_HEART_RAT", "5"),
            ("SHUNT_DRAIN_LIMIT", "soon"),
            ("SHUNT_BUS_URL", "carrier-pigeon"),
            ("SHUNT_HTTP_LISTEN", "8080"),
            ("IOTEDGE_MODULEID", "a b"),
        ],
    );
    let never = std::future::pending();
    let code =
        shunt_module::live(&variables, never, |_: Context<HeartSettings>| async { anyhow::Ok(()) }).await;
    assert_eq!(code, 78);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_fails_ends_with_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let heart = Heart::start(environment(folder.path(), &[("SHUNT_HEART_OWNER", "faint")])).await;
    assert_eq!(heart.ended().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_ends_a_module_that_is_not_ready_for_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let heart = Heart::start(environment(folder.path(), &[("SHUNT_WATCHDOG", "0.5")])).await;
    heart.health.set("valve", Err("it is stuck".to_owned()));
    assert_eq!(heart.ended().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_does_not_finish_is_ended_at_the_drain_limit() {
    let folder = tempfile::tempdir().unwrap();
    let variables = environment(folder.path(), &[("SHUNT_DRAIN_LIMIT", "0.4")]);
    let begun = tokio::time::Instant::now();
    let stop = std::future::ready("the test");
    let code = shunt_module::live(&variables, stop, |_: Context<HeartSettings>| {
        std::future::pending::<anyhow::Result<()>>()
    })
    .await;
    assert_eq!(code, 0);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_modules_do_not_share_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let heart = Heart::start(environment(folder.path(), &[])).await;
    let mut variables: BTreeMap<_, _> = environment(folder.path(), &[]);
    variables.insert("SHUNT_HTTP_LISTEN".to_owned(), heart.http.to_string());
    let never = std::future::pending();
    let code =
        shunt_module::live(&variables, never, |_: Context<HeartSettings>| async { anyhow::Ok(()) }).await;
    assert_eq!(code, 1);
    heart.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_tells_on_the_bus_that_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let variables = environment(folder.path(), &[]);
    let bus = Bus::open(BusOptions::new(variables["SHUNT_BUS_URL"].clone(), Name::from_static("observer")))
        .unwrap();
    let mut presence = bus.subscribe(&TopicFilter::kind(&Kind::PRESENCE), Delivery::Assured).await.unwrap();
    let heart = Heart::start(variables).await;
    let port = heart.http.port();
    let seen = tokio::time::timeout(Duration::from_secs(5), presence.next()).await.unwrap().unwrap();
    let event = seen.envelope.unwrap();
    let told: Presence = event.json().unwrap();
    assert!(told.online);
    assert_eq!((told.port, event.source.as_str()), (Some(port), "heart"));
    heart.stop().await;
}

#[tokio::test]
async fn an_error_of_a_route_is_problem_json() {
    use axum::{http::StatusCode, response::IntoResponse};

    let answer = HttpProblem::new(StatusCode::NOT_FOUND, "no such picture", "there are 3").into_response();
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
}
