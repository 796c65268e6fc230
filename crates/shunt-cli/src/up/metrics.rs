//! Counters of the modules, read from their `/metrics`.

use std::{collections::BTreeMap, time::Duration};

/// Counters of one module over all its lives: a counter that went back began again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    /// By name and labels as written: what earlier lives had, and what this life has.
    series: BTreeMap<String, (f64, f64)>,
}

// === impl Counters ===

impl Counters {
    /// Takes in a page of metrics in Prometheus' text form.
    pub(crate) fn take(&mut self, page: &str) {
        for (series, value) in page.lines().filter_map(parse_line) {
            let (before, now) = self.series.entry(series.to_owned()).or_default();
            let is_counter = series.split('{').next().is_some_and(|name| name.ends_with("_total"));
            if is_counter && value < *now {
                *before += *now;
            }
            *now = value;
        }
    }

    /// The sum of all series of this name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).fold(0.0, |sum, value| sum + value)
    }

    /// The values of a metric by one of its labels.
    pub(crate) fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut values = BTreeMap::new();
        let prefix = format!("{label}=\"");
        for (labels, value) in self.of(name) {
            let text = labels.split(&prefix).nth(1).and_then(|rest| rest.split('"').next());
            *values.entry(text.unwrap_or_default().to_owned()).or_default() += value as u64;
        }
        values
    }

    fn of(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.series.iter().filter_map(move |(series, (before, now))| {
            let (own, labels) = series.split_once('{').unwrap_or((series, ""));
            (own == name).then_some((labels, before + now))
        })
    }
}

/// Name with labels, and value; nothing for comments.
fn parse_line(line: &str) -> Option<(&str, f64)> {
    if line.starts_with('#') {
        return None;
    }
    // A label's value may hold blanks; what follows the labels is the value and perhaps a time.
    let end = line.rfind('}').map_or_else(|| line.find(' '), |brace| Some(brace + 1))?;
    let (series, rest) = line.split_at_checked(end)?;
    Some((series, rest.split_whitespace().next()?.parse().ok()?))
}

/// Fetches a page of metrics.
pub(crate) async fn fetch(client: &reqwest::Client, address: &str) -> anyhow::Result<String> {
    let request = client.get(format!("http://{address}/metrics")).timeout(Duration::from_secs(2));
    Ok(request.send().await?.error_for_status()?.text().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_labels_and_lives() {
        let mut counters = Counters::default();
        counters.take("# HELP x y\nframes_total 10\ndropped_total{reason=\"too large\"} 2\ndropped_total{reason=\"rate\"} 3\nqueued 7 123\n");
        assert_eq!(counters.sum("dropped_total") as u64, 5);
        assert_eq!(counters.by_label("dropped_total", "reason")["too large"], 2);
        counters.take("frames_total 4\nqueued 1\n");
        assert_eq!((counters.sum("frames_total"), counters.sum("queued")), (14.0, 1.0));
    }

    #[test]
    fn what_is_no_metric_is_passed_over() {
        let mut counters = Counters::default();
        counters.take("\nhello\nx NaN?\n{} 1\n");
        assert_eq!(counters.sum("hello") as u64, 0);
    }
}
