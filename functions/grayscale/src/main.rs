//! A picture on standard input becomes a grey one on standard output.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

fn main() -> ExitCode {
    let mut file = Vec::new();
    let done = io::stdin().lock().read_to_end(&mut file).map_err(|error| error.to_string());
    let done = done.and_then(|_| grayscale::grey(&file));
    let done = done.and_then(|(grey, _)| {
        let mut out = io::stdout().lock();
        out.write_all(&grey).and_then(|()| out.flush()).map_err(|error| error.to_string())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
