//! Whatever ends the chain, nothing of it goes on.

use rustix::process::Signal;
use shunt_testkit::eventually;

use crate::chain::{Chain, LIMIT, astronaut, is_alive, nothing_lost};

#[tokio::test]
async fn ctrl_c_drains_and_leaves_nothing_running() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(5).await;
    let pids = chain.pids();
    assert_eq!(pids.keys().collect::<Vec<_>>(), ["bus", "camera", "emotion", "relay", "sim"]);
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
