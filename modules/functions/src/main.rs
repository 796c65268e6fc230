//! The module `functions` as a program: see the library.

fn main() -> std::process::ExitCode {
    shunt_module::main(functions::run)
}
