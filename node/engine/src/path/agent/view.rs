//! What is known of each carrier of a peer, for people who ask why. Nothing is decided here.

use core::fmt;

use super::super::Carrier;
use super::super::candidate::{CONFIRM_ECHOES, Proof};
use super::PathAgent;
use crate::Now;

/// How far a carrier may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateState {
    /// Frames may go on it.
    Usable,
    /// Nobody has answered at this address.
    Unanswered,
    /// The peer answered there; so many of the padded probes it takes came back.
    Proving {
        /// So many.
        echoes: u8,
    },
    /// It was proven, and has not been heard for too long.
    Rested,
    /// It was given up a moment ago and is left alone for so long, milliseconds.
    Held {
        /// So long.
        for_ms: u64,
    },
}

impl fmt::Display for CandidateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable => f.write_str("usable"),
            Self::Unanswered => f.write_str("nobody has answered there"),
            Self::Proving { echoes } => {
                write!(f, "answered; {echoes} of {CONFIRM_ECHOES} probes of full length came back")
            }
            Self::Rested => f.write_str("proven, not heard of late"),
            Self::Held { for_ms } => write!(f, "given up; left alone for {for_ms} ms more"),
        }
    }
}

/// One carrier of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidateView {
    /// Which.
    pub carrier: Carrier,
    /// Whether frames go on it.
    pub in_use: bool,
    /// How far it may be used.
    pub state: CandidateState,
    /// Smoothed round trip, milliseconds.
    pub rtt_ms: Option<u64>,
    /// When something authentic was heard on it, milliseconds ago.
    pub heard_ms_ago: Option<u64>,
}

impl PathAgent {
    /// Every carrier that is known: lanes, routed, then addresses.
    pub fn candidates(&self, now: Now) -> impl Iterator<Item = CandidateView> {
        let now_ms = now.uptime_ms;
        self.candidates.iter().map(move |(carrier, candidate)| {
            let held_ms = candidate.held_until_ms.saturating_sub(now_ms);
            let state = match candidate.proof {
                _ if held_ms > 0 => CandidateState::Held { for_ms: held_ms },
                Proof::Nothing => CandidateState::Unanswered,
                Proof::Echoes(echoes) => CandidateState::Proving { echoes },
                Proof::Mtu if !candidate.is_usable(now_ms) => CandidateState::Rested,
                Proof::Mtu | Proof::Needless => CandidateState::Usable,
            };
            CandidateView {
                carrier: *carrier,
                in_use: self.ways.carriers().any(|used| used == *carrier),
                state,
                rtt_ms: candidate.rtt_ms,
                heard_ms_ago: candidate.heard_ms.map(|heard| now_ms.saturating_sub(heard)),
            }
        })
    }
}
