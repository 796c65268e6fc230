//! The engine on a thread of its own.

use shunt_bus::Ack;
use shunt_rules::{Engine, Event, Limits, Output, RuleSet, RuleState};
use tokio::sync::{mpsc, oneshot};

/// Most commands that wait for the engine. When they are, the intake waits: the broker keeps assured events, and of
/// fast ones the newest come through.
const WAITING: usize = 1_024;
/// Most outputs that wait to be published. When they are, the engine waits, and with it the intake.
const OUTPUTS: usize = 1_024;

/// What the engine is asked. Times in milliseconds since 1970.
#[derive(Debug)]
enum Command {
    Event { event: Box<Event>, now: i64, ack: Option<Ack> },
    Tick { now: i64 },
    Listen { now: i64 },
    Replace { set: RuleSet, limits: Limits },
    Restore { bytes: Vec<u8>, reply: oneshot::Sender<Result<Vec<String>, String>> },
    Save { even_so: bool, reply: oneshot::Sender<Option<Saved>> },
    Rules { reply: oneshot::Sender<(Vec<RuleState>, usize)> },
}

/// The state of all windows.
#[derive(Debug)]
pub(crate) struct Saved {
    /// For the file.
    pub(crate) bytes: Result<Vec<u8>, String>,
    /// So many outputs had been given out by then: what they tell is in the state.
    pub(crate) outputs: u64,
    /// The number of the state, from 1.
    pub(crate) number: u64,
}

/// Asks the engine, from anywhere. The thread ends with the last of them.
#[derive(Debug, Clone)]
pub(crate) struct Desk(mpsc::Sender<Command>);

/// The engine has ended.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the engine of the rules has ended")]
pub(crate) struct Ended;

// === impl Desk ===

impl Desk {
    /// Starts the thread, with no rules.
    pub(crate) fn start(now: i64) -> std::io::Result<(Self, mpsc::Receiver<Output>)> {
        let (commands, mut inbox) = mpsc::channel(WAITING);
        let (outbox, outputs) = mpsc::channel(OUTPUTS);
        std::thread::Builder::new().name("rules".to_owned()).spawn(move || {
            let mut worker = Worker {
                engine: Engine::new(RuleSet::default(), Limits::default(), now),
                out: Vec::new(),
                dirty: false,
                given: 0,
                saved: 0,
            };
            while let Some(command) = inbox.blocking_recv() {
                let ack = worker.work(command);
                for output in worker.out.drain(..) {
                    worker.given += 1;
                    if outbox.blocking_send(output).is_err() {
                        return;
                    }
                }
                // After what it led to is on its way. The windows are on disk a little later: see `save_every_s`.
                if let Some(ack) = ack {
                    ack.ack();
                }
            }
        })?;
        Ok((Self(commands), outputs))
    }

    pub(crate) async fn take(&self, event: Event, now: i64, ack: Option<Ack>) -> Result<(), Ended> {
        self.send(Command::Event { event: Box::new(event), now, ack }).await
    }

    pub(crate) async fn tick(&self, now: i64) -> Result<(), Ended> {
        self.send(Command::Tick { now }).await
    }

    /// No event could come until now: silence is counted anew.
    pub(crate) async fn listen_anew(&self, now: i64) -> Result<(), Ended> {
        self.send(Command::Listen { now }).await
    }

    /// Other rules from now on; those that say the same keep their windows.
    pub(crate) async fn replace(&self, set: RuleSet, limits: Limits) -> Result<(), Ended> {
        self.send(Command::Replace { set, limits }).await
    }

    /// Takes a saved state; names the rules in it that are not those of now.
    pub(crate) async fn restore(&self, bytes: Vec<u8>) -> Result<Result<Vec<String>, String>, Ended> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Restore { bytes, reply }).await?;
        answer.await.map_err(|_| Ended)
    }

    /// The state; nothing if nothing has changed since it was asked for last, unless it is wanted even so.
    pub(crate) async fn save(&self, even_so: bool) -> Result<Option<Saved>, Ended> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Save { even_so, reply }).await?;
        answer.await.map_err(|_| Ended)
    }

    /// What there is to know of each rule, and how many groups all have.
    pub(crate) async fn rules(&self) -> Result<(Vec<RuleState>, usize), Ended> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Rules { reply }).await?;
        answer.await.map_err(|_| Ended)
    }

    async fn send(&self, command: Command) -> Result<(), Ended> {
        self.0.send(command).await.map_err(|_| Ended)
    }
}

/// The thread's own.
struct Worker {
    engine: Engine,
    out: Vec<Output>,
    /// Has anything changed since the last save?
    dirty: bool,
    /// Outputs given out.
    given: u64,
    /// States given out to be saved.
    saved: u64,
}

// === impl Worker ===

impl Worker {
    fn work(&mut self, command: Command) -> Option<Ack> {
        // Whoever asked may have gone; then nobody wants the answer.
        match command {
            Command::Event { event, now, ack } => {
                self.engine.take(&event, now, &mut self.out);
                self.dirty = true;
                return ack;
            }
            Command::Tick { now } => {
                self.engine.tick(now, &mut self.out);
                self.dirty |= !self.out.is_empty();
            }
            Command::Listen { now } => {
                self.engine.listen_anew(now);
                self.dirty = true;
            }
            Command::Replace { set, limits } => {
                self.engine.set_limits(limits);
                self.engine.replace(set);
                self.dirty = true;
            }
            Command::Restore { bytes, reply } => {
                reply.send(self.engine.restore(&bytes).map_err(|error| error.to_string())).ok();
            }
            Command::Save { even_so, reply } => {
                let wanted = self.dirty || even_so;
                self.saved += u64::from(wanted);
                let saved = wanted.then(|| Saved {
                    bytes: self.engine.save().map_err(|error| error.to_string()),
                    outputs: self.given,
                    number: self.saved,
                });
                self.dirty = false;
                reply.send(saved).ok();
            }
            Command::Rules { reply } => {
                reply.send((self.engine.rules(), self.engine.groups())).ok();
            }
        }
        None
    }
}
