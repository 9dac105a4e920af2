//! What of the VPN touches the operating system, one small shell a file. None of them decides what is made: they make,
//! list and remove what they are told. Linux alone.
//!
//! Order of a start: [`state::Journal`] notes what will be made, then [`tun::Tun`], [`netlink::Netlink`],
//! [`sysctl::Switch`] and [`firewall`] make it. Order of an end: [`state::Journal::undo`], in a process that need not be
//! the one that made it.
//!
//! | file | carries |
//! |---|---|
//! | [`tun`] | packets with their virtio header, from and to the kernel |
//! | [`udp`] | batches of equal datagrams |
//! | [`netlink`] | links, addresses, routes, rules, and a watch over their changes |
//! | [`firewall`] | two nftables tables, each whole or not at all |
//! | [`resolver`] | where programs of this machine ask for names, with what it was before |
//! | [`sysctl`] | switches, with what they were before |
//! | [`state`] | the journal of all that outlives a killed process |
//! | [`wake`] | a wake-up for a thread that polls |

pub mod firewall;
pub mod netlink;
mod problems;
pub mod resolver;
pub mod state;
pub mod sysctl;
pub mod tun;
pub mod udp;
pub mod wake;

use serde::{Deserialize, Serialize};

/// A local port of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Port {
    /// Of TCP.
    Tcp(u16),
    /// Of UDP.
    Udp(u16),
}

/// Whether a text can be the name of an interface and is no pattern, path or piece of a ruleset: 1 to 15 ASCII letters,
/// digits, `.`, `_` and `-`, beginning with a letter or digit. The kernel takes more (`dev_valid_name`) and makes
/// numbers of `%d`.
#[must_use]
pub fn is_interface_name(name: &str) -> bool {
    /// IFNAMSIZ without its zero.
    const LENGTH_MAX: usize = 15;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && name.len() <= LENGTH_MAX && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_are_no_patterns_paths_or_rulesets() {
        for good in ["shoal0", "a", "mesh-home.1", "123456789012345"] {
            assert!(is_interface_name(good), "{good}");
        }
        for bad in ["", ".", "..", "-x", "shoal%d", "a/b", "a b", "a\"", "1234567890123456", "ü", "a\n", "a:1"] {
            assert!(!is_interface_name(bad), "{bad}");
        }
    }
}
