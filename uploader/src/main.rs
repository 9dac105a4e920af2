//! The `shoal` program. Everything it does is in the library, so that other binaries can be it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoal_uploader::main_from(std::env::args_os())
}
