//! What the private networks of one node have once on their machine: the journal of all they made, switches that several of
//! them need, the one default route, and where programs ask for names. It makes nothing by itself; each network says what it
//! needs, and what the last one no longer needs is put back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_engine::mesh::names::Zone;
use shoal_protocol::NetworkId;
use tokio::sync::watch;

use super::config::VpnConfig;
use super::dns::Leads;
use super::places::{Overlay, Overlays};
use super::roles::plan::MARK;
use super::roles::system::SystemError;
use super::system::Port;
use super::system::firewall::Table;
use super::system::netlink::Netlink;
use super::system::state::{Journal, JournalError, Made};
use super::system::sysctl::{self, Switch};

/// Networks of one node, the main one among them: each has numbers of its own for its rules, of which ten are kept free
/// between two kinds.
pub(crate) const NETWORKS_MAX: usize = 8;

/// The place of a network among those of its node: 0 is the main one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(u8);

impl Slot {
    /// The main network's.
    pub(crate) const MAIN: Self = Self(0);

    /// The slots of all networks beside the main one, in their order.
    pub(crate) fn beside() -> impl Iterator<Item = Self> {
        (1..NETWORKS_MAX).filter_map(|slot| u8::try_from(slot).ok()).map(Self)
    }

    /// As a number less than [`NETWORKS_MAX`].
    pub(crate) const fn number(self) -> u8 {
        self.0
    }
}

/// What is known of a network before it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub(crate) slot: Slot,
    pub(crate) name: &'a str,
    pub(crate) network: &'a NetworkId,
    pub(crate) config: &'a VpnConfig,
}

/// What changes while they run.
#[derive(Debug, Default)]
struct State {
    /// None before the first network runs.
    journal: Option<Journal>,
    /// Networks with a device that run.
    live: BTreeSet<Slot>,
    /// Who needs which switch.
    switches: BTreeMap<Switch, BTreeSet<Slot>>,
    /// Interfaces that learnt their routes from routers before this machine became one.
    listening: BTreeSet<String>,
    /// Who leads everything through an exit.
    default_route: Option<Slot>,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Machine {
    data: PathBuf,
    names: BTreeMap<Slot, String>,
    overlays: BTreeMap<Slot, Overlay>,
    tuns: BTreeMap<Slot, String>,
    ports: BTreeSet<Port>,
    /// Kill switches of a run before that are wanted again, and stay meanwhile.
    kept: BTreeSet<Table>,
    state: Mutex<State>,
    zones: Mutex<BTreeMap<Slot, watch::Receiver<Arc<Zone>>>>,
    leads: Mutex<Leads>,
}

impl Machine {
    /// Of a node whose journal is in `data`; `ports` are those of the sockets its swarms listen on, which have no mark.
    pub(crate) fn new(data: &Path, known: &[Known<'_>], ports: BTreeSet<Port>) -> Self {
        let wanted = known.iter().filter(|known| known.config.roles.kill_switch);
        Self {
            data: data.to_owned(),
            names: known.iter().map(|known| (known.slot, known.name.to_owned())).collect(),
            overlays: known.iter().map(|known| (known.slot, overlay(known))).collect(),
            tuns: known.iter().filter_map(|known| Some((known.slot, known.config.tun_name.clone()?))).collect(),
            ports,
            kept: wanted.filter_map(|known| Table::kill_switch(&known.network.tag()).ok()).collect(),
            state: Mutex::default(),
            zones: Mutex::default(),
            leads: Mutex::new(Leads::new(data)),
        }
    }

    /// Addresses of all networks of these: no connection of the node goes over them, or one network carried another.
    pub(crate) fn overlays(known: &[Known<'_>]) -> Overlays {
        known.iter().map(overlay).collect()
    }

    /// The mark of all sockets that carry one of these networks; none where none has a device.
    pub(crate) fn mark(known: &[Known<'_>]) -> Option<u32> {
        known.iter().any(|known| known.config.tun_name.is_some()).then_some(MARK)
    }

    /// [`Self::overlays`], of this machine.
    pub(crate) fn all_overlays(&self) -> Overlays {
        self.overlays.values().copied().collect()
    }

    /// Addresses of the networks beside this one.
    pub(crate) fn others(&self, slot: Slot) -> impl Iterator<Item = &Overlay> {
        self.overlays.iter().filter(move |(other, _)| **other != slot).map(|(_, overlay)| overlay)
    }

    /// [`Self::mark`], of this machine.
    pub(crate) fn socket_mark(&self) -> Option<u32> {
        (!self.tuns.is_empty()).then_some(MARK)
    }

    /// Devices of the networks beside this one.
    pub(crate) fn other_tuns(&self, slot: Slot) -> Vec<String> {
        self.tuns.iter().filter(|(other, _)| **other != slot).map(|(_, name)| name.clone()).collect()
    }

    /// Ports of sockets that carry a network or the node and have no mark.
    pub(crate) const fn ports(&self) -> &BTreeSet<Port> {
        &self.ports
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A network begins to change the system. The first one undoes what a run before left of all of them, the next ones
    /// what is `own` and stayed; kill switches that are wanted again stay.
    ///
    /// # Errors
    /// [`SystemError`]; then it has not begun.
    pub(crate) fn enter(
        &self,
        slot: Slot,
        netlink: &mut Netlink,
        own: impl Fn(&Made) -> bool,
    ) -> Result<(), SystemError> {
        let mut state = self.state();
        let is_first = state.live.is_empty();
        if is_first {
            *state = State { journal: Some(Journal::open(&self.data)?), ..State::default() };
        }
        let is_kept = |made: &Made| matches!(made, Made::Firewall(table) if self.kept.contains(table));
        undo(&mut state, &self.data, netlink, |made| (is_first || own(made)) && !is_kept(made))?;
        state.live.insert(slot);
        Ok(())
    }

    /// A network no longer changes the system; what it needed of switches alone is put back, and the default route free.
    ///
    /// # Errors
    /// [`SystemError`], the first; the rest is put back.
    pub(crate) fn leave(&self, slot: Slot, netlink: &mut Netlink) -> Result<(), SystemError> {
        let mut state = self.state();
        state.live.remove(&slot);
        state.default_route.take_if(|holder| *holder == slot);
        let mut unused = BTreeSet::new();
        for (switch, users) in &mut state.switches {
            if users.remove(&slot) && users.is_empty() {
                unused.insert(switch.clone());
            }
        }
        state.switches.retain(|_, users| !users.is_empty());
        undo(
            &mut state,
            &self.data,
            netlink,
            |made| matches!(made, Made::Switch(before) if unused.contains(&before.switch)),
        )
    }

    /// A network ended without undoing anything: the first one that begins after the last does.
    pub(crate) fn forget(&self, slot: Slot) {
        let mut state = self.state();
        state.live.remove(&slot);
        state.default_route.take_if(|holder| *holder == slot);
    }

    /// Notes what is about to be made.
    ///
    /// # Errors
    /// [`JournalError`]; then none of it may be made.
    pub(crate) fn note(&self, made: &[Made]) -> Result<(), JournalError> {
        journal(&mut self.state(), &self.data)?.note(made)
    }

    /// Undoes those that `which` wants.
    ///
    /// # Errors
    /// [`SystemError`], the first; the rest is undone.
    pub(crate) fn undo(&self, netlink: &mut Netlink, which: impl Fn(&Made) -> bool) -> Result<(), SystemError> {
        undo(&mut self.state(), &self.data, netlink, which)
    }

    /// Sets a switch for a network, noted as it was before the first of them.
    ///
    /// # Errors
    /// [`SystemError`].
    pub(crate) fn switch_on(&self, slot: Slot, switch: &Switch, value: &str) -> Result<(), SystemError> {
        let mut state = self.state();
        let before = switch.before()?;
        journal(&mut state, &self.data)?.note(&[Made::Switch(before)])?;
        switch.set(value)?;
        state.switches.entry(switch.clone()).or_default().insert(slot);
        Ok(())
    }

    /// A network needs a switch no longer; it is put back if nobody does.
    ///
    /// # Errors
    /// [`SystemError`].
    pub(crate) fn switch_back(&self, slot: Slot, netlink: &mut Netlink, switch: &Switch) -> Result<(), SystemError> {
        let mut state = self.state();
        let users = state.switches.entry(switch.clone()).or_default();
        users.remove(&slot);
        if !users.is_empty() {
            return Ok(());
        }
        state.switches.remove(switch);
        undo(&mut state, &self.data, netlink, |made| matches!(made, Made::Switch(before) if before.switch == *switch))
    }

    /// Interfaces that learnt their routes from routers as long as this machine was none.
    pub(crate) fn listening(&self) -> BTreeSet<String> {
        let mut state = self.state();
        state.listening.extend(sysctl::learning_interfaces());
        state.listening.clone()
    }

    /// A network leads everything through an exit, or no longer.
    ///
    /// # Errors
    /// The name of the other network that does; only one can.
    pub(crate) fn hold_default_route(&self, slot: Slot, holds: bool) -> Result<(), String> {
        let mut state = self.state();
        match state.default_route {
            Some(holder) if holder != slot && holds => Err(self.names.get(&holder).cloned().unwrap_or_default()),
            Some(holder) if holder != slot => Ok(()),
            _ => {
                state.default_route = holds.then_some(slot);
                Ok(())
            }
        }
    }

    /// The names of a network are answered to programs of this machine from now on, by the servers of all its networks; with
    /// none they no longer are.
    pub(crate) fn set_zone(&self, slot: Slot, zone: Option<watch::Receiver<Arc<Zone>>>) {
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        match zone {
            Some(zone) => drop(zones.insert(slot, zone)),
            None => drop(zones.remove(&slot)),
        }
    }

    /// The names of the networks beside this one, as they are now.
    pub(crate) fn other_zones(&self, slot: Slot) -> Vec<Arc<Zone>> {
        let zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        zones.iter().filter(|(other, _)| **other != slot).map(|(_, zone)| Arc::clone(&zone.borrow())).collect()
    }

    /// Where programs are led to ask for names.
    pub(crate) fn leads(&self) -> MutexGuard<'_, Leads> {
        self.leads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overlay(known: &Known<'_>) -> Overlay {
    Overlay::new(known.config.pool.prefix(), known.network)
}

fn journal<'a>(state: &'a mut State, data: &Path) -> Result<&'a mut Journal, JournalError> {
    match &mut state.journal {
        Some(journal) => Ok(journal),
        empty => Ok(empty.insert(Journal::open(data)?)),
    }
}

fn undo(
    state: &mut State,
    data: &Path,
    netlink: &mut Netlink,
    which: impl Fn(&Made) -> bool,
) -> Result<(), SystemError> {
    let undone = journal(state, data)?.undo(netlink, which)?;
    undone.into_iter().find_map(|one| one.result.err()).map_or(Ok(()), |error| Err(SystemError::Undo(error)))
}
