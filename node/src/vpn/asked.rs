//! What is asked of a running private network over the control socket, and how long is waited for it. It knows no socket;
//! the answers are made by [`super::views`] in the task of the control half.
//!
//! A ping is a probe inside the session with the peer, on the carrier that packets go on, answered by the peer's control
//! task. So it measures the way of packets there and back, with both tasks, and neither a device, nor the kernel behind
//! it, nor rules about packets.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use shoal_engine::mesh::network::NoPing;
use shoal_engine::path::Carrier;
use shoal_protocol::NodeId;
use shoal_protocol::local::request::PINGS_MAX;
use shoal_protocol::local::{Code, Complaint, ExitName, PeerName, view};
use shoal_protocol::mesh::peer_hash::PeerHash;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::control::{VpnEvent, VpnHandle};
use super::roles::keeper::Change;
use super::views;

/// Pings under way: twice as many as the control socket has connections, so that there is always room.
const WAITING_MAX: usize = 32;
/// A probe without an echo is lost after this long, microseconds.
const LOST_US: u64 = 1_000_000;
/// How long the task may take for an answer: a ping's time, and twenty ticks.
const ANSWER: Duration = Duration::from_secs(2);
/// How often a session or carrier is waited for before the first ping, and how long each time: 3 s, in which a handshake
/// is repeated twice.
const TRIES: usize = 30;
/// See [`TRIES`].
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// Numbers of probes from here on are of pings.
const NUMBERS: u32 = 1 << 31;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// [`view::Status`].
    Status,
    /// [`view::Peers`].
    Peers,
    /// [`view::Routes`].
    Routes,
    /// [`view::Why`].
    Why(PeerName),
    /// One ping of [`view::Pings`].
    Ping(PeerName),
    /// [`view::Stats`].
    Stats,
    /// Through whom packets leave, by name; answered when the system follows.
    Exit(ExitName),
    /// Something is to be otherwise; answered when the system follows.
    Change(Change),
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Told {
    Status(Box<view::Status>),
    Peers(view::Peers),
    Routes(view::Routes),
    Why(view::Why),
    Pings(view::Pings),
    Stats(view::Stats),
    Done(view::Done),
}

/// Where the answer goes.
pub(crate) type ReplyTo = oneshot::Sender<Result<Told, Complaint>>;

/// Asks; a ping `count` times, one after the other.
///
/// # Errors
/// The complaint that is answered.
pub(crate) async fn ask(vpn: &VpnHandle, question: Question, count: u8) -> Result<Told, Complaint> {
    let mut told = first(vpn, question).await?;
    if let Told::Pings(pings) = &mut told {
        for _ in 1..count.clamp(1, PINGS_MAX) {
            if let Told::Pings(more) = once(vpn, question).await? {
                pings.pings.extend(more.pings);
            }
        }
    }
    Ok(told)
}

/// Asks once; a ping waits for a session.
async fn first(vpn: &VpnHandle, question: Question) -> Result<Told, Complaint> {
    for _ in 0..TRIES {
        match once(vpn, question).await {
            Err(complaint) if complaint.code == Code::Unreachable => sleep(TRY_AGAIN).await,
            other => return other,
        }
    }
    once(vpn, question).await
}

async fn once(vpn: &VpnHandle, question: Question) -> Result<Told, Complaint> {
    let (reply, told) = oneshot::channel();
    if !vpn.tell(VpnEvent::Ask(question, reply)) {
        return Err(busy());
    }
    timeout(ANSWER, told).await.map_err(|_| busy())?.map_err(|_| busy())?
}

/// The task has no room for another question, or ends.
pub(crate) fn busy() -> Complaint {
    let why = "it has more to do than it can, or is just ending";
    Complaint::new(Code::Busy, "the private network does not answer", why, "repeat in a moment")
}

/// Why no probe went to `node`.
pub(crate) fn no_ping(node: &NodeId, reason: NoPing) -> Complaint {
    let (what, why) = match reason {
        NoPing::Unknown => (format!("there is no way to {node}"), "no neighbour leads there"),
        NoPing::NoSession => (format!("there is no session with {node}"), "it does not answer handshakes"),
        NoPing::NoCarrier => (format!("nothing takes packets to {node}"), "its connection broke, and no route is left"),
    };
    let code = if reason.retryable() { Code::Unreachable } else { Code::NotFound };
    Complaint::new(code, what, why, format!("shoal vpn why {node}"))
}

/// A probe that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) node: NodeId,
    pub(crate) peer: PeerHash,
    pub(crate) on: Carrier,
    /// When, microseconds of the plane's uptime.
    pub(crate) begun_us: u64,
}

impl Begun {
    /// The answer; without a round trip it was lost.
    fn told(&self, rtt_us: Option<u64>) -> Told {
        let (carrier, address) = views::carrier(self.on);
        let ping = view::Ping { carrier, address, direct: self.on != Carrier::Routed, rtt_us };
        Told::Pings(view::Pings { node: self.node, pings: vec![ping] })
    }
}

/// Probes whose echo has not come. At most [`WAITING_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Pings {
    waiting: BTreeMap<u32, (Begun, ReplyTo)>,
    last: u32,
}

impl Pings {
    /// Whether no other may be sent now.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// A number no probe of the last minutes had.
    pub(crate) const fn next_number(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last | NUMBERS
    }

    /// Answers when the echo comes, or when it is given up.
    pub(crate) fn wait(&mut self, number: u32, begun: Begun, reply: ReplyTo) {
        if !self.is_full() {
            self.waiting.insert(number, (begun, reply));
        }
    }

    /// The echo of a probe came in a session with `peer`.
    pub(crate) fn heard(&mut self, number: u32, peer: Option<PeerHash>, now_us: u64) {
        if self.waiting.get(&number).is_some_and(|(begun, _)| Some(begun.peer) == peer)
            && let Some((begun, reply)) = self.waiting.remove(&number)
        {
            // Whoever asked may be gone.
            let _ = reply.send(Ok(begun.told(Some(now_us.saturating_sub(begun.begun_us)))));
        }
    }

    /// Gives up what took too long.
    pub(crate) fn give_up(&mut self, now_us: u64) {
        let lost = self
            .waiting
            .extract_if(.., |_, (begun, reply)| now_us.saturating_sub(begun.begun_us) >= LOST_US || reply.is_closed());
        for (_, (begun, reply)) in lost {
            let _ = reply.send(Ok(begun.told(None)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(node: u8, begun_us: u64) -> Begun {
        let node = NodeId::from_bytes([node; 32]);
        Begun { node, peer: PeerHash::of(&node), on: Carrier::Lanes, begun_us }
    }

    fn rtt(told: Result<Told, Complaint>) -> Option<u64> {
        match told.unwrap() {
            Told::Pings(pings) => pings.pings[0].rtt_us,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_echo_counts_once_of_its_peer_alone_and_for_a_second() {
        let mut pings = Pings::default();
        let [mut heard, mut late] = [oneshot::channel(), oneshot::channel()];
        let (one, two) = (pings.next_number(), pings.next_number());
        assert!(one >= NUMBERS && two >= NUMBERS && one != two);
        pings.wait(one, begun(1, 5_000), heard.0);
        pings.wait(two, begun(2, 5_000), late.0);
        pings.heard(one, Some(begun(2, 0).peer), 5_100);
        pings.heard(one, None, 5_100);
        pings.heard(7, Some(begun(1, 0).peer), 5_100);
        assert!(heard.1.try_recv().is_err(), "of another peer or number");
        pings.heard(one, Some(begun(1, 0).peer), 5_300);
        assert_eq!(rtt(heard.1.try_recv().unwrap()), Some(300));
        pings.give_up(5_000 + LOST_US - 1);
        assert!(late.1.try_recv().is_err());
        pings.give_up(5_000 + LOST_US);
        assert_eq!(rtt(late.1.try_recv().unwrap()), None);
        assert!(pings.waiting.is_empty());
    }

    #[test]
    fn only_so_many_wait_and_who_went_away_frees_a_place() {
        let mut pings = Pings::default();
        let mut kept = Vec::new();
        for number in 0..WAITING_MAX as u32 {
            let (reply, told) = oneshot::channel();
            pings.wait(number, begun(1, 0), reply);
            kept.push(told);
        }
        assert!(pings.is_full());
        pings.wait(u32::MAX, begun(1, 0), oneshot::channel().0);
        assert_eq!(pings.waiting.len(), WAITING_MAX);
        kept.pop();
        pings.give_up(1);
        assert!(!pings.is_full());
    }
}
