//! The policy as it counts on this node: its file, what the owner granted with the roles of the node, and what only this
//! machine knows. It reads one file and decides nothing about packets.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_engine::mesh::policy::{Document, Local, PolicyError, Snapshot};
use shoal_engine::mesh::routing::snapshot::ExitUse;
use shoal_protocol::NodeId;

use super::Roles;
use crate::files::read_bounded;

/// Bytes of the longest policy.
const POLICY_MAX: u64 = shoal_engine::mesh::policy::document::TEXT_MAX as u64;

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The file cannot be read.
    #[error("the policy {} cannot be read", .path.display())]
    Io {
        /// Where it should be.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The file is no text.
    #[error("the policy {} is not UTF-8", .0.display())]
    NotText(PathBuf),
    /// A mistake in the file.
    #[error("the policy {}", .path.display())]
    Mistake {
        /// Which file.
        path: PathBuf,
        /// Line, word and suggestion.
        #[source]
        source: PolicyError,
    },
    /// This machine has more addresses or networks than there may be.
    #[error("this machine does not fit into a policy")]
    Machine(#[source] PolicyError),
}

impl RulesError {
    /// Whether the same may succeed later with nothing changed by hand: no.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        false
    }
}

/// The document of a file.
///
/// # Errors
/// [`RulesError`].
fn read(path: &Path) -> Result<Document, RulesError> {
    let io = |source| RulesError::Io { path: path.to_owned(), source };
    let bytes = read_bounded(path, POLICY_MAX).map_err(io)?.ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| RulesError::NotText(path.to_owned()))?;
    Document::parse(text).map_err(|source| RulesError::Mistake { path: path.to_owned(), source })
}

/// Whether a file is a policy that can count.
///
/// # Errors
/// [`RulesError`] with its first mistake.
pub(crate) fn check(path: &Path) -> Result<(), RulesError> {
    let compiled = Snapshot::compile(&read(path)?, Local::default(), 1);
    compiled.map(drop).map_err(|source| RulesError::Mistake { path: path.to_owned(), source })
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct RuleBook {
    node: NodeId,
    local: Local,
    generation: u64,
}

impl RuleBook {
    /// Of this node on this machine.
    pub(crate) const fn new(node: NodeId, local: Local) -> Self {
        Self { node, local, generation: 0 }
    }

    /// This machine's addresses and networks.
    pub(crate) const fn local(&self) -> &Local {
        &self.local
    }

    /// The machine is like this now; whether that is news.
    pub(crate) fn set_local(&mut self, local: Local) -> bool {
        let is_news = self.local != local;
        self.local = local;
        is_news
    }

    /// Reads the file and compiles it.
    ///
    /// # Errors
    /// [`RulesError`]; the rules before go on.
    pub(crate) fn compile(&mut self, roles: &Roles) -> Result<Arc<Snapshot>, RulesError> {
        let mut document = match &roles.policy {
            Some(path) => read(path)?,
            None => Document::built_in(),
        };
        document.grant_prefixes(roles.advertised.iter().copied(), self.node);
        if roles.is_exit {
            document.grant_exit(self.node, None);
        }
        if let ExitUse::Peer(exit) = roles.exit {
            document.grant_exit(exit, Some(self.node));
        }
        let generation = self.generation.saturating_add(1);
        let snapshot = Snapshot::compile(&document, self.local.clone(), generation).map_err(|source| {
            match roles.policy.clone() {
                Some(path) => RulesError::Mistake { path, source },
                None => RulesError::Machine(source),
            }
        })?;
        self.generation = generation;
        Ok(Arc::new(snapshot))
    }
}
