//! What a running node does about one request on its control socket. It changes nothing but what jobs of the store are
//! told, and decides nothing about the network.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_protocol::local::request::PATH_MAX;
use shoal_protocol::local::view::Done;
use shoal_protocol::local::{Answer, Code, Complaint, Envelope, JobCommand, Request};

use super::frames::{ERROR_MAX, encode};
use crate::chunks::{Store, StoreStatus};
use crate::networks::seats::Seats;
use crate::problem::with_causes;
use crate::vpn::asked::{self, Question, Told};
use crate::vpn::roles::keeper::Change;
use crate::vpn::roles::rules;

/// A node at one moment: its store, and what it refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    /// The store.
    #[serde(flatten)]
    pub(crate) store: StoreStatus,
    /// Refusals since the start by their word, those that never happened left out; empty of a stopped node.
    #[serde(default)]
    pub(crate) refused: BTreeMap<String, u64>,
}

/// What was refused since the start, by its word.
pub(crate) type Refusals = Arc<dyn Fn() -> BTreeMap<String, u64> + Send + Sync>;

/// What can be asked.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) store: Store,
    pub(crate) refusals: Refusals,
    /// The private networks.
    pub(crate) networks: Seats,
}

/// Whether a file is a policy; its names are those of the document alone, so no network is needed.
async fn check_policy(file: &str) -> Answer<Done> {
    let path = PathBuf::from(file);
    let next = "correct the line it names, and repeat";
    if !path.is_absolute() || file.len() > PATH_MAX {
        let what = format!("{file:?} is no path from the root");
        return Answer::Error(Complaint::new(
            Code::Malformed,
            what,
            "it is relative, or too long",
            "name the whole path",
        ));
    }
    let checked = tokio::task::spawn_blocking(move || rules::check(&path)).await;
    match checked {
        Ok(Ok(())) => Answer::Ok(Done {}),
        Ok(Err(error)) => Answer::Error(Complaint::new(Code::Refused, with_causes(&error), "it is mistyped", next)),
        Err(_) => Answer::Error(asked::busy()),
    }
}

impl Desk {
    /// The answer, as a frame.
    pub(super) async fn answer(&self, Envelope { network, request, .. }: Envelope) -> Vec<u8> {
        let network = network.as_deref();
        let (question, count) = match request {
            Request::StoreStatus {} => {
                let status = NodeStatus { store: self.store.status(), refused: (self.refusals)() };
                return encode(Answer::Ok(status));
            }
            Request::StoreJob { name, command } => return encode(self.job(&name, command)),
            Request::VpnStatus {} => (Question::Status, 1),
            Request::VpnPeers {} => (Question::Peers, 1),
            Request::VpnRoutes {} => (Question::Routes, 1),
            Request::VpnWhy { peer } => (Question::Why(peer), 1),
            Request::VpnPing { peer, count } => (Question::Ping(peer), count),
            Request::VpnStats {} => (Question::Stats, 1),
            Request::VpnExit { through } => (Question::Exit(through), 1),
            Request::VpnRoute { prefix, advertise } => (Question::Change(Change::Advertise(prefix, advertise)), 1),
            Request::VpnPolicyReload {} => (Question::Change(Change::Policy), 1),
            Request::VpnUp {} => {
                let done = self.switch(network, true).await;
                return encode(done.map_or_else(Answer::Error, |()| Answer::Ok(Done {})));
            }
            Request::VpnDown {} => {
                let done = self.switch(network, false).await;
                return encode(done.map_or_else(Answer::Error, |()| Answer::Ok(Done {})));
            }
            Request::VpnPolicyCheck { file } => return encode(check_policy(&file).await),
        };
        match self.ask(network, question, count).await {
            Ok(told) => encode(Answer::Ok(told)),
            Err(complaint) => encode(Answer::<()>::Error(complaint)),
        }
    }

    async fn ask(&self, network: Option<&str>, question: Question, count: u8) -> Result<Told, Complaint> {
        let seat = self.networks.find(network)?;
        let mut told = asked::ask(&seat.place.find()?, question, count).await?;
        if let Told::Status(status) = &mut told {
            status.networks = self.networks.beside(&seat.name).await;
        }
        Ok(told)
    }

    async fn switch(&self, network: Option<&str>, on: bool) -> Result<(), Complaint> {
        let running = self.networks.find(network)?.running()?;
        if on {
            return running.switch_on().await;
        }
        running.down().await;
        Ok(())
    }

    fn job(&self, name: &str, command: JobCommand) -> Answer<()> {
        match self.store.command(name, command) {
            Ok(()) => {
                tracing::info!(name, ?command, "a job was told");
                Answer::Ok(())
            }
            Err(error) => {
                let what: String = error.to_string().chars().take(ERROR_MAX).collect();
                let (why, next) =
                    ("the name is mistyped, or the node is of another release", "see shoald store status");
                Answer::Error(Complaint::new(Code::NotFound, what, why, next))
            }
        }
    }
}
