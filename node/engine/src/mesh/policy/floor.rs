//! What no exit ever reaches, whatever a document says: the machine itself, its neighbours, groups, metadata services, and
//! addresses that only mean something inside somebody's own network. A document may add to it; it may let in private
//! networks it names, and nothing else.
//!
//! An IPv6 address that carries an IPv4 one is judged by both.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shoal_protocol::mesh::prefix::Prefix;

/// Which part of the floor an address hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Floor {
    /// Never: loopback, link-local, groups, reserved, metadata services.
    Never,
    /// Addresses of somebody's own network: let in by name only.
    Private,
    /// An address of this machine.
    Own,
    /// A network this machine is connected to: let in by name only.
    Connected,
    /// What a document denies in addition.
    Added,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> (Ipv4Addr, u8) {
    (Ipv4Addr::new(a, b, c, d), length)
}

/// This network, loopback, link-local (with the metadata services of most clouds), groups, reserved with broadcast, and
/// the metadata service of Azure.
pub const NEVER_V4: [(Ipv4Addr, u8); 6] = [
    v4(0, 0, 0, 0, 8),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v4(168, 63, 129, 16, 32),
];
/// RFC 1918, and RFC 6598, which is where this and other meshes are.
pub const PRIVATE_V4: [(Ipv4Addr, u8); 4] =
    [v4(10, 0, 0, 0, 8), v4(172, 16, 0, 0, 12), v4(192, 168, 0, 0, 16), v4(100, 64, 0, 0, 10)];

const fn v6(groups: [u16; 8], length: u8) -> (Ipv6Addr, u8) {
    let [a, b, c, d, e, f, g, h] = groups;
    (Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// Unspecified, loopback, link-local, groups, and the metadata service of EC2.
pub const NEVER_V6: [(Ipv6Addr, u8); 5] = [
    v6([0; 8], 128),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254], 128),
];
/// RFC 4193.
pub const PRIVATE_V6: [(Ipv6Addr, u8); 1] = [v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7)];

/// Most IPv4 addresses an IPv6 address is taken to carry: the four places of RFC 6052 in one local prefix.
pub const EMBEDDED_MAX: usize = 4;

/// The IPv4 addresses an IPv6 address may be turned into on its way:
/// mapped and compatible (RFC 4291 2.5.5), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380: its server and,
/// inverted, its client).
#[must_use]
pub const fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; EMBEDDED_MAX] {
    let [_, _, b2, b3, b4, b5, b6, b7, _, b9, b10, b11, b12, b13, b14, b15] = address.octets();
    let last = Some(Ipv4Addr::new(b12, b13, b14, b15));
    match address.segments() {
        // ::a.b.c.d, ::ffff:a.b.c.d, and ::ffff:0:a.b.c.d of stateless translation (RFC 2765).
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => [last, None, None, None],
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => [last, None, None, None],
        // The local-use prefix may be split at 48, 56, 64 or 96 bits, octet 8 left out.
        [0x64, 0xff9b, 1, ..] => [
            Some(Ipv4Addr::new(b6, b7, b9, b10)),
            Some(Ipv4Addr::new(b7, b9, b10, b11)),
            Some(Ipv4Addr::new(b9, b10, b11, b12)),
            last,
        ],
        [0x2002, ..] => [Some(Ipv4Addr::new(b2, b3, b4, b5)), None, None, None],
        [0x2001, 0, ..] => {
            [Some(Ipv4Addr::new(b4, b5, b6, b7)), Some(Ipv4Addr::new(!b12, !b13, !b14, !b15)), None, None]
        }
        _ => [None; EMBEDDED_MAX],
    }
}

fn in_v4(list: &[(Ipv4Addr, u8)], address: Ipv4Addr) -> bool {
    list.iter().any(|(prefix, length)| Prefix::around((*prefix).into(), *length).contains(address.into()))
}

fn in_v6(list: &[(Ipv6Addr, u8)], address: Ipv6Addr) -> bool {
    list.iter().any(|(prefix, length)| Prefix::around((*prefix).into(), *length).contains(address.into()))
}

/// The fixed part of the floor for one address, embedded ones left out.
fn fixed(address: IpAddr) -> Option<Floor> {
    let (never, private) = match address {
        IpAddr::V4(address) => (in_v4(&NEVER_V4, address), in_v4(&PRIVATE_V4, address)),
        IpAddr::V6(address) => (in_v6(&NEVER_V6, address), in_v6(&PRIVATE_V6, address)),
    };
    never.then_some(Floor::Never).or(private.then_some(Floor::Private))
}

/// Every address of the fixed part as prefixes, for a firewall that cannot look into addresses: IPv6 addresses that carry
/// one of IPv4 in fixed places are listed for each, and those where the place varies or the address is inverted are
/// listed whole. At least what [`check`] refuses with nothing let in.
#[must_use]
pub fn prefixes() -> Vec<Prefix> {
    let v4 = || NEVER_V4.iter().chain(&PRIVATE_V4).map(|(address, length)| (*address, *length));
    let v6 = NEVER_V6.iter().chain(&PRIVATE_V6).map(|(address, length)| Prefix::around((*address).into(), *length));
    // Behind 96 bits: compatible, mapped, of stateless translation, NAT64; behind 16: 6to4.
    let heads: [([u16; 6], u8); 5] = [
        ([0; 6], 96),
        ([0, 0, 0, 0, 0, 0xffff], 96),
        ([0, 0, 0, 0, 0xffff, 0], 96),
        ([0x64, 0xff9b, 0, 0, 0, 0], 96),
        ([0x2002, 0, 0, 0, 0, 0], 16),
    ];
    let carried = heads.into_iter().flat_map(|(head, at)| {
        v4().map(move |(address, length)| {
            let [a, b, c, d, e, f] = head.map(u128::from);
            let head = (a << 112) | (b << 96) | (c << 80) | (d << 64) | (e << 48) | (f << 32);
            let behind = u128::from(address.to_bits()) << (96 - u32::from(at));
            Prefix::around(Ipv6Addr::from_bits(head | behind).into(), at.saturating_add(length))
        })
    });
    // Teredo, and NAT64's prefix for local use.
    let whole = [v6_prefix([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), v6_prefix([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48)];
    let plain = v4().map(|(address, length)| Prefix::around(address.into(), length));
    plain.chain(v6).chain(carried).chain(whole).collect()
}

fn v6_prefix(groups: [u16; 8], length: u8) -> Prefix {
    let (address, length) = v6(groups, length);
    Prefix::around(address.into(), length)
}

/// What besides the fixed part counts for one exit.
#[derive(Clone, Copy, Debug, Default)]
pub struct FloorFacts<'a> {
    /// Addresses of the exit.
    pub own: &'a [IpAddr],
    /// Networks the exit is connected to.
    pub connected: &'a [Prefix],
    /// Private networks a document lets in.
    pub allow_lan: &'a [Prefix],
}

/// Whether an exit may not reach an address, and why. Each address it carries is judged alike, and the worst counts: one
/// that is let in lets in nothing but itself.
#[must_use]
pub fn check(address: IpAddr, facts: FloorFacts<'_>) -> Option<Floor> {
    with_carried(address).find_map(|address| check_one(address, facts))
}

/// Whether an address, or one it carries, is in a list: what a document denies in addition.
#[must_use]
pub fn is_within(address: IpAddr, list: &[Prefix]) -> bool {
    with_carried(address).any(|address| list.iter().any(|prefix| prefix.contains(address)))
}

/// An address and those it carries.
fn with_carried(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let carried = match address {
        IpAddr::V4(_) => [None; EMBEDDED_MAX],
        IpAddr::V6(address) => embedded(address),
    };
    core::iter::once(address).chain(carried.into_iter().flatten().map(IpAddr::V4))
}

fn check_one(address: IpAddr, facts: FloorFacts<'_>) -> Option<Floor> {
    let within = |list: &[Prefix]| list.iter().any(|prefix| prefix.contains(address));
    let fixed = fixed(address);
    if fixed == Some(Floor::Never) {
        return fixed;
    }
    if facts.own.contains(&address) {
        return Some(Floor::Own);
    }
    let liftable = fixed.or_else(|| within(facts.connected).then_some(Floor::Connected));
    liftable.filter(|_| !within(facts.allow_lan))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4_address() -> impl Strategy<Value = u32> {
        let near = prop::sample::select([&NEVER_V4[..], &PRIVATE_V4[..]].concat());
        prop_oneof![
            any::<u32>(),
            (near, any::<u32>())
                .prop_map(|((prefix, length), low)| prefix.to_bits() ^ low.checked_shr(u32::from(length)).unwrap_or(0))
        ]
    }

    /// All forms an IPv4 address is carried in, and any address at all.
    fn address() -> impl Strategy<Value = IpAddr> {
        let carried = (v4_address(), any::<u128>(), 0..7usize).prop_map(|(v4, low, form)| {
            let (v4, low) = (u128::from(v4), low & 0xffff_ffff);
            let bits = match form {
                0 => v4,
                1 => 0xffff << 32 | v4,
                2 => 0xffff << 48 | v4,
                3 => 0x0064_ff9b << 96 | v4,
                4 => 0x2002 << 112 | v4 << 80 | low,
                5 => 0x2001_0000 << 96 | low << 32 | !v4 & 0xffff_ffff,
                _ => 0x0064_ff9b_0001 << 80 | v4,
            };
            Ipv6Addr::from_bits(bits)
        });
        prop_oneof![
            v4_address().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
            carried.prop_map(IpAddr::from),
            any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
        ]
    }

    proptest! {
        #[test]
        fn what_is_refused_is_in_the_list_for_firewalls(address in address()) {
            if check(address, FloorFacts::default()).is_some() {
                prop_assert!(prefixes().iter().any(|prefix| prefix.contains(address)), "{address}");
            }
        }
    }

    #[test]
    fn the_list_for_firewalls_leaves_the_internet_alone() {
        for text in
            ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "2002:808:808::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]
        {
            let address = text.parse().unwrap();
            assert!(!prefixes().iter().any(|prefix| prefix.contains(address)), "{text}");
        }
    }
}
