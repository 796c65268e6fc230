//! What can be set, by environment (`SHUNT_EMOTION_...`) and by twin.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_infer::{FaceOptions, Preference};
use shunt_module::{Problems, Settings};

/// What can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmotionSettings {
    /// The face finder, by its name in `models/catalog.toml`. One that does not load is refused; the old one serves
    /// on.
    pub face_model: String,
    /// The expression model, by its name in `models/catalog.toml`. One that does not load is refused; the old one
    /// serves on.
    pub emotion_model: String,
    /// Who runs the models: auto (the fastest that is here), tract, onnxruntime, litert. One that is not here is
    /// refused; the old one serves on.
    #[schemars(with = "String", extend("enum" = ["auto", "tract", "onnxruntime", "litert"]))]
    pub backend: Preference,
    /// The least score of a face, 0 to 1; faces below it are not reported.
    #[schemars(range(min = 0, max = 1))]
    pub min_score: f64,
    /// Most faces of a frame; those with the best scores are reported.
    #[schemars(range(min = 1, max = 64))]
    pub max_faces: u32,
}

// === impl EmotionSettings ===

impl EmotionSettings {
    /// Which faces count.
    pub(crate) fn face_options(&self) -> FaceOptions {
        FaceOptions { min_score: self.min_score as f32, max_faces: self.max_faces as usize }
    }
}

impl Default for EmotionSettings {
    fn default() -> Self {
        Self {
            face_model: "blazeface-full-range".to_owned(),
            emotion_model: "ferplus-small".to_owned(),
            backend: Preference::Auto,
            // As MediaPipe's own graph of the full range model; below it, badges and hands look like faces.
            min_score: 0.6,
            max_faces: 16,
        }
    }
}

impl Settings for EmotionSettings {
    const MODULE: &'static str = "emotion";

    fn check(&self, problems: &mut Problems) {
        if !(0.0..=1.0).contains(&self.min_score) {
            problems.note("min_score", format!("it is {}, but must be from 0 to 1", self.min_score));
        }
        if !(1..=64).contains(&self.max_faces) {
            problems.note("max_faces", format!("it is {}, but must be from 1 to 64", self.max_faces));
        }
        // Whether there is such a model is seen when it is loaded: the catalog lies beside the models.
        for (field, model) in [("face_model", &self.face_model), ("emotion_model", &self.emotion_model)] {
            if model.is_empty() {
                problems.note(field, "it is empty, but must be the name of a model in the catalog");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(settings: &EmotionSettings) -> Vec<String> {
        let mut problems = Problems::default();
        settings.check(&mut problems);
        problems.iter().map(|(field, problem)| format!("{field}: {problem}")).collect()
    }

    #[test]
    fn the_defaults_are_allowed() {
        assert_eq!(problems(&EmotionSettings::default()), [] as [String; 0]);
    }

    #[test]
    fn every_broken_rule_is_named() {
        let settings = EmotionSettings {
            min_score: f64::NAN,
            max_faces: 0,
            face_model: String::new(),
            ..EmotionSettings::default()
        };
        assert_eq!(
            problems(&settings),
            [
                "min_score: it is NaN, but must be from 0 to 1",
                "max_faces: it is 0, but must be from 1 to 64",
                "face_model: it is empty, but must be the name of a model in the catalog",
            ]
        );
    }
}
