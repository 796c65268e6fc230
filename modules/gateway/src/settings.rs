//! The module's settings.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::{Problems, Settings};

use crate::{AppSettings, PubsubSettings, StoreSettings, SubscriptionSettings};

/// The settings of `gateway`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySettings {
    /// Apps that are no modules on the bus (modules in other languages), by app id. An app that is not named here is
    /// looked for on the bus, then by its name in the network.
    pub apps: BTreeMap<String, AppSettings>,
    /// What a caller must send as header `dapr-api-token`, as with a Dapr sidecar. Empty: nothing.
    pub api_token: String,
    /// The largest request body in bytes; a larger one is answered 413.
    #[schemars(range(min = 1024, max = 1_073_741_824_u64))]
    pub max_body_bytes: u64,
    /// Seconds that an app may take until it begins to answer, 0.1 to 3600.
    pub invoke_timeout_s: f64,
    /// Seconds that an app may be silent within its answer (a stream of events, say) before the call is broken off,
    /// 0.1 to 86400.
    pub invoke_pause_s: f64,
    /// What publish and subscribe go through, by name.
    pub pubsubs: BTreeMap<String, PubsubSettings>,
    /// Subscriptions besides those that apps declare at `/dapr/subscribe`.
    pub subscriptions: Vec<SubscriptionSettings>,
    /// Where state is kept, by name.
    pub stores: BTreeMap<String, StoreSettings>,
}

/// Most apps, pubsubs, subscriptions and stores that can be set.
const MOST: usize = 64;

/// The longest token, in characters.
const TOKEN_LIMIT: usize = 1024;

// === impl GatewaySettings ===

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            apps: BTreeMap::new(),
            api_token: String::new(),
            max_body_bytes: 16 * 1024 * 1024,
            invoke_timeout_s: 60.0,
            invoke_pause_s: 600.0,
            pubsubs: BTreeMap::from([("pubsub".to_owned(), PubsubSettings::default())]),
            subscriptions: Vec::new(),
            stores: StoreSettings::default_stores(),
        }
    }
}

impl Settings for GatewaySettings {
    const MODULE: &'static str = "gateway";

    fn check(&self, problems: &mut Problems) {
        let counts = [
            ("apps", self.apps.len()),
            ("pubsubs", self.pubsubs.len()),
            ("subscriptions", self.subscriptions.len()),
            ("stores", self.stores.len()),
        ];
        for (field, count) in counts {
            if count > MOST {
                problems.note(field, format!("there are {count}, but at most {MOST} are allowed"));
            }
        }
        for (id, app) in &self.apps {
            app.check(id, problems);
        }
        let sound = self.api_token.chars().all(|sign| sign.is_ascii_graphic());
        if !sound || self.api_token.len() > TOKEN_LIMIT {
            let problem =
                format!("it must be at most {TOKEN_LIMIT} letters, digits and signs, without blanks");
            problems.note("api_token", problem);
        }
        if !(1024..=1 << 30).contains(&self.max_body_bytes) {
            let problem = format!("it is {}, but must be from 1024 to 1073741824", self.max_body_bytes);
            problems.note("max_body_bytes", problem);
        }
        if !(0.1..=3600.0).contains(&self.invoke_timeout_s) {
            let problem = format!("it is {}, but must be from 0.1 to 3600", self.invoke_timeout_s);
            problems.note("invoke_timeout_s", problem);
        }
        if !(0.1..=86_400.0).contains(&self.invoke_pause_s) {
            let problem = format!("it is {}, but must be from 0.1 to 86400", self.invoke_pause_s);
            problems.note("invoke_pause_s", problem);
        }
        crate::pubsub::check(self, problems);
        crate::state::check(self, problems);
    }
}
