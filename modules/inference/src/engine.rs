//! One loaded model with its queue and its threads.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use shunt_infer::{
    BackendError, Backends, Classifier, ExpressionReader, FaceFinder, Model, ModelError, ModelStore, Task,
    Tensor,
};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    InferenceSettings, batch,
    tally::{EngineTally, Tally},
};

/// How much a new run counts against those before it, when the time that a request takes is estimated.
const NEWEST: f64 = 0.2;

/// A loaded model and what it is for.
#[derive(Debug)]
pub(crate) enum Pipeline {
    Classifier(Classifier),
    Expression(ExpressionReader),
    Faces(FaceFinder),
    Tensors(Model),
}

/// How an engine works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EngineOptions {
    /// Threads that run the model.
    pub(crate) workers: usize,
    /// Requests that may wait. One more is turned away: [`Refusal::Full`].
    pub(crate) queue: usize,
    /// Most rows of the first axis that run together, where the model allows it.
    pub(crate) batch: usize,
}

/// What a request gets.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The outputs, in the order of the model's description.
    pub(crate) outputs: Vec<Tensor>,
    /// How long the request waited.
    pub(crate) queued: Duration,
    /// How long the run took that it was part of.
    pub(crate) model: Duration,
    /// How many requests that run answered.
    pub(crate) batch: usize,
}

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// As many wait as may.
    #[error("as many requests as may wait for this model do; the next has its turn in about {} ms", retry_after.as_millis())]
    Full {
        /// When there is likely to be room.
        retry_after: Duration,
    },
    /// It has more rows than run together. What clients are told as the largest batch is the largest.
    #[error("the request has {rows} rows; the setting batch allows {most}")]
    Rows {
        /// Rows of the request.
        rows: usize,
        /// Most that are allowed.
        most: usize,
    },
    /// The model's threads have ended.
    #[error("the model is being taken away")]
    Closed,
    /// The model did not take it, or failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A loaded model with a bounded queue and threads of its own. When the last of its handles is dropped its threads end;
/// nobody can be waiting then.
#[derive(Debug)]
pub(crate) struct Engine(Arc<Shared>);

/// What the handle and the threads share.
#[derive(Debug)]
struct Shared {
    pipeline: Pipeline,
    options: EngineOptions,
    tally: EngineTally,
    /// Do requests that wait together run together?
    together: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    freed: CancellationToken,
    /// Last, so that the model is gone when it is told.
    _freed: DropGuard,
}

#[derive(Debug, Default)]
struct State {
    /// Bounded by [`EngineOptions::queue`]; full: one more is turned away.
    waiting: VecDeque<Waiting>,
    /// The number of the next request.
    next: u64,
    closed: bool,
    /// Seconds that a request takes of a thread, smoothed.
    pace: f64,
}

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    number: u64,
    inputs: Vec<Tensor>,
    since: Instant,
    answer: oneshot::Sender<Result<Answer, Refusal>>,
}

/// A request's place in the queue; given up when it is dropped.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    number: u64,
    answer: Option<oneshot::Receiver<Result<Answer, Refusal>>>,
}

// === impl Pipeline ===

impl Pipeline {
    /// Loads a model for what the catalog says it is for, and warms it up. Heavy.
    pub(crate) fn load(store: &ModelStore, name: &str, backends: &Backends) -> Result<Self, ModelError> {
        Ok(match store.entry(name)?.task {
            Task::Classify => Self::Classifier(Classifier::load(store, name, backends)?),
            Task::Expression => Self::Expression(ExpressionReader::load(store, name, backends)?),
            Task::Face => Self::Faces(FaceFinder::load(store, name, backends)?),
            Task::Tensors => {
                let model = Model::load(store, name, backends)?;
                model.warm_up()?;
                Self::Tensors(model)
            }
        })
    }

    /// The model.
    pub(crate) fn model(&self) -> &Model {
        match self {
            Self::Classifier(classifier) => classifier.model(),
            Self::Expression(reader) => reader.model(),
            Self::Faces(finder) => finder.model(),
            Self::Tensors(model) => model,
        }
    }
}

// === impl EngineOptions ===

impl EngineOptions {
    /// Those of the settings.
    pub(crate) fn of(settings: &InferenceSettings) -> Self {
        Self {
            workers: settings.workers as usize,
            queue: settings.queue as usize,
            batch: settings.batch as usize,
        }
    }
}

// === impl Engine ===

impl Engine {
    /// Starts its threads.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub(crate) fn start(pipeline: Pipeline, options: EngineOptions, tally: &Tally) -> io::Result<Arc<Self>> {
        let (model, freed) = (pipeline.model(), CancellationToken::new());
        let shared = Arc::new(Shared {
            tally: tally.of(model.name()),
            together: AtomicBool::new(options.batch > 1 && model.describe().batches()),
            options,
            pipeline,
            state: Mutex::default(),
            changed: Condvar::new(),
            _freed: freed.clone().drop_guard(),
            freed,
        });
        // Before the threads: if one cannot be started, dropping this ends those that were.
        let engine = Arc::new(Self(Arc::clone(&shared)));
        for number in 0..options.workers.max(1) {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("model-{number}")).spawn(move || shared.work())?;
        }
        Ok(engine)
    }

    /// The model and what it is for.
    pub(crate) fn pipeline(&self) -> &Pipeline {
        &self.0.pipeline
    }

    /// Do requests that wait together run together?
    pub(crate) fn batches(&self) -> bool {
        self.0.together.load(Ordering::Relaxed)
    }

    /// Cancelled when the model's memory was given back: after the last handle was dropped and its threads ended.
    pub(crate) fn freed(&self) -> CancellationToken {
        self.0.freed.clone()
    }

    /// Runs the model when its turn comes. Type and shape are checked before it waits. Who drops this future gives its
    /// place in the queue up.
    pub(crate) async fn infer(&self, inputs: Vec<Tensor>) -> Result<Answer, Refusal> {
        let mut place = self.enter(inputs)?;
        let Some(answer) = &mut place.answer else { return Err(Refusal::Closed) };
        let answered = answer.await;
        place.answer = None;
        answered.unwrap_or(Err(Refusal::Closed))
    }

    /// The same on a thread that may wait. Not on an async one.
    pub(crate) fn infer_blocking(&self, inputs: Vec<Tensor>) -> Result<Answer, Refusal> {
        let mut place = self.enter(inputs)?;
        let answered = place.answer.take().map(oneshot::Receiver::blocking_recv);
        answered.and_then(Result::ok).unwrap_or(Err(Refusal::Closed))
    }

    fn enter(&self, inputs: Vec<Tensor>) -> Result<Place, Refusal> {
        let shared = &self.0;
        shared.pipeline.model().check(&inputs)?;
        let most = shared.options.batch.max(1);
        if shared.pipeline.model().describe().batches()
            && let Some(rows) = batch::rows(&inputs).filter(|rows| *rows > most)
        {
            return Err(Refusal::Rows { rows, most });
        }
        let (sender, receiver) = oneshot::channel();
        let mut state = shared.state.lock();
        if state.waiting.len() >= shared.options.queue {
            shared.tally.full.inc();
            let before_it = (state.waiting.len() + 1) as f64 / shared.options.workers.max(1) as f64;
            return Err(Refusal::Full { retry_after: Duration::from_secs_f64(state.pace * before_it) });
        }
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(Waiting { number, inputs, since: Instant::now(), answer: sender });
        shared.tally.waiting.set(state.waiting.len() as i64);
        drop(state);
        shared.changed.notify_one();
        Ok(Place { shared: Arc::clone(shared), number, answer: Some(receiver) })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_all();
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        if self.answer.take().is_none() {
            return;
        }
        let mut state = self.shared.state.lock();
        let before = state.waiting.len();
        state.waiting.retain(|waiting| waiting.number != self.number);
        if state.waiting.len() < before {
            self.shared.tally.abandoned.inc();
        }
        self.shared.tally.waiting.set(state.waiting.len() as i64);
    }
}

// === impl Shared ===

impl Shared {
    /// A thread's life: runs what waits, until the queue is closed and empty.
    fn work(&self) {
        while let Some(batch) = self.take() {
            self.answer(batch);
        }
    }

    /// The request that waits longest, and those that can run with it. Nothing at the end.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        loop {
            if let Some(first) = state.waiting.pop_front() {
                let mut batch = vec![first];
                if self.together.load(Ordering::Relaxed) {
                    state.gather(&mut batch, self.options.batch);
                }
                self.tally.waiting.set(state.waiting.len() as i64);
                return Some(batch);
            }
            if state.closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Answers requests that run together, or each alone where they do not.
    fn answer(&self, batch: Vec<Waiting>) {
        let batch = if batch.len() > 1 { self.answer_together(batch) } else { batch };
        for waiting in batch {
            let (since, sender) = (waiting.since, waiting.answer);
            let started = Instant::now();
            let answer = self.run(waiting.inputs).map(|outputs| Answer {
                outputs,
                queued: started.duration_since(since),
                model: started.elapsed(),
                batch: 1,
            });
            if let Ok(answer) = &answer {
                self.note(1, answer.model);
            }
            self.tell(sender, answer);
        }
    }

    /// Answers them with one run. Gives back those that must run alone, so that none suffers for another.
    fn answer_together(&self, batch: Vec<Waiting>) -> Vec<Waiting> {
        let started = Instant::now();
        let requests: Vec<&[Tensor]> = batch.iter().map(|waiting| &waiting.inputs[..]).collect();
        let Some((joined, rows)) = batch::join(&requests) else { return batch };
        let model = self.pipeline.model().name();
        let outputs = match self.run(joined) {
            Ok(outputs) => outputs,
            Err(error) => {
                // One of them may be to blame: alone each gets its own answer. The next ones have nothing to do with it.
                tracing::debug!(model, %error, "Requests that ran together failed; each of them runs alone.");
                return batch;
            }
        };
        let took = started.elapsed();
        let Some(answers) = batch::split(&outputs, &rows) else {
            // It says that its first axis is open, and does not keep it: that is so the next time too.
            tracing::warn!(
                model,
                "A model does not answer each row of a batch; requests run alone from now on."
            );
            self.together.store(false, Ordering::Relaxed);
            return batch;
        };
        let count = batch.len();
        self.note(count, took);
        for (waiting, outputs) in batch.into_iter().zip(answers) {
            let queued = started.duration_since(waiting.since);
            self.tell(waiting.answer, Ok(Answer { outputs, queued, model: took, batch: count }));
        }
        Vec::new()
    }

    /// Runs the model. A mistake inside a back end must not end the thread that serves everybody.
    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Refusal> {
        let model = self.pipeline.model();
        let ran = catch_unwind(AssertUnwindSafe(|| model.run(inputs)));
        let ran = ran.unwrap_or_else(|_| {
            let source = BackendError("the back end gave up".to_owned());
            Err(ModelError::Run { model: model.name().to_owned(), source })
        });
        ran.map_err(Refusal::Model)
    }

    fn note(&self, requests: usize, took: Duration) {
        self.tally.batch.observe(requests as f64);
        self.tally.model.observe(took.as_secs_f64());
        let pace = took.as_secs_f64() / requests.max(1) as f64;
        let mut state = self.state.lock();
        state.pace = if state.pace > 0.0 { state.pace + NEWEST * (pace - state.pace) } else { pace };
    }

    fn tell(&self, sender: oneshot::Sender<Result<Answer, Refusal>>, answer: Result<Answer, Refusal>) {
        match &answer {
            Ok(answer) => {
                self.tally.requests.inc();
                self.tally.queue.observe(answer.queued.as_secs_f64());
                self.tally.spent.inc_by(answer.model.as_secs_f64());
            }
            Err(_) => self.tally.failed.inc(),
        }
        // Who asked may have gone meanwhile.
        sender.send(answer).ok();
    }
}

// === impl State ===

impl State {
    /// Adds the requests that can run with the first one, as many as make `most` rows; the others keep their order.
    fn gather(&mut self, batch: &mut Vec<Waiting>, most: usize) {
        let Some(first) = batch.first() else { return };
        let Some(mut rows) = batch::rows(&first.inputs) else { return };
        let mut index = 0;
        while let Some(waiting) = self.waiting.get(index) {
            let fits = batch.first().is_some_and(|first| batch::alike(&first.inputs, &waiting.inputs));
            match batch::rows(&waiting.inputs) {
                Some(more) if fits && rows + more <= most => {
                    rows += more;
                    batch.extend(self.waiting.remove(index));
                }
                _ => index += 1,
            }
        }
    }
}
