//! The trace that a request belongs to: W3C Trace Context, version 00.

use axum::http::{HeaderMap, HeaderValue};

use super::TRACEPARENT;

/// A new trace, not sampled: nobody here records spans.
///
/// ```
/// let trace = shunt_module::services::begin_trace();
/// assert_eq!((trace.len(), &trace[..3], &trace[52..]), (55, "00-", "-00"));
/// ```
pub fn begin_trace() -> String {
    // All zeros are not allowed; they come up once in 2^64.
    let (trace, span) = (rand::random::<u128>().max(1), rand::random::<u64>().max(1));
    format!("00-{trace:032x}-{span:016x}-00")
}

/// Leaves a sound trace as it is, and begins one where there is none.
pub(super) fn pass_on(headers: &mut HeaderMap) {
    if headers.get(TRACEPARENT).is_some_and(|value| is_trace(value.as_bytes())) {
        return;
    }
    if let Ok(value) = HeaderValue::try_from(begin_trace()) {
        headers.insert(TRACEPARENT, value);
    }
}

/// Is that a sound `traceparent`? `00-<32 hex>-<16 hex>-<2 hex>`; later versions may be longer. Neither id may be all
/// zeros.
///
/// ```
/// assert!(!shunt_module::services::is_trace(b"nonsense"));
/// ```
pub fn is_trace(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let id = |part: &[u8]| hex(part) && part.iter().any(|&byte| byte != b'0');
    let mut parts = value.split(|&byte| byte == b'-');
    let (Some(version), Some(trace), Some(span), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let sizes = (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2);
    let later = parts.next().is_some();
    sizes
        && hex(version)
        && version != b"ff"
        && (version != b"00" || !later)
        && id(trace)
        && id(span)
        && hex(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expected: bool) {
        assert_eq!(is_trace(value.as_bytes()), expected, "{value}");
    }

    #[test]
    fn a_trace_is_recognised_by_its_form() {
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true);
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what", true);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what", false);
        check("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false);
        check("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false);
        check("00-4bf92f35-00f067aa0ba902b7-01", false);
        check("", false);
        check(&begin_trace(), true);
    }

    #[test]
    fn a_trace_is_passed_on_or_begun() {
        let mut headers = HeaderMap::new();
        pass_on(&mut headers);
        let begun = headers[TRACEPARENT].clone();
        pass_on(&mut headers);
        assert_eq!(headers[TRACEPARENT], begun);
        headers.insert(TRACEPARENT, HeaderValue::from_static("nonsense"));
        pass_on(&mut headers);
        assert_ne!(headers[TRACEPARENT], "nonsense");
    }
}
