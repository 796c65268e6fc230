//! A bus in this process, the module, and somebody who sends frames and reads what comes of them.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::http::HeaderMap;
use bytes::Bytes;
use inference::InferenceSettings;
use serde_json::Value;
use shunt_bus::{Bus, BusOptions, Delivery, Subscription, clock};
use shunt_module::{Common, Context, Facts, Methods, SettingsHandle, SettingsSender};
use shunt_testkit::eventually;
use shunt_vision::{Picture, encode_jpeg, fill};
use shunt_wire::{
    Envelope, Kind, Name, Stamps, TopicFilter,
    events::{DeadLetter, Frame, FramePixels, Label},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long anything may take; a busy machine is slow.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

pub(crate) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The folder of the small models.
pub(crate) const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models");

pub(crate) struct Yard {
    pub(crate) folder: TempDir,
    pub(crate) bus: Bus,
    pub(crate) settings: SettingsSender<InferenceSettings>,
    pub(crate) address: SocketAddr,
    pub(crate) methods: Methods,
    pub(crate) facts: Facts,
    pub(crate) stop: CancellationToken,
    pub(crate) running: JoinHandle<anyhow::Result<()>>,
    labels: Subscription,
    letters: Subscription,
    sequence: AtomicU64,
}

/// The settings with this model, and no limit to the rate.
pub(crate) fn with_model(model: &str) -> InferenceSettings {
    InferenceSettings { model: Some(model.to_owned()), max_per_s: 1000.0, ..InferenceSettings::default() }
}

pub(crate) fn red() -> Picture {
    Picture::filled(64, 48, [220, 20, 20])
}

pub(crate) fn blue() -> Picture {
    Picture::filled(64, 48, [20, 20, 220])
}

/// Red on the left, blue on the right.
pub(crate) fn red_and_blue() -> Picture {
    let mut picture = red();
    fill(&mut picture, 32, 0, 32, 48, [20, 20, 220]);
    picture
}

pub(crate) fn jpeg(picture: &Picture) -> FramePixels {
    FramePixels::Jpeg(Bytes::from(encode_jpeg(picture, 95).unwrap()))
}

/// Puts the small models and their catalog, changed by the test, into the module's folder.
pub(crate) fn put_models(common: &Common, change: impl FnOnce(String) -> String) {
    std::fs::create_dir_all(&common.models_dir).unwrap();
    for file in std::fs::read_dir(MODELS).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, common.models_dir.join(file.file_name().unwrap())).unwrap();
    }
    let catalog = std::fs::read_to_string(Path::new(MODELS).join("catalog.toml")).unwrap();
    std::fs::write(common.models_dir.join("catalog.toml"), change(catalog)).unwrap();
}

// === impl Yard ===

impl Yard {
    /// Everything started, the models loaded.
    pub(crate) async fn start(settings: InferenceSettings) -> Self {
        let yard = Self::start_with(settings, tempfile::tempdir().unwrap(), |_| ()).await;
        yard.until_ready().await;
        yard
    }

    /// Everything started in this folder, in which a module may have lived before. `prepare` gets the module's
    /// folders; the small models are there already.
    pub(crate) async fn start_with(
        settings: InferenceSettings,
        folder: TempDir,
        prepare: impl FnOnce(&mut Common),
    ) -> Self {
        let mut common = Common::in_folder(folder.path());
        put_models(&common, |catalog| catalog);
        prepare(&mut common);
        let url = format!("memory:{}", folder.path().display().to_string().replace('/', "-"));
        let bus = Bus::open(BusOptions::new(&url, Name::from_static("tester"))).unwrap();
        let subscribe =
            async |kind: Kind| bus.subscribe(&TopicFilter::kind(&kind), Delivery::Assured).await.unwrap();
        let (labels, letters) = (subscribe(Kind::LABEL).await, subscribe(Kind::DEAD_LETTER).await);
        let module = Bus::open(BusOptions::new(&url, Name::from_static("inference"))).unwrap();
        let (handle, sender) = SettingsHandle::channel(settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (context, stop) = Context::for_test(handle, module, None, common, listener);
        let (methods, facts) = (context.methods.clone(), context.facts.clone());
        let running = tokio::spawn(inference::run(context));
        Self {
            folder,
            bus,
            settings: sender,
            address,
            methods,
            facts,
            stop,
            running,
            labels,
            letters,
            sequence: AtomicU64::new(0),
        }
    }

    /// Waits until the module has its models, and its subscription: a frame sent reaches it.
    pub(crate) async fn until_ready(&self) {
        eventually(LIMIT, || async { self.get("/readyz").await.is_ok_and(|(status, _)| status == 200) })
            .await;
        eventually(LIMIT, || async {
            self.send("probe", FramePixels::Jpeg(Bytes::from_static(b"is somebody there?"))).await;
            self.failed("picture").await > 0
        })
        .await;
    }

    /// Stops the module; its folder for the next one.
    pub(crate) async fn end(self) -> TempDir {
        self.stop.cancel();
        timeout(LIMIT, self.running).await.unwrap().unwrap().unwrap();
        self.folder
    }

    /// Sends a frame of this source; gives its event.
    pub(crate) async fn send(&self, source: &str, pixels: FramePixels) -> Envelope {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let event = Envelope::new(
            format!("frame-{sequence}"),
            Kind::FRAME,
            source.parse().unwrap(),
            "2026-11-21T09:00:00Z",
        );
        let mut event = event.with_stamps(Stamps::captured(clock::now()));
        event.traceparent = Some(TRACEPARENT.to_owned());
        let event = Frame { sequence, width: 64, height: 48, pixels }.write(event).unwrap();
        self.bus.publish(event.clone(), Delivery::Fast).await.ok();
        event
    }

    pub(crate) async fn show(&self, source: &str, picture: &Picture) -> Envelope {
        self.send(source, jpeg(picture)).await
    }

    /// Shows a picture and waits until it was judged, or passed over for one of these reasons.
    pub(crate) async fn settled(&self, source: &str, picture: &Picture) {
        let seen = async || {
            let mut seen = self.count("shunt_inference_frames_total").await;
            for reason in ["motion", "rate", "off", "no_model", "busy"] {
                seen += self.skipped(reason).await;
            }
            seen
        };
        let before = seen().await;
        self.show(source, picture).await;
        eventually(LIMIT, || async { seen().await > before }).await;
    }

    /// The next label event.
    pub(crate) async fn label_event(&mut self) -> Envelope {
        next(&mut self.labels).await
    }

    /// The data of the next label event.
    pub(crate) async fn label(&mut self) -> Label {
        self.label_event().await.json().unwrap()
    }

    /// Something that takes longer than the shortest time between two frames that a rate can be set to, which is a
    /// millisecond: for frames that must not be passed over.
    pub(crate) async fn pause(&self) {
        assert_eq!(self.get("/healthz").await.unwrap().0, 200);
    }

    /// Shows a picture; what the module says of it.
    pub(crate) async fn judged(&mut self, source: &str, picture: &Picture) -> Label {
        self.pause().await;
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.show(source, picture).await;
        loop {
            let label = self.label().await;
            if label.sequence >= sequence {
                return label;
            }
        }
    }

    /// The next dead letter whose reason contains this.
    pub(crate) async fn letter(&mut self, reason: &str) -> DeadLetter {
        let found = timeout(LIMIT, async {
            loop {
                let letter: DeadLetter = next(&mut self.letters).await.json().unwrap();
                if letter.reason.contains(reason) {
                    return letter;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("no dead letter says {reason:?}"))
    }

    /// What the reported twin tells of the model that judges.
    pub(crate) fn serving(&self) -> Value {
        self.facts.get()["serving"]["model"].clone()
    }

    /// Asks the module's HTTP interface.
    pub(crate) async fn get(&self, path: &str) -> reqwest::Result<(u16, String)> {
        let answer = client().get(format!("http://{}{path}", self.address)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Posts a body; gives status, headers and answer.
    pub(crate) async fn post(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> (u16, HeaderMap, Value) {
        let request = client().post(format!("http://{}{path}", self.address)).body(body);
        let answer = request.header("Content-Type", content_type).send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        (status, headers, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A number on the module's page of metrics; 0 where it is not there.
    pub(crate) async fn count(&self, metric: &str) -> u64 {
        let Ok((_, page)) = self.get("/metrics").await else { return 0 };
        let line = page.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    pub(crate) async fn skipped(&self, reason: &str) -> u64 {
        self.count(&format!("shunt_inference_frames_skipped_total{{reason=\"{reason}\"}}")).await
    }

    pub(crate) async fn failed(&self, reason: &str) -> u64 {
        self.count(&format!("shunt_inference_frames_failed_total{{reason=\"{reason}\"}}")).await
    }

    pub(crate) async fn shadowed(&self, result: &str) -> u64 {
        self.count(&format!("shunt_inference_shadow_frames_total{{result=\"{result}\"}}")).await
    }
}

async fn next(subscription: &mut Subscription) -> Envelope {
    let received = timeout(LIMIT, subscription.next()).await.expect("nothing came").unwrap();
    received.ack.ack();
    received.envelope.unwrap()
}

pub(crate) fn client() -> reqwest::Client {
    // The client wants to know who would do TLS, also where nobody does. A second call changes nothing.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().tcp_nodelay(true).timeout(LIMIT).no_proxy().build().unwrap()
}
