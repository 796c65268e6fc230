//! What guests say of themselves, as long as a message may be: an error may carry the whole request, and a function's
//! name in a file 100 kB.

use super::CallError;

/// The longest account of what went wrong, in bytes.
pub(super) const ACCOUNT_BYTES: usize = 4 << 10;

/// The longest name out of a file, in characters.
const NAME_CHARS: usize = 100;

/// An account, cut where it is too long.
pub(super) fn shortened(mut account: String) -> String {
    if account.len() > ACCOUNT_BYTES {
        account.truncate(account.floor_char_boundary(ACCOUNT_BYTES));
        account.push_str(" ...");
        account.shrink_to_fit();
    }
    account
}

/// A name that came with a file: on one line, without what steers a terminal, and not too long.
pub(super) fn plain(name: &str) -> String {
    let mut signs = name.chars().filter(|sign| !sign.is_control());
    let mut plain: String = signs.by_ref().take(NAME_CHARS).collect();
    if signs.next().is_some() {
        plain.push_str("...");
    }
    plain
}

// === impl CallError ===

impl CallError {
    /// The same with its text cut where it is too long.
    pub(super) fn shortened(self) -> Self {
        match self {
            Self::Refused(text) => Self::Refused(shortened(text)),
            Self::Failed(text) => Self::Failed(shortened(text)),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_account_is_cut_at_a_whole_character() {
        let cut = shortened("é".repeat(ACCOUNT_BYTES));
        assert!(cut.len() <= ACCOUNT_BYTES + 4 && cut.ends_with("é ..."), "{}", cut.len());
        assert_eq!(shortened("short".to_owned()), "short");
    }

    #[test]
    fn a_name_out_of_a_file_is_one_short_line() {
        assert_eq!(plain("run\r\n\u{1b}[31mall\0"), "run[31mall");
        assert_eq!(plain(&"é".repeat(NAME_CHARS)), "é".repeat(NAME_CHARS));
        assert_eq!(plain(&"é".repeat(100_000)), format!("{}...", "é".repeat(NAME_CHARS)));
    }
}
