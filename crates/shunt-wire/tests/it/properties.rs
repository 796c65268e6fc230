//! What holds for every event, topic and stamp, and for every other text.

use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
};
use serde_json::Value;
use shunt_wire::{
    Body, Envelope, Kind, Mono, Name, Stamps, Topic, TopicFilter, events::Frame, seed::ScoreRequest,
};

/// Attributes that have a meaning of their own.
const NAMED: [&str; 11] = [
    "specversion",
    "id",
    "type",
    "source",
    "time",
    "subject",
    "traceparent",
    "shuntcapture",
    "shunthops",
    "data",
    "datacontenttype",
];

fn name() -> impl Strategy<Value = Name> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,63}".prop_map(|name| name.parse().unwrap())
}

fn stamps() -> impl Strategy<Value = Stamps> {
    let hop = (name(), 0_u64..1 << 40, 0_u64..1 << 40);
    (0_u64..1 << 60, vec(hop, 0..=Stamps::MAX_HOPS)).prop_map(|(captured, hops)| {
        let mut stamps = Stamps::captured(Mono::from_nanos(captured));
        // An event that begins here has an open hop; one that was read has none.
        stamps = Stamps::parse(&stamps.capture().to_string(), "").unwrap();
        for (module, received, sent) in hops {
            stamps = stamps.follow(Mono::from_nanos(captured + received));
            stamps.close(&module, Mono::from_nanos(captured + sent));
        }
        stamps
    })
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(".{0,8}", inner, 0..5).prop_map(Value::from_iter),
        ]
    })
}

fn body() -> impl Strategy<Value = Body> {
    let text = json().prop_map(|data| Body {
        content_type: "application/json".to_owned(),
        bytes: serde_json::to_vec(&data).unwrap().into(),
    });
    let bytes = vec(any::<u8>(), 0..200)
        .prop_map(|bytes| Body { content_type: "image/jpeg".to_owned(), bytes: bytes.into() });
    prop_oneof![text, bytes]
}

prop_compose! {
    fn envelope()(
        id in ".{1,40}",
        kind in name().prop_map(Kind::new),
        source in name(),
        seconds in 0_u8..60,
        subject in option::of(".{0,40}"),
        traceparent in option::of("[0-9a-f-]{0,55}"),
        stamps in option::of(stamps()),
        extensions in btree_map("[a-z0-9]{1,20}", ".{0,40}", 0..5),
        body in option::of(body()),
    ) -> Envelope {
        let time = format!("2026-11-21T09:00:{seconds:02}.5+01:00");
        let mut envelope = Envelope::new(id, kind, source, time);
        (envelope.subject, envelope.traceparent, envelope.stamps, envelope.body) = (subject, traceparent, stamps, body);
        envelope.extensions =
            extensions.into_iter().filter(|(name, _)| !NAMED.contains(&name.as_str())).collect();
        envelope
    }
}

/// The rule of MQTT 5.0, section 4.7, said once more and in another way: level by level, by recursion.
fn matches(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => matches(filter, topic),
        ([wanted, filter @ ..], [level, topic @ ..]) => wanted == level && matches(filter, topic),
        _ => false,
    }
}

proptest! {
    #[test]
    fn an_event_survives_binary_mode(envelope in envelope()) {
        let message = envelope.to_binary();
        let read = Envelope::from_binary(message.content_type.as_deref(), &message.attributes, message.body);
        prop_assert_eq!(read.unwrap(), envelope);
    }

    #[test]
    fn an_event_survives_structured_mode(envelope in envelope()) {
        let read = Envelope::from_structured(&envelope.to_structured().unwrap());
        prop_assert_eq!(read.unwrap(), envelope);
    }

    #[test]
    fn stamps_survive_their_text(stamps in stamps()) {
        let read = Stamps::parse(&stamps.capture().to_string(), &stamps.hops_text());
        prop_assert_eq!(read.unwrap(), stamps);
    }

    #[test]
    fn a_topic_survives_its_text_and_is_matched_by_itself(kind in name(), source in name()) {
        let topic = Topic::new(Kind::new(kind), source);
        prop_assert_eq!(&topic.to_string().parse::<Topic>().unwrap(), &topic);
        prop_assert!(TopicFilter::from(&topic).matches(&topic.to_string()));
        prop_assert!(TopicFilter::kind(topic.kind()).matches(&topic.to_string()));
        prop_assert!(TopicFilter::everything().matches(&topic.to_string()));
    }

    #[test]
    fn filters_match_as_mqtt_says(
        filter in vec(prop_oneof![Just("+"), Just("a"), Just("b"), Just("")], 1..5),
        rest in any::<bool>(),
        topic in vec(prop_oneof![Just("a"), Just("b"), Just("")], 1..5),
    ) {
        let mut filter = filter;
        if rest {
            filter.push("#");
        }
        let (text, topic_text) = (filter.join("/"), topic.join("/"));
        // An empty filter is none.
        if let Ok(parsed) = text.parse::<TopicFilter>() {
            prop_assert_eq!(parsed.matches(&topic_text), matches(&filter, &topic), "{} {}", text, topic_text);
        }
    }

    #[test]
    fn no_text_breaks_a_reader(text in ".{0,200}", other in ".{0,200}") {
        drop(text.parse::<Name>());
        drop(text.parse::<Kind>());
        drop(text.parse::<Topic>());
        if let Ok(filter) = text.parse::<TopicFilter>() {
            filter.matches(&other);
        }
        drop(Kind::from_event_type(&text));
        drop(Stamps::parse(&text, &other));
        drop(Stamps::parse("18446744073709551615", &other));
    }

    #[test]
    fn no_hops_break_a_reader(hops in "([a-z:,-]|[0-9]{1,21}){0,30}") {
        drop(Stamps::parse("5", &hops));
    }

    #[test]
    fn no_bytes_break_a_reader(bytes in vec(any::<u8>(), 0..300), content_type in option::of(".{0,40}")) {
        drop(Envelope::from_structured(&bytes));
        drop(ScoreRequest::parse(&bytes));
        let none: &[(String, String)] = &[];
        drop(Envelope::from_binary(content_type.as_deref(), none, bytes.into()));
    }

    #[test]
    fn every_score_request_is_read_as_it_was_written(
        shape in [1_usize..3, 1_usize..4, 1_usize..6, 1_usize..6],
        seed in vec(any::<u8>(), 450),
        pretty in any::<bool>(),
    ) {
        let mut values = seed.iter().copied().take(shape.iter().product());
        let [batch, channels, height, width] = shape;
        let mut list = |count: usize| values.by_ref().take(count).collect::<Vec<u8>>();
        let data: Vec<Vec<Vec<Vec<u8>>>> = (0..batch)
            .map(|_| (0..channels).map(|_| (0..height).map(|_| list(width)).collect()).collect())
            .collect();
        let request = serde_json::json!({ "data": data });
        let text = if pretty { serde_json::to_vec_pretty(&request) } else { serde_json::to_vec(&request) }.unwrap();
        let read = ScoreRequest::parse(&text).unwrap();
        prop_assert_eq!(read.shape, shape);
        prop_assert_eq!(read.values, seed[..shape.iter().product()].to_vec());
    }

    #[test]
    fn a_damaged_score_request_is_read_or_refused(
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        end in any::<proptest::sample::Index>(),
    ) {
        let mut text = br#"{"data": [[[[0, 12, 255], [7.0, 8, 9]]], [[[1, 2, 3], [4, 5, 6]]]], "more": {"a": [1]}}"#.to_vec();
        for (index, byte) in damage {
            let index = index.index(text.len());
            text[index] = byte;
        }
        for text in [&text[..], &text[..end.index(text.len())]] {
            if let Ok(read) = ScoreRequest::parse(text) {
                prop_assert_eq!(read.values.len(), read.shape.iter().product::<usize>());
            }
        }
    }

    #[test]
    fn no_json_breaks_a_reader(event in btree_map(
        prop_oneof![proptest::sample::select(&NAMED[..]).prop_map(str::to_owned), ".{0,8}"], json(), 0..10,
    )) {
        let text = serde_json::to_vec(&event).unwrap();
        if let Ok(envelope) = Envelope::from_structured(&text) {
            drop(Frame::read(&envelope));
        }
    }

    #[test]
    fn what_is_read_can_be_written(attributes in btree_map(
        prop_oneof![3 => proptest::sample::select(&NAMED[..]).prop_map(str::to_owned), 1 => "[a-z]{0,8}"],
        prop_oneof![
            Just("1.0"), Just("1"), Just("shunt.face.v1"), Just("shunt/front-door"), Just("2026-11-21T09:00:00Z"),
            Just("camera:0-5"), Just(""), Just("x")
        ],
        0..12,
    ), body in vec(any::<u8>(), 0..20)) {
        let attributes: Vec<_> = attributes.into_iter().collect();
        if let Ok(envelope) = Envelope::from_binary(Some("image/png"), &attributes, body.into()) {
            let read = Envelope::from_structured(&envelope.to_structured().unwrap());
            prop_assert_eq!(read.unwrap(), envelope);
        }
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let whole = [
        ("specversion", "1.0"),
        ("id", "1"),
        ("type", "shunt.face.v1"),
        ("source", "shunt/front-door"),
        ("time", "2026-11-21T09:00:00Z"),
    ];
    let read = |attributes: &[(&str, &str)]| Envelope::from_binary(None, attributes, bytes::Bytes::new());
    assert!(read(&whole).is_ok());
    for (at, (name, _)) in whole.iter().enumerate() {
        let mut attributes = whole.to_vec();
        attributes.remove(at);
        assert_eq!(
            read(&attributes).unwrap_err().to_string(),
            format!("the event has no attribute {name:?}")
        );
        for wrong in ["", "0.3", "shunt.face.v2", "shunt/a/b", "yesterday", "org/front-door"] {
            let mut attributes = whole.to_vec();
            attributes[at].1 = wrong;
            // Any text but none is an id.
            if *name != "id" || wrong.is_empty() {
                let error = read(&attributes).unwrap_err().to_string();
                assert!(error.contains(name) && error.contains(wrong), "{error}");
            }
        }
    }
    for name in ["Upper", "with-dash", "data", "datacontenttype", "averyveryverylongname", ""] {
        let error = read(&[&whole[..], &[(name, "x")]].concat()).unwrap_err().to_string();
        assert!(error.contains(&format!("{name:?}")), "{error}");
    }
}

#[test]
fn wildcards_do_not_match_the_brokers_own_topics() {
    for filter in ["#", "+/broker/uptime"] {
        assert!(!filter.parse::<TopicFilter>().unwrap().matches("$SYS/broker/uptime"), "{filter}");
    }
    assert!("$SYS/#".parse::<TopicFilter>().unwrap().matches("$SYS/broker/uptime"));
}
