//! A rule, checked and compiled.

use std::str::FromStr;

use serde_json::Value;
use shunt_wire::{Kind, Name, TopicFilter};

use crate::{
    aggregate::Aggregate,
    event::{Attribute, Paths},
    expression::{Expression, ExpressionError, Names},
    sketch,
    spec::{ActionSpec, On, RuleSpec, Span, WindowSpec},
    template::{Form, Template},
};

/// Most filters of a rule.
const MAX_FROM: usize = 16;
/// Most expressions that a rule groups by.
const MAX_GROUP_BY: usize = 8;
/// Most values of a rule.
const MAX_VALUES: usize = 32;
/// Most actions of a rule.
const MAX_ACTIONS: usize = 8;
/// Most parts of a sliding window.
const MAX_PANES: i64 = 600;
/// Most groups of a rule.
const MAX_GROUPS: u32 = 10_000;
/// The longest session, where a rule says nothing.
const LONGEST_SESSION: Span = Span::from_ms(86_400_000);
/// Most sessions of a group that are open at the same time, because events came out of order.
pub(crate) const MAX_SESSIONS: usize = 8;
/// Bytes of a group beside its windows.
const GROUP_BYTES: usize = 512;
/// Bytes of a part of a window beside its values; a queue of them may be half empty.
const PANE_BYTES: usize = 128;
/// The names that a window has beside its values.
const WINDOW_NAMES: [&str; 5] = ["n", "start", "end", "group", "rule"];

/// What is wrong with a rule, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", self.place())]
pub struct Problem {
    /// The way to it in the rule: `values`, `mean`.
    pub path: Vec<String>,
    /// The line and column in the text there, both from 1, where it is an expression.
    pub inside: Option<(u32, u32)>,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// A rule, checked and compiled.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: Name,
    pub(crate) spec: RuleSpec,
    /// Changes with what the rule says: a state on disk is that of one digest.
    pub(crate) digest: u64,
    pub(crate) from: Vec<TopicFilter>,
    pub(crate) where_: Option<Expression>,
    pub(crate) group_by: Vec<(String, Expression)>,
    pub(crate) window: Window,
    pub(crate) values: Vec<Aggregate>,
    pub(crate) when: Option<Expression>,
    pub(crate) until: Option<Expression>,
    pub(crate) message: Option<Template>,
    pub(crate) actions: Vec<Action>,
}

/// How events are put together. Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    /// Each event alone.
    None,
    /// Windows of `panes` parts of length `pane`, one for each part: tumbling ones have one.
    Time {
        pane: i64,
        panes: i64,
    },
    /// The same, counted in events.
    Count {
        pane: i64,
        panes: i64,
    },
    Session {
        gap: i64,
        longest: i64,
    },
    Silence {
        after: i64,
    },
}

/// What is done beside the alert.
#[derive(Debug)]
pub(crate) struct Action {
    pub(crate) on: On,
    pub(crate) what: Deed,
}

#[derive(Debug)]
pub(crate) enum Deed {
    Call { module: Name, path: Template, verb: String, body: Option<Form> },
    Method { module: Name, name: String, payload: Form },
    Set { module: Name, settings: Form },
}

/// Reads and checks one rule; notes every problem.
struct Reader<'a> {
    paths: &'a mut Paths,
    problems: Vec<Problem>,
}

// === impl Problem ===

impl Problem {
    pub(crate) fn new(path: &[&str], message: impl Into<String>) -> Self {
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        Self { path, inside: None, message: message.into() }
    }

    fn of_expression(path: &[&str], error: ExpressionError) -> Self {
        Self { inside: Some((error.line, error.column)), ..Self::new(path, error.message) }
    }

    fn place(&self) -> String {
        let mut place = self.path.join(".");
        if let Some((line, column)) = self.inside {
            place.push_str(&if line == 1 {
                format!(" (column {column})")
            } else {
                format!(" (line {line}, column {column})")
            });
        }
        if !place.is_empty() {
            place.push_str(": ");
        }
        place
    }
}

// === impl Rule ===

impl Rule {
    /// Reads, checks and compiles.
    pub(crate) fn compile(name: &str, value: &Value, paths: &mut Paths) -> Result<Self, Vec<Problem>> {
        let rule_name = Name::from_str(name).map_err(|error| vec![Problem::new(&[], error.to_string())])?;
        let spec: RuleSpec = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().iter().filter_map(|part| match part {
                serde_path_to_error::Segment::Map { key } => Some(key.clone()),
                serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
                serde_path_to_error::Segment::Enum { variant } => Some(variant.clone()),
                serde_path_to_error::Segment::Unknown => None,
            });
            vec![Problem { path: path.collect(), inside: None, message: error.inner().to_string() }]
        })?;
        let mut reader = Reader { paths, problems: Vec::new() };
        let rule = reader.rule(rule_name, spec, value);
        if reader.problems.is_empty() { rule.ok_or_else(Vec::new) } else { Err(reader.problems) }
    }

    /// Bytes that its windows may need at most.
    pub(crate) fn bytes(&self) -> usize {
        let sums: usize = self.values.iter().map(super::aggregate::Aggregate::bytes).sum();
        let panes = match self.window {
            // What lateness lets lie open too.
            Window::Time { pane, panes } => panes + (self.spec.lateness.ms() + pane - 1) / pane + 2,
            Window::Count { panes, .. } => panes,
            Window::Session { .. } => MAX_SESSIONS as i64,
            Window::None | Window::Silence { .. } => 0,
        };
        let groups = if self.group_by.is_empty() { 1 } else { self.spec.max_groups as usize };
        let group = (panes as usize).saturating_mul(sums + PANE_BYTES).saturating_add(GROUP_BYTES);
        groups.saturating_mul(group)
    }
}

/// The names of a window's variables, in the order of the engine's `window_variables`.
fn names(spec: &RuleSpec) -> Vec<String> {
    let own = WINDOW_NAMES.iter().map(|name| (*name).to_owned());
    own.chain(spec.values.keys().cloned()).collect()
}

// === impl Reader ===

impl Reader<'_> {
    fn note(&mut self, path: &[&str], message: impl Into<String>) {
        self.problems.push(Problem::new(path, message));
    }

    fn expression(&mut self, path: &[&str], text: &str, names: Names<'_>) -> Option<Expression> {
        match Expression::compile(text, names, self.paths) {
            Ok(expression) => Some(expression),
            Err(error) => {
                self.problems.push(Problem::of_expression(path, error));
                None
            }
        }
    }

    fn rule(&mut self, name: Name, spec: RuleSpec, value: &Value) -> Option<Rule> {
        let from = self.from(&name, &spec);
        let where_ = spec.where_.as_ref().map(|text| self.expression(&["where"], text, Names::Event));
        let window = self.window(&spec);
        let group_by = self.group_by(&spec);
        let values = self.values(&spec, window);
        let names = names(&spec);
        let judged = if window == Window::None { Names::Event } else { Names::Window(&names) };
        let when = spec.when.as_ref().map(|text| self.expression(&["when"], text, judged));
        let until = spec.until.as_ref().map(|text| self.expression(&["until"], text, judged));
        let message = spec.message.as_ref().map(|text| self.template(&["message"], text, judged));
        let actions = self.actions(&spec, judged);
        self.check(&spec, window);
        let some = |compiled: Option<Option<Expression>>| compiled.flatten();
        Some(Rule {
            name,
            digest: sketch::hash(value.to_string().as_bytes()),
            from,
            where_: some(where_),
            group_by,
            window,
            values,
            when: some(when),
            until: some(until),
            message: message.flatten(),
            actions,
            spec,
        })
    }

    fn from(&mut self, name: &Name, spec: &RuleSpec) -> Vec<TopicFilter> {
        if spec.from.is_empty() || spec.from.len() > MAX_FROM {
            self.note(
                &["from"],
                format!("it must name 1 to {MAX_FROM} kinds or topics, not {}", spec.from.len()),
            );
        }
        let mut filters = Vec::new();
        for (index, text) in spec.from.iter().enumerate() {
            match filter(text) {
                Ok(filter)
                    if [Kind::ALERT, Kind::WINDOW].iter().any(|kind| {
                        filter.matches(&shunt_wire::Topic::new(kind.clone(), name.clone()).to_string())
                    }) =>
                {
                    self.note(
                        &["from", &index.to_string()],
                        "a rule cannot look at its own alerts or windows",
                    );
                }
                Ok(filter) => filters.push(filter),
                Err(message) => self.note(&["from", &index.to_string()], message),
            }
        }
        filters
    }

    fn window(&mut self, spec: &RuleSpec) -> Window {
        let Some(window) = &spec.window else { return Window::None };
        let WindowSpec { tumbling, sliding, session, count, silence, every, longest } = window;
        let given =
            [tumbling.is_some(), sliding.is_some(), session.is_some(), count.is_some(), silence.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            let message = "exactly one of tumbling, sliding, session, count and silence must be given";
            self.note(&["window"], message);
            return Window::None;
        }
        if every.is_some() && sliding.is_none() && count.is_none() {
            self.note(&["window", "every"], "only sliding and count have it");
        }
        if longest.is_some() && session.is_none() {
            self.note(&["window", "longest"], "only session has it");
        }
        let least = |length: &Span| length.ms().max(10);
        for (name, length) in
            [("tumbling", tumbling), ("sliding", sliding), ("session", session), ("silence", silence)]
        {
            if length.is_some_and(|length| length.ms() < 10) {
                self.note(&["window", name], "it must be 10ms at least");
            }
        }
        if let Some(length) = tumbling {
            return Window::Time { pane: least(length), panes: 1 };
        }
        if let Some(length) = sliding {
            return self.sliding(least(length), every.as_ref());
        }
        if let Some(gap) = session {
            let longest = longest.unwrap_or(LONGEST_SESSION);
            if longest < *gap {
                self.note(&["window", "longest"], format!("it must be {gap} at least"));
            }
            return Window::Session { gap: least(gap), longest: longest.ms().max(least(gap)) };
        }
        if let Some(count) = count {
            return self.counted(*count, every.as_ref());
        }
        Window::Silence { after: silence.map_or(10, |after| least(&after)) }
    }

    fn sliding(&mut self, length: i64, every: Option<&Value>) -> Window {
        let path = ["window", "every"];
        let text = every.map(|every| every.as_str().unwrap_or_default());
        let every = match text.map(Span::parse) {
            None => {
                self.note(&["window"], "sliding needs every: a time that goes into the length");
                return Window::None;
            }
            Some(Err(message)) => {
                self.note(&path, message);
                return Window::None;
            }
            Some(Ok(every)) => every.ms(),
        };
        if every < 10 || length % every != 0 || length / every > MAX_PANES {
            let message = format!(
                "the length, {}, must be 1 to {MAX_PANES} times as long as it, without a rest, and it 10ms at least",
                Span::from_ms(length)
            );
            self.note(&path, message);
            return Window::None;
        }
        Window::Time { pane: every, panes: length / every }
    }

    fn counted(&mut self, count: u32, every: Option<&Value>) -> Window {
        if !(1..=1_000_000).contains(&count) {
            self.note(&["window", "count"], format!("it is {count}, but must be from 1 to 1000000"));
        }
        let count = i64::from(count.max(1));
        let pane = match every {
            None => count,
            Some(every) => every.as_i64().unwrap_or(0),
        };
        if pane < 1 || count % pane != 0 || count / pane > MAX_PANES {
            let message = format!(
                "it must be a number of events that goes into {count} without a rest, {MAX_PANES} times at most"
            );
            self.note(&["window", "every"], message);
            return Window::None;
        }
        Window::Count { pane, panes: count / pane }
    }

    fn group_by(&mut self, spec: &RuleSpec) -> Vec<(String, Expression)> {
        if spec.group_by.len() > MAX_GROUP_BY {
            self.note(&["group_by"], format!("{MAX_GROUP_BY} expressions are allowed"));
        }
        let mut groups: Vec<(String, Expression)> = Vec::new();
        for (index, text) in spec.group_by.iter().enumerate() {
            let place = index.to_string();
            // A plain way gives its last name.
            let last = text.rsplit('.').next().unwrap_or(text).trim();
            let plain = is_identifier(last) && !text.contains(|sign: char| "()[]\"' +-*/".contains(sign));
            let name = if plain { last.to_owned() } else { format!("by{}", index + 1) };
            if groups.iter().any(|(known, _)| *known == name) {
                self.note(&["group_by", &place], format!("there is a {name:?} already"));
            }
            if let Some(expression) = self.expression(&["group_by", &place], text, Names::Event) {
                groups.push((name, expression));
            }
        }
        groups
    }

    fn values(&mut self, spec: &RuleSpec, window: Window) -> Vec<Aggregate> {
        if spec.values.len() > MAX_VALUES {
            self.note(&["values"], format!("{MAX_VALUES} are allowed"));
        }
        if matches!(window, Window::None | Window::Silence { .. })
            && !spec.values.is_empty()
            && spec.window.is_none()
        {
            self.note(&["values"], "values are those of a window, and there is none");
        }
        let mut values = Vec::new();
        for (name, text) in &spec.values {
            if !is_identifier(name)
                || WINDOW_NAMES.contains(&name.as_str())
                || Attribute::named(name).is_some()
            {
                let message = format!(
                    "{name:?} cannot be a value's name: letters, digits and _, a letter first, and none of {}",
                    WINDOW_NAMES.join(", ")
                );
                self.note(&["values", name], message);
            }
            match Aggregate::compile(name, text, self.paths) {
                Ok(value) => values.push(value),
                Err(error) => self.problems.push(Problem::of_expression(&["values", name], error)),
            }
        }
        values
    }

    fn template(&mut self, path: &[&str], text: &str, names: Names<'_>) -> Option<Template> {
        match Template::compile(text, names, self.paths) {
            Ok(template) => Some(template),
            Err(error) => {
                self.problems.push(Problem::of_expression(path, error));
                None
            }
        }
    }

    fn form(&mut self, path: &[&str], value: &Value, names: Names<'_>) -> Form {
        match Form::compile(value, names, self.paths) {
            Ok(form) => form,
            Err((inner, error)) => {
                let path: Vec<&str> = path.iter().copied().chain(inner.iter().map(String::as_str)).collect();
                self.problems.push(Problem::of_expression(&path, error));
                Form::Plain(Value::Null)
            }
        }
    }

    fn actions(&mut self, spec: &RuleSpec, names: Names<'_>) -> Vec<Action> {
        if spec.actions.len() > MAX_ACTIONS {
            self.note(&["do"], format!("{MAX_ACTIONS} actions are allowed"));
        }
        let mut actions = Vec::new();
        for (index, action) in spec.actions.iter().enumerate() {
            let place = index.to_string();
            if let Some(what) = self.deed(&place, action, names) {
                actions.push(Action { on: action.on(), what });
            }
        }
        actions
    }

    fn deed(&mut self, place: &str, action: &ActionSpec, names: Names<'_>) -> Option<Deed> {
        let (kind, module) = match action {
            ActionSpec::Call(call) => ("call", &call.module),
            ActionSpec::Method(method) => ("method", &method.module),
            ActionSpec::Snapshot(snapshot) => ("snapshot", &snapshot.module),
            ActionSpec::Set(set) => ("set", &set.module),
        };
        let module = match module.parse::<Name>() {
            Ok(module) => module,
            Err(error) => {
                self.note(&["do", place, kind, "module"], error.to_string());
                return None;
            }
        };
        Some(match action {
            ActionSpec::Call(call) => {
                if !call.path.starts_with('/') {
                    self.note(&["do", place, kind, "path"], "it must begin with /");
                }
                if !["GET", "POST"].contains(&call.verb.as_str()) {
                    self.note(&["do", place, kind, "verb"], "it must be GET or POST");
                }
                let path = self.template(&["do", place, kind, "path"], &call.path, names)?;
                let body =
                    call.body.as_ref().map(|body| self.form(&["do", place, kind, "body"], body, names));
                Deed::Call { module, path, verb: call.verb.clone(), body }
            }
            ActionSpec::Method(method) => {
                let sound = (1..=100).contains(&method.name.len())
                    && method.name.bytes().all(|sign| sign.is_ascii_alphanumeric());
                if !sound {
                    self.note(&["do", place, kind, "name"], "it must have 1 to 100 letters or digits");
                }
                let payload = self.form(&["do", place, kind, "payload"], &method.payload, names);
                Deed::Method { module, name: method.name.clone(), payload }
            }
            ActionSpec::Snapshot(_) => {
                Deed::Method { module, name: "snapshot".to_owned(), payload: Form::Plain(Value::Null) }
            }
            ActionSpec::Set(set) => {
                if set.settings.is_empty() {
                    self.note(&["do", place, kind, "settings"], "it names no setting");
                }
                let settings = Value::Object(set.settings.clone());
                Deed::Set { module, settings: self.form(&["do", place, kind, "settings"], &settings, names) }
            }
        })
    }

    /// What does not go together.
    fn check(&mut self, spec: &RuleSpec, window: Window) {
        if !(1..=MAX_GROUPS).contains(&spec.max_groups) {
            self.note(
                &["max_groups"],
                format!("it is {}, but must be from 1 to {MAX_GROUPS}", spec.max_groups),
            );
        }
        if spec.lateness.ms() > 3_600_000 {
            self.note(&["lateness"], "it must be 1h at most");
        }
        if spec.repeat.is_some_and(|repeat| repeat.ms() < 1_000) {
            self.note(&["repeat"], "it must be 1s at least");
        }
        let silence = matches!(window, Window::Silence { .. });
        if silence {
            let given = [
                ("when", spec.when.is_some()),
                ("until", spec.until.is_some()),
                ("values", !spec.values.is_empty()),
                ("hold", !spec.hold.is_zero()),
                ("publish", spec.publish),
            ];
            for (name, _) in given.iter().filter(|(_, given)| *given) {
                self.note(
                    &[name],
                    "a rule of silence has none: it is raised when nothing has come for so long",
                );
            }
        } else if spec.when.is_none() {
            if spec.until.is_some() {
                self.note(&["until"], "there is no when");
            }
            if !spec.publish {
                self.note(&["when"], "it is missing, and publish is false: the rule would do nothing");
            }
        }
        if spec.publish && window == Window::None && spec.window.is_none() {
            self.note(&["publish"], "there is no window whose result could be published");
        }
        if spec.when.is_none() && !silence && !spec.actions.is_empty() {
            self.note(&["do"], "without when, nothing is ever done");
        }
    }
}

/// The topics that an entry of `from` means.
fn filter(text: &str) -> Result<TopicFilter, String> {
    let filter = match text.split('/').collect::<Vec<_>>().as_slice() {
        [kind] if !kind.contains(['+', '#']) => {
            TopicFilter::kind(&Kind::from_str(kind).map_err(|error| error.to_string())?)
        }
        [kind, source] if *kind != "shunt" && !text.contains(['+', '#']) => {
            let kind = Kind::from_str(kind).map_err(|error| error.to_string())?;
            let source = Name::from_str(source).map_err(|error| error.to_string())?;
            TopicFilter::from(&shunt_wire::Topic::new(kind, source))
        }
        ["shunt", ..] => text.parse::<TopicFilter>().map_err(|error| error.to_string())?,
        _ => {
            return Err(format!("{text:?} is no kind, no kind/source and no filter that begins with shunt/"));
        }
    };
    // What makes an alert of any alert has no end.
    let wild = filter.as_str().contains(['+', '#']);
    if wild && (filter.matches("shunt/alert/x") || filter.matches("shunt/window/x")) {
        return Err(format!("{text:?} takes in the alerts and windows of all rules; name one: alert/<rule>"));
    }
    Ok(filter)
}

fn is_identifier(name: &str) -> bool {
    let mut signs = name.chars();
    let first = signs.next();
    first.is_some_and(|sign| sign.is_ascii_alphabetic() || sign == '_')
        && name.len() <= 64
        && signs.all(|sign| sign.is_ascii_alphanumeric() || sign == '_')
}
