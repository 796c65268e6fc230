//! Words of the route language, cut as edgeHub's lexer cuts them: the longest match wins, and of equally long ones the rule
//! that edgeHub names first.

use super::RouteError;

/// A word and where it starts, counted in characters from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) position: usize,
    pub(super) kind: TokenKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    Select,
    From,
    Where,
    Into,
    And,
    Or,
    Not,
    True,
    False,
    Null,
    Undefined,
    Text(String),
    UnfinishedText,
    /// NaN stands for a number that edgeHub cannot read either: undefined.
    Number(f64),
    Open,
    Close,
    OpenBrace,
    CloseBrace,
    Comma,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    Equal,
    NotEqual,
    LessEqual,
    GreaterEqual,
    Greater,
    Less,
    Concat,
    Coalesce,
    /// With its `$`.
    System(String),
    Name(String),
    /// A name with `[` or `]` and without `$`: allowed nowhere.
    Path(String),
    Unknown(char),
    End,
}

const NOT_IN_PATHS: &str = "()<>@,;:\\\"/?={} \t\n\r";

/// Longer ones first.
const OPERATORS: [(&str, TokenKind); 19] = [
    ("||", TokenKind::Concat),
    ("??", TokenKind::Coalesce),
    ("!=", TokenKind::NotEqual),
    ("<>", TokenKind::NotEqual),
    ("<=", TokenKind::LessEqual),
    (">=", TokenKind::GreaterEqual),
    ("(", TokenKind::Open),
    (")", TokenKind::Close),
    (",", TokenKind::Comma),
    ("+", TokenKind::Plus),
    ("-", TokenKind::Minus),
    ("*", TokenKind::Star),
    ("/", TokenKind::Slash),
    ("%", TokenKind::Percent),
    ("=", TokenKind::Equal),
    (">", TokenKind::Greater),
    ("<", TokenKind::Less),
    ("{", TokenKind::OpenBrace),
    ("}", TokenKind::CloseBrace),
];

/// All words of a text; the last is always `End`.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut position = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if matches!(first, ' ' | '\t' | '\r' | '\n') {
            1
        } else if let Some(length) = comment(rest) {
            length
        } else {
            let (kind, length) = word(rest, first);
            tokens.push(Token { position, kind });
            length
        };
        let (read, unread) = rest.split_at(length);
        position += read.chars().count();
        rest = unread;
    }
    tokens.push(Token { position, kind: TokenKind::End });
    tokens
}

/// The length in bytes of a comment that starts here and is closed.
fn comment(rest: &str) -> Option<usize> {
    rest.strip_prefix("/*")?.find("*/").map(|end| end + 4)
}

/// The word that starts here and its length in bytes, which is at least 1.
fn word(rest: &str, first: char) -> (TokenKind, usize) {
    let path = run(rest, |c| !NOT_IN_PATHS.contains(c));
    let name = run(rest, |c| !NOT_IN_PATHS.contains(c) && c != '[' && c != ']');
    let longest = path.max(name);

    if first == '\'' || first == '"' {
        let (kind, length) = quoted(rest, first);
        if length >= longest {
            return (kind, length);
        }
    }
    if let Some((value, length)) = number(rest)
        && length >= longest
    {
        return (TokenKind::Number(value), length);
    }
    if let Some((operator, kind)) = OPERATORS.iter().find(|(operator, _)| rest.starts_with(operator))
        && operator.len() >= longest
    {
        return (kind.clone(), operator.len());
    }
    let text = rest.get(..longest).unwrap_or_default();
    if first == '$' && longest > 1 {
        return (TokenKind::System(text.to_owned()), longest);
    }
    if longest == 0 {
        return (TokenKind::Unknown(first), first.len_utf8());
    }
    if path > name {
        return (TokenKind::Path(text.to_owned()), longest);
    }
    (keyword(text).unwrap_or_else(|| TokenKind::Name(text.to_owned())), longest)
}

/// `true`, `false`, `null` and `undefined` are known in lower case only; the others in any case.
fn keyword(text: &str) -> Option<TokenKind> {
    match text {
        "true" => return Some(TokenKind::True),
        "false" => return Some(TokenKind::False),
        "null" => return Some(TokenKind::Null),
        "undefined" => return Some(TokenKind::Undefined),
        _ => {}
    }
    Some(match text.to_ascii_lowercase().as_str() {
        "select" => TokenKind::Select,
        "from" => TokenKind::From,
        "where" => TokenKind::Where,
        "into" => TokenKind::Into,
        "and" => TokenKind::And,
        "or" => TokenKind::Or,
        "not" => TokenKind::Not,
        _ => return None,
    })
}

fn run(rest: &str, allowed: impl Fn(char) -> bool) -> usize {
    rest.find(|c| !allowed(c)).unwrap_or(rest.len())
}

/// A text in quotes. Escapes: `\"`, `\'`, `\\`, `\u0041`; any other backslash ends it unfinished.
fn quoted(rest: &str, quote: char) -> (TokenKind, usize) {
    let mut value = String::new();
    // UTF-16, because two escapes may make one character.
    let mut units: Vec<u16> = Vec::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            flush(&mut units, &mut value);
            return (TokenKind::Text(value), at + 1);
        }
        if c != '\\' {
            flush(&mut units, &mut value);
            value.push(c);
            continue;
        }
        match chars.next() {
            Some((_, escaped @ ('"' | '\'' | '\\'))) => {
                flush(&mut units, &mut value);
                value.push(escaped);
            }
            Some((start, 'u')) => {
                let digits = rest.get(start + 1..start + 5).unwrap_or_default();
                let Ok(unit) = u16::from_str_radix(digits, 16) else {
                    return (TokenKind::UnfinishedText, at);
                };
                units.push(unit);
                for _ in 0..4 {
                    chars.next();
                }
            }
            _ => return (TokenKind::UnfinishedText, at),
        }
    }
    (TokenKind::UnfinishedText, rest.len())
}

fn flush(units: &mut Vec<u16>, value: &mut String) {
    value.push_str(&String::from_utf16_lossy(units));
    units.clear();
}

/// The number that starts here: whole (`-5`), hexadecimal (`0x1F`) or real (`.5`, `1e3`).
fn number(rest: &str) -> Option<(f64, usize)> {
    let digits = |from: usize| run(rest.get(from..).unwrap_or_default(), |c| c.is_ascii_digit());
    let exponent = |from: usize| -> Option<usize> {
        let tail = rest.get(from..)?.strip_prefix(['e', 'E'])?;
        let sign = usize::from(tail.starts_with(['+', '-']));
        let length = digits(from + 1 + sign);
        (length > 0).then_some(from + 1 + sign + length)
    };
    if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
        let length = run(hex, |c| c.is_ascii_hexdigit());
        if length > 0 {
            let value = i64::from_str_radix(hex.get(..length)?, 16).map_or(f64::NAN, |value| value as f64);
            return Some((value, length + 2));
        }
    }
    let sign = usize::from(rest.starts_with('-'));
    let whole = sign + digits(sign);
    let mut end = if whole > sign { whole } else { 0 };
    if rest.get(whole..)?.starts_with('.') {
        let fraction = digits(whole + 1);
        if fraction > 0 {
            end = exponent(whole + 1 + fraction).unwrap_or(whole + 1 + fraction);
        }
    } else if let Some(with_exponent) = exponent(whole) {
        end = with_exponent;
    }
    if end == 0 {
        return None;
    }
    Some((rest.get(..end)?.parse().unwrap_or(f64::NAN), end))
}

// === impl Token ===

impl Token {
    pub(super) fn unexpected(&self, allowed: &str) -> RouteError {
        RouteError::Syntax {
            position: self.position,
            found: self.kind.to_string(),
            allowed: allowed.to_owned(),
        }
    }
}

// === impl TokenKind ===

impl std::fmt::Display for TokenKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Select => f.write_str("SELECT"),
            Self::From => f.write_str("FROM"),
            Self::Where => f.write_str("WHERE"),
            Self::Into => f.write_str("INTO"),
            Self::And => f.write_str("AND"),
            Self::Or => f.write_str("OR"),
            Self::Not => f.write_str("NOT"),
            Self::True => f.write_str("true"),
            Self::False => f.write_str("false"),
            Self::Null => f.write_str("null"),
            Self::Undefined => f.write_str("undefined"),
            Self::Text(text) => write!(f, "the text {text:?}"),
            Self::UnfinishedText => f.write_str("a text without its closing quote"),
            Self::Number(number) => write!(f, "the number {number}"),
            Self::System(name) | Self::Name(name) | Self::Path(name) => write!(f, "{name:?}"),
            Self::Unknown(c) => write!(f, "{c:?}"),
            Self::End => f.write_str("the end"),
            operator => match OPERATORS.iter().find(|(_, kind)| kind == operator) {
                Some((text, _)) => write!(f, "{text:?}"),
                None => f.write_str("a sign"),
            },
        }
    }
}
