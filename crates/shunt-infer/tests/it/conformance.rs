//! Every model of the catalog that is there gives on each back end what ONNX Runtime gave
//! (`models/tools/reference_outputs.py`).

use std::collections::BTreeMap;

use serde_json::Value;
use shunt_infer::{Backend, Channels, Layout, Model, ModelEntry, Tensor, Tract, Values};
use shunt_testkit::repo_root;

use crate::models;

/// The largest difference allowed, as part of the largest value of the output (at least 1).
const TOLERANCE: f64 = 1e-3;

/// The input of `reference_outputs.py`.
fn input(entry: &ModelEntry) -> Tensor {
    let [_, second, third, fourth] = entry.input.shape;
    let scaled = |factor: Channels, index: usize| match entry.input.layout {
        Layout::Nhwc => factor.of(index % fourth),
        Layout::Nchw => factor.of(index / (third * fourth) % second),
    };
    let count = entry.input.shape.iter().product();
    let value = |index: usize| {
        ((index / 97 + index % 61 * 2) % 256) as f32 * scaled(entry.input.scale, index)
            + scaled(entry.input.offset, index)
    };
    Tensor { shape: entry.input.shape.to_vec(), values: Values::F32((0..count).map(value).collect()) }
}

fn check(backend: &dyn Backend) {
    let store = models();
    let folder = repo_root().join("crates/shunt-infer/tests/golden");
    let mut checked = Vec::new();
    for (name, entry) in &store.catalog().models {
        let Ok(text) = std::fs::read_to_string(folder.join(format!("{name}.json"))) else { continue };
        if store.find(name).is_err() {
            println!("Left out: the model {name} is not there.");
            continue;
        }
        let reference: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(reference["sha256"].as_str(), entry.sha256.as_deref(), "{name}: made for another file");
        let model = Model::load(&store, name, backend).unwrap();
        let outputs = model.run(input(entry)).unwrap();
        let names = model.describe().outputs.into_iter().map(|port| port.name);
        let outputs: BTreeMap<_, _> = names.zip(outputs).collect();
        for (output, expected) in reference["outputs"].as_object().unwrap() {
            let tensor = outputs[output].clone();
            let shape: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
            assert_eq!(tensor.shape, shape, "{name} {output}");
            let values = tensor.into_f32();
            let step = expected["step"].as_u64().unwrap() as usize;
            let expected: Vec<f64> = serde_json::from_value(expected["values"].clone()).unwrap();
            let largest = expected.iter().fold(1.0_f64, |largest, value| largest.max(value.abs()));
            for (found, expected) in values.iter().step_by(step).zip(&expected) {
                let difference = (f64::from(*found) - expected).abs() / largest;
                assert!(difference < TOLERANCE, "{name} {output}: {found} is not {expected}");
            }
        }
        checked.push(name.as_str());
    }
    for committed in ["blazeface-full-range", "blazeface-short-range", "ferplus-small"] {
        assert!(checked.contains(&committed), "{committed} was not checked");
    }
    println!("{} gives the reference outputs of {}.", backend.name(), checked.join(", "));
}

#[test]
fn tract_gives_what_onnx_runtime_gives() {
    check(&Tract);
}

#[test]
fn tract_loads_a_quantised_tensorflow_lite_model() {
    let store = models();
    if store.find("mobilenet-v1-quant").is_err() {
        println!("Skipped: the model mobilenet-v1-quant is not there.");
        return;
    }
    let model = Model::load(&store, "mobilenet-v1-quant", &Tract).unwrap();
    let Some(parrot) = crate::picture("parrot.jpg") else { return };
    let (tensor, _) = model.whole(&parrot);
    let scores = model.run(tensor).unwrap().remove(0).into_f32();
    let best = (0..scores.len()).max_by(|one, other| scores[*one].total_cmp(&scores[*other])).unwrap();
    // 89 is the macaw in the labels with background.
    assert_eq!((scores.len(), best), (1001, 89));
}
