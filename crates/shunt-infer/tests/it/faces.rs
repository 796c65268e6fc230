//! The table of face finders: who finds which faces on the sample photos, and the expressions on them.

use shunt_infer::{ExpressionReader, FaceFinder, FaceOptions};
use shunt_vision::{Picture, Rect, fill};
use shunt_wire::events::Expression::{self, Happiness, Neutral};

use crate::{models, picture, tract};

const DEFAULT: &str = "blazeface-full-range";

fn finder(model: &str) -> Option<FaceFinder> {
    let store = models();
    if store.find(model).is_err() {
        println!("Skipped: the model {model} is not there.");
        return None;
    }
    Some(FaceFinder::load(&store, model, &tract()).unwrap())
}

/// How many faces the model finds in the picture; picture or model missing: nothing is checked.
fn check_count(model: &str, name: &str, expected: usize) {
    let (Some(finder), Some(picture)) = (finder(model), picture(name)) else { return };
    let found = finder.find(&picture, &FaceOptions::default()).unwrap();
    assert_eq!(found.len(), expected, "{model} on {name}: {found:?}");
}

#[test]
fn full_range_finds_four_people_and_no_animal() {
    for (name, expected) in [
        ("astronaut.png", 1),
        ("face.jpg", 4),
        ("grace_hopper.bmp", 1),
        ("pets.jpg", 0),
        ("cat_720p.jpg", 0),
        ("chelsea.png", 0),
        ("parrot.jpg", 0),
        ("rocket.jpg", 0),
        ("coffee.png", 0),
        ("hot_dog.jpg", 0),
    ] {
        check_count(DEFAULT, name, expected);
    }
}

#[test]
fn short_range_finds_the_near_faces() {
    for (name, expected) in
        [("astronaut.png", 1), ("face.jpg", 2), ("grace_hopper.bmp", 1), ("rocket.jpg", 0), ("coffee.png", 0)]
    {
        check_count("blazeface-short-range", name, expected);
    }
}

#[test]
fn ultraface_finds_four_people() {
    for (name, expected) in
        [("astronaut.png", 1), ("face.jpg", 4), ("grace_hopper.bmp", 1), ("coffee.png", 0)]
    {
        check_count("ultraface", name, expected);
    }
}

#[test]
fn an_empty_picture_has_no_face() {
    let finder = finder(DEFAULT).unwrap();
    for (width, height) in [(640, 480), (1, 1), (3000, 20)] {
        let mut picture = Picture::filled(width, height, [90, 120, 150]);
        fill(&mut picture, width / 4, height / 4, width / 2, height / 2, [200, 180, 40]);
        assert_eq!(finder.find(&picture, &FaceOptions::default()).unwrap(), []);
    }
}

#[test]
fn the_largest_number_of_faces_and_the_threshold_are_kept() {
    let (Some(finder), Some(picture)) = (finder(DEFAULT), picture("face.jpg")) else { return };
    let two = finder.find(&picture, &FaceOptions { max_faces: 2, ..FaceOptions::default() }).unwrap();
    assert_eq!(two.len(), 2);
    assert!(two[0].score >= two[1].score);
    let sure = finder.find(&picture, &FaceOptions { min_score: 0.85, ..FaceOptions::default() }).unwrap();
    assert_eq!(sure.len(), 2, "{sure:?}");
}

/// Finds the face nearest to this point and checks its expression within 0.06.
fn check_expression(name: &str, near: [f32; 2], expected: Expression, probability: f32) {
    let (Some(finder), Some(picture)) = (finder(DEFAULT), picture(name)) else { return };
    let reader = ExpressionReader::load(&models(), "ferplus-small", &tract()).unwrap();
    let faces = finder.find(&picture, &FaceOptions::default()).unwrap();
    let distance =
        |rect: Rect| (rect.x + rect.width / 2.0 - near[0]).hypot(rect.y + rect.height / 2.0 - near[1]);
    let face = faces
        .into_iter()
        .min_by(|one, other| distance(one.bounds).total_cmp(&distance(other.bounds)))
        .unwrap();
    let answer = reader.read(&picture, face.bounds).unwrap();
    let sum: f32 = answer.to_fer_plus().iter().sum();
    assert!((sum - 1.0).abs() < 1e-5, "{answer:?}");
    let (best, found) = answer.best();
    println!("{name} at {near:?}: {best} {found:.3}");
    assert_eq!(best, expected, "{name}: {answer:?}");
    assert!((found - probability).abs() < 0.06, "{name}: {answer:?}");
}

#[test]
fn expressions_are_as_measured_on_the_sample_photos() {
    check_expression("astronaut.png", [224.0, 120.0], Happiness, 0.94);
    check_expression("grace_hopper.bmp", [266.0, 230.0], Neutral, 0.68);
    check_expression("face.jpg", [180.0, 148.0], Neutral, 0.91);
    check_expression("face.jpg", [301.0, 116.0], Happiness, 0.49);
    check_expression("face.jpg", [23.0, 134.0], Neutral, 0.57);
    check_expression("face.jpg", [464.0, 154.0], Neutral, 0.74);
}

#[test]
fn a_model_for_something_else_is_refused_by_name() {
    let error = FaceFinder::load(&models(), "ferplus-small", &tract()).unwrap_err().to_string();
    assert_eq!(
        error,
        "the model \"ferplus-small\" is for Expression, not for Face; for that there are blazeface-full-range, \
         blazeface-short-range, ultraface"
    );
}
