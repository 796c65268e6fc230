use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::{
    QoS,
    v4::{Connect, ConnectReturnCode as Code, LastWill, Packet, Publish},
};
use shunt_sim::{Fault, SimOptions};
use shunt_testkit::eventually;

use crate::support::{
    DEVICE, HUB, LIMIT, Probe, dial_with, encode, field, module_token, now, start, start_with, token,
    user_name,
};

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn a_client_is_admitted_or_refused_by_what_it_shows() -> anyhow::Result<()> {
    let stand = start(&["relay", "camera"]).await?;
    let key = field(&stand.module_connection_string("relay"), "SharedAccessKey");
    let id = format!("{DEVICE}/relay");
    let resource = format!("{HUB}/devices/{DEVICE}/modules/relay");
    let good = module_token(&stand, "relay");
    let later = now() + 3600;
    let user = user_name("relay");
    let lower = encode(&resource).replace("%2F", "%2f");
    let policy = stand.policy_token(Duration::from_mins(1));
    // What is shown: client id, user name, password; and what comes of it.
    let cases: Vec<(&str, String, String, String, Code)> = vec![
        ("a good token", id.clone(), user.clone(), good.clone(), Code::Success),
        (
            "lower-case encoding of sr, as of the C client",
            id.clone(),
            user.clone(),
            token(&lower, &key, later),
            Code::Success,
        ),
        (
            "the gateway's name in sr",
            id.clone(),
            user.clone(),
            token(&encode(&format!("LOCALHOST/devices/{DEVICE}/modules/relay")), &key, later),
            Code::Success,
        ),
        ("an unencoded sr", id.clone(), user.clone(), token(&resource, &key, later), Code::Success),
        (
            "no question mark",
            id.clone(),
            format!("{HUB}/{DEVICE}/relay/api-version=x"),
            good.clone(),
            Code::Success,
        ),
        (
            "unknown keys and a model",
            id.clone(),
            format!("{user}&model-id=dtmi:shunt:relay;1&x=y"),
            good.clone(),
            Code::Success,
        ),
        ("the wrong key", id.clone(), user.clone(), module_token(&stand, "camera"), Code::NotAuthorized),
        (
            "a signature of another key",
            id.clone(),
            user.clone(),
            token(&encode(&resource), "AAAA", later),
            Code::NotAuthorized,
        ),
        (
            "a token that ended",
            id.clone(),
            user.clone(),
            token(&encode(&resource), &key, now() - 1),
            Code::NotAuthorized,
        ),
        (
            "another hub",
            id.clone(),
            user.clone(),
            token(&encode(&format!("other.net/devices/{DEVICE}/modules/relay")), &key, later),
            Code::NotAuthorized,
        ),
        ("the hub's policy", id.clone(), user.clone(), policy, Code::NotAuthorized),
        ("no token at all", id.clone(), user.clone(), "secret".to_owned(), Code::NotAuthorized),
        ("an empty password", id.clone(), user.clone(), String::new(), Code::NotAuthorized),
        ("another client id", format!("{DEVICE}/camera"), user.clone(), good.clone(), Code::NotAuthorized),
        (
            "a client id in another case",
            format!("{DEVICE}/Relay"),
            user.clone(),
            good.clone(),
            Code::NotAuthorized,
        ),
        (
            "a module that is not there",
            format!("{DEVICE}/ghost"),
            user_name("ghost"),
            good.clone(),
            Code::NotAuthorized,
        ),
        (
            "no api-version",
            id.clone(),
            format!("{HUB}/{DEVICE}/relay/?DeviceClientType=x"),
            good.clone(),
            Code::ServiceUnavailable,
        ),
        (
            "an empty api-version",
            id.clone(),
            format!("{HUB}/{DEVICE}/relay/?api-version="),
            good.clone(),
            Code::ServiceUnavailable,
        ),
        (
            "a raw slash in the client type",
            id.clone(),
            format!("{HUB}/{DEVICE}/relay/?api-version=1&DeviceClientType=a/b"),
            good.clone(),
            Code::ServiceUnavailable,
        ),
        (
            "a user name of another form",
            id.clone(),
            "relay".to_owned(),
            good.clone(),
            Code::ServiceUnavailable,
        ),
    ];
    for (case, client_id, user, password, expected) in cases {
        let mut probe = Probe::dial(&stand).await?;
        assert_eq!(probe.login(&client_id, &user, &password, 60).await?, expected, "{case}");
        if expected != Code::Success {
            probe.expect_closed().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_speaks_tls_1_2_only_is_served() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    let stream = dial_with(&stand, stand.mqtt(), &[&rustls::version::TLS12]).await?;
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    Ok(())
}

#[tokio::test]
async fn a_second_client_with_the_same_id_closes_the_first() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut first = Probe::connect(&stand, "relay").await?;
    let mut second = Probe::connect(&stand, "relay").await?;
    first.expect_closed().await?;
    second.telemetry("out", "", "{}").await?;
    assert!(stand.is_connected("relay"));
    Ok(())
}

#[tokio::test]
async fn silence_for_one_and_a_half_keep_alives_closes() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = Probe::dial(&stand).await?;
    let code = probe
        .login(&format!("{DEVICE}/relay"), &user_name("relay"), &module_token(&stand, "relay"), 1)
        .await?;
    assert_eq!(code, Code::Success);
    let began = tokio::time::Instant::now();
    probe.expect_closed().await?;
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_ping_is_answered() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    probe.send(&Packet::PingReq).await?;
    assert_eq!(probe.receive().await?, Packet::PingResp);
    Ok(())
}

#[tokio::test]
async fn a_connection_without_a_connect_packet_is_closed() -> anyhow::Result<()> {
    let options = SimOptions { connect_limit: Some(Duration::from_millis(200)), ..SimOptions::default() };
    let stand = start_with(options, &["relay"]).await?;
    let mut silent = Probe::dial(&stand).await?;
    silent.expect_closed().await?;
    let mut hasty = Probe::dial(&stand).await?;
    hasty.send(&Packet::PingReq).await?;
    hasty.expect_closed().await?;
    // MQTT 3.1, by name and by level.
    let mut old = Probe::dial(&stand).await?;
    old.raw(b"\x10\x12\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x04abcd").await?;
    old.expect_closed().await?;
    let mut new = Probe::dial(&stand).await?;
    new.raw(b"\x10\x11\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x04abcd").await?;
    new.expect_closed().await?;
    Ok(())
}

#[tokio::test]
async fn more_clients_than_allowed_are_refused() -> anyhow::Result<()> {
    let stand =
        start_with(SimOptions { max_clients: 1, ..SimOptions::default() }, &["relay", "camera"]).await?;
    let _first = Probe::connect(&stand, "relay").await?;
    let mut second = Probe::dial(&stand).await?;
    let code = second
        .login(&format!("{DEVICE}/camera"), &user_name("camera"), &module_token(&stand, "camera"), 60)
        .await?;
    assert_eq!(code, Code::ServiceUnavailable);
    // The same client again is no second one.
    let _again = Probe::connect(&stand, "relay").await?;
    Ok(())
}

#[tokio::test]
async fn a_token_that_ends_ends_its_connection_at_the_next_check() -> anyhow::Result<()> {
    let options = SimOptions { token_check_interval: Duration::from_millis(300), ..SimOptions::default() };
    let stand = start_with(options, &["relay"]).await?;
    let key = field(&stand.module_connection_string("relay"), "SharedAccessKey");
    let short = token(&encode(&format!("{HUB}/devices/{DEVICE}/modules/relay")), &key, now() + 2);
    let mut probe = Probe::dial(&stand).await?;
    assert_eq!(
        probe.login(&format!("{DEVICE}/relay"), &user_name("relay"), &short, 60).await?,
        Code::Success
    );
    probe.telemetry_as("relay").await?;
    probe.expect_closed().await
}

#[tokio::test]
async fn a_will_becomes_telemetry_when_the_line_breaks_and_not_on_goodbye() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let connect = || {
        let mut connect = Connect::new(format!("{DEVICE}/relay"));
        connect.set_login(user_name("relay"), module_token(&stand, "relay"));
        connect.last_will = Some(LastWill {
            topic: format!("devices/{DEVICE}/modules/relay/messages/events/%24.on=last"),
            message: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain: false,
        });
        connect
    };
    let mut polite = Probe::dial(&stand).await?;
    assert_eq!(polite.login_with(connect()).await?, Code::Success);
    polite.send(&Packet::Disconnect).await?;
    polite.expect_closed().await?;
    assert_eq!(stand.message_count(), 0);
    let mut broken = Probe::dial(&stand).await?;
    assert_eq!(broken.login_with(connect()).await?, Code::Success);
    drop(broken);
    let records = stand.messages_from(1, LIMIT).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].properties["MessageType"], "Will");
    assert_eq!(records[0].output.as_deref(), Some("last"));
    assert_eq!(records[0].body, "Z29uZQ==");
    Ok(())
}

#[tokio::test]
async fn faults_of_the_connection_come_when_asked_for_and_end() -> anyhow::Result<()> {
    let stand = start(&["relay", "camera"]).await?;
    let mut relay = Probe::connect(&stand, "relay").await?;
    let mut camera = Probe::connect(&stand, "camera").await?;
    stand.fault(&Fault::DropConnection { module: Some("relay".to_owned()) });
    relay.expect_closed().await?;
    camera.telemetry("out", "", "{}").await?;

    stand.fault(&Fault::RefuseTokens { refuse: true });
    assert!(Probe::connect(&stand, "relay").await.is_err());
    assert!(Probe::connect(&stand, "relay").await.is_err());
    stand.fault(&Fault::RefuseTokens { refuse: false });
    Probe::connect(&stand, "relay").await?;

    stand.fault(&Fault::RefuseConnections { code: 3, count: 1 });
    let mut refused = Probe::dial(&stand).await?;
    let code = refused
        .login(&format!("{DEVICE}/relay"), &user_name("relay"), &module_token(&stand, "relay"), 60)
        .await?;
    assert_eq!(code, Code::ServiceUnavailable);
    Probe::connect(&stand, "relay").await?;

    stand.fault(&Fault::ExpireTokens { after_ms: Some(300) });
    let mut short = Probe::connect(&stand, "relay").await?;
    short.expect_closed().await?;
    stand.fault(&Fault::Clear);

    let mut relay = Probe::connect(&stand, "relay").await?;
    stand.fault(&Fault::Restart { pause_ms: 60_000 });
    relay.expect_closed().await?;
    assert!(Probe::connect(&stand, "relay").await.is_err());
    stand.fault(&Fault::Clear);
    Probe::connect(&stand, "relay").await?.telemetry("out", "", "{}").await
}

#[tokio::test]
async fn a_restart_with_the_same_folder_keeps_authority_and_keys() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let options = || SimOptions { folder: folder.path().to_owned(), ..SimOptions::default() };
    let first = shunt_sim::Sim::start(options()).await?;
    first.add_module("relay")?;
    let (bundle, key) =
        (first.ca_bundle().to_owned(), field(&first.module_connection_string("relay"), "SharedAccessKey"));
    let generation = first.module_environment("relay")["IOTEDGE_MODULEGENERATIONID"].clone();
    let token = module_token(&first, "relay");
    first.stop().await;
    let second = shunt_sim::Sim::start(options()).await?;
    second.add_module("relay")?;
    assert_eq!(second.ca_bundle(), bundle);
    assert_eq!(field(&second.module_connection_string("relay"), "SharedAccessKey"), key);
    assert_eq!(second.module_environment("relay")["IOTEDGE_MODULEGENERATIONID"], generation);
    let mut probe = Probe::dial(&second).await?;
    assert_eq!(
        probe.login(&format!("{DEVICE}/relay"), &user_name("relay"), &token, 60).await?,
        Code::Success
    );
    Ok(())
}

#[tokio::test]
async fn a_module_that_is_deleted_loses_its_connection_and_its_socket() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let mut probe = Probe::connect(&stand, "relay").await?;
    let socket = stand.workload_socket("relay");
    assert!(socket.exists());
    let (status, _) =
        crate::support::control(&stand, "DELETE", &format!("/devices/{DEVICE}/modules/relay"), None).await?;
    assert_eq!(status, 204);
    probe.expect_closed().await?;
    eventually(LIMIT, || async { !socket.exists() }).await;
    Ok(())
}

#[tokio::test]
async fn subscriptions_end_with_the_connection_unless_sessions_are_kept() -> anyhow::Result<()> {
    for keep_sessions in [false, true] {
        let stand = start_with(SimOptions { keep_sessions, ..SimOptions::default() }, &["relay"]).await?;
        let mut first = Probe::connect(&stand, "relay").await?;
        first.subscribe("$iothub/twin/PATCH/properties/desired/#", QoS::AtMostOnce).await?;
        drop(first);
        eventually(LIMIT, || async { !stand.is_connected("relay") }).await;
        let mut connect = Connect::new(format!("{DEVICE}/relay"));
        connect.clean_session = false;
        connect.set_login(user_name("relay"), module_token(&stand, "relay"));
        let mut second = Probe::dial(&stand).await?;
        second.send(&Packet::Connect(connect)).await?;
        let Packet::ConnAck(ack) = second.receive().await? else { panic!("no CONNACK") };
        assert_eq!(ack.session_present, keep_sessions);
        stand.patch_desired("relay", &serde_json::json!({"a": 1}))?;
        if keep_sessions {
            second.receive_publish().await?;
        } else {
            second.quiet().await?;
        }
    }
    Ok(())
}

impl Probe {
    async fn telemetry_as(&mut self, module: &str) -> anyhow::Result<()> {
        let topic = format!("devices/{DEVICE}/modules/{module}/messages/events/");
        self.send(&Packet::Publish(Publish::new(topic, QoS::AtMostOnce, "{}"))).await
    }
}
