//! `/v1.0/metadata`: what the gateway is, and attributes that apps set.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, put},
};
use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::{Gateway, problem::Problem, pubsub, state};

/// Attributes that apps have set; forgotten at the end of the process, as with a sidecar.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes(Arc<RwLock<BTreeMap<String, String>>>);

/// Most attributes. One more is refused.
const MOST: usize = 256;
/// The longest value in bytes.
const LONGEST: usize = 4096;

pub(crate) fn routes() -> Router<Gateway> {
    Router::new().route("/v1.0/metadata", get(tell)).route("/v1.0/metadata/{key}", put(set))
}

async fn tell(State(gateway): State<Gateway>) -> Json<Value> {
    let mut extended = gateway.attributes.0.read().clone();
    let version = env!("CARGO_PKG_VERSION");
    extended.entry("daprRuntimeVersion".to_owned()).or_insert_with(|| version.to_owned());
    Json(json!({
        "id": gateway.name.as_str(),
        "runtimeVersion": version,
        "enabledFeatures": [],
        "actors": [],
        "components": state::components(&gateway),
        "subscriptions": pubsub::subscriptions(&gateway),
        "extended": extended,
        "appConnectionProperties": {},
        "actorRuntime": {"runtimeStatus": "DISABLED", "hostReady": false},
    }))
}

async fn set(
    State(gateway): State<Gateway>,
    Path(key): Path<String>,
    value: Bytes,
) -> Result<StatusCode, Problem> {
    if key.len() > LONGEST || value.len() > LONGEST {
        return Err(Problem::malformed(format!(
            "key and value of an attribute may have {LONGEST} bytes at most"
        )));
    }
    let value = String::from_utf8(value.into());
    let value = value.map_err(|error| Problem::malformed(format!("the value is not text: {error}")))?;
    let mut attributes = gateway.attributes.0.write();
    if attributes.len() >= MOST && !attributes.contains_key(&key) {
        return Err(Problem::malformed(format!("there are {MOST} attributes already")));
    }
    attributes.insert(key, value);
    Ok(StatusCode::NO_CONTENT)
}
