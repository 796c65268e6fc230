//! Files that are missing, wrong or damaged.

use std::fs;

use shunt_infer::{Catalog, ExpressionReader, FaceFinder, ModelStore, Tensor, Values, digest};
use shunt_testkit::repo_root;

use crate::tract;

const CATALOG: &str = include_str!("../../../../models/catalog.toml");

/// A folder of models with this catalog and this file.
fn folder(catalog: &str, file: &str, bytes: &[u8]) -> (tempfile::TempDir, ModelStore) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
    fs::write(folder.path().join("catalog.toml"), catalog).unwrap();
    let store = ModelStore::with_folders(vec![folder.path().to_owned()]).unwrap();
    (folder, store)
}

#[test]
fn a_missing_model_is_named_with_the_command_that_gets_it() {
    let empty = tempfile::tempdir().unwrap();
    let store = ModelStore::with_folders(vec![empty.path().to_owned()]).unwrap();
    let error = ExpressionReader::load(&store, "minixception-human", &tract()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "the file emotion/minixception_human.onnx of the model \"minixception-human\" is in none of {}; get it \
             with `shunt models fetch minixception-human`",
            empty.path().display()
        )
    );
}

#[test]
fn a_file_with_the_wrong_digest_is_refused_with_both_digests() {
    let (folder, store) = folder(CATALOG, "emotion/ferplus_small.onnx", b"something else");
    let error = ExpressionReader::load(&store, "ferplus-small", &tract()).unwrap_err().to_string();
    let found = digest(b"something else");
    for part in [
        folder.path().join("emotion/ferplus_small.onnx").to_str().unwrap(),
        "expected sha256 f9e6f76f75205fd22357f817927603d3cda4e93b8087ef114ab90c114afee27a",
        &format!("found {found}"),
        "shunt models fetch ferplus-small",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn a_right_file_further_on_is_found_behind_a_wrong_one() {
    let (folder, _) = folder(CATALOG, "emotion/ferplus_small.onnx", b"something else");
    let models = repo_root().join("models");
    let store = ModelStore::with_folders(vec![folder.path().to_owned(), models.clone()]).unwrap();
    assert_eq!(store.find("ferplus-small").unwrap(), models.join("emotion/ferplus_small.onnx"));
}

#[test]
fn a_file_that_is_no_model_is_refused_by_the_back_end() {
    let bytes = b"no graph at all";
    let right = "f9e6f76f75205fd22357f817927603d3cda4e93b8087ef114ab90c114afee27a";
    let catalog = CATALOG.replace(right, &digest(bytes));
    let (_folder, store) = folder(&catalog, "emotion/ferplus_small.onnx", bytes);
    let error = ExpressionReader::load(&store, "ferplus-small", &tract()).unwrap_err().to_string();
    assert!(error.contains("cannot be loaded from") && error.contains("tract: "), "{error}");
}

#[test]
fn a_truncated_model_is_refused_by_the_back_end() {
    let whole = fs::read(repo_root().join("models/face/blazeface_front_128.onnx")).unwrap();
    let half = &whole[..whole.len() / 2];
    let right = "4af9a986f61fad3652b275232d469917ed7c69695c1a5f196c7d056d25b21d1e";
    let (_folder, store) =
        folder(&CATALOG.replace(right, &digest(half)), "face/blazeface_front_128.onnx", half);
    let error = FaceFinder::load(&store, "blazeface-short-range", &tract()).unwrap_err().to_string();
    assert!(error.contains("cannot be loaded from") && error.contains("tract: "), "{error}");
}

#[test]
fn an_output_that_the_model_does_not_have_is_named() {
    let catalog = CATALOG.replacen("Plus692_Output_0", "Plus693_Output_0", 1);
    let bytes = fs::read(repo_root().join("models/emotion/ferplus_small.onnx")).unwrap();
    let (_folder, store) = folder(&catalog, "emotion/ferplus_small.onnx", &bytes);
    let error = ExpressionReader::load(&store, "ferplus-small", &tract()).unwrap_err().to_string();
    assert_eq!(
        error,
        "the model \"ferplus-small\" has no output \"Plus693_Output_0\", only Plus692_Output_0"
    );
}

#[test]
fn an_unknown_model_is_refused_with_the_names_there_are() {
    let store = ModelStore::with_folders(Vec::new()).unwrap();
    let error = store.find("ferplus").unwrap_err().to_string();
    assert!(
        error.starts_with("there is no model \"ferplus\" in the catalog; it knows blazeface-full-range, ")
    );
}

#[test]
fn a_damaged_catalog_is_refused_with_the_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("catalog.toml"), "[defaults]\nface = 5\n").unwrap();
    let error = ModelStore::with_folders(vec![folder.path().to_owned()]).unwrap_err().to_string();
    assert!(error.contains("catalog.toml is not understood") && error.contains("line 2"), "{error}");
}

#[test]
fn the_catalog_in_the_repository_is_the_one_built_in() {
    let catalog = Catalog::parse(CATALOG, "models/catalog.toml".into()).unwrap();
    assert_eq!(catalog, Catalog::built_in().unwrap());
    let store = ModelStore::open("not-there".as_ref()).unwrap();
    assert!(store.find("ferplus-small").is_ok(), "{:?}", store.folders());
}

#[test]
fn an_input_of_the_wrong_shape_is_refused() {
    let store = ModelStore::with_folders(vec![repo_root().join("models")]).unwrap();
    let reader = ExpressionReader::load(&store, "ferplus-small", &tract()).unwrap();
    let input = Tensor { shape: vec![1, 1, 64, 64], values: Values::F32(vec![0.0; 5]) };
    let error = reader.model().run(vec![input]).unwrap_err().to_string();
    assert_eq!(
        error,
        "the input \"Input3\" of the model \"ferplus-small\" takes FP32 [1, 1, 64, 64], \
         not FP32 [1, 1, 64, 64] with 5 values"
    );
    assert!(reader.score(&[0; 100]).is_err());
    let answer = reader.score(&[128; 4096]).unwrap();
    assert!((answer.to_fer_plus().iter().sum::<f32>() - 1.0).abs() < 1e-5);
}

#[test]
fn committed_models_are_described() {
    let store = ModelStore::with_folders(vec![repo_root().join("models")]).unwrap();
    let reader = ExpressionReader::load(&store, "ferplus-small", &tract()).unwrap();
    let description = reader.model().describe();
    assert_eq!(description.backend, "tract");
    assert_eq!(description.inputs[0].name, "Input3");
    assert_eq!(description.outputs[0].name, "Plus692_Output_0");
    assert!(description.inputs[0].takes(&[1, 1, 64, 64]), "{description:?}");
}
