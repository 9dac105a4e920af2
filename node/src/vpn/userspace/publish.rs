//! Ports of this node that lead to services of this machine: whoever of the members may connect, by the rules, is joined
//! with the service. What was not published is not there.
//!
//! Started with the network, one task a port and one a connection; ends with it. Lost then: connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::config::Publish;
use super::relay;
use super::stack::{Listener, Stack};

/// How long the service may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// A port, and the service it leads to.
pub(super) struct Publisher {
    pub(super) stack: Arc<Stack>,
    pub(super) listener: Listener,
    pub(super) publish: Publish,
}

impl Publisher {
    /// Runs until the stack ends. There are no more connections than the stack has.
    pub(super) async fn run(mut self) {
        let mut joined = JoinSet::new();
        while let Some(far) = self.stack.accept(&mut self.listener).await {
            while joined.try_join_next().is_some() {}
            let to = self.publish.to;
            joined.spawn(async move {
                match tokio::time::timeout(ANSWER, TcpStream::connect(to)).await {
                    Ok(Ok(local)) => relay::join(local, far).await,
                    // Dropped unread and unfinished: the member sees a reset.
                    Ok(Err(error)) => {
                        tracing::info!(%error, %to, remote = %far.remote(), "a published service is not there")
                    }
                    Err(_) => tracing::info!(%to, remote = %far.remote(), "a published service does not answer"),
                }
            });
        }
    }
}
