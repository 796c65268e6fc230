//! The device's temperatures, as events of the kind `temperature` for the rules only: they are not published.

use std::path::{Path, PathBuf};

use serde_json::json;
use shunt_rules::Event;
use shunt_wire::TopicFilter;

use crate::clock;

/// Most thermal zones.
const ZONES: usize = 64;

/// Does the filter look at a thermal zone?
pub(crate) fn is_wanted(filter: &TopicFilter) -> bool {
    (0..ZONES).any(|zone| filter.matches(&format!("shunt/temperature/thermal_zone{zone}")))
}

/// The temperatures now; none where the folder has none. Reads files: not for the async threads.
pub(crate) fn read(folder: &Path) -> Vec<Event> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let zone = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("thermal_zone"))
    };
    let mut zones: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(zone).take(ZONES).collect();
    zones.sort();
    zones.iter().filter_map(|zone| event(zone)).collect()
}

fn event(zone: &Path) -> Option<Event> {
    let text = std::fs::read_to_string(zone.join("temp")).ok()?;
    let celsius = text.trim().parse::<f64>().ok()? / 1_000.0;
    let name = zone.file_name()?.to_str()?;
    let sensor = std::fs::read_to_string(zone.join("type")).unwrap_or_default();
    let time_ms = clock::now_ms();
    Some(Event {
        topic: format!("shunt/temperature/{name}"),
        kind: "temperature".to_owned(),
        source: name.to_owned(),
        id: format!("{name}-{time_ms}"),
        subject: None,
        time_ms,
        data: json!({"celsius": celsius, "sensor": sensor.trim()}),
        extensions: json!({}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_zone_that_a_rule_names_is_read() {
        let wanted = |filter: &str| is_wanted(&filter.parse().unwrap());
        assert!(wanted("shunt/temperature/thermal_zone1") && wanted("shunt/temperature/+"));
        assert!(!wanted("shunt/temperature/kitchen") && !wanted("shunt/emotion/+"));
    }

    #[test]
    fn each_thermal_zone_is_an_event() {
        let folder = tempfile::tempdir().unwrap();
        for (zone, text) in
            [("thermal_zone0", "81500\n"), ("thermal_zone1", "no number"), ("cooling_device0", "1")]
        {
            std::fs::create_dir(folder.path().join(zone)).unwrap();
            std::fs::write(folder.path().join(zone).join("temp"), text).unwrap();
        }
        std::fs::write(folder.path().join("thermal_zone0/type"), "cpu-thermal\n").unwrap();
        let events = read(folder.path());
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].topic, "shunt/temperature/thermal_zone0");
        assert_eq!(events[0].data, json!({"celsius": 81.5, "sensor": "cpu-thermal"}));
        assert!(read(&folder.path().join("nowhere")).is_empty());
    }
}
