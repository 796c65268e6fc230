//! A Motion JPEG stream over HTTP, as network cameras send it.

use std::time::Duration;

use reqwest::{Client, Response, header};

use super::{Source, SourceError};
use crate::{
    control::Control,
    jpeg_splitter::{JpegSplitter, Piece},
    shot::{Content, Shot},
};

/// To connect and get the answer's head.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two pieces of the stream.
const SILENCE: Duration = Duration::from_secs(10);

/// A Motion JPEG stream.
#[derive(Debug)]
pub(super) struct HttpStream {
    response: Response,
    splitter: JpegSplitter,
}

// === impl HttpStream ===

impl HttpStream {
    pub(super) fn open(url: &str, control: &Control) -> Result<Self, SourceError> {
        // Somebody may have chosen a provider for the process already; any will do.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::builder().tcp_nodelay(true).connect_timeout(CONNECT).build().map_err(failure)?;
        let request = client.get(url).header(header::ACCEPT, "multipart/x-mixed-replace, image/jpeg");
        let response = control.wait_for(CONNECT, request.send())?.map_err(failure)?;
        if !response.status().is_success() {
            return Err(SourceError::HttpStatus(response.status().as_u16()));
        }
        let content = response.headers().get(header::CONTENT_TYPE);
        let content = content.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if let Some(content) = content
            && ["text/", "application/json", "application/xml"].iter().any(|no| content.starts_with(no))
        {
            return Err(SourceError::HttpContent(content));
        }
        Ok(Self { response, splitter: JpegSplitter::new() })
    }
}

impl Source for HttpStream {
    fn next(&mut self, control: &Control) -> Result<Option<Shot>, SourceError> {
        loop {
            match self.splitter.piece() {
                Some(Piece::Picture(jpeg)) => return Ok(Some(Shot::now(Content::Jpeg(jpeg)))),
                Some(Piece::Damaged(reason)) => control.state.damaged(&reason),
                None => {
                    let chunk = control.wait_for(SILENCE, self.response.chunk())?.map_err(failure)?;
                    self.splitter.push(&chunk.ok_or(SourceError::StreamEnded)?);
                }
            }
        }
    }
}

/// The error and its causes, without the address, which may hold a password.
fn failure(error: reqwest::Error) -> SourceError {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    SourceError::Http(text)
}
