//! `shoald`, the program: hands its arguments over and returns the exit code.

fn main() -> std::process::ExitCode {
    shoal_node::main_from(std::env::args_os())
}
