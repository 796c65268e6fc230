//! Three MQTT v5 clients behind one trait: round trips, a line that is cut, a broker that forgets.
//!
//! ```text
//! cargo run --manifest-path docs/decisions/0002-mqtt-client/Cargo.toml
//! ```

use azure_iot_operations_mqtt::{
    aio::connection_settings::MqttConnectionSettingsBuilder,
    control_packet as cp,
    session::{Session, SessionManagedClient, SessionOptionsBuilder, SessionPubReceiver},
};
use hdrhistogram::Histogram;
use shunt_bus::{Bus, BusOptions, BusState, Delivery};
use shunt_testkit::{Line, Mosquitto};
use shunt_wire::{Envelope, Kind, TopicFilter};
use std::{
    collections::BTreeSet,
    pin::Pin,
    time::{Duration, Instant},
};

type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// One trait, three clients. A message is a number and padding; `next` acknowledges.
trait Client: Send + Sync {
    fn publish(
        &self,
        topic: &'static str,
        n: u64,
        bytes: usize,
        assured: bool,
    ) -> Fut<'_, anyhow::Result<()>>;
}
trait Source: Send {
    fn next(&mut self) -> Fut<'_, anyhow::Result<u64>>;
}
type Both = (Box<dyn Client>, Box<dyn Source>);

fn event(kind: &'static str, n: u64, bytes: usize) -> Envelope {
    Envelope::new(n.to_string(), kind.parse().unwrap(), "bench".parse().unwrap(), "2026-11-21T09:00:00Z")
        .with_body("text/plain", vec![b'x'; bytes])
}
fn props(n: u64, kind: &str) -> Vec<(String, String)> {
    [
        ("specversion", "1.0".to_owned()),
        ("id", n.to_string()),
        ("type", format!("shunt.{kind}.v1")),
        ("source", "shunt/bench".to_owned()),
        ("time", "2026-11-21T09:00:00Z".to_owned()),
    ]
    .map(|(a, b)| (a.to_owned(), b))
    .to_vec()
}

// ours
struct Ours(Bus);
struct OursIn(shunt_bus::Subscription);
impl Client for Ours {
    fn publish(
        &self,
        topic: &'static str,
        n: u64,
        bytes: usize,
        assured: bool,
    ) -> Fut<'_, anyhow::Result<()>> {
        Box::pin(async move {
            Ok(self
                .0
                .publish(event(topic, n, bytes), if assured { Delivery::Assured } else { Delivery::Fast })
                .await?)
        })
    }
}
impl Source for OursIn {
    fn next(&mut self) -> Fut<'_, anyhow::Result<u64>> {
        Box::pin(async move {
            let r = self.0.next().await.ok_or_else(|| anyhow::anyhow!("closed"))?;
            r.ack.ack();
            Ok(r.envelope?.id.parse()?)
        })
    }
}
async fn ours(
    addr: std::net::SocketAddr,
    name: &str,
    topic: &'static str,
    assured: bool,
) -> anyhow::Result<Both> {
    let bus = Bus::open(BusOptions::new(format!("mqtt://{addr}"), name.parse()?))?;
    bus.state().wait_for(|s| *s == BusState::Connected).await?;
    let sub = bus
        .subscribe(
            &TopicFilter::kind(&topic.parse::<Kind>()?),
            if assured { Delivery::Assured } else { Delivery::Fast },
        )
        .await?;
    Ok((Box::new(Ours(bus)), Box::new(OursIn(sub))))
}

// Microsoft's
struct Aio(SessionManagedClient);
struct AioIn(SessionPubReceiver);
impl Client for Aio {
    fn publish(
        &self,
        topic: &'static str,
        n: u64,
        bytes: usize,
        assured: bool,
    ) -> Fut<'_, anyhow::Result<()>> {
        Box::pin(async move {
            let name = cp::TopicName::new(format!("shunt/{topic}/bench")).unwrap();
            let mut p = cp::PublishProperties::default();
            p.user_properties = props(n, topic);
            if assured {
                self.0.publish_qos1(name, false, vec![b'x'; bytes], p).await?.await?;
            } else {
                self.0.publish_qos0(name, false, vec![b'x'; bytes], p).await?;
            }
            Ok(())
        })
    }
}
impl Source for AioIn {
    fn next(&mut self) -> Fut<'_, anyhow::Result<u64>> {
        Box::pin(async move {
            let (m, ack) = self.0.recv_manual_ack().await.ok_or_else(|| anyhow::anyhow!("closed"))?;
            if let Some(ack) = ack {
                let _ = ack.ack().await;
            }
            Ok(m.properties.user_properties.iter().find(|(k, _)| k == "id").unwrap().1.parse()?)
        })
    }
}
async fn aio(
    addr: std::net::SocketAddr,
    name: &str,
    topic: &'static str,
    assured: bool,
) -> anyhow::Result<Both> {
    let cs = MqttConnectionSettingsBuilder::default()
        .client_id(name)
        .hostname("127.0.0.1")
        .tcp_port(addr.port())
        .use_tls(false)
        .receive_max(256u16)
        .build()?;
    let session = Session::new(
        SessionOptionsBuilder::default().connection_settings(cs).aio_broker_features(None).build()?,
    )
    .map_err(|e| anyhow::anyhow!("{e}"))?;
    let client = session.create_managed_client();
    let who = name.to_owned();
    tokio::spawn(async move {
        let r = session.run().await;
        if let Err(e) = r {
            println!("  [azure session {who} ended: {e}]");
        }
    });
    let filter = cp::TopicFilter::new(format!("shunt/{topic}/+")).unwrap();
    let rx = client.create_filtered_pub_receiver(filter.clone());
    client
        .subscribe(
            filter,
            if assured { cp::QoS::AtLeastOnce } else { cp::QoS::AtMostOnce },
            false,
            cp::RetainOptions::default(),
            cp::SubscribeProperties::default(),
        )
        .await?
        .await?;
    Ok((Box::new(Aio(client)), Box::new(AioIn(rx))))
}

// rumqttc as it comes: a publish resolves when it is queued
struct Rum(rumqttc::v5::AsyncClient);
struct RumIn(tokio::sync::mpsc::Receiver<rumqttc::v5::mqttbytes::v5::Publish>, rumqttc::v5::AsyncClient);
use rumqttc::v5::{
    Event,
    mqttbytes::{QoS, v5::Packet},
};
impl Client for Rum {
    fn publish(
        &self,
        topic: &'static str,
        n: u64,
        bytes: usize,
        assured: bool,
    ) -> Fut<'_, anyhow::Result<()>> {
        Box::pin(async move {
            let p = rumqttc::v5::mqttbytes::v5::PublishProperties {
                user_properties: props(n, topic),
                ..Default::default()
            };
            self.0
                .publish_with_properties(
                    format!("shunt/{topic}/bench"),
                    if assured { QoS::AtLeastOnce } else { QoS::AtMostOnce },
                    false,
                    vec![b'x'; bytes],
                    p,
                )
                .await?;
            Ok(())
        })
    }
}
impl Source for RumIn {
    fn next(&mut self) -> Fut<'_, anyhow::Result<u64>> {
        Box::pin(async move {
            let m = self.0.recv().await.ok_or_else(|| anyhow::anyhow!("closed"))?;
            self.1.ack(&m).await?;
            Ok(m.properties
                .unwrap_or_default()
                .user_properties
                .iter()
                .find(|(k, _)| k == "id")
                .unwrap()
                .1
                .parse()?)
        })
    }
}
async fn rum(
    addr: std::net::SocketAddr,
    name: &str,
    topic: &'static str,
    assured: bool,
) -> anyhow::Result<Both> {
    let mut o = rumqttc::v5::MqttOptions::new(name, "127.0.0.1", addr.port());
    o.set_clean_start(false)
        .set_session_expiry_interval(Some(3600))
        .set_max_packet_size(Some(8 << 20))
        .set_manual_acks(true);
    let mut n = rumqttc::NetworkOptions::new();
    n.set_tcp_nodelay(true);
    o.set_network_options(n);
    let (c, mut l) = rumqttc::v5::AsyncClient::new(o, 256);
    let (tx, rx) = tokio::sync::mpsc::channel(1000);
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let mut ready = Some(ready);
    let filter = format!("shunt/{topic}/+");
    let q = if assured { QoS::AtLeastOnce } else { QoS::AtMostOnce };
    let c2 = c.clone();
    tokio::spawn(async move {
        loop {
            match l.poll().await {
                Ok(Event::Incoming(Packet::Publish(p))) => {
                    let _ = tx.send(p).await;
                }
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    let _ = c2.try_subscribe(filter.clone(), q);
                }
                Ok(Event::Incoming(Packet::SubAck(_))) => {
                    if let Some(r) = ready.take() {
                        let _ = r.send(());
                    }
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
            }
        }
    });
    is_ready.await?;
    Ok((Box::new(Rum(c.clone())), Box::new(RumIn(rx, c))))
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Which {
    Ours,
    Azure,
    Rumqttc,
}
async fn open(
    w: Which,
    addr: std::net::SocketAddr,
    name: &str,
    topic: &'static str,
    assured: bool,
) -> anyhow::Result<Both> {
    match w {
        Which::Ours => ours(addr, name, topic, assured).await,
        Which::Azure => aio(addr, name, topic, assured).await,
        Which::Rumqttc => rum(addr, name, topic, assured).await,
    }
}
fn rt() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn round_trip(w: Which, addr: std::net::SocketAddr, assured: bool, count: u64) -> anyhow::Result<(u64, u64)> {
    std::thread::spawn(move || {
        rt().block_on(async move {
            let (c, mut s) = open(w, addr, &format!("answer-{w:?}-{assured}"), "text", assured).await?;
            loop {
                let n = s.next().await?;
                c.publish("label", n, 256, assured).await?;
                if n == u64::MAX {
                    return anyhow::Ok(());
                }
            }
        })
    });
    rt().block_on(async move {
        let (c, mut s) = open(w, addr, &format!("ask-{w:?}-{assured}"), "label", assured).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut h = Histogram::<u64>::new(3)?;
        for n in 0..count + 300 {
            let t = Instant::now();
            let (p, a) = tokio::join!(c.publish("text", n, 256, assured), s.next());
            p?;
            assert_eq!(a?, n);
            if n >= 300 {
                h.record(t.elapsed().as_nanos() as u64)?;
            }
        }
        Ok((h.value_at_quantile(0.5) / 1000, h.value_at_quantile(0.99) / 1000))
    })
}

/// 1000 assured events; the publisher's and the subscriber's line is cut after each 150 (`keep`: broker keeps sessions; else it is restarted and forgets).
async fn cuts(w: Which, forget: bool) -> anyhow::Result<String> {
    let mut broker = if forget { Mosquitto::start().await? } else { Mosquitto::persistent().await? };
    let line = Line::to(broker.addr()).await?;
    // the receiver stays on its own line so that only what the publisher loses is seen when the broker forgets
    let (_c, mut s) =
        open(w, if forget { broker.addr() } else { line.addr() }, "relay", "emotion", true).await?;
    let (p, _s) = open(w, line.addr(), "emotion", "label", true).await?;
    let p: std::sync::Arc<dyn Client> = p.into();
    let begin = Instant::now();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let d2 = done.clone();
    let publishing = tokio::spawn(async move {
        let mut set = tokio::task::JoinSet::new();
        let mut failed = 0;
        for n in 0..1000u64 {
            let (p, d) = (p.clone(), d2.clone());
            set.spawn(async move {
                let r = p.publish("emotion", n, 256, true).await;
                d.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                r
            });
            while set.len() >= 32 {
                if let Some(Ok(Err(_))) = set.join_next().await {
                    failed += 1
                }
            }
        }
        while let Some(r) = set.join_next().await {
            if let Ok(Err(_)) = r {
                failed += 1
            }
        }
        failed
    });
    let (mut seen, mut dup, mut out_of_order, mut last, mut slowest) =
        (BTreeSet::new(), 0, 0, 0, Duration::ZERO);
    let mut next_cut = 150;
    while seen.len() < 1000 {
        let t = Instant::now();
        match tokio::time::timeout(Duration::from_secs(15), s.next()).await {
            Ok(Ok(n)) => {
                if !seen.insert(n) {
                    dup += 1
                }
                if n < last {
                    out_of_order += 1
                }
                last = n;
                slowest = slowest.max(t.elapsed());
            }
            Ok(Err(e)) => {
                println!("  [receiver: {e}]");
                break;
            }
            Err(_) => break,
        }
        if seen.len() >= next_cut && next_cut < 900 {
            next_cut += if forget { 400 } else { 150 };
            line.cut_after(1000);
            tokio::time::sleep(Duration::from_millis(20)).await;
            line.cut();
            if forget {
                broker.restart().await?;
            }
            line.heal();
        }
    }
    let failed = if publishing.is_finished() {
        publishing.await?.to_string()
    } else {
        format!("? ({} resolved)", done.load(std::sync::atomic::Ordering::SeqCst))
    };
    Ok(format!(
        "received {} of 1000, twice {dup}, order turned {out_of_order} times, publishes failed {failed}, longest gap {slowest:?}, whole {:?}",
        seen.len(),
        begin.elapsed()
    ))
}

fn main() -> anyhow::Result<()> {
    let r = rt();
    for round in 1..=3 {
        for assured in [false, true] {
            for w in [Which::Rumqttc, Which::Ours, Which::Azure] {
                let broker = r.block_on(Mosquitto::start())?;
                let (p50, p99) = round_trip(w, broker.addr(), assured, 5000)?;
                println!("round {round} QoS {} {w:?}: p50 {p50} us, p99 {p99} us", u8::from(assured));
            }
        }
    }
    for forget in [false, true] {
        for w in [Which::Rumqttc, Which::Ours, Which::Azure] {
            let text =
                rt().block_on(async { tokio::time::timeout(Duration::from_secs(90), cuts(w, forget)).await });
            println!(
                "{} {w:?}: {}",
                if forget { "broker restarts and forgets" } else { "line cut" },
                match text {
                    Ok(Ok(t)) => t,
                    Ok(Err(e)) => format!("error {e:#}"),
                    Err(_) => "stuck".to_owned(),
                }
            );
        }
    }
    Ok(())
}
