//! The windows of one group of one rule.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    act::Content,
    aggregate::{Aggregate, Input, Sum},
    alarm::Alarm,
    rule::{MAX_SESSIONS, Window},
};

/// One group. Times in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// What its events have in common.
    pub(crate) labels: Vec<Value>,
    /// When its last event came, by the engine's clock.
    pub(crate) seen: i64,
    /// Nothing older than this counts any more.
    pub(crate) watermark: i64,
    /// Of silence: when its newest event happened.
    pub(crate) newest: i64,
    /// Of windows of time: the first part whose window is not closed. Of windows of events: their number.
    next: Option<i64>,
    /// Of windows of events: the first part with which no window has ended yet.
    told: i64,
    /// In order. Bounded by the window and the lateness; the rule's check knows how many there can be.
    panes: VecDeque<Pane>,
    pub(crate) alarm: Alarm,
    /// What a pending or raised alert says, for when time alone tells it.
    pub(crate) content: Option<Box<Content>>,
    /// Of windows: the values of the last one, while the alert is raised.
    #[serde(default)]
    pub(crate) values: Option<Box<Map<String, Value>>>,
}

/// A part of a window, or a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pane {
    index: i64,
    /// The first and last event in it.
    from: i64,
    to: i64,
    events: u64,
    sums: Vec<Sum>,
}

/// A window that is closed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Closed {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) events: u64,
    pub(crate) sums: Vec<Sum>,
}

/// Why an event was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Late;

// === impl Group ===

impl Group {
    pub(crate) fn new(labels: Vec<Value>, now: i64) -> Self {
        Self {
            labels,
            seen: now,
            watermark: i64::MIN,
            newest: now,
            next: None,
            told: 0,
            panes: VecDeque::new(),
            alarm: Alarm::default(),
            content: None,
            values: None,
        }
    }

    /// Forgets everything but its name.
    pub(crate) fn reset(&mut self, now: i64) {
        *self = Self::new(std::mem::take(&mut self.labels), now);
    }

    /// Does it keep nothing that a later event would need?
    pub(crate) fn is_idle(&self) -> bool {
        self.panes.is_empty() && self.alarm == Alarm::Quiet
    }

    /// Adds an event; its windows that are over now are closed by [`Group::close`].
    pub(crate) fn add(
        &mut self,
        window: Window,
        values: &[Aggregate],
        inputs: &[Input],
        time: i64,
        lateness: i64,
    ) -> Result<(), Late> {
        let late = match window {
            Window::Time { pane, panes } => {
                let index = time.div_euclid(pane);
                // One of its windows is closed already, or all are over that would have been.
                self.next.is_some_and(|next| index < next)
                    || (index + panes).saturating_mul(pane) <= self.watermark
            }
            Window::Session { gap, .. } => time.saturating_add(gap) <= self.watermark,
            Window::Count { .. } | Window::Silence { .. } => false,
            Window::None => time < self.watermark,
        };
        if late {
            return Err(Late);
        }
        match window {
            Window::Time { pane, .. } => self.add_to(time.div_euclid(pane), values, inputs, time),
            Window::Count { pane, .. } => {
                let number = self.next.unwrap_or(0);
                self.next = Some(number + 1);
                self.add_to(number.div_euclid(pane), values, inputs, time);
            }
            Window::Session { gap, .. } => self.add_session(gap, values, inputs, time),
            Window::None | Window::Silence { .. } => {}
        }
        self.watermark = self.watermark.max(time.saturating_sub(lateness));
        Ok(())
    }

    fn add_to(&mut self, index: i64, values: &[Aggregate], inputs: &[Input], time: i64) {
        // Nearly always the last one.
        let place = self.panes.iter().rposition(|pane| pane.index <= index);
        let found = place.and_then(|place| self.panes.get_mut(place)).filter(|pane| pane.index == index);
        if let Some(pane) = found {
            return pane.add(values, inputs, time);
        }
        let mut pane = Pane::new(index, values, time);
        pane.add(values, inputs, time);
        self.panes.insert(place.map_or(0, |place| place + 1), pane);
    }

    /// Puts together the sessions that the event joins.
    fn add_session(&mut self, gap: i64, values: &[Aggregate], inputs: &[Input], time: i64) {
        let mut session = Pane::new(0, values, time);
        session.add(values, inputs, time);
        let mut others = VecDeque::with_capacity(self.panes.len() + 1);
        for pane in self.panes.drain(..) {
            if time <= pane.to.saturating_add(gap) && pane.from <= time.saturating_add(gap) {
                session.merge(values, &pane);
            } else {
                others.push_back(pane);
            }
        }
        let place = others.iter().position(|pane| pane.from > session.from).unwrap_or(others.len());
        others.insert(place, session);
        self.panes = others;
    }

    /// The next window that is over by the watermark. `Closed` without events: the alert's window has become empty.
    pub(crate) fn close(&mut self, window: Window, values: &[Aggregate]) -> Option<Closed> {
        match window {
            Window::Time { pane, panes } => self.close_time(pane, panes, values),
            Window::Count { pane, panes } => self.close_count(pane, panes, values),
            Window::Session { gap, longest } => self.close_session(gap, longest),
            Window::None | Window::Silence { .. } => None,
        }
    }

    fn close_time(&mut self, pane: i64, panes: i64, values: &[Aggregate]) -> Option<Closed> {
        let first = self.panes.front().map(|pane| pane.index);
        let next = self.next.or(first)?;
        if first.is_none_or(|first| first > next) {
            // The window of this part is empty: told once, where an alert waits for it.
            let end = (next + 1).saturating_mul(pane);
            if self.alarm != Alarm::Quiet {
                if end > self.watermark {
                    return None;
                }
                self.next = Some(next + 1);
                return Some(Closed { start: end - panes * pane, end, events: 0, sums: Vec::new() });
            }
        }
        let index = next.max(first?);
        let end = (index + 1).saturating_mul(pane);
        if end > self.watermark {
            return None;
        }
        let closed = self.gather(values, |part| part.index <= index);
        self.next = Some(index + 1);
        while self.panes.front().is_some_and(|part| part.index < index + 2 - panes) {
            self.panes.pop_front();
        }
        Some(Closed { start: end - panes * pane, end, ..closed })
    }

    fn close_count(&mut self, pane: i64, panes: i64, values: &[Aggregate]) -> Option<Closed> {
        let last = self.panes.back()?;
        let index = last.index;
        if (last.events as i64) < pane || index < self.told {
            return None;
        }
        self.told = index + 1;
        let closed = self.gather(values, |_| true);
        while self.panes.front().is_some_and(|part| part.index < index + 2 - panes) {
            self.panes.pop_front();
        }
        // The first ones are not full yet.
        (closed.events as i64 == pane * panes).then_some(closed)
    }

    fn close_session(&mut self, gap: i64, longest: i64) -> Option<Closed> {
        let many = self.panes.len() > MAX_SESSIONS;
        let over = |pane: &Pane| {
            many || pane.to.saturating_add(gap) <= self.watermark || pane.to - pane.from >= longest
        };
        let place = self.panes.iter().position(over)?;
        let pane = self.panes.remove(place)?;
        Some(Closed { start: pane.from, end: pane.to, events: pane.events, sums: pane.sums })
    }

    /// The parts for which it holds, put together.
    fn gather(&self, values: &[Aggregate], within: impl Fn(&Pane) -> bool) -> Closed {
        let mut all: Option<Pane> = None;
        for pane in self.panes.iter().filter(|pane| within(pane)) {
            match &mut all {
                None => all = Some(pane.clone()),
                Some(all) => all.merge(values, pane),
            }
        }
        all.map_or(Closed { start: 0, end: 0, events: 0, sums: Vec::new() }, |all| Closed {
            start: all.from,
            end: all.to,
            events: all.events,
            sums: all.sums,
        })
    }
}

// === impl Pane ===

impl Pane {
    fn new(index: i64, values: &[Aggregate], time: i64) -> Self {
        let sums = values.iter().map(Aggregate::nothing).collect();
        Self { index, from: time, to: time, events: 0, sums }
    }

    fn add(&mut self, values: &[Aggregate], inputs: &[Input], time: i64) {
        (self.from, self.to) = (self.from.min(time), self.to.max(time));
        self.events += 1;
        for ((value, sum), input) in values.iter().zip(&mut self.sums).zip(inputs) {
            value.add(sum, input, time);
        }
    }

    fn merge(&mut self, values: &[Aggregate], other: &Self) {
        (self.from, self.to) = (self.from.min(other.from), self.to.max(other.to));
        self.events += other.events;
        for ((value, sum), more) in values.iter().zip(&mut self.sums).zip(&other.sums) {
            value.merge(sum, more);
        }
    }
}
