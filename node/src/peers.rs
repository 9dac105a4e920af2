//! Carries out what the directory wants: dials, greetings, questions. One task owns this; it is started with the node
//! and ends when the swarm's events end. It decides nothing: whom to dial and when is the engine's.
//!
//! At most [`UNDER_WAY_MAX`] dials and questions run at a time; what is lost when the task ends is asked again by the
//! next run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use shoal_engine::directory::DialOutcome;
use shoal_protocol::NodeId;
use shoal_protocol::control::{Request, Response};
use shoal_protocol::link::LinkEffect;
use shoal_swarm::{DialError, SwarmEvent, SwarmHandle};
use tokio::sync::mpsc;

use crate::membership::Membership;
use crate::vpn::control::{VpnEvent, VpnHandle};
use crate::vpn::places::Overlays;
use crate::{addresses, clock};

/// How often the directory is told the time.
const TICK: Duration = Duration::from_millis(250);
/// How long a peer may take to be connected or to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Dials and questions at a time.
const UNDER_WAY_MAX: usize = 128;
/// A machine that was suspended for longer has lost its connections, whatever it knows of them, milliseconds.
const SLEPT_MS: u64 = 5_000;
/// How often the node's own record is signed anew.
const RENEW: Duration = Duration::from_secs(300);

/// What a dial or question came to.
enum Done {
    Dialled { node: Option<NodeId>, addresses: Vec<String>, outcome: DialOutcome },
    Greeted { node: NodeId, response: Option<Response> },
    Answered { node: NodeId, response: Option<Response> },
}

/// The task's state.
pub(crate) struct Peers {
    membership: Arc<Membership>,
    swarm: SwarmHandle,
    data: PathBuf,
    /// Of the private networks this node takes part in.
    overlays: Overlays,
}

impl Peers {
    /// Of one network, whose files are in `data`.
    pub(crate) fn new(membership: Arc<Membership>, swarm: SwarmHandle, data: PathBuf, overlays: Overlays) -> Self {
        let record = membership.own_record();
        membership.tables().directory.set_own(record);
        Self { membership, swarm, data, overlays }
    }

    pub(crate) async fn run(self, mut events: mpsc::Receiver<SwarmEvent>) {
        let mut under_way: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        let mut tick = tokio::time::interval(TICK);
        let mut renew = tokio::time::interval(RENEW);
        let mut asleep_ms = clock::asleep_ms();
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(SwarmEvent::Listening { .. }) => self.listens().await,
                    Some(event) => self.heard(event),
                    None => return,
                },
                Some(done) = under_way.next(), if !under_way.is_empty() => self.done(done),
                _ = tick.tick() => {
                    let before = std::mem::replace(&mut asleep_ms, clock::asleep_ms());
                    self.tick(asleep_ms.saturating_sub(before));
                }
                _ = renew.tick() => self.renew(),
            }
            while under_way.len() < UNDER_WAY_MAX {
                let effect = self.membership.tables().directory.poll();
                let Some(effect) = effect else { break };
                under_way.push(self.carry_out(effect));
            }
        }
    }

    fn renew(&self) {
        let record = self.membership.renew_own_record();
        self.membership.tables().directory.set_own(record);
    }

    fn tick(&self, slept_ms: u64) {
        let now = clock::now();
        let mut tables = self.membership.tables();
        if slept_ms >= SLEPT_MS { tables.directory.network_changed(now) } else { tables.directory.handle_timeout(now) }
    }

    /// A listener got a further address, on an interface that came up, say.
    async fn listens(&self) {
        self.membership.tables().directory.network_changed(clock::now());
        let addresses = addresses::ordered(self.swarm.listening().await);
        self.membership.set_addresses(addresses::advertised(&addresses, &self.overlays));
        addresses::note(&self.data, &addresses);
        self.renew();
    }

    fn heard(&self, event: SwarmEvent) {
        if let Some(vpn) = self.membership.vpn() {
            tell_vpn(&vpn, &event, &self.swarm);
        }
        let now = clock::now();
        let mut tables = self.membership.tables();
        match event {
            SwarmEvent::Connected { peer, .. } => tables.directory.connected(peer, now),
            SwarmEvent::Disconnected { peer } => tables.directory.disconnected(peer, now),
            SwarmEvent::Lagged { lost } => {
                tracing::warn!(lost, "events of the swarm were lost; connections are counted anew");
                tables.directory.reconcile(&self.swarm.connected(), now);
            }
            SwarmEvent::Listening { .. }
            | SwarmEvent::ObservedAddress { .. }
            | SwarmEvent::Identified { .. }
            | SwarmEvent::TunnelGone { .. } => {}
        }
    }

    fn carry_out(&self, effect: LinkEffect) -> BoxFuture<'static, Done> {
        let swarm = self.swarm.clone();
        match effect {
            LinkEffect::Dial { node, addresses } => Box::pin(async move {
                let outcome = match swarm.dial(node, addresses.clone(), ANSWER).await {
                    Ok(reached) => DialOutcome::Reached(reached),
                    Err(DialError::Ourselves) => DialOutcome::Ourselves,
                    Err(error) => {
                        tracing::debug!(%error, "dial failed");
                        DialOutcome::Failed
                    }
                };
                Done::Dialled { node, addresses, outcome }
            }),
            LinkEffect::Greet { node } => {
                let hello = Request::Hello(self.membership.own_hello());
                Box::pin(async move { Done::Greeted { node, response: ask(&swarm, node, hello).await } })
            }
            LinkEffect::AskPeers { node, after } => {
                let request = Request::Peers { after };
                Box::pin(async move { Done::Answered { node, response: ask(&swarm, node, request).await } })
            }
        }
    }

    fn done(&self, done: Done) {
        let now = clock::now();
        let mut tables = self.membership.tables();
        let learnt = match done {
            Done::Dialled { node, addresses, outcome } => {
                tables.directory.dial_ended(node, &addresses, outcome, now);
                Ok(())
            }
            Done::Greeted { node, response: Some(Response::Hello(hello)) } => {
                tables.directory.heard_hello(node, hello, now)
            }
            Done::Answered { node, response: Some(Response::Peers { records, more }) } => {
                tables.directory.heard_peers(node, records, more, now)
            }
            Done::Greeted { node, .. } | Done::Answered { node, .. } => {
                tables.directory.ask_failed(node, now);
                Ok(())
            }
        };
        if let Err(error) = learnt {
            tracing::info!(%error, "a peer record was not believed");
        }
    }
}

/// The private network hears of connections too. What it has no room to hear is said again with the next event.
fn tell_vpn(vpn: &VpnHandle, event: &SwarmEvent, swarm: &SwarmHandle) {
    let told = match event {
        SwarmEvent::Connected { peer, .. } => vpn.tell(VpnEvent::Connected(*peer)),
        SwarmEvent::Disconnected { peer } => vpn.tell(VpnEvent::Disconnected(*peer)),
        SwarmEvent::Lagged { .. } => swarm.connected().into_iter().all(|peer| vpn.tell(VpnEvent::Connected(peer))),
        _ => true,
    };
    if !told && !vpn.is_over() {
        tracing::warn!(?event, "the private network is too busy to hear of a connection");
    }
}

async fn ask(swarm: &SwarmHandle, node: NodeId, request: Request) -> Option<Response> {
    let label = request.label();
    match swarm.request(node, request.to_bytes().into(), ANSWER).await {
        Ok(body) => Response::from_bytes(&body).ok(),
        Err(error) => {
            tracing::debug!(peer = %node, request = label, %error, "no answer");
            None
        }
    }
}
