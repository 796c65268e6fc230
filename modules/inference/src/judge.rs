//! The judge's thread: frames in, labels out.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shunt_infer::Classification;
use shunt_module::{Events, FrameJob, FrameMailbox};
use shunt_vision::{FramePictures, NoPicture, Picture, Rect};
use shunt_wire::{
    Envelope, EnvelopeError, Kind,
    events::{Label, LabelClass},
};
use tokio::sync::mpsc;

use crate::{
    engine::{Engine, Pipeline, Refusal},
    field_tally::{Failure, FieldTally, Skip},
    outlet::Verdict,
    seen::Seen,
    served::{Engines, Served},
    shadow::Look,
    watch::{Rules, Watch},
};

/// What the judge works with. Reading and fitting frames happens on its own thread (law 6), the models have theirs.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) mailbox: Arc<FrameMailbox>,
    pub(crate) served: Served,
    pub(crate) events: Events,
    pub(crate) tally: FieldTally,
    pub(crate) pictures: FramePictures,
    pub(crate) watch: Watch,
    /// Full: the judge waits, and frames are passed over for newer ones meanwhile.
    pub(crate) verdicts: mpsc::Sender<Verdict>,
}

/// What became of a frame.
enum Outcome {
    Judged(Judgement),
    Skipped(Skip),
    Failed(Failure, String),
}

struct Judgement {
    /// What is to be told, the most probable first.
    seen: Vec<Seen>,
    /// All classes, where the model tells classes: for the second model.
    answer: Option<Classification>,
    /// From pixels to what was seen.
    took: Duration,
    /// Of this, inside the model itself.
    model: Duration,
}

// === impl Judge ===

impl Judge {
    /// Judges frames until the mailbox or the other side is closed.
    pub(crate) fn run(mut self) {
        let mut before: Option<std::sync::Weak<Engines>> = None;
        while let Some(job) = self.mailbox.take() {
            // What has begun ends with the model and the settings it began with.
            let engines = self.served.now();
            let now = Arc::downgrade(&engines);
            if before.as_ref().is_some_and(|before| !before.ptr_eq(&now)) {
                self.watch.forget();
            }
            before = Some(now);
            let Some(verdict) = self.judge(job, &engines) else { continue };
            drop(engines);
            if self.verdicts.blocking_send(verdict).is_err() {
                return;
            }
        }
    }

    fn judge(&mut self, job: FrameJob, engines: &Engines) -> Option<Verdict> {
        let rules = Rules::of(&engines.settings, &job.envelope.source);
        let Some(engine) = &engines.classifier else {
            self.tally.skip(Skip::NoModel);
            return None;
        };
        if let Err(skip) = self.watch.admit(&job.envelope.source, &rules, job.received_at) {
            self.tally.skip(skip);
            return None;
        }
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
        let part = rules.part(&picture);
        let outcome = if self.watch.moved(&job.envelope.source, &rules, &picture, job.received_at) {
            look(engine, &picture, part, (engines.settings.top as usize, rules.min_score as f32))
        } else {
            Outcome::Skipped(Skip::Motion)
        };
        let size = (picture.width, picture.height);
        let verdict = match outcome {
            Outcome::Judged(judgement) => {
                self.tally.inference.observe(judgement.took.as_secs_f64());
                let label = label(&job, size, part, engine.pipeline(), &judgement);
                self.compare(engines, picture, part, judgement.answer);
                // Last, so that whoever sees the frame counted sees its shadow counted too.
                self.tally.frames.inc();
                let Some(label) = label else {
                    self.tally.unsure.inc();
                    return None;
                };
                return self.verdict(&job, &label);
            }
            Outcome::Skipped(skip) => {
                self.tally.skip(skip);
                None
            }
            Outcome::Failed(failure, reason) => {
                self.tally.fail(failure);
                Some(Verdict::Unusable(Box::new(job.envelope), reason))
            }
        };
        self.pictures.give_back(picture);
        verdict
    }

    /// Shows the frame to the second model too, where there is one and it is the frame's turn.
    fn compare(
        &mut self,
        engines: &Engines,
        picture: Picture,
        part: Option<Rect>,
        answer: Option<Classification>,
    ) {
        match (&engines.shadow, answer) {
            (Some(shadow), Some(answer)) if shadow.wants() => shadow.offer(Look { picture, part, answer }),
            _ => self.pictures.give_back(picture),
        }
    }

    fn verdict(&self, job: &FrameJob, label: &Label) -> Option<Verdict> {
        match self.event(job, label) {
            Ok(event) => Some(Verdict::Label(Box::new(event))),
            Err(error) => {
                tracing::error!(%error, "What a frame shows could not be written as an event.");
                None
            }
        }
    }

    /// The event made from this frame.
    fn event(&self, job: &FrameJob, label: &Label) -> Result<Envelope, EnvelopeError> {
        let mut event = self.events.event(Kind::LABEL, job.envelope.source.clone()).with_json(label)?;
        event.stamps = job.envelope.stamps.as_ref().map(|stamps| stamps.follow(job.received_at));
        event.traceparent.clone_from(&job.envelope.traceparent);
        Ok(event)
    }
}

/// Runs the model on the picture or a part of it.
fn look(engine: &Engine, picture: &Picture, part: Option<Rect>, (top, least): (usize, f32)) -> Outcome {
    match judgement(engine, picture, part, (top, least)) {
        Ok(judgement) => Outcome::Judged(judgement),
        Err(Refusal::Full { .. }) => Outcome::Skipped(Skip::Busy),
        Err(Refusal::Closed) => Outcome::Skipped(Skip::NoModel),
        Err(error @ (Refusal::Rows { .. } | Refusal::Model(_))) => {
            Outcome::Failed(Failure::Model, error.to_string())
        }
    }
}

fn judgement(
    engine: &Engine,
    picture: &Picture,
    part: Option<Rect>,
    (top, least): (usize, f32),
) -> Result<Judgement, Refusal> {
    let started = Instant::now();
    let pipeline = engine.pipeline();
    let prepared = pipeline.prepare(picture, part)?;
    let answer = engine.infer_blocking(prepared.inputs)?;
    let model = answer.model;
    let (seen, answer) = match pipeline {
        Pipeline::Classifier(classifier) => {
            let answer = Classification { probabilities: classifier.read(answer.outputs)?, model };
            let seen = classifier.name(&answer, top).into_iter().map(|class| Seen {
                index: class.index,
                label: class.label,
                probability: class.probability,
                bounds: None,
            });
            (seen.collect(), Some(answer))
        }
        other => (other.read(answer.outputs, prepared.shown, top, least)?, None),
    };
    let mut seen: Vec<Seen> = seen;
    seen.retain(|seen| seen.probability >= least);
    Ok(Judgement { seen, answer, took: started.elapsed(), model })
}

/// What there is to tell of a frame; nothing where nothing is probable enough.
fn label(
    job: &FrameJob,
    (width, height): (u32, u32),
    region: Option<Rect>,
    pipeline: &Pipeline,
    judgement: &Judgement,
) -> Option<Label> {
    let best = judgement.seen.first()?;
    let class = |seen: &Seen| LabelClass {
        label: seen.label.clone(),
        index: seen.index as u32,
        probability: seen.probability,
        bounds: seen.bounds,
    };
    let model = pipeline.model();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Some(Label {
        sequence: job.frame.sequence,
        width,
        height,
        region,
        label: best.label.clone(),
        probability: best.probability,
        classes: judgement.seen.iter().map(class).collect(),
        model: model.name().to_owned(),
        digest: model.digest().to_owned(),
        backend: model.chosen().name.to_owned(),
        inference_ms: ms(judgement.took),
        model_ms: ms(judgement.model),
    })
}
