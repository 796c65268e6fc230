//! Bodies of requests, which take room.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::Request,
    http::{StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::{Api, Problem};

/// All bodies that are in work together may take so many times what one may. A further one is answered 503.
const BODIES: usize = 4;

/// The most that one body may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    pub(crate) bytes: usize,
    /// The setting that says so.
    pub(crate) setting: &'static str,
}

/// Room for a body; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

// === impl Api ===

impl Api {
    /// The body of a call: [`Api::read`].
    pub(crate) async fn body(&self, request: Request, most: Most) -> Result<(Bytes, Room), Problem> {
        let usual = self.library.settings().max_body();
        self.read(request, most, &self.taken, usual).await
    }

    /// The body of who may manage: [`Api::read`].
    pub(crate) async fn file(&self, request: Request, most: Most) -> Result<(Bytes, Room), Problem> {
        let usual = self.library.settings().max_file();
        self.read(request, most, &self.taken_by_files, usual).await
    }

    /// The body of a request, and the room that it takes: keep it as long as the body. One that says beforehand that it
    /// is too large is not read, and of one that does not say so no more than it may have.
    async fn read(
        &self,
        request: Request,
        most: Most,
        taken: &Arc<AtomicUsize>,
        usual: usize,
    ) -> Result<(Bytes, Room), Problem> {
        let said = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let too_large = || {
            let detail = format!("the setting {} allows {} bytes", most.setting, most.bytes);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large", detail)
        };
        if said.is_some_and(|bytes: usize| bytes > most.bytes) {
            return Err(too_large());
        }
        // Room is taken for what came, not for what was promised: who promises much and sends nothing takes none.
        let mut room = Room { taken: Arc::clone(taken), bytes: 0 };
        let limit = most.bytes.max(usual);
        let mut coming = request.into_body();
        let reading = async {
            let mut body = BytesMut::new();
            // Whoever holds room must go on sending.
            while let Some(frame) =
                timeout(self.idle, coming.frame()).await.map_err(|_| too_slow(self.idle))?
            {
                let frame =
                    frame.map_err(|error| Problem::bad("the body cannot be read", error.to_string()))?;
                let Ok(piece) = frame.into_data() else { continue };
                if body.len() + piece.len() > most.bytes {
                    return Err(too_large());
                }
                room.grow(piece.len(), limit)?;
                body.extend_from_slice(&piece);
            }
            Ok(body.freeze())
        };
        let body = timeout(self.reading, reading).await.unwrap_or_else(|_| Err(too_slow(self.reading)))?;
        Ok((body, room))
    }
}

fn too_slow(limit: Duration) -> Problem {
    let detail = format!("nothing more, or no end, came within {} s", limit.as_secs_f64());
    Problem::new(StatusCode::REQUEST_TIMEOUT, "the body is too slow", detail)
}

// === impl Room ===

impl Room {
    fn grow(&mut self, bytes: usize, limit: usize) -> Result<(), Problem> {
        self.bytes += bytes;
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > limit.saturating_mul(BODIES) {
            let detail = "the requests in work take all the memory that bodies may take";
            let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail);
            return Err(Problem { retry_after: Some(1), ..busy });
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
