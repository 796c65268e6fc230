//! An event as rules see it, read once, and what of it was looked up already.

use std::cell::Cell;

use serde_json::{Map, Value};
use shunt_wire::Envelope;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::value::Val;

/// The largest data of an event that rules look at, in bytes: with it the work of an expression is bounded.
pub const MAX_DATA: usize = 64 * 1024;

/// An event as rules see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its topic: `shunt/<kind>/<source>`.
    pub topic: String,
    /// What it tells: `emotion`.
    pub kind: String,
    /// Who or what it is about.
    pub source: String,
    /// Its id.
    pub id: String,
    /// What of the source it is about; null where it says nothing.
    pub subject: Option<String>,
    /// When it happened: milliseconds since 1970 (UTC).
    pub time_ms: i64,
    /// Its data: JSON as it is, plain text as text, null for anything else.
    pub data: Value,
    /// Its extension attributes.
    pub extensions: Value,
}

/// Why rules cannot look at an event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// Not a time.
    #[error("its time {0:?} is not RFC 3339")]
    Time(String),
    /// More than rules look at.
    #[error("its data has {0} bytes, rules look at {MAX_DATA}")]
    TooLarge(usize),
    /// Its data is not what its type says.
    #[error("its data is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The line is no event.
    #[error(transparent)]
    Envelope(#[from] shunt_wire::EnvelopeError),
}

/// The fields of an event, apart from its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    Topic,
    Kind,
    Source,
    Id,
    Subject,
    Time,
    Extensions,
}

/// The ways into the data that the expressions of all rules go: each is gone once an event at most.
#[derive(Debug, Default)]
pub(crate) struct Paths(Vec<Vec<String>>);

/// One way into the data of one event.
#[derive(Debug, Clone, Copy)]
enum Slot<'a> {
    Unknown,
    Missing,
    There(&'a Value),
}

/// What an expression can see: an event, or the variables of a window.
#[derive(Debug)]
pub(crate) struct View<'a> {
    event: Option<&'a Event>,
    paths: &'a Paths,
    slots: Box<[Cell<Slot<'a>>]>,
    pub(crate) variables: Vec<Val<'a>>,
}

// === impl Event ===

impl Event {
    /// Reads an event of the bus.
    pub fn read(envelope: &Envelope) -> Result<Self, EventError> {
        let time = OffsetDateTime::parse(&envelope.time, &Rfc3339)
            .map_err(|_| EventError::Time(envelope.time.clone()))?;
        let data = match &envelope.body {
            None => Value::Null,
            Some(body) => {
                let json = body.content_type.contains("json");
                let text = body.content_type.starts_with("text/plain");
                if (json || text) && body.bytes.len() > MAX_DATA {
                    return Err(EventError::TooLarge(body.bytes.len()));
                }
                if json {
                    serde_json::from_slice(&body.bytes)?
                } else if text {
                    Value::String(String::from_utf8_lossy(&body.bytes).into_owned())
                } else {
                    Value::Null
                }
            }
        };
        let extensions: Map<String, Value> = envelope
            .extensions
            .iter()
            .map(|(name, value)| (name.clone(), Value::String(value.clone())))
            .collect();
        Ok(Self {
            topic: envelope.topic().to_string(),
            kind: envelope.kind.as_str().to_owned(),
            source: envelope.source.as_str().to_owned(),
            id: envelope.id.clone(),
            subject: envelope.subject.clone(),
            time_ms: (time.unix_timestamp_nanos() / 1_000_000) as i64,
            data,
            extensions: Value::Object(extensions),
        })
    }

    /// Reads an event in structured mode, as `shunt tail --bus --json` prints it.
    pub fn read_line(line: &str) -> Result<Self, EventError> {
        Self::read(&Envelope::from_structured(line.as_bytes())?)
    }

    fn attribute(&self, attribute: Attribute) -> Val<'_> {
        match attribute {
            Attribute::Topic => Val::Text(&self.topic),
            Attribute::Kind => Val::Text(&self.kind),
            Attribute::Source => Val::Text(&self.source),
            Attribute::Id => Val::Text(&self.id),
            Attribute::Subject => self.subject.as_deref().map_or(Val::Null, Val::Text),
            Attribute::Time => Val::Double(self.time_ms as f64 / 1_000.0),
            Attribute::Extensions => Val::Json(&self.extensions),
        }
    }
}

// === impl Attribute ===

impl Attribute {
    pub(crate) const NAMES: [(&'static str, Self); 7] = [
        ("topic", Self::Topic),
        ("kind", Self::Kind),
        ("source", Self::Source),
        ("id", Self::Id),
        ("subject", Self::Subject),
        ("time", Self::Time),
        ("extensions", Self::Extensions),
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, attribute)| *attribute)
    }
}

// === impl Paths ===

impl Paths {
    /// The number of this way; a new one is remembered.
    pub(crate) fn number(&mut self, path: &[String]) -> usize {
        if let Some(known) = self.0.iter().position(|known| known == path) {
            return known;
        }
        self.0.push(path.to_vec());
        self.0.len() - 1
    }

    /// The names along a way.
    pub(crate) fn names(&self, number: usize) -> &[String] {
        self.0.get(number).map(Vec::as_slice).unwrap_or_default()
    }
}

// === impl View ===

impl<'a> View<'a> {
    /// Of an event.
    pub(crate) fn of_event(event: &'a Event, paths: &'a Paths) -> Self {
        let slots = vec![Cell::new(Slot::Unknown); paths.0.len()].into_boxed_slice();
        Self { event: Some(event), paths, slots, variables: Vec::new() }
    }

    /// Of a window: its variables only.
    pub(crate) fn of_variables(variables: Vec<Val<'a>>, paths: &'a Paths) -> Self {
        Self { event: None, paths, slots: Box::default(), variables }
    }

    pub(crate) fn attribute(&self, attribute: Attribute) -> Val<'a> {
        self.event.map_or(Val::Null, |event| event.attribute(attribute))
    }

    /// Where the way leads to, or the name at which it ends too early.
    pub(crate) fn look_up(&self, path: usize) -> Result<&'a Value, &'a str> {
        let slot = self.slots.get(path).map_or(Slot::Missing, Cell::get);
        match slot {
            Slot::There(value) => Ok(value),
            Slot::Missing => Err(self.missing(path)),
            Slot::Unknown => {
                let Some(event) = self.event else { return Err("data") };
                let names = self.paths.names(path);
                let found = names.iter().try_fold(&event.data, |value, name| value.as_object()?.get(name));
                if let Some(slot) = self.slots.get(path) {
                    slot.set(found.map_or(Slot::Missing, Slot::There));
                }
                found.ok_or_else(|| self.missing(path))
            }
        }
    }

    /// Is something at the end of the way? An error, the name, where it ends before its last step.
    pub(crate) fn has(&self, path: usize) -> Result<bool, &'a str> {
        match self.look_up(path) {
            Ok(_) => Ok(true),
            Err(name) => match self.paths.names(path) {
                [.., _] if self.ends_early(path) => Err(name),
                _ => Ok(false),
            },
        }
    }

    /// Ends the way before its last step?
    fn ends_early(&self, path: usize) -> bool {
        let names = self.paths.names(path);
        let before = names.get(..names.len().saturating_sub(1)).unwrap_or_default();
        let data = self.event.map(|event| &event.data);
        let parent = before.iter().try_fold(data, |value, name| Some(value?.as_object()?.get(name)));
        !matches!(parent, Some(Some(Value::Object(_))))
    }

    fn missing(&self, path: usize) -> &'a str {
        let mut value = self.event.map(|event| &event.data);
        for name in self.paths.names(path) {
            value = value.and_then(|value| value.as_object()?.get(name));
            if value.is_none() {
                return name;
            }
        }
        "data"
    }
}
