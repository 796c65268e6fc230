//! Dapr's topics on our bus.
//!
//! | Dapr | published on | subscribed to |
//! |---|---|---|
//! | `orders` | `shunt/orders/<app>`, the app being the one of the header `dapr-app-id`, else the gateway itself | `shunt/orders/+` |
//! | `orders/shop-1` | `shunt/orders/shop-1` | `shunt/orders/shop-1` |
//!
//! Both levels are names of ours: letters, digits, `-`, `_` and `.`, 64 at most. So there are no wildcards.

use std::{fmt, str::FromStr};

use shunt_wire::{Kind, Name, NameError, Topic, TopicFilter};

/// Kinds that a module of ours publishes, and which. The bus lets nobody else publish them, and says nothing when it
/// drops what somebody does.
const OWNED: [(Kind, &str); 9] = [
    (Kind::FRAME, "camera"),
    (Kind::FACE, "emotion"),
    (Kind::EMOTION, "emotion"),
    (Kind::LABEL, "inference"),
    (Kind::SENTIMENT, "sentiment"),
    (Kind::WINDOW, "rules"),
    (Kind::ALERT, "rules"),
    (Kind::PRESENCE, "each module"),
    (Kind::DEAD_LETTER, "each module"),
];

/// A topic as Dapr's users write it: `<kind>` or `<kind>/<source>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DaprTopic {
    kind: Kind,
    source: Option<Name>,
}

/// Why a text is not a topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TopicError {
    #[error("the topic {0:?} has a wildcard; topics are <kind> or <kind>/<source>")]
    Wildcard(String),
    #[error("the topic {0:?} has more than two levels; topics are <kind> or <kind>/<source>")]
    Levels(String),
    #[error("the topic {topic:?}: {source}")]
    Level { topic: String, source: NameError },
}

// === impl DaprTopic ===

impl DaprTopic {
    /// The topic to publish on; the gateway's name stands for a source that is not given: under that the broker
    /// lets it publish any kind that is nobody else's.
    pub(crate) fn published_by(&self, gateway: &Name) -> Topic {
        Topic::new(self.kind.clone(), self.source.clone().unwrap_or_else(|| gateway.clone()))
    }

    /// What a subscriber subscribes to.
    pub(crate) fn filter(&self) -> TopicFilter {
        match &self.source {
            Some(source) => TopicFilter::from(&Topic::new(self.kind.clone(), source.clone())),
            None => TopicFilter::kind(&self.kind),
        }
    }

    /// The module of ours that alone publishes this kind, if there is one.
    pub(crate) fn owner(&self) -> Option<&'static str> {
        OWNED.iter().find(|(kind, _)| *kind == self.kind).map(|(_, owner)| *owner)
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }
}

impl FromStr for DaprTopic {
    type Err = TopicError;

    fn from_str(topic: &str) -> Result<Self, TopicError> {
        if topic.contains(['+', '#', '*']) {
            return Err(TopicError::Wildcard(topic.to_owned()));
        }
        let level = |name: &str| {
            name.parse::<Name>().map_err(|source| TopicError::Level { topic: topic.to_owned(), source })
        };
        match topic.split_once('/') {
            None => Ok(Self { kind: Kind::new(level(topic)?), source: None }),
            Some((_, source)) if source.contains('/') => Err(TopicError::Levels(topic.to_owned())),
            Some((kind, source)) => Ok(Self { kind: Kind::new(level(kind)?), source: Some(level(source)?) }),
        }
    }
}

impl fmt::Display for DaprTopic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            None => self.kind.fmt(formatter),
            Some(source) => write!(formatter, "{}/{source}", self.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(topic: &str, published: &str, filter: &str) {
        let parsed: DaprTopic = topic.parse().unwrap();
        assert_eq!(parsed.published_by(&Name::from_static("gateway")).to_string(), published);
        assert_eq!(parsed.filter().to_string(), filter);
        assert_eq!(parsed.to_string(), topic);
    }

    #[test]
    fn topics_of_one_and_of_two_levels_are_mapped() {
        check("orders", "shunt/orders/gateway", "shunt/orders/+");
        check("orders/north.1", "shunt/orders/north.1", "shunt/orders/north.1");
    }

    #[test]
    fn other_topics_are_refused() {
        for topic in ["+", "orders/#", "orders/*", "a/b/c", "", "/a", "a/", "spaced out", "a//b", "Ä"] {
            assert!(topic.parse::<DaprTopic>().is_err(), "{topic:?}");
        }
    }

    #[test]
    fn the_kinds_of_our_modules_are_owned() {
        let owner = |topic: &str| topic.parse::<DaprTopic>().unwrap().owner();
        assert_eq!(owner("emotion/front-door"), Some("emotion"));
        assert_eq!(owner("dead-letter"), Some("each module"));
        assert_eq!(owner("text"), None);
    }
}
