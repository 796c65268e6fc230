//! A small module, run in this process.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shunt_module::{Context, Facts, Health, Problems, Settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

/// What can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HeartSettings {
    /// Beats a minute.
    pub(crate) rate: f64,
    /// Whose heart.
    pub(crate) owner: String,
    /// Strength by chamber.
    pub(crate) chambers: BTreeMap<String, u8>,
}

impl Default for HeartSettings {
    fn default() -> Self {
        Self { rate: 60.0, owner: "nobody".to_owned(), chambers: BTreeMap::new() }
    }
}

impl Settings for HeartSettings {
    const MODULE: &'static str = "heart";

    fn check(&self, problems: &mut Problems) {
        if !(1.0..=300.0).contains(&self.rate) {
            problems.note("rate", format!("it is {}, but must be from 1 to 300", self.rate));
        }
    }
}

/// A module that runs.
pub(crate) struct Heart {
    pub(crate) http: SocketAddr,
    pub(crate) health: Health,
    pub(crate) facts: Facts,
    /// Each settings change that came.
    pub(crate) changes: mpsc::Receiver<Arc<HeartSettings>>,
    /// Ends the thoughts of the owner "slow".
    pub(crate) decide: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    exit: JoinHandle<u8>,
}

/// The environment of a module in this folder.
pub(crate) fn environment(folder: &Path, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let bus = format!("memory:{}", folder.display().to_string().replace('/', "-"));
    let folder = folder.display().to_string();
    let own = [
        ("SHUNT_BUS_URL", bus.as_str()),
        ("SHUNT_HTTP_LISTEN", "127.0.0.1:0"),
        ("SHUNT_DATA_DIR", folder.as_str()),
    ];
    own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Heart {
    /// Starts it. The owner "stone" is refused by the module itself, "slow" is accepted when the test says `decide`.
    pub(crate) async fn start(environment: BTreeMap<String, String>) -> Self {
        let (started_sender, started) = oneshot::channel();
        let (changes_sender, changes) = mpsc::channel(16);
        let (stop, stopped) = oneshot::channel::<()>();
        let decide = Arc::new(Notify::new());
        let decided = Arc::clone(&decide);
        let exit = tokio::spawn(async move {
            let stop = async {
                stopped.await.ok();
                "the test"
            };
            shunt_module::live(&environment, stop, |context: Context<HeartSettings>| {
                let address = context.listener.local_addr().unwrap();
                started_sender.send((address, context.health.clone(), context.facts.clone())).unwrap();
                run(context, changes_sender, decided)
            })
            .await
        });
        let (http, health, facts) = timeout(Duration::from_secs(10), started).await.unwrap().unwrap();
        Self { http, health, facts, changes, decide, stop: Some(stop), exit }
    }

    /// Stops it; its exit code.
    pub(crate) async fn stop(mut self) -> u8 {
        self.stop.take().unwrap().send(()).ok();
        self.ended().await
    }

    /// Its exit code, when it ends by itself.
    pub(crate) async fn ended(self) -> u8 {
        timeout(Duration::from_secs(20), self.exit).await.unwrap().unwrap()
    }

    /// The next settings change.
    pub(crate) async fn change(&mut self) -> Arc<HeartSettings> {
        timeout(Duration::from_secs(20), self.changes.recv()).await.unwrap().unwrap()
    }

    /// Asks a page: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: heart\r\nconnection: close\r\n\r\n");
        self.ask(&request).await
    }

    pub(crate) async fn ask(&self, request: &str) -> (u16, String) {
        let asking = async {
            let mut stream = TcpStream::connect(self.http).await.unwrap();
            // A server that refuses a large body may close before all of it is written.
            stream.write_all(request.as_bytes()).await.ok();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].parse().unwrap(), body.to_owned())
        };
        timeout(Duration::from_secs(10), asking).await.unwrap()
    }
}

async fn run(
    mut context: Context<HeartSettings>,
    changes: mpsc::Sender<Arc<HeartSettings>>,
    decided: Arc<Notify>,
) -> anyhow::Result<()> {
    let echo = axum::Router::new().route("/echo", axum::routing::post(|body: String| async { body }));
    context.serve(echo);
    context.methods.on("listen", |payload: Value| async move { (200, json!({"heard": payload["to"]})) })?;
    context.methods.on("faint", |_| async { panic!("it has fainted") })?;
    if context.settings.current().owner == "faint" {
        anyhow::bail!("it has fainted");
    }
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => return Ok(()),
            change = context.settings.change() => {
                let settings = Arc::clone(&change.settings);
                match settings.owner.as_str() {
                    "stone" => {
                        let mut problems = Problems::default();
                        problems.note("owner", "a stone has no heart");
                        change.refuse(problems);
                    }
                    "slow" => {
                        let shutdown = context.shutdown.clone();
                        tokio::select! {
                            () = shutdown.cancelled() => return Ok(()),
                            () = decided.notified() => change.accept(),
                        }
                    }
                    _ => change.accept(),
                }
                changes.send(settings).await.ok();
            }
        }
    }
}
