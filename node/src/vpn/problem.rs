//! What a user is told when the private network does not start: what happened, the likely cause, the next command.

use super::start::VpnError;
use crate::problem::{Failure, Problem, with_causes};

/// The problem of an error.
pub(crate) fn of(error: VpnError) -> Problem {
    let what = with_causes(&error);
    match error {
        VpnError::Tun(error) => error.into(),
        VpnError::Netlink(error) => error.into(),
        VpnError::Udp(error) => error.into(),
        VpnError::System(_) => {
            Problem::new(Failure::Other, what, "too many files or threads are open", "close some, and repeat")
        }
        VpnError::Policy(_) => Problem::new(Failure::Usage, what, "a rule is mistyped", "correct the line it names"),
    }
}
