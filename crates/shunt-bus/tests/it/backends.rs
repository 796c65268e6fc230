//! The back ends under test, with a line that can be cut.

use std::time::Duration;

use shunt_bus::{Bus, BusOptions, BusState, memory::MemoryBroker};
use shunt_testkit::{Line, Mosquitto, Redis};
use shunt_wire::Name;
use tempfile::TempDir;
use tokio::time::timeout;

/// Nothing takes so long unless it is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A broker and the line to it.
pub(crate) enum Backend {
    Memory(MemoryBroker),
    Mqtt {
        broker: Mosquitto,
        line: Line,
    },
    Redis {
        server: Redis,
        line: Line,
    },
    /// One of these, whose clients share a folder.
    Shared {
        backend: Box<Backend>,
        folder: TempDir,
    },
}

// === impl Backend ===

impl Backend {
    /// The in-process broker, of a name that no other test uses.
    pub(crate) fn memory(name: &str) -> Self {
        Self::Memory(MemoryBroker::named(name))
    }

    /// Mosquitto, keeping sessions on disk.
    pub(crate) async fn mqtt() -> anyhow::Result<Self> {
        let broker = Mosquitto::persistent().await?;
        let line = Line::to(broker.addr()).await?;
        Ok(Self::Mqtt { broker, line })
    }

    /// This one, with a folder that its clients share.
    pub(crate) fn shared(self) -> anyhow::Result<Self> {
        Ok(Self::Shared { backend: Box::new(self), folder: tempfile::tempdir()? })
    }

    /// Redis, keeping everything on disk.
    pub(crate) async fn redis() -> anyhow::Result<Self> {
        let server = Redis::persistent().await?;
        let line = Line::to(server.addr()).await?;
        Ok(Self::Redis { server, line })
    }

    /// The line to a real broker.
    pub(crate) fn line(&self) -> Option<&Line> {
        match self {
            Self::Mqtt { line, .. } | Self::Redis { line, .. } => Some(line),
            Self::Memory(_) | Self::Shared { .. } => None,
        }
    }

    /// The address for clients, through the line.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Memory(broker) => broker.url(),
            Self::Mqtt { line, .. } => format!("mqtt://{}", line.addr()),
            Self::Redis { line, .. } => format!("redis://{}", line.addr()),
            Self::Shared { backend, .. } => backend.url(),
        }
    }

    pub(crate) fn cut(&self) {
        match self {
            Self::Memory(broker) => broker.cut(),
            Self::Mqtt { line, .. } | Self::Redis { line, .. } => line.cut(),
            Self::Shared { backend, .. } => backend.cut(),
        }
    }

    pub(crate) fn heal(&self) {
        match self {
            Self::Memory(broker) => broker.heal(),
            Self::Mqtt { line, .. } | Self::Redis { line, .. } => line.heal(),
            Self::Shared { backend, .. } => backend.heal(),
        }
    }

    /// A client of this name that is connected.
    pub(crate) async fn bus(&self, module: &str) -> anyhow::Result<Bus> {
        self.bus_with(module, |_| {}).await
    }

    /// A client of this name with changed options that is connected.
    pub(crate) async fn bus_with(
        &self,
        module: &str,
        change: impl FnOnce(&mut BusOptions),
    ) -> anyhow::Result<Bus> {
        let mut options = BusOptions::new(self.url(), module.parse::<Name>()?);
        if let Self::Shared { folder, .. } = self {
            options.shared = Some(folder.path().to_owned());
        }
        change(&mut options);
        let bus = Bus::open(options)?;
        connected(&bus).await?;
        Ok(bus)
    }
}

/// Waits until the bus is there.
pub(crate) async fn connected(bus: &Bus) -> anyhow::Result<()> {
    let mut state = bus.state();
    let connected = timeout(LIMIT, state.wait_for(|state| *state == BusState::Connected)).await.is_ok();
    anyhow::ensure!(connected, "the bus is not there: {:?}", *bus.state().borrow());
    Ok(())
}

/// Waits until the bus is not there.
pub(crate) async fn disconnected(bus: &Bus) -> anyhow::Result<()> {
    timeout(LIMIT, bus.state().wait_for(|state| *state != BusState::Connected)).await??;
    Ok(())
}
