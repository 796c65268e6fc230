//! When the disk fails.

use std::{fs, path::Path, process::Command};

use crate::rig::{Relay, all_at_hub, client, environment, memory, page, publish, sim, subscribed, total};

/// A small disk of its own; none where this test may not mount one.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(folder: &'a Path, size: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "shunt-test"])
            .arg(folder)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(folder))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0).output().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_and_the_relay_goes_on_when_there_is_room() {
    let (folder, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(small) = SmallDisk::mount(disk.path(), "6m") else {
        println!("skipped: this user may not mount a small disk");
        return;
    };
    let (sim, url) = (sim(folder.path()).await, memory(folder.path()));
    let mut variables = environment(disk.path(), &url, None, &[]);
    let relay = Relay::start(variables.clone()).await;
    let bus = client(&url, "camera");
    subscribed(&bus, &relay).await;
    publish(&bus, 1..=10).await;
    relay.until(|status| total(&status["accepted"]) >= 11).await;

    // A stranger fills the disk.
    let ballast = disk.path().join("ballast");
    fill(&ballast);
    let publisher = {
        let bus = bus.clone();
        tokio::spawn(async move { publish(&bus, 11..=3_000).await })
    };
    let status = relay.until(|status| status["disk"] != "ok").await;
    assert!(status["disk"].as_str().unwrap().contains("disk"), "{status}");
    assert!(status["disk_failures"].as_u64().unwrap() > 0);
    let health = page(relay.http, "/readyz").await.unwrap();
    assert!(health.contains("\"disk\":{\"ready\":false"), "{health}");
    assert_eq!(page(relay.http, "/healthz").await.unwrap(), "{\"alive\":true}");
    let accepted = total(&relay.status().await["accepted"]);
    assert!(accepted < 3_000, "{accepted}");

    fs::remove_file(&ballast).unwrap();
    publisher.await.unwrap();
    relay.until(|status| status["disk"] == "ok" && total(&status["accepted"]) >= 3_001).await;
    relay.stop().await;
    variables.extend(sim.module_environment("relay"));
    let relay = Relay::start(variables).await;
    all_at_hub(&sim, 1..=3_000).await;
    relay.until(|status| status["queued"] == 0).await;
    relay.stop().await;
    sim.stop().await;
    drop(small);
}

/// Writes until there is no room.
fn fill(path: &Path) {
    use std::io::Write;

    let mut file = fs::File::create(path).unwrap();
    let block = [0; 4096];
    while file.write_all(&block).is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_queue_is_moved_aside_and_the_relay_lives() {
    let folder = tempfile::tempdir().unwrap();
    let (sim, url) = (sim(folder.path()).await, memory(folder.path()));
    fs::create_dir_all(folder.path().join("relay")).unwrap();
    fs::write(folder.path().join("relay/queue.redb"), vec![0x5a; 100_000]).unwrap();
    let relay = Relay::start(environment(folder.path(), &url, Some(&sim), &[])).await;
    let bus = client(&url, "camera");
    subscribed(&bus, &relay).await;
    publish(&bus, 1..=5).await;
    all_at_hub(&sim, 1..=5).await;
    let status = relay.until(|status| status["disk"] == "ok").await;
    assert_eq!(status["replaced_queues"], 1);
    assert!(folder.path().join("relay/queue.redb.damaged").exists());
    relay.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_is_reported_and_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let url = memory(folder.path());
    // A file where the folder should be.
    fs::write(folder.path().join("relay"), "in the way").unwrap();
    let relay = Relay::start(environment(folder.path(), &url, None, &[])).await;
    let status = relay.until(|status| status["disk"] != "ok").await;
    assert!(status["disk"].as_str().unwrap().contains("cannot be made"), "{status}");
    fs::remove_file(folder.path().join("relay")).unwrap();
    let bus = client(&url, "camera");
    subscribed(&bus, &relay).await;
    relay.until(|status| status["disk"] == "ok").await;
    relay.stop().await;
}
