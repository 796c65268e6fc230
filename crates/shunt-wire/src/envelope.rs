//! The `CloudEvents` 1.0 envelope of every event.
//!
//! Sources: the `CloudEvents` specification 1.0.2, its MQTT protocol binding 1.0.2 (binary mode: attributes as
//! user properties of the same name, `datacontenttype` as the `content-type` property; structured mode: content
//! type `application/cloudevents+json`) and its JSON event format 1.0.2.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Kind, Name, Stamps, StampsError, Topic};

/// The extension attribute that holds the capture time, in nanoseconds on the machine's monotonic clock.
const CAPTURE: &str = "shuntcapture";
/// The extension attribute that holds the hops, see [`Stamps::hops_text`].
const HOPS: &str = "shunthops";
/// The content type of the structured mode.
const STRUCTURED: &str = "application/cloudevents+json";
/// The content type of JSON data.
const JSON: &str = "application/json";
/// The source prefix: an event's `source` is `shunt/<source>`, a URI reference as `CloudEvents` wants it.
const SOURCE: &str = "shunt/";

/// The data of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// What the bytes are, for example `application/json` or `image/jpeg`.
    pub content_type: String,
    /// The bytes.
    pub bytes: Bytes,
}

/// A `CloudEvents` 1.0 event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Unique together with the source.
    pub id: String,
    /// What the event tells; its `type` is `shunt.<kind>.v1`.
    pub kind: Kind,
    /// Who or what it is about; its `source` is `shunt/<source>`.
    pub source: Name,
    /// When it happened, RFC 3339 in UTC.
    pub time: String,
    /// What of the source it is about, for example a track.
    pub subject: Option<String>,
    /// W3C trace context, the `traceparent` extension.
    pub traceparent: Option<String>,
    /// Capture time and hops.
    pub stamps: Option<Stamps>,
    /// Further extension attributes, in the order they came: lower-case letters and digits, 20 at most.
    pub extensions: Vec<(String, String)>,
    /// The data.
    pub body: Option<Body>,
}

/// An envelope in `CloudEvents` binary mode: what MQTT v5 carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinaryMessage {
    /// The `content-type` property.
    pub content_type: Option<String>,
    /// The user properties.
    pub attributes: Vec<(String, String)>,
    /// The payload.
    pub body: Bytes,
}

/// Why a message is not an envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// An attribute that every event must have is missing.
    #[error("the event has no attribute {0:?}")]
    Missing(&'static str),
    /// An attribute has a value that is not allowed.
    #[error("the event's attribute {attribute:?} is {value:?}, but {rule}")]
    Attribute {
        /// Its name.
        attribute: String,
        /// Its value, shortened.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// The stamps cannot be read.
    #[error("the event's stamps cannot be read: {0}")]
    Stamps(#[from] StampsError),
    /// The structured form is not JSON, or the data is not what its type promises.
    #[error("the event is not readable JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// `data_base64` is not base64.
    #[error("the event's data_base64 is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// The caller wants JSON data, the event has none.
    #[error("the event has no JSON data but {0}")]
    NotJson(String),
}

// === impl EnvelopeError ===

impl EnvelopeError {
    fn attribute(attribute: &str, value: &str, rule: &'static str) -> Self {
        let value = value.chars().take(80).collect();
        Self::Attribute { attribute: attribute.to_owned(), value, rule }
    }
}

// === impl Envelope ===

impl Envelope {
    /// An event without data. `time` is RFC 3339.
    pub fn new(id: impl Into<String>, kind: Kind, source: Name, time: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            kind,
            source,
            time: time.into(),
            subject: None,
            traceparent: None,
            stamps: None,
            extensions: Vec::new(),
            body: None,
        }
    }

    /// The same event with these stamps.
    #[must_use]
    pub fn with_stamps(mut self, stamps: Stamps) -> Self {
        self.stamps = Some(stamps);
        self
    }

    /// The same event about this subject.
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// The same event with one extension attribute more.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers hand over a number or a text as they have it")]
    pub fn with_extension(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.extensions.push((name.into(), value.to_string()));
        self
    }

    /// The same event with this data.
    #[must_use]
    pub fn with_body(mut self, content_type: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        self.body = Some(Body { content_type: content_type.into(), bytes: bytes.into() });
        self
    }

    /// The same event with this data, as JSON.
    pub fn with_json(self, data: &impl Serialize) -> Result<Self, EnvelopeError> {
        Ok(self.with_body(JSON, serde_json::to_vec(data)?))
    }

    /// The topic it travels on.
    pub fn topic(&self) -> Topic {
        Topic::new(self.kind.clone(), self.source.clone())
    }

    /// The value of an extension attribute.
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extensions.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The data, read as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, EnvelopeError> {
        match &self.body {
            Some(body) if is_json(&body.content_type) => Ok(serde_json::from_slice(&body.bytes)?),
            Some(body) => Err(EnvelopeError::NotJson(body.content_type.clone())),
            None => Err(EnvelopeError::NotJson("nothing".to_owned())),
        }
    }

    /// The context attributes, `datacontenttype` left out, in the order they are written.
    fn attributes(&self) -> Vec<(String, String)> {
        let mut attributes = vec![
            ("specversion".to_owned(), "1.0".to_owned()),
            ("id".to_owned(), self.id.clone()),
            ("type".to_owned(), self.kind.event_type()),
            ("source".to_owned(), format!("{SOURCE}{}", self.source)),
            ("time".to_owned(), self.time.clone()),
        ];
        let mut add = |name: &str, value: String| attributes.push((name.to_owned(), value));
        if let Some(subject) = &self.subject {
            add("subject", subject.clone());
        }
        if let Some(traceparent) = &self.traceparent {
            add("traceparent", traceparent.clone());
        }
        if let Some(stamps) = &self.stamps {
            add(CAPTURE, stamps.capture().to_string());
            add(HOPS, stamps.hops_text());
        }
        attributes.extend(self.extensions.iter().cloned());
        attributes
    }

    /// The event in binary mode.
    pub fn to_binary(&self) -> BinaryMessage {
        let (content_type, body) = match &self.body {
            Some(body) => (Some(body.content_type.clone()), body.bytes.clone()),
            None => (None, Bytes::new()),
        };
        BinaryMessage { content_type, attributes: self.attributes(), body }
    }

    /// Reads an event in binary mode, or in structured mode where the content type says so.
    pub fn from_binary<K: AsRef<str>, V: AsRef<str>>(
        content_type: Option<&str>,
        attributes: &[(K, V)],
        body: Bytes,
    ) -> Result<Self, EnvelopeError> {
        if content_type.is_some_and(|content_type| content_type.starts_with(STRUCTURED)) {
            return Self::from_structured(&body);
        }
        let body = match content_type {
            Some(content_type) => Some(Body { content_type: content_type.to_owned(), bytes: body }),
            None if body.is_empty() => None,
            // CloudEvents 1.0.2, section 3.1.1: data without a type is taken for JSON.
            None => Some(Body { content_type: JSON.to_owned(), bytes: body }),
        };
        let attributes = attributes.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        Self::from_attributes(attributes, body)
    }

    /// The event in structured mode: the JSON event format.
    pub fn to_structured(&self) -> Result<Vec<u8>, EnvelopeError> {
        let mut event = Map::new();
        for (name, value) in self.attributes() {
            event.insert(name, Value::String(value));
        }
        if let Some(body) = &self.body {
            event.insert("datacontenttype".to_owned(), Value::String(body.content_type.clone()));
            if is_json(&body.content_type) {
                event.insert("data".to_owned(), serde_json::from_slice(&body.bytes)?);
            } else {
                event.insert("data_base64".to_owned(), Value::String(BASE64_STANDARD.encode(&body.bytes)));
            }
        }
        Ok(serde_json::to_vec(&event)?)
    }

    /// Reads an event in structured mode. Bytes of JSON data come back in compact form.
    pub fn from_structured(text: &[u8]) -> Result<Self, EnvelopeError> {
        let mut event: Map<String, Value> = serde_json::from_slice(text)?;
        let (data, base64) = (event.remove("data"), event.remove("data_base64"));
        let content_type = match event.remove("datacontenttype") {
            Some(Value::String(content_type)) => Some(content_type),
            None | Some(Value::Null) => None,
            Some(other) => {
                return Err(EnvelopeError::attribute(
                    "datacontenttype",
                    &other.to_string(),
                    "it must be a text",
                ));
            }
        };
        let content_type = content_type.unwrap_or_else(|| JSON.to_owned());
        let bytes = match (data, base64) {
            (None | Some(Value::Null), None) => None,
            (_, Some(Value::String(base64))) => Some(Bytes::from(BASE64_STANDARD.decode(base64)?)),
            (_, Some(other)) => {
                return Err(EnvelopeError::attribute("data_base64", &other.to_string(), "it must be a text"));
            }
            (Some(Value::String(text)), None) if !is_json(&content_type) => Some(Bytes::from(text)),
            (Some(data), None) => Some(Bytes::from(serde_json::to_vec(&data)?)),
        };
        let body = bytes.map(|bytes| Body { content_type, bytes });
        let attributes = event
            .into_iter()
            .filter_map(|(name, value)| match value {
                Value::Null => None,
                Value::String(value) => Some((name, value)),
                other => Some((name, other.to_string())),
            })
            .collect::<Vec<_>>();
        Self::from_attributes(attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())), body)
    }

    fn from_attributes<'a>(
        attributes: impl Iterator<Item = (&'a str, &'a str)>,
        body: Option<Body>,
    ) -> Result<Self, EnvelopeError> {
        let (mut id, mut kind, mut source, mut time, mut version) = (None, None, None, None, None);
        let (mut subject, mut traceparent, mut capture, mut hops) = (None, None, None, None);
        let mut extensions = Vec::new();
        for (name, value) in attributes {
            match name {
                "specversion" => version = Some(value),
                "id" => id = Some(value),
                "type" => kind = Some(value),
                "source" => source = Some(value),
                "time" => time = Some(value),
                "subject" => subject = Some(value.to_owned()),
                "traceparent" => traceparent = Some(value.to_owned()),
                CAPTURE => capture = Some(value),
                HOPS => hops = Some(value),
                "data" | "datacontenttype" => {
                    let rule = "no attribute may have this name: it is that of the data or its type";
                    return Err(EnvelopeError::attribute(name, value, rule));
                }
                _ => {
                    let sound = (1..=20).contains(&name.len())
                        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
                    if !sound {
                        let rule = "an attribute's name is made of lower-case letters and digits, 20 at most";
                        return Err(EnvelopeError::attribute(name, value, rule));
                    }
                    extensions.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        let need = |value: Option<&'a str>, name| value.ok_or(EnvelopeError::Missing(name));
        let version = need(version, "specversion")?;
        if version != "1.0" {
            return Err(EnvelopeError::attribute("specversion", version, "only 1.0 is understood"));
        }
        let id = need(id, "id")?;
        if id.is_empty() {
            return Err(EnvelopeError::attribute("id", id, "it may not be empty"));
        }
        let kind = need(kind, "type")?;
        let kind = Kind::from_event_type(kind)
            .ok_or_else(|| EnvelopeError::attribute("type", kind, "it must be shunt.<kind>.v1"))?;
        let source = need(source, "source")?;
        let source = source.strip_prefix(SOURCE).and_then(|name| name.parse().ok()).ok_or_else(|| {
            EnvelopeError::attribute("source", source, "it must be shunt/<source> with a name of ours")
        })?;
        let time = need(time, "time")?;
        if OffsetDateTime::parse(time, &Rfc3339).is_err() {
            return Err(EnvelopeError::attribute("time", time, "it must be RFC 3339"));
        }
        let stamps = capture.map(|capture| Stamps::parse(capture, hops.unwrap_or_default())).transpose()?;
        Ok(Self {
            id: id.to_owned(),
            kind,
            source,
            time: time.to_owned(),
            subject,
            traceparent,
            stamps,
            extensions,
            body,
        })
    }
}

/// Is that JSON? `application/json` or any `+json`, with or without parameters.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(JSON) || essence.to_ascii_lowercase().ends_with("+json")
}

/// Event ids of one process: a prefix that no other process has, and a running number.
///
/// The number lets a reader see what is missing; the prefix is chosen by the caller, who can draw one by chance.
#[derive(Debug)]
pub struct IdSequence {
    prefix: String,
    next: AtomicU64,
}

// === impl IdSequence ===

impl IdSequence {
    /// Ids `<prefix>-1`, `<prefix>-2`, ...
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), next: AtomicU64::new(1) }
    }

    /// The next id.
    pub fn next_id(&self) -> String {
        format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}
