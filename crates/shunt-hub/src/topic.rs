//! Topics of edgeHub's MQTT dialect: made and read here and nowhere else.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986 is encoded: a blank becomes `%20`, never `+`, which is
/// illegal in a published topic and not decoded by edgeHub.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The version of IoT Hub's MQTT interface that we speak.
pub(crate) const API_VERSION: &str = "2021-04-12";

pub(crate) const TWIN_ANSWERS: &str = "$iothub/twin/res/#";
pub(crate) const DESIRED_PATCHES: &str = "$iothub/twin/PATCH/properties/desired/#";
pub(crate) const METHODS: &str = "$iothub/methods/POST/#";

/// Who we are, in the words of IoT Hub. Ids stand in topics, client id and user name as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) hub: String,
    pub(crate) device: String,
    pub(crate) module: Option<String>,
}

/// What a message from the hub is, told by its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    TwinAnswer { status: u16, rid: String },
    DesiredPatch { version: Option<u64> },
    Method { name: String, rid: String },
    Input { input: String, bag: BTreeMap<String, String> },
    Unknown,
}

/// Percent-encodes everything but letters, digits, `-`, `.`, `_`, `~`.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// `k=v&k=v`, both percent-encoded.
pub(crate) fn encode_bag<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut bag = String::new();
    for (key, value) in pairs {
        if !bag.is_empty() {
            bag.push('&');
        }
        bag.extend(utf8_percent_encode(key, RESERVED));
        bag.push('=');
        bag.extend(utf8_percent_encode(value, RESERVED));
    }
    bag
}

/// Keys are decoded too (`%24.on`); a `+` stays a `+`.
fn decode_bag(bag: &str) -> BTreeMap<String, String> {
    bag.trim_end_matches('/')
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

/// A value of the query that ends a topic, as it stands there: `?$rid=7&$version=3`.
fn query<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let text = text.strip_prefix('?').unwrap_or(text);
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

pub(crate) fn get_twin(rid: &str) -> String {
    format!("$iothub/twin/GET/?$rid={rid}")
}

pub(crate) fn report(rid: &str) -> String {
    format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}")
}

pub(crate) fn method_answer(status: u16, rid: &str) -> String {
    format!("$iothub/methods/res/{status}/?$rid={rid}")
}

// === impl Identity ===

impl Identity {
    /// `d/m`, or `d` for a device.
    pub(crate) fn client_id(&self) -> String {
        match &self.module {
            Some(module) => format!("{}/{module}", self.device),
            None => self.device.clone(),
        }
    }

    /// `<hub>/<d>/<m>/?api-version=...&DeviceClientType=...[&model-id=...]`.
    pub(crate) fn user_name(&self, model_id: Option<&str>) -> String {
        let client_type = encode(concat!("shunt/", env!("CARGO_PKG_VERSION")));
        let mut name = format!(
            "{}/{}/?api-version={API_VERSION}&DeviceClientType={client_type}",
            self.hub,
            self.client_id()
        );
        if let Some(model_id) = model_id {
            name.push_str("&model-id=");
            name.push_str(&encode(model_id));
        }
        name
    }

    /// The `sr` of our tokens, encoded. It names the hub, also where we connect to a gateway.
    pub(crate) fn resource(&self) -> String {
        encode(&match &self.module {
            Some(module) => format!("{}/devices/{}/modules/{module}", self.hub, self.device),
            None => format!("{}/devices/{}", self.hub, self.device),
        })
    }

    /// The start of our own topics.
    fn base(&self) -> String {
        match &self.module {
            Some(module) => format!("devices/{}/modules/{module}", self.device),
            None => format!("devices/{}", self.device),
        }
    }

    /// The topic of telemetry with these properties.
    pub(crate) fn telemetry(&self, bag: &str) -> String {
        format!("{}/messages/events/{bag}", self.base())
    }

    /// The filter of all inputs; edgeHub knows only this form, one input alone gets nothing.
    pub(crate) fn inputs(&self) -> Option<String> {
        self.module.as_ref().map(|_| format!("{}/inputs/#", self.base()))
    }

    /// What a message on this topic is.
    pub(crate) fn incoming(&self, topic: &str) -> Incoming {
        if let Some(rest) = topic.strip_prefix("$iothub/twin/res/") {
            let (status, rest) = rest.split_once('/').unwrap_or((rest, ""));
            return match (status.parse(), query(rest, "$rid")) {
                (Ok(status), Some(rid)) => Incoming::TwinAnswer { status, rid: rid.to_owned() },
                _ => Incoming::Unknown,
            };
        }
        if let Some(rest) = topic.strip_prefix("$iothub/twin/PATCH/properties/desired/") {
            return Incoming::DesiredPatch {
                version: query(rest, "$version").and_then(|version| version.parse().ok()),
            };
        }
        if let Some(rest) = topic.strip_prefix("$iothub/methods/POST/") {
            let Some((name, rest)) = rest.split_once('/') else { return Incoming::Unknown };
            return match query(rest, "$rid") {
                Some(rid) => Incoming::Method { name: decode(name), rid: rid.to_owned() },
                None => Incoming::Unknown,
            };
        }
        let input = topic.strip_prefix(&self.base()).and_then(|rest| rest.strip_prefix("/inputs/"));
        match input {
            Some(rest) => {
                let (input, bag) = rest.split_once('/').unwrap_or((rest, ""));
                Incoming::Input { input: decode(input), bag: decode_bag(bag) }
            }
            None => Incoming::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn module() -> Identity {
        Identity { hub: "h.azure-devices.net".into(), device: "d-1".into(), module: Some("$edgeHub".into()) }
    }

    #[test]
    fn names_are_those_of_the_dialect() {
        let identity = module();
        assert_eq!(identity.client_id(), "d-1/$edgeHub");
        assert_eq!(
            identity.user_name(Some("dtmi:shunt:camera;1")),
            concat!(
                "h.azure-devices.net/d-1/$edgeHub/?api-version=2021-04-12&DeviceClientType=shunt%2F",
                env!("CARGO_PKG_VERSION"),
                "&model-id=dtmi%3Ashunt%3Acamera%3B1"
            )
        );
        assert_eq!(identity.resource(), "h.azure-devices.net%2Fdevices%2Fd-1%2Fmodules%2F%24edgeHub");
        assert_eq!(identity.telemetry(""), "devices/d-1/modules/$edgeHub/messages/events/");
        assert_eq!(identity.inputs().unwrap(), "devices/d-1/modules/$edgeHub/inputs/#");

        let device = Identity { module: None, ..identity };
        assert_eq!(device.client_id(), "d-1");
        assert!(device.user_name(None).starts_with("h.azure-devices.net/d-1/?api-version="));
        assert_eq!(device.resource(), "h.azure-devices.net%2Fdevices%2Fd-1");
        assert_eq!(device.telemetry("a=b"), "devices/d-1/messages/events/a=b");
        assert_eq!(device.inputs(), None);
    }

    #[test]
    fn messages_are_told_by_their_topic() {
        let check =
            |topic: &str, expected: Incoming| assert_eq!(module().incoming(topic), expected, "{topic}");
        check(
            "$iothub/twin/res/204/?$rid=r1&$version=7",
            Incoming::TwinAnswer { status: 204, rid: "r1".into() },
        );
        check("$iothub/twin/res/200/?$rid=r1", Incoming::TwinAnswer { status: 200, rid: "r1".into() });
        check("$iothub/twin/res/200/", Incoming::Unknown);
        check("$iothub/twin/res/x/?$rid=1", Incoming::Unknown);
        check(
            "$iothub/twin/PATCH/properties/desired/?$version=12",
            Incoming::DesiredPatch { version: Some(12) },
        );
        check("$iothub/twin/PATCH/properties/desired/", Incoming::DesiredPatch { version: None });
        check(
            "$iothub/methods/POST/cam*start/?$rid=AB-1",
            Incoming::Method { name: "cam*start".into(), rid: "AB-1".into() },
        );
        check("$iothub/methods/POST/start", Incoming::Unknown);
        check(
            "devices/d-1/modules/$edgeHub/inputs/in%201/%24.cdid=d&%24.cmid=m&k%2B=a+b%20c&empty",
            Incoming::Input {
                input: "in 1".into(),
                bag: [("$.cdid", "d"), ("$.cmid", "m"), ("k+", "a+b c"), ("empty", "")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            },
        );
        check("devices/d-1/modules/other/inputs/one/", Incoming::Unknown);
        check("", Incoming::Unknown);
    }

    proptest! {
        #[test]
        fn every_bag_comes_back_as_it_was(bag in proptest::collection::btree_map("\\PC+", "\\PC*", 0..6)) {
            let text = encode_bag(bag.iter().map(|(key, value)| (key.as_str(), value.as_str())));
            prop_assert!(!text.contains(['+', '#', ' ', '/', '$']));
            prop_assert_eq!(decode_bag(&text), bag);
        }

        #[test]
        fn no_topic_from_outside_breaks_the_reader(topic in "[$/a-zA-Z0-9?&=%#+\\PC]{0,80}") {
            let _ = module().incoming(&topic);
            let _ = module().incoming(&format!("$iothub/twin/res/{topic}"));
            let _ = module().incoming(&format!("$iothub/methods/POST/{topic}"));
            let _ = module().incoming(&format!("devices/d-1/modules/$edgeHub/inputs/{topic}"));
        }
    }
}
