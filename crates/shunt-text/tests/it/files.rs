//! Files that are none.

use shunt_text::{Language, TextModel, TextModelError, digest};

fn shipped() -> Vec<u8> {
    std::fs::read(shunt_testkit::repo_root().join("models/sentiment/sentiment.bin")).unwrap()
}

#[test]
fn a_file_is_used_only_with_the_digest_wanted() {
    let bytes = shipped();
    let right = digest(&bytes);
    let model = TextModel::parse_checked("own", &bytes, &right.to_uppercase()).unwrap();
    assert_eq!((model.name(), model.digest()), ("own", right.as_str()));
    assert_eq!(model.languages(), Language::ALL);
    let error = TextModel::parse_checked("own", &bytes, &digest(b"")).unwrap_err();
    assert!(matches!(&error, TextModelError::Digest { found, .. } if *found == right), "{error}");
}

#[test]
fn the_card_tells_the_digest_of_the_file() {
    let card =
        std::fs::read_to_string(shunt_testkit::repo_root().join("models/sentiment/sentiment.md")).unwrap();
    assert!(card.contains(&digest(&shipped())), "the card must say {}", digest(&shipped()));
}

#[test]
fn a_broken_file_is_refused_with_the_place() {
    let bytes = shipped();
    let header_end = 12 + u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
    let with = |from: &str, to: &str| {
        let header = String::from_utf8(bytes[12..header_end].to_vec()).unwrap();
        assert!(header.contains(from), "{from}");
        let header = header.replace(from, to);
        let mut changed = b"SHUNTTXT".to_vec();
        changed.extend((header.len() as u32).to_le_bytes());
        changed.extend(header.as_bytes());
        changed.extend(&bytes[header_end..]);
        changed
    };
    for (broken, expected) in [
        (Vec::new(), "does not begin with SHUNTTXT"),
        (b"SHUNTTXT\xff".to_vec(), "ends before its header"),
        (bytes[..100].to_vec(), "ends inside its header"),
        (bytes[..header_end + 1000].to_vec(), "ends inside its section"),
        (with("\"format\":1", "\"format\":2"), "format 2"),
        (with("\"en\":", "\"fr\":").clone(), ""),
        (with("\"form\":\"ngrams\"", "\"form\":\"other\""), "the form \"other\""),
        (with("\"buckets\":262144", "\"buckets\":262143"), "weights for 262143 buckets"),
        (with("\"temperature\"", "\"tomperature\""), "unknown field"),
    ] {
        match TextModel::parse("own", &broken) {
            Err(error) => assert!(error.to_string().contains(expected), "{expected:?} is not in {error}"),
            Ok(model) => assert_eq!(model.languages(), [Language::Dutch], "{expected}"),
        }
    }
}

#[test]
fn an_unknown_name_is_told_those_that_there_are() {
    let error = TextModel::built_in("bert").unwrap_err().to_string();
    assert_eq!(
        error,
        "there is no text model \"bert\"; those built in are shunt-sentiment, shunt-sentiment-ungated"
    );
}

#[test]
fn a_language_is_known_by_its_code() {
    for code in ["en", "EN", "en-US", "en_GB"] {
        assert_eq!(code.parse(), Ok(Language::English), "{code}");
    }
    for code in ["", "eng", "de", "english"] {
        assert!(code.parse::<Language>().is_err(), "{code}");
    }
}
