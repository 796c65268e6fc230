//! The way past the broker.

use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use shunt_bus::{Bus, BusOptions, Delivery, PublishError, Subscription};
use shunt_testkit::eventually;
use shunt_wire::{Envelope, Kind, TopicFilter};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use crate::{
    backends::{Backend, LIMIT, connected, disconnected},
    numbered::{all, event, is_quiet, next, number, take},
};

/// Set for a process that [`answering_process`] starts: the folder that it shares.
const CHILD: &str = "SHUNT_TEST_LOCAL_CHILD";

/// A bus of a broker of its own, which nobody else is on: what it hears from others comes over sockets.
fn alone(module: &str, shared: &Path) -> anyhow::Result<Bus> {
    let url = format!("memory:local {} {module}", shared.display());
    Ok(Bus::open(BusOptions { shared: Some(shared.to_owned()), ..BusOptions::new(url, module.parse()?) })?)
}

/// Publishes events of the number 0 until one goes past the broker, and takes all that came of them.
async fn meet(publisher: &Bus, kind: &Kind, subscriber: &mut Subscription) {
    let before = publisher.counters().sent_locally;
    eventually(LIMIT, || async {
        // Where the broker is away, it is refused until the two have met.
        drop(publisher.publish(event(kind, 0), Delivery::Fast).await);
        publisher.counters().sent_locally > before
    })
    .await;
    drain(subscriber).await;
}

/// Takes all that came, also what waits for a copy from the broker, which waits a quarter of a second at most.
async fn drain(subscription: &mut Subscription) {
    while timeout(Duration::from_millis(500), subscription.next()).await.is_ok() {}
}

/// The only socket of this module.
fn socket_of(shared: &Path, module: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(shared.join("bus")).ok()?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(module)))
}

async fn socket(shared: &Path, module: &str) -> PathBuf {
    eventually(LIMIT, || async { socket_of(shared, module).is_some() }).await;
    socket_of(shared, module).unwrap()
}

/// What a subscriber tells that wants everything and has no socket.
fn wants_everything() -> Vec<u8> {
    let content = [&u32::MAX.to_le_bytes()[..], &[0, 0], &[1, 0], &[1, 0], b"#"].concat();
    [&(content.len() as u32).to_le_bytes()[..], &content].concat()
}

#[tokio::test]
async fn an_event_arrives_although_the_broker_is_away() -> anyhow::Result<()> {
    let backend = Backend::mqtt().await?.shared()?;
    let (camera, emotion) = (backend.bus("camera").await?, backend.bus("emotion").await?);
    let mut frames = emotion.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    meet(&camera, &Kind::FRAME, &mut frames).await;
    backend.cut();
    disconnected(&camera).await?;
    disconnected(&emotion).await?;
    let before = emotion.counters();
    for count in 1..=10 {
        camera.publish(event(&Kind::FRAME, count), Delivery::Fast).await?;
        assert_eq!(take(&mut frames).await?, count);
    }
    assert_eq!(emotion.counters().received_locally, before.received_locally + 10);
    assert_eq!(camera.counters().dropped_sending, 0);
    // What nobody wants is refused as before.
    let refused = camera.publish(event(&Kind::LABEL, 1), Delivery::Fast).await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    assert_eq!(camera.counters().dropped_sending, 1);
    // Nor comes anything twice when the broker is back.
    backend.heal();
    connected(&camera).await?;
    connected(&emotion).await?;
    assert!(is_quiet(&mut frames).await);
    Ok(())
}

#[tokio::test]
async fn an_event_that_comes_by_two_ways_is_handed_over_once() -> anyhow::Result<()> {
    let backend = Backend::mqtt().await?.shared()?;
    let (camera, emotion) = (backend.bus("camera").await?, backend.bus("emotion").await?);
    let far = backend.bus_with("far", |options| options.shared = None).await?;
    let mut frames = emotion.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    // An assured subscriber gets fast events as well, and also with overlapping filters each one once.
    let mut everything = emotion.subscribe(&TopicFilter::everything(), Delivery::Assured).await?;
    let mut far_frames = far.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    meet(&camera, &Kind::FRAME, &mut frames).await;
    drain(&mut everything).await;
    drain(&mut far_frames).await;
    let before = (camera.counters(), emotion.counters());
    for count in 1..=200 {
        camera.publish(event(&Kind::FRAME, count), Delivery::Fast).await?;
        for subscription in [&mut frames, &mut everything, &mut far_frames] {
            assert_eq!(take(subscription).await?, count);
        }
    }
    for subscription in [&mut frames, &mut everything, &mut far_frames] {
        assert!(is_quiet(subscription).await);
    }
    let (sent, came) = (camera.counters(), emotion.counters());
    assert_eq!(sent.published, before.0.published + 200);
    assert_eq!(sent.sent_locally, before.0.sent_locally + 200);
    assert_eq!(came.received, before.1.received + 200);
    // Which way is quicker is not for a test to say; but not all can have come by the broker first.
    assert!(came.received_locally > before.1.received_locally);
    assert_eq!(far.counters().received_locally, 0);
    Ok(())
}

#[tokio::test]
async fn modules_that_meet_in_the_middle_keep_the_order() -> anyhow::Result<()> {
    for round in 0..5 {
        let backend = Backend::mqtt().await?.shared()?;
        let (camera, emotion) = (backend.bus("camera").await?, backend.bus("emotion").await?);
        let mut frames = emotion.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
        let publish = tokio::spawn(async move {
            // All of them, and some beyond the moment in which they meet.
            let mut count = 0;
            let mut beyond = 100;
            while beyond > 0 {
                count += 1;
                // The broker's queue may be full for a moment: that event is lost, the order is not.
                drop(camera.publish(event(&Kind::FRAME, count), Delivery::Fast).await);
                beyond -= u64::from(camera.counters().sent_locally > 0);
                tokio::task::yield_now().await;
            }
            count
        });
        let mut last = 0;
        let mut all_count = None;
        let mut publish = std::pin::pin!(publish);
        while all_count != Some(last) {
            tokio::select! {
                count = &mut publish, if all_count.is_none() => all_count = Some(count?),
                number = take(&mut frames) => {
                    let number = number?;
                    assert!(number > last, "{number} after {last} in round {round}");
                    last = number;
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_identifier_published_again_is_heard_again() -> anyhow::Result<()> {
    let backend = Backend::mqtt().await?.shared()?;
    let (camera, emotion) = (backend.bus("camera").await?, backend.bus("emotion").await?);
    let mut frames = emotion.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    meet(&camera, &Kind::FRAME, &mut frames).await;
    for _ in 1..=20 {
        camera.publish(event(&Kind::FRAME, 7), Delivery::Fast).await?;
    }
    for _ in 1..=20 {
        assert_eq!(take(&mut frames).await?, 7);
    }
    assert!(is_quiet(&mut frames).await);
    Ok(())
}

#[tokio::test]
async fn assured_and_retained_events_are_not_seen_on_the_sockets() -> anyhow::Result<()> {
    let shared = tempfile::tempdir()?;
    let camera = alone("camera", shared.path())?;
    connected(&camera).await?;
    let mut listener = UnixStream::connect(socket(shared.path(), "camera").await).await?;
    listener.write_all(&wants_everything()).await?;
    // Fast ones are seen, so the listener is listened to.
    eventually(LIMIT, || async {
        drop(camera.publish(event(&Kind::FRAME, 0), Delivery::Fast).await);
        camera.counters().sent_locally > 0
    })
    .await;
    let before = camera.counters();
    camera.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await?;
    camera.publish_retained(event(&Kind::PRESENCE, 1)).await?;
    camera.publish(event(&Kind::FACE, 1), Delivery::Fast).await?;
    assert_eq!(camera.counters().published, before.published + 3);
    assert_eq!(camera.counters().sent_locally, before.sent_locally + 1);
    let mut came = Vec::new();
    let until_face = async {
        while !came.windows(16).any(|bytes| bytes == b"shunt/face/front") {
            assert!(listener.read_buf(&mut came).await? > 0);
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, until_face).await??;
    for topic in ["shunt/emotion", "shunt/presence"] {
        assert!(!came.windows(topic.len()).any(|bytes| bytes == topic.as_bytes()), "{topic}");
    }
    Ok(())
}

#[tokio::test]
async fn six_modules_hand_an_event_on_without_a_broker() -> anyhow::Result<()> {
    let shared = tempfile::tempdir()?;
    // All begin at once.
    let buses: Vec<_> =
        (0..6).map(|number| alone(&format!("m{number}"), shared.path())).collect::<Result<_, _>>()?;
    let kind = |number: usize| format!("hop{number}").parse::<Kind>().unwrap();
    let mut chain = tokio::task::JoinSet::new();
    let mut end = buses[5].subscribe(&all(&kind(5)), Delivery::Fast).await?;
    for (number, bus) in buses.iter().enumerate().take(5).skip(1) {
        let (bus, next) = (bus.clone(), kind(number + 1));
        let mut events = bus.subscribe(&all(&kind(number)), Delivery::Fast).await?;
        chain.spawn(async move {
            while let Some(received) = events.next().await {
                let event = Envelope { kind: next.clone(), ..received.envelope.unwrap() };
                drop(bus.publish(event, Delivery::Fast).await);
            }
        });
    }
    // The last hop is kind 5; the first kind 1 leads to it when all have met.
    eventually(LIMIT, || async {
        drop(buses[0].publish(event(&kind(1), 0), Delivery::Fast).await);
        buses[5].counters().received_locally > 0
    })
    .await;
    drain(&mut end).await;
    for count in 1..=100 {
        buses[0].publish(event(&kind(1), count), Delivery::Fast).await?;
        assert_eq!(take(&mut end).await?, count);
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_module_holds_up_neither_the_publisher_nor_the_others() -> anyhow::Result<()> {
    let shared = tempfile::tempdir()?;
    let (camera, emotion) = (alone("camera", shared.path())?, alone("emotion", shared.path())?);
    let mut frames = emotion.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    meet(&camera, &Kind::FRAME, &mut frames).await;
    let mut stopped = UnixStream::connect(socket(shared.path(), "camera").await).await?;
    stopped.write_all(&wants_everything()).await?;
    let both = camera.counters().sent_locally;
    eventually(LIMIT, || async {
        drop(camera.publish(event(&Kind::LABEL, 0), Delivery::Fast).await);
        camera.counters().sent_locally > both
    })
    .await;
    let publish = async {
        for count in 1..=5000 {
            camera
                .publish(event(&Kind::FRAME, count).with_body("image/jpeg", vec![0; 1000]), Delivery::Fast)
                .await?;
            assert_eq!(number(&next(&mut frames).await?), count);
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, publish).await??;
    let counters = camera.counters();
    assert!(counters.dropped_locally > 0, "{counters:?}");
    // The newest wins: when the other goes on, it finds the last one.
    let mut came = Vec::new();
    let until_last = async {
        while !came.windows(6).any(|bytes| bytes == b"\x02\0id\x04\0")
            || !came.windows(8).any(|bytes| bytes == b"id\x04\x005000")
        {
            assert!(stopped.read_buf(&mut came).await? > 0);
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, until_last).await??;
    Ok(())
}

#[tokio::test]
async fn garbage_ends_only_the_connection_that_it_came_by() -> anyhow::Result<()> {
    let shared = tempfile::tempdir()?;
    let (camera, emotion) = (alone("camera", shared.path())?, alone("emotion", shared.path())?);
    let mut frames = emotion.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    meet(&camera, &Kind::FRAME, &mut frames).await;
    // From one who would listen: too long, cut short, no text, no filter.
    let path = socket(shared.path(), "camera").await;
    let mut short = wants_everything();
    short[0] -= 1;
    let mut filter = wants_everything();
    *filter.last_mut().unwrap() = 0xFF;
    for garbage in [vec![0xFF; 100], short, filter, b"\0\0\0\0".to_vec()] {
        let mut stream = UnixStream::connect(&path).await?;
        stream.write_all(&garbage).await?;
        // What it did not read of it makes it a reset.
        let end = timeout(LIMIT, stream.read(&mut [0; 16])).await?;
        assert!(matches!(end, Ok(0) | Err(_)), "{garbage:?}");
    }
    // From one who would publish, to both.
    let folder = shared.path().join("bus");
    let bad = UnixListener::bind(folder.join("bad-1.1"))?;
    for _ in 0..2 {
        let (mut stream, _) = timeout(LIMIT, bad.accept()).await.context("nobody came")??;
        stream.write_all(b"\x05\0\0\0\xFF\xFFabc").await?;
        let mut rest = Vec::new();
        timeout(LIMIT, stream.read_to_end(&mut rest)).await??;
    }
    camera.publish(event(&Kind::FRAME, 1), Delivery::Fast).await?;
    assert_eq!(take(&mut frames).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_publisher_sends_only_what_is_wanted_now() -> anyhow::Result<()> {
    let shared = tempfile::tempdir()?;
    let (camera, emotion) = (alone("camera", shared.path())?, alone("emotion", shared.path())?);
    let mut frames = emotion.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    meet(&camera, &Kind::FRAME, &mut frames).await;
    let before = camera.counters().sent_locally;
    camera.publish(event(&Kind::LABEL, 1), Delivery::Fast).await?;
    assert_eq!(camera.counters().sent_locally, before);
    // Wanted later, over the same connection.
    let mut labels = emotion.subscribe(&all(&Kind::LABEL), Delivery::Fast).await?;
    meet(&camera, &Kind::LABEL, &mut labels).await;
    drop(frames);
    eventually(LIMIT, || async {
        let before = camera.counters().sent_locally;
        drop(camera.publish(event(&Kind::FRAME, 1), Delivery::Fast).await);
        camera.counters().sent_locally == before
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_folder_that_comes_late_is_used_then() -> anyhow::Result<()> {
    let parent = tempfile::tempdir()?;
    let shared = parent.path().join("late");
    let (camera, emotion) = (alone("camera", &shared)?, alone("emotion", &shared)?);
    let mut frames = emotion.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    camera.publish(event(&Kind::FRAME, 1), Delivery::Fast).await?;
    assert!(is_quiet(&mut frames).await);
    std::fs::create_dir(&shared)?;
    meet(&camera, &Kind::FRAME, &mut frames).await;
    // A closed bus leaves nothing behind.
    camera.close(LIMIT).await;
    assert_eq!(socket_of(&shared, "camera"), None);
    Ok(())
}

#[tokio::test]
async fn a_folder_whose_path_is_too_long_leaves_all_to_the_broker() -> anyhow::Result<()> {
    let parent = tempfile::tempdir()?;
    let shared = parent.path().join("x".repeat(120));
    std::fs::create_dir(&shared)?;
    let backend = Backend::memory("a path too long");
    let open = |options: &mut BusOptions| options.shared = Some(shared.clone());
    let (camera, emotion) =
        (backend.bus_with("camera", open).await?, backend.bus_with("emotion", open).await?);
    let mut frames = emotion.subscribe(&all(&Kind::FRAME), Delivery::Fast).await?;
    camera.publish(event(&Kind::FRAME, 1), Delivery::Fast).await?;
    assert_eq!(take(&mut frames).await?, 1);
    assert_eq!(camera.counters().sent_locally, 0);
    Ok(())
}

#[tokio::test]
async fn a_process_of_another_user_is_turned_away() -> anyhow::Result<()> {
    let shared = tempfile::tempdir()?;
    let camera = alone("camera", shared.path())?;
    connected(&camera).await?;
    let path = socket(shared.path(), "camera").await;
    // The modes of folder and socket keep it out already, so they are opened here.
    let open = std::fs::Permissions::from_mode(0o777);
    for path in [shared.path(), &shared.path().join("bus"), &path] {
        std::fs::set_permissions(path, open.clone())?;
    }
    let script = "use Socket; $SIG{PIPE} = 'IGNORE'; socket(my $s, PF_UNIX, SOCK_STREAM, 0) or exit 2; \
                  connect($s, sockaddr_un($ARGV[0])) or exit 3; \
                  syswrite($s, pack('C*', split(/ /, $ARGV[1]))); exit(sysread($s, my $b, 1) ? 1 : 0)";
    let wants = wants_everything().iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
    let run = |user: u32| {
        let mut perl = Command::new("perl");
        perl.args(["-e", script]).arg(&path).arg(&wants).uid(user).stderr(Stdio::inherit());
        tokio::process::Command::from(perl).kill_on_drop(true).spawn()
    };
    let Ok(mut other) = run(65_534) else {
        // Only root can start a process of another user.
        println!("Passed over: no process of another user can be started here.");
        return Ok(());
    };
    assert_eq!(timeout(LIMIT, other.wait()).await??.code(), Some(0));
    assert!(std::fs::exists(&path)?);
    // Of our own user it is heard, and gets its event.
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&path)?);
    let mut own = run(own)?;
    eventually(LIMIT, || async {
        drop(camera.publish(event(&Kind::FRAME, 0), Delivery::Fast).await);
        camera.counters().sent_locally > 0
    })
    .await;
    assert_eq!(timeout(LIMIT, own.wait()).await??.code(), Some(1));
    Ok(())
}

/// A process that answers texts with sentiments over the folder; it has a broker of its own.
struct Answering(Child);

// === impl Answering ===

impl Answering {
    fn start(shared: &Path) -> anyhow::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--exact", "local::answering_process", "--nocapture"])
            .env(CHILD, shared)
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// SIGKILL: it cannot tidy up.
    fn kill(&mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

/// The process of [`Answering`]; as a test it does nothing.
#[tokio::test]
async fn answering_process() -> anyhow::Result<()> {
    let Some(shared) = std::env::var_os(CHILD) else { return Ok(()) };
    let bus = alone("sentiment", Path::new(&shared))?;
    let mut texts = bus.subscribe(&all(&Kind::TEXT), Delivery::Fast).await?;
    while let Some(received) = texts.next().await {
        let answer = Envelope { kind: Kind::SENTIMENT, ..received.envelope? };
        drop(bus.publish(answer, Delivery::Fast).await);
    }
    Ok(())
}

#[tokio::test]
async fn a_process_that_is_killed_and_started_again_is_found_again() -> anyhow::Result<()> {
    let shared = tempfile::tempdir()?;
    let gateway = alone("gateway", shared.path())?;
    let mut answers = gateway.subscribe(&all(&Kind::SENTIMENT), Delivery::Fast).await?;
    for life in 1..=3 {
        let mut answering = Answering::start(shared.path())?;
        eventually(LIMIT, || async {
            drop(gateway.publish(event(&Kind::TEXT, 0), Delivery::Fast).await);
            gateway.counters().received_locally >= life * 1000 - 999
        })
        .await;
        drain(&mut answers).await;
        while gateway.counters().received_locally < life * 1000 {
            let count = gateway.counters().received_locally;
            gateway.publish(event(&Kind::TEXT, count), Delivery::Fast).await?;
            assert_eq!(take(&mut answers).await?, count);
        }
        answering.kill()?;
        let stale = socket_of(shared.path(), "sentiment").context("it leaves its socket")?;
        if life == 2 {
            eventually(LIMIT, || async { !stale.exists() }).await;
        }
    }
    Ok(())
}

#[tokio::test]
async fn many_buses_that_begin_at_once_all_find_each_other() -> anyhow::Result<()> {
    let shared = tempfile::tempdir()?;
    let buses: Vec<_> =
        (0..12).map(|number| alone(&format!("m{number}"), shared.path())).collect::<Result<_, _>>()?;
    let mut events = Vec::new();
    for bus in &buses {
        events.push(bus.subscribe(&all(&Kind::LABEL), Delivery::Fast).await?);
    }
    for bus in &buses {
        eventually(LIMIT, || async {
            let before = bus.counters().sent_locally;
            drop(bus.publish(event(&Kind::LABEL, 0), Delivery::Fast).await);
            bus.counters().sent_locally - before == 11
        })
        .await;
    }
    for subscription in &mut events {
        drain(subscription).await;
    }
    for (mine, bus) in buses.iter().enumerate() {
        // No identifier twice: who publishes an event also gets it, from its own broker.
        let count = mine as u64 + 1;
        bus.publish(event(&Kind::LABEL, count), Delivery::Fast).await?;
        for (other, subscription) in events.iter_mut().enumerate() {
            assert_eq!(take(subscription).await?, count, "{mine} to {other}");
        }
    }
    Ok(())
}
