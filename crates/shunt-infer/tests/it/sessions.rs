//! Models of the back ends that load libraries: many threads on one, options, loading and letting go.

use std::{num::NonZeroUsize, process::Command, sync::Arc, thread};

use shunt_infer::{Backends, Element, Format, Model, Order, RunOptions, Tensor, Values};

use crate::{installed, models};

/// Those that load a library.
const NAMES: [&str; 2] = ["onnxruntime", "litert"];

/// A committed model that this back end loads.
fn load(backends: &Backends) -> Option<Model> {
    let store = models();
    let names = ["ferplus-small", "mobilenet-v1-quant"];
    names.into_iter().find_map(|name| {
        let backend = &backends.found()[0];
        let fits = backend.takes(store.entry(name).unwrap().format) && store.find(name).is_ok();
        fits.then(|| Model::load(&store, name, backends).unwrap())
    })
}

/// Inputs that differ from run to run.
fn inputs(model: &Model, round: usize) -> Vec<Tensor> {
    let ports = model.describe().inputs.iter();
    let tensors = ports.map(|port| {
        let shape: Vec<usize> = port.shape.iter().map(|length| length.unwrap_or(1)).collect();
        let bytes = (0..shape.iter().product()).map(|index: usize| (index * 7 + round * 31) as u8);
        let values = match port.element {
            Element::U8 => Values::U8(bytes.collect()),
            _ => Values::F32(bytes.map(f32::from).collect()),
        };
        Tensor { shape, values }
    });
    tensors.collect()
}

#[test]
fn four_threads_on_one_model_get_the_answers_that_one_gets() {
    for name in NAMES {
        let Some(backend) = installed(name) else { continue };
        let Some(model) = load(&Backends::of(vec![backend])) else { continue };
        let model = Arc::new(model);
        let alone: Vec<_> = (0..8).map(|round| model.run(inputs(&model, round)).unwrap()).collect();
        let alone = Arc::new(alone);
        let threads: Vec<_> = (0..4)
            .map(|first| {
                let (model, alone) = (Arc::clone(&model), Arc::clone(&alone));
                thread::spawn(move || {
                    for round in (0..24).map(|step| (first + step) % 8) {
                        assert_eq!(model.run(inputs(&model, round)).unwrap(), alone[round], "round {round}");
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_ne!(alone[0], alone[1], "the inputs must matter");
    }
}

#[test]
fn two_threads_for_a_run_give_the_same_answer() {
    for name in NAMES {
        let Some(backend) = installed(name) else { continue };
        let one = Backends::of(vec![backend]);
        let threads = NonZeroUsize::new(2).unwrap();
        let two = one.clone().options(RunOptions { threads, ..RunOptions::default() });
        let (Some(one), Some(two)) = (load(&one), load(&two)) else { continue };
        let (first, second) = (one.run(inputs(&one, 3)).unwrap(), two.run(inputs(&two, 3)).unwrap());
        for (first, second) in first.into_iter().zip(second) {
            for (first, second) in first.into_f32().into_iter().zip(second.into_f32()) {
                assert!((first - second).abs() < 1e-4, "{first} is not {second}");
            }
        }
    }
}

/// Set in the process that measures its memory: nothing else runs in it.
const ALONE: &str = "SHUNT_TEST_ALONE";

#[test]
fn a_model_loaded_and_let_go_a_hundred_times_leaves_no_memory_behind() {
    if std::env::var_os(ALONE).is_none() {
        let own = "sessions::a_model_loaded_and_let_go_a_hundred_times_leaves_no_memory_behind";
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", own, "--nocapture"]).env(ALONE, "1").output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    for name in NAMES {
        let Some(backend) = installed(name) else { continue };
        let backends = Backends::of(vec![backend]);
        let round = || {
            let Some(model) = load(&backends) else { return false };
            model.run(inputs(&model, 1)).unwrap();
            true
        };
        // What is kept once, such as the library itself, is there after a few.
        if !(0..10).all(|_| round()) {
            continue;
        }
        let before = resident();
        assert!((0..100).all(|_| round()));
        let grown = resident().saturating_sub(before);
        println!("{name}: {} KiB more after a hundred times, {} KiB in all.", grown >> 10, resident() >> 10);
        assert!(grown < 8 << 20, "{name}: {grown} bytes more after a hundred times");
    }
}

/// Bytes of memory that this process has in use.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn the_memory_of_a_model_is_told() {
    for name in NAMES {
        let Some(backend) = installed(name) else { continue };
        let Some(model) = load(&Backends::of(vec![backend])) else { continue };
        let memory = model.memory().unwrap();
        assert!(memory >= model.entry().bytes, "{name}: {memory}");
    }
}

#[test]
fn a_file_that_is_no_model_is_refused_by_each() {
    for name in NAMES {
        let Some(backend) = installed(name) else { continue };
        let whole =
            std::fs::read(shunt_testkit::repo_root().join("models/emotion/ferplus_small.onnx")).unwrap();
        for file in [&b""[..], b"no model", &[0xff; 4096], &whole[..whole.len() / 2]] {
            for format in [Format::Onnx, Format::Tflite] {
                if backend.takes(format) {
                    let order = Order { format, file, input: None, options: RunOptions::default() };
                    let error = backend.load(&order).map(drop).unwrap_err().to_string();
                    assert!(!error.is_empty());
                }
            }
        }
    }
}

#[test]
fn an_empty_tensor_is_answered_and_does_no_harm() {
    let Some(backend) = installed("onnxruntime") else { return };
    let Some(model) = load(&Backends::of(vec![backend])) else { return };
    let nothing = Tensor { shape: vec![0, 1, 64, 64], values: Values::F32(vec![]) };
    assert!(model.run(vec![nothing]).is_err());
    assert!(model.run(inputs(&model, 0)).is_ok());
}
