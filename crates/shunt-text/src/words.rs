//! Words and negations: what a text is made of.

/// A word and whether a negation before it reaches to it. The end of a clause ends the negation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Word<'t> {
    pub(crate) text: &'t str,
    pub(crate) negated: bool,
}

/// How far a negation reaches, in words.
const REACH: u32 = 4;

/// The text as the tokenizers want it: lower case, straight apostrophes.
pub(crate) fn normal(text: &str) -> String {
    let mut normal = text.to_lowercase();
    if normal.contains('\u{2019}') {
        normal = normal.replace('\u{2019}', "'");
    }
    normal
}

/// The English words of a normal text, as the model was trained on them: runs of letters and digits with at most one
/// `'letters` behind, runs of `!` and `?` with other signs, and `=)` and the like.
pub(crate) fn english(text: &str) -> Vec<Word<'_>> {
    let mut words = Words::default();
    let mut rest = text;
    while let Some(first) = rest.as_bytes().first() {
        let length = match first {
            b'a'..=b'z' | b'0'..=b'9' => {
                let plain = run(rest, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
                let suffix = rest.get(plain..).and_then(|after| after.strip_prefix('\''));
                match suffix.map(|suffix| run(suffix, |byte| byte.is_ascii_lowercase())) {
                    Some(letters) if letters > 0 => plain + 1 + letters,
                    _ => plain,
                }
            }
            b'!' | b'?' | b'.' | b',' | b';' | b':' => run(rest, is_stop),
            b'=' => face(rest.as_bytes()),
            _ => 0,
        };
        let (token, after) = rest.split_at_checked(length).unwrap_or(("", rest));
        if token.is_empty() {
            let mut signs = rest.chars();
            signs.next();
            rest = signs.as_str();
            continue;
        }
        rest = after;
        if token.bytes().all(|byte| matches!(byte, b'.' | b',' | b';' | b':')) {
            words.clause_ends();
        } else if token == "but" {
            words.clause_ends();
            words.push(token);
        } else if is_english_negator(token) {
            words.push_negator(token);
        } else {
            words.push(token);
        }
    }
    words.found
}

/// The Dutch words of a normal text: runs of letters, digits and apostrophes inside.
pub(crate) fn dutch(text: &str) -> Vec<Word<'_>> {
    const NEGATORS: [&str; 12] = [
        "niet",
        "geen",
        "nooit",
        "niemand",
        "niets",
        "niks",
        "zonder",
        "nauwelijks",
        "amper",
        "noch",
        "nergens",
        "evenmin",
    ];
    let mut words = Words::default();
    let mut start = None;
    let ends = text.char_indices().chain(std::iter::once((text.len(), '.')));
    for (index, sign) in ends {
        if sign.is_alphanumeric() || sign == '\'' && start.is_some() {
            start.get_or_insert(index);
            continue;
        }
        if let Some(token) = start.take().and_then(|start| text.get(start..index)) {
            let token = token.trim_end_matches('\'');
            match token {
                "maar" | "echter" => {
                    words.clause_ends();
                    words.push(token);
                }
                token if NEGATORS.contains(&token) => words.push_negator(token),
                token => words.push(token),
            }
        }
        if matches!(sign, '.' | ',' | ';' | ':' | '!' | '?') {
            words.clause_ends();
        }
    }
    words.found
}

fn run(text: &str, inside: impl Fn(u8) -> bool) -> usize {
    text.bytes().position(|byte| !inside(byte)).unwrap_or(text.len())
}

fn is_stop(byte: u8) -> bool {
    matches!(byte, b'!' | b'?' | b'.' | b',' | b';' | b':')
}

/// Bytes of a face that begins with `=`; 0 if there is none. Those with `:` and `;` count as stops in the training.
fn face(bytes: &[u8]) -> usize {
    let is_mouth = |byte: Option<&u8>| matches!(byte, Some(b')' | b'(' | b'd' | b'p'));
    match bytes.get(1) {
        Some(b'-') if is_mouth(bytes.get(2)) => 3,
        second if is_mouth(second) => 2,
        _ => 0,
    }
}

fn is_english_negator(token: &str) -> bool {
    const NEGATORS: [&str; 18] = [
        "not", "no", "never", "none", "nothing", "neither", "nor", "without", "hardly", "barely", "cannot",
        "cant", "dont", "didnt", "isnt", "wasnt", "wont", "n't",
    ];
    // "don't" and, as the training has it, every other word that ends in n, any sign, t: "want" is none, "giant" none.
    let bytes = token.as_bytes();
    let ends = matches!(bytes, [.., b'n', sign, b't'] if *sign != b'\n');
    ends || NEGATORS.contains(&token)
}

#[derive(Default)]
struct Words<'t> {
    found: Vec<Word<'t>>,
    left: u32,
}

// === impl Words ===

impl<'t> Words<'t> {
    fn push(&mut self, text: &'t str) {
        self.found.push(Word { text, negated: self.left > 0 });
        self.left = self.left.saturating_sub(1);
    }

    fn push_negator(&mut self, text: &'t str) {
        self.found.push(Word { text, negated: self.left > 0 });
        self.left = REACH;
    }

    fn clause_ends(&mut self) {
        self.left = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[Word<'_>], expected: &str) {
        let shown: Vec<_> = words
            .iter()
            .map(|word| format!("{}{}", if word.negated { "not_" } else { "" }, word.text))
            .collect();
        assert_eq!(shown.join(" "), expected);
    }

    #[test]
    fn english_words_are_those_of_the_training() {
        let words = |text: &str, expected: &str| check(&english(&normal(text)), expected);
        words("Don\u{2019}t buy it; it broke!!", "don't not_buy not_it it broke !!");
        words("not bad at all, good", "not not_bad not_at not_all good");
        words("not a b c d e", "not not_a not_b not_c not_d e");
        words("never not good", "never not_not not_good");
        words("not good but cheap", "not not_good but cheap");
        words("rock 'n' roll's 5'", "rock n roll's 5");
        words("so =) and =-d = x :)", "so =) and =-d x");
        words("caf\u{e9} \u{1f600} ok?!", "caf ok ?!");
        words("... , ;", "");
        words("", "");
    }

    #[test]
    fn dutch_words_keep_their_accents() {
        let words = |text: &str, expected: &str| check(&dutch(&normal(text)), expected);
        words("Geen goed idee, wel mooi.", "geen not_goed not_idee wel mooi");
        words("Eén foto's-map", "eén foto's map");
        words("niet leuk maar goed", "niet not_leuk maar goed");
        words("'t is", "t is");
        words("", "");
    }
}
