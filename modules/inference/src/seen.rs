//! What a model says of a picture, whatever it is for.

use shunt_infer::{FaceOptions, ModelError, Tensor, best_classes};
use shunt_vision::{Picture, Rect};
use shunt_wire::events::Expression;

use crate::engine::Pipeline;

/// Most faces of a picture.
const FACES: usize = 64;

/// A picture on its way into a model.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The model's inputs.
    pub(crate) inputs: Vec<Tensor>,
    /// What they show of the picture, in its pixels.
    pub(crate) shown: Rect,
}

/// Something that a model sees in a picture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    /// The number of its class, from 0.
    pub(crate) index: usize,
    /// The name of its class: `face` where a face finder saw it.
    pub(crate) label: String,
    /// 0 to 1.
    pub(crate) probability: f32,
    /// Where it is, in pixels of the picture, where the model tells that.
    pub(crate) bounds: Option<Rect>,
}

// === impl Pipeline ===

impl Pipeline {
    /// Fits a picture, or a part of it (in its pixels), into the model's input. Heavy.
    ///
    /// # Errors
    ///
    /// The model takes tensors, no pictures; or the part has no area.
    pub(crate) fn prepare(&self, picture: &Picture, part: Option<Rect>) -> Result<Prepared, ModelError> {
        let (input, shown) = self.model().fitted(picture, part)?;
        Ok(Prepared { inputs: vec![input], shown })
    }

    /// The probability below which nothing is worth to be told, where no setting says otherwise.
    pub(crate) fn least(&self) -> f32 {
        match self {
            Self::Faces(_) => FaceOptions::default().min_score,
            _ => 0.1,
        }
    }

    /// What the model saw, the most probable first: the `top` classes whatever their probability, or the faces of at
    /// least this score. `shown` is that of the picture's [`Prepared`].
    pub(crate) fn read(
        &self,
        outputs: Vec<Tensor>,
        shown: Rect,
        top: usize,
        min_score: f32,
    ) -> Result<Vec<Seen>, ModelError> {
        let classes = |probabilities: &[f32], label: &dyn Fn(usize) -> String| {
            let seen = |(index, probability)| Seen { index, label: label(index), probability, bounds: None };
            best_classes(probabilities, top).into_iter().map(seen).collect()
        };
        Ok(match self {
            Self::Classifier(classifier) => {
                let labels = classifier.labels();
                let label = |index: usize| labels.get(index).cloned().unwrap_or_default();
                classes(&classifier.read(outputs)?, &label)
            }
            Self::Expression(reader) => {
                let label =
                    |index: usize| Expression::ALL.get(index).map(ToString::to_string).unwrap_or_default();
                classes(&reader.probabilities(outputs)?.to_fer_plus(), &label)
            }
            Self::Faces(finder) => {
                let faces =
                    finder.read(outputs, shown, &FaceOptions { min_score, max_faces: top.min(FACES) });
                let seen = |face: shunt_vision::faces::Detection| Seen {
                    index: 0,
                    label: "face".to_owned(),
                    probability: face.score,
                    bounds: Some(face.bounds),
                };
                faces.into_iter().map(seen).collect()
            }
            Self::Tensors(model) => {
                return Err(ModelError::NoPictures { model: model.name().to_owned() });
            }
        })
    }
}
