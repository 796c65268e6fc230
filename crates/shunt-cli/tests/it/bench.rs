use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shunt")).args(["bench", "bus"]).args(arguments).output().unwrap()
}

fn row<'a>(report: &'a Value, id: &str) -> &'a Value {
    let rows = report["rows"].as_array().unwrap();
    rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no row {id} in {report:#}"))
}

#[test]
fn a_short_run_measures_every_way_that_needs_no_other_program_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("bench.html");
    let ways = ["local", "mqtt-fast", "mqtt-assured", "frame", "direct"];
    let output = bench(&[
        "--rounds",
        "20",
        "--size",
        "921600",
        "--only",
        &ways.join(","),
        "--json",
        "--html",
        page.to_str().unwrap(),
    ]);
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{errors}\n{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    // The raw socket is there without being asked for.
    for id in ["uds"].iter().chain(&ways) {
        let row = row(&report, id);
        assert_eq!(row["status"], "measured", "{row:#}");
        assert_eq!(row["runtime"], "current-thread");
        let frame = &row["measured"]["round_trip_us"]["921600"];
        assert!(frame["p50"].as_f64().unwrap() <= frame["p99"].as_f64().unwrap(), "{row:#}");
        assert_eq!(frame["count"], 20);
        assert_eq!(row["measured"]["hand_over_us"].is_null(), *id != "frame", "{row:#}");
        if *id != "frame" {
            assert!(row["measured"]["ratio"].as_f64().unwrap() > 0.0, "{row:#}");
            assert!(row["measured"]["messages_per_s"].as_f64().unwrap() > 0.0, "{row:#}");
            assert!(row["measured"]["chain_us"]["p50"].as_f64().unwrap() > 0.0, "{row:#}");
        }
    }
    assert_eq!(row(&report, "uds")["measured"]["ratio"], 1.0);
    let bars = report["bars"].as_array().unwrap();
    assert!(bars.iter().any(|bar| bar["row"] == "mqtt-fast" && bar["met"].is_boolean()), "{bars:#?}");
    assert!(bars.iter().any(|bar| bar["row"] == "frame" && bar["met"].is_boolean()), "{bars:#?}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && page.contains("bus, MQTT QoS 1"), "{page}");
}

#[test]
fn a_way_that_nobody_knows_is_refused_with_those_there_are() {
    let output = bench(&["--only", "carrier-pigeon"]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("carrier-pigeon") && errors.contains("mqtt-fast, mqtt-assured"), "{errors}");
}
