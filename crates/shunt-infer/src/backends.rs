//! Which back ends are there, and which of them takes a model.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};

use crate::{Backend, BackendError, Format, Input, LiteRt, Loaded, OnnxRuntime, Order, RunOptions, Tract};

/// Which back end is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preference {
    /// The fastest that is there and takes the model.
    #[default]
    Auto,
    /// tract: pure Rust, always there.
    Tract,
    /// ONNX Runtime, where its library is installed.
    Onnxruntime,
    /// LiteRT, where its library is installed.
    Litert,
}

/// A back end that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: &'static str,
    /// Why, and what installs it.
    pub why: String,
}

/// Why the back end that loaded a model is the one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The back end.
    pub name: &'static str,
    /// Its version.
    pub version: String,
    /// Why it, in a sentence.
    pub why: String,
}

/// The back ends that are installed here, the fastest first, and how they are to be used.
///
/// A library is looked for and loaded when a model is to be loaded for which its back end is wanted: who wants tract
/// pays for no other.
#[derive(Debug, Clone)]
pub struct Backends {
    /// Exactly these; `None`: those that are installed.
    given: Option<Vec<Arc<dyn Backend>>>,
    /// What [`Backends::found`] and [`Backends::missing`] tell; looked up once.
    all: OnceLock<Looked>,
    preference: Preference,
    options: RunOptions,
}

/// What is there, and what is not.
#[derive(Debug, Clone, Default)]
struct Looked {
    found: Vec<Arc<dyn Backend>>,
    missing: Vec<Missing>,
}

/// A back end that may be installed.
struct Known {
    preference: Preference,
    /// The files it takes; `None`: all.
    format: Option<Format>,
    find: fn() -> Result<Arc<dyn Backend>, Missing>,
}

/// The fastest first: see docs/decisions/0018-onnx-runtime.md.
const KNOWN: [Known; 3] = [
    Known {
        preference: Preference::Onnxruntime,
        format: Some(Format::Onnx),
        find: || Ok(Arc::new(OnnxRuntime::find()?)),
    },
    Known {
        preference: Preference::Litert,
        format: Some(Format::Tflite),
        find: || Ok(Arc::new(LiteRt::find()?)),
    },
    Known { preference: Preference::Tract, format: None, find: || Ok(Arc::new(Tract)) },
];

// === impl Preference ===

impl Preference {
    /// The back end's name; `None` for [`Preference::Auto`].
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Auto => None,
            Self::Tract => Some("tract"),
            Self::Onnxruntime => Some("onnxruntime"),
            Self::Litert => Some("litert"),
        }
    }
}

impl std::str::FromStr for Preference {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let all = [Self::Auto, Self::Tract, Self::Onnxruntime, Self::Litert];
        let found = all.into_iter().find(|preference| preference.to_string() == name);
        found
            .ok_or_else(|| format!("there is no back end {name:?}, only auto, tract, onnxruntime and litert"))
    }
}

impl fmt::Display for Preference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name().unwrap_or("auto"))
    }
}

// === impl Known ===

impl Known {
    fn name(&self) -> &'static str {
        self.preference.name().unwrap_or_default()
    }

    fn takes(&self, format: Format) -> bool {
        self.format.is_none_or(|own| own == format)
    }
}

// === impl Backends ===

impl Backends {
    /// Those that are installed here. What is not there is in [`Backends::missing`].
    pub fn installed() -> Self {
        Self::with(None)
    }

    /// Exactly these, the fastest first.
    pub fn of(found: Vec<Arc<dyn Backend>>) -> Self {
        Self::with(Some(found))
    }

    fn with(given: Option<Vec<Arc<dyn Backend>>>) -> Self {
        Self { given, all: OnceLock::new(), preference: Preference::Auto, options: RunOptions::default() }
    }

    /// The same with another wish.
    #[must_use]
    pub fn prefer(self, preference: Preference) -> Self {
        Self { preference, ..self }
    }

    /// The same with other options.
    #[must_use]
    pub fn options(self, options: RunOptions) -> Self {
        Self { options, ..self }
    }

    /// Those that are there, the fastest first, whatever is wanted. Loads their libraries.
    pub fn found(&self) -> &[Arc<dyn Backend>] {
        &self.look().found
    }

    /// Those that are not there.
    pub fn missing(&self) -> &[Missing] {
        &self.look().missing
    }

    /// Is the one that is wanted there? Always with [`Preference::Auto`]. Loads its library.
    ///
    /// # Errors
    ///
    /// It is not there: why, and what installs it.
    pub fn wanted(&self) -> Result<(), Missing> {
        let Some(wanted) = self.preference.name() else { return Ok(()) };
        match (&self.given, KNOWN.iter().find(|known| known.preference == self.preference)) {
            (None, Some(known)) => (known.find)().map(drop),
            (Some(given), _) if given.iter().any(|own| own.name() == wanted) => Ok(()),
            _ => Err(Missing { name: wanted, why: "it is not among those that serve here".to_owned() }),
        }
    }

    fn look(&self) -> &Looked {
        self.all.get_or_init(|| {
            let mut looked = Looked::default();
            if let Some(given) = &self.given {
                looked.found.clone_from(given);
                return looked;
            }
            for known in &KNOWN {
                match (known.find)() {
                    Ok(backend) => looked.found.push(backend),
                    Err(error) => looked.missing.push(error),
                }
            }
            looked
        })
    }

    /// Loads a model with the one that is wanted; with [`Preference::Auto`], with the first that can.
    ///
    /// # Errors
    ///
    /// The wanted one is not there or cannot load it; with [`Preference::Auto`], none can: what each of them said.
    pub fn load(
        &self,
        format: Format,
        input: Option<&Input>,
        file: &[u8],
    ) -> Result<(Box<dyn Loaded>, Chosen), BackendError> {
        let order = Order { format, file, input, options: self.options };
        let mut said = Vec::new();
        for backend in self.candidates(format) {
            match backend.and_then(|backend| self.load_with(&backend, &order)) {
                Ok((loaded, name, version)) => {
                    return Ok((loaded, Chosen { name, version, why: self.why(&said) }));
                }
                Err(Missing { name, why }) => said.push(format!("{name}: {why}")),
            }
        }
        if said.is_empty() {
            said.push(format!("{} loads no {format:?} files", self.preference));
        }
        Err(BackendError(said.join("; ")))
    }

    /// Those that are wanted and load such files, each looked for when it is its turn; where one is not there, why.
    fn candidates(&self, format: Format) -> Box<dyn Iterator<Item = Result<Arc<dyn Backend>, Missing>> + '_> {
        let wanted = move |name: &str| self.preference.name().is_none_or(|wanted| wanted == name);
        if let Some(given) = &self.given {
            let these = given.iter().filter(move |own| wanted(own.name()) && own.takes(format));
            return Box::new(these.cloned().map(Ok));
        }
        let these = KNOWN.iter().filter(move |own| wanted(own.name()) && own.takes(format));
        Box::new(these.map(|own| (own.find)()))
    }

    fn load_with(
        &self,
        backend: &Arc<dyn Backend>,
        order: &Order<'_>,
    ) -> Result<(Box<dyn Loaded>, &'static str, String), Missing> {
        let name = backend.name();
        let cannot = |why: String| Missing { name, why };
        let loaded = backend.load(order).map_err(|error| cannot(error.to_string()))?;
        match backend.doubt(order.format, loaded.describe()) {
            Some(doubt) if self.preference == Preference::Auto => {
                Err(cannot(format!("{doubt}; it serves only where it is asked for by name")))
            }
            _ => Ok((loaded, name, backend.version())),
        }
    }

    /// Why the one that loaded a model is the one; `said` is what those before it said.
    fn why(&self, said: &[String]) -> String {
        if self.preference != Preference::Auto {
            return "it is the one that was asked for".to_owned();
        }
        if said.is_empty() {
            return "it is the fastest that loads such files".to_owned();
        }
        format!("it is the fastest that is here and loads this file ({})", said.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Description, Element, Port, Tensor};

    /// Loads everything and says what it was told to.
    #[derive(Debug, Clone)]
    struct Scripted {
        name: &'static str,
        fails: bool,
        doubt: Option<&'static str>,
    }

    #[derive(Debug)]
    struct Nothing(Description);

    impl Backend for Scripted {
        fn name(&self) -> &'static str {
            self.name
        }

        fn version(&self) -> String {
            format!("{} 1.0", self.name)
        }

        fn takes(&self, format: Format) -> bool {
            format == Format::Onnx
        }

        fn load(&self, _: &Order<'_>) -> Result<Box<dyn Loaded>, BackendError> {
            if self.fails {
                return Err(BackendError("cannot".to_owned()));
            }
            let port = Port { name: "x".to_owned(), element: Element::F32, shape: vec![] };
            let ports = vec![port];
            Ok(Box::new(Nothing(Description {
                backend: self.name,
                device: "cpu",
                inputs: ports.clone(),
                outputs: ports,
            })))
        }

        fn doubt(&self, _: Format, _: &Description) -> Option<&'static str> {
            self.doubt
        }
    }

    impl Loaded for Nothing {
        fn describe(&self) -> &Description {
            &self.0
        }

        fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, BackendError> {
            Ok(inputs)
        }

        fn memory(&self) -> Option<u64> {
            None
        }
    }

    fn backends(scripted: &[Scripted]) -> Backends {
        Backends::of(scripted.iter().map(|one| Arc::new(one.clone()) as Arc<dyn Backend>).collect())
    }

    const QUICK: Scripted = Scripted { name: "onnxruntime", fails: false, doubt: None };
    const SLOW: Scripted = Scripted { name: "tract", fails: false, doubt: None };

    fn chosen(backends: &Backends) -> Result<(&'static str, String), String> {
        match backends.load(Format::Onnx, None, b"") {
            Ok((_, chosen)) => Ok((chosen.name, chosen.why)),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn auto_takes_the_first_that_loads_the_file_and_says_why() {
        let (name, why) = chosen(&backends(&[QUICK, SLOW])).unwrap();
        assert_eq!((name, why.as_str()), ("onnxruntime", "it is the fastest that loads such files"));
        let (name, why) = chosen(&backends(&[Scripted { fails: true, ..QUICK }, SLOW])).unwrap();
        assert_eq!(name, "tract");
        assert_eq!(why, "it is the fastest that is here and loads this file (onnxruntime: cannot)");
    }

    #[test]
    fn one_that_is_in_doubt_serves_only_where_it_is_asked_for() {
        let doubtful = Scripted { doubt: Some("it is often wrong"), ..SLOW };
        let backends = backends(&[doubtful]);
        let error = chosen(&backends).unwrap_err();
        assert_eq!(error, "tract: it is often wrong; it serves only where it is asked for by name");
        let (name, why) = chosen(&backends.prefer(Preference::Tract)).unwrap();
        assert_eq!((name, why.as_str()), ("tract", "it is the one that was asked for"));
    }

    #[test]
    fn the_wanted_one_is_taken_or_nothing() {
        let (name, _) = chosen(&backends(&[QUICK, SLOW]).prefer(Preference::Tract)).unwrap();
        assert_eq!(name, "tract");
        let broken = backends(&[Scripted { fails: true, ..QUICK }, SLOW]).prefer(Preference::Onnxruntime);
        assert_eq!(chosen(&broken).unwrap_err(), "onnxruntime: cannot");
        assert!(broken.wanted().is_ok() && backends(&[SLOW]).wanted().is_ok());
        let missing = backends(&[SLOW]).prefer(Preference::Onnxruntime).wanted().unwrap_err();
        assert_eq!(missing.name, "onnxruntime");
    }

    #[test]
    fn files_that_no_wanted_one_loads_are_told() {
        let error = backends(&[QUICK]).load(Format::Tflite, None, b"").unwrap_err().to_string();
        assert_eq!(error, "auto loads no Tflite files");
    }

    #[test]
    fn tract_is_always_there() {
        let backends = Backends::installed();
        assert!(backends.found().iter().any(|backend| backend.name() == "tract"));
        assert!(backends.missing().iter().all(|missing| missing.name != "tract"));
    }
}
