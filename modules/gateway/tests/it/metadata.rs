//! What the gateway tells of itself, and what it does not do.

use serde_json::Value;

use crate::rig::{Gateway, problem};

#[tokio::test]
async fn metadata_tells_what_there_is_and_keeps_attributes() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::with_apps(folder.path(), &[]).await;
    let url = gateway.url("/v1.0/metadata/cliPID");
    assert_eq!(gateway.client.put(&url).body("4711").send().await.unwrap().status(), 204);
    let metadata: Value = gateway.get("/v1.0/metadata").send().await.unwrap().json().await.unwrap();
    assert_eq!(metadata["id"], "gateway");
    assert_eq!(metadata["extended"]["cliPID"], "4711");
    assert!(metadata["runtimeVersion"].is_string());
    assert!(metadata["components"].is_array() && metadata["subscriptions"].is_array());

    let (status, code, _) =
        problem(gateway.client.put(&url).body("x".repeat(5000)).send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (400, "ERR_MALFORMED_REQUEST"));
    let (status, code, _) = problem(gateway.client.put(&url).body(vec![0xff]).send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (400, "ERR_MALFORMED_REQUEST"));
    for number in 0..255 {
        let url = gateway.url(&format!("/v1.0/metadata/key-{number}"));
        assert_eq!(gateway.client.put(&url).body("x").send().await.unwrap().status(), 204);
    }
    let url = gateway.url("/v1.0/metadata/one-too-many");
    let (status, _, message) = problem(gateway.client.put(&url).body("x").send().await.unwrap()).await;
    assert_eq!((status, message.as_str()), (400, "there are 256 attributes already"));
    gateway.stop().await;
}

#[tokio::test]
async fn an_app_cannot_stop_the_gateway_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::with_apps(folder.path(), &[]).await;
    let (status, code, message) = problem(gateway.post("/v1.0/shutdown").send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (403, "ERR_SHUTDOWN_REFUSED"));
    assert!(message.contains("serves all apps of the device"), "{message}");
    assert_eq!(gateway.get("/v1.0/healthz").send().await.unwrap().status(), 204);
    gateway.stop().await;
}

#[tokio::test]
async fn routes_that_are_not_there_and_wrong_verbs_are_told_in_dapr_s_form() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::with_apps(folder.path(), &[]).await;
    for path in ["/v1.0/actors/a/b/method/c", "/v1.0/bindings/x", "/v1.0/shutdown", "/v2.0/metadata", "/x"] {
        let (status, code, _) = problem(gateway.get(path).send().await.unwrap()).await;
        assert_eq!((status, code.as_str()), (404, "ERR_DIRECT_INVOKE"), "{path}");
    }
    gateway.stop().await;
}
