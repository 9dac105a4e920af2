//! The roles of a running network: what was asked for, what commands change of it, and when the system has to follow. The
//! work on the system is done on a thread for blocking calls, one plan at a time; the newest plan counts.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_engine::Now;
use shoal_engine::mesh::network::{Env, Network};
use shoal_engine::mesh::policy::Local;
use shoal_engine::mesh::routing::snapshot::ExitUse;
use shoal_protocol::local::view::Done;
use shoal_protocol::local::{Code, Complaint};
use shoal_protocol::mesh::prefix::Prefix;

use super::plan::{self, Facts, Plan};
use super::rules::{RuleBook, RulesError};
use super::system::{System, SystemError};
use super::{PREFIXES_MAX, Roles};
use crate::problem::with_causes;
use crate::vpn::asked::{ReplyTo, Told};
use crate::vpn::machine::{Machine, Slot};
use crate::vpn::places::Overlay;
use crate::vpn::system::netlink::{Netlink, NetlinkError};

/// How long a plan that failed is left alone, milliseconds, unless something changes.
const AGAIN_MS: u64 = 5_000;
/// Commands that may wait for the system.
const WAITING_MAX: usize = 16;

/// The device whose network this is, and the system around it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) system: Arc<Mutex<System>>,
}

/// A plan that is to be made now, on a thread that may wait.
pub(crate) struct Job {
    system: Arc<Mutex<System>>,
    plan: Plan,
}

impl Job {
    /// Makes it.
    ///
    /// # Errors
    /// [`SystemError`].
    pub(crate) fn run(self) -> Result<(), SystemError> {
        self.system.lock().unwrap_or_else(PoisonError::into_inner).apply(&self.plan)
    }
}

/// What a command changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Through whom packets leave.
    Exit(ExitUse),
    /// A network of this machine is announced, or no longer.
    Advertise(Prefix, bool),
    /// The policy's file is to be read again.
    Policy,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Keeper {
    roles: Roles,
    rules: RuleBook,
    overlay: Overlay,
    /// What this network shares with others of the node.
    machine: (Arc<Machine>, Slot),
    /// None for a relay.
    device: Option<Device>,
    /// What the system was last asked to hold; none after a failure, when nobody knows what it holds.
    asked: Option<Plan>,
    /// A plan is being made.
    is_busy: bool,
    /// Something changed since the last plan.
    is_due: bool,
    /// Not before this uptime, milliseconds.
    not_before_ms: u64,
    problem: Option<String>,
    waiting: Vec<ReplyTo>,
}

impl Keeper {
    /// Of these roles, in this place on the machine.
    pub(crate) fn new(
        roles: Roles,
        rules: RuleBook,
        overlay: Overlay,
        machine: (Arc<Machine>, Slot),
        device: Option<Device>,
    ) -> Self {
        Self {
            roles,
            rules,
            overlay,
            machine,
            device,
            asked: Some(Plan::default()),
            is_busy: false,
            is_due: true,
            not_before_ms: 0,
            problem: None,
            waiting: Vec::new(),
        }
    }

    pub(crate) const fn roles(&self) -> &Roles {
        &self.roles
    }

    /// Why the system does not hold what it should.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Something changed that a plan may depend on.
    pub(crate) const fn note(&mut self) {
        self.is_due = true;
    }

    /// This machine's addresses may have changed.
    pub(crate) fn look(&mut self, netlink: &mut Netlink, network: &mut Network, env: &mut Env<'_>) {
        let _ = self.machine.0.listening();
        let local = match local(netlink, &self.overlay) {
            Ok(local) => local,
            Err(error) => return tracing::warn!(%error, "the addresses of this machine cannot be read"),
        };
        if self.rules.set_local(local) {
            self.is_due = true;
            match self.rules.compile(&self.roles) {
                Ok(rules) => network.handle_policy(rules, env),
                Err(error) => tracing::warn!(error = with_causes(&error), "the policy of before goes on"),
            }
        }
    }

    /// The next plan, if there is one to be made.
    pub(crate) fn due(&mut self, network: &Network, now: Now) -> Option<Job> {
        if self.is_busy || !std::mem::take(&mut self.is_due) {
            return None;
        }
        if now.uptime_ms < self.not_before_ms {
            self.is_due = true;
            return None;
        }
        let device = self.device.as_ref()?;
        let plan = plan::plan(&self.roles, &self.facts(device, network));
        if self.asked.as_ref() == Some(&plan) {
            self.answer(Ok(()));
            return None;
        }
        self.asked = Some(plan.clone());
        self.is_busy = true;
        Some(Job { system: Arc::clone(&device.system), plan })
    }

    /// A plan was made, or not.
    pub(crate) fn made(&mut self, result: Result<(), SystemError>, now: Now) {
        self.is_busy = false;
        self.problem = result.err().map(|error| with_causes(&error));
        match self.problem.clone() {
            // A command that came meanwhile is answered by the plan that has it in.
            None if self.is_due => {}
            None => self.answer(Ok(())),
            Some(problem) => {
                tracing::error!(problem, "the system does not hold what the roles of this node need");
                self.asked = None;
                self.is_due = true;
                self.not_before_ms = now.uptime_ms.saturating_add(AGAIN_MS);
                self.answer(Err(problem));
            }
        }
    }

    fn answer(&mut self, result: Result<(), String>) {
        for reply in self.waiting.drain(..) {
            let told = result.clone().map(|()| Told::Done(Done {})).map_err(|what| {
                let why = "the system refuses, or another program is in the way";
                Complaint::new(Code::Refused, what, why, "see what shoald logs, and `shoal vpn status`")
            });
            // Whoever asked may be gone.
            let _ = reply.send(told);
        }
    }

    /// Carries out a command; it is answered when the system follows.
    pub(crate) fn change(&mut self, change: Change, network: &mut Network, env: &mut Env<'_>, reply: ReplyTo) {
        let result = self.try_change(change, network, env);
        let room = self.device.is_some() && self.waiting.len() < WAITING_MAX;
        match result {
            Ok(()) if room => {
                self.is_due = true;
                self.not_before_ms = 0;
                self.waiting.push(reply);
            }
            // Whoever asked may be gone.
            result => drop(reply.send(result.map(|()| Told::Done(Done {})))),
        }
    }

    fn try_change(&mut self, change: Change, network: &mut Network, env: &mut Env<'_>) -> Result<(), Complaint> {
        let mut roles = self.roles.clone();
        match change {
            Change::Exit(exit) => {
                roles.exit = exit;
                if exit != ExitUse::Off && (roles.is_exit || self.device.is_none()) {
                    let what = "this node cannot use an exit";
                    let why = if roles.is_exit { "it is one itself" } else { "it has no interface (--no-tun)" };
                    return Err(Complaint::new(Code::Refused, what, why, "start it otherwise"));
                }
            }
            Change::Advertise(prefix, is_led_to) => {
                roles.advertised.retain(|known| *known != prefix);
                if is_led_to {
                    self.check_advertised(&prefix)?;
                    roles.advertised.push(prefix);
                }
            }
            Change::Policy => {}
        }
        let rules = self.rules.compile(&roles).map_err(|error| not_compiled(&error))?;
        let (machine, slot) = &self.machine;
        machine.hold_default_route(*slot, roles.holds_default_route()).map_err(|other| exit_is_used(&other))?;
        let before = std::mem::replace(&mut self.roles, roles);
        network.handle_policy(rules, env);
        network.handle_exit(self.roles.exit);
        let (before, after) = (before.announced(), self.roles.announced());
        for prefix in before.iter().filter(|prefix| !after.contains(prefix)) {
            network.handle_advertised(*prefix, false, env);
        }
        for prefix in after.iter().filter(|prefix| !before.contains(prefix)) {
            network.handle_advertised(*prefix, true, env);
        }
        Ok(())
    }

    fn check_advertised(&self, prefix: &Prefix) -> Result<(), Complaint> {
        let why = if self.device.is_none() {
            "it has no interface (--no-tun)"
        } else if self.roles.advertised.len() >= PREFIXES_MAX {
            "it leads to as many as there may be"
        } else if prefix.is_default() {
            "that is the internet: start it with --exit-node"
        } else if self.machine.0.all_overlays().overlaps(prefix) {
            "members have addresses in it"
        } else {
            return Ok(());
        };
        Err(Complaint::new(Code::Refused, format!("this node cannot lead to {prefix}"), why, "shoal vpn status"))
    }

    fn facts(&self, device: &Device, network: &Network) -> Facts {
        let v4 = network.own_ipv4().map(IpAddr::V4);
        let (machine, slot) = &self.machine;
        Facts {
            tun: (device.name.clone(), device.index),
            pools: self.overlay.prefixes().to_vec(),
            own: v4.into_iter().chain([network.own_ipv6().into()]).collect(),
            local: self.rules.local().clone(),
            led_to: network.led_to(),
            ports: machine.ports().clone(),
            lists: network.own_exit_lists(),
            listening: machine.listening(),
            slot: slot.number(),
            other_tuns: machine.other_tuns(*slot),
            apart: machine.others(*slot).flat_map(Overlay::prefixes).collect(),
        }
    }
}

/// What is said of a second exit.
fn exit_is_used(other: &str) -> Complaint {
    let what = format!("the network {other} leads everything through an exit already");
    let next = format!("shoal vpn --network {other} exit use off, and repeat");
    Complaint::new(Code::Refused, what, "a machine has one default route", next)
}

fn not_compiled(error: &RulesError) -> Complaint {
    let what = with_causes(error);
    Complaint::new(Code::Refused, what, "it is mistyped, or not there", "shoal vpn policy check FILE")
}

/// What this machine has outside of the network.
///
/// # Errors
/// [`NetlinkError`] if the system does not say.
pub(crate) fn local(netlink: &mut Netlink, overlay: &Overlay) -> Result<Local, NetlinkError> {
    let all = netlink.all_addresses()?.into_iter().filter(|address| !overlay.contains(address.address));
    let (mut addresses, mut connected) = (BTreeSet::new(), BTreeSet::new());
    for address in all {
        addresses.insert(address.address);
        connected.insert(Prefix::around(address.address, address.prefix_length));
    }
    Ok(Local {
        addresses: addresses.into_iter().collect(),
        connected: connected.into_iter().collect(),
        pools: overlay.prefixes().to_vec(),
    })
}
