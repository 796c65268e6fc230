//! Functions that are text: Python and JavaScript.

use std::{sync::OnceLock, time::Instant};

use functions::FunctionsSettings;
use reqwest::Method;
use serde_json::{Value, json};
use shunt_bus::Delivery;
use shunt_wire::{Envelope, Kind, Name, TopicFilter};

use crate::yard::{Answer, LIMIT, Yard, interpreters, send};

/// Makes the interpreters ready where they were built; where they were not, a test has nothing to run.
fn interpreters_are_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| {
        if interpreters().join("python.wasm").is_file() {
            functions::compile_interpreters(&interpreters()).unwrap();
            return true;
        }
        assert!(
            std::env::var_os("CI").is_none(),
            "the interpreters are missing: run scripts/setup functions"
        );
        println!("passed over: no interpreters of text functions; scripts/setup functions builds them");
        false
    })
}

async fn yard() -> Option<Yard> {
    if !interpreters_are_there() {
        return None;
    }
    let settings = FunctionsSettings { time_ms: 2_000, ..FunctionsSettings::default() };
    Some(Yard::start(settings).await)
}

/// Installs a text of a language; the module's answer.
async fn put(yard: &Yard, name: &str, language: &str, grants: &Value, source: impl Into<String>) -> Answer {
    let content_type = if language == "python" { "text/x-python" } else { "text/javascript" };
    let mut request =
        yard.request(Method::PUT, &format!("/functions/{name}")).header("Content-Type", content_type);
    if !grants.is_null() {
        request = request.header("Shunt-Grants", grants.to_string());
    }
    send(request.body(source.into())).await
}

async fn install(yard: &Yard, name: &str, language: &str, grants: &Value, source: impl Into<String>) {
    let answer = put(yard, name, language, grants, source).await;
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
}

/// One row: what a handler gives, and the answer that it becomes.
struct Row(&'static str, &'static str, &'static [u8]);

async fn check_answers(yard: &Yard, language: &str, wrap: impl Fn(&str) -> String, rows: &[Row]) {
    for Row(expression, content_type, body) in rows {
        install(yard, "answers", language, &Value::Null, wrap(expression)).await;
        let answer = yard.post("/answers", "text").await;
        assert_eq!(answer.status, 200, "{expression}: {}", answer.text());
        assert_eq!(answer.body, *body, "{expression}: {}", answer.text());
        assert_eq!(answer.header("content-type"), *content_type, "{expression}");
    }
}

const AVERAGE: &str = "def handle(req):
    numbers = [float(number) for number in req.split(',')]
    return sum(numbers) / len(numbers)
";

#[tokio::test]
async fn a_python_file_installs_as_it_is_and_prints_floats_as_edgefaas_does() {
    let Some(yard) = yard().await else { return };
    assert_eq!(yard.post("/mgmt/average", AVERAGE).await.text().trim_end(), "average.py has been created");
    assert_eq!(yard.post("/average", "0,1,1").await.text(), "0.666666666667");
    assert_eq!(yard.post("/average", "4,6").await.text(), "5.0");
    assert_eq!(yard.entry("average").await["kind"], "python");
    yard.end().await;
}

#[tokio::test]
async fn what_a_python_handler_gives_becomes_the_answer() {
    let Some(yard) = yard().await else { return };
    let wrap =
        |expression: &str| format!("import math, decimal\ndef handle(req):\n    return {expression}\n");
    let text = "text/plain; charset=utf-8";
    let rows = [
        Row("req", text, b"text"),
        Row("'é'", text, "é".as_bytes()),
        Row("b'\\xff\\x00'", "application/octet-stream", b"\xff\0"),
        Row("7", text, b"7"),
        Row("1e16", text, b"1e+16"),
        Row("math.inf", text, b"inf"),
        Row("True", "application/json", b"true"),
        Row("{'a': [1.5, None]}", "application/json", b"{\"a\": [1.5, null]}"),
        Row("None", text, b""),
    ];
    check_answers(&yard, "python", wrap, &rows).await;
    yard.end().await;
}

#[tokio::test]
async fn what_a_javascript_handler_gives_becomes_the_answer() {
    let Some(yard) = yard().await else { return };
    let wrap = |expression: &str| format!("export function handle(req) {{ return {expression}; }}");
    let text = "text/plain; charset=utf-8";
    let rows = [
        Row("req", text, b"text"),
        Row("'é'", text, "é".as_bytes()),
        Row("new Uint8Array([255, 0])", "application/octet-stream", b"\xff\0"),
        Row("new Uint8Array([1, 2, 3]).buffer", "application/octet-stream", b"\x01\x02\x03"),
        Row("7.5", text, b"7.5"),
        Row("true", "application/json", b"true"),
        Row("({a: [1.5, null]})", "application/json", b"{\"a\":[1.5,null]}"),
        Row("undefined", text, b""),
        Row("new Promise((done) => done('later'))", text, b"later"),
    ];
    check_answers(&yard, "javascript", wrap, &rows).await;
    yard.end().await;
}

#[tokio::test]
async fn a_javascript_handler_is_found_in_each_of_its_forms() {
    let Some(yard) = yard().await else { return };
    for source in [
        "export function handle(req) { return req.length; }",
        "export const handle = (req) => req.length;",
        "export default async (req) => req.length;",
        "module.exports = (req) => req.length;",
        "module.exports = { handle(req) { return req.length; } };",
        "exports.handle = async function (req) { await null; return req.length; };",
        "function handle(req) { return req.length; }",
        "const handle = (req) => req.length;",
        "const later = await Promise.resolve(0);\nexport const handle = (req) => req.length + later;",
    ] {
        install(&yard, "length", "javascript", &Value::Null, source).await;
        assert_eq!(yard.post("/length", "four").await.text(), "4", "{source}");
    }
    yard.end().await;
}

#[tokio::test]
async fn bytes_that_are_no_text_reach_a_handler_as_bytes() {
    let Some(yard) = yard().await else { return };
    install(
        &yard,
        "py",
        "python",
        &Value::Null,
        "def handle(req):\n    return type(req).__name__ + str(len(req))\n",
    )
    .await;
    install(&yard, "js", "javascript", &Value::Null, "const handle = (req) => typeof req + req.length;")
        .await;
    for (body, python, javascript) in [
        (b"text".to_vec(), "str4", "string4"),
        (Vec::new(), "str0", "string0"),
        (b"a\0b".to_vec(), "str3", "string3"),
        (b"\xff\xfe".to_vec(), "bytes2", "object2"),
        (b"\xed\xa0\x80".to_vec(), "bytes3", "object3"),
    ] {
        assert_eq!(yard.post("/py", body.clone()).await.text(), python);
        assert_eq!(yard.post("/js", body).await.text(), javascript);
    }
    yard.end().await;
}

#[tokio::test]
async fn a_handler_can_see_the_request_and_answer_status_and_headers() {
    let Some(yard) = yard().await else { return };
    let python = "def handle(event, context):
    seen = [event.method, event.path, event.query, event.headers['X-Colour'], event.body.decode(), context.name]
    return {'statusCode': 418, 'headers': {'X-Answer': 'yes'}, 'body': seen}
";
    let javascript = "exports.handle = (req, {method, path, query, headers, name}) => ({
  statusCode: 418, headers: {'X-Answer': 'yes'}, body: [method, path, query, headers['x-colour'], req, name],
});";
    install(&yard, "py", "python", &Value::Null, python).await;
    install(&yard, "js", "javascript", &Value::Null, javascript).await;
    for (name, query) in [("py", json!({"a": "1"})), ("js", json!("a=1"))] {
        let request =
            yard.request(Method::PUT, &format!("/{name}/more?a=1")).header("X-Colour", "red").body("body");
        let answer = send(request).await;
        assert_eq!(answer.status, 418, "{}", answer.text());
        assert_eq!(answer.header("x-answer"), "yes");
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.json(), json!(["PUT", "/more", query, "red", "body", name]));
    }
    yard.end().await;
}

#[tokio::test]
async fn a_text_function_reaches_what_it_was_granted_and_no_more() {
    let Some(yard) = yard().await else { return };
    let python = "import shunt
def handle(req):
    try:
        shunt.state.set('last', req)
        try:
            shunt.state.set('last', 'x', etag='old')
        except shunt.Conflict:
            shunt.publish('shunt/label/py', {'seen': shunt.state.get('last'), 'keys': shunt.state.keys()})
        shunt.publish('shunt/alert/py', 'no')
    except shunt.Denied as error:
        return f'denied: {error}'
    return 'reached'
";
    let javascript = "exports.handle = (req) => {
  try {
    shunt.state.set('last', req);
    try {
      shunt.state.set('last', 'x', 'old');
    } catch (error) {
      if (!(error instanceof shunt.Conflict)) throw error;
      shunt.publish('shunt/label/js', {seen: shunt.state.get('last'), keys: shunt.state.keys()});
    }
    shunt.publish('shunt/alert/js', 'no');
  } catch (error) {
    if (error instanceof shunt.Denied) return `denied: ${error.message}`;
    throw error;
  }
  return 'reached';
};";
    let mut labels = yard.bus.subscribe(&TopicFilter::kind(&Kind::LABEL), Delivery::Assured).await.unwrap();
    let mut alerts = yard.bus.subscribe(&TopicFilter::kind(&Kind::ALERT), Delivery::Assured).await.unwrap();
    for (name, language, source) in [("py", "python", python), ("js", "javascript", javascript)] {
        // Without grants the first line is refused already.
        install(&yard, name, language, &Value::Null, source).await;
        let told = yard.post(&format!("/{name}"), "one").await.text();
        assert!(told.starts_with("denied: ") && !told.contains("shunt/alert"), "{told}");
        let grants = json!({"state": format!("bucket-{name}"), "publish": ["shunt/label/+"]});
        install(&yard, name, language, &grants, source).await;
        let told = yard.post(&format!("/{name}"), "two").await.text();
        assert!(told.starts_with("denied: ") && told.contains("shunt/alert"), "{told}");
        let label = tokio::time::timeout(LIMIT, labels.next()).await.unwrap().unwrap();
        let seen: Value = serde_json::from_slice(&label.payload).unwrap();
        assert_eq!(seen, json!({"seen": "two", "keys": ["last"]}), "{name}");
    }
    // What was denied came to nobody: the first alert is the one that is sent now.
    let event = Envelope::new("last", Kind::ALERT, Name::from_static("tester"), "2026-11-21T09:00:00Z");
    yard.bus.publish(event.with_json(&json!({})).unwrap(), Delivery::Assured).await.unwrap();
    let alert = tokio::time::timeout(LIMIT, alerts.next()).await.unwrap().unwrap();
    assert_eq!(alert.topic, "shunt/alert/tester");
    yard.end().await;
}

#[tokio::test]
async fn each_call_draws_other_numbers_and_keeps_nothing_of_the_call_before() {
    let Some(yard) = yard().await else { return };
    let python = "import random\nseen = []\ndef handle(req):\n    seen.append(1)\n    return f'{len(seen)} {random.random()}'\n";
    let javascript = "let seen = 0; const handle = () => `${++seen} ${Math.random()}`;";
    install(&yard, "py", "python", &Value::Null, python).await;
    install(&yard, "js", "javascript", &Value::Null, javascript).await;
    for path in ["/py", "/js"] {
        let (first, second) = (yard.post(path, "").await.text(), yard.post(path, "").await.text());
        assert!(first.starts_with("1 ") && second.starts_with("1 "), "{first}, {second}");
        assert_ne!(first, second);
    }
    yard.end().await;
}

#[tokio::test]
async fn a_text_with_a_mistake_is_refused_with_its_line_when_it_is_installed() {
    let Some(yard) = yard().await else { return };
    let long = format!("def handle(req):\n    return 1\n# {}", "x".repeat(2 << 20));
    let rows = [
        ("python", "x = 1\ndef handle(req)\n    return 1\n", "line 2"),
        ("python", "x = 1\n", "no handler"),
        ("python", "handle = 3\n", "not a function"),
        ("python", "import numpy\ndef handle(req):\n    return 1\n", "No module named 'numpy'"),
        ("python", "def handle(req):\n    return 1\n\n1 / 0\n", "line 4"),
        (
            "python",
            "import shunt\nshunt.state.get('a')\ndef handle(req):\n    return 1\n",
            "only while handle runs",
        ),
        ("python", "def handle(req):\n    return '\0'\n", "null bytes"),
        ("python", "while True: pass\n", "longer than its 2000 ms"),
        ("python", "x = [0]\nwhile True: x += x\n", "more memory"),
        ("javascript", "let a;\nfunction handle(req { }\n", ":2:"),
        ("javascript", "let x = 1;", "no handler"),
        ("javascript", "module.exports = 3;", "no handler"),
        ("javascript", "import fs from 'fs';\nexport const handle = () => 1;", "'fs'"),
        ("javascript", "const handle = () => 1;\n\nnothing.here();", ":3:"),
        ("javascript", "shunt.state.get('a'); const handle = () => 1;", "only while handle runs"),
        ("javascript", "for (;;);", "longer than its 2000 ms"),
        ("javascript", "const x = []; for (;;) x.push(new Uint8Array(1e6).fill(1));", "more memory"),
        ("python", long.as_str(), ""),
    ];
    for (language, source, told) in rows {
        let begun = Instant::now();
        let answer = put(&yard, "wrong", language, &Value::Null, source).await;
        let shown: String = source.chars().take(60).collect();
        assert!((400..500).contains(&answer.status), "{shown}: {} {}", answer.status, answer.text());
        assert!(answer.text().contains(told), "{shown}: {}", answer.text());
        assert!(begun.elapsed() < LIMIT);
    }
    let latin = yard
        .request(Method::PUT, "/functions/wrong")
        .header("Content-Type", "text/x-python")
        .body(b"x = '\xe9'\n".to_vec());
    assert!((400..500).contains(&send(latin).await.status));
    assert_eq!(yard.get("/functions/wrong").await.status, 404);
    yard.end().await;
}

#[tokio::test]
async fn a_call_that_goes_wrong_ends_and_tells_why_and_the_next_one_is_answered() {
    let Some(yard) = yard().await else { return };
    let rows = [
        (
            "python",
            "def inner():\n    return 1 / 0\ndef handle(req):\n    return inner()\n",
            500,
            "line 2, in inner",
        ),
        ("python", "import sys\ndef handle(req):\n    sys.exit(3)\n", 500, "SystemExit"),
        ("python", "def handle(req):\n    return {1}\n", 500, "cannot be sent"),
        ("python", "def handle(req):\n    return handle(req)\n", 500, "RecursionError"),
        ("python", "def handle(req):\n    while True: pass\n", 504, "2000 ms"),
        ("python", "def handle(req):\n    x = ['a']\n    while True: x += x\n", 500, "memory"),
        ("python", "def handle(req):\n    return b'a' * 9_000_000\n", 502, "8192 KiB"),
        ("python", "def handle(req):\n    open('/etc/passwd')\n", 500, "No such file"),
        ("python", "def handle(req):\n    return {'statusCode': 99}\n", 500, "200 to 599"),
        (
            "javascript",
            "function inner() { return null.x; }\nconst handle = () => inner();",
            500,
            "at inner (wrong.js:1:",
        ),
        ("javascript", "const handle = () => { throw 'a word'; };", 500, "a word was thrown"),
        ("javascript", "const handle = () => handle() + 1;", 500, "RangeError"),
        ("javascript", "const handle = () => JSON.parse('['.repeat(1e6));", 500, "recursed too deeply"),
        ("javascript", "const handle = () => { for (;;); };", 504, "2000 ms"),
        ("javascript", "const handle = () => /(a+)+$/.test('a'.repeat(40) + 'b');", 504, "2000 ms"),
        (
            "javascript",
            "const handle = () => { const x = []; for (;;) x.push(new Uint8Array(1e6).fill(1)); };",
            500,
            "memory",
        ),
        ("javascript", "const handle = () => new Uint8Array(9_000_000);", 502, "8192 KiB"),
        ("javascript", "const handle = () => new Promise(() => {});", 500, "never comes"),
        ("javascript", "const handle = () => fetch('http://localhost');", 500, "fetch is not defined"),
    ];
    for (language, source, status, told) in rows {
        install(&yard, "wrong", language, &Value::Null, source).await;
        let answer = yard.post("/wrong", "").await;
        assert_eq!(answer.status, status, "{source}: {}", answer.text());
        assert!(answer.text().contains(told), "{source}: {}", answer.text());
    }
    install(&yard, "average", "python", &Value::Null, AVERAGE).await;
    assert_eq!(yard.post("/average", "0,1,1").await.text(), "0.666666666667");
    yard.end().await;
}

#[tokio::test]
async fn what_a_text_prints_is_in_its_log() {
    let Some(yard) = yard().await else { return };
    let python = "import sys\ndef handle(req):\n    print('one', req)\n    print('two', end='')\n    print('three', file=sys.stderr)\n";
    install(&yard, "py", "python", &Value::Null, python).await;
    install(
        &yard,
        "js",
        "javascript",
        &Value::Null,
        "const handle = (req) => { console.log('one', req); console.error('two', [3]); };",
    )
    .await;
    yard.post("/py", "a").await;
    yard.post("/js", "b").await;
    let python = yard.get("/functions/py/logs").await.text();
    assert!(python.contains("one a") && python.contains("two") && python.contains("three"), "{python}");
    let javascript = yard.get("/functions/js/logs").await.text();
    assert!(javascript.contains("one b") && javascript.contains("two [3]"), "{javascript}");
    yard.end().await;
}

/// Not a test of speed, but its figures: `cargo test -p functions -- --ignored --nocapture figures`.
#[tokio::test]
#[ignore = "prints figures"]
async fn figures_of_text_functions() {
    let Some(yard) = yard().await else { return };
    for (language, source) in [("python", AVERAGE), ("javascript", AVERAGE_JS)] {
        let mut installs = Vec::new();
        let mut calls = Vec::new();
        for number in 0..50 {
            let begun = Instant::now();
            install(&yard, "average", language, &Value::Null, format!("{source}\n{}", "\n".repeat(number)))
                .await;
            installs.push(begun.elapsed());
        }
        for _ in 0..1000 {
            let begun = Instant::now();
            yard.post("/average", "0,1,1").await;
            calls.push(begun.elapsed());
        }
        installs.sort();
        calls.sort();
        println!(
            "{language}: install p50 {:?} most {:?}; call over HTTP p50 {:?} p99 {:?}; entry {}",
            installs[25],
            installs[49],
            calls[500],
            calls[990],
            yard.entry("average").await
        );
    }
    yard.end().await;
}

const AVERAGE_JS: &str = "export function handle(req) {
  const numbers = req.split(',').map(Number);
  return numbers.reduce((sum, number) => sum + number) / numbers.length;
}
";
