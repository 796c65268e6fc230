//! Starts the chain, watches it, and stops it in the order in which nothing is lost.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde_json::{Map, Value, json};
use shunt_wire::Mono;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::Mutex,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    board::Board,
    deployment::{self, NotBuilt, Runs, Selection, Wanted},
    metrics,
    ports::Ports,
    supervisor::{self, Kept, Recipe, Surroundings},
};
use crate::{
    bus,
    chain::{self, Chain},
    child::{Process, Program},
    control::Control,
    sim::SimAddresses,
};

/// What the relay has to send the rest in, when the chain is stopped.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// What the emotion module has to judge its last frame in, once the camera has stopped.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// Looks at the emotion module's counters, 100 ms apart, that have to show the same. A frame may take long on a busy
/// machine, and only frames that are done are counted.
const SETTLED: u32 = 5;
/// What the stand-in has to come up in.
const SIM_LIMIT: Duration = Duration::from_secs(10);
/// How often counters, memory and the wanted modules are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The file that marks a folder as ours: its content may be deleted at the next start.
const MARK: &str = ".shunt-run";
/// Frames in shared memory live here, in a folder of this process.
const SHARED_MEMORY: &str = "/dev/shm";

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Which modules.
    pub(crate) selection: Selection,
    /// The manifest, expanded.
    pub(crate) manifest: Value,
    /// What the camera looks at; nothing: what the manifest says.
    pub(crate) source: Option<String>,
    /// More desired properties.
    pub(crate) settings: Vec<Setting>,
    /// Where modules listen.
    pub(crate) ports: Ports,
    /// Where the chain keeps its files.
    pub(crate) folder: PathBuf,
}

/// A desired property of a module.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// The module.
    pub(crate) module: String,
    /// The property.
    pub(crate) field: String,
    /// Its value.
    pub(crate) value: Value,
}

/// The running chain.
#[derive(Debug)]
pub(crate) struct Running {
    /// What is known of it.
    pub(crate) board: Board,
    /// Cancelled when the chain cannot go on.
    pub(crate) broken: CancellationToken,
    control: Control,
    modules: Arc<Mutex<Modules>>,
    sim: Sim,
    watchers: CancellationToken,
    hub: JoinHandle<u64>,
    looks: Vec<JoinHandle<()>>,
    folder: PathBuf,
    places: Places,
}

/// The modules that run, and how to start more.
#[derive(Debug)]
struct Modules {
    running: Vec<(Wanted, Kept)>,
    control: Control,
    device: String,
    surroundings: Surroundings,
    selection: Selection,
    places: Places,
    ports: Ports,
    /// The ports on which our bus and a Redis server take clients: the same over all their lives.
    bus_port: u16,
    redis_port: u16,
    /// Where the bus is; nothing: where the manifest says.
    bus_url: Option<String>,
    source: Option<String>,
    /// The camera is shown still pictures: they move a little, so that a face does too.
    still: bool,
    /// Modules that are not built, told of once.
    told: Vec<NotBuilt>,
}

/// Folders of the chain.
#[derive(Debug, Clone)]
struct Places {
    /// The programs.
    programs: PathBuf,
    /// What modules keep, by name.
    data: PathBuf,
    /// Frames.
    frames: PathBuf,
    /// Model files.
    models: PathBuf,
    /// Interpreters of text functions.
    interpreters: PathBuf,
}

/// The stand-in's process.
#[derive(Debug)]
pub(crate) struct Sim {
    process: Arc<Mutex<Process>>,
    /// Its sockets, where the chain's folder has too long a name for them.
    _folder: Option<tempfile::TempDir>,
}

// === impl Running ===

impl Running {
    /// Starts everything. Waits for no module.
    pub(crate) async fn start(mut options: Options, started: Mono) -> anyhow::Result<Self> {
        let folder = prepare(&options.folder)?;
        let logs = folder.join("logs");
        let places = Places::new(&folder)?;
        let bus_port = options.ports.pick_for_clients("bus")?;
        let redis_port = options.ports.pick_for_clients("redis")?;

        for name in &options.selection.with {
            deployment::add_module(&mut options.manifest, name);
        }
        let mut source = options.source.clone();
        if let Some(address) = &source {
            // The twin is above the environment: where the manifest sets it, ours takes its place there.
            let in_twin = deployment::set_desired(&mut options.manifest, "camera", "source", json!(address));
            source = source.filter(|_| !in_twin);
        }
        for Setting { module, field, value } in &options.settings {
            deployment::add_section(&mut options.manifest, module);
            deployment::set_desired(&mut options.manifest, module, field, value.clone());
        }
        deployment::replace_desired(&mut options.manifest, "bus", &bus_settings(bus_port));
        let agent = deployment::agent_section(&options.manifest)
            .context("the manifest has no section modulesContent/$edgeAgent/properties.desired")?;
        let (wanted, missing) = deployment::wanted(agent, &options.selection, &places.programs)?;
        anyhow::ensure!(
            missing.is_empty() || wanted.iter().any(|module| !module.is_broker()),
            "no module of the manifest is built beside this program, in {}",
            places.programs.display()
        );
        options.ports.check(wanted.iter().map(Wanted::place))?;
        let bus_url = wanted.iter().find_map(|module| match module.runs {
            Runs::Bus(_) => Some(format!("mqtts://localhost:{bus_port}")),
            Runs::Redis(_) => Some(format!("redis://127.0.0.1:{redis_port}")),
            Runs::Binary(_) => None,
        });

        let chain = Chain {
            pid: std::process::id(),
            device: String::new(),
            control: String::new(),
            bus: bus_url.clone().or_else(|| deployment::bus_address(&wanted)).unwrap_or_default(),
            processes: BTreeMap::new(),
        };
        let (sim, addresses) = Sim::start(&folder).await?;
        let chain = Chain { device: addresses.device.clone(), control: addresses.control.clone(), ..chain };
        let board = Board::new(started, chain, folder.clone());
        let surroundings = Surroundings { logs, board: board.clone() };
        let broken = CancellationToken::new();
        sim.watch(&surroundings, broken.clone()).await;

        let control = Control::new(&addresses.control)?;
        control.deploy(&addresses.device, &options.manifest).await.context("the manifest was refused")?;
        let mut modules = Modules {
            running: Vec::new(),
            control: control.clone(),
            device: addresses.device.clone(),
            surroundings,
            selection: options.selection,
            places: places.clone(),
            ports: options.ports,
            bus_port,
            redis_port,
            bus_url,
            still: options.source.as_deref().is_some_and(|source| Path::new(source).is_dir()),
            source,
            told: Vec::new(),
        };
        modules.reconcile(wanted, missing).await?;
        let modules = Arc::new(Mutex::new(modules));

        let watchers = CancellationToken::new();
        let hub = tokio::spawn(watch_hub(control.clone(), board.clone(), watchers.clone()));
        let looks = vec![
            tokio::spawn(watch_modules(control.clone(), board.clone(), watchers.clone())),
            tokio::spawn(watch_deployment(
                control.clone(),
                addresses.device.clone(),
                Arc::clone(&modules),
                watchers.clone(),
            )),
        ];
        Ok(Self { board, broken, control, modules, sim, watchers, hub, looks, folder, places })
    }

    /// Stops everything: those who make events first, the relay when its queue is empty, the broker last.
    pub(crate) async fn stop(self) {
        self.board.stops();
        self.watchers.cancel();
        for look in self.looks {
            drop(look.await);
        }
        let client = client();
        let mut modules = self.modules.lock().await;
        let mut running = std::mem::take(&mut modules.running);
        // Upstream first, so that what is under way comes through.
        let rank = |wanted: &Wanted| match wanted.name.as_str() {
            _ if wanted.is_broker() => 3,
            "camera" => 0,
            "relay" => 2,
            _ => 1,
        };
        running.sort_by_key(|(wanted, _)| rank(wanted));
        for (wanted, kept) in running {
            match wanted.name.as_str() {
                "emotion" => settle(&self.board, client.as_ref()).await,
                "relay" => drain(&self.board, client.as_ref()).await,
                _ => {}
            }
            look_at(&self.board, client.as_ref(), &wanted.name).await;
            kept.stop().await;
        }
        let mut next = self.hub.await.unwrap_or(0);
        while let Ok((messages, after)) = self.control.messages(next, Duration::ZERO).await {
            for message in &messages {
                self.board.arrived(message);
            }
            if messages.is_empty() || after == next {
                break;
            }
            next = after;
        }
        self.sim.stop().await;
        Chain::remove(&self.folder);
        drop(std::fs::remove_dir_all(&self.places.frames));
    }
}

// === impl Modules ===

impl Modules {
    /// Starts what is wanted and does not run, stops what runs and is not wanted (any more in this form).
    async fn reconcile(&mut self, wanted: Vec<Wanted>, missing: Vec<NotBuilt>) -> anyhow::Result<()> {
        let board = self.surroundings.board.clone();
        let news: Vec<NotBuilt> =
            missing.into_iter().filter(|missing| !self.told.contains(missing)).collect();
        if !news.is_empty() {
            let names: Vec<&str> = news.iter().map(|missing| missing.name.as_str()).collect();
            board.say(format!(
                "not built beside this program, so not started: {} (scripts/demo --with NAME builds one)",
                names.join(", ")
            ));
            self.told.extend(news);
        }
        let mut kept = Vec::new();
        for (module, process) in std::mem::take(&mut self.running) {
            if wanted.contains(&module) {
                kept.push((module, process));
            } else {
                process.stop().await;
                if !wanted.iter().any(|other| other.name == module.name) {
                    board.say(format!(
                        "{} was stopped: the deployment does not want it any more",
                        module.name
                    ));
                    board.forget(&module.name);
                }
            }
        }
        self.running = kept;
        for module in wanted {
            if self.running.iter().any(|(other, _)| *other == module) {
                continue;
            }
            let recipe = self.recipe(&module).await?;
            let process = Kept::start(module.name.clone(), recipe, self.surroundings.clone());
            self.running.push((module, process));
        }
        Ok(())
    }

    /// How to start a module.
    async fn recipe(&self, module: &Wanted) -> anyhow::Result<Recipe> {
        let file = match &module.runs {
            Runs::Redis(file) => return self.redis(file),
            Runs::Binary(file) | Runs::Bus(file) => file.clone(),
        };
        let environment = self.environment(module).await?;
        let (name, ports) = (module.place().to_owned(), self.ports);
        Ok(Box::new(move || {
            let address = format!("127.0.0.1:{}", ports.pick(&name)?);
            let mut environment: Vec<(String, String)> = environment.clone().into_iter().collect();
            environment.push(("SHUNT_HTTP_LISTEN".to_owned(), address.clone()));
            Ok((Program { file: file.clone(), arguments: Vec::new(), environment }, Some(address)))
        }))
    }

    /// A Redis server for this machine only, which keeps nothing: it lives as long as its chain.
    fn redis(&self, file: &Path) -> anyhow::Result<Recipe> {
        let data = self.data_of("redis")?;
        let port = self.redis_port.to_string();
        let folder = data.display().to_string();
        let arguments = [
            ("--bind", "127.0.0.1"),
            ("--port", port.as_str()),
            ("--dir", folder.as_str()),
            ("--save", ""),
            ("--appendonly", "no"),
            // When it is full it refuses what is assured, and the publishers keep it.
            ("--maxmemory", "256mb"),
            ("--maxmemory-policy", "noeviction"),
            ("--maxclients", "256"),
        ];
        let arguments = arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_owned()]);
        let program =
            Program { file: file.to_owned(), arguments: arguments.collect(), environment: Vec::new() };
        Ok(Box::new(move || Ok((program.clone(), None))))
    }

    /// The environment that IoT Edge gives a module, and what differs off a container.
    async fn environment(&self, module: &Wanted) -> anyhow::Result<BTreeMap<String, String>> {
        // Not every module stands in the manifest: our bus may be added.
        self.control.add_module(&self.device, &module.name).await?;
        let mut environment = self.control.environment(&module.name).await?;
        environment.extend(module.environment.clone());
        let shares =
            environment.contains_key("SHUNT_FRAMES_DIR") || self.selection.with.contains(&module.name);
        // The user's own settings: SHUNT_LOG, SHUNT_CAMERA_SOURCE, ...
        environment.extend(std::env::vars().filter(|(name, _)| {
            name.starts_with("SHUNT_")
                || ["PATH", "HOME", "LANG", "TZ", "RUST_BACKTRACE"].contains(&name.as_str())
        }));
        let mut ours = vec![
            ("SHUNT_DATA_DIR", self.data_of(&module.name)?.display().to_string()),
            ("SHUNT_MODELS_DIR", self.places.models.display().to_string()),
            ("SHUNT_INTERPRETERS_DIR", self.places.interpreters.display().to_string()),
            ("SHUNT_LOG_FORMAT", "json".to_owned()),
            // Modules find each other by what presence tells.
            ("SHUNT_ADVERTISE_HOST", "127.0.0.1".to_owned()),
        ];
        if shares {
            // Who shares memory on the device shares it here.
            ours.push(("SHUNT_FRAMES_DIR", self.places.frames.display().to_string()));
        }
        if let Some(url) = &self.bus_url {
            ours.push(("SHUNT_BUS_URL", url.clone()));
            // What proves a module to another broker is of no use to ours.
            environment.retain(|name, _| {
                !["SHUNT_BUS_CA", "SHUNT_BUS_CERT", "SHUNT_BUS_KEY"].contains(&name.as_str())
            });
        }
        environment.extend(ours.into_iter().map(|(name, value)| (name.to_owned(), value)));
        if module.name == "camera" {
            self.show(&mut environment);
        }
        if matches!(module.runs, Runs::Bus(_)) {
            set_up_bus(&mut environment, self.bus_port);
        }
        Ok(environment)
    }

    /// What the camera is shown.
    fn show(&self, environment: &mut BTreeMap<String, String>) {
        if let Some(source) = &self.source {
            environment.insert("SHUNT_CAMERA_SOURCE".to_owned(), source.clone());
        }
        if self.still {
            for (name, value) in [("SHUNT_CAMERA_MOTION", "pan-zoom"), ("SHUNT_CAMERA_HOLD_S", "4")] {
                environment.entry(name.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
    }

    /// The folder for what a module keeps.
    fn data_of(&self, module: &str) -> anyhow::Result<PathBuf> {
        let data = self.places.data.join(module);
        std::fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        Ok(data)
    }
}

/// The settings of our bus that differ off a container: it takes clients of this machine only, and this command may
/// publish what a person wants to.
fn bus_settings(port: u16) -> Map<String, Value> {
    let grant = json!({"publish": ["#"], "subscribe": ["#"]});
    let command: Map<String, Value> =
        bus::IDENTITIES.iter().map(|name| ((*name).to_owned(), grant.clone())).collect();
    let settings =
        [("address", json!("127.0.0.1")), ("tls_port", json!(port)), ("modules", Value::Object(command))];
    settings.into_iter().map(|(field, value)| (field.to_owned(), value)).collect()
}

/// Lays the settings of our bus over its environment.
fn set_up_bus(environment: &mut BTreeMap<String, String>, port: u16) {
    for (field, mut value) in bus_settings(port) {
        let variable = format!("SHUNT_BUS_{}", field.to_ascii_uppercase());
        let before = environment.get(&variable).and_then(|text| serde_json::from_str(text).ok());
        if let Some(before) = before {
            value = deployment::laid_over(before, &value);
        }
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        environment.insert(variable, text);
    }
}

// === impl Places ===

impl Places {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find the file of this program")?;
        let programs = program.parent().context("this program has no folder")?.to_path_buf();
        let shared = Path::new(SHARED_MEMORY);
        let frames = if shared.is_dir() {
            forget_dead_frames(shared);
            shared.join(format!("shunt-{}", std::process::id()))
        } else {
            folder.join("frames")
        };
        std::fs::create_dir_all(&frames).with_context(|| format!("cannot make {}", frames.display()))?;
        Ok(Self {
            programs,
            data: folder.join("data"),
            frames,
            models: chain::models_folder(),
            interpreters: chain::interpreters_folder(),
        })
    }
}

/// Removes frames of chains that were killed and could not do it themselves.
fn forget_dead_frames(shared: &Path) {
    for entry in std::fs::read_dir(shared).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("shunt-")?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

/// Makes the chain's folder, empty. A folder with content that is not ours is refused.
fn prepare(folder: &Path) -> anyhow::Result<PathBuf> {
    let cannot = || format!("cannot use the folder {}", folder.display());
    std::fs::create_dir_all(folder).with_context(cannot)?;
    let folder = folder.canonicalize().with_context(cannot)?;
    if let Ok(chain) = Chain::read(&folder) {
        anyhow::bail!(
            "a chain runs in {} already (process {}): stop it, or give --folder and --fresh-ports",
            folder.display(),
            chain.pid
        );
    }
    let is_empty = std::fs::read_dir(&folder).with_context(cannot)?.next().is_none();
    anyhow::ensure!(
        is_empty || folder.join(MARK).exists(),
        "the folder {} holds files that are not of a chain: name an empty one",
        folder.display()
    );
    std::fs::write(folder.join(MARK), "Files of shunt up; deleted at its next start.\n")
        .with_context(cannot)?;
    for part in ["data", "frames", "logs", "sim"] {
        if folder.join(part).exists() {
            std::fs::remove_dir_all(folder.join(part)).with_context(cannot)?;
        }
    }
    std::fs::create_dir_all(folder.join("logs")).with_context(cannot)?;
    Ok(folder)
}

// === impl Sim ===

impl Sim {
    /// Starts the stand-in as a process of its own and waits for its addresses.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<(Self, SimAddresses)> {
        // A socket's path may have 107 bytes, the longest name of a module included.
        let own = folder.join("sim");
        let (place, kept) = if own.as_os_str().len() < 60 {
            std::fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
            (own, None)
        } else {
            let temporary = tempfile::Builder::new().prefix("shunt-sim-").tempdir()?;
            (temporary.path().to_path_buf(), Some(temporary))
        };
        let program = Program {
            file: std::env::current_exe()?,
            arguments: ["sim", "--announce", "--fresh-ports", "--folder"]
                .map(str::to_owned)
                .into_iter()
                .chain([place.display().to_string()])
                .collect(),
            environment: std::env::vars().filter(|(name, _)| name.starts_with("SHUNT_LOG")).collect(),
        };
        let mut process = Process::start(&program)?;
        let (out, err) = process.take_output().context("the stand-in has no output")?;
        let mut out = BufReader::new(out);
        let mut first = String::new();
        let announced = tokio::time::timeout(SIM_LIMIT, out.read_line(&mut first)).await;
        if !matches!(announced, Ok(Ok(bytes)) if bytes > 0) {
            process.kill().await;
            let mut told = String::new();
            let mut err = BufReader::new(err);
            drop(tokio::time::timeout(SIM_LIMIT, err.read_line(&mut told)).await);
            anyhow::bail!("the stand-in for the hub did not start: {}", told.trim());
        }
        let addresses = serde_json::from_str(&first)
            .with_context(|| format!("the stand-in said {:?} instead of its addresses", first.trim()))?;
        // Nothing more comes on its standard output; errors are followed by `watch`.
        process.put_back_errors(err);
        Ok((Self { process: Arc::new(Mutex::new(process)), _folder: kept }, addresses))
    }

    /// Tells where it ends: without it the hub's state is gone, and so the chain cannot go on.
    async fn watch(&self, surroundings: &Surroundings, broken: CancellationToken) {
        let mut process = self.process.lock().await;
        surroundings.board.began("sim", process.pid(), None);
        supervisor::read_errors("sim", &mut process, surroundings);
        let pid = process.pid();
        drop(process);
        let (process, board) = (Arc::clone(&self.process), surroundings.board.clone());
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(500));
            loop {
                tick.tick().await;
                // Held by `stop` from its first moment to the end: then it is no surprise.
                let Ok(mut process) = process.try_lock() else { return };
                if process.has_ended() {
                    board.say(format!(
                        "the stand-in for the hub (process {pid}) ended: the chain cannot go on"
                    ));
                    broken.cancel();
                    return;
                }
            }
        });
    }

    pub(crate) async fn stop(self) {
        self.process.lock().await.stop(Duration::from_secs(5)).await;
    }
}

// --- Watching ---------------------------------------------------------------------------------------------------

fn client() -> Option<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(1))
        .timeout(Duration::from_secs(2))
        .build()
        .ok()
}

/// Takes in what reaches the hub; the number of the next message when it is told to stop.
async fn watch_hub(control: Control, board: Board, stop: CancellationToken) -> u64 {
    let mut next = 0;
    loop {
        let answer = tokio::select! {
            answer = control.messages(next, Duration::from_secs(5)) => answer,
            () = stop.cancelled() => return next,
        };
        match answer {
            Ok((messages, after)) => {
                next = after;
                for message in &messages {
                    if let Some(first) = board.arrived(message) {
                        board.say(format!("first event at the hub after {:.2} s", first.as_secs_f64()));
                    }
                }
            }
            Err(_) => {
                // The stand-in restarts its doors (a fault on request), or is gone, which is told elsewhere.
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(200)) => {}
                    () = stop.cancelled() => return next,
                }
            }
        }
    }
}

/// Reads counters and memory.
async fn watch_modules(control: Control, board: Board, stop: CancellationToken) {
    let client = client();
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let names: Vec<String> = board.read(|state| state.processes.keys().cloned().collect());
        for name in names {
            look_at(&board, client.as_ref(), &name).await;
        }
        let connected = control
            .status()
            .await
            .map(|status| status.modules.into_iter().map(|module| (module.id, module.connected)).collect());
        board.look(&connected.unwrap_or_default());
    }
}

/// Reads one module's counters; a module that does not answer has none.
async fn look_at(board: &Board, client: Option<&reqwest::Client>, name: &str) {
    let address = board
        .read(|state| state.processes.get(name).filter(|process| process.pid.is_some())?.address.clone());
    let (Some(address), Some(client)) = (address, client) else { return };
    if let Ok(page) = metrics::fetch(client, &address).await {
        board.counted(name, &page, shunt_bus::clock::now());
    }
}

/// Waits until the emotion module has judged what the camera gave it, so that all it told is counted.
async fn settle(board: &Board, client: Option<&reqwest::Client>) {
    const COUNTERS: [&str; 3] =
        ["shunt_emotion_frames_total", "shunt_emotion_frames_skipped_total", "shunt_emotion_emotions_total"];
    let wait = async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let (mut before, mut same) = ([0; 3], 0);
        while same < SETTLED {
            tick.tick().await;
            look_at(board, client, "emotion").await;
            let now = board.read(|state| COUNTERS.map(|name| state.total(name) as u64));
            same = if now == before { same + 1 } else { 0 };
            before = now;
        }
    };
    if tokio::time::timeout(SETTLE_LIMIT, wait).await.is_err() {
        board.say("the emotion module still counts frames though the camera has stopped");
    }
}

/// Waits until the relay has taken in and sent what there is.
async fn drain(board: &Board, client: Option<&reqwest::Client>) {
    let work = || {
        board.read(|state| {
            let accepted = state.total("shunt_relay_accepted_events_total") as u64;
            (accepted, state.total("shunt_relay_queued_events") as u64)
        })
    };
    let wait = async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let mut before = None;
        loop {
            tick.tick().await;
            look_at(board, client, "relay").await;
            let now = work();
            // Twice the same and nothing queued: nothing is under way either.
            if now.1 == 0 && before == Some(now) {
                return;
            }
            before = Some(now);
        }
    };
    if tokio::time::timeout(DRAIN_LIMIT, wait).await.is_err() {
        board.say(format!("{} events stay in the relay's queue: the hub does not take them", work().1));
    }
}

/// Does what the agent does on a device: follows the deployment.
async fn watch_deployment(
    control: Control,
    device: String,
    modules: Arc<Mutex<Modules>>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(LOOK);
    let mut seen = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let Ok(twin) = control.twin(&device, "$edgeAgent").await else { continue };
        let Some(desired) = twin.pointer("/properties/desired") else { continue };
        let version = desired.get("$version").cloned();
        if version == seen {
            continue;
        }
        let mut modules = modules.lock().await;
        let result = match deployment::wanted(desired, &modules.selection, &modules.places.programs) {
            Ok((wanted, missing)) => modules.reconcile(wanted, missing).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            modules.surroundings.board.say(format!("the new deployment cannot be carried out: {error:#}"));
        }
        seen = version;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_files_of_somebody_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("letter.txt"), "dear").unwrap();
        let error = prepare(folder.path()).unwrap_err().to_string();
        assert!(error.contains("holds files that are not of a chain"), "{error}");
        assert!(folder.path().join("letter.txt").exists());
    }

    #[test]
    fn what_an_earlier_chain_left_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path()).unwrap();
        std::fs::create_dir_all(folder.path().join("data/relay")).unwrap();
        prepare(folder.path()).unwrap();
        assert!(!folder.path().join("data").exists());
        assert!(folder.path().join("logs").exists());
    }
}
