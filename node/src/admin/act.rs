//! What a running node does about one request on its control socket. It changes nothing but what jobs of the store are
//! told, and decides nothing about the network.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_protocol::local::request::PATH_MAX;
use shoal_protocol::local::view::Done;
use shoal_protocol::local::{Answer, Code, Complaint, JobCommand, Request};

use super::frames::{ERROR_MAX, encode};
use crate::chunks::{Store, StoreStatus};
use crate::problem::with_causes;
use crate::vpn::asked::{self, Question};
use crate::vpn::roles::keeper::Change;
use crate::vpn::roles::rules;
use crate::vpn::running::{Running, VpnPlace, unasked};

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
    pub(crate) vpn: VpnPlace,
    /// What switches it; none where it was not asked for.
    pub(crate) running: Option<Arc<Running>>,
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
    pub(super) async fn answer(&self, request: Request) -> Vec<u8> {
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
                let done = match &self.running {
                    Some(running) => running.switch_on().await,
                    None => Err(unasked()),
                };
                return encode(done.map_or_else(Answer::Error, |()| Answer::Ok(Done {})));
            }
            Request::VpnDown {} => {
                if let Some(running) = &self.running {
                    running.down().await;
                }
                return encode(self.running.as_ref().map_or_else(|| Answer::Error(unasked()), |_| Answer::Ok(Done {})));
            }
            Request::VpnPolicyCheck { file } => return encode(check_policy(&file).await),
        };
        match self.vpn.find() {
            Ok(vpn) => match asked::ask(&vpn, question, count).await {
                Ok(told) => encode(Answer::Ok(told)),
                Err(complaint) => encode(Answer::<()>::Error(complaint)),
            },
            Err(complaint) => encode(Answer::<()>::Error(complaint)),
        }
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
