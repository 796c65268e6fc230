//! The publisher's end of a socket: one subscriber, and what waits for it.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use shunt_wire::TopicFilter;
use tokio::{net::UnixStream, sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Broken, Shared, folder,
    frame::{self, GAP, MAX_WANTS, Wants},
};

/// How long a subscriber may take to say what it wants.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// Bytes waiting for one subscriber above which the oldest events are dropped; a single event may be larger.
const MAX_BYTES: usize = 1 << 20;

/// One subscriber.
#[derive(Debug)]
pub(super) struct Outlet {
    stream: UnixStream,
    wants: RwLock<Wants>,
    queue: Mutex<Queue>,
    /// Something waits.
    waits: Notify,
    /// Cancelled by a sender who finds the socket broken.
    broken: CancellationToken,
}

/// What the socket does not take yet. Bounded by [`MAX_BYTES`] and the options' `queue`: full, the oldest is dropped
/// and counted, for the newest wins. Its copy may still come by the broker.
#[derive(Debug)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
    most: usize,
    /// The first one is written in part, so it must be written whole.
    begun: bool,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// The subscriber has it, or will; so many older ones are dropped for it.
    Taken { dropped: usize },
    /// The socket is broken.
    Broken,
}

/// Serves a subscriber that has connected, until it is gone.
pub(super) async fn serve(shared: Arc<Shared>, stream: UnixStream) -> Result<(), Broken> {
    if !folder::is_ours(&stream)? {
        return Err(Broken::Foreign);
    }
    let mut buffer = BytesMut::new();
    let hello = async {
        let wants = read_wants(&stream, &mut buffer).await?;
        // From here on the stream knows that it can be written to, without being asked.
        stream.writable().await?;
        Ok::<_, Broken>(wants)
    };
    let wants = timeout(HELLO_LIMIT, hello).await.map_err(|_| Broken::Time)??;
    shared.meet(&wants.socket);
    let enrolled = Enrolled::new(&shared, Outlet::new(stream, wants, shared.common.queue));
    let outlet = &*enrolled.outlet;
    loop {
        tokio::select! {
            flushed = outlet.flush() => return Ok(flushed?),
            () = outlet.broken.cancelled() => return Err(Broken::Closed),
            wants = read_wants(&outlet.stream, &mut buffer) => *outlet.wants.write() = wants?,
        }
    }
}

/// Cancel-safe: what was read stays in the buffer.
async fn read_wants(stream: &UnixStream, buffer: &mut BytesMut) -> Result<Wants, Broken> {
    loop {
        if let Some(frame) = frame::take(buffer, MAX_WANTS)? {
            return Ok(Wants::read(frame)?);
        }
        stream.readable().await?;
        match stream.try_read_buf(buffer) {
            Ok(0) => return Err(Broken::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// An outlet in the list of those that events go to, as long as this lives.
struct Enrolled<'a> {
    shared: &'a Shared,
    outlet: Arc<Outlet>,
}

// === impl Enrolled ===

impl<'a> Enrolled<'a> {
    fn new(shared: &'a Shared, outlet: Outlet) -> Self {
        let outlet = Arc::new(outlet);
        shared.outlets.write().push(Arc::clone(&outlet));
        Self { shared, outlet }
    }
}

impl Drop for Enrolled<'_> {
    fn drop(&mut self) {
        self.shared.outlets.write().retain(|other| !Arc::ptr_eq(other, &self.outlet));
    }
}

// === impl Outlet ===

impl Outlet {
    fn new(stream: UnixStream, wants: Wants, most: usize) -> Self {
        Self {
            stream,
            wants: RwLock::new(wants),
            queue: Mutex::new(Queue { frames: VecDeque::new(), bytes: 0, most, begun: false }),
            waits: Notify::new(),
            broken: CancellationToken::new(),
        }
    }

    /// Does the subscriber want events of this topic?
    pub(super) fn wants(&self, topic: &str) -> bool {
        self.wants.read().filters.iter().any(|filter: &TopicFilter| filter.matches(topic))
    }

    /// Does the subscriber take an event of this size?
    pub(super) fn takes(&self, frame: &Bytes) -> bool {
        frame.len() <= self.wants.read().max as usize
    }

    /// Writes the event at once where nothing waits, else queues it. Never blocks.
    pub(super) fn send(&self, frame: &Bytes) -> Sent {
        let mut queue = self.queue.lock();
        let mut written = 0;
        if queue.frames.is_empty() {
            match self.stream.try_write(frame) {
                Ok(count) if count == frame.len() => return Sent::Taken { dropped: 0 },
                Ok(count) => written = count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.broken.cancel();
                    return Sent::Broken;
                }
            }
        }
        let dropped = queue.push(frame, written);
        drop(queue);
        self.waits.notify_one();
        Sent::Taken { dropped }
    }

    /// Writes what waits, as it comes; ends when the socket is broken. Cancel-safe.
    async fn flush(&self) -> io::Result<()> {
        loop {
            while !self.queue.lock().frames.is_empty() {
                self.stream.writable().await?;
                self.queue.lock().write(&self.stream)?;
            }
            self.waits.notified().await;
        }
    }
}

// === impl Queue ===

impl Queue {
    /// Adds an event of which so many bytes are written; returns how many others were dropped for it.
    fn push(&mut self, frame: &Bytes, written: usize) -> usize {
        let keep = usize::from(self.begun);
        let mut dropped = 0;
        while self.frames.len() > keep
            && (self.frames.len() > self.most || self.bytes + frame.len() > MAX_BYTES)
            && let Some(oldest) = self.frames.remove(keep)
        {
            self.bytes -= oldest.len();
            dropped += usize::from(oldest != GAP);
        }
        if dropped > 0 && *frame != GAP {
            // What comes after it may overtake what the broker still has of these.
            self.frames.insert(keep, GAP);
            self.bytes += GAP.len();
        }
        if written > 0 {
            self.begun = true;
        }
        let rest = frame.slice(written..);
        self.bytes += rest.len();
        self.frames.push_back(rest);
        dropped
    }

    /// Writes as much as the socket takes.
    fn write(&mut self, stream: &UnixStream) -> io::Result<()> {
        while let Some(first) = self.frames.front_mut() {
            match stream.try_write(first) {
                Ok(count) => {
                    self.bytes -= count;
                    self.begun = count < first.len();
                    if self.begun {
                        bytes::Buf::advance(first, count);
                    } else {
                        self.frames.pop_front();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_the_oldest_but_none_that_is_begun() {
        let mut queue = Queue { frames: VecDeque::new(), bytes: 0, most: 3, begun: false };
        let frame = |number: u8| Bytes::from(vec![number; 10]);
        assert_eq!(queue.push(&frame(1), 4), 0);
        assert_eq!((queue.push(&frame(2), 0), queue.push(&frame(3), 0)), (0, 0));
        assert_eq!((queue.push(&frame(4), 0), queue.push(&frame(5), 0)), (0, 1));
        // The gap takes a place, so the next one drops it and one event more.
        assert_eq!(queue.frames, [frame(1).slice(4..), GAP, frame(3), frame(4), frame(5)]);
        assert_eq!(queue.bytes, 40);
        assert_eq!(queue.push(&frame(6), 0), 1);
        assert_eq!(queue.frames, [frame(1).slice(4..), GAP, frame(4), frame(5), frame(6)]);
        let large = Bytes::from(vec![0; MAX_BYTES + 1]);
        assert_eq!(queue.push(&large, 0), 3);
        assert_eq!(queue.frames, [frame(1).slice(4..), GAP, large]);
    }

    #[tokio::test]
    async fn what_a_socket_does_not_take_at_once_follows_in_order() {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.writable().await.unwrap();
        let wants = Wants { socket: String::new(), max: u32::MAX, filters: Vec::new() };
        let outlet = Outlet::new(near, wants, 10_000);
        // Odd sizes, so that one is written in part.
        let frames: Vec<_> = (0..900_u32).map(|number| Bytes::from(vec![number as u8; 1001])).collect();
        for frame in &frames {
            assert_eq!(outlet.send(frame), Sent::Taken { dropped: 0 });
        }
        assert!(!outlet.queue.lock().frames.is_empty());
        let mut came = BytesMut::new();
        let read = async {
            while came.len() < 900 * 1001 {
                tokio::io::AsyncReadExt::read_buf(&mut far, &mut came).await.unwrap();
            }
        };
        tokio::select! {
            _ = outlet.flush() => panic!("the socket is not broken"),
            read = timeout(HELLO_LIMIT, read) => read.unwrap(),
        }
        assert!(came == frames.concat());
        drop(far);
        while outlet.send(&frames[0]) != Sent::Broken {}
        assert!(outlet.broken.is_cancelled());
    }
}
