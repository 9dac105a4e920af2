//! The command line of `shoald`: what can be said, and who acts on it. It decides nothing about the node itself.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use zeroize::Zeroizing;

use crate::addresses;
use crate::config::{self, Output};
use crate::files::{private_directory, read_bounded};
use crate::genesis;
use crate::identity::{self, IdentityError};
use crate::networks::BindError;
use crate::node::{Node, StartError};
use crate::problem::{Failure, Problem, with_causes};
use crate::store_cli::{self, StoreArgs};
use crate::vouchers::VoucherLogError;
use crate::vpn;
use crate::vpn::config::VpnArgs;
use crate::vpn::start::VpnFacts;

/// Every exit code there is.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 other (of fsck: damage), 2 usage or configuration, 10 not found, 14 damaged bytes were found, 17 \
network (cannot listen), 18 denied (permissions, directory in use, its disk missing or another's).";

/// Longest recovery phrase file, bytes.
const PHRASE_MAX: u64 = 1024;

#[derive(Debug, Parser)]
#[command(name = "shoald", version, about = "A node of a private swarm: keeps files of others, encrypted and in pieces", after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the node; makes what is missing
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArgs>),
    /// Makes identity and genesis of a named network, and says what others need to join
    Init(InitArgs),
    /// Prints the node's id
    Id(IdArgs),
    /// Prints where the node listens, or listened last
    Address(DataArgs),
    /// Looks after the store: of a running node, or of one that is stopped
    #[command(after_help = EXIT_CODES)]
    Store(StoreArgs),
    /// Looks after what the private network leaves in the system
    #[command(subcommand, after_help = EXIT_CODES)]
    Vpn(VpnCommand),
}

/// The commands of `vpn`.
#[derive(Debug, Subcommand)]
enum VpnCommand {
    /// Undoes what a node that was killed left: routes, rules, firewall, switches; its kill switch too
    Cleanup(DataArgs),
}

/// Where things are.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataArgs {
    /// Directory of the node [default: ~/.local/share/shoal, as root /var/lib/shoal]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Flags of `run`; each is also a key of the configuration file.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Name of the network [default: shoal]
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,
    /// Public genesis key of the network, as `shoald init` printed it
    #[arg(long, value_name = "HEX")]
    pub(crate) genesis: Option<String>,
    /// Address to listen on, repeatable [default: /ip4/0.0.0.0/tcp/4700 and /ip4/0.0.0.0/udp/4700/quic-v1]
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<String>,
    /// Address of a peer to begin with, repeatable; unreachable is no error
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) bootstrap: Vec<String>,
    /// Bytes offered to others, such as 25GB or 1TiB [default: min(25 GB, half the free space)]
    #[arg(long, value_name = "SIZE")]
    pub(crate) quota: Option<String>,
    /// Peer that may store here, repeatable
    #[arg(long, value_name = "ID")]
    pub(crate) allow_peer: Vec<String>,
    /// Let everybody store here
    #[arg(long)]
    pub(crate) open: bool,
    /// Answer nobody but members: strangers may still connect and ask who is there
    #[arg(long)]
    pub(crate) members_only: bool,
    /// Peer whose vouchers let others store here for as much as they say, repeatable
    #[arg(long, value_name = "ID")]
    pub(crate) voucher_issuer: Vec<String>,
    /// What this node fails together with, such as a house or a power line
    #[arg(long, value_name = "LABEL")]
    pub(crate) domain: Option<String>,
    /// Print one JSON line on stdout when all listeners are bound
    #[arg(long)]
    pub(crate) json: bool,
    /// TOML file with one key per flag; flags win
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What to log, such as warn, info or shoal_node=debug [default: warn]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    #[command(flatten)]
    pub(crate) vpn: VpnArgs,
}

#[derive(Debug, Args)]
struct InitArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Begin a network of this name: makes its genesis key
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Restore the identity from its 24 words, in a file or - for standard input
    #[arg(long, value_name = "FILE")]
    restore_phrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct IdArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Print the 24 words that bring this identity back; only to a terminal
    #[arg(long)]
    phrase: bool,
}

/// Runs `shoald` with these arguments, the program's name first.
#[must_use]
pub fn main_from(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let done = match cli.command {
        Command::Run(args) => run(&args),
        Command::Init(args) => init(&args),
        Command::Id(args) => id(&args),
        Command::Address(args) => address(&args),
        Command::Vpn(VpnCommand::Cleanup(args)) => cleanup(&args),
        Command::Store(args) => {
            logs(&config::quiet(|name| std::env::var_os(name))).and_then(|()| store_cli::run(&args))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "{problem}");
            problem.exit()
        }
    }
}

fn data_dir(args: &DataArgs) -> Result<PathBuf, Problem> {
    args.data_dir.clone().map_or_else(|| config::default_data_dir(|name| std::env::var_os(name)), Ok)
}

fn run(args: &RunArgs) -> Result<(), Problem> {
    let (config, output) = config::load(args, |name| std::env::var_os(name))?;
    logs(&output)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Problem::new(
            Failure::Other,
            format!("cannot start: {error}"),
            "the system is out of threads",
            "free some, and repeat",
        )
    })?;
    let result = runtime.block_on(async {
        // Before anything else, so that a signal during the start is not lost.
        let mut stop = stop_signals()?;
        let mut node = Node::start(config).await.map_err(start_problem)?;
        for (network, error) in node.take_vpn_errors() {
            // The storage side runs on without it, and so do other networks.
            let problem = vpn::problem::of(error);
            let problem = match network {
                Some(name) => problem.about(&format!("network {name:?}")),
                None => problem,
            };
            let _ = writeln!(io::stderr(), "{problem}");
        }
        ready(&node, &output)?;
        let _ = stop.recv().await;
        node.shutdown().await;
        Ok(())
    });
    // Blocking work that does not end is not worth waiting for: everything acknowledged is on disk.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    result
}

/// Receives once when SIGTERM or SIGINT arrives.
fn stop_signals() -> Result<tokio::sync::mpsc::Receiver<()>, Problem> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: io::Error| {
        Problem::new(
            Failure::Other,
            format!("cannot listen for signals: {error}"),
            "the system refuses",
            "repeat elsewhere",
        )
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let (out, stop) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = out.send(()).await;
    });
    Ok(stop)
}

fn ready(node: &Node, output: &Output) -> Result<(), Problem> {
    let (id, addresses) = (node.id().to_string(), node.addresses());
    let mut text = if output.json {
        let mut line = serde_json::json!({ "ready": true, "peer_id": id, "addresses": addresses });
        if let (Some(facts), Some(line)) = (node.vpn(), line.as_object_mut()) {
            line.insert("vpn".to_owned(), facts_json(facts));
        }
        if let (false, Some(line)) = (node.networks().is_empty(), line.as_object_mut()) {
            let networks = node.networks().iter().map(|network| {
                let (name, addresses, vpn) = (&network.seat.name, network.addresses(), network.vpn().map(facts_json));
                serde_json::json!({ "name": name, "addresses": addresses, "vpn": vpn })
            });
            line.insert("networks".to_owned(), networks.collect());
        }
        line.to_string()
    } else {
        let mut lines = vec![format!("shoald {} is ready, offering {}", env!("CARGO_PKG_VERSION"), node.quota())];
        lines.push(format!("  id       {id}"));
        lines.extend(addresses.iter().map(|address| format!("  address  {address}")));
        if let Some(facts) = node.vpn() {
            lines.push(format!("  vpn      {}", facts_text(facts)));
        }
        for network in node.networks() {
            lines.push(format!("  network  {}", network.seat.name));
            lines.extend(network.addresses().iter().map(|address| format!("    address  {address}")));
            lines.extend(network.vpn().map(|facts| format!("    vpn      {}", facts_text(facts))));
        }
        lines.join("\n")
    };
    text.push('\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| {
        Problem::new(
            Failure::Other,
            format!("cannot say that the node is ready: {error}"),
            "stdout is closed",
            "leave stdout open",
        )
    })
}

fn facts_json(facts: &VpnFacts) -> serde_json::Value {
    let mut vpn = serde_json::json!({ "ifname": facts.ifname, "ipv4": facts.ipv4, "ipv6": facts.ipv6 });
    if let (Some(inside), Some(vpn)) = (&facts.userspace, vpn.as_object_mut()) {
        vpn.insert("userspace".to_owned(), true.into());
        vpn.insert("socks".to_owned(), serde_json::json!(inside.socks));
        vpn.insert("forwards".to_owned(), serde_json::json!(inside.forwards));
    }
    vpn
}

fn facts_text(facts: &VpnFacts) -> String {
    let own = facts.ipv4.map(|address| address.to_string()).into_iter().chain([facts.ipv6.to_string()]);
    let without = if facts.userspace.is_some() { "userspace" } else { "relay" };
    let name = facts.ifname.as_deref().unwrap_or(without);
    let socks = facts.userspace.as_ref().and_then(|inside| inside.socks);
    let socks = socks.map(|address| format!("  socks {address}")).unwrap_or_default();
    format!("{name}  {}{socks}", own.collect::<Vec<_>>().join("  "))
}

/// What a user is told when a node, or its store, does not start.
pub(crate) fn start_problem(error: StartError) -> Problem {
    let what = with_causes(&error);
    match error {
        StartError::Store(error) => error.into(),
        StartError::Directory { ref cause, .. } => {
            let next = "check --data-dir, its owner and the space on its disk";
            Problem::new(Failure::of(cause), what, "permissions, or a disk that is full or broken", next)
        }
        StartError::Upkeep(ref cause) => {
            let next = "free some threads, check the disk, and repeat";
            Problem::new(Failure::of(cause), what, "the system is out of threads, or the disk is broken", next)
        }
        StartError::Identity(IdentityError::Exposed(path)) => {
            let next = format!("chmod 600 {}", path.display());
            Problem::new(Failure::Denied, what, "its permissions were widened", &next)
        }
        StartError::Identity(IdentityError::Io { ref cause, .. }) => Problem::new(
            Failure::of(cause),
            what,
            "the file belongs to somebody else",
            "check --data-dir and its owner",
        ),
        StartError::Identity(_) => {
            let next = "move it away, then `shoald init --restore-phrase-file -` with its 24 words";
            Problem::new(Failure::Other, what, "the file was edited or cut short", next)
        }
        StartError::Vouchers(ref error) => {
            let failure = match error {
                VoucherLogError::Io { cause, .. } => Failure::of(cause),
                VoucherLogError::Unknown(_) | VoucherLogError::Damaged(_) => Failure::Integrity,
            };
            let next = "check the disk; without the file, or without --voucher-issuer, spent vouchers are not known";
            Problem::new(failure, what, "the file was edited, or the disk changed it", next)
        }
        StartError::Network { error: BindError::Directory { ref cause, .. }, .. } => {
            let next = "check --data-dir, its owner and the space on its disk";
            Problem::new(Failure::of(cause), what, "permissions, or a disk that is full or broken", next)
        }
        StartError::Network { error: BindError::Swarm(_), .. } => Problem::new(
            Failure::Network,
            what,
            "the port is taken, by another network of this node perhaps, or the address is not one of this machine",
            "give its table another `listen`",
        ),
        StartError::Swarm(shoal_swarm::StartError::TooManyListeners(_)) => {
            Problem::new(Failure::Usage, what, "too many --listen", "listen on fewer addresses")
        }
        StartError::Swarm(_) => Problem::new(
            Failure::Network,
            what,
            "the port is taken, or the address is not one of this machine",
            "pass another --listen",
        ),
        StartError::Random(_) => {
            Problem::new(Failure::Other, what, "the kernel is too old or locked down", "repeat elsewhere")
        }
    }
}

fn logs(output: &Output) -> Result<(), Problem> {
    let filter = &output.log_level;
    // yamux logs an error for each frame with which a peer breaks its rules: as many lines as a stranger likes. The reader of
    // netlink warns of each attribute that a newer kernel made longer. Whoever asks for them by name gets them.
    let quiet = "yamux=off,netlink_packet_route=error";
    let filter = tracing_subscriber::EnvFilter::try_new(format!("{quiet},{filter}")).map_err(|error| {
        Problem::new(
            Failure::Usage,
            format!("{filter:?} is no log filter: {error}"),
            "it is mistyped",
            "write it like --log-level info",
        )
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Only a second start in one process finds logs set already: then they stay as they are.
    let _ = if output.log_json {
        builder.json().try_init()
    } else {
        builder.with_ansi(io::stderr().is_terminal()).try_init()
    };
    Ok(())
}

fn identity_problem(error: IdentityError) -> Problem {
    let what = error.to_string();
    match error {
        IdentityError::Exists(_) => Problem::new(
            Failure::Denied,
            what,
            "this node was set up before",
            "pass another --data-dir, or leave it as it is",
        ),
        IdentityError::Phrase(_) => {
            Problem::new(Failure::Usage, what, "a word is mistyped or missing", "compare with what was written down")
        }
        other => start_problem(StartError::Identity(other)),
    }
}

fn init(args: &InitArgs) -> Result<(), Problem> {
    let data = data_dir(&args.data)?;
    private_directory(&data).map_err(|error| {
        let what = format!("cannot make {}: {error}", data.display());
        Problem::new(Failure::Denied, what, "the place is not writable", "pass another --data-dir")
    })?;
    let key = match &args.restore_phrase_file {
        Some(file) => identity::restore(&data, &read_phrase(file)?),
        None => identity::load_or_make(&data),
    };
    let key = key.map_err(identity_problem)?;
    let mut lines = vec![format!("id       {}", identity::node_id(&key)), format!("data     {}", data.display())];
    if let Some(network) = &args.network {
        let public = genesis::load_or_make(&data, network).map_err(config::genesis_problem)?;
        let public = data_encoding::HEXLOWER.encode(&public);
        lines.push(format!("network  {network}"));
        lines.push(format!("genesis  {public}"));
        lines.push(format!("others join with: shoald run --network {network} --genesis {public}"));
    }
    print_lines(&lines)
}

fn read_phrase(file: &std::path::Path) -> Result<Zeroizing<String>, Problem> {
    let unreadable =
        |what: String| Problem::new(Failure::NotFound, what, "the path is mistyped", "check --restore-phrase-file");
    let bytes = if file.as_os_str() == "-" {
        let mut bytes = Zeroizing::new(Vec::new());
        io::stdin().lock().take(PHRASE_MAX).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
        bytes
    } else {
        let read = read_bounded(file, PHRASE_MAX)
            .map_err(|error| unreadable(format!("cannot read {}: {error}", file.display())))?;
        read.ok_or_else(|| unreadable(format!("there is no file {}", file.display())))?
    };
    let text = String::from_utf8(bytes.to_vec()).map_err(|_| unreadable("the phrase is not text".into()))?;
    Ok(Zeroizing::new(text.split_whitespace().collect::<Vec<_>>().join(" ")))
}

fn id(args: &IdArgs) -> Result<(), Problem> {
    let data = data_dir(&args.data)?;
    let key = identity::load(&data).map_err(identity_problem)?.ok_or_else(|| no_node(&data))?;
    if !args.phrase {
        return print_lines(&[identity::node_id(&key).to_string()]);
    }
    if !io::stdout().is_terminal() {
        return Err(Problem::new(
            Failure::Usage,
            "the phrase is shown on a terminal only",
            "the output goes to a file or a pipe, where it would stay",
            "run it by hand and write the words down",
        ));
    }
    let words = identity::phrase(&key).map_err(identity_problem)?;
    print_lines(&[words.to_string()])
}

fn cleanup(args: &DataArgs) -> Result<(), Problem> {
    print_lines(&vpn::roles::cleanup::run(&data_dir(args)?)?)
}

fn address(args: &DataArgs) -> Result<(), Problem> {
    let data = data_dir(args)?;
    let lines = addresses::noted(&data).filter(|lines| !lines.is_empty()).ok_or_else(|| no_node(&data))?;
    print_lines(&lines)
}

/// What a user is told who names a directory without a node.
pub(crate) fn no_node(data: &std::path::Path) -> Problem {
    let what = format!("{} holds no node", data.display());
    Problem::new(Failure::NotFound, what, "it was never run, or lies elsewhere", "run `shoald run`, or pass --data-dir")
}

/// Prints lines to standard output.
pub(crate) fn print_lines(lines: &[String]) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    for line in lines {
        if writeln!(stdout, "{line}").is_err() {
            // A closed pipe: whoever read it has had enough.
            break;
        }
    }
    Ok(())
}
