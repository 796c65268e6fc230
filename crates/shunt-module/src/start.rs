//! From `main` to the exit code: log, environment, settings, bus, hub, signals, `run`, drain.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use shunt_bus::{Bus, BusOptions, BusState, TlsFrom};
use shunt_hub::{Hub, HubOptions, HubState};
use shunt_wire::{Name, events::Presence};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    BadVariable, Common, Context, Events, Facts, Health, Methods, Settings, SettingsHandle, bus_tls,
    local_settings, local_settings::LocalSettings, logging, logging::LogLevel, metrics, redact,
    settings::Layers, standard_methods::StandardMethods, store::Store, twin::Keeper,
};

/// Unusable settings (`EX_CONFIG` of sysexits.h).
const UNUSABLE: u8 = 78;
/// Most messages waiting to be sent on the bus, and most received and not yet taken by one subscriber.
const BUS_QUEUE: usize = 256;
/// The largest message on the bus in bytes: room for a JPEG frame, no more.
const BUS_MESSAGE: usize = 8 * 1024 * 1024;
/// Of the drain limit, this much is kept for the goodbye to bus and hub.
const GOODBYE: Duration = Duration::from_secs(1);
/// How often the watchdog looks.
const WATCH: Duration = Duration::from_millis(500);

/// What every module reads from the environment.
struct Start<S> {
    name: Name,
    common: Common,
    bus_url: String,
    bus_tls: Option<TlsFrom>,
    advertise_host: Option<String>,
    listen: SocketAddr,
    watchdog: Option<Duration>,
    hub: Option<HubOptions>,
    layers: Layers<S>,
    local: LocalSettings,
}

/// The variables that every module reads, for the reference: name, default, meaning.
pub(crate) const VARIABLES: &[(&str, &str, &str)] = &[
    (
        "SHUNT_BUS_URL",
        "mqtts://bus:8883 with IoT Edge's workload API, else mqtt://bus:1883",
        "Where the bus is: mqtt://host:port, mqtts://host:port, redis://[user:password@]host:port[/db], rediss://..., redis+unix:///path, or memory:name in tests. With TLS, the module takes its identity certificate and the trust bundle from the workload API by itself.",
    ),
    (
        "SHUNT_BUS_CA",
        "the trust bundle of the workload API",
        "PEM file with the authorities to trust, for a broker with TLS that is not ours; read for each connection.",
    ),
    (
        "SHUNT_BUS_CERT",
        "the identity certificate of the workload API",
        "PEM file with our certificate and those above it, for a broker that is not ours; needs SHUNT_BUS_CA and SHUNT_BUS_KEY.",
    ),
    ("SHUNT_BUS_KEY", "", "PEM file with the key of SHUNT_BUS_CERT."),
    (
        "SHUNT_HTTP_LISTEN",
        "0.0.0.0 and the module's port",
        "Address and port of the module's HTTP interface; port 0 takes a fresh one.",
    ),
    (
        "SHUNT_ADVERTISE_HOST",
        "the module's name",
        "Host under which other modules reach this one's HTTP interface, told with its presence on the bus.",
    ),
    ("SHUNT_DATA_DIR", "/data", "Folder for what must survive a restart."),
    (
        "SHUNT_FRAMES_DIR",
        "",
        "Folder in shared memory: of the frames, and of the sockets by which fast events pass the broker by. Not set: JPEG in the events, and all events through the broker.",
    ),
    ("SHUNT_MODELS_DIR", "/models", "Folder of the model files."),
    (
        "SHUNT_INTERPRETERS_DIR",
        "/usr/share/shunt/interpreters",
        "Folder of the interpreters that run text functions, compiled when the image or the demo was built.",
    ),
    (
        "SHUNT_LOG",
        "info",
        "Log level, or a filter as in info,relay=debug. Not set: IoT Edge's RuntimeLogLevel.",
    ),
    ("SHUNT_LOG_FORMAT", "human on a terminal, else json", "Form of the log: json or human."),
    ("SHUNT_DRAIN_LIMIT", "8", "Seconds to finish work after SIGTERM; IoT Edge kills after 10."),
    (
        "SHUNT_WATCHDOG",
        "0",
        "The module ends (exit code 1) when it has not been ready for so many seconds; 0: never. IoT Edge looks at no health page, it only restarts what has ended.",
    ),
    (
        "SHUNT_EDGEHUB_HTTPS_PORT",
        "443",
        "Port of edgeHub's HTTPS, by which a module calls direct methods of others; the stand-in sets it.",
    ),
    (
        local_settings::VARIABLE,
        "",
        "Settings that other modules of the device may change until the twin changes, by the direct method setSettings: names with commas between, as in fps,width. Not set: none.",
    ),
    ("IOTEDGE_MODULEID", "the module's own name", "The module's name on the device."),
    (
        "IOTEDGE_...",
        "",
        "Identity and address of edgeHub, as edgeAgent gives them. Without: no twin, no methods, no telemetry.",
    ),
    ("EdgeHubConnectionString", "", "The same as a connection string, for running outside IoT Edge."),
];

/// The port of a module's HTTP interface where nothing else is set.
pub fn default_port(module: &str) -> u16 {
    match module {
        "sentiment" => 5000,
        "inference" => 5001,
        "emotion" => 5002,
        "camera" => 8081,
        "rules" => 8082,
        "relay" => 8083,
        "bus" => 8084,
        "console" => 8090,
        "gateway" => 3500,
        _ => 8080,
    }
}

/// The main function of every module: logging, environment, settings (exit code 78 naming every bad one), bus,
/// hub, twin, methods, signals, `run`, drain.
///
/// The exit code is 0 after a drain or when `run` ended by itself, 1 when it failed or the watchdog ended it, 78 where
/// its error is a [`BadVariable`].
pub fn main<S, F, R>(run: F) -> ExitCode
where
    S: Settings,
    F: FnOnce(Context<S>) -> R,
    R: Future<Output = anyhow::Result<()>> + Send,
{
    // Variables that are no text are none of ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let (log, bad) = logging::start(&environment);
    // One thread waits and passes on; heavy work has threads of its own. With more of them each message wakes threads
    // that find nothing to do, which costs more than the message (`docs/decisions/0013-one-async-thread.md`).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "The runtime cannot be started.");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match signals() {
            Ok(stop) => live_with_log(&environment, (log, bad), stop, run).await,
            Err(error) => {
                tracing::error!(%error, "Signals cannot be received.");
                1
            }
        }
    });
    // Threads that are still busy with heavy work end with the process.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Resolves at SIGTERM or SIGINT, to its name.
fn signals() -> std::io::Result<impl Future<Output = &'static str>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// What [`main`] does inside the runtime: from this environment to the exit code. `stop` resolves when the module has
/// to end, to the reason. For tests, and for programs that hold a module; sets up no log.
pub async fn live<S, F, R>(
    environment: &BTreeMap<String, String>,
    stop: impl Future<Output = &'static str>,
    run: F,
) -> u8
where
    S: Settings,
    F: FnOnce(Context<S>) -> R,
    R: Future<Output = anyhow::Result<()>> + Send,
{
    live_with_log(environment, (LogLevel::default(), Vec::new()), stop, run).await
}

#[expect(clippy::too_many_lines, reason = "one step after the other, from the environment to the exit code")]
async fn live_with_log<S, F, R>(
    environment: &BTreeMap<String, String>,
    (log, bad): (LogLevel, Vec<BadVariable>),
    stop: impl Future<Output = &'static str>,
    run: F,
) -> u8
where
    S: Settings,
    F: FnOnce(Context<S>) -> R,
    R: Future<Output = anyhow::Result<()>> + Send,
{
    let start = match Start::<S>::read(environment, bad) {
        Ok(start) => start,
        Err(bad) => return refuse(&bad),
    };
    let listener = match TcpListener::bind(start.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(address = %start.listen, %error, "The HTTP address (SHUNT_HTTP_LISTEN) cannot be taken.");
            return 1;
        }
    };
    let port = listener.local_addr().map(|address| address.port()).ok();
    let advertise_host = start.advertise_host;
    let presence = Presence {
        online: true,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        port,
        host: advertise_host.clone(),
    };
    let bus = BusOptions {
        tls: start.bus_tls,
        presence: Some(presence),
        ..bus_options(&start.bus_url, &start.name, &start.common)
    };
    let bus = match Bus::open(bus) {
        Ok(bus) => bus,
        Err(error) => return refuse(&[bad_bus(&start.bus_url, &error)]),
    };
    let workload = start.hub.as_ref().and_then(HubOptions::workload);
    let hub = start.hub.map(Hub::open);
    let store = Store::new(&start.common.data_dir, start.name.as_str());
    let kept = store.load().unwrap_or_default();
    let settings = start.layers.with(&kept.desired).or_else(|problems| {
        tracing::warn!(%problems, "The kept settings of the twin are not usable any more; defaults and environment are.");
        start.layers.with(&serde_json::Map::new())
    });
    // The last line above was checked when the environment was read.
    let (handle, sender) = SettingsHandle::channel(settings.unwrap_or_default());

    let shutdown = CancellationToken::new();
    let (health, registry, own) = (Health::new(), prometheus::Registry::new(), TaskTracker::new());
    let common = metrics::Common::new(start.name.as_str(), Some(bus.clone()), hub.clone(), health.clone());
    if let Err(error) = registry.register(Box::new(common)) {
        tracing::error!(%error, "The common metrics cannot be registered.");
    }
    let (methods, facts) = (Methods::default(), Facts::default());
    let standard = StandardMethods {
        name: start.name.to_string(),
        bus: bus.clone(),
        hub: hub.clone(),
        in_force: handle.in_force(),
        health: health.clone(),
        metrics: registry.clone(),
        log,
        started: Instant::now(),
    };
    if let Err(error) = standard.register(&methods) {
        tracing::error!(%error, "The direct methods cannot be registered.");
    }
    let context = Context {
        name: start.name.clone(),
        settings: handle,
        bus: bus.clone(),
        hub: hub.clone(),
        workload,
        common: start.common.clone(),
        methods: methods.clone(),
        facts: facts.clone(),
        health: health.clone(),
        metrics: registry,
        listener,
        shutdown: shutdown.clone(),
        tasks: TaskTracker::new(),
        events: Events::new(),
        services: std::sync::OnceLock::new(),
        advertise_host,
    };
    let tasks = context.tasks.clone();
    own.spawn(watch_bus(bus.clone(), health.clone(), shutdown.clone()));
    if let Some(hub) = &hub {
        own.spawn(watch_hub(hub.clone(), health.clone(), shutdown.clone()));
        let mut keeper = Keeper::new(start.layers, store, kept, sender, facts, hub.clone());
        match methods.queue("setSettings") {
            Ok(calls) => keeper.take_calls(start.local, calls),
            Err(error) => tracing::error!(%error, "A direct method cannot be registered."),
        }
        own.spawn(methods.serve(hub.clone(), shutdown.clone()));
        own.spawn(keeper.run(shutdown.clone()));
    }
    tracing::info!(
        module = %start.name,
        version = env!("CARGO_PKG_VERSION"),
        port,
        hub = hub.is_some(),
        "The module has started."
    );

    let limit = start.common.drain_limit;
    let mut run = std::pin::pin!(run(context));
    let (mut code, ended) = tokio::select! {
        result = &mut run => (verdict(result), true),
        reason = stop => { tracing::info!(reason, "The module drains."); (0, false) }
        failing = watchdog(&health, start.watchdog) => {
            tracing::error!(failing, "The module was not ready for too long; it ends so that it is restarted.");
            (1, false)
        }
    };
    shutdown.cancel();
    let end = Instant::now() + limit;
    let work = async {
        let code = if ended { 0 } else { verdict(run.await) };
        tasks.close();
        tasks.wait().await;
        code
    };
    if let Ok(run_code) = timeout_at(end - GOODBYE.min(limit / 2), work).await {
        code = code.max(run_code);
        tracing::info!("All work is finished.");
    } else {
        tracing::warn!(limit_s = limit.as_secs_f64(), "The drain limit ended work that was not finished.");
    }
    own.close();
    let goodbye = async {
        own.wait().await;
        let left = end.saturating_duration_since(Instant::now());
        tokio::join!(bus.close(left), async {
            if let Some(hub) = &hub {
                hub.close(left).await;
            }
        });
    };
    if timeout_at(end, goodbye).await.is_err() {
        tracing::warn!("The goodbye to bus and hub was not finished in time.");
    }
    tracing::info!(code, "The module has ended.");
    code
}

fn verdict(result: anyhow::Result<()>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            if let Some(bad) = error.downcast_ref::<BadVariable>() {
                return refuse(std::slice::from_ref(bad));
            }
            tracing::error!(error = format!("{error:#}"), "The module failed.");
            1
        }
    }
}

fn refuse(bad: &[BadVariable]) -> u8 {
    for BadVariable { variable, value, rule } in bad {
        let rule = redact::text(rule);
        let value = if redact::is_secret(variable) { redact::HIDDEN.into() } else { redact::text(value) };
        tracing::error!(variable, %value, %rule, "A setting is not usable.");
    }
    tracing::error!(count = bad.len(), code = UNUSABLE, "The module cannot start with these settings.");
    UNUSABLE
}

async fn watch_bus(bus: Bus, health: Health, shutdown: CancellationToken) {
    let mut state = bus.state();
    let watching = async {
        loop {
            let ready = match &*state.borrow_and_update() {
                BusState::Connected => Ok(()),
                BusState::Disconnected(reason) => Err(reason.clone()),
            };
            health.set("bus", ready);
            if state.changed().await.is_err() {
                return;
            }
        }
    };
    shutdown.run_until_cancelled(watching).await;
}

/// The hub may be away for days: that keeps no module from its work.
async fn watch_hub(hub: Hub, health: Health, shutdown: CancellationToken) {
    let mut state = hub.state();
    let watching = async {
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                HubState::Connected => health.note("hub", "connected"),
                HubState::Disconnected(reason) => health.note("hub", format!("not connected: {reason}")),
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    };
    shutdown.run_until_cancelled(watching).await;
}

/// Resolves when something has not been ready for the whole limit, and tells what.
async fn watchdog(health: &Health, limit: Option<Duration>) -> String {
    let Some(limit) = limit else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(WATCH);
    loop {
        ticks.tick().await;
        if health.failing_for().is_some_and(|failing| failing >= limit) {
            let parts = health.failing().into_iter().map(|(part, reason)| format!("{part}: {reason}"));
            return parts.collect::<Vec<_>>().join("; ");
        }
    }
}

// === impl Start ===

impl<S: Settings> Start<S> {
    /// Reads everything before the first mistake is returned, so that the user sees all of them.
    fn read(
        environment: &BTreeMap<String, String>,
        mut bad: Vec<BadVariable>,
    ) -> Result<Self, Vec<BadVariable>> {
        let get = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
        let mut refuse = |variable: &str, value: &str, rule: String| {
            bad.push(BadVariable { variable: variable.to_owned(), value: value.to_owned(), rule });
        };
        let mut name = Name::from_static(S::MODULE);
        if let Some(text) = get("IOTEDGE_MODULEID") {
            match text.parse() {
                Ok(parsed) => name = parsed,
                Err(error) => refuse("IOTEDGE_MODULEID", &text, format!("{error}")),
            }
        }
        let mut seconds = |variable: &str, default: f64, least: f64| {
            let Some(text) = get(variable) else { return Duration::from_secs_f64(default) };
            match text.parse::<f64>() {
                Ok(number) if (least..=86_400.0).contains(&number) => Duration::from_secs_f64(number),
                _ => {
                    refuse(variable, &text, format!("it must be a number of seconds from {least} to 86400"));
                    Duration::ZERO
                }
            }
        };
        let drain_limit = seconds("SHUNT_DRAIN_LIMIT", 8.0, 0.1);
        let watchdog = Some(seconds("SHUNT_WATCHDOG", 0.0, 0.0)).filter(|limit| !limit.is_zero());
        let mut listen = SocketAddr::from(([0, 0, 0, 0], default_port(S::MODULE)));
        if let Some(text) = get("SHUNT_HTTP_LISTEN") {
            if let Ok(address) = text.parse() {
                listen = address;
            } else {
                let rule = "it must be an IP address and a port, as in 127.0.0.1:8081".to_owned();
                refuse("SHUNT_HTTP_LISTEN", &text, rule);
            }
        }
        let hub = HubOptions::from_environment(environment).unwrap_or_else(|error| {
            refuse("IOTEDGE_... or EdgeHubConnectionString", "", error.to_string());
            None
        });
        let workload = hub.as_ref().and_then(HubOptions::workload);
        let bus_tls = bus_tls::source(get, workload.clone()).unwrap_or_else(|(variable, rule)| {
            refuse(variable, "", rule.to_owned());
            None
        });
        let layers = match Layers::read(environment) {
            Ok(layers) => Some(layers),
            Err(more) => {
                bad.extend(more);
                None
            }
        };
        let common = Common {
            data_dir: get("SHUNT_DATA_DIR").unwrap_or_else(|| "/data".to_owned()).into(),
            frames_dir: get("SHUNT_FRAMES_DIR").map(PathBuf::from),
            models_dir: get("SHUNT_MODELS_DIR").unwrap_or_else(|| "/models".to_owned()).into(),
            interpreters_dir: get("SHUNT_INTERPRETERS_DIR")
                .unwrap_or_else(|| "/usr/share/shunt/interpreters".to_owned())
                .into(),
            drain_limit,
        };
        let bus_url = get("SHUNT_BUS_URL").unwrap_or_else(|| {
            // IoT Edge gives each module what it proves itself with.
            if workload.is_some() { "mqtts://bus:8883" } else { "mqtt://bus:1883" }.to_owned()
        });
        let mut local = LocalSettings::default();
        if let (Some(names), Some(layers)) = (get(local_settings::VARIABLE), &layers) {
            match LocalSettings::grant(&names, |name| layers.fields().contains(name)) {
                Ok(granted) => local = granted,
                Err(rule) => {
                    let variable = local_settings::VARIABLE.to_owned();
                    bad.push(BadVariable { variable, value: names, rule });
                }
            }
        }
        if let (Some(layers), true) = (layers, bad.is_empty()) {
            let advertise_host = get("SHUNT_ADVERTISE_HOST");
            return Ok(Self {
                name,
                common,
                bus_url,
                bus_tls,
                advertise_host,
                listen,
                watchdog,
                hub,
                layers,
                local,
            });
        }
        // The process ends at once; this only asks whether the address is one more mistake.
        if let Err(error) = Bus::open(BusOptions { tls: bus_tls, ..BusOptions::new(&bus_url, name) }) {
            bad.push(bad_bus(&bus_url, &error));
        }
        Err(bad)
    }
}

fn bus_options(url: &str, module: &Name, common: &Common) -> BusOptions {
    BusOptions {
        queue: BUS_QUEUE,
        max_message: BUS_MESSAGE,
        // Who shares the frames shares the way past the broker.
        shared: common.frames_dir.clone(),
        ..BusOptions::new(url, module.clone())
    }
}

fn bad_bus(url: &str, error: &shunt_bus::BusError) -> BadVariable {
    let (variable, value) = ("SHUNT_BUS_URL".to_owned(), url.to_owned());
    BadVariable { variable, value, rule: error.to_string() }
}
