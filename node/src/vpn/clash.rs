//! Whether the addresses of a private network are free on this machine: not those of another private network, another VPN or
//! the network the machine is in. It asks and compares; it changes nothing.

use shoal_protocol::mesh::prefix::Prefix;

use super::places::Overlay;
use super::system::netlink::{Netlink, NetlinkError};

/// Shorter prefixes are the internet, or one of the halves of it that some programs lead elsewhere: no network of somebody's.
const INTERNET_MAX: u8 = 1;

/// Whose addresses they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What this network would have.
    pub wanted: Prefix,
    /// What is there.
    pub found: Prefix,
    /// The interface that has or leads to it.
    pub interface: String,
}

/// Who has addresses of `overlay` on this machine already, if anybody.
///
/// # Errors
/// [`NetlinkError`] if the system does not say.
pub(crate) fn find(netlink: &mut Netlink, overlay: &Overlay) -> Result<Option<Taken>, NetlinkError> {
    let addresses = netlink.all_addresses()?.into_iter();
    let addresses = addresses.map(|own| (Prefix::around(own.address, own.prefix_length), own.link));
    let used: Vec<(Prefix, u32)> = addresses.chain(netlink.networks()?).collect();
    let Some((wanted, found, link)) = first(&overlay.prefixes(), &used) else { return Ok(None) };
    let name = netlink.links()?.into_iter().find(|known| known.index == link).map(|known| known.name);
    // An interface that went meanwhile has its number at least.
    Ok(Some(Taken { wanted, found, interface: name.unwrap_or_else(|| link.to_string()) }))
}

/// The first of `wanted` that something in use has a part of.
fn first(wanted: &[Prefix], used: &[(Prefix, u32)]) -> Option<(Prefix, Prefix, u32)> {
    let networks = || used.iter().filter(|(prefix, _)| prefix.length() > INTERNET_MAX);
    wanted.iter().find_map(|wanted| {
        let (found, link) = networks().find(|(found, _)| found.overlaps(wanted))?;
        Some((*wanted, *found, *link))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn what_overlaps_is_found_and_the_internet_overlaps_nothing() {
        let wanted = [prefix("10.9.0.0/16"), prefix("fd12:3456:789a::/48")];
        let found = |text: &str| first(&wanted, &[(prefix(text), 7)]);
        for text in ["10.9.0.0/16", "10.9.3.0/24", "10.0.0.0/8", "10.9.255.255/32"] {
            assert_eq!(found(text), Some((wanted[0], prefix(text), 7)), "{text}");
        }
        assert_eq!(found("fd12:3456:789a:1::/64"), Some((wanted[1], prefix("fd12:3456:789a:1::/64"), 7)));
        for text in
            ["10.8.0.0/16", "0.0.0.0/0", "0.0.0.0/1", "::/0", "8000::/1", "fd12:3456:789b::/48", "192.168.0.0/16"]
        {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
