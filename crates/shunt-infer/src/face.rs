//! A picture to faces.

use std::time::Duration;

use shunt_vision::{
    Picture, Rect,
    faces::{
        Detection, Suppression, blaze_faces, edge_faces, full_range_anchors, short_range_anchors, suppress,
    },
};

use crate::{Anchors, Backends, Model, ModelError, ModelStore, Output, Task, Tensor};

/// Finds faces with a model of the catalog.
#[derive(Debug)]
pub struct FaceFinder {
    model: Model,
    decoder: Decoder,
}

/// Which faces count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaceOptions {
    /// The least score, 0 to 1. Default 0.6, as in `MediaPipe`'s own graph of the full range model.
    pub min_score: f32,
    /// The most faces of a picture; those with the best scores are kept. Default 16.
    pub max_faces: usize,
}

/// What the catalog says of the outputs, made ready.
#[derive(Debug)]
enum Decoder {
    Blaze { boxes: Vec<usize>, scores: Vec<usize>, anchors: Vec<[f32; 2]>, unit: f32, overlap: f32 },
    Edges { boxes: usize, scores: usize, overlap: f32 },
}

// === impl FaceOptions ===

impl Default for FaceOptions {
    fn default() -> Self {
        Self { min_score: 0.6, max_faces: 16 }
    }
}

// === impl FaceFinder ===

impl FaceFinder {
    /// Loads a face finder with the back end that these choose, and warms it up.
    pub fn load(store: &ModelStore, name: &str, backends: &Backends) -> Result<Self, ModelError> {
        store.entry_for(name, Task::Face)?;
        let model = Model::load(store, name, backends)?;
        let all =
            |names: &[String]| names.iter().map(|name| model.output(name)).collect::<Result<Vec<_>, _>>();
        let decoder = match &model.entry().output {
            Some(Output::Blaze { boxes, scores, anchors, unit, overlap }) => Decoder::Blaze {
                boxes: all(boxes)?,
                scores: all(scores)?,
                anchors: match anchors {
                    Anchors::ShortRange => short_range_anchors(),
                    Anchors::FullRange => full_range_anchors(),
                },
                unit: *unit,
                overlap: *overlap,
            },
            Some(Output::Edges { boxes, scores, overlap }) => Decoder::Edges {
                boxes: model.output(boxes)?,
                scores: model.output(scores)?,
                overlap: *overlap,
            },
            _ => {
                // The catalog was checked: a model for faces answers with boxes.
                return Err(ModelError::Output {
                    model: name.to_owned(),
                    output: "boxes".to_owned(),
                    outputs: Vec::new(),
                });
            }
        };
        let counts: Vec<usize> = model.first_run()?.iter().map(|output| output.values.len()).collect();
        if let Some((expected, found)) = decoder.mismatch(&counts) {
            return Err(ModelError::Answer { model: name.to_owned(), expected, found });
        }
        Ok(Self { model, decoder })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The faces in the picture, best score first; boxes in pixels of the picture.
    pub fn find(&self, picture: &Picture, options: &FaceOptions) -> Result<Vec<Detection>, ModelError> {
        Ok(self.find_timed(picture, options)?.0)
    }

    /// As [`FaceFinder::find`], and how long the model itself took, without fitting the picture into its input and
    /// reading boxes out of its output.
    pub fn find_timed(
        &self,
        picture: &Picture,
        options: &FaceOptions,
    ) -> Result<(Vec<Detection>, Duration), ModelError> {
        let (input, shown) = self.model.whole(picture)?;
        let (outputs, took) = self.model.run_timed(input)?;
        Ok((self.read(outputs, shown, options), took))
    }

    /// The faces in the outputs of a run of [`FaceFinder::model`], best score first; `shown` is what its input shows of
    /// the picture, as [`Model::fitted`] tells it.
    pub fn read(&self, outputs: Vec<Tensor>, shown: Rect, options: &FaceOptions) -> Vec<Detection> {
        let mut faces = self.decode(outputs, options.min_score);
        faces.truncate(options.max_faces);
        for face in &mut faces {
            let Rect { x, y, width, height } = face.bounds;
            face.bounds = Rect {
                x: shown.x + x * shown.width,
                y: shown.y + y * shown.height,
                width: width * shown.width,
                height: height * shown.height,
            };
        }
        faces
    }

    fn decode(&self, outputs: Vec<Tensor>, min_score: f32) -> Vec<Detection> {
        let outputs: Vec<Vec<f32>> = outputs.into_iter().map(Tensor::into_f32).collect();
        let joined = |indexes: &[usize]| {
            indexes.iter().filter_map(|index| outputs.get(*index)).flatten().copied().collect::<Vec<f32>>()
        };
        match &self.decoder {
            Decoder::Blaze { boxes, scores, anchors, unit, overlap } => {
                let found = blaze_faces(&joined(boxes), &joined(scores), anchors, *unit, min_score);
                suppress(found, *overlap, Suppression::Weighted)
            }
            Decoder::Edges { boxes, scores, overlap } => {
                let found = edge_faces(&joined(&[*boxes]), &joined(&[*scores]), min_score);
                suppress(found, *overlap, Suppression::Best)
            }
        }
    }
}

// === impl Decoder ===

impl Decoder {
    /// Values expected and found, where outputs of so many values do not belong together, or not to the anchors.
    fn mismatch(&self, counts: &[usize]) -> Option<(usize, usize)> {
        let sum = |indexes: &[usize]| indexes.iter().filter_map(|index| counts.get(*index)).sum::<usize>();
        let pairs = match self {
            Self::Blaze { boxes, scores, anchors, .. } => {
                [(anchors.len() * 16, sum(boxes)), (anchors.len(), sum(scores))]
            }
            // Four edges and two probabilities each.
            Self::Edges { boxes, scores, .. } => {
                let faces = sum(&[*scores]) / 2;
                [(faces * 4, sum(&[*boxes])), (faces * 2, sum(&[*scores]))]
            }
        };
        pairs.into_iter().find(|(expected, found)| expected != found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_that_are_not_as_many_as_the_anchors_or_each_other_are_told() {
        let anchors = full_range_anchors();
        let count = anchors.len();
        let blaze = Decoder::Blaze { boxes: vec![0], scores: vec![1, 2], anchors, unit: 192.0, overlap: 0.3 };
        assert_eq!(blaze.mismatch(&[count * 16, count - 4, 4]), None);
        assert_eq!(blaze.mismatch(&[count * 16, count, 4]), Some((count, count + 4)));
        assert_eq!(blaze.mismatch(&[896 * 16, 896, 0]), Some((count * 16, 896 * 16)));
        let edges = Decoder::Edges { boxes: 0, scores: 1, overlap: 0.3 };
        assert_eq!(edges.mismatch(&[40, 20]), None);
        assert_eq!(edges.mismatch(&[40, 21]), Some((20, 21)));
        assert_eq!(edges.mismatch(&[36, 20]), Some((40, 36)));
    }
}
