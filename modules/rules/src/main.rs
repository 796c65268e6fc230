//! The module `rules` as a program: see the library.

fn main() -> std::process::ExitCode {
    shunt_module::main(rules::run)
}
