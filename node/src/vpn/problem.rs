//! What a user is told when the private network does not start: what happened, the likely cause, the next command.

use std::io;
use std::net::SocketAddr;

use super::roles::rules::RulesError;
use super::roles::system::SystemError;
use super::start::VpnError;
use super::userspace::UserspaceError;
use crate::problem::{Failure, Problem, with_causes};

/// The problem of an error.
pub(crate) fn of(error: VpnError) -> Problem {
    let what = with_causes(&error);
    match error {
        VpnError::Tun(error) => error.into(),
        VpnError::Netlink(error) => error.into(),
        VpnError::Udp(error) => error.into(),
        VpnError::PoolTaken(taken) if taken.wanted.address().is_ipv6() => {
            let cause = "another shoald on this machine is in the same private network";
            Problem::new(Failure::Denied, what, cause, "stop the other one; `ip -6 route show table all` shows it")
        }
        VpnError::PoolTaken(_) => {
            let cause = "another VPN, another shoald, or the network this machine is in uses these addresses";
            let next = "end that one (`ip route show table all`), or agree with all members on another --vpn-pool, such \
                        as 10.9.0.0/16";
            Problem::new(Failure::Denied, what, cause, next)
        }
        VpnError::ExitTaken(other) => {
            let next =
                format!("`shoal vpn --network {other} exit use off`, then switch this one on with `shoal vpn up`");
            Problem::new(Failure::Denied, what, "a machine has one default route", &next)
        }
        VpnError::System(_) => {
            Problem::new(Failure::Other, what, "too many files or threads are open", "close some, and repeat")
        }
        VpnError::Userspace(UserspaceError::System(_)) => {
            Problem::new(Failure::Other, what, "too many files or threads are open", "close some, and repeat")
        }
        VpnError::Userspace(UserspaceError::Listen { address, flag, cause }) => listen((address, flag), &cause, what),
        VpnError::Rules(RulesError::Io { .. }) => {
            Problem::new(Failure::Usage, what, "it is not there, or may not be read", "correct --vpn-policy")
        }
        VpnError::Rules(_) => {
            let next = "correct the line it names, and ask `shoal vpn policy check FILE`";
            Problem::new(Failure::Usage, what, "the policy is mistyped", next)
        }
        VpnError::Roles(SystemError::Journal(error)) => error.into(),
        VpnError::Roles(SystemError::Netlink(error)) => error.into(),
        VpnError::Roles(SystemError::Firewall(error)) => error.into(),
        VpnError::Roles(SystemError::Switch(error)) => error.into(),
        VpnError::Roles(SystemError::Ended(_)) => {
            Problem::new(Failure::Other, what, "the node is just ending", "start it again")
        }
        VpnError::Roles(SystemError::Undo(_)) => {
            let cause = "another program holds what an earlier run made";
            Problem::new(Failure::Other, what, cause, "run `shoald vpn cleanup`, and start again")
        }
    }
}

fn listen((address, flag): (SocketAddr, &str), cause: &io::Error, what: String) -> Problem {
    let next = format!(
        "look with `ss -ltnp 'sport = :{}'`, stop the other one, or write another port at {flag}",
        address.port()
    );
    let (failure, why, next) = match cause.kind() {
        io::ErrorKind::PermissionDenied => {
            (Failure::Denied, "ports below 1024 are for root", format!("write another port at {flag}"))
        }
        io::ErrorKind::AddrNotAvailable => {
            (Failure::Usage, "this machine has no such address", format!("write {flag} with 127.0.0.1"))
        }
        _ => (Failure::Network, "another program listens there", next),
    };
    Problem::new(failure, what, why, &next)
}
