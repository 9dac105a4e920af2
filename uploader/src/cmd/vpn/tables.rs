//! Answers of a node about its private network as tables for people. It asks nothing and prints nothing.

use std::collections::BTreeMap;

use shoal_protocol::local::ExitName;
use shoal_protocol::local::view::{
    Beside, BesideState, Candidate, Carrier, Peer, Peers, Ping, Pings, Reach, Roles, RouteState, Routes, Standing,
    Stats, Status, Way, Why,
};
use shoal_protocol::{ByteCount, NodeId};

use crate::text::{count, plain};

/// What stands where there is nothing.
const NONE: &str = "-";

/// Columns as wide as their widest cell, the last one as it is.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let all = || std::iter::once(header.iter().map(|cell| (*cell).to_owned()).collect()).chain(rows.iter().cloned());
    let width = |column: usize| {
        let cells = all().filter_map(|row: Vec<String>| row.get(column).map(|cell| cell.chars().count()));
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut out = String::new();
    for row in all() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Names and values, one a line.
fn facts(rows: &[(&str, String)]) -> String {
    rows.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

fn left_out(rows: u64) -> String {
    if rows == 0 { String::new() } else { format!("({rows} more)\n") }
}

pub(super) fn status(status: &Status) -> String {
    let ipv4 = status.ipv4.map_or_else(|| "none: another member has it".to_owned(), |address| address.to_string());
    let members = format!(
        "{} known, {} connected; {} reached directly, {} over others; {}",
        status.known,
        status.neighbours,
        status.direct,
        status.routed,
        count(status.sessions, "session", "sessions"),
    );
    let name = match (&status.name, status.name_taken_by) {
        (None, _) => NONE.to_owned(),
        (Some(name), None) => plain(name),
        (Some(name), Some(holder)) => format!("{}: {holder} has it", plain(name)),
    };
    let without = if status.userspace { "none: in userspace" } else { "none: relays only" };
    let interface = status.interface.as_deref().map_or_else(|| without.to_owned(), plain);
    facts(&[
        ("node", status.node.to_string()),
        ("network", plain(&status.network)),
        ("interface", interface),
        ("ipv4", format!("{ipv4} (of {})", plain(&status.pool))),
        ("ipv6", status.ipv6.to_string()),
        ("name", name),
        ("carriers", plain(&status.carriers)),
        ("members", members),
    ]) + &roles(&status.roles)
        + &beside(&status.networks)
}

/// The lines of the node's other networks, by the names they are asked about with `--network`.
fn beside(networks: &[Beside]) -> String {
    let mut lines = Vec::new();
    for network in networks {
        let state = match network.state {
            BesideState::On => network.interface.as_deref().map_or_else(|| "relays only".to_owned(), plain),
            BesideState::Down => "down".to_owned(),
            BesideState::Failed => network.problem.as_deref().map_or_else(|| "failed".to_owned(), plain),
        };
        let ipv4 = network.ipv4.map(|address| address.to_string());
        let own = ipv4.into_iter().chain(network.ipv6.map(|address| address.to_string()));
        let told = [plain(&network.name), state].into_iter().chain(own).collect::<Vec<_>>();
        lines.push(("beside", told.join("  ")));
    }
    facts(&lines)
}

/// The lines of what differs from a plain member.
fn roles(roles: &Roles) -> String {
    let mut lines = Vec::new();
    if !roles.advertised.is_empty() {
        lines.push(("leads to", plain(&roles.advertised.join(", "))));
    }
    if roles.exit_node {
        lines.push(("exit", "for members".to_owned()));
    }
    if roles.exit != ExitName::Off {
        let through = roles.through.map_or_else(|| "nobody: packets are dropped".to_owned(), |node| node.to_string());
        let kill_switch = if roles.kill_switch { "; kill switch on" } else { "" };
        lines.push(("internet", format!("{} through {through}{kill_switch}", roles.exit)));
    }
    if let Some(policy) = &roles.policy {
        lines.push(("policy", plain(policy)));
    }
    if let Some(problem) = &roles.problem {
        lines.push(("problem", plain(problem)));
    }
    if lines.is_empty() { String::new() } else { facts(&lines) }
}

pub(super) fn peers(peers: &Peers) -> String {
    let row = |peer: &Peer| {
        vec![
            peer.node.to_string(),
            peer.name.as_deref().map_or_else(|| NONE.to_owned(), plain),
            or_none(peer.ipv4),
            reach(peer.reach).to_owned(),
            ways(peer),
            rtt(peer.ways.first()),
            or_none(peer.max_frame),
            if peer.session { "yes" } else { "no" }.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = peers.peers.iter().map(row).collect();
    table(&["peer", "name", "ipv4", "reach", "way", "rtt", "frame", "session"], &rows) + &left_out(peers.left_out)
}

const fn reach(reach: Reach) -> &'static str {
    match reach {
        Reach::Direct => "direct",
        Reach::Routed => "routed",
        Reach::None => "none",
    }
}

/// What packets go on: the carriers of a direct way, the neighbours of another.
fn ways(peer: &Peer) -> String {
    match peer.reach {
        Reach::Direct => peer.ways.iter().map(way).collect::<Vec<_>>().join(" and "),
        Reach::Routed => format!("over {}", nodes(&peer.next_hops)),
        Reach::None => NONE.to_owned(),
    }
}

fn nodes(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" or ")
}

fn way(way: &Way) -> String {
    carrier(way.carrier, way.address)
}

fn carrier(carrier: Carrier, address: Option<std::net::SocketAddr>) -> String {
    let word = match carrier {
        Carrier::Lanes => "lanes",
        Carrier::Routed => "routed",
        Carrier::Udp => "udp",
    };
    address.map_or_else(|| word.to_owned(), |address| format!("{word} {address}"))
}

fn rtt(way: Option<&Way>) -> String {
    let rtt_ms = way.and_then(|way| way.rtt_ms);
    rtt_ms
        .map_or_else(|| NONE.to_owned(), |rtt_ms| if rtt_ms == 0 { "<1 ms".to_owned() } else { format!("{rtt_ms} ms") })
}

pub(super) fn routes(routes: &Routes) -> String {
    let state = |state: RouteState| match state {
        RouteState::Used => "used",
        RouteState::Feasible => "feasible",
        RouteState::Unfeasible => "unfeasible",
        RouteState::Unauthorised => "unauthorised",
        RouteState::Expired => "expired",
    };
    let rows: Vec<Vec<String>> = routes
        .routes
        .iter()
        .map(|route| {
            let via = if route.next_hops == [route.to] { "direct".to_owned() } else { nodes(&route.next_hops) };
            vec![
                plain(&route.prefix),
                state(route.state).to_owned(),
                route.metric.to_string(),
                route.max_frame.to_string(),
                route.to.to_string(),
                via,
            ]
        })
        .collect();
    table(&["prefix", "state", "metric", "frame", "to", "via"], &rows) + &left_out(routes.left_out)
}

pub(super) fn why(why: &Why) -> String {
    let standing = match why.peer.standing {
        Standing::Connected => "connected; it has not said that it takes part",
        Standing::Neighbour => "neighbour",
        Standing::Distant => "distant: no connection to it",
    };
    let mut out = facts(&[
        ("peer", why.peer.node.to_string()),
        ("ipv4", or_none(why.peer.ipv4)),
        ("ipv6", why.peer.ipv6.to_string()),
        ("name", why.peer.name.as_deref().map_or_else(|| NONE.to_owned(), plain)),
        ("standing", standing.to_owned()),
        ("session", if why.peer.session { "yes" } else { "no" }.to_owned()),
        ("frame", or_none(why.peer.max_frame)),
        ("reached", plain(&why.verdict)),
    ]);
    if !why.candidates.is_empty() {
        let row = |candidate: &Candidate| {
            vec![
                way(&candidate.way),
                if candidate.in_use { "yes" } else { "no" }.to_owned(),
                rtt(Some(&candidate.way)),
                candidate.heard_ms_ago.map_or_else(|| "never".to_owned(), ago),
                plain(&candidate.state),
            ]
        };
        let rows: Vec<Vec<String>> = why.candidates.iter().map(row).collect();
        out.push('\n');
        out.push_str(&table(&["carrier", "in use", "rtt", "heard", "state"], &rows));
    }
    if !why.decisions.is_empty() {
        let rows = why.decisions.iter().map(|decision| {
            vec![ago(decision.ms_ago), plain(&decision.before), plain(&decision.after), plain(&decision.why)]
        });
        out.push('\n');
        out.push_str(&table(&["decided", "from", "to", "because"], &rows.collect::<Vec<_>>()));
    }
    out
}

/// `350 ms ago`, `12 s ago`, `7 min ago`, `3 h ago`.
fn ago(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms ago"),
        1_000..120_000 => format!("{} s ago", ms / 1_000),
        120_000..7_200_000 => format!("{} min ago", ms / 60_000),
        _ => format!("{} h ago", ms / 3_600_000),
    }
}

/// One probe, on a line of its own.
pub(super) fn ping(ping: &Ping) -> String {
    let on = carrier(ping.carrier, ping.address);
    ping.rtt_us.map_or_else(|| format!("lost    on {on}"), |rtt_us| format!("{:<8} on {on}", millis(rtt_us)))
}

/// The last line: how many came back, and the least, mean and longest round trip in microseconds.
pub(super) fn pings(all: &Pings, figures: Option<[u64; 3]>) -> String {
    let (sent, back) = (all.pings.len(), all.pings.iter().filter(|ping| ping.rtt_us.is_some()).count());
    let figures = figures
        .map(|[least, mean, most]| format!("; least {}, mean {}, most {}", millis(least), millis(mean), millis(most)));
    format!("{}: {back} of {sent} came back{}\n", all.node, figures.unwrap_or_default())
}

/// `0.304 ms`.
fn millis(us: u64) -> String {
    format!("{}.{:03} ms", us / 1_000, us % 1_000)
}

pub(super) fn stats(stats: &Stats) -> String {
    let classes = stats.sent.keys().chain(stats.received.keys()).collect::<std::collections::BTreeSet<_>>();
    let row = |class: &&String| {
        let of = |amounts: &BTreeMap<String, shoal_protocol::local::view::Amount>| {
            amounts.get(*class).copied().unwrap_or_default()
        };
        let (sent, received) = (of(&stats.sent), of(&stats.received));
        vec![
            plain(class),
            sent.packets.to_string(),
            ByteCount(sent.bytes).to_string(),
            received.packets.to_string(),
            ByteCount(received.bytes).to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = classes.iter().map(row).collect();
    let mut out = table(&["class", "sent", "bytes", "received", "bytes"], &rows);
    let relayed = &stats.relayed;
    if relayed.packets > 0 {
        out.push_str(&format!("\nrelayed {} frames, {}\n", relayed.packets, ByteCount(relayed.bytes)));
    }
    for (title, counts) in
        [("dropped", &stats.dropped), ("refused", &stats.refused), ("handshakes not used", &stats.handshakes)]
    {
        if !counts.is_empty() {
            let rows: Vec<Vec<String>> =
                counts.iter().map(|(reason, count)| vec![plain(reason), count.to_string()]).collect();
            out.push('\n');
            out.push_str(&table(&[title, "times"], &rows));
        }
    }
    let busy = stats
        .waiting
        .iter()
        .filter(|waiting| [&waiting.queued, &waiting.parked, &waiting.limited].iter().any(|amount| amount.packets > 0));
    let rows: Vec<Vec<String>> = busy
        .map(|waiting| {
            let amount = |amount: &shoal_protocol::local::view::Amount| {
                format!("{} ({})", amount.packets, ByteCount(amount.bytes))
            };
            vec![waiting.node.to_string(), amount(&waiting.queued), amount(&waiting.parked), amount(&waiting.limited)]
        })
        .collect();
    if !rows.is_empty() {
        out.push('\n');
        out.push_str(&table(&["waiting for", "a turn", "a session", "its limit"], &rows));
    }
    out + &left_out(stats.left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::local::view::{Amount, Decision, Route, Waiting};

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    fn peer(byte: u8, reach: Reach, ways: Vec<Way>) -> Peer {
        Peer {
            node: node(byte),
            ipv4: (byte == 1).then_some([100, 64, 0, byte].into()),
            ipv6: "fd00::1".parse().unwrap(),
            name: (byte == 1).then(|| "nas".to_owned()),
            standing: Standing::Neighbour,
            session: byte == 1,
            reach,
            next_hops: vec![node(9)],
            ways,
            max_frame: (reach != Reach::None).then_some(1452),
        }
    }

    fn udp(rtt_ms: u64) -> Way {
        Way { carrier: Carrier::Udp, address: Some("192.0.2.7:41".parse().unwrap()), rtt_ms: Some(rtt_ms) }
    }

    #[test]
    fn members_are_one_line_each_under_their_columns() {
        let list =
            vec![peer(1, Reach::Direct, vec![udp(0)]), peer(2, Reach::Routed, vec![]), peer(3, Reach::None, vec![])];
        let text = peers(&Peers { peers: list, left_out: 2 });
        let lines: Vec<&str> = text.lines().collect();
        let column = |name: &str| lines[0].find(name).unwrap();
        assert_eq!(lines[1].find("nas"), Some(column("name")));
        assert_eq!(lines[1].find("direct"), Some(column("reach")));
        assert_eq!(lines[1].find("udp 192.0.2.7:41"), Some(column("way")));
        assert!(lines[1].ends_with("<1 ms  1452   yes"), "{text}");
        assert!(lines[2].contains(&format!("over {}", node(9))) && lines[2].ends_with("no"), "{text}");
        assert_eq!((lines[3].find("none"), lines[4]), (Some(column("reach")), "(2 more)"));
    }

    #[test]
    fn reasons_and_decisions_are_shown_with_their_times() {
        let shown = why(&Why {
            peer: peer(1, Reach::Direct, vec![udp(12)]),
            verdict: "direct, on udp 192.0.2.7:41\x1b".to_owned(),
            candidates: vec![Candidate {
                way: udp(12),
                in_use: true,
                state: "usable".to_owned(),
                heard_ms_ago: Some(2_500),
            }],
            decisions: vec![Decision {
                ms_ago: 180_000,
                before: "nothing".to_owned(),
                after: "lanes".to_owned(),
                why: "the first carrier there is".to_owned(),
            }],
        });
        for part in ["\\u{1b}", "12 ms  2 s ago  usable", "3 min ago  nothing  lanes  the first carrier there is"] {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
        assert_eq!((ago(999), ago(7_200_000)), ("999 ms ago".to_owned(), "2 h ago".to_owned()));
    }

    #[test]
    fn routes_name_their_next_hops_and_states() {
        let route = |hops: Vec<NodeId>, state| Route {
            prefix: "100.64.0.7/32".to_owned(),
            to: node(1),
            next_hops: hops,
            metric: 96,
            max_frame: 65_535,
            state,
        };
        let all = vec![route(vec![node(1)], RouteState::Used), route(vec![node(2), node(3)], RouteState::Feasible)];
        let text = routes(&Routes { routes: all, left_out: 0 });
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("used") && lines[1].ends_with("direct"), "{text}");
        assert!(lines[2].ends_with(&format!("{} or {}", node(2), node(3))), "{text}");
    }

    #[test]
    fn counts_that_are_nothing_take_no_lines() {
        let mut all = Stats {
            sent: BTreeMap::from([("voice".to_owned(), Amount { packets: 3, bytes: 4_000 })]),
            received: BTreeMap::new(),
            relayed: Amount::default(),
            dropped: BTreeMap::new(),
            refused: BTreeMap::new(),
            handshakes: BTreeMap::new(),
            waiting: vec![Waiting {
                node: node(1),
                queued: Amount::default(),
                parked: Amount::default(),
                limited: Amount::default(),
            }],
            left_out: 0,
        };
        let text = stats(&all);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.ends_with("voice  3     4.0 kB  0         0 B\n"), "{text}");
        all.relayed.packets = 7;
        all.dropped.insert("no-route".to_owned(), 5);
        all.waiting[0].parked = Amount { packets: 2, bytes: 100 };
        let text = stats(&all);
        for part in ["relayed 7 frames", "no-route  5", "0 (0 B)  2 (100 B)"] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}
