//! The commands, one file each, and what those that read an upload share: target, secret, swarm, records, in that order.

pub(crate) mod audit;
pub(crate) mod cat;
pub(crate) mod files;
pub(crate) mod id;
pub(crate) mod ls;
pub(crate) mod plan;
pub(crate) mod retrieve;
pub(crate) mod shards;
pub(crate) mod upload;
pub(crate) mod validate;
pub(crate) mod vpn;

#[cfg(test)]
mod tests;

use std::ffi::OsString;

use serde_json::{Value, json};
use shoal_client::client::{OpenFile, Secret};
use shoal_client::transfer::TransferError;
use shoal_protocol::NodeId;
use shoal_protocol::page::Entry;

use crate::cli::{Common, TargetArgs};
use crate::exit::Problem;
use crate::password;
use crate::session::{Session, variable};
use crate::target;
use crate::text::count;

/// Runs what blocks beside the tasks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Problem::interrupted()))
}

/// An upload, opened.
struct Opened {
    session: Session,
    file: OpenFile,
}

impl Opened {
    /// Entries that can be read; refused where the capability only verifies.
    fn entries(&self) -> Result<&[Entry], Problem> {
        if self.file.can_read() {
            Ok(&self.file.tree().entries)
        } else {
            Err(shoal_client::client::RetrieveError::CannotRead.into())
        }
    }

    /// Ends the visit; warnings of it and of the nodes that proved useless or slow.
    async fn close(self) -> Vec<String> {
        let mut warnings = self.session.leave().await;
        warnings.extend(self.file.shunned().iter().map(|(node, error)| format!("{node} was passed over: {error}")));
        let times = |stalls| count(u64::from(stalls), "time", "times");
        let stalls = self.file.stalls().into_iter();
        warnings.extend(stalls.map(|(node, stalls)| format!("{node} was silent {}: others were asked", times(stalls))));
        warnings
    }
}

/// Finds, unlocks and opens what the command is about.
async fn open(common: &Common, word: Option<OsString>, access: TargetArgs) -> Result<Opened, Problem> {
    let (target, secret) = blocking(move || {
        let target = target::resolve(word.as_deref(), access.capability_file.as_deref(), variable)?;
        let secret = if target.needs_password() {
            Secret::Password(password::read(&access.password, variable, false)?)
        } else {
            Secret::None
        };
        Ok((target, secret))
    })
    .await?;
    let named = common.network_id()?;
    let network = target.network().filter(|_| !common.names_network()).unwrap_or(named);
    let capability = target.capability();
    if !capability.is_for(&network) {
        let (found, expected) = (capability.network_tag(), network.tag());
        return Err(shoal_client::client::RetrieveError::OtherNetwork { found, expected }.into());
    }
    let mut session = Session::enter(common, network, capability.hints()).await?;
    let file = session.client.open(&capability, target.cached(), &secret, &mut session.fleet).await?;
    Ok(Opened { session, file })
}

/// Nodes that failed, for programs.
fn failures_json<'a>(failures: impl IntoIterator<Item = (&'a NodeId, &'a TransferError)>) -> Value {
    failures.into_iter().map(|(node, error)| json!({ "node": node.to_string(), "error": error.to_string() })).collect()
}
