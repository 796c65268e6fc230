//! The stand-in as a whole: its options, its listeners, and what a test or a program asks of it.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Fault, HubRecord, InvokeError, MethodResult, TwinLimitError,
    authority::{self, Authority},
    connection, deploy, http,
    identity::{ClientId, KeyRing, key_text},
    message::Message,
    method,
    rest::{self, Door},
    state::{EDGE_AGENT, EDGE_HUB, Inner},
    token, workload,
};

/// The hub's policy whose key signs for its REST.
pub(crate) const POLICY: &str = "iothubowner";
/// The port that clients have built in.
const MQTT_PORT: u16 = 8883;
/// The version that modules are told to use at the workload API.
const API_VERSION: &str = "2022-08-03";
/// Time for a TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Most records that [`Sim::messages_from`] gives at once.
const MAX_RECORDS: usize = 10_000;

/// How the stand-in is set up. The default listens on fresh ports of the loopback address; the folder must be given.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// The host name of the hub: part of each token, never called.
    pub hub_name: String,
    /// The device whose modules run here.
    pub device_id: String,
    /// The name under which modules call edgeHub; a name or an IP address, without a port.
    pub gateway_host: String,
    /// Where the certificate authority, the secret and the workload sockets are kept. Paths of sockets have at most
    /// 107 bytes.
    pub folder: PathBuf,
    /// Where edgeHub's MQTT listens; port 0 is a fresh one.
    pub mqtt: SocketAddr,
    /// Where edgeHub's and IoT Hub's HTTPS listen.
    pub https: SocketAddr,
    /// Where the plain control HTTP listens. Whoever reaches it is the cloud: loopback only.
    pub control: SocketAddr,
    /// How many hub records are kept; older ones go.
    pub keep_records: usize,
    /// Connections at once; edgeHub's default is 100.
    pub max_clients: usize,
    /// A message that a module has not acknowledged after this time is sent again; edgeHub's is 30 s.
    pub message_ack_timeout: Duration,
    /// How often the token of an open connection is looked at; edgeHub's is 5 minutes.
    pub token_check_interval: Duration,
    /// How long edgeHub waits before it gives a method to a module that has just subscribed; 3 s.
    pub method_settle: Duration,
    /// Whether subscriptions outlive a connection with clean session 0. edgeHub with its persistent store restores
    /// them, but is known to lose them (Azure/iotedge issues 4050 and 5292), so a client must subscribe again; the
    /// default keeps none and shows which clients do. Microsoft's Python SDK does not.
    pub keep_sessions: bool,
    /// No CONNECT within this time: closed; none means edgeHub's 60 s.
    pub connect_limit: Option<Duration>,
    /// `RuntimeLogLevel` in the environment of the modules.
    pub log_level: String,
    /// How long certificates from the workload API are good, 30 days as the daemon's; see
    /// [`Sim::set_certificate_lifetime`].
    pub certificate_lifetime: Duration,
}

impl Default for SimOptions {
    fn default() -> Self {
        let fresh = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self {
            hub_name: "shunt-sim.azure-devices.net".to_owned(),
            device_id: "shunt-device".to_owned(),
            gateway_host: "localhost".to_owned(),
            folder: PathBuf::new(),
            mqtt: fresh,
            https: fresh,
            control: fresh,
            keep_records: 100_000,
            max_clients: 100,
            message_ack_timeout: Duration::from_secs(30),
            token_check_interval: Duration::from_mins(5),
            method_settle: Duration::from_secs(3),
            keep_sessions: false,
            connect_limit: None,
            log_level: "info".to_owned(),
            certificate_lifetime: Duration::from_hours(720),
        }
    }
}

/// Why the stand-in does not start, or a module cannot be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// The folder was not given.
    #[error("the stand-in needs a folder for its certificates and sockets")]
    NoFolder,
    /// A file or socket.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An address that is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A name that is no module id.
    #[error("{0}")]
    Name(String),
    /// Certificates.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// Certificates.
    #[error("cannot make a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// TLS.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why a manifest is refused. Nothing of it was applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeployError {
    /// It has not the form of a deployment.
    #[error("the manifest is refused: {0}")]
    Form(String),
    /// The desired properties of a module break a limit.
    #[error("the manifest is refused: the desired properties of {module}: {source}")]
    Limit {
        /// The module.
        module: String,
        /// The limit.
        source: TwinLimitError,
    },
    /// A module cannot be added.
    #[error("a module of the manifest cannot be added: {0}")]
    Start(SimError),
}

/// Why desired properties are not patched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// There is no such module.
    #[error("there is no module {0:?}")]
    Unknown(String),
    /// A limit of twins is broken.
    #[error(transparent)]
    Limit(#[from] TwinLimitError),
}

/// A running stand-in. Dropping it stops it; [`Sim::stop`] waits until it has stopped.
pub struct Sim {
    inner: Arc<Inner>,
    mqtt: SocketAddr,
    https: SocketAddr,
    control: SocketAddr,
}

// === impl SimError ===

impl SimError {
    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}

// === impl Sim ===

impl Sim {
    /// Starts it: when this returns, all addresses answer.
    pub async fn start(options: SimOptions) -> Result<Self, SimError> {
        if options.folder.as_os_str().is_empty() {
            return Err(SimError::NoFolder);
        }
        std::fs::create_dir_all(&options.folder).map_err(|source| SimError::file(&options.folder, source))?;
        let folder =
            options.folder.canonicalize().map_err(|source| SimError::file(&options.folder, source))?;
        let keys = KeyRing::new(&authority::secret(&folder)?);
        let authority = Authority::open(&folder)?;
        let mut names = vec![options.gateway_host.clone()];
        let listening = [options.mqtt.ip(), options.https.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let addresses = listening.iter().filter(|ip| !ip.is_unspecified()).map(ToString::to_string);
        for name in ["localhost".to_owned()].into_iter().chain(addresses) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let tls = authority.server_config(&names)?;
        let (mqtt, https, control) =
            (listen(options.mqtt).await?, listen(options.https).await?, listen(options.control).await?);
        let address = |listener: &TcpListener, wanted| {
            listener.local_addr().map_err(|source| SimError::Listen { address: wanted, source })
        };
        let sim = Self {
            mqtt: address(&mqtt, options.mqtt)?,
            https: address(&https, options.https)?,
            control: address(&control, options.control)?,
            inner: Arc::new(Inner::new(options, names, folder, authority, keys)),
        };
        let inner = &sim.inner;
        inner.mqtt_port.store(sim.mqtt.port(), Ordering::Relaxed);
        inner.https_port.store(sim.https.port(), Ordering::Relaxed);
        inner.add_identity(&ClientId::device(&inner.options.device_id));
        deploy::add_module(inner, EDGE_AGENT)?;
        deploy::add_module(inner, EDGE_HUB)?;
        inner.tasks.spawn(accept_tls(inner.clone(), mqtt, tls.clone(), Service::Mqtt));
        inner.tasks.spawn(accept_tls(inner.clone(), https, tls, Service::Https));
        inner.tasks.spawn(accept_control(inner.clone(), control));
        inner.tasks.spawn(sweep(inner.clone()));
        Ok(sim)
    }

    /// Deploys a manifest (`{"modulesContent": ...}`) as `az iot edge set-modules` does: identities, desired
    /// properties, routes. Running modules get their patches.
    pub fn deploy(&self, manifest: &Value) -> Result<(), DeployError> {
        deploy::deploy(&self.inner, manifest)
    }

    /// Adds a module without a manifest.
    pub fn add_module(&self, name: &str) -> Result<(), SimError> {
        deploy::check_name(name).map_err(|error| SimError::Name(error.to_string()))?;
        deploy::add_module(&self.inner, name)
    }

    /// Adds a leaf device and gives its connection string.
    pub fn add_device(&self, name: &str) -> Result<String, SimError> {
        deploy::check_name(name).map_err(|error| SimError::Name(error.to_string()))?;
        let client = ClientId::device(name);
        self.inner.add_identity(&client);
        let inner = &self.inner;
        Ok(format!(
            "HostName={};DeviceId={name};SharedAccessKey={};GatewayHostName={}",
            inner.options.hub_name,
            key_text(&inner.keys.primary(&client)),
            gateway(inner),
        ))
    }

    /// The environment that edgeAgent gives the module: the `env` of its manifest and the `IOTEDGE_*` variables.
    /// Empty if there is no such module.
    pub fn module_environment(&self, name: &str) -> BTreeMap<String, String> {
        environment(&self.inner, name).unwrap_or_default()
    }

    /// The module's connection string, as the simulator's `EdgeHubConnectionString` has it; its CA file is
    /// [`Sim::ca_file`].
    pub fn module_connection_string(&self, name: &str) -> String {
        let inner = &self.inner;
        let client = inner.module_id(name);
        format!(
            "HostName={};GatewayHostName={};DeviceId={};ModuleId={name};SharedAccessKey={}",
            inner.options.hub_name,
            gateway(inner),
            client.device,
            key_text(&inner.keys.primary(&client)),
        )
    }

    /// The hub's own connection string (policy `iothubowner`), as `az ... --login` takes it. Its host is the gateway's
    /// name and HTTPS port, because nobody answers at the hub's own name.
    pub fn hub_connection_string(&self) -> String {
        let host = https_host(&self.inner);
        format!("HostName={host};SharedAccessKeyName={POLICY};SharedAccessKey={}", self.policy_key())
    }

    /// The key of the policy `iothubowner`, base64.
    pub fn policy_key(&self) -> String {
        key_text(&self.inner.keys.policy())
    }

    /// A token of the policy `iothubowner` for the header `Authorization`, good for so long.
    pub fn policy_token(&self, lifetime: Duration) -> String {
        let resource = &self.inner.options.hub_name;
        token::make(resource, &self.inner.keys.policy(), Some(POLICY), token::now() + lifetime.as_secs())
    }

    /// Messages that reached the hub, from this sequence on (they count from 1). Waits up to `wait` for the first.
    /// Gives at most 10,000; old ones are gone, see [`SimOptions::keep_records`].
    pub async fn messages_from(&self, sequence: u64, wait: Duration) -> Vec<HubRecord> {
        wait_for_records(&self.inner, sequence, wait, MAX_RECORDS).await
    }

    /// How many messages reached the hub.
    pub fn message_count(&self) -> u64 {
        self.inner.message_count()
    }

    /// What edgeHub dropped, by reason: `no_route`, `ttl_expiry`, `too_large`, ...
    pub fn dropped(&self) -> BTreeMap<String, u64> {
        self.inner.lock().dropped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
    }

    /// Why the configuration of edgeHub was refused, if it was.
    pub fn routing_error(&self) -> Option<String> {
        self.inner.lock().routing_error.clone()
    }

    /// Patches a module's desired properties (`null` deletes), as the cloud does; the new version.
    pub fn patch_desired(&self, module: &str, patch: &Value) -> Result<u64, PatchError> {
        let patch = patch.as_object().ok_or(TwinLimitError::NotAnObject)?;
        let version = self.inner.patch_desired(&self.inner.module_id(module), patch)?;
        version.ok_or_else(|| PatchError::Unknown(module.to_owned()))
    }

    /// A module's twin as IoT Hub's REST shows it: `properties.desired`, `properties.reported`, each with `$version`.
    pub fn twin(&self, module: &str) -> Option<Value> {
        self.inner.twin(&self.inner.module_id(module))
    }

    /// A leaf device's twin.
    pub fn device_twin(&self, device: &str) -> Option<Value> {
        self.inner.twin(&ClientId::device(device))
    }

    /// Calls a direct method of a module that is connected; waits so long for the answer.
    pub async fn invoke(
        &self,
        module: &str,
        method: &str,
        payload: Value,
        wait: Duration,
    ) -> Result<MethodResult, InvokeError> {
        let target = self.inner.module_id(module);
        method::invoke(&self.inner, &target, method, Some(&payload), Duration::ZERO, wait).await
    }

    /// Calls a direct method of a leaf device.
    pub async fn invoke_device(
        &self,
        device: &str,
        method: &str,
        payload: Value,
        wait: Duration,
    ) -> Result<MethodResult, InvokeError> {
        method::invoke(&self.inner, &ClientId::device(device), method, Some(&payload), Duration::ZERO, wait)
            .await
    }

    /// Sends a message from the cloud to a leaf device. False if there is no such device or its queue is full.
    pub fn send_to_device(&self, device: &str, body: Bytes) -> bool {
        let message = Message::read(ClientId::device(device), "", false, body);
        message.is_ok_and(|message| self.inner.send_to_device(device, message))
    }

    /// Is the module connected?
    pub fn is_connected(&self, module: &str) -> bool {
        let client = self.inner.module_id(module);
        self.inner.lock().identities.get(&client).is_some_and(|identity| identity.session.is_some())
    }

    /// Messages that wait for a module.
    pub fn waiting_for(&self, module: &str) -> usize {
        let client = self.inner.module_id(module);
        self.inner.lock().identities.get(&client).map_or(0, |identity| identity.inbox.len())
    }

    /// Makes a fault.
    pub fn fault(&self, fault: &Fault) {
        self.inner.fault(fault);
    }

    /// How long certificates are good that the workload API gives from now on; nothing at all makes certificates
    /// that have run out already.
    pub fn set_certificate_lifetime(&self, lifetime: Duration) {
        self.inner.lock().certificate_lifetime = lifetime;
    }

    /// The file with the certificate of the authority.
    pub fn ca_file(&self) -> &Path {
        &self.inner.authority.bundle_file
    }

    /// The PEM text of the authority's certificate.
    pub fn ca_bundle(&self) -> &str {
        &self.inner.authority.bundle
    }

    /// Where edgeHub's MQTT listens.
    pub fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    /// Where HTTPS listens.
    pub fn https(&self) -> SocketAddr {
        self.https
    }

    /// Where the control HTTP listens.
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// The socket of a module's workload API.
    pub fn workload_socket(&self, module: &str) -> PathBuf {
        workload::socket(&self.inner, module)
    }

    /// Closes everything and waits until it is closed, at most 5 s.
    pub async fn stop(self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        if timeout(Duration::from_secs(5), self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("The stand-in did not stop within 5 s.");
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.inner.stop.cancel();
    }
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim").field("mqtt", &self.mqtt).field("https", &self.https).finish_non_exhaustive()
    }
}

/// The gateway's name, with the port where it is not the one that clients have built in.
fn gateway(inner: &Inner) -> String {
    let host = &inner.options.gateway_host;
    match inner.mqtt_port.load(Ordering::Relaxed) {
        MQTT_PORT => host.clone(),
        port => format!("{host}:{port}"),
    }
}

/// Where IoT Hub's REST is, as a connection string names a hub.
fn https_host(inner: &Inner) -> String {
    let host = &inner.options.gateway_host;
    match inner.https_port.load(Ordering::Relaxed) {
        443 => host.clone(),
        port => format!("{host}:{port}"),
    }
}

pub(crate) fn environment(inner: &Inner, module: &str) -> Option<BTreeMap<String, String>> {
    let client = inner.module_id(module);
    let (mut environment, generation) = {
        let state = inner.lock();
        let identity = state.identities.get(&client)?;
        (identity.environment.clone(), identity.generation.clone())
    };
    environment.entry("RuntimeLogLevel".to_owned()).or_insert_with(|| inner.options.log_level.clone());
    let socket = workload::socket(inner, module);
    let given = [
        ("IOTEDGE_IOTHUBHOSTNAME", inner.options.hub_name.clone()),
        ("IOTEDGE_GATEWAYHOSTNAME", gateway(inner)),
        ("IOTEDGE_DEVICEID", inner.options.device_id.clone()),
        ("IOTEDGE_MODULEID", module.to_owned()),
        ("IOTEDGE_MODULEGENERATIONID", generation),
        ("IOTEDGE_WORKLOADURI", format!("unix://{}", socket.display())),
        ("IOTEDGE_APIVERSION", API_VERSION.to_owned()),
        ("IOTEDGE_AUTHSCHEME", "sasToken".to_owned()),
    ];
    environment.extend(given.map(|(name, value)| (name.to_owned(), value)));
    // Beside what edgeAgent gives: modules call each other's methods at port 443, unless they are told otherwise.
    match inner.https_port.load(Ordering::Relaxed) {
        0 | 443 => {}
        port => drop(environment.insert("SHUNT_EDGEHUB_HTTPS_PORT".to_owned(), port.to_string())),
    }
    Some(environment)
}

pub(crate) fn status(inner: &Inner) -> Value {
    let state = inner.lock();
    let modules: Vec<Value> = state
        .identities
        .iter()
        .filter_map(|(client, identity)| client.module.as_ref().map(|module| (module, identity)))
        .filter(|(module, _)| !deploy::runtime(module))
        .map(|(module, identity)| {
            json!({"id": module, "connected": identity.session.is_some(), "waiting": identity.inbox.len()})
        })
        .collect();
    let dropped = json!(state.dropped);
    let (online, routing_error) = (state.online, state.routing_error.clone());
    drop(state);
    json!({
        "device": inner.options.device_id,
        "hub": inner.options.hub_name,
        "mqtt": format!("{}:{}", inner.options.gateway_host, inner.mqtt_port.load(Ordering::Relaxed)),
        "https": https_host(inner),
        "modules": modules,
        "messages": inner.message_count(),
        "dropped": dropped,
        "online": online,
        "routing_error": routing_error,
    })
}

pub(crate) async fn wait_for_records(
    inner: &Inner,
    from: u64,
    wait: Duration,
    limit: usize,
) -> Vec<HubRecord> {
    let mut newest = inner.last_sequence.subscribe();
    let wanted = from.max(1);
    match timeout(wait, newest.wait_for(|sequence| *sequence >= wanted)).await {
        Ok(_) | Err(_) => {}
    }
    inner.records(wanted, limit)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, SimError> {
    TcpListener::bind(address).await.map_err(|source| SimError::Listen { address, source })
}

#[derive(Debug, Clone, Copy)]
enum Service {
    Mqtt,
    Https,
}

async fn accept_tls(inner: Arc<Inner>, listener: TcpListener, tls: Arc<ServerConfig>, service: Service) {
    let acceptor = TlsAcceptor::from(tls);
    while let Some(stream) = accept(&inner, &listener).await {
        if inner.paused_until.borrow().is_some_and(|until| Instant::now() < until) {
            continue;
        }
        let (inner, acceptor) = (inner.clone(), acceptor.clone());
        inner.tasks.clone().spawn(async move {
            let stream = match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::info!("A TLS handshake failed: {error}."),
                Err(_) => return tracing::info!("A TLS handshake did not end in time."),
            };
            let stop = inner.stop.child_token();
            match service {
                Service::Mqtt => connection::serve(inner, stream, stop).await,
                Service::Https => serve_http(inner, stream, Door::Tls).await,
            }
        });
    }
}

async fn accept_control(inner: Arc<Inner>, listener: TcpListener) {
    while let Some(stream) = accept(&inner, &listener).await {
        inner.tasks.spawn(serve_http(inner.clone(), stream, Door::Control));
    }
}

async fn serve_http<S>(inner: Arc<Inner>, stream: S, door: Door)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let shared = &inner;
    http::serve(
        stream,
        inner.stop.child_token(),
        |call| async move { rest::answer(shared, door, call).await },
    )
    .await;
}

/// The next connection; `None` when the stand-in stops.
async fn accept(inner: &Inner, listener: &TcpListener) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = inner.stop.cancelled() => return None,
        };
        match accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Some(stream),
            Err(error) => tracing::warn!("A connection could not be taken: {error}."),
        }
    }
}

/// Takes messages past their time to live out of the queues.
async fn sweep(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = ticks.tick() => inner.expire(),
            () = inner.stop.cancelled() => return,
        }
    }
}
