//! What is asked of the private network by flags and file, and that checked. It opens nothing.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use shoal_engine::mesh::names::network_label;
use shoal_engine::mesh::network::Carriers;
use shoal_engine::mesh::routing::snapshot::ExitUse;
use shoal_protocol::NodeId;
use shoal_protocol::mesh::address::Pool;
use shoal_protocol::mesh::name::HostLabel;
use shoal_protocol::mesh::prefix::Prefix;

use super::dns::NamesConfig;
use super::roles::{PREFIXES_MAX, Roles};
use super::system::is_interface_name;
use super::system::tun::MTU_MIN;
use super::userspace::config::{self as userspace, UserspaceArgs, UserspaceConfig, UserspaceFile};
use crate::problem::{Failure, Problem};

/// The device's name where none is given.
const DEFAULT_TUN_NAME: &str = "shoal0";
/// The device's MTU where none is given: what every IPv6 link takes (RFC 8200 §5).
const DEFAULT_MTU: u16 = 1280;
/// The largest MTU.
const MTU_MAX: u16 = 9000;

/// Flags of `run` about the private network; each is also a key of the table `[vpn]` of the configuration file.
#[derive(Debug, Default, Args)]
pub(crate) struct VpnArgs {
    /// Take part in the private network of the members
    #[arg(long)]
    pub(crate) vpn: bool,
    /// Name of its network interface [default: shoal0]
    #[arg(long, value_name = "NAME")]
    pub(crate) tun_name: Option<String>,
    /// Relay for others without an interface of its own
    #[arg(long, conflicts_with = "tun_name")]
    pub(crate) no_tun: bool,
    /// MTU of the interface, 1280 to 9000 [default: 1280]
    #[arg(long, value_name = "BYTES")]
    pub(crate) vpn_mtu: Option<u16>,
    /// Where its IPv4 addresses are; the same for all members [default: 100.64.0.0/10]
    #[arg(long, value_name = "CIDR")]
    pub(crate) vpn_pool: Option<String>,
    /// What carries packets: auto, lanes or udp [default: auto]
    #[arg(long, value_name = "CARRIER")]
    pub(crate) vpn_carrier: Option<String>,
    /// UDP port for packets [default: any that is free]
    #[arg(long, value_name = "PORT")]
    pub(crate) vpn_port: Option<u16>,
    /// Network of this machine that members reach through it, repeatable
    #[arg(long, value_name = "CIDR")]
    pub(crate) advertise_route: Vec<String>,
    /// Let members reach the internet through this machine
    #[arg(long)]
    pub(crate) exit_node: bool,
    /// Reach the internet through this member, or through the nearest exit with `auto`
    #[arg(long, value_name = "PEER")]
    pub(crate) use_exit: Option<String>,
    /// Let nothing leave this machine but through the exit, also after a crash
    #[arg(long)]
    pub(crate) kill_switch: bool,
    /// Network that is reached around the exit, repeatable
    #[arg(long, value_name = "CIDR")]
    pub(crate) exit_bypass: Vec<String>,
    /// Network that alone is reached through the exit, repeatable [default: everything]
    #[arg(long, value_name = "CIDR")]
    pub(crate) exit_only: Vec<String>,
    /// Rules of the private network, see docs/POLICY.md [default: members may talk]
    #[arg(long, value_name = "FILE")]
    pub(crate) vpn_policy: Option<PathBuf>,
    /// What others find this node by, besides its peer id: LABEL.NETWORK.shoal.internal
    #[arg(long, value_name = "LABEL")]
    pub(crate) vpn_name: Option<String>,
    /// Answer no questions of this machine about names of members, and leave its resolver alone
    #[arg(long)]
    pub(crate) no_dns: bool,
    /// Without an interface.
    #[command(flatten)]
    pub(crate) userspace: UserspaceArgs,
}

/// The table `[vpn]` of a configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct VpnFile {
    enabled: Option<bool>,
    tun_name: Option<String>,
    no_tun: Option<bool>,
    mtu: Option<u16>,
    pool: Option<String>,
    carrier: Option<String>,
    port: Option<u16>,
    advertise_route: Option<Vec<String>>,
    exit_node: Option<bool>,
    use_exit: Option<String>,
    kill_switch: Option<bool>,
    exit_bypass: Option<Vec<String>>,
    exit_only: Option<Vec<String>>,
    policy: Option<PathBuf>,
    name: Option<String>,
    no_dns: Option<bool>,
    userspace: Option<bool>,
    socks: Option<String>,
    forward: Option<Vec<String>>,
    publish: Option<Vec<String>>,
    expose: Option<bool>,
}

impl VpnFile {
    /// With this name of its device where none is given.
    pub(crate) fn or_tun_name(mut self, name: impl FnOnce() -> String) -> Self {
        if self.no_tun != Some(true) {
            self.tun_name.get_or_insert_with(name);
        }
        self
    }
}

/// A checked configuration of the private network.
#[derive(Debug, Clone)]
pub struct VpnConfig {
    /// The device's name; none for a relay without one, and in userspace.
    pub tun_name: Option<String>,
    /// The device's MTU, bytes.
    pub mtu: u16,
    /// Where its IPv4 addresses are.
    pub pool: Pool,
    /// Which carriers may be used.
    pub carriers: Carriers,
    /// UDP port; 0 for any that is free.
    pub port: u16,
    /// What this node is for others, and others for it.
    pub roles: Roles,
    /// Names of members, and the own one.
    pub names: NamesConfig,
    /// The network in this process alone.
    pub userspace: Option<UserspaceConfig>,
}

/// Lets flags win over the file; none where the private network is not asked for. `network` is its name.
pub(crate) fn check(args: &VpnArgs, file: Option<VpnFile>, network: &str) -> Result<Option<VpnConfig>, Problem> {
    let is_asked =
        args.vpn || args.userspace.vpn_userspace || file.as_ref().is_some_and(|file| file.enabled.unwrap_or(true));
    if !is_asked {
        return Ok(None);
    }
    let mut file = file.unwrap_or_default();
    let userspace = userspace::check(&args.userspace, userspace_file(&mut file))?;
    if userspace.is_some() {
        alone(args, &file)?;
    }
    let has_tun = userspace.is_none() && !(args.no_tun || (file.no_tun.unwrap_or(false) && args.tun_name.is_none()));
    let name = args.tun_name.clone().or(file.tun_name.take()).unwrap_or_else(|| DEFAULT_TUN_NAME.to_owned());
    if has_tun && !is_interface_name(&name) {
        return Err(Problem::new(
            Failure::Usage,
            format!("{name:?} is no name for an interface"),
            "it is empty, longer than 15 characters, or has others than letters, digits, `.`, `_` and `-`",
            "write it like --tun-name shoal0",
        ));
    }
    let mtu = args.vpn_mtu.or(file.mtu).unwrap_or(DEFAULT_MTU);
    if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
        return Err(Problem::new(
            Failure::Usage,
            format!("an MTU of {mtu} is not between {MTU_MIN} and {MTU_MAX}"),
            "IPv6 needs 1280, and no usual link takes more than 9000",
            "write it like --vpn-mtu 1280, or leave it out",
        ));
    }
    let pool = args.vpn_pool.clone().or(file.pool.take()).map(|text| pool(&text)).transpose()?.unwrap_or_default();
    let carriers = carriers(args.vpn_carrier.as_deref().or(file.carrier.as_deref()))?;
    let port = args.vpn_port.or(file.port).unwrap_or(0);
    let names = NamesConfig {
        serve: !(args.no_dns || file.no_dns.unwrap_or(false)),
        label: args.vpn_name.clone().or(file.name.take()).map(|text| label(&text)).transpose()?,
        network: network_label(network),
    };
    let roles = roles(args, file, has_tun, &pool)?;
    Ok(Some(VpnConfig { tun_name: has_tun.then_some(name), mtu, pool, carriers, port, roles, names, userspace }))
}

fn userspace_file(file: &mut VpnFile) -> UserspaceFile {
    UserspaceFile {
        userspace: file.userspace.unwrap_or(false),
        socks: file.socks.take(),
        forward: file.forward.take().unwrap_or_default(),
        publish: file.publish.take().unwrap_or_default(),
        expose: file.expose.unwrap_or(false),
    }
}

/// What needs an interface is refused without one: each would be there and do nothing.
fn alone(args: &VpnArgs, file: &VpnFile) -> Result<(), Problem> {
    let some = |flags: &[String], file: &Option<Vec<String>>| !flags.is_empty() || file.is_some();
    let needs = [
        ("--tun-name", args.tun_name.is_some() || file.tun_name.is_some()),
        ("--no-tun", args.no_tun || file.no_tun.unwrap_or(false)),
        ("--exit-node", args.exit_node || file.exit_node.unwrap_or(false)),
        ("--advertise-route", some(&args.advertise_route, &file.advertise_route)),
        ("--use-exit", args.use_exit.is_some() || file.use_exit.is_some()),
        ("--kill-switch", args.kill_switch || file.kill_switch.unwrap_or(false)),
        ("--exit-bypass", some(&args.exit_bypass, &file.exit_bypass)),
        ("--exit-only", some(&args.exit_only, &file.exit_only)),
        ("--no-dns", args.no_dns || file.no_dns.unwrap_or(false)),
    ];
    let Some((flag, _)) = needs.iter().find(|(_, is_asked)| *is_asked) else { return Ok(()) };
    let (why, next) = match *flag {
        "--no-tun" | "--no-dns" => ("in userspace there is none of it anyway", format!("leave out {flag}")),
        _ => (
            "it changes how the system sends packets, and in userspace the system is left alone",
            format!("leave out {flag}, or leave out --vpn-userspace and run it as root"),
        ),
    };
    Err(Problem::new(Failure::Usage, format!("{flag} needs an interface, and --vpn-userspace makes none"), why, &next))
}

/// The roles, as far as they do not contradict each other.
fn roles(args: &VpnArgs, file: VpnFile, has_tun: bool, pool: &Pool) -> Result<Roles, Problem> {
    let all = |flags: &[String], file: Option<Vec<String>>, flag: &str| {
        let texts = if flags.is_empty() { file.unwrap_or_default() } else { flags.to_vec() };
        prefixes(&texts, flag)
    };
    let roles = Roles {
        advertised: all(&args.advertise_route, file.advertise_route, "--advertise-route")?,
        is_exit: args.exit_node || file.exit_node.unwrap_or(false),
        exit: args.use_exit.clone().or(file.use_exit).map_or(Ok(ExitUse::Off), |text| exit(&text))?,
        kill_switch: args.kill_switch || file.kill_switch.unwrap_or(false),
        bypass: all(&args.exit_bypass, file.exit_bypass, "--exit-bypass")?,
        only: all(&args.exit_only, file.exit_only, "--exit-only")?,
        policy: args.vpn_policy.clone().or(file.policy),
    };
    let uses_exit = roles.exit != ExitUse::Off;
    let is_steered = roles.kill_switch || !roles.bypass.is_empty() || !roles.only.is_empty();
    let inside = roles.advertised.iter().find(|prefix| prefix.overlaps(&pool.prefix()) || prefix.is_default());
    let wrong = if !has_tun && (uses_exit || roles.is_exit || !roles.advertised.is_empty()) {
        Some(("a relay without an interface has no other role".to_owned(), "leave out --no-tun, or the other flag"))
    } else if uses_exit && roles.is_exit {
        Some(("an exit cannot use another exit".to_owned(), "leave out --exit-node or --use-exit"))
    } else if is_steered && !uses_exit {
        let what = "--kill-switch, --exit-bypass and --exit-only say how an exit is used, and none is";
        Some((what.to_owned(), "add --use-exit PEER or --use-exit auto"))
    } else if roles.kill_switch && !roles.only.is_empty() {
        let what = "a kill switch lets nothing around the exit, and --exit-only everything but what it names";
        Some((what.to_owned(), "leave out one of the two"))
    } else {
        let next = "name a network of this machine; for the internet write --exit-node";
        inside
            .map(|prefix| (format!("this node cannot lead to {prefix}: it is the members' own, or the internet"), next))
    };
    match wrong {
        Some((what, next)) => Err(Problem::new(Failure::Usage, what, "two wishes contradict each other", next)),
        None => Ok(roles),
    }
}

fn prefixes(texts: &[String], flag: &str) -> Result<Vec<Prefix>, Problem> {
    if texts.len() > PREFIXES_MAX {
        let what = format!("{flag} names {} networks, and {PREFIXES_MAX} are possible", texts.len());
        return Err(Problem::new(Failure::Usage, what, "some of them may be one", "name larger ones"));
    }
    let prefix = |text: &String| {
        text.parse().map_err(|error| {
            let what = format!("{text:?} is no network: {error}");
            Problem::new(Failure::Usage, what, "it is mistyped", &format!("write it like {flag} 192.168.1.0/24"))
        })
    };
    texts.iter().map(prefix).collect()
}

fn exit(text: &str) -> Result<ExitUse, Problem> {
    match text {
        "auto" => Ok(ExitUse::Auto),
        _ => text.parse::<NodeId>().map(ExitUse::Peer).map_err(|_| {
            let (what, why) = (format!("{text:?} is no exit"), "it is neither a peer id nor `auto`");
            Problem::new(Failure::Usage, what, why, "see `shoal vpn peers`, and write --use-exit PEER")
        }),
    }
}

fn label(text: &str) -> Result<HostLabel, Problem> {
    text.parse().map_err(|error| {
        Problem::new(
            Failure::Usage,
            format!("{text:?} is no name for a node: {error}"),
            "it is mistyped, a whole domain name, or could be taken for another node's id",
            "write it like --vpn-name nas",
        )
    })
}

fn pool(text: &str) -> Result<Pool, Problem> {
    let wrong = |what: String| {
        Problem::new(
            Failure::Usage,
            what,
            "it is mistyped, or too small or too large for the addresses of all members",
            "write it like --vpn-pool 10.9.0.0/16, the same for all members",
        )
    };
    let prefix: Prefix = text.parse().map_err(|error| wrong(format!("{text:?} is no pool of addresses: {error}")))?;
    Pool::new(prefix).map_err(|error| wrong(error.to_string()))
}

fn carriers(text: Option<&str>) -> Result<Carriers, Problem> {
    match text {
        None | Some("auto") => Ok(Carriers::Auto),
        Some("lanes") => Ok(Carriers::Lanes),
        Some("udp") => Ok(Carriers::Udp),
        Some(other) => Err(Problem::new(
            Failure::Usage,
            format!("unknown carrier {other:?}"),
            "it is mistyped",
            "write --vpn-carrier auto, lanes or udp",
        )),
    }
}
