//! Expression models on labelled faces.

use shunt_infer::{AccuracyError, ExpressionReader, expression_accuracy};
use shunt_vision::{Picture, PixelFormat, encode_png};
use shunt_wire::events::Expression;

use crate::{models, tract};

#[test]
fn ferplus_small_is_right_on_136_of_the_184_faces() {
    let Some(folder) = shunt_testkit::shared_dir().map(|shared| shared.join("models/checks/fer")) else {
        println!("Skipped: the labelled faces are not there.");
        return;
    };
    let reader = ExpressionReader::load(&models(), "ferplus-small", &tract()).unwrap();
    let accuracy = expression_accuracy(&reader, &folder).unwrap();
    println!("{} of {}; {:?}", accuracy.correct, accuracy.total, accuracy.confusion);
    assert_eq!(accuracy.total, 184);
    assert!((133..=139).contains(&accuracy.correct), "{accuracy:?}");
    let (of, right) = accuracy.of(Expression::Happiness);
    assert!(of == 25 && right >= 22, "{right} of {of}");
}

#[test]
fn the_other_expression_models_are_better_than_chance() {
    let Some(folder) = shunt_testkit::shared_dir().map(|shared| shared.join("models/checks/fer")) else {
        println!("Skipped: the labelled faces are not there.");
        return;
    };
    let store = models();
    for model in ["faceapi-expression", "minixception-human"] {
        if store.find(model).is_err() {
            println!("Left out: the model {model} is not there.");
            continue;
        }
        let reader = ExpressionReader::load(&store, model, &tract()).unwrap();
        let accuracy = expression_accuracy(&reader, &folder).unwrap();
        println!("{model}: {} of {}", accuracy.correct, accuracy.total);
        // One in eight is chance; contempt, which they do not know, is 16 of 184.
        assert!(accuracy.share() > 0.3, "{model}: {accuracy:?}");
    }
}

#[test]
fn faces_are_judged_by_the_name_of_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let face = encode_png(&Picture::black(48, 48, PixelFormat::Grey8)).unwrap();
    for name in ["happiness_1.png", "fear_2.png", "notes.txt", "unknown_3.png"] {
        std::fs::write(folder.path().join(name), &face).unwrap();
    }
    let reader = ExpressionReader::load(&models(), "ferplus-small", &tract()).unwrap();
    let accuracy = expression_accuracy(&reader, folder.path()).unwrap();
    assert_eq!(accuracy.total, 2);
    assert_eq!(accuracy.of(Expression::Fear).0, 1);
    assert_eq!(accuracy.confusion.iter().flatten().sum::<u32>(), 2);
}

#[test]
fn a_folder_without_labelled_faces_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let reader = ExpressionReader::load(&models(), "ferplus-small", &tract()).unwrap();
    let error = expression_accuracy(&reader, folder.path()).unwrap_err();
    assert!(matches!(error, AccuracyError::Empty(_)), "{error}");
    std::fs::write(folder.path().join("anger_1.png"), b"no picture").unwrap();
    let error = expression_accuracy(&reader, folder.path()).unwrap_err();
    assert!(error.to_string().contains("anger_1.png"), "{error}");
}
