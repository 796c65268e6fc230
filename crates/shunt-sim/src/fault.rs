//! Faults on request: what a client of IoT Edge must survive.

use serde::{Deserialize, Serialize};

/// A fault to make. As JSON: `{"fault":"drop_connection","module":"relay"}`.
///
/// Where a fault names a module, none means every client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Fault {
    /// Closes the connection of a module, or of all clients.
    DropConnection {
        /// The module.
        #[serde(default)]
        module: Option<String>,
    },
    /// The next messages get no PUBACK, now or later on this connection.
    WithholdAcknowledgements {
        /// The module.
        #[serde(default)]
        module: Option<String>,
        /// How many messages.
        count: u32,
        /// Whether they are stored all the same (the PUBACK was lost) or not (edgeHub died before).
        #[serde(default)]
        stored: bool,
    },
    /// Each PUBACK comes so much later; 0 ends it.
    DelayAcknowledgements {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// Every token is refused (CONNACK 5), or no more.
    RefuseTokens {
        /// On or off.
        refuse: bool,
    },
    /// The next CONNECTs are answered with this code: 3 (server unavailable) or 5 (not authorized).
    RefuseConnections {
        /// The CONNACK code.
        code: u8,
        /// How many.
        count: u32,
    },
    /// Connections end so long after their CONNECT, as if the token had run out; none ends it.
    ExpireTokens {
        /// Milliseconds.
        after_ms: Option<u64>,
    },
    /// The next reports of properties are answered with this status (429, 500, ...) and not taken.
    AnswerReports {
        /// The status.
        status: u16,
        /// How many.
        count: u32,
    },
    /// The next desired patches are not delivered, so that the one after them skips a version.
    LoseDesiredPatches {
        /// The module.
        module: String,
        /// How many.
        count: u32,
    },
    /// The cloud is away: messages for `$upstream` wait, reports are taken and kept, desired patches wait.
    Offline {
        /// Whether edgeHub has forgotten all twins too: then a client gets an empty twin without `$version`.
        #[serde(default)]
        forget_twins: bool,
    },
    /// The cloud is back.
    Online,
    /// edgeHub restarts: all connections close, and for this time nobody answers on its ports.
    Restart {
        /// Milliseconds.
        #[serde(default)]
        pause_ms: u64,
    },
    /// The next calls that ask the workload API to sign are answered with this status.
    AnswerSign {
        /// The status.
        status: u16,
        /// How many.
        count: u32,
    },
    /// Ends every lasting fault.
    Clear,
}

/// The lasting faults as they are now.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) withhold: Option<Withhold>,
    pub(crate) delay_ms: u64,
    pub(crate) refuse_tokens: bool,
    pub(crate) refuse_connections: (u8, u32),
    pub(crate) expire_after_ms: Option<u64>,
    pub(crate) reports: (u16, u32),
    pub(crate) sign: (u16, u32),
}

#[derive(Debug, Clone)]
pub(crate) struct Withhold {
    pub(crate) module: Option<String>,
    pub(crate) count: u32,
    pub(crate) stored: bool,
}

// === impl Faults ===

/// Takes one from a counted fault.
pub(crate) fn take<T: Copy>(fault: &mut (T, u32)) -> Option<T> {
    fault.1 = fault.1.checked_sub(1)?;
    Some(fault.0)
}

impl Faults {
    /// Is the acknowledgement of this client's message to be withheld, and is the message stored all the same?
    pub(crate) fn take_withheld(&mut self, module: Option<&str>) -> Option<bool> {
        let withhold = self.withhold.as_mut()?;
        if withhold.module.is_some() && withhold.module.as_deref() != module {
            return None;
        }
        let stored = withhold.stored;
        withhold.count = withhold.count.saturating_sub(1);
        if withhold.count == 0 {
            self.withhold = None;
        }
        Some(stored)
    }
}
