//! All that WASI preview 1 has, called with numbers that no program would give.

use wasmtime::{Extern, ValType};

use super::*;
use crate::host::program;

/// Addresses, lengths and handles: at the ends of the memory (one page), of 31 and 32 bits, and far beyond.
const WILD: &[i64] =
    &[0, 1, 3, 65_532, 65_535, 65_536, i32::MAX as i64, i32::MIN as i64, -1, -8, i64::MAX, i64::MIN];

#[tokio::test]
async fn wild_numbers_given_to_any_import_of_preview_1_end_the_call_at_most() {
    let yard = Yard::new();
    let functions = functions(&yard);
    assert!(functions.len() > 40, "{}", functions.len());
    for (name, parameters, results) in functions {
        for &wild in WILD {
            // All of them wild; and after a handle that is there (0, 1, 2), which is where most would stop to look.
            for first in [wild, 0, 1, 2] {
                let arguments: String = parameters
                    .iter()
                    .enumerate()
                    .map(|(number, kind)| constant(kind, if number == 0 { first } else { wild }))
                    .collect();
                let guest = yard.install_text(&module(&name, &parameters, results, &arguments)).unwrap();
                let ended = yard.call(&guest, "some input", SHORT).await;
                let fine = matches!(
                    ended,
                    Ok(_) | Err(CallError::Failed(_) | CallError::Time(_) | CallError::Output(_))
                );
                assert!(fine, "{name} {first} {wild}: {ended:?}");
            }
        }
    }
    yard.lives(&yard.install(UNRULY).unwrap()).await;
}

#[tokio::test]
async fn lists_of_buffers_that_lie_outside_the_memory_are_refused() {
    let yard = Yard::new();
    for (at, length) in
        [(0_i64, -1_i64), (-1, 1), (65_535, 2), (65_536, 0), (i64::from(i32::MAX), i64::from(i32::MAX))]
    {
        for name in ["fd_write", "fd_read"] {
            let text = format!(
                r#"(module
                (import "wasi_snapshot_preview1" "{name}" (func $io (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 1)
                (func (export "_start") (local $list i32)
                    (local.set $list (i32.const 1024))
                    (loop $more
                        (i32.store (local.get $list) (i32.const {at}))
                        (i32.store offset=4 (local.get $list) (i32.const {length}))
                        (local.set $list (i32.add (local.get $list) (i32.const 8)))
                        (br_if $more (i32.lt_u (local.get $list) (i32.const 60000))))
                    (drop (call $io (i32.const {fd}) (i32.const 1024) (i32.const 7000) (i32.const 8)))))"#,
                fd = i32::from(name == "fd_write"),
            );
            let guest = yard.install_text(&text).unwrap();
            let ended = yard.call(&guest, "some input", SHORT).await;
            assert!(matches!(ended, Ok(_) | Err(CallError::Failed(_))), "{name} {at} {length}: {ended:?}");
        }
    }
    yard.lives(&yard.install(UNRULY).unwrap()).await;
}

fn functions(yard: &Yard) -> Vec<(String, Vec<ValType>, usize)> {
    let mut store = program::empty_store(&yard.host.0.engine);
    let all: Vec<_> =
        yard.host.0.modules.iter(&mut store).map(|(_, name, it)| (name.to_owned(), it)).collect();
    let typed = |(name, it): (String, Extern)| {
        let kind = it.into_func()?.ty(&store);
        Some((name, kind.params().collect(), kind.results().len()))
    };
    all.into_iter().filter_map(typed).collect()
}

fn constant(kind: &ValType, wild: i64) -> String {
    match kind {
        ValType::I64 => format!(" i64.const {wild}"),
        // The lower half of it.
        _ => format!(" i32.const {}", (wild & 0xffff_ffff).cast_unsigned()),
    }
}

fn module(name: &str, parameters: &[ValType], results: usize, arguments: &str) -> String {
    let kinds: String = parameters.iter().map(|kind| format!(" {kind}")).collect();
    let (result, drop) = if results == 0 { ("", "") } else { ("(result i32)", "drop") };
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" "{name}" (func $it (param{kinds}) {result}))
        (memory (export "memory") 1)
        (func (export "_start") {arguments} call $it {drop}))"#
    )
}
