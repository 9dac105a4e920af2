//! The command line as data: every command, option and help text. It runs nothing and reads no secret: passwords and
//! secret capabilities have no place in argv, so no argument here takes one.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use shoal_client::audit::SAMPLE_DEFAULT;
use shoal_client::placement::{Profile, parse_code};
use shoal_protocol::NetworkId;
use shoal_protocol::layout::Code;
use shoal_protocol::local::{ExitName, PeerName};
use shoal_protocol::mesh::prefix::Prefix;
use shoal_swarm::{PeerAddress, peer_address};

use crate::exit::{EXIT_CODES, Problem};
use crate::values::{ByteSpan, Cipher, byte_range, byte_size, genesis, hours, nines, percent};

const AFTER_HELP: &str = "\
TARGET is a manifest file or a capability (shoal1..); a file of such a name is
written ./shoal1.. instead. Secret capabilities (shoalr1, shoalv1, shoalo1) come
from --capability-file or SHOAL_CAPABILITY, passwords from --password-file,
--password-command, SHOAL_PASSWORD or the terminal: never from the command line.

Own files are in $SHOAL_HOME, else $XDG_CONFIG_HOME/shoal, else ~/.config/shoal.
shoal vpn asks the node in --node, else SHOAL_NODE, else where shoald keeps it.
SHOAL_LOG=info shows on stderr what happens.";

/// Store files in a private swarm and get them back.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, max_term_width = 110, after_help = format!("{AFTER_HELP}\n\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Network to work in, else SHOAL_NETWORK; a manifest brings its own [default: shoal]. Of vpn: which network of the node
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) network: Option<String>,
    /// The network that is worked in where none is named. It says nothing of the networks of a node.
    #[arg(skip = std::env::var("SHOAL_NETWORK").ok())]
    pub(crate) usual_network: Option<String>,
    /// Public key that founded the network, where it has one
    #[arg(long, global = true, value_name = "HEX", value_parser = genesis)]
    pub(crate) genesis: Option<[u8; 32]>,
    /// A node to begin with, with or without /p2p/ID; repeatable. Else SHOAL_PEERS, else nodes met or hinted at
    #[arg(long = "peer", global = true, value_name = "MULTIADDR", value_parser = peer_address)]
    pub(crate) peers: Vec<PeerAddress>,
    /// Identity file to use instead of the one in the client home; made if missing
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// Print one JSON object {operation, ok, exit, timestamp_ms, details} on stdout and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Write the same JSON object to a file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) report_out: Option<PathBuf>,
    /// No progress and no summary; warnings and errors stay
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

impl Common {
    /// Name of the network in use.
    pub(crate) fn network_name(&self) -> &str {
        self.network.as_deref().or(self.usual_network.as_deref()).unwrap_or("shoal")
    }

    /// Whether the network was named, rather than left to the default.
    pub(crate) const fn names_network(&self) -> bool {
        self.network.is_some() || self.usual_network.is_some() || self.genesis.is_some()
    }

    /// The network in use.
    pub(crate) fn network_id(&self) -> Result<NetworkId, Problem> {
        NetworkId::derive(self.genesis.as_ref(), self.network_name()).map_err(|error| {
            Problem::usage(error.to_string(), "--network or SHOAL_NETWORK is mistyped", "name the network again")
        })
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store files, directories or stdin; prints the capability
    Upload(UploadArgs),
    /// Get an upload back
    Retrieve(RetrieveArgs),
    /// Write one file, or a part of it, to stdout
    Cat(CatArgs),
    /// List what an upload holds: mode, size, time (UTC), path
    Ls(ReadArgs),
    /// Say how safe a file would be: every code that fits the live nodes, its cost, its nines, its risks; exit 16 if none
    /// fits or reaches the target, 15 if no node has room
    Plan(PlanArgs),
    /// Ask the holders which shards they have: exit 0 if all, 3 if some are missing, 13 if too few are left
    Shards(ReadArgs),
    /// Have the holders prove what they hold: exit 0 if all do, 3 if something is not proved, 14 if one lied or is damaged
    Audit(AuditArgs),
    /// Check a manifest file without the swarm: exit 0 good, 12 wrong password, 14 damaged
    Validate(ValidateArgs),
    /// List or forget what was uploaded from here
    Files(FilesArgs),
    /// Show the own node id; made on first use
    Id,
    /// Ask the node of this machine about its private network
    Vpn(VpnArgs),
}

impl Command {
    /// The names of all commands.
    pub(crate) const NAMES: [&'static str; 11] =
        ["upload", "retrieve", "cat", "ls", "plan", "shards", "audit", "validate", "files", "id", "vpn"];

    /// The name typed, with that of its own command where it has some; the `operation` of its report.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Upload(_) => "upload",
            Self::Retrieve(_) => "retrieve",
            Self::Cat(_) => "cat",
            Self::Ls(_) => "ls",
            Self::Plan(_) => "plan",
            Self::Shards(_) => "shards",
            Self::Audit(_) => "audit",
            Self::Validate(_) => "validate",
            Self::Files(_) => "files",
            Self::Id => "id",
            Self::Vpn(args) => args.command.name(),
        }
    }
}

/// Where a password comes from. Never a value by itself.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Password")]
pub(crate) struct PasswordArgs {
    /// File that holds the password; one newline at its end is not part of it
    #[arg(long, value_name = "FILE", conflicts_with = "password_command")]
    pub(crate) password_file: Option<PathBuf>,
    /// Command (run by sh) that prints the password; one newline at its end is not part of it
    #[arg(long, value_name = "CMD")]
    pub(crate) password_command: Option<OsString>,
}

/// What is read, and with what.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// File that holds a capability of any kind, or - for stdin; then TARGET is left out. Else SHOAL_CAPABILITY
    #[arg(long, value_name = "FILE")]
    pub(crate) capability_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) password: PasswordArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UploadArgs {
    /// Files and directories; - is stdin. Several keep their names side by side
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Write a manifest file as well: finds and checks the upload with fewer questions
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest_out: Option<PathBuf>,
    /// Write all four capabilities, one a line: shoal1, shoalr1, shoalv1, shoalo1. The last three are secrets
    #[arg(long, value_name = "FILE")]
    pub(crate) capabilities_out: Option<PathBuf>,
    /// Replace files of --manifest-out and --capabilities-out that exist
    #[arg(long)]
    pub(crate) force: bool,
    /// Code by purpose: balanced, mobile or resilient [default: balanced]
    #[arg(long, value_name = "NAME", conflicts_with = "code")]
    pub(crate) profile: Option<Profile>,
    /// Code by numbers: DATA+PARITY, such as 4+2
    #[arg(long, value_name = "K+M", value_parser = parse_code)]
    pub(crate) code: Option<Code>,
    /// Copies of every shard, 1 to 8, each on a node of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) replica_factor: u8,
    /// Let one node hold several shards of a segment: for tests, worthless as protection
    #[arg(long)]
    pub(crate) allow_colocate: bool,
    /// Mint tokens for N whole-shard audits, 0 to 64: each hashes every shard once more, and can be used once
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=64))]
    pub(crate) audit_rounds: u8,
    /// Cipher; auto is AES-256-GCM where the processor has instructions for it
    #[arg(long, value_enum, default_value_t = Cipher::Auto)]
    pub(crate) cipher: Cipher,
    /// Begin anew where an earlier upload of the same was interrupted, instead of going on with it
    #[arg(long)]
    pub(crate) no_resume: bool,
    /// Show code, holders and warnings, and store nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) password: PasswordArgs,
}

impl UploadArgs {
    /// The code as asked for.
    pub(crate) fn profile(&self) -> Profile {
        self.code.map(Profile::Exact).or(self.profile).unwrap_or_default()
    }
}

#[derive(Debug, Args)]
pub(crate) struct RetrieveArgs {
    /// Manifest file or capability
    #[arg(value_name = "TARGET")]
    pub(crate) target: Option<OsString>,
    /// Where to; - is stdout, for one file only [default: the stored name, here]
    #[arg(long, short, value_name = "PATH")]
    pub(crate) out: Option<PathBuf>,
    /// Replace what is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Show what would be written, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) access: TargetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// Manifest file or capability; left out with --capability-file
    #[arg(value_name = "TARGET")]
    pub(crate) target: Option<OsString>,
    /// Path of the file in the upload, where it holds several
    #[arg(value_name = "ENTRY")]
    pub(crate) entry: Option<OsString>,
    /// A-B: bytes A up to but not including B, counted from 0; A-: from A to the end
    #[arg(long, value_name = "A-B", value_parser = byte_range)]
    pub(crate) range: Option<ByteSpan>,
    #[command(flatten)]
    pub(crate) access: TargetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// Manifest file or capability
    #[arg(value_name = "TARGET")]
    pub(crate) target: Option<OsString>,
    #[command(flatten)]
    pub(crate) access: TargetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Manifest file or capability; shoalv1 (from a file) is enough
    #[arg(value_name = "TARGET")]
    pub(crate) target: Option<OsString>,
    /// Shards of each node to ask about in a round, drawn anew each time; all where it has no more
    #[arg(long, value_name = "N", default_value_t = SAMPLE_DEFAULT as u32, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sample: u32,
    /// Rounds, 1 to 1000
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Ask for whole shards, where the upload has tokens left that a node has not seen; else, and for pages, slices
    #[arg(long)]
    pub(crate) whole: bool,
    /// Judge a kept transcript again instead, without the swarm
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "capability_file", "sample", "rounds", "whole"])]
    pub(crate) verify_transcript: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) access: TargetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Only this profile: balanced, mobile or resilient [default: all codes that fit]
    #[arg(long, value_name = "NAME", conflicts_with = "code")]
    pub(crate) profile: Option<Profile>,
    /// Only this code: DATA+PARITY, such as 4+2
    #[arg(long, value_name = "K+M", value_parser = parse_code)]
    pub(crate) code: Option<Code>,
    /// Size of the upload, such as 500000, 25GB or 1.5TiB: checks the room and counts the segments
    #[arg(long, value_name = "BYTES", value_parser = byte_size)]
    pub(crate) size: Option<u64>,
    /// Nines a year that are wanted: 6 is a loss with one in a million
    #[arg(long, value_name = "X", value_parser = nines)]
    pub(crate) target_nines: Option<f64>,
    /// Share of nodes lost for good in a year, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 8.0, value_parser = percent)]
    pub(crate) afr: f64,
    /// Mean hours until a lost shard is noticed and made anew, from the first lost one on
    #[arg(long, value_name = "H", default_value_t = 24.0, value_parser = hours)]
    pub(crate) repair_hours: f64,
    /// Ask nobody: reckon with N nodes, each in a place of its own, of which no room is known
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) nodes: Option<u16>,
}

impl PlanArgs {
    /// The code asked for, if any.
    pub(crate) fn only(&self) -> Option<Profile> {
        self.code.map(Profile::Exact).or(self.profile)
    }
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Manifest file
    #[arg(value_name = "MANIFEST")]
    pub(crate) manifest: PathBuf,
    #[command(flatten)]
    pub(crate) password: PasswordArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FilesArgs {
    /// Forget line N of the list; the upload itself stays in the swarm
    #[arg(long, value_name = "N")]
    pub(crate) remove: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct VpnArgs {
    /// The node to ask: its data directory, or its control socket. Else SHOAL_NODE, else where shoald keeps it by itself
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) node: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: VpnCommand,
}

/// The commands of `vpn`.
#[derive(Debug, Subcommand)]
pub(crate) enum VpnCommand {
    /// Say who this node is in the network and how many members it reaches
    Status,
    /// List the members: address, way, round trip, session
    Peers,
    /// List the routes, those in use first
    Routes,
    /// Say how a member is reached, what was tried, and what was decided why
    Why(PeerArgs),
    /// Measure the way to a member and back, by probes inside the session: exit 0 if one came back, 17 if none
    Ping(PingArgs),
    /// Count what was sent, received, relayed, dropped and refused, and what waits
    Stats,
    /// Switch the private network on again
    Up,
    /// Switch it off until `up` or the next start, and undo all it made; the node goes on storing
    Down,
    /// Choose through whom this machine reaches the internet, until the node ends
    #[command(subcommand)]
    Exit(ExitCommand),
    /// Say which networks of this machine members reach through it, until the node ends
    #[command(subcommand)]
    Route(RouteCommand),
    /// Look after the rules of the network
    #[command(subcommand)]
    Policy(PolicyCommand),
}

/// The commands of `vpn exit`.
#[derive(Debug, Subcommand)]
pub(crate) enum ExitCommand {
    /// Use this one from now on
    Use {
        /// Its peer id or address in the network; `auto` for the nearest exit, `off` for none
        #[arg(value_name = "PEER")]
        through: ExitName,
    },
}

/// The commands of `vpn route`.
#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Lead members to a network
    Add(PrefixArgs),
    /// No longer lead them there
    Rm(PrefixArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PrefixArgs {
    /// The network, as 192.168.1.0/24
    #[arg(value_name = "CIDR")]
    pub(crate) prefix: Prefix,
}

/// The commands of `vpn policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say whether a file is a policy, and else its first mistake; nothing changes
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Let the node read its policy again; a mistake leaves the rules of before
    Reload,
}

impl VpnCommand {
    /// The `operation` of its report.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Status => "vpn.status",
            Self::Peers => "vpn.peers",
            Self::Routes => "vpn.routes",
            Self::Why(_) => "vpn.why",
            Self::Ping(_) => "vpn.ping",
            Self::Stats => "vpn.stats",
            Self::Up => "vpn.up",
            Self::Down => "vpn.down",
            Self::Exit(_) => "vpn.exit",
            Self::Route(_) => "vpn.route",
            Self::Policy(_) => "vpn.policy",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PeerArgs {
    /// The member: its peer id, or its IPv4 or IPv6 address in the network
    #[arg(value_name = "PEER")]
    pub(crate) peer: PeerName,
}

#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    #[command(flatten)]
    pub(crate) peer: PeerArgs,
    /// Probes, 1 to 1000; with --until-direct at most so many, one a second [default: 4, with --until-direct 60]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) count: Option<u16>,
    /// Go on until a probe comes back that no other member passed on; exit 17 if none does
    #[arg(long)]
    pub(crate) until_direct: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use shoal_client::durability::Churn;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("shoal").chain(words.iter().copied()))
    }

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_known_by_its_name() {
        let command = Cli::command();
        let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(names, Command::NAMES);
        assert_eq!(parse(&["ls", "x"]).unwrap().command.name(), "ls");
    }

    #[test]
    fn no_argument_takes_a_secret() {
        fn walk(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let secret = ["password", "secret", "passphrase", "key"].iter().any(|word| name.contains(word));
                assert!(!secret || matches!(name, "password_file" | "password_command"), "{name}");
                let from_env = argument.get_env().map(|name| name.to_string_lossy().into_owned());
                assert!(from_env.is_none_or(|name| name == "SHOAL_NETWORK"), "{name}");
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
        assert!(parse(&["upload", "x", "--password", "hunter2"]).is_err());
    }

    #[test]
    fn help_lists_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains(EXIT_CODES) && help.contains("SHOAL_CAPABILITY"));
    }

    #[test]
    fn codes_profiles_and_limits() {
        let upload = |words: &[&str]| match parse(&[&["upload", "f"], words].concat()) {
            Ok(Cli { command: Command::Upload(args), .. }) => Ok(args.profile()),
            Ok(_) => unreachable!("asked for upload"),
            Err(error) => Err(error.exit_code()),
        };
        assert_eq!(upload(&[]), Ok(Profile::Balanced));
        assert_eq!(upload(&["--code", "4+2"]), Ok(Profile::Exact(Code { data: 4, parity: 2 })));
        assert_eq!(upload(&["--profile", "mobile"]), Ok(Profile::Mobile));
        for words in [&["--profile", "mobile", "--code", "4+2"][..], &["--code", "0+1"], &["--replica-factor", "9"]] {
            assert_eq!(upload(words), Err(2), "{words:?}");
        }
    }

    #[test]
    fn plans_have_defaults_and_limits() {
        let plan = |words: &[&str]| match parse(&[&["plan"], words].concat()) {
            Ok(Cli { command: Command::Plan(args), .. }) => Ok(args),
            Ok(_) => unreachable!("asked for plan"),
            Err(error) => Err(error.exit_code()),
        };
        let plain = plan(&[]).unwrap();
        assert_eq!((plain.only(), plain.size, plain.target_nines, plain.nodes), (None, None, None, None));
        assert_eq!((plain.afr, plain.repair_hours), (8.0, 24.0));
        let churn = Churn::default();
        assert_eq!((plain.afr / 100.0, plain.repair_hours), (churn.yearly_failures(), churn.repair_hours()));
        let full =
            ["--code", "4+2", "--size", "1.5GB", "--target-nines", "6.5", "--afr", "2.5", "--repair-hours", "0.5"];
        let full = plan(&[&full[..], &["--nodes", "12", "--json", "--peer", "/ip4/127.0.0.1/tcp/1"]].concat()).unwrap();
        assert_eq!(full.only(), Some(Profile::Exact(Code { data: 4, parity: 2 })));
        assert_eq!((full.size, full.target_nines, full.nodes), (Some(1_500_000_000), Some(6.5), Some(12)));
        assert_eq!(plan(&["--profile", "resilient"]).unwrap().only(), Some(Profile::Resilient));
        for words in [
            &["--profile", "mobile", "--code", "4+2"][..],
            &["--afr", "0"],
            &["--afr", "100"],
            &["--afr", "nan"],
            &["--repair-hours", "-1"],
            &["--repair-hours", "inf"],
            &["--target-nines", "0"],
            &["--target-nines", "x"],
            &["--size", "1,5GB"],
            &["--nodes", "0"],
            &["--nodes", "5000"],
            &["file"],
        ] {
            assert_eq!(plan(words).map(drop), Err(2), "{words:?}");
        }
    }

    #[test]
    fn members_of_the_private_network_are_named_by_id_or_address() {
        let vpn = |words: &[&str]| match parse(&[&["vpn"], words].concat()) {
            Ok(Cli { command: Command::Vpn(args), .. }) => Ok(args),
            Ok(_) => unreachable!("asked for vpn"),
            Err(error) => Err(error.exit_code()),
        };
        let id = shoal_protocol::NodeId::from_bytes([7; 32]).to_string();
        for peer in [id.as_str(), "100.64.0.7", "fd00::7"] {
            let args = vpn(&["why", peer, "--node", "/n", "--json"]).unwrap();
            assert_eq!(args.node.as_deref(), Some(std::path::Path::new("/n")));
            assert!(matches!(args.command, VpnCommand::Why(args) if args.peer.to_string() == peer));
            let Ok(VpnArgs { command: VpnCommand::Ping(ping), node: None }) =
                vpn(&["ping", peer, "--count", "7", "--until-direct"])
            else {
                panic!("{peer}")
            };
            assert_eq!((ping.peer.peer.to_string().as_str(), ping.count, ping.until_direct), (peer, Some(7), true));
        }
        for (word, name) in
            [("status", "vpn.status"), ("peers", "vpn.peers"), ("routes", "vpn.routes"), ("stats", "vpn.stats")]
        {
            assert_eq!(parse(&["vpn", word]).unwrap().command.name(), name);
            assert_eq!(vpn(&["--node", "/n", word]).unwrap().node, Some("/n".into()));
        }
        for words in [
            &[][..],
            &["sideways"],
            &["why"],
            &["why", "me"],
            &["why", "100.64.0.7/32"],
            &["ping", "100.64.0.7", "--count", "0"],
            &["ping", "100.64.0.7", "--count", "1001"],
            &["status", "100.64.0.7"],
        ] {
            assert_eq!(vpn(words).map(drop), Err(2), "{words:?}");
        }
    }

    #[test]
    fn peers_and_networks() {
        let cli = parse(&["id", "--peer", "/ip4/127.0.0.1/tcp/1", "--peer", "/dns/example.org/udp/1/quic-v1"]).unwrap();
        assert_eq!(cli.common.peers.len(), 2);
        assert!(parse(&["id", "--peer", "127.0.0.1:1"]).is_err());
        assert!(parse(&["id", "--genesis", "zz"]).is_err());
        let named = parse(&["id", "--network", "home", "--genesis", &"Ab".repeat(32)]).unwrap().common;
        assert_eq!((named.network_name(), named.genesis), ("home", Some([0xab; 32])));
        assert!(named.names_network() && named.network_id().is_ok());
        assert!(parse(&["id", "--network", "a b"]).unwrap().common.network_id().is_err());
    }
}
