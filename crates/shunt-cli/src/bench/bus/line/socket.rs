//! Raw Unix sockets: the limit for everything that goes through sockets.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::{
    super::note::{Note, Writer},
    Place,
};

/// Content up to this size is written together with its length, at once.
const SMALL: usize = 64 << 10;

/// The largest content.
const LARGEST: usize = 16 << 20;

#[derive(Debug)]
pub(in super::super) struct SocketLine {
    listener: UnixListener,
    next: PathBuf,
    from: Option<BufReader<UnixStream>>,
    to: Option<UnixStream>,
    writer: Writer,
    out: Vec<u8>,
    inbox: Vec<u8>,
}

// === impl SocketLine ===

impl SocketLine {
    pub(super) fn open(folder: &Path, place: Place) -> anyhow::Result<Self> {
        let path = |index: usize| folder.join(format!("{index}.socket"));
        let own = path(place.index);
        let listener =
            UnixListener::bind(&own).with_context(|| format!("cannot listen on {}", own.display()))?;
        Ok(Self {
            listener,
            next: path(place.next()),
            from: None,
            to: None,
            writer: Writer::default(),
            out: Vec::new(),
            inbox: Vec::new(),
        })
    }

    pub(super) async fn send(&mut self, note: Note, size: usize) -> anyhow::Result<()> {
        let Self { next, to, writer, out, .. } = self;
        let stream = match to {
            Some(stream) => stream,
            None => to.insert(UnixStream::connect(next).await.context("the next process does not listen")?),
        };
        let content = writer.write(note, size);
        out.clear();
        out.extend_from_slice(&u32::try_from(content.len())?.to_le_bytes());
        if content.len() <= SMALL {
            out.extend_from_slice(&content);
            stream.write_all(out).await?;
        } else {
            stream.write_all(out).await?;
            stream.write_all(&content).await?;
        }
        Ok(())
    }

    pub(super) async fn receive(&mut self) -> anyhow::Result<Note> {
        let Self { listener, from, inbox, .. } = self;
        let stream = match from {
            Some(stream) => stream,
            None => from.insert(BufReader::with_capacity(SMALL, listener.accept().await?.0)),
        };
        let size = stream.read_u32_le().await? as usize;
        anyhow::ensure!(size <= LARGEST, "a message of {size} bytes was announced");
        inbox.resize(size, 0);
        stream.read_exact(inbox).await?;
        Note::read(inbox)
    }
}
