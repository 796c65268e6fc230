//! The module in this process, and clients of its broker.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use shunt_bus::{Bus, BusOptions, BusState, BusTls, Delivery, PublishError, Subscription};
use shunt_hub::{HubOptions, Workload};
use shunt_module::Context;
use shunt_sim::{Sim, SimOptions};
use shunt_testkit::fresh_address;
use shunt_wire::{Envelope, Kind, Name, TopicFilter};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// What a busy machine may need for a step.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A device with the module `bus`.
pub(crate) struct Device {
    pub(crate) sim: Sim,
    /// Where the broker takes TLS connections.
    pub(crate) broker: SocketAddr,
    /// The module's HTTP interface.
    pub(crate) http: SocketAddr,
    environment: BTreeMap<String, String>,
    life: Option<(oneshot::Sender<()>, JoinHandle<u8>)>,
    _folder: TempDir,
}

/// The modules that the stand-in knows.
const MODULES: [&str; 8] = ["bus", "camera", "emotion", "relay", "gateway", "sentiment", "rules", "airq"];

// === impl Device ===

impl Device {
    /// Starts it; the broker takes connections when this returns.
    pub(crate) async fn start(variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::with(SimOptions::default(), variables).await
    }

    /// The same, with these options of the stand-in.
    pub(crate) async fn with(options: SimOptions, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let device = Self::begun(options, variables).await?;
        device.ready().await?;
        Ok(device)
    }

    /// Starts it, and does not wait for the broker.
    pub(crate) async fn begun(options: SimOptions, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let sim = Sim::start(SimOptions { folder: folder.path().join("sim"), ..options }).await?;
        for module in MODULES {
            sim.add_module(module)?;
        }
        let (broker, http) = (fresh_address()?, fresh_address()?);
        let mut environment = sim.module_environment("bus");
        let data = folder.path().join("data").display().to_string();
        let own = [
            ("SHUNT_BUS_URL", format!("mqtts://localhost:{}", broker.port())),
            ("SHUNT_BUS_ADDRESS", "127.0.0.1".to_owned()),
            ("SHUNT_BUS_TLS_PORT", broker.port().to_string()),
            ("SHUNT_HTTP_LISTEN", http.to_string()),
            ("SHUNT_DATA_DIR", data),
        ];
        environment.extend(own.map(|(name, value)| (name.to_owned(), value)));
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut device = Self { sim, broker, http, environment, life: None, _folder: folder };
        device.begin();
        Ok(device)
    }

    /// Starts the module (again).
    pub(crate) fn begin(&mut self) {
        let (stop, stopped) = oneshot::channel::<()>();
        let environment = self.environment.clone();
        let life = tokio::spawn(async move {
            let stop = async {
                stopped.await.ok();
                "the test"
            };
            let run = |context: Context<bus::BusSettings>| bus::run(context);
            shunt_module::live(&environment, stop, run).await
        });
        self.life = Some((stop, life));
    }

    /// Stops the module; its exit code.
    pub(crate) async fn end(&mut self) -> anyhow::Result<u8> {
        let (stop, life) = self.life.take().context("it does not run")?;
        stop.send(()).ok();
        Ok(timeout(LIMIT, life).await??)
    }

    /// Waits until the module says that it is ready.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        self.wait_for("/readyz", |status, _| status == 200).await.map(drop)
    }

    /// Waits until a page of the module is as wanted; the page.
    pub(crate) async fn wait_for(
        &self,
        path: &str,
        wanted: impl Fn(u16, &str) -> bool,
    ) -> anyhow::Result<String> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder().tcp_nodelay(true).no_proxy().timeout(LIMIT).build()?;
        let mut last = String::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let waiting = async {
            loop {
                ticks.tick().await;
                let Ok(answer) = client.get(format!("http://{}{path}", self.http)).send().await else {
                    continue;
                };
                let status = answer.status().as_u16();
                last = answer.text().await.unwrap_or_default();
                if wanted(status, &last) {
                    return;
                }
            }
        };
        timeout(LIMIT, waiting).await.ok().with_context(|| format!("{path}: {last}"))?;
        Ok(last)
    }

    /// Waits until a metric of the module has a value that is wanted.
    pub(crate) async fn metric(&self, name: &str, wanted: impl Fn(f64) -> bool) -> anyhow::Result<f64> {
        let read = |page: &str| {
            page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok())
        };
        let page = self.wait_for("/metrics", |_, page| read(page).is_some_and(&wanted)).await?;
        read(&page).context("the metric is gone")
    }

    /// The workload API of a module.
    pub(crate) fn workload(&self, module: &str) -> anyhow::Result<Workload> {
        let options = HubOptions::from_environment(&self.sim.module_environment(module))?;
        options.and_then(|options| options.workload()).context("there is no workload API")
    }

    /// What a module proves itself with.
    pub(crate) async fn tls(&self, module: &str) -> anyhow::Result<BusTls> {
        let workload = self.workload(module)?;
        let certificate = workload.identity_certificate().await?;
        Ok(BusTls {
            trust: workload.trust_bundle().await?,
            identity: Some((certificate.chain, certificate.private_key)),
        })
    }

    /// The address of the broker for modules.
    pub(crate) fn url(&self) -> String {
        format!("mqtts://localhost:{}", self.broker.port())
    }

    /// A module on the bus, connected.
    pub(crate) async fn module(&self, module: &'static str) -> anyhow::Result<Bus> {
        let tls = self.tls(module).await?;
        let options =
            BusOptions { tls: Some(tls.into()), ..BusOptions::new(self.url(), Name::from_static(module)) };
        let bus = Bus::open(options)?;
        connected(&bus).await?;
        Ok(bus)
    }

    /// A TLS configuration for clients of the test's own.
    pub(crate) fn raw_tls(&self, identity: Option<&BusTls>) -> anyhow::Result<Arc<rustls::ClientConfig>> {
        self.raw_tls_of(identity, rustls::ALL_VERSIONS)
    }

    /// The same, of these versions of TLS only.
    pub(crate) fn raw_tls_of(
        &self,
        identity: Option<&BusTls>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> anyhow::Result<Arc<rustls::ClientConfig>> {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.sim.ca_bundle().as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots);
        let config = match identity.and_then(|tls| tls.identity.as_ref()) {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain =
                    CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?
            }
        };
        Ok(Arc::new(config))
    }
}

/// Waits until a client is connected.
pub(crate) async fn connected(bus: &Bus) -> anyhow::Result<()> {
    let mut state = bus.state();
    let state = timeout(LIMIT, state.wait_for(|state| *state == BusState::Connected)).await;
    state.with_context(|| format!("{:?}", bus.state().borrow().clone()))??;
    Ok(())
}

/// An event of this kind and source, with an id of its own.
pub(crate) fn event(kind: &Kind, source: &'static str, id: u64) -> Envelope {
    Envelope::new(id.to_string(), kind.clone(), Name::from_static(source), "2026-11-21T09:00:00Z")
}

/// Publishes, assured.
pub(crate) async fn publish(
    bus: &Bus,
    kind: &Kind,
    source: &'static str,
    id: u64,
) -> Result<(), PublishError> {
    timeout(LIMIT, bus.publish(event(kind, source, id), Delivery::Assured))
        .await
        .unwrap_or(Err(PublishError::Closed))
}

/// Subscribes to a kind, assured.
pub(crate) async fn subscribe(bus: &Bus, kind: &Kind) -> anyhow::Result<Subscription> {
    Ok(bus.subscribe(&TopicFilter::kind(kind), Delivery::Assured).await?)
}

/// The id of the next event, acknowledged.
pub(crate) async fn take(events: &mut Subscription) -> anyhow::Result<String> {
    let received = timeout(LIMIT, events.next()).await?.context("the bus was closed")?;
    received.ack.ack();
    Ok(received.envelope?.id)
}
