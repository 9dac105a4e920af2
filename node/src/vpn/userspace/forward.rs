//! Local ports that lead to members: whoever connects is joined with a service over there. It chooses nobody: who is meant
//! was said on the command line.
//!
//! Started with the network, one task a port and one a connection; ends with it. Lost then: connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::config::Forward;
use super::names::Guide;
use super::relay;

/// How long nobody is let in after the system refused to: it is out of descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// A port, and whom it leads to.
pub(super) struct Forwarder {
    pub(super) listener: TcpListener,
    pub(super) forward: Forward,
    pub(super) guide: Guide,
    /// Places of programs, shared by all ports.
    pub(super) places: Arc<Semaphore>,
}

impl Forwarder {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let mut joined = JoinSet::new();
        while let Some((local, from, place)) = accept(&self.listener, &self.places).await {
            while joined.try_join_next().is_some() {}
            let (guide, forward) = (self.guide.clone(), self.forward.clone());
            joined.spawn(async move {
                match guide.connect(&forward.to, forward.port).await {
                    Ok(far) => relay::join(local, far).await,
                    Err(error) => {
                        tracing::info!(%error, %from, local = %forward.local, "a forwarded connection is refused");
                        relay::refuse(&local);
                    }
                }
                drop(place);
            });
        }
    }
}

/// The next program that connects, once there is a place for it: who finds none waits in the system's queue. None once the
/// network ends.
pub(super) async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    loop {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        match listener.accept().await {
            Ok((local, from)) => return Some((local, from, place)),
            Err(error) => {
                tracing::debug!(%error, "nobody is let in just now");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}
