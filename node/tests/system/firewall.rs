//! Tables of nftables and switches: they do what they say, whole or not at all, and what others made stays.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket as StdSocket};
use std::time::Duration;

use shoal_engine::mesh::packet::Parsed;
use shoal_engine::mesh::packet::offload::complete;
use shoal_engine::mesh::packet::virtio::VirtioHeader;
use shoal_node::vpn::system::Port;
use shoal_node::vpn::system::firewall::{ExitRules, FirewallError, KillSwitch, Nft, Table};
use shoal_node::vpn::system::sysctl::{Switch, SysctlError};
use shoal_node::vpn::system::tun::{Tun, TunOptions, Written};
use shoal_node::vpn::system::udp::{Batch, Sent, UdpOptions, UdpSocket};
use shoal_protocol::mesh::prefix::Prefix;

use super::{address, foreign_tables, framed, inside, next_to, packets_to, run, switch_on_loopback, tun};

const SOON: Duration = Duration::from_millis(100);

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Somebody else's table, and what it says.
fn foreign() -> String {
    foreign_tables("table inet others {\nchain input {\ntype filter hook input priority 0\ncounter\n}\n}\n");
    run("nft -s list table inet others")
}

fn send(from: &str, to: &str, mark: Option<u32>) -> Result<Sent, ErrorKind> {
    let socket = UdpSocket::open(&UdpOptions { mark, ..UdpOptions::new(address(from)) }).unwrap();
    let batch = Batch { to: address(to), from: None, ecn: None, bytes: &[9; 100], length: 100 };
    socket.send(&batch).map_err(|error| error.kind())
}

#[test]
fn the_kill_switch_lets_out_the_tunnel_and_nothing_else() {
    inside("firewall::the_kill_switch_lets_out_the_tunnel_and_nothing_else", || {
        switch_on_loopback();
        let others = foreign();
        let mesh = tun(&TunOptions::new("shoal0", 1280), &[("10.99.0.1", 24), ("fd99::1", 64)]);
        let wan = tun(&TunOptions::new("wan0", 1500), &[("192.0.2.1", 24), ("2001:db8::1", 64)]);
        let nft = Nft::find().unwrap();
        let table = Table::kill_switch("home").unwrap();
        let rules = KillSwitch {
            tuns: vec!["shoal0".into(), "not-there-yet".into()],
            mark: 0x5348,
            ports: [Port::Udp(4001)].into(),
            allow: prefixes(&["192.0.2.128/25", "2001:db8:0:0:1::/80", "192.0.2.200/32"]),
        };
        nft.install(&rules.ruleset(table.clone()).unwrap()).unwrap();
        // Again, in its own place.
        nft.install(&rules.ruleset(table.clone()).unwrap()).unwrap();
        assert_eq!(nft.tables().unwrap(), std::slice::from_ref(&table));

        let denied = Err(ErrorKind::PermissionDenied);
        for (from, to, mark, expected) in [
            ("0.0.0.0:0", "192.0.2.2:9", None, denied),
            ("[::]:0", "[2001:db8::2]:9", None, denied),
            ("0.0.0.0:0", "192.0.2.2:9", Some(0x5349), denied),
            ("0.0.0.0:0", "192.0.2.2:9", Some(0x5348), Ok(Sent::All)),
            ("[::]:0", "[2001:db8::2]:9", Some(0x5348), Ok(Sent::All)),
            ("0.0.0.0:4001", "192.0.2.2:9", None, Ok(Sent::All)),
            ("[::]:4001", "[2001:db8::2]:9", None, Ok(Sent::All)),
            ("0.0.0.0:0", "10.99.0.2:9", None, Ok(Sent::All)),
            ("[::]:0", "[fd99::2]:9", None, Ok(Sent::All)),
            ("127.0.0.1:0", "127.0.0.1:9", None, Ok(Sent::All)),
            ("0.0.0.0:0", "192.0.2.130:9", None, Ok(Sent::All)),
            ("[::]:0", "[2001:db8::1:0:0:5]:9", None, Ok(Sent::All)),
            ("0.0.0.0:68", "192.0.2.2:67", None, Ok(Sent::All)),
            ("[::]:546", "[2001:db8::2]:547", None, Ok(Sent::All)),
        ] {
            assert_eq!(send(from, to, mark), expected, "{from} {to} {mark:?}");
        }
        drop((mesh, wan));
        assert_eq!(run("nft -s list table inet others"), others);
        nft.remove(&table).unwrap();
        nft.remove(&table).unwrap();
        assert_eq!(nft.tables().unwrap(), []);
        assert_eq!(run("nft -s list table inet others"), others);
    });
}

/// A UDP packet of a mesh peer, with the checksums its kernel made.
fn from_peer(mesh: &Tun, source: &str, to: &str) {
    let (source, to) = (address(source), address(to));
    let mut packet = match (source.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut packet = vec![0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0];
            packet.extend(from.octets().iter().chain(&to.octets()));
            let sum: u32 = packet.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
            let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut packet = vec![0x60, 0, 0, 0, 0, 9, 17, 64];
            packet.extend(from.octets().iter().chain(&to.octets()));
            packet
        }
        _ => panic!("two families"),
    };
    packet.extend(source.port().to_be_bytes().iter().chain(&to.port().to_be_bytes()));
    packet.extend([0, 9, 0, 0, 1]);
    let parsed = Parsed::of(&packet).unwrap();
    complete(&mut packet, &parsed).unwrap();
    assert_eq!(mesh.write(&framed(&VirtioHeader::default(), &packet)).unwrap(), Written::Taken);
}

/// The addresses of one family in the test of an exit.
struct Side {
    own: &'static str,
    mesh: &'static str,
    peer: &'static str,
    far: &'static str,
    let_in: &'static str,
    denied: [&'static str; 2],
    foreign: &'static str,
    inbound: &'static str,
}

/// Of an exit that lets its members into one private network, and somebody in.
fn exit_rules() -> ExitRules {
    ExitRules {
        tun: "shoal0".into(),
        sources: prefixes(&["100.64.0.0/10", "fd99::/64"]),
        apart: Vec::new(),
        allow: prefixes(&["100.64.0.1/32", "fd99::1/128", "10.5.0.0/16", "fd05::/16"]),
        deny: prefixes(&["10.0.0.0/8", "127.0.0.0/8", "192.0.2.0/24", "100.64.0.0/10", "fc00::/7", "2001:db8::/64"]),
        inbound: prefixes(&["192.0.2.77/32", "2001:db8::77/128"]),
    }
}

#[test]
fn an_exit_passes_on_masquerades_and_keeps_its_floor() {
    inside("firewall::an_exit_passes_on_masquerades_and_keeps_its_floor", || {
        let others = foreign();
        let mesh = tun(&TunOptions::new("shoal0", 1280), &[("100.64.0.1", 10), ("fd99::1", 64)]);
        let wan = tun(&TunOptions::new("wan0", 1500), &[("192.0.2.1", 24), ("2001:db8::1", 64)]);
        run("ip route add default dev wan0");
        run("ip -6 route add default dev wan0");
        [Switch::ForwardV4, Switch::ForwardV6].iter().for_each(|switch| switch.set("1").unwrap());
        let nft = Nft::find().unwrap();
        let table = Table::exit("home").unwrap();
        nft.install(&exit_rules().ruleset(table.clone()).unwrap()).unwrap();

        let away = |to: &str, source: &str| {
            let to: IpAddr = to.parse().unwrap();
            from_peer(&mesh, source, &SocketAddr::new(to, 53).to_string());
            packets_to(&wan, to, SOON).map(|(_, packet)| Parsed::of(&packet).unwrap().source)
        };
        for side in [
            Side {
                own: "192.0.2.1",
                mesh: "100.64.0.1",
                peer: "100.64.0.2",
                far: "198.51.100.7",
                let_in: "10.5.0.1",
                denied: ["10.6.0.1", "192.0.2.9"],
                foreign: "10.1.1.1",
                inbound: "192.0.2.77",
            },
            Side {
                own: "2001:db8::1",
                mesh: "fd99::1",
                peer: "fd99::2",
                far: "2001:db8:7::7",
                let_in: "fd05::1",
                denied: ["fd06::1", "2001:db8::9"],
                foreign: "fd11::1",
                inbound: "2001:db8::77",
            },
        ] {
            let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port).to_string();
            let (own, peer) = (Some(side.own.parse::<IpAddr>().unwrap()), side.peer.parse::<IpAddr>().unwrap());
            assert_eq!(away(side.far, &at(side.peer, 4000)), own, "not passed on, or not masqueraded");
            assert_eq!(away(side.let_in, &at(side.peer, 4000)), own, "let in by name");
            for denied in side.denied {
                assert_eq!(away(denied, &at(side.peer, 4000)), None, "the floor in forward");
            }
            assert_eq!(away(side.far, &at(side.foreign, 4000)), None, "a source that is not the mesh's");
            // The answer comes back to the peer; what nobody asked for does not, unless it is let in.
            from_peer(&wan, &at(side.far, 53), &at(side.own, 4000));
            let (_, answer) = next_to(&mesh, peer);
            assert_eq!(Parsed::of(&answer).unwrap().source, side.far.parse::<IpAddr>().unwrap());
            from_peer(&wan, &at(side.far, 1), &at(side.peer, 9));
            assert_eq!(packets_to(&mesh, peer, SOON), None);
            from_peer(&wan, &at(side.inbound, 1), &at(side.peer, 9));
            next_to(&mesh, peer);
            // The machine itself: its mesh address is for the mesh, its other one is not.
            for (to, reached) in [(at(side.mesh, 7000), true), (at(side.own, 7000), false)] {
                let socket = StdSocket::bind(&to).unwrap();
                socket.set_read_timeout(Some(SOON)).unwrap();
                from_peer(&mesh, &at(side.peer, 4001), &to);
                assert_eq!(socket.recv(&mut [0; 9]).is_ok(), reached, "{to}");
            }
        }
        let listed = run("nft -s list table inet shoal_exit_home");
        assert!(listed.contains("tcp option maxseg size set rt mtu") && listed.contains("masquerade"), "{listed}");

        nft.remove(&table).unwrap();
        assert_eq!(nft.tables().unwrap(), []);
        assert_eq!(run("nft -s list table inet others"), others);
    });
}

#[test]
fn a_table_stands_whole_or_not_at_all() {
    inside("firewall::a_table_stands_whole_or_not_at_all", || {
        let nft = Nft::find().unwrap();
        let table = Table::exit("home").unwrap();
        let rules = ExitRules { tun: "shoal0".into(), ..ExitRules::default() };
        nft.install(&rules.ruleset(table.clone()).unwrap()).unwrap();
        let before = run("nft -s list ruleset");
        let kill = KillSwitch { tuns: vec!["shoal0".into()], ..KillSwitch::default() };
        for bad in ["a\" accept", "", "shoal%d"] {
            let kill = KillSwitch { tuns: vec![bad.into()], ..KillSwitch::default() };
            assert!(matches!(kill.ruleset(table.clone()), Err(FirewallError::BadName(_))), "{bad}");
            let exit = ExitRules { tun: bad.into(), ..ExitRules::default() };
            assert!(matches!(exit.ruleset(table.clone()), Err(FirewallError::BadName(_))), "{bad}");
        }
        assert_eq!(run("nft -s list ruleset"), before);
        // In place of a table of that name, nothing of the old one is left.
        nft.install(&kill.ruleset(table.clone()).unwrap()).unwrap();
        let after = run("nft -s list ruleset");
        assert!(!after.contains("masquerade") && after.contains("hook output"), "{after}");
        // Everything of both families is one element each.
        let all = KillSwitch { allow: prefixes(&["0.0.0.0/0", "::/0"]), ..kill };
        nft.install(&all.ruleset(table).unwrap()).unwrap();
    });
}

#[test]
fn a_missing_program_is_said_with_its_package() {
    inside("firewall::a_missing_program_is_said_with_its_package", || {
        // An empty file that cannot be run stands in the place of the program, wherever it is.
        let place = tempfile::NamedTempFile::new().unwrap();
        for path in ["/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft", "/usr/bin/nft", "/bin/nft"] {
            if std::path::Path::new(path).exists() {
                run(&format!("mount --bind {} {path}", place.path().display()));
            }
        }
        let error = Nft::find().unwrap_err();
        assert!(matches!(error, FirewallError::NoProgram), "{error:?}");
        assert_eq!(shoal_node::vpn::system::firewall::PACKAGE, "nftables");
    });
}

#[test]
fn switches_are_put_back_with_the_interfaces_that_differed() {
    inside("firewall::switches_are_put_back_with_the_interfaces_that_differed", || {
        let _one = tun(&TunOptions::new("one", 1280), &[("fd01::1", 64)]);
        let _two = tun(&TunOptions::new("two", 1280), &[("fd02::1", 64)]);
        let own = |family: &str, name: &str| {
            std::fs::read_to_string(format!("/proc/sys/net/{family}/conf/{name}/forwarding")).unwrap().trim().to_owned()
        };
        for (switch, family) in [(Switch::ForwardV4, "ipv4"), (Switch::ForwardV6, "ipv6")] {
            switch.set("0").unwrap();
            std::fs::write(format!("/proc/sys/net/{family}/conf/two/forwarding"), "1").unwrap();
            let before = switch.before().unwrap();
            assert_eq!((before.value.as_str(), &before.others), ("0", &vec![("two".into(), "1".into())]));
            switch.set("1").unwrap();
            assert_eq!(
                (own(family, "all"), own(family, "one"), own(family, "two")),
                ("1".into(), "1".into(), "1".into())
            );
            for _ in 0..2 {
                before.restore().unwrap();
                let now = (own(family, "all"), own(family, "one"), own(family, "two"));
                assert_eq!(now, ("0".into(), "0".into(), "1".into()));
            }
        }
        let mark = Switch::SourceMark.before().unwrap();
        Switch::SourceMark.set("1").unwrap();
        mark.restore().unwrap();
        assert_eq!(Switch::SourceMark.read().unwrap(), "0");
        let learn = Switch::AcceptAdvertisements("one".into());
        learn.set("2").unwrap();
        assert_eq!(learn.read().unwrap(), "2");
        assert!(matches!(learn.set("2; reboot"), Err(SysctlError::BadValue(_))));
        let gone = Switch::AcceptAdvertisements("three".into());
        assert!(matches!(gone.set("2"), Err(SysctlError::Missing(_))));
        let path = Switch::AcceptAdvertisements("../all".into());
        assert!(matches!(path.read(), Err(SysctlError::BadValue(_))));
    });
}
