//! Where CEL gives a value, rules give the same.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{event, run};

fn data() -> Value {
    json!({
        "i": 7, "j": -2, "d": 2.5, "e": 0.25, "s": "front-door", "t": "", "yes": true, "no": false, "nothing": null,
        "list": [1, 2, 3], "words": ["a", "bc", "front-door"], "mixed": [1, "a", 2.5, null],
        "map": {"x": 1, "y": {"z": "deep"}},
    })
}

/// What the interpreter of the crate `cel` makes of it; nothing for an error.
fn reference(text: &str) -> Option<cel::Value> {
    let program = cel::Program::compile(text).ok()?;
    let mut context = cel::Context::default();
    context.add_variable("data", cel::to_value(data()).unwrap()).unwrap();
    program.execute(&context).ok()
}

/// What a rule makes of it: true or false; the failure otherwise.
fn ours(text: &str) -> Result<bool, String> {
    let rule = json!({"from": ["x"], "when": text});
    let run = run(&rule, [event("x", "a", 0, data())], 0);
    match &run.rules[0].last_failure {
        Some(failure) => Err(failure.message.clone()),
        None => Ok(run.rules[0].counters.raised == 1),
    }
}

fn check(text: &str) {
    match reference(text) {
        Some(cel::Value::Bool(expected)) => assert_eq!(ours(text), Ok(expected), "{text}"),
        Some(other) => assert!(ours(text).is_err(), "{text}: CEL says {other:?}"),
        // Beyond CEL, numbers of both types may be mixed.
        None => {}
    }
}

#[test]
fn expressions_mean_what_cel_says_they_mean() {
    for text in [
        "data.i == 7",
        "data.i == 7.0",
        "data.i != 7",
        "data.i > data.j",
        "data.d > 2",
        "data.d >= 2.5",
        "data.i / 2 == 3",
        "data.i % 2 == 1",
        "data.j % 2 == 0",
        "-data.i == -7",
        "data.i - 10 < 0",
        "data.d * 2.0 == 5.0",
        "data.d / 0.0 > 1.0",
        "data.s == 'front-door'",
        "data.s + '!' == 'front-door!'",
        "data.s < 'g'",
        "data.s.startsWith('front')",
        "data.s.endsWith('door')",
        "data.s.contains('t-d')",
        "size(data.s) == 10",
        "data.s.size() == 10",
        "size(data.list) == 3",
        "size(data.map) == 2",
        "data.yes && !data.no",
        "data.yes || data.missing",
        "data.missing || data.yes",
        "data.no && data.missing",
        "data.missing && data.no",
        "data.nothing == null",
        "data.i == null",
        "data.i == 'x'",
        "2 in data.list",
        "4 in data.list",
        "2.0 in data.list",
        "'bc' in data.words",
        "'x' in data.map",
        "'q' in data.map",
        "data.i in [1, 7]",
        "data.list[1] == 2",
        "data.map.y.z == 'deep'",
        "data.map['x'] == 1",
        "data['i'] == 7",
        "has(data.i)",
        "has(data.q)",
        "has(data.map.y)",
        "has(data.map.q)",
        "has(data.map.y.z)",
        "data.list == [1, 2, 3]",
        "data.list + [4] == [1, 2, 3, 4]",
        "data.list != [1, 2]",
        "data.list.all(x, x > 0)",
        "data.list.all(x, x > 1)",
        "data.list.exists(x, x == 2)",
        "data.list.exists(x, x == 9)",
        "data.list.exists_one(x, x > 2)",
        "data.list.exists_one(x, x > 1)",
        "data.list.filter(x, x > 1) == [2, 3]",
        "data.list.map(x, x * 2) == [2, 4, 6]",
        "data.list.map(x, x > 1, x * 2) == [4, 6]",
        "data.words.exists(w, w == data.s)",
        "data.mixed.exists(x, x == 'a')",
        "data.mixed.exists(x, x > 1)",
        "data.mixed.all(x, x > 0)",
        "data.map.exists(k, k == 'x')",
        "data.map.all(k, size(k) == 1)",
        "data.list.map(x, data.list.filter(y, y > x)) == [[2, 3], [3], []]",
        "data.i > 5 ? data.yes : data.no",
        "int(data.d) == 2",
        "double(data.i) == 7.0",
        "string(data.i) == '7'",
        "int('12') == 12",
        "string(data.yes) == 'true'",
        "data.s",
        "data.i",
        "data.missing == 1",
        "data.i.x == 1",
        "data.list[7] == 1",
        "data.i + 'x' == 'y'",
        "9223372036854775807 + 1 > 0",
        "data.i / 0 == 1",
        "data.s > 1",
        "!data.i",
        "data.i && data.yes",
        "data.yes == true",
        "data.list.exists(x, data.list.exists(y, y == x + 1))",
    ] {
        check(text);
    }
}

#[test]
fn numbers_of_both_types_may_be_mixed() {
    for text in [
        "data.i + 0.5 == 7.5",
        "1 + data.d == 3.5",
        "data.d * 2 == 5.0",
        "data.i / 2.0 == 3.5",
        "math.round(data.d) == 3",
        "math.greatest(data.i, data.d) == 7",
        "math.least(1, data.e) == 0.25",
        "math.abs(data.j) == 2",
    ] {
        assert_eq!(ours(text), Ok(true), "{text}");
    }
}

#[test]
fn a_failure_tells_its_place() {
    for (text, expected) in [
        ("data.yes && data.missing", "there is no field \"missing\"; has() asks for it (line 1, column 17)"),
        ("data.i + data.s == 1", "an int + a string makes no sense (line 1, column 8)"),
        ("data.yes\n  && data.s > 1", "a string > an int makes no sense (line 2, column 13)"),
        ("data.i", "it must be true or false, but is an int"),
        ("data.list[7] == 1", "the list has 3 elements, none with number 7 (line 1, column 10)"),
        ("data.i / 0 == 1", "it divides by zero (line 1, column 8)"),
        ("data.map.y.q == 1", "there is no field \"q\"; has() asks for it (line 1, column 11)"),
    ] {
        assert_eq!(ours(text).unwrap_err(), expected, "{text}");
    }
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("data.i"),
        Just("data.j"),
        Just("data.d"),
        Just("data.s"),
        Just("data.t"),
        Just("data.yes"),
        Just("data.no"),
        Just("data.nothing"),
        Just("data.list"),
        Just("data.words"),
        Just("data.map"),
        Just("data.map.y.z"),
        Just("data.q"),
        Just("1"),
        Just("0"),
        Just("2.5"),
        Just("'a'"),
        Just("true"),
        Just("null"),
        Just("[1, 2]"),
        Just("'front-door'"),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operator = prop_oneof![
            Just("+"),
            Just("-"),
            Just("*"),
            Just("/"),
            Just("%"),
            Just("=="),
            Just("!="),
            Just("<"),
            Just("<="),
            Just(">"),
            Just(">="),
            Just("in"),
            Just("&&"),
            Just("||"),
        ];
        prop_oneof![
            (inner.clone(), operator, inner.clone())
                .prop_map(|(one, operator, other)| format!("({one} {operator} {other})")),
            inner.clone().prop_map(|one| format!("!({one})")),
            inner.clone().prop_map(|one| format!("size({one})")),
            inner.clone().prop_map(|one| format!("string({one})")),
            (inner.clone(), inner.clone())
                .prop_map(|(one, other)| format!("({one}).exists(x, x == ({other}))")),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one}).all(x, x != ({other}))")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(one, two, three)| format!("(({one}) ? ({two}) : ({three}))")),
            (inner.clone(), inner).prop_map(|(one, other)| format!("({one})[{other}]")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn random_expressions_mean_what_cel_says_they_mean(text in expression()) {
        check(&format!("{text} == {text}"));
        check(&text);
    }
}
