//! Routes of edgeHub: `FROM <source> [WHERE <condition>] INTO <sink>`, parsed, type-checked and evaluated the way edgeHub
//! does it.
//!
//! The grammar, the rules of types and the order of values are those of edgeHub's routing engine (Azure/iotedge,
//! `edge-hub/core/src/Microsoft.Azure.Devices.Routing.Core`), its surprises included, because a route that works here must
//! work there:
//!
//! - words are cut at the longest match, so `a-b` and `a!` are names: put blanks around operators;
//! - `/*` begins a comment where `*/` follows anywhere, so `FROM /* WHERE a = '*/'` is broken;
//! - `NOT` binds tighter than `=`: write `NOT (a = b)`;
//! - properties are text: `temperature > 25` is refused, `as_number(temperature) > 25` is not;
//! - `$body.path` of a message without JSON content type and encoding is undefined, of a missing path it is `null`, and
//!   values of different kinds compare by kind (bool, number, text, null), so a missing path is above every number;
//! - a text in the body that looks like a date and time is undefined.
//!
//! On two points it is stricter or plainer than edgeHub: text after the sink is refused (edgeHub ignores it), and `is_null`
//! of a body value says whether it is `null` (edgeHub's answer is true for nearly everything).
//!
//! # Example
//!
//! ```
//! use shunt_manifest::routes::{Route, RouteMessage, Sink};
//!
//! # fn main() -> Result<(), shunt_manifest::routes::RouteError> {
//! let route = Route::parse("FROM /messages/modules/relay/outputs/* WHERE kind = 'emotion' INTO $upstream")?;
//! let mut message = RouteMessage {
//!     module: Some("relay".to_owned()),
//!     output: Some("telemetry".to_owned()),
//!     ..RouteMessage::default()
//! };
//! assert!(!route.matches(&message));
//! message.properties.insert("kind".to_owned(), "emotion".to_owned());
//! assert!(route.matches(&message));
//! assert_eq!(route.sink(), Sink::Upstream);
//! # Ok(())
//! # }
//! ```

mod evaluate;
mod expression;
mod lexer;

use std::{collections::BTreeMap, fmt, str::FromStr};

use bytes::Bytes;

use self::{
    evaluate::Context,
    expression::{Expression, Parser},
    lexer::{Token, TokenKind},
};

/// The longest route text, in characters: a twin holds no longer text value.
pub const MAX_ROUTE_LENGTH: usize = 4096;

/// System properties: the name on the wire, and the name that conditions use (`$contentType`).
///
/// Source: edgeHub's `SystemProperties.cs`.
pub const SYSTEM_PROPERTIES: [(&str, &str); 14] = [
    ("$.exp", "absolute-expiry-time"),
    ("$.cid", "correlationId"),
    ("$.mid", "messageId"),
    ("$.to", "to"),
    ("$.uid", "userId"),
    ("ack", "ack"),
    ("$.on", "outputName"),
    ("$.cdid", "connectionDeviceId"),
    ("$.cmid", "connectionModuleId"),
    ("$.ct", "contentType"),
    ("$.ce", "contentEncoding"),
    ("$.schema", "messageSchema"),
    ("$.ctime", "creationTime"),
    ("iothub-operation", "operation"),
];

/// A message as routes see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteMessage {
    /// The module that sent it; none for a leaf device.
    pub module: Option<String>,
    /// The device that sent it.
    pub device: String,
    /// The output it was sent to; none for a message without `$.on`.
    pub output: Option<String>,
    /// Application properties. Names are compared without regard to case.
    pub properties: BTreeMap<String, String>,
    /// System properties, by either name of [`SYSTEM_PROPERTIES`]. Module, device and output are taken from the fields above.
    pub system: BTreeMap<String, String>,
    /// The body.
    pub body: Bytes,
    /// A change of reported properties, which only `/twinChangeNotifications` and `/*` match.
    pub is_twin_change: bool,
}

/// Where a route delivers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sink {
    /// IoT Hub, or the parent device.
    Upstream,
    /// An input of a module on this device.
    Module {
        /// The module's id.
        module: String,
        /// The input's name.
        input: String,
    },
}

/// Where a route takes messages from: a prefix of `/messages/modules/<module>/outputs/<output>` and the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    text: String,
    /// In lower case, ending in `/`.
    prefix: String,
}

/// A parsed route.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    text: String,
    source: Source,
    condition: Option<Expression>,
    sink: Sink,
}

/// Why a text is no route. Positions count characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The text has the wrong form.
    #[error("found {found} at character {position}; allowed here: {allowed}")]
    Syntax {
        /// Where.
        position: usize,
        /// What stands there.
        found: String,
        /// What may stand there.
        allowed: String,
    },
    /// An operator or function was given values of a kind that it does not take.
    #[error("{what} at character {position} cannot take {given}; it takes {allowed}")]
    Types {
        /// Where the operator or function stands.
        position: usize,
        /// The operator or function.
        what: String,
        /// The kinds given.
        given: String,
        /// The kinds allowed.
        allowed: String,
    },
    /// There is no function of that name.
    #[error(
        "there is no function {name:?} (character {position}); the functions are {}",
        expression::function_names()
    )]
    UnknownFunction {
        /// Where.
        position: usize,
        /// The name given.
        name: String,
    },
    /// The sink is neither `$upstream` nor a `BrokeredEndpoint` of four parts.
    #[error(
        "cannot deliver into {found} (character {position}); allowed: $upstream, \
         BrokeredEndpoint(\"/modules/<module>/inputs/<input>\")"
    )]
    Sink {
        /// Where.
        position: usize,
        /// The sink given.
        found: String,
    },
    /// The text is too long.
    #[error("the route has {length} characters; allowed are {MAX_ROUTE_LENGTH}")]
    TooLong {
        /// Characters in the text.
        length: usize,
    },
    /// Brackets, `NOT`, `-` and functions are nested too deeply.
    #[error(
        "the condition is nested too deeply at character {position}; allowed are {} levels",
        expression::MAX_DEPTH
    )]
    TooDeep {
        /// Where the limit was passed.
        position: usize,
    },
}

// === impl RouteMessage ===

impl RouteMessage {
    /// An application property by name, in any case.
    pub fn property(&self, name: &str) -> Option<&str> {
        lookup(&self.properties, name)
    }

    /// A system property by the name that conditions use, without the `$`, in any case.
    pub fn system_property(&self, name: &str) -> Option<&str> {
        if name.eq_ignore_ascii_case("connectionModuleId") {
            return self.module.as_deref();
        }
        if name.eq_ignore_ascii_case("connectionDeviceId") {
            return Some(&self.device);
        }
        if name.eq_ignore_ascii_case("outputName") {
            return self.output.as_deref();
        }
        lookup(&self.system, name).or_else(|| {
            let (wire, _) = SYSTEM_PROPERTIES.iter().find(|(_, long)| long.eq_ignore_ascii_case(name))?;
            lookup(&self.system, wire)
        })
    }

    /// The place it comes from, as sources are matched: in lower case, ending in `/`.
    fn origin(&self) -> String {
        let mut origin = match (&self.module, &self.output) {
            _ if self.is_twin_change => "/twinChangeNotifications/".to_owned(),
            (Some(module), Some(output)) => format!("/messages/modules/{module}/outputs/{output}/"),
            (Some(module), None) => format!("/messages/modules/{module}/"),
            (None, _) => "/messages/".to_owned(),
        };
        origin.make_ascii_lowercase();
        origin
    }
}

fn lookup<'a>(map: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    if let Some(value) = map.get(name) {
        return Some(value);
    }
    map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

// === impl Source ===

impl Source {
    fn new(text: String) -> Self {
        let mut prefix = text.trim_end_matches('*').trim_end_matches('/').to_owned();
        prefix.push('/');
        prefix.make_ascii_lowercase();
        Self { text, prefix }
    }

    /// The text, without blanks.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The module that it names, if it names one: `/messages/modules/<module>...`.
    pub fn module(&self) -> Option<&str> {
        self.part(2, &["messages", "modules"])
    }

    /// The output that it names, if it names one.
    pub fn output(&self) -> Option<&str> {
        let module = self.module()?;
        self.part(4, &["messages", "modules", module, "outputs"])
    }

    /// Changes of reported properties and nothing else?
    pub fn is_twin_changes(&self) -> bool {
        self.prefix == "/twinchangenotifications/"
    }

    /// Can it match anything at all? A `*` that is not at the end, or a first part that no message has, matches nothing.
    pub fn can_match(&self) -> bool {
        let parts: Vec<&str> = self.prefix.split('/').filter(|part| !part.is_empty()).collect();
        // What is left of a `*` stands in the middle.
        !self.prefix.contains('*')
            && matches!(
                parts.as_slice(),
                [] | ["twinchangenotifications" | "messages"]
                    | ["messages", "modules"]
                    | ["messages", "modules", _]
                    | ["messages", "modules", _, "outputs"]
                    | ["messages", "modules", _, "outputs", _]
            )
    }

    /// Does a message come from here? A prefix match, without regard to case.
    pub fn matches(&self, message: &RouteMessage) -> bool {
        message.origin().starts_with(&self.prefix)
    }

    fn part(&self, index: usize, before: &[&str]) -> Option<&str> {
        let mut parts = self.text.split('/').filter(|part| !part.is_empty());
        for expected in before.iter().take(index) {
            if !parts.next()?.eq_ignore_ascii_case(expected) {
                return None;
            }
        }
        parts.next().filter(|part| !part.contains('*'))
    }
}

// === impl Sink ===

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream => f.write_str("$upstream"),
            Self::Module { module, input } => {
                write!(f, "BrokeredEndpoint(\"/modules/{module}/inputs/{input}\")")
            }
        }
    }
}

// === impl Route ===

impl Route {
    /// Parses and type-checks a route.
    pub fn parse(text: &str) -> Result<Self, RouteError> {
        let length = text.chars().count();
        if length > MAX_ROUTE_LENGTH {
            return Err(RouteError::TooLong { length });
        }
        let mut parser = Parser::new(lexer::tokens(text));
        if parser.take(&TokenKind::Select).is_some() {
            parser.expect(&TokenKind::Star, "* (SELECT * FROM ...)")?;
        }
        parser.expect(&TokenKind::From, "FROM")?;
        let source = parse_source(&mut parser)?;
        parser.set_twin_changes(source.is_twin_changes());
        let condition = match parser.take(&TokenKind::Where) {
            Some(_) => Some(parser.expression()?),
            None => None,
        };
        let allowed = if condition.is_some() { "an operator, INTO" } else { "WHERE, INTO, / in the source" };
        parser.expect(&TokenKind::Into, allowed)?;
        let sink = parse_sink(&mut parser)?;
        parser.expect(&TokenKind::End, "the end of the route")?;
        Ok(Self { text: text.to_owned(), source, condition, sink })
    }

    /// Parses a condition alone, the part after `WHERE`, and gives a route of all messages into `$upstream` that has it.
    /// Useful where a filter is wanted in the language of routes.
    pub fn of_condition(condition: &str) -> Result<Self, RouteError> {
        Self::parse(&format!("FROM /messages WHERE {condition} INTO $upstream"))
    }

    /// Does the route take this message? A condition that is undefined does not.
    pub fn matches(&self, message: &RouteMessage) -> bool {
        self.source.matches(message)
            && self.condition.as_ref().is_none_or(|condition| Context::new(message).is_true(condition))
    }

    /// Where it delivers to.
    pub fn sink(&self) -> Sink {
        self.sink.clone()
    }

    /// Where it takes messages from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The text that was parsed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Does the route ask for a condition?
    pub fn has_condition(&self) -> bool {
        self.condition.is_some()
    }
}

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse_source(parser: &mut Parser) -> Result<Source, RouteError> {
    let allowed =
        "a source: /*, /messages/*, /messages/modules/<module>/outputs/<output>, /twinChangeNotifications";
    let mut text = String::new();
    parser.expect(&TokenKind::Slash, allowed)?;
    loop {
        text.push('/');
        match parser.next() {
            Token { kind: TokenKind::Star, .. } => text.push('*'),
            Token { kind: TokenKind::Name(name), .. } => text.push_str(&name),
            token => {
                return Err(token.unexpected(
                    "* or a name; words of the language and numbers cannot be names in a source",
                ));
            }
        }
        if parser.take(&TokenKind::Slash).is_none() {
            return Ok(Source::new(text));
        }
    }
}

fn parse_sink(parser: &mut Parser) -> Result<Sink, RouteError> {
    let token = parser.next();
    let position = token.position;
    match token.kind {
        TokenKind::System(name) if name.eq_ignore_ascii_case("$upstream") => Ok(Sink::Upstream),
        TokenKind::Name(name) if name.eq_ignore_ascii_case("BrokeredEndpoint") => {
            parser.expect(&TokenKind::Open, "( after BrokeredEndpoint")?;
            let endpoint = parser.next();
            let TokenKind::Text(address) = endpoint.kind else {
                return Err(endpoint.unexpected("a text such as \"/modules/<module>/inputs/<input>\""));
            };
            parser.expect(&TokenKind::Close, ") after the endpoint")?;
            let trimmed = address.trim();
            let trimmed = trimmed.strip_prefix('/').unwrap_or(trimmed);
            let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
            let parts: Vec<&str> = trimmed.split('/').collect();
            match parts.as_slice() {
                [_, module, _, input] if !module.is_empty() && !input.is_empty() => {
                    Ok(Sink::Module { module: (*module).to_owned(), input: (*input).to_owned() })
                }
                _ => Err(RouteError::Sink { position: endpoint.position, found: format!("{address:?}") }),
            }
        }
        TokenKind::Name(found) | TokenKind::System(found) => Err(RouteError::Sink { position, found }),
        kind => Err(Token { position, kind }.unexpected("a sink: $upstream, BrokeredEndpoint(\"...\")")),
    }
}

#[cfg(test)]
mod tests;
