//! Guests that want more than they get.

use super::*;

#[tokio::test]
async fn guest_that_loops_ends_at_its_time_and_others_are_answered_meanwhile() {
    let yard = Yard::with(1, 8, 8);
    let unruly = yard.install(UNRULY).unwrap();
    let limits = Limits { time_ms: 1000, ..LIMITS };
    let looping = async {
        let begun = Instant::now();
        let ended = yard.call(&unruly, "loop", limits).await;
        assert!(matches!(ended, Err(CallError::Time(1000))), "{ended:?}");
        assert!(begun.elapsed() >= Duration::from_secs(1));
        "looped"
    };
    let others = async {
        tokio::task::yield_now().await;
        for _ in 0..5 {
            yard.lives(&unruly).await;
        }
        "answered"
    };
    tokio::pin!(looping, others);
    let first = tokio::select! {
        biased;
        first = &mut looping => first,
        first = &mut others => first,
    };
    assert_eq!(first, "answered", "the others were kept waiting by the one that loops");
    looping.await;
}

#[tokio::test]
async fn each_of_many_guests_that_loop_at_a_time_ends_at_its_time() {
    let yard = Yard::with(1, 20, 8);
    let unruly = yard.install(UNRULY).unwrap();
    let calls: Vec<_> = (0..20).map(|_| yard.call(&unruly, "loop", SHORT)).collect();
    let mut ended = 0;
    for call in futures(calls).await {
        assert!(matches!(call, Err(CallError::Time(100))), "{call:?}");
        ended += 1;
    }
    assert_eq!(ended, 20);
    yard.lives(&unruly).await;
    assert_eq!(yard.host.in_flight(), 0);
}

#[tokio::test]
async fn guest_that_sleeps_an_hour_ends_at_its_time() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    let ended = yard.call(&unruly, "sleep", SHORT).await;
    assert!(matches!(ended, Err(CallError::Time(100))), "{ended:?}");
    yard.lives(&unruly).await;
    for bytes in [UNRULY_PROGRAM, UNRULY_COMMAND] {
        let program = yard.install(bytes).unwrap();
        let ended = yard.call(&program, "sleep", SHORT).await;
        assert!(matches!(ended, Err(CallError::Time(100))), "{ended:?}");
    }
}

#[tokio::test]
async fn guest_that_loops_before_it_is_called_ends_at_its_time() {
    let yard = Yard::new();
    let start_of_a_module = r#"(module
        (func $spin (loop $again (br $again)))
        (memory (export "memory") 1)
        (func (export "_start"))
        (start $spin))"#;
    let start_in_a_component = r#"(component
        (core module $m (func $spin (loop $again (br $again))) (func (export "run") (result i32) i32.const 0) (start $spin))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r)))"#;
    for text in [start_of_a_module, start_in_a_component] {
        let guest = yard.install_text(text).unwrap();
        let ended = yard.call(&guest, "", SHORT).await;
        assert!(matches!(ended, Err(CallError::Time(100))), "{ended:?}");
    }
    yard.lives(&yard.install(UNRULY).unwrap()).await;
}

#[tokio::test]
async fn guest_that_allocates_without_end_is_told_of_its_memory() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    for _ in 0..20 {
        let ended = yard.call(&unruly, "allocate", LIMITS).await;
        assert!(matches!(ended, Err(CallError::Memory(bytes)) if bytes == 32 * MIB), "{ended:?}");
    }
    yard.lives(&unruly).await;
}

#[tokio::test]
async fn all_memories_of_a_call_count_together() {
    let yard = Yard::new();
    let two = yard
        .install_text(
            r#"(component
        (core module $m (memory (export "memory") 300) (func (export "run") (result i32) i32.const 0))
        (core instance $one (instantiate $m))
        (core instance $two (instantiate $m))
        (func $run (result (result)) (canon lift (core func $two "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r)))"#,
        )
        .unwrap();
    yard.call(&two, "", Limits { memory_bytes: 600 << 16, ..LIMITS }).await.unwrap();
    let ended = yard.call(&two, "", Limits { memory_bytes: (600 << 16) - 1, ..LIMITS }).await;
    assert!(matches!(ended, Err(CallError::Memory(_))), "{ended:?}");
}

#[tokio::test]
async fn guest_that_recurses_ends_with_a_reason() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    let reason = failure(yard.call(&unruly, "recurse", LIMITS).await);
    assert!(reason.contains("recursed too deeply"), "{reason}");
    yard.lives(&unruly).await;
}

#[tokio::test]
async fn guest_that_answers_too_much_is_told_so() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    let whole = yard.call(&unruly, format!("answer {MIB}"), LIMITS).await.unwrap();
    assert_eq!(whole.body.len(), MIB);
    let ended = yard.call(&unruly, format!("answer {}", MIB + 1), LIMITS).await;
    assert!(matches!(ended, Err(CallError::Output(bytes)) if bytes == MIB), "{ended:?}");
    let ended = yard.call(&unruly, "answer 1000000000", LIMITS).await;
    assert!(matches!(ended, Err(CallError::Memory(_))), "{ended:?}");
    for bytes in [UNRULY_PROGRAM, UNRULY_COMMAND] {
        let program = yard.install(bytes).unwrap();
        let whole = yard.call(&program, format!("answer {MIB}"), LIMITS).await.unwrap();
        assert_eq!(whole.body.len(), MIB);
        let ended = yard.call(&program, "much", LIMITS).await;
        assert!(matches!(ended, Err(CallError::Output(bytes)) if bytes == MIB), "{ended:?}");
    }
    let web = yard.install(UNRULY_HTTP).unwrap();
    let ended = yard.send(&web, Request { path: "/much".to_owned(), ..request() }, LIMITS).await;
    assert!(matches!(ended, Err(CallError::Output(bytes)) if bytes == MIB), "{ended:?}");
    yard.lives(&unruly).await;
}

#[tokio::test]
async fn answer_that_claims_more_bytes_than_its_memory_has_is_refused() {
    let yard = Yard::new();
    // The pointer of the answer leads to a response whose body begins at 16 and is 1 GB, 4 GB less one, or lies beyond
    // the memory's end.
    for (at, length) in [(16_u32, 1_000_000_000_u32), (16, u32::MAX), (u32::MAX, 1), (65_530, 100)] {
        let text = handler(&format!(
            "(i32.store (i32.const 1036) (i32.const {at})) (i32.store (i32.const 1040) (i32.const {length})) i32.const 1024"
        ));
        let guest = yard.install_text(&text).unwrap();
        failure(yard.call(&guest, "hello", LIMITS).await);
    }
    // The answer itself lies beyond it, or is not where numbers of its size are.
    for at in [65_534_i64, -1, 1025, 0x7fff_fff0] {
        let guest = yard.install_text(&handler(&format!("i32.const {at}"))).unwrap();
        failure(yard.call(&guest, "hello", LIMITS).await);
    }
    yard.lives(&yard.install(UNRULY).unwrap()).await;
}

#[tokio::test]
async fn memory_that_a_guest_gives_for_its_request_may_be_none() {
    let yard = Yard::new();
    for at in ["i32.const -1", "i32.const 65535", "unreachable", "loop $again (br $again) end unreachable"] {
        let guest = yard.install_text(&handler_with("i32.const 1024", at)).unwrap();
        let ended = yard.call(&guest, vec![7; 100], SHORT).await;
        assert!(matches!(ended, Err(CallError::Failed(_) | CallError::Time(_))), "{at}: {ended:?}");
    }
}

#[tokio::test]
async fn what_a_guest_asks_of_the_host_is_bounded() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    let limits = Limits { time_ms: 20_000, ..LIMITS };
    for order in ["handles", "random 4000000000", "random 1048577", "bodies 100000"] {
        let reason = failure(yard.call(&unruly, order, limits).await);
        assert!(!reason.is_empty());
    }
    let answer = yard.call(&unruly, "headers", limits).await;
    match answer {
        Ok(answer) => assert_eq!(answer.body, "refused"),
        Err(error) => assert!(matches!(error, CallError::Failed(_)), "{error:?}"),
    }
    yard.call(&unruly, "print-much 100000", limits).await.unwrap();
    yard.lives(&unruly).await;
}

#[tokio::test]
async fn bodies_that_nobody_reads_take_little_of_the_host_each() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    let answer = yard.call(&unruly, "bodies 100", LIMITS).await.unwrap();
    let taken: u64 = std::str::from_utf8(&answer.body).unwrap().parse().unwrap();
    assert!((100..=100 * (64 << 10)).contains(&taken), "{taken}");
}

#[tokio::test]
async fn guest_gets_no_socket_of_the_system() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    let answer = yard.call(&unruly, "sockets 100", LIMITS).await.unwrap();
    let said = String::from_utf8_lossy(&answer.body);
    assert!(said.starts_with("0 ") && said.matches("access-denied").count() == 2, "{said}");
}

#[tokio::test]
async fn program_that_waits_for_very_much_at_a_time_is_ended() {
    let yard = Yard::new();
    let waits = |number: u32| {
        yard.install_text(&format!(
            r#"(module
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 700)
        (func (export "_start")
            (drop (call $poll (i32.const 64) (i32.const 64) (i32.const {number}) (i32.const 0)))))"#
        ))
        .unwrap()
    };
    let limits = Limits { memory_bytes: 64 * MIB, ..LIMITS };
    yard.call(&waits(100), "", limits).await.unwrap();
    failure(yard.call(&waits(800_000), "", limits).await);
}

#[tokio::test]
async fn what_a_guest_says_of_its_failure_is_cut_where_it_is_long() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    let ended = yard.call(&unruly, "refuse 3000000", LIMITS).await;
    let Err(CallError::Refused(said)) = ended else { panic!("it refuses: {ended:?}") };
    assert!(said.len() < 5000 && said.ends_with("é ..."), "{}", said.len());
    // The names of functions in a file may be of any length and have any signs.
    let name = format!("\\1b[31m{}", "x".repeat(50_000));
    let text = format!(r#"(module (memory 1) (func $"{name}" (export "_start") unreachable))"#);
    let said = failure(yard.call(&yard.install_text(&text).unwrap(), "", LIMITS).await);
    assert!(said.contains("xxx...") && said.len() < 500 && !said.contains('\u{1b}'), "{said}");
}

#[tokio::test]
async fn content_type_may_be_no_longer_than_the_body_may() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    let send = |bytes| yard.send(&unruly, Request { content_type: "x".repeat(bytes), ..request() }, LIMITS);
    assert_eq!(send(MIB).await.unwrap().content_type.len(), MIB);
    let ended = send(MIB + 1).await;
    assert!(matches!(ended, Err(CallError::Output(bytes)) if bytes == MIB), "{ended:?}");
}

#[tokio::test]
async fn component_of_many_memories_waits_for_as_many_places_and_others_go_on() {
    let yard = Yard::with(2, 8, 40);
    let memories = "(core instance (instantiate $n))".repeat(8);
    let many = yard.install_text(&format!(
        r#"(component
        (core module $n (memory (export "memory") 1))
        {memories}
        (core module $m (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r)))"#
    ));
    let many = many.unwrap();
    assert_eq!(many.0.places, 8);
    let unruly = yard.install(UNRULY).unwrap();
    assert_eq!(unruly.0.places, 1);
    let calls: Vec<_> =
        (0..20).map(|number| yard.call(if number % 2 == 0 { &many } else { &unruly }, "", LIMITS)).collect();
    for answer in futures(calls).await {
        answer.unwrap();
    }
    assert_eq!(yard.host.in_flight(), 0);
}

#[tokio::test]
async fn table_that_grows_without_end_is_refused() {
    let yard = Yard::new();
    let grows = yard
        .install_text(
            r#"(module
        (table 1 funcref)
        (memory (export "memory") 1)
        (func (export "_start") (loop $again (drop (table.grow (ref.null func) (i32.const 1000))) (br $again))))"#,
        )
        .unwrap();
    let reason = failure(yard.call(&grows, "", LIMITS).await);
    assert!(reason.contains("table"), "{reason}");
}

#[tokio::test]
async fn call_beyond_all_places_is_refused_and_one_that_waits_gets_its_turn() {
    let yard = Yard::with(1, 1, 1);
    let unruly = yard.install(UNRULY).unwrap();
    let runs = yard.call(&unruly, "sleep", SHORT);
    let waits = yard.call(&unruly, "hello", LIMITS);
    let refused = yard.call(&unruly, "hello", LIMITS);
    let (runs, waits, refused) = tokio::join!(runs, waits, refused);
    assert!(matches!(runs, Err(CallError::Time(_))), "{runs:?}");
    assert_eq!(waits.unwrap().body, "hello");
    assert!(matches!(refused, Err(CallError::Busy)), "{refused:?}");
    // Who waits longer than it may run is refused too.
    let runs = yard.call(&unruly, "sleep", Limits { time_ms: 500, ..LIMITS });
    let waits = yard.call(&unruly, "hello", SHORT);
    let (_, waits) = tokio::join!(runs, waits);
    assert!(matches!(waits, Err(CallError::Busy)), "{waits:?}");
    assert_eq!(yard.host.in_flight(), 0);
}

#[tokio::test]
async fn call_ends_where_no_one_waits_for_it_any_more() {
    let yard = Yard::with(1, 1, 0);
    let unruly = yard.install(UNRULY).unwrap();
    for order in ["loop", "sleep"] {
        let limits = Limits { time_ms: 3_600_000, ..LIMITS };
        let call =
            yard.host.call(&unruly, Request { body: order.into(), ..request() }, limits, Reach::nothing());
        tokio::time::timeout(Duration::from_millis(50), call).await.expect_err("it does not end by itself");
        shunt_testkit::eventually(PATIENCE, || async { yard.host.in_flight() == 0 }).await;
        yard.lives(&unruly).await;
    }
}

#[tokio::test]
async fn stopped_host_takes_no_call_and_ends_those_that_run_when_told() {
    let yard = Yard::with(1, 2, 2);
    let unruly = yard.install(UNRULY).unwrap();
    let limits = Limits { time_ms: 3_600_000, ..LIMITS };
    let call = |order: &'static str| {
        let (host, unruly) = (yard.host.clone(), unruly.clone());
        let request = Request { body: order.into(), ..request() };
        tokio::spawn(async move { host.call(&unruly, request, limits, Reach::nothing()).await })
    };
    let (loops, sleeps, waits) = (call("loop"), call("sleep"), call("hello"));
    shunt_testkit::eventually(PATIENCE, || async { yard.host.in_flight() == 3 }).await;
    yard.host.stop();
    assert!(matches!(waits.await.unwrap(), Err(CallError::Stopped)));
    assert!(matches!(yard.call(&unruly, "hello", LIMITS).await, Err(CallError::Stopped)));
    assert!(matches!(yard.call(&Guest::echo(), "hello", LIMITS).await, Err(CallError::Stopped)));
    yard.host.end();
    for ended in [loops, sleeps] {
        let ended = tokio::time::timeout(PATIENCE, ended).await.expect("it ends").unwrap();
        assert!(matches!(ended, Err(CallError::Stopped)), "{ended:?}");
    }
}

/// Awaits all of them at a time.
async fn futures<T>(all: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.into_iter().map(|one| Box::pin(tokio::task::unconstrained(one))).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (one, done) in all.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(value) = one.as_mut().poll(context) {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// A component of our own contract whose handler is these instructions; they leave the address of the answer.
fn handler(instructions: &str) -> String {
    handler_with(instructions, "i32.const 2048")
}

/// The same with the instructions that give memory for the request.
fn handler_with(instructions: &str, allocates: &str) -> String {
    format!(
        r#"(component
        (core module $m
            (memory (export "memory") 1)
            (func (export "allocate") (param i32 i32 i32 i32) (result i32) {allocates})
            (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {instructions}))
        (core instance $i (instantiate $m))
        (type $request' (record (field "name" string) (field "source" string) (field "query" string)
            (field "content-type" string) (field "body" (list u8))))
        (type $response' (record (field "content-type" string) (field "body" (list u8))))
        (import "shunt:functions/types@1.0.0" (instance $types
            (type $request' (record (field "name" string) (field "source" string) (field "query" string)
                (field "content-type" string) (field "body" (list u8))))
            (export "request" (type (eq $request')))
            (type $response' (record (field "content-type" string) (field "body" (list u8))))
            (export "response" (type (eq $response')))))
        (alias export $types "request" (type $request))
        (alias export $types "response" (type $response))
        (func $handle (param "request" $request) (result (result $response (error string)))
            (canon lift (core func $i "handle") (memory $i "memory") (realloc (func $i "allocate"))))
        (component $shell
            (import "request" (type $request (eq $request')))
            (import "response" (type $response (eq $response')))
            (import "handle" (func $handle (param "request" $request) (result (result $response (error string)))))
            (export $r "request" (type $request))
            (export $a "response" (type $response))
            (export "handle" (func $handle) (func (param "request" $r) (result (result $a (error string))))))
        (instance $handler (instantiate $shell
            (with "request" (type $request))
            (with "response" (type $response))
            (with "handle" (func $handle))))
        (export "shunt:functions/handler@1.0.0" (instance $handler)))"#
    )
}
