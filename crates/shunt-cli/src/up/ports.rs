//! The ports of the modules and the brokers.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context;

/// The ports that the modules' HTTP interfaces have everywhere.
const PORTS: [(&str, u16); 10] = [
    ("bus", 8084),
    ("camera", 8081),
    ("console", 8090),
    ("emotion", 5002),
    ("functions", 8080),
    ("gateway", 3500),
    ("inference", 5001),
    ("relay", 8083),
    ("rules", 8082),
    ("sentiment", 5000),
];

/// The ports on which the bus takes clients: ours with TLS, and a Redis server.
const BROKERS: [(&str, u16); 2] = [("bus", 8883), ("redis", 6379)];

/// Where modules listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ports {
    /// On the ports that they have everywhere.
    Usual,
    /// On whatever is free.
    Fresh,
}

// === impl Ports ===

impl Ports {
    /// A port for this module's HTTP interface: its usual one, or one that is free now.
    pub(crate) fn pick(self, module: &str) -> anyhow::Result<u16> {
        self.take(usual(module))
    }

    /// A port on which this broker takes clients.
    pub(crate) fn pick_for_clients(self, broker: &str) -> anyhow::Result<u16> {
        self.take(for_clients(broker))
    }

    fn take(self, usual: Option<u16>) -> anyhow::Result<u16> {
        usual.filter(|_| self == Self::Usual).map_or_else(fresh, Ok)
    }

    /// Fails where a port that will be needed is taken, with all of them.
    pub(crate) fn check<'a>(self, modules: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
        if self == Self::Fresh {
            return Ok(());
        }
        let taken: Vec<String> = modules
            .flat_map(|module| [usual(module), for_clients(module)].map(|port| (module, port)))
            .filter_map(|(module, port)| Some((module, port?)))
            .filter(|(_, port)| !is_free(*port))
            .map(|(module, port)| format!("port {port}, where {module} listens"))
            .collect();
        anyhow::ensure!(
            taken.is_empty(),
            "in use by another program: {} (stop that program, or give --fresh-ports{})",
            taken.join("; "),
            if taken.iter().any(|line| line.contains("redis")) {
                "; Debian starts a Redis server of its own: systemctl disable --now redis-server"
            } else {
                ""
            }
        );
        Ok(())
    }
}

/// The port on which a broker takes clients everywhere.
pub(crate) fn for_clients(broker: &str) -> Option<u16> {
    BROKERS.iter().find(|(name, _)| *name == broker).map(|(_, port)| *port)
}

/// The port that a module's HTTP interface has everywhere.
pub(crate) fn usual(module: &str) -> Option<u16> {
    PORTS.iter().find(|(name, _)| *name == module).map(|(_, port)| *port)
}

/// Can it be listened on?
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn fresh() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_its_module() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(taken.local_addr().unwrap().port()));
        // Whoever holds 8883 on this machine, the message names it.
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 8883));
        let error = Ports::Usual.check(["bus"].into_iter()).unwrap_err().to_string();
        drop(held);
        assert!(error.contains("port 8883, where bus listens"), "{error}");
        assert!(error.contains("--fresh-ports"), "{error}");
    }

    #[test]
    fn fresh_ports_differ_from_the_usual_ones() {
        assert_eq!(Ports::Usual.pick("camera").unwrap(), 8081);
        assert_eq!(Ports::Usual.pick_for_clients("bus").unwrap(), 8883);
        assert_ne!(Ports::Fresh.pick("camera").unwrap(), 8081);
        assert!(Ports::Fresh.check(["bus"].into_iter()).is_ok());
    }
}
