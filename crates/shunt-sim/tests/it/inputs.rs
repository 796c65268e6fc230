use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use serde_json::json;
use shunt_sim::SimOptions;
use shunt_testkit::eventually;

use crate::support::{DEVICE, LIMIT, Probe, manifest, start, start_with};

#[tokio::test]
async fn a_route_leads_to_an_input_and_the_hub_alike() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    let routes = json!({
        "up": "FROM /messages/* INTO $upstream",
        "in": r#"FROM /messages/modules/camera/outputs/* WHERE kind = 'face' INTO BrokeredEndpoint("/modules/relay/inputs/faces")"#,
    });
    stand.deploy(&manifest(&["camera", "relay"], &routes))?;
    let mut relay = Probe::connect(&stand, "relay").await?;
    relay.subscribe_inputs().await?;
    let mut camera = Probe::connect(&stand, "camera").await?;
    camera.telemetry("frames", "&kind=frame", "1").await?;
    camera
        .telemetry("faces", "&kind=face&two%20words=a%2Bb&%24.mid=m-1&%24.ct=application%2Fjson", "{}")
        .await?;
    let message = relay.receive_publish().await?;
    assert_eq!(
        message.topic,
        format!(
            "devices/{DEVICE}/modules/relay/inputs/faces/%24.cdid={DEVICE}&%24.cmid=camera\
             &%24.ct=application%2Fjson&%24.mid=m-1&kind=face&two%20words=a%2Bb"
        )
    );
    assert_eq!(
        (message.payload.as_ref(), message.qos, message.retain),
        (b"{}".as_slice(), QoS::AtLeastOnce, false)
    );
    relay.acknowledge(message.pkid).await?;
    relay.quiet().await?;
    assert_eq!(stand.message_count(), 2);
    Ok(())
}

#[tokio::test]
async fn messages_wait_for_a_module_and_come_one_at_a_time() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    // The sink is in no manifest.
    let routes = json!({"in": r"FROM /messages/* INTO BrokeredEndpoint('/modules/late/inputs/i')"});
    stand.deploy(&manifest(&["camera"], &routes))?;
    let mut camera = Probe::connect(&stand, "camera").await?;
    for body in ["1", "2", "3"] {
        camera.telemetry("o", "", body).await?;
    }
    stand.add_module("late")?;
    assert_eq!(stand.waiting_for("late"), 3);
    let mut late = Probe::connect(&stand, "late").await?;
    // Without a filter nothing comes, and the exact topic is not a filter that edgeHub knows.
    assert_eq!(
        late.subscribe(&format!("devices/{DEVICE}/modules/late/inputs/i"), QoS::AtLeastOnce).await?,
        1
    );
    late.quiet().await?;
    late.subscribe_inputs().await?;
    for body in ["1", "2", "3"] {
        let message = late.receive_publish().await?;
        assert_eq!(message.payload, body);
        late.quiet().await?;
        late.acknowledge(message.pkid).await?;
    }
    eventually(LIMIT, || async { stand.waiting_for("late") == 0 }).await;
    Ok(())
}

#[tokio::test]
async fn a_message_that_is_not_acknowledged_comes_again_on_this_connection_and_the_next() -> anyhow::Result<()>
{
    let options = SimOptions { message_ack_timeout: Duration::from_millis(600), ..SimOptions::default() };
    let stand = start_with(options, &[]).await?;
    let routes = json!({"in": r"FROM /messages/* INTO BrokeredEndpoint('/modules/relay/inputs/i')"});
    stand.deploy(&manifest(&["camera", "relay"], &routes))?;
    let mut camera = Probe::connect(&stand, "camera").await?;
    camera.telemetry("o", "", "1").await?;
    let mut relay = Probe::connect(&stand, "relay").await?;
    // The short form of the C client covers the inputs too.
    relay.subscribe(&format!("devices/{DEVICE}/modules/relay/#"), QoS::AtLeastOnce).await?;
    let first = relay.receive_publish().await?;
    let second = relay.receive_publish().await?;
    assert_eq!((&first.topic, &first.payload), (&second.topic, &second.payload));
    assert_ne!(first.pkid, second.pkid);
    // The second before the first: ignored, and it stalls.
    relay.acknowledge(second.pkid).await?;
    let third = relay.receive_publish().await?;
    assert_eq!(third.payload, "1");
    assert_eq!(stand.dropped()["puback_out_of_order"], 1);
    drop(relay);
    let mut relay = Probe::connect(&stand, "relay").await?;
    relay.subscribe_inputs().await?;
    let again = relay.receive_publish().await?;
    assert_eq!(again.payload, "1");
    relay.acknowledge(again.pkid).await?;
    eventually(LIMIT, || async { stand.waiting_for("relay") == 0 }).await;
    Ok(())
}

#[tokio::test]
async fn acknowledgements_in_order_over_inputs_and_methods_are_taken() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    let routes = json!({"in": r"FROM /messages/* INTO BrokeredEndpoint('/modules/relay/inputs/i')"});
    stand.deploy(&manifest(&["camera", "relay"], &routes))?;
    let mut relay = Probe::connect(&stand, "relay").await?;
    relay.subscribe_inputs().await?;
    relay.subscribe("$iothub/twin/PATCH/properties/desired/#", QoS::AtLeastOnce).await?;
    let mut camera = Probe::connect(&stand, "camera").await?;
    camera.telemetry("o", "", "1").await?;
    let message = relay.receive_publish().await?;
    stand.patch_desired("relay", &json!({"a": 1}))?;
    let patch = relay.receive_publish().await?;
    // The patch first: it is not the oldest, so it does not count.
    relay.acknowledge(patch.pkid).await?;
    relay.acknowledge(message.pkid).await?;
    relay.acknowledge(patch.pkid).await?;
    eventually(LIMIT, || async { stand.waiting_for("relay") == 0 }).await;
    assert_eq!(stand.dropped()["puback_out_of_order"], 1);
    Ok(())
}

#[tokio::test]
async fn priority_orders_and_time_to_live_ends_what_waits() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    let routes = json!({
        "low": {"route": "FROM /messages/modules/camera/outputs/low INTO BrokeredEndpoint('/modules/relay/inputs/i')", "priority": 9},
        "high": {"route": "FROM /messages/modules/camera/outputs/high INTO BrokeredEndpoint('/modules/relay/inputs/i')", "priority": 0},
        "twice": "FROM /messages/modules/camera/outputs/high INTO BrokeredEndpoint('/modules/relay/inputs/i')",
        "short": {"route": "FROM /messages/modules/camera/outputs/short INTO BrokeredEndpoint('/modules/relay/inputs/i')", "priority": 1, "timeToLiveSecs": 1},
    });
    stand.deploy(&manifest(&["camera", "relay"], &routes))?;
    assert_eq!(stand.routing_error(), None);
    let mut camera = Probe::connect(&stand, "camera").await?;
    for output in ["low", "short", "high"] {
        camera.telemetry(output, "", output).await?;
    }
    assert_eq!(stand.waiting_for("relay"), 3);
    eventually(LIMIT, || async { stand.waiting_for("relay") == 2 }).await;
    assert_eq!(stand.dropped()["ttl_expiry"], 1);
    let mut relay = Probe::connect(&stand, "relay").await?;
    relay.subscribe_inputs().await?;
    for body in ["high", "low"] {
        let message = relay.receive_publish().await?;
        assert_eq!(message.payload, body);
        relay.acknowledge(message.pkid).await?;
    }
    relay.quiet().await
}

#[tokio::test]
async fn a_bad_route_refuses_the_whole_and_the_last_good_one_stays() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    stand.deploy(&manifest(&["camera"], &json!({"up": "FROM /messages/* INTO $upstream"})))?;
    let bad = json!({"good": "FROM /messages/* INTO $upstream", "bad": "FROM nowhere INTO", "worse": 7});
    stand.deploy(&manifest(&["camera"], &bad))?;
    let error = stand.routing_error().unwrap();
    assert!(error.contains("\"bad\"") && error.contains("\"worse\""), "{error}");
    let reported = stand.twin("$edgeHub").unwrap()["properties"]["reported"].clone();
    assert_eq!(reported["lastDesiredStatus"]["code"], 400);
    let mut camera = Probe::connect(&stand, "camera").await?;
    camera.telemetry("o", "", "1").await?;
    assert_eq!(stand.message_count(), 1);
    Ok(())
}

#[tokio::test]
async fn quality_of_service_zero_needs_no_acknowledgement() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    let routes = json!({"in": r"FROM /messages/* INTO BrokeredEndpoint('/modules/relay/inputs/i')"});
    stand.deploy(&manifest(&["camera", "relay"], &routes))?;
    let mut relay = Probe::connect(&stand, "relay").await?;
    assert_eq!(
        relay.subscribe(&format!("devices/{DEVICE}/modules/relay/inputs/#"), QoS::AtMostOnce).await?,
        0
    );
    let mut camera = Probe::connect(&stand, "camera").await?;
    for body in ["1", "2"] {
        camera.telemetry("o", "", body).await?;
        let message = relay.receive_publish().await?;
        assert_eq!((message.payload.as_ref(), message.qos), (body.as_bytes(), QoS::AtMostOnce));
    }
    assert_eq!(stand.waiting_for("relay"), 0);
    // Quality of service 2 is granted as 1.
    assert_eq!(relay.subscribe("$iothub/twin/res/#", QoS::ExactlyOnce).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_change_of_reported_properties_is_routed_where_asked_for() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    let routes = json!({"twins": r"FROM /twinChangeNotifications INTO BrokeredEndpoint('/modules/relay/inputs/twins')"});
    stand.deploy(&manifest(&["camera", "relay"], &routes))?;
    let mut relay = Probe::connect(&stand, "relay").await?;
    relay.subscribe_inputs().await?;
    let mut camera = Probe::connect(&stand, "camera").await?;
    camera.subscribe("$iothub/twin/res/#", QoS::AtMostOnce).await?;
    camera.twin_request("PATCH/properties/reported", "1", r#"{"fps":5}"#).await?;
    let message = relay.receive_publish().await?;
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&message.payload)?,
        json!({"properties":{"reported":{"fps":5}}})
    );
    Ok(())
}
