//! What only Redis of its own can do: restart, be killed, lose everything, carry what is no event, refuse, be full.

use std::time::Duration;

use anyhow::Context;
use shunt_bus::{Bus, BusOptions, BusState, Delivery, PublishError, Subscription};
use shunt_testkit::{Ledger, Line, Redis, RedisOptions, eventually};
use shunt_wire::Kind;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    backends::{Backend, LIMIT, connected, disconnected},
    numbered::{all, event, is_quiet, next, take},
};

fn open(url: &str, module: &str) -> anyhow::Result<Bus> {
    Ok(Bus::open(BusOptions::new(url, module.parse()?))?)
}

/// The same, connected: a subscription is then made when it returns.
async fn join(url: &str, module: &str) -> anyhow::Result<Bus> {
    let bus = open(url, module)?;
    connected(&bus).await?;
    Ok(bus)
}

/// Puts what is no event into the stream of `relay` until it is full, and lets publishers wait for ever.
async fn fill(server: &Redis) -> anyhow::Result<()> {
    let entry = "redis.call('XADD','shunt:queue:relay','*','topic','shunt/emotion/x','event','[]')";
    let filled = server.command(&format!("EVAL \"for i=1,10000 do {entry} end return 'full'\" 0")).await?;
    assert_eq!(filled, "$4\r\nfull\r\n");
    server.command("HSET shunt:full relay 99999999999").await?;
    Ok(())
}

/// Takes what is no event out of the way; returns the number of the next event.
async fn take_event(events: &mut Subscription) -> anyhow::Result<u64> {
    loop {
        let received = next(events).await?;
        let number = received.envelope.as_ref().ok().map(|event| event.id.parse());
        received.ack.ack();
        if let Some(number) = number {
            return Ok(number?);
        }
    }
}

/// Publishes these, several at a time.
async fn publish(bus: &Bus, numbers: std::ops::RangeInclusive<u64>) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for count in numbers {
        let bus = bus.clone();
        tasks.spawn(async move { bus.publish(event(&Kind::EMOTION, count), Delivery::Assured).await });
        if tasks.len() >= 64 {
            tasks.join_next().await.unwrap()??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Waits until the state says this.
async fn says(bus: &Bus, wanted: &str) -> anyhow::Result<()> {
    let mut state = bus.state();
    let said = state.wait_for(|state| matches!(state, BusState::Disconnected(why) if why.contains(wanted)));
    let said = timeout(LIMIT, said).await.is_ok();
    anyhow::ensure!(said, "{:?}", *bus.state().borrow());
    Ok(())
}

#[tokio::test]
async fn a_thousand_events_survive_a_redis_that_is_killed_and_restarted() -> anyhow::Result<()> {
    let mut server = Redis::persistent().await?;
    let url = server.url();
    let (emotion, relay, away) =
        (join(&url, "emotion").await?, join(&url, "relay").await?, join(&url, "away").await?);
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    drop(away.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?);
    away.close(LIMIT).await;
    let publishing = tokio::spawn(async move { publish(&emotion, 1..=1000).await });
    let mut ledger = Ledger::default();
    for (count, kill) in [(100, true), (400, false), (700, true)] {
        while ledger.len() < count {
            ledger.note(take(&mut events).await?);
        }
        if kill {
            server.kill().await?;
        }
        server.restart().await?;
    }
    while !ledger.missing(1..=1000).is_empty() {
        ledger.note(take(&mut events).await?);
    }
    publishing.await??;
    println!("{} delivered twice", ledger.repeated());
    // What waited for one who is away has survived too.
    let away = join(&server.url(), "away").await?;
    let mut events = away.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    let mut ledger = Ledger::default();
    while !ledger.missing(1..=1000).is_empty() {
        ledger.note(take(&mut events).await?);
    }
    Ok(())
}

#[tokio::test]
async fn a_redis_that_lost_everything_is_subscribed_to_again_and_gets_what_was_on_its_way()
-> anyhow::Result<()> {
    let mut server = Redis::start().await?;
    let line = Line::to(server.addr()).await?;
    let relay = join(&server.url(), "relay").await?;
    let emotion = join(&format!("redis://{}", line.addr()), "emotion").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    line.freeze();
    let publishing = tokio::spawn({
        let emotion = emotion.clone();
        async move { emotion.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await }
    });
    assert!(is_quiet(&mut events).await);
    line.cut();
    disconnected(&emotion).await?;
    server.restart().await?;
    eventually(LIMIT, || async { relay.counters().reconnects == 1 }).await;
    line.heal();
    publishing.await??;
    assert_eq!(take(&mut events).await?, 1);
    Ok(())
}

#[tokio::test]
async fn an_event_that_is_sent_a_second_time_is_published_once() -> anyhow::Result<()> {
    let backend = Backend::redis().await?;
    let line = backend.line().context("no line")?;
    let Backend::Redis { server, .. } = &backend else { panic!("not Redis") };
    let relay = join(&server.url(), "relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    let emotion = backend.bus("emotion").await?;
    // The line holds the command until the client gives it up and connects anew; then both reach the server.
    line.freeze();
    let publishing = tokio::spawn({
        let emotion = emotion.clone();
        async move { publish(&emotion, 1..=20).await }
    });
    disconnected(&emotion).await?;
    line.heal();
    publishing.await??;
    for expected in 1..=20 {
        assert_eq!(take(&mut events).await?, expected);
    }
    assert!(is_quiet(&mut events).await);
    Ok(())
}

#[tokio::test]
async fn a_silent_line_to_redis_is_noticed() -> anyhow::Result<()> {
    let backend = Backend::redis().await?;
    let line = backend.line().context("no line")?;
    let bus = backend.bus("camera").await?;
    line.freeze();
    disconnected(&bus).await?;
    line.drop_connections();
    connected(&bus).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_no_event_in_channel_or_stream_is_an_error_and_stops_nothing() -> anyhow::Result<()> {
    let backend = Backend::redis().await?;
    let Backend::Redis { server, .. } = &backend else { panic!("not Redis") };
    let relay = backend.bus("relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    for (words, payload) in [
        ("PUBLISH shunt:emotion:front-door {hello:", &b"{hello:"[..]),
        ("PUBLISH shunt:emotion:front-door \"\\xff\\xfe\"", &[0xFF, 0xFE]),
        ("XADD shunt:queue:relay * topic shunt/emotion/front-door event []", b"[]"),
        ("XADD shunt:queue:relay * topic shunt/emotion/front-door", b""),
    ] {
        let answer = server.command(words).await?;
        assert!(!answer.starts_with('-'), "{answer}");
        let received = next(&mut events).await?;
        assert!(received.envelope.is_err(), "{words}: {:?}", received.envelope);
        assert_eq!(received.payload, payload);
        received.ack.ack();
    }
    // Without a topic nobody can be given it; an id of another form cannot be acknowledged later.
    server.command("XADD shunt:queue:relay * colour blue").await?;
    server.command("XADD shunt:queue:relay 99999999999999999-7 topic shunt/emotion/x event {}").await?;
    eventually(LIMIT, || async { relay.counters().dropped_receiving == 2 }).await;
    // The chain lives, and nothing is left.
    server.command("DEL shunt:queue:relay").await?;
    eventually(LIMIT, || async { relay.counters().reconnects >= 1 }).await;
    connected(&relay).await?;
    relay.publish(event(&Kind::EMOTION, 2), Delivery::Assured).await?;
    assert_eq!(take(&mut events).await?, 2);
    Ok(())
}

#[tokio::test]
async fn what_is_acknowledged_leaves_the_stream_and_what_nobody_reads_expires() -> anyhow::Result<()> {
    let backend = Backend::redis().await?;
    let Backend::Redis { server, .. } = &backend else { panic!("not Redis") };
    let relay = backend.bus("relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    publish(&relay, 1..=500).await?;
    for expected in 1..=500 {
        assert_eq!(take(&mut events).await?, expected);
    }
    eventually(LIMIT, || async { server.command("XLEN shunt:queue:relay").await.unwrap() == ":0\r\n" }).await;
    for key in ["shunt:queue:relay", "shunt:filters:relay"] {
        let answer = server.command(&format!("TTL {key}")).await?;
        let seconds: i64 = answer.trim_start_matches(':').trim().parse()?;
        assert!((86_000..=86_400).contains(&seconds), "{key} {answer}");
    }
    // One that is gone for so long is forgotten, with its stream.
    relay.close(LIMIT).await;
    server.command("DEL shunt:filters:relay").await?;
    let emotion = backend.bus("emotion").await?;
    publish(&emotion, 1..=1).await?;
    assert_eq!(emotion.counters().unheard, 1);
    assert_eq!(server.command("SCARD shunt:clients").await?, ":0\r\n");
    Ok(())
}

#[tokio::test]
async fn a_full_stream_makes_publishers_wait_and_drops_only_for_one_that_is_away() -> anyhow::Result<()> {
    const BOUND: u64 = 10_000;
    let server = Redis::start().await?;
    let (emotion, relay) = (join(&server.url(), "emotion").await?, join(&server.url(), "relay").await?);
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    publish(&emotion, 1..=BOUND).await?;
    let publishing = tokio::spawn({
        let emotion = emotion.clone();
        async move { emotion.publish(event(&Kind::EMOTION, BOUND + 1), Delivery::Assured).await }
    });
    let first = next(&mut events).await?;
    assert!(!publishing.is_finished());
    first.ack.ack();
    timeout(LIMIT, publishing).await???;
    // Away, it holds nobody up.
    drop(events);
    relay.close(LIMIT).await;
    timeout(LIMIT, publish(&emotion, BOUND + 2..=BOUND + 6)).await??;
    let relay = join(&server.url(), "relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    assert_eq!(take(&mut events).await?, 2);
    eventually(LIMIT, || async { relay.counters().dropped_receiving == 5 }).await;
    Ok(())
}

#[tokio::test]
async fn a_fast_subscriber_that_reads_nothing_does_not_take_redis_down() -> anyhow::Result<()> {
    let backend = Backend::redis().await?;
    let Backend::Redis { server, line } = &backend else { panic!("not Redis") };
    let slow = backend.bus("slow").await?;
    let mut frames = slow.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    let (camera, viewer) = (join(&server.url(), "camera").await?, join(&server.url(), "viewer").await?);
    let mut seen = viewer.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    line.freeze();
    // 107 MB on the wire, more than Redis keeps for one that does not listen (32 MB).
    for count in 1..=400 {
        let frame = event(&Kind::FRAME, count).with_body("image/jpeg", vec![7; 200_000]);
        camera.publish(frame, Delivery::Fast).await?;
        assert_eq!(take(&mut seen).await?, count);
    }
    disconnected(&slow).await?;
    line.heal();
    connected(&slow).await?;
    // What was on its way may come late; the newest comes.
    camera.publish(event(&Kind::FRAME, 401), Delivery::Fast).await?;
    while take(&mut frames).await? != 401 {}
    let memory = server.command("INFO memory").await?;
    let peak = memory.lines().find_map(|line| line.strip_prefix("used_memory_peak:")).context("no peak")?;
    assert!(peak.trim().parse::<u64>()? < 100 << 20, "{peak}");
    Ok(())
}

#[tokio::test]
async fn a_message_for_a_subscription_of_an_earlier_life_does_not_stop_the_others() -> anyhow::Result<()> {
    let backend = Backend::redis().await?;
    let relay = backend.bus("relay").await?;
    drop(relay.subscribe(&all(&Kind::FACE), Delivery::Assured).await?);
    drop(relay);
    let emotion = backend.bus("emotion").await?;
    emotion.publish(event(&Kind::FACE, 1), Delivery::Assured).await?;
    let relay = backend.bus("relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    emotion.publish(event(&Kind::EMOTION, 2), Delivery::Assured).await?;
    assert_eq!(take(&mut events).await?, 2);
    eventually(LIMIT, || async { relay.counters().dropped_receiving == 1 }).await;
    // From now on nothing is kept for it.
    let Backend::Redis { server, .. } = &backend else { panic!("not Redis") };
    eventually(LIMIT, || async {
        !server.command("SMEMBERS shunt:filters:relay").await.unwrap().contains("face")
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_second_module_of_the_same_name_takes_over_and_redis_says_so() -> anyhow::Result<()> {
    let backend = Backend::redis().await?;
    let first = backend.bus("camera").await?;
    let second = backend.bus("camera").await?;
    says(&first, "same name").await?;
    drop(second);
    Ok(())
}

#[tokio::test]
async fn a_password_is_taken_from_the_address_and_a_wrong_one_is_told() -> anyhow::Result<()> {
    let more = "requirepass secret\nuser shunt on >p@ss ~shunt:* &* +@all\n".to_owned();
    let server = Redis::with(RedisOptions { more, ..RedisOptions::default() }).await?;
    let addr = server.addr();
    for login in [":secret@", "shunt:p%40ss@"] {
        let bus = open(&format!("redis://{login}{addr}/0"), "camera")?;
        connected(&bus).await?;
        let mut events = bus.subscribe(&all(&Kind::LABEL), Delivery::Assured).await?;
        bus.publish(event(&Kind::LABEL, 1), Delivery::Assured).await?;
        assert_eq!(take(&mut events).await?, 1);
        assert!(!format!("{bus:?}").contains("p@ss"));
        bus.close(LIMIT).await;
    }
    for (login, said) in [("", "NOAUTH"), (":geheim@", "WRONGPASS"), ("nobody:geheim@", "WRONGPASS")] {
        let bus = open(&format!("redis://{login}{addr}"), "camera")?;
        says(&bus, said).await?;
        assert!(!format!("{:?}", *bus.state().borrow()).contains("geheim"));
    }
    Ok(())
}

#[tokio::test]
async fn an_event_that_redis_refuses_says_why_and_the_next_one_goes_through() -> anyhow::Result<()> {
    let server = Redis::start().await?;
    let bus = open(&server.url(), "camera")?;
    connected(&bus).await?;
    server.command("CONFIG SET maxmemory 1").await?;
    let refused = timeout(LIMIT, bus.publish(event(&Kind::LABEL, 1), Delivery::Assured)).await?;
    assert!(matches!(&refused, Err(PublishError::Refused(why)) if why.contains("OOM")), "{refused:?}");
    server.command("CONFIG SET maxmemory 0").await?;
    bus.publish(event(&Kind::LABEL, 2), Delivery::Assured).await?;
    Ok(())
}

#[tokio::test]
async fn the_unix_socket_and_another_database_work() -> anyhow::Result<()> {
    let server = Redis::start().await?;
    for url in [format!("redis+unix://{}", server.socket().display()), format!("{}/3", server.url())] {
        let bus = open(&url, "camera")?;
        connected(&bus).await?;
        let mut events = bus.subscribe(&all(&Kind::LABEL), Delivery::Assured).await?;
        bus.publish(event(&Kind::LABEL, 1), Delivery::Assured).await?;
        assert_eq!(take(&mut events).await?, 1);
    }
    Ok(())
}

#[tokio::test]
async fn data_that_says_json_and_is_none_is_refused() -> anyhow::Result<()> {
    let backend = Backend::redis().await?;
    let bus = backend.bus("camera").await?;
    for delivery in [Delivery::Fast, Delivery::Assured] {
        let wrong = event(&Kind::LABEL, 1).with_body("application/json", &b"{"[..]);
        let refused = bus.publish(wrong, delivery).await;
        assert!(matches!(refused, Err(PublishError::Attribute { .. })), "{refused:?}");
    }
    timeout(Duration::from_secs(5), bus.publish(event(&Kind::LABEL, 2), Delivery::Assured)).await??;
    Ok(())
}

#[tokio::test]
async fn an_event_that_a_full_stream_did_not_take_is_not_taken_for_published_after_a_cut()
-> anyhow::Result<()> {
    let backend = Backend::redis().await?;
    let line = backend.line().context("no line")?;
    let Backend::Redis { server, .. } = &backend else { panic!("not Redis") };
    let relay = join(&server.url(), "relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    let emotion = backend.bus("emotion").await?;
    fill(server).await?;
    // Both reach the server, but no answer comes: the first finds no room, the second goes through.
    line.freeze();
    let mut publishing = tokio::spawn({
        let emotion = emotion.clone();
        async move { emotion.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await }
    });
    // Taken before the second: this test runs on one thread.
    tokio::task::yield_now().await;
    let second = tokio::spawn({
        let emotion = emotion.clone();
        async move { emotion.publish(event(&Kind::LABEL, 2), Delivery::Assured).await }
    });
    disconnected(&emotion).await?;
    line.heal();
    second.await??;
    connected(&emotion).await?;
    assert!(timeout(Duration::from_millis(300), &mut publishing).await.is_err());
    server.command("XTRIM shunt:queue:relay MAXLEN 0").await?;
    publishing.await??;
    assert_eq!(take_event(&mut events).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_server_without_memory_gives_out_what_waits_and_takes_nobody_for_gone() -> anyhow::Result<()> {
    let backend = Backend::redis().await?;
    let Backend::Redis { server, .. } = &backend else { panic!("not Redis") };
    let (relay, emotion) = (backend.bus("relay").await?, join(&server.url(), "emotion").await?);
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    backend.cut();
    disconnected(&relay).await?;
    publish(&emotion, 1..=3).await?;
    // Longer than this test.
    server.command("PEXPIRE shunt:alive:relay 600000").await?;
    server.command("CONFIG SET maxmemory 1").await?;
    backend.heal();
    for expected in 1..=3 {
        assert_eq!(take(&mut events).await?, expected);
    }
    // It still says that it is there.
    assert_eq!(server.command("PEXPIRE shunt:alive:relay 600000").await?, ":1\r\n");
    eventually(LIMIT, || async {
        let answer = server.command("PTTL shunt:alive:relay").await.unwrap();
        answer.trim_start_matches(':').trim().parse::<i64>().is_ok_and(|left| (1..=5000).contains(&left))
    })
    .await;
    server.command("CONFIG SET maxmemory 0").await?;
    publish(&emotion, 4..=4).await?;
    assert_eq!(take(&mut events).await?, 4);
    Ok(())
}

#[tokio::test]
async fn an_entry_that_the_server_handed_to_a_dead_connection_comes() -> anyhow::Result<()> {
    let server = Redis::start().await?;
    drop(join(&server.url(), "relay").await?.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?);
    let emotion = join(&server.url(), "emotion").await?;
    publish(&emotion, 1..=1).await?;
    let relay = Bus::open(BusOptions { queue: 1, ..BusOptions::new(server.url(), "relay".parse()?) })?;
    connected(&relay).await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    let first = next(&mut events).await?;
    // It has no room to ask for more. What follows is given to its name, but not to it.
    publish(&emotion, 2..=2).await?;
    let handed = server.command("XREADGROUP GROUP relay relay STREAMS shunt:queue:relay >").await?;
    assert!(handed.starts_with('*') && handed.contains("emotion"), "{handed}");
    first.ack.ack();
    assert_eq!(take(&mut events).await?, 2);
    assert!(is_quiet(&mut events).await);
    Ok(())
}

#[tokio::test]
async fn one_that_acknowledges_nothing_stops_publishers_for_a_while_only() -> anyhow::Result<()> {
    let server = Redis::start().await?;
    let (emotion, relay) = (join(&server.url(), "emotion").await?, join(&server.url(), "relay").await?);
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    fill(&server).await?;
    let mut publishing = tokio::spawn({
        let emotion = emotion.clone();
        async move { emotion.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await }
    });
    assert!(timeout(Duration::from_millis(300), &mut publishing).await.is_err());
    // As if it had been so for long.
    server.command("HSET shunt:full relay 1").await?;
    timeout(LIMIT, publishing).await???;
    eventually(LIMIT, || async { relay.counters().dropped_receiving == 1 }).await;
    // When it acknowledges, it is waited for again.
    next(&mut events).await?.ack.ack();
    eventually(LIMIT, || async { server.command("HGET shunt:full relay").await.unwrap() == "$-1\r\n" }).await;
    publish(&emotion, 2..=2).await?;
    assert_eq!(take_event(&mut events).await?, 2);
    Ok(())
}

#[tokio::test]
async fn a_stream_is_full_of_bytes_too_and_what_is_acknowledged_makes_room() -> anyhow::Result<()> {
    let server = Redis::start().await?;
    let (emotion, relay) = (join(&server.url(), "emotion").await?, join(&server.url(), "relay").await?);
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    let publishing = tokio::spawn(async move {
        for count in 1..=20 {
            let large = event(&Kind::EMOTION, count).with_body("image/jpeg", vec![7; 5_000_000]);
            emotion.publish(large, Delivery::Assured).await?;
        }
        anyhow::Ok(())
    });
    // Before the time for which publishers wait has passed.
    eventually(LIMIT, || async { server.command("HEXISTS shunt:full relay").await.unwrap() == ":1\r\n" })
        .await;
    // 64 MiB of 6.7 MB each.
    assert_eq!(server.command("XLEN shunt:queue:relay").await?, ":11\r\n");
    for expected in 1..=20 {
        assert_eq!(take(&mut events).await?, expected);
    }
    publishing.await??;
    eventually(LIMIT, || async { server.command("EXISTS shunt:bytes").await.unwrap() == ":0\r\n" }).await;
    Ok(())
}

#[tokio::test]
async fn an_event_waits_for_a_server_that_may_not_write_now() -> anyhow::Result<()> {
    let server = Redis::start().await?;
    let (emotion, relay) = (join(&server.url(), "emotion").await?, join(&server.url(), "relay").await?);
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    // A server that became a copy of another one answers READONLY.
    server.command("REPLICAOF 127.0.0.1 1").await?;
    let mut publishing = tokio::spawn({
        let emotion = emotion.clone();
        async move { emotion.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await }
    });
    says(&emotion, "READONLY").await?;
    assert!(timeout(Duration::from_millis(100), &mut publishing).await.is_err());
    server.command("REPLICAOF NO ONE").await?;
    timeout(LIMIT, publishing).await???;
    assert_eq!(take(&mut events).await?, 1);
    Ok(())
}
