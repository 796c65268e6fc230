//! Who is where: addresses that were set, presence on the bus, names in the network.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use axum::http::uri::Authority;
use parking_lot::RwLock;
use shunt_bus::{Bus, BusState, Delivery, Received};
use shunt_wire::{Kind, Name, TopicFilter, events::Presence};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    CallError,
    connection::{Endpoint, Reach},
};
use crate::default_port;

/// Most modules remembered; one more is passed over. A device has a few dozens at most.
const MODULES: usize = 1024;
/// Most endpoints made of names in the network alone; when it is reached, all are forgotten.
const NAMES: usize = 256;
/// After the start, a name that is not known yet waits so long for the bus.
const START: Duration = Duration::from_secs(1);
/// Retained presence comes right behind the broker's word that we are subscribed.
const RETAINED: Duration = Duration::from_millis(200);

/// What a module tells of itself on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleState {
    /// Its name.
    pub name: String,
    /// Is it there?
    pub online: bool,
    /// Its version.
    pub version: String,
    /// Host and port of its HTTP interface.
    pub address: String,
}

#[derive(Debug)]
pub(super) struct Directory {
    /// The one host besides their own names that modules may tell: that of this module itself.
    beside: Option<String>,
    known: RwLock<Known>,
    /// Has the bus told of everybody who was there when we came?
    settled: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Known {
    set: HashMap<String, Arc<Endpoint>>,
    /// Without an endpoint where the host that it tells is not taken.
    present: BTreeMap<String, (ModuleState, Option<Arc<Endpoint>>)>,
    /// Bounded by [`NAMES`].
    named: HashMap<String, Arc<Endpoint>>,
}

// === impl Directory ===

impl Directory {
    pub(super) fn new(settled: bool, beside: Option<String>) -> Self {
        Self { beside, known: RwLock::default(), settled: watch::Sender::new(settled) }
    }

    pub(super) fn set_addresses<'a>(
        &self,
        addresses: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), CallError> {
        let mut set = HashMap::new();
        for (app, address) in addresses {
            let authority = address.parse::<Authority>().ok();
            let sound = |authority: &Authority| authority.port_u16().is_some() && !address.contains('@');
            let authority = authority
                .filter(sound)
                .ok_or_else(|| CallError::Address { app: app.to_owned(), address: address.to_owned() })?;
            set.insert(app.to_owned(), authority);
        }
        let mut known = self.known.write();
        let kept = std::mem::take(&mut known.set);
        known.set = set
            .into_iter()
            .map(|(app, authority)| {
                let same = kept.get(&app).filter(|endpoint| *endpoint.authority() == authority);
                let endpoint =
                    same.cloned().unwrap_or_else(|| Arc::new(Endpoint::new(&app, authority, Reach::Any)));
                (app, endpoint)
            })
            .collect();
        Ok(())
    }

    pub(super) fn modules(&self) -> Vec<ModuleState> {
        self.known.read().present.values().map(|(state, _)| state.clone()).collect()
    }

    pub(super) fn module(&self, name: &str) -> Option<ModuleState> {
        self.known.read().present.get(name).map(|(state, _)| state.clone())
    }

    /// Where the app is. Waits only shortly after the start, when the bus has not told of everybody yet.
    pub(super) async fn find(&self, app: &str) -> Result<Arc<Endpoint>, CallError> {
        if let Some(found) = self.look(app) {
            return found;
        }
        let mut settled = self.settled.subscribe();
        // Presence moves the channel too, without changing its value.
        while !*settled.borrow_and_update() {
            if let Some(found) = self.look(app) {
                return found;
            }
            if settled.changed().await.is_err() {
                break;
            }
        }
        self.look(app).unwrap_or_else(|| self.by_name(app))
    }

    fn look(&self, app: &str) -> Option<Result<Arc<Endpoint>, CallError>> {
        let known = self.known.read();
        if let Some(endpoint) = known.set.get(app) {
            return Some(Ok(Arc::clone(endpoint)));
        }
        if let Some((state, endpoint)) = known.present.get(app) {
            return Some(match endpoint {
                _ if !state.online => Err(CallError::Offline { app: app.to_owned() }),
                Some(endpoint) => Ok(Arc::clone(endpoint)),
                None => Err(CallError::Foreign { app: app.to_owned(), address: state.address.clone() }),
            });
        }
        known.named.get(app).map(|endpoint| Ok(Arc::clone(endpoint)))
    }

    /// By its name in the network, where IoT Edge gives each module its own. Only plain names: an address or a host
    /// of the outside world is no app.
    fn by_name(&self, app: &str) -> Result<Arc<Endpoint>, CallError> {
        app.parse::<Name>()?;
        let authority =
            if is_plain(app) { format!("{app}:{}", default_port(app)).parse().ok() } else { None };
        let authority = authority.ok_or_else(|| CallError::Unknown {
            app: app.to_owned(),
            why: "it is not the name of a module in the network".to_owned(),
        })?;
        let endpoint = Arc::new(Endpoint::new(app, authority, Reach::Network));
        let mut known = self.known.write();
        if known.named.len() >= NAMES {
            known.named.clear();
        }
        known.named.insert(app.to_owned(), Arc::clone(&endpoint));
        Ok(endpoint)
    }

    fn note(&self, name: &str, presence: Presence) {
        let Presence { online, version, port, host } = presence;
        let host = host.unwrap_or_else(|| name.to_owned());
        // Every module may write its own presence: with a host of its choice it would turn calls to where it likes.
        let reach = if self.beside.as_ref() == Some(&host) {
            Some(Reach::Any)
        } else {
            (host == name && is_plain(name)).then_some(Reach::Network)
        };
        // An IPv6 address stands in brackets in an authority.
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        let address = format!("{host}:{}", port.unwrap_or_else(|| default_port(name)));
        let authority = address.parse::<Authority>().ok().filter(|_| !address.contains('@'));
        let Some(authority) = authority else {
            tracing::warn!(module = name, address, "A module tells an address that is none.");
            return;
        };
        let mut known = self.known.write();
        let full = known.present.len() >= MODULES && !known.present.contains_key(name);
        if full {
            tracing::debug!(module = name, "There are too many modules to remember this one.");
            return;
        }
        let same = known.present.get(name).and_then(|(_, endpoint)| endpoint.clone());
        let same = same.filter(|endpoint| *endpoint.authority() == authority);
        let endpoint =
            reach.map(|reach| same.unwrap_or_else(|| Arc::new(Endpoint::new(name, authority, reach))));
        let state = ModuleState { name: name.to_owned(), online, version, address };
        known.present.insert(name.to_owned(), (state, endpoint));
        drop(known);
        self.settled.send_modify(|_| ());
    }

    fn hear(&self, received: Received) {
        let Ok(envelope) = received.envelope else { return };
        if let Ok(presence) = envelope.json::<Presence>() {
            self.note(envelope.source.as_str(), presence);
        }
    }
}

/// The name of a host in the network of the modules, not an address or a host of the outside world? The resolver may
/// still ask in the search domains of the device: a dot at the end would stop it, but not every resolver in front of
/// containers is known to take one.
fn is_plain(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && !name.contains('.')
        && !name.eq_ignore_ascii_case("localhost")
}

/// Keeps the directory as the bus tells it.
pub(super) async fn watch(directory: Arc<Directory>, bus: Bus, shutdown: CancellationToken) {
    let watching = async {
        let filter = TopicFilter::kind(&Kind::PRESENCE);
        let mut subscription = match bus.subscribe(&filter, Delivery::Fast).await {
            Ok(subscription) => subscription,
            Err(error) => {
                tracing::warn!(%error, "Modules cannot be found by their presence on the bus.");
                return;
            }
        };
        let mut state = bus.state();
        let settle = async {
            let connected = state.wait_for(|state| *state == BusState::Connected);
            if timeout(START, connected).await.is_ok_and(|state| state.is_ok()) {
                sleep(RETAINED).await;
            }
            directory.settled.send_replace(true);
            std::future::pending::<()>().await;
        };
        let hear = async {
            while let Some(received) = subscription.next().await {
                directory.hear(received);
            }
        };
        tokio::select! {
            () = settle => {}
            () = hear => {}
        }
    };
    shutdown.run_until_cancelled(watching).await;
    directory.settled.send_replace(true);
}
