//! The models in use, and how they are exchanged.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use serde_json::{Value, json};
use shunt_infer::{
    Backends, ExpressionReader, FaceFinder, FaceOptions, FaceReading, Model, ModelError, ModelStore,
    Preference,
};
use shunt_module::Problems;
use shunt_vision::Picture;

use crate::EmotionSettings;

/// A face finder and an expression model, loaded.
#[derive(Debug)]
pub(crate) struct Models {
    pub(crate) finder: Arc<FaceFinder>,
    pub(crate) reader: Arc<ExpressionReader>,
    /// Who was wanted to run them.
    backend: Preference,
}

/// The models in use and which faces count; shared by the judge's thread and the HTTP interface. Whoever works with
/// a pair goes on with it while another takes its place.
#[derive(Debug, Clone, Default)]
pub(crate) struct InUse(Arc<RwLock<Option<Pair>>>);

#[derive(Debug, Clone)]
struct Pair {
    models: Arc<Models>,
    options: FaceOptions,
}

/// All faces of a picture.
#[derive(Debug, Clone)]
pub(crate) struct Judgement {
    pub(crate) faces: Vec<FaceReading>,
    /// Milliseconds from pixels to expressions.
    pub(crate) inference_ms: f64,
    /// Of these, milliseconds inside the models themselves.
    pub(crate) model_ms: f64,
}

// === impl Models ===

impl Models {
    /// Loads the models that the settings name; of those in use it takes what is the same. Heavy.
    ///
    /// Each model that cannot be used is a problem of its field.
    pub(crate) fn load(
        folder: &Path,
        settings: &EmotionSettings,
        in_use: Option<&Self>,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let store = match ModelStore::open(folder) {
            Ok(store) => store,
            Err(error) => {
                problems.note("face_model", error.to_string());
                return Err(problems);
            }
        };
        let backends = Backends::installed().prefer(settings.backend);
        if let Err(missing) = backends.wanted() {
            problems.note("backend", format!("{} is not there: {}", missing.name, missing.why));
            return Err(problems);
        }
        // One that another back end ran is loaded anew.
        let in_use = in_use.filter(|models| models.backend == settings.backend);
        let finder = match in_use {
            Some(Self { finder, .. }) if finder.model().name() == settings.face_model => {
                Ok(Arc::clone(finder))
            }
            _ => FaceFinder::load(&store, &settings.face_model, &backends).map(Arc::new),
        };
        let reader = match in_use {
            Some(Self { reader, .. }) if reader.model().name() == settings.emotion_model => {
                Ok(Arc::clone(reader))
            }
            _ => ExpressionReader::load(&store, &settings.emotion_model, &backends).map(Arc::new),
        };
        match (finder, reader) {
            (Ok(finder), Ok(reader)) => Ok(Self { finder, reader, backend: settings.backend }),
            (finder, reader) => {
                if let Err(error) = finder {
                    problems.note("face_model", error.to_string());
                }
                if let Err(error) = reader {
                    problems.note("emotion_model", error.to_string());
                }
                Err(problems)
            }
        }
    }

    /// The names of both models.
    pub(crate) fn names(&self) -> Vec<String> {
        vec![self.finder.model().name().to_owned(), self.reader.model().name().to_owned()]
    }

    /// What the reported twin tells of them.
    pub(crate) fn report(&self) -> Value {
        let told = |model: &Model| {
            let (chosen, description) = (model.chosen(), model.describe());
            json!({
                "model": model.name(),
                "digest": model.digest(),
                "backend": chosen.name,
                "version": chosen.version,
                "device": description.device,
                "because": chosen.why,
            })
        };
        json!({"face_model": told(self.finder.model()), "emotion_model": told(self.reader.model())})
    }

    /// Finds the faces of a picture and reads their expressions. Heavy.
    pub(crate) fn judge(&self, picture: &Picture, options: &FaceOptions) -> Result<Judgement, ModelError> {
        let started = Instant::now();
        let (found, mut inside) = self.finder.find_timed(picture, options)?;
        let mut faces = Vec::with_capacity(found.len());
        for face in found {
            let (probabilities, took) = self.reader.read_timed(picture, face.bounds)?;
            inside += took;
            faces.push(FaceReading { bounds: face.bounds, score: face.score, probabilities });
        }
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Ok(Judgement { faces, inference_ms: ms(started.elapsed()), model_ms: ms(inside) })
    }
}

// === impl InUse ===

impl InUse {
    /// The models and which faces count; nothing as long as none are loaded.
    pub(crate) fn get(&self) -> Option<(Arc<Models>, FaceOptions)> {
        self.0.read().as_ref().map(|pair| (Arc::clone(&pair.models), pair.options))
    }

    /// From now on these.
    pub(crate) fn set(&self, models: Arc<Models>, options: FaceOptions) {
        *self.0.write() = Some(Pair { models, options });
    }
}
