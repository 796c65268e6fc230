//! The HTTP side: IoT Hub's REST for a device and its modules, edgeHub's method call between modules, and what only the
//! control address has.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Fault,
    connection::verify,
    deploy,
    http::{Answer, Call},
    identity::{ClientId, key_text},
    message::Message,
    method::{self, InvokeError},
    sim,
    state::{Inner, connection_state},
    token::{self, Token},
};

/// The longest that `GET /messages` waits.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// Records in one answer.
const MAX_RECORDS: usize = 1_000;

/// Over which address a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// TLS, with a token.
    Tls,
    /// Plain, on the loopback address, for who plays the cloud's part.
    Control,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MethodRequest {
    method_name: String,
    payload: Option<Value>,
    response_timeout_in_seconds: Option<u64>,
    connect_timeout_in_seconds: Option<u64>,
}

/// Answers one call.
pub(crate) async fn answer(inner: &Arc<Inner>, door: Door, call: Call) -> Answer {
    if door == Door::Control
        && let Err(answer) = from_this_machine(&call)
    {
        return answer;
    }
    let parts = call.parts();
    if let ["twins", device, "modules", module, "methods"] = parts.as_slice()
        && call.method == Method::POST
    {
        return invoke(inner, door, &call, &ClientId::module(device, module)).await;
    }
    if let ["twins", device, "methods"] = parts.as_slice()
        && call.method == Method::POST
    {
        return invoke(inner, door, &call, &ClientId::device(device)).await;
    }
    if door == Door::Tls {
        if let Err(answer) = authorize(inner, &call) {
            return answer;
        }
    } else if let Some(answer) = control(inner, &call, &parts).await {
        return answer;
    }
    hub(inner, &call, &parts)
}

/// The control address asks nobody who they are, so a page in a browser may not call it: neither over a name that its
/// owner points at this machine (DNS rebinding), nor straight from a page of elsewhere.
fn from_this_machine(call: &Call) -> Result<(), Answer> {
    let host = call.header("host");
    let origin =
        call.header("origin").map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    for (header, value) in [("Host", host), ("Origin", origin)] {
        if let Some(value) = value.filter(|value| !is_address_or_localhost(value)) {
            let message =
                format!("{header} is {value:?}, but must be localhost or an address of this machine");
            return Err(Answer::error(403, message));
        }
    }
    Ok(())
}

/// Is this `host[:port]` an IP address or `localhost`? A name that is neither may be anybody's.
fn is_address_or_localhost(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let is_port = port.chars().all(|digit| digit.is_ascii_digit());
    is_port && (host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok())
}

/// IoT Hub's calls.
fn hub(inner: &Arc<Inner>, call: &Call, parts: &[&str]) -> Answer {
    let result = match (call.method.as_str(), parts) {
        ("POST", ["devices", device, "applyConfigurationContent"]) => apply(inner, device, call),
        ("GET", ["devices", device, "modules"]) => modules(inner, device),
        ("GET", ["devices", device, "modules", module]) => identity(inner, &ClientId::module(device, module)),
        ("PUT", ["devices", device, "modules", module]) => put_module(inner, device, module),
        ("DELETE", ["devices", device, "modules", module]) => {
            delete(inner, &ClientId::module(device, module))
        }
        ("GET", ["devices", device]) => identity(inner, &ClientId::device(device)),
        ("PUT", ["devices", device]) => put_device(inner, device),
        ("DELETE", ["devices", device]) => delete(inner, &ClientId::device(device)),
        ("GET", ["twins", device, "modules", module]) => twin(inner, &ClientId::module(device, module)),
        ("PATCH", ["twins", device, "modules", module]) => {
            patch_twin(inner, &ClientId::module(device, module), call)
        }
        ("GET", ["twins", device]) => twin(inner, &ClientId::device(device)),
        ("PATCH", ["twins", device]) => patch_twin(inner, &ClientId::device(device), call),
        _ => Err(Answer::error(404, "not found")),
    };
    result.unwrap_or_else(|error| error)
}

/// What only the control address has; `None` for the rest.
async fn control(inner: &Arc<Inner>, call: &Call, parts: &[&str]) -> Option<Answer> {
    Some(match (call.method.as_str(), parts) {
        ("GET", ["status"]) => Answer::json(200, sim::status(inner)),
        ("GET", ["modules", module, "environment"]) => match sim::environment(inner, module) {
            Some(environment) => Answer::json(200, json!(environment)),
            None => Answer::error(404, format!("there is no module {module:?}")),
        },
        ("GET", ["messages"]) => messages(inner, call).await,
        ("POST", ["faults"]) => match serde_json::from_slice::<Fault>(&call.body) {
            Ok(fault) => {
                inner.fault(&fault);
                Answer::empty(204)
            }
            Err(error) => Answer::error(400, format!("the body is no fault: {error}")),
        },
        ("POST", ["devices", device, "messages", "deviceBound"]) => {
            let client = ClientId::device(device);
            match Message::read(client, "", false, call.body.clone()) {
                Ok(message) => {
                    if inner.send_to_device(device, message) {
                        Answer::empty(204)
                    } else {
                        Answer::error(404, format!("there is no device {device:?}, or its queue is full"))
                    }
                }
                Err(error) => Answer::error(400, error.to_string()),
            }
        }
        _ => return None,
    })
}

async fn messages(inner: &Inner, call: &Call) -> Answer {
    let number = |name| call.query(name).map(str::parse::<u64>).transpose();
    let (Ok(from), Ok(wait)) = (number("from"), number("wait")) else {
        return Answer::error(400, "from and wait must be numbers");
    };
    let from = from.unwrap_or(0);
    let wait = Duration::from_secs(wait.unwrap_or(0)).min(MAX_WAIT);
    let records = sim::wait_for_records(inner, from, wait, MAX_RECORDS).await;
    let next = records.last().map_or_else(|| from.max(1), |record| record.sequence + 1);
    Answer::json(200, json!({"messages": records, "next": next}))
}

/// A token of the hub's policy `iothubowner`, over the hub's or the gateway's name.
fn authorize(inner: &Inner, call: &Call) -> Result<(), Answer> {
    let text = call
        .header("authorization")
        .ok_or_else(|| Answer::error(401, "the header Authorization is missing"))?;
    let token = Token::parse(text).map_err(|error| Answer::error(401, error.to_string()))?;
    if token.policy.as_deref() != Some(sim::POLICY) {
        return Err(Answer::error(401, format!("the token is not one of the policy {}", sim::POLICY)));
    }
    let mut hosts = vec![inner.options.hub_name.as_str()];
    hosts.extend(inner.gateway_names.iter().map(String::as_str));
    token
        .verify(&hosts, &[], &[&inner.keys.policy()], token::now())
        .map_err(|error| Answer::error(401, error.to_string()))
}

/// Who calls a method over TLS: the hub's policy, or a module of this device by its own token.
fn authorize_caller(inner: &Inner, call: &Call) -> Result<(), Answer> {
    if authorize(inner, call).is_ok() {
        return Ok(());
    }
    let caller = call
        .header("x-ms-edge-moduleid")
        .ok_or_else(|| Answer::error(400, "the header x-ms-edge-moduleId is missing"))?;
    let caller = token::decode(caller).unwrap_or_default();
    let (device, module) = caller
        .split_once('/')
        .filter(|(_, module)| !module.contains('/'))
        .ok_or_else(|| Answer::error(400, "the header x-ms-edge-moduleId must be <device>/<module>"))?;
    let client = ClientId::module(device, module);
    if device != inner.options.device_id || !inner.lock().identities.contains_key(&client) {
        return Err(Answer::error(401, "the caller is no module of this device"));
    }
    let text = call
        .header("authorization")
        .ok_or_else(|| Answer::error(401, "the header Authorization is missing"))?;
    Token::parse(text)
        .and_then(|token| verify(inner, &token, &client))
        .map_err(|error| Answer::error(401, error.to_string()))
}

async fn invoke(inner: &Inner, door: Door, call: &Call, target: &ClientId) -> Answer {
    if door == Door::Tls
        && let Err(answer) = authorize_caller(inner, call)
    {
        return answer;
    }
    let request: MethodRequest = match serde_json::from_slice(&call.body) {
        Ok(request) => request,
        Err(error) => return Answer::error(400, format!("the body is no method call: {error}")),
    };
    let response = request.response_timeout_in_seconds.unwrap_or(30);
    let connect = request.connect_timeout_in_seconds.unwrap_or(0);
    if !(5..=300).contains(&response) {
        return Answer::error(400, format!("responseTimeoutInSeconds is {response}, allowed are 5 to 300"));
    }
    if connect > 300 {
        return Answer::error(400, format!("connectTimeoutInSeconds is {connect}, allowed are 0 to 300"));
    }
    let result = method::invoke(
        inner,
        target,
        &request.method_name,
        request.payload.as_ref(),
        Duration::from_secs(connect),
        Duration::from_secs(response),
    )
    .await;
    match result {
        Ok(result) => Answer::json(200, json!({"status": result.status, "payload": result.payload})),
        Err(error) => invoke_error(&error),
    }
}

fn invoke_error(error: &InvokeError) -> Answer {
    Answer::error(error.status(), error.to_string())
}

fn body(call: &Call) -> Result<Value, Answer> {
    serde_json::from_slice(&call.body)
        .map_err(|error| Answer::error(400, format!("the body is not JSON: {error}")))
}

fn apply(inner: &Arc<Inner>, device: &str, call: &Call) -> Result<Answer, Answer> {
    if device != inner.options.device_id {
        return Err(unknown(&ClientId::device(device)));
    }
    deploy::deploy(inner, &body(call)?).map_err(|error| Answer::error(400, error.to_string()))?;
    Ok(Answer::empty(204))
}

fn unknown(client: &ClientId) -> Answer {
    Answer::error(404, format!("there is no device or module {:?}", client.to_string()))
}

fn modules(inner: &Inner, device: &str) -> Result<Answer, Answer> {
    if device != inner.options.device_id {
        return Err(unknown(&ClientId::device(device)));
    }
    let ids: Vec<ClientId> = inner
        .lock()
        .identities
        .keys()
        .filter(|client| client.module.is_some() && client.device == device)
        .cloned()
        .collect();
    Ok(Answer::json(200, ids.iter().filter_map(|client| describe(inner, client)).collect()))
}

fn identity(inner: &Inner, client: &ClientId) -> Result<Answer, Answer> {
    describe(inner, client).map(|identity| Answer::json(200, identity)).ok_or_else(|| unknown(client))
}

/// An identity as IoT Hub's registry shows it.
fn describe(inner: &Inner, client: &ClientId) -> Option<Value> {
    let state = inner.lock();
    let identity = state.identities.get(client)?;
    let (primary, secondary) = (inner.keys.primary(client), inner.keys.secondary(client));
    let mut description = Map::new();
    description.insert("deviceId".to_owned(), json!(client.device));
    if let Some(module) = &client.module {
        description.insert("moduleId".to_owned(), json!(module));
        description.insert("managedBy".to_owned(), json!(if identity.deployed { "IotEdge" } else { "" }));
    } else {
        description.insert("status".to_owned(), json!("enabled"));
        let edge = client.device == inner.options.device_id;
        description.insert("capabilities".to_owned(), json!({"iotEdge": edge}));
    }
    description.insert("generationId".to_owned(), json!(identity.generation));
    description.insert("etag".to_owned(), json!(identity.generation));
    description.insert("connectionState".to_owned(), json!(connection_state(client, identity)));
    description.insert(
        "authentication".to_owned(),
        json!({
            "type": "sas",
            "symmetricKey": {"primaryKey": key_text(&primary), "secondaryKey": key_text(&secondary)},
        }),
    );
    Some(Value::Object(description))
}

fn put_module(inner: &Arc<Inner>, device: &str, module: &str) -> Result<Answer, Answer> {
    if device != inner.options.device_id {
        return Err(unknown(&ClientId::device(device)));
    }
    if !deploy::runtime(module) {
        deploy::check_name(module).map_err(|error| Answer::error(400, error.to_string()))?;
    }
    deploy::add_module(inner, module).map_err(|error| Answer::error(500, error.to_string()))?;
    identity(inner, &ClientId::module(device, module))
}

fn put_device(inner: &Inner, device: &str) -> Result<Answer, Answer> {
    deploy::check_name(device).map_err(|error| Answer::error(400, error.to_string()))?;
    let client = ClientId::device(device);
    inner.add_identity(&client);
    identity(inner, &client)
}

fn delete(inner: &Inner, client: &ClientId) -> Result<Answer, Answer> {
    if inner.remove_identity(client) { Ok(Answer::empty(204)) } else { Err(unknown(client)) }
}

fn twin(inner: &Inner, client: &ClientId) -> Result<Answer, Answer> {
    inner.twin(client).map(|twin| Answer::json(200, twin)).ok_or_else(|| unknown(client))
}

fn patch_twin(inner: &Inner, client: &ClientId, call: &Call) -> Result<Answer, Answer> {
    let body = body(call)?;
    let desired = body
        .pointer("/properties/desired")
        .and_then(Value::as_object)
        .ok_or_else(|| Answer::error(400, "the body has no properties.desired"))?;
    match inner.patch_desired(client, desired) {
        Ok(Some(_)) => twin(inner, client),
        Ok(None) => Err(unknown(client)),
        Err(error) => Err(Answer::error(400, error.to_string())),
    }
}
