//! The workload API: what a module asks the IoT Edge daemon for, on a Unix socket of its own.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ring::{aead, digest};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::{net::UnixListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    SimError,
    authority::Issued,
    fault,
    http::{self, Answer, Call},
    identity::ClientId,
    state::{EDGE_AGENT, EDGE_HUB, Inner},
    token,
};

/// Versions that the workload API takes.
const API_VERSIONS: [&str; 7] =
    ["2018-06-28", "2019-01-30", "2019-10-22", "2019-11-05", "2020-07-07", "2021-12-07", "2022-08-03"];
/// Connections at once on one socket; the next is closed without an answer.
const MAX_CONNECTIONS: usize = 10;

#[derive(Deserialize)]
struct SignRequest {
    data: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServerCertificateRequest {
    common_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EncryptRequest {
    plaintext: String,
    initialization_vector: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DecryptRequest {
    ciphertext: String,
    initialization_vector: String,
}

/// Where the socket of a module is.
pub(crate) fn socket(inner: &Inner, module: &str) -> PathBuf {
    inner.folder.join(format!("{module}.sock"))
}

/// Opens the socket of a module, mode 0666 as the daemon does, and serves it until the module is removed.
pub(crate) fn open(inner: &Arc<Inner>, module: &str) -> Result<(), SimError> {
    let path = socket(inner, module);
    let error = |source| SimError::file(&path, source);
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {}
        Err(other) => return Err(error(other)),
    }
    let listener = UnixListener::bind(&path).map_err(error)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(error)?;
    let stop = inner.stop.child_token();
    let client = inner.module_id(module);
    if let Some(identity) = inner.lock().identities.get_mut(&client) {
        identity.workload = Some(stop.clone());
    }
    let owner = module.to_owned();
    inner.tasks.spawn(accept(inner.clone(), listener, owner, path, stop));
    Ok(())
}

async fn accept(
    inner: Arc<Inner>,
    listener: UnixListener,
    owner: String,
    path: PathBuf,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match stream {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("The workload socket of {owner} takes no connection: {error}.");
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(
                "More than {MAX_CONNECTIONS} connections at once on the workload socket of {owner}; one is closed."
            );
            continue;
        };
        let (task_inner, owner, stop) = (inner.clone(), owner.clone(), stop.clone());
        inner.tasks.spawn(async move {
            let inner = &task_inner;
            let owner = &owner;
            http::serve(stream, stop, |call| async move { answer(inner, owner, &call) }).await;
            drop(place);
        });
    }
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!("A workload socket was gone already: {error}.");
    }
}

/// One call. `owner` is the module whose socket it came over: the daemon finds the caller by its process id.
pub(crate) fn answer(inner: &Inner, owner: &str, call: &Call) -> Answer {
    match call.query("api-version") {
        None => return Answer::error(400, "api-version not specified"),
        Some(version) if !API_VERSIONS.contains(&version) => {
            return Answer::error(400, format!("invalid api-version {version:?}"));
        }
        Some(_) => {}
    }
    let parts = call.parts();
    let result = match parts.as_slice() {
        ["trust-bundle"] => {
            get(call).map(|()| Answer::json(200, json!({"certificate": inner.authority.bundle})))
        }
        ["manifest-trust-bundle"] => get(call).map(|()| Answer::json(200, json!({"certificate": ""}))),
        ["modules"] => get(call).map(|()| modules(inner)),
        ["modules", module, "genid", _generation, "sign"] => sign(inner, owner, module, call),
        ["modules", module, "genid", _generation, "certificate", "server"] => {
            server_certificate(inner, owner, module, call)
        }
        ["modules", module, "certificate", "identity"] => identity_certificate(inner, owner, module, call),
        ["modules", module, "genid", generation, "encrypt"] => {
            encrypt(inner, owner, module, generation, call)
        }
        ["modules", module, "genid", generation, "decrypt"] => {
            decrypt(inner, owner, module, generation, call)
        }
        _ => Err(Answer::error(404, "not found")),
    };
    result.unwrap_or_else(|error| error)
}

fn get(call: &Call) -> Result<(), Answer> {
    if call.method == axum::http::Method::GET {
        Ok(())
    } else {
        Err(Answer::error(400, "method not allowed"))
    }
}

/// The body of a POST of the module that owns the socket. A missing content type counts as JSON.
fn post<T: DeserializeOwned>(owner: &str, module: &str, call: &Call) -> Result<T, Answer> {
    if call.method != axum::http::Method::POST {
        return Err(Answer::error(400, "method not allowed"));
    }
    let kind = call.header("content-type").map(|kind| kind.split(';').next().unwrap_or_default().trim());
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("application/json")) {
        return Err(Answer::error(415, "request body must be application/json"));
    }
    let body = serde_json::from_slice(&call.body)
        .map_err(|error| Answer::error(422, format!("request body is not valid: {error}")))?;
    if owner == module { Ok(body) } else { Err(Answer::error(403, "forbidden")) }
}

fn bytes(text: &str, field: &str) -> Result<Vec<u8>, Answer> {
    BASE64.decode(text).map_err(|error| Answer::error(400, format!("{field} is not base64: {error}")))
}

fn known(inner: &Inner, module: &str) -> Result<ClientId, Answer> {
    let client = inner.module_id(module);
    if inner.lock().identities.contains_key(&client) {
        Ok(client)
    } else {
        Err(Answer::error(404, format!("module {module} not found")))
    }
}

fn sign(inner: &Inner, owner: &str, module: &str, call: &Call) -> Result<Answer, Answer> {
    let request: SignRequest = post(owner, module, call)?;
    let fault = fault::take(&mut inner.lock().faults.sign);
    if let Some(status) = fault {
        return Err(Answer::error(status, "a fault was asked for"));
    }
    let data = bytes(&request.data, "data")?;
    let client = known(inner, module)?;
    Ok(Answer::json(200, json!({"digest": token::sign(&inner.keys.primary(&client), &data)})))
}

fn server_certificate(inner: &Inner, owner: &str, module: &str, call: &Call) -> Result<Answer, Answer> {
    let request: ServerCertificateRequest = post(owner, module, call)?;
    known(inner, module)?;
    if request.common_name.is_empty() {
        return Err(Answer::error(400, "commonName is empty"));
    }
    let mut names = vec![request.common_name.clone()];
    if module != request.common_name {
        names.push(module.to_owned());
    }
    issued(inner.authority.issue_server(&request.common_name, &names, inner.certificate_lifetime()))
}

fn identity_certificate(inner: &Inner, owner: &str, module: &str, call: &Call) -> Result<Answer, Answer> {
    let _: serde_json::Map<String, Value> = post(owner, module, call)?;
    known(inner, module)?;
    let (hub, device) = (&inner.options.hub_name, &inner.options.device_id);
    issued(inner.authority.issue_identity(hub, device, module, inner.certificate_lifetime()))
}

fn issued(result: Result<Issued, SimError>) -> Result<Answer, Answer> {
    let issued = result.map_err(|error| Answer::error(500, error.to_string()))?;
    let expiration =
        issued.expiration.format(&Rfc3339).map_err(|error| Answer::error(500, error.to_string()))?;
    Ok(Answer::json(
        201,
        json!({
            "privateKey": {"type": "key", "bytes": issued.key},
            "certificate": issued.chain,
            "expiration": expiration,
        }),
    ))
}

/// AES-256-GCM; the additional data are module id and generation id, so nobody else can open it.
fn sealing(
    inner: &Inner,
    module: &str,
    generation: &str,
    vector: &[u8],
) -> Result<(aead::LessSafeKey, aead::Nonce, Vec<u8>), Answer> {
    let failed = |_| Answer::error(500, "the cipher cannot be set up");
    let key =
        aead::UnboundKey::new(&aead::AES_256_GCM, &inner.keys.sealing(module, generation)).map_err(failed)?;
    // Vectors may have any length; the nonce has 12 bytes.
    let hashed = digest::digest(&digest::SHA256, vector);
    let nonce = if vector.len() == aead::NONCE_LEN { vector } else { hashed.as_ref() };
    let nonce = nonce.get(..aead::NONCE_LEN).unwrap_or_default();
    let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(failed)?;
    Ok((aead::LessSafeKey::new(key), nonce, format!("{module}{generation}").into_bytes()))
}

fn encrypt(
    inner: &Inner,
    owner: &str,
    module: &str,
    generation: &str,
    call: &Call,
) -> Result<Answer, Answer> {
    let request: EncryptRequest = post(owner, module, call)?;
    let mut data = bytes(&request.plaintext, "plaintext")?;
    let vector = bytes(&request.initialization_vector, "initializationVector")?;
    let (key, nonce, additional) = sealing(inner, module, generation, &vector)?;
    key.seal_in_place_append_tag(nonce, aead::Aad::from(additional), &mut data)
        .map_err(|_| Answer::error(500, "could not encrypt"))?;
    Ok(Answer::json(200, json!({"ciphertext": BASE64.encode(data)})))
}

fn decrypt(
    inner: &Inner,
    owner: &str,
    module: &str,
    generation: &str,
    call: &Call,
) -> Result<Answer, Answer> {
    let request: DecryptRequest = post(owner, module, call)?;
    let mut data = bytes(&request.ciphertext, "ciphertext")?;
    let vector = bytes(&request.initialization_vector, "initializationVector")?;
    let (key, nonce, additional) = sealing(inner, module, generation, &vector)?;
    let plain = key
        .open_in_place(nonce, aead::Aad::from(additional), &mut data)
        .map_err(|_| Answer::error(500, "could not decrypt"))?;
    Ok(Answer::json(200, json!({"plaintext": BASE64.encode(plain)})))
}

fn modules(inner: &Inner) -> Answer {
    let state = inner.lock();
    let modules: Vec<Value> = state
        .identities
        .iter()
        .filter_map(|(client, identity)| client.module.as_ref().map(|module| (module, identity)))
        .map(|(module, identity)| {
            let env: Vec<Value> = identity
                .environment
                .iter()
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .map(|(key, value)| json!({"key": key, "value": value}))
                .collect();
            let runtime = matches!(module.as_str(), EDGE_AGENT | EDGE_HUB);
            let name = module.trim_start_matches('$');
            json!({
                "id": name,
                "name": name,
                "type": "docker",
                "config": {"settings": {}, "env": env},
                "status": {
                    "startTime": null,
                    "exitStatus": null,
                    "runtimeStatus": {"status": if runtime || identity.session.is_some() { "running" } else { "unknown" }},
                },
            })
        })
        .collect();
    Answer::json(200, json!({"modules": modules}))
}
