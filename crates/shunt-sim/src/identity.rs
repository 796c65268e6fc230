//! Who a client is: the client id, the user name of edgeHub's MQTT dialect, and keys that survive a restart.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ring::hmac;

use crate::token;

/// A module of a device, or a device of its own (a leaf device behind the gateway).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientId {
    pub(crate) device: String,
    pub(crate) module: Option<String>,
}

// === impl ClientId ===

impl ClientId {
    pub(crate) fn module(device: &str, module: &str) -> Self {
        Self { device: device.to_owned(), module: Some(module.to_owned()) }
    }

    pub(crate) fn device(device: &str) -> Self {
        Self { device: device.to_owned(), module: None }
    }

    /// The path of a token's resource behind the host name.
    pub(crate) fn resource(&self) -> Vec<&str> {
        match &self.module {
            Some(module) => vec!["devices", &self.device, "modules", module],
            None => vec!["devices", &self.device],
        }
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            Some(module) => write!(f, "{}/{module}", self.device),
            None => f.write_str(&self.device),
        }
    }
}

/// Why a user name is refused; edgeHub throws, so the client gets CONNACK 3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserNameError {
    #[error("the user name {0:?} is not <hub>/<device>[/<module>]/?api-version=...")]
    Form(String),
    #[error("the user name {0:?} has no api-version")]
    ApiVersion(String),
}

/// What a user name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserName {
    pub(crate) client: ClientId,
    pub(crate) model_id: Option<String>,
}

/// Reads `<host>/<device>[/<module>]/?api-version=...`. The host part is not checked, unknown keys are ignored.
pub(crate) fn parse_user_name(text: &str) -> Result<UserName, UserNameError> {
    let form = || UserNameError::Form(text.to_owned());
    let parts: Vec<&str> = text.split('/').collect();
    let (device, module, query) = match parts.as_slice() {
        [_host, device, query] => (*device, None, *query),
        [_host, device, module, query] => (*device, Some(*module), *query),
        _ => return Err(form()),
    };
    if device.is_empty() || module.is_some_and(str::is_empty) {
        return Err(form());
    }
    let (mut version, mut model_id) = (false, None);
    for pair in query.strip_prefix('?').unwrap_or(query).split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(form)?;
        let value = token::decode(value).ok_or_else(form)?;
        match name {
            "api-version" => version = !value.is_empty(),
            "model-id" => model_id = Some(value),
            _ => {}
        }
    }
    if !version {
        return Err(UserNameError::ApiVersion(text.to_owned()));
    }
    let client = ClientId { device: device.to_owned(), module: module.map(str::to_owned) };
    Ok(UserName { client, model_id })
}

/// All keys come from one secret in the folder, so that a restart of the stand-in keeps them without a data base.
#[derive(Clone)]
pub(crate) struct KeyRing(hmac::Key);

// === impl KeyRing ===

impl KeyRing {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn derive(&self, purpose: &str) -> Vec<u8> {
        hmac::sign(&self.0, purpose.as_bytes()).as_ref().to_vec()
    }

    pub(crate) fn primary(&self, client: &ClientId) -> Vec<u8> {
        self.derive(&format!("primary/{client}"))
    }

    pub(crate) fn secondary(&self, client: &ClientId) -> Vec<u8> {
        self.derive(&format!("secondary/{client}"))
    }

    /// The key of the hub's policy `iothubowner`.
    pub(crate) fn policy(&self) -> Vec<u8> {
        self.derive("policy/iothubowner")
    }

    /// The key that encrypts for one module.
    pub(crate) fn sealing(&self, module: &str, generation: &str) -> Vec<u8> {
        self.derive(&format!("sealing/{module}/{generation}"))
    }

    /// The generation id, a number like IoT Hub's.
    pub(crate) fn generation(&self, client: &ClientId) -> String {
        let digest = self.derive(&format!("generation/{client}"));
        let number = digest.iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        format!("6379{:014}", number % 100_000_000_000_000)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRing(..)")
    }
}

/// A key as connection strings hold it.
pub(crate) fn key_text(key: &[u8]) -> String {
    BASE64.encode(key)
}
