//! What guests print, as lines of their function's log.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use crate::reach::Reach;

/// The longest line in bytes; what goes on behind it is the next line.
const LINE_BYTES: usize = 4096;

/// Bytes that are taken at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// A standard stream whose lines go to the function's log.
#[derive(Debug, Clone)]
pub(super) struct LogLines(Arc<Mutex<Lines>>);

#[derive(Debug)]
struct Lines {
    reach: Reach,
    begun: Vec<u8>,
    last: String,
}

// === impl LogLines ===

impl LogLines {
    /// A stream of one call.
    pub(super) fn new(reach: &Reach) -> Self {
        Self(Arc::new(Mutex::new(Lines { reach: reach.clone(), begun: Vec::new(), last: String::new() })))
    }

    /// The last line that has a sign in it; what was begun without an end of line counts.
    pub(super) fn last(&self) -> String {
        let mut lines = self.0.lock();
        lines.end();
        lines.last.clone()
    }
}

impl IsTerminal for LogLines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogLines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for LogLines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.lock().take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(CHUNK_BYTES)
    }
}

#[async_trait]
impl Pollable for LogLines {
    async fn ready(&mut self) {}
}

impl AsyncWrite for LogLines {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.lock().take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

// === impl Lines ===

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&sign| sign == b'\n') {
            let (line, ends) = match piece.strip_suffix(b"\n") {
                Some(line) => (line, true),
                None => (piece, false),
            };
            for part in line.chunks(LINE_BYTES) {
                if self.begun.len() + part.len() > LINE_BYTES {
                    self.end();
                }
                self.begun.extend_from_slice(part);
            }
            if ends {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        let line = String::from_utf8_lossy(&self.begun);
        let line = line.trim_end();
        if !line.is_empty() {
            self.reach.log_line(line);
            line.clone_into(&mut self.last);
        }
        self.begun.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end();
    }
}
