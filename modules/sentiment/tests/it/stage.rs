//! A module in this process and what stands around it.

use std::{net::SocketAddr, time::Duration};

use sentiment::SentimentSettings;
use serde_json::Value;
use shunt_bus::{Bus, BusOptions};
use shunt_module::{Common, Context, Methods, SettingsHandle, SettingsSender};
use shunt_testkit::eventually;
use shunt_wire::Name;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long anything may take; a busy machine is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const PATH: &str = "/text/analytics/v2.0/sentiment";

pub(crate) struct Stage {
    pub(crate) folder: TempDir,
    pub(crate) settings: SettingsSender<SentimentSettings>,
    pub(crate) address: SocketAddr,
    pub(crate) methods: Methods,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

/// An answer over HTTP.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) model: String,
    pub(crate) fallback: Option<String>,
    pub(crate) text: String,
}

// === impl Stage ===

impl Stage {
    /// On a bus of its own, ready.
    pub(crate) async fn start(settings: SentimentSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bus = format!("memory:{}", folder.path().display().to_string().replace('/', "-"));
        Self::start_on(&bus, folder, settings).await
    }

    /// On this bus, ready.
    pub(crate) async fn start_on(bus: &str, folder: TempDir, settings: SentimentSettings) -> Self {
        let bus = Bus::open(BusOptions::new(bus, Name::from_static("sentiment"))).unwrap();
        let (handle, sender) = SettingsHandle::channel(settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let common = Common::in_folder(folder.path());
        std::fs::create_dir_all(&common.models_dir).unwrap();
        let (context, stop) = Context::for_test(handle, bus, None, common, listener);
        let methods = context.methods.clone();
        let running = tokio::spawn(sentiment::run(context));
        let stage = Self { folder, settings: sender, address, methods, stop, running };
        eventually(LIMIT, || async { stage.get("/ready").await.0 == 200 }).await;
        stage
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let answer = client().get(self.url(path)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Answer {
        let request = client().post(self.url(PATH)).header("content-type", "application/json").body(body);
        let answer = request.send().await.unwrap();
        let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (status, model) = (answer.status().as_u16(), header("x-shunt-model").unwrap_or_default());
        let fallback = header("x-shunt-fallback");
        Answer { status, model, fallback, text: answer.text().await.unwrap() }
    }

    /// The score of one English text.
    pub(crate) async fn score(&self, text: &str) -> (f64, Answer) {
        let body = serde_json::json!({"documents": [{"language": "en", "id": "1", "text": text}]});
        let answer = self.post(body.to_string()).await;
        (answer.json()["documents"][0]["score"].as_f64().expect("a score"), answer)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A number on the module's page of metrics.
    pub(crate) async fn count(&self, metric: &str) -> u64 {
        let (_, page) = self.get("/metrics").await;
        let line = page.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{metric} is not in {page}"))
    }

    /// Ends it; gives back its folder.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(LIMIT, self.running).await.unwrap().unwrap().unwrap();
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

pub(crate) fn client() -> reqwest::Client {
    // The client wants to know who would do TLS, also where nobody does. A second call changes nothing.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().tcp_nodelay(true).timeout(LIMIT).no_proxy().build().unwrap()
}
