//! Mosquitto as the bus.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use tokio::net::TcpStream;

use crate::child::{self, Program};

/// What the broker has to come up in.
const START_LIMIT: Duration = Duration::from_secs(5);

/// Writes the configuration and says how to start it.
pub(crate) fn program(folder: &Path, port: u16) -> anyhow::Result<Program> {
    let file = child::find_program("mosquitto").context(
        "mosquitto is not installed: run scripts/setup, or install the package mosquitto of your system",
    )?;
    let configuration = folder.join("mosquitto.conf");
    std::fs::write(&configuration, text(port))
        .with_context(|| format!("cannot write {}", configuration.display()))?;
    // Started by root, Mosquitto changes to a user of its own, who may not be able to read our folder.
    Ok(Program {
        file,
        arguments: vec!["-c".to_owned(), configuration.display().to_string()],
        environment: Vec::new(),
    })
}

/// Everything is bounded, nothing waits for more data, nothing listens beyond this machine. The bounds are those of
/// the bus on a device, `modules/bus/mosquitto.conf`. Nothing is kept on disk, other than there: this broker lives as
/// long as its chain, which begins with empty folders.
fn text(port: u16) -> String {
    let user = if rustix::process::getuid().is_root() { "user root\n" } else { "" };
    format!(
        "{user}listener {port} 127.0.0.1
allow_anonymous true
# Events are small: waiting to fill a packet costs 40 ms and more.
set_tcp_nodelay true
# What a subscriber has not taken: the oldest wait, newer ones are dropped when this is full. The publishers of
# what must not be lost keep it until the broker has answered.
max_queued_messages 10000
max_queued_bytes 67108864
max_inflight_messages 64
max_packet_size 8388608
persistence false
connection_messages false
log_type error
log_type warning
log_type notice
"
    )
}

/// Waits until it takes connections.
pub(crate) async fn ready(port: u16) -> anyhow::Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let wait = async {
        loop {
            tick.tick().await;
            if TcpStream::connect(address).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(START_LIMIT, wait)
        .await
        .with_context(|| format!("the broker does not listen on {address} after {} s", START_LIMIT.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(configuration: &'a str, key: &str) -> Option<&'a str> {
        configuration.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
    }

    #[test]
    fn the_bounds_are_those_of_the_bus_on_a_device() {
        let device = include_str!("../../../../modules/bus/mosquitto.conf");
        let ours = text(1883);
        for key in ["max_queued_messages", "max_queued_bytes", "max_inflight_messages", "max_packet_size"] {
            assert!(value(device, key).is_some(), "{key}");
            assert_eq!(value(&ours, key), value(device, key), "{key}");
        }
    }
}
