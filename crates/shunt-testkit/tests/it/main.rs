//! The testkit proves itself.

use std::time::Duration;

use shunt_testkit::{Ledger, Line, Mosquitto, Redis, eventually, repo_root, shared_dir};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn mosquitto_comes_back_on_the_same_port() -> anyhow::Result<()> {
    let mut broker = Mosquitto::start().await?;
    let addr = broker.addr();
    broker.restart().await?;
    TcpStream::connect(addr).await?;
    broker.stop().await?;
    assert!(TcpStream::connect(addr).await.is_err());
    Ok(())
}

#[tokio::test]
async fn redis_comes_back_on_the_same_port_with_what_it_keeps() -> anyhow::Result<()> {
    let mut server = Redis::persistent().await?;
    let addr = server.addr();
    server.command("SET a 1").await?;
    server.kill().await?;
    assert!(TcpStream::connect(addr).await.is_err());
    server.restart().await?;
    TcpStream::connect(addr).await?;
    assert_eq!(server.command("GET a").await?, "$1\r\n1\r\n");
    Ok(())
}

#[tokio::test]
async fn a_cut_line_closes_what_is_open_and_a_healed_one_carries_again() -> anyhow::Result<()> {
    let broker = Mosquitto::start().await?;
    let line = Line::to(broker.addr()).await?;
    let mut client = TcpStream::connect(line.addr()).await?;
    eventually(LIMIT, || async { line.connections() == 1 }).await;
    line.cut();
    assert_eq!(timeout(LIMIT, client.read(&mut [0; 1])).await?.unwrap_or(0), 0);
    let mut refused = TcpStream::connect(line.addr()).await?;
    assert_eq!(timeout(LIMIT, refused.read(&mut [0; 1])).await?.unwrap_or(0), 0);
    line.heal();
    let _client = TcpStream::connect(line.addr()).await?;
    eventually(LIMIT, || async { line.connections() == 1 }).await;
    assert_eq!(line.connections_made(), 2);
    Ok(())
}

#[tokio::test]
async fn a_line_cuts_itself_after_so_many_bytes() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let line = Line::to(listener.local_addr()?).await?;
    line.cut_after(3);
    let mut client = TcpStream::connect(line.addr()).await?;
    let (mut server, _) = timeout(LIMIT, listener.accept()).await??;
    client.write_all(b"hello").await?;
    let mut came = Vec::new();
    timeout(LIMIT, server.read_to_end(&mut came)).await??;
    assert_eq!(came, b"hel");
    assert!(line.is_cut());
    Ok(())
}

#[test]
fn a_ledger_tells_what_is_missing_and_what_came_twice() {
    let mut ledger = Ledger::default();
    assert!(ledger.note(1) && ledger.note(3) && !ledger.note(3));
    assert_eq!((ledger.missing(1..=4), ledger.repeated(), ledger.len()), (vec![2, 4], 1, 2));
}

#[test]
fn the_repository_is_found() {
    assert!(repo_root().join("Cargo.toml").is_file());
    if shared_dir().is_none() {
        println!("There is no folder ../shared: nothing to look at.");
    }
}
