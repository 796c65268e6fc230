use proptest::prelude::*;

use super::*;

fn message() -> RouteMessage {
    let text = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    RouteMessage {
        module: Some("relay".to_owned()),
        device: "edge-1".to_owned(),
        output: Some("telemetry".to_owned()),
        properties: text(&[
            ("kind", "emotion"),
            ("count", "7"),
            ("a-b", "dash"),
            ("$own", "mine"),
            ("$contentType", "by property"),
        ]),
        system: text(&[("$.ct", "application/json"), ("contentEncoding", "UTF-8"), ("messageId", "m1")]),
        body: Bytes::from_static(
            br#"{"score": 0.9, "name": "face", "none": null, "yes": true, "box": {"x": 3}, "list": [1, {"y": "z"}],
                "time": "2026-11-21T09:00:00.5Z", "day": "2026-11-21"}"#,
        ),
        is_twin_change: false,
    }
}

/// Does the condition hold for [`message`]?
fn holds(condition: &str) -> bool {
    Route::of_condition(condition).unwrap_or_else(|error| panic!("{condition}: {error}")).matches(&message())
}

#[test]
fn sources_match_by_prefix_without_regard_to_case() {
    let from = |module: Option<&str>, output: Option<&str>, is_twin_change| RouteMessage {
        module: module.map(str::to_owned),
        output: output.map(str::to_owned),
        is_twin_change,
        ..RouteMessage::default()
    };
    let telemetry = from(Some("relay"), Some("telemetry"), false);
    let bare = from(Some("relay"), None, false);
    let leaf = from(None, None, false);
    let twin = from(Some("relay"), None, true);
    for (source, expected) in [
        ("/*", [true, true, true, true]),
        ("/messages/*", [true, true, true, false]),
        ("/messages", [true, true, true, false]),
        ("/messages/modules/*", [true, true, false, false]),
        ("/messages/modules/relay/*", [true, true, false, false]),
        ("/messages/modules/Relay/", [true, true, false, false]),
        ("/messages/modules/relay/outputs/*", [true, false, false, false]),
        ("/MESSAGES/modules/relay/outputs/TELEMETRY", [true, false, false, false]),
        ("/messages/modules/relay/outputs/tele", [false; 4]),
        ("/messages/modules/rel*", [false; 4]),
        ("/messages/modules/*/outputs/telemetry", [false; 4]),
        ("/twinChangeNotifications", [false, false, false, true]),
        ("/ messages / modules / *", [true, true, false, false]),
    ] {
        // A trailing slash is no part of the grammar.
        let text = format!("FROM {} INTO $upstream", source.trim_end_matches('/'));
        let route = Route::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let matches = [&telemetry, &bare, &leaf, &twin].map(|message| route.matches(message));
        assert_eq!(matches, expected, "{source}");
    }
}

#[test]
fn sources_name_their_module_and_output_and_say_whether_they_can_match() {
    for (source, module, output, can_match) in [
        ("/messages/modules/relay/outputs/telemetry", Some("relay"), Some("telemetry"), true),
        ("/messages/modules/relay/outputs/*", Some("relay"), None, true),
        ("/messages/modules/*", None, None, true),
        ("/messages/modules/*/outputs/a", None, None, false),
        ("/messages/devices/leaf", None, None, false),
        ("/*", None, None, true),
        ("/twinChangeNotifications/*", None, None, true),
        ("/telemetry/*", None, None, false),
    ] {
        let route = Route::parse(&format!("FROM {source} INTO $upstream")).unwrap();
        let source = route.source();
        assert_eq!(
            (source.module(), source.output(), source.can_match()),
            (module, output, can_match),
            "{source:?}"
        );
    }
}

#[test]
fn sinks_are_upstream_or_an_input_of_a_module() {
    let module =
        |module: &str, input: &str| Sink::Module { module: module.to_owned(), input: input.to_owned() };
    for (sink, expected) in [
        ("$upstream", Sink::Upstream),
        ("$UpStream", Sink::Upstream),
        ("BrokeredEndpoint(\"/modules/m/inputs/i\")", module("m", "i")),
        ("brokeredendpoint ( ' /modules/m/inputs/i/ ' )", module("m", "i")),
        ("BrokeredEndpoint('any/m/word/i')", module("m", "i")),
    ] {
        let route =
            Route::parse(&format!("select * from /* into {sink}")).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(route.sink(), expected, "{sink}");
    }
}

#[test]
fn conditions_hold_as_on_edge_hub() {
    for condition in [
        "true",
        "kind = 'emotion'",
        "kind=\"emotion\"",
        "KIND = 'emotion'",
        "kind != 'face' and NOT (kind = 'label')",
        "kind <> 'face' OR missing = 'x'",
        "kind >= 'emotion' AND kind < 'f'",
        "as_number(count) > 6.5 AND as_number(count) <= 7",
        "as_number(count) * 2 - 1 = 13",
        "1 + 2 * 3 = 7 AND (1 + 2) * 3 = 9 AND 7 % 4 = 3 AND 1 / 4 = .25 AND - 2 < -1",
        "0x1F = 31 AND 1e3 = 1000",
        "kind || '-x' = 'emotion-x'",
        "concat(kind, '-', count) = 'emotion-7'",
        "(missing ?? 'other') = 'other'",
        "NOT is_defined(missing) AND is_defined(kind)",
        "$connectionModuleId = 'relay' AND $connectionDeviceId = 'edge-1' AND $outputName = 'telemetry'",
        "$messageId = 'm1'",
        // An application property of that name goes before the system property, unless in braces.
        "$contentType = 'by property' AND {$contentType} = 'application/json'",
        "$own = 'mine' AND NOT is_defined({$own})",
        "$body.score > 0.5 AND $body.name = 'face' AND $BODY.yes",
        "$body.box.x = 3 AND $body.list[0] = 1 AND $body.list[1].y = 'z' AND {$body.name} = 'face'",
        "$body.none = null AND $body.missing = null AND is_null($body.none)",
        // Nothing there is null, and null is above every number and text.
        "is_defined($body.missing) AND $body.missing > 1000 AND $body.missing > 'z' AND $body.name > 5",
        "length(kind) = 7 AND upper(kind) = 'EMOTION' AND lower('ABC') = 'abc'",
        "substring(kind, 2) = 'otion' AND substring(kind, 0, 2) = 'em' AND substring(kind, 7) = ''",
        "index_of(kind, 'o') = 2 AND index_of(kind, 'x') = -1",
        "starts_with(kind, 'emo') AND ends_with(kind, 'ion') AND contains(kind, 'mot')",
        "abs(-2) = 2 AND square(3) = 9 AND power(2, 3) = 8 AND sqrt(9) = 3 AND exp(0) = 1",
        "ceiling(1.2) = 2 AND floor(1.8) = 1 AND sign(-3) = -1 AND sign(0) = 0",
        "IS_NUMBER(1) AND is_string(kind) AND is_bool(true) AND NOT is_number(count) AND NOT is_string(missing)",
        "is_number($body.score) AND is_string($body.name) AND is_bool($body.yes)",
        "as_number(' 1,234.5 ') = 1234.5",
        "null = null",
        "a-b = 'dash'",
        "kind = 'emotio\\u006e' AND 'it\\'s' = \"it's\"",
        "$body.day = '2026-11-21'",
        "/* a note */ kind = 'emotion'",
    ] {
        assert!(holds(condition), "{condition}");
    }
}

#[test]
fn conditions_that_are_false_or_undefined_take_nothing() {
    for condition in [
        "false",
        "kind = 'face'",
        "kind = 'Emotion'",
        "missing = 'x'",
        "missing != 'x'",
        "NOT (missing = 'x')",
        "missing = 'x' OR undefined",
        "kind",
        "5",
        "undefined",
        "as_number(kind) = 1",
        "NOT (as_number(kind) = 1)",
        "$body.box = 3",
        "$body.list > 1",
        // A date and time is no value of the language.
        "$body.time = '2026-11-21T09:00:00.5Z'",
        "NOT ($body.time = 'x')",
        "substring(kind, 8) = ''",
        "substring(kind, 7, 0) = ''",
        "sqrt(-1) = 0 OR NOT (sqrt(-1) = 0)",
        "0 / 0 = 0 OR 0 / 0 != 0",
        "$body = 'x'",
        "is_null(missing)",
    ] {
        assert!(!holds(condition), "{condition}");
    }
}

#[test]
fn bodies_are_read_only_with_json_content_type_and_a_known_encoding() {
    let route = Route::of_condition("$body.a = 'ü'").unwrap();
    let text = r#"{"a": "ü"}"#;
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf32: Vec<u8> = text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
    for (content_type, encoding, body, expected) in [
        ("application/json", "utf-8", text.as_bytes(), true),
        ("Application/JSON", "UTF-8", text.as_bytes(), true),
        ("application/json", "utf-16", &utf16, true),
        ("application/json", "utf-32", &utf32, true),
        ("application/json", "utf-16", text.as_bytes(), false),
        ("application/json", "latin-1", text.as_bytes(), false),
        ("application/json", "", text.as_bytes(), false),
        ("text/plain", "utf-8", text.as_bytes(), false),
        ("application/json", "utf-8", b"[1]", false),
        ("application/json", "utf-8", b"{\"a\": ", false),
        ("application/json", "utf-8", b"\xff\xfe", false),
        ("application/json", "utf-8", b"", false),
    ] {
        let mut message = RouteMessage { body: Bytes::copy_from_slice(body), ..RouteMessage::default() };
        message.system.insert("contentType".to_owned(), content_type.to_owned());
        if !encoding.is_empty() {
            message.system.insert("$.ce".to_owned(), encoding.to_owned());
        }
        assert_eq!(route.matches(&message), expected, "{content_type} {encoding} {body:?}");
    }
    assert!(
        !route
            .matches(&RouteMessage { body: Bytes::from_static(text.as_bytes()), ..RouteMessage::default() })
    );
}

#[test]
fn twin_changes_can_be_asked_for_a_property() {
    let text = "FROM /twinChangeNotifications WHERE twin_change_includes(properties.reported.cam.fps) INTO $upstream";
    let route = Route::parse(text).unwrap();
    let message = |body: &'static str| RouteMessage {
        is_twin_change: true,
        body: Bytes::from_static(body.as_bytes()),
        ..RouteMessage::default()
    };
    assert!(route.matches(&message(r#"{"properties": {"reported": {"cam": {"fps": 5}}}}"#)));
    assert!(!route.matches(&message(r#"{"properties": {"reported": {"cam": {}}}}"#)));
    assert!(!route.matches(&message("no json")));
}

#[test]
fn what_is_no_route_is_refused_with_its_place_and_what_is_allowed() {
    for (text, expected) in [
        ("", "found the end at character 1; allowed here: FROM"),
        ("FROM", "found the end at character 5; allowed here: a source"),
        ("FROM messages INTO $upstream", "found \"messages\" at character 6; allowed here: a source: /*"),
        ("FROM /* $upstream", "found \"$upstream\" at character 9; allowed here: WHERE, INTO"),
        ("FROM /* INTO", "found the end at character 13; allowed here: a sink"),
        (
            "FROM /* INTO $cloud",
            "cannot deliver into $cloud (character 14); allowed: $upstream, BrokeredEndpoint(",
        ),
        ("FROM /* INTO Endpoint('/modules/a/inputs/b')", "cannot deliver into Endpoint (character 14)"),
        (
            "FROM /* INTO BrokeredEndpoint(\"/modules/a\")",
            "cannot deliver into \"/modules/a\" (character 31)",
        ),
        ("FROM /* INTO BrokeredEndpoint(\"/modules//inputs/\")", "cannot deliver into \"/modules//inputs/\""),
        (
            "FROM /* INTO $upstream twice",
            "found \"twice\" at character 24; allowed here: the end of the route",
        ),
        (
            "FROM /messages/modules/not/* INTO $upstream",
            "found NOT at character 24; allowed here: * or a name",
        ),
        ("FROM /messages/modules/12/* INTO $upstream", "found the number 12 at character 24"),
        ("FROM /* WHERE INTO $upstream", "found INTO at character 15; allowed here: a value"),
        ("FROM /* WHERE a = INTO $upstream", "found INTO at character 19; allowed here: a value"),
        ("FROM /* WHERE a = 'b INTO $upstream", "found a text without its closing quote at character 19"),
        ("FROM /* WHERE (a = 'b' INTO $upstream", "found INTO at character 24; allowed here: an operator, )"),
        (
            "FROM /* WHERE a = 'b') INTO $upstream",
            "found \")\" at character 22; allowed here: an operator, INTO",
        ),
        ("FROM /* WHERE a ; b INTO $upstream", "found ';' at character 17; allowed here: an operator, INTO"),
        ("FROM /* WHERE a[0] = 'x' INTO $upstream", "found \"a[0]\" at character 15; allowed here: a value"),
        (
            "FROM /* WHERE temperature > 25 INTO $upstream",
            "the operator \">\" at character 27 cannot take (text, number)",
        ),
        (
            "FROM /* WHERE NOT a = 'b' INTO $upstream",
            "the operator NOT at character 15 cannot take (text); it takes (bool)",
        ),
        (
            "FROM /* WHERE a AND true INTO $upstream",
            "the operator AND at character 17 cannot take (text, bool)",
        ),
        (
            "FROM /* WHERE a + 1 = 2 INTO $upstream",
            "the operator \"+\" at character 17 cannot take (text, number)",
        ),
        (
            "FROM /* WHERE 1 || 'a' = 'b' INTO $upstream",
            "the operator \"||\" at character 17 cannot take (number, text)",
        ),
        (
            "FROM /* WHERE length(1) = 1 INTO $upstream",
            "the function length at character 15 cannot take (number); it takes (text)",
        ),
        (
            "FROM /* WHERE substring(a) = 'b' INTO $upstream",
            "it takes (text, number) or (text, number, number)",
        ),
        ("FROM /* WHERE concat(a) = 'b' INTO $upstream", "it takes (text, text, ...)"),
        (
            "FROM /* WHERE like(a, 'b') INTO $upstream",
            "there is no function \"like\" (character 15); the functions are abs,",
        ),
        (
            "FROM /* WHERE twin_change_includes(tags.a) INTO $upstream",
            "there is no function \"twin_change_includes\"",
        ),
        (
            "FROM /twinChangeNotifications WHERE twin_change_includes(a.b) INTO $upstream",
            "a path that starts with properties.reported.",
        ),
        (
            "FROM /* WHERE $body.a..b = 1 INTO $upstream",
            "found \"$body.a..b\" at character 15; allowed here: $body.name",
        ),
        ("FROM /* WHERE $body.a[x] = 1 INTO $upstream", "found \"$body.a[x]\" at character 15"),
        ("FROM /* WHERE $name[0] = 'a' INTO $upstream", "[ and ] in $body.path only"),
    ] {
        let error = Route::parse(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}\n  says {error}\n  not  {expected}");
    }
}

#[test]
fn long_and_deep_routes_are_refused() {
    let long = format!("FROM /* WHERE a = '{}' INTO $upstream", "x".repeat(MAX_ROUTE_LENGTH));
    assert!(matches!(Route::parse(&long), Err(RouteError::TooLong { .. })));
    for (open, close) in [("(", ")"), ("NOT ", ""), ("abs(", ")"), ("- ", "")] {
        let deep = format!("FROM /* WHERE {}1{} INTO $upstream", open.repeat(300), close.repeat(300));
        assert!(matches!(Route::parse(&deep), Err(RouteError::TooDeep { .. })), "{open}");
    }
    // A long chain is no deep one.
    let chain = vec!["a='b'"; 400].join(" OR ");
    assert!(!holds(&chain));
}

#[test]
fn words_are_cut_at_the_longest_match() {
    // On edgeHub too, these are one name each.
    for condition in ["a!='x'", "kind||'x' = 'y'", "a+b = 'x'"] {
        let route = Route::of_condition(condition);
        let names_it = match &route {
            Ok(route) => !route.matches(&message()),
            Err(_) => true,
        };
        assert!(names_it, "{condition}: {route:?}");
    }
}

/// A condition and what it must yield, by construction.
#[derive(Debug, Clone)]
enum Model {
    Leaf(String, Option<bool>),
    Not(Box<Model>),
    And(Box<Model>, Box<Model>),
    Or(Box<Model>, Box<Model>),
}

impl Model {
    fn text(&self) -> String {
        match self {
            Self::Leaf(text, _) => text.clone(),
            Self::Not(inner) => format!("NOT ({})", inner.text()),
            Self::And(left, right) => format!("({}) AND ({})", left.text(), right.text()),
            Self::Or(left, right) => format!("({}) or ({})", left.text(), right.text()),
        }
    }

    fn value(&self) -> Option<bool> {
        match self {
            Self::Leaf(_, value) => *value,
            Self::Not(inner) => inner.value().map(|value| !value),
            Self::And(left, right) => match (left.value(), right.value()) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(left, right) => match (left.value(), right.value()) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
        }
    }
}

fn model() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![
        Just(("true", Some(true))),
        Just(("undefined", None)),
        Just(("kind = 'emotion'", Some(true))),
        Just(("kind != 'emotion'", Some(false))),
        Just(("missing = 'x'", None)),
        Just(("as_number(count) < 5", Some(false))),
        Just(("$body.score >= 0.9", Some(true))),
        Just(("$body.box = 1", None)),
    ];
    let leaf = leaf.prop_map(|(text, value)| Model::Leaf(text.to_owned(), value));
    leaf.prop_recursive(5, 24, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| Model::Not(Box::new(inner))),
            (inner.clone(), inner.clone())
                .prop_map(|(left, right)| Model::And(Box::new(left), Box::new(right))),
            (inner.clone(), inner).prop_map(|(left, right)| Model::Or(Box::new(left), Box::new(right))),
        ]
    })
}

const WORDS: [&str; 40] = [
    "FROM",
    "WHERE",
    "INTO",
    "SELECT",
    "*",
    "/",
    "/*",
    "/messages",
    "$upstream",
    "BrokeredEndpoint",
    "(",
    ")",
    "'a'",
    "\"b\"",
    "kind",
    "$body.a[0].b",
    "$contentType",
    "{",
    "}",
    "=",
    "!=",
    "<",
    ">=",
    "AND",
    "or",
    "NOT",
    "+",
    "-",
    "%",
    "||",
    "??",
    ",",
    "1",
    "-2.5e3",
    "0xFF",
    "null",
    "undefined",
    "true",
    "length(",
    "concat(kind, 'x')",
];

proptest! {
    #[test]
    fn logic_of_three_values_holds_for_any_condition(model in model()) {
        prop_assert_eq!(holds(&model.text()), model.value() == Some(true), "{}", model.text());
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,200}") {
        drop(Route::parse(&text));
        drop(Route::of_condition(&text));
    }

    #[test]
    fn any_words_are_parsed_or_refused_and_what_is_parsed_can_be_asked(
        words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..30),
        body in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let message = RouteMessage { body: Bytes::from(body), ..message() };
        for text in [words.join(" "), words.concat()] {
            for route in [Route::parse(&text), Route::of_condition(&text)].into_iter().flatten() {
                drop(route.matches(&message).to_string());
                let again = Route::parse(route.as_str());
                prop_assert_eq!(again.as_ref(), Ok(&route));
            }
        }
    }

    #[test]
    fn a_text_in_quotes_is_that_text(value in "[^\\\\'\"]{0,40}") {
        let mut message = message();
        message.properties.insert("any".to_owned(), value.clone());
        let route = Route::of_condition(&format!("any = '{value}'"));
        prop_assert!(route.is_ok_and(|route| route.matches(&message)));
    }
}
