//! A broker, the module, and somebody who sends frames and reads what comes of them.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use emotion::EmotionSettings;
use shunt_bus::{Bus, BusOptions, Delivery, Received, Subscription, clock};
use shunt_module::{Common, Context, Facts, Methods, SettingsHandle, SettingsSender};
use shunt_testkit::{Mosquitto, eventually};
use shunt_vision::{DecodeLimits, Picture, decode, encode_jpeg};
use shunt_wire::{
    Envelope, Kind, Name, Stamps, TopicFilter,
    events::{DeadLetter, Emotion, Frame, FramePixels},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long anything may take; a busy machine is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub(crate) struct Stage {
    pub(crate) broker: Mosquitto,
    pub(crate) folder: TempDir,
    pub(crate) bus: Bus,
    pub(crate) settings: SettingsSender<EmotionSettings>,
    pub(crate) address: SocketAddr,
    pub(crate) methods: Methods,
    pub(crate) facts: Facts,
    pub(crate) stop: CancellationToken,
    pub(crate) running: JoinHandle<anyhow::Result<()>>,
    emotions: Subscription,
    faces: Subscription,
    letters: Subscription,
    sequence: AtomicU64,
}

/// The module's settings with these models.
pub(crate) fn with_models(face_model: &str, emotion_model: &str) -> EmotionSettings {
    EmotionSettings {
        face_model: face_model.to_owned(),
        emotion_model: emotion_model.to_owned(),
        ..EmotionSettings::default()
    }
}

/// The picture that is always there: one happy astronaut, 360x300.
pub(crate) fn astronaut() -> Picture {
    decode(include_bytes!("../data/astronaut.jpg"), &DecodeLimits::default()).unwrap()
}

/// A sample picture that may be missing; says so.
pub(crate) fn sample(name: &str) -> Option<Picture> {
    let Some(file) = shunt_testkit::sample_picture(name) else {
        println!("Skipped: the picture {name} is not there.");
        return None;
    };
    Some(decode(&std::fs::read(file).unwrap(), &DecodeLimits::default()).unwrap())
}

pub(crate) fn jpeg(picture: &Picture) -> FramePixels {
    FramePixels::Jpeg(Bytes::from(encode_jpeg(picture, 95).unwrap()))
}

// === impl Stage ===

impl Stage {
    /// Everything started, the models loaded.
    pub(crate) async fn start() -> Self {
        let stage = Self::start_with(EmotionSettings::default(), |_| ()).await;
        stage.until_ready().await;
        stage
    }

    /// Everything started; the models may be missing. `prepare` gets the folder of the module.
    pub(crate) async fn start_with(settings: EmotionSettings, prepare: impl FnOnce(&mut Common)) -> Self {
        let broker = Mosquitto::start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut common = Common::in_folder(folder.path());
        prepare(&mut common);
        let bus = Bus::open(BusOptions::new(broker.url(), Name::from_static("tester"))).unwrap();
        let subscribe =
            async |kind: Kind| bus.subscribe(&TopicFilter::kind(&kind), Delivery::Assured).await.unwrap();
        let (emotions, faces) = (subscribe(Kind::EMOTION).await, subscribe(Kind::FACE).await);
        let letters = subscribe(Kind::DEAD_LETTER).await;
        let module = Bus::open(BusOptions::new(broker.url(), Name::from_static("emotion"))).unwrap();
        let (handle, sender) = SettingsHandle::channel(settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (context, stop) = Context::for_test(handle, module, None, common, listener);
        let (methods, facts) = (context.methods.clone(), context.facts.clone());
        let running = tokio::spawn(emotion::run(context));
        Self {
            broker,
            folder,
            bus,
            settings: sender,
            address,
            methods,
            facts,
            stop,
            running,
            emotions,
            faces,
            letters,
            sequence: AtomicU64::new(0),
        }
    }

    /// Waits until the module has its models, and its subscription: a frame sent reaches it.
    pub(crate) async fn until_ready(&self) {
        eventually(LIMIT, || async { self.get("/readyz").await.is_ok_and(|(status, _)| status == 200) })
            .await;
        eventually(LIMIT, || async {
            self.send(FramePixels::Jpeg(Bytes::from_static(b"is somebody there?"))).await;
            self.count("shunt_emotion_frames_failed_total{reason=\"picture\"}").await > 0
        })
        .await;
    }

    fn frame(&self, pixels: FramePixels) -> Envelope {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let mut event = Envelope::new(
            format!("frame-{sequence}"),
            Kind::FRAME,
            Name::from_static("front-door"),
            "2026-11-21T09:00:00Z",
        )
        .with_stamps(Stamps::captured(clock::now()));
        event.traceparent = Some(TRACEPARENT.to_owned());
        Frame { sequence, width: 360, height: 300, pixels }.write(event).unwrap()
    }

    /// Sends a frame of `front-door`; gives its event.
    pub(crate) async fn send(&self, pixels: FramePixels) -> Envelope {
        let event = self.frame(pixels);
        // Fast, as the camera does; a test that sends while the broker is away tries again.
        self.bus.publish(event.clone(), Delivery::Fast).await.ok();
        event
    }

    pub(crate) async fn show(&self, picture: &Picture) -> Envelope {
        self.send(jpeg(picture)).await
    }

    /// The next emotion event.
    pub(crate) async fn emotion_event(&mut self) -> Envelope {
        next(&mut self.emotions).await
    }

    /// The data of the next emotion event.
    pub(crate) async fn emotion(&mut self) -> Emotion {
        self.emotion_event().await.json().unwrap()
    }

    /// The next face event.
    pub(crate) async fn face_event(&mut self) -> Envelope {
        next(&mut self.faces).await
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

    /// All emotions of one frame: those of the frame after it mark the end.
    pub(crate) async fn emotions_of(&mut self, picture: &Picture) -> Vec<Emotion> {
        let frames = self.count("shunt_emotion_frames_total").await;
        let sequence: u64 = self.sequence.load(Ordering::Relaxed);
        self.show(picture).await;
        eventually(LIMIT, || async { self.count("shunt_emotion_frames_total").await > frames }).await;
        self.show(&astronaut()).await;
        let mut found = Vec::new();
        loop {
            let emotion = self.emotion().await;
            if emotion.face.sequence == sequence {
                found.push(emotion);
            } else if emotion.face.sequence > sequence {
                return found;
            }
        }
    }

    /// Shows a picture and waits until it was judged; is it without a face?
    pub(crate) async fn emotions_without_face(&self, picture: &Picture) -> bool {
        let count = async || {
            (self.count("shunt_emotion_frames_total").await, self.count("shunt_emotion_faces_total").await)
        };
        let (frames, faces) = count().await;
        self.show(picture).await;
        eventually(LIMIT, || async { count().await.0 > frames }).await;
        count().await.1 == faces
    }

    /// Asks the module's HTTP interface.
    pub(crate) async fn get(&self, path: &str) -> reqwest::Result<(u16, String)> {
        let answer = client().get(format!("http://{}{path}", self.address)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, String) {
        let request = client().post(format!("http://{}{path}", self.address)).body(body);
        let answer = request.header("Content-Type", "application/json").send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// A number on the module's page of metrics; 0 where it is not there.
    pub(crate) async fn count(&self, metric: &str) -> u64 {
        let Ok((_, page)) = self.get("/metrics").await else { return 0 };
        let line = page.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// The module still works: a frame with a face brings an emotion.
    pub(crate) async fn check_alive(&mut self) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.show(&astronaut()).await;
        timeout(LIMIT, async { while self.emotion().await.face.sequence < sequence {} }).await.unwrap();
    }
}

async fn next(subscription: &mut Subscription) -> Envelope {
    let received: Received = timeout(LIMIT, subscription.next()).await.expect("nothing came").unwrap();
    received.ack.ack();
    received.envelope.unwrap()
}

fn client() -> reqwest::Client {
    // The client wants to know who would do TLS, also where nobody does. A second call changes nothing.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().tcp_nodelay(true).timeout(LIMIT).no_proxy().build().unwrap()
}

/// A folder of models with the built-in catalog changed, and nothing else.
pub(crate) fn changed_catalog(common: &Common, from: &str, to: &str) {
    let catalog = std::fs::read_to_string(shunt_testkit::repo_root().join("models/catalog.toml")).unwrap();
    let changed = catalog.replace(from, to);
    assert_ne!(changed, catalog);
    std::fs::create_dir_all(&common.models_dir).unwrap();
    let file = common.models_dir.join("catalog.toml");
    std::fs::write(&file, changed).unwrap();
}
