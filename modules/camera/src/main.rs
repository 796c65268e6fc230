//! The camera module. Its settings are variables `SHUNT_CAMERA_...` and the desired properties of its twin.

use std::process::ExitCode;

fn main() -> ExitCode {
    shunt_module::main(camera::run)
}
