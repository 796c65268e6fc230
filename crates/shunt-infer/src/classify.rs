//! A picture to classes.

use std::time::Duration;

use serde::Serialize;
use shunt_vision::{Picture, Rect};

use crate::{Activation, Backends, Model, ModelError, ModelStore, Output, Task, Tensor};

/// Tells what a picture shows with a model of the catalog.
#[derive(Debug)]
pub struct Classifier {
    model: Model,
    output: usize,
    activation: Activation,
    labels: Vec<String>,
}

/// A class and how probable it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Class {
    /// Its number, from 0.
    pub index: usize,
    /// Its name.
    pub label: String,
    /// 0 to 1.
    pub probability: f32,
}

/// What a picture shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// One number a class, 0 to 1, in the model's order.
    pub probabilities: Vec<f32>,
    /// How long the model itself took.
    pub model: Duration,
}

// === impl Classification ===

impl Classification {
    /// The numbers of the `count` most probable classes, the best first.
    pub fn best(&self, count: usize) -> Vec<(usize, f32)> {
        best_classes(&self.probabilities, count)
    }
}

/// The numbers of the `count` most probable classes with their probabilities, the best first.
pub fn best_classes(probabilities: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<(usize, f32)> = probabilities.iter().copied().enumerate().collect();
    let better =
        |left: &(usize, f32), right: &(usize, f32)| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0));
    if count < order.len() {
        // A thousand classes are not put in order for five of them.
        order.select_nth_unstable_by(count, better);
        order.truncate(count);
    }
    order.sort_unstable_by(better);
    order
}

// === impl Classifier ===

impl Classifier {
    /// Loads a classifier with the back end that these choose, and warms it up.
    pub fn load(store: &ModelStore, name: &str, backends: &Backends) -> Result<Self, ModelError> {
        store.entry_for(name, Task::Classify)?;
        let model = Model::load(store, name, backends)?;
        let Some(Output::Classes { values, activation, classes, labels }) = model.entry().output.clone()
        else {
            // The catalog was checked: a model for classes answers with them.
            return Err(ModelError::Output {
                model: name.to_owned(),
                output: "classes".to_owned(),
                outputs: Vec::new(),
            });
        };
        let labels = store.labels(name, &labels)?;
        if labels.len() != classes {
            return Err(ModelError::Answer {
                model: name.to_owned(),
                expected: classes,
                found: labels.len(),
            });
        }
        let output = model.output(&values)?;
        model.warm_up()?;
        Ok(Self { model, output, activation, labels })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The classes' names, in the model's order.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// What the picture, or this part of it (pixels of the picture), shows.
    pub fn classify(&self, picture: &Picture, part: Option<Rect>) -> Result<Classification, ModelError> {
        let input = match part {
            Some(part) => self.model.part(picture, part)?,
            None => self.model.whole(picture)?.0,
        };
        let (outputs, model) = self.model.run_timed(input)?;
        Ok(Classification { probabilities: self.read(outputs)?, model })
    }

    /// The probabilities in the outputs of a run of [`Classifier::model`] on one picture: each a number, never NaN.
    pub fn read(&self, outputs: Vec<Tensor>) -> Result<Vec<f32>, ModelError> {
        let values = self.model.probabilities(outputs, self.output, self.labels.len(), self.activation)?;
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        Err(ModelError::NotFinite { model: self.model.name().to_owned() })
    }

    /// The most probable classes with their names, the best first.
    pub fn name(&self, classification: &Classification, count: usize) -> Vec<Class> {
        let name = |(index, probability)| Class {
            index,
            label: self.labels.get(index).cloned().unwrap_or_default(),
            probability,
        };
        classification.best(count).into_iter().map(name).collect()
    }
}
