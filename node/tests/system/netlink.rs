//! The kernel's tables: what is added is listed and removed again, twice is fine, and what others made stays.

use std::num::NonZeroU32;
use std::time::Duration;

use futures::StreamExt;
use shoal_node::vpn::system::Port;
use shoal_node::vpn::system::netlink::{Address, Change, Family, Netlink, NetlinkError, Route, Rule, Via, Watch};
use shoal_node::vpn::system::tun::TunOptions;

use super::{WAIT, inside, run, tun};

const OWN: [(&str, u8); 2] = [("10.99.0.1", 24), ("fd99::1", 64)];

fn route(to: &str, via: Via, table: u32) -> Route {
    Route { to: to.parse().unwrap(), via, table, metric: NonZeroU32::new(77).unwrap(), mtu: None, source: None }
}

fn rule(family: Family, priority: u32) -> Rule {
    Rule {
        family,
        priority,
        table: 51_820,
        mark: None,
        inverted: false,
        suppress_prefix_length: None,
        source_port: None,
    }
}

fn sorted<T: Ord>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort();
    rows
}

#[test]
fn links_and_addresses_are_set_and_taken_back() {
    inside("netlink::links_and_addresses_are_set_and_taken_back", || {
        let device = tun(&TunOptions::new("shoal0", 1280), &OWN);
        let index = device.facts().index;
        let mut netlink = Netlink::open().unwrap();
        let own = OWN.map(|(address, prefix_length)| Address {
            link: index,
            address: address.parse().unwrap(),
            prefix_length,
        });
        for address in &own {
            netlink.add_address(address).unwrap();
            assert!(netlink.addresses(index).unwrap().contains(address));
        }
        assert_eq!(netlink.addresses(index).unwrap(), own, "the kernel added one of its own");
        // Of use at once: the kernel does not ask whether somebody else has it.
        std::net::UdpSocket::bind("[fd99::1]:0").unwrap();
        netlink.set_mtu(index, 1400).unwrap();
        netlink.set_queue_length(index, 2000).unwrap();
        let link = netlink.link("shoal0").unwrap().unwrap();
        assert_eq!((link.up, link.mtu, link.queue_length), (true, 1400, 2000));
        assert!(netlink.links().unwrap().contains(&link));
        for address in &own {
            netlink.remove_address(address).unwrap();
            netlink.remove_address(address).unwrap();
            assert!(!netlink.addresses(index).unwrap().contains(address));
        }
        netlink.set_up(index, false).unwrap();
        assert!(!netlink.link("shoal0").unwrap().unwrap().up);
        netlink.remove_link(index).unwrap();
        netlink.remove_link(index).unwrap();
        assert_eq!(netlink.link("shoal0").unwrap(), None);
        let missing = netlink.add_address(&own[0]).unwrap_err();
        assert!(matches!(missing, NetlinkError::Missing { .. }) && !missing.retryable(), "{missing:?}");
    });
}

#[test]
fn routes_are_added_changed_listed_and_removed() {
    inside("netlink::routes_are_added_changed_listed_and_removed", || {
        let device = tun(&TunOptions::new("shoal0", 1500), &OWN);
        let link = Via::Link(device.facts().index);
        let mut netlink = Netlink::open().unwrap();
        let mut routes = Vec::new();
        for table in [254, 200, 51_820] {
            for to in ["0.0.0.0/0", "10.1.0.0/16", "10.2.3.4/32", "::/0", "fd01::/16", "fd02::1/128"] {
                routes.push(route(to, link, table));
            }
            routes.push(route("10.3.0.0/16", Via::Unreachable, table));
            routes.push(route("fd03::/16", Via::Unreachable, table));
            routes.push(route("10.4.0.0/16", Via::Throw, table));
            routes.push(route("fd04::/16", Via::Throw, table));
        }
        routes[1].mtu = NonZeroU32::new(1300);
        routes[4].mtu = NonZeroU32::new(1300);
        routes[2].source = Some("10.99.0.1".parse().unwrap());
        routes[5].source = Some("fd99::1".parse().unwrap());
        for route in &routes {
            netlink.add_route(route).unwrap();
            netlink.add_route(route).unwrap();
        }
        assert_eq!(sorted(netlink.routes().unwrap()), sorted(routes.clone()));
        assert!(run("ip route show").contains("10.1.0.0/16 dev shoal0 proto 83 scope link metric 77 mtu 1300"));
        assert!(run("ip -6 route show table 51820").contains("unreachable fd03::/16"));
        let error = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().connect("10.3.0.1:1").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::HOSTUNREACH.raw_os_error()));

        // Another MTU, and another way.
        for (place, to) in [(1, Via::Unreachable), (4, link), (6, link), (7, link)] {
            routes[place] = Route { mtu: NonZeroU32::new(1290).filter(|_| to == link), via: to, ..routes[place] };
            netlink.add_route(&routes[place]).unwrap();
        }
        assert_eq!(sorted(netlink.routes().unwrap()), sorted(routes.clone()));

        assert_eq!(netlink.remove_table(51_820).unwrap(), 10);
        assert_eq!(netlink.remove_table(51_820).unwrap(), 0);
        routes.retain(|route| route.table != 51_820);
        assert_eq!(sorted(netlink.routes().unwrap()), sorted(routes.clone()));
        for route in &routes {
            netlink.remove_route(route).unwrap();
            netlink.remove_route(route).unwrap();
        }
        assert_eq!(netlink.routes().unwrap(), []);
        assert!(run("ip route show").contains("10.99.0.0/24"), "the kernel's own went");
    });
}

#[test]
fn somebody_elses_routes_and_rules_are_left_alone() {
    inside("netlink::somebody_elses_routes_and_rules_are_left_alone", || {
        let device = tun(&TunOptions::new("shoal0", 1500), &OWN);
        let link = Via::Link(device.facts().index);
        let mut netlink = Netlink::open().unwrap();
        for (to, line) in [("10.1.0.0/16", "ip route"), ("fd01::/16", "ip -6 route")] {
            run(&format!("{line} add {to} dev shoal0 metric 77 table 200"));
            let ours = route(to, link, 200);
            assert!(matches!(netlink.add_route(&ours), Err(NetlinkError::Occupied { .. })), "{to}");
            netlink.remove_route(&ours).unwrap();
            assert_eq!(netlink.remove_table(200).unwrap(), 0);
            assert!(run(&format!("{line} show table 200")).contains(to), "{to} went");
        }
        run("ip rule add priority 5210 fwmark 0x5348 table 51820");
        let ours = Rule { mark: Some(0x5348), ..rule(Family::V4, 5210) };
        netlink.remove_rule(&ours).unwrap();
        assert_eq!(netlink.rules().unwrap(), []);
        netlink.add_rule(&ours).unwrap();
        assert_eq!(run("ip rule").matches("fwmark 0x5348").count(), 2);
        netlink.remove_rule(&ours).unwrap();
        let left = run("ip rule");
        assert!(left.matches("fwmark 0x5348").count() == 1 && !left.contains("proto 83"), "{left}");
    });
}

#[test]
fn rules_are_added_listed_and_removed_one_by_one() {
    inside("netlink::rules_are_added_listed_and_removed_one_by_one", || {
        let mut netlink = Netlink::open().unwrap();
        let mut rules = Vec::new();
        for family in [Family::V4, Family::V6] {
            let bare = rule(family, 5210);
            rules.push(bare);
            rules.push(Rule { table: 254, suppress_prefix_length: Some(0), ..bare });
            rules.push(Rule { mark: Some(0x5348), inverted: true, priority: 5209, ..bare });
            rules.push(Rule { mark: Some(0x5348), ..bare });
            rules.push(Rule { source_port: Some(Port::Udp(4001)), table: 254, ..bare });
            rules.push(Rule { source_port: Some(Port::Tcp(4002)), table: 254, ..bare });
            rules.push(Rule { priority: 5211, ..bare });
        }
        for rule in rules.iter().chain(&rules) {
            netlink.add_rule(rule).unwrap();
        }
        assert_eq!(sorted(netlink.rules().unwrap()), sorted(rules.clone()));
        // What the kernel does not tell apart is neither added nor removed.
        let alike = Rule { inverted: true, ..rules[0] };
        assert!(matches!(netlink.add_rule(&alike), Err(NetlinkError::Occupied { .. })));
        netlink.remove_rule(&alike).unwrap();
        assert_eq!(sorted(netlink.rules().unwrap()), sorted(rules.clone()));
        let shown = run("ip rule");
        for part in [
            "from all fwmark 0x5348 lookup 51820 proto 83",
            "not from all fwmark 0x5348 lookup 51820",
            "lookup main suppress_prefixlength 0",
            "ipproto udp sport 4001 lookup main",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        // Each goes alone, also the one whose conditions fit all others.
        while let Some(gone) = rules.first().copied() {
            netlink.remove_rule(&gone).unwrap();
            netlink.remove_rule(&gone).unwrap();
            rules.retain(|rule| *rule != gone);
            assert_eq!(sorted(netlink.rules().unwrap()), sorted(rules.clone()));
        }
        assert!(run("ip rule").contains("32766"), "the kernel's own went");
    });
}

#[test]
fn changes_are_told_as_they_happen() {
    inside("netlink::changes_are_told_as_they_happen", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watch = Watch::open().unwrap();
            let device = tun(&TunOptions::new("shoal0", 1500), &OWN);
            let index = device.facts().index;
            let mut netlink = Netlink::open().unwrap();
            let ours = route("10.1.0.0/16", Via::Link(index), 51_820);
            netlink.add_route(&ours).unwrap();
            netlink.remove_route(&ours).unwrap();
            let mut expected: Vec<Change> = [false, true]
                .map(|gone| Change::Route { to: ours.to, table: 51_820, link: Some(index), ours: true, gone })
                .to_vec();
            for (text, prefix_length) in OWN {
                let address = Address { link: index, address: text.parse().unwrap(), prefix_length };
                expected.push(Change::Address(address));
            }
            expected.push(Change::Link(netlink.link("shoal0").unwrap().unwrap()));
            let mut device = Some(device);
            let told = async {
                while let Some(change) = watch.next().await {
                    let change = change.unwrap();
                    expected.retain(|wanted| *wanted != change);
                    if expected.is_empty() {
                        device = None;
                    }
                    if matches!(&change, Change::LinkGone(link) if link.index == index) {
                        break;
                    }
                }
            };
            let told = tokio::time::timeout(WAIT, told).await;
            assert!(told.is_ok() && expected.is_empty() && device.is_none(), "not told: {expected:?}");
            assert!(tokio::time::timeout(Duration::from_millis(20), watch.next()).await.is_err(), "more came");

            // Nobody reads while more happens than the kernel keeps.
            let device = tun(&TunOptions::new("shoal1", 1500), &OWN);
            let index = device.facts().index;
            for _ in 0..2000 {
                for mtu in [1400, 1500] {
                    netlink.set_mtu(index, mtu).unwrap();
                }
            }
            let missed = async {
                while let Some(change) = watch.next().await {
                    if change.unwrap() == Change::Missed {
                        break;
                    }
                }
            };
            tokio::time::timeout(WAIT, missed).await.unwrap();
        });
    });
}
