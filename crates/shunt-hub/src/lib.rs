//! The IoT Edge module client: edgeHub's MQTT dialect, the workload API, twins, direct methods, telemetry.
//!
//! **It promises** that [`Hub::send`] resolves when the hub has the message and not before, through any number of
//! reconnects; that messages which the hub would punish (by closing the connection, or by losing them without a word)
//! are refused here with a reason; that the desired properties are those of the hub, versions checked and gaps healed;
//! that the token is renewed before it ends; that messages on inputs are acknowledged in their order.
//!
//! **It does not** keep messages over a restart of the process (`relay` does), speak MQTT over WebSocket or AMQP, use
//! certificates as identity, receive cloud-to-device messages, or upload files.
//!
//! ```no_run
//! use shunt_hub::{Hub, HubMessage, HubOptions, ProcessEnvironment};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let Some(options) = HubOptions::from_environment(&ProcessEnvironment)? else {
//!     return Ok(()); // Not in IoT Edge.
//! };
//! let hub = Hub::open(options);
//! let mut desired = hub.desired();
//! hub.send(HubMessage {
//!     output: Some("telemetry".to_owned()),
//!     content_type: Some("application/json".to_owned()),
//!     content_encoding: Some("utf-8".to_owned()),
//!     body: r#"{"emotion":"happiness"}"#.into(),
//!     ..HubMessage::default()
//! })
//! .await?;
//! desired.changed().await?;
//! hub.close(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```

mod ack;
mod environment;
mod fault;
mod hub;
mod invoke;
mod message;
mod method;
mod options;
mod session;
mod tls;
mod token;
mod topic;
mod twin;
mod wire;
mod workload;

pub use environment::{Environment, ProcessEnvironment};
pub use hub::{Hub, HubCounters, HubState};
pub use invoke::{InvokeError, InvokeLimits, MethodAnswer};
pub use message::{HubMessage, InputMessage, SendError};
pub use method::{MethodCall, MethodReply};
pub use options::{HubOptions, HubOptionsError};
pub use twin::{Desired, Twin, TwinError};
pub use workload::{Workload, WorkloadCertificate, WorkloadError};
