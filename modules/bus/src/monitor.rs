//! Reads what the broker tells of itself.

use std::sync::Arc;

use shunt_bus::{
    TlsFrom,
    raw::{RawBus, RawOptions},
};
use shunt_wire::Name;
use tokio_util::task::AbortOnDropHandle;

use crate::{certificate::OwnTls, tally::Tally};

/// A connection of its own to the broker; it ends with this value.
#[derive(Debug)]
pub(crate) struct Monitor {
    url: String,
    _task: AbortOnDropHandle<()>,
}

// === impl Monitor ===

impl Monitor {
    pub(crate) fn start(url: String, tls: Option<OwnTls>, tally: Tally) -> Self {
        let task = tokio::spawn(watch(url.clone(), tls, tally));
        Self { url, _task: AbortOnDropHandle::new(task) }
    }

    /// Where it reads.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

async fn watch(url: String, tls: Option<OwnTls>, tally: Tally) {
    let tls = tls.map(|tls| TlsFrom::Source(Arc::new(tls)));
    let options = RawOptions { tls, ..RawOptions::new(url, Name::from_static("bus-monitor")) };
    let messages = match RawBus::open(options) {
        Ok(bus) => bus.subscribe("$SYS/broker/#").await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match messages {
        Ok(mut messages) => {
            while let Some(message) = messages.next().await {
                tally.take(&message.topic, &message.payload);
            }
        }
        Err(error) => tracing::warn!(error, "The broker's own figures cannot be read."),
    }
}
