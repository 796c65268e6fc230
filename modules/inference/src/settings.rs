//! What can be set, by environment (`SHUNT_INFERENCE_...`) and by twin.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_infer::Preference;
use shunt_module::{Problems, Settings};
use shunt_wire::Name;

/// Most models served beside the two that are always there: each holds memory.
const MODELS: usize = 16;
/// Most sources with settings of their own.
const SOURCES: usize = 256;
/// The least width and height of a region: a smaller one has not even a pixel of any camera's frame.
const LEAST: f32 = 0.001;
/// Most hosts that `/url` may fetch from.
const HOSTS: usize = 64;

/// What can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InferenceSettings {
    /// The model that tells what pictures and frames show, by its name in `models/catalog.toml`; a face finder tells
    /// where faces are. Null for the catalog's own choice. A file that is not here is fetched, where the catalog gives
    /// its address and its digest. A model that does not load or does not prove itself is refused; the old one serves
    /// on.
    pub model: Option<String>,
    /// The model that answers `/score` for a grey face of 64x64 pixels, by its name in the catalog. Null for the
    /// catalog's own choice.
    pub expression_model: Option<String>,
    /// Further models of the catalog that are served, for `?model=` and the Open Inference Protocol.
    pub models: Vec<String>,
    /// Who runs the models: auto (the fastest that is here), tract, onnxruntime, litert.
    #[schemars(with = "String", extend("enum" = ["auto", "tract", "onnxruntime", "litert"]))]
    pub backend: Preference,
    /// Threads that one run of a model may use, where the back end can use several.
    #[schemars(range(min = 1, max = 64))]
    pub threads: u32,
    /// Threads that run a model, for each model: so many runs of it go on at a time on tract. ONNX Runtime and LiteRT
    /// run a model once at a time, whatever this says; `threads` makes them quicker.
    #[schemars(range(min = 1, max = 64))]
    pub workers: u32,
    /// Requests that may wait for a model. One more is answered 503 with `Retry-After`.
    #[schemars(range(min = 1, max = 10_000))]
    pub queue: u32,
    /// Most pictures that run together when they wait together, where a model allows it. 1 for each alone. A request of
    /// the Open Inference Protocol may have as many rows and no more.
    #[schemars(range(min = 1, max = 256))]
    pub batch: u32,
    /// Classes told of a picture or frame, the most probable first.
    #[schemars(range(min = 1, max = 1_000))]
    pub top: u32,
    /// The least probability of a class, or score of a face, that is told of a frame, 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub min_score: f64,
    /// Frames of a source judged a second; those that come sooner are passed over. 0 for none at all.
    #[schemars(range(min = 0, max = 1_000))]
    pub max_per_s: f64,
    /// The part of a frame that is judged, in parts of its width and height. Null for all of it.
    pub region: Option<Region>,
    /// Whether frames in which nothing moved are passed over.
    pub motion: Motion,
    /// By source: what differs from the above for it.
    pub sources: BTreeMap<String, SourceSettings>,
    /// A second model beside the first, on a share of the frames, to be compared. Null for none.
    pub shadow: Option<Shadow>,
    /// Hosts that `/url` may fetch pictures from, as `pictures.example.com` or `host:8080`. None: `/url` is refused.
    pub url_hosts: Vec<String>,
    /// The largest body of a request in MiB; a larger one is answered 413.
    #[schemars(range(min = 1, max = 1_024))]
    pub max_body_mb: u32,
}

/// A part of a frame, in parts of its width and height.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Left edge.
    #[schemars(range(min = 0, max = 1))]
    pub x: f32,
    /// Upper edge.
    #[schemars(range(min = 0, max = 1))]
    pub y: f32,
    /// Width.
    #[schemars(range(min = 0.001, max = 1))]
    pub width: f32,
    /// Height.
    #[schemars(range(min = 0.001, max = 1))]
    pub height: f32,
}

/// Whether frames in which nothing moved are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Motion {
    /// Are they?
    pub enabled: bool,
    /// How much must change for something to have moved, 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub threshold: f32,
    /// After so many seconds without motion, a frame is judged all the same. 0 for never.
    #[schemars(range(min = 0, max = 86_400))]
    pub still_s: f64,
}

/// What differs for one source.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceSettings {
    /// Whether its frames are judged.
    pub enabled: Option<bool>,
    /// As the setting of that name.
    #[schemars(range(min = 0, max = 1_000))]
    pub max_per_s: Option<f64>,
    /// As the setting of that name.
    #[schemars(range(min = 0, max = 1))]
    pub min_score: Option<f64>,
    /// As the setting of that name.
    pub region: Option<Region>,
    /// As the setting of that name.
    pub motion: Option<Motion>,
}

/// A second model beside the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// Its name in the catalog.
    pub model: String,
    /// The part of the frames that it judges too, above 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub share: f64,
}

// === impl InferenceSettings ===

impl InferenceSettings {
    /// The largest body of a request in bytes.
    pub(crate) fn max_body(&self) -> usize {
        self.max_body_mb as usize * 1024 * 1024
    }

    fn check_models(&self, problems: &mut Problems) {
        // Whether there is such a model is seen when it is loaded: the catalog lies beside the models.
        for (field, model) in [("model", &self.model), ("expression_model", &self.expression_model)] {
            if model.as_ref().is_some_and(String::is_empty) {
                problems.note(field, "it is empty, but must be the name of a model in the catalog, or null");
            }
        }
        if self.models.len() > MODELS {
            problems
                .note("models", format!("there are {}, but at most {MODELS} are served", self.models.len()));
        }
        if self.models.iter().any(String::is_empty) {
            problems.note("models", "one is empty, but each must be the name of a model in the catalog");
        }
        if let Some(shadow) = &self.shadow {
            if shadow.model.is_empty() {
                problems.note("shadow.model", "it is empty, but must be the name of a model in the catalog");
            }
            if !(shadow.share > 0.0 && shadow.share <= 1.0) {
                problems.note(
                    "shadow.share",
                    format!("it is {}, but must be above 0 and at most 1", shadow.share),
                );
            }
        }
    }

    fn check_sources(&self, problems: &mut Problems) {
        if self.sources.len() > SOURCES {
            problems.note(
                "sources",
                format!("there are {}, but at most {SOURCES} can be told apart", self.sources.len()),
            );
        }
        for (name, source) in &self.sources {
            let at = |field: &str| format!("sources.{name}.{field}");
            if name.parse::<Name>().is_err() {
                problems.note(&format!("sources.{name}"), "it is not the name of a source");
            }
            if let Some(rate) = source.max_per_s {
                check_within(problems, &at("max_per_s"), rate, 0.0, 1_000.0);
            }
            if let Some(score) = source.min_score {
                check_within(problems, &at("min_score"), score, 0.0, 1.0);
            }
            if let Some(region) = source.region {
                region.check(problems, &at("region"));
            }
            if let Some(motion) = source.motion {
                motion.check(problems, &at("motion"));
            }
        }
    }

    fn check_hosts(&self, problems: &mut Problems) {
        if self.url_hosts.len() > HOSTS {
            problems.note(
                "url_hosts",
                format!("there are {}, but at most {HOSTS} are taken", self.url_hosts.len()),
            );
        }
        for host in &self.url_hosts {
            let url = reqwest::Url::parse(&format!("http://{host}"));
            let plain = url.is_ok_and(|url| {
                url.has_host() && url.username().is_empty() && url.path() == "/" && url.query().is_none()
            });
            if !plain || host.contains(['/', '@', '#', '?']) {
                problems.note("url_hosts", format!("{host:?} is neither a host nor host:port"));
            }
        }
    }
}

impl Default for InferenceSettings {
    fn default() -> Self {
        Self {
            model: None,
            expression_model: None,
            models: Vec::new(),
            backend: Preference::Auto,
            threads: 1,
            workers: 1,
            queue: 32,
            batch: 8,
            top: 5,
            min_score: 0.1,
            max_per_s: 10.0,
            region: None,
            motion: Motion::default(),
            sources: BTreeMap::new(),
            shadow: None,
            url_hosts: Vec::new(),
            max_body_mb: 16,
        }
    }
}

impl Settings for InferenceSettings {
    const MODULE: &'static str = "inference";

    fn check(&self, problems: &mut Problems) {
        self.check_models(problems);
        for (field, value, highest) in [
            ("threads", self.threads, 64),
            ("workers", self.workers, 64),
            ("queue", self.queue, 10_000),
            ("batch", self.batch, 256),
            ("top", self.top, 1_000),
            ("max_body_mb", self.max_body_mb, 1_024),
        ] {
            if !(1..=highest).contains(&value) {
                problems.note(field, format!("it is {value}, but must be from 1 to {highest}"));
            }
        }
        check_within(problems, "min_score", self.min_score, 0.0, 1.0);
        check_within(problems, "max_per_s", self.max_per_s, 0.0, 1_000.0);
        if let Some(region) = self.region {
            region.check(problems, "region");
        }
        self.motion.check(problems, "motion");
        self.check_sources(problems);
        self.check_hosts(problems);
    }
}

// === impl Region ===

impl Region {
    fn check(self, problems: &mut Problems, field: &str) {
        let Self { x, y, width, height } = self;
        let inside = |from: f32, length: f32| from >= 0.0 && length >= 0.0 && from + length <= 1.0 + 1e-6;
        if !(inside(x, width) && inside(y, height)) {
            problems.note(
                field,
                format!("{width}x{height} at {x},{y} is not inside the frame, which is 1x1 at 0,0"),
            );
        } else if width < LEAST || height < LEAST {
            problems
                .note(field, format!("{width}x{height} is too small; width and height are {LEAST} or more"));
        }
    }
}

// === impl Motion ===

impl Motion {
    fn check(self, problems: &mut Problems, field: &str) {
        check_within(problems, &format!("{field}.threshold"), f64::from(self.threshold), 0.0, 1.0);
        check_within(problems, &format!("{field}.still_s"), self.still_s, 0.0, 86_400.0);
    }
}

impl Default for Motion {
    fn default() -> Self {
        Self { enabled: false, threshold: 0.02, still_s: 10.0 }
    }
}

fn check_within(problems: &mut Problems, field: &str, value: f64, lowest: f64, highest: f64) {
    if !(lowest..=highest).contains(&value) {
        problems.note(field, format!("it is {value}, but must be from {lowest} to {highest}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(settings: &InferenceSettings) -> Vec<String> {
        let mut problems = Problems::default();
        settings.check(&mut problems);
        problems.iter().map(|(field, problem)| format!("{field}: {problem}")).collect()
    }

    #[test]
    fn the_defaults_are_allowed() {
        assert_eq!(problems(&InferenceSettings::default()), [] as [String; 0]);
    }

    #[test]
    fn every_broken_rule_is_named() {
        let source = SourceSettings { min_score: Some(2.0), ..SourceSettings::default() };
        let region = Some(Region { x: 0.5, y: 0.0, width: 1e-9, height: 1.0 });
        let narrow = SourceSettings { region, ..SourceSettings::default() };
        let settings = InferenceSettings {
            model: Some(String::new()),
            queue: 0,
            batch: 257,
            min_score: f64::NAN,
            region: Some(Region { x: 0.5, y: 0.0, width: 0.6, height: 1.0 }),
            motion: Motion { threshold: -1.0, ..Motion::default() },
            sources: BTreeMap::from([
                ("attic".to_owned(), narrow),
                ("door".to_owned(), source),
                ("a/b".to_owned(), SourceSettings::default()),
            ]),
            shadow: Some(Shadow { model: "m".to_owned(), share: 0.0 }),
            url_hosts: vec!["example.com:8080".to_owned(), "http://example.com".to_owned(), "a@b".to_owned()],
            ..InferenceSettings::default()
        };
        assert_eq!(
            problems(&settings),
            [
                "model: it is empty, but must be the name of a model in the catalog, or null",
                "shadow.share: it is 0, but must be above 0 and at most 1",
                "queue: it is 0, but must be from 1 to 10000",
                "batch: it is 257, but must be from 1 to 256",
                "min_score: it is NaN, but must be from 0 to 1",
                "region: 0.6x1 at 0.5,0 is not inside the frame, which is 1x1 at 0,0",
                "motion.threshold: it is -1, but must be from 0 to 1",
                "sources.a/b: it is not the name of a source",
                "sources.attic.region: 0.000000001x1 is too small; width and height are 0.001 or more",
                "sources.door.min_score: it is 2, but must be from 0 to 1",
                "url_hosts: \"http://example.com\" is neither a host nor host:port",
                "url_hosts: \"a@b\" is neither a host nor host:port",
            ]
        );
    }
}
