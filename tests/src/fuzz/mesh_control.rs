//! What members of a private network tell each other: routes, statements for everybody, claims of addresses, prefixes.
//! Origins and claims are rightly signed around what the fuzzer chose.

use shoal_engine::Now;
use shoal_engine::mesh::claims::{Claims, Membership};
use shoal_engine::mesh::flood::{Flood, Send, Statement as Flooded};
use shoal_engine::mesh::routing::snapshot::{Bindings, ExitUse, Lookup};
use shoal_engine::mesh::routing::{Intake, LinkFacts, RouteState, Routing, RoutingEffect};
use shoal_protocol::mesh::address::{Pool, host_prefix, network_prefix};
use shoal_protocol::mesh::claim::{Claim, VerifiedClaim};
use shoal_protocol::mesh::flood::{FLOOD_MESSAGE_MAX, FLOOD_WINDOW, FloodAck, FloodItem, FloodKind, FloodMessage};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{
    ORIGIN_MAX, Origin, REQUEST_HOPS_MAX, ROUTE_MESSAGE_MAX, Reach, RouteMessage, RouteUpdate, Router, SeqnoRequest,
};
use shoal_protocol::signed::Statement;
use shoal_protocol::{BootEpoch, NodeId, Signed, UnixMillis, codec};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::input::{Input, golden, join, sized};
use super::statements::{envelope, key, network, node};

const ROUTES: &str = include_str!("../../../protocol/golden/routes.hex");
const WALL: UnixMillis = UnixMillis(1_700_000_000_000);
/// The node whose state it is.
const OWN: u8 = 100;

fn now(uptime_ms: u64) -> Now {
    Now { wall: WALL.saturating_add(uptime_ms), uptime_ms }
}

/// Any bytes as a message of `T`: one spelling.
fn again<T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()> + codec::Bounded>(
    bytes: &[u8],
    most: usize,
) -> bool {
    let Ok(value) = codec::decode::<T>(bytes, most) else { return false };
    assert_eq!(codec::encode(&value), bytes, "a second spelling");
    true
}

/// Prefixes that lie in each other, belong to members, or are nobody's.
fn prefix(input: &mut Input<'_>) -> Prefix {
    let choice = input.byte();
    let v4 = |a: u8, b: u8, length: u8| Prefix::around(IpAddr::V4(Ipv4Addr::new(10, a, b, 0)), length);
    match choice % 6 {
        0 => host_prefix(&network(), &node(choice / 6 % 4 + 1)),
        1 => host_prefix(&network(), &node(OWN)),
        2 => v4(choice / 6 % 3, input.byte() % 3, 8 + input.byte() % 25),
        3 => Prefix::around(IpAddr::V6(Ipv6Addr::from_bits(u128::from(input.long()) << 64)), input.byte()),
        4 => network_prefix(&network()),
        _ => Prefix::around(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    }
}

fn router(input: &mut Input<'_>) -> Router {
    let choice = input.byte();
    let node = if choice & 8 != 0 { node(OWN) } else { node(choice % 4 + 1) };
    Router { node, epoch: BootEpoch(u64::from(choice / 16 % 3)) }
}

fn update(input: &mut Input<'_>) -> RouteUpdate {
    let prefix = prefix(input);
    let (signer, expires) = (input.byte(), u64::from(input.short()) * 16);
    let (epoch, seqno) = (BootEpoch(u64::from(signer / 16 % 3)), u32::from(input.short()));
    let origin = Origin { prefix, epoch, seqno, expires: WALL.saturating_add(expires) };
    let signer = if signer & 8 != 0 { key(OWN) } else { key(signer % 4 + 1) };
    let (metric, frame) = (u32::from(input.short()), u32::from(input.short()));
    RouteUpdate {
        origin: Signed::seal(&origin, &signer, &network()),
        metric,
        max_frame: frame,
        relayed: frame % 2 == 1,
    }
}

fn route_message(input: &mut Input<'_>, number: u64) -> RouteMessage {
    let counts = input.byte();
    let reach = (counts & 64 != 0).then(|| {
        let mut direct: Vec<PeerHash> = (0..input.byte() % 4).map(|_| PeerHash::of(&node(input.byte() % 5))).collect();
        direct.sort_unstable();
        Reach { direct, others: counts & 1 != 0 }
    });
    RouteMessage {
        epoch: BootEpoch(u64::from(input.byte() % 8 / 7)),
        number: if counts & 128 != 0 { input.long() } else { number },
        updates: (0..counts % 4).map(|_| update(input)).collect(),
        retracted: (0..counts / 4 % 2).map(|_| prefix(input)).collect(),
        requests: (0..counts / 8 % 2)
            .map(|_| SeqnoRequest {
                prefix: prefix(input),
                router: router(input),
                seqno: u32::from(input.short()),
                hops: input.byte() % (REQUEST_HOPS_MAX + 2),
            })
            .collect(),
        reach,
        digest: if counts & 16 != 0 { input.long() } else { 0 },
        resync: counts & 32 != 0,
    }
}

/// Route messages: any bytes (first byte even), or what two neighbours tell in turns, with rightly signed origins, as the
/// routing of a node takes them. What it uses it has a right to, and what it tells is a message.
pub fn mesh_route(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    if input.byte().is_multiple_of(2) {
        return again::<RouteMessage>(input.rest(), ROUTE_MESSAGE_MAX);
    }
    let mut routing = Routing::new(node(OWN), BootEpoch(1), network());
    let mut intake = Intake::new(network());
    let facts = LinkFacts { epoch: BootEpoch(0), max_frame: 1_400, relayed: false };
    (1..=2).for_each(|n| routing.handle_link(node(n), facts, now(0)));
    let right = |node: &NodeId, prefix: &Prefix| *node == super::statements::node(1) && prefix.address().is_ipv4();
    let (mut at, mut heard) = (0, 0);
    for number in 1..=6 {
        if input.is_empty() {
            break;
        }
        let (from, wait) = (input.byte(), input.byte());
        at += u64::from(wait) * 100;
        let bytes = codec::encode(&route_message(&mut input, number));
        let Ok(message) = codec::decode::<RouteMessage>(&bytes, ROUTE_MESSAGE_MAX) else { continue };
        let Ok(message) = intake.verify(message) else { panic!("a rightly signed origin was refused") };
        heard += u32::from(routing.handle_message(node(from % 3 + 1), message, &right, now(at)).is_ok());
        routing.handle_timeout(now(at));
        check_routing(&mut routing, at, &right);
    }
    heard > 0
}

fn check_routing(routing: &mut Routing, at: u64, right: &dyn Fn(&NodeId, &Prefix) -> bool) {
    while let Some(effect) = routing.poll() {
        match effect {
            RoutingEffect::Send { message, .. } => {
                let bytes = codec::encode(&message);
                assert_eq!(codec::decode::<RouteMessage>(&bytes, ROUTE_MESSAGE_MAX), Ok(message), "no message");
            }
            RoutingEffect::Sign(origin) => {
                let signed = Signed::seal(&origin, &key(OWN), &network());
                assert!(signed.to_bytes().len() <= ORIGIN_MAX);
                let verified = shoal_protocol::mesh::route::VerifiedOrigin::verify(signed, &network());
                verified.into_iter().for_each(|origin| routing.handle_signed(origin, now(at)));
            }
            RoutingEffect::Changed => {}
        }
    }
    for view in routing.view(now(at)).filter(|view| view.state == RouteState::Used) {
        let owner = view.told.router.node;
        let own = view.prefix == host_prefix(&network(), &owner);
        assert!(own || right(&owner, &view.prefix), "{} of {owner} without a right", view.prefix);
        assert_ne!(owner, node(OWN), "a way to itself");
    }
    let snapshot = routing.snapshot(Bindings { v4: &[], pool: Pool::default().prefix(), exit: ExitUse::Auto });
    assert_eq!(snapshot.lookup_peer(&PeerHash::of(&node(OWN)), 0), Lookup::Local);
    for address in ["10.1.1.1", "0.0.0.1", "2001:db8::1"].iter().filter_map(|text| text.parse().ok()) {
        if let Lookup::To { hops, hop, .. } = snapshot.lookup(address, 7) {
            assert!(hops.contains(hop));
        }
    }
}

pub(super) fn routes() -> Vec<Vec<u8>> {
    let raw = golden(ROUTES, |name| name.starts_with("route message"));
    let mut seeds: Vec<Vec<u8>> = raw.iter().map(|bytes| join(&[0], bytes)).collect();
    // From, wait, counts, epoch; prefix, signer, expires, seqno, metric, frame.
    let own_route = |from: u8, n: u8| {
        vec![from, 1, 65, 0, 2, 3, 4, (n - 1) * 6, n - 1, 255, 127, 5, 0, if from + 1 == n { 0 } else { 200 }, 0, 0, 5]
    };
    let own = |from: u8, n: u8| {
        let mut bytes = own_route(from, n);
        // A reach of two, then one update.
        bytes.splice(2..4, [65, 2, 3, 4, 0]);
        bytes.splice(7..10, []);
        bytes
    };
    seeds.push([&[1][..], &own(0, 1), &own(1, 1), &own(1, 3)].concat());
    seeds.push([&[1][..], &own_route(0, 1), &own_route(1, 1)].concat());
    // A site, from its member and from another, then retracted, asked for, and all again.
    let site = |signer: u8, counts: u8| {
        [0, 1, counts, 0, 2, 1, 8, signer, 255, 127, 1, 0, 0, 0, 0, 5, 2, 1, 8, 2, 1, 8, 0, 1, 0, 9]
    };
    seeds.push([&[1][..], &site(0, 1), &site(1, 1), &site(0, 5), &site(0, 9), &site(0, 33)].concat());
    seeds
}

/// Flood messages: any bytes (first byte even), or two neighbours that say, acknowledge, come, go and restart as the fuzzer
/// wants, and time that passes. What goes out is a message, goes to who has a link, and keeps window and numbers.
pub fn mesh_flood(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    if input.byte().is_multiple_of(2) {
        return again::<FloodMessage>(input.rest(), FLOOD_MESSAGE_MAX);
    }
    let mut flood = Flood::new(node(OWN), BootEpoch(7));
    let mut linked = [None; 2];
    let (mut at, mut taken) = (0, 0);
    for _ in 0..32 {
        if input.is_empty() {
            break;
        }
        let step = input.byte();
        let which = usize::from(step / 64 % 2);
        let neighbour = node(1 + u8::from(which == 1));
        match step % 6 {
            0 => {
                let epoch = BootEpoch(u64::from(input.byte() % 3));
                linked[which] = flood.handle_link(neighbour, epoch).then_some(epoch);
            }
            1 => {
                flood.handle_link_lost(neighbour, now(at));
                linked[which] = None;
            }
            2 => at += u64::from(input.byte()) * 20,
            3 => {
                let statement = statement(&mut input);
                _ = flood.handle_news(statement, (step & 32 != 0).then_some(neighbour), now(at));
            }
            _ => taken += said(&mut flood, neighbour, linked[which], &mut input, at),
        }
        flood.handle_timeout(now(at));
        while let Some(Send { to, message }) = flood.poll(now(at)) {
            let link = if to == node(1) { linked[0] } else { linked[1] };
            assert_eq!(Some(message.to), link, "to nobody, or to another run");
            let bytes = codec::encode(&message);
            assert_eq!(codec::decode::<FloodMessage>(&bytes, FLOOD_MESSAGE_MAX), Ok(message), "no message");
        }
        assert!(flood.due_ms() > at, "it is due again at once");
    }
    let versions: BTreeSet<_> = flood.statements().map(|statement| (statement.kind, statement.signer)).collect();
    assert_eq!(versions.len(), flood.len(), "two of one kind and signer");
    taken > 0 || !flood.is_empty()
}

fn statement(input: &mut Input<'_>) -> Flooded {
    let choice = input.byte();
    let kind = if choice & 1 == 0 { FloodKind::Claim } else { FloodKind::MeshKey };
    let version = u64::from(input.byte());
    let expires = WALL.saturating_add(u64::from(input.byte()) * 1_000);
    Flooded { kind, signer: node(choice / 2 % 8), version, expires, signed: input.bytes(64).to_vec() }
}

/// What a neighbour says: statements, which are all verified and news or known, and acknowledgements.
fn said(flood: &mut Flood, from: NodeId, link: Option<BootEpoch>, input: &mut Input<'_>, at: u64) -> u32 {
    let choice = input.byte();
    let ack = (choice & 1 != 0).then(|| FloodAck {
        series: u64::from(input.byte() % 8),
        through: u64::from(input.byte()) % (FLOOD_WINDOW + 3),
    });
    let items = (0..choice / 2 % 4).map(|_| FloodItem { kind: FloodKind::Claim, signed: input.bytes(64).to_vec() });
    let message = FloodMessage {
        items: items.collect(),
        from: if choice & 64 != 0 { BootEpoch(9) } else { link.unwrap_or(BootEpoch(0)) },
        to: if choice & 128 != 0 { BootEpoch(6) } else { BootEpoch(7) },
        series: u64::from(input.byte() % 4),
        number: u64::from(input.byte() % 8),
        ack,
    };
    let bytes = codec::encode(&message);
    let Ok(message) = codec::decode::<FloodMessage>(&bytes, FLOOD_MESSAGE_MAX) else { return 0 };
    let strange = link.is_none() || choice & 192 != 0;
    let items = flood.handle_message(from, message, now(at));
    assert!(!strange || items.is_err(), "heard from another run, or without a link");
    let items = items.unwrap_or_default();
    let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
    for item in items {
        let signer = node(item.signed.first().copied().unwrap_or(0) % 8);
        let version = u64::from(item.signed.get(1).copied().unwrap_or(0));
        let expires = WALL.saturating_add(60_000);
        let statement = Flooded { kind: item.kind, signer, version, expires, signed: item.signed };
        if flood.handle_news(statement, Some(from), now(at)).is_err() {
            flood.handle_known(item.kind, signer, version, from);
        }
    }
    count
}

pub(super) fn floods() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> =
        golden(ROUTES, |name| name.starts_with("flood")).iter().map(|b| join(&[0], b)).collect();
    let link = |which: u8, epoch: u8| vec![which * 64, epoch];
    let news = |choice: u8, version: u8| [&[3, choice, version, 60][..], &sized(b"signed")].concat();
    let says =
        |which: u8, series: u8, number: u8| [&[64 * which + 4, 2][..], &sized(&[4, 5]), &[series, number]].concat();
    let acks = |which: u8, series: u8, through: u8| vec![64 * which + 4, 1, series, through, 0, 0];
    seeds.push([&[1][..], &link(0, 1), &news(2, 1), &acks(0, 1, 1), &news(2, 2), &[2, 10], &acks(0, 1, 0)].concat());
    seeds.push([&[1][..], &link(0, 1), &link(1, 1), &says(0, 1, 1), &says(0, 1, 2), &says(1, 1, 1), &[2, 40]].concat());
    seeds.push([&[1][..], &link(0, 1), &news(2, 1), &[1], &news(3, 1), &[2, 200], &link(0, 1), &link(0, 2)].concat());
    seeds
}

/// Claims of addresses, rightly signed around anything or around fields within reach, perhaps changed, as the table of a
/// node takes them: nobody gets an address that is not its candidate, and none has two.
pub fn mesh_claim(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let pool = Pool::default();
    let issued = UnixMillis(WALL.0 - 1_000_000_000);
    let mut claims = Claims::new(node(OWN), network(), pool, issued, None, WALL);
    let mut at = 0;
    let mut taken = 0;
    for _ in 0..12 {
        if input.is_empty() {
            break;
        }
        let (how, signer) = (input.byte(), input.byte() % 8);
        at += u64::from(input.byte()) * 100_000;
        let edits = input.bytes(8);
        let payload = if how & 1 == 0 { input.bytes(128).to_vec() } else { codec::encode(&claim(&mut input)) };
        let mut bytes = envelope(Claim::CONTEXT, &network(), &payload, &key(signer));
        let changed = Input::new(edits).edit(&mut bytes, 1);
        let Ok(signed) = Signed::from_bytes(&bytes, 1024) else { continue };
        let verified = VerifiedClaim::verify(signed, &network());
        let good = codec::decode::<Claim>(&payload, Claim::LIMIT);
        assert_eq!(verified.is_ok(), !changed && good.is_ok(), "believed what was not signed so");
        let (Ok(verified), Ok(good)) = (verified, good) else { continue };
        let membership = match how / 2 % 3 {
            0 => Membership::Unticketed,
            1 => Membership::Ticket(good.issued),
            _ => Membership::None,
        };
        let now = WALL.saturating_add(at);
        let is_news = claims.handle_claim(verified, membership, now);
        assert!(is_news != Ok(true) || (membership != Membership::None && good.expires > now), "news of nobody");
        taken += u32::from(is_news == Ok(true));
        claims.handle_timeout(now);
        while claims.poll().is_some() {}
        check_claims(&claims, pool);
    }
    taken > 0
}

fn claim(input: &mut Input<'_>) -> Claim {
    let near = |input: &mut Input<'_>| UnixMillis(WALL.0 - 500_000_000 + u64::from(input.short()) * 10_000);
    let (issued, bound, time) = (near(input), near(input), near(input));
    let expires = time.saturating_add(u64::from(input.short()) * 4_000);
    Claim { attempt: u32::from(input.short() % 1_100), issued, bound, time, expires }
}

fn check_claims(claims: &Claims, pool: Pool) {
    let mut holders = BTreeSet::new();
    for (address, holder) in claims.bindings() {
        assert!(holders.insert(holder), "two addresses for {holder}");
        assert_eq!(claims.holder(address), Some(holder));
        let mut candidates =
            (0..=shoal_protocol::mesh::claim::ATTEMPT_MAX).map(|attempt| pool.candidate(&network(), &holder, attempt));
        assert!(candidates.any(|candidate| candidate == address), "{address} is no candidate of {holder}");
    }
    if let Some(own) = claims.own_address() {
        assert_eq!(claims.holder(own), Some(node(OWN)), "an address that is another's");
    }
}

pub(super) fn claims() -> Vec<Vec<u8>> {
    let payload = golden(ROUTES, |name| name == "claim payload").concat();
    let raw = [&[0, 1, 0, 0, 0][..], &sized(&payload)].concat();
    // How, signer, time, edits; issued, bound, time, life, attempt: all in units of `claim`.
    let one = |how: u8, signer: u8, at: [u16; 5]| {
        let numbers: Vec<u8> = at.iter().flat_map(|number| number.to_le_bytes()).collect();
        [&[how, signer, 1, 0, 0][..], &numbers].concat()
    };
    let good = [1_000, 2_000, 50_000, 40_000, 0];
    vec![
        raw,
        [one(1, 1, good), one(1, 1, [1_000, 2_000, 50_001, 40_000, 0]), one(1, 1, [1_000, 1, 50_002, 40_000, 0])]
            .concat(),
        [one(1, 1, good), one(1, 2, good), one(1, 1, [1_000, 50_000, 50_001, 40_000, 3]), one(3, 3, good)].concat(),
        [one(5, 1, good), one(1, OWN % 8, good)].concat(),
    ]
}

/// A prefix: text, bytes, CBOR, or around an address; each has one spelling.
pub fn mesh_prefix(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let prefix = match input.byte() % 4 {
        0 => {
            let Some(prefix) = std::str::from_utf8(input.rest()).ok().and_then(|text| text.parse::<Prefix>().ok())
            else {
                return false;
            };
            prefix
        }
        1 => {
            let bytes = input.rest();
            let Ok(prefix) = Prefix::from_bytes(bytes) else { return false };
            assert_eq!(prefix.to_bytes(), bytes, "a second spelling");
            prefix
        }
        2 => {
            let bytes = input.rest();
            let mut decoder = minicbor::Decoder::new(bytes);
            let Ok(prefix) = decoder.decode::<Prefix>() else { return false };
            prefix
        }
        _ => {
            let length = input.byte();
            let address = IpAddr::V6(Ipv6Addr::from(input.array::<16>()));
            let prefix = Prefix::around(address, length);
            assert!(prefix.contains(address) || prefix.address().is_ipv6() && address.to_canonical().is_ipv4());
            prefix
        }
    };
    assert_eq!(Prefix::from_bytes(&prefix.to_bytes()), Ok(prefix));
    assert_eq!(prefix.to_string().parse(), Ok(prefix));
    assert_eq!(Prefix::new(prefix.address(), prefix.length()), Ok(prefix));
    let (first, last) = prefix.range();
    assert!(first <= last && prefix.covers(&prefix) && prefix.overlaps(&prefix) && prefix.contains(prefix.address()));
    true
}

pub(super) fn prefixes() -> Vec<Vec<u8>> {
    let texts = ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/8", "192.0.2.1/32", "::ffff:10.0.0.0/104", "10.0.0.0/08"];
    let mut seeds: Vec<Vec<u8>> = texts.iter().map(|text| join(&[0], text.as_bytes())).collect();
    let bytes = Prefix::around(IpAddr::V4(Ipv4Addr::new(10, 1, 0, 0)), 16).to_bytes();
    seeds.push(join(&[1], &bytes));
    seeds.push([&[2, 0x45][..], &bytes].concat());
    let mapped = Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped().octets();
    seeds.push([&[3, 104][..], &mapped].concat());
    seeds.push([&[3, 64][..], &mapped].concat());
    seeds
}
