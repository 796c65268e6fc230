//! An event as it waits for the hub, and as the hub gets it.

use std::{fs, sync::LazyLock};

use serde::{Deserialize, Serialize};
use shunt_hub::HubMessage;
use shunt_wire::{
    Envelope, Mono, Name,
    record::{self, RecordError},
};

/// An event that waits for the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) envelope: Envelope,
    /// When the relay had it, and on which run of the machine: the clock starts anew at each.
    received: Mono,
    boot: String,
}

/// What the relay notes on disk beside the event.
#[derive(Serialize, Deserialize)]
struct Notes {
    received: u64,
    boot: String,
}

/// The identity of this run of the machine; empty where there is none to be had.
static BOOT: LazyLock<String> = LazyLock::new(|| {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
});

// === impl Record ===

impl Record {
    pub(crate) fn new(envelope: Envelope, received: Mono) -> Self {
        Self { envelope, received, boot: BOOT.clone() }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let notes = Notes { received: self.received.as_nanos(), boot: self.boot.clone() };
        record::encode(&notes, &self.envelope)
    }

    pub(crate) fn decode(bytes: Vec<u8>) -> Result<Self, RecordError> {
        let (Notes { received, boot }, envelope) = record::decode(&bytes.into())?;
        Ok(Self { envelope, received: Mono::from_nanos(received), boot })
    }

    /// The message to the hub: the event's data as body, its attributes as application properties, so that routes
    /// and the cloud can use them. Closes the relay's own hop, unless the machine was started anew since: times of
    /// two runs cannot be compared.
    pub(crate) fn message(&self, output: &str, module: &Name, now: Mono) -> HubMessage {
        let mut envelope = self.envelope.clone();
        if self.boot == *BOOT
            && let Some(stamps) = &mut envelope.stamps
        {
            *stamps = stamps.follow(self.received);
            stamps.close(module, now);
        }
        let message = envelope.to_binary();
        let json = message.content_type.as_deref().is_some_and(is_json);
        let mut properties: std::collections::BTreeMap<_, _> = message.attributes.into_iter().collect();
        properties.insert("kind".to_owned(), envelope.kind.as_str().to_owned());
        HubMessage {
            output: Some(output.to_owned()),
            message_id: Some(envelope.id),
            // Exactly these two, or routes and the cloud's queries cannot read the body (`$.ct` and
            // `$.ce` in Azure/iotedge's SystemProperties.cs).
            content_type: if json { Some("application/json".to_owned()) } else { message.content_type },
            content_encoding: json.then(|| "utf-8".to_owned()),
            creation_time: None,
            properties,
            body: message.body,
        }
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use shunt_wire::{Kind, Stamps};

    use super::*;

    fn event() -> Envelope {
        let mut stamps = Stamps::captured(Mono::from_nanos(1_000));
        stamps.close(&Name::from_static("emotion"), Mono::from_nanos(5_000));
        Envelope::new("a-1", Kind::EMOTION, Name::from_static("front-door"), "2026-11-21T09:00:00Z")
            .with_subject("track-7")
            .with_stamps(stamps)
            .with_extension("zone", "north")
            .with_body("application/json", r#"{"emotion":"happiness","score":0.1000}"#)
    }

    /// Reading a closed event's stamps gives the same, so an event survives the disk whole.
    #[test]
    fn a_record_survives_the_disk_byte_for_byte() {
        let record = Record::new(event(), Mono::from_nanos(6_000));
        assert_eq!(Record::decode(record.encode().unwrap()).unwrap(), record);
    }

    #[test]
    fn the_hub_gets_the_data_as_body_and_the_attributes_as_properties() {
        let message = Record::new(event(), Mono::from_nanos(6_000)).message(
            "telemetry",
            &Name::from_static("relay"),
            Mono::from_nanos(9_000),
        );
        assert_eq!(message.output.as_deref(), Some("telemetry"));
        assert_eq!(message.message_id.as_deref(), Some("a-1"));
        assert_eq!(message.content_type.as_deref(), Some("application/json"));
        assert_eq!(message.content_encoding.as_deref(), Some("utf-8"));
        assert_eq!(message.body, r#"{"emotion":"happiness","score":0.1000}"#);
        let properties: Vec<_> =
            message.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            properties,
            [
                ("id", "a-1"),
                ("kind", "emotion"),
                ("shuntcapture", "1000"),
                ("shunthops", "emotion:0-4000,relay:5000-8000"),
                ("source", "shunt/front-door"),
                ("specversion", "1.0"),
                ("subject", "track-7"),
                ("time", "2026-11-21T09:00:00Z"),
                ("type", "shunt.emotion.v1"),
                ("zone", "north"),
            ]
        );
    }

    #[test]
    fn times_of_an_earlier_run_of_the_machine_are_not_mixed_with_those_of_this_one() {
        let mut record = Record::new(event(), Mono::from_nanos(6_000));
        record.boot = "another".to_owned();
        let message = record.message("telemetry", &Name::from_static("relay"), Mono::from_nanos(10));
        assert_eq!(message.properties["shunthops"], "emotion:0-4000");
    }

    #[test]
    fn bytes_that_are_no_record_are_refused() {
        let whole = Record::new(event(), Mono::from_nanos(1)).encode().unwrap();
        assert!(matches!(Record::decode(Vec::new()), Err(RecordError::CutOff)));
        assert!(matches!(Record::decode(vec![9; 40]), Err(RecordError::Version(9))));
        assert!(matches!(Record::decode(whole[..20].to_vec()), Err(RecordError::CutOff)));
        let mut wrong = whole;
        wrong[5] = b'x';
        assert!(matches!(Record::decode(wrong), Err(RecordError::Head(_))));
    }
}
