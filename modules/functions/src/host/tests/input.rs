//! Files that are no functions, and what is kept of those that are.

use super::*;

fn refusal(yard: &Yard, bytes: &[u8]) -> Refusal {
    yard.install(bytes).map(|guest| guest.kind()).expect_err("it is refused")
}

fn refusal_of_text(yard: &Yard, text: &str) -> String {
    refusal(yard, &wat::parse_str(text).unwrap()).to_string()
}

#[test]
fn what_is_neither_webassembly_nor_text_is_refused() {
    let yard = Yard::new();
    assert!(matches!(refusal(&yard, b""), Refusal::Unknown(_)));
    assert!(matches!(refusal(&yard, b"hello"), Refusal::Unknown(_)));
    assert!(matches!(refusal(&yard, b"\x7fELF\x02\x01\xff"), Refusal::Unknown(_)));
    assert!(matches!(yard.host.inspect(b"hello", Some("wasm")), Err(Refusal::Invalid(_))));
}

#[test]
fn text_is_known_by_its_extension_or_its_handler() {
    let yard = Yard::new();
    let kind = |text: &str, extension| yard.host.inspect(text.as_bytes(), extension).unwrap();
    assert_eq!(kind("x = 1", Some("py")), Kind::Python);
    assert_eq!(kind("let x = 1", Some("js")), Kind::JavaScript);
    assert_eq!(kind("def handle(req):\n  return req", None), Kind::Python);
    assert_eq!(kind("export function handle(req) { return req }", None), Kind::JavaScript);
    assert_eq!(kind("exports.handle = (req) => req", None), Kind::JavaScript);
}

#[test]
fn file_that_ends_too_early_is_refused_wherever_it_ends() {
    let yard = Yard::new();
    for bytes in [UNRULY, UNRULY_PROGRAM] {
        for end in (0..100).chain((100..bytes.len()).step_by(997)) {
            yard.host.inspect(&bytes[..end], None).expect_err("a part of a file is no function");
        }
    }
}

#[test]
fn file_with_a_changed_byte_is_looked_at_without_harm() {
    let yard = Yard::new();
    for at in (0..UNRULY_PROGRAM.len()).step_by(101) {
        let mut bytes = UNRULY_PROGRAM.to_vec();
        bytes[at] ^= 0xff;
        let _either = yard.host.inspect(&bytes, None);
    }
    // Some of them as far as they come.
    for at in (0..UNRULY_PROGRAM.len()).step_by(9973) {
        let mut bytes = UNRULY_PROGRAM.to_vec();
        bytes[at] ^= 0x55;
        let _either = yard.install(&bytes);
    }
}

#[test]
fn unknown_imports_are_named() {
    let yard = Yard::new();
    let module = r#"(module
        (import "env" "launch" (func))
        (import "wasi_snapshot_preview1" "fd_fly" (func))
        (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
        (func (export "_start")))"#;
    let said = refusal_of_text(&yard, module);
    assert_eq!(said, "it imports what functions do not get: env/launch, wasi_snapshot_preview1/fd_fly");
    let component = r#"(component
        (import "acme:weapons/launch@1.0.0" (instance))
        (import "wasi:io/error@0.2.3" (instance))
        (import "wasi:io/poll@0.3.0" (instance))
        (import "plain" (func)))"#;
    let said = refusal_of_text(&yard, component);
    assert_eq!(
        said,
        "it imports what functions do not get: acme:weapons/launch@1.0.0, wasi:io/poll@0.3.0, plain"
    );
    let many: String = (0..100).map(|number| format!("(import \"env\" \"f{number}\" (func))")).collect();
    let said = refusal_of_text(&yard, &format!("(module {many})"));
    assert!(said.ends_with("env/f7, and 92 more"), "{said}");
}

#[test]
fn known_interface_with_what_it_does_not_have_is_refused() {
    let yard = Yard::new();
    let said = refusal_of_text(
        &yard,
        r#"(component
        (import "wasi:random/random@0.2.0" (instance (export "get-lucky" (func))))
        (core module $m (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r)))"#,
    );
    assert!(said.contains("get-lucky"), "{said}");
    let said = refusal_of_text(
        &yard,
        r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i64))) (func (export "_start")))"#,
    );
    assert!(said.contains("fd_write"), "{said}");
}

#[test]
fn file_with_nothing_to_call_is_refused() {
    let yard = Yard::new();
    for text in [
        "(module)",
        "(component)",
        r#"(module (func (export "main")))"#,
        r#"(module (memory (export "_start") 1))"#,
    ] {
        assert!(matches!(refusal(&yard, &wat::parse_str(text).unwrap()), Refusal::Exports), "{text}");
    }
    let said = refusal_of_text(&yard, r#"(module (func (export "_start") (param i32)))"#);
    assert!(said.contains("_start"), "{said}");
}

#[tokio::test]
async fn component_whose_export_has_the_right_name_and_another_form_fails_with_a_reason() {
    let yard = Yard::new();
    let other = command("").replace("(result (result))", "(result u32)");
    let said = failure(yard.call(&yard.install_text(&other).unwrap(), "", LIMITS).await);
    assert!(said.contains("expected `result` found `u32`"), "{said}");
}

#[test]
fn file_that_wants_more_than_any_function_gets_is_refused() {
    let yard = Yard::new();
    for (text, word) in [
        (r#"(module (memory (export "memory") 65536) (func (export "_start")))"#, "memory"),
        (r#"(module (table 10000000 funcref) (func (export "_start")))"#, "table"),
        (r#"(module (memory i64 1) (func (export "_start")))"#, "memory64"),
        (r#"(module (memory 1 1 shared) (func (export "_start")))"#, "threads"),
    ] {
        let said = refusal_of_text(&yard, text);
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn component_of_very_many_parts_is_refused() {
    let yard = Yard::new();
    let modules: String = (0..10_000).map(|_| "(core module)").collect();
    let said = refusal_of_text(&yard, &command(&modules));
    assert!(said.contains("modules"), "{said}");
    assert!(matches!(refusal(&yard, &nested(1000)), Refusal::Invalid(_)));
    let instances: String = (0..900).map(|_| "(core instance (instantiate $m))").collect();
    let said = refusal_of_text(&yard, &command(&instances));
    assert!(said.contains("instances"), "{said}");
}

#[test]
fn components_that_make_one_another_over_and_over_are_refused_before_they_are_compiled() {
    let yard = Yard::new();
    // Ten times ten times ten ... of the first, each of them in a few bytes.
    let tower = |first: &str, storeys: usize| {
        let mut text = format!("(component $c0 {first})");
        for storey in 1..=storeys {
            let below = storey - 1;
            let made = format!("(instance (instantiate $c{below}))").repeat(10);
            let below = format!("(alias outer $root $c{below} (component $c{below}))");
            write!(text, "(component $c{storey} {below} {made})").unwrap();
        }
        format!("(component $root {text} (instance (instantiate $c{storeys})))")
    };
    let module = "(core module $m) (core instance (instantiate $m))";
    for first in ["", module] {
        let refused = refusal(&yard, &wat::parse_str(tower(first, 20)).unwrap());
        assert!(matches!(refused, Refusal::TooLarge(_)), "{refused}");
    }
    // So small a one is only nothing to call.
    assert!(matches!(refusal(&yard, &wat::parse_str(tower(module, 3)).unwrap()), Refusal::Exports));
    let handed = command("(component $c (import \"c\" (component $d)) (instance (instantiate $d)))");
    let said = refusal_of_text(&yard, &handed);
    assert!(said.contains("hand components to one another"), "{said}");
}

#[test]
fn file_whose_compilation_would_take_too_much_is_refused() {
    let yard = Yard::new();
    let large = "nop ".repeat(1 << 20);
    let many = "(func)".repeat(100_001);
    let imports: String = (0..1001).map(|number| format!("(import \"env\" \"f{number}\" (func))")).collect();
    for (inside, word) in [(format!("(func {large})"), "KiB"), (many, "functions"), (imports, "imports")] {
        let text = format!(r#"(module {inside} (func (export "_start")))"#);
        let refused = refusal(&yard, &wat::parse_str(text).unwrap());
        assert!(matches!(&refused, Refusal::TooLarge(said) if said.contains(word)), "{refused}");
    }
}

#[test]
fn what_is_compiled_of_a_refused_file_is_not_kept() {
    let yard = Yard::new();
    yard.install(UNRULY).unwrap();
    let folder = kept_file(&yard).parent().unwrap().to_owned();
    refusal_of_text(
        &yard,
        r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i64))) (func (export "_start")))"#,
    );
    let kept = || std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(kept(), 1);
    yard.host.keep_only(&|name| name == digest(UNRULY));
    assert_eq!(kept(), 1);
    yard.host.keep_only(&|_| false);
    assert_eq!(kept(), 0);
}

#[tokio::test]
async fn component_with_much_data_works() {
    let yard = Yard::new();
    let data = "x".repeat(8 * MIB);
    let large = format!(
        r#"(core module $d (memory 200) (data (i32.const 0) "{data}")) (core instance (instantiate $d))"#
    );
    let guest = yard.install_text(&command(&large)).unwrap();
    for _ in 0..3 {
        yard.call(&guest, "", LIMITS).await.unwrap();
    }
}

#[test]
fn compiling_tells_how_far_it_is_and_is_not_done_again() {
    let yard = Yard::new();
    let bytes = Bytes::from_static(UNRULY);
    let prepare = |host: &Host| {
        let told = RefCell::new(Vec::new());
        host.prepare(&bytes, &digest(UNRULY), Kind::Function, &|progress| told.borrow_mut().push(progress))
            .unwrap();
        told.into_inner()
    };
    let told = prepare(&yard.host);
    let all = told[0].all;
    assert!(all > 50);
    assert_eq!((told.first().unwrap().done, told.last().unwrap().done), (0, all));
    assert!(told.is_sorted_by_key(|progress| progress.done));
    assert_eq!(prepare(&yard.host), []);
    let again = Yard::host_in(&yard.folder, 1, 1, 1);
    assert_eq!(prepare(&again), []);
    again.forget(&digest(UNRULY));
    assert_ne!(prepare(&again), []);
}

#[tokio::test]
async fn compiled_code_that_is_damaged_is_compiled_anew() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    yard.lives(&unruly).await;
    let kept = kept_file(&yard);
    let whole = std::fs::read(&kept).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for bytes in
        [&damaged[..], &whole[..whole.len() - 1], &whole[..10], &b""[..], &digest(b"").into_bytes()[..]]
    {
        std::fs::write(&kept, bytes).unwrap();
        yard.lives(&yard.install(UNRULY).unwrap()).await;
        assert_eq!(std::fs::read(&kept).unwrap().len(), whole.len());
    }
    // Whole, but no code of this engine: a file of another content with its right digest before it.
    let mut foreign = Sha256::digest(b"no code").to_vec();
    foreign.extend_from_slice(b"no code");
    std::fs::write(&kept, foreign).unwrap();
    yard.lives(&yard.install(UNRULY).unwrap()).await;
}

#[test]
fn compiled_code_of_other_engines_and_half_written_files_are_removed() {
    let yard = Yard::new();
    yard.install(UNRULY).unwrap();
    let kept = kept_file(&yard);
    let half = kept.with_extension("1.1.new");
    std::fs::write(&half, "half").unwrap();
    let other = yard.folder.path().join("compiled/00ff");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("code"), "code").unwrap();
    Yard::host_in(&yard.folder, 1, 1, 1);
    assert!(kept.exists() && !half.exists() && !other.exists());
}

#[test]
fn host_works_where_nothing_can_be_kept() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("compiled"), "a file, no folder").unwrap();
    let yard = Yard { host: Yard::host_in(&folder, 1, 1, 1), folder };
    yard.install(UNRULY).unwrap();
}

/// The one file of compiled code.
fn kept_file(yard: &Yard) -> PathBuf {
    let engine = std::fs::read_dir(yard.folder.path().join("compiled")).unwrap().next().unwrap().unwrap();
    engine.path().join(digest(UNRULY))
}

/// A `wasi:cli/run` component that has this in it too.
fn command(more: &str) -> String {
    format!(
        r#"(component
        (core module $m (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r))
        {more})"#
    )
}

/// Components in components, written as bytes: the parser of texts goes no deeper than 100.
fn nested(depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..depth {
        let mut outer = b"\0asm\x0d\0\x01\0".to_vec();
        if !bytes.is_empty() {
            outer.push(4);
            let mut length = bytes.len();
            while length > 0x7f {
                outer.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            outer.push(length as u8);
            outer.extend(&bytes);
        }
        bytes = outer;
    }
    bytes
}
