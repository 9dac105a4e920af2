//! What the private network is like, in the words of the control socket: what the engine and the packet half know, as
//! [`shoal_protocol::local::view`]. It changes nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use shoal_engine::Now;
use shoal_engine::mesh::network::{Carriers, Network, PeerView, Reach, Refused, RouteRow, Standing, Untimely, Word};
use shoal_engine::mesh::routing::RouteState;
use shoal_engine::mesh::routing::snapshot::ExitUse;
use shoal_engine::path::Carrier;
use shoal_protocol::local::view::{self, Amount, ROWS_MAX};
use shoal_protocol::local::{Code, Complaint, ExitName, PeerName};
use shoal_protocol::mesh::class::Class;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::{NodeId, UnixMillis};

use super::asked::{self, Question, Told};
use super::plane::Plane;
use super::plane::counters::Flow;
use super::plane::device::Device;
use super::roles::keeper::Keeper;

/// The answer to a question that needs no time.
///
/// # Errors
/// The complaint that is answered.
pub(super) fn told(
    (network, plane, keeper): (&Network, &Plane, &Keeper),
    question: &Question,
    now: Now,
) -> Result<Told, Complaint> {
    Ok(match question {
        Question::Status => Told::Status(Box::new(status(network, plane, keeper))),
        Question::Peers => {
            let (peers, left_out) = bounded(network.peers().into_iter().map(|known| peer(network, known)));
            Told::Peers(view::Peers { peers, left_out })
        }
        Question::Routes => {
            let (routes, left_out) = bounded(network.routes(now).into_iter().map(route));
            Told::Routes(view::Routes { routes, left_out })
        }
        Question::Why(name) => Told::Why(why(network, find(network, *name)?, now).ok_or_else(|| unknown(*name))?),
        Question::Stats => Told::Stats(stats(network, plane)),
        // These take their time: who is told of echoes or of the system answers them.
        Question::Ping(_) | Question::Exit(_) | Question::Change(_) => return Err(asked::busy()),
    })
}

/// Who is meant.
///
/// # Errors
/// [`Code::NotFound`] if nobody has that address, or it is this node itself.
pub(super) fn find(network: &Network, name: PeerName) -> Result<NodeId, Complaint> {
    let own = |node: &NodeId| *node == network.setup().local;
    let node = match name {
        PeerName::Node(node) => Some(node).filter(|node| !own(node) && network.peer(*node).is_some()),
        PeerName::Address(address) => network.holder(address),
    };
    node.ok_or_else(|| unknown(name))
}

/// Through whom packets are to leave.
///
/// # Errors
/// [`Code::NotFound`] if that is nobody who is known.
pub(super) fn exit(network: &Network, name: ExitName) -> Result<ExitUse, Complaint> {
    match name {
        ExitName::Off => Ok(ExitUse::Off),
        ExitName::Auto => Ok(ExitUse::Auto),
        ExitName::Peer(name) => find(network, name).map(ExitUse::Peer),
    }
}

fn unknown(name: PeerName) -> Complaint {
    let why = "it is mistyped, this node's own, or of a member that was not heard of yet";
    Complaint::new(Code::NotFound, format!("no other member is {name}"), why, "shoal vpn peers")
}

/// As many rows as an answer has, and how many were left out.
fn bounded<T>(mut rows: impl Iterator<Item = T>) -> (Vec<T>, u64) {
    let kept = rows.by_ref().take(ROWS_MAX).collect();
    (kept, rows.count() as u64)
}

fn status(network: &Network, plane: &Plane, keeper: &Keeper) -> view::Status {
    let (setup, peers) = (network.setup(), network.peers());
    let name = network.own_name();
    let count = |is: fn(&PeerView) -> bool| peers.iter().filter(|peer| is(peer)).count() as u64;
    view::Status {
        node: setup.local,
        network: setup.network.tag(),
        interface: plane.device().and_then(Device::name).map(str::to_owned),
        userspace: matches!(plane.device(), Some(Device::Stack(_))),
        ipv4: network.own_ipv4(),
        ipv6: network.own_ipv6(),
        pool: setup.pool.prefix().to_string(),
        name: name.map(|(label, _)| label.to_string()),
        name_taken_by: name.map(|(_, holder)| holder).filter(|holder| *holder != setup.local),
        carriers: match setup.carriers {
            Carriers::Auto => "auto",
            Carriers::Lanes => "lanes",
            Carriers::Udp => "udp",
        }
        .to_owned(),
        known: peers.len() as u64,
        neighbours: count(|peer| matches!(peer.standing, Standing::Neighbour(_))),
        sessions: count(|peer| peer.has_session),
        direct: count(|peer| peer.reach == Reach::Direct),
        routed: count(|peer| matches!(peer.reach, Reach::Routed(_))),
        roles: roles(network, keeper),
        // Of which this network knows nothing: whoever asked adds them.
        networks: Vec::new(),
    }
}

fn roles(network: &Network, keeper: &Keeper) -> view::Roles {
    let roles = keeper.roles();
    view::Roles {
        advertised: roles.advertised.iter().map(ToString::to_string).collect(),
        exit_node: roles.is_exit,
        exit: match roles.exit {
            ExitUse::Off => ExitName::Off,
            ExitUse::Auto => ExitName::Auto,
            ExitUse::Peer(node) => ExitName::Peer(PeerName::Node(node)),
        },
        through: network.exit(),
        kill_switch: roles.kill_switch && roles.exit != ExitUse::Off,
        policy: roles.policy.as_ref().map(|path| path.display().to_string()),
        problem: keeper.problem().map(str::to_owned),
    }
}

/// Kind and address of a carrier.
pub(super) const fn carrier(on: Carrier) -> (view::Carrier, Option<SocketAddr>) {
    match on {
        Carrier::Lanes => (view::Carrier::Lanes, None),
        Carrier::Routed => (view::Carrier::Routed, None),
        Carrier::Udp(address) => (view::Carrier::Udp, Some(address)),
    }
}

fn way(on: Carrier, rtt_ms: Option<u64>) -> view::Way {
    let (carrier, address) = carrier(on);
    view::Way { carrier, address, rtt_ms }
}

fn peer(network: &Network, known: PeerView) -> view::Peer {
    let (reach, next_hops) = match known.reach {
        Reach::Direct => (view::Reach::Direct, vec![known.node]),
        Reach::Routed(hops) => (view::Reach::Routed, hops),
        Reach::None => (view::Reach::None, Vec::new()),
    };
    view::Peer {
        node: known.node,
        ipv4: known.ipv4,
        ipv6: known.ipv6,
        name: network.name_of(&known.node).map(ToString::to_string),
        standing: match known.standing {
            Standing::Connected => view::Standing::Connected,
            Standing::Neighbour(_) => view::Standing::Neighbour,
            Standing::Distant => view::Standing::Distant,
        },
        session: known.has_session,
        reach,
        next_hops,
        ways: known.rtt_ms.into_iter().map(|(on, rtt_ms)| way(on, rtt_ms)).collect(),
        max_frame: known.max_frame,
    }
}

fn route(row: RouteRow) -> view::Route {
    view::Route {
        prefix: row.prefix.to_string(),
        to: row.to,
        next_hops: row.hops,
        metric: row.metric,
        max_frame: row.max_frame,
        state: match row.state {
            RouteState::Used => view::RouteState::Used,
            RouteState::Feasible => view::RouteState::Feasible,
            RouteState::Unfeasible => view::RouteState::Unfeasible,
            RouteState::Unauthorised => view::RouteState::Unauthorised,
            RouteState::Expired => view::RouteState::Expired,
        },
    }
}

fn why(network: &Network, node: NodeId, now: Now) -> Option<view::Why> {
    let known = network.peer(node)?;
    let hash = PeerHash::of(&node);
    let verdict = match (network.untimely(&node, now.wall), &known.reach) {
        (Some((word, when)), Reach::None) => format!("not reached: {}", untimely(word, when, now.wall)),
        (Some((word, when)), _) => format!("{}; {}", verdict(&known), untimely(word, when, now.wall)),
        (None, _) => verdict(&known),
    };
    let candidates = network.candidates(&hash, now).into_iter().map(|candidate| view::Candidate {
        way: way(candidate.carrier, candidate.rtt_ms),
        in_use: candidate.in_use,
        state: candidate.state.to_string(),
        heard_ms_ago: candidate.heard_ms_ago,
    });
    let decisions = network.why(&hash).map(|decision| view::Decision {
        ms_ago: now.uptime_ms.saturating_sub(decision.at_ms),
        before: decision.before.to_string(),
        after: decision.after.to_string(),
        why: decision.why.to_string(),
    });
    let (candidates, decisions) = (candidates.collect(), decisions.collect());
    Some(view::Why { peer: peer(network, known), verdict, candidates, decisions })
}

/// How a member is reached, or why it is not.
fn verdict(known: &PeerView) -> String {
    match (&known.reach, known.has_session) {
        (Reach::Direct, true) => format!("direct, on {}", known.ways),
        (Reach::Direct, false) => format!("{} is up, and the handshake is not done", known.ways),
        (Reach::Routed(hops), has_session) => {
            let hops = hops.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" or ");
            let session = if has_session { "" } else { "; a session is made with the first packet" };
            format!("over {hops}{session}")
        }
        (Reach::None, _) if !known.has_key => "not reached: its mesh key was not heard".to_owned(),
        (Reach::None, _) => "not reached: no carrier is up, and no neighbour leads there".to_owned(),
    }
}

/// Why a word of a member does not count, and what to do.
fn untimely(word: Word, when: Untimely, wall: UnixMillis) -> String {
    let (word, so) = match word {
        Word::Key => ("its mesh key record", "there is no session with it"),
        Word::Claim => ("the claim of its IPv4 address", "it has only its IPv6 address"),
    };
    let (what, cause) = match when {
        Untimely::Over(at) => {
            let ago = for_long(wall.0.saturating_sub(at.0));
            (format!("ended {ago} ago"), "it was off, or cut off, for too long, or one of the two clocks is wrong")
        }
        Untimely::Early(at) => {
            let ahead = for_long(at.0.saturating_sub(wall.0));
            (format!("is of a time {ahead} from now"), "one of the two clocks is wrong")
        }
    };
    format!("{word} {what}, so {so}: {cause}; compare `date` there and here, then restart shoald there")
}

/// A time in the largest unit there is one of.
fn for_long(milliseconds: u64) -> String {
    let units = [(86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes")];
    let unit = units.into_iter().find(|(length, _)| milliseconds >= 2 * length);
    let (length, name) = unit.unwrap_or((1000, "seconds"));
    format!("{} {name}", milliseconds / length)
}

fn stats(network: &Network, plane: &Plane) -> view::Stats {
    let mut relayed = Amount::default();
    for (_, usage) in plane.relay().usage() {
        relayed.packets = relayed.packets.saturating_add(usage.frames);
        relayed.bytes = relayed.bytes.saturating_add(usage.bytes);
    }
    let mut links = plane.links();
    links.sort_by_key(|link| link.node);
    let (waiting, left_out) = bounded(links.iter().map(|link| {
        let backlog = link.backlog();
        view::Waiting {
            node: link.node,
            queued: amount(backlog.queued),
            parked: amount(backlog.parked),
            limited: amount(backlog.limited),
        }
    }));
    view::Stats {
        sent: by_class(&plane.counters.sent),
        received: by_class(&plane.counters.received),
        relayed,
        dropped: plane.counters.drops(),
        refused: network.refused().map(|(reason, count)| (refused(reason), count)).collect(),
        handshakes: network
            .session_drops()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect(),
        waiting,
        left_out,
    }
}

const fn amount((packets, bytes): (usize, usize)) -> Amount {
    Amount { packets: packets as u64, bytes: bytes as u64 }
}

fn by_class(flow: &Flow) -> BTreeMap<String, Amount> {
    let of = |class: Class| {
        let (packets, bytes) = flow.of(class);
        (class.label().to_owned(), Amount { packets, bytes })
    };
    Class::ALL.into_iter().map(of).collect()
}

fn refused(reason: Refused) -> String {
    match reason {
        Refused::Routes(inner) => format!("{reason}: {inner}"),
        Refused::Flood(inner) => format!("{reason}: {inner}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_does_not_count_is_said_with_its_time_its_cause_and_what_to_do() {
        let wall = UnixMillis(1_700_000_000_000);
        let before = |milliseconds| Untimely::Over(UnixMillis(wall.0 - milliseconds));
        let day = 86_400_000;
        for (word, when, words) in [
            (Word::Key, before(9 * day), ["mesh key record ended 9 days ago", "no session"]),
            (Word::Key, before(0), ["ended 0 seconds ago", "off, or cut off, for too long"]),
            (Word::Claim, before(day), ["claim of its IPv4 address ended 24 hours ago", "only its IPv6 address"]),
            (Word::Claim, Untimely::Early(UnixMillis(wall.0 + 600_000)), ["10 minutes from now", "clocks is wrong"]),
        ] {
            let said = untimely(word, when, wall);
            assert!(words.iter().all(|part| said.contains(part)), "{said}");
            assert!(said.ends_with("compare `date` there and here, then restart shoald there"), "{said}");
        }
    }
}
