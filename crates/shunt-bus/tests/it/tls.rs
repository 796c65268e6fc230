//! TLS to the broker.

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use shunt_bus::{Bus, BusError, BusOptions, BusState, BusTls, Delivery};
use shunt_testkit::{Mosquitto, MosquittoOptions, Redis, RedisOptions};
use shunt_wire::Kind;
use tempfile::TempDir;

use crate::{
    backends::{LIMIT, connected},
    numbered::{all, event, take},
};

/// A broker that speaks only TLS and asks for a client certificate, and what a client needs.
struct TlsBroker {
    broker: Mosquitto,
    trust: String,
    identity: (String, String),
    _folder: TempDir,
}

fn authority() -> anyhow::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(vec![])?;
    params.distinguished_name.push(DnType::CommonName, "the authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// An authority, what a client needs, and a folder with `ca.pem`, `server.pem` and `server.key`.
fn certificates() -> anyhow::Result<(String, (String, String), TempDir)> {
    let authority = authority()?;
    let folder = tempfile::tempdir()?;
    let signed = |name: &str| -> anyhow::Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &authority)?;
        Ok((certificate.pem(), key.serialize_pem()))
    };
    let (server, server_key) = signed("127.0.0.1")?;
    let identity = signed("camera")?;
    for (file, text) in [("ca.pem", authority.pem()), ("server.pem", server), ("server.key", server_key)] {
        std::fs::write(folder.path().join(file), text)?;
    }
    Ok((authority.pem(), identity, folder))
}

async fn tls_broker() -> anyhow::Result<TlsBroker> {
    let (trust, identity, folder) = certificates()?;
    let path = folder.path().display();
    let more = format!(
        "cafile {path}/ca.pem\ncertfile {path}/server.pem\nkeyfile {path}/server.key\nrequire_certificate true\n"
    );
    let broker = Mosquitto::with(MosquittoOptions { more, ..MosquittoOptions::default() }).await?;
    Ok(TlsBroker { broker, trust, identity, _folder: folder })
}

fn options(broker: &TlsBroker, tls: Option<BusTls>) -> anyhow::Result<BusOptions> {
    let url = format!("mqtts://{}", broker.broker.addr());
    Ok(BusOptions { tls: tls.map(Into::into), ..BusOptions::new(url, "camera".parse()?) })
}

#[tokio::test]
async fn events_travel_over_tls_with_a_client_certificate() -> anyhow::Result<()> {
    let broker = tls_broker().await?;
    let tls = BusTls { trust: broker.trust.clone(), identity: Some(broker.identity.clone()) };
    let bus = Bus::open(options(&broker, Some(tls))?)?;
    connected(&bus).await.with_context(|| broker.broker.log())?;
    let mut events = bus.subscribe(&all(&Kind::LABEL), Delivery::Assured).await?;
    for count in 1..=50 {
        let event = event(&Kind::LABEL, count).with_body("image/jpeg", vec![1; 100_000]);
        bus.publish(event, Delivery::Assured).await?;
        assert_eq!(take(&mut events).await?, count);
    }
    bus.close(LIMIT).await;
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_not_trusted_is_not_spoken_to() -> anyhow::Result<()> {
    let broker = tls_broker().await?;
    let tls = BusTls { trust: authority()?.pem(), identity: Some(broker.identity.clone()) };
    let bus = Bus::open(options(&broker, Some(tls))?)?;
    let mut state = bus.state();
    let refused =
        |state: &BusState| matches!(state, BusState::Disconnected(reason) if reason.contains("certificate"));
    let state = tokio::time::timeout(LIMIT, state.wait_for(refused)).await??;
    println!("{state:?}");
    Ok(())
}

#[tokio::test]
async fn tls_without_trust_is_an_error_at_once() -> anyhow::Result<()> {
    let broker = tls_broker().await?;
    assert!(matches!(Bus::open(options(&broker, None)?), Err(BusError::Trust(_))));
    let tls = BusTls { trust: "nonsense".to_owned(), identity: None };
    assert!(matches!(Bus::open(options(&broker, Some(tls))?), Err(BusError::Tls { what: "trust", .. })));
    Ok(())
}

#[tokio::test]
async fn events_travel_over_tls_to_redis_with_a_client_certificate() -> anyhow::Result<()> {
    let (trust, identity, folder) = certificates()?;
    let path = folder.path().display();
    let more = format!(
        "tls-cert-file {path}/server.pem\ntls-key-file {path}/server.key\ntls-ca-cert-file {path}/ca.pem\ntls-auth-clients yes\n"
    );
    let server = Redis::with(RedisOptions { tls: true, more, ..RedisOptions::default() }).await?;
    let url = format!("rediss://{}", server.addr());
    let open = |tls: Option<BusTls>| -> anyhow::Result<Result<Bus, BusError>> {
        let options = BusOptions { tls: tls.map(Into::into), ..BusOptions::new(&url, "camera".parse()?) };
        Ok(Bus::open(options))
    };
    let bus = open(Some(BusTls { trust: trust.clone(), identity: Some(identity) }))??;
    connected(&bus).await.with_context(|| server.log())?;
    let mut events = bus.subscribe(&all(&Kind::LABEL), Delivery::Assured).await?;
    for count in 1..=50 {
        let event = event(&Kind::LABEL, count).with_body("image/jpeg", vec![1; 100_000]);
        bus.publish(event, Delivery::Assured).await?;
        assert_eq!(take(&mut events).await?, count);
    }
    bus.close(LIMIT).await;
    // Whom we do not trust, and who does not know us.
    assert!(matches!(open(None)?, Err(BusError::Trust(_))));
    for (tls, said) in [
        (BusTls { trust: authority()?.pem(), identity: None }, "certificate"),
        (BusTls { trust, identity: None }, ""),
    ] {
        let bus = open(Some(tls))??;
        let mut state = bus.state();
        let wanted = |state: &BusState| matches!(state, BusState::Disconnected(why) if why != "not connected yet" && why.contains(said));
        tokio::time::timeout(LIMIT, state.wait_for(wanted)).await??;
    }
    Ok(())
}
