//! Topics and filters of MQTT as channels and patterns of Redis.

use shunt_wire::TopicFilter;

/// Channels of assured events begin with this, so that who takes these from its stream need not hear them twice.
const ASSURED: &str = "assured:";

/// The channel of fast events of a topic: `shunt/frame/front-door` is `shunt:frame:front-door`.
pub(super) fn channel(topic: &str) -> String {
    topic.replace('/', ":")
}

/// The topic of a channel, and whether its events are assured.
pub(super) fn topic(channel: &str) -> (String, bool) {
    let plain = channel.strip_prefix(ASSURED);
    (plain.unwrap_or(channel).replace(':', "/"), plain.is_some())
}

/// The pattern (of `PSUBSCRIBE`) of the channels that the filter matches: it may match more, never less, but for the
/// parent of a `#`, which no topic of ours is.
pub(super) fn pattern(filter: &TopicFilter) -> String {
    let levels = filter.as_str().split('/').map(|level| match level {
        "+" | "#" => "*".to_owned(),
        level => escape(level),
    });
    levels.collect::<Vec<_>>().join(":")
}

/// The same for channels of assured events.
pub(super) fn assured_pattern(filter: &TopicFilter) -> String {
    format!("{ASSURED}{}", pattern(filter))
}

/// Takes the meaning from what would have one in a pattern.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_become_channels_and_come_back() {
        assert_eq!(channel("shunt/frame/front-door"), "shunt:frame:front-door");
        assert_eq!(topic("shunt:frame:front-door"), ("shunt/frame/front-door".to_owned(), false));
        assert_eq!(topic("assured:shunt:label:x"), ("shunt/label/x".to_owned(), true));
    }

    #[test]
    fn filters_become_patterns_whose_letters_mean_themselves() {
        for (filter, expected) in [
            ("shunt/#", "shunt:*"),
            ("shunt/+/front-door", "shunt:*:front-door"),
            ("shunt/label/x", "shunt:label:x"),
            ("shunt/a*b/[c]?\\/+", "shunt:a\\*b:\\[c\\]\\?\\\\:*"),
            ("#", "*"),
        ] {
            assert_eq!(pattern(&filter.parse().unwrap()), expected, "{filter}");
        }
        assert_eq!(assured_pattern(&"shunt/label/+".parse().unwrap()), "assured:shunt:label:*");
    }
}
