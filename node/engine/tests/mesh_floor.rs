//! The deny floor of exits: every listed prefix, first and last address, in every form an IPv6 address can carry it.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shoal_engine::mesh::policy::floor::{Floor, FloorFacts, check, is_within};
use shoal_protocol::mesh::prefix::Prefix;

/// The list of the house, spelled again: what is never reached, then what is let in by name only.
const NEVER: [&str; 11] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "168.63.129.16/32",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
    "fd00:ec2::254/128",
];
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];
/// Around them, and elsewhere.
const PUBLIC: [&str; 18] = [
    "1.0.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "223.255.255.255",
    "2606:4700::1111",
    "fec0::1",
];

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// First, second and last address.
fn samples(prefix: Prefix) -> Vec<IpAddr> {
    match prefix.address() {
        IpAddr::V4(first) => {
            let last = first.to_bits() | u32::MAX.checked_shr(u32::from(prefix.length())).unwrap_or(0);
            [first.to_bits(), (first.to_bits() + 1).min(last), last].map(|bits| Ipv4Addr::from(bits).into()).to_vec()
        }
        IpAddr::V6(first) => {
            let last = first.to_bits() | u128::MAX.checked_shr(u32::from(prefix.length())).unwrap_or(0);
            [first.to_bits(), (first.to_bits() + 1).min(last), last].map(|bits| Ipv6Addr::from(bits).into()).to_vec()
        }
    }
}

/// The address in every form, by name. What else such a form carries is a public address.
fn forms(address: Ipv4Addr) -> Vec<(&'static str, IpAddr)> {
    let [a, b, c, d] = address.octets();
    let high = u16::from_be_bytes([a, b]);
    let low = u16::from_be_bytes([c, d]);
    let v6 = |groups: [u16; 8]| IpAddr::V6(groups.into());
    // 8.8.8.8, as a server of Teredo and to fill local NAT64 prefixes.
    let other = 0x0808;
    let split = |at48: [u8; 10]| {
        let mut bytes = [0x00, 0x64, 0xff, 0x9b, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[6..].copy_from_slice(&at48);
        IpAddr::V6(bytes.into())
    };
    vec![
        ("itself", address.into()),
        ("mapped", v6([0, 0, 0, 0, 0, 0xffff, high, low])),
        ("compatible", v6([0, 0, 0, 0, 0, 0, high, low])),
        ("translated", v6([0, 0, 0, 0, 0xffff, 0, high, low])),
        ("NAT64", v6([0x64, 0xff9b, 0, 0, 0, 0, high, low])),
        ("6to4", v6([0x2002, high, low, 0x1234, 0, 0, 0, 1])),
        ("Teredo client", v6([0x2001, 0, other, other, 0, 0, !high, !low])),
        ("Teredo server", v6([0x2001, 0, high, low, 0, 0, !other, !other])),
        ("local NAT64 at 48", split([a, b, 0, c, d, 8, 8, 8, 8, 8])),
        ("local NAT64 at 56", split([8, a, 0, b, c, d, 8, 8, 8, 8])),
        ("local NAT64 at 64", split([8, 8, 0, a, b, c, d, 8, 8, 8])),
        ("local NAT64 at 96", split([8, 8, 0, 8, 8, 8, a, b, c, d])),
    ]
}

fn every_form(address: IpAddr) -> Vec<(&'static str, IpAddr)> {
    match address {
        IpAddr::V4(address) => forms(address),
        IpAddr::V6(_) => vec![("itself", address)],
    }
}

#[test]
fn every_listed_prefix_is_out_of_reach_in_every_form() {
    let none = FloorFacts::default();
    for (list, expected) in [(&NEVER[..], Floor::Never), (&PRIVATE[..], Floor::Private)] {
        for text in list {
            for address in samples(prefix(text)) {
                for (form, carrier) in every_form(address) {
                    let found = check(carrier, none);
                    // A form may also hit the floor as the IPv6 address it is: ::0.0.0.1 is ::1.
                    assert!(
                        found == Some(expected) || found == Some(Floor::Never),
                        "{address} {form} {carrier}: {found:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_beside_the_floor_is_reached_in_every_form() {
    for text in PUBLIC {
        for (form, carrier) in every_form(text.parse().unwrap()) {
            // The filling of local NAT64 shifts some of these into private prefixes; that is what the prefix is like.
            let shifted = form.starts_with("local");
            assert!(shifted || check(carrier, FloorFacts::default()).is_none(), "{text} {form} {carrier}");
        }
    }
    assert_eq!(check("64:ff9b:1:808:8:800:808:808".parse().unwrap(), FloorFacts::default()), None);
}

#[test]
fn private_networks_are_let_in_by_name_and_nothing_else_is() {
    let everything: Vec<Prefix> = ["0.0.0.0/0", "::/0"].map(prefix).to_vec();
    let own: Vec<IpAddr> = ["10.0.0.1", "203.0.113.5", "2001:db8::5"].map(|text| text.parse().unwrap()).to_vec();
    let all = FloorFacts { own: &own, connected: &[], allow_lan: &everything };
    for text in NEVER {
        for address in samples(prefix(text)) {
            for (form, carrier) in every_form(address) {
                assert_eq!(check(carrier, all), Some(Floor::Never), "{address} {form}");
            }
        }
    }
    for address in &own {
        for (form, carrier) in every_form(*address) {
            assert_eq!(check(carrier, all), Some(Floor::Own), "{address} {form}");
        }
    }
    let some = [prefix("192.168.7.0/24"), prefix("fd12::/16")];
    let facts = FloorFacts { own: &own, connected: &[prefix("203.0.113.0/24")], allow_lan: &some };
    let reach = |text: &str| check(text.parse().unwrap(), facts);
    assert_eq!((reach("192.168.7.1"), reach("fd12::1")), (None, None));
    assert_eq!((reach("192.168.8.1"), reach("fd13::1")), (Some(Floor::Private), Some(Floor::Private)));
    assert_eq!((reach("203.0.113.9"), reach("203.0.114.9")), (Some(Floor::Connected), None));
    assert_eq!((reach("2002:cb00:7109::1"), reach("::ffff:192.168.7.1")), (Some(Floor::Connected), None));
    let lan = [prefix("203.0.113.0/24")];
    let facts = FloorFacts { own: &own, connected: &lan, allow_lan: &lan };
    assert_eq!(check("203.0.113.9".parse().unwrap(), facts), None);
    assert_eq!(check("203.0.113.5".parse().unwrap(), facts), Some(Floor::Own));
}

#[test]
fn what_a_document_adds_is_denied_in_every_form() {
    for (form, carrier) in forms(Ipv4Addr::new(203, 0, 113, 77)) {
        assert!(is_within(carrier, &[prefix("203.0.113.0/24")]), "{form}");
        assert!(!is_within(carrier, &[prefix("198.51.100.0/24")]), "{form}");
    }
}
