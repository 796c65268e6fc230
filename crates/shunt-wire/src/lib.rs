//! The vocabulary of Shunt: what an event looks like, what it is called and where it travels.
//!
//! - [`Envelope`]: a `CloudEvents` 1.0 event, in the binary mode that MQTT v5 carries and in the structured
//!   JSON mode that Redis carries.
//! - [`Topic`], [`TopicFilter`], [`Kind`], [`Name`]: the names of topics, checked where they are made.
//! - [`Stamps`]: capture time and hops of an event on the machine's monotonic clock, so that anybody who holds
//!   an event can say where its time went.
//! - [`events`]: the data of each kind of event.
//! - [`record`]: an event as bytes on disk.
//! - [`seed`]: the wire formats of the systems that Shunt replaces, kept byte for byte.
//!
//! This crate does no I/O: it reads no clock, no file and no socket.
//!
//! ```
//! use shunt_wire::{Envelope, Kind, Mono, Name, Stamps, Topic};
//!
//! let source: Name = "front-door".parse()?;
//! let mut stamps = Stamps::captured(Mono::from_nanos(1_000));
//! // The bus does this when the event is published.
//! stamps.close(&"inference".parse()?, Mono::from_nanos(1_500));
//! let envelope = Envelope::new("7f3a-1", Kind::LABEL, source.clone(), "2026-11-21T09:00:00Z")
//!     .with_stamps(stamps)
//!     .with_json(&serde_json::json!({"label": "cat"}))?;
//! let message = envelope.to_binary();
//! assert_eq!(Envelope::from_binary(message.content_type.as_deref(), &message.attributes, message.body)?, envelope);
//! assert_eq!(Topic::new(Kind::LABEL, source).to_string(), "shunt/label/front-door");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod envelope;
pub mod events;
pub mod record;
pub mod seed;
mod stamps;
mod topic;

pub use envelope::{BinaryMessage, Body, Envelope, EnvelopeError, IdSequence};
pub use stamps::{Hop, Mono, Stamps, StampsError};
pub use topic::{Kind, Name, NameError, Topic, TopicError, TopicFilter};
