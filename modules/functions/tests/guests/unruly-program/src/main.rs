//! A program that does what its input says: built as a WASI preview 1 module, and as a `wasi:cli/run` component.

use std::io::{Read, Write};

fn main() {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).unwrap();
    let order = String::from_utf8_lossy(&input).into_owned();
    let (order, number) = order.split_once(' ').unwrap_or((&order, ""));
    let mut output = std::io::stdout().lock();
    match order {
        "exit" => {
            eprintln!("first line");
            eprint!("last line");
            std::process::exit(number.parse().unwrap_or(1));
        }
        "panic" => panic!("as told"),
        "sleep" => std::thread::sleep(std::time::Duration::from_secs(3600)),
        "much" => loop {
            output.write_all(&[b'x'; 4096]).ok();
        },
        "answer" => {
            let bytes = vec![b'x'; number.parse().unwrap_or(0)];
            output.write_all(&bytes).ok();
        }
        "environment" => {
            let mut all: Vec<_> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
            all.sort();
            let arguments: Vec<_> = std::env::args().collect();
            writeln!(output, "{}\n{}", arguments.join(" "), all.join("\n")).ok();
        }
        "read-file" => drop(write!(output, "{:?}", std::fs::read("/etc/hostname").is_err())),
        _ => output.write_all(&input).unwrap(),
    }
}
