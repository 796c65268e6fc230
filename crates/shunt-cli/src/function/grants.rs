//! What `--grant` gives: `state=BUCKET`, `store=FUNCTION`, `publish=TOPIC`, `model=NAME`, `host=NAME[:PORT]`.

use std::str::FromStr;

use serde::Serialize;

/// One `--grant`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Grant {
    State(String),
    Store(String),
    Publish(String),
    Model(String),
    Host(String),
}

/// All of them, in the form of the module.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Grants {
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    publish: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    models: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<String>,
}

// === impl Grant ===

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = "allowed are state=BUCKET, store=FUNCTION, publish=TOPIC, model=NAME, host=NAME[:PORT]";
        let Some((kind, value)) = text.split_once('=').filter(|(_, value)| !value.is_empty()) else {
            return Err(format!("{text:?} grants nothing; {allowed}"));
        };
        let value = value.to_owned();
        match kind {
            "state" => Ok(Self::State(value)),
            "store" => Ok(Self::Store(value)),
            "publish" => Ok(Self::Publish(value)),
            "model" => Ok(Self::Model(value)),
            "host" => Ok(Self::Host(value)),
            _ => Err(format!("there is no grant {kind:?}; {allowed}")),
        }
    }
}

// === impl Grants ===

impl Grants {
    /// Fails where there are two of what there may be one of.
    pub(super) fn of(given: &[Grant]) -> anyhow::Result<Self> {
        let mut grants = Self::default();
        let once = |place: &mut Option<String>, kind: &str, value: &String| {
            let before = place.replace(value.clone());
            anyhow::ensure!(before.is_none(), "{kind} is granted twice; a function has one");
            Ok(())
        };
        for grant in given {
            match grant {
                Grant::State(bucket) => once(&mut grants.state, "state", bucket)?,
                Grant::Store(function) => once(&mut grants.store, "store", function)?,
                Grant::Publish(topic) => grants.publish.push(topic.clone()),
                Grant::Model(name) => grants.models.push(name.clone()),
                Grant::Host(host) => grants.hosts.push(host.clone()),
            }
        }
        Ok(grants)
    }

    /// Is nothing granted?
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_have_the_form_of_the_module() {
        let given =
            ["state=seen", "publish=shunt/label/+", "publish=shunt/alert/x", "model=mobilenet-v1-quant"];
        let given: Vec<Grant> = given.iter().map(|text| text.parse().unwrap()).collect();
        let grants = Grants::of(&given).unwrap();
        assert_eq!(
            serde_json::to_string(&grants).unwrap(),
            r#"{"state":"seen","publish":["shunt/label/+","shunt/alert/x"],"models":["mobilenet-v1-quant"]}"#
        );
        assert!(Grants::of(&[]).unwrap().is_empty());
        let twice = [Grant::State("a".to_owned()), Grant::State("b".to_owned())];
        assert!(Grants::of(&twice).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn what_is_no_grant_is_refused_with_what_is_allowed() {
        for wrong in ["state", "state=", "files=/etc", "=x"] {
            assert!(wrong.parse::<Grant>().unwrap_err().contains("state=BUCKET"), "{wrong}");
        }
    }
}
