//! Packets, where `rumqttc`'s do not suffice.

use bytes::{BufMut, Bytes, BytesMut};
use rumqttc::v5::mqttbytes::{
    Error, QoS,
    v5::{LastWill, LastWillProperties, Packet, Publish, PublishProperties},
};

use crate::message::Message;

/// Packet types (MQTT 5.0, section 2.1.2).
const PUBACK: u8 = 4;
const DISCONNECT: u8 = 14;

/// What came from the broker.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, and a box would cost each message")]
pub(super) enum Incoming {
    /// The answer to an assured publish, with its reason code. `rumqttc` does not know all codes: for 0x95
    /// (packet too large), which Mosquitto sends, it would break the connection.
    PubAck { pkid: u16, reason: u8 },
    /// The broker ends the connection, with its reason code. `rumqttc` cannot read one without properties.
    Disconnect { reason: u8 },
    /// Another packet.
    Packet(Packet),
}

/// Takes the next whole packet from what came, if there is one.
pub(super) fn next(buffer: &mut BytesMut, max: usize) -> Result<Option<Incoming>, Error> {
    let Some(&first) = buffer.first() else { return Ok(None) };
    let kind = first >> 4;
    if kind != PUBACK && kind != DISCONNECT {
        return match Packet::read(buffer, Some(u32::try_from(max).unwrap_or(u32::MAX))) {
            Ok(packet) => Ok(Some(Incoming::Packet(packet))),
            Err(Error::InsufficientBytes(more)) => {
                // At most the largest packet, which was checked already.
                buffer.reserve(more);
                Ok(None)
            }
            Err(error) => Err(error),
        };
    }
    let Some((header, length)) = header(buffer)? else { return Ok(None) };
    if length > max {
        return Err(Error::PayloadSizeLimitExceeded { pkt_size: length, max: u32::MAX });
    }
    if buffer.len() < header + length {
        return Ok(None);
    }
    let packet = buffer.split_to(header + length);
    let mut content = packet.iter().skip(header).copied();
    if kind == DISCONNECT {
        return Ok(Some(Incoming::Disconnect { reason: content.next().unwrap_or_default() }));
    }
    let (Some(high), Some(low)) = (content.next(), content.next()) else {
        return Err(Error::MalformedPacket);
    };
    let reason = content.next().unwrap_or_default();
    Ok(Some(Incoming::PubAck { pkid: u16::from_be_bytes([high, low]), reason }))
}

/// The length of a packet's fixed header, and that of the rest (MQTT 5.0, section 2.1.4).
fn header(buffer: &[u8]) -> Result<Option<(usize, usize)>, Error> {
    let mut length = 0;
    for (at, byte) in buffer.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((at + 2, length)));
        }
    }
    if buffer.len() >= 5 { Err(Error::MalformedRemainingLength) } else { Ok(None) }
}

/// Writes a PUBACK that says success.
pub(super) fn write_puback(out: &mut BytesMut, pkid: u16) {
    out.put_slice(&[PUBACK << 4, 2]);
    out.put_u16(pkid);
}

/// Writes a DISCONNECT after which the broker publishes the will (where there is one) and, where the session is
/// not to be kept, forgets it. `rumqttc` writes a wrong length where there are no properties.
pub(super) fn write_disconnect(out: &mut BytesMut, with_will: bool, keep_session: bool) {
    const SESSION_EXPIRY: u8 = 17;
    let reason = if with_will { 0x04 } else { 0x00 };
    if keep_session {
        out.put_slice(&[DISCONNECT << 4, 2, reason, 0]);
    } else {
        out.put_slice(&[DISCONNECT << 4, 7, reason, 5, SESSION_EXPIRY]);
        out.put_u32(0);
    }
}

/// The packet of this message, without a packet identifier.
pub(super) fn publish_packet(message: Message, assured: bool) -> Publish {
    let Message { topic, retain, content } = message;
    let properties = PublishProperties {
        user_properties: content.attributes,
        content_type: content.content_type,
        ..PublishProperties::default()
    };
    Publish {
        dup: false,
        qos: if assured { QoS::AtLeastOnce } else { QoS::AtMostOnce },
        retain,
        topic: Bytes::from(topic),
        pkid: 0,
        payload: content.body,
        properties: Some(properties),
    }
}

/// The last will of this message.
pub(super) fn last_will(message: Message) -> LastWill {
    let Message { topic, retain, content } = message;
    let properties = LastWillProperties {
        delay_interval: None,
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: content.content_type,
        response_topic: None,
        correlation_data: None,
        user_properties: content.attributes,
    };
    LastWill {
        topic: Bytes::from(topic),
        message: content.body,
        qos: QoS::AtLeastOnce,
        retain,
        properties: Some(properties),
    }
}

/// What an MQTT reason code means (MQTT 5.0, section 2.4).
pub(super) fn reason_text(code: u8) -> String {
    let text = match code {
        0x00 => "normal end",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x87 => "not authorized",
        0x89 => "the broker is busy",
        0x8B => "the broker is shutting down",
        0x8D => "keep alive timeout",
        0x8E => "another client of the same name took over the session",
        0x8F => "topic filter invalid",
        0x90 => "topic name invalid",
        0x93 => "receive maximum exceeded",
        0x95 => "packet too large",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9A => "retain not supported",
        _ => return format!("MQTT reason code 0x{code:02x}"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_reason_in_a_puback_is_read() {
        let mut buffer = BytesMut::from(&[0x40, 4, 0, 9, 0x95, 0, 0x40][..]);
        let packet = next(&mut buffer, 1000).unwrap();
        assert!(matches!(packet, Some(Incoming::PubAck { pkid: 9, reason: 0x95 })), "{packet:?}");
        assert!(next(&mut buffer, 1000).unwrap().is_none());
        buffer.extend_from_slice(&[2, 1, 2]);
        let packet = next(&mut buffer, 1000).unwrap();
        assert!(matches!(packet, Some(Incoming::PubAck { pkid: 258, reason: 0 })), "{packet:?}");
    }

    #[test]
    fn a_disconnect_with_only_a_reason_is_read() {
        let mut buffer = BytesMut::from(&[0xE0, 1, 0x8E, 0xE0, 0][..]);
        let packet = next(&mut buffer, 1000).unwrap();
        assert!(matches!(packet, Some(Incoming::Disconnect { reason: 0x8E })), "{packet:?}");
        assert!(matches!(next(&mut buffer, 1000).unwrap(), Some(Incoming::Disconnect { reason: 0 })));
    }

    #[test]
    fn a_publish_with_a_subscription_identifier_before_its_attributes_is_read() {
        // As Mosquitto writes it: the identifier first.
        let properties = PublishProperties {
            user_properties: vec![("id".to_owned(), "1".to_owned())],
            content_type: Some("text/plain".to_owned()),
            ..PublishProperties::default()
        };
        let mut own = BytesMut::new();
        let publish = Publish::new("t", QoS::AtMostOnce, "body", Some(properties));
        publish.write(&mut own).unwrap();
        // Fixed header 2, topic 3, then the length of the properties.
        let mut bytes = own.to_vec();
        bytes[1] += 2;
        bytes[5] += 2;
        bytes.splice(6..6, [11, 3]);
        let mut buffer = BytesMut::from(&bytes[..]);
        let Some(Incoming::Packet(Packet::Publish(read))) = next(&mut buffer, 1000).unwrap() else {
            panic!("no publish")
        };
        let properties = read.properties.unwrap();
        assert_eq!(properties.subscription_identifiers, [3]);
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.user_properties.len(), 1);
        assert_eq!(read.payload, "body");
    }

    #[test]
    fn broken_packets_are_errors_and_never_a_panic() {
        for first in 0..=255_u8 {
            for rest in
                [&[][..], &[0], &[1, 1], &[2, 0, 0], &[0xFF, 0xFF, 0xFF, 0xFF, 1], &[5, 0, 9, 1, 1, 1]]
            {
                let mut buffer = BytesMut::from(&[&[first], rest].concat()[..]);
                drop(next(&mut buffer, 1000));
            }
        }
    }
}
