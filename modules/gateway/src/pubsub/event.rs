//! A `CloudEvent` of Dapr's users, and how it travels in an envelope of ours.
//!
//! Our envelope fixes type (`shunt.<kind>.v1`) and source (`shunt/<source>`); those of the user travel as the
//! extensions `daprtype` and `daprsource`. Attributes that no broker would take (a number, a name with a dash, a text
//! with a line break) travel together as JSON in the extension `daprattributes`. Reading gives back what was written.

use std::fmt::Write as _;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value, value::RawValue};
use shunt_bus::clock;
use shunt_wire::{Body, Envelope, Stamps, Topic};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// The type of an event that the user gave none.
pub(crate) const TYPE: &str = "com.dapr.event.sent";
/// The content type of a `CloudEvent` in its JSON form.
pub(crate) const CLOUD_EVENT: &str = "application/cloudevents+json";
/// The largest data that conditions of routes look at, in bytes.
const LARGEST_LOOKED_AT: usize = 64 * 1024;
/// How often an event was given up by a subscriber already.
const HOPS: &str = "deadletterhops";
/// Why it was given up the last time.
const REASON: &str = "deadletterreason";
const TYPE_OF_USER: &str = "daprtype";
const SOURCE_OF_USER: &str = "daprsource";
const ATTRIBUTES: &str = "daprattributes";
const EXPIRATION: &str = "expiration";
/// What the gateway itself writes into each event that it delivers, or what is no plain attribute.
const WRITTEN: [&str; 13] = [
    "specversion",
    "id",
    "type",
    "source",
    "time",
    "subject",
    "datacontenttype",
    "data",
    "data_base64",
    "topic",
    "pubsubname",
    "traceid",
    "traceparent",
];

/// An event as Dapr's users see it.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_field_names, reason = "`type` is a word of the language")]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(crate) time: String,
    pub(crate) subject: Option<String>,
    pub(crate) traceparent: Option<String>,
    /// All other attributes.
    pub(crate) attributes: Map<String, Value>,
    pub(crate) data: Option<Body>,
}

/// Why a text is not a `CloudEvent`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventError {
    #[error("the CloudEvent is not a JSON object: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the CloudEvent's attribute {attribute:?} {rule}")]
    Attribute { attribute: String, rule: &'static str },
}

/// The parts of a `CloudEvent` whose bytes are kept as they came.
#[derive(Debug, serde::Deserialize)]
struct Data {
    data: Option<Box<RawValue>>,
}

// === impl Event ===

impl Event {
    /// An event around data that is none. Without a content type data is text, as in Dapr.
    pub(crate) fn around(content_type: Option<&str>, data: Bytes, source: &str) -> Self {
        let content_type = content_type.filter(|text| !text.is_empty()).unwrap_or("text/plain").to_owned();
        Self {
            id: Uuid::new_v4().to_string(),
            event_type: TYPE.to_owned(),
            source: source.to_owned(),
            time: now(),
            subject: None,
            traceparent: None,
            attributes: Map::new(),
            data: Some(Body { content_type, bytes: data }),
        }
    }

    /// The user's own event. What is not there is filled in, as Dapr does.
    pub(crate) fn read(text: &[u8], source: &str) -> Result<Self, EventError> {
        let wrong = |attribute: &str, rule| EventError::Attribute { attribute: attribute.to_owned(), rule };
        let mut fields: Map<String, Value> = serde_json::from_slice(text)?;
        let mut take = |name: &str| match fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Err(wrong(name, "may not be empty")),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name, "must be a text")),
        };
        if take("specversion")?.is_some_and(|version| version != "1.0") {
            return Err(wrong("specversion", "must be 1.0"));
        }
        let time = take("time")?.unwrap_or_else(now);
        if OffsetDateTime::parse(&time, &Rfc3339).is_err() {
            return Err(wrong("time", "must be RFC 3339"));
        }
        let traceid = take("traceid")?;
        let content_type = take("datacontenttype")?;
        let base64 = take("data_base64")?;
        let event = Self {
            id: take("id")?.unwrap_or_else(|| Uuid::new_v4().to_string()),
            event_type: take("type")?.unwrap_or_else(|| TYPE.to_owned()),
            source: take("source")?.unwrap_or_else(|| source.to_owned()),
            subject: take("subject")?,
            traceparent: take("traceparent")?.or(traceid),
            data: None,
            time,
            attributes: Map::new(),
        };
        let content_type = content_type.unwrap_or_else(|| "application/json".to_owned());
        let bytes = match (serde_json::from_slice::<Data>(text)?.data, base64) {
            (Some(_), Some(_)) => return Err(wrong("data_base64", "may not be there beside data")),
            (None, None) => None,
            (None, Some(base64)) => {
                let bytes = BASE64_STANDARD.decode(base64);
                Some(Bytes::from(bytes.map_err(|_| wrong("data_base64", "is not base64"))?))
            }
            (Some(data), None) => match serde_json::from_str(data.get())? {
                Value::String(text) if !is_json(&content_type) => Some(Bytes::from(text)),
                _ => Some(Bytes::from(data.get().to_owned())),
            },
        };
        let hops = fields.get(HOPS).and_then(Value::as_str);
        if hops.is_some_and(|hops| hops.parse::<u16>().is_err()) {
            return Err(wrong(HOPS, "must be a number up to 65535"));
        }
        fields.retain(|name, value| !WRITTEN.contains(&name.as_str()) && !value.is_null());
        let data = bytes.map(|bytes| Body { content_type, bytes });
        Ok(Self { attributes: fields, data, ..event })
    }

    /// The event in an envelope, on this topic.
    pub(crate) fn envelope(self, topic: &Topic) -> Envelope {
        let mut envelope = Envelope::new(self.id, topic.kind().clone(), topic.source().clone(), self.time)
            .with_stamps(Stamps::captured(clock::now()))
            .with_extension(TYPE_OF_USER, self.event_type)
            .with_extension(SOURCE_OF_USER, self.source);
        envelope.subject = self.subject;
        envelope.traceparent = self.traceparent;
        envelope.body = self.data;
        let mut rest = Map::new();
        for (name, value) in self.attributes {
            match value {
                Value::String(text) if is_plain(&name, &text) => envelope.extensions.push((name, text)),
                value => {
                    rest.insert(name, value);
                }
            }
        }
        if !rest.is_empty() {
            envelope.extensions.push((ATTRIBUTES.to_owned(), ascii(&Value::Object(rest).to_string())));
        }
        envelope
    }

    /// The event of an envelope, also of one that no user of Dapr wrote.
    pub(crate) fn of(envelope: &Envelope) -> Self {
        let mut event = Self {
            id: envelope.id.clone(),
            event_type: envelope.kind.event_type(),
            source: format!("shunt/{}", envelope.source),
            time: envelope.time.clone(),
            subject: envelope.subject.clone(),
            traceparent: envelope.traceparent.clone(),
            attributes: Map::new(),
            data: envelope.body.clone(),
        };
        for (name, value) in &envelope.extensions {
            match name.as_str() {
                TYPE_OF_USER => event.event_type.clone_from(value),
                SOURCE_OF_USER => event.source.clone_from(value),
                ATTRIBUTES => {
                    let rest = serde_json::from_str::<Map<String, Value>>(value).unwrap_or_default();
                    event.attributes.extend(rest);
                }
                name if WRITTEN.contains(&name) => {}
                name => {
                    event.attributes.insert(name.to_owned(), Value::String(value.clone()));
                }
            }
        }
        event
    }

    /// The event as an app gets it, with Dapr's fields.
    pub(crate) fn written(&self, pubsub: &str, topic: &str) -> String {
        let trace = self.traceparent.clone().unwrap_or_default();
        let mut fields = Map::new();
        for (name, value) in [
            ("id", &self.id),
            ("source", &self.source),
            ("type", &self.event_type),
            ("time", &self.time),
            ("pubsubname", &pubsub.to_owned()),
            ("topic", &topic.to_owned()),
            ("traceid", &trace),
            ("traceparent", &trace),
        ] {
            fields.insert(name.to_owned(), Value::String(value.clone()));
        }
        fields.insert("specversion".to_owned(), Value::String("1.0".to_owned()));
        fields.insert("tracestate".to_owned(), Value::String(String::new()));
        if let Some(subject) = &self.subject {
            fields.insert("subject".to_owned(), Value::String(subject.clone()));
        }
        fields.extend(self.attributes.clone());
        let Some(Body { content_type, bytes }) = &self.data else {
            return Value::Object(fields).to_string();
        };
        fields.insert("datacontenttype".to_owned(), Value::String(content_type.clone()));
        let mut written = Value::Object(fields).to_string();
        // The data follows as it came, before the closing brace.
        written.pop();
        let (name, data) = data_field(content_type, bytes);
        write!(written, ",\"{name}\":{data}}}").ok();
        written
    }

    /// The bare data as an app gets it that subscribed with `rawPayload`.
    pub(crate) fn written_raw(&self, pubsub: &str, topic: &str) -> String {
        let bytes = self.data.as_ref().map(|data| data.bytes.clone()).unwrap_or_default();
        serde_json::json!({
            "id": self.id,
            "specversion": "1.0",
            "datacontenttype": "application/octet-stream",
            "source": "Dapr",
            "type": TYPE,
            "topic": topic,
            "pubsubname": pubsub,
            "data_base64": BASE64_STANDARD.encode(bytes),
        })
        .to_string()
    }

    /// The event as JSON, for the conditions of routes; without its data where that is large.
    pub(crate) fn fields(&self, pubsub: &str, topic: &str) -> Value {
        if self.data.as_ref().is_some_and(|data| data.bytes.len() > LARGEST_LOOKED_AT) {
            let bare = Self { data: None, ..self.clone() };
            return bare.fields(pubsub, topic);
        }
        serde_json::from_str(&self.written(pubsub, topic)).unwrap_or(Value::Null)
    }

    /// From when on nobody shall get it any more.
    pub(crate) fn expire_after(&mut self, seconds: i64) {
        let end = OffsetDateTime::now_utc().checked_add(time::Duration::seconds(seconds));
        if let Some(end) = end.and_then(|end| end.format(&Rfc3339).ok()) {
            self.attributes.insert(EXPIRATION.to_owned(), Value::String(end));
        }
    }

    /// Is its time over?
    pub(crate) fn has_expired(&self) -> bool {
        let end = self.attributes.get(EXPIRATION).and_then(Value::as_str);
        let end = end.and_then(|end| OffsetDateTime::parse(end, &Rfc3339).ok());
        end.is_some_and(|end| end < OffsetDateTime::now_utc())
    }

    /// How often it was given up already.
    pub(crate) fn hops(&self) -> u32 {
        let hops = self.attributes.get(HOPS).and_then(Value::as_str);
        hops.and_then(|hops| hops.parse().ok()).unwrap_or(0)
    }

    /// The same, given up once more for this reason.
    pub(crate) fn given_up(mut self, reason: &str) -> Self {
        let hops = self.hops().saturating_add(1);
        self.attributes.insert(HOPS.to_owned(), Value::String(hops.to_string()));
        self.attributes.insert(REASON.to_owned(), Value::String(reason.chars().take(500).collect()));
        self
    }
}

/// `application/json` or any `+json`, with or without parameters.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence == "application/json" || essence.ends_with("+json")
}

/// Is that a `CloudEvent`?
pub(crate) fn is_cloud_event(content_type: &str) -> bool {
    essence(content_type) == CLOUD_EVENT
}

/// Does Dapr take it for bytes?
pub(crate) fn is_binary(content_type: &str) -> bool {
    essence(content_type) == "application/octet-stream"
}

fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The name of the field for this data, and its JSON.
fn data_field(content_type: &str, bytes: &[u8]) -> (&'static str, String) {
    let quoted = |text: &str| Value::String(text.to_owned()).to_string();
    match std::str::from_utf8(bytes) {
        Ok(text) if is_json(content_type) && serde_json::from_str::<&RawValue>(text).is_ok() => {
            ("data", text.to_owned())
        }
        Ok(text) if !is_binary(content_type) => ("data", quoted(text)),
        _ => ("data_base64", quoted(&BASE64_STANDARD.encode(bytes))),
    }
}

/// Can that travel as an attribute of its own?
fn is_plain(name: &str, text: &str) -> bool {
    let own = name.starts_with("shunt") || matches!(name, TYPE_OF_USER | SOURCE_OF_USER | ATTRIBUTES);
    let sound = (1..=20).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    sound && !own && text.chars().all(|character| matches!(character, ' '..='~'))
}

/// The same JSON in visible ASCII.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if matches!(character, ' '..='~') {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                write!(text, "\\u{unit:04x}").ok();
            }
        }
    }
    text
}

fn now() -> String {
    // Fails only beyond the year 9999.
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn round_trip(event: Event) -> Value {
        let topic: Topic = "shunt/orders/shop".parse().unwrap();
        let message = event.envelope(&topic).to_binary();
        for (name, value) in &message.attributes {
            assert!(value.is_ascii() && !value.contains('\n'), "{name} is {value:?}");
        }
        let back = Envelope::from_binary(message.content_type.as_deref(), &message.attributes, message.body);
        serde_json::from_str(&Event::of(&back.unwrap()).written("pubsub", "orders")).unwrap()
    }

    #[test]
    fn a_users_event_comes_back_as_it_was() {
        let own = json!({
            "specversion": "1.0", "id": "a\u{7}1", "type": "com.shop.order", "source": "https://shop/orders?x=1",
            "subject": "north", "time": "2026-11-21T09:00:00.5+01:00", "datacontenttype": "application/json",
            "traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
            "comexampleextension": "plain", "number": 7, "flag": true, "with-dash": "x", "umlaut": "Ä\n",
            "shuntcapture": "mine", "daprtype": "trick", "data": {"n": 12_345_678_901_234_567_890_u64},
        });
        let mut event = Event::read(own.to_string().as_bytes(), "gateway").unwrap();
        event.id = "a1".to_owned();
        let delivered = round_trip(event);
        for (name, value) in own.as_object().unwrap() {
            if name != "id" {
                assert_eq!(&delivered[name], value, "{name}");
            }
        }
        assert_eq!((&delivered["topic"], &delivered["pubsubname"]), (&json!("orders"), &json!("pubsub")));
        assert_eq!(delivered["traceid"], own["traceparent"]);
    }

    #[test]
    fn data_is_written_as_its_content_type_says() {
        let check = |content_type: Option<&str>, bytes: &[u8], name: &str, expected: Value| {
            let event = Event::around(content_type, Bytes::copy_from_slice(bytes), "shop");
            let delivered = round_trip(event);
            assert_eq!(delivered[name], expected, "{content_type:?} {bytes:?}");
            assert_eq!(delivered["datacontenttype"], content_type.unwrap_or("text/plain"));
            assert_eq!((&delivered["type"], &delivered["source"]), (&json!(TYPE), &json!("shop")));
        };
        check(None, b"hello", "data", json!("hello"));
        check(Some("application/json"), br#"{"a": 1.0}"#, "data", json!({"a": 1.0}));
        check(Some("application/json"), b"no json", "data", json!("no json"));
        check(Some("text/plain; charset=utf-8"), b"a", "data", json!("a"));
        check(Some("application/octet-stream"), b"a", "data_base64", json!("YQ=="));
        check(Some("image/png"), &[0x89, 0xff], "data_base64", json!("if8="));
        check(Some("application/problem+json"), b"7", "data", json!(7));
    }

    #[test]
    fn what_is_no_cloud_event_is_refused() {
        for text in [
            "",
            "[]",
            "7",
            r#"{"id": 7}"#,
            r#"{"id": ""}"#,
            r#"{"specversion": "0.3"}"#,
            r#"{"time": "yesterday"}"#,
            r#"{"data_base64": "%"}"#,
            r#"{"data": 1, "data_base64": "YQ=="}"#,
            r#"{"type": {}}"#,
            r#"{"id": "x""#,
        ] {
            assert!(Event::read(text.as_bytes(), "gateway").is_err(), "{text}");
        }
    }

    #[test]
    fn events_end_when_their_time_is_over() {
        let mut event = Event::around(None, Bytes::new(), "shop");
        assert!(!event.has_expired());
        event.expire_after(-1);
        assert!(event.has_expired());
        event.expire_after(60);
        assert!(!event.has_expired());
    }

    #[test]
    fn giving_up_is_counted_in_the_event_itself() {
        let event = Event::around(None, Bytes::new(), "shop").given_up("500").given_up("no answer");
        assert_eq!(event.hops(), 2);
        let topic: Topic = "shunt/orders/shop".parse().unwrap();
        assert_eq!(Event::of(&event.envelope(&topic)).hops(), 2);
    }

    #[test]
    fn no_publisher_can_count_beyond_the_end() {
        let most = u32::MAX.to_string();
        let told = serde_json::json!({"data": 1, "deadletterhops": most}).to_string();
        assert!(Event::read(told.as_bytes(), "shop").is_err());
        // What comes from the bus may hold it all the same.
        let mut event = Event::around(None, Bytes::new(), "shop");
        event.attributes.insert(HOPS.to_owned(), Value::String(most));
        assert_eq!(event.given_up("500").hops(), u32::MAX);
    }
}
