//! How a message gets from one process of the bench to the next: one file per way in `line/`.

pub(super) mod call;
mod event;
mod frame;
mod nagle;
mod plain_redis;
mod socket;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::note::Note;

/// A way from each process to the next one of the ring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Way {
    /// A Unix socket of each process in this folder, lengths before the content, nothing else.
    Socket {
        folder: PathBuf,
    },
    Event(EventWay),
    /// Pixels through shared memory in this folder, what tells of them by another way.
    Frame {
        folder: PathBuf,
        told_by: Box<Way>,
    },
    /// `QoS` 1 with the defaults of a client that leaves Nagle's algorithm on, at the broker on this port.
    Nagle {
        port: u16,
    },
    /// Publish and subscribe of the Redis on this port, by a client with its own defaults.
    PlainRedis {
        port: u16,
    },
    Call(CallWay),
}

/// Events over the bus, as modules send them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct EventWay {
    /// The bus.
    pub(super) url: String,
    /// Assured, or fast.
    pub(super) assured: bool,
    /// The folder that both sides share, for the local path.
    pub(super) shared: Option<PathBuf>,
    /// What each process proves itself with, for TLS.
    pub(super) proofs: Vec<Proof>,
}

/// Certificates of one process, PEM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Proof {
    pub(super) trust: String,
    /// Certificate chain and key.
    pub(super) identity: Option<(String, String)>,
}

/// Calls of HTTP routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CallWay {
    /// Where each process but the first listens.
    pub(super) addresses: Vec<String>,
    /// The gateway, where the calls go through it.
    pub(super) gateway: Option<String>,
    /// Where a module may keep what it keeps.
    pub(super) folder: PathBuf,
}

/// A process's place in the ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) index: usize,
    pub(super) ring: usize,
}

/// One process's two ends: to the next process, from the one before.
#[derive(Debug)]
pub(super) enum Line {
    Socket(socket::SocketLine),
    Event(Box<event::EventLine>),
    Frame(Box<frame::FrameLine>),
    Nagle(nagle::NagleLine),
    PlainRedis(Box<plain_redis::PlainRedisLine>),
    Call(call::CallLine),
}

// === impl Place ===

impl Place {
    /// The place of the next process.
    pub(super) fn next(self) -> usize {
        (self.index + 1) % self.ring.max(1)
    }
}

// === impl Line ===

impl Line {
    /// Opens both ends: whoever sends to us now is heard.
    pub(super) async fn open(way: &Way, place: Place) -> anyhow::Result<Self> {
        Ok(match way {
            Way::Socket { folder } => Self::Socket(socket::SocketLine::open(folder, place)?),
            Way::Event(way) => Self::Event(Box::new(event::EventLine::open(way, place).await?)),
            Way::Frame { folder, told_by } => {
                let told_by = Box::pin(Self::open(told_by, place)).await?;
                Self::Frame(Box::new(frame::FrameLine::open(folder, told_by, place)?))
            }
            Way::Nagle { port } => Self::Nagle(nagle::NagleLine::open(*port, place).await?),
            Way::PlainRedis { port } => {
                Self::PlainRedis(Box::new(plain_redis::PlainRedisLine::open(*port, place).await?))
            }
            Way::Call(way) => Self::Call(call::CallLine::open(way, place.index)?),
        })
    }

    /// Sends so many bytes that begin with this note.
    pub(super) async fn send(&mut self, note: Note, size: usize) -> anyhow::Result<()> {
        match self {
            Self::Socket(line) => line.send(note, size).await,
            Self::Event(line) => line.send(note, size).await,
            Self::Frame(line) => Box::pin(line.send(note, size)).await,
            Self::Nagle(line) => line.send(note, size).await,
            Self::PlainRedis(line) => line.send(note, size).await,
            Self::Call(_) => anyhow::bail!("a call cannot be sent without waiting for its answer"),
        }
    }

    /// The same, but does not wait for the broker's answer where there is one.
    pub(super) async fn send_ahead(&mut self, note: Note, size: usize) -> anyhow::Result<()> {
        match self {
            Self::Event(line) => line.send_ahead(note, size).await,
            other => other.send(note, size).await,
        }
    }

    /// The next message.
    pub(super) async fn receive(&mut self) -> anyhow::Result<Note> {
        match self {
            Self::Socket(line) => line.receive().await,
            Self::Event(line) => line.receive().await,
            Self::Frame(line) => Box::pin(line.receive()).await,
            Self::Nagle(line) => line.receive().await,
            Self::PlainRedis(line) => line.receive().await,
            Self::Call(_) => anyhow::bail!("an answer comes with its call only"),
        }
    }

    /// Sends, and waits for the answer.
    pub(super) async fn exchange(&mut self, note: Note, size: usize) -> anyhow::Result<Note> {
        match self {
            Self::Event(line) => return line.exchange(note, size).await,
            Self::Call(line) => return line.exchange(note, size).await,
            _ => {}
        }
        self.send(note, size).await?;
        self.receive().await
    }

    /// Does an answer come round as a message of its own? That of a call belongs to the call.
    pub(super) fn is_ring(&self) -> bool {
        !matches!(self, Self::Call(_))
    }

    /// Does it go the way that it should? It may take a moment until both sides have met.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Event(line) => line.is_ready(),
            Self::Frame(line) => line.is_ready(),
            _ => true,
        }
    }
}
