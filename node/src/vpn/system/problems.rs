//! What a user is told when the system refuses: what happened, the likely cause, the next command. It decides nothing.

use super::firewall::FirewallError;
use super::netlink::NetlinkError;
use super::state::JournalError;
use super::sysctl::SysctlError;
use super::tun::TunError;
use super::udp::UdpError;
use crate::problem::{Failure, Problem, with_causes};

const RIGHTS_CAUSE: &str = "the process lacks the capability CAP_NET_ADMIN";
const RIGHTS_NEXT: &str = "run it as root, or give the service AmbientCapabilities=CAP_NET_ADMIN";

impl From<TunError> for Problem {
    fn from(error: TunError) -> Self {
        let what = with_causes(&error);
        let (failure, cause, next) = match error {
            TunError::NotPermitted(_) => (Failure::Denied, RIGHTS_CAUSE, RIGHTS_NEXT),
            TunError::NoDriver(_) => (
                Failure::Denied,
                "the kernel's tun module is not loaded, or a container does not have the device",
                "`modprobe tun`, or start the container with --device /dev/net/tun",
            ),
            TunError::DriverDenied(_) => (
                Failure::Denied,
                "the file belongs to root, or a container is not given the device",
                "run it as root, or start the container with --device /dev/net/tun --cap-add NET_ADMIN",
            ),
            TunError::NameTaken(_) => (
                Failure::Denied,
                "another program's interface, or another shoald's",
                "look with `ip link`, then stop the other one or choose another name",
            ),
            TunError::BadName(_) => (
                Failure::Usage,
                "a name has 1 to 15 letters, digits, dots, underscores and dashes, beginning with a letter or digit",
                "choose another name",
            ),
            TunError::BadMtu(_) => {
                (Failure::Usage, "IPv6 needs packets of 1280 bytes", "choose an MTU from 1280 to 9000")
            }
            TunError::Setup(source) => return Self::from(source),
            TunError::Other(_) => {
                (Failure::Other, "the kernel lacks a feature, or memory", "look into `dmesg`, and repeat")
            }
        };
        Self::new(failure, what, cause, next)
    }
}

impl From<NetlinkError> for Problem {
    fn from(error: NetlinkError) -> Self {
        let what = with_causes(&error);
        let (failure, cause, next) = match error {
            NetlinkError::NotPermitted { .. } => (Failure::Denied, RIGHTS_CAUSE, RIGHTS_NEXT),
            NetlinkError::Open(_) => (
                Failure::Denied,
                "a sandbox forbids netlink sockets",
                "allow AF_NETLINK (RestrictAddressFamilies= of the service)",
            ),
            NetlinkError::Missing { .. } => {
                (Failure::Network, "an interface went meanwhile", "look with `ip link`, and repeat")
            }
            NetlinkError::Occupied { .. } => (
                Failure::Network,
                "another program manages the same routes",
                "look with `ip route show table all` and `ip rule`",
            ),
            NetlinkError::Refused { .. } | NetlinkError::Answer { .. } => {
                (Failure::Network, "the kernel lacks a feature, or memory", "look into `dmesg`, and repeat")
            }
        };
        Self::new(failure, what, cause, next)
    }
}

impl From<UdpError> for Problem {
    fn from(error: UdpError) -> Self {
        let what = with_causes(&error);
        let (failure, cause, next) = match error {
            UdpError::PortTaken(_) => {
                (Failure::Network, "another program uses it", "look with `ss -lunp`, or choose another port")
            }
            UdpError::NoSuchAddress(_) => {
                (Failure::Network, "the address went, or never was", "look with `ip address`")
            }
            UdpError::NotPermitted(_) => (Failure::Denied, RIGHTS_CAUSE, RIGHTS_NEXT),
            UdpError::NoFamily(_) => {
                (Failure::Network, "IPv6 or IPv4 is switched off", "listen on addresses of the other one only")
            }
            UdpError::Other { .. } => {
                (Failure::Network, "the system is out of something", "look into `dmesg`, and repeat")
            }
        };
        Self::new(failure, what, cause, next)
    }
}

impl From<FirewallError> for Problem {
    fn from(error: FirewallError) -> Self {
        let what = with_causes(&error);
        let (failure, cause, next) = match error {
            FirewallError::NoProgram => (
                Failure::Denied,
                "the package nftables is not installed",
                "install it: `apt install nftables`, `dnf install nftables`",
            ),
            FirewallError::NotPermitted => (Failure::Denied, RIGHTS_CAUSE, RIGHTS_NEXT),
            FirewallError::Run(_) => {
                (Failure::Other, "the system is out of processes or memory", "free some, and repeat")
            }
            FirewallError::Refused(_) => (
                Failure::Network,
                "the kernel lacks nf_tables or one of its modules",
                "`modprobe nf_tables nft_masq nft_fib_inet`, and repeat",
            ),
            FirewallError::BadName(_) => (Failure::Usage, "it is no interface's name", "choose another name"),
            FirewallError::TooMany => (Failure::Usage, "the policy is too long", "put neighbouring prefixes together"),
        };
        Self::new(failure, what, cause, next)
    }
}

impl From<SysctlError> for Problem {
    fn from(error: SysctlError) -> Self {
        let what = with_causes(&error);
        let (failure, cause, next) = match error {
            SysctlError::NotPermitted(_) => (
                Failure::Denied,
                "only root may, and a container has /proc/sys read-only",
                "run it as root, or set it outside of the container with `sysctl -w`",
            ),
            SysctlError::Missing(_) => {
                (Failure::Network, "IPv6 is switched off, or the interface is gone", "look with `sysctl net.ipv6`")
            }
            SysctlError::BadValue(_) => {
                (Failure::Other, "the journal was edited", "set the switch by hand, with `sysctl`")
            }
            SysctlError::Other { .. } => (Failure::Other, "the kernel refuses", "look with `sysctl -a`"),
        };
        Self::new(failure, what, cause, next)
    }
}

impl From<JournalError> for Problem {
    fn from(error: JournalError) -> Self {
        let what = with_causes(&error);
        let (failure, cause, next) = match error {
            JournalError::Io { ref source, .. } => {
                let cause = "permissions, or a disk that is full or broken";
                (Failure::of(source), cause, "check --data-dir, its owner and the space on its disk")
            }
            JournalError::Damaged { .. } => (
                Failure::Integrity,
                "the disk changed bytes, or the file was edited",
                "look with `ip rule`, `ip route show table all` and `nft list tables`, then remove the file",
            ),
            JournalError::Newer { .. } => {
                (Failure::Other, "this shoald is older than the one before", "run the newer one")
            }
            JournalError::Full => (Failure::Other, "undoing failed again and again", "`shoald vpn cleanup`"),
            JournalError::Elsewhere(_) => (
                Failure::Denied,
                "shoald ran in a namespace or container of its own",
                "run it there; if that is gone, remove `vpn.made` from the data directory",
            ),
        };
        Self::new(failure, what, cause, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_refusal_says_what_why_and_what_next() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        for (problem, failure, next) in [
            (TunError::NotPermitted(denied()).into(), Failure::Denied, "CAP_NET_ADMIN"),
            (TunError::NoDriver(missing()).into(), Failure::Denied, "modprobe tun"),
            (TunError::DriverDenied(denied()).into(), Failure::Denied, "/dev/net/tun"),
            (TunError::NameTaken("shoal0".into()).into(), Failure::Denied, "ip link"),
            (TunError::BadName("a b".into()).into(), Failure::Usage, "another name"),
            (TunError::Setup(NetlinkError::NotPermitted { doing: "x" }).into(), Failure::Denied, "CAP_NET_ADMIN"),
            (FirewallError::NoProgram.into(), Failure::Denied, "apt install nftables"),
            (JournalError::Full.into(), Failure::Other, "shoald vpn cleanup"),
        ] {
            let problem: Problem = problem;
            let text = problem.to_string();
            let [what, why, try_this] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
            assert!(what.starts_with("error: ") && why.starts_with("  why: "), "{text}");
            assert!(try_this.starts_with("  try: ") && try_this.contains(next), "{text}");
            assert_eq!(problem.failure, failure, "{text}");
        }
    }
}
