//! A face to eight probabilities.

use std::time::Duration;

use shunt_vision::{Picture, PixelFormat, Rect};
use shunt_wire::events::{Expression, Probabilities};

use crate::{Activation, Backends, Model, ModelError, ModelStore, Output, Task, Tensor};

/// Tells the expression of a face with a model of the catalog, in FER+'s names and order. Expressions that the
/// model does not know have probability 0.
#[derive(Debug)]
pub struct ExpressionReader {
    model: Model,
    output: usize,
    activation: Activation,
    labels: Vec<Expression>,
    margin: f32,
}

// === impl ExpressionReader ===

impl ExpressionReader {
    /// Loads an expression model with the back end that these choose, and warms it up.
    pub fn load(store: &ModelStore, name: &str, backends: &Backends) -> Result<Self, ModelError> {
        store.entry_for(name, Task::Expression)?;
        let model = Model::load(store, name, backends)?;
        let Some(Output::Expression { values, activation, labels, margin }) = model.entry().output.clone()
        else {
            // The catalog was checked: a model for expressions answers with them.
            return Err(ModelError::Output {
                model: name.to_owned(),
                output: "expression".to_owned(),
                outputs: Vec::new(),
            });
        };
        let output = model.output(&values)?;
        model.warm_up()?;
        Ok(Self { model, output, activation, labels, margin })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The expression of the face in this box (pixels of the picture); a square around its middle is cut out.
    pub fn read(&self, picture: &Picture, face: Rect) -> Result<Probabilities, ModelError> {
        Ok(self.read_timed(picture, face)?.0)
    }

    /// As [`ExpressionReader::read`], and how long the model itself took, without cutting out the face.
    pub fn read_timed(&self, picture: &Picture, face: Rect) -> Result<(Probabilities, Duration), ModelError> {
        // A box without area is a mistake of the face finder, not of ours: its middle is looked at.
        let side = (face.width.max(face.height) * self.margin).max(1.0);
        let square = Rect {
            x: face.x + (face.width - side) / 2.0,
            y: face.y + (face.height - side) / 2.0,
            width: side,
            height: side,
        };
        self.answer(self.model.part(picture, square)?)
    }

    /// The expression of a face that fills the picture.
    pub fn read_whole(&self, picture: &Picture) -> Result<Probabilities, ModelError> {
        Ok(self.answer(self.model.whole(picture)?.0)?.0)
    }

    /// The expression of a grey face of 64x64 pixels, as `POST /score` brings it.
    pub fn score(&self, pixels: &[u8]) -> Result<Probabilities, ModelError> {
        let picture =
            Picture::new(64, 64, PixelFormat::Grey8, pixels.to_vec()).map_err(|_| ModelError::Shape {
                model: self.model.name().to_owned(),
                input: "data".to_owned(),
                expected: "4096 pixels".to_owned(),
                found: pixels.len().to_string(),
            })?;
        self.read_whole(&picture)
    }

    fn answer(&self, input: Tensor) -> Result<(Probabilities, Duration), ModelError> {
        let (outputs, took) = self.model.run_timed(input)?;
        Ok((self.probabilities(outputs)?, took))
    }

    /// The expression in the outputs of a run of [`ExpressionReader::model`] on one face.
    pub fn probabilities(&self, outputs: Vec<Tensor>) -> Result<Probabilities, ModelError> {
        let values = self.model.probabilities(outputs, self.output, self.labels.len(), self.activation)?;
        let mut probabilities = [0.0; 8];
        for (label, value) in self.labels.iter().zip(values) {
            if let Some(place) = probabilities.get_mut(*label as usize) {
                *place = value;
            }
        }
        Ok(Probabilities::from_fer_plus(probabilities))
    }
}
