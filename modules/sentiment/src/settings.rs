//! What can be set, by environment (`SHUNT_SENTIMENT_...`) and by twin.

use std::path::{Component, Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::{Problems, Settings};
use shunt_text::{Language, TextModel};

/// What can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SentimentSettings {
    /// The model: shunt-sentiment, shunt-sentiment-ungated (takes every text for an opinion), or a file of a model
    /// (.bin) in the folder of models.
    pub model: String,
    /// The sha256 of the model's file in hexadecimal; a file is used only with it. Null for a model that is built in.
    pub model_sha256: Option<String>,
    /// Who judges: the local model, or an Azure Cognitive Services container with Text Analytics v2.0 beside this one.
    /// Where that does not answer, the local model does, and says so.
    pub backend: Backend,
    /// Address of the container, as in `http://text-analytics:5000`; needed where backend is cognitive.
    pub cognitive_url: Option<String>,
    /// Milliseconds that the container may take for a request.
    #[schemars(range(min = 10, max = 60_000))]
    pub cognitive_timeout_ms: u64,
    /// The language of texts that name none: en or nl.
    pub language: String,
}

/// Who judges texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The local model.
    Local,
    /// An Azure Cognitive Services container.
    Cognitive,
}

// === impl SentimentSettings ===

impl SentimentSettings {
    /// The language of texts that name none. It was checked.
    pub(crate) fn default_language(&self) -> Language {
        self.language.parse().unwrap_or(Language::English)
    }

    fn check_model(&self, problems: &mut Problems) {
        let file = Path::new(&self.model);
        let is_file = file.extension().is_some_and(|extension| extension == "bin");
        if is_file {
            if !file.components().all(|part| matches!(part, Component::Normal(_))) {
                problems.note("model", "the file must be in the folder of models, without .. and / in front");
            }
            if self.model_sha256.is_none() {
                problems.note("model_sha256", "a file of a model needs its sha256");
            }
        } else if !TextModel::BUILT_IN.contains(&self.model.as_str()) {
            let known = TextModel::BUILT_IN.join(", ");
            problems.note(
                "model",
                format!("{:?} is neither a file that ends in .bin nor one of {known}", self.model),
            );
        }
        if let Some(digest) = &self.model_sha256
            && !(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            problems.note("model_sha256", format!("{digest:?} is not a sha256: 64 hexadecimal digits"));
        }
    }
}

impl Default for SentimentSettings {
    fn default() -> Self {
        Self {
            model: TextModel::DEFAULT.to_owned(),
            model_sha256: None,
            backend: Backend::Local,
            cognitive_url: None,
            cognitive_timeout_ms: 2_000,
            language: Language::English.code().to_owned(),
        }
    }
}

impl Settings for SentimentSettings {
    const MODULE: &'static str = "sentiment";

    fn check(&self, problems: &mut Problems) {
        self.check_model(problems);
        match &self.cognitive_url {
            None if self.backend == Backend::Cognitive => {
                problems.note("cognitive_url", "the backend cognitive needs the container's address");
            }
            Some(url) => {
                let parsed = url.parse::<reqwest::Url>();
                let sound =
                    parsed.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
                if !sound {
                    problems.note("cognitive_url", format!("{url:?} is not of the form http://host:port"));
                }
            }
            None => {}
        }
        if !(10..=60_000).contains(&self.cognitive_timeout_ms) {
            let problem = format!("it is {}, but must be from 10 to 60000", self.cognitive_timeout_ms);
            problems.note("cognitive_timeout_ms", problem);
        }
        if let Err(error) = self.language.parse::<Language>() {
            problems.note("language", error.to_string());
        }
    }
}
