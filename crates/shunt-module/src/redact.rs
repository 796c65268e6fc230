//! Addresses without their passwords, and fields without their secrets, for the log and the twin.

use std::borrow::Cow;

use serde_json::Value;

/// What stands in place of `user:password`, or of a secret.
pub(crate) const HIDDEN: &str = "***";

/// The text without what is before the `@` of any address (`scheme://user:password@host`) in it.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        // Where the host ends: by the rules of addresses, or with the sentence that quotes the address.
        let end = |sign: char| sign.is_whitespace() || matches!(sign, '/' | '?' | '#' | '"' | '\\');
        let (host, following) = after.split_at(after.find(end).unwrap_or(after.len()));
        shown.push_str(before);
        shown.push_str("://");
        match host.rsplit_once('@') {
            Some((_, host)) => shown.extend([HIDDEN, "@", host]),
            None => shown.push_str(host),
        }
        rest = following;
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// Does a field (or variable) of this name hold a secret?
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with("token") || name.contains("password") || name.contains("secret")
}

/// The value of a field: hidden where its name says that it is a secret. That none is set is no secret.
pub(crate) fn field(name: &str, value: &Value) -> Value {
    let empty = value.is_null() || value.as_str().is_some_and(str::is_empty);
    if is_secret(name) && !empty { Value::String(HIDDEN.to_owned()) } else { self::value(value) }
}

/// The value with all its texts and fields so.
pub(crate) fn value(value: &Value) -> Value {
    match value {
        Value::String(inner) => Value::String(text(inner).into_owned()),
        Value::Array(items) => Value::Array(items.iter().map(self::value).collect()),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, inner)| (name.clone(), field(name, inner))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn passwords_in_addresses_are_not_shown() {
        let check = |given: &str, expected: &str| assert_eq!(text(given), expected);
        check("rtsp://user:secret@camera:554/live?a=b@c", "rtsp://***@camera:554/live?a=b@c");
        check("http://us@er:sec:ret@host", "http://***@host");
        check("it is \"http://u:p@h\", not \"x://q@i/\"", "it is \"http://***@h\", not \"x://***@i/\"");
        for plain in ["", "/pictures", "a@b", "http://host/a@2x.jpg", "mqtt://bus:1883", "://"] {
            check(plain, plain);
        }
        let nested = json!({"a": ["x://u:p@h", 1], "b": {"c": "x://u:p@h/"}, "d": null});
        let secrets =
            json!({"api_token": "t", "a": [{"Password": 7, "user": "u"}], "client_secret_2": ["x"]});
        let shown =
            json!({"api_token": "***", "a": [{"Password": "***", "user": "u"}], "client_secret_2": "***"});
        assert_eq!(value(&secrets), shown);
        let unset = json!({"api_token": "", "password": null, "tokens": 3});
        assert_eq!(value(&unset), unset);
        assert_eq!(value(&nested), json!({"a": ["x://***@h", 1], "b": {"c": "x://***@h/"}, "d": null}));
    }
}
