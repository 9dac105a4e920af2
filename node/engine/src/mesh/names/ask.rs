//! What of a zone a name is, by its labels. It reads no message and makes none.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::zone::{DOMAIN, Member, Zone};

/// Half bytes of an IPv6 address, each a label of its reverse name (RFC 3596 §2.5).
const NIBBLES: usize = 32;
/// Of them the network's: its /48.
const NETWORK_NIBBLES: usize = 12;

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// Nothing of this network: another server knows.
    Elsewhere,
    /// A name in the zone that ends in the last `apex` labels.
    Ours {
        /// How many labels of the name the zone has.
        apex: usize,
        /// What is there.
        there: There<'a>,
    },
}

/// What is at a name of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum There<'a> {
    /// No such name.
    Nothing,
    /// Names below it, and no record.
    Others,
    /// The zone itself.
    Apex,
    /// A member.
    Host(&'a Member),
    /// A member's address.
    Pointer(&'a Member),
}

/// Who is meant by a name that is no question of DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// Nobody in this network: the name is of another domain.
    Elsewhere,
    /// The name is of this network, and nobody has it.
    Nobody,
    /// A member.
    Member(&'a Member),
}

/// Who has a whole name, in letters of any size and with or without the dot at its end.
#[must_use]
pub fn named<'a>(name: &str, zone: &'a Zone) -> Named<'a> {
    let name = name.to_ascii_lowercase();
    let labels: Vec<&str> = name.strip_suffix('.').unwrap_or(&name).split('.').collect();
    match meaning(&labels, zone) {
        Meaning::Elsewhere => Named::Elsewhere,
        Meaning::Ours { there: There::Host(member), .. } => Named::Member(member),
        Meaning::Ours { .. } => Named::Nobody,
    }
}

/// What `labels` mean: in small letters, the nearest to the root last.
pub(super) fn meaning<'a>(labels: &[&str], zone: &'a Zone) -> Meaning<'a> {
    match labels {
        [inner @ .., domain, top] if [*domain, *top] == DOMAIN => {
            let (apex, there) = in_domain(inner, zone);
            Meaning::Ours { apex, there }
        }
        [inner @ .., "ip6", "arpa"] => v6(inner, zone),
        [inner @ .., "in-addr", "arpa"] => v4(inner, zone),
        _ => Meaning::Elsewhere,
    }
}

/// Whether a name is of this network, and of no other.
pub(super) fn is_of(labels: &[&str], zone: &Zone) -> bool {
    match labels {
        [.., network, domain, top] if [*domain, *top] == DOMAIN => zone.is_network(network),
        [domain, top] if [*domain, *top] == DOMAIN => false,
        _ => matches!(meaning(labels, zone), Meaning::Ours { .. }),
    }
}

/// Names under the domain of all networks. Those of other networks are not asked elsewhere: nobody but their members
/// knows them, and the name of a member says who is spoken to.
fn in_domain<'a>(inner: &[&str], zone: &'a Zone) -> (usize, There<'a>) {
    match inner {
        [] => (2, There::Apex),
        [.., network] if !zone.is_network(network) => (2, There::Nothing),
        [_] => (3, There::Apex),
        [host, _] => (3, zone.host(host).map_or(There::Nothing, There::Host)),
        _ => (3, There::Nothing),
    }
}

fn v6<'a>(inner: &[&str], zone: &'a Zone) -> Meaning<'a> {
    let nibble = |label: &&str| match label.as_bytes() {
        [digit @ (b'0'..=b'9' | b'a'..=b'f')] => char::from(*digit).to_digit(16),
        _ => None,
    };
    // As far as they are half bytes of an address, the highest first.
    let nibbles: Vec<u32> = inner.iter().rev().map_while(nibble).take(NIBBLES).collect();
    let bits = nibbles.iter().fold(0_u128, |bits, nibble| bits << 4 | u128::from(*nibble));
    let free = 4_usize.saturating_mul(NIBBLES.saturating_sub(nibbles.len()));
    let free = u32::try_from(free).unwrap_or(0);
    let first = bits.checked_shl(free).unwrap_or(0);
    let last = first | u128::MAX.checked_shr(128_u32.saturating_sub(free)).unwrap_or(0);
    let [first, last] = [first, last].map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)));
    if nibbles.len() < NETWORK_NIBBLES || !zone.v6().contains(first) {
        return Meaning::Elsewhere;
    }
    let there = if nibbles.len() != inner.len() {
        There::Nothing
    } else if nibbles.len() == NETWORK_NIBBLES {
        There::Apex
    } else if nibbles.len() == NIBBLES {
        zone.holder(first).map_or(There::Nothing, There::Pointer)
    } else if zone.has_any(first, last) {
        There::Others
    } else {
        There::Nothing
    };
    Meaning::Ours { apex: NETWORK_NIBBLES.saturating_add(2), there }
}

fn v4<'a>(inner: &[&str], zone: &'a Zone) -> Meaning<'a> {
    // One spelling: no leading zeros or signs.
    let octet = |label: &&str| label.parse::<u8>().ok().filter(|octet| octet.to_string() == **label);
    let octets: Vec<u8> = inner.iter().rev().map_while(octet).take(4).collect();
    // A pool is at most as long as two labels: within it each pair is whole.
    let of_network = if zone.pool().length() <= 8 { 1 } else { 2 };
    let at = |place: usize, otherwise: u8| octets.get(place).copied().unwrap_or(otherwise);
    let address = |otherwise: u8| {
        IpAddr::V4(Ipv4Addr::new(at(0, otherwise), at(1, otherwise), at(2, otherwise), at(3, otherwise)))
    };
    let (first, last) = (address(0), address(u8::MAX));
    if octets.len() < of_network || !zone.pool().contains(first) {
        return Meaning::Elsewhere;
    }
    let there = if octets.len() != inner.len() {
        There::Nothing
    } else if octets.len() == of_network {
        There::Apex
    } else if octets.len() == 4 {
        zone.holder(first).map_or(There::Nothing, There::Pointer)
    } else if zone.has_any(first, last) {
        There::Others
    } else {
        There::Nothing
    };
    Meaning::Ours { apex: of_network.saturating_add(2), there }
}
