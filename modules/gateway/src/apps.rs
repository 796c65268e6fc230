//! Apps: what a caller's app id stands for.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, extract::Request, response::Response};
use parking_lot::RwLock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::{
    Problems,
    services::{CallError, CallPolicy, ModuleState, Services},
};
use shunt_wire::Name;

use crate::GatewaySettings;

/// An app that is no module on the bus, or one that is to be treated in its own way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AppSettings {
    /// Where its HTTP port is: `host:port`, or the port alone where its host is its app id. Empty: as the bus and the
    /// network tell.
    pub address: String,
    /// Ask it at `/dapr/subscribe` what it wants to be told of?
    pub subscribe: bool,
}

/// Finds and calls apps.
#[derive(Debug)]
pub(crate) struct Apps {
    services: Services,
    /// The same under the policy of the settings.
    invoking: RwLock<Arc<Services>>,
}

// === impl AppSettings ===

impl AppSettings {
    pub(crate) fn check(&self, id: &str, problems: &mut Problems) {
        if let Err(error) = id.parse::<Name>() {
            problems.note(&format!("apps.{id}"), error.to_string());
        } else if let Some(address) = self.address(id)
            && let Err(error) = Services::new(CallPolicy::default()).set_addresses([(id, address.as_str())])
        {
            problems.note(&format!("apps.{id}.address"), error.to_string());
        }
    }

    /// The address to be called, if one is set.
    fn address(&self, id: &str) -> Option<String> {
        match self.address.parse::<u16>() {
            _ if self.address.is_empty() => None,
            Ok(port) => Some(format!("{id}:{port}")),
            Err(_) => Some(self.address.clone()),
        }
    }
}

impl Default for AppSettings {
    fn default() -> Self {
        Self { address: String::new(), subscribe: true }
    }
}

// === impl Apps ===

impl Apps {
    pub(crate) fn new(services: Services, settings: &GatewaySettings) -> Self {
        let apps = Self { invoking: RwLock::new(Arc::new(services.clone())), services };
        apps.set(settings);
        apps
    }

    /// Takes up these settings, which were checked.
    pub(crate) fn set(&self, settings: &GatewaySettings) {
        let addresses = settings.apps.iter().filter_map(|(id, app)| Some((id.as_str(), app.address(id)?)));
        let addresses: Vec<_> = addresses.collect();
        let addresses = addresses.iter().map(|(id, address)| (*id, address.as_str()));
        if let Err(error) = self.services.set_addresses(addresses) {
            tracing::error!(%error, "The addresses of the apps were not taken up.");
        }
        let answer = Duration::from_secs_f64(settings.invoke_timeout_s.clamp(0.1, 3600.0));
        let pause = Duration::from_secs_f64(settings.invoke_pause_s.clamp(0.1, 86_400.0));
        let policy = CallPolicy { answer, pause, ..CallPolicy::default() };
        *self.invoking.write() = Arc::new(self.services.with_policy(policy));
    }

    /// Calls the app: path, verb, headers and body as they are; bodies stream both ways.
    pub(crate) async fn call(&self, app: &str, request: Request<Body>) -> Result<Response, CallError> {
        let services = Arc::clone(&self.invoking.read());
        services.call(app, request).await
    }

    /// The calls themselves, for those who have a policy of their own.
    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// A module, as it tells of itself on the bus.
    pub(crate) fn module(&self, name: &str) -> Option<ModuleState> {
        self.services.module(name)
    }
}
