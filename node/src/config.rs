//! From flags and file to one checked configuration. Flags win; an unknown key or an odd value is an error, never a
//! guess.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use shoal_engine::suggest::meant;
use shoal_protocol::limits::DOMAIN_MAX;
use shoal_protocol::record::is_plain_text;
use shoal_protocol::{NetworkId, NodeId};

use crate::cli::RunArgs;
use crate::files::read_bounded;
use crate::genesis::{self, GenesisError};
use crate::networks::{self, NetworkConfig, config::NetworkFile};
use crate::problem::{Failure, Problem};
use crate::size::Size;
use crate::vpn::{self, VpnConfig, config::VpnFile};

/// Largest configuration file, bytes.
const FILE_MAX: u64 = 1024 * 1024;
/// The network of those who name none.
pub(crate) const DEFAULT_NETWORK: &str = "shoal";
/// What is logged unless told otherwise: warnings, but not that a peer went away without a word.
const DEFAULT_LOG: &str = "warn";
/// Where a node listens that is told nothing: one port, both transports.
const DEFAULT_LISTEN: [&str; 2] = ["/ip4/0.0.0.0/tcp/4700", "/ip4/0.0.0.0/udp/4700/quic-v1"];

/// The keys of a configuration file: one per flag.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileConfig {
    data_dir: Option<PathBuf>,
    listen: Option<Vec<String>>,
    bootstrap: Option<Vec<String>>,
    network: Option<String>,
    genesis: Option<String>,
    quota: Option<String>,
    allow_peer: Option<Vec<String>>,
    open: Option<bool>,
    members_only: Option<bool>,
    voucher_issuer: Option<Vec<String>>,
    domain: Option<String>,
    json: Option<bool>,
    log_level: Option<String>,
    log_format: Option<String>,
    vpn: Option<VpnFile>,
    networks: Option<Vec<NetworkFile>>,
}

/// A checked configuration of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything of the node lies.
    pub data_dir: PathBuf,
    /// Multiaddrs to listen on.
    pub listen: Vec<String>,
    /// Multiaddrs of peers to begin with.
    pub bootstrap: Vec<String>,
    /// The main network, in which the node stores.
    pub network: NetworkId,
    /// Its name.
    pub name: String,
    /// Bytes offered; none for min(25 GB, half the free space).
    pub quota: Option<u64>,
    /// Who may store here.
    pub allow: Vec<NodeId>,
    /// Whether everybody may.
    pub open: bool,
    /// Whether nobody else may read either.
    pub members_only: bool,
    /// Whose vouchers count.
    pub voucher_issuers: Vec<NodeId>,
    /// Declared failure domain.
    pub domain: Option<String>,
    /// The private network; none where it is not asked for.
    pub vpn: Option<VpnConfig>,
    /// Private networks beside the main one.
    pub networks: Vec<NetworkConfig>,
}

/// How the process talks, apart from what the node does.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// One JSON line instead of text on stdout.
    pub(crate) json: bool,
    /// Filter for the logs, such as `warn` or `shoal_node=debug`.
    pub(crate) log_level: String,
    /// Logs as JSON lines.
    pub(crate) log_json: bool,
}

/// Reads the file, lets flags win, checks everything.
pub(crate) fn load(
    args: &RunArgs,
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<(Config, Output), Problem> {
    let file = match &args.config {
        Some(path) => read_file(path)?,
        None => FileConfig::default(),
    };
    check(args, file, variable)
}

/// What a configuration file of these bytes would make of `args`.
#[cfg(feature = "test-utils")]
pub(crate) fn probe(args: &RunArgs, bytes: &[u8]) -> Result<Config, Problem> {
    Ok(check(args, parse_file(bytes, Path::new("config"))?, |_| None)?.0)
}

fn check(
    args: &RunArgs,
    file: FileConfig,
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<(Config, Output), Problem> {
    let data_dir = args.data.data_dir.clone().or(file.data_dir);
    let data_dir = match data_dir {
        Some(path) => path,
        None => default_data_dir(&variable)?,
    };
    let name = args.network.clone().or(file.network).unwrap_or_else(|| DEFAULT_NETWORK.to_owned());
    let genesis = args.genesis.clone().or(file.genesis);
    let network = network(&data_dir, &name, genesis.as_deref())?;
    let quota = args.quota.clone().or(file.quota).map(|text| quota(&text)).transpose()?;
    let domain = args.domain.clone().or(file.domain).map(|label| domain(&label)).transpose()?;
    let mut listen = pick(&args.listen, file.listen);
    if listen.is_empty() {
        listen = DEFAULT_LISTEN.map(str::to_owned).to_vec();
    }
    let bootstrap = pick(&args.bootstrap, file.bootstrap);
    check_addresses(listen.iter().chain(&bootstrap))?;
    let allow = pick(&args.allow_peer, file.allow_peer);
    let allow = allow.iter().map(|text| peer(text)).collect::<Result<Vec<NodeId>, Problem>>()?;
    let output = Output {
        json: args.json || file.json.unwrap_or(false),
        log_level: args
            .log_level
            .clone()
            .or_else(|| variable("RUST_LOG")?.into_string().ok())
            .or(file.log_level)
            .unwrap_or_else(|| DEFAULT_LOG.to_owned()),
        log_json: log_json(args.log_format.as_deref().or(file.log_format.as_deref()))?,
    };
    let open = args.open || file.open.unwrap_or(false);
    let members_only = args.members_only || file.members_only.unwrap_or(false);
    if open && members_only {
        return Err(Problem::new(
            Failure::Usage,
            "a node cannot be both open and for members only",
            "one of them is in the configuration file",
            "leave one out",
        ));
    }
    let vpn = vpn::config::check(&args.vpn, file.vpn, &name)?;
    let issuers = pick(&args.voucher_issuer, file.voucher_issuer);
    let voucher_issuers = issuers.iter().map(|text| peer(text)).collect::<Result<Vec<NodeId>, Problem>>()?;
    let networks =
        networks::config::check(file.networks.unwrap_or_default(), &data_dir, (&name, &network, vpn.as_ref()))?;
    let config = Config {
        data_dir,
        listen,
        bootstrap,
        network,
        name,
        quota,
        allow,
        open,
        members_only,
        voucher_issuers,
        domain,
        vpn,
        networks,
    };
    Ok((config, output))
}

/// Whether all of these are addresses of peers or listeners.
pub(crate) fn check_addresses<'a>(mut addresses: impl Iterator<Item = &'a String>) -> Result<(), Problem> {
    addresses.try_for_each(|address| {
        shoal_swarm::peer_address(address).map(drop).map_err(|error| {
            Problem::new(
                Failure::Usage,
                format!("{address:?} is not an address this node can use: {error}"),
                "it is mistyped, or a host name without /dns",
                "write it like /ip4/192.0.2.7/tcp/4700",
            )
        })
    })
}

/// Directory and quota alone, of commands that look after a store: flags, then the file, then the defaults.
pub(crate) fn place(
    data_dir: Option<&Path>,
    quota_text: Option<&str>,
    config: Option<&Path>,
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<(PathBuf, Option<u64>), Problem> {
    let file = match config {
        Some(path) => read_file(path)?,
        None => FileConfig::default(),
    };
    let data_dir = match data_dir.map(Path::to_path_buf).or(file.data_dir) {
        Some(path) => path,
        None => default_data_dir(&variable)?,
    };
    let quota = quota_text.map(str::to_owned).or(file.quota).map(|text| quota(&text)).transpose()?;
    Ok((data_dir, quota))
}

/// How commands other than `run` talk: what goes wrong, unless `RUST_LOG` wants more.
pub(crate) fn quiet(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Output {
    let log_level = variable("RUST_LOG").and_then(|filter| filter.into_string().ok());
    Output { json: false, log_level: log_level.unwrap_or_else(|| DEFAULT_LOG.to_owned()), log_json: false }
}

fn pick(flags: &[String], file: Option<Vec<String>>) -> Vec<String> {
    if flags.is_empty() { file.unwrap_or_default() } else { flags.to_vec() }
}

fn read_file(path: &Path) -> Result<FileConfig, Problem> {
    let bytes =
        read_bounded(path, FILE_MAX).map_err(|error| unreadable(format!("cannot read {}: {error}", path.display())))?;
    parse_file(&bytes.ok_or_else(|| unreadable(format!("there is no file {}", path.display())))?, path)
}

fn unreadable(what: String) -> Problem {
    Problem::new(Failure::Usage, what, "the path is mistyped or not readable", "check --config and its permissions")
}

fn parse_file(bytes: &[u8], path: &Path) -> Result<FileConfig, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|_| unreadable(format!("{} is not UTF-8", path.display())))?;
    toml::from_str(text).map_err(|error| {
        let next = match meant(error.message()) {
            Some(key) => format!("did you mean `{key}`? `shoald run --help` lists the keys, one per flag"),
            None => "correct the line; `shoald run --help` lists the keys, one per flag".to_owned(),
        };
        Problem::new(
            Failure::Usage,
            format!("{}: {}", path.display(), error.to_string().trim_end()),
            "a key is mistyped or has the wrong kind of value",
            &next,
        )
    })
}

/// The data directory of those who name none.
pub(crate) fn default_data_dir(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<PathBuf, Problem> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/shoal"));
    }
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("shoal"))
        .ok_or_else(|| {
            Problem::new(
                Failure::Usage,
                "there is no default data directory",
                "neither XDG_DATA_HOME nor HOME is set",
                "pass --data-dir DIR",
            )
        })
}

/// The network of a name: with the genesis key given, or the one this directory began it with, or none.
pub(crate) fn network(data: &Path, name: &str, genesis: Option<&str>) -> Result<NetworkId, Problem> {
    let wrong = |what: String| {
        Problem::new(
            Failure::Usage,
            what,
            "the network or its genesis key is mistyped",
            "check --network and --genesis",
        )
    };
    let public = match genesis {
        Some(text) => {
            let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
            let key: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
            Some(key.ok_or_else(|| wrong(format!("{text:?} is not a genesis key of 64 hexadecimal digits")))?)
        }
        None => genesis::load(data, name).map_err(genesis_problem)?,
    };
    NetworkId::derive(public.as_ref(), name).map_err(|error| wrong(error.to_string()))
}

/// What a user is told about a genesis key that cannot be used.
pub(crate) fn genesis_problem(error: GenesisError) -> Problem {
    let what = error.to_string();
    match error {
        GenesisError::Io { cause, .. } => Problem::new(
            Failure::of(&cause),
            what,
            "the file belongs to somebody else",
            "check --data-dir and its owner",
        ),
        GenesisError::Name(_) => Problem::new(Failure::Usage, what, "the name is mistyped", "check --network"),
        GenesisError::OtherNetwork { .. } => {
            Problem::new(Failure::Usage, what, "the directory began another network", "pass another --data-dir")
        }
        GenesisError::Damaged(_) => Problem::new(
            Failure::Other,
            what,
            "the file was edited or cut short",
            "bring it back, or pass --genesis HEX",
        ),
        GenesisError::Random(_) => {
            Problem::new(Failure::Other, what, "the kernel is too old or locked down", "repeat elsewhere")
        }
    }
}

fn quota(text: &str) -> Result<u64, Problem> {
    let Size(bytes) = text.parse().map_err(|error| {
        Problem::new(Failure::Usage, error, "the unit is missing or mistyped", "write it like --quota 25GB")
    })?;
    if bytes < crate::chunks::QUOTA_MIN {
        return Err(Problem::new(
            Failure::Usage,
            format!("a quota of {bytes} bytes is too small"),
            "a node needs room for its largest shard and a reserve",
            "offer at least 8 MiB",
        ));
    }
    Ok(bytes)
}

fn domain(label: &str) -> Result<String, Problem> {
    if is_plain_text(label, DOMAIN_MAX) {
        return Ok(label.to_owned());
    }
    Err(Problem::new(
        Failure::Usage,
        format!("{label:?} is not a domain label"),
        "it has spaces or other than printable ASCII characters, or more than 64 of them",
        "write it like --domain cellar",
    ))
}

pub(crate) fn peer(text: &str) -> Result<NodeId, Problem> {
    text.parse().map_err(|error| {
        Problem::new(Failure::Usage, error, "the id is cut or mistyped", "ask its owner for `shoal id` or `shoald id`")
    })
}

fn log_json(format: Option<&str>) -> Result<bool, Problem> {
    match format {
        None | Some("text") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(Problem::new(
            Failure::Usage,
            format!("unknown log format {other:?}"),
            "it is mistyped",
            "write --log-format text or --log-format json",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn loaded(arguments: &[&str]) -> Result<(Config, Output), Problem> {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            run: RunArgs,
        }
        let only = Only::parse_from([&["x"], arguments].concat());
        load(&only.run, |name| (name == "HOME").then(|| "/tmp/nobody".into()))
    }

    #[test]
    fn flags_win_over_the_file() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("c.toml");
        std::fs::write(
            &file,
            "quota = \"30GB\"\nlisten = [\"/ip4/127.0.0.1/tcp/1\"]\nopen = true\ndomain = \"cellar\"\n",
        )
        .unwrap();
        let file = file.to_str().unwrap();
        let (config, _) = loaded(&["--config", file, "--quota", "9MB", "--data-dir", "/x"]).unwrap();
        assert_eq!((config.quota, config.open, config.domain.as_deref()), (Some(9_000_000), true, Some("cellar")));
        assert_eq!(config.listen, ["/ip4/127.0.0.1/tcp/1"]);
        assert_eq!(config.network, NetworkId::derive(None, "shoal").unwrap());
    }

    #[test]
    fn mistakes_are_named() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("c.toml");
        std::fs::write(&file, "\nquta = \"30GB\"\n").unwrap();
        let said = loaded(&["--config", file.to_str().unwrap()]).unwrap_err();
        let text = said.to_string();
        assert!(text.contains("quta") && text.contains("line 2") && text.contains("did you mean `quota`?"), "{text}");
        for arguments in [
            &["--quota", "1MB"][..],
            &["--quota", "lots"],
            &["--listen", "127.0.0.1:80"],
            &["--bootstrap", "/ip4/1.2.3.4"],
            &["--allow-peer", "me"],
            &["--voucher-issuer", "me"],
            &["--open", "--members-only"],
            &["--domain", "a b"],
            &["--network", "a b"],
            &["--genesis", "12"],
            &["--log-format", "xml"],
            &["--config", "/nonexistent"],
        ] {
            let said = loaded(arguments).unwrap_err();
            assert_eq!(said.failure, Failure::Usage, "{said}");
        }
    }
}
