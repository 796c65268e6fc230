//! The module `functions` as a program: see the library.
//!
//! `functions compile-interpreters FOLDER` compiles the interpreters of text functions, and ends: that is done when an
//! image or the demo is built.

use std::{ffi::OsString, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(word) if word == "compile-interpreters" => compile(arguments.next()),
        _ => shunt_module::main(functions::run),
    }
}

fn compile(folder: Option<OsString>) -> ExitCode {
    let Some(folder) = folder else {
        eprintln!("usage: functions compile-interpreters FOLDER");
        return ExitCode::from(64);
    };
    match functions::compile_interpreters(Path::new(&folder)) {
        Ok(prepared) => {
            for each in prepared {
                let megabytes = each.bytes as f64 / 1e6;
                match each.took {
                    Some(took) => eprintln!("{}: {megabytes:.1} MB, compiled in {took:.1?}", each.language),
                    None => eprintln!("{}: {megabytes:.1} MB, there already", each.language),
                }
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("functions: {error:#}");
            ExitCode::FAILURE
        }
    }
}
