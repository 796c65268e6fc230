//! The rules of the bridge.

use crate::redis::names::escape;

/// What stands between the two sides of a rule.
const ARROW: &str = "->";

/// How a broker writes names and patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notation {
    /// Levels between `/`; `+` and `#`.
    Mqtt,
    /// Levels between `:`; `*`, which at the end stands for all that follow.
    Redis,
}

/// Why a rule cannot be understood. Positions are counted in characters from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the rule {rule:?} is wrong at position {position}: {problem}")]
pub struct RuleError {
    /// The rule as it was given.
    pub rule: String,
    /// Where it is wrong.
    pub position: usize,
    /// What is wrong there.
    pub problem: &'static str,
}

/// A rule, read.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// As it was given.
    pub(super) text: String,
    /// It copies from `to` to `from`.
    pub(super) is_reverse: bool,
    source: Side,
    target: Side,
}

/// One side of a rule.
#[derive(Debug, Clone)]
struct Side {
    notation: Notation,
    levels: Vec<Level>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Word(String),
    /// Any one level.
    One,
    /// All that follow.
    Rest,
}

// === impl Notation ===

impl Notation {
    fn separator(self) -> char {
        match self {
            Self::Mqtt => '/',
            Self::Redis => ':',
        }
    }

    /// Characters that only this notation gives a meaning.
    fn marks(self) -> &'static [char] {
        match self {
            Self::Mqtt => &['/', '+', '#'],
            Self::Redis => &[':', '*'],
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Mqtt => Self::Redis,
            Self::Redis => Self::Mqtt,
        }
    }

    /// May a level of a name at this broker hold that text?
    fn takes(self, level: &str) -> bool {
        match self {
            Self::Mqtt => !level.contains(['/', '+', '#', '\0']),
            Self::Redis => !level.contains(':'),
        }
    }
}

// === impl Rule ===

impl Rule {
    /// Reads a rule between a broker of the notation `from` and one of `to`.
    pub(super) fn parse(text: &str, from: Notation, to: Notation) -> Result<Self, RuleError> {
        let wrong = |byte: usize, problem| RuleError {
            rule: text.to_owned(),
            position: text.get(..byte).unwrap_or_default().chars().count(),
            problem,
        };
        let arrow = text.find(ARROW).ok_or_else(|| wrong(text.len(), "there is no \"->\""))?;
        let after = arrow + ARROW.len();
        if let Some(second) = text.get(after..).and_then(|rest| rest.find(ARROW)) {
            return Err(wrong(after + second, "there is a second \"->\""));
        }
        let (left, left_at) = trim(text, 0, arrow);
        let (right, right_at) = trim(text, after, text.len());
        for (side, at) in [(left, left_at), (right, right_at)] {
            if side.is_empty() {
                return Err(wrong(at, "a side of the rule is empty"));
            }
            if let Some(space) =
                side.find(|character: char| character.is_whitespace() || character.is_control())
            {
                return Err(wrong(at + space, "a pattern may hold no space"));
            }
        }
        // Between unlike brokers the notation says which side is which.
        let from_the_right = reads_as(right, from) && !left.contains(from.marks());
        let is_reverse = from != to && (reads_as(left, to) || from_the_right);
        let (source, target) = if is_reverse { (to, from) } else { (from, to) };
        for (side, at, notation) in [(left, left_at, source), (right, right_at, target)] {
            if let Some(mark) = side.find(notation.other().marks()) {
                let problem = match notation {
                    Notation::Mqtt => "an MQTT pattern is written with '/', '+' and '#' only",
                    Notation::Redis => "a Redis pattern is written with ':' and '*' only",
                };
                return Err(wrong(at + mark, problem));
            }
        }
        let (mut source, source_marks) =
            Side::parse(left, source).map_err(|(at, problem)| wrong(left_at + at, problem))?;
        let (mut target, target_marks) =
            Side::parse(right, target).map_err(|(at, problem)| wrong(right_at + at, problem))?;
        if let Some(extra) = target_marks.get(source_marks.len()) {
            return Err(wrong(right_at + extra, "this wildcard has no counterpart on the left side"));
        }
        if let Some(extra) = source_marks.get(target_marks.len()) {
            return Err(wrong(left_at + extra, "this wildcard has no counterpart on the right side"));
        }
        Side::agree(&mut source, &mut target).map_err(|which| {
            wrong(
                right_at + target_marks.get(which).unwrap_or(&0),
                "one side stands for one level here, the other for all that follow",
            )
        })?;
        Ok(Self { text: text.to_owned(), is_reverse, source, target })
    }

    /// What to subscribe to: an MQTT filter, or a pattern of `PSUBSCRIBE`.
    pub(super) fn filter(&self) -> String {
        let levels = self.source.levels.iter().map(|level| match (level, self.source.notation) {
            (Level::Word(word), Notation::Mqtt) => word.clone(),
            (Level::Word(word), Notation::Redis) => escape(word),
            (Level::One, Notation::Mqtt) => "+".to_owned(),
            (Level::Rest, Notation::Mqtt) => "#".to_owned(),
            (Level::One | Level::Rest, Notation::Redis) => "*".to_owned(),
        });
        let separator = self.source.notation.separator().to_string();
        levels.collect::<Vec<_>>().join(&separator)
    }

    /// Is the rule about this name? A pattern of Redis brings more: its `*` also stands for several levels.
    pub(super) fn matches(&self, name: &str) -> bool {
        self.caught(name).is_some()
    }

    /// The name at the other broker; nothing if the rule is not about it, or it has no counterpart there.
    pub(super) fn rename(&self, name: &str) -> Option<String> {
        let caught = self.caught(name)?;
        let mut caught = caught.into_iter();
        let mut levels: Vec<&str> = Vec::new();
        for level in &self.target.levels {
            match level {
                Level::Word(word) => levels.push(word),
                Level::One | Level::Rest => levels.extend(caught.next()?),
            }
        }
        let sound = levels.iter().all(|level| self.target.notation.takes(level));
        let name = levels.join(&self.target.notation.separator().to_string());
        (sound && !name.is_empty()).then_some(name)
    }

    /// What each wildcard of the source stands for in this name.
    fn caught<'a>(&self, name: &'a str) -> Option<Vec<Vec<&'a str>>> {
        // As in MQTT: what begins with '$' is the broker's own, and no wildcard in first place stands for it.
        if name.starts_with('$') && !matches!(self.source.levels.first(), Some(Level::Word(_))) {
            return None;
        }
        let mut levels = name.split(self.source.notation.separator());
        let mut caught = Vec::new();
        for wanted in &self.source.levels {
            match wanted {
                Level::Rest => {
                    caught.push(levels.collect());
                    return Some(caught);
                }
                Level::One => caught.push(vec![levels.next()?]),
                Level::Word(word) if levels.next()? == word => {}
                Level::Word(_) => return None,
            }
        }
        levels.next().is_none().then_some(caught)
    }
}

/// Does the pattern hold something that only this notation gives a meaning, and nothing of the other?
fn reads_as(pattern: &str, notation: Notation) -> bool {
    pattern.contains(notation.marks()) && !pattern.contains(notation.other().marks())
}

/// The text between these bytes without the spaces around it, and where it begins.
fn trim(text: &str, start: usize, end: usize) -> (&str, usize) {
    let side = text.get(start..end).unwrap_or_default();
    let trimmed = side.trim_start();
    (trimmed.trim_end(), start + side.len() - trimmed.len())
}

// === impl Side ===

impl Side {
    /// Reads a pattern; also gives the bytes at which its wildcards stand.
    fn parse(pattern: &str, notation: Notation) -> Result<(Self, Vec<usize>), (usize, &'static str)> {
        let (mut levels, mut marks, mut at) = (Vec::new(), Vec::new(), 0);
        for level in pattern.split(notation.separator()) {
            let is_last = at + level.len() == pattern.len();
            let read = match (level, notation) {
                ("#", Notation::Mqtt) | ("*", Notation::Redis) if is_last => Level::Rest,
                ("#", Notation::Mqtt) => return Err((at, "'#' must be the last level")),
                ("+", Notation::Mqtt) | ("*", Notation::Redis) => Level::One,
                (word, _) => match word.find(['+', '#', '*']) {
                    Some(inside) if word.len() > 1 => {
                        return Err((at + inside, "a wildcard must fill a level"));
                    }
                    _ => Level::Word(word.to_owned()),
                },
            };
            if !matches!(read, Level::Word(_)) {
                marks.push(at);
            }
            levels.push(read);
            at += level.len() + notation.separator().len_utf8();
        }
        Ok((Self { notation, levels }, marks))
    }

    /// A `*` at the end stands for one level where the other side has `+` or an inner `*` for it. Else the number of
    /// the wildcard on which the sides do not agree.
    fn agree(one: &mut Self, other: &mut Self) -> Result<(), usize> {
        let (one_notation, other_notation) = (one.notation, other.notation);
        let wild = |level: &&mut Level| !matches!(level, Level::Word(_));
        let pairs = one.levels.iter_mut().filter(wild).zip(other.levels.iter_mut().filter(wild));
        for (number, (left, right)) in pairs.enumerate() {
            match (&left, &right) {
                (Level::Rest, Level::One) if one_notation == Notation::Redis => *left = Level::One,
                (Level::One, Level::Rest) if other_notation == Notation::Redis => *right = Level::One,
                (left, right) if left == right => {}
                _ => return Err(number),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Notation::{Mqtt, Redis};

    /// A rule, a name, and what it becomes.
    fn check(rule: &str, (from, to): (Notation, Notation), name: &str, expected: Option<&str>) {
        let rule = Rule::parse(rule, from, to).unwrap();
        assert_eq!(rule.rename(name).as_deref(), expected, "{} for {name}", rule.text);
    }

    #[test]
    fn names_are_mapped_level_by_level() {
        let both = (Mqtt, Redis);
        check("airq/# -> airq:*", both, "airq/ghent/b1/r2", Some("airq:ghent:b1:r2"));
        check("airq/# -> airq:*", both, "airq/ghent", Some("airq:ghent"));
        check("airq/# -> airq:*", both, "other/ghent", None);
        check("airq:* -> airq/#", both, "airq:ghent:b1", Some("airq/ghent/b1"));
        check("a/+/c -> x:*:y", both, "a/b/c", Some("x:b:y"));
        check("a/+/c -> x:*:y", both, "a/b/d/c", None);
        check("a/+ -> a:*", both, "a/b", Some("a:b"));
        check("a/+ -> a:*", both, "a/b/c", None);
        check("a:* -> a/+", both, "a:b:c", None);
        check("a:*:c:* -> a/+/c/#", both, "a:b:c:d:e", Some("a/b/c/d/e"));
        check("+/+ -> *:*", both, "a/b", Some("a:b"));
        check("# -> *", both, "$SYS/broker", None);
        check("# -> all:*", both, "a/b", Some("all:a:b"));
        check("alarm -> alarms", both, "alarm", Some("alarms"));
        check("a/# -> b/#", (Mqtt, Mqtt), "a/b/c", Some("b/b/c"));
        check("a:* -> b:*", (Redis, Redis), "a:b:c", Some("b:b:c"));
        check("a/# -> a:*", (Redis, Mqtt), "a/b", Some("a:b"));
    }

    #[test]
    fn a_name_without_a_counterpart_is_not_copied() {
        let both = (Mqtt, Redis);
        check("a/# -> a:*", both, "a/b:c", None);
        check("a:* -> a/#", both, "a:b/c", None);
        check("a:* -> a/#", both, "a:+", None);
        check("* -> #", both, "", None);
        assert!(Rule::parse("a/# -> a:*", Mqtt, Redis).unwrap().matches("a/b:c"));
    }

    #[test]
    fn the_notation_says_the_direction() {
        for (rule, reverse) in [
            ("a/# -> a:*", false),
            ("a:* -> a/#", true),
            ("a -> b", false),
            ("a -> b/c", true),
            ("a -> b:c", false),
        ] {
            assert_eq!(Rule::parse(rule, Mqtt, Redis).unwrap().is_reverse, reverse, "{rule}");
        }
        assert!(!Rule::parse("a/b -> c/d", Mqtt, Mqtt).unwrap().is_reverse);
    }

    #[test]
    fn patterns_to_subscribe_to_are_those_of_the_broker() {
        for (rule, filter) in [
            ("a/+/b/# -> a:*:b:*", "a/+/b/#"),
            ("a:*:b:* -> a/+/b/#", "a:*:b:*"),
            ("a[1]?:* -> a/#", "a\\[1\\]\\?:*"),
        ] {
            assert_eq!(Rule::parse(rule, Mqtt, Redis).unwrap().filter(), filter);
        }
    }

    #[test]
    fn a_wrong_rule_is_named_with_the_position() {
        for (rule, position) in [
            ("airq/#", 6),
            ("a -> b -> c", 7),
            ("-> b", 0),
            ("a -> ", 5),
            ("a b -> c", 1),
            ("a/#/b -> a:*", 2),
            ("a/b+ -> a:*", 3),
            ("a/# -> a", 2),
            ("a -> a:*", 7),
            ("a/+/# -> a:*", 4),
            ("a/# -> a:*:b", 9),
            ("a/:# -> a:*", 2),
            ("a/+ -> a/+", 8),
            ("grüße/+# -> a:*", 6),
        ] {
            let error = Rule::parse(rule, Mqtt, Redis).unwrap_err();
            assert_eq!((error.position, error.rule.as_str()), (position, rule), "{error}");
        }
    }
}
