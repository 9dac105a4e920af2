//! Undoes what a node that was killed left in the system, without a node. It touches nothing that its journal does not name.

use std::fs::File;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::problem::{Failure, Problem, with_causes};
use crate::vpn::system::netlink::Netlink;
use crate::vpn::system::state::{Journal, Made};

/// What was undone, a line each, in that order.
///
/// # Errors
/// The problem: a node runs there, or something stays.
pub(crate) fn run(data: &Path) -> Result<Vec<String>, Problem> {
    let shown = data.display();
    let directory = File::open(data).map_err(|error| {
        let what = format!("{shown} cannot be opened: {error}");
        Problem::new(Failure::of(&error), what, "no node ever ran there", "pass --data-dir")
    })?;
    // As a running node has it; held to the end, so that none starts meanwhile.
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        let what = format!("{shown} is in use: {error}");
        Problem::new(Failure::Denied, what, "a node runs there", "stop it first: it undoes everything itself")
    })?;
    let (mut journal, mut netlink) = (Journal::open(data)?, Netlink::open()?);
    let undone = journal.undo(&mut netlink, |_| true)?;
    let mut lines = Vec::new();
    let mut failed = None;
    for one in undone {
        match one.result {
            Ok(()) => lines.push(format!("removed {}", name(&one.made))),
            Err(error) => failed = Some(format!("{} stays: {}", name(&one.made), with_causes(&error))),
        }
    }
    match failed {
        None if lines.is_empty() => Ok(vec!["nothing was left".to_owned()]),
        None => Ok(lines),
        Some(what) => {
            let cause = "the process lacks CAP_NET_ADMIN, or another program is in the way";
            Err(Problem::new(Failure::Denied, what, cause, "repeat as root"))
        }
    }
}

fn name(made: &Made) -> String {
    match made {
        Made::Interface { name, .. } => format!("interface {name}"),
        Made::Route(route) => format!("route to {}", route.to),
        Made::RouteTable(table) => format!("the routes of table {table}"),
        Made::Rule(rule) => format!("the rule of priority {} ({:?})", rule.priority, rule.family),
        Made::Firewall(table) => format!("nftables table inet {table}"),
        Made::Resolver(_) => "the names of the network from the resolver".to_owned(),
        Made::Switch(before) => format!("the change of {:?}, which is {} again", before.switch, before.value),
    }
}
