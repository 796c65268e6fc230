//! The sentence in which the first generation tells what a picture shows.

/// What the function `classify` answers.
pub(super) const FORM: &str = "<label> is detected with <n>/255 confidence";

/// The sentence for what `classify` said; nothing where it said something else.
///
/// The clients write it into a page as HTML, so what the label has of HTML is escaped.
pub(super) fn of(said: &str) -> Option<String> {
    let (label, rest) = said.trim().rsplit_once(" is detected with ")?;
    let certainty: u32 = rest.strip_suffix("/255 confidence")?.parse().ok()?;
    let word = match certainty {
        201.. => "is very likely",
        126.. => "is likely",
        51.. => "could be",
        _ => return Some("It does not appears to be any food item in the picture.".to_owned()),
    };
    let label = escaped(label);
    Some(format!("It {word} a <a href='https://www.google.com/search?q={label}'>{label}</a> in the picture"))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            sign => escaped.push(sign),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thresholds_are_those_of_the_article() {
        let said =
            |certainty: u32| of(&format!("hot dog is detected with {certainty}/255 confidence")).unwrap();
        let link = "a <a href='https://www.google.com/search?q=hot dog'>hot dog</a> in the picture";
        for (certainty, word) in [
            (255, "is very likely"),
            (201, "is very likely"),
            (200, "is likely"),
            (126, "is likely"),
            (125, "could be"),
            (51, "could be"),
        ] {
            assert_eq!(said(certainty), format!("It {word} {link}"), "{certainty}");
        }
        for certainty in [50, 0] {
            assert_eq!(said(certainty), "It does not appears to be any food item in the picture.");
        }
    }

    #[test]
    fn a_label_cannot_bring_html_into_a_page() {
        let sentence = of("<img src=x onerror='alert(1)'> is detected with 255/255 confidence").unwrap();
        assert_eq!(sentence.matches('<').count(), 2, "{sentence}");
        assert!(sentence.contains("&lt;img src=x onerror=&#39;alert(1)&#39;&gt;"), "{sentence}");
    }

    #[test]
    fn what_is_no_classification_is_told_apart() {
        for said in
            ["", "a macaw", "macaw is detected with much confidence", "x is detected with -1/255 confidence"]
        {
            assert_eq!(of(said), None, "{said}");
        }
    }
}
