//! Texts from the bus, and their sentiment back to it.

use std::sync::Arc;

use shunt_bus::{Bus, Delivery, PublishError, Received};
use shunt_module::{DeadLetters, Events};
use shunt_wire::{
    Envelope, Kind, TopicFilter,
    events::{Sentiment, Text},
    seed::TextDocument,
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    judge::{Judge, NoVerdict},
    tally::Tally,
};

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
    #[error("{0}")]
    Failed(NoVerdict),
    #[error("nobody told a score for it")]
    NoScore,
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
        // What came before there is a model waits: given back, a text would come again only after a reconnect, and hold
        // back the acknowledgements of all that follow.
        tokio::select! {
            () = self.judge.is_ready() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
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

    /// Judges one. Only the end of the module leaves it to the bus: one that is not acknowledged would hold back the
    /// acknowledgements of all that follow.
    async fn take(&self, received: Received) {
        let Received { topic, envelope, payload, received_at, ack } = received;
        let sentiment = match envelope.map_err(Unusable::from).and_then(|event| Ok((read(&event)?, event))) {
            Ok((text, event)) => match self.judge(text, &event).await {
                Ok(Some(sentiment)) => Ok((sentiment, event)),
                // The module is ending: the bus keeps the text.
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
                    Ok(event) => match self.bus.publish(event, Delivery::Assured).await {
                        // The text comes again.
                        Err(PublishError::Closed) => return,
                        published => published.map_err(|error| error.to_string()),
                    },
                    Err(error) => Err(error.to_string()),
                };
                if let Err(error) = published {
                    self.tally.unpublished.inc();
                    let reason = format!("its sentiment was not published: {error}");
                    tracing::debug!(topic, reason, "The bus did not take a sentiment.");
                    self.letters.send(&topic, &payload, &reason).await;
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
        let verdict = match self.judge.judge(vec![document]).await {
            Ok(verdict) => verdict,
            Err(failed @ NoVerdict::Failed) => return Err(Unusable::Failed(failed)),
            Err(NoVerdict::NoModel | NoVerdict::Ending) => return Ok(None),
        };
        if let Some(error) = verdict.scores.errors.into_iter().next() {
            return Err(Unusable::Refused(error.message));
        }
        let score = verdict.scores.documents.into_iter().next().ok_or(Unusable::NoScore)?;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shunt_bus::BusOptions;
    use shunt_module::{Common, Context, SettingsHandle};
    use shunt_testkit::eventually;
    use shunt_wire::Name;
    use tokio::time::timeout;

    use super::*;
    use crate::{SentimentSettings, judge::Bench};

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_text_that_comes_before_the_model_waits_for_it() {
        let open =
            |name| Bus::open(BusOptions::new("memory:before-the-model", Name::from_static(name))).unwrap();
        let (bus, writer) = (open("sentiment"), open("writer"));
        let folder = tempfile::tempdir().unwrap();
        let settings = SentimentSettings::default();
        let (handle, _sender) = SettingsHandle::channel(settings.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let common = Common::in_folder(folder.path());
        let (context, stop) = Context::for_test(handle, bus.clone(), None, common, listener);
        let tally = Tally::new().unwrap();
        let judge = Judge::new(tally.clone());
        let (events, letters) = (context.events.clone(), context.dead_letters());
        let intake = Intake { bus: bus.clone(), events, judge: judge.clone(), letters, tally };
        let sentiments = TopicFilter::kind(&Kind::SENTIMENT);
        let mut sentiments = writer.subscribe(&sentiments, Delivery::Assured).await.unwrap();
        let running = tokio::spawn(intake.run(stop.clone()));
        eventually(LIMIT, || async {
            let text = Envelope::new("1", Kind::TEXT, Name::from_static("survey"), "2026-11-21T09:00:00Z");
            let text = text.with_body("text/plain", "What a lovely day");
            writer.publish(text, Delivery::Assured).await.unwrap();
            bus.counters().received > 0
        })
        .await;
        assert!(timeout(Duration::from_millis(100), sentiments.next()).await.is_err());
        let model = Arc::new(crate::model(folder.path(), &settings).unwrap());
        judge.set(Bench { model, container: None, language: settings.default_language() });
        let received = timeout(LIMIT, sentiments.next()).await.unwrap().unwrap();
        assert!(received.envelope.unwrap().json::<Sentiment>().unwrap().score > 0.5);
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}
