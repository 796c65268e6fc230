use std::time::Duration;

use rumqttc::mqttbytes::{
    QoS,
    v4::{Packet, Publish},
};
use serde_json::{Value, json};
use shunt_sim::{InvokeError, SimOptions};

use crate::support::{DEVICE, LIMIT, Probe, Stand, call, control, dial, module_token, start, start_with};

async fn method_client(stand: &Stand, module: &str) -> anyhow::Result<Probe> {
    let mut probe = Probe::connect(stand, module).await?;
    probe.subscribe("$iothub/methods/POST/#", QoS::AtMostOnce).await?;
    Ok(probe)
}

/// Takes a call and answers it: name, payload.
async fn serve(
    probe: &mut Probe,
    status: &str,
    rid: impl Fn(&str) -> String,
    body: &str,
) -> anyhow::Result<(String, String)> {
    let publish = probe.receive_publish().await?;
    let (name, query) =
        publish.topic.strip_prefix("$iothub/methods/POST/").unwrap().split_once("/?$rid=").unwrap();
    let topic = format!("$iothub/methods/res/{status}/?$rid={}", rid(query));
    probe.send(&Packet::Publish(Publish::new(topic, QoS::AtMostOnce, body))).await?;
    Ok((name.to_owned(), String::from_utf8(publish.payload.to_vec())?))
}

#[tokio::test]
async fn a_method_is_called_and_answered() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = method_client(&stand, "relay").await?;
    let answer = |status: &'static str, body: &'static str| (status, body);
    // The request id is compared without regard to case; a status that is no number becomes 400000.
    for ((status, body), expected) in [
        (answer("200", r#"{"ok":true}"#), (200, json!({"ok": true}))),
        (answer("500", ""), (500, Value::Null)),
        (answer("fine", "1"), (400_000, json!(1))),
    ] {
        let (result, served) = tokio::join!(
            stand.invoke("relay", "Ping", json!({"n": 1}), LIMIT),
            serve(&mut probe, status, str::to_uppercase, body),
        );
        let result = result?;
        assert_eq!((result.status, result.payload), expected);
        assert_eq!(served?, ("Ping".to_owned(), r#"{"n":1}"#.to_owned()));
    }
    Ok(())
}

#[tokio::test]
async fn a_method_without_a_taker_or_an_answer_fails_in_time() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let short = Duration::from_millis(200);
    let invoke = |module: &'static str| stand.invoke(module, "ping", Value::Null, short);
    assert!(matches!(invoke("ghost").await, Err(InvokeError::Unknown(_))));
    assert!(matches!(invoke("relay").await, Err(InvokeError::NotConnected(_))));
    let mut silent = Probe::connect(&stand, "relay").await?;
    assert!(matches!(invoke("relay").await, Err(InvokeError::NotConnected(_))));
    silent.subscribe("$iothub/methods/POST/#", QoS::AtMostOnce).await?;
    assert!(matches!(invoke("relay").await, Err(InvokeError::NoAnswer(_))));
    // Answers that nobody waits for are ignored.
    serve(&mut silent, "200", |_| "unknown".to_owned(), "{}").await?;
    silent.send(&Packet::Publish(Publish::new("$iothub/methods/res/200/", QoS::AtMostOnce, "{}"))).await?;
    silent.quiet().await?;
    assert!(matches!(
        stand.invoke("relay", &"x".repeat(101), Value::Null, short).await,
        Err(InvokeError::Limit(_))
    ));
    let large = json!("x".repeat(128 * 1024));
    assert!(matches!(stand.invoke("relay", "ping", large, short).await, Err(InvokeError::Limit(_))));
    Ok(())
}

#[tokio::test]
#[expect(clippy::type_complexity, reason = "the rows of a table")]
async fn a_module_calls_another_over_https() -> anyhow::Result<()> {
    let stand = start(&["relay", "camera"]).await?;
    let mut camera = method_client(&stand, "camera").await?;
    let token = module_token(&stand, "relay");
    let path = format!("/twins/{DEVICE}/modules/camera/methods?api-version=2019-10-01");
    let caller = format!("{DEVICE}/relay");
    let headers = [
        ("Authorization", token.as_str()),
        ("x-ms-edge-moduleId", caller.as_str()),
        ("Content-Type", "application/json"),
    ];
    let body = json!({"methodName": "ping", "responseTimeoutInSeconds": 10}).to_string();
    let stream = dial(&stand, stand.https()).await?;
    let (answer, served) = tokio::join!(
        call(stream, "POST", &path, &headers, Some(&body)),
        serve(&mut camera, "500", str::to_owned, r#"{"x":1}"#),
    );
    // The method's own status does not become HTTP's; no payload is an empty one.
    assert_eq!(answer?, (200, json!({"status": 500, "payload": {"x": 1}})));
    assert_eq!(served?, ("ping".to_owned(), String::new()));

    let ping = json!({"methodName": "ping"});
    let other = format!("{DEVICE}/camera");
    let with = |id: &'static str, value: &str| vec![("Authorization", token.clone()), (id, value.to_owned())];
    let cases: Vec<(&str, Vec<(&str, String)>, &str, Value, u16)> = vec![
        ("no caller", vec![("Authorization", token.clone())], "camera", ping.clone(), 400),
        ("a caller of three parts", with("x-ms-edge-moduleId", "a/b/c"), "camera", ping.clone(), 400),
        ("a caller of one part", with("x-ms-edge-moduleId", "relay"), "camera", ping.clone(), 400),
        ("another device", with("x-ms-edge-moduleId", "other/relay"), "camera", ping.clone(), 401),
        ("another module's token", with("x-ms-edge-moduleId", &other), "camera", ping.clone(), 401),
        ("no token", vec![("x-ms-edge-moduleId", caller.clone())], "camera", ping.clone(), 401),
        ("a target not connected", with("x-ms-edge-moduleId", &caller), "relay", ping.clone(), 404),
        ("a target not there", with("x-ms-edge-moduleId", &caller), "ghost", ping.clone(), 404),
        ("no method name", with("x-ms-edge-moduleId", &caller), "camera", json!({}), 400),
        (
            "a long method name",
            with("x-ms-edge-moduleId", &caller),
            "camera",
            json!({"methodName": "x".repeat(101)}),
            400,
        ),
        (
            "a short response time",
            with("x-ms-edge-moduleId", &caller),
            "camera",
            json!({"methodName": "a", "responseTimeoutInSeconds": 4}),
            400,
        ),
        (
            "a long connect time",
            with("x-ms-edge-moduleId", &caller),
            "camera",
            json!({"methodName": "a", "connectTimeoutInSeconds": 301}),
            400,
        ),
        (
            "a large payload",
            with("x-ms-edge-moduleId", &caller),
            "camera",
            json!({"methodName": "a", "payload": "x".repeat(128 * 1024)}),
            400,
        ),
    ];
    for (case, headers, target, body, expected) in cases {
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let stream = dial(&stand, stand.https()).await?;
        let path = format!("/twins/{DEVICE}/modules/{target}/methods");
        let (status, answer) = call(stream, "POST", &path, &headers, Some(&body.to_string())).await?;
        assert_eq!(status, expected, "{case}: {answer}");
        assert!(answer["message"].is_string(), "{case}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_method_waits_for_its_target_to_subscribe() -> anyhow::Result<()> {
    let options = SimOptions { method_settle: Duration::from_millis(50), ..SimOptions::default() };
    let stand = start_with(options, &["relay"]).await?;
    let body = json!({"methodName": "ping", "connectTimeoutInSeconds": 8, "responseTimeoutInSeconds": 8})
        .to_string();
    let path = format!("/twins/{DEVICE}/modules/relay/methods");
    let target = async {
        let mut probe = Probe::connect(&stand, "relay").await?;
        probe.quiet().await?;
        probe.subscribe("$iothub/methods/POST/#", QoS::AtMostOnce).await?;
        serve(&mut probe, "200", str::to_owned, "{}").await
    };
    let (answer, served) = tokio::join!(control(&stand, "POST", &path, Some(&body)), target);
    assert_eq!(answer?, (200, json!({"status": 200, "payload": {}})));
    assert_eq!(served?.0, "ping");
    // Nobody answers: 504.
    let _silent = method_client(&stand, "relay").await?;
    let body = json!({"methodName": "ping", "responseTimeoutInSeconds": 5}).to_string();
    let (status, _) = control(&stand, "POST", &path, Some(&body)).await?;
    assert_eq!(status, 504);
    Ok(())
}
