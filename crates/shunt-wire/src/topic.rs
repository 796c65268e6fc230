//! Names, kinds and topics: `shunt/<kind>/<source>`.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The first level of every topic of ours.
const ROOT: &str = "shunt";

/// One level of a topic: a source, a module, a rule or a kind.
///
/// Letters, digits, `-`, `_` and `.`, beginning with a letter or digit, 64 characters at most. So a name is
/// also safe as a file name, a Redis key, a metric label and a part of an MQTT topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Cow<'static, str>);

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name may not be empty")]
    Empty,
    /// More than [`Name::MAX_LEN`] characters.
    #[error("the name {0:?} is longer than {max} characters", max = Name::MAX_LEN)]
    TooLong(String),
    /// A character that is not allowed, or not allowed in first place.
    #[error(
        "the name {name:?} has {character:?} at position {position}; letters, digits, '-', '_' and '.' are allowed, the first a letter or digit"
    )]
    Character {
        /// The whole text.
        name: String,
        /// The first character that is not allowed.
        character: char,
        /// Its position, counted in characters from 0.
        position: usize,
    },
}

// === impl Name ===

impl Name {
    /// The longest name, in characters.
    pub const MAX_LEN: usize = 64;

    /// A name known when the program is built. The caller vouches for its form; [`Name::from_str`] checks.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(name: &str) -> Result<(), NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.chars().count() > Self::MAX_LEN {
            return Err(NameError::TooLong(name.to_owned()));
        }
        let wrong = name.chars().enumerate().find(|&(position, character)| {
            !(character.is_ascii_alphanumeric() || position > 0 && matches!(character, '-' | '_' | '.'))
        });
        match wrong {
            None => Ok(()),
            Some((position, character)) => {
                Err(NameError::Character { name: name.to_owned(), character, position })
            }
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::check(name)?;
        Ok(Self(Cow::Owned(name.to_owned())))
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::check(&name)?;
        Ok(Self(Cow::Owned(name)))
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What an event tells: the second level of its topic, and the middle of its type `shunt.<kind>.v1`.
///
/// The kinds that Shunt itself speaks are constants; a user's function may speak others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kind(Name);

// === impl Kind ===

impl Kind {
    /// A picture: [`crate::events::Frame`].
    pub const FRAME: Self = Self(Name::from_static("frame"));
    /// A face in a picture: [`crate::events::Face`].
    pub const FACE: Self = Self(Name::from_static("face"));
    /// The expression of a face: [`crate::events::Emotion`].
    pub const EMOTION: Self = Self(Name::from_static("emotion"));
    /// What a picture shows.
    pub const LABEL: Self = Self(Name::from_static("label"));
    /// A text to be judged: [`crate::events::Text`], or plain text.
    pub const TEXT: Self = Self(Name::from_static("text"));
    /// The sentiment of a text: [`crate::events::Sentiment`].
    pub const SENTIMENT: Self = Self(Name::from_static("sentiment"));
    /// The result of a rule's window.
    pub const WINDOW: Self = Self(Name::from_static("window"));
    /// A rule's condition became true.
    pub const ALERT: Self = Self(Name::from_static("alert"));
    /// A module came or went (retained): [`crate::events::Presence`].
    pub const PRESENCE: Self = Self(Name::from_static("presence"));
    /// An event that a module could not use, with the reason.
    pub const DEAD_LETTER: Self = Self(Name::from_static("dead-letter"));

    /// A kind of the user's own.
    pub fn new(name: Name) -> Self {
        Self(name)
    }

    /// The kind as text, for example `emotion`.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The `CloudEvents` type, for example `shunt.emotion.v1`.
    pub fn event_type(&self) -> String {
        format!("{ROOT}.{}.v1", self.0)
    }

    /// The kind in a `CloudEvents` type of ours; nothing for a type of somebody else.
    pub fn from_event_type(event_type: &str) -> Option<Self> {
        let name = event_type.strip_prefix(ROOT)?.strip_prefix('.')?.strip_suffix(".v1")?;
        Some(Self(name.parse().ok()?))
    }
}

impl FromStr for Kind {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Ok(Self(name.parse()?))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Where an event travels: `shunt/<kind>/<source>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic {
    kind: Kind,
    source: Name,
}

/// Why a text is not a [`Topic`] or a [`TopicFilter`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Not three levels, or the first is not `shunt`.
    #[error("the topic {0:?} is not of the form shunt/<kind>/<source>")]
    Form(String),
    /// A level is not a name.
    #[error("in the topic {topic:?}: {source}")]
    Level {
        /// The whole text.
        topic: String,
        /// What is wrong with the level.
        source: NameError,
    },
    /// A filter is empty, or has `#` before its end, or a wildcard inside a level.
    #[error("the filter {0:?} is not an MQTT filter: '+' must fill a level, '#' must be the last level")]
    Filter(String),
}

// === impl Topic ===

impl Topic {
    /// The topic of events of this kind from this source.
    pub fn new(kind: Kind, source: Name) -> Self {
        Self { kind, source }
    }

    /// What the events tell.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Who or what they are about: a camera, a rule, a module.
    pub fn source(&self) -> &Name {
        &self.source
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(topic: &str) -> Result<Self, TopicError> {
        let mut levels = topic.split('/');
        let (Some(ROOT), Some(kind), Some(source), None) =
            (levels.next(), levels.next(), levels.next(), levels.next())
        else {
            return Err(TopicError::Form(topic.to_owned()));
        };
        let level = |name: &str| {
            name.parse::<Name>().map_err(|source| TopicError::Level { topic: topic.to_owned(), source })
        };
        Ok(Self { kind: Kind(level(kind)?), source: level(source)? })
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{ROOT}/{}/{}", self.kind, self.source)
    }
}

/// Which topics a subscriber wants: an MQTT filter with `+` and `#` (MQTT 5.0, section 4.7).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicFilter(String);

// === impl TopicFilter ===

impl TopicFilter {
    /// All events of a kind: `shunt/<kind>/+`.
    pub fn kind(kind: &Kind) -> Self {
        Self(format!("{ROOT}/{kind}/+"))
    }

    /// Everything of ours: `shunt/#`.
    pub fn everything() -> Self {
        Self(format!("{ROOT}/#"))
    }

    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Does this filter match that topic name? (MQTT 5.0, sections 4.7.1 and 4.7.2)
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let (mut filter, mut levels) = (self.0.split('/'), topic.split('/'));
        loop {
            match (filter.next(), levels.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(wanted), Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
    }
}

impl From<&Topic> for TopicFilter {
    fn from(topic: &Topic) -> Self {
        Self(topic.to_string())
    }
}

impl FromStr for TopicFilter {
    type Err = TopicError;

    fn from_str(filter: &str) -> Result<Self, TopicError> {
        Self::try_from(filter.to_owned())
    }
}

impl TryFrom<String> for TopicFilter {
    type Error = TopicError;

    fn try_from(filter: String) -> Result<Self, TopicError> {
        let mut levels = filter.split('/').peekable();
        let mut sound = !filter.is_empty() && !filter.contains('\0');
        while let Some(level) = levels.next() {
            sound &= match level {
                "+" => true,
                "#" => levels.peek().is_none(),
                level => !level.contains(['+', '#']),
            };
        }
        if sound { Ok(Self(filter)) } else { Err(TopicError::Filter(filter)) }
    }
}

impl From<TopicFilter> for String {
    fn from(filter: TopicFilter) -> Self {
        filter.0
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
