//! For tests only: real brokers, a line that can be cut, the ledger of events, sample pictures.
//!
//! It promises: fresh ports and fresh temporary folders, so that tests run side by side and twice in a row;
//! waits that end at a limit; nothing left running when its values are dropped.
//!
//! It deliberately holds no imitation of a part that can be installed: the brokers are Mosquitto and Redis themselves.
//!
//! ```no_run
//! # #[tokio::main] async fn main() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use shunt_testkit::{Line, Mosquitto, eventually};
//!
//! let broker = Mosquitto::start().await?;
//! let line = Line::to(broker.addr()).await?;
//! let url = format!("mqtt://{}", line.addr());
//! line.cut();
//! line.heal();
//! eventually(Duration::from_secs(5), || async { line.connections() > 0 }).await;
//! # Ok(()) }
//! ```

mod condition;
mod ledger;
mod line;
mod mosquitto;
mod places;
mod process;
mod redis;

pub use condition::{eventually, found};
pub use ledger::Ledger;
pub use line::Line;
pub use mosquitto::{Mosquitto, MosquittoOptions};
pub use places::{binary, fresh_address, repo_root, sample_picture, shared_dir};
pub use redis::{Redis, RedisOptions};
