//! The retained event that says whether a module is there.

use shunt_wire::{Envelope, Kind, events::Presence};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{link::Common, message::Message};

/// The message that says that the module is there, or not; nothing if the module does not tell.
pub(crate) fn message(common: &Common, online: bool) -> Option<Message> {
    let presence = Presence { online, ..common.presence.clone()? };
    let now = OffsetDateTime::now_utc().format(&Rfc3339).ok()?;
    let id = format!("{:016x}", rand::random::<u64>());
    let envelope = Envelope::new(id, Kind::PRESENCE, common.module.clone(), now).with_json(&presence).ok()?;
    Message::new(&envelope, true, common.max_message).ok()
}
