//! Texts from the bus, and their sentiment back to it.

use std::sync::Arc;

use shunt_bus::{Bus, Delivery, Received};
use shunt_module::{DeadLetters, Events};
use shunt_wire::{
    Envelope, Kind, TopicFilter,
    events::{Sentiment, Text},
    seed::TextDocument,
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{judge::Judge, tally::Tally};

/// Most events in work. When they are, the next one waits on the bus, which keeps it.
const IN_WORK: usize = 64;

/// Takes `text` events and publishes a `sentiment` event for each.
#[derive(Debug, Clone)]
pub(crate) struct Intake {
    pub(crate) bus: Bus,
    pub(crate) events: Events,
    pub(crate) judge: Judge,
    pub(crate) letters: DeadLetters,
    pub(crate) tally: Tally,
}

/// Why an event has no sentiment.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    Event(#[from] shunt_wire::EnvelopeError),
    #[error("its body is {0:?}, but must be text/plain or JSON with a text")]
    Body(String),
    #[error("its text is not UTF-8")]
    Utf8,
    #[error("{0}")]
    Refused(String),
}

// === impl Intake ===

impl Intake {
    /// Works until shutdown; what has begun is finished.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let filter = TopicFilter::kind(&Kind::TEXT);
        let mut texts = tokio::select! {
            texts = self.bus.subscribe(&filter, Delivery::Assured) => texts?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let (places, mut work) = (Arc::new(Semaphore::new(IN_WORK)), JoinSet::new());
        loop {
            let place = Arc::clone(&places).acquire_owned().await?;
            let received = tokio::select! {
                received = texts.next() => received,
                () = shutdown.cancelled() => break,
            };
            let Some(received) = received else { break };
            let intake = self.clone();
            work.spawn(async move {
                intake.take(received).await;
                drop(place);
            });
            while work.try_join_next().is_some() {}
        }
        // The drain ends this where the broker takes nothing more; the texts come again then.
        while work.join_next().await.is_some() {}
        Ok(())
    }

    /// Judges one. It is acknowledged when its sentiment is published, or when it can never be judged.
    async fn take(&self, received: Received) {
        let Received { topic, envelope, payload, received_at, ack } = received;
        let sentiment = match envelope.map_err(Unusable::from).and_then(|event| Ok((read(&event)?, event))) {
            Ok((text, event)) => match self.judge(text, &event).await {
                Ok(Some(sentiment)) => Ok((sentiment, event)),
                // No model yet, or no more: the bus keeps the text.
                Ok(None) => return,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match sentiment {
            Ok((sentiment, text)) => {
                let mut event = self.events.event(Kind::SENTIMENT, text.source.clone());
                event.stamps = text.stamps.as_ref().map(|stamps| stamps.follow(received_at));
                event.traceparent.clone_from(&text.traceparent);
                let published = match event.with_json(&sentiment) {
                    Ok(event) => {
                        self.bus.publish(event, Delivery::Assured).await.map_err(|error| error.to_string())
                    }
                    Err(error) => Err(error.to_string()),
                };
                if let Err(error) = published {
                    self.tally.unpublished.inc();
                    tracing::debug!(error, "A sentiment event was not published; its text comes again.");
                    return;
                }
            }
            Err(error) => {
                self.tally.unusable.inc();
                let reason = error.to_string();
                // No louder: a source may send nothing but such texts. The counter and the letters tell.
                tracing::debug!(topic, reason, "A text could not be judged.");
                self.letters.send(&topic, &payload, &reason).await;
            }
        }
        ack.ack();
    }

    /// The sentiment; nothing if it cannot be told now.
    async fn judge(&self, text: Text, event: &Envelope) -> Result<Option<Sentiment>, Unusable> {
        let characters = text.text.chars().count() as u64;
        let Some(bench) = self.judge.bench() else { return Ok(None) };
        let language = text.language.clone().unwrap_or_else(|| bench.language.code().to_owned());
        let document =
            TextDocument { language: text.language, id: Some(event.id.clone()), text: Some(text.text) };
        let Ok(verdict) = self.judge.judge(vec![document]).await else { return Ok(None) };
        if let Some(error) = verdict.scores.errors.into_iter().next() {
            return Err(Unusable::Refused(error.message));
        }
        let Some(score) = verdict.scores.documents.into_iter().next() else { return Ok(None) };
        Ok(Some(Sentiment {
            text: event.id.clone(),
            score: score.score,
            language,
            characters,
            model: verdict.model,
            fallback: verdict.fallback,
            inference_ms: verdict.ms,
        }))
    }
}

/// The text of an event: of a body that is plain text all of it, of one that is JSON its `text`.
fn read(event: &Envelope) -> Result<Text, Unusable> {
    let (content_type, bytes) = event
        .body
        .as_ref()
        .map_or(("nothing", &[][..]), |body| (body.content_type.as_str(), body.bytes.as_ref()));
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "text/plain" => {
            let text = std::str::from_utf8(bytes).map_err(|_| Unusable::Utf8)?;
            Ok(Text { text: text.to_owned(), language: None })
        }
        "application/json" => Ok(event.json()?),
        _ => Err(Unusable::Body(content_type.to_owned())),
    }
}
