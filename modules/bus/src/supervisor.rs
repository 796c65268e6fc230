//! Keeps the broker running: its files, its process, its certificate.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use shunt_hub::Workload;
use shunt_module::{Context, Health, Problems};
use shunt_wire::Name;
use tokio::time::{Instant, sleep_until};

use crate::{
    BusSettings, access,
    authority::Authority,
    bridge,
    broker::{Broker, Programs},
    certificate::{Certificate, OwnTls},
    configuration::{
        ACCESS, AUTHORITIES, CERTIFICATE, Configuration, KEY, OPENSSL, OPENSSL_TEXT, PLAIN_ACCESS,
    },
    folder::Folder,
    monitor::Monitor,
    tally::Tally,
};

/// The part of the module's health.
const PART: &str = "broker";
/// The pause before an ended broker is started again, doubled each time, within these bounds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A broker that lived so long is no broken one: its next pause is the first again.
const LIVED: Duration = Duration::from_mins(1);
/// What the broker has to stop in where new settings need it.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The broker and all that it needs.
pub(crate) struct Supervisor {
    name: Name,
    workload: Option<Workload>,
    programs: Programs,
    folder: Folder,
    data: PathBuf,
    authority: Authority,
    monitor_tls: OwnTls,
    monitor: Option<Monitor>,
    bridge: Option<bridge::Running>,
    settings: Arc<BusSettings>,
    certificate: Option<Certificate>,
    state: State,
    failures: u32,
    health: Health,
    tally: Tally,
}

enum State {
    Running(Broker, Instant),
    Waiting(Instant),
}

/// What happens by itself.
pub(crate) enum Event {
    /// The broker has ended.
    Ended(String),
    /// It is time to start it.
    Start,
    /// It is time for a fresh certificate.
    Renew,
    /// The broker's memory is nearly full.
    Full,
}

// === impl Supervisor ===

impl Supervisor {
    pub(crate) fn new(context: &Context<BusSettings>, tally: Tally) -> anyhow::Result<Self> {
        let authority = Authority::new().context("cannot make keys for the supervisor's own clients")?;
        let monitor_tls = OwnTls::new(authority.client(access::MONITOR)?);
        Ok(Self {
            name: context.name.clone(),
            workload: context.workload.clone(),
            programs: Programs::find()?,
            folder: Folder::new()?,
            data: context.common.data_dir.join(context.name.as_str()),
            authority,
            monitor_tls,
            monitor: None,
            bridge: None,
            settings: context.settings.current(),
            certificate: None,
            state: State::Waiting(Instant::now()),
            failures: 0,
            health: context.health.clone(),
            tally,
        })
    }

    /// What happens next by itself. Cancel-safe.
    pub(crate) async fn event(&mut self) -> Event {
        let Self { state, certificate, tally, settings, .. } = self;
        match state {
            State::Waiting(until) => {
                sleep_until(*until).await;
                Event::Start
            }
            State::Running(broker, _) => {
                let renewal = async {
                    match certificate {
                        Some(certificate) => certificate.wears_out().await,
                        None => std::future::pending().await,
                    }
                };
                let full = async {
                    if settings.persistence {
                        // It would read all of it again.
                        std::future::pending::<()>().await;
                    }
                    tally.nearly_full(settings.memory_limit.into()).await;
                };
                tokio::select! {
                    () = full => Event::Full,
                    ended = broker.ended() => Event::Ended(ended),
                    () = renewal => Event::Renew,
                }
            }
        }
    }

    /// Does what an event asks for.
    pub(crate) async fn handle(&mut self, event: Event) {
        match event {
            Event::Start => self.start().await,
            Event::Renew => self.renew().await,
            Event::Full => {
                let reason = "the memory of the broker is full: it is started anew, with nothing in it";
                tracing::error!(
                    limit = self.settings.memory_limit,
                    "The memory of the broker is full, perhaps with retained messages: it is started anew, and what waits in it is lost."
                );
                self.tally.restarted();
                self.stop(STOP_LIMIT).await;
                self.wait(reason.to_owned());
            }
            Event::Ended(how) => {
                if let State::Running(_, since) = &self.state
                    && since.elapsed() >= LIVED
                {
                    self.failures = 0;
                }
                tracing::error!(how, "The broker has ended by itself; it is started again.");
                self.tally.restarted();
                self.wait(how);
            }
        }
    }

    /// Takes new settings: by a reload where the broker can, else by a restart. Says what is wrong where they cannot
    /// be used; then the old ones are in force.
    pub(crate) async fn apply(&mut self, settings: Arc<BusSettings>) -> Result<(), Problems> {
        let old = Arc::clone(&self.settings);
        let wrong = |fields: &[&str], problem: &str| {
            let mut problems = Problems::default();
            for field in fields {
                problems.note(field, problem);
            }
            problems
        };
        if settings.tls_port != 0 && self.workload.is_none() {
            return Err(wrong(&["tls_port"], NO_WORKLOAD));
        }
        let certificate = match self.certificate_for(&settings).await {
            Ok(certificate) => certificate,
            Err(problem) => return Err(wrong(&["host"], &problem)),
        };
        let (before, after) = (self.configuration(&old), self.configuration(&settings));
        let reload = after.needs_no_restart(&before) && self.same_trust(certificate.as_ref());
        self.settings = settings;
        let old_certificate = std::mem::replace(&mut self.certificate, certificate);
        let problem = match &self.state {
            // A broker that waits to be started shows the same: nothing is accepted that it does not start with.
            State::Waiting(_) => self.try_start().await.err(),
            State::Running(..) if reload => self.reload().and_then(|()| self.follow()).err(),
            State::Running(..) => {
                self.tally.restarted();
                self.stop(STOP_LIMIT).await;
                self.try_start().await.err()
            }
        };
        let Some(problem) = problem else { return Ok(()) };
        tracing::warn!(
            problem,
            "The broker does not work with the new settings; it goes back to the old ones."
        );
        let changed = changed(&old, &self.settings);
        (self.settings, self.certificate) = (old, old_certificate);
        if reload && matches!(self.state, State::Running(..)) {
            // It was told nothing, or what its clients can live with: no reason to cut them off.
            if let Err(problem) = self.reload().and_then(|()| self.follow()) {
                tracing::error!(
                    problem,
                    "The broker goes on as it is: the old settings cannot be told to it."
                );
            }
        } else {
            self.stop(STOP_LIMIT).await;
            self.start().await;
        }
        Err(wrong(&changed, &problem))
    }

    /// Stops the broker, for good.
    pub(crate) async fn stop(&mut self, limit: Duration) {
        // It would miss its broker.
        self.monitor = None;
        if let State::Running(broker, _) = std::mem::replace(&mut self.state, State::Waiting(Instant::now()))
        {
            broker.stop(limit).await;
        }
    }

    async fn start(&mut self) {
        if let Err(problem) = self.try_start().await {
            tracing::error!(problem, "The broker cannot be started; another attempt follows.");
            self.wait(problem);
        }
    }

    /// Not now, but after a pause that grows.
    fn wait(&mut self, reason: String) {
        self.health.set(PART, Err(reason));
        let pause = PAUSE.0.saturating_mul(1 << self.failures.min(16)).min(PAUSE.1);
        self.failures += 1;
        self.state = State::Waiting(Instant::now() + pause);
    }

    /// From nothing to a broker that takes connections.
    async fn try_start(&mut self) -> Result<(), String> {
        let settings = Arc::clone(&self.settings);
        self.certificate = self.certificate_for(&settings).await?;
        if settings.persistence {
            let made = std::fs::create_dir_all(&self.data);
            made.map_err(|error| format!("cannot keep anything in {}: {error}", self.data.display()))?;
        }
        self.write()?;
        self.tally.emptied();
        let file = self.folder.path().join(FILE);
        let broker = Broker::start(&self.programs, &file, &self.tally).await;
        let broker = broker.map_err(|error| error.to_string())?;
        self.state = State::Running(broker, Instant::now());
        self.health.set(PART, Ok(()));
        if settings.plain_port != 0 {
            tracing::warn!(
                address = settings.plain_address,
                port = settings.plain_port,
                "The bus has a port without TLS: whoever reaches it may do what `plain` says, and take any client's place."
            );
        }
        self.follow()
    }

    /// Makes our own clients follow the settings in force.
    fn follow(&mut self) -> Result<(), String> {
        let (url, tls) = self.door();
        let plan = bridge::Plan::new(&url, &self.settings);
        if self.bridge.as_ref().map(bridge::Running::plan) != plan.as_ref() {
            let tls = match &tls {
                None => None,
                Some(tls) => {
                    let identity =
                        self.authority.client(access::BRIDGE).map_err(|error| error.to_string())?;
                    Some((tls.with(Some(identity)), tls.with(None)))
                }
            };
            let (tally, health) = (self.tally.clone(), self.health.clone());
            self.bridge = plan.map(|plan| bridge::Running::start(plan, tls, tally, health));
        }
        if self.monitor.as_ref().is_none_or(|monitor| monitor.url() != url) {
            self.monitor = Some(Monitor::start(url, tls, self.tally.clone()));
        }
        Ok(())
    }

    async fn renew(&mut self) {
        let Some(workload) = &self.workload else { return };
        match Certificate::get(workload, &self.settings.host(&self.name)).await {
            Ok(fresh) => {
                let same = self.same_trust(Some(&fresh));
                self.certificate = Some(fresh);
                if same {
                    if let Err(problem) = self.reload() {
                        tracing::error!(problem, "The broker's certificate cannot be renewed.");
                        self.certificate.iter_mut().for_each(Certificate::postpone);
                    }
                } else {
                    // The broker reads authorities at its start only.
                    tracing::info!("The authorities of the device have changed: the broker is restarted.");
                    self.tally.restarted();
                    self.stop(STOP_LIMIT).await;
                    self.start().await;
                }
            }
            Err(problem) => {
                tracing::error!(
                    problem,
                    "The broker's certificate cannot be renewed; another attempt follows."
                );
                self.certificate.iter_mut().for_each(Certificate::postpone);
            }
        }
    }

    /// Makes the running broker take the files anew.
    fn reload(&mut self) -> Result<(), String> {
        self.write()?;
        if let State::Running(broker, _) = &self.state {
            broker.reload().map_err(|error| format!("the broker cannot be told to reload: {error}"))?;
            self.tally.reloaded();
        }
        Ok(())
    }

    /// The certificate that these settings need: the one at hand where it will do.
    async fn certificate_for(&self, settings: &BusSettings) -> Result<Option<Certificate>, String> {
        if settings.tls_port == 0 {
            return Ok(None);
        }
        let host = settings.host(&self.name);
        if let Some(certificate) = &self.certificate
            && certificate.host == host
            && certificate.is_fresh()
        {
            return Ok(Some(certificate.clone()));
        }
        let workload = self.workload.as_ref().ok_or(NO_WORKLOAD)?;
        Certificate::get(workload, &host).await.map(Some)
    }

    fn same_trust(&self, certificate: Option<&Certificate>) -> bool {
        let trust = |certificate: &Certificate| certificate.trust.clone();
        certificate.map(trust) == self.certificate.as_ref().map(trust)
    }

    fn configuration(&self, settings: &BusSettings) -> Configuration {
        Configuration::new(settings, self.folder.path(), &self.data)
    }

    /// Writes all files of the settings in force.
    fn write(&self) -> Result<(), String> {
        let write =
            |name: &str, content: &str| self.folder.write(name, content).map_err(|error| error.to_string());
        let bridge = bridge::grant(&self.settings);
        if let Some(Certificate { trust, chain, key, expires, .. }) = &self.certificate {
            write(AUTHORITIES, &format!("{}\n{}", trust.trim_end(), self.authority.certificate()))?;
            write(CERTIFICATE, chain)?;
            write(KEY, key)?;
            write(ACCESS, &access::file(&self.settings, &bridge))?;
            self.monitor_tls.trust(trust);
            self.tally.expires(expires.unix_timestamp());
        }
        if self.settings.plain_port != 0 {
            write(PLAIN_ACCESS, &access::plain_file(&self.settings, &bridge))?;
        }
        write(OPENSSL, OPENSSL_TEXT)?;
        write(FILE, &self.configuration(&self.settings).text())
    }

    /// Where our own clients enter.
    fn door(&self) -> (String, Option<OwnTls>) {
        let settings = &*self.settings;
        if settings.tls_port != 0 {
            let url = format!("mqtts://{}:{}", bracketed(&settings.host(&self.name)), settings.tls_port);
            return (url, Some(self.monitor_tls.clone()));
        }
        // The address was checked.
        let mut address = settings.plain_address.parse().unwrap_or(IpAddr::from([127, 0, 0, 1]));
        if address.is_unspecified() {
            address = [127, 0, 0, 1].into();
        }
        let address = SocketAddr::new(address, settings.plain_port);
        (format!("mqtt://{address}"), None)
    }
}

/// The broker's configuration in the private folder.
const FILE: &str = "mosquitto.conf";
/// Why there is no TLS.
pub(crate) const NO_WORKLOAD: &str = "TLS needs IoT Edge's workload API, which is not there; without IoT Edge, set it to 0 and open a plain_port";

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// The fields that may be the reason why the broker does not work any more.
fn changed(old: &BusSettings, new: &BusSettings) -> Vec<&'static str> {
    let fields = [
        ("address", old.address != new.address),
        ("tls_port", old.tls_port != new.tls_port),
        ("host", old.host != new.host),
        ("plain_port", old.plain_port != new.plain_port),
        ("plain_address", old.plain_address != new.plain_address),
        ("max_connections", old.max_connections != new.max_connections),
        ("max_packet_bytes", old.max_packet_bytes != new.max_packet_bytes),
        ("persistence", old.persistence != new.persistence),
    ];
    let changed: Vec<_> =
        fields.into_iter().filter(|(_, changed)| *changed).map(|(field, _)| field).collect();
    if changed.is_empty() { vec!["modules"] } else { changed }
}
