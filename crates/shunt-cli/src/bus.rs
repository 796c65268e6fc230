//! The command's own connection to the bus.
//!
//! On the bus of `shunt up` a client proves who it is by a certificate of the workload API. The stand-in gives the
//! command an identity as it gives each module one; `shunt up` grants these identities what a person may want to
//! publish by hand. A device grants them nothing.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use rustix::fs::{FlockOperation, flock};
use shunt_bus::{Bus, BusOptions, BusState, BusTls, TlsFrom};
use shunt_hub::HubOptions;
use shunt_wire::Name;

use crate::{
    chain::{self, Chain},
    control::Control,
};

/// The identities of the command, each for one process at a time: the broker knows a client by its identity, so a
/// second one of the same would end the first.
pub(crate) const IDENTITIES: [&str; 8] = [
    "shunt-cli-1",
    "shunt-cli-2",
    "shunt-cli-3",
    "shunt-cli-4",
    "shunt-cli-5",
    "shunt-cli-6",
    "shunt-cli-7",
    "shunt-cli-8",
];

/// What the broker has to answer in.
const LIMIT: Duration = Duration::from_secs(5);

/// Which bus, and how to prove oneself to it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BusArgs {
    /// The folder of the chain.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Another bus than that of the chain: mqtt://host:port, mqtts://host:port, redis://host:port.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    proof: ProofArgs,
}

/// How to prove oneself to a broker that is not the chain's.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ProofArgs {
    /// With TLS: the certificates of the authorities to trust, a PEM file.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// With TLS: our own certificate, a PEM file.
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,
    /// With TLS: the key of our own certificate, a PEM file.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

/// A client of the bus.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its connection.
    pub(crate) bus: Bus,
    /// Keeps its identity from being taken by another process.
    _identity: Option<File>,
}

/// A bus, and who we are on it.
#[derive(Debug)]
pub(crate) struct Place {
    /// Its address.
    pub(crate) url: String,
    /// Our name.
    pub(crate) name: Name,
    /// How we prove it.
    pub(crate) tls: Option<TlsFrom>,
    /// Keeps our identity from being taken by another process.
    pub(crate) lock: Option<File>,
}

// === impl BusArgs ===

impl BusArgs {
    /// The bus of the chain in this folder.
    pub(crate) fn of_chain(folder: &Path) -> Self {
        Self { folder: Some(folder.to_owned()), ..Self::default() }
    }

    /// The folder of the chain.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(chain::default_folder)
    }

    /// Connects; fails where the broker is not there, or does not let us in.
    pub(crate) async fn open(&self) -> anyhow::Result<Client> {
        connect(Place::find(self.url.as_deref(), &self.folder(), &self.proof).await?).await
    }
}

// === impl ProofArgs ===

impl ProofArgs {
    fn read(&self) -> anyhow::Result<Option<TlsFrom>> {
        let read = |file: &PathBuf| {
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
        };
        let Some(ca) = &self.ca else { return Ok(None) };
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        Ok(Some(TlsFrom::Fixed(BusTls { trust: read(ca)?, identity })))
    }
}

// === impl Place ===

impl Place {
    /// The bus at this address, or that of the chain in this folder; there the stand-in says who we are, unless the
    /// user does.
    pub(crate) async fn find(url: Option<&str>, folder: &Path, proof: &ProofArgs) -> anyhow::Result<Self> {
        let tls = proof.read()?;
        let chain = match url {
            // Without a chain it is none of the chain's.
            Some(url) => Chain::read(folder).ok().filter(|chain| chain.bus == url),
            None => Some(Chain::read(folder)?),
        };
        let url = match (&chain, url) {
            (Some(chain), _) => chain.bus.clone(),
            (None, url) => url.unwrap_or_default().to_owned(),
        };
        anyhow::ensure!(!url.is_empty(), "the chain of {} names no bus: give its address", folder.display());
        match chain.filter(|_| tls.is_none() && url.starts_with("mqtts:")) {
            Some(chain) => Self::of_chain(url, folder, &chain).await,
            None => {
                Ok(Self { url, name: format!("shunt-cli-{}", std::process::id()).parse()?, tls, lock: None })
            }
        }
    }

    /// An identity of the chain's stand-in that no other process uses now.
    async fn of_chain(url: String, folder: &Path, chain: &Chain) -> anyhow::Result<Self> {
        let (name, lock) = free_identity(folder)?;
        let control = Control::new(&chain.control)?;
        control.add_module(&chain.device, name).await?;
        let tls = certificates(&control.environment(name).await?).await;
        let tls = tls.with_context(|| format!("the stand-in gives {name} no certificate"))?;
        Ok(Self { url, name: name.parse()?, tls: Some(TlsFrom::Fixed(tls)), lock: Some(lock) })
    }
}

/// What the workload API of a module's environment gives it to prove itself with, now.
pub(crate) async fn certificates(environment: &BTreeMap<String, String>) -> anyhow::Result<BusTls> {
    let workload = HubOptions::from_environment(environment)?.and_then(|options| options.workload());
    let workload = workload.context("there is no workload api")?;
    let certificate = workload.identity_certificate().await?;
    let identity = Some((certificate.chain, certificate.private_key));
    Ok(BusTls { trust: workload.trust_bundle().await?, identity })
}

/// The first identity that nobody holds, and the lock on it: the kernel takes the lock away when a process ends,
/// however it ends.
fn free_identity(folder: &Path) -> anyhow::Result<(&'static str, File)> {
    let places = folder.join("cli");
    let cannot = || format!("cannot use {}", places.display());
    fs::create_dir_all(&places).with_context(cannot)?;
    for name in IDENTITIES {
        let file = File::create(places.join(name)).with_context(cannot)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok((name, file));
        }
    }
    anyhow::bail!("{} commands are on this bus already, and there is no place for more", IDENTITIES.len())
}

async fn connect(place: Place) -> anyhow::Result<Client> {
    let Place { url, name, tls, lock } = place;
    let options = BusOptions { queue: 1024, tls, keep: false, ..BusOptions::new(&url, name) };
    let bus = Bus::open(options).with_context(|| format!("cannot use the bus {}", hide(&url)))?;
    let begin = Instant::now();
    let mut state = bus.state();
    let connected = state.wait_for(|state| *state == BusState::Connected);
    if !matches!(tokio::time::timeout(LIMIT, connected).await, Ok(Ok(_))) {
        let why = match &*bus.state().borrow() {
            BusState::Disconnected(why) => why.clone(),
            BusState::Connected => "it came too late".to_owned(),
        };
        anyhow::bail!("no bus at {} after {:.0} s: {why}", hide(&url), begin.elapsed().as_secs_f64());
    }
    Ok(Client { bus, _identity: lock })
}

/// The address without user and password.
pub(crate) fn hide(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_held_by_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (first, held) = free_identity(folder.path()).unwrap();
        let (second, _also) = free_identity(folder.path()).unwrap();
        assert_eq!((first, second), ("shunt-cli-1", "shunt-cli-2"));
        drop(held);
        assert_eq!(free_identity(folder.path()).unwrap().0, "shunt-cli-1");
        let held: Vec<_> = (0..7).map(|_| free_identity(folder.path()).unwrap()).collect();
        assert_eq!(held.len(), 7);
        let error = free_identity(folder.path()).unwrap_err().to_string();
        assert!(error.contains("8 commands"), "{error}");
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(hide("redis://me:secret@host:1/0"), "redis://***@host:1/0");
        assert_eq!(hide("mqtt://host:1"), "mqtt://host:1");
    }
}
