//! Wire formats of the systems that Shunt replaces (gbaeke/emotion, gbaeke/resnet-score, gbaeke/sentiment), kept byte
//! for byte.

mod score;

use serde::{Deserialize, Serialize};

pub use score::{ScoreAnswer, ScoreError, ScoreRequest};

/// The body of `POST /text/analytics/v2.0/sentiment` of the Text Analytics API, which gbaeke/sentiment speaks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TextDocuments {
    /// The texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<Vec<TextDocument>>,
}

/// A text. Each field may be missing in what a client sends; the answer has an error for that document then.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TextDocument {
    /// Its language: `en`, `nl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Its id, unique in the request; a number is taken for its digits.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    pub id: Option<String>,
    /// The text itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The answer of `POST /text/analytics/v2.0/sentiment`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TextScores {
    /// The scores, in the order of the request.
    pub documents: Vec<TextScore>,
    /// The texts that have none, in the order of the request.
    pub errors: Vec<TextError>,
}

/// How positive a text is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextScore {
    /// The text's id.
    pub id: String,
    /// 0 (negative) to 1 (positive).
    pub score: f64,
}

/// Why a text has no score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextError {
    /// The text's id; empty if it has none.
    pub id: String,
    /// Why.
    pub message: String,
}

/// The answer of the Text Analytics API to a request that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TextRefusal {
    /// `BadRequest`.
    pub code: String,
    /// `Invalid request`.
    pub message: String,
    /// What exactly.
    pub inner_error: TextRefusalReason,
}

/// Why exactly the Text Analytics API refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextRefusalReason {
    /// In one word: `InvalidDocumentBatch`.
    pub code: String,
    /// In a sentence.
    pub message: String,
}

fn text_or_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Text(String),
        Number(serde_json::Number),
    }
    Ok(Option::<Id>::deserialize(deserializer)?.map(|id| match id {
        Id::Text(text) => text,
        Id::Number(number) => number.to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_analytics_requests_and_answers_are_those_of_the_api() {
        let request = r#"{"documents":[{"language":"en","id":"1","text":"Hi"}]}"#;
        let documents: TextDocuments = serde_json::from_str(request).unwrap();
        assert_eq!(serde_json::to_string(&documents).unwrap(), request);
        let answer = r#"{"documents":[{"id":"1","score":0.97}],"errors":[{"id":"2","message":"no"}]}"#;
        let scores: TextScores = serde_json::from_str(answer).unwrap();
        assert_eq!(serde_json::to_string(&scores).unwrap(), answer);
        let sparse: TextDocuments =
            serde_json::from_str(r#"{"documents":[{"id":7},{"id":null},{}]}"#).unwrap();
        let ids: Vec<_> = sparse.documents.unwrap().into_iter().map(|document| document.id).collect();
        assert_eq!(ids, [Some("7".to_owned()), None, None]);
    }
}
