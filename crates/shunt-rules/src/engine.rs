//! All rules over all events.

use std::{
    collections::{BTreeMap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shunt_wire::{
    Kind, Name, Topic, TopicFilter,
    events::{Alert, AlertState, Window as WindowData},
};
use time::OffsetDateTime;

use crate::{
    act::{Act, Content, Output},
    aggregate::Input,
    alarm::{Alarm, Change},
    event::{Event, Paths, View},
    expression::{Expression, ExpressionError},
    group::{Closed, Group},
    rule::{Deed, Problem, Rule, Window},
    sketch,
    spec::On,
    value::{Val, plain},
};

/// Most topics whose rules are remembered; when there are more, all are looked up anew.
const ROUTES: usize = 10_000;
/// The longest name of a group, in bytes.
const LONGEST_GROUP: usize = 512;
/// How much longer than the lateness a group must be quiet before the clock closes its windows.
const QUIET_MS: i64 = 2_000;
/// A group that keeps nothing is forgotten after this time.
const FORGET_MS: i64 = 60_000;
/// A clock that goes back by more was set; by less, events of two topics have overtaken one another.
const SET_BACK_MS: i64 = 10_000;
/// A rule that goes on failing tells it again after this time.
const TELL_FAILURE_MS: i64 = 300_000;
/// Most groups with raised alerts that the state of a rule names.
const SHOWN: usize = 20;
/// The version of the state on disk.
const VERSION: u32 = 1;

/// Bounds of a set of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most rules.
    pub rules: usize,
    /// Most bytes that the windows of all rules together may need; what a rule may need follows from its window, its
    /// values and `max_groups`.
    pub bytes: usize,
    /// An event whose time is so many milliseconds ahead of the clock counts nowhere.
    pub ahead_ms: i64,
}

/// Rules, checked and compiled.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    paths: Paths,
}

/// All rules at work.
///
/// It reads no clock: [`Engine::take`] and [`Engine::tick`] say what time it is, so the same events at the same times
/// have the same results.
#[derive(Debug)]
pub struct Engine {
    set: RuleSet,
    states: Vec<State>,
    limits: Limits,
    /// The rules that look at a topic.
    routes: HashMap<String, Box<[usize]>>,
    now: i64,
    /// Room to write a group's name into.
    name: String,
}

/// The state of one rule.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    digest: u64,
    groups: HashMap<Box<str>, Group>,
    counters: Counters,
    last_failure: Option<Failure>,
    last_alert: Option<(String, String)>,
    #[serde(skip)]
    told_failure: Option<i64>,
    /// It failed inside; it is not asked any more.
    #[serde(skip)]
    broken: bool,
}

/// What a rule has counted since its definition changed last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Events of its topics.
    pub events: u64,
    /// Those that `where` let through, and that counted.
    pub counted: u64,
    /// Those that came too late.
    pub late: u64,
    /// Those whose time was ahead of the clock.
    pub ahead: u64,
    /// Expressions that failed.
    pub failures: u64,
    /// Windows closed.
    pub windows: u64,
    /// Alerts raised.
    pub raised: u64,
    /// Groups forgotten because there were too many.
    pub evicted: u64,
}

/// What went wrong last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which part of the rule: `where`, `values.mean`.
    pub part: String,
    /// What was wrong.
    pub message: String,
    /// When, RFC 3339 in UTC.
    pub at: String,
}

/// What there is to know of a rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleState {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// Is it at work?
    pub enabled: bool,
    /// Its topics.
    pub from: Vec<String>,
    /// Groups that it keeps.
    pub groups: usize,
    /// Groups whose alert is raised, with the time since when; the first 20.
    pub raised: Vec<RaisedGroup>,
    /// Its counters.
    pub counters: Counters,
    /// Its last alert.
    pub last_alert: Option<String>,
    /// When that was.
    pub last_alert_at: Option<String>,
    /// What went wrong last.
    pub last_failure: Option<Failure>,
    /// It failed inside and is not asked any more.
    pub broken: bool,
}

/// A group whose alert is raised.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RaisedGroup {
    /// The group.
    pub group: Map<String, Value>,
    /// Since when, RFC 3339 in UTC.
    pub since: String,
}

/// Why a state on disk is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Not of our form.
    #[error("the state of the rules is not readable: {0}")]
    Json(#[from] serde_json::Error),
    /// Of another version.
    #[error("the state of the rules is of version {0}, version {VERSION} is understood")]
    Version(u32),
}

#[derive(Serialize)]
struct Saved<'a> {
    version: u32,
    rules: BTreeMap<&'a str, &'a State>,
}

#[derive(Deserialize)]
struct Restored {
    version: u32,
    #[serde(default)]
    rules: BTreeMap<String, State>,
}

/// A failure of one part of a rule.
struct PartFailure {
    part: String,
    error: ExpressionError,
}

/// One rule at work on one event or one moment.
struct Turn<'a, 'o> {
    rule: &'a Rule,
    paths: &'a Paths,
    now: i64,
    /// The bound of the times of events: see [`Limits::ahead_ms`].
    ahead: i64,
    out: &'o mut Vec<Output>,
    failures: Vec<PartFailure>,
    counters: Counters,
    last_alert: Option<(String, String)>,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { rules: 200, bytes: 128 * 1024 * 1024, ahead_ms: 60_000 }
    }
}

// === impl RuleSet ===

impl RuleSet {
    /// Checks and compiles rules, by name.
    ///
    /// # Errors
    ///
    /// Every problem of every rule, with the rule's name; an empty name is about all together.
    pub fn compile<'a>(
        rules: impl IntoIterator<Item = (&'a str, &'a Value)>,
        limits: &Limits,
    ) -> Result<Self, Vec<(String, Problem)>> {
        let (mut set, mut problems) = (Self::default(), Vec::new());
        for (name, value) in rules {
            match Rule::compile(name, value, &mut set.paths) {
                Ok(rule) => set.rules.push(rule),
                Err(found) => problems.extend(found.into_iter().map(|problem| (name.to_owned(), problem))),
            }
        }
        let whole = |message: String| (String::new(), Problem::new(&[], message));
        if set.rules.len() > limits.rules {
            problems.push(whole(format!(
                "there are {} rules, {} are allowed",
                set.rules.len(),
                limits.rules
            )));
        }
        let bytes: usize = set.rules.iter().map(Rule::bytes).sum();
        if bytes > limits.bytes {
            let heaviest = set.rules.iter().max_by_key(|rule| rule.bytes());
            let name = heaviest.map_or("", |rule| rule.name.as_str());
            let most = heaviest.map_or(0, Rule::bytes);
            let mb = |bytes: usize| bytes.div_ceil(1024 * 1024);
            problems.push((
                name.to_owned(),
                Problem::new(
                    &["max_groups"],
                    format!(
                        "the windows of all rules may need {} MB, {} MB are allowed; {} MB are this rule's: fewer groups, fewer parts of a window (every) or fewer percentiles need less",
                        mb(bytes), mb(limits.bytes), mb(most)
                    ),
                ),
            ));
        }
        problems.extend(set.circles());
        if problems.is_empty() { Ok(set) } else { Err(problems) }
    }

    /// Rules that look at what comes of themselves, by way of other rules: they would wake one another for ever.
    fn circles(&self) -> Vec<(String, Problem)> {
        let wakes = |from: &Rule, to: &Rule| {
            [Kind::ALERT, Kind::WINDOW].into_iter().any(|kind| {
                let topic = Topic::new(kind, from.name.clone()).to_string();
                to.from.iter().any(|filter| filter.matches(&topic))
            })
        };
        let woken = |from: &Rule| -> Vec<usize> {
            let rules = self.rules.iter().enumerate();
            rules.filter(|(_, to)| wakes(from, to)).map(|(index, _)| index).collect()
        };
        // Hardly any rule looks at another one.
        let woken: Vec<Vec<usize>> = self.rules.iter().map(woken).collect();
        let mut problems = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let (mut seen, mut next) =
                (vec![false; self.rules.len()], woken.get(index).cloned().unwrap_or_default());
            while let Some(one) = next.pop() {
                if let Some(seen) = seen.get_mut(one).filter(|seen| !**seen) {
                    *seen = true;
                    next.extend(woken.get(one).into_iter().flatten());
                }
            }
            if seen.get(index).copied().unwrap_or_default() {
                let message = "by way of other rules it looks at its own alerts or windows";
                problems.push((rule.name.to_string(), Problem::new(&["from"], message)));
            }
        }
        problems
    }

    /// The topics that the rules look at, each once.
    pub fn filters(&self) -> Vec<TopicFilter> {
        let enabled = self.rules.iter().filter(|rule| rule.spec.enabled);
        let mut filters: Vec<_> = enabled.flat_map(|rule| rule.from.iter().cloned()).collect();
        filters.sort();
        filters.dedup();
        filters
    }

    /// Bytes that the windows may need at most.
    pub fn bytes(&self) -> usize {
        self.rules.iter().map(Rule::bytes).sum()
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

// === impl Engine ===

impl Engine {
    /// The rules, at this time (milliseconds since 1970), with nothing in their windows.
    pub fn new(set: RuleSet, limits: Limits, now: i64) -> Self {
        let states = set.rules.iter().map(State::of).collect();
        let mut engine = Self { set, states, limits, routes: HashMap::new(), now, name: String::new() };
        engine.begin_silence();
        engine
    }

    /// Other rules from now on: those that say the same keep their windows.
    pub fn replace(&mut self, set: RuleSet) {
        let old = std::mem::take(&mut self.states);
        let mut kept: BTreeMap<Name, State> =
            self.set.rules.iter().map(|rule| rule.name.clone()).zip(old).collect();
        self.states = set.rules.iter().map(|rule| State::kept(rule, kept.remove(&rule.name))).collect();
        self.set = set;
        self.routes.clear();
        self.begin_silence();
    }

    /// The bounds for events from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The rules of silence without groups have theirs from the beginning.
    fn begin_silence(&mut self) {
        for (rule, state) in self.set.rules.iter().zip(&mut self.states) {
            if rule.spec.enabled && matches!(rule.window, Window::Silence { .. }) && rule.group_by.is_empty()
            {
                state.groups.entry(Box::from("")).or_insert_with(|| Group::new(Vec::new(), self.now));
            }
        }
    }

    /// Does any rule look at this topic?
    pub fn wants(&mut self, topic: &str) -> bool {
        !self.route(topic).is_empty()
    }

    fn route(&mut self, topic: &str) -> &[usize] {
        if !self.routes.contains_key(topic) {
            if self.routes.len() >= ROUTES {
                self.routes.clear();
            }
            let rules = self.set.rules.iter().enumerate();
            let looks =
                |rule: &Rule| rule.spec.enabled && rule.from.iter().any(|filter| filter.matches(topic));
            let found = rules.filter(|(_, rule)| looks(rule)).map(|(index, _)| index).collect();
            self.routes.insert(topic.to_owned(), found);
        }
        self.routes.get(topic).map(|found| &**found).unwrap_or_default()
    }

    /// An event that comes at this time (milliseconds since 1970); what it leads to is added to `out`.
    pub fn take(&mut self, event: &Event, now: i64, out: &mut Vec<Output>) {
        self.keep_time(now);
        if self.route(&event.topic).is_empty() {
            return;
        }
        let Self { set, states, limits, routes, now, name } = self;
        let view = View::of_event(event, &set.paths);
        for index in routes.get(&event.topic).map(|found| &**found).unwrap_or_default() {
            let (Some(rule), Some(state)) = (set.rules.get(*index), states.get_mut(*index)) else { continue };
            state.counters.events += 1;
            if event.time_ms > now.saturating_add(limits.ahead_ms) {
                state.counters.ahead += 1;
                continue;
            }
            let ahead = limits.ahead_ms;
            state
                .turn(rule, &set.paths, *now, ahead, out, |state, turn| turn.take(state, &view, event, name));
        }
    }

    /// Time goes forward, but for a clock that was set back: then all follow it.
    fn keep_time(&mut self, now: i64) {
        if now >= self.now.saturating_sub(SET_BACK_MS) {
            self.now = self.now.max(now);
            return;
        }
        self.now = now;
        for state in &mut self.states {
            state.told_failure = None;
            for group in state.groups.values_mut() {
                group.seen = group.seen.min(now);
                group.newest = group.newest.min(now);
            }
        }
    }

    /// No event could come until now: what is not silent yet is so from now on at the earliest.
    pub fn listen_anew(&mut self, now: i64) {
        self.keep_time(now);
        for (rule, state) in self.set.rules.iter().zip(&mut self.states) {
            if matches!(rule.window, Window::Silence { .. }) {
                for group in state.groups.values_mut().filter(|group| !group.alarm.is_raised()) {
                    group.newest = group.newest.max(now);
                }
            }
        }
    }

    /// Time goes on: windows of quiet groups close, silence is noticed. What it leads to is added to `out`, in the
    /// order of its time.
    pub fn tick(&mut self, now: i64, out: &mut Vec<Output>) {
        self.keep_time(now);
        let mut found = Vec::new();
        let Self { set, states, now, limits, .. } = self;
        for (rule, state) in set.rules.iter().zip(states) {
            if rule.spec.enabled {
                let ahead = limits.ahead_ms;
                state.turn(rule, &set.paths, *now, ahead, &mut found, |state, turn| turn.tick(state));
            }
        }
        found.sort_by(|one, other| (one.at(), one.id()).cmp(&(other.at(), other.id())));
        out.append(&mut found);
    }

    /// The state of all windows and alerts, for a file.
    pub fn save(&self) -> Result<Vec<u8>, serde_json::Error> {
        let rules = self.set.rules.iter().map(|rule| rule.name.as_str()).zip(&self.states).collect();
        serde_json::to_vec(&Saved { version: VERSION, rules })
    }

    /// Takes a saved state, of those rules that say the same as then. Names the others that were in it.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<Vec<String>, RestoreError> {
        let mut saved: Restored = serde_json::from_slice(bytes)?;
        if saved.version != VERSION {
            return Err(RestoreError::Version(saved.version));
        }
        let mut left = Vec::new();
        for (rule, state) in self.set.rules.iter().zip(&mut self.states) {
            match saved.rules.remove(rule.name.as_str()) {
                Some(old) if old.digest == rule.digest => {
                    *state = old;
                    // The clock may close a group's windows only after it was quiet in this life too.
                    state.groups.values_mut().for_each(|group| group.seen = self.now);
                }
                Some(_) => left.push(rule.name.to_string()),
                None => {}
            }
        }
        left.extend(saved.rules.into_keys());
        self.begin_silence();
        Ok(left)
    }

    /// What there is to know of each rule.
    pub fn rules(&self) -> Vec<RuleState> {
        self.set.rules.iter().zip(&self.states).map(|(rule, state)| state.tell(rule)).collect()
    }

    /// The topics that the rules look at.
    pub fn filters(&self) -> Vec<TopicFilter> {
        self.set.filters()
    }

    /// Groups kept by all rules.
    pub fn groups(&self) -> usize {
        self.states.iter().map(|state| state.groups.len()).sum()
    }
}

// === impl Failure ===

impl Failure {
    /// Was it at this time (milliseconds since 1970) or later?
    pub fn is_since(&self, ms: i64) -> bool {
        // The order of the texts is that of the times.
        self.at >= rfc3339(ms)
    }
}

// === impl State ===

impl State {
    fn of(rule: &Rule) -> Self {
        Self { digest: rule.digest, ..Self::default() }
    }

    /// The old state, if the rule says the same.
    fn kept(rule: &Rule, old: Option<Self>) -> Self {
        match old {
            Some(old) if old.digest == rule.digest => Self { broken: false, ..old },
            _ => Self::of(rule),
        }
    }

    /// One turn of the rule. What goes wrong stays within it.
    fn turn<'a, 'o>(
        &mut self,
        rule: &'a Rule,
        paths: &'a Paths,
        now: i64,
        ahead: i64,
        out: &'o mut Vec<Output>,
        work: impl FnOnce(&mut Self, &mut Turn<'a, 'o>),
    ) {
        if self.broken {
            return;
        }
        let counters = self.counters;
        let mut turn =
            Turn { rule, paths, now, ahead, out, failures: Vec::new(), counters, last_alert: None };
        let done = isolated(|| work(self, &mut turn));
        let Turn { failures, counters, last_alert, out, .. } = turn;
        self.counters = counters;
        if last_alert.is_some() {
            self.last_alert = last_alert;
        }
        for failure in failures {
            let column = (failure.error.line > 1 || failure.error.column > 1)
                .then(|| format!(" (line {}, column {})", failure.error.line, failure.error.column));
            let message = format!("{}{}", failure.error.message, column.unwrap_or_default());
            self.fail(rule, failure.part, message, now, out);
        }
        if let Err(message) = done {
            self.broken = true;
            self.groups.clear();
            self.told_failure = None;
            let message = format!("it failed inside and is stopped until rules are set anew: {message}");
            self.fail(rule, String::new(), message, now, out);
        }
    }

    fn fail(&mut self, rule: &Rule, part: String, message: String, now: i64, out: &mut Vec<Output>) {
        self.counters.failures += 1;
        let at = rfc3339(now);
        if self.told_failure.is_none_or(|told| now - told >= TELL_FAILURE_MS) {
            self.told_failure = Some(now);
            let text = if part.is_empty() { message.clone() } else { format!("{part}: {message}") };
            out.push(Output::Alert {
                rule: rule.name.clone(),
                id: format!("{:016x}-{now}-failed", sketch::hash(rule.name.as_str().as_bytes())),
                publish: true,
                alert: Alert {
                    rule: rule.name.to_string(),
                    group: Map::new(),
                    state: AlertState::Failed,
                    severity: "warning".to_owned(),
                    message: text,
                    since: at.clone(),
                    at: at.clone(),
                    upstream: true,
                    values: Map::new(),
                },
                acts: Vec::new(),
            });
        }
        self.last_failure = Some(Failure { part, message, at });
    }

    /// The group of this name, a new one if need be.
    fn group(
        &mut self,
        name: &str,
        rule: &Rule,
        now: i64,
        labels: impl FnOnce() -> Vec<Value>,
    ) -> (&mut Group, u64) {
        let mut evicted = 0;
        if !self.groups.contains_key(name) {
            if self.groups.len() >= rule.spec.max_groups as usize {
                evicted = self.evict(rule.spec.max_groups as usize);
            }
            self.groups.insert(Box::from(name), Group::new(labels(), now));
        }
        // It is there: if not since before, then since now.
        (self.groups.entry(Box::from(name)).or_insert_with(|| Group::new(Vec::new(), now)), evicted)
    }

    /// Forgets those that were quiet for longest, a sixteenth of them; those whose alert is raised last.
    fn evict(&mut self, most: usize) -> u64 {
        let many = (most / 16).max(1);
        let mut order: Vec<_> = self
            .groups
            .iter()
            .map(|(name, group)| (group.alarm.is_raised(), group.seen, name.clone()))
            .collect();
        order.sort_unstable();
        for (_, _, name) in order.iter().take(many) {
            self.groups.remove(name);
        }
        many.min(order.len()) as u64
    }

    fn tell(&self, rule: &Rule) -> RuleState {
        let mut raised: Vec<_> = self
            .groups
            .values()
            .filter_map(|group| {
                let since = group.alarm.since()?;
                Some(RaisedGroup { group: labels_of(rule, &group.labels), since: rfc3339(since) })
            })
            .collect();
        raised.sort_by(|one, other| one.since.cmp(&other.since));
        raised.truncate(SHOWN);
        let (last_alert_at, last_alert) = self.last_alert.clone().unzip();
        RuleState {
            name: rule.name.to_string(),
            about: rule.spec.about.clone(),
            enabled: rule.spec.enabled,
            from: rule.from.iter().map(ToString::to_string).collect(),
            groups: self.groups.len(),
            raised,
            counters: self.counters,
            last_alert,
            last_alert_at,
            last_failure: self.last_failure.clone(),
            broken: self.broken,
        }
    }
}

// === impl Turn ===

impl<'a> Turn<'a, '_> {
    fn failed(&mut self, part: impl Into<String>, error: ExpressionError) {
        self.failures.push(PartFailure { part: part.into(), error });
    }

    /// The value of one part of the rule; nothing, noted, if it fails.
    fn ask<T>(&mut self, part: &str, result: Result<T, ExpressionError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.failed(part, error);
                None
            }
        }
    }

    fn take<'v>(&mut self, state: &mut State, view: &View<'v>, event: &Event, name: &mut String)
    where
        'a: 'v,
    {
        let rule = self.rule;
        if let Some(where_) = &rule.where_ {
            match self.ask("where", where_.holds(view)) {
                Some(true) => {}
                Some(false) | None => return,
            }
        }
        // Everything that may fail comes before anything is changed.
        let Some(labels) = self.labels(view, name) else { return };
        let mut inputs: Vec<Input> = Vec::with_capacity(rule.values.len());
        for value in &rule.values {
            match value.input(view) {
                Ok(input) => inputs.push(input),
                Err(error) => return self.failed(format!("values.{}", value.name), error),
            }
        }
        let labels = || labels.iter().map(Val::to_json).collect();
        let (group, evicted) = state.group(name, rule, self.now, labels);
        self.counters.evicted += evicted;
        let (time, lateness) = (event.time_ms, rule.spec.lateness.ms());
        if group.watermark > self.now.saturating_add(self.ahead) {
            // The clock was set back: what was seen of the future is worth nothing.
            self.clear(group, name, self.now, "the clock was set back");
            group.reset(self.now);
        }
        if group.add(rule.window, &rule.values, &inputs, time, lateness).is_err() {
            self.counters.late += 1;
            return;
        }
        group.seen = self.now;
        self.counters.counted += 1;
        match rule.window {
            Window::None => self.judge_event(group, name, view, event),
            Window::Silence { .. } => {
                group.newest = group.newest.max(time);
                if let Some(change) = group.alarm.clear() {
                    let at = group.newest;
                    self.tell_silence(group, name, at, change);
                }
            }
            _ => self.close(group, name),
        }
    }

    /// The values that the event is grouped by; the group's name is written into `name`.
    fn labels<'v>(&mut self, view: &View<'v>, name: &mut String) -> Option<Vec<Val<'v>>>
    where
        'a: 'v,
    {
        name.clear();
        let rule = self.rule;
        let mut labels = Vec::with_capacity(rule.group_by.len());
        for (label, expression) in &rule.group_by {
            let value = self.ask(&format_part("group_by", label), expression.evaluate(view))?;
            match (value.as_text(), &value) {
                (Some(text), _) => name.push_str(text),
                (None, Val::Null | Val::Bool(_) | Val::Int(_) | Val::Double(_)) => {
                    // A number is another group than the text of it.
                    name.push('\u{2}');
                    name.push_str(&value.to_json().to_string());
                }
                (None, other) => {
                    let message = format!("events cannot be grouped by a {}", other.type_name());
                    self.failed(
                        format_part("group_by", label),
                        ExpressionError { message, line: 1, column: 1 },
                    );
                    return None;
                }
            }
            name.push('\u{1}');
            labels.push(value);
        }
        if name.len() > LONGEST_GROUP {
            let message = format!("the group's name has {} bytes, {LONGEST_GROUP} are allowed", name.len());
            self.failed("group_by", ExpressionError { message, line: 1, column: 1 });
            return None;
        }
        Some(labels)
    }

    fn tick(&mut self, state: &mut State) {
        let rule = self.rule;
        let lateness = rule.spec.lateness.ms();
        let mut groups = std::mem::take(&mut state.groups);
        groups.retain(|name, group| {
            match rule.window {
                Window::Silence { after } => self.tick_silence(group, name, after),
                Window::Count { .. } => {}
                _ => {
                    let quiet = self.now - group.seen;
                    if quiet >= lateness + QUIET_MS && rule.window != Window::None {
                        group.watermark = group.watermark.max(self.now - lateness);
                        self.close(group, name);
                    }
                    self.tick_alarm(group, name);
                }
            }
            let forget = matches!(rule.window, Window::None | Window::Time { .. } | Window::Session { .. })
                && group.is_idle()
                && self.now - group.seen >= FORGET_MS + lateness;
            !forget
        });
        state.groups = groups;
    }

    /// Closes all windows of the group that are over.
    fn close(&mut self, group: &mut Group, name: &str) {
        while let Some(closed) = group.close(self.rule.window, &self.rule.values) {
            self.counters.windows += 1;
            self.judge_window(group, name, &closed);
        }
    }

    fn judge_window(&mut self, group: &mut Group, name: &str, closed: &Closed) {
        let rule = self.rule;
        let labels = labels_of(rule, &group.labels);
        let seconds = match rule.window {
            Window::Session { .. } | Window::Count { .. } => (closed.end - closed.start) as f64 / 1_000.0,
            Window::Time { pane, panes } => (pane * panes) as f64 / 1_000.0,
            _ => 0.0,
        };
        let value = |(index, value): (usize, &crate::aggregate::Aggregate)| {
            let sum = closed.sums.get(index).cloned().unwrap_or_else(|| value.nothing());
            (value.name.clone(), value.value(&sum, seconds))
        };
        let values: Map<String, Value> = rule.values.iter().enumerate().map(value).collect();
        if rule.spec.publish && closed.events > 0 {
            self.out.push(Output::Window {
                rule: rule.name.clone(),
                id: format!("{:016x}-{}-{}", identity(rule, name), closed.start, closed.end),
                window: WindowData {
                    rule: rule.name.to_string(),
                    group: labels.clone(),
                    start: rfc3339(closed.start),
                    end: rfc3339(closed.end),
                    events: closed.events,
                    values: values.clone(),
                },
            });
        }
        let Some(when) = &rule.when else { return };
        if closed.events == 0 {
            // A window without events is not judged: it ends what was raised.
            return self.clear(group, name, closed.end, "no events any more");
        }
        let group_value = Value::Object(labels);
        let variables = window_variables(rule, closed, &group_value, &values);
        let view = View::of_variables(variables, self.paths);
        if let Some(holds) = self.asked(group.alarm, when, &view) {
            let change = group.alarm.judge(&rule.spec, closed.end, holds);
            self.settle(group, name, closed.end, change, &view, values.clone());
        }
        group.values = group.alarm.is_raised().then(|| Box::new(values));
    }

    /// Ends what is raised for want of events, for this reason. The values are those of the last window that was
    /// judged: with them what is done when it is cleared can be said.
    fn clear(&mut self, group: &mut Group, name: &str, at: i64, why: &str) {
        let rule = self.rule;
        group.content = None;
        let values = group.values.take().map(|values| *values);
        let Some(change) = group.alarm.clear() else { return };
        let values = values.unwrap_or_else(|| {
            let each = rule.values.iter();
            each.map(|value| (value.name.clone(), value.value(&value.nothing(), 0.0))).collect()
        });
        let closed = Closed { start: at, end: at, events: 0, sums: Vec::new() };
        let labels = Value::Object(labels_of(rule, &group.labels));
        let view = View::of_variables(window_variables(rule, &closed, &labels, &values), self.paths);
        let mut content = Content { values: values.clone(), ..self.plain_content() };
        why.clone_into(&mut content.message);
        content.acts = self.acts(&view, |on| on == On::Cleared);
        self.tell(group, name, at, change, content);
    }

    /// Whether the condition that is to be asked now holds.
    fn asked<'v>(&mut self, alarm: Alarm, when: &'v Expression, view: &View<'v>) -> Option<bool>
    where
        'a: 'v,
    {
        let rule = self.rule;
        if !alarm.is_raised() {
            return self.ask("when", when.holds(view));
        }
        match &rule.until {
            Some(until) => self.ask("until", until.holds(view)),
            None => self.ask("when", when.holds(view)).map(|holds| !holds),
        }
    }

    fn judge_event<'v>(&mut self, group: &mut Group, name: &str, view: &View<'v>, event: &Event)
    where
        'a: 'v,
    {
        let rule = self.rule;
        let Some(when) = &rule.when else { return };
        let Some(holds) = self.asked(group.alarm, when, view) else { return };
        let was = group.alarm;
        let change = group.alarm.judge(&rule.spec, event.time_ms, holds);
        if was == Alarm::Quiet && group.alarm == Alarm::Quiet && change.is_none() {
            return;
        }
        let mut values = Map::new();
        values.insert("source".to_owned(), Value::from(event.source.clone()));
        values.insert("event".to_owned(), Value::from(event.id.clone()));
        self.settle(group, name, event.time_ms, change, view, values);
    }

    /// Tells the change, and keeps what a pending or raised alert will say when time alone tells it.
    fn settle<'v>(
        &mut self,
        group: &mut Group,
        name: &str,
        at: i64,
        change: Option<Change>,
        view: &View<'v>,
        values: Map<String, Value>,
    ) where
        'a: 'v,
    {
        let by_time = matches!(group.alarm, Alarm::Pending { .. })
            || group.alarm.is_raised()
                && (self.rule.spec.repeat.is_some() || !self.rule.spec.until_hold.is_zero());
        if change.is_none() && !by_time {
            if !group.alarm.is_raised() {
                group.content = None;
            }
            return;
        }
        // What may be told of it: now, and by time alone before it is judged again.
        let alarm = group.alarm;
        let wanted = |on: On| {
            change.is_some_and(|change| change.wants(on))
                || by_time
                    && match alarm {
                        Alarm::Quiet => false,
                        Alarm::Pending { .. } => on != On::Cleared,
                        Alarm::Raised { .. } => on == On::Repeated,
                        Alarm::Calming { .. } => on == On::Cleared,
                    }
        };
        let content = self.content(view, values, wanted);
        group.content = (group.alarm != Alarm::Quiet && by_time).then(|| Box::new(content.clone()));
        if let Some(change) = change {
            let at = match (change, group.alarm) {
                (Change::Raised, Alarm::Raised { since, .. }) => since,
                (Change::Repeated, Alarm::Raised { told, .. }) => told,
                _ => at,
            };
            self.tell(group, name, at, change, content);
        }
    }

    /// What time alone tells of the alert of an event or a window.
    fn tick_alarm(&mut self, group: &mut Group, name: &str) {
        // Of windows only repetition is told by the clock: their results say whether a condition still holds.
        let judged_by_time = self.rule.window == Window::None || matches!(group.alarm, Alarm::Raised { .. });
        if !judged_by_time {
            return;
        }
        let until = group.alarm;
        let Some(change) = group.alarm.tick(&self.rule.spec, self.now) else { return };
        let at = match (change, until) {
            (Change::Raised, Alarm::Pending { since }) => since + self.rule.spec.hold.ms(),
            (Change::Cleared { .. }, Alarm::Calming { calm, .. }) => calm + self.rule.spec.until_hold.ms(),
            _ => group.alarm.told().unwrap_or(self.now),
        };
        let content = group.content.as_deref().cloned().unwrap_or_else(|| self.plain_content());
        self.tell(group, name, at, change, content);
    }

    fn tick_silence(&mut self, group: &mut Group, name: &str, after: i64) {
        let change = if group.alarm.is_raised() {
            group.alarm.tick(&self.rule.spec, self.now)
        } else if self.now - group.newest >= after {
            let at = group.newest + after;
            group.alarm = Alarm::Raised { since: at, told: at };
            Some(Change::Raised)
        } else {
            None
        };
        if let Some(change) = change {
            let at = group.alarm.told().unwrap_or(self.now);
            self.tell_silence(group, name, at, change);
        }
    }

    fn tell_silence(&mut self, group: &mut Group, name: &str, at: i64, change: Change) {
        let rule = self.rule;
        let since = match change {
            Change::Cleared { since } => since - silence(rule),
            _ => group.newest,
        };
        let closed = Closed { start: since, end: at, events: 0, sums: Vec::new() };
        let (labels, values) = (Value::Object(labels_of(rule, &group.labels)), Map::new());
        let view = View::of_variables(window_variables(rule, &closed, &labels, &values), self.paths);
        let mut content = self.content(&view, Map::new(), |on| change.wants(on));
        content.values.insert("silent_s".to_owned(), Value::from((at - since) / 1_000));
        self.tell(group, name, at, change, content);
    }

    /// What the alert says and does now, of the actions that are wanted. A part that fails is noted, and left out.
    fn content<'v>(
        &mut self,
        view: &View<'v>,
        values: Map<String, Value>,
        wanted: impl Fn(On) -> bool,
    ) -> Content
    where
        'a: 'v,
    {
        let rule = self.rule;
        let mut content = Content { values, ..self.plain_content() };
        if let Some(message) = &rule.message
            && let Some(message) = self.ask("message", message.fill(view))
        {
            content.message = message;
        }
        content.acts = self.acts(view, wanted);
        content
    }

    fn acts<'v>(&mut self, view: &View<'v>, wanted: impl Fn(On) -> bool) -> Vec<(On, Act)>
    where
        'a: 'v,
    {
        let (rule, mut acts) = (self.rule, Vec::new());
        for (index, action) in rule.actions.iter().enumerate().filter(|(_, action)| wanted(action.on)) {
            let act = match &action.what {
                Deed::Call { module, path, verb, body } => path.fill(view).and_then(|path| {
                    let body = body.as_ref().map(|body| body.fill(view)).transpose()?;
                    Ok(Act::Call { module: module.clone(), path, verb: verb.clone(), body })
                }),
                Deed::Method { module, name, payload } => payload.fill(view).map(|payload| Act::Method {
                    module: module.clone(),
                    name: name.clone(),
                    payload,
                }),
                Deed::Set { module, settings } => {
                    settings.fill(view).map(|settings| Act::Set { module: module.clone(), settings })
                }
            };
            if let Some(act) = self.ask(&format_part("do", &index.to_string()), act) {
                acts.push((action.on, act));
            }
        }
        acts
    }

    fn plain_content(&self) -> Content {
        let spec = &self.rule.spec;
        let message = match (&spec.about, &spec.when) {
            (about, _) if !about.is_empty() => about.clone(),
            (_, Some(when)) => when.clone(),
            _ => format!("nothing has come for {}", crate::Span::from_ms(silence(self.rule))),
        };
        Content { message, values: Map::new(), acts: Vec::new() }
    }

    fn tell(&mut self, group: &Group, name: &str, at: i64, change: Change, content: Content) {
        let rule = self.rule;
        let (state, since) = match change {
            Change::Raised => (AlertState::Raised, at),
            Change::Repeated => (AlertState::Repeated, group.alarm.since().unwrap_or(at)),
            Change::Cleared { since } => (AlertState::Cleared, since),
        };
        if change == Change::Raised {
            self.counters.raised += 1;
        }
        let word = match state {
            AlertState::Raised => "raised",
            AlertState::Repeated => "repeated",
            AlertState::Cleared | AlertState::Failed => "cleared",
        };
        let at_text = rfc3339(at);
        self.last_alert = Some((at_text.clone(), format!("{word}: {}", content.message)));
        self.out.push(Output::Alert {
            rule: rule.name.clone(),
            id: format!("{:016x}-{at}-{word}", identity(rule, name)),
            publish: rule.spec.alert,
            alert: Alert {
                rule: rule.name.to_string(),
                group: labels_of(rule, &group.labels),
                state,
                severity: rule.spec.severity.as_str().to_owned(),
                message: content.message,
                since: rfc3339(since),
                at: at_text,
                upstream: rule.spec.upstream,
                values: content.values,
            },
            acts: content.acts.into_iter().filter(|(on, _)| change.wants(*on)).map(|(_, act)| act).collect(),
        });
    }
}

/// The milliseconds of a rule of silence.
fn silence(rule: &Rule) -> i64 {
    match rule.window {
        Window::Silence { after } => after,
        _ => 0,
    }
}

fn format_part(part: &str, name: &str) -> String {
    format!("{part}.{name}")
}

/// A group of a rule: the same on every machine and after every restart.
fn identity(rule: &Rule, group: &str) -> u64 {
    sketch::hash(format!("{}\u{0}{group}", rule.name).as_bytes())
}

fn labels_of(rule: &Rule, labels: &[Value]) -> Map<String, Value> {
    rule.group_by.iter().map(|(name, _)| name.clone()).zip(labels.iter().cloned()).collect()
}

/// The variables of a window, in the order of the rule's names.
fn window_variables<'v>(
    rule: &'v Rule,
    closed: &Closed,
    group: &'v Value,
    values: &'v Map<String, Value>,
) -> Vec<Val<'v>> {
    let seconds = |ms: i64| Val::Double(ms as f64 / 1_000.0);
    let mut variables = vec![
        Val::Int(closed.events as i64),
        seconds(closed.start),
        seconds(closed.end),
        Val::of(group),
        Val::Text(rule.name.as_str()),
    ];
    let each = rule.values.iter().map(|value| values.get(&value.name).map_or(Val::Null, Val::of));
    variables.extend(each);
    variables
}

/// RFC 3339 in UTC, to the millisecond, so that the order of the texts is that of the times.
pub(crate) fn rfc3339(ms: i64) -> String {
    // What no calendar has is the beginning of time.
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

/// Does the work; the words of a panic, if it ends so.
fn isolated<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
    })
}

// === impl Output ===

impl Output {
    /// Its id.
    pub fn id(&self) -> &str {
        match self {
            Self::Window { id, .. } | Self::Alert { id, .. } => id,
        }
    }

    /// In a line, for people.
    pub fn describe(&self) -> String {
        let group = |group: &Map<String, Value>| {
            let parts: Vec<_> =
                group.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
            if parts.is_empty() { String::new() } else { format!(" [{}]", parts.join(", ")) }
        };
        match self {
            Self::Window { window, .. } => {
                let values: Vec<_> =
                    window.values.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
                let group = group(&window.group);
                format!(
                    "{}  {}{group}  window of {} events from {}: {}",
                    window.end,
                    window.rule,
                    window.events,
                    window.start,
                    values.join(", ")
                )
            }
            Self::Alert { alert, acts, .. } => {
                let state = match alert.state {
                    AlertState::Raised => "RAISED",
                    AlertState::Repeated => "REPEATED",
                    AlertState::Cleared => "CLEARED",
                    AlertState::Failed => "FAILED",
                };
                let acts: String = acts.iter().map(|act| format!("; then {}", act.describe())).collect();
                format!(
                    "{}  {}{}  {state} ({}): {}{acts}",
                    alert.at,
                    alert.rule,
                    group(&alert.group),
                    alert.severity,
                    alert.message
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_stays_within_its_rule() {
        assert_eq!(isolated(|| 1), Ok(1));
        assert_eq!(isolated(|| -> u8 { panic!("no {}", "good") }), Err("no good".to_owned()));
    }
}
