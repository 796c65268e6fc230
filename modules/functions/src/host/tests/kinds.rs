//! Each kind of guest, and what it sees.

use super::*;

#[tokio::test]
async fn echo_answers_what_it_is_sent() {
    let yard = Yard::new();
    let answer = yard.call(&Guest::echo(), "hello", LIMITS).await.unwrap();
    assert_eq!((answer.content_type.as_str(), &answer.body[..]), ("text/plain", &b"hello"[..]));
    assert_eq!(Guest::echo().kind(), Kind::Echo);
}

#[tokio::test]
async fn component_of_our_contract_answers_refuses_and_fails() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    assert_eq!(unruly.kind(), Kind::Function);
    let answer = yard.call(&unruly, "hello", LIMITS).await.unwrap();
    assert_eq!((answer.status, answer.content_type.as_str()), (http::StatusCode::OK, "text/plain"));
    assert_eq!(answer.body, "hello");
    assert!(!answer.took.is_zero());
    let refused = yard.call(&unruly, "refuse", LIMITS).await;
    assert!(matches!(&refused, Err(CallError::Refused(text)) if text == "as told"), "{refused:?}");
    for order in ["trap", "panic"] {
        let reason = failure(yard.call(&unruly, order, LIMITS).await);
        assert!(reason.contains("unreachable"), "{reason}");
    }
    let reason = failure(yard.call(&unruly, "exit", LIMITS).await);
    assert!(reason.contains("exit"), "{reason}");
    yard.call(&unruly, "print", LIMITS).await.unwrap();
    yard.lives(&unruly).await;
}

#[tokio::test]
async fn each_call_begins_in_a_fresh_instance() {
    let yard = Yard::with(1, 1, 1);
    let counts = yard
        .install_text(
            r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "0")
        (func (export "_start")
            (i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.const 1)))
            (i32.store (i32.const 16) (i32.const 0))
            (i32.store (i32.const 20) (i32.const 1))
            (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))))"#,
        )
        .unwrap();
    for _ in 0..100 {
        assert_eq!(yard.call(&counts, "", LIMITS).await.unwrap().body, "1");
    }
}

#[tokio::test]
async fn function_sees_neither_files_nor_sockets_nor_the_hosts_environment() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    for order in ["read-file", "connect", "look-up"] {
        let answer = yard.call(&unruly, order, LIMITS).await.unwrap();
        assert!(answer.body.starts_with(b"Err"), "{order}: {:?}", answer.body);
    }
    assert_eq!(yard.call(&unruly, "environment", LIMITS).await.unwrap().body, "0 0");
}

#[tokio::test]
async fn program_reads_the_body_and_its_output_is_the_answer() {
    let yard = Yard::new();
    // A component can tell only that it did not end well; WASI preview 1 has numbers for it.
    for (bytes, kind, code) in [(UNRULY_PROGRAM, Kind::WasiP1, 3), (UNRULY_COMMAND, Kind::Command, 1)] {
        let program = yard.install(bytes).unwrap();
        assert_eq!(program.kind(), kind);
        let long = vec![b'y'; 300_000];
        assert_eq!(yard.call(&program, long.clone(), LIMITS).await.unwrap().body, long);
        assert_eq!(yard.call(&program, "", LIMITS).await.unwrap().body, "");
        let reason = failure(yard.call(&program, "exit 3", LIMITS).await);
        assert_eq!(reason, format!("it ended with exit code {code}: last line"));
        assert_eq!(yard.call(&program, "exit 0", LIMITS).await.unwrap().body, "");
        failure(yard.call(&program, "panic", LIMITS).await);
        assert_eq!(yard.call(&program, "read-file", LIMITS).await.unwrap().body, "true");
    }
}

#[tokio::test]
async fn program_sees_the_requests_head_and_nothing_else_in_its_environment() {
    let yard = Yard::new();
    for bytes in [UNRULY_PROGRAM, UNRULY_COMMAND] {
        let program = yard.install(bytes).unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert("x-request-id", "7".parse().unwrap());
        let asked = Request {
            method: http::Method::PUT,
            path: "/door/front".to_owned(),
            query: "a=1&b=2".to_owned(),
            headers,
            body: "environment".into(),
            ..request()
        };
        let answer = yard.send(&program, asked, LIMITS).await.unwrap();
        let expected = "tested\nHttp_ContentLength=11\nHttp_ContentType=text/plain\nHttp_Method=PUT\n\
                        Http_Path=/door/front\nHttp_Query=a=1&b=2\nHttp_X_Request_Id=7\n";
        assert_eq!(answer.body, expected);
    }
}

#[tokio::test]
async fn http_component_gets_the_request_and_its_answer_is_whole() {
    let yard = Yard::new();
    let web = yard.install(UNRULY_HTTP).unwrap();
    assert_eq!(web.kind(), Kind::Http);
    let asked = Request {
        path: "/there".to_owned(),
        query: "a=1".to_owned(),
        body: vec![7; 100_000].into(),
        ..request()
    };
    let answer = yard.send(&web, asked, LIMITS).await.unwrap();
    assert_eq!(answer.status.as_u16(), 418);
    assert_eq!(answer.content_type, "text/plain");
    assert_eq!(answer.headers.get("x-one").unwrap(), "1");
    assert_eq!(answer.body, "Method::Post Some(\"localhost\") /there?a=1 100000 bytes");
}

#[tokio::test]
async fn http_component_that_does_not_answer_well_fails_with_a_reason() {
    let yard = Yard::new();
    let web = yard.install(UNRULY_HTTP).unwrap();
    let at = |path: &str| Request { path: path.to_owned(), ..request() };
    for (path, reason) in [
        ("/silent", "without an answer"),
        ("/trap", "unreachable"),
        ("/error", "as told"),
        ("/half", "in the midst"),
        ("/half-then-trap", "unreachable"),
    ] {
        let said = failure(yard.send(&web, at(path), LIMITS).await);
        assert!(said.contains(reason), "{path}: {said}");
    }
    let ended = yard.send(&web, at("/loop"), SHORT).await;
    assert!(matches!(ended, Err(CallError::Time(100))), "{ended:?}");
    let refused = yard.send(&web, at("/a b"), LIMITS).await;
    assert!(matches!(refused, Err(CallError::Refused(_))), "{refused:?}");
    assert_eq!(yard.send(&web, at(""), LIMITS).await.unwrap().status.as_u16(), 418);
}
