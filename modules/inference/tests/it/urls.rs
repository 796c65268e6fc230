//! Pictures from addresses: only from hosts that the settings allow.

use axum::{
    Router,
    http::{StatusCode, header},
    response::Redirect,
    routing::get,
};
use inference::InferenceSettings;
use serde_json::{Value, json};
use shunt_vision::encode_png;
use tokio::net::TcpListener;

use crate::yard::{Yard, blue, with_model};

/// A host with pictures, on `localhost`; its port.
async fn host() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let picture = || async { ([(header::CONTENT_TYPE, "image/png")], encode_png(&blue()).unwrap()) };
    let routes = Router::new()
        .route("/a.png", get(picture))
        .route("/there", get(|| async { Redirect::temporary("/a.png") }))
        .route("/again", get(|| async { Redirect::temporary("/again") }))
        .route(
            "/inside",
            get(move || async move { Redirect::temporary(&format!("http://127.0.0.1:{port}/a.png")) }),
        )
        .route("/far", get(|| async { Redirect::temporary("http://169.254.169.254/latest/meta-data") }))
        .route("/nowhere", get(|| async { StatusCode::FOUND }))
        .route("/large", get(|| async { vec![0_u8; 2 << 20] }))
        .route("/text", get(|| async { "hello" }));
    tokio::spawn(axum::serve(listener, routes).into_future());
    port
}

async fn ask(yard: &Yard, body: Value) -> (u16, Value) {
    let (status, _, answer) = yard.post("/url", "application/json", body.to_string()).await;
    (status, answer)
}

#[tokio::test]
async fn a_picture_of_an_allowed_host_is_fetched_and_no_other() {
    let port = host().await;
    let settings = InferenceSettings {
        url_hosts: vec![format!("localhost:{port}")],
        max_body_mb: 1,
        ..with_model("colours")
    };
    let yard = Yard::start(settings).await;
    for (address, key) in [("a.png", "url"), ("a.png", "Url"), ("there", "url")] {
        let (status, answer) = ask(&yard, json!({key: format!("http://localhost:{port}/{address}")})).await;
        assert_eq!((status, &answer["predictions"][0]["tagName"]), (200, &json!("blue")), "{answer}");
    }
    let at = |path: &str| format!("http://localhost:{port}/{path}");
    for (address, status, detail) in [
        (at("again"), 502, "the host redirects more than 3 times"),
        (at("inside"), 502, "redirects to 127.0.0.1"),
        (at("far"), 502, "redirects to 169.254.169.254, which is not followed"),
        (at("nowhere"), 502, "the redirect leads nowhere"),
        (at("none"), 502, "the host answered 404"),
        (at("large"), 413, "max_body_mb allows, 1048576"),
        (at("text"), 400, "no JPEG, PNG, BMP, GIF or WebP picture"),
        (format!("http://127.0.0.1:{port}/a.png"), 403, "is not among the hosts of the setting url_hosts"),
        ("http://localhost/a.png".to_owned(), 403, "localhost is not among"),
        ("file:///etc/passwd".to_owned(), 400, "only http and https"),
        ("a picture".to_owned(), 400, "relative URL without a base"),
    ] {
        let (found, answer) = ask(&yard, json!({"url": address})).await;
        assert_eq!(found, status, "{address}: {answer}");
        assert!(answer["detail"].as_str().unwrap().contains(detail), "{answer}");
        assert!(answer["code"].is_string() && answer["message"].is_string(), "{answer}");
    }
    let (status, answer) = ask(&yard, json!({"address": 1})).await;
    assert_eq!(status, 400);
    assert!(answer["detail"].as_str().unwrap().contains("missing field `url`"), "{answer}");
}

#[tokio::test]
async fn no_address_is_asked_where_no_host_is_allowed() {
    let port = host().await;
    let yard = Yard::start(with_model("colours")).await;
    let (status, answer) = ask(&yard, json!({"url": format!("http://localhost:{port}/a.png")})).await;
    assert_eq!(status, 403, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("the setting url_hosts"), "{answer}");
}
