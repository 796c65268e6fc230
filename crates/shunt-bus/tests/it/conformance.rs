//! One suite that every back end passes.

use std::time::Duration;

use shunt_bus::{Bus, BusOptions, Delivery, PublishError};
use shunt_testkit::{Ledger, eventually};
use shunt_wire::{Envelope, Kind, Mono, Stamps, TopicFilter};

use crate::{
    backends::{Backend, LIMIT, connected, disconnected},
    numbered::{all, event, is_quiet, next, number, take},
};

/// Makes each function of the suite a test of each back end.
macro_rules! conformance {
    ($($name:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() -> anyhow::Result<()> {
                super::$name(super::Backend::memory(stringify!($name))).await
            })*
        }
        mod mqtt {
            $(#[tokio::test]
            async fn $name() -> anyhow::Result<()> {
                super::$name(super::Backend::mqtt().await?).await
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $name() -> anyhow::Result<()> {
                super::$name(super::Backend::redis().await?).await
            })*
        }
    };
}

conformance! {
    events_arrive_whole_and_in_order
    each_subscriber_gets_what_its_filter_matches
    two_subscribers_of_one_client_both_get_the_event
    overlapping_filters_of_one_client_deliver_once_each
    a_fast_event_is_refused_and_counted_while_the_broker_is_away
    an_assured_event_waits_for_the_broker
    an_assured_event_published_before_the_broker_was_ever_there_arrives
    a_subscription_made_while_the_broker_is_away_works_when_it_is_there
    what_is_not_acknowledged_comes_again_after_a_reconnect
    what_is_in_hand_does_not_come_twice
    acknowledgements_in_any_order_are_all_heard
    a_subscriber_killed_before_it_acknowledged_gets_the_event_in_its_next_life
    what_is_published_while_a_subscriber_is_away_waits_for_it
    a_closed_bus_keeps_its_assured_subscription
    one_that_is_stopped_before_it_subscribes_keeps_what_waits_for_it
    a_client_of_one_time_leaves_nothing_behind
    a_fast_subscriber_takes_nothing_from_an_assured_one_that_comes_later
    an_unsubscribed_filter_brings_nothing_more
    an_assured_event_that_nobody_subscribed_to_is_counted
    a_slow_subscriber_of_fast_events_gets_the_newest
    newest_skips_what_is_older
    a_slow_subscriber_of_assured_events_loses_none
    a_thousand_events_survive_a_line_that_is_cut_again_and_again
    an_event_too_large_is_refused_by_name
    an_attribute_that_no_broker_takes_is_refused
    a_closed_bus_refuses_and_ends_its_subscriptions
    a_retained_event_reaches_those_who_come_later
    publishing_closes_the_hop
}

/// What concerns fast delivery, with the way past the broker: whichever way an event comes.
macro_rules! fast_conformance {
    ($($name:ident)*) => {
        mod local_beside_memory {
            $(#[tokio::test]
            async fn $name() -> anyhow::Result<()> {
                let name = concat!("local ", stringify!($name));
                super::$name(super::Backend::memory(name).shared()?).await
            })*
        }
        mod local_beside_mqtt {
            $(#[tokio::test]
            async fn $name() -> anyhow::Result<()> {
                super::$name(super::Backend::mqtt().await?.shared()?).await
            })*
        }
    };
}

fast_conformance! {
    events_arrive_whole_and_in_order
    overlapping_filters_of_one_client_deliver_once_each
    a_fast_event_is_refused_and_counted_while_the_broker_is_away
    a_subscription_made_while_the_broker_is_away_works_when_it_is_there
    an_unsubscribed_filter_brings_nothing_more
    a_slow_subscriber_of_fast_events_gets_the_newest
    newest_skips_what_is_older
    an_event_too_large_is_refused_by_name
    a_closed_bus_refuses_and_ends_its_subscriptions
    a_retained_event_reaches_those_who_come_later
    publishing_closes_the_hop
}

async fn events_arrive_whole_and_in_order(backend: Backend) -> anyhow::Result<()> {
    let (publisher, subscriber) = (backend.bus("camera").await?, backend.bus("emotion").await?);
    // A kind each: past the broker an event comes before the broker's copy, which a later subscription may still get.
    for (delivery, kind) in [(Delivery::Fast, Kind::LABEL), (Delivery::Assured, Kind::FACE)] {
        let mut events = subscriber.subscribe(&all(&kind), delivery).await?;
        for count in 1..=100 {
            let event = event(&kind, count)
                .with_subject("track-1")
                .with_extension("color", "blue")
                .with_body("image/jpeg", vec![0xFF; 1000]);
            publisher.publish(event.clone(), delivery).await?;
            if count % 50 == 0 {
                for expected in count - 49..=count {
                    let received = next(&mut events).await?;
                    assert_eq!(received.topic, format!("shunt/{kind}/front-door"));
                    let came = received.envelope?;
                    assert_eq!(came, Envelope { id: expected.to_string(), ..event.clone() });
                    received.ack.ack();
                }
            }
        }
        events.unsubscribe();
    }
    assert!(publisher.counters().published >= 200);
    assert_eq!(subscriber.counters().received, 200);
    Ok(())
}

async fn each_subscriber_gets_what_its_filter_matches(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus("gateway").await?;
    let mut received = Vec::new();
    for filter in ["shunt/face/+", "shunt/+/back-door", "shunt/#", "shunt/face/front-door"] {
        let client = backend.bus(&format!("c{}", received.len())).await?;
        let subscription = client.subscribe(&filter.parse()?, Delivery::Assured).await?;
        received.push((subscription, Vec::new()));
    }
    for (kind, source) in
        [("face", "front-door"), ("face", "back-door"), ("label", "front-door"), ("label", "back-door")]
    {
        let event = Envelope::new("1", kind.parse()?, source.parse()?, "2026-11-21T09:00:00Z");
        bus.publish(event, Delivery::Assured).await?;
    }
    for ((subscription, topics), count) in received.iter_mut().zip([2, 2, 4, 1]) {
        for _ in 0..count {
            let message = next(subscription).await?;
            topics.push(message.topic.trim_start_matches("shunt/").to_owned());
            message.ack.ack();
        }
        assert!(is_quiet(subscription).await);
    }
    let topics: Vec<_> = received.into_iter().map(|(_, topics)| topics.join(" ")).collect();
    assert_eq!(
        topics,
        [
            "face/front-door face/back-door",
            "face/back-door label/back-door",
            "face/front-door face/back-door label/front-door label/back-door",
            "face/front-door",
        ]
    );
    Ok(())
}

async fn two_subscribers_of_one_client_both_get_the_event(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus("console").await?;
    let mut first = bus.subscribe(&all(&Kind::LABEL), Delivery::Assured).await?;
    let mut second = bus.subscribe(&all(&Kind::LABEL), Delivery::Assured).await?;
    bus.publish(event(&Kind::LABEL, 1), Delivery::Assured).await?;
    assert_eq!((take(&mut first).await?, take(&mut second).await?), (1, 1));
    Ok(())
}

async fn overlapping_filters_of_one_client_deliver_once_each(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus("console").await?;
    let mut everything = bus.subscribe(&TopicFilter::everything(), Delivery::Fast).await?;
    let mut labels = bus.subscribe(&all(&Kind::LABEL), Delivery::Assured).await?;
    bus.publish(event(&Kind::LABEL, 1), Delivery::Assured).await?;
    assert_eq!((take(&mut everything).await?, take(&mut labels).await?), (1, 1));
    assert!(is_quiet(&mut everything).await);
    assert!(is_quiet(&mut labels).await);
    Ok(())
}

async fn a_fast_event_is_refused_and_counted_while_the_broker_is_away(
    backend: Backend,
) -> anyhow::Result<()> {
    let bus = backend.bus("camera").await?;
    backend.cut();
    disconnected(&bus).await?;
    let refused = bus.publish(event(&Kind::FRAME, 1), Delivery::Fast).await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    assert_eq!(bus.counters().dropped_sending, 1);
    backend.heal();
    connected(&bus).await?;
    bus.publish(event(&Kind::FRAME, 2), Delivery::Fast).await?;
    assert_eq!(bus.counters().reconnects, 1);
    Ok(())
}

async fn an_assured_event_waits_for_the_broker(backend: Backend) -> anyhow::Result<()> {
    let (bus, relay) = (backend.bus("emotion").await?, backend.bus("relay").await?);
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    backend.cut();
    disconnected(&bus).await?;
    let publish = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await }
    });
    assert!(is_quiet(&mut events).await);
    assert!(!publish.is_finished());
    backend.heal();
    publish.await??;
    assert_eq!(take(&mut events).await?, 1);
    Ok(())
}

async fn an_assured_event_published_before_the_broker_was_ever_there_arrives(
    backend: Backend,
) -> anyhow::Result<()> {
    backend.cut();
    let bus = Bus::open(BusOptions::new(backend.url(), "emotion".parse()?))?;
    let mut events = bus.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    let publish = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await }
    });
    assert!(is_quiet(&mut events).await);
    backend.heal();
    publish.await??;
    assert_eq!(take(&mut events).await?, 1);
    Ok(())
}

async fn a_subscription_made_while_the_broker_is_away_works_when_it_is_there(
    backend: Backend,
) -> anyhow::Result<()> {
    let (bus, other) = (backend.bus("console").await?, backend.bus("camera").await?);
    backend.cut();
    disconnected(&bus).await?;
    let mut events = bus.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    backend.heal();
    connected(&bus).await?;
    connected(&other).await?;
    // The subscription may follow the connection by a moment.
    let mut count = 0;
    let came = async {
        loop {
            count += 1;
            other.publish(event(&Kind::FRAME, count), Delivery::Fast).await?;
            if !is_quiet(&mut events).await {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(LIMIT, came).await??;
    Ok(())
}

async fn what_is_not_acknowledged_comes_again_after_a_reconnect(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus("relay").await?;
    let mut events = bus.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    for count in 1..=3 {
        bus.publish(event(&Kind::EMOTION, count), Delivery::Assured).await?;
    }
    assert_eq!(take(&mut events).await?, 1);
    drop(next(&mut events).await?);
    drop(next(&mut events).await?);
    assert!(is_quiet(&mut events).await);
    backend.cut();
    disconnected(&bus).await?;
    backend.heal();
    assert_eq!((take(&mut events).await?, take(&mut events).await?), (2, 3));
    assert!(is_quiet(&mut events).await);
    Ok(())
}

async fn what_is_in_hand_does_not_come_twice(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus("relay").await?;
    let mut events = bus.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    for count in 1..=3 {
        bus.publish(event(&Kind::EMOTION, count), Delivery::Assured).await?;
    }
    let first = next(&mut events).await?;
    let second = next(&mut events).await?;
    // The second is done, but its acknowledgement waits for the first; the third still waits in the inbox.
    second.ack.ack();
    eventually(LIMIT, || async { bus.counters().received == 3 }).await;
    backend.cut();
    disconnected(&bus).await?;
    backend.heal();
    connected(&bus).await?;
    assert_eq!(take(&mut events).await?, 3);
    assert!(is_quiet(&mut events).await);
    first.ack.ack();
    bus.publish(event(&Kind::EMOTION, 4), Delivery::Assured).await?;
    assert_eq!(take(&mut events).await?, 4);
    // All were heard: a next life of this client gets nothing.
    bus.close(LIMIT).await;
    let bus = backend.bus("relay").await?;
    let mut events = bus.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    assert!(is_quiet(&mut events).await);
    Ok(())
}

async fn acknowledgements_in_any_order_are_all_heard(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus("relay").await?;
    let mut events = bus.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    for count in 1..=20 {
        bus.publish(event(&Kind::EMOTION, count), Delivery::Assured).await?;
    }
    let mut received = Vec::new();
    for _ in 1..=20 {
        received.push(next(&mut events).await?);
    }
    for message in received.into_iter().rev() {
        message.ack.ack();
    }
    bus.close(LIMIT).await;
    let bus = backend.bus("relay").await?;
    let mut events = bus.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    assert!(is_quiet(&mut events).await);
    Ok(())
}

async fn a_subscriber_killed_before_it_acknowledged_gets_the_event_in_its_next_life(
    backend: Backend,
) -> anyhow::Result<()> {
    let publisher = backend.bus("emotion").await?;
    let relay = backend.bus("relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    for count in 1..=5 {
        publisher.publish(event(&Kind::EMOTION, count), Delivery::Assured).await?;
    }
    assert_eq!(take(&mut events).await?, 1);
    let in_hand = next(&mut events).await?;
    eventually(LIMIT, || async { relay.counters().received == 5 }).await;
    // Dropped without a goodbye.
    drop((relay, events, in_hand));
    let relay = backend.bus("relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    let mut came = Ledger::default();
    while !came.missing(2..=5).is_empty() {
        came.note(take(&mut events).await?);
    }
    Ok(())
}

async fn what_is_published_while_a_subscriber_is_away_waits_for_it(backend: Backend) -> anyhow::Result<()> {
    let publisher = backend.bus("emotion").await?;
    let relay = backend.bus("relay").await?;
    drop(relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?);
    drop(relay);
    for count in 1..=200 {
        publisher.publish(event(&Kind::EMOTION, count), Delivery::Assured).await?;
    }
    let relay = backend.bus_with("relay", |options| options.queue = 16).await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    for expected in 1..=200 {
        assert_eq!(take(&mut events).await?, expected);
    }
    Ok(())
}

async fn a_closed_bus_keeps_its_assured_subscription(backend: Backend) -> anyhow::Result<()> {
    let publisher = backend.bus("emotion").await?;
    let relay = backend.bus("relay").await?;
    let events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    publisher.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await?;
    drop(events);
    relay.close(LIMIT).await;
    publisher.publish(event(&Kind::EMOTION, 2), Delivery::Assured).await?;
    let relay = backend.bus("relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    assert_eq!((take(&mut events).await?, take(&mut events).await?), (1, 2));
    Ok(())
}

async fn one_that_is_stopped_before_it_subscribes_keeps_what_waits_for_it(
    backend: Backend,
) -> anyhow::Result<()> {
    let publisher = backend.bus("emotion").await?;
    let relay = backend.bus("relay").await?;
    drop(relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?);
    relay.close(LIMIT).await;
    publisher.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await?;
    // Stopped while it loads a model, say.
    backend.bus("relay").await?.close(LIMIT).await;
    publisher.publish(event(&Kind::EMOTION, 2), Delivery::Assured).await?;
    let relay = backend.bus("relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    assert_eq!((take(&mut events).await?, take(&mut events).await?), (1, 2));
    Ok(())
}

async fn a_client_of_one_time_leaves_nothing_behind(backend: Backend) -> anyhow::Result<()> {
    let publisher = backend.bus("emotion").await?;
    let once = backend.bus_with("once", |options| options.keep = false).await?;
    let mut events = once.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    publisher.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await?;
    drop(next(&mut events).await?);
    once.close(LIMIT).await;
    // A broker that is slow may read the goodbye after an event of somebody else.
    eventually(LIMIT, || async {
        publisher.publish(event(&Kind::EMOTION, 2), Delivery::Assured).await.unwrap();
        publisher.counters().unheard > 0
    })
    .await;
    let once = backend.bus("once").await?;
    let mut events = once.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    assert!(is_quiet(&mut events).await);
    Ok(())
}

async fn a_fast_subscriber_takes_nothing_from_an_assured_one_that_comes_later(
    backend: Backend,
) -> anyhow::Result<()> {
    let publisher = backend.bus("emotion").await?;
    let relay = backend.bus("relay").await?;
    drop(relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?);
    drop(relay);
    let relay = backend.bus("relay").await?;
    let mut everything = relay.subscribe(&TopicFilter::everything(), Delivery::Fast).await?;
    publisher.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await?;
    assert_eq!(take(&mut everything).await?, 1);
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    assert_eq!(take(&mut events).await?, 1);
    Ok(())
}

async fn an_unsubscribed_filter_brings_nothing_more(backend: Backend) -> anyhow::Result<()> {
    let publisher = backend.bus("emotion").await?;
    let relay = backend.bus("relay").await?;
    let events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    publisher.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await?;
    eventually(LIMIT, || async { relay.counters().received == 1 }).await;
    events.unsubscribe();
    // A subscription after it is heard after it.
    let mut labels = relay.subscribe(&all(&Kind::LABEL), Delivery::Assured).await?;
    publisher.publish(event(&Kind::EMOTION, 2), Delivery::Assured).await?;
    publisher.publish(event(&Kind::LABEL, 3), Delivery::Assured).await?;
    assert_eq!(take(&mut labels).await?, 3);
    relay.close(LIMIT).await;
    let relay = backend.bus("relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    assert!(is_quiet(&mut events).await);
    Ok(())
}

async fn an_assured_event_that_nobody_subscribed_to_is_counted(backend: Backend) -> anyhow::Result<()> {
    let publisher = backend.bus("emotion").await?;
    let relay = backend.bus("relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    publisher.publish(event(&Kind::LABEL, 1), Delivery::Assured).await?;
    publisher.publish(event(&Kind::EMOTION, 2), Delivery::Assured).await?;
    assert_eq!(take(&mut events).await?, 2);
    let counters = publisher.counters();
    assert_eq!((counters.published, counters.unheard), (2, 1));
    Ok(())
}

async fn a_slow_subscriber_of_fast_events_gets_the_newest(backend: Backend) -> anyhow::Result<()> {
    let publisher = backend.bus("camera").await?;
    let viewer = backend.bus_with("console", |options| options.queue = 4).await?;
    let mut events = viewer.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    for count in 1..=50 {
        publisher.publish(event(&Kind::FRAME, count), Delivery::Fast).await?;
    }
    eventually(LIMIT, || async { viewer.counters().received == 50 }).await;
    for expected in 47..=50 {
        assert_eq!(take(&mut events).await?, expected);
    }
    assert_eq!(viewer.counters().dropped_receiving, 46);
    Ok(())
}

async fn newest_skips_what_is_older(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus("emotion").await?;
    let mut frames = bus.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    for count in 1..=10 {
        bus.publish(event(&Kind::FRAME, count), Delivery::Fast).await?;
    }
    eventually(LIMIT, || async { bus.counters().received == 10 }).await;
    assert_eq!(number(&frames.newest().await.unwrap()), 10);
    assert_eq!(bus.counters().dropped_receiving, 9);
    Ok(())
}

async fn a_slow_subscriber_of_assured_events_loses_none(backend: Backend) -> anyhow::Result<()> {
    let publisher = backend.bus("emotion").await?;
    let relay = backend.bus_with("relay", |options| options.queue = 4).await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    for count in 1..=300 {
        publisher.publish(event(&Kind::EMOTION, count), Delivery::Assured).await?;
    }
    // No more than the receive maximum came before an acknowledgement.
    eventually(LIMIT, || async { relay.counters().received == 4 }).await;
    for expected in 1..=300 {
        let came = take(&mut events).await?;
        assert_eq!(came, expected);
    }
    let counters = relay.counters();
    assert_eq!((counters.received, counters.dropped_receiving, counters.reconnects), (300, 0, 0));
    Ok(())
}

async fn a_thousand_events_survive_a_line_that_is_cut_again_and_again(
    backend: Backend,
) -> anyhow::Result<()> {
    const EVENTS: u64 = 1000;
    let (publisher, relay) = (backend.bus("emotion").await?, backend.bus("relay").await?);
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    let (seen, mut progress) = tokio::sync::watch::channel(0);
    let publish = tokio::spawn(async move {
        // Several at once, so that some are always on their way; but never far ahead, so that each cut meets some.
        let mut tasks = tokio::task::JoinSet::new();
        for count in 1..=EVENTS {
            progress.wait_for(|seen| count <= seen + 100).await?;
            let publisher = publisher.clone();
            tasks.spawn(
                async move { publisher.publish(event(&Kind::EMOTION, count), Delivery::Assured).await },
            );
            if tasks.len() >= 32 {
                tasks.join_next().await.unwrap()??;
            }
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        anyhow::Ok(())
    });
    let mut ledger = Ledger::default();
    let (mut cuts, mut cutting) = (0, false);
    while !ledger.missing(1..=EVENTS).is_empty() {
        let cut = async {
            match backend.line() {
                // In the middle of a packet.
                Some(line) if cutting => eventually(LIMIT, || async { line.is_cut() }).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            number = take(&mut events) => {
                let is_new = ledger.note(number?);
                seen.send_replace(ledger.len() as u64);
                if is_new && ledger.len() % 150 == 0 && ledger.len() < 900 {
                    if let Backend::Mqtt { line, .. } = &backend {
                        line.cut_after(1000);
                        cutting = true;
                    } else {
                        backend.cut();
                        backend.heal();
                        cuts += 1;
                    }
                }
            }
            () = cut => {
                backend.heal();
                cutting = false;
                cuts += 1;
            }
        }
    }
    publish.await??;
    assert!(cuts >= 5, "{cuts} cuts");
    assert!(relay.counters().reconnects >= 3);
    println!("{cuts} cuts, {} delivered twice", ledger.repeated());
    Ok(())
}

async fn an_event_too_large_is_refused_by_name(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus_with("camera", |options| options.max_message = 2000).await?;
    let mut events = bus.subscribe(&all(&Kind::FRAME), Delivery::Assured).await?;
    for delivery in [Delivery::Fast, Delivery::Assured] {
        let large = event(&Kind::FRAME, 1).with_body("image/jpeg", vec![0; 2000]);
        let refused = bus.publish(large, delivery).await;
        assert!(matches!(refused, Err(PublishError::TooLarge { size: 2001.., max: 2000 })), "{refused:?}");
        let fits = event(&Kind::FRAME, 2).with_body("image/jpeg", vec![0; 1500]);
        bus.publish(fits, delivery).await?;
        assert_eq!(take(&mut events).await?, 2);
    }
    Ok(())
}

async fn an_attribute_that_no_broker_takes_is_refused(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus("camera").await?;
    for subject in ["line\nbreak".to_owned(), "\0".to_owned(), "\u{FFFF}".to_owned(), "x".repeat(70_000)] {
        let refused = bus.publish(event(&Kind::FRAME, 1).with_subject(subject), Delivery::Assured).await;
        assert!(matches!(refused, Err(PublishError::Attribute { .. })), "{refused:?}");
    }
    bus.publish(event(&Kind::FRAME, 1).with_subject("Grüße 😀"), Delivery::Assured).await?;
    Ok(())
}

async fn a_closed_bus_refuses_and_ends_its_subscriptions(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus("camera").await?;
    let mut events = bus.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    bus.close(LIMIT).await;
    assert!(tokio::time::timeout(LIMIT, events.next()).await?.is_none());
    for delivery in [Delivery::Fast, Delivery::Assured] {
        let refused = bus.publish(event(&Kind::FRAME, 1), delivery).await;
        assert!(matches!(refused, Err(PublishError::Closed)), "{refused:?}");
    }
    assert!(bus.subscribe(&all(&Kind::FRAME), Delivery::Fast).await.is_err());
    // Again does no harm, also while the broker is away.
    bus.close(Duration::from_millis(10)).await;
    Ok(())
}

async fn a_retained_event_reaches_those_who_come_later(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus("camera").await?;
    bus.publish_retained(event(&Kind::PRESENCE, 7)).await?;
    for delivery in [Delivery::Fast, Delivery::Assured] {
        let late = backend.bus(&format!("late-{delivery:?}")).await?;
        let mut events = late.subscribe(&all(&Kind::PRESENCE), delivery).await?;
        assert_eq!(take(&mut events).await?, 7);
        // Not again after a reconnect.
        backend.cut();
        disconnected(&late).await?;
        backend.heal();
        connected(&late).await?;
        assert!(is_quiet(&mut events).await);
    }
    Ok(())
}

async fn publishing_closes_the_hop(backend: Backend) -> anyhow::Result<()> {
    let bus = backend.bus("camera").await?;
    let mut events = bus.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    let captured = shunt_bus::clock::now();
    let frame = event(&Kind::FRAME, 1).with_stamps(Stamps::captured(captured));
    bus.publish(frame, Delivery::Fast).await?;
    let received = next(&mut events).await?;
    let stamps = received.envelope?.stamps.unwrap();
    assert_eq!(stamps.capture(), captured);
    let [hop] = stamps.hops() else { panic!("{stamps:?}") };
    assert_eq!(hop.module.as_str(), "camera");
    assert!(
        captured <= hop.sent
            && hop.sent <= received.received_at
            && received.received_at > Mono::from_nanos(0)
    );
    Ok(())
}
