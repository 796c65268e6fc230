//! The judge's thread: frames in, events out.

use std::sync::Arc;

use shunt_module::{Events, FrameJob, FrameMailbox};
use shunt_vision::{FramePictures, NoPicture};
use shunt_wire::{
    Envelope, EnvelopeError, Kind,
    events::{Emotion, Face},
};
use tokio::sync::mpsc;

use crate::{
    models::{InUse, Judgement},
    tally::{Failure, Skip, Tally},
    tracks::Tracks,
};

/// What the judge hands out.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The events of a frame: of each face one `face` and one `emotion`.
    Faces(Vec<Envelope>),
    /// A frame that could not be used: the event, and why.
    Unusable(Box<Envelope>, String),
}

/// What the judge works with. Decoding and inference happen on its own thread (law 6).
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) mailbox: Arc<FrameMailbox>,
    pub(crate) in_use: InUse,
    pub(crate) events: Events,
    pub(crate) tally: Tally,
    pub(crate) tracks: Tracks,
    pub(crate) pictures: FramePictures,
    /// Full: the judge waits, and frames are passed over for newer ones meanwhile.
    pub(crate) verdicts: mpsc::Sender<Verdict>,
}

// === impl Judge ===

impl Judge {
    /// Judges frames until the mailbox or the other side is closed.
    pub(crate) fn run(mut self) {
        while let Some(job) = self.mailbox.take() {
            let Some(verdict) = self.judge(job) else { continue };
            if self.verdicts.blocking_send(verdict).is_err() {
                return;
            }
        }
    }

    fn judge(&mut self, job: FrameJob) -> Option<Verdict> {
        let Some((models, options)) = self.in_use.get() else {
            self.tally.skip(Skip::NoModels);
            return None;
        };
        let picture = match self.pictures.get(&job.frame.pixels) {
            Ok(picture) => picture,
            Err(NoPicture::Gone) => {
                self.tally.skip(Skip::Gone);
                return None;
            }
            Err(error) => {
                self.tally.fail(Failure::Picture);
                return Some(Verdict::Unusable(Box::new(job.envelope), error.to_string()));
            }
        };
        let judgement = match models.judge(&picture, &options) {
            Ok(judgement) => judgement,
            Err(error) => {
                self.tally.fail(Failure::Model);
                tracing::error!(%error, "A frame could not be judged.");
                return Some(Verdict::Unusable(Box::new(job.envelope), error.to_string()));
            }
        };
        self.tally.inference.observe(judgement.inference_ms / 1e3);
        let size = (picture.width, picture.height);
        self.pictures.give_back(picture);
        let events = self.events(&job, size, &judgement, &models.names());
        // Last, so that whoever sees the frame counted sees its faces counted too.
        self.tally.frames.inc();
        match events {
            Ok(events) if events.is_empty() => None,
            Ok(events) => Some(Verdict::Faces(events)),
            Err(error) => {
                tracing::error!(%error, "The faces of a frame could not be written as events.");
                None
            }
        }
    }

    fn events(
        &mut self,
        job: &FrameJob,
        (width, height): (u32, u32),
        judgement: &Judgement,
        models: &[String],
    ) -> Result<Vec<Envelope>, EnvelopeError> {
        let source = &job.envelope.source;
        let bounds: Vec<_> = judgement.faces.iter().map(|face| face.bounds).collect();
        let tracks = self.tracks.update(source, &bounds);
        self.tally.faces.inc_by(tracks.len() as u64);
        let mut events = Vec::with_capacity(2 * tracks.len());
        for (found, track) in judgement.faces.iter().zip(tracks) {
            let face = Face {
                sequence: job.frame.sequence,
                width,
                height,
                track,
                bounds: found.bounds,
                score: found.score,
            };
            let (expression, probability) = found.probabilities.best();
            self.tally.emotion(expression);
            let emotion = Emotion {
                face: face.clone(),
                emotion: expression,
                probability,
                probabilities: found.probabilities,
                models: models.to_vec(),
                inference_ms: judgement.inference_ms,
                model_ms: judgement.model_ms,
            };
            events.push(self.event(Kind::FACE, job, track).with_json(&face)?);
            events.push(self.event(Kind::EMOTION, job, track).with_json(&emotion)?);
        }
        Ok(events)
    }

    /// An event made from this frame, about this track.
    fn event(&self, kind: Kind, job: &FrameJob, track: u64) -> Envelope {
        let mut event = self.events.event(kind, job.envelope.source.clone()).with_subject(track.to_string());
        event.stamps = job.envelope.stamps.as_ref().map(|stamps| stamps.follow(job.received_at));
        event.traceparent.clone_from(&job.envelope.traceparent);
        event
    }
}
