//! What is asked of the private network by flags and file, and that checked. It opens nothing.

use clap::Args;
use serde::Deserialize;
use shoal_engine::mesh::names::network_label;
use shoal_engine::mesh::network::Carriers;
use shoal_protocol::mesh::address::Pool;
use shoal_protocol::mesh::name::HostLabel;
use shoal_protocol::mesh::prefix::Prefix;

use super::dns::NamesConfig;
use super::system::is_interface_name;
use super::system::tun::MTU_MIN;
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
    /// What others find this node by, besides its peer id: LABEL.NETWORK.shoal.internal
    #[arg(long, value_name = "LABEL")]
    pub(crate) vpn_name: Option<String>,
    /// Answer no questions of this machine about names of members, and leave its resolver alone
    #[arg(long)]
    pub(crate) no_dns: bool,
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
    name: Option<String>,
    no_dns: Option<bool>,
}

/// A checked configuration of the private network.
#[derive(Debug, Clone)]
pub struct VpnConfig {
    /// The device's name; none for a relay without one.
    pub tun_name: Option<String>,
    /// The device's MTU, bytes.
    pub mtu: u16,
    /// Where its IPv4 addresses are.
    pub pool: Pool,
    /// Which carriers may be used.
    pub carriers: Carriers,
    /// UDP port; 0 for any that is free.
    pub port: u16,
    /// Names of members, and the own one.
    pub names: NamesConfig,
}

/// Lets flags win over the file; none where the private network is not asked for. `network` is its name.
pub(crate) fn check(args: &VpnArgs, file: Option<VpnFile>, network: &str) -> Result<Option<VpnConfig>, Problem> {
    let is_asked = args.vpn || file.as_ref().is_some_and(|file| file.enabled.unwrap_or(true));
    if !is_asked {
        return Ok(None);
    }
    let file = file.unwrap_or_default();
    let has_tun = !(args.no_tun || (file.no_tun.unwrap_or(false) && args.tun_name.is_none()));
    let name = args.tun_name.clone().or(file.tun_name).unwrap_or_else(|| DEFAULT_TUN_NAME.to_owned());
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
    let pool = args.vpn_pool.clone().or(file.pool).map(|text| pool(&text)).transpose()?.unwrap_or_default();
    let carriers = carriers(args.vpn_carrier.as_deref().or(file.carrier.as_deref()))?;
    let port = args.vpn_port.or(file.port).unwrap_or(0);
    let names = NamesConfig {
        serve: !(args.no_dns || file.no_dns.unwrap_or(false)),
        label: args.vpn_name.clone().or(file.name).map(|text| label(&text)).transpose()?,
        network: network_label(network),
    };
    Ok(Some(VpnConfig { tun_name: has_tun.then_some(name), mtu, pool, carriers, port, names }))
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
