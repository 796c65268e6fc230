//! One MQTT connection, packet by packet.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use rumqttc::mqttbytes::{
    Error,
    v4::{ConnAck, Connect, ConnectReturnCode, Packet},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    time::{Instant, timeout},
};

use crate::fault::Fault;

/// Of packets to us: a full message with its topic, and some.
const MAX_INCOMING: usize = 512 * 1024;
/// Our own are checked where they are made; CONNECT and topics come on top of a full body.
const MAX_OUTGOING: usize = 512 * 1024;
/// Bytes to make room for at each read.
const READ_SIZE: usize = 16 * 1024;
/// To say goodbye; the other side need not listen.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// A stream of MQTT 3.1.1 packets. What is queued is written while the next packet is awaited, so a hub that does
/// not read never keeps us from reading.
pub(crate) struct Wire<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    incoming: BytesMut,
    /// Bounded by the session: it queues only as much telemetry as may be in flight.
    outgoing: BytesMut,
    unflushed: bool,
    pub(crate) last_received: Instant,
    pub(crate) last_sent: Instant,
}

// === impl Wire ===

impl<S: AsyncRead + AsyncWrite> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let now = Instant::now();
        Self {
            reader,
            writer,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            unflushed: false,
            last_received: now,
            last_sent: now,
        }
    }

    /// Introduces us and waits for the hub's word.
    pub(crate) async fn connect(&mut self, connect: Connect, limit: Duration) -> Result<(), Fault> {
        self.queue(&Packet::Connect(connect))?;
        let packet = timeout(limit, self.next()).await.map_err(|_| Fault::Late("the hub's CONNACK"))??;
        match packet {
            Packet::ConnAck(ConnAck { code: ConnectReturnCode::Success, .. }) => Ok(()),
            Packet::ConnAck(ConnAck { code, .. }) => Err(Fault::Refused(code)),
            _ => Err(Fault::Unexpected("packet before CONNACK")),
        }
    }

    /// Puts a packet into the queue of what is to be written.
    pub(crate) fn queue(&mut self, packet: &Packet) -> Result<(), Fault> {
        packet.write(&mut self.outgoing, MAX_OUTGOING).map_err(Fault::Protocol)?;
        self.last_sent = Instant::now();
        Ok(())
    }

    /// Is everything written?
    pub(crate) fn is_written(&self) -> bool {
        self.outgoing.is_empty() && !self.unflushed
    }

    /// The next packet; meanwhile writes what is queued. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Packet, Fault> {
        loop {
            match Packet::read(&mut self.incoming, MAX_INCOMING) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(missing)) => {
                    self.incoming.reserve(missing.clamp(READ_SIZE, MAX_INCOMING));
                }
                Err(error) => return Err(Fault::Protocol(error)),
            }
            let writing = !self.is_written();
            tokio::select! {
                read = self.reader.read_buf(&mut self.incoming) => match read {
                    Ok(0) => return Err(Fault::ClosedByHub),
                    Ok(_) => self.last_received = Instant::now(),
                    Err(error) => return Err(Fault::Broken(error)),
                },
                written = write(&mut self.writer, &mut self.outgoing, &mut self.unflushed), if writing => {
                    written.map_err(Fault::Broken)?;
                }
            }
        }
    }

    /// Writes what is queued; nothing is read meanwhile. Cancel-safe.
    pub(crate) async fn flush(&mut self) -> Result<(), Fault> {
        write(&mut self.writer, &mut self.outgoing, &mut self.unflushed).await.map_err(Fault::Broken)
    }

    /// Writes what is queued, DISCONNECT last, and closes; within a short time.
    pub(crate) async fn goodbye(mut self) {
        let leave = async {
            self.queue(&Packet::Disconnect)?;
            self.flush().await?;
            self.writer.shutdown().await.map_err(Fault::Broken)
        };
        if let Ok(Err(fault)) = timeout(GOODBYE_LIMIT, leave).await {
            tracing::debug!(reason = fault.reason(), "The connection broke while it was closed.");
        }
    }
}

/// Cancel-safe: what is written is taken out of the buffer at once, and a flush that was not finished is made again.
async fn write<W: AsyncWrite + Unpin>(
    writer: &mut W,
    outgoing: &mut BytesMut,
    unflushed: &mut bool,
) -> std::io::Result<()> {
    while outgoing.has_remaining() {
        *unflushed = true;
        writer.write_buf(outgoing).await?;
    }
    writer.flush().await?;
    *unflushed = false;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use rumqttc::mqttbytes::{QoS, v4::Publish};

    use super::*;

    #[tokio::test]
    async fn packets_pass_however_the_stream_is_cut() {
        // A pipe of seven bytes: every packet goes through in pieces, both ways at once.
        let (ours, theirs) = tokio::io::duplex(7);
        let (mut ours, mut theirs) = (Wire::new(ours), Wire::new(theirs));
        let packet = |n: u16| {
            let mut publish = Publish::from_bytes(
                format!("t/{n}"),
                QoS::AtLeastOnce,
                Bytes::from(vec![n as u8; usize::from(n) * 10]),
            );
            publish.pkid = n + 1;
            Packet::Publish(publish)
        };
        for n in 0..30 {
            ours.queue(&packet(n)).unwrap();
            theirs.queue(&packet(n)).unwrap();
        }
        let receive = async |wire: &mut Wire<_>| {
            for n in 0..30 {
                assert_eq!(wire.next().await.unwrap(), packet(n));
            }
            wire.flush().await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(20), async {
            tokio::join!(receive(&mut ours), receive(&mut theirs))
        })
        .await
        .unwrap();
        drop(theirs);
        assert!(matches!(ours.next().await, Err(Fault::ClosedByHub)));
    }

    #[tokio::test]
    async fn what_is_not_mqtt_ends_the_connection() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut ours = Wire::new(ours);
        theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        drop(theirs);
        let fault = ours.next().await.unwrap_err();
        assert!(matches!(fault, Fault::Protocol(_) | Fault::ClosedByHub), "{fault:?}");

        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut ours = Wire::new(ours);
        theirs.write_all(&[0x30, 0xff, 0xff, 0xff, 0x7f]).await.unwrap();
        let fault = ours.next().await.unwrap_err();
        assert!(matches!(fault, Fault::Protocol(Error::PayloadSizeLimitExceeded(_))), "{fault:?}");
    }

    proptest! {
        /// The codec is not ours; what the hub sends must not end the process.
        #[test]
        fn no_bytes_from_outside_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u8..16) {
            let read = |bytes: &[u8]| {
                let mut bytes = BytesMut::from(bytes);
                while Packet::read(&mut bytes, MAX_INCOMING).is_ok() {}
            };
            read(&bytes);
            // The same as the body of a packet with the right length.
            let mut packet = vec![kind << 4 | bytes.first().unwrap_or(&0) & 15];
            if bytes.len() < 128 {
                packet.push(bytes.len() as u8);
            } else {
                packet.extend([(bytes.len() % 128) as u8 | 128, (bytes.len() / 128) as u8]);
            }
            packet.extend(&bytes);
            read(&packet);
        }
    }
}
