//! A user's model file becomes an entry of the catalog, if it is what its owner says.

use std::{fs, path::Path, sync::Arc};

use shunt_infer::{
    Backend, BackendError, Backends, Classifier, Description, Fit, Format, ImportError, ImportOrder,
    Imported, Loaded, ModelStore, Normalise, Order, Task, Tensor, Tract, import,
};
use shunt_vision::Picture;
use tract_tflite::tflite::{BuiltinOperator as Code, TensorType};

use crate::{
    convert::{back_ends, shared},
    picture,
    tflite::Net,
};

const MOBILENET: &str = "classify/mobilenet_v1_1.0_224_quant.tflite";

fn order<'a>(name: &'a str, file: &'a [u8], task: Task, labels: Option<&'a str>) -> ImportOrder<'a> {
    ImportOrder {
        name,
        file,
        file_name: "net.tflite",
        format: Format::Tflite,
        task,
        labels,
        normalise: Normalise::Symmetric,
        fit: Fit::Stretch,
        licence: "Apache-2.0",
        pictures: &[],
    }
}

/// Puts a model where a store looks for it.
fn put(folder: &Path, name: &str, imported: &Imported) {
    let write = |file: &Path, bytes: &[u8]| {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    };
    write(&folder.join(&imported.entry.file), &imported.file);
    if let Some((file, labels)) = &imported.labels {
        write(&folder.join(file), labels.as_bytes());
    }
    let entry = folder.join("catalog.d").join(format!("{name}.toml"));
    write(&entry, imported.catalog(name).unwrap().as_bytes());
}

/// Two operators, of which the converter does not know one.
fn unknown() -> Vec<u8> {
    let mut net = Net::default();
    let x = net.value(TensorType::FLOAT32, &[1, 4], None);
    let between = net.value(TensorType::FLOAT32, &[1, 4], None);
    let y = net.value(TensorType::FLOAT32, &[1, 4], None);
    net.step(Code::RELU, &[x], between);
    net.step(Code::COS, &[between], y);
    net.ends(&[x], &[y]).file()
}

#[test]
fn an_imported_mobilenet_is_proven_and_then_served_from_its_entry() {
    let (Some(file), Some(labels), Some(_)) =
        (shared(MOBILENET), shared("labels/imagenet_labels_1001.txt"), back_ends())
    else {
        return;
    };
    let labels = String::from_utf8(labels).unwrap();
    let names = ["astronaut.png", "chelsea.png", "coffee.png", "parrot.jpg", "cat_720p.jpg", "hot_dog.jpg"];
    let pictures: Vec<(String, Picture)> =
        names.into_iter().filter_map(|name| Some((name.to_owned(), picture(name)?))).collect();
    let mut order = order("my-net", &file, Task::Classify, Some(&labels));
    order.pictures = &pictures;
    let imported = import(&order, &Backends::installed()).unwrap();
    let verdict = imported.verdict.as_ref().unwrap().as_ref().unwrap();
    assert_eq!(verdict.wrong, None);
    assert_eq!(verdict.inputs, pictures.len() + 4);
    assert_eq!((imported.entry.format, imported.times.len()), (Format::Onnx, 2));
    assert!(imported.entry.note.as_ref().unwrap().contains("compared with LiteRT: the same best places"));

    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "my-net", &imported);
    let store = ModelStore::with_folders(vec![folder.path().to_owned()]).unwrap();
    let classifier = Classifier::load(&store, "my-net", &Backends::installed()).unwrap();
    assert!(classifier.model().prove().unwrap().is_some());
    let Some(parrot) = picture("parrot.jpg") else { return };
    let said = classifier.classify(&parrot, None).unwrap();
    let best = classifier.name(&said, 1).remove(0);
    assert_eq!((best.index, best.label.as_str()), (89, "macaw"));
    assert!(best.probability > 0.9 && best.probability <= 1.0, "{best:?}");
}

#[test]
fn what_the_converter_does_not_know_is_served_by_litert() {
    let Some(_) = back_ends() else { return };
    let file = unknown();
    let imported = import(&order("odd", &file, Task::Tensors, None), &Backends::installed()).unwrap();
    assert_eq!((imported.entry.format, &imported.file), (Format::Tflite, &file));
    let note = imported.entry.note.as_deref().unwrap();
    assert!(note.contains("LiteRT 2.1 serves the original: operator 1 (COS) of subgraph 0"), "{note}");
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "odd", &imported);
    let store = ModelStore::with_folders(vec![folder.path().to_owned()]).unwrap();
    let model = shunt_infer::Model::load(&store, "odd", &Backends::installed()).unwrap();
    assert_eq!(model.chosen().name, "litert");
    model.warm_up().unwrap();
}

/// Loads what tract loads, and never runs it.
#[derive(Debug)]
struct NeverRuns;

#[derive(Debug)]
struct Loads(Box<dyn Loaded>);

impl Backend for NeverRuns {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn version(&self) -> String {
        "Stubborn 1.0".to_owned()
    }

    fn takes(&self, format: Format) -> bool {
        format == Format::Onnx
    }

    fn load(&self, order: &Order<'_>) -> Result<Box<dyn Loaded>, BackendError> {
        Ok(Box::new(Loads(Tract.load(order)?)))
    }
}

impl Loaded for Loads {
    fn describe(&self) -> &Description {
        self.0.describe()
    }

    fn run(&self, _: Vec<Tensor>) -> Result<Vec<Tensor>, BackendError> {
        Err(BackendError("it will not".to_owned()))
    }

    fn memory(&self) -> Option<u64> {
        None
    }
}

#[test]
fn a_converted_file_that_nobody_loads_or_runs_leaves_the_original_to_litert() {
    let Some(_) = back_ends() else { return };
    let mut net = Net::default();
    let (x, y) =
        (net.value(TensorType::FLOAT32, &[1, 4], None), net.value(TensorType::FLOAT32, &[1, 4], None));
    net.step(Code::RELU, &[x], y);
    let file = net.ends(&[x], &[y]).file();
    for (backends, why) in [
        (Backends::of(vec![]), "no back end loads it"),
        (Backends::of(vec![Arc::new(NeverRuns)]), "Stubborn 1.0 does not run it (it will not)"),
    ] {
        let imported = import(&order("net", &file, Task::Tensors, None), &backends).unwrap();
        assert_eq!((imported.entry.format, &imported.file, imported.times.len()), (Format::Tflite, &file, 1));
        let note = imported.entry.note.unwrap();
        assert!(note.contains("LiteRT 2.1 serves the original") && note.contains(why), "{note}");
    }
}

#[test]
fn a_quantised_onnx_file_has_a_golden_answer_that_other_back_ends_reach() {
    let repo = shunt_testkit::repo_root();
    let file = fs::read(repo.join("models/classify/efficientnet_lite0_int8.onnx")).unwrap();
    let labels = fs::read_to_string(repo.join("models/labels/imagenet_labels_1000.txt")).unwrap();
    let mut order = order("lite", &file, Task::Classify, Some(&labels));
    order.format = Format::Onnx;
    let imported = import(&order, &Backends::installed()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "lite", &imported);
    let store = ModelStore::with_folders(vec![folder.path().to_owned()]).unwrap();
    let model = shunt_infer::Model::load(&store, "lite", &crate::tract()).unwrap();
    assert!(model.prove().unwrap().is_some());
}

#[test]
fn what_its_owner_says_wrongly_is_refused() {
    let Some(_) = back_ends() else { return };
    let file = unknown();
    let backends = Backends::installed();
    let said = |order: &ImportOrder<'_>| import(order, &backends).unwrap_err().to_string();
    let error = said(&order("My Net", &file, Task::Tensors, None));
    assert!(error.contains("\"My Net\" is no name for a model"), "{error}");
    let error = said(&order("net", &file, Task::Face, None));
    assert!(error.contains("a model for Face cannot be imported"), "{error}");
    let error = said(&order("net", &file, Task::Classify, Some("a\nb")));
    assert!(error.contains("a classifier takes one picture"), "{error}");
    let error = import(&order("net", &file[..100], Task::Tensors, None), &backends).unwrap_err();
    assert!(matches!(error, ImportError::File(_)), "{error}");
    let Some(file) = shared(MOBILENET) else { return };
    assert!(said(&order("net", &file, Task::Classify, None)).contains("needs the names of its classes"));
    let error = said(&order("net", &file, Task::Classify, Some("cat\ndog")));
    assert_eq!(error, "there are 2 labels, but the model tells 1001 classes apart");
}

#[test]
fn an_onnx_file_is_imported_as_it_is_if_it_runs() {
    let file = fs::read(shunt_testkit::repo_root().join("models/emotion/ferplus_small.onnx")).unwrap();
    let mut order = order("faces", &file, Task::Tensors, None);
    order.format = Format::Onnx;
    let imported = import(&order, &crate::tract()).unwrap();
    assert_eq!((imported.file.len(), imported.verdict.is_none()), (file.len(), true));
    order.file = b"no model";
    assert!(import(&order, &crate::tract()).unwrap_err().to_string().contains("no back end runs it"));
}

#[test]
fn a_broken_entry_is_left_out_and_the_others_serve_on() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("catalog.d")).unwrap();
    fs::write(folder.path().join("catalog.d/broken.toml"), "[models.broken]\ntitle = 3\n").unwrap();
    let store = ModelStore::with_folders(vec![folder.path().to_owned()]).unwrap();
    assert!(store.entry("broken").is_err());
    assert!(store.entry("ferplus-small").is_ok());
}
