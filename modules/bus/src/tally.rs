//! What `/metrics` tells: of the broker, by its own `$SYS` topics, and of the supervisor.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};
use shunt_bus::bridge::BridgeCounters;
use tokio::{sync::watch, time::timeout};

/// What the broker tells of itself, on which topic, as which metric.
const GAUGES: [(&str, &str, &str); 8] = [
    ("clients/connected", "shunt_bus_broker_clients", "Clients connected to the broker."),
    (
        "clients/disconnected",
        "shunt_bus_broker_clients_away",
        "Clients whose session the broker keeps while they are away.",
    ),
    ("subscriptions/count", "shunt_bus_broker_subscriptions", "Subscriptions at the broker."),
    (
        "retained messages/count",
        "shunt_bus_broker_retained_messages",
        "Messages that the broker keeps for new subscribers.",
    ),
    (
        "store/messages/count",
        "shunt_bus_broker_stored_messages",
        "Messages in the broker's memory: waiting, in flight and retained.",
    ),
    ("store/messages/bytes", "shunt_bus_broker_stored_bytes", "Bytes of their payloads."),
    ("heap/current", "shunt_bus_broker_heap_bytes", "Memory that the broker uses."),
    ("uptime", "shunt_bus_broker_uptime_seconds", "Seconds since the broker started."),
];
const COUNTERS: [(&str, &str, &str); 7] = [
    ("messages/received", "shunt_bus_broker_received_packets_total", "MQTT packets received."),
    ("messages/sent", "shunt_bus_broker_sent_packets_total", "MQTT packets sent."),
    (
        "publish/messages/received",
        "shunt_bus_broker_received_messages_total",
        "Messages published by clients.",
    ),
    ("publish/messages/sent", "shunt_bus_broker_sent_messages_total", "Messages sent to subscribers."),
    (
        "publish/messages/dropped",
        "shunt_bus_broker_dropped_messages_total",
        "Messages dropped because a subscriber's queue was full.",
    ),
    ("bytes/received", "shunt_bus_broker_received_bytes_total", "Bytes received."),
    ("bytes/sent", "shunt_bus_broker_sent_bytes_total", "Bytes sent."),
];

/// The broker tells its figures every 5 s. One that is silent for so long is in trouble.
const SILENCE: Duration = Duration::from_secs(30);

/// What is counted. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    gauges: Arc<[(&'static str, IntGauge)]>,
    counters: Arc<[(&'static str, Counted)]>,
    restarts: IntCounter,
    reloads: IntCounter,
    refused: IntCounter,
    /// The memory that the broker uses, in bytes. Each word of it counts as a change.
    heap: Arc<watch::Sender<u64>>,
    expiry: IntGauge,
    copied: IntCounter,
    not_copied: IntCounterVec,
}

/// A counter that follows the broker's, which begins anew with each start of it.
#[derive(Debug)]
struct Counted {
    counter: IntCounter,
    last: Mutex<u64>,
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let gauges = GAUGES.map(|(topic, name, help)| Ok((topic, IntGauge::new(name, help)?)));
        let counters = COUNTERS.map(|(topic, name, help)| {
            Ok((topic, Counted { counter: IntCounter::new(name, help)?, last: Mutex::new(0) }))
        });
        Ok(Self {
            gauges: gauges.into_iter().collect::<prometheus::Result<_>>()?,
            counters: counters.into_iter().collect::<prometheus::Result<_>>()?,
            restarts: IntCounter::new(
                "shunt_bus_broker_restarts_total",
                "Times the broker was started again: because it had ended by itself, its memory was full, or for new settings.",
            )?,
            reloads: IntCounter::new(
                "shunt_bus_broker_reloads_total",
                "Times the broker took a new certificate, access rights or bounds while its clients stayed.",
            )?,
            refused: IntCounter::new(
                "shunt_bus_broker_refused_connections_total",
                "Refused connections that the broker tells of in its log, which are not all: no certificate, one that it does not trust, or no TLS at all.",
            )?,
            heap: Arc::new(watch::Sender::new(0)),
            expiry: IntGauge::new(
                "shunt_bus_certificate_expiry_timestamp_seconds",
                "When the broker's certificate runs out, in seconds since 1970; 0: there is none.",
            )?,
            copied: IntCounter::new(
                "shunt_bus_bridge_copied_messages_total",
                "Messages that the bridge copied.",
            )?,
            not_copied: IntCounterVec::new(
                Opts::new(
                    "shunt_bus_bridge_dropped_messages_total",
                    "Messages that the bridge did not copy: away (the other side was not there), full (they came faster than they went), refused (no counterpart, or too large).",
                ),
                &["reason"],
            )?,
        })
    }

    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.collectors().into_iter().try_for_each(|collector| registry.register(collector))
    }

    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let mut collectors: Vec<Box<dyn Collector>> = Vec::new();
        for (_, gauge) in self.gauges.iter() {
            collectors.push(Box::new(gauge.clone()));
        }
        for (_, counted) in self.counters.iter() {
            collectors.push(Box::new(counted.counter.clone()));
        }
        for counter in [&self.restarts, &self.reloads, &self.refused] {
            collectors.push(Box::new(counter.clone()));
        }
        collectors.push(Box::new(self.expiry.clone()));
        collectors.push(Box::new(self.copied.clone()));
        collectors.push(Box::new(self.not_copied.clone()));
        collectors
    }

    /// Takes what the broker says on `$SYS/broker/<topic>`: a number, perhaps with a word behind it.
    pub(crate) fn take(&self, topic: &str, payload: &[u8]) {
        let Some(topic) = topic.strip_prefix("$SYS/broker/") else { return };
        let number =
            std::str::from_utf8(payload).ok().and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let Some(number) = number else { return };
        self.heap.send_modify(|heap| {
            if topic == "heap/current" {
                *heap = number;
            }
        });
        if let Some((_, gauge)) = self.gauges.iter().find(|(known, _)| *known == topic) {
            gauge.set(number.try_into().unwrap_or(i64::MAX));
        }
        if let Some((_, counted)) = self.counters.iter().find(|(known, _)| *known == topic) {
            let mut last = counted.last.lock();
            counted.counter.inc_by(number.checked_sub(*last).unwrap_or(number));
            *last = number;
        }
    }

    /// Returns when the broker's memory is nearly full: by its own word, or because it was half full and then said
    /// nothing more. Cancel-safe.
    pub(crate) async fn nearly_full(&self, limit: u64) {
        let mut heap = self.heap.subscribe();
        loop {
            let bytes = *heap.borrow_and_update();
            let said = timeout(SILENCE, heap.changed()).await;
            if bytes >= limit / 10 * 9 || (said.is_err() && bytes >= limit / 2) {
                return;
            }
        }
    }

    /// The broker begins anew, with nothing in its memory.
    pub(crate) fn emptied(&self) {
        self.heap.send_replace(0);
    }

    /// What the bridge did since the last look.
    pub(crate) fn bridged(&self, last: &BridgeCounters, now: &BridgeCounters) {
        self.copied.inc_by(now.copied.saturating_sub(last.copied));
        let reasons = [
            ("away", last.dropped_away, now.dropped_away),
            ("full", last.dropped_full, now.dropped_full),
            ("refused", last.dropped_refused, now.dropped_refused),
        ];
        for (reason, last, now) in reasons {
            self.not_copied.with_label_values(&[reason]).inc_by(now.saturating_sub(last));
        }
    }

    pub(crate) fn restarted(&self) {
        self.restarts.inc();
    }

    pub(crate) fn reloaded(&self) {
        self.reloads.inc();
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    pub(crate) fn expires(&self, seconds: i64) {
        self.expiry.set(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_when_the_broker_begins_anew() {
        let tally = Tally::new().unwrap();
        for number in ["10", "25", "3"] {
            tally.take("$SYS/broker/messages/received", number.as_bytes());
        }
        tally.take("$SYS/broker/uptime", b"17 seconds");
        tally.take("$SYS/broker/clients/connected", b"nonsense");
        let value = |name: &str| {
            let families: Vec<_> =
                tally.collectors().iter().flat_map(|collector| collector.collect()).collect();
            let family = families.into_iter().find(|family| family.name() == name).unwrap();
            let metric = &family.get_metric()[0];
            (metric.get_counter().get_value() + metric.get_gauge().get_value()).to_string()
        };
        assert_eq!(value("shunt_bus_broker_received_packets_total"), "28");
        assert_eq!(value("shunt_bus_broker_uptime_seconds"), "17");
        assert_eq!(value("shunt_bus_broker_clients"), "0");
    }
}
