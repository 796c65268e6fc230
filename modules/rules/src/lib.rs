//! Rules: watches events, and acts on what they mean together.
//!
//! A rule says which events it looks at, how they are put together in windows, when an alert is raised and cleared, and
//! what is done then: `shunt/alert/<rule>` and `shunt/window/<rule>` on the bus, calls of modules and functions, direct
//! methods, pictures, settings of other modules. What a rule may say is told in `docs/rules.md`; the engine is
//! `shunt-rules`.
//!
//! It promises:
//!
//! - A set of rules is taken as a whole, and refused rule by rule with the place of what is wrong; the last good set
//!   works on.
//! - A rule that fails (an expression, an action) is told by an alert, the health page and `GET /rules`; the others go
//!   on.
//! - Windows and raised alerts survive a restart: they are written whole or not at all, every `save_every_s` seconds and
//!   at the end. What was counted in the last of these seconds is lost where the module is killed, and nothing where it
//!   ends in order. An alert is told at least once: after a loss it may come again, with the same id; only one that the
//!   broker does not take until the end is lost.
//! - Memory is bounded: by the number of groups, the parts of their windows, and the check of both.
//! - Silence is judged only while the bus is there, and counted anew when it comes back: where no event can come, none
//!   is missed.
//!
//! It deliberately keeps no event, sends nothing to the hub itself (`relay` takes alerts and windows there), and runs no
//! code but expressions; programs are for `functions`.
//!
//! ```
//! use rules::RulesSettings;
//! use shunt_module::Settings;
//!
//! assert_eq!(RulesSettings::MODULE, "rules");
//! assert!(RulesSettings::default().rules.is_empty());
//! ```

mod api;
mod board;
mod book;
mod clock;
mod desk;
mod intake;
mod outlet;
mod sensor;
mod settings;
mod store;
mod tally;
mod trial;
mod trier;

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};
use shunt_bus::{Bus, BusState};
use shunt_module::{Context, Health, Problems, Proposal};
use shunt_wire::TopicFilter;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

pub use crate::settings::RulesSettings;
use crate::{
    api::Api,
    board::Board,
    desk::{Desk, Ended},
    intake::{Intake, Lane},
    outlet::Outlet,
    store::Store,
    tally::Tally,
    trier::Trier,
};

/// How often the engine is told what time it is.
const TICK: Duration = Duration::from_secs(1);
/// After the bus has come (back), time stands still for the rules so long: what the broker kept for us comes first.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a saving waits for what was given out before to be published.
const PUBLISHED: Duration = Duration::from_secs(3);
/// Most dead letters: one in this time.
const LETTER_PAUSE: Duration = Duration::from_secs(1);

/// Runs the module until shutdown.
pub async fn run(mut context: Context<RulesSettings>) -> anyhow::Result<()> {
    let tally = Tally::new()?;
    tally.register(&context.metrics)?;
    let (desk, outputs) = Desk::start(clock::now_ms())?;
    context.health.set("subscriptions", Err("the rules are being read".to_owned()));
    let board = Board::new(context.health.clone(), context.facts.clone());
    let settings = context.settings.current();
    let trier = Trier::new(settings.limits());
    context.serve(api::routes(Api { desk: desk.clone(), board: board.clone(), trier: trier.clone() }));
    let mut reloads = context.methods.queue("reload")?;
    let for_method = trier.clone();
    context.methods.on("test", move |payload| test(for_method.clone(), payload))?;

    let (done, published) = watch::channel(0);
    let end_of_output = CancellationToken::new();
    let outlet = Outlet {
        bus: context.bus.clone(),
        hub: context.hub.clone(),
        events: context.events.clone(),
        services: context.services(),
        tally: tally.clone(),
        board: board.clone(),
        tasks: context.tasks.clone(),
        places: Outlet::places(),
        done,
    };
    let giving = tokio::spawn(outlet.run(outputs, end_of_output.clone()));
    let intake = Intake::new(Lane {
        bus: context.bus.clone(),
        desk: desk.clone(),
        letters: context.dead_letters().at_most_every(LETTER_PAUSE),
        tally: tally.clone(),
        health: context.health.clone(),
        shutdown: context.shutdown.clone(),
    });
    let store = Store::new(&context.common.data_dir);
    let mut office = Office {
        desk,
        board,
        trier,
        tally,
        store,
        intake,
        published,
        filters: Vec::new(),
        owed: false,
        restored: false,
        bus: context.bus.clone(),
        health: context.health.clone(),
    };
    let shutdown = context.shutdown.clone();
    let working = office.work(&mut context, &settings, &mut reloads);
    if let Some(ended) = shutdown.run_until_cancelled(working).await {
        ended?;
    }
    let end = office.end().await;
    end_of_output.cancel();
    // The drain ends this where the broker takes nothing more.
    giving.await?;
    drop(end);
    Ok(())
}

/// The table of the module's metrics, in Markdown, for the reference.
pub fn metrics_table() -> anyhow::Result<String> {
    let collectors = Tally::new()?.collectors();
    let collectors: Vec<_> = collectors.iter().map(AsRef::as_ref).collect();
    Ok(shunt_module::docs::metrics_table(&collectors))
}

/// The direct method `test`.
async fn test(trier: Trier, payload: Value) -> (u16, Value) {
    let question = move || serde_json::from_value(payload).map_err(|error| error.to_string());
    match trier.answer(question).await {
        Ok(answer) => (200, serde_json::to_value(answer).unwrap_or_default()),
        Err(message) => (400, json!({ "message": message })),
    }
}

/// Everything around the engine.
struct Office {
    desk: Desk,
    board: Board,
    trier: Trier,
    tally: Tally,
    store: Store,
    intake: Intake,
    published: watch::Receiver<u64>,
    filters: Vec<TopicFilter>,
    /// Was a state not written because what it tells was not published yet?
    owed: bool,
    /// Were the windows of the last life taken? Before, there is nothing to write over them.
    restored: bool,
    bus: Bus,
    health: Health,
}

// === impl Office ===

impl Office {
    async fn work(
        &mut self,
        context: &mut Context<RulesSettings>,
        settings: &Arc<RulesSettings>,
        reloads: &mut shunt_module::MethodQueue,
    ) -> anyhow::Result<()> {
        if let Err(problems) = self.set(settings).await? {
            tracing::error!("The rules of the file cannot be used: {problems}.");
            self.health.note("file", problems.to_string());
            let without = RulesSettings { file: String::new(), ..(**settings).clone() };
            // Those of the settings were checked.
            if let Err(problems) = self.set(&Arc::new(without)).await? {
                tracing::error!("No rules can be used: {problems}.");
            }
        }
        self.restore().await?;
        self.restored = true;
        self.intake.set(&self.filters);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut since, mut saved, mut measured) = (None, Instant::now(), None);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let settings = context.settings.current();
                    self.tick(&mut since).await?;
                    if is_due(measured, settings.temperature_every_s) {
                        measured = Some(Instant::now());
                        self.measure(settings.thermal_dir.clone().into()).await?;
                    }
                    if saved.elapsed() >= Duration::from_secs(settings.save_every_s) {
                        self.save(false).await?;
                        saved = Instant::now();
                    }
                }
                change = context.settings.change() => self.change(change).await?,
                call = reloads.next() => {
                    let (status, answer) = self.reload(&context.settings.current()).await?;
                    call.answer(status, answer);
                }
            }
        }
    }

    /// These rules from now on; or why they cannot be used.
    async fn set(&mut self, settings: &Arc<RulesSettings>) -> Result<Result<usize, Problems>, Ended> {
        let wanted = Arc::clone(settings);
        let opening = tokio::task::spawn_blocking(move || book::open(&wanted));
        let opened = opening.await.unwrap_or_else(|error| {
            let mut problems = Problems::default();
            problems.note("rules", format!("reading them ended early: {error}"));
            Err(problems)
        });
        let (written, set) = match opened {
            Ok(opened) => opened,
            Err(problems) => return Ok(Err(problems)),
        };
        let rules = set.len();
        self.filters = set.filters();
        self.desk.replace(set, settings.limits()).await?;
        self.trier.set(written);
        if settings.rule_file().is_some() {
            self.health.note("file", "read");
        }
        Ok(Ok(rules))
    }

    async fn change(&mut self, change: Proposal<RulesSettings>) -> Result<(), Ended> {
        match self.set(&change.settings).await? {
            Ok(_) => {
                self.intake.set(&self.filters);
                change.accept();
            }
            Err(problems) => {
                tracing::warn!("New rules are refused, those in force work on: {problems}.");
                change.refuse(problems);
            }
        }
        Ok(())
    }

    /// The direct method `reload`.
    async fn reload(&mut self, settings: &Arc<RulesSettings>) -> Result<(u16, Value), Ended> {
        Ok(match self.set(settings).await? {
            Ok(rules) => {
                self.intake.set(&self.filters);
                (200, json!({ "rules": rules }))
            }
            Err(problems) => (409, json!({"message": format!("the rules in force work on: {problems}")})),
        })
    }

    async fn tick(&mut self, since: &mut Option<Instant>) -> Result<(), Ended> {
        if matches!(*self.bus.state().borrow(), BusState::Connected) {
            if since.is_none() {
                self.desk.listen_anew(clock::now_ms()).await?;
            }
            if since.get_or_insert_with(Instant::now).elapsed() >= SETTLE {
                self.desk.tick(clock::now_ms()).await?;
            }
        } else {
            *since = None;
        }
        let (rules, groups) = self.desk.rules().await?;
        self.tally.rules(&rules);
        self.tally.groups.set(groups as i64);
        self.board.tell(&rules);
        Ok(())
    }

    /// The device's temperatures, where a rule looks at them.
    async fn measure(&mut self, folder: PathBuf) -> Result<(), Ended> {
        if !self.filters.iter().any(sensor::is_wanted) {
            return Ok(());
        }
        let reading = tokio::task::spawn_blocking(move || sensor::read(&folder));
        let events = reading.await.unwrap_or_default();
        self.health.note("temperature", format!("{} sensors", events.len()));
        for event in events {
            self.desk.take(event, clock::now_ms(), None).await?;
        }
        Ok(())
    }

    /// The windows of the last life.
    async fn restore(&mut self) -> Result<(), Ended> {
        let store = self.store.clone();
        let loading = tokio::task::spawn_blocking(move || store.load());
        let loaded = loading.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let problem = match loaded {
            Ok(None) => return Ok(()),
            Ok(Some(bytes)) => match self.desk.restore(bytes).await? {
                Ok(left) if left.is_empty() => return Ok(()),
                Ok(left) => {
                    let rules = left.join(", ");
                    tracing::info!(rules, "Windows of rules that have changed or are gone begin anew.");
                    return Ok(());
                }
                Err(problem) => problem,
            },
            Err(error) => error.to_string(),
        };
        let store = self.store.clone();
        let moving = tokio::task::spawn_blocking(move || store.move_aside());
        let moved = matches!(moving.await, Ok(Ok(_)));
        tracing::error!(problem, moved, "The windows of the last run are not readable; all begin anew.");
        Ok(())
    }

    /// Writes the windows to disk, once what they tell as raised is published. At the end they are written even if it
    /// is not: what was counted would be lost else, and there are some seconds left to publish it.
    async fn save(&mut self, at_end: bool) -> Result<(), Ended> {
        let Some(saved) = self.desk.save(at_end || self.owed).await? else { return Ok(()) };
        let told = self.published.wait_for(|done| *done >= saved.outputs);
        let is_told = matches!(timeout(PUBLISHED, told).await, Ok(Ok(_)));
        if !is_told && at_end {
            tracing::warn!("The windows are written although the bus has not yet taken all that they tell.");
        } else if !is_told {
            self.owed = true;
            self.health.note("windows", "not written: the bus does not take what they tell");
            return Ok(());
        }
        let store = self.store.clone();
        let writing = tokio::task::spawn_blocking(move || match saved.bytes {
            Ok(bytes) => store.save(saved.number, &bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        });
        let written = writing.await.unwrap_or_else(|error| Err(error.to_string()));
        self.owed = written.is_err();
        self.tally.saved(written.is_ok());
        match written {
            Ok(()) => self.health.note("windows", "written"),
            Err(error) => {
                tracing::error!(error, "The windows cannot be written; a restart would lose them.");
                self.health.note("windows", format!("not written: {error}"));
            }
        }
        Ok(())
    }

    /// Nothing more is taken from the bus; the windows are written.
    async fn end(&mut self) -> Vec<shunt_bus::Subscription> {
        let subscriptions = self.intake.end().await;
        // Always: a writing that the shutdown has cut off is made up for. One that is still at work comes first.
        if self.restored && self.save(true).await.is_err() {
            tracing::error!(
                "The engine of the rules has ended early; the windows are those of the last writing."
            );
        }
        subscriptions
    }
}

/// Has so much time gone by since then? 0 seconds: never.
fn is_due(last: Option<Instant>, every_s: u64) -> bool {
    every_s > 0 && last.is_none_or(|last| last.elapsed() >= Duration::from_secs(every_s))
}
