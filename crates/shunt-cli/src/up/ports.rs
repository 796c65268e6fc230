//! The ports of the modules.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context;

/// The ports that the modules have everywhere.
const PORTS: [(&str, u16); 10] = [
    ("bus", 1883),
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
    /// A port for this module: its usual one, or one that is free now.
    pub(crate) fn pick(self, module: &str) -> anyhow::Result<u16> {
        match usual(module).filter(|_| self == Self::Usual) {
            Some(port) => Ok(port),
            None => fresh(),
        }
    }

    /// Fails where a port that will be needed is taken, with all of them.
    pub(crate) fn check<'a>(self, modules: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
        if self == Self::Fresh {
            return Ok(());
        }
        let taken: Vec<String> = modules
            .filter_map(|module| Some((module, usual(module)?)))
            .filter(|(_, port)| !is_free(*port))
            .map(|(module, port)| format!("port {port}, where {module} listens"))
            .collect();
        anyhow::ensure!(
            taken.is_empty(),
            "in use by another program: {} (stop that program, or give --fresh-ports{})",
            taken.join("; "),
            if taken.iter().any(|line| line.contains("1883")) {
                "; Debian starts a mosquitto of its own: systemctl disable --now mosquitto"
            } else {
                ""
            }
        );
        Ok(())
    }
}

/// The port that a module has everywhere.
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
        // Whoever holds 1883 on this machine, the message names it.
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 1883));
        let error = Ports::Usual.check(["bus"].into_iter()).unwrap_err().to_string();
        drop(held);
        assert!(error.contains("port 1883, where bus listens"), "{error}");
        assert!(error.contains("--fresh-ports"), "{error}");
    }

    #[test]
    fn fresh_ports_differ_from_the_usual_ones() {
        assert_eq!(Ports::Usual.pick("camera").unwrap(), 8081);
        assert_ne!(Ports::Fresh.pick("camera").unwrap(), 8081);
        assert!(Ports::Fresh.check(["bus"].into_iter()).is_ok());
    }
}
