//! What a client must not be able to do.

use std::time::Duration;

use anyhow::Context as _;
use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{Filter, LastWill, LastWillProperties, Packet, PubAckReason, Publish, Subscribe},
};
use shunt_bus::{Bus, BusTls, Delivery, PublishError, Subscription};
use shunt_testkit::eventually;
use shunt_wire::Kind;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    raw::RawClient,
    support::{Device, LIMIT, event, publish, subscribe, take},
};

/// Two modules that go on whatever others do.
struct Bystanders {
    emotion: Bus,
    relay: Bus,
    events: Subscription,
    sent: u64,
}

// === impl Bystanders ===

impl Bystanders {
    async fn new(device: &Device) -> anyhow::Result<Self> {
        let (emotion, relay) = (device.module("emotion").await?, device.module("relay").await?);
        let events = subscribe(&relay, &Kind::EMOTION).await?;
        Ok(Self { emotion, relay, events, sent: 0 })
    }

    /// An event still goes from one to the other, and is the next that comes.
    async fn go_on(&mut self) -> anyhow::Result<()> {
        self.sent += 1;
        publish(&self.emotion, &Kind::EMOTION, "front-door", self.sent).await?;
        assert_eq!(take(&mut self.events).await?, self.sent.to_string());
        Ok(())
    }

    /// Neither was cut off.
    fn stayed(&self) {
        for bus in [&self.emotion, &self.relay] {
            assert_eq!(bus.counters().reconnects, 0);
        }
    }
}

/// A certificate for the client `name` of an authority that nobody trusts.
fn foreign(name: &str) -> anyhow::Result<(String, String)> {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    };
    let mut params = CertificateParams::new(vec![])?;
    // The name of the real one.
    params.distinguished_name.push(DnType::CommonName, "shunt-sim test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok((params.signed_by(&key, &authority)?.pem(), key.serialize_pem()))
}

#[tokio::test]
async fn who_does_not_prove_which_module_it_is_does_not_get_in() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let mut bystanders = Bystanders::new(&device).await?;
    let identity = |identity: (String, String)| BusTls { trust: String::new(), identity: Some(identity) };
    device.sim.set_certificate_lifetime(Duration::ZERO);
    let expired = device.tls("relay").await?;
    device.sim.set_certificate_lifetime(Duration::from_hours(1));
    // Any module gets a server certificate for any name.
    let server = device.workload("camera")?.server_certificate("relay").await?;
    let cases = [
        ("no certificate", None),
        ("a certificate of another authority", Some(identity(foreign("relay")?))),
        ("a certificate that has run out", Some(expired)),
        ("a server's certificate", Some(identity((server.chain, server.private_key)))),
    ];
    for (case, tls) in cases {
        let tls = device.raw_tls(tls.as_ref())?;
        let entered = RawClient::enter(device.broker, &tls, "relay", Some("relay")).await;
        let Err(error) = entered else { panic!("{case} was let in") };
        println!("{case}: {error:#}");
        bystanders.go_on().await.context(case)?;
    }
    // The broker's log does not tell of each one.
    device.metric("shunt_bus_broker_refused_connections_total", |count| count > 0.0).await?;
    // Without TLS at all.
    let mut stream = TcpStream::connect(device.broker).await?;
    stream.write_all(b"\x10\x11\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x05relay").await?;
    let mut answer = Vec::new();
    // A reset counts as closed.
    timeout(LIMIT, stream.read_to_end(&mut answer)).await?.ok();
    assert!(!answer.starts_with(b"\x20"), "it was let in without TLS");
    bystanders.go_on().await?;
    bystanders.stayed();
    Ok(())
}

#[tokio::test]
async fn no_connection_stands_on_an_earlier_one_in_place_of_a_certificate() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let camera = device.tls("camera").await?;
    let tls = device.raw_tls(Some(&camera))?;
    for _ in 0..3 {
        // Entering reads an answer; a ticket would come before it.
        let (client, _) = RawClient::enter(device.broker, &tls, "camera", None).await?;
        assert!(!client.is_resumed());
    }
    // There nothing forbids it.
    let old = device.raw_tls_of(Some(&camera), &[&rustls::version::TLS12])?;
    assert!(RawClient::open(device.broker, &old).await.is_err(), "it takes TLS 1.2");
    Ok(())
}

#[tokio::test]
async fn a_module_publishes_its_own_kinds_and_no_other() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let mut bystanders = Bystanders::new(&device).await?;
    let (camera, gateway, airq) =
        (device.module("camera").await?, device.module("gateway").await?, device.module("airq").await?);
    let orders: Kind = "orders".parse()?;
    let rows = [
        (&camera, "camera", Kind::FRAME, "front-door", true),
        (&camera, "camera", Kind::PRESENCE, "camera", true),
        (&camera, "camera", Kind::DEAD_LETTER, "camera", true),
        (&camera, "camera", Kind::EMOTION, "front-door", false),
        (&camera, "camera", Kind::PRESENCE, "relay", false),
        (&camera, "camera", Kind::DEAD_LETTER, "relay", false),
        (&camera, "camera", orders.clone(), "camera", false),
        (&airq, "airq", Kind::PRESENCE, "airq", true),
        (&airq, "airq", Kind::LABEL, "airq", false),
        (&gateway, "gateway", Kind::TEXT, "shop", true),
        (&gateway, "gateway", orders.clone(), "gateway", true),
        (&gateway, "gateway", orders, "shop", false),
        (&gateway, "gateway", Kind::EMOTION, "gateway", false),
        (&gateway, "gateway", Kind::FRAME, "gateway", false),
        (&gateway, "gateway", Kind::PRESENCE, "camera", false),
    ];
    for (bus, module, kind, source, allowed) in rows {
        let result = publish(bus, &kind, source, 1).await;
        let case = format!("{module} on shunt/{kind}/{source}: {result:?}");
        if allowed {
            assert!(result.is_ok(), "{case}");
        } else {
            assert!(matches!(result, Err(PublishError::Refused(_))), "{case}");
        }
    }
    // What is not acknowledged is not passed on either: the next emotion that comes is a real one.
    camera.publish(event(&Kind::EMOTION, "front-door", 99), Delivery::Fast).await?;
    assert!(publish(&camera, &Kind::EMOTION, "front-door", 98).await.is_err());
    bystanders.go_on().await?;
    bystanders.stayed();
    Ok(())
}

/// What comes next to a client that reads all events of a kind, with its session's first answer.
async fn reader(device: &Device, filter: &str) -> anyhow::Result<RawClient> {
    let tls = device.raw_tls(Some(&device.tls("rules").await?))?;
    let (mut reader, _) = RawClient::enter(device.broker, &tls, "rules", None).await?;
    let mut all = Subscribe::new(Filter::new(filter, QoS::AtMostOnce), None);
    all.pkid = 1;
    reader.send(&Packet::Subscribe(all)).await?;
    match reader.next().await? {
        Packet::SubAck(_) => Ok(reader),
        other => anyhow::bail!("{other:?}"),
    }
}

async fn next_topic(reader: &mut RawClient) -> anyhow::Result<String> {
    match reader.next().await? {
        Packet::Publish(publish) => Ok(String::from_utf8(publish.topic.to_vec())?),
        other => anyhow::bail!("{other:?}"),
    }
}

#[tokio::test]
async fn a_last_will_says_no_more_than_its_module_may() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let mut reader = reader(&device, "shunt/+/front-door").await?;
    let will = |kind: &str, delay: Option<u32>| {
        let properties = delay.map(|delay_interval| LastWillProperties {
            delay_interval: Some(delay_interval),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        });
        LastWill::new(format!("shunt/{kind}/front-door"), "x", QoS::AtLeastOnce, true, properties)
    };
    let tls = device.raw_tls(Some(&device.tls("camera").await?))?;
    // Each takes the place of the one before, whose will is sent then.
    for kind in ["emotion", "frame", "emotion"] {
        RawClient::with_will(device.broker, &tls, "camera", will(kind, None)).await?;
    }
    assert_eq!(next_topic(&mut reader).await?, "shunt/frame/front-door");
    RawClient::with_will(device.broker, &tls, "camera", will("emotion", Some(1))).await?;
    // Its own kind, and later.
    let tls = device.raw_tls(Some(&device.tls("sentiment").await?))?;
    RawClient::with_will(device.broker, &tls, "sentiment", will("sentiment", Some(2))).await?;
    assert_eq!(next_topic(&mut reader).await?, "shunt/sentiment/front-door");
    Ok(())
}

#[tokio::test]
async fn nothing_is_retained_that_its_module_may_not_say() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let tls = device.raw_tls(Some(&device.tls("camera").await?))?;
    let (mut camera, _) = RawClient::enter(device.broker, &tls, "camera", None).await?;
    for (id, kind, reason) in
        [(1, "emotion", PubAckReason::NotAuthorized), (2, "frame", PubAckReason::Success)]
    {
        let mut publish = Publish::new(format!("shunt/{kind}/front-door"), QoS::AtLeastOnce, "x", None);
        (publish.retain, publish.pkid) = (true, id);
        camera.send(&Packet::Publish(publish)).await?;
        match camera.next().await? {
            // Nobody has subscribed yet.
            Packet::PubAck(answer) => assert_eq!(
                answer.reason == PubAckReason::NotAuthorized,
                reason == PubAckReason::NotAuthorized
            ),
            other => panic!("{other:?}"),
        }
    }
    let mut reader = reader(&device, "shunt/+/front-door").await?;
    assert_eq!(next_topic(&mut reader).await?, "shunt/frame/front-door");
    Ok(())
}

#[tokio::test]
async fn a_memory_full_of_retained_messages_is_emptied() -> anyhow::Result<()> {
    let device = Device::start(&[("SHUNT_BUS_MEMORY_LIMIT", "16777216")]).await?;
    device.metric("shunt_bus_broker_heap_bytes", |bytes| bytes > 0.0).await?;
    let tls = device.raw_tls(Some(&device.tls("camera").await?))?;
    let (mut flood, _) = RawClient::enter(device.broker, &tls, "camera", None).await?;
    for id in 1..=300 {
        let mut publish = Publish::new(format!("shunt/frame/{id}"), QoS::AtLeastOnce, vec![7; 100_000], None);
        (publish.retain, publish.pkid) = (true, id);
        // In the end it is cut off.
        let answered = async {
            flood.send(&Packet::Publish(publish)).await?;
            flood.next().await
        };
        if answered.await.is_err() {
            break;
        }
    }
    device.metric("shunt_bus_broker_restarts_total", |count| count >= 1.0).await?;
    device.ready().await?;
    let mut bystanders = Bystanders::new(&device).await?;
    bystanders.go_on().await?;
    device.metric("shunt_bus_broker_heap_bytes", |bytes| bytes < 4e6).await?;
    Ok(())
}

#[tokio::test]
async fn what_the_gateway_publishes_for_apps_by_default_arrives() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let (gateway, relay) = (device.module("gateway").await?, device.module("relay").await?);
    // Dapr's topic `orders`, from an app that does not say who it is.
    let orders: Kind = "orders".parse()?;
    let mut events = subscribe(&relay, &orders).await?;
    publish(&gateway, &orders, "gateway", 1).await?;
    assert_eq!(take(&mut events).await?, "1");
    // Of an app that does: what decision 10 says to grant.
    assert!(matches!(publish(&gateway, &orders, "shop", 2).await, Err(PublishError::Refused(_))));
    let grant =
        serde_json::json!({"modules": {"gateway": {"publish": ["text", "shunt/+/gateway", "shunt/+/shop"]}}});
    device.sim.patch_desired("bus", &grant)?;
    eventually(LIMIT, || async { publish(&gateway, &orders, "shop", 3).await.is_ok() }).await;
    assert_eq!(take(&mut events).await?, "3");
    assert!(publish(&gateway, &Kind::EMOTION, "shop", 4).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_session_belongs_to_the_module_of_the_certificate() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let mut bystanders = Bystanders::new(&device).await?;
    bystanders.go_on().await?;
    let tls = device.raw_tls(Some(&device.tls("camera").await?))?;
    // Another module's client id and user name, with one's own certificate.
    let (mut thief, answer) = RawClient::enter(device.broker, &tls, "relay", Some("relay")).await?;
    assert!(!answer.session_present, "it got the session of relay");
    thief.publish("shunt/emotion/front-door", b"{}".to_vec(), 1).await?;
    match thief.next().await? {
        Packet::PubAck(answer) => assert_eq!(answer.reason, PubAckReason::NotAuthorized),
        other => panic!("{other:?}"),
    }
    bystanders.go_on().await?;
    bystanders.stayed();
    // Its own certificate brings its own session: the second connection ends the first.
    let (_second, answer) = RawClient::enter(device.broker, &tls, "anything", None).await?;
    assert!(!answer.session_present);
    thief.closed().await?;
    Ok(())
}

#[tokio::test]
async fn wildcards_and_the_brokers_own_topics_are_not_published_to() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let mut bystanders = Bystanders::new(&device).await?;
    let tls = device.raw_tls(Some(&device.tls("camera").await?))?;
    for topic in [
        "shunt/frame/#",
        "shunt/+/front-door",
        "#",
        "",
        "$SYS/broker/uptime",
        "$CONTROL/x",
        "shunt/frame/\u{0}",
    ] {
        let (mut client, _) = RawClient::enter(device.broker, &tls, "camera", None).await?;
        client.publish(topic, b"x".to_vec(), 1).await?;
        match client.next().await {
            // The connection is gone.
            Err(_) | Ok(Packet::Disconnect(_)) => {}
            Ok(Packet::PubAck(answer)) => assert_eq!(answer.reason, PubAckReason::NotAuthorized, "{topic:?}"),
            Ok(other) => panic!("{topic:?}: {other:?}"),
        }
        bystanders.go_on().await.context(topic)?;
    }
    bystanders.stayed();
    Ok(())
}

/// Numbers that look like chance and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[tokio::test]
async fn malformed_packets_end_their_own_connection_only() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let mut bystanders = Bystanders::new(&device).await?;
    let tls = device.raw_tls(Some(&device.tls("camera").await?))?;
    let known: [(&str, &[u8]); 9] = [
        ("a first packet that is no CONNECT", b"\xc0\x00"),
        ("another protocol", b"\x10\x10\x00\x04HTTP\x05\x02\x00\x3c\x00\x00\x03cam"),
        ("another version", b"\x10\x10\x00\x04MQTT\x09\x02\x00\x3c\x00\x00\x03cam"),
        ("a length of five bytes", b"\x10\xff\xff\xff\xff\x7f"),
        ("a length that the packet does not have", b"\x10\x02\x00\x04MQTT\x05\x02\x00\x3c\x00"),
        ("a packet type of 0", b"\x00\x00"),
        ("a packet type of 15 before CONNECT", b"\xf0\x00"),
        ("a reserved flag", b"\x1f\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03cam"),
        ("a client id that is no text", b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03\xff\xfe\xfd"),
    ];
    for (case, bytes) in known {
        let mut client = RawClient::open(device.broker, &tls).await?;
        client.send_bytes(bytes).await?;
        client.closed().await.context(case)?;
        bystanders.go_on().await.context(case)?;
    }
    let inside: [(&str, &[u8]); 7] = [
        ("a second CONNECT", b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03cam"),
        ("QoS 3", b"\x36\x08\x00\x03a/b\x00\x01\x00"),
        ("a topic longer than its packet", b"\x30\x04\xff\xffab"),
        ("an unknown property", b"\x30\x08\x00\x03a/b\x02\x7f\x00"),
        ("a subscription without a filter", b"\x82\x03\x00\x01\x00"),
        ("a filter with a wildcard inside", b"\x82\x09\x00\x01\x00\x00\x03a#b\x01"),
        ("an AUTH that nobody began", b"\xf0\x00"),
    ];
    for (case, bytes) in inside {
        let (mut client, _) = RawClient::enter(device.broker, &tls, "camera", None).await?;
        client.send_bytes(bytes).await?;
        client.closed().await.context(case)?;
        bystanders.go_on().await.context(case)?;
    }
    let mut numbers = Numbers(0x5eed_1234_abcd_0001);
    for round in 0..300 {
        let bytes: Vec<u8> = (0..=numbers.next() % 64).map(|_| numbers.next().to_le_bytes()[0]).collect();
        let mut client = match round % 2 {
            0 => RawClient::open(device.broker, &tls).await?,
            _ => RawClient::enter(device.broker, &tls, "camera", None).await?.0,
        };
        // It may have been cut off by then.
        client.send_bytes(&bytes).await.ok();
        if round % 50 == 49 {
            bystanders.go_on().await.with_context(|| format!("{bytes:02x?}"))?;
        }
    }
    bystanders.stayed();
    device.metric("shunt_bus_broker_restarts_total", |count| count == 0.0).await?;
    Ok(())
}

#[tokio::test]
async fn a_packet_that_is_too_large_ends_its_connection_before_it_is_whole() -> anyhow::Result<()> {
    let device = Device::start(&[("SHUNT_BUS_MAX_PACKET_BYTES", "262144")]).await?;
    let mut bystanders = Bystanders::new(&device).await?;
    let tls = device.raw_tls(Some(&device.tls("camera").await?))?;
    let (mut client, _) = RawClient::enter(device.broker, &tls, "camera", None).await?;
    client.publish("shunt/frame/front-door", vec![0; 200_000], 1).await?;
    assert!(matches!(client.next().await?, Packet::PubAck(_)), "it is small enough");
    // The broker may close while we still write.
    client.publish("shunt/frame/front-door", vec![0; 300_000], 2).await.ok();
    client.closed().await?;
    // 256 MiB announced, nothing sent.
    let (mut client, _) = RawClient::enter(device.broker, &tls, "camera", None).await?;
    client.send_bytes(b"\x32\xff\xff\xff\x7f\x00\x16").await?;
    client.closed().await?;
    bystanders.go_on().await?;
    bystanders.stayed();
    Ok(())
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_takes_no_more_than_its_queue() -> anyhow::Result<()> {
    let queue = ("SHUNT_BUS_MAX_QUEUED_MESSAGES", "100");
    let device = Device::start(&[queue, ("SHUNT_BUS_MEMORY_LIMIT", "134217728")]).await?;
    let mut bystanders = Bystanders::new(&device).await?;
    let tls = device.raw_tls(Some(&device.tls("rules").await?))?;
    let (mut sleeper, _) = RawClient::enter(device.broker, &tls, "rules", None).await?;
    let mut all = Subscribe::new(Filter::new("shunt/#", QoS::AtLeastOnce), None);
    all.pkid = 1;
    sleeper.send(&Packet::Subscribe(all)).await?;
    loop {
        if let Packet::SubAck(_) = sleeper.next().await? {
            break;
        }
    }
    // From here on it reads nothing.
    for id in 1..=1000 {
        let large = event(&Kind::EMOTION, "front-door", id).with_body("image/jpeg", vec![7; 20_000]);
        timeout(LIMIT, bystanders.emotion.publish(large, Delivery::Assured)).await??;
        assert_eq!(take(&mut bystanders.events).await?, id.to_string());
    }
    device.metric("shunt_bus_broker_dropped_messages_total", |count| count > 500.0).await?;
    // 100 waiting and 64 in flight, of 20 kB each, and little more.
    device.metric("shunt_bus_broker_stored_bytes", |bytes| bytes < 5e6).await?;
    bystanders.stayed();
    Ok(())
}

#[tokio::test]
async fn a_client_that_floods_and_reads_no_answers_does_not_stop_others() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let mut bystanders = Bystanders::new(&device).await?;
    let tls = device.raw_tls(Some(&device.tls("camera").await?))?;
    let (mut flood, _) = RawClient::enter(device.broker, &tls, "camera", None).await?;
    let flooding = async {
        for id in 1..=20_000 {
            // Cut off or held up: both are fine.
            if flood.publish("shunt/frame/front-door", vec![0; 1000], id).await.is_err() {
                return;
            }
        }
    };
    let going_on = async {
        for _ in 0..50 {
            bystanders.go_on().await?;
        }
        anyhow::Ok(())
    };
    let (_, result) = tokio::join!(timeout(Duration::from_secs(10), flooding), going_on);
    result?;
    bystanders.go_on().await?;
    bystanders.stayed();
    let heap = device.metric("shunt_bus_broker_heap_bytes", |bytes| bytes > 0.0).await?;
    assert!(heap < 64e6, "{heap} bytes");
    Ok(())
}

#[tokio::test]
async fn only_the_module_itself_reads_what_the_broker_tells_of_itself() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    device.metric("shunt_bus_broker_uptime_seconds", |seconds| seconds > 0.0).await?;
    let tls = device.raw_tls(Some(&device.tls("relay").await?))?;
    let (mut client, _) = RawClient::enter(device.broker, &tls, "relay", None).await?;
    let mut all = Subscribe::new(Filter::new("$SYS/#", QoS::AtLeastOnce), None);
    all.filters.push(Filter::new("shunt/presence/#", QoS::AtLeastOnce));
    all.pkid = 1;
    client.send(&Packet::Subscribe(all)).await?;
    // Retained messages of the first filter would come before those of the second.
    loop {
        match client.next().await? {
            Packet::Publish(publish) => {
                assert_eq!(publish.topic, "shunt/presence/bus");
                break;
            }
            Packet::SubAck(_) => {}
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}
