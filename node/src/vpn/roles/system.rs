//! Brings the system from one plan to the next: what is new is noted in the journal and made, the kill switch first; what
//! is no longer wanted is undone, the kill switch last. It decides on nothing.

use std::sync::Arc;

use shoal_protocol::NetworkId;

use super::plan::{self, Plan};
use crate::vpn::machine::{Machine, Slot};
use crate::vpn::system::firewall::{FirewallError, Nft, Ruleset, Table};
use crate::vpn::system::netlink::{Netlink, NetlinkError};
use crate::vpn::system::state::{JournalError, Made, UndoError};
use crate::vpn::system::sysctl::{Switch, SysctlError};

/// Why the system does not hold what it should.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// The journal: then nothing new was made.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A route or rule.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A table of the firewall.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// A switch.
    #[error(transparent)]
    Switch(#[from] SysctlError),
    /// The thread that was to do it ended.
    #[error("the system could not be changed")]
    Ended(#[source] tokio::task::JoinError),
    /// Something of before is still there.
    #[error("what was made before is not undone")]
    Undo(#[source] UndoError),
}

impl SystemError {
    /// Whether the same may succeed later with nothing changed by hand.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Journal(error) => error.retryable(),
            Self::Netlink(error) => error.retryable(),
            Self::Firewall(error) => error.retryable(),
            Self::Switch(error) => error.retryable(),
            Self::Ended(_) => true,
            Self::Undo(error) => error.retryable(),
        }
    }
}

/// The system as one network changes it. Once it is undone, or dropped, nothing more is changed by it.
#[derive(Debug)]
pub(crate) struct System {
    machine: Arc<Machine>,
    slot: Slot,
    netlink: Netlink,
    /// The number of the table of routes.
    table: u32,
    exit: Table,
    kill_switch: Table,
    /// What stands.
    held: Plan,
    /// It is undone.
    is_over: bool,
}

impl System {
    /// Undoes what an earlier run of this node left; a kill switch that is wanted again stays meanwhile.
    ///
    /// # Errors
    /// [`SystemError`].
    pub(crate) fn open(
        (machine, slot): (&Arc<Machine>, Slot),
        network: &NetworkId,
        index: u32,
    ) -> Result<Self, SystemError> {
        let tag = network.tag();
        let (exit, kill_switch) = (Table::exit(&tag)?, Table::kill_switch(&tag)?);
        let machine = Arc::clone(machine);
        let (netlink, table) = (Netlink::open()?, plan::table(index));
        let held = Plan::default();
        let mut system = Self { machine, slot, netlink, table, exit, kill_switch, held, is_over: true };
        let own = system.own();
        system.machine.enter(slot, &mut system.netlink, own)?;
        system.is_over = false;
        Ok(system)
    }

    /// What is this network's alone.
    fn own(&self) -> impl Fn(&Made) -> bool + use<> {
        let (slot, table) = (self.slot, self.table);
        let tables = [self.exit.clone(), self.kill_switch.clone()];
        move |made| match made {
            Made::RouteTable(made) => *made == table,
            Made::Rule(rule) => plan::slot_of(rule) == Some(slot.number()),
            Made::Firewall(made) => tables.contains(made),
            Made::Interface { .. } | Made::Route(_) | Made::Switch(_) | Made::Resolver(_) => false,
        }
    }

    /// Makes the system hold `wanted`. What was made before a failure stands, and the next call goes on from there.
    ///
    /// # Errors
    /// [`SystemError`], the first.
    pub(crate) fn apply(&mut self, wanted: &Plan) -> Result<(), SystemError> {
        if self.is_over {
            return Ok(());
        }
        self.guard(wanted)?;
        self.switch_on(wanted)?;
        self.open_exit(wanted)?;
        self.steer(wanted)?;
        self.close_exit(wanted)?;
        self.switch_back(wanted)?;
        self.unguard(wanted)
    }

    /// Undoes everything that no other network needs.
    ///
    /// # Errors
    /// [`SystemError`], the first; the rest is undone.
    pub(crate) fn undo(&mut self) -> Result<(), SystemError> {
        if std::mem::replace(&mut self.is_over, true) {
            return Ok(());
        }
        self.held = Plan::default();
        // What leads into the tunnel goes first, and the kill switch after it: the journal is undone from its end.
        let own = self.own();
        let undone = self.undo_those(own);
        undone.and(self.machine.leave(self.slot, &mut self.netlink))
    }

    fn undo_those(&mut self, which: impl Fn(&Made) -> bool) -> Result<(), SystemError> {
        self.machine.undo(&mut self.netlink, which)
    }

    fn install(&mut self, table: &Table, ruleset: &Ruleset) -> Result<(), SystemError> {
        let nft = Nft::find()?;
        self.machine.note(&[Made::Firewall(table.clone())])?;
        Ok(nft.install(ruleset)?)
    }

    fn guard(&mut self, wanted: &Plan) -> Result<(), SystemError> {
        let Some(kill_switch) = wanted.kill_switch.as_ref().filter(|_| self.held.kill_switch != wanted.kill_switch)
        else {
            return Ok(());
        };
        let table = self.kill_switch.clone();
        self.install(&table, &kill_switch.ruleset(table.clone())?)?;
        self.held.kill_switch = Some(kill_switch.clone());
        Ok(())
    }

    fn unguard(&mut self, wanted: &Plan) -> Result<(), SystemError> {
        if wanted.kill_switch.is_none() && self.held.kill_switch.take().is_some() {
            let table = self.kill_switch.clone();
            self.undo_those(|made| matches!(made, Made::Firewall(made) if *made == table))?;
        }
        Ok(())
    }

    fn switch_on(&mut self, wanted: &Plan) -> Result<(), SystemError> {
        // From the last: an interface has to listen to routers in spite of forwarding before it forwards, or the kernel
        // forgets what it learnt.
        for (switch, value) in wanted.switches.iter().rev() {
            if self.held.switches.get(switch) == Some(value) {
                continue;
            }
            match self.machine.switch_on(self.slot, switch, value) {
                Ok(()) => {}
                // IPv6 is switched off, or the interface went.
                Err(SystemError::Switch(SysctlError::Missing(_))) => continue,
                Err(error) => return Err(error),
            }
            self.held.switches.insert(switch.clone(), value);
        }
        Ok(())
    }

    fn switch_back(&mut self, wanted: &Plan) -> Result<(), SystemError> {
        let old: Vec<Switch> =
            self.held.switches.keys().filter(|switch| !wanted.switches.contains_key(switch)).cloned().collect();
        for switch in old {
            self.held.switches.remove(&switch);
            self.machine.switch_back(self.slot, &mut self.netlink, &switch)?;
        }
        Ok(())
    }

    fn open_exit(&mut self, wanted: &Plan) -> Result<(), SystemError> {
        let Some(rules) = wanted.exit.as_ref().filter(|_| self.held.exit != wanted.exit) else { return Ok(()) };
        let table = self.exit.clone();
        self.install(&table, &rules.ruleset(table.clone())?)?;
        self.held.exit = Some(rules.clone());
        Ok(())
    }

    fn close_exit(&mut self, wanted: &Plan) -> Result<(), SystemError> {
        if wanted.exit.is_none() && self.held.exit.take().is_some() {
            let table = self.exit.clone();
            self.undo_those(|made| matches!(made, Made::Firewall(made) if *made == table))?;
        }
        Ok(())
    }

    /// Routes before the rules that lead to them, and away after these.
    fn steer(&mut self, wanted: &Plan) -> Result<(), SystemError> {
        if !wanted.routes.is_empty() {
            self.machine.note(&[Made::RouteTable(self.table)])?;
        }
        let old: Vec<_> = self.held.routes.difference(&wanted.routes).copied().collect();
        let new: Vec<_> = wanted.routes.difference(&self.held.routes).copied().collect();
        // Of one prefix the old way goes first: the kernel holds one of each.
        let replaced = old.iter().filter(|route| new.iter().any(|by| by.to == route.to));
        for route in replaced {
            self.netlink.remove_route(route)?;
            self.held.routes.remove(route);
        }
        for route in new {
            self.netlink.add_route(&route)?;
            self.held.routes.insert(route);
        }
        for rule in wanted.rules.difference(&self.held.rules.clone()) {
            self.machine.note(&[Made::Rule(*rule)])?;
            self.netlink.add_rule(rule)?;
            self.held.rules.insert(*rule);
        }
        for rule in self.held.rules.clone().difference(&wanted.rules) {
            self.held.rules.remove(rule);
            self.undo_those(|made| *made == Made::Rule(*rule))?;
        }
        for route in self.held.routes.clone().difference(&wanted.routes) {
            self.netlink.remove_route(route)?;
            self.held.routes.remove(route);
        }
        Ok(())
    }
}

/// What is not undone stays in the journal, a kill switch in the firewall: nothing is set free because something failed.
impl Drop for System {
    fn drop(&mut self) {
        if !self.is_over {
            self.machine.forget(self.slot);
        }
    }
}
