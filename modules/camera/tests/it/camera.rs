//! A running camera and everything around it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use camera::CameraSettings;
use shunt_bus::{Bus, BusOptions, Delivery, Subscription};
use shunt_frames::{FrameReader, PixelBuffer};
use shunt_module::{Common, Context, Health, Methods, Settings, SettingsHandle, SettingsSender};
use shunt_testkit::{Mosquitto, eventually};
use shunt_vision::{DecodeLimits, Picture, decode, encode_jpeg, encode_png};
use shunt_wire::{
    Kind, Name, Stamps, TopicFilter,
    events::{Frame, FramePixels},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// For anything that happens at once on a machine that is not busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const RED: [u8; 3] = [255, 0, 0];
pub(crate) const GREEN: [u8; 3] = [0, 255, 0];
pub(crate) const BLUE: [u8; 3] = [0, 0, 255];
pub(crate) const BLACK: [u8; 3] = [0, 0, 0];

/// A running camera, a broker, and a subscriber to its frames.
pub(crate) struct Camera {
    _folder: TempDir,
    pub(crate) settings: CameraSettings,
    pub(crate) health: Health,
    pub(crate) methods: Methods,
    pub(crate) broker: Mosquitto,
    pub(crate) url: String,
    frames: Subscription,
    reader: FrameReader,
    sender: SettingsSender<CameraSettings>,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

/// A frame as a subscriber sees it.
pub(crate) struct Seen {
    pub(crate) source: Name,
    pub(crate) sequence: u64,
    pub(crate) stamps: Stamps,
    pub(crate) picture: Picture,
    /// Came the pixels through shared memory?
    pub(crate) shared: bool,
}

// === impl Camera ===

impl Camera {
    /// Frames in shared memory; small and fast unless the settings say otherwise.
    pub(crate) async fn start(settings: CameraSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let frames = folder.path().join("frames");
        Self::start_with(folder, settings, Some(frames)).await
    }

    pub(crate) async fn start_with(
        folder: TempDir,
        settings: CameraSettings,
        frames_dir: Option<PathBuf>,
    ) -> Self {
        let mut problems = shunt_module::Problems::default();
        settings.check(&mut problems);
        assert!(problems.is_empty(), "{problems}");
        let broker = Mosquitto::start().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let subscriber = bus(&broker, "viewer");
        let filter = TopicFilter::kind(&Kind::FRAME);
        let frames = timeout(SOON, subscriber.subscribe(&filter, Delivery::Fast)).await.unwrap().unwrap();
        let (handle, sender) = SettingsHandle::channel(settings.clone());
        let reader = FrameReader::new(frames_dir.as_deref().unwrap_or(Path::new("/nowhere")));
        let common = Common { frames_dir, ..Common::in_folder(folder.path()) };
        let (context, shutdown) = Context::for_test(handle, bus(&broker, "camera"), None, common, listener);
        let (health, methods) = (context.health.clone(), context.methods.clone());
        let running = tokio::spawn(camera::run(context));
        let registered = || async { methods.names().iter().any(|name| name == "reload") };
        eventually(SOON, registered).await;
        Self {
            _folder: folder,
            settings,
            health,
            methods,
            broker,
            url,
            frames,
            reader,
            sender,
            shutdown,
            running,
        }
    }

    /// The next frame whose pixels are still there.
    pub(crate) async fn frame(&mut self) -> Seen {
        loop {
            let received = timeout(SOON, self.frames.newest()).await.unwrap().unwrap();
            let envelope = received.envelope.unwrap();
            let frame = Frame::read(&envelope).unwrap();
            let (source, stamps) = (envelope.source.clone(), envelope.stamps.clone().unwrap());
            let (picture, shared) = match frame.pixels {
                FramePixels::Jpeg(jpeg) => (decode(&jpeg, &DecodeLimits::default()).unwrap(), false),
                FramePixels::Shared { format, reference } => {
                    let mut buffer = PixelBuffer::default();
                    match self.reader.read(&reference, &mut buffer) {
                        Ok(()) => {}
                        Err(shunt_frames::FrameError::Gone | shunt_frames::FrameError::File { .. }) => {
                            continue;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    let PixelBuffer { width, height, pixels, .. } = buffer;
                    (Picture::new(width, height, format, pixels).unwrap(), true)
                }
            };
            assert_eq!((frame.width, frame.height), (picture.width, picture.height));
            return Seen { source, sequence: frame.sequence, stamps, picture, shared };
        }
    }

    /// Waits for a frame like that.
    pub(crate) async fn frame_where(&mut self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let wait = async {
            loop {
                let frame = self.frame().await;
                if wanted(&frame) {
                    return frame;
                }
            }
        };
        timeout(SOON, wait).await.unwrap()
    }

    /// Changes settings as the twin does; they are in force when this returns.
    pub(crate) async fn change(&mut self, change: impl FnOnce(&mut CameraSettings)) {
        change(&mut self.settings);
        let verdict = timeout(SOON, self.sender.propose(self.settings.clone())).await.unwrap();
        assert_eq!(verdict, Ok(()));
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String, Vec<u8>) {
        let client = client();
        let response = client.get(format!("{}{path}", self.url)).send().await.unwrap();
        let status = response.status().as_u16();
        let content = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
        (status, content.unwrap_or_default(), response.bytes().await.unwrap().to_vec())
    }

    /// A value of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, _, page) = self.get("/metrics").await;
        let page = String::from_utf8(page).unwrap();
        shunt_module::check_page(&page).unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    /// Waits until the source does not work, and gives the reason.
    pub(crate) async fn failure(&self) -> String {
        let reason = || self.health.failing().into_iter().find(|(part, _)| *part == "source");
        shunt_testkit::eventually(SOON, || async { reason().is_some() }).await;
        reason().unwrap().1
    }

    /// Waits until a source that is played once has come to its end.
    pub(crate) async fn ended(&self) {
        shunt_testkit::eventually(SOON, || async {
            let (_, _, page) = self.get("/readyz").await;
            String::from_utf8(page).unwrap().contains("the source has ended")
        })
        .await;
    }

    /// Ends it; it must end by itself.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        timeout(SOON, &mut self.running).await.unwrap().unwrap().unwrap();
    }
}

/// A client with a time limit.
pub(crate) fn client() -> reqwest::Client {
    // Another test of this process may have done so already.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().timeout(SOON).build().unwrap()
}

/// A connection of its own to the broker.
fn bus(broker: &Mosquitto, name: &'static str) -> Bus {
    Bus::open(BusOptions {
        queue: 64,
        max_message: 4 << 20,
        ..BusOptions::new(broker.url(), Name::from_static(name))
    })
    .unwrap()
}

/// Settings for a quick test: small frames, fifty a second.
pub(crate) fn settings(source: impl AsRef<Path>) -> CameraSettings {
    CameraSettings {
        source: source.as_ref().to_str().unwrap().to_owned(),
        fps: 50.0,
        width: 160,
        height: 120,
        hold_s: 0.2,
        ..CameraSettings::default()
    }
}

/// A picture file of one colour.
pub(crate) fn write_picture(path: &Path, width: u32, height: u32, colour: [u8; 3]) {
    std::fs::write(path, encode_png(&Picture::filled(width, height, colour)).unwrap()).unwrap();
}

pub(crate) fn jpeg(colour: [u8; 3]) -> Vec<u8> {
    encode_jpeg(&Picture::filled(160, 120, colour), 95).unwrap()
}

/// Is the pixel of about that colour? JPEG and resizing change colours a little.
pub(crate) fn is(picture: &Picture, x: u32, y: u32, colour: [u8; 3]) -> bool {
    let pixel = picture.pixel(x, y).unwrap();
    pixel.iter().zip(colour).all(|(&has, wanted)| has.abs_diff(wanted) < 40)
}

/// Are all pixels of about that colour?
pub(crate) fn all(picture: &Picture, colour: [u8; 3]) -> bool {
    (0..picture.height).all(|y| (0..picture.width).all(|x| is(picture, x, y, colour)))
}
