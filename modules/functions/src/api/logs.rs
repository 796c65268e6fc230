//! What functions said.

use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Api, Problem, upload::Lines};
use crate::reach::Log;

/// Lines that are read at a time.
const PIECE: usize = 256;
/// Pieces that wait for the caller to read. When it is full, the next piece waits, and what is older than the log keeps
/// is passed over: the running numbers tell.
const PIECES: usize = 2;

/// What an address says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    /// Go on with what comes: `true` or nothing behind the sign.
    follow: Option<String>,
}

/// `GET /functions/NAME/logs`: a line of JSON each, the oldest first.
pub(crate) async fn logs(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let function = api.library.get(&name).ok_or_else(|| Problem::unknown(&name))?;
    let log = api.library.log(&function.record.name);
    let follow = asked.follow.is_some_and(|follow| !matches!(follow.as_str(), "false" | "0"));
    let (pieces, written) = mpsc::channel(PIECES);
    // Ends where nobody reads any more, and with the module's runtime.
    tokio::spawn(async move { write(log, follow, pieces).await });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::from_stream(Lines(written))).into_response())
}

async fn write(log: Log, follow: bool, pieces: mpsc::Sender<Bytes>) {
    let (mut newest, mut last) = (log.newest(), 0);
    loop {
        newest.borrow_and_update();
        let lines = log.lines(last, PIECE);
        if let Some(line) = lines.last() {
            last = line.number;
            let text: String =
                lines.iter().filter_map(|line| Some(serde_json::to_string(line).ok()? + "\n")).collect();
            if pieces.send(text.into()).await.is_err() {
                return;
            }
            continue;
        }
        if !follow {
            return;
        }
        tokio::select! {
            () = pieces.closed() => return,
            told = newest.changed() => if told.is_err() { return },
        }
    }
}
