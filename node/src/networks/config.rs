//! The tables `[[networks]]` of a configuration file: private networks beside the main one, checked each by itself and all
//! against each other. It opens nothing.

use std::path::Path;

use serde::Deserialize;
use shoal_protocol::{NetworkId, NodeId};

use crate::config;
use crate::problem::{Failure, Problem};
use crate::vpn::config::{VpnArgs, VpnFile};
use crate::vpn::machine::{NETWORKS_MAX, Slot};
use crate::vpn::{self, VpnConfig};

/// Where a network listens that is told nothing: on any free port, both transports.
const DEFAULT_LISTEN: [&str; 2] = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];

/// One table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct NetworkFile {
    name: String,
    genesis: Option<String>,
    listen: Option<Vec<String>>,
    bootstrap: Option<Vec<String>>,
    allow_peer: Option<Vec<String>>,
    open: Option<bool>,
    vpn: Option<VpnFile>,
}

/// A checked private network beside the main one.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Its name.
    pub name: String,
    /// Its id.
    pub network: NetworkId,
    /// Multiaddrs to listen on.
    pub listen: Vec<String>,
    /// Multiaddrs of peers to begin with.
    pub bootstrap: Vec<String>,
    /// Its members.
    pub allow: Vec<NodeId>,
    /// Whether everybody is one.
    pub open: bool,
    /// Device, pool, roles and names.
    pub vpn: VpnConfig,
}

/// A network and its private part, if it has one, as [`check`] compares them.
type Named<'a> = (&'a str, &'a NetworkId, Option<&'a VpnConfig>);

/// The networks of the file, in its order; `main` is the one the node has anyway.
pub(crate) fn check(files: Vec<NetworkFile>, data_dir: &Path, main: Named<'_>) -> Result<Vec<NetworkConfig>, Problem> {
    if files.len() >= NETWORKS_MAX {
        let what = format!("{} networks beside the main one, and {} are possible", files.len(), NETWORKS_MAX - 1);
        return Err(Problem::new(Failure::Usage, what, "some may be one", "leave some out, or run another shoald"));
    }
    let mut checked: Vec<NetworkConfig> = Vec::new();
    for (file, slot) in files.into_iter().zip(Slot::beside()) {
        let name = file.name.clone();
        let network = one(file, data_dir, slot).map_err(|problem| problem.about(&format!("network {name:?}")))?;
        let before = checked.iter().map(|known| (known.name.as_str(), &known.network, Some(&known.vpn)));
        for known in [main].into_iter().chain(before) {
            apart(known, &network)?;
        }
        checked.push(network);
    }
    Ok(checked)
}

/// The directory of a network's own files.
pub(crate) fn directory(data_dir: &Path, name: &str) -> std::path::PathBuf {
    data_dir.join("networks").join(name)
}

fn one(file: NetworkFile, data_dir: &Path, slot: Slot) -> Result<NetworkConfig, Problem> {
    let NetworkFile { name, genesis, listen, bootstrap, allow_peer, open, vpn } = file;
    // It names a directory.
    if name.starts_with('.') {
        return Err(Problem::new(
            Failure::Usage,
            format!("{name:?} cannot name a network beside the main one"),
            "it begins with a dot",
            "choose another name",
        ));
    }
    let id = config::network(&directory(data_dir, &name), &name, genesis.as_deref())?;
    let listen = listen.unwrap_or_else(|| DEFAULT_LISTEN.map(str::to_owned).to_vec());
    let bootstrap = bootstrap.unwrap_or_default();
    config::check_addresses(listen.iter().chain(&bootstrap))?;
    let allow = allow_peer.unwrap_or_default();
    let allow = allow.iter().map(|text| config::peer(text)).collect::<Result<Vec<NodeId>, Problem>>()?;
    let (args, file) = (VpnArgs::default(), vpn.unwrap_or_default());
    let file = file.or_tun_name(|| format!("shoal{}", slot.number()));
    let vpn = vpn::config::check(&args, Some(file), &name)?.ok_or_else(|| {
        let next = "leave out the whole table, or `enabled`";
        Problem::new(Failure::Usage, "it is switched off", "`enabled` is false, and it is nothing but private", next)
    })?;
    Ok(NetworkConfig { name, network: id, listen, bootstrap, allow, open: open.unwrap_or(false), vpn })
}

/// Whether two networks can be on one machine.
fn apart((name, id, known): Named<'_>, other: &NetworkConfig) -> Result<(), Problem> {
    let no = |what: String, why: &str, next: &str| Err(Problem::new(Failure::Usage, what, why, next));
    // Files and commands are by name, whatever size its letters have.
    if name.eq_ignore_ascii_case(&other.name) || *id == other.network {
        let what = format!("two networks are called {:?}", other.name);
        return no(what, "a table is there twice, or names the main network", "leave one of the two out");
    }
    let Some(known) = known else { return Ok(()) };
    let both = format!("the networks {name:?} and {:?}", other.name);
    let (one, two) = (known.pool.prefix(), other.vpn.pool.prefix());
    if let (Some(tun), Some(tun_name)) = (&known.tun_name, &other.vpn.tun_name) {
        if tun == tun_name {
            let next = "give one of them another `tun-name`";
            return no(format!("{both} have one interface, {tun:?}"), "a name is there twice", next);
        }
        if one.overlaps(&two) {
            let why = "an address would be a member of one and of the other; without `pool` all have 100.64.0.0/10";
            let next = "agree with the members of one of them on another `pool`, such as 10.9.0.0/16";
            return no(format!("{both} overlap: their pools are {one} and {two}"), why, next);
        }
    }
    let leads_into = |roles: &vpn::roles::Roles, pool| roles.advertised.iter().any(|prefix| prefix.overlaps(pool));
    if leads_into(&known.roles, &two) || leads_into(&other.vpn.roles, &one) {
        let next = "leave out that `advertise-route`";
        return no(format!("{both} would not be apart"), "one of them is to lead to the members of the other", next);
    }
    if known.roles.holds_default_route() && other.vpn.roles.holds_default_route() {
        let next = "leave out `use-exit` of one of them, or say with `exit-only` what it is for";
        return no(format!("{both} both use an exit"), "a machine has one default route", next);
    }
    if known.port != 0 && known.port == other.vpn.port {
        return no(format!("{both} have one UDP port"), "a port is there twice", "give one of them another `port`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<Vec<NetworkConfig>, Problem> {
        #[derive(Deserialize)]
        struct File {
            vpn: Option<VpnFile>,
            networks: Vec<NetworkFile>,
        }
        let File { vpn, networks } = toml::from_str(text).unwrap();
        let main = vpn::config::check(&VpnArgs::default(), vpn, "home").unwrap();
        let id = NetworkId::derive(None, "home").unwrap();
        check(networks, Path::new("/nowhere"), ("home", &id, main.as_ref()))
    }

    #[test]
    fn networks_beside_the_main_one_have_ports_devices_and_folders_of_their_own() {
        let text = "[vpn]\n[[networks]]\nname = \"work\"\nopen = true\n[networks.vpn]\npool = \"10.9.0.0/16\"\n\
                    [[networks]]\nname = \"club\"\nlisten = [\"/ip4/127.0.0.1/tcp/4800\"]\nvpn = { pool = \"10.10.0.0/16\" }\n";
        let networks = checked(text).unwrap();
        let tun: Vec<_> = networks.iter().map(|network| network.vpn.tun_name.as_deref()).collect();
        assert_eq!(tun, [Some("shoal1"), Some("shoal2")]);
        assert_eq!((networks[0].listen.as_slice(), networks[0].open), (&DEFAULT_LISTEN.map(str::to_owned)[..], true));
        assert_eq!((networks[1].listen.len(), networks[1].open), (1, false));
        assert_eq!(networks[0].network, NetworkId::derive(None, "work").unwrap());
        assert_eq!(directory(Path::new("/data"), "work"), Path::new("/data/networks/work"));
        assert_eq!(networks[1].vpn.names.network.as_deref(), Some("club"));
    }

    #[test]
    fn what_two_networks_cannot_share_is_refused_in_three_lines() {
        let named = |name: &str| format!("[[networks]]\nname = {name:?}\n");
        let work = |vpn: &str| format!("{}vpn = {{ {vpn} }}\n", named("work"));
        let exit = "use-exit = \"auto\"";
        for (text, word) in [
            (format!("[vpn]\n{}", work("")), "pools are 100.64.0.0/10 and 100.64.0.0/10"),
            (format!("[vpn]\n{}", work("pool = \"100.65.0.0/16\"")), "another `pool`"),
            (work("").repeat(2), "two networks are called \"work\""),
            (named("home"), "two networks are called \"home\""),
            (named("HOME"), "two networks are called"),
            (format!("[vpn]\ntun-name = \"shoal1\"\n{}", work("pool = \"10.9.0.0/16\"")), "another `tun-name`"),
            (format!("[vpn]\n{exit}\n{}", work(&format!("pool = \"10.9.0.0/16\", {exit}"))), "both use an exit"),
            (format!("[vpn]\nport = 99\n{}", work("pool = \"10.9.0.0/16\", port = 99")), "one UDP port"),
            (format!("[vpn]\nadvertise-route = [\"10.9.1.0/24\"]\n{}", work("pool = \"10.9.0.0/16\"")), "not be apart"),
            (work("enabled = false"), "network \"work\": it is switched off"),
            (work("mtu = 9"), "network \"work\": an MTU of 9"),
            (named(".."), "begins with a dot"),
            (named("a/b"), "network name"),
            (work("").repeat(NETWORKS_MAX), "networks beside the main one"),
        ] {
            let problem = checked(&text).unwrap_err();
            let told = problem.to_string();
            assert!(told.contains(word) && told.lines().count() == 3, "{text}: {told}");
            assert_eq!(problem.failure, Failure::Usage, "{told}");
        }
        // An exit for some networks alone leaves the default route to the other.
        let only = format!(
            "[vpn]\n{exit}\n{}",
            work(&format!("pool = \"10.9.0.0/16\", {exit}, exit-only = [\"198.51.100.0/24\"]"))
        );
        assert!(checked(&only).is_ok());
        // A relay has no addresses on the machine.
        assert!(checked(&format!("[vpn]\n{}", work("no-tun = true"))).is_ok());
    }
}
