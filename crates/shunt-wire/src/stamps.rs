//! Where the time of an event went: its capture and the hops it made, on the machine's monotonic clock.

use std::{fmt, str::FromStr, time::Duration};

use crate::{Name, NameError};

/// A point on the machine's monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds since an unspecified start.
///
/// The same for all processes and containers of one machine until it restarts; it means nothing elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mono(u64);

// === impl Mono ===

impl Mono {
    /// A point from its nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// One module that an event, or the event it was made from, went through.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hop {
    /// The module.
    pub module: Name,
    /// When the module had the event that it worked on (for the first: when the picture was captured).
    pub received: Mono,
    /// When it handed its own event to the bus.
    pub sent: Mono,
}

/// Capture time and hops of an event.
///
/// An event made from another continues that one's stamps ([`Stamps::follow`]); the bus closes the hop when the
/// event is published ([`Stamps::close`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stamps {
    captured: Mono,
    hops: Vec<Hop>,
    open: Option<Mono>,
}

/// Why the text of an event's stamps cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StampsError {
    /// The capture time is not a whole number of nanoseconds.
    #[error("the capture time {0:?} is not a whole number of nanoseconds")]
    Capture(String),
    /// A hop is not `module:received-sent` with nanoseconds since capture.
    #[error("the hop {0:?} is not of the form module:received-sent, in nanoseconds since capture")]
    Hop(String),
    /// A hop's module is not a name.
    #[error(transparent)]
    Module(#[from] NameError),
    /// More hops than any chain of ours makes.
    #[error("{0} hops are more than the {max} allowed", max = Stamps::MAX_HOPS)]
    TooMany(usize),
}

// === impl Stamps ===

impl Stamps {
    /// The most hops an event may have made; a longer list is a loop or a lie.
    pub const MAX_HOPS: usize = 32;

    /// The stamps of an event that begins here: captured at this moment, no hop made.
    pub fn captured(at: Mono) -> Self {
        Self { captured: at, hops: Vec::new(), open: Some(at) }
    }

    /// The stamps of an event that is made from this one, which its maker received at that moment.
    #[must_use]
    pub fn follow(&self, received: Mono) -> Self {
        Self { captured: self.captured, hops: self.hops.clone(), open: Some(received) }
    }

    /// Notes that the module hands the event to the bus now. Does nothing for stamps whose hop is closed already,
    /// as those of an event that is passed on unchanged.
    pub fn close(&mut self, module: &Name, now: Mono) {
        if let Some(received) = self.open.take()
            && self.hops.len() < Self::MAX_HOPS
        {
            self.hops.push(Hop { module: module.clone(), received, sent: now });
        }
    }

    /// When the picture, text or reading behind the event was captured.
    pub fn capture(&self) -> Mono {
        self.captured
    }

    /// The hops, first one first.
    pub fn hops(&self) -> &[Hop] {
        &self.hops
    }

    /// The hops as an attribute of the envelope: `camera:0-1200,emotion:1500-90000`, in nanoseconds since capture.
    pub fn hops_text(&self) -> String {
        let since = |at: Mono| at.0.saturating_sub(self.captured.0);
        let hops =
            self.hops.iter().map(|hop| format!("{}:{}-{}", hop.module, since(hop.received), since(hop.sent)));
        hops.collect::<Vec<_>>().join(",")
    }

    /// Reads the two attributes back.
    pub fn parse(captured: &str, hops: &str) -> Result<Self, StampsError> {
        let captured = captured.parse().map_err(|_| StampsError::Capture(captured.to_owned()))?;
        let parts = hops.split(',').filter(|hop| !hop.is_empty());
        let count = parts.clone().count();
        if count > Self::MAX_HOPS {
            return Err(StampsError::TooMany(count));
        }
        let hops = parts.map(|hop| Self::parse_hop(captured, hop)).collect::<Result<_, _>>()?;
        Ok(Self { captured: Mono(captured), hops, open: None })
    }

    fn parse_hop(captured: u64, hop: &str) -> Result<Hop, StampsError> {
        let wrong = || StampsError::Hop(hop.to_owned());
        let (module, times) = hop.rsplit_once(':').ok_or_else(wrong)?;
        let (received, sent) = times.split_once('-').ok_or_else(wrong)?;
        let at = |text: &str| {
            let offset = u64::from_str(text).ok()?;
            Some(Mono(captured.checked_add(offset)?))
        };
        Ok(Hop {
            module: module.parse()?,
            received: at(received).ok_or_else(wrong)?,
            sent: at(sent).ok_or_else(wrong)?,
        })
    }
}

impl fmt::Display for Mono {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
