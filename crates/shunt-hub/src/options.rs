//! Who we are, how we prove it, and where the hub is.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    Environment,
    topic::Identity,
    workload::{Workload, WorkloadAddress},
};

/// Port of MQTT over TLS, unless the gateway's name carries another.
const MQTT_PORT: u16 = 8883;
/// Port of the HTTPS calls of edgeHub.
const HTTPS_PORT: u16 = 443;
/// How long a token is valid.
const TOKEN_LIFETIME: Duration = Duration::from_hours(1);
/// Within this time of silence a ping is sent (at half of it); the hub closes after one and a half of it.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The variables that edgeAgent gives to every module.
const EDGE_VARIABLES: [&str; 8] = [
    "IOTEDGE_IOTHUBHOSTNAME",
    "IOTEDGE_GATEWAYHOSTNAME",
    "IOTEDGE_DEVICEID",
    "IOTEDGE_MODULEID",
    "IOTEDGE_MODULEGENERATIONID",
    "IOTEDGE_WORKLOADURI",
    "IOTEDGE_APIVERSION",
    "IOTEDGE_AUTHSCHEME",
];

/// Who we are, how we prove it and where the hub is. Made by [`HubOptions::from_environment`] or
/// [`HubOptions::from_connection_string`].
#[derive(Clone)]
pub struct HubOptions {
    pub(crate) identity: Identity,
    pub(crate) gateway: Address,
    pub(crate) https_port: u16,
    pub(crate) key: Key,
    pub(crate) trust: Trust,
    pub(crate) model_id: Option<String>,
    pub(crate) token_lifetime: Duration,
    pub(crate) keep_alive: Duration,
}

/// A host and its MQTT port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// What signs our tokens.
#[derive(Clone)]
pub(crate) enum Key {
    /// The workload API; it keeps the key for itself.
    Workload(Workload),
    /// A shared access key.
    Shared(Arc<[u8]>),
}

/// Whom we trust as the hub.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// The trust bundle of the workload API, and nothing else.
    Workload(Workload),
    /// These certificates (PEM), and nothing else.
    Pem(Arc<str>),
    /// The certificate store of this machine.
    System,
}

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubOptionsError {
    /// Variables are missing or wrong; all of them.
    #[error("{}", .0.join("; "))]
    Environment(Vec<String>),
    /// Parts of a connection string are missing or wrong; all of them. The key is never shown.
    #[error("connection string: {}", .0.join("; "))]
    ConnectionString(Vec<String>),
    /// These are no certificates in PEM form.
    #[error("the trusted certificates: {0}")]
    Certificates(String),
}

/// The port of edgeHub's HTTPS where it is not 443, as with a stand-in that may not listen there.
const HTTPS_PORT_VARIABLE: &str = "SHUNT_EDGEHUB_HTTPS_PORT";

// === impl HubOptions ===

impl HubOptions {
    /// From the variables of IoT Edge; `Ok(None)` where none of them is set. `EdgeHubConnectionString` (with
    /// `EdgeModuleCACertificateFile`) first, as the simulator sets it, then the variables of edgeAgent. Empty
    /// variables count as not set. The error names every variable that is missing or wrong.
    pub fn from_environment(environment: &impl Environment) -> Result<Option<Self>, HubOptionsError> {
        let get = |name: &str| environment.get(name).filter(|value| !value.trim().is_empty());
        if let Some(text) = get("EdgeHubConnectionString") {
            return Self::from_simulator(&text, get("EdgeModuleCACertificateFile").map(PathBuf::from))
                .map(Some);
        }
        if EDGE_VARIABLES.iter().all(|name| get(name).is_none()) {
            return Ok(None);
        }

        let mut problems = Vec::new();
        let mut need = |name: &str| {
            get(name).unwrap_or_else(|| {
                problems.push(format!("{name} is not set"));
                String::new()
            })
        };
        let hub = need("IOTEDGE_IOTHUBHOSTNAME");
        let gateway = need("IOTEDGE_GATEWAYHOSTNAME");
        let device = need("IOTEDGE_DEVICEID");
        let module = need("IOTEDGE_MODULEID");
        let generation = need("IOTEDGE_MODULEGENERATIONID");
        let workload_uri = need("IOTEDGE_WORKLOADURI");
        let api_version = need("IOTEDGE_APIVERSION");

        let mut wrong = |name: &str, rule: Result<(), String>| {
            if let Err(rule) = rule {
                problems.push(format!("{name} {rule}"));
            }
        };
        wrong("IOTEDGE_DEVICEID", check_id(&device));
        wrong("IOTEDGE_MODULEID", check_id(&module));
        wrong("IOTEDGE_IOTHUBHOSTNAME", check_hub(&hub));
        let gateway = Address::parse(&gateway);
        wrong("IOTEDGE_GATEWAYHOSTNAME", gateway.as_ref().map(drop).map_err(Clone::clone));
        let address = WorkloadAddress::parse(&workload_uri);
        if !workload_uri.is_empty() {
            wrong("IOTEDGE_WORKLOADURI", address.as_ref().map(drop).map_err(Clone::clone));
        }
        if let Some(scheme) = get("IOTEDGE_AUTHSCHEME")
            && !scheme.eq_ignore_ascii_case("sasToken")
        {
            wrong("IOTEDGE_AUTHSCHEME", Err(format!("is {scheme:?}, only sasToken is known")));
        }
        let https_port = match get(HTTPS_PORT_VARIABLE).map(|port| port.trim().parse::<u16>()) {
            None => HTTPS_PORT,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => {
                problems.push(format!("{HTTPS_PORT_VARIABLE} must be a port, 1 to 65535"));
                HTTPS_PORT
            }
        };
        let (Ok(gateway), Ok(address), true) = (gateway, address, problems.is_empty()) else {
            return Err(HubOptionsError::Environment(problems));
        };
        let workload = Workload::new(address, &api_version, &module, &generation);
        Ok(Some(Self {
            identity: Identity { hub, device, module: Some(module) },
            gateway,
            https_port,
            key: Key::Workload(workload.clone()),
            trust: Trust::Workload(workload),
            model_id: None,
            token_lifetime: TOKEN_LIFETIME,
            keep_alive: KEEP_ALIVE,
        }))
    }

    /// From a device's or module's connection string, for running outside IoT Edge:
    /// `HostName=...;DeviceId=...[;ModuleId=...];SharedAccessKey=...[;GatewayHostName=...]`. Trusts the
    /// certificates of this machine; see [`HubOptions::with_trusted_certificates`].
    pub fn from_connection_string(text: &str) -> Result<Self, HubOptionsError> {
        Self::parse_connection_string(text).map_err(HubOptionsError::ConnectionString)
    }

    /// Trusts these certificates (PEM, one or several) and no others.
    pub fn with_trusted_certificates(mut self, pem: &str) -> Result<Self, HubOptionsError> {
        crate::tls::parse_certificates(pem)
            .map_err(|error| HubOptionsError::Certificates(error.to_string()))?;
        self.trust = Trust::Pem(pem.into());
        Ok(self)
    }

    /// Announces an IoT Plug and Play model, for example `dtmi:shunt:camera;1`.
    #[must_use]
    pub fn with_model_id(mut self, model_id: &str) -> Self {
        self.model_id = Some(model_id.to_owned());
        self
    }

    /// The port of the hub's HTTPS calls, 443 by default; see [`crate::Hub::invoke`].
    #[must_use]
    pub fn with_https_port(mut self, port: u16) -> Self {
        self.https_port = port;
        self
    }

    /// How long a token is valid, one hour by default; it is renewed when about 80 % of it have passed.
    #[must_use]
    pub fn with_token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = lifetime.max(Duration::from_secs(2));
        self
    }

    /// The MQTT keep-alive time, 30 s by default; 2 s to 10 minutes. A ping is sent after half of it.
    #[must_use]
    pub fn with_keep_alive(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = keep_alive.clamp(Duration::from_secs(2), Duration::from_mins(10));
        self
    }

    /// The name of the IoT hub.
    pub fn hub_name(&self) -> &str {
        &self.identity.hub
    }

    /// The device.
    pub fn device_id(&self) -> &str {
        &self.identity.device
    }

    /// The module; `None` if this is the identity of a device.
    pub fn module_id(&self) -> Option<&str> {
        self.identity.module.as_deref()
    }

    /// The workload API of IoT Edge, for certificates; `None` with a connection string.
    pub fn workload(&self) -> Option<Workload> {
        match &self.key {
            Key::Workload(workload) => Some(workload.clone()),
            Key::Shared(_) => None,
        }
    }

    fn from_simulator(text: &str, ca_file: Option<PathBuf>) -> Result<Self, HubOptionsError> {
        let mut problems = Vec::new();
        let options = if text.contains('|') {
            problems.push(
                "EdgeHubConnectionString holds several connection strings joined by '|'; give this module its own"
                    .to_owned(),
            );
            None
        } else {
            Self::parse_connection_string(text)
                .map_err(|parts| {
                    problems.extend(parts.into_iter().map(|part| format!("EdgeHubConnectionString: {part}")));
                })
                .ok()
        };
        let pem = ca_file.and_then(|path| {
            std::fs::read_to_string(&path)
                .map_err(|error| error.to_string())
                .and_then(|pem| {
                    crate::tls::parse_certificates(&pem).map(|_| pem).map_err(|error| error.to_string())
                })
                .map_err(|error| {
                    problems.push(format!("EdgeModuleCACertificateFile {}: {error}", path.display()));
                })
                .ok()
        });
        match (options, problems.is_empty()) {
            (Some(options), true) => match pem {
                Some(pem) => options.with_trusted_certificates(&pem),
                None => Ok(options),
            },
            _ => Err(HubOptionsError::Environment(problems)),
        }
    }

    fn parse_connection_string(text: &str) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let (mut hub, mut gateway, mut device, mut module, mut key) = (None, None, None, None, None);
        for part in text.trim().split(';').filter(|part| !part.trim().is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                // The part could be a piece of the key, so it is not shown.
                problems.push("a part has no '='; the form is Name=value;Name=value".to_owned());
                continue;
            };
            let slot = match name.trim().to_ascii_lowercase().as_str() {
                "hostname" => &mut hub,
                "gatewayhostname" => &mut gateway,
                "deviceid" => &mut device,
                "moduleid" => &mut module,
                "sharedaccesskey" => &mut key,
                "sharedaccesskeyname" => {
                    problems.push(
                        "SharedAccessKeyName belongs to a service's connection string; a device's or module's is needed"
                            .to_owned(),
                    );
                    continue;
                }
                "x509" => {
                    problems.push("x509 is not supported; a SharedAccessKey is needed".to_owned());
                    continue;
                }
                _ => {
                    problems.push(format!(
                        "{:?} is unknown; HostName, DeviceId, ModuleId, SharedAccessKey, GatewayHostName are allowed",
                        name.trim()
                    ));
                    continue;
                }
            };
            if slot.replace(value.trim().to_owned()).is_some() {
                problems.push(format!("{} is given twice", name.trim()));
            }
        }
        let mut need = |name: &str, value: Option<String>| {
            value.filter(|value| !value.is_empty()).unwrap_or_else(|| {
                problems.push(format!("{name} is missing"));
                String::new()
            })
        };
        let hub = need("HostName", hub);
        let device = need("DeviceId", device);
        let key = need("SharedAccessKey", key);

        let mut wrong = |name: &str, rule: Result<(), String>| {
            if let Err(rule) = rule {
                problems.push(format!("{name} {rule}"));
            }
        };
        wrong("DeviceId", check_id(&device));
        wrong("ModuleId", check_id(module.as_deref().unwrap_or_default()));
        wrong("HostName", check_hub(&hub));
        let gateway = match gateway.filter(|gateway| !gateway.is_empty()) {
            Some(gateway) => {
                let gateway = Address::parse(&gateway);
                wrong("GatewayHostName", gateway.as_ref().map(drop).map_err(Clone::clone));
                gateway
            }
            None => Ok(Address { host: hub.clone(), port: MQTT_PORT }),
        };
        let key = STANDARD.decode(&key).map_err(|_| "is not base64".to_owned());
        wrong("SharedAccessKey", key.as_ref().map(drop).map_err(Clone::clone));
        match (gateway, key, problems.is_empty()) {
            (Ok(gateway), Ok(key), true) => Ok(Self {
                identity: Identity { hub, device, module: module.filter(|module| !module.is_empty()) },
                gateway,
                https_port: HTTPS_PORT,
                key: Key::Shared(key.into()),
                trust: Trust::System,
                model_id: None,
                token_lifetime: TOKEN_LIFETIME,
                keep_alive: KEEP_ALIVE,
            }),
            _ => Err(problems),
        }
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("identity", &self.identity)
            .field("gateway", &self.gateway)
            .field(
                "key",
                &match self.key {
                    Key::Workload(_) => "workload API",
                    Key::Shared(_) => "shared access key",
                },
            )
            .finish_non_exhaustive()
    }
}

// === impl Address ===

impl Address {
    /// `host`, `host:port`, `[v6]`, `[v6]:port`. Nothing at all passes: it is reported as missing elsewhere.
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or(rest))),
            None => match text.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None => Ok(MQTT_PORT),
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(()),
        };
        match port {
            Ok(port)
                if (!host.is_empty() || text.is_empty())
                    && !host.contains(|c: char| c == '/' || c.is_whitespace()) =>
            {
                Ok(Self { host: host.to_owned(), port })
            }
            _ => Err(format!("is {text:?}; a host name is allowed, or host:port")),
        }
    }
}

/// Device and module ids go into topics and user names as they are, so they may not break these.
fn check_id(id: &str) -> Result<(), String> {
    let bad = |c: char| matches!(c, '/' | '+' | '#') || c.is_control() || c.is_whitespace();
    if id.contains(bad) || id.len() > 128 {
        return Err(format!("is {id:?}; up to 128 characters are allowed, without '/', '+', '#' and blanks"));
    }
    Ok(())
}

fn check_hub(name: &str) -> Result<(), String> {
    if name.contains(|c: char| matches!(c, '/' | ':' | '?' | '+' | '#') || c.is_whitespace()) {
        return Err(format!("is {name:?}; a host name is allowed, like hub.azure-devices.net"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn edge_environment() -> BTreeMap<String, String> {
        [
            ("IOTEDGE_IOTHUBHOSTNAME", "hub.azure-devices.net"),
            ("IOTEDGE_GATEWAYHOSTNAME", "edge-1"),
            ("IOTEDGE_DEVICEID", "device-1"),
            ("IOTEDGE_MODULEID", "relay"),
            ("IOTEDGE_MODULEGENERATIONID", "638"),
            ("IOTEDGE_WORKLOADURI", "unix:///var/run/iotedge/workload.sock/"),
            ("IOTEDGE_APIVERSION", "2022-08-03"),
            ("IOTEDGE_AUTHSCHEME", "SasToken"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    fn set(mut environment: BTreeMap<String, String>, name: &str, value: &str) -> BTreeMap<String, String> {
        environment.insert(name.to_owned(), value.to_owned());
        environment
    }

    fn problems(environment: &BTreeMap<String, String>) -> Vec<String> {
        match HubOptions::from_environment(environment) {
            Err(HubOptionsError::Environment(problems)) => problems,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_module_of_iot_edge_finds_itself_in_the_environment() {
        let options = HubOptions::from_environment(&edge_environment()).unwrap().unwrap();
        assert_eq!(options.hub_name(), "hub.azure-devices.net");
        assert_eq!((options.device_id(), options.module_id()), ("device-1", Some("relay")));
        assert_eq!(options.gateway, Address { host: "edge-1".into(), port: 8883 });
        assert!(options.workload().is_some());
    }

    #[test]
    fn the_gateway_may_carry_its_port() {
        let environment = set(edge_environment(), "IOTEDGE_GATEWAYHOSTNAME", "localhost:18883");
        let options = HubOptions::from_environment(&environment).unwrap().unwrap();
        assert_eq!(options.gateway, Address { host: "localhost".into(), port: 18883 });
        assert_eq!(Address::parse("[::1]:99"), Ok(Address { host: "::1".into(), port: 99 }));
        assert_eq!(Address::parse("[::1]"), Ok(Address { host: "::1".into(), port: 8883 }));
        for bad in [":8883", "localhost:", "localhost:x", "localhost:0", "localhost:70000", "a b", "x/y"] {
            assert!(Address::parse(bad).unwrap_err().contains("host:port"), "{bad}");
        }
    }

    #[test]
    fn no_variable_at_all_means_no_hub() {
        assert!(HubOptions::from_environment(&BTreeMap::new()).unwrap().is_none());
        let environment = set(BTreeMap::new(), "EdgeHubConnectionString", " ");
        assert!(HubOptions::from_environment(&environment).unwrap().is_none());
    }

    #[test]
    fn every_missing_or_wrong_variable_is_named_at_once() {
        let mut environment = set(edge_environment(), "IOTEDGE_WORKLOADURI", "ftp://x");
        environment.remove("IOTEDGE_DEVICEID");
        environment.remove("IOTEDGE_APIVERSION");
        environment.insert("IOTEDGE_AUTHSCHEME".into(), "x509".into());
        environment.insert("IOTEDGE_MODULEID".into(), "a/b".into());
        environment.insert("IOTEDGE_GATEWAYHOSTNAME".into(), "edge:what".into());
        let problems = problems(&environment).join("\n");
        for name in [
            "IOTEDGE_WORKLOADURI is \"ftp://x\"",
            "IOTEDGE_DEVICEID is not set",
            "IOTEDGE_APIVERSION is not set",
            "IOTEDGE_AUTHSCHEME is \"x509\"",
            "IOTEDGE_MODULEID is \"a/b\"",
            "IOTEDGE_GATEWAYHOSTNAME is \"edge:what\"",
        ] {
            assert!(problems.contains(name), "{name} not in\n{problems}");
        }
        assert_eq!(problems.lines().count(), 6, "{problems}");
    }

    #[test]
    fn the_simulators_variables_come_first() {
        let text = "HostName=sim.net;GatewayHostName=gw;DeviceId=d;ModuleId=m;SharedAccessKey=a2V5";
        let options = HubOptions::from_environment(&set(edge_environment(), "EdgeHubConnectionString", text))
            .unwrap()
            .unwrap();
        assert_eq!(options.hub_name(), "sim.net");
        assert_eq!(options.gateway.host, "gw");
        assert!(options.workload().is_none());
    }

    #[test]
    fn the_simulators_variables_are_checked_too() {
        let environment =
            set(BTreeMap::new(), "EdgeHubConnectionString", "HostName=a;DeviceId=d;SharedAccessKey=?");
        let environment = set(environment, "EdgeModuleCACertificateFile", "/does/not/exist.pem");
        let problems = problems(&environment).join("\n");
        assert!(problems.contains("EdgeHubConnectionString: SharedAccessKey is not base64"), "{problems}");
        assert!(problems.contains("EdgeModuleCACertificateFile /does/not/exist.pem"), "{problems}");

        let text = "HostName=a;DeviceId=d;SharedAccessKey=a2V5|HostName=a;DeviceId=d;SharedAccessKey=a2V5";
        let problems = super::tests::problems(&set(BTreeMap::new(), "EdgeHubConnectionString", text));
        assert!(problems.join("").contains("'|'"), "{problems:?}");
    }

    #[test]
    fn connection_strings_of_devices_and_modules_are_read() {
        let options =
            HubOptions::from_connection_string("HostName=h.net;DeviceId=d;SharedAccessKey=aGVsbG8=").unwrap();
        assert_eq!((options.device_id(), options.module_id()), ("d", None));
        assert_eq!(options.gateway, Address { host: "h.net".into(), port: 8883 });
        let options = HubOptions::from_connection_string(
            "hostname=h.net; deviceid=d; moduleid=m; sharedaccesskey=aGVsbG8=; gatewayhostname=gw:99;",
        )
        .unwrap();
        assert_eq!((options.device_id(), options.module_id()), ("d", Some("m")));
        assert_eq!(options.gateway, Address { host: "gw".into(), port: 99 });
        assert!(!format!("{options:?}").contains("hello"), "the key must not be shown");
    }

    #[test]
    fn bad_connection_strings_are_refused_with_every_reason_and_without_the_key() {
        let error = HubOptions::from_connection_string(
            "DeviceId=d#;SharedAccessKey=s3cret!;what=1;DeviceId=e;x509=true",
        )
        .unwrap_err()
        .to_string();
        for part in
            ["HostName is missing", "SharedAccessKey is not base64", "\"what\" is unknown", "x509", "twice"]
        {
            assert!(error.contains(part), "{part} not in {error}");
        }
        assert!(!error.contains("s3cret"), "{error}");
        let error = HubOptions::from_connection_string(
            "HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey=a2V5",
        );
        assert!(error.unwrap_err().to_string().contains("service's connection string"));
    }
}
