//! MQTT 3.1.1 packets as a server reads and writes them, with the breaches that edgeHub's decoder answers by closing.
//!
//! A codec of our own, because the stand-in must tell the breaches apart and must see each packet as it was received.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The largest packet in bytes, fixed header and topic included, that edgeHub's decoder takes.
pub(crate) const MAX_PACKET: usize = 262_144;

/// Why a packet cannot be read. edgeHub closes the connection on each of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("a packet of {0} bytes is longer than the {MAX_PACKET} allowed")]
    TooLong(usize),
    #[error("the packet is malformed: {0}")]
    Malformed(&'static str),
    #[error("the protocol {name:?} level {level} is not MQTT level 4")]
    Protocol { name: String, level: u8 },
    #[error("the published topic {0:?} holds a wildcard")]
    Wildcard(String),
    #[error("the quality of service {0} is not offered")]
    Qos(u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) client_id: String,
    pub(crate) keep_alive_s: u16,
    pub(crate) clean_session: bool,
    pub(crate) will: Option<Will>,
    pub(crate) user_name: Option<String>,
    pub(crate) password: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    /// `Some` at quality of service 1.
    pub(crate) packet_id: Option<u16>,
    pub(crate) retain: bool,
    pub(crate) duplicate: bool,
    pub(crate) payload: Bytes,
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    Connect(Connect),
    Publish(Publish),
    PubAck(u16),
    Subscribe { packet_id: u16, filters: Vec<(String, u8)> },
    Unsubscribe { packet_id: u16, filters: Vec<String> },
    PingReq,
    Disconnect,
}

/// Takes one whole packet off the front of the buffer; `None` until it is there.
pub(crate) fn decode(buffer: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
    let mut bytes = buffer.iter().copied();
    let Some(first) = bytes.next() else { return Ok(None) };
    let mut remaining = 0_usize;
    let mut header = 1_usize;
    loop {
        let Some(byte) = bytes.next() else { return Ok(None) };
        remaining |= usize::from(byte & 0x7f) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if header > 4 {
            return Err(CodecError::Malformed("the length has more than four bytes"));
        }
    }
    if header + remaining > MAX_PACKET {
        return Err(CodecError::TooLong(header + remaining));
    }
    if buffer.len() < header + remaining {
        return Ok(None);
    }
    buffer.advance(header);
    let body = buffer.split_to(remaining).freeze();
    parse(first, body).map(Some)
}

fn parse(first: u8, mut body: Bytes) -> Result<Packet, CodecError> {
    let flags = first & 0x0f;
    match first >> 4 {
        1 => connect(&mut body).map(Packet::Connect),
        3 => publish(flags, body).map(Packet::Publish),
        4 => Ok(Packet::PubAck(number(&mut body)?)),
        8 if flags == 2 => {
            let packet_id = number(&mut body)?;
            let mut filters = Vec::new();
            while body.has_remaining() {
                let filter = text(&mut body)?;
                if !body.has_remaining() {
                    return Err(CodecError::Malformed("a filter has no quality of service"));
                }
                let qos = body.get_u8();
                if qos > 2 {
                    return Err(CodecError::Qos(qos));
                }
                filters.push((filter, qos));
            }
            if filters.is_empty() {
                return Err(CodecError::Malformed("a subscription names no filter"));
            }
            Ok(Packet::Subscribe { packet_id, filters })
        }
        10 if flags == 2 => {
            let packet_id = number(&mut body)?;
            let mut filters = Vec::new();
            while body.has_remaining() {
                filters.push(text(&mut body)?);
            }
            Ok(Packet::Unsubscribe { packet_id, filters })
        }
        12 => Ok(Packet::PingReq),
        14 => Ok(Packet::Disconnect),
        _ => Err(CodecError::Malformed("the packet type or its flags are not a client's")),
    }
}

fn connect(body: &mut Bytes) -> Result<Connect, CodecError> {
    let name = text(body)?;
    if body.remaining() < 4 {
        return Err(CodecError::Malformed("CONNECT is too short"));
    }
    let level = body.get_u8();
    if name != "MQTT" || level != 4 {
        return Err(CodecError::Protocol { name, level });
    }
    let flags = body.get_u8();
    if flags & 1 != 0 {
        return Err(CodecError::Malformed("the reserved flag of CONNECT is set"));
    }
    let keep_alive_s = body.get_u16();
    let client_id = text(body)?;
    let will =
        if flags & 0x04 == 0 { None } else { Some(Will { topic: text(body)?, payload: binary(body)? }) };
    let user_name = if flags & 0x80 == 0 { None } else { Some(text(body)?) };
    let password = if flags & 0x40 == 0 { None } else { Some(binary(body)?) };
    let clean_session = flags & 0x02 != 0;
    Ok(Connect { client_id, keep_alive_s, clean_session, will, user_name, password })
}

fn publish(flags: u8, mut body: Bytes) -> Result<Publish, CodecError> {
    let qos = (flags >> 1) & 3;
    if qos > 1 {
        return Err(CodecError::Qos(qos));
    }
    let topic = text(&mut body)?;
    if topic.is_empty() {
        return Err(CodecError::Malformed("the published topic is empty"));
    }
    if topic.contains(['+', '#']) {
        return Err(CodecError::Wildcard(topic));
    }
    let packet_id = if qos == 1 {
        let id = number(&mut body)?;
        if id == 0 {
            return Err(CodecError::Malformed("the packet id is zero"));
        }
        Some(id)
    } else {
        None
    };
    Ok(Publish { topic, packet_id, retain: flags & 1 != 0, duplicate: flags & 8 != 0, payload: body })
}

fn number(body: &mut Bytes) -> Result<u16, CodecError> {
    if body.remaining() < 2 {
        return Err(CodecError::Malformed("a number is cut off"));
    }
    Ok(body.get_u16())
}

fn binary(body: &mut Bytes) -> Result<Bytes, CodecError> {
    let length = usize::from(number(body)?);
    if body.remaining() < length {
        return Err(CodecError::Malformed("a field is cut off"));
    }
    Ok(body.split_to(length))
}

fn text(body: &mut Bytes) -> Result<String, CodecError> {
    let bytes = binary(body)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| CodecError::Malformed("a text is not UTF-8"))?;
    if text.contains('\0') {
        return Err(CodecError::Malformed("a text holds a NUL"));
    }
    Ok(text.to_owned())
}

/// CONNACK.
pub(crate) fn connack(out: &mut BytesMut, session_present: bool, code: u8) {
    out.put_slice(&[0x20, 2, u8::from(session_present), code]);
}

pub(crate) fn puback(out: &mut BytesMut, packet_id: u16) {
    out.put_slice(&[0x40, 2]);
    out.put_u16(packet_id);
}

pub(crate) fn suback(out: &mut BytesMut, packet_id: u16, granted: &[u8]) {
    out.put_u8(0x90);
    length(out, 2 + granted.len());
    out.put_u16(packet_id);
    out.put_slice(granted);
}

pub(crate) fn unsuback(out: &mut BytesMut, packet_id: u16) {
    out.put_slice(&[0xb0, 2]);
    out.put_u16(packet_id);
}

pub(crate) fn pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xd0, 0]);
}

/// A PUBLISH to the client: quality of service 1 with a packet id, else 0. Never retained, never marked a duplicate.
pub(crate) fn publish_out(out: &mut BytesMut, topic: &str, packet_id: Option<u16>, payload: &[u8]) {
    out.put_u8(if packet_id.is_some() { 0x32 } else { 0x30 });
    length(out, 2 + topic.len() + packet_id.map_or(0, |_| 2) + payload.len());
    out.put_u16(topic.len() as u16);
    out.put_slice(topic.as_bytes());
    if let Some(id) = packet_id {
        out.put_u16(id);
    }
    out.put_slice(payload);
}

fn length(out: &mut BytesMut, mut value: usize) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.put_u8(byte);
            return;
        }
        out.put_u8(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rumqttc::mqttbytes::{QoS, v4};

    use super::*;

    fn written(packet: &v4::Packet) -> BytesMut {
        let mut buffer = BytesMut::new();
        packet.write(&mut buffer, usize::MAX).unwrap();
        buffer
    }

    #[test]
    fn a_connect_of_another_codec_is_read() {
        let mut connect = v4::Connect::new("d/m");
        connect.keep_alive = 240;
        connect.clean_session = false;
        connect.set_login("user", "secret");
        connect.last_will = Some(v4::LastWill::new("a/b", "gone", QoS::AtLeastOnce, true));
        let mut buffer = written(&v4::Packet::Connect(connect));
        let expected = Connect {
            client_id: "d/m".to_owned(),
            keep_alive_s: 240,
            clean_session: false,
            will: Some(Will { topic: "a/b".to_owned(), payload: Bytes::from_static(b"gone") }),
            user_name: Some("user".to_owned()),
            password: Some(Bytes::from_static(b"secret")),
        };
        assert_eq!(decode(&mut buffer), Ok(Some(Packet::Connect(expected))));
        assert!(buffer.is_empty());
    }

    #[test]
    fn our_answers_are_read_by_another_codec() {
        let mut out = BytesMut::new();
        connack(&mut out, true, 5);
        puback(&mut out, 7);
        suback(&mut out, 8, &[0, 1]);
        unsuback(&mut out, 9);
        pingresp(&mut out);
        publish_out(&mut out, "a/b", Some(10), &[1; 300]);
        publish_out(&mut out, "a/b", None, b"");
        let mut next = || v4::Packet::read(&mut out, usize::MAX).unwrap();
        assert_eq!(next(), v4::Packet::ConnAck(v4::ConnAck::new(v4::ConnectReturnCode::NotAuthorized, true)));
        assert_eq!(next(), v4::Packet::PubAck(v4::PubAck::new(7)));
        let granted = [QoS::AtMostOnce, QoS::AtLeastOnce].map(v4::SubscribeReasonCode::Success).to_vec();
        assert_eq!(next(), v4::Packet::SubAck(v4::SubAck::new(8, granted)));
        assert_eq!(next(), v4::Packet::UnsubAck(v4::UnsubAck::new(9)));
        assert_eq!(next(), v4::Packet::PingResp);
        let mut publish = v4::Publish::new("a/b", QoS::AtLeastOnce, [1; 300]);
        publish.pkid = 10;
        assert_eq!(next(), v4::Packet::Publish(publish));
        assert_eq!(next(), v4::Packet::Publish(v4::Publish::new("a/b", QoS::AtMostOnce, "")));
    }

    #[test]
    fn a_packet_is_read_when_its_last_byte_is_there() {
        let mut publish = v4::Publish::new("topic", QoS::AtLeastOnce, [2; 200]);
        publish.pkid = 3;
        let whole = written(&v4::Packet::Publish(publish));
        let mut buffer = BytesMut::new();
        for (index, byte) in whole.iter().enumerate() {
            buffer.put_u8(*byte);
            let read = decode(&mut buffer).unwrap();
            assert_eq!(read.is_some(), index + 1 == whole.len(), "after {} bytes", index + 1);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }

        #[test]
        fn a_publish_of_another_codec_is_read(
            topic in "[a-z/%$=&]{1,100}", payload in proptest::collection::vec(any::<u8>(), 0..300),
            id in 0..u16::MAX, retain in any::<bool>(),
        ) {
            let qos = if id == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            let mut publish = v4::Publish::new(topic.as_str(), qos, payload.clone());
            (publish.pkid, publish.retain) = (id, retain);
            let mut buffer = written(&v4::Packet::Publish(publish));
            let expected = Publish {
                topic, packet_id: (id != 0).then_some(id), retain, duplicate: false, payload: payload.into(),
            };
            prop_assert_eq!(decode(&mut buffer), Ok(Some(Packet::Publish(expected))));
        }
    }
}
