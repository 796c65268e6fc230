//! The ways there are, and what each needs around it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};
use shunt_bus::BusTls;
use shunt_wire::Kind;
use tempfile::TempDir;

use super::{
    line::{CallWay, EventWay, Proof, Way},
    note::SHORTEST,
    report::FRAME,
    server::{NoServer, Server, fresh_port},
};
use crate::{bus::certificates, control::Control, up::running::Sim};

/// Where frames are in memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// A way that can be measured.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// As in `--only`.
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    /// Its processes stand for modules.
    pub(super) is_module: bool,
}

/// All of them, in the order of the report.
pub(super) const KNOWN: [Known; 14] = [
    Known { id: "uds", name: "Unix socket, raw", is_module: false },
    Known { id: "local", name: "bus, local path", is_module: true },
    Known { id: "mqtt-fast", name: "bus, MQTT QoS 0", is_module: true },
    Known { id: "mqtt-assured", name: "bus, MQTT QoS 1", is_module: true },
    Known { id: "tls-fast", name: "bus, MQTT QoS 0, TLS", is_module: true },
    Known { id: "tls-assured", name: "bus, MQTT QoS 1, TLS", is_module: true },
    Known { id: "redis-fast", name: "bus, Redis publish", is_module: true },
    Known { id: "redis-assured", name: "bus, Redis streams", is_module: true },
    Known { id: "frame", name: "shared frame, told by local path", is_module: true },
    Known { id: "frame-mqtt", name: "shared frame, told by MQTT QoS 0", is_module: true },
    Known { id: "direct", name: "call, direct", is_module: true },
    Known { id: "gateway", name: "call, through the gateway", is_module: true },
    Known { id: "redis-plain", name: "Redis publish, its own client", is_module: false },
    Known { id: "trap", name: "MQTT QoS 1, all defaults", is_module: false },
];

/// What a measurement needs. Its folders go with it.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) way: Way,
    servers: Vec<Server>,
    sim: Option<Sim>,
    /// For files, for what is in memory.
    folders: [TempDir; 2],
}

// === impl Known ===

impl Known {
    /// Are questions of this size measured?
    pub(super) fn takes(&self, size: usize) -> bool {
        match self.id {
            "frame" | "frame-mqtt" => size == FRAME,
            // The client takes no packets above 10 kB, and one size is enough to show it.
            "trap" => size < 1000,
            _ => size >= SHORTEST,
        }
    }

    /// Are throughput and a chain measured too?
    pub(super) fn is_whole(&self) -> bool {
        !matches!(self.id, "frame" | "frame-mqtt")
    }
}

// === impl Setup ===

impl Setup {
    /// Starts what this way needs for so many processes.
    pub(super) async fn new(id: &str, ring: usize) -> Result<Self, NoServer> {
        let folder = temporary(&std::env::temp_dir())?;
        // Pixels in memory where there is such a folder.
        let shared = Some(Path::new(SHARED_MEMORY)).filter(|shared| shared.is_dir());
        let shared = temporary(&shared.map_or_else(std::env::temp_dir, PathBuf::from))?;
        let mut setup = Self {
            way: Way::Socket { folder: folder.path().to_path_buf() },
            servers: Vec::new(),
            sim: None,
            folders: [folder, shared],
        };
        match setup.start(id, ring).await {
            Ok(way) => {
                setup.way = way;
                Ok(setup)
            }
            Err(none) => {
                setup.stop().await;
                Err(none)
            }
        }
    }

    async fn start(&mut self, id: &str, ring: usize) -> Result<Way, NoServer> {
        let [folder, shared] = self.folders.each_ref().map(|folder| folder.path().to_path_buf());
        let event = |url: String, assured: bool| EventWay { url, assured, shared: None, proofs: Vec::new() };
        Ok(match id {
            "uds" => Way::Socket { folder },
            "local" | "frame" => {
                let url = self.mosquitto(&folder).await?;
                let way = Way::Event(EventWay { shared: Some(shared.clone()), ..event(url, false) });
                if id == "local" { way } else { Way::Frame { folder: shared, told_by: Box::new(way) } }
            }
            "frame-mqtt" => {
                let way = Way::Event(event(self.mosquitto(&folder).await?, false));
                Way::Frame { folder: shared, told_by: Box::new(way) }
            }
            "mqtt-fast" | "mqtt-assured" => {
                Way::Event(event(self.mosquitto(&folder).await?, id == "mqtt-assured"))
            }
            "tls-fast" | "tls-assured" => {
                let (url, proofs) = self.authenticated(&folder, ring).await?;
                Way::Event(EventWay { proofs, ..event(url, id == "tls-assured") })
            }
            "redis-fast" | "redis-assured" => {
                let port = self.keep(Server::redis(&folder).await?);
                Way::Event(event(format!("redis://127.0.0.1:{port}"), id == "redis-assured"))
            }
            "redis-plain" => Way::PlainRedis { port: self.keep(Server::redis(&folder).await?) },
            "trap" => Way::Nagle { port: self.keep(Server::default_mosquitto().await?) },
            "direct" => Way::Call(CallWay { addresses: addresses(ring)?, gateway: None, folder }),
            "gateway" => {
                let (addresses, url) = (addresses(ring)?, self.mosquitto(&folder).await?);
                let apps = addresses.iter().enumerate().map(|(index, address)| {
                    (format!("bench-{}", index + 1), json!({"address": address, "subscribe": false}))
                });
                let apps = Value::Object(apps.collect());
                let port = self.keep(Server::gateway(&folder, &url, &apps).await?);
                Way::Call(CallWay { addresses, gateway: Some(format!("127.0.0.1:{port}")), folder })
            }
            _ => return Err(NoServer::Failed(anyhow::anyhow!("nobody knows how to measure {id}"))),
        })
    }

    /// A plain broker; its address.
    async fn mosquitto(&mut self, folder: &Path) -> Result<String, NoServer> {
        let port = self.keep(Server::mosquitto(folder).await?);
        Ok(format!("mqtt://127.0.0.1:{port}"))
    }

    /// The broker of a device, with certificates from the workload API; its address, and what the processes prove
    /// themselves with.
    async fn authenticated(&mut self, folder: &Path, ring: usize) -> Result<(String, Vec<Proof>), NoServer> {
        let (sim, addresses) = Sim::start(folder).await?;
        self.sim = Some(sim);
        let control = Control::new(&addresses.control)?;
        let names: Vec<String> = (0..ring).map(|index| format!("bench-{index}")).collect();
        let grant = json!({"publish": [Kind::TEXT], "subscribe": ["shunt/#"]});
        let modules = names.iter().map(|name| (name.clone(), grant.clone())).collect();
        control.add_module(&addresses.device, "bus").await?;
        let environment = control.environment("bus").await?;
        let port = self.keep(Server::bus(folder, environment, &Value::Object(modules)).await?);
        let mut proofs = Vec::new();
        for name in &names {
            control.add_module(&addresses.device, name).await?;
            let BusTls { trust, identity } = certificates(&control.environment(name).await?).await?;
            proofs.push(Proof { trust, identity });
        }
        Ok((format!("mqtts://localhost:{port}"), proofs))
    }

    fn keep(&mut self, server: Server) -> u16 {
        let port = server.port;
        self.servers.push(server);
        port
    }

    /// Stops what was started.
    pub(super) async fn stop(&mut self) {
        for server in self.servers.iter_mut().rev() {
            server.stop().await;
        }
        if let Some(sim) = self.sim.take() {
            sim.stop().await;
        }
    }
}

/// A free address for each process but the first.
fn addresses(ring: usize) -> anyhow::Result<Vec<String>> {
    (1..ring).map(|_| Ok(format!("127.0.0.1:{}", fresh_port()?))).collect()
}

fn temporary(parent: &Path) -> anyhow::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("shunt-bench-").tempdir_in(parent);
    folder.with_context(|| format!("cannot make a folder in {}", parent.display()))
}
