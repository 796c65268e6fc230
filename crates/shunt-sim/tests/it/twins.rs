use rumqttc::mqttbytes::QoS;
use serde_json::{Value, json};
use shunt_sim::{Fault, PatchError, TwinLimitError};

use crate::support::{Probe, Stand, start};

async fn twin_client(stand: &Stand) -> anyhow::Result<Probe> {
    let mut probe = Probe::connect(stand, "relay").await?;
    probe.subscribe("$iothub/twin/res/#", QoS::AtMostOnce).await?;
    probe.subscribe("$iothub/twin/PATCH/properties/desired/#", QoS::AtMostOnce).await?;
    Ok(probe)
}

async fn patch(probe: &mut Probe) -> anyhow::Result<(String, Value)> {
    let publish = probe.receive_publish().await?;
    Ok((publish.topic.clone(), serde_json::from_slice(&publish.payload)?))
}

#[tokio::test]
async fn a_twin_is_fetched_reported_and_patched() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = twin_client(&stand).await?;
    let (topic, twin) = probe.twin_request("GET", "A-b_1", " ").await?;
    assert_eq!(topic, "$iothub/twin/res/200/?$rid=A-b_1");
    assert_eq!(twin, json!({"desired": {"$version": 1}, "reported": {"$version": 1}}));

    let (topic, body) = probe
        .twin_request("PATCH/properties/reported", "2", r#"{"a":1,"o":{"x":1,"y":2},"$version":9}"#)
        .await?;
    // Without a version, as edgeHub answers.
    assert_eq!((topic.as_str(), body), ("$iothub/twin/res/204/?$rid=2", Value::Null));
    probe.twin_request("PATCH/properties/reported", "3", r#"{"a":null,"o":{"x":null},"list":[1,2]}"#).await?;
    let (_, twin) = probe.twin_request("GET", "4", "").await?;
    assert_eq!(twin["reported"], json!({"o": {"y": 2}, "list": [1, 2], "$version": 3}));

    assert_eq!(stand.patch_desired("relay", &json!({"fps": 5, "kinds": {"face": true, "frame": false}}))?, 2);
    let (topic, body) = patch(&mut probe).await?;
    assert_eq!(topic, "$iothub/twin/PATCH/properties/desired/?$version=2");
    assert_eq!(body, json!({"fps": 5, "kinds": {"face": true, "frame": false}, "$version": 2}));
    stand.patch_desired("relay", &json!({"fps": null, "kinds": {"frame": null}}))?;
    let (_, body) = patch(&mut probe).await?;
    assert_eq!(body, json!({"fps": null, "kinds": {"frame": null}, "$version": 3}));
    let (_, twin) = probe.twin_request("GET", "5", "").await?;
    assert_eq!(twin["desired"], json!({"kinds": {"face": true}, "$version": 3}));
    assert_eq!(stand.twin("relay").unwrap()["properties"]["desired"], twin["desired"]);
    Ok(())
}

#[tokio::test]
async fn a_twin_answer_comes_only_to_who_subscribed() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    // Not this very filter: granted and ignored.
    assert_eq!(probe.subscribe("$iothub/twin/#", QoS::AtLeastOnce).await?, 1);
    probe.publish_get().await?;
    probe.quiet().await?;
    stand.patch_desired("relay", &json!({"a": 1}))?;
    probe.quiet().await?;
    probe.subscribe("$iothub/twin/res/#", QoS::AtLeastOnce).await?;
    probe.publish_get().await?;
    let answer = probe.receive_publish().await?;
    assert_eq!(answer.qos, QoS::AtLeastOnce);
    Ok(())
}

impl Probe {
    async fn publish_get(&mut self) -> anyhow::Result<()> {
        let publish = rumqttc::mqttbytes::v4::Publish::new("$iothub/twin/GET/?$rid=1", QoS::AtMostOnce, "");
        self.send(&rumqttc::mqttbytes::v4::Packet::Publish(publish)).await
    }
}

#[tokio::test]
async fn a_report_that_breaks_a_limit_is_answered_400() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = twin_client(&stand).await?;
    let deep = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    let accepted = [
        format!(r#"{{"t":"{}"}}"#, "x".repeat(4096)),
        format!(r#"{{"{}":1}}"#, "n".repeat(1024)),
        r#"{"n":4503599627370495,"m":-4503599627370496,"f":1.5e300,"b":true,"l":[1,"a",{"x":1}]}"#.to_owned(),
        deep(10),
        "{}".to_owned(),
    ];
    for body in accepted {
        let (topic, _) = probe.twin_request("PATCH/properties/reported", "1", &body).await?;
        assert_eq!(topic, "$iothub/twin/res/204/?$rid=1", "{}", &body[..body.len().min(80)]);
    }
    let big: serde_json::Map<String, Value> =
        (0..10).map(|n| (format!("k{n}"), json!("x".repeat(4000)))).collect();
    let refused = [
        "[1]".to_owned(),
        "no JSON".to_owned(),
        String::new(),
        format!(r#"{{"t":"{}"}}"#, "x".repeat(4097)),
        format!(r#"{{"{}":1}}"#, "n".repeat(1025)),
        r#"{"n":4503599627370496}"#.to_owned(),
        r#"{"n":-4503599627370497}"#.to_owned(),
        r#"{"n":18446744073709551615}"#.to_owned(),
        r#"{"a b":1}"#.to_owned(),
        r#"{"a.b":1}"#.to_owned(),
        r#"{"a#b":1}"#.to_owned(),
        r#"{"x":{"$b":1}}"#.to_owned(),
        "{\"a\\u0001b\":1}".to_owned(),
        r#"{"l":[1,null]}"#.to_owned(),
        deep(11),
        Value::Object(big).to_string(),
    ];
    for body in refused {
        let (topic, answer) = probe.twin_request("PATCH/properties/reported", "1", &body).await?;
        assert_eq!(topic, "$iothub/twin/res/400/?$rid=1", "{}", &body[..body.len().min(80)]);
        assert_eq!(answer, Value::Null);
    }
    Ok(())
}

#[tokio::test]
async fn desired_properties_have_limits_too() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let limit = |patch: Value| match stand.patch_desired("relay", &patch) {
        Err(PatchError::Limit(limit)) => limit,
        other => panic!("{other:?}"),
    };
    assert_eq!(limit(json!([1])), TwinLimitError::NotAnObject);
    assert_eq!(limit(json!({"a.b": 1})), TwinLimitError::Name("a.b".to_owned()));
    assert_eq!(
        limit(json!({"a": {"b": "x".repeat(5000)}})),
        TwinLimitError::Text { path: "a.b".to_owned(), size: 5000 }
    );
    assert_eq!(stand.patch_desired("ghost", &json!({})), Err(PatchError::Unknown("ghost".to_owned())));
    assert_eq!(stand.twin("relay").unwrap()["properties"]["desired"], json!({"$version": 1}));
    Ok(())
}

#[tokio::test]
async fn a_report_can_be_answered_429_or_500_and_is_not_taken_then() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = twin_client(&stand).await?;
    for status in [429, 500] {
        stand.fault(&Fault::AnswerReports { status, count: 1 });
        let (topic, _) = probe.twin_request("PATCH/properties/reported", "1", r#"{"a":1}"#).await?;
        assert_eq!(topic, format!("$iothub/twin/res/{status}/?$rid=1"));
    }
    assert_eq!(stand.twin("relay").unwrap()["properties"]["reported"], json!({"$version": 1}));
    let (topic, _) = probe.twin_request("PATCH/properties/reported", "1", r#"{"a":1}"#).await?;
    assert_eq!(topic, "$iothub/twin/res/204/?$rid=1");
    Ok(())
}

#[tokio::test]
async fn a_lost_patch_leaves_a_gap_in_the_versions() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = twin_client(&stand).await?;
    stand.fault(&Fault::LoseDesiredPatches { module: "relay".to_owned(), count: 1 });
    stand.patch_desired("relay", &json!({"a": 1}))?;
    probe.quiet().await?;
    stand.patch_desired("relay", &json!({"b": 2}))?;
    let (topic, body) = patch(&mut probe).await?;
    assert_eq!(topic, "$iothub/twin/PATCH/properties/desired/?$version=3");
    assert_eq!(body, json!({"b": 2, "$version": 3}));
    Ok(())
}

#[tokio::test]
async fn without_the_cloud_a_twin_comes_from_the_store_or_is_empty() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    stand.patch_desired("relay", &json!({"a": 1, "b": 1}))?;
    let mut probe = twin_client(&stand).await?;
    stand.fault(&Fault::Offline { forget_twins: true });
    let (_, twin) = probe.twin_request("GET", "1", "").await?;
    assert_eq!(twin, json!({"desired": {}, "reported": {}}));
    // Taken, and sent up later.
    let (topic, _) = probe.twin_request("PATCH/properties/reported", "2", r#"{"r":1}"#).await?;
    assert_eq!(topic, "$iothub/twin/res/204/?$rid=2");
    assert_eq!(stand.twin("relay").unwrap()["properties"]["reported"], json!({"$version": 1}));
    stand.fault(&Fault::Online);
    let (topic, body) = patch(&mut probe).await?;
    assert_eq!(
        (topic.as_str(), body),
        ("$iothub/twin/PATCH/properties/desired/?$version=2", json!({"a": 1, "b": 1, "$version": 2}))
    );
    assert_eq!(stand.twin("relay").unwrap()["properties"]["reported"], json!({"r": 1, "$version": 2}));

    // Seen once, it is known while the cloud is away; what changed meanwhile comes as one difference.
    probe.twin_request("GET", "3", "").await?;
    stand.fault(&Fault::Offline { forget_twins: false });
    stand.patch_desired("relay", &json!({"a": null}))?;
    stand.patch_desired("relay", &json!({"c": {"x": 1}}))?;
    probe.quiet().await?;
    let (_, twin) = probe.twin_request("GET", "4", "").await?;
    assert_eq!(twin["desired"], json!({"a": 1, "b": 1, "$version": 2}));
    stand.fault(&Fault::Online);
    let (_, body) = patch(&mut probe).await?;
    assert_eq!(body, json!({"c": {"x": 1}, "a": null, "$version": 4}));
    Ok(())
}
