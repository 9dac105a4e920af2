//! `shoal`: the command line people type. It stores files in a private swarm and gets them back.
//!
//! It decides nothing about sealing, placement or trust, which is the client library's; it never takes a password or a
//! secret capability from argv, never leaves a partial output, and prints to stdout only what was asked for.
//!
//! Flow of a command: [`cli`] (what was typed) -> `cmd` (one file each) -> [`session`] (the swarm) or [`node`] (the one of
//! this machine) -> [`report`].

mod audits;
mod catalogue;
mod cli;
mod cmd;
mod exit;
mod home;
mod journal;
mod node;
mod output;
mod password;
mod peers;
#[cfg(feature = "test-utils")]
pub mod probe;
mod progress;
mod report;
mod session;
mod source;
mod stage;
mod target;
mod text;
mod values;
mod writing;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use shoal_client::client::Failure;
use tokio::signal::unix::{SignalKind, signal};

use cli::{Cli, Command, Common};
use exit::Problem;
use report::{Outcome, Reporting};

/// Runs one command; `args` begins with the program's name.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Err(error) = target::check_argv(&args) {
        return ExitCode::from(refused(&args).finish(Err(error.into())));
    }
    match Cli::try_parse_from(&args) {
        Ok(cli) => ExitCode::from(run(cli)),
        Err(error) => ExitCode::from(not_run(&args, &error)),
    }
}

/// Help and version are answers; all else is a usage error in clap's own words.
fn not_run(args: &[OsString], error: &clap::Error) -> u8 {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return 0;
    }
    if refused(args).json {
        let text = error.to_string();
        let lines =
            text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")).filter(|line| !line.is_empty());
        let what = lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned();
        let problem = Problem::usage(what, "the command line is not as the help says", "see shoal --help");
        return refused(args).finish(Err(problem));
    }
    let _ = error.print();
    Failure::Usage.code()
}

/// How to report on a command line that was not understood.
fn refused(args: &[OsString]) -> Reporting<'static> {
    let before = || args.iter().skip(1).take_while(|word| *word != "--");
    let json = before().any(|word| word == "--json");
    let operation = Command::NAMES.into_iter().find(|name| before().any(|word| word == name)).unwrap_or("usage");
    Reporting { operation, json, quiet: false, report_out: None }
}

fn run(cli: Cli) -> u8 {
    let Cli { command, common } = cli;
    let operation = command.name();
    let (json, quiet, report_out) = (common.json, common.quiet, common.report_out.clone());
    let reporting = Reporting { operation, json, quiet, report_out: report_out.as_deref() };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SHOAL_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    // A second command in one process keeps the first one's log.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let cause = "the system gives no threads or event queue";
            let problem = Problem::new(Failure::Other, error.to_string(), cause, "close other programs and repeat");
            return reporting.finish(Err(problem));
        }
    };
    // Dropping the command's future removes its temporary files.
    let result = runtime.block_on(async {
        tokio::select! {
            biased;
            () = stopped() => Err(Problem::interrupted()),
            result = dispatch(command, common) => result,
        }
    });
    password::restore_terminal();
    // A thread that waits for a terminal or pipe must not keep the process.
    runtime.shutdown_background();
    reporting.finish(result)
}

/// Ctrl-C or SIGTERM.
async fn stopped() {
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without handlers the signals end the process as they always did.
        _ => std::future::pending().await,
    }
}

async fn dispatch(command: Command, common: Common) -> Result<Outcome, Problem> {
    match command {
        Command::Upload(args) => cmd::upload::run(&common, args).await,
        Command::Retrieve(args) => cmd::retrieve::run(&common, args).await,
        Command::Cat(args) => cmd::cat::run(&common, args).await,
        Command::Ls(args) => cmd::ls::run(&common, args).await,
        Command::Plan(args) => cmd::plan::run(&common, args).await,
        Command::Shards(args) => cmd::shards::run(&common, args).await,
        Command::Audit(args) => cmd::audit::run(&common, args).await,
        Command::Validate(args) => cmd::validate::run(args).await,
        Command::Files(args) => cmd::files::run(&args),
        Command::Id => cmd::id::run(&common),
        Command::Vpn(args) => cmd::vpn::run(&common, args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn usage_errors_exit_2_and_help_0() {
        for (args, exit) in [
            (&["shoal", "--help"][..], 0),
            (&["shoal", "--version"], 0),
            (&["shoal", "frobnicate"], 2),
            (&["shoal", "upload"], 2),
            (&["shoal", "upload", "--json"], 2),
        ] {
            let args = words(args);
            let error = Cli::try_parse_from(&args).unwrap_err();
            assert_eq!(not_run(&args, &error), exit, "{args:?}");
        }
    }

    #[test]
    fn json_is_noticed_before_the_line_is_understood() {
        assert!(refused(&words(&["shoal", "x", "--json"])).json);
        assert!(!refused(&words(&["shoal", "x", "--", "--json"])).json);
    }

    #[test]
    fn secrets_in_argv_stop_everything() {
        let args = words(&["shoal", "cat", "shoalr1qqqq"]);
        assert_eq!(refused(&args).finish(Err(target::check_argv(&args).unwrap_err().into())), 2);
    }
}
