//! Whatever ends the chain, nothing of it goes on.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use shunt_testkit::{binary, eventually, repo_root};
use tokio::process::Command;

use crate::chain::{Chain, LIMIT, astronaut, is_alive, nothing_lost, turn};

#[tokio::test]
async fn ctrl_c_drains_and_leaves_nothing_running() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(5).await;
    let pids = chain.pids();
    let all = [
        "bus",
        "camera",
        "emotion",
        "functions",
        "gateway",
        "inference",
        "relay",
        "rules",
        "sentiment",
        "sim",
    ];
    assert_eq!(pids.keys().collect::<Vec<_>>(), all);
    nothing_lost(&chain.stop().await);
    let left: Vec<_> = pids.iter().filter(|(_, pid)| is_alive(**pid)).collect();
    assert!(left.is_empty(), "{left:?} still run");
}

#[tokio::test]
async fn what_was_started_ends_even_when_shunt_up_is_killed() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(1).await;
    let pids = chain.pids();
    chain.signal(Signal::KILL);
    eventually(LIMIT, || async { pids.values().all(|pid| !is_alive(*pid)) }).await;
}

#[tokio::test]
async fn the_terminal_s_ctrl_c_reaches_only_shunt_up() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(1).await;
    for (name, pid) in chain.pids() {
        let group = rustix::process::getpgid(rustix::process::Pid::from_raw(pid)).unwrap();
        assert_eq!(group.as_raw_nonzero().get(), pid, "{name} is in a group of its own");
    }
    chain.stop().await;
}

#[tokio::test]
async fn ctrl_c_during_the_start_still_prints_a_report() {
    let _turn = turn().await;
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let up = Command::new(binary("shunt"))
        .args(["up", "--json", "--fresh-ports", "--source", "/dev/null", "--folder"])
        .arg(&run)
        .current_dir(repo_root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // The first thing that the start leaves.
    eventually(LIMIT, || async { run.join(".shunt-run").exists() }).await;
    kill_process(Pid::from_raw(up.id().unwrap() as i32).unwrap(), Signal::INT).unwrap();
    let output = tokio::time::timeout(LIMIT, up.wait_with_output()).await.expect("it ends").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(out.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {out:?} {err}"));
    assert_eq!((output.status.code(), &report["events_at_hub"]), (Some(0), &0.into()), "{report}");
}
