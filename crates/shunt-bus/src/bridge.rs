//! Copies messages between two brokers by rules, for example from MQTT to Redis and back.
//!
//! - A rule names topics on one side and what they are called on the other: `airq/# -> airq:*` copies the MQTT topic
//!   `airq/ghent/b1` to the Redis channel `airq:ghent:b1`, payload untouched. `+` and `*` stand for one level, `#` and
//!   a `*` at the end for all that follow; the wildcards of both sides belong together in their order.
//! - Between MQTT and Redis the notation says which side is which, so `airq:* -> airq/#` copies the other way. Between
//!   two brokers of one kind, the left side is that of `from`.
//! - What it just copied it does not copy back, so rules of both directions may stand side by side.
//! - Everything is fast: at most once. What it cannot copy is counted, with the reason.
//!
//! ```no_run
//! use shunt_bus::bridge::{Bridge, BridgeOptions};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rules = ["airq/# -> airq:*", "lights:*:set -> lights/+/set"].map(str::to_owned);
//! let bridge = Bridge::open(BridgeOptions::new("mqtt://bus:1883", "redis://redis:6379", rules)).await?;
//! println!("{:?}", bridge.counters());
//! bridge.close().await;
//! # Ok(()) }
//! ```

mod rule;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use shunt_wire::Name;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    BusError, BusState, PublishError, SubscribeError, TlsFrom,
    link::Counters,
    options::{Address, without_password},
    raw::{RawBus, RawOptions, RawSubscription},
};

pub use rule::RuleError;

use rule::{Notation, Rule};

/// How long the goodbye to one broker may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What is copied between whom. Its `Debug` form shows no password.
#[derive(Clone)]
pub struct BridgeOptions {
    /// The address of one broker, as in [`crate::raw::RawOptions`].
    pub from: String,
    /// The address of the other.
    pub to: String,
    /// The rules, each a text `<pattern> -> <pattern>`.
    pub rules: Vec<String>,
    /// The name of both connections.
    pub client_id: Name,
    /// TLS to `from`.
    pub from_tls: Option<TlsFrom>,
    /// TLS to `to`.
    pub to_tls: Option<TlsFrom>,
}

/// Why there is no bridge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// No rule is given.
    #[error("a bridge without rules copies nothing")]
    NoRules,
    /// A rule cannot be understood.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// An address cannot be used.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A broker refused a subscription.
    #[error("for the rule {rule:?}: {source}")]
    Subscribe {
        /// The rule.
        rule: String,
        /// Why.
        source: SubscribeError,
    },
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeCounters {
    /// Messages handed to the other broker.
    pub copied: u64,
    /// Not copied: the other broker was not there.
    pub dropped_away: u64,
    /// Not copied: they came faster than they went.
    pub dropped_full: u64,
    /// Not copied: their name has no counterpart, or the message is too large.
    pub dropped_refused: u64,
}

/// Copies until it is closed or dropped.
#[derive(Debug)]
pub struct Bridge {
    from: RawBus,
    to: RawBus,
    counted: Arc<Counted>,
    end: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Counted {
    copied: AtomicU64,
    away: AtomicU64,
    full: AtomicU64,
    refused: AtomicU64,
}

// === impl BridgeOptions ===

impl BridgeOptions {
    /// A bridge between these brokers, without TLS, of the name `shunt-bridge`.
    pub fn new(
        from: impl Into<String>,
        to: impl Into<String>,
        rules: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            from: from.into(),
            to: to.into(),
            rules: rules.into_iter().collect(),
            client_id: Name::from_static("shunt-bridge"),
            from_tls: None,
            to_tls: None,
        }
    }

    /// Are the addresses and rules sound? Connects to nothing.
    pub fn check(&self) -> Result<(), BridgeError> {
        self.read().map(drop)
    }

    fn read(&self) -> Result<Vec<Rule>, BridgeError> {
        let (from, to) = (notation(&self.from)?, notation(&self.to)?);
        if self.rules.is_empty() {
            return Err(BridgeError::NoRules);
        }
        Ok(self.rules.iter().map(|rule| Rule::parse(rule, from, to)).collect::<Result<_, _>>()?)
    }
}

impl fmt::Debug for BridgeOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, rules, client_id, from_tls, to_tls } = self;
        formatter
            .debug_struct("BridgeOptions")
            .field("from", &without_password(from))
            .field("to", &without_password(to))
            .field("rules", rules)
            .field("client_id", client_id)
            .field("from_tls", from_tls)
            .field("to_tls", to_tls)
            .finish()
    }
}

fn notation(url: &str) -> Result<Notation, BusError> {
    match Address::parse(url)? {
        Address::Mqtt { .. } => Ok(Notation::Mqtt),
        Address::Redis(_) => Ok(Notation::Redis),
        Address::Memory(_) => Err(BusError::NotRaw(url.to_owned())),
    }
}

// === impl Bridge ===

impl Bridge {
    /// Reads the rules, and begins to connect and to copy, in the background. Fails at once for a bad rule or address,
    /// or where a broker that is there refuses a subscription; a broker that is not there is waited for.
    pub async fn open(options: BridgeOptions) -> Result<Self, BridgeError> {
        let rules = options.read()?;
        let BridgeOptions { from, to, client_id, from_tls, to_tls, .. } = options;
        let open = |url: String, tls| {
            RawBus::open(RawOptions { tls, echo: false, ..RawOptions::new(url, client_id.clone()) })
        };
        let bridge = Self {
            from: open(from, from_tls)?,
            to: open(to, to_tls)?,
            counted: Arc::default(),
            end: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        for rule in rules {
            bridge.follow(rule).await?;
        }
        bridge.tasks.close();
        Ok(bridge)
    }

    async fn follow(&self, rule: Rule) -> Result<(), BridgeError> {
        let (source, target) = if rule.is_reverse { (&self.to, &self.from) } else { (&self.from, &self.to) };
        let subscribed = source.subscribe(&rule.filter()).await;
        let messages =
            subscribed.map_err(|source| BridgeError::Subscribe { rule: rule.text.clone(), source })?;
        let (target, counted) = (target.clone(), Arc::clone(&self.counted));
        let copy = copy(rule, messages, target, counted);
        self.tasks.spawn(self.end.clone().run_until_cancelled_owned(copy));
        Ok(())
    }

    /// Counters since the start.
    pub fn counters(&self) -> BridgeCounters {
        let Counted { copied, away, full, refused } = &*self.counted;
        // What the connections dropped on their way in is counted by them.
        let late = self.from.counters().dropped_receiving + self.to.counters().dropped_receiving;
        // Taken for copied before it showed that the broker would not take them.
        let too_large = self.from.refused() + self.to.refused();
        BridgeCounters {
            copied: copied.load(Ordering::Relaxed).saturating_sub(too_large),
            dropped_away: away.load(Ordering::Relaxed),
            dropped_full: full.load(Ordering::Relaxed) + late,
            dropped_refused: refused.load(Ordering::Relaxed) + too_large,
        }
    }

    /// Are the brokers there: `from`, and `to`?
    pub fn states(&self) -> (BusState, BusState) {
        (self.from.state().borrow().clone(), self.to.state().borrow().clone())
    }

    /// Sends what is copied already, and ends.
    pub async fn close(self) {
        self.end.cancel();
        self.tasks.wait().await;
        tokio::join!(self.from.close(CLOSE_LIMIT), self.to.close(CLOSE_LIMIT));
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

async fn copy(rule: Rule, mut messages: RawSubscription, target: RawBus, counts: Arc<Counted>) {
    while let Some(message) = messages.next().await {
        let Some(topic) = rule.rename(&message.topic) else {
            if rule.matches(&message.topic) {
                tracing::debug!(topic = message.topic, "A name has no counterpart at the other broker.");
                Counters::count(&counts.refused);
            }
            continue;
        };
        let result = target.publish(&topic, message.payload, false);
        let outcome = match &result {
            Ok(()) => &counts.copied,
            Err(PublishError::Unavailable(_)) if !target.is_connected() => &counts.away,
            Err(PublishError::Unavailable(_)) => &counts.full,
            Err(error) => {
                tracing::debug!(topic, %error, "A message cannot be copied.");
                &counts.refused
            }
        };
        Counters::count(outcome);
    }
}
