//! Models: find, check, load, describe, warm up, run; and what they are for: faces and expressions in a picture.
//!
//! - [`Catalog`] is `models/catalog.toml`: each model's task, file, digest, source, licence, and how a picture
//!   goes in and an answer comes out.
//! - [`ModelStore`] finds a model's file in the folders it is given and hands it out only if its digest is right.
//! - [`Model`] is a loaded model; [`Backend`] is who runs it; [`Backends`] are those that are installed here, of which
//!   the fastest that takes a model gets it.
//! - [`FaceFinder`], [`ExpressionReader`] and [`Classifier`] are the pipelines: picture to faces, face to eight
//!   probabilities, picture to classes.
//! - [`expression_accuracy`] measures an expression model on a folder of labelled faces.
//!
//! It promises: a file with another digest than the catalog's is never loaded, and a model that cannot be used
//! is refused with an error that names the model, the file and what to do. Loading needs no network.
//!
//! It deliberately fetches nothing (the `shunt` command does), knows no bus and no twin, and has no threads of
//! its own: [`Model::run`] is heavy work for the caller's own thread (law 6).
//!
//! ```
//! use shunt_infer::{Backends, ExpressionReader, FaceFinder, FaceOptions, ModelStore};
//! use shunt_vision::Picture;
//!
//! let store = ModelStore::open("models".as_ref())?;
//! let catalog = store.catalog();
//! let backends = Backends::installed();
//! let finder = FaceFinder::load(&store, &catalog.defaults.face, &backends)?;
//! let reader = ExpressionReader::load(&store, &catalog.defaults.expression, &backends)?;
//!
//! let picture = Picture::filled(640, 480, [90, 120, 150]);
//! for face in finder.find(&picture, &FaceOptions::default())? {
//!     let probabilities = reader.read(&picture, face.bounds)?;
//!     println!("{} {:?}", face.score, probabilities.best());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod accuracy;
mod backend;
mod backends;
mod catalog;
mod classify;
mod convert;
mod expression;
mod face;
mod golden;
mod import;
mod libraries;
mod litert;
mod model;
mod onnxruntime;
mod reading;
mod store;
mod tensor;
mod tract;

pub use accuracy::{Accuracy, AccuracyError, expression_accuracy};
pub use backend::{Backend, BackendError, Description, Loaded, Order, Port, RunOptions};
pub use backends::{Backends, Chosen, Missing, Preference};
pub use catalog::{
    Activation, Anchors, Catalog, CatalogError, Channels, Convert, Defaults, Format, Input, Measured, Member,
    ModelEntry, Normalise, Output, PictureFile, PictureSet, Source, SourceKind, Task,
};
pub use classify::{Class, Classification, Classifier, best_classes};
pub use convert::{ConvertError, Converted, Verdict, compare, tflite_to_onnx};
pub use expression::ExpressionReader;
pub use face::{FaceFinder, FaceOptions};
pub use golden::{Golden, Proof, pattern};
pub use import::{ImportError, ImportOrder, Imported, import};
pub use litert::LiteRt;
pub use model::{Model, ModelError};
pub use onnxruntime::OnnxRuntime;
pub use reading::FaceReading;
pub use shunt_vision::{Colour, Fit, Layout};
pub use store::{ModelStore, digest};
pub use tensor::{Element, Tensor, Values, zeros};
pub use tract::Tract;
