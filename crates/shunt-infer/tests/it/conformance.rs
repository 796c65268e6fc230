//! Every model of the catalog gives on every back end what it is to give: the reference outputs of
//! `models/tools/reference_outputs.py`, whole, and the catalog's own golden answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use shunt_infer::{Backend, Backends, Format, Input, Layout, Model, ModelEntry, Preference, Tensor, Values};
use shunt_testkit::repo_root;

use crate::{installed, models, tract};

/// The largest difference allowed of float models, as part of the largest value of the output (at least 1).
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

/// Compares with the whole reference outputs; `false` where there are none for this model.
fn gives_the_reference_outputs(model: &Model, entry: &ModelEntry) -> bool {
    let name = model.name();
    let file = repo_root().join("crates/shunt-infer/tests/golden").join(format!("{name}.json"));
    let Ok(text) = std::fs::read_to_string(file) else { return false };
    let reference: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(reference["sha256"].as_str(), entry.sha256.as_deref(), "{name}: made for another file");
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
        assert_eq!(values.len().div_ceil(step), expected.len(), "{name} {output}");
        for (found, expected) in values.iter().step_by(step).zip(&expected) {
            let difference = (f64::from(*found) - expected).abs() / largest;
            assert!(difference < TOLERANCE, "{name} {output}: {found} is not {expected}");
        }
    }
    true
}

/// Runs the models of the catalog that are there and that this back end is to serve. Gives their names.
fn check(backend: &Arc<dyn Backend>) -> BTreeSet<String> {
    let store = models();
    let backends = Backends::of(vec![Arc::clone(backend)]);
    let mut checked = BTreeSet::new();
    for (name, entry) in &store.catalog().models {
        if !backend.takes(entry.format) {
            continue;
        }
        if store.find(name).is_err() {
            println!("Left out: the model {name} is not there.");
            continue;
        }
        let model = match Model::load(&store, name, &backends) {
            Ok(model) => model,
            // It loads some files of this kind, and serves where LiteRT is not there.
            Err(error) if backend.name() == "tract" && entry.format == Format::Tflite => {
                println!("Left out: {error}.");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!((model.describe().backend, model.chosen().name), (backend.name(), backend.name()));
        model.warm_up().unwrap();
        let proof = model.prove().unwrap();
        let whole = gives_the_reference_outputs(&model, entry);
        assert!(whole || proof.is_some(), "{name} has nothing to be compared with");
        println!("{} on {}: {proof:?}, reference outputs: {whole}", name, backend.version());
        checked.insert(name.clone());
    }
    checked
}

fn check_named(name: &str, committed: &[&str]) {
    let Some(backend) = installed(name) else { return };
    let checked = check(&backend);
    for model in committed {
        assert!(checked.contains(*model), "{model} was not checked");
    }
}

const COMMITTED: [&str; 5] = [
    "blazeface-full-range",
    "blazeface-short-range",
    "efficientnet-lite0-int8",
    "ferplus-small",
    "ferplus-small-int8",
];
/// Not committed: they are beside the repository, if anything is.
const TFLITE: [&str; 2] = ["mobilenet-v1-quant", "mobilenet-v2-quant"];

#[test]
fn tract_gives_the_reference_outputs() {
    check_named("tract", &COMMITTED);
}

#[test]
fn onnx_runtime_gives_the_reference_outputs() {
    check_named("onnxruntime", &COMMITTED);
}

#[test]
fn litert_gives_the_reference_outputs() {
    if shunt_testkit::shared_dir().is_some() {
        check_named("litert", &TFLITE);
    } else {
        check_named("litert", &[]);
        println!(
            "Left out: {} are not committed, and nothing is beside the repository.",
            TFLITE.join(" and ")
        );
    }
}

#[test]
fn auto_takes_onnx_runtime_where_it_is_installed_and_says_so() {
    if installed("onnxruntime").is_none() {
        return;
    }
    let model = Model::load(&models(), "ferplus-small", &Backends::installed()).unwrap();
    assert_eq!(model.describe().backend, "onnxruntime");
    assert!(model.chosen().version.starts_with("ONNX Runtime 1."), "{:?}", model.chosen());
    assert_eq!(model.chosen().why, "it is the fastest that loads such files");
    let asked = Backends::installed().prefer(Preference::Tract);
    let model = Model::load(&models(), "ferplus-small", &asked).unwrap();
    assert_eq!(model.describe().backend, "tract");
}

#[test]
fn tract_loads_a_quantised_tensorflow_lite_model_only_where_it_is_asked_for() {
    let store = models();
    if store.find("mobilenet-v1-quant").is_err() {
        println!("Skipped: the model mobilenet-v1-quant is not there.");
        return;
    }
    let refused = Model::load(&store, "mobilenet-v1-quant", &tract()).unwrap_err().to_string();
    assert!(refused.contains("wrong scale"), "{refused}");
    let asked = tract().prefer(Preference::Tract);
    let model = Model::load(&store, "mobilenet-v1-quant", &asked).unwrap();
    let Some(parrot) = crate::picture("parrot.jpg") else { return };
    let (tensor, _) = model.whole(&parrot).unwrap();
    let scores = model.run(vec![tensor]).unwrap().remove(0).into_f32();
    let best = (0..scores.len()).max_by(|one, other| scores[*one].total_cmp(&scores[*other])).unwrap();
    // 89 is the macaw in the labels with background.
    assert_eq!((scores.len(), best), (1001, 89));
}
