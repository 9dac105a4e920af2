//! Brings the system from one plan to the next: what is new is noted in the journal and made, the kill switch first; what
//! is no longer wanted is undone, the kill switch last. It decides on nothing.

use std::path::Path;

use shoal_protocol::NetworkId;

use super::plan::{self, Plan};
use crate::vpn::system::firewall::{FirewallError, Nft, Ruleset, Table};
use crate::vpn::system::netlink::{Netlink, NetlinkError};
use crate::vpn::system::state::{Journal, JournalError, Made, UndoError};
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

/// The system as one network changes it.
#[derive(Debug)]
pub(crate) struct System {
    journal: Journal,
    netlink: Netlink,
    /// The number of the table of routes.
    table: u32,
    exit: Table,
    kill_switch: Table,
    /// What stands.
    held: Plan,
}

impl System {
    /// Undoes what an earlier run of this data directory left; a kill switch that is wanted again stays meanwhile.
    ///
    /// # Errors
    /// [`SystemError`].
    pub(crate) fn open(
        data: &Path,
        network: &NetworkId,
        index: u32,
        keeps_kill_switch: bool,
    ) -> Result<Self, SystemError> {
        let (mut journal, mut netlink) = (Journal::open(data)?, Netlink::open()?);
        let undone = journal.undo(&mut netlink, |made| !(keeps_kill_switch && made.is_kill_switch()))?;
        if let Some(error) = undone.into_iter().find_map(|one| one.result.err()) {
            return Err(SystemError::Undo(error));
        }
        let tag = network.tag();
        let (exit, kill_switch) = (Table::exit(&tag)?, Table::kill_switch(&tag)?);
        Ok(Self { journal, netlink, table: plan::table(index), exit, kill_switch, held: Plan::default() })
    }

    /// Makes the system hold `wanted`. What was made before a failure stands, and the next call goes on from there.
    ///
    /// # Errors
    /// [`SystemError`], the first.
    pub(crate) fn apply(&mut self, wanted: &Plan) -> Result<(), SystemError> {
        self.guard(wanted)?;
        self.switch_on(wanted)?;
        self.open_exit(wanted)?;
        self.steer(wanted)?;
        self.close_exit(wanted)?;
        self.switch_back(wanted)?;
        self.unguard(wanted)
    }

    /// The journal and the socket to the kernel's tables, for what else has to be undone.
    pub(crate) const fn parts(&mut self) -> (&mut Journal, &mut Netlink) {
        (&mut self.journal, &mut self.netlink)
    }

    /// Undoes everything.
    ///
    /// # Errors
    /// [`SystemError`], the first; the rest is undone.
    pub(crate) fn undo(&mut self) -> Result<(), SystemError> {
        self.held = Plan::default();
        self.undo_those(|_| true)
    }

    fn undo_those(&mut self, which: impl Fn(&Made) -> bool) -> Result<(), SystemError> {
        let undone = self.journal.undo(&mut self.netlink, which)?;
        match undone.into_iter().find_map(|one| one.result.err()) {
            Some(error) => Err(SystemError::Undo(error)),
            None => Ok(()),
        }
    }

    fn install(&mut self, table: &Table, ruleset: &Ruleset) -> Result<(), SystemError> {
        let nft = Nft::find()?;
        self.journal.note(&[Made::Firewall(table.clone())])?;
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
            self.undo_those(Made::is_kill_switch)?;
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
            let before = match switch.before() {
                Ok(before) => before,
                // IPv6 is switched off, or the interface went.
                Err(SysctlError::Missing(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            self.journal.note(&[Made::Switch(before)])?;
            switch.set(value)?;
            self.held.switches.insert(switch.clone(), value);
        }
        Ok(())
    }

    fn switch_back(&mut self, wanted: &Plan) -> Result<(), SystemError> {
        let old: Vec<Switch> =
            self.held.switches.keys().filter(|switch| !wanted.switches.contains_key(switch)).cloned().collect();
        for switch in old {
            self.held.switches.remove(&switch);
            self.undo_those(|made| matches!(made, Made::Switch(before) if before.switch == switch))?;
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
            self.journal.note(&[Made::RouteTable(self.table)])?;
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
            self.journal.note(&[Made::Rule(*rule)])?;
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
