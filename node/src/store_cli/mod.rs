//! The commands of `shoald store`: what can be said, and whether the running node or this process does it. It never
//! opens a store that a node has open, and never makes one where there is none.

mod alone;
mod ask;
mod check;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use shoal_protocol::local::{JobCommand, Request};

use crate::admin::NodeStatus;
use crate::chunks::StoreStatus;
use crate::chunks::workers::WorkerStatus;
use crate::cli::{DataArgs, EXIT_CODES, print_lines};
use crate::clock;
use crate::config;
use crate::problem::{Failure, Problem};

/// What `shoald store` is told.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Says how the store is: health, space, shards, and what its jobs do
    #[command(after_help = EXIT_CODES)]
    Status(StatusArgs),
    /// Reads every stored byte back; takes what is damaged out of use
    ///
    /// A running node does it in the background, else this command does it to its end.
    #[command(after_help = EXIT_CODES)]
    Scrub(JobArgs),
    /// Gives back the space of what was removed
    ///
    /// A running node does it in the background, else this command does it to its end.
    #[command(after_help = EXIT_CODES)]
    Compact(JobArgs),
    /// Removes what no living group has held for a week
    ///
    /// A running node does it in the background, else this command does it to its end.
    #[command(after_help = EXIT_CODES)]
    Expire(JobArgs),
    /// Checks every file of a stopped node and lists what is damaged; changes nothing
    #[command(after_help = EXIT_CODES)]
    Fsck(FsckArgs),
    /// Makes the index of a stopped node anew from its log
    #[command(after_help = EXIT_CODES)]
    RebuildIndex(OpenArgs),
}

/// Which directory.
#[derive(Debug, Args)]
struct PlaceArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The configuration file of the node, for its directory and quota; flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Which directory, and how to open it.
#[derive(Debug, Args)]
struct OpenArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Quota to open the store of a stopped node with, as it is run with [default: min(25 GB, half the free space)]
    #[arg(long, value_name = "SIZE")]
    quota: Option<String>,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    open: OpenArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct FsckArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct JobArgs {
    #[command(flatten)]
    open: OpenArgs,
    /// What the job is to do; all but start need a running node
    #[arg(value_enum, default_value_t = Action::Start)]
    action: Action,
    /// Pause after each step, in multiples of what the step took: 0 is full speed; needs a running node. With `resume`
    /// a job that is not paused changes its speed only
    #[arg(long, value_name = "N")]
    speed: Option<u32>,
    /// Print what `status --json` says about the job
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Run now
    Start,
    /// Rest until resumed, or for a day
    Pause,
    /// End a pause
    Resume,
    /// Give up the run under way
    Cancel,
}

impl Action {
    const fn command(self) -> JobCommand {
        match self {
            Self::Start => JobCommand::Start,
            Self::Pause => JobCommand::Pause,
            Self::Resume => JobCommand::Resume,
            Self::Cancel => JobCommand::Cancel,
        }
    }

    /// What the job is after it.
    const fn done(self) -> &'static str {
        match self {
            Self::Start => "started, the node does it in the background",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Cancel => "cancelled",
        }
    }
}

/// Does what was said.
pub(crate) fn run(args: &StoreArgs) -> Result<(), Problem> {
    match &args.command {
        StoreCommand::Status(args) => status(args),
        StoreCommand::Scrub(args) => job("scrub", args),
        StoreCommand::Compact(args) => job("compact", args),
        StoreCommand::Expire(args) => job("expire", args),
        StoreCommand::Fsck(args) => check::fsck(&place(&args.place, None)?.0, args.json),
        StoreCommand::RebuildIndex(args) => {
            let (data, quota) = place(&args.place, args.quota.as_deref())?;
            check::rebuild_index(&data, quota)
        }
    }
}

fn place(args: &PlaceArgs, quota: Option<&str>) -> Result<(PathBuf, Option<u64>), Problem> {
    let data = args.data.data_dir.as_deref();
    config::place(data, quota, args.config.as_deref(), |name| std::env::var_os(name))
}

fn status(args: &StatusArgs) -> Result<(), Problem> {
    let (data, quota) = place(&args.open.place, args.open.quota.as_deref())?;
    let (status, runs) = match ask::ask(&data, Request::StoreStatus {})? {
        Some(status) => (status, true),
        None => (NodeStatus { store: alone::status(&data, quota)?, refused: BTreeMap::new() }, false),
    };
    if args.json {
        return print_json(&status);
    }
    let node = if runs { "running" } else { "stopped; the jobs go on when it runs" };
    let mut lines = vec![format!("node      {node}")];
    lines.extend(table::refused(&status.refused));
    lines.extend(table::lines(&status.store, clock::wall().0));
    print_lines(&lines)
}

fn job(name: &'static str, args: &JobArgs) -> Result<(), Problem> {
    let (data, quota) = place(&args.open.place, args.open.quota.as_deref())?;
    let tell = |command| ask::ask::<()>(&data, Request::StoreJob { name: name.to_owned(), command });
    // The speed first, so that a job that starts does so at it.
    let commands = args.speed.map(JobCommand::Speed).into_iter().chain([args.action.command()]);
    for command in commands {
        if tell(command)?.is_none() {
            if args.action != Action::Start || args.speed.is_some() {
                return Err(needs_node(&data));
            }
            return alone::job(&data, quota, name, args.json);
        }
    }
    if args.json {
        let status: NodeStatus = ask::ask(&data, Request::StoreStatus {})?.ok_or_else(|| needs_node(&data))?;
        return print_json(&of_job(status.store, name)?);
    }
    let speed = args.speed.map(|speed| format!("; its speed is {speed}")).unwrap_or_default();
    print_lines(&[
        format!("{name} is {}{speed}", args.action.done()),
        format!("watch it with: shoald store status --data-dir {}", data.display()),
    ])
}

fn of_job(status: StoreStatus, name: &str) -> Result<WorkerStatus, Problem> {
    let found = status.jobs.into_iter().find(|job| job.name == name);
    found.ok_or_else(|| {
        let what = format!("the store has no job {name}");
        Problem::new(Failure::Other, what, "the node is of another version", "use the shoald that runs")
    })
}

fn needs_node(data: &std::path::Path) -> Problem {
    Problem::new(
        Failure::NotFound,
        format!("no node runs on {}", data.display()),
        "only a running node has jobs to pause, resume, cancel or slow down",
        "start it with `shoald run`, or leave the action and --speed out to run the job now",
    )
}

fn print_json(value: &impl Serialize) -> Result<(), Problem> {
    let text = serde_json::to_string(value).map_err(|error| {
        Problem::new(Failure::Other, format!("cannot write JSON: {error}"), "a defect", "repeat without --json")
    })?;
    print_lines(&[text])
}
