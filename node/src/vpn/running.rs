//! The private network of a node as it is switched on and off while the node runs, and where others find it meanwhile.

use std::sync::{Arc, PoisonError, RwLock};

use shoal_protocol::BootEpoch;
use shoal_protocol::local::{Code, Complaint};
use shoal_swarm::TunnelLane;
use tokio::sync::{Mutex, mpsc};

use super::config::VpnConfig;
use super::control::{VpnEvent, VpnHandle};
use super::start::{Host, Vpn, VpnError, VpnFacts};
use crate::clock;
use crate::problem::with_causes;

/// How it is.
#[derive(Clone, Debug, Default)]
enum State {
    /// It was not asked for.
    #[default]
    Unasked,
    /// It was switched off.
    Down,
    /// It did not start; why.
    Failed(String),
    /// It runs.
    On(VpnHandle),
}

/// Where the network is found while it runs. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct VpnPlace(Arc<RwLock<State>>);

impl VpnPlace {
    fn set(&self, state: State) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// One that did not start.
    #[cfg(test)]
    pub(crate) fn failed(why: &str) -> Self {
        let place = Self::default();
        place.set(State::Failed(why.to_owned()));
        place
    }

    fn state(&self) -> State {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The network, if it runs.
    pub(crate) fn get(&self) -> Option<VpnHandle> {
        match self.state() {
            State::On(handle) => Some(handle),
            State::Unasked | State::Down | State::Failed(_) => None,
        }
    }

    /// The network.
    ///
    /// # Errors
    /// Why it does not run, for whoever asks on the control socket.
    pub(crate) fn find(&self) -> Result<VpnHandle, Complaint> {
        match self.state() {
            State::On(handle) => Ok(handle),
            State::Unasked => Err(unasked()),
            State::Down => {
                let (what, why) = ("the private network is switched off", "somebody said `shoal vpn down`");
                Err(Complaint::new(Code::NoVpn, what, why, "shoal vpn up"))
            }
            State::Failed(error) => {
                let what = format!("the private network did not start: {error}");
                let why = "the system refused something it needs";
                Err(Complaint::new(
                    Code::VpnFailed,
                    what,
                    why,
                    "see what shoald said, correct it, and say `shoal vpn up`",
                ))
            }
        }
    }
}

/// What is said of a node that was not asked to take part.
pub(crate) fn unasked() -> Complaint {
    let what = "this node takes no part in a private network";
    Complaint::new(Code::NoVpn, what, "it runs without --vpn", "start it with `shoald run --vpn`")
}

/// Gives lanes that others open to whoever runs; with nobody there they are closed.
pub(crate) async fn hand_lanes(place: VpnPlace, mut lanes: mpsc::Receiver<TunnelLane>) {
    while let Some(lane) = lanes.recv().await {
        if let Some(vpn) = place.get() {
            vpn.tell_surely(VpnEvent::Lane(Box::new(lane))).await;
        }
    }
}

/// See the head of this file.
pub(crate) struct Running {
    config: VpnConfig,
    host: Host,
    place: VpnPlace,
    /// Held while it is switched.
    vpn: Mutex<Option<Vpn>>,
}

impl Running {
    /// Not running yet; others will find it in `place`.
    pub(crate) fn new(config: VpnConfig, host: Host, place: VpnPlace) -> Self {
        Self { config, host, place, vpn: Mutex::new(None) }
    }

    /// Switches it on; one that runs goes on. `None` says that it did.
    ///
    /// # Errors
    /// [`VpnError`]; nothing is left.
    pub(crate) async fn up(&self, epoch: BootEpoch) -> Result<Option<VpnFacts>, VpnError> {
        let mut vpn = self.vpn.lock().await;
        if vpn.is_some() {
            return Ok(None);
        }
        match Vpn::start(&self.config, &self.host, epoch) {
            Ok(started) => {
                let (facts, handle) = (started.facts.clone(), started.handle.clone());
                *vpn = Some(started);
                self.place.set(State::On(handle.clone()));
                // Whoever is connected already is no news to anybody but this network.
                for peer in self.host.swarm.connected() {
                    handle.tell_surely(VpnEvent::Connected(peer)).await;
                }
                Ok(Some(facts))
            }
            Err(error) => {
                self.place.set(State::Failed(with_causes(&error)));
                Err(error)
            }
        }
    }

    /// As [`Self::up`], for whoever asks on the control socket.
    ///
    /// # Errors
    /// The complaint that is answered.
    pub(crate) async fn switch_on(&self) -> Result<(), Complaint> {
        let no = |what: String| {
            let why = "the system refuses something it needs";
            Complaint::new(Code::VpnFailed, what, why, "see what shoald logs, correct it, and repeat")
        };
        let epoch = clock::random().map_err(|error| no(format!("the system gives no randomness: {error}")))?;
        let begun = self.up(BootEpoch(u64::from_le_bytes(epoch))).await;
        begun.map(drop).map_err(|error| no(format!("the private network did not start: {}", with_causes(&error))))
    }

    /// Switches it off and undoes all it made; one that does not run stays so.
    pub(crate) async fn down(&self) {
        let mut vpn = self.vpn.lock().await;
        self.place.set(State::Down);
        if let Some(vpn) = vpn.take() {
            vpn.stop().await;
        }
    }
}
