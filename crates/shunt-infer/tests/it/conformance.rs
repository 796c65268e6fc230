//! Every model of the catalog that is there gives on each back end what ONNX Runtime gave
//! (`models/tools/reference_outputs.py`).

use std::collections::BTreeMap;

use serde_json::Value;
use shunt_infer::{Backends, Input, Layout, Model, Tensor, Values};
use shunt_testkit::repo_root;

use crate::{models, tract};

/// The largest difference allowed, as part of the largest value of the output (at least 1).
const TOLERANCE: f64 = 1e-3;

/// The input of `reference_outputs.py`.
fn input(input: &Input) -> Tensor {
    let [_, second, third, fourth] = input.shape;
    let channel = |index: usize| match input.layout {
        Layout::Nhwc => index % fourth,
        Layout::Nchw => index / (third * fourth) % second,
    };
    let (scale, offset) = input.scaling();
    let count = input.shape.iter().product();
    let value = |index: usize| {
        ((index / 97 + index % 61 * 2) % 256) as f32 * scale[channel(index)] + offset[channel(index)]
    };
    Tensor { shape: input.shape.to_vec(), values: Values::F32((0..count).map(value).collect()) }
}

fn check(name_of_backend: &str, backends: &Backends) {
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
        let model = Model::load(&store, name, backends).unwrap();
        let outputs = model.run(vec![input(entry.input.as_ref().unwrap())]).unwrap();
        let names = model.describe().outputs.iter().map(|port| port.name.clone());
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
    println!("{} gives the reference outputs of {}.", name_of_backend, checked.join(", "));
}

#[test]
fn tract_gives_what_onnx_runtime_gives() {
    check("tract", &tract());
}

#[test]
fn tract_loads_a_quantised_tensorflow_lite_model() {
    let store = models();
    if store.find("mobilenet-v1-quant").is_err() {
        println!("Skipped: the model mobilenet-v1-quant is not there.");
        return;
    }
    let model = Model::load(&store, "mobilenet-v1-quant", &tract()).unwrap();
    let Some(parrot) = crate::picture("parrot.jpg") else { return };
    let (tensor, _) = model.whole(&parrot).unwrap();
    let scores = model.run(vec![tensor]).unwrap().remove(0).into_f32();
    let best = (0..scores.len()).max_by(|one, other| scores[*one].total_cmp(&scores[*other])).unwrap();
    // 89 is the macaw in the labels with background.
    assert_eq!((scores.len(), best), (1001, 89));
}
