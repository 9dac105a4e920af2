//! `shoald` as its own package builds it, where the suites can name it: does nothing but call it.

fn main() -> std::process::ExitCode {
    shoal_node::main_from(std::env::args_os())
}
