//! What this node is for others and what others are for it: subnet router, exit, user of an exit. It is asked for by flags,
//! file and commands, decided on in [`plan`], made and undone by [`system`].
//!
//! | file | what it does |
//! |---|---|
//! | [`plan`] | from roles and facts to what the system is to hold; pure |
//! | [`system`] | brings the system to a plan, with a journal |
//! | [`rules`] | the policy: file, grants of these roles, facts of this machine |
//! | [`keeper`] | notices that a plan changed, and has it made |
//! | [`cleanup`] | undoes what a killed node left |

pub(crate) mod cleanup;
pub(crate) mod keeper;
pub(crate) mod plan;
pub(crate) mod rules;
pub(crate) mod system;

use std::path::PathBuf;

use shoal_engine::mesh::routing::snapshot::ExitUse;
use shoal_protocol::mesh::address::overlay;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::{NetworkId, NodeId};

use super::dns::Others;

/// Most prefixes of one kind.
pub(crate) const PREFIXES_MAX: usize = 64;

/// The roles that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Networks of this machine that members reach through it.
    pub advertised: Vec<Prefix>,
    /// Members reach the internet through this machine.
    pub is_exit: bool,
    /// Through whom this machine reaches the internet.
    pub exit: ExitUse,
    /// Nothing leaves this machine but through the exit.
    pub kill_switch: bool,
    /// What goes around the exit.
    pub bypass: Vec<Prefix>,
    /// What alone goes through the exit; everything where it is empty.
    pub only: Vec<Prefix>,
    /// The policy's file; without one the built-in rule counts.
    pub policy: Option<PathBuf>,
}

impl Roles {
    /// Whom other domains than those of the network are asked of; `exit` is who takes packets to the internet now.
    pub(crate) fn ask_others(&self, exit: Option<NodeId>, network: &NetworkId) -> Others {
        if self.exit == ExitUse::Off || !self.only.is_empty() {
            return Others::Before;
        }
        exit.map_or(Others::Nobody, |exit| Others::Exit(overlay(network, &PeerHash::of(&exit))))
    }

    /// Whether everything that has no way of its own leaves this machine through an exit.
    pub(crate) fn holds_default_route(&self) -> bool {
        self.exit != ExitUse::Off && self.only.is_empty()
    }

    /// What this node announces to others.
    pub(crate) fn announced(&self) -> Vec<Prefix> {
        let everything = if self.is_exit { &plan::EVERYTHING[..] } else { &[] };
        self.advertised.iter().chain(everything).copied().collect()
    }
}
