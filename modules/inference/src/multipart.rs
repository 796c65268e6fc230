//! One part of a form (`multipart/form-data`, RFC 7578) that is in memory as a whole.

use bytes::Bytes;

/// Most bytes of the headers of a part.
const HEAD: usize = 8 * 1024;
/// Most parts looked at.
const PARTS: usize = 64;
/// Most parts that an error names, and the characters of each name.
const NAMED: usize = 8;
const NAME: usize = 64;

/// Why a form has no such part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormError {
    #[error("the content type multipart/form-data has no boundary")]
    NoBoundary,
    #[error("the form does not begin with its boundary")]
    NoBegin,
    #[error("the form ends inside a part")]
    CutOff,
    #[error("the head of a part has more than {HEAD} bytes, or is no text")]
    Head,
    #[error("the form has no part {wanted:?}, only {}", if found.is_empty() { "none at all".to_owned() } else { found.join(", ") })]
    Missing { wanted: &'static str, found: Vec<String> },
}

/// The boundary that a content type names, if it is that of a form.
pub(crate) fn boundary(content_type: &str) -> Option<Result<String, FormError>> {
    let mut parts = content_type.split(';');
    if !parts.next()?.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    });
    // RFC 2046, 5.1.1.
    Some(boundary.filter(|boundary| (1..=70).contains(&boundary.len())).ok_or(FormError::NoBoundary))
}

/// The content of the part of this name.
pub(crate) fn part(form: &Bytes, boundary: &str, wanted: &'static str) -> Result<Bytes, FormError> {
    let line = format!("\r\n--{boundary}");
    let opening = line.get(2..).unwrap_or_default();
    // A preamble may stand before the first boundary.
    let mut at = match form.get(..opening.len()) {
        Some(begin) if begin == opening.as_bytes() => opening.len(),
        _ => find(form, 0, line.as_bytes()).ok_or(FormError::NoBegin)? + line.len(),
    };
    let mut found = Vec::new();
    for _ in 0..PARTS {
        let rest = form.get(at..).unwrap_or_default();
        if rest.starts_with(b"--") {
            return Err(FormError::Missing { wanted, found });
        }
        let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        if !rest.get(padding..).is_some_and(|rest| rest.starts_with(b"\r\n")) {
            return Err(FormError::CutOff);
        }
        let head = at + padding;
        let head_end = find(form, head, b"\r\n\r\n").ok_or(FormError::CutOff)?;
        let text = form.get(head..head_end).filter(|text| text.len() <= HEAD);
        let text = text.and_then(|text| std::str::from_utf8(text).ok()).ok_or(FormError::Head)?;
        let content = head_end + 4;
        // An empty part's boundary begins with the line break that ends its head.
        let end = find(form, head_end + 2, line.as_bytes()).ok_or(FormError::CutOff)?;
        match name(text) {
            Some(name) if name == wanted => return Ok(form.slice(content.min(end)..end)),
            // Some are named; the answer must not be as long as the form.
            name if found.len() < NAMED => {
                let name = name.unwrap_or("a part without a name");
                found.push(name.chars().take(NAME).collect());
            }
            _ => {}
        }
        at = end + line.len();
    }
    Err(FormError::Missing { wanted, found })
}

/// The name that the head of a part gives it.
fn name(head: &str) -> Option<&str> {
    let disposition = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    disposition.split(';').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("name").then(|| value.trim().trim_matches('"'))
    })
}

/// Where this begins, from there on; it begins with a line break.
fn find(form: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let mut at = from;
    loop {
        at += form.get(at..)?.iter().position(|byte| *byte == b'\r')?;
        if form.get(at..)?.starts_with(what) {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORM: &[u8] = b"--XX\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\ntext\r\n--XX\r\ncontent-disposition: form-data; filename=\"a.jpg\"; name=imageData\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8\r\n--X\r\n\r\n--XX--\r\n";

    #[test]
    fn the_boundary_is_that_of_the_content_type() {
        assert_eq!(boundary("multipart/form-data; boundary=abc"), Some(Ok("abc".to_owned())));
        assert_eq!(boundary("Multipart/Form-Data; charset=x; Boundary=\"a b\""), Some(Ok("a b".to_owned())));
        assert_eq!(boundary("multipart/form-data"), Some(Err(FormError::NoBoundary)));
        assert_eq!(boundary("application/octet-stream"), None);
    }

    #[test]
    fn the_part_of_the_name_is_given_byte_for_byte() {
        let form = Bytes::from_static(FORM);
        assert_eq!(part(&form, "XX", "imageData").unwrap(), &b"\xff\xd8\r\n--X\r\n"[..]);
        assert_eq!(part(&form, "XX", "other").unwrap(), &b"text"[..]);
        let with_preamble = Bytes::from([b"hello\r\n", FORM].concat());
        assert_eq!(part(&with_preamble, "XX", "other").unwrap(), &b"text"[..]);
        let empty =
            Bytes::from_static(b"--b\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\n\r\n--b--");
        assert_eq!(part(&empty, "b", "other").unwrap(), &b""[..]);
    }

    #[test]
    fn a_form_without_the_part_says_which_it_has() {
        let form = Bytes::from_static(FORM);
        let error = part(&form, "XX", "picture").unwrap_err().to_string();
        assert_eq!(error, "the form has no part \"picture\", only other, imageData");
        assert_eq!(part(&form, "YY", "other"), Err(FormError::NoBegin));
        assert_eq!(part(&form.slice(..70), "XX", "imageData"), Err(FormError::CutOff));
    }

    proptest! {
        #[test]
        fn no_damaged_form_breaks_the_reader(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            end in any::<prop::sample::Index>(),
        ) {
            let mut form = FORM.to_vec();
            for (index, byte) in damage {
                let index = index.index(form.len());
                form[index] = byte;
            }
            form.truncate(end.index(form.len()) + 1);
            let form = Bytes::from(form);
            if let Ok(content) = part(&form, "XX", "imageData") {
                prop_assert!(content.len() < form.len());
            }
        }
    }
}
