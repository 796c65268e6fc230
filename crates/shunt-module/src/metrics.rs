//! Metrics: the page that the metrics collector of IoT Edge reads, and what every module counts.

use std::collections::HashMap;

use prometheus::{
    Encoder, IntCounter, IntGauge, Opts, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use shunt_bus::Bus;
use shunt_hub::Hub;

use crate::Health;

/// The page in Prometheus' classic text format. Values that are infinite are left out: the metrics collector of
/// IoT Edge cannot read them (`edge-modules/metrics-collector` in Azure/iotedge).
pub(crate) fn page(registry: &prometheus::Registry) -> prometheus::Result<String> {
    let mut bytes = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut page = String::with_capacity(text.len());
    for line in text.lines().filter(|line| line.starts_with('#') || !is_infinite(line)) {
        page.push_str(line);
        page.push('\n');
    }
    Ok(page)
}

/// The crate writes infinite values as `inf`, the format's own word is `Inf`.
fn is_infinite(line: &str) -> bool {
    let value = line.rsplit(' ').next().unwrap_or_default();
    value.trim_start_matches(['+', '-']).eq_ignore_ascii_case("inf")
}

/// Checks a `/metrics` page with the grammar that the metrics collector of IoT Edge reads
/// (`edge-modules/metrics-collector` in Azure/iotedge): the classic text format, plain values, no exemplars, no label twice. For tests.
///
/// # Errors
/// Each line that it would lose, with the reason.
pub fn check_page(page: &str) -> Result<(), Vec<String>> {
    let mut bad = Vec::new();
    for (number, line) in page.lines().enumerate() {
        if let Err(reason) = check_line(line) {
            bad.push(format!("line {}: {reason}: {line}", number + 1));
        }
    }
    if bad.is_empty() { Ok(()) } else { Err(bad) }
}

fn check_line(line: &str) -> Result<(), &'static str> {
    if line.is_empty() {
        return Ok(());
    }
    if let Some(comment) = line.strip_prefix("# ") {
        let mut words = comment.splitn(3, ' ');
        return match (words.next(), words.next(), words.next()) {
            (Some("HELP"), Some(name), Some(_)) if is_name(name) => Ok(()),
            (Some("TYPE"), Some(name), Some(kind)) if is_name(name) => {
                let known = ["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind);
                if known { Ok(()) } else { Err("a metric type that is not known") }
            }
            _ => Err("a comment that is neither HELP nor TYPE"),
        };
    }
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err("a metric name with other signs than letters, digits, '_' and ':'");
    }
    if let Some(labels) = rest.strip_prefix('{') {
        rest = check_labels(labels)?;
    }
    let mut parts = rest.strip_prefix(' ').ok_or("no blank before the value")?.split(' ');
    let value = parts.next().unwrap_or_default();
    let plain = !value.is_empty()
        && value.chars().all(|sign| sign.is_ascii_digit() || matches!(sign, '.' | 'e' | 'E' | '+' | '-'));
    if value != "NaN" && !(plain && value.parse::<f64>().is_ok()) {
        return Err("a value that the collector cannot read");
    }
    match (parts.next(), parts.next()) {
        (None, _) => Ok(()),
        (Some(timestamp), None) if timestamp.parse::<i64>().is_ok() => Ok(()),
        _ => Err("something after the value (exemplars cannot be read)"),
    }
}

/// Checks `name="value",...}` and gives what follows.
fn check_labels(mut rest: &str) -> Result<&str, &'static str> {
    let mut names = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(after);
        }
        let (name, after) = rest.split_once("=\"").ok_or("a label without a quoted value")?;
        if !is_name(name) || name.contains(':') {
            return Err("a label name with other signs than letters, digits and '_'");
        }
        if names.contains(&name) {
            return Err("a label name twice");
        }
        names.push(name);
        let mut escaped = false;
        let end = after
            .char_indices()
            .find(|&(_, sign)| {
                let found = sign == '"' && !escaped;
                escaped = sign == '\\' && !escaped;
                found
            })
            .map(|(index, _)| index)
            .ok_or("a label value without an end")?;
        rest = after.get(end + 1..).unwrap_or_default();
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|sign: char| sign.is_ascii_digit())
        && name.chars().all(|sign| sign.is_ascii_alphanumeric() || matches!(sign, '_' | ':'))
}

/// What every module counts: bus, hub, readiness; read when the page is asked for.
pub(crate) struct Common {
    module: String,
    bus: Option<Bus>,
    hub: Option<Hub>,
    health: Health,
    descriptions: Vec<Desc>,
}

/// A metric as it is when the page is asked for: name, meaning, labels, value.
type Sample = (&'static str, &'static str, &'static [(&'static str, &'static str)], Value);

#[derive(Clone, Copy)]
enum Value {
    Counter(u64),
    Gauge(i64),
}

// === impl Common ===

impl Common {
    pub(crate) fn new(module: &str, bus: Option<Bus>, hub: Option<Hub>, health: Health) -> Self {
        let mut common = Self { module: module.to_owned(), bus, hub, health, descriptions: Vec::new() };
        common.descriptions = common.families().iter().filter_map(describe).collect();
        common
    }

    fn samples(&self) -> Vec<Sample> {
        use Value::{Counter, Gauge};
        let bus = self.bus.as_ref().map(Bus::counters).unwrap_or_default();
        let hub = self.hub.as_ref().map(Hub::counters).unwrap_or_default();
        let dropped =
            "Fast events dropped: not connected or queue full (sending), subscriber too slow (receiving).";
        let local = "Fast events that went past the broker, once for each module that shares memory (sending), or whose first copy came so (receiving).";
        vec![
            ("shunt_bus_published_events_total", "Events handed to the broker.", &[], Counter(bus.published)),
            (
                "shunt_bus_received_events_total",
                "Events received; one that came by two ways counts once.",
                &[],
                Counter(bus.received),
            ),
            ("shunt_bus_local_events_total", local, &[("direction", "sending")], Counter(bus.sent_locally)),
            (
                "shunt_bus_local_events_total",
                local,
                &[("direction", "receiving")],
                Counter(bus.received_locally),
            ),
            (
                "shunt_bus_local_dropped_events_total",
                "Fast events past the broker that a slow module did not take in time; the broker's copy may have reached it.",
                &[],
                Counter(bus.dropped_locally),
            ),
            (
                "shunt_bus_dropped_events_total",
                dropped,
                &[("direction", "sending")],
                Counter(bus.dropped_sending),
            ),
            (
                "shunt_bus_dropped_events_total",
                dropped,
                &[("direction", "receiving")],
                Counter(bus.dropped_receiving),
            ),
            (
                "shunt_bus_unheard_events_total",
                "Assured events that the broker took although nobody had subscribed to them; they are gone.",
                &[],
                Counter(bus.unheard),
            ),
            (
                "shunt_bus_reconnects_total",
                "Times the connection to the broker came back.",
                &[],
                Counter(bus.reconnects),
            ),
            (
                "shunt_hub_acknowledged_messages_total",
                "Messages that the hub has acknowledged.",
                &[],
                Counter(hub.acknowledged),
            ),
            (
                "shunt_hub_reconnects_total",
                "Times the connection to the hub came back after a fault.",
                &[],
                Counter(hub.reconnects),
            ),
            (
                "shunt_hub_renewals_total",
                "Times the connection to the hub was renewed because its token ran out.",
                &[],
                Counter(hub.renewals),
            ),
            (
                "shunt_module_ready",
                "1 if all parts of the module are ready, else 0.",
                &[],
                Gauge(i64::from(self.health.is_ready())),
            ),
        ]
    }

    fn families(&self) -> Vec<MetricFamily> {
        let mut families: Vec<MetricFamily> = Vec::new();
        let mut add = |name: &str, help: &str, labels: HashMap<String, String>, value| {
            let opts = Opts::new(name, help).const_labels(labels);
            let collected = match value {
                Value::Counter(count) => IntCounter::with_opts(opts).map(|counter| {
                    counter.inc_by(count);
                    counter.collect()
                }),
                Value::Gauge(level) => IntGauge::with_opts(opts).map(|gauge| {
                    gauge.set(level);
                    gauge.collect()
                }),
            };
            let Ok(collected) = collected else { return };
            for family in collected {
                match families.iter_mut().find(|known| known.name() == family.name()) {
                    Some(known) => known.mut_metric().extend(family.get_metric().iter().cloned()),
                    None => families.push(family),
                }
            }
        };
        for (name, help, labels, value) in self.samples() {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            add(name, help, labels, value);
        }
        let info = [("module", self.module.as_str()), ("version", env!("CARGO_PKG_VERSION"))];
        let info = info.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        add("shunt_module_info", "Always 1; the labels tell module and version.", info, Value::Gauge(1));
        families
    }
}

/// The description of a family, which a registry wants beforehand.
fn describe(family: &MetricFamily) -> Option<Desc> {
    let labels = family.get_metric().first()?.get_label().iter().map(|label| label.name().to_owned());
    Desc::new(family.name().to_owned(), family.help().to_owned(), labels.collect(), HashMap::new()).ok()
}

impl Collector for Common {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, Registry};

    use super::*;

    fn check(line: &str, expected: bool) {
        assert_eq!(check_page(line).is_ok(), expected, "{line}");
    }

    #[test]
    fn the_grammar_is_that_of_iot_edge_s_collector() {
        check("up 1", true);
        check("a:b_c{x=\"y\",z=\"a \\\" } b\"} -1.5e-3 1700000000000", true);
        check("bucket{le=\"+Inf\"} 3", true);
        check("value NaN", true);
        check("value +Inf", false);
        check("value -Inf", false);
        check("value 1 # {trace_id=\"x\"} 1", false);
        check("value{a=\"1\",a=\"2\"} 1", false);
        check("1value 1", false);
        check("value", false);
        check("value{a=\"1\" 1", false);
        check("value{a-b=\"1\"} 1", false);
        check("# HELP up It is up.", true);
        check("# TYPE up gauge", true);
        check("# TYPE up thing", false);
        check("# EOF", false);
    }

    #[test]
    fn a_page_with_everything_on_it_can_be_read_by_the_collector() {
        let registry = Registry::new();
        let common = Common::new("lamp", None, None, Health::new());
        registry.register(Box::new(common)).unwrap();
        let odd = Gauge::new("shunt_lamp_odd", "Says \"odd\" things\nin two lines.").unwrap();
        registry.register(Box::new(odd.clone())).unwrap();
        let labels =
            IntCounterVec::new(Opts::new("shunt_lamp_events_total", "Events."), &["kind", "reason"]).unwrap();
        labels.with_label_values(&["a \"quoted\" one", "back\\slash"]).inc();
        registry.register(Box::new(labels)).unwrap();
        let histogram = Histogram::with_opts(HistogramOpts::new("shunt_lamp_seconds", "Time.")).unwrap();
        histogram.observe(0.3);
        registry.register(Box::new(histogram)).unwrap();
        for value in [1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            odd.set(value);
            let text = page(&registry).unwrap();
            assert_eq!(check_page(&text), Ok(()), "{text}");
            assert_eq!(text.contains("\nshunt_lamp_odd "), !value.is_infinite(), "{text}");
        }
        let text = page(&registry).unwrap();
        assert!(text.contains("shunt_bus_dropped_events_total{direction=\"receiving\"} 0"), "{text}");
        assert!(text.contains("shunt_module_ready 1"), "{text}");
    }
}
