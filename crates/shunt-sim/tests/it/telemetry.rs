use std::time::Duration;

use rumqttc::mqttbytes::{
    QoS,
    v4::{Packet, Publish},
};
use serde_json::json;
use shunt_sim::Fault;

use crate::support::{DEVICE, LIMIT, Probe, start};

const EVENTS: &str = "devices/shunt-device/modules/relay/messages/events/";

#[tokio::test]
async fn telemetry_reaches_the_hub_before_its_puback() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    let bag = "%24.ct=application%2Fjson&%24.ce=utf-8&%24.mid=id-1&%24.on=telemetry&kind=emotion&two%20words=a%2Bb%2Fc%20d";
    let id = probe.publish(&format!("{EVENTS}{bag}"), r#"{"score":0.5}"#).await?;
    probe.expect_puback(id).await?;
    let records = stand.messages_from(1, Duration::ZERO).await;
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!(record.sequence, 1);
    assert_eq!((record.device.as_str(), record.module.as_deref()), (DEVICE, Some("relay")));
    assert_eq!(record.output.as_deref(), Some("telemetry"));
    assert_eq!(record.properties["kind"], "emotion");
    assert_eq!(record.properties["two words"], "a+b/c d");
    assert_eq!(record.system["messageId"], "id-1");
    assert_eq!(record.system["connectionModuleId"], "relay");
    assert_eq!((&record.body, record.body_is_base64), (&json!({"score": 0.5}), false));
    assert!(record.received_mono_ns > 0);
    Ok(())
}

#[tokio::test]
async fn topics_are_taken_with_and_without_a_slash_and_a_bag() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    let base = EVENTS.trim_end_matches('/');
    for topic in [
        base.to_owned(),
        format!("{base}/"),
        format!("{base}/%24.on=o"),
        format!("{base}/%24.on=o/"),
        format!("{base}/a="),
    ] {
        let id = probe.publish(&topic, "x").await?;
        probe.expect_puback(id).await?;
    }
    // Quality of service 0 has no PUBACK, and a retained message is a message with a property.
    let mut publish = Publish::new(format!("{base}/%24.on=o"), QoS::AtMostOnce, "y");
    publish.retain = true;
    probe.send(&Packet::Publish(publish)).await?;
    let records = stand.messages_from(6, LIMIT).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].properties["mqtt-retain"], "true");
    assert_eq!((records[0].body.as_str(), records[0].body_is_base64), (Some("eQ=="), true));
    Ok(())
}

#[tokio::test]
async fn what_edgehub_cannot_read_is_acknowledged_and_lost() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    let cases = [
        ("some/other/topic".to_owned(), "bad_topic"),
        (format!("devices/{DEVICE}/modules/relay/messages/eventsx"), "bad_topic"),
        (format!("{EVENTS}a=1/b=2"), "bad_topic"),
        (format!("{EVENTS}a=1&a=2"), "bad_properties"),
        (format!("{EVENTS}%61=1&a=2"), "bad_properties"),
        (format!("{EVENTS}a=%FF"), "bad_properties"),
    ];
    let mut lost = std::collections::BTreeMap::<String, u64>::new();
    for (topic, reason) in cases {
        let id = probe.publish(&topic, "x").await?;
        probe.expect_puback(id).await?;
        *lost.entry(reason.to_owned()).or_default() += 1;
        assert_eq!(stand.dropped(), lost, "{topic}");
    }
    assert_eq!(stand.message_count(), 0);
    Ok(())
}

#[tokio::test]
async fn breaches_of_the_protocol_close_the_connection() -> anyhow::Result<()> {
    let stand = start(&["relay", "camera"]).await?;
    let qos2 = b"\x34\x06\x00\x01a\x00\x01x".to_vec();
    let qos3 = b"\x36\x06\x00\x01a\x00\x01x".to_vec();
    let publish = |topic: &str| {
        let mut bytes = vec![0x30, (topic.len() + 2) as u8, 0, topic.len() as u8];
        bytes.extend_from_slice(topic.as_bytes());
        bytes
    };
    let cases = [
        ("quality of service 2", qos2),
        ("quality of service 3", qos3),
        ("a plus in the topic", publish(&format!("{EVENTS}a=b+c"))),
        ("a hash in the topic", publish(&format!("{EVENTS}a=b#c"))),
        ("another module's topic", publish(&format!("devices/{DEVICE}/modules/camera/messages/events/"))),
        ("another device's topic", publish("devices/other/messages/events/")),
        ("a twin topic that is none", publish("$iothub/twin/PUT/?$rid=1")),
        ("a GET without a request id", publish("$iothub/twin/GET/")),
        ("a GET with an empty request id", publish("$iothub/twin/GET/?$rid=")),
        ("a topic of the hub that is none", publish("$iothub/other")),
        ("a length of five bytes", vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ("a packet type of servers", vec![0x20, 2, 0, 0]),
        ("a subscription without a filter", vec![0x82, 2, 0, 1]),
        ("a topic that is not UTF-8", vec![0x30, 4, 0, 2, 0xc3, 0x28]),
        ("a second CONNECT", b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04abcd".to_vec()),
    ];
    for (case, bytes) in cases {
        let mut probe = Probe::connect(&stand, "relay").await?;
        probe.raw(&bytes).await?;
        probe.expect_closed().await.map_err(|error| error.context(case))?;
    }
    assert_eq!(stand.message_count(), 0);
    Ok(())
}

#[tokio::test]
async fn the_largest_packet_passes_and_one_byte_more_closes() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    // Fixed header 1 + 3, topic 2 + its bytes, packet id 2.
    let body = "x".repeat(262_144 - 8 - EVENTS.len());
    let id = probe.publish(EVENTS, &body).await?;
    probe.expect_puback(id).await?;
    assert_eq!(stand.message_count(), 1);
    // The header alone condemns it.
    probe.raw(&[0x32, 0xfd, 0xff, 0x0f]).await?;
    probe.expect_closed().await
}

#[tokio::test]
async fn a_message_that_matches_no_route_is_acknowledged_and_counted() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    let routes = json!({"up": "FROM /messages/modules/relay/outputs/telemetry INTO $upstream"});
    stand.deploy(&crate::support::manifest(&["relay"], &routes))?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    probe.telemetry("debug", "", "{}").await?;
    probe.telemetry("telemetry", "", "{}").await?;
    assert_eq!(stand.message_count(), 1);
    assert_eq!(stand.dropped()["no_route"], 1);
    Ok(())
}

#[tokio::test]
async fn a_withheld_puback_never_comes_and_the_message_is_stored_or_not_as_asked() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    stand.fault(&Fault::WithholdAcknowledgements {
        module: Some("relay".to_owned()),
        count: 1,
        stored: true,
    });
    probe.publish(EVENTS, "1").await?;
    // The PUBACKs keep their order, so those behind it wait too.
    probe.publish(EVENTS, "2").await?;
    probe.quiet().await?;
    assert_eq!(stand.message_count(), 2);
    let mut again = Probe::connect(&stand, "relay").await?;
    stand.fault(&Fault::WithholdAcknowledgements { module: None, count: 1, stored: false });
    again.publish(EVENTS, "3").await?;
    again.quiet().await?;
    assert_eq!(stand.message_count(), 2);
    Ok(())
}

#[tokio::test]
async fn a_delayed_puback_holds_the_reader_back_at_sixteen() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    stand.fault(&Fault::DelayAcknowledgements { milliseconds: 700 });
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(probe.publish(EVENTS, &number.to_string()).await?);
    }
    stand.messages_from(16, LIMIT).await;
    probe.quiet().await?;
    assert_eq!(stand.message_count(), 16);
    for id in ids {
        probe.expect_puback(id).await?;
    }
    assert_eq!(stand.message_count(), 20);
    Ok(())
}

#[tokio::test]
async fn telemetry_waits_while_the_cloud_is_away() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    stand.fault(&Fault::Offline { forget_twins: false });
    probe.telemetry("a", "", "1").await?;
    probe.telemetry("b", "", "2").await?;
    assert_eq!(stand.message_count(), 0);
    stand.fault(&Fault::Online);
    let outputs: Vec<_> =
        stand.messages_from(1, LIMIT).await.into_iter().filter_map(|record| record.output).collect();
    assert_eq!(outputs, ["a", "b"]);
    Ok(())
}

#[tokio::test]
async fn old_records_go_and_the_count_stays() -> anyhow::Result<()> {
    let options = shunt_sim::SimOptions { keep_records: 2, ..shunt_sim::SimOptions::default() };
    let stand = crate::support::start_with(options, &["relay"]).await?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    for _ in 0..5 {
        probe.telemetry("o", "", "x").await?;
    }
    let sequences: Vec<u64> =
        stand.messages_from(0, LIMIT).await.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, [4, 5]);
    assert_eq!(stand.message_count(), 5);
    Ok(())
}
