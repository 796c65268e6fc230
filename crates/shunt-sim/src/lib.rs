//! The local stand-in for the IoT Edge runtime and IoT Hub.
//!
//! It gives modules the environment that edgeAgent gives them and answers where they call: the workload API on a Unix
//! socket each, edgeHub's MQTT dialect over TLS with a certificate authority of its own, twins, direct methods, routes,
//! leaf devices, and the calls of IoT Hub's REST that deploy a manifest. A client that breaks edgeHub's rules is treated
//! as edgeHub treats it, and faults can be asked for.
//!
//! # What it promises
//!
//! - Tokens are checked for real, over the resource text as received.
//! - A PUBACK is sent after the message was put where its routes lead.
//! - Every queue is bounded, and every drop is counted with its reason ([`Sim::dropped`]).
//! - The folder keeps the authority and the keys: a restart with the same folder is the same device to its clients.
//!
//! # What it deliberately does not do
//!
//! - It starts no containers and no processes; `shunt up` does.
//! - Messages, twins and queues live in memory only: it is no gateway for production.
//! - No certificate authentication of clients (one is asked for, and not used), no WebSocket, no nested devices.
//! - Keys of certificates are P-256, where the daemon makes RSA 2048.
//!
//! # Example
//!
//! ```
//! use shunt_sim::{Sim, SimOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let sim = Sim::start(SimOptions { folder: folder.path().to_owned(), ..SimOptions::default() }).await?;
//! sim.add_module("relay")?;
//! let environment = sim.module_environment("relay");
//! assert_eq!(environment["IOTEDGE_MODULEID"], "relay");
//! assert!(environment["IOTEDGE_WORKLOADURI"].starts_with("unix:///"));
//! sim.stop().await;
//! # Ok(())
//! # }
//! ```

mod authority;
mod codec;
mod connection;
mod deploy;
mod fault;
mod http;
mod identity;
mod message;
mod method;
mod rest;
pub mod routes;
mod routing;
mod sim;
mod state;
mod token;
mod twin;
mod workload;

pub use fault::Fault;
pub use message::HubRecord;
pub use method::{InvokeError, MethodResult};
pub use sim::{DeployError, PatchError, Sim, SimError, SimOptions};
pub use twin::TwinLimitError;
