//! What the system is to hold for the roles of this node: routes, rules, firewall, switches. Pure: the same roles and facts
//! give the same plan, and the shell makes the difference between two.
//!
//! Of this machine's packets, in the order the kernel asks (`ip rule`):
//!
//! 1. those of sockets that carry the tunnel, by mark or by port: as if there were no tunnel;
//! 2. those the machine's own routes are for, its default route left out: the same;
//! 3. those the table of a network has a route for, each network's in turn: into its tunnel;
//! 4. all others: into the tunnel of the network whose exit is used, if one is; else as if there were no tunnel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use shoal_engine::mesh::policy::{Local, floor};
use shoal_engine::mesh::routing::snapshot::ExitUse;
use shoal_protocol::mesh::prefix::Prefix;

use super::Roles;
use crate::vpn::system::Port;
use crate::vpn::system::firewall::{ExitRules, KillSwitch};
use crate::vpn::system::netlink::{Family, Route, Rule, Via};
use crate::vpn::system::sysctl::Switch;

/// The mark of sockets that carry the tunnel: "Shoa". One for all networks of a machine, so that none is carried by
/// another.
pub(crate) const MARK: u32 = 0x5368_6f61;
/// The first number of the tables; the interface's number is added, which tells networks of one machine apart.
const TABLES: u32 = 0x5368_0000;
/// Priorities of the rules, before `main` (32766) and what is usual around it.
/// A network's place among those of its node is added: the kernel tells rules apart, and one network's are not another's.
const BY_PORT: u32 = 5270;
const OWN_ROUTES: u32 = 5280;
const INTO_TABLE: u32 = 5290;
/// After the tables of all networks: what leads everywhere does not hide what another network leads to.
const THE_REST: u32 = 5300;
/// The metric of the routes: 1024 is what IPv6 has where none is named.
const METRIC: NonZeroU32 = NonZeroU32::new(1024).unwrap();

/// Both internets.
pub(crate) const EVERYTHING: [Prefix; 2] =
    [Prefix::all(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), Prefix::all(IpAddr::V6(Ipv6Addr::UNSPECIFIED))];

/// What is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The device's name and number.
    pub(crate) tun: (String, u32),
    /// Where members' addresses are.
    pub(crate) pools: Vec<Prefix>,
    /// This node's addresses in the network.
    pub(crate) own: Vec<IpAddr>,
    /// This machine's addresses and networks outside.
    pub(crate) local: Local,
    /// What packets go to others for.
    pub(crate) led_to: Vec<Prefix>,
    /// Ports of sockets that carry the tunnel or the node and have no mark.
    pub(crate) ports: BTreeSet<Port>,
    /// What the policy lets this exit reach in spite of the floor, and not reach in addition.
    pub(crate) lists: (Vec<Prefix>, Vec<Prefix>),
    /// Interfaces that learn their routes from routers as long as this machine is none.
    pub(crate) listening: BTreeSet<String>,
    /// The place of this network among those of the node, less than ten.
    pub(crate) slot: u8,
    /// Devices of the node's other networks.
    pub(crate) other_tuns: Vec<String>,
    /// Where members of the node's other networks have addresses.
    pub(crate) apart: Vec<Prefix>,
}

/// What is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) kill_switch: Option<KillSwitch>,
    pub(crate) switches: BTreeMap<Switch, &'static str>,
    pub(crate) exit: Option<ExitRules>,
    pub(crate) routes: BTreeSet<Route>,
    pub(crate) rules: BTreeSet<Rule>,
}

/// The table of the network whose device has this number.
pub(crate) const fn table(index: u32) -> u32 {
    TABLES.saturating_add(index)
}

/// Which place among the networks of its node a rule is of; none if it is no rule of a network.
pub(crate) fn slot_of(rule: &Rule) -> Option<u8> {
    let is_ours = (BY_PORT..THE_REST.saturating_add(10)).contains(&rule.priority);
    is_ours.then(|| u8::try_from(rule.priority % 10).unwrap_or(0))
}

/// See the head of this file.
pub(crate) fn plan(roles: &Roles, facts: &Facts) -> Plan {
    let routes = routes(roles, facts);
    let leads = roles.is_exit || !roles.advertised.is_empty();
    Plan {
        kill_switch: (roles.kill_switch && roles.exit != ExitUse::Off).then(|| kill_switch(roles, facts)),
        switches: switches(roles, facts, leads),
        exit: leads.then(|| exit(roles, facts)),
        rules: if routes.is_empty() { BTreeSet::new() } else { rules(facts, &routes) },
        routes,
    }
}

fn routes(roles: &Roles, facts: &Facts) -> BTreeSet<Route> {
    let route =
        |to: &Prefix, via| Route { to: *to, via, table: table(facts.tun.1), metric: METRIC, mtu: None, source: None };
    let into = |to: &Prefix| route(to, Via::Link(facts.tun.1));
    let mut routes: BTreeSet<Route> = facts.led_to.iter().map(into).collect();
    if roles.exit != ExitUse::Off {
        let through = if roles.only.is_empty() { &EVERYTHING[..] } else { &roles.only };
        routes.extend(through.iter().map(into));
        // What leads to a member's network is not for the exit: it stays.
        let around = roles.bypass.iter().filter(|prefix| !facts.led_to.contains(prefix));
        for prefix in around {
            routes.remove(&into(prefix));
            routes.insert(route(prefix, Via::Throw));
        }
    }
    routes
}

fn rules(facts: &Facts, routes: &BTreeSet<Route>) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        let rule = |priority, table| Rule {
            family,
            priority: priority + u32::from(facts.slot),
            table,
            mark: None,
            inverted: false,
            suppress_prefix_length: None,
            source_port: None,
        };
        const MAIN: u32 = 254;
        let by_port = facts.ports.iter().map(|port| Rule { source_port: Some(*port), ..rule(BY_PORT, MAIN) });
        rules.extend(by_port);
        rules.insert(Rule { suppress_prefix_length: Some(0), ..rule(OWN_ROUTES, MAIN) });
        let into = |priority| Rule { mark: Some(MARK), inverted: true, ..rule(priority, table(facts.tun.1)) };
        rules.insert(Rule { suppress_prefix_length: Some(0), ..into(INTO_TABLE) });
        if routes.iter().any(|route| route.to.is_default()) {
            rules.insert(into(THE_REST));
        }
    }
    rules
}

fn kill_switch(roles: &Roles, facts: &Facts) -> KillSwitch {
    let tuns = [&facts.tun.0].into_iter().chain(&facts.other_tuns).cloned().collect();
    KillSwitch { tuns, mark: MARK, ports: facts.ports.clone(), allow: roles.bypass.clone() }
}

/// Who passes packets on forwards both families, but goes on learning its own routes from routers. Who sends through an
/// exit needs the mark to count where strict filters look for the way back.
fn switches(roles: &Roles, facts: &Facts, leads: bool) -> BTreeMap<Switch, &'static str> {
    let mut switches = BTreeMap::new();
    if leads {
        switches.insert(Switch::ForwardV4, "1");
        switches.insert(Switch::ForwardV6, "1");
        switches.extend(facts.listening.iter().map(|name| (Switch::AcceptAdvertisements(name.clone()), "2")));
    }
    if roles.exit != ExitUse::Off {
        switches.insert(Switch::SourceMark, "1");
    }
    switches
}

/// An exit reaches what is above the floor, a subnet router its networks and nothing else; both their own mesh addresses.
fn exit(roles: &Roles, facts: &Facts) -> ExitRules {
    let (allow_lan, denied) = &facts.lists;
    let own = facts.own.iter().map(|address| Prefix::host(*address));
    let mut allow: Vec<Prefix> = own.chain(roles.advertised.iter().copied()).collect();
    let deny = if roles.is_exit {
        allow.extend(allow_lan);
        let machine = facts.local.addresses.iter().map(|address| Prefix::host(*address));
        let floor = floor::prefixes().into_iter().chain(facts.local.connected.iter().copied());
        floor.chain(machine).chain(denied.iter().copied()).collect()
    } else {
        EVERYTHING.to_vec()
    };
    ExitRules {
        tun: facts.tun.0.clone(),
        sources: facts.pools.clone(),
        apart: facts.apart.clone(),
        allow,
        deny,
        inbound: roles.advertised.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn facts() -> Facts {
        Facts {
            tun: ("shoal0".into(), 7),
            pools: vec![prefix("100.64.0.0/10"), prefix("fd00::/48")],
            own: vec!["100.64.0.9".parse().unwrap()],
            local: Local {
                addresses: vec!["192.0.2.5".parse().unwrap()],
                connected: vec![prefix("192.0.2.0/24")],
                pools: vec![],
            },
            led_to: vec![prefix("10.1.0.0/16")],
            ports: BTreeSet::from([Port::Udp(4700)]),
            lists: (vec![prefix("192.168.7.0/24")], vec![prefix("203.0.113.0/24")]),
            listening: BTreeSet::from(["eth0".to_owned()]),
            slot: 0,
            other_tuns: vec![],
            apart: vec![],
        }
    }

    #[test]
    fn a_node_without_roles_sends_into_the_tunnel_what_others_lead_to_and_touches_nothing_else() {
        let plan = plan(&Roles::default(), &facts());
        let to: Vec<Prefix> = plan.routes.iter().map(|route| route.to).collect();
        assert_eq!(to, [prefix("10.1.0.0/16")]);
        assert!(plan.kill_switch.is_none() && plan.exit.is_none() && plan.switches.is_empty());
        let mut tables: Vec<(u32, u32)> = plan.rules.iter().map(|rule| (rule.priority, rule.table)).collect();
        tables.sort_unstable();
        tables.dedup();
        assert_eq!(tables, [(BY_PORT, 254), (OWN_ROUTES, 254), (INTO_TABLE, table(7))]);
        let nothing = Facts { led_to: vec![], ..facts() };
        assert_eq!(super::plan(&Roles::default(), &nothing), Plan::default());
    }

    #[test]
    fn networks_of_one_machine_share_no_rule_and_an_exit_hides_none_of_them() {
        let exit = Roles { exit: ExitUse::Auto, kill_switch: true, ..Roles::default() };
        let other = Facts {
            tun: ("shoal1".into(), 8),
            slot: 1,
            other_tuns: vec!["shoal0".into()],
            apart: vec![prefix("10.9.0.0/16")],
            ..facts()
        };
        let (one, two) = (plan(&Roles::default(), &facts()), plan(&exit, &other));
        assert!(one.rules.is_disjoint(&two.rules) && one.routes.is_disjoint(&two.routes));
        assert!(one.rules.iter().all(|rule| slot_of(rule) == Some(0)));
        assert!(two.rules.iter().all(|rule| slot_of(rule) == Some(1)));
        let last =
            |plan: &Plan| plan.rules.iter().map(|rule| (rule.priority, rule.suppress_prefix_length)).max().unwrap();
        assert_eq!((last(&one), last(&two)), ((INTO_TABLE, Some(0)), (THE_REST + 1, None)));
        assert_eq!(two.kill_switch.unwrap().tuns, ["shoal1", "shoal0"]);
        let router = plan(&Roles { is_exit: true, ..Roles::default() }, &other);
        assert_eq!(router.exit.unwrap().apart, [prefix("10.9.0.0/16")]);
        let strange = Rule { priority: 32_766, ..*one.rules.first().unwrap() };
        assert_eq!(slot_of(&strange), None);
    }

    #[test]
    fn the_internet_goes_through_the_exit_but_for_what_goes_around() {
        let roles = Roles {
            exit: ExitUse::Auto,
            kill_switch: true,
            bypass: vec![prefix("192.168.0.0/16"), prefix("10.1.0.0/16")],
            ..Roles::default()
        };
        let made = plan(&roles, &facts());
        let of = |text: &str| made.routes.iter().find(|route| route.to == prefix(text)).map(|route| route.via);
        assert_eq!(of("0.0.0.0/0"), Some(Via::Link(7)));
        assert_eq!(of("::/0"), Some(Via::Link(7)));
        assert_eq!(of("192.168.0.0/16"), Some(Via::Throw));
        assert_eq!(of("10.1.0.0/16"), Some(Via::Link(7)), "a member's network is none of the exit's");
        let kill = made.kill_switch.unwrap();
        assert_eq!((kill.tuns, kill.mark), (vec!["shoal0".to_owned()], MARK));
        assert_eq!(kill.allow, roles.bypass);
        assert!(made.switches.contains_key(&Switch::SourceMark) && !made.switches.contains_key(&Switch::ForwardV4));
        let only = plan(&Roles { only: vec![prefix("198.51.100.0/24")], ..roles }, &facts());
        assert!(!only.routes.iter().any(|route| route.to.is_default()));
        assert!(only.routes.iter().any(|route| route.to == prefix("198.51.100.0/24")));
    }

    #[test]
    fn a_subnet_router_reaches_its_networks_alone_and_an_exit_what_is_above_the_floor() {
        let advertised = vec![prefix("192.168.9.0/24")];
        let router = plan(&Roles { advertised: advertised.clone(), ..Roles::default() }, &facts());
        let rules = router.exit.unwrap();
        assert_eq!((rules.deny, rules.inbound), (EVERYTHING.to_vec(), advertised.clone()));
        assert_eq!(rules.allow, [prefix("100.64.0.9/32"), prefix("192.168.9.0/24")]);
        assert_eq!(router.switches.get(&Switch::AcceptAdvertisements("eth0".into())), Some(&"2"));

        let exit = plan(&Roles { is_exit: true, ..Roles::default() }, &facts()).exit.unwrap();
        assert_eq!(exit.allow, [prefix("100.64.0.9/32"), prefix("192.168.7.0/24")]);
        for text in ["127.0.0.0/8", "10.0.0.0/8", "192.0.2.0/24", "192.0.2.5/32", "203.0.113.0/24", "fc00::/7"] {
            assert!(exit.deny.contains(&prefix(text)), "{text}");
        }
        assert!(!exit.deny.iter().any(Prefix::is_default));
        assert_eq!(Roles { is_exit: true, advertised, ..Roles::default() }.announced().len(), 3);
    }
}
