//! The device registry: who is on the bus, in the form of gbaeke/go-device and gbaeke/go-data.
//!
//! A device is a module that has told of itself on the bus; it is active while it is there.

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use serde_json::{Map, Value, json};
use tonic::{Request, Response, Status};

use crate::Gateway;

/// Made from `proto/device.proto`.
mod device {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::pedantic,
        missing_docs,
        unreachable_pub,
        reason = "the code is made by tonic-prost-build"
    )]
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}

use device::{
    Device, DeviceName,
    dev_svc_server::{DevSvc, DevSvcServer},
};

/// The gRPC side.
#[derive(Debug)]
struct Registry(Gateway);

/// The routes; gRPC goes over the same port, as HTTP/2 without TLS.
pub(crate) fn routes(gateway: &Gateway) -> Router<Gateway> {
    Router::new()
        .route("/device", get(root))
        .route("/device/", get(root))
        .route("/device/{name}", get(one))
        .route("/data/{device}", get(data))
        .route_service("/DevSvc/Get", DevSvcServer::new(Registry(gateway.clone())))
}

/// The module of this name, and whether it is there.
fn find(gateway: &Gateway, name: &str) -> Option<(String, bool)> {
    gateway.apps.module(name).map(|module| (module.name, module.online))
}

async fn root() -> Json<Value> {
    Json(json!({"message": "Device API at /"}))
}

/// Empty fields are left out, as Go does: an unknown device is an empty object, an inactive one has its name alone.
async fn one(State(gateway): State<Gateway>, Path(name): Path<String>) -> Json<Value> {
    let mut device = Map::new();
    if let Some((name, active)) = find(&gateway, &name) {
        device.insert("name".to_owned(), json!(name));
        if active {
            device.insert("active".to_owned(), json!(true));
        }
    }
    Json(Value::Object(device))
}

/// With the two spaces that Go's `Println` makes of it.
async fn data(State(gateway): State<Gateway>, Path(device): Path<String>) -> String {
    let active = find(&gateway, &device).is_some_and(|(_, active)| active);
    format!("Device active:  {active}\nOh and, no data for you!\n")
}

// === impl Registry ===

#[tonic::async_trait]
impl DevSvc for Registry {
    async fn get(&self, request: Request<DeviceName>) -> Result<Response<Device>, Status> {
        let (name, active) = find(&self.0, &request.into_inner().name).unwrap_or_default();
        Ok(Response::new(Device { name, active }))
    }
}
