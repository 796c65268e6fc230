use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use serde_json::{Value, json};
use shunt_sim::HubRecord;

use crate::support::{DEVICE, Probe, call, control, dial, manifest, start};

#[tokio::test]
async fn a_manifest_is_deployed_as_az_does_it_and_running_modules_get_their_settings() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut relay = Probe::connect(&stand, "relay").await?;
    relay.subscribe("$iothub/twin/PATCH/properties/desired/#", QoS::AtMostOnce).await?;
    stand.patch_desired("relay", &json!({"old": 1, "kept": 1}))?;
    relay.receive_publish().await?;

    let mut body = manifest(&["relay", "camera"], &json!({"up": "FROM /messages/* INTO $upstream"}));
    body["modulesContent"]["relay"] = json!({"properties.desired": {"kept": 1, "new": {"a": [1, 2]}}});
    let token = stand.policy_token(Duration::from_mins(1));
    let headers = [("Authorization", token.as_str()), ("Content-Type", "application/json; charset=utf-8")];
    let path = format!("/devices/{DEVICE}/applyConfigurationContent?api-version=2024-03-31");
    let stream = dial(&stand, stand.https()).await?;
    assert_eq!(call(stream, "POST", &path, &headers, Some(&body.to_string())).await?, (204, Value::Null));
    let update = relay.receive_publish().await?;
    assert_eq!(
        serde_json::from_slice::<Value>(&update.payload)?,
        json!({"new": {"a": [1, 2]}, "old": null, "$version": 3})
    );
    let stream = dial(&stand, stand.https()).await?;
    let (status, modules) =
        call(stream, "GET", &format!("/devices/{DEVICE}/modules?api-version=2024-03-31"), &headers, None)
            .await?;
    assert_eq!(status, 200);
    let names: Vec<_> =
        modules.as_array().unwrap().iter().map(|module| module["moduleId"].as_str().unwrap()).collect();
    assert_eq!(names, ["$edgeAgent", "$edgeHub", "camera", "relay"]);
    assert_eq!(modules[3]["connectionState"], "Connected");
    assert!(modules[2]["authentication"]["symmetricKey"]["primaryKey"].is_string());

    // What a later manifest does not name goes; a section left out leaves its twin alone.
    stand.deploy(&manifest(&["relay"], &json!({})))?;
    assert_eq!(stand.twin("camera"), None);
    assert_eq!(
        stand.twin("relay").unwrap()["properties"]["desired"],
        json!({"kept": 1, "new": {"a": [1, 2]}, "$version": 3})
    );
    relay.quiet().await
}

#[tokio::test]
async fn a_manifest_that_is_wrong_changes_nothing() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    let cases = [
        json!({}),
        json!({"modulesContent": []}),
        json!({"modulesContent": {"relay": 1}}),
        json!({"modulesContent": {"relay": {"desired": {}}}}),
        json!({"modulesContent": {"relay": {"properties.desired": 1}}}),
        json!({"modulesContent": {"camera": {"properties.desired": {}}, "relay": {"properties.desired": {"a.b": 1}}}}),
        json!({"modulesContent": {"a b": {"properties.desired": {}}}}),
        json!({"modulesContent": {"relay": {"properties.desired": {"t": "x".repeat(5000)}}}}),
    ];
    for body in cases {
        assert!(stand.deploy(&body).is_err(), "{body}");
        let path = format!("/devices/{DEVICE}/applyConfigurationContent");
        let (status, answer) = control(&stand, "POST", &path, Some(&body.to_string())).await?;
        assert_eq!(status, 400, "{answer}");
        assert_eq!(stand.twin("camera"), None);
        assert_eq!(stand.twin("relay"), None);
    }
    Ok(())
}

#[tokio::test]
async fn a_layer_sets_paths_inside_the_desired_properties() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    stand.deploy(&manifest(&["relay"], &json!({"up": "FROM /messages/* INTO $upstream"})))?;
    stand.deploy(&json!({"content": {"modulesContent": {
        "$edgeHub": {"properties.desired.routes.more": "FROM /messages/* INTO BrokeredEndpoint('/modules/relay/inputs/i')"},
        "relay": {"properties.desired.extra": {"a": 1}},
    }}}))?;
    assert_eq!(stand.twin("relay").unwrap()["properties"]["desired"]["extra"], json!({"a": 1}));
    let routes = stand.twin("$edgeHub").unwrap()["properties"]["desired"]["routes"].clone();
    assert_eq!(routes.as_object().unwrap().len(), 2);
    Ok(())
}

#[tokio::test]
async fn the_hubs_rest_over_tls_wants_a_token_of_the_policy() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let good = stand.policy_token(Duration::from_mins(1));
    let ended = stand.policy_token(Duration::ZERO);
    let module = crate::support::module_token(&stand, "relay");
    let forged = good.replace("sig=", "sig=AAAA");
    let path = format!("/devices/{DEVICE}/modules");
    for (token, expected) in
        [(Some(&good), 200), (Some(&ended), 401), (Some(&module), 401), (Some(&forged), 401), (None, 401)]
    {
        let headers: Vec<(&str, &str)> =
            token.map(|token| ("Authorization", token.as_str())).into_iter().collect();
        let stream = dial(&stand, stand.https()).await?;
        let (status, answer) = call(stream, "GET", &path, &headers, None).await?;
        assert_eq!(status, expected, "{answer}");
    }
    // What only the control address has is not there.
    let stream = dial(&stand, stand.https()).await?;
    let (status, _) = call(stream, "GET", "/status", &[("Authorization", &good)], None).await?;
    assert_eq!(status, 404);
    Ok(())
}

#[tokio::test]
async fn the_control_address_plays_the_clouds_part() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut relay = Probe::connect(&stand, "relay").await?;
    let (status, answer) = control(&stand, "GET", "/status", None).await?;
    assert_eq!(status, 200);
    assert_eq!(answer["modules"], json!([{"id": "relay", "connected": true, "waiting": 0}]));
    assert_eq!((&answer["device"], &answer["messages"]), (&json!(DEVICE), &json!(0)));

    let (_, environment) = control(&stand, "GET", "/modules/relay/environment", None).await?;
    assert_eq!(environment, json!(stand.module_environment("relay")));
    assert_eq!(control(&stand, "GET", "/modules/ghost/environment", None).await?.0, 404);

    let (_, none) = control(&stand, "GET", "/messages?from=1", None).await?;
    assert_eq!(none, json!({"messages": [], "next": 1}));
    let (waited, sent) = tokio::join!(
        control(&stand, "GET", "/messages?from=1&wait=10", None),
        relay.telemetry("out", "&a=1", "x"),
    );
    sent?;
    let (_, answer) = waited?;
    let records: Vec<HubRecord> = serde_json::from_value(answer["messages"].clone())?;
    assert_eq!((records.len(), records[0].properties["a"].as_str(), &answer["next"]), (1, "1", &json!(2)));
    assert_eq!(records, stand.messages_from(1, Duration::ZERO).await);
    assert_eq!(control(&stand, "GET", "/messages?from=x", None).await?.0, 400);

    let twin = format!("/twins/{DEVICE}/modules/relay");
    let body = json!({"properties": {"desired": {"fps": 5}}}).to_string();
    let (status, patched) = control(&stand, "PATCH", &twin, Some(&body)).await?;
    assert_eq!((status, &patched["properties"]["desired"]), (200, &json!({"fps": 5, "$version": 2})));
    assert_eq!(control(&stand, "GET", &twin, None).await?.1, patched);
    for bad in ["{}", "x", r#"{"properties":{"desired":{"a.b":1}}}"#] {
        assert_eq!(control(&stand, "PATCH", &twin, Some(bad)).await?.0, 400);
    }
    assert_eq!(control(&stand, "GET", &format!("/twins/{DEVICE}/modules/ghost"), None).await?.0, 404);

    let (status, _) = control(&stand, "POST", "/faults", Some(r#"{"fault":"drop_connection"}"#)).await?;
    assert_eq!(status, 204);
    relay.expect_closed().await?;
    assert_eq!(control(&stand, "POST", "/faults", Some(r#"{"fault":"earthquake"}"#)).await?.0, 400);

    let (status, module) =
        control(&stand, "PUT", &format!("/devices/{DEVICE}/modules/late"), Some("{}")).await?;
    assert_eq!((status, &module["moduleId"]), (200, &json!("late")));
    Probe::connect(&stand, "late").await?;
    assert_eq!(control(&stand, "PUT", &format!("/devices/{DEVICE}/modules/a%2Fb"), None).await?.0, 400);
    assert_eq!(control(&stand, "GET", "/devices/other/modules", None).await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn the_control_address_answers_no_page_of_elsewhere() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let ask = async |headers: &[(&str, &str)]| {
        let stream = tokio::net::TcpStream::connect(stand.control()).await?;
        anyhow::Ok(call(stream, "GET", "/status", headers, None).await?.0)
    };
    for host in ["localhost", "LOCALHOST:8880", "127.0.0.1:8880", "[::1]:8880", "[::1]"] {
        assert_eq!(ask(&[("Host", host)]).await?, 200, "{host}");
    }
    for host in ["rebound.example", "localhost.example:8880", "127.0.0.1.example", "127.0.0.1:x", ""] {
        assert_eq!(ask(&[("Host", host)]).await?, 403, "{host:?}");
    }
    assert_eq!(ask(&[("Host", "localhost"), ("Origin", "http://localhost:3000")]).await?, 200);
    for origin in ["https://page.example", "null"] {
        assert_eq!(ask(&[("Host", "localhost"), ("Origin", origin)]).await?, 403, "{origin}");
    }
    Ok(())
}
