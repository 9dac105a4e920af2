//! Every sender beside every subnet router, as their kernels' devices are: what a router hands on to a host behind it, and
//! what it takes from there, comes out as it went in, whoever has to cut and to complete checksums.
//!
//! ```text
//! user --10.77.0.0/24-- router --192.168.9.0/24, 2001:db8:9::/64-- host
//! ```

use std::net::IpAddr;
use std::time::Duration;

use shoal_tests::budget::say;
use shoal_tests::datagrams;
use shoal_tests::member::Member;
use shoal_tests::space::Space;
use shoal_tests::traffic::{echo, transfer};
use tempfile::TempDir;

use super::offloads::{DATAGRAMS, Kernel};
use super::{DEVICE, OPEN, is_possible, reached};

/// What the router leads to.
const BEHIND: [&str; 2] = ["192.168.9.0/24", "2001:db8:9::/64"];
/// The host behind it.
const HOST: [&str; 2] = ["192.168.9.2", "2001:db8:9::2"];
/// Bytes of TCP each way over each family.
const TRANSFER: usize = 2 << 20;
const WAIT: Duration = Duration::from_secs(20);

/// The machines of the picture; nodes end before them.
struct Land {
    user: Member,
    router: Member,
    here: Space,
    middle: Space,
    host: Space,
    _room: TempDir,
}

impl Land {
    fn new(user: Kernel, router: Kernel, carrier: &str) -> Self {
        let [here, middle, host] = [(); 3].map(|()| Space::new().unwrap());
        here.cable(("cable", "10.77.0.1/24"), &middle, ("cable", "10.77.0.2/24")).unwrap();
        middle.cable(("lan", "192.168.9.1/24"), &host, ("in", "192.168.9.2/24")).unwrap();
        middle.ip("address add 2001:db8:9::1/64 dev lan nodad").unwrap();
        host.ip("address add 2001:db8:9::2/64 dev in nodad").unwrap();
        // The way back to members, who are seen by the router's own addresses where they begin.
        host.ip("route add default via 192.168.9.1").unwrap();
        host.ip("-6 route add default via 2001:db8:9::1").unwrap();
        let room = tempfile::tempdir().unwrap();
        let begin = [&OPEN[..], &[DEVICE, "--vpn-carrier", carrier, "--listen", "/ip4/0.0.0.0/tcp/4100"]].concat();
        let led = BEHIND.iter().flat_map(|prefix| ["--advertise-route", *prefix]);
        let arguments: Vec<&str> = begin.iter().copied().chain(led).collect();
        let router = Member::start_as(router.run(&middle), &room.path().join("router"), &arguments).unwrap();
        let rights =
            BEHIND.map(|prefix| format!("[[prefixes]]\nprefix = \"{prefix}\"\npeers = [\"{}\"]\n", router.node.id));
        let policy = room.path().join("policy.toml");
        std::fs::write(&policy, format!("version = 1\n{}", rights.concat())).unwrap();
        let next = format!("/ip4/10.77.0.2/tcp/4100/p2p/{}", router.node.id);
        let arguments = [&begin[..], &["--bootstrap", &next, "--vpn-policy", policy.to_str().unwrap()]].concat();
        let user = Member::start_as(user.run(&here), &room.path().join("user"), &arguments).unwrap();
        for address in HOST {
            reached(&here, address.parse().unwrap(), WAIT);
        }
        Self { user, router, here, middle, host, _room: room }
    }

    fn everything_arrives(&self, what: &str) {
        let (count, length, batch) = DATAGRAMS;
        let there = HOST
            .iter()
            .map(|text| (&self.here, &self.host, text.parse::<IpAddr>().unwrap(), &[0, 1, 1_200, 5_000][..]));
        // A host finds members through its router. What is too long for the network its kernel is told, and a socket that
        // sent it fails once.
        let back = self.user.addresses().map(|address| (&self.host, &self.here, address, &[0, 1, 1_200][..]));
        for (from, to, address, sizes) in there.chain(back) {
            transfer(from, to, address, TRANSFER).unwrap_or_else(|error| panic!("{what}, TCP to {address}: {error:#}"));
            let again = datagrams::send(from, to, address, count, length, batch)
                .unwrap_or_else(|error| panic!("{what}, batches to {address}: {error:#}"));
            assert!(again < 2, "{what}: {again} batches to {address} were sent again");
            echo(from, to, address, sizes).unwrap_or_else(|error| panic!("{what}, UDP to {address}: {error:#}"));
        }
    }
}

fn all_combinations(carrier: &str) {
    for user in Kernel::ALL {
        for router in Kernel::ALL {
            let mut land = Land::new(user, router, carrier);
            land.everything_arrives(&format!("{user:?} through {router:?}, {carrier}"));
            for member in [&mut land.user, &mut land.router] {
                let counted = member.counted().unwrap();
                for reason in ["device-refused", "bad-offload", "checksum"] {
                    assert!(!counted.contains(reason), "{user:?} through {router:?}, {carrier}: {counted}");
                }
            }
            assert!(land.middle.nft("list ruleset").unwrap().is_empty(), "the router's node has ended");
        }
    }
    say(&format!("vpn {carrier}: {} combinations of user and subnet router", Kernel::ALL.len().pow(2)));
}

#[test]
fn every_sender_reaches_a_host_behind_every_router_on_lanes() {
    let test = "every_sender_reaches_a_host_behind_every_router_on_lanes";
    if is_possible(test) {
        all_combinations("lanes");
    }
}

#[test]
fn every_sender_reaches_a_host_behind_every_router_on_datagrams() {
    let test = "every_sender_reaches_a_host_behind_every_router_on_datagrams";
    if is_possible(test) {
        all_combinations("udp");
    }
}
