use anyhow::{Context as _, Result};

use super::World;

#[tokio::test]
async fn workload_api_gives_certificates() -> Result<()> {
    let world = World::start().await?;
    let workload = world.options("relay")?.workload().context("no workload API")?;
    let bundle = workload.trust_bundle().await?;
    assert!(bundle.contains("BEGIN CERTIFICATE"));
    let server = workload.server_certificate("relay.local").await?;
    assert!(server.private_key.contains("PRIVATE KEY"));
    assert!(server.chain.contains("BEGIN CERTIFICATE"));
    assert!(!format!("{server:?}").contains("PRIVATE"));
    let identity = workload.identity_certificate().await?;
    assert!(identity.chain.contains("BEGIN CERTIFICATE"));
    assert_ne!(identity.private_key, server.private_key);
    assert_eq!(workload.sign(b"data").await?.len(), 32);
    Ok(())
}
