//! Sessions of the private network: datagrams of anybody, handshakes that are right but for what the fuzzer chose of their
//! inside, and frames with a right tag around anything.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use shoal_engine::Now;
use shoal_engine::mesh::session::probe::{self, Maker};
use shoal_engine::mesh::session::{
    Content, Context, Effect, Gate, Indices, Installed, Load, OwnKey, Pair, Party, RxHalf, Sessions, TxHalf, Verdict,
};
use shoal_engine::path::Carrier;
use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::session::content::{ContentKind, Control};
use shoal_protocol::mesh::session::frame::{Counter, DataHeader, FRAME_MAX, PathId, SEQUENCES, WINDOW};
use shoal_protocol::mesh::session::handshake::{
    CookieReply, INITIATION_BEFORE_MAC1, Initiation, OFFER, OPENING, Offer, Opening, RESPONSE_BEFORE_MAC1, Response,
    mac1,
};
use shoal_protocol::mesh::session::{MessageKind, SessionIndex};
use shoal_protocol::signed::Statement;
use shoal_protocol::{Signed, Suite, UnixMillis, Verified, codec};
use zeroize::Zeroizing;

use super::input::{Input, golden, join, sized};
use super::statements::{envelope, key, network, node};

const SESSION: &str = include_str!("../../../protocol/golden/mesh_session.hex");
const WALL: UnixMillis = UnixMillis(1_700_000_000_000);
const BOTH: [Suite; 2] = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];
const OFFERED: Offer = Offer { offloads: Offloads::ALL, max_frame: 9_000 };
/// The two ends of all handshakes here.
const ONE: u8 = 1;
const OTHER: u8 = 2;

fn now(uptime_ms: u64) -> Now {
    Now { wall: WALL.saturating_add(uptime_ms), uptime_ms }
}

/// Numbers that are not the same twice in one input, and the same in every run.
#[derive(Debug)]
struct Counting(u64);

impl Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *byte = self.0.to_be_bytes()[0];
        }
    }
}

fn own_key(number: u8) -> &'static Arc<OwnKey> {
    static KEYS: OnceLock<[Arc<OwnKey>; 2]> = OnceLock::new();
    let make = |number: u8| {
        let not_after = WALL.saturating_add(24 * 3600 * 1000);
        Arc::new(OwnKey::new(Zeroizing::new([number; 32]), 1, not_after, BOTH.to_vec()))
    };
    &KEYS.get_or_init(|| [make(ONE), make(OTHER)])[usize::from(number == OTHER)]
}

fn pair(own: u8, peer: u8) -> Pair {
    Pair { network: network(), own: Party::from(node(own)), peer: Party::from(node(peer)), offer: OFFERED }
}

/// One end.
struct End {
    sessions: Sessions,
    indices: Indices,
    random: Counting,
}

impl End {
    fn new(own: u8, peer: u8, record: Verified<MeshKey>) -> Option<Self> {
        let sessions = Sessions::new(pair(own, peer), Arc::clone(own_key(own)), record).ok()?;
        Some(Self { sessions, indices: Indices::default(), random: Counting(u64::from(own)) })
    }

    /// With the other one's good record.
    fn good(own: u8, peer: u8) -> Option<Self> {
        let signed = Signed::seal(own_key(peer).record(), &key(peer), &network());
        Self::new(own, peer, signed.verify(&network()).ok()?)
    }

    /// One event, and what it causes.
    fn event(&mut self, at: u64, event: impl FnOnce(&mut Sessions, &mut Context<'_>)) -> Vec<Effect> {
        let (random, indices) = (&mut self.random, &mut self.indices);
        event(&mut self.sessions, &mut Context { now: now(at), random: &mut |out| random.fill(out), indices });
        std::iter::from_fn(|| self.sessions.poll()).collect()
    }
}

fn sent(effects: &[Effect]) -> Vec<&[u8]> {
    effects
        .iter()
        .filter_map(|effect| if let Effect::Send { bytes, .. } = effect { Some(&bytes[..]) } else { None })
        .collect()
}

fn installed(effects: Vec<Effect>) -> Option<Installed> {
    effects.into_iter().find_map(|effect| if let Effect::Install(halves) = effect { Some(*halves) } else { None })
}

/// A datagram of anybody: which message it is, and that a gate lets none in that does not know the network.
pub fn mesh_message(data: &[u8]) -> bool {
    let Some((which, bytes)) = data.split_first() else { return false };
    if which % 4 == 1 {
        let Ok(bytes) = <[u8; OPENING]>::try_from(bytes) else { return false };
        return Opening::from_bytes(&bytes).map(|opening| assert_eq!(opening.to_bytes(), bytes)).is_ok();
    }
    if which % 4 == 2 {
        let Some((kind, body)) = bytes.split_first() else { return false };
        let Some(ContentKind::Control(kind)) = ContentKind::from_number(*kind) else { return false };
        let Ok(control) = Control::parse(kind, body) else { return false };
        assert_eq!(written(&control), body, "a second spelling");
        return true;
    }
    let Some(kind) = bytes.first().and_then(|byte| MessageKind::of_first_byte(*byte)) else { return false };
    match kind {
        MessageKind::Initiation => {
            let mut gate = Gate::new(network(), Arc::clone(own_key(ONE)));
            let load = if which % 4 == 3 { Load::High } else { Load::Calm };
            let verdict = gate.examine(bytes, b"source", load, 0, &mut |out| out.fill(7));
            assert!(matches!(verdict, Verdict::Dropped(_)), "let in without a key");
            Initiation::parse(bytes).map(|message| assert_eq!(&message.to_bytes()[..], bytes)).is_ok()
        }
        MessageKind::Response => {
            Response::parse(bytes).map(|message| assert_eq!(&message.to_bytes()[..], bytes)).is_ok()
        }
        MessageKind::CookieReply => {
            CookieReply::parse(bytes).map(|message| assert_eq!(&message.to_bytes()[..], bytes)).is_ok()
        }
        MessageKind::Data => {
            let Ok(header) = DataHeader::parse(bytes) else { return false };
            assert!(bytes.starts_with(&header.to_bytes()) && bytes.len() <= FRAME_MAX, "a second spelling");
            assert_eq!(RxHalf::index_of(bytes), Ok(header.receiver));
            true
        }
    }
}

fn written(control: &Control) -> Vec<u8> {
    let mut out = vec![0xee; control.body_length()];
    assert_eq!(control.write_body(&mut out), Some(out.len()));
    out
}

pub(super) fn messages() -> Vec<Vec<u8>> {
    let named = |names: &'static [&str]| golden(SESSION, move |found| names.contains(&found));
    let whole = named(&["initiation", "response", "cookie reply"])
        .into_iter()
        .flat_map(|bytes| [join(&[0], &bytes), join(&[3], &bytes)]);
    let openings = named(&["opening"]).into_iter().map(|bytes| join(&[1], &bytes));
    let controls = golden(SESSION, |found| {
        ["challenge", "answer", "fence", "probe", "echo", "keepalive", "close"]
            .iter()
            .any(|name| found.starts_with(name))
    });
    let controls = controls.into_iter().map(|bytes| join(&[2], &bytes));
    let frame = named(&["data header"]).into_iter().map(|bytes| [&[0][..], &bytes, &[0; 17]].concat());
    whole.chain(openings).chain(controls).chain(frame).collect()
}

/// A handshake: the first message with any opening, or the second with any offer, changed on the way, with MACs that fit
/// what it became. Only an honest one makes a session.
pub fn mesh_handshake(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let flags = input.byte();
    let edits = input.bytes(12);
    let (Some(mut one), Some(mut other)) = (End::good(ONE, OTHER), End::good(OTHER, ONE)) else { return false };
    let (here, there) = (pair(ONE, OTHER), pair(OTHER, ONE));
    let one_maker = Maker { pair: &here, own: own_key(ONE), peer: own_key(OTHER).record() };
    let other_maker = Maker { pair: &there, own: own_key(OTHER), peer: own_key(ONE).record() };
    if flags & 1 == 0 {
        let opening: [u8; OPENING] = input.array();
        let Some(message) = one_maker.initiation(SessionIndex(9), &opening, [0x77; 32]) else { return false };
        let mut bytes = message.to_bytes().to_vec();
        Input::new(edits).edit(&mut bytes, 3);
        fit_mac(&mut bytes, INITIATION_BEFORE_MAC1, own_key(OTHER).record(), flags & 2 != 0);
        let answered = answer(&mut other, &bytes, flags & 4 != 0);
        let same = Initiation::parse(&bytes)
            .is_ok_and(|found| found.noise == message.noise && found.introduction == message.introduction);
        let Some(session) = answered else { return false };
        assert!(same, "another handshake than was begun");
        assert_eq!(Opening::from_bytes(&opening).map(|opening| opening.offer), Ok(session.offer));
        return true;
    }
    one.event(0, |sessions, _| sessions.handle_carrier(Carrier::Lanes, true));
    let begun = one.event(0, Sessions::handle_want);
    let Some(initiation) = sent(&begun).first().and_then(|bytes| Initiation::parse(bytes).ok()) else { return false };
    let offer: [u8; OFFER] = input.array();
    let Some(message) = other_maker.response(&initiation, SessionIndex(8), &offer, [0x66; 32]) else { return false };
    // A cookie that is none changes nothing.
    let cookie = input.bytes(80);
    one.event(10, |sessions, cx| sessions.handle_cookie(cookie, Carrier::Lanes, cx));
    let mut bytes = message.to_bytes().to_vec();
    Input::new(edits).edit(&mut bytes, 3);
    fit_mac(&mut bytes, RESPONSE_BEFORE_MAC1, own_key(ONE).record(), flags & 2 != 0);
    let Some(session) = installed(one.event(20, |sessions, cx| sessions.handle_response(&bytes, Carrier::Lanes, cx)))
    else {
        return false;
    };
    let found = Response::parse(&bytes);
    assert!(found.is_ok_and(|found| found.noise == message.noise && found.receiver == message.receiver));
    assert_eq!(Offer::from_bytes(offer), Ok(session.offer));
    true
}

/// Whoever knows the network can make the MAC of anything.
fn fit_mac(bytes: &mut [u8], before: usize, receiver: &MeshKey, fit: bool) {
    if fit && let Some((covered, mac)) = bytes.split_at_mut_checked(before) {
        let right = mac1(&network(), &receiver.public, covered);
        mac.iter_mut().zip(right).for_each(|(to, from)| *to = from);
    }
}

/// Gate, then sessions; under load with the cookie that the gate itself gave.
fn answer(end: &mut End, bytes: &[u8], load: bool) -> Option<Installed> {
    let mut gate = Gate::new(network(), Arc::clone(own_key(OTHER)));
    let load = if load { Load::High } else { Load::Calm };
    match gate.examine(bytes, b"source", load, 0, &mut |out| out.fill(7)) {
        Verdict::Admitted(admitted) => {
            assert_eq!(load, Load::Calm, "under load without a cookie");
            let effects = end.event(0, |sessions, cx| sessions.handle_initiation(&admitted, Carrier::Routed, cx));
            let answers: usize = sent(&effects).iter().map(|bytes| bytes.len()).sum();
            assert!(answers < bytes.len(), "it amplifies");
            installed(effects)
        }
        Verdict::Cookie(reply) => {
            assert!(reply.len() < bytes.len() && CookieReply::parse(&reply).is_ok());
            None
        }
        Verdict::Dropped(_) => None,
    }
}

pub(super) fn handshakes() -> Vec<Vec<u8>> {
    let opening = Opening { stamp: shoal_protocol::mesh::session::handshake::Stamp(5), offer: OFFERED }.to_bytes();
    let first = |flags: u8, edits: &[u8]| [&[flags][..], &sized(edits), &opening].concat();
    let second = |flags: u8, edits: &[u8]| [&[flags][..], &sized(edits), &OFFERED.to_bytes(), &[0, 0]].concat();
    let edits = [1, 0, 40, 0, 0, 1];
    vec![
        first(0, &[]),
        first(2, &edits),
        first(0, &edits),
        first(4, &[]),
        second(1, &[]),
        second(3, &edits),
        second(1, &edits),
    ]
}

/// Halves of a session from the first end to the second.
fn halves() -> Option<(TxHalf, RxHalf)> {
    let (mut one, mut other) = (End::good(ONE, OTHER)?, End::good(OTHER, ONE)?);
    one.event(0, |sessions, _| sessions.handle_carrier(Carrier::Lanes, true));
    let begun = one.event(0, Sessions::handle_want);
    let mut gate = Gate::new(network(), Arc::clone(own_key(OTHER)));
    let Verdict::Admitted(admitted) =
        gate.examine(sent(&begun).first()?, b"source", Load::Calm, 0, &mut |out| out.fill(7))
    else {
        return None;
    };
    let answered = other.event(0, |sessions, cx| sessions.handle_initiation(&admitted, Carrier::Lanes, cx));
    let response = sent(&answered).first()?.to_vec();
    let first = installed(one.event(10, |sessions, cx| sessions.handle_response(&response, Carrier::Lanes, cx)))?;
    Some((first.tx, installed(answered)?.rx))
}

/// Frames of one session: any header and anything inside, behind a right tag, then changed. What is opened was sealed so,
/// and comes once.
pub fn mesh_frame(data: &[u8]) -> bool {
    let Some((tx, mut rx)) = halves() else { return false };
    let mut input = Input::new(data);
    let mut understood = false;
    let mut newest: BTreeMap<PathId, u64> = BTreeMap::new();
    let mut seen: Vec<(PathId, u64)> = Vec::new();
    for _ in 0..8 {
        if input.is_empty() {
            break;
        }
        let (flags, path) = (input.byte(), input.byte());
        let Some(path) = PathId::new(path) else { continue };
        let sequence = if flags & 1 == 0 { u64::from(input.short()) } else { input.long() % SEQUENCES };
        let Some(counter) = Counter::new(path, sequence) else { continue };
        let receiver = if flags & 2 == 0 { rx.index() } else { SessionIndex(7) };
        let aad = input.bytes(32);
        let edits = input.bytes(8);
        let inside = input.bytes(2048);
        let mut frame = probe::frame(&tx, DataHeader { receiver, counter }, inside, aad);
        let changed = Input::new(edits).edit(&mut frame, 2);
        let end = newest.get(&path).copied();
        let is_new = !seen.contains(&(path, sequence)) && end.is_none_or(|end| sequence + WINDOW > end);
        let opened = rx.open(&mut frame, aad);
        let is_frame = !changed && flags & 2 == 0 && is_new && !inside.is_empty();
        let Ok(opened) = opened else {
            // Inside the window a frame with a right tag is used up, whatever was in it.
            if is_frame {
                assert!(read(inside).is_none(), "a good frame was refused");
                seen.push((path, sequence));
                newest.insert(path, end.map_or(sequence, |end| end.max(sequence)));
            }
            continue;
        };
        assert!(is_frame && opened.path == path, "a frame nobody sealed, or for the second time");
        assert_eq!(read(inside), Some(spelled(&opened.content)), "another content than was sealed");
        seen.push((path, sequence));
        newest.insert(path, end.map_or(sequence, |end| end.max(sequence)));
        understood = true;
    }
    understood
}

/// What is inside a frame, kind and body; none if it means nothing.
fn read(inside: &[u8]) -> Option<Vec<u8>> {
    let (kind, body) = inside.split_first()?;
    match ContentKind::from_number(*kind)? {
        ContentKind::Packet | ContentKind::Relayed => Some(inside.to_vec()),
        ContentKind::Control(kind) => Control::parse(kind, body).is_ok().then(|| inside.to_vec()),
    }
}

fn spelled(content: &Content<'_>) -> Vec<u8> {
    match content {
        Content::Packet(body) => join(&[ContentKind::Packet.number()], body),
        Content::Relayed(body) => join(&[ContentKind::Relayed.number()], body),
        Content::Control(control) => join(&[ContentKind::Control(control.kind()).number()], &written(control)),
    }
}

pub(super) fn frames() -> Vec<Vec<u8>> {
    let one = |flags: u8, path: u8, sequence: u16, inside: &[u8]| {
        let [low, high] = sequence.to_le_bytes();
        [&[flags, path, low, high][..], &sized(b"aad"), &sized(&[]), &sized(inside)].concat()
    };
    let insides = golden(SESSION, |found| {
        ["challenge", "answer", "fence", "probe", "echo", "keepalive", "close"]
            .iter()
            .any(|name| found.starts_with(name))
    });
    let mut seeds: Vec<Vec<u8>> = insides.iter().map(|inside| one(0, 0, 0, inside)).collect();
    seeds.push([one(0, 255, 3, b"\x01packet"), one(0, 255, 3, b"\x01packet"), one(0, 2, 3, b"\x02relayed")].concat());
    seeds.push([one(0, 1, 9_000, b"\x01late"), one(0, 1, 5, b"\x01late"), one(2, 1, 9_001, b"\x01elsewhere")].concat());
    seeds
}

/// Two mesh key records, each signed by anybody, perhaps changed, in sessions with one peer: only newer ones of that peer
/// count, and what it has for a key never makes a session by itself.
pub fn mesh_key(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let mut end: Option<End> = None;
    let mut epoch = 0;
    while !input.is_empty() && epoch < u64::MAX {
        let signer = input.byte();
        let edits = input.bytes(8);
        let payload = input.bytes(256);
        let mut bytes = envelope(MeshKey::CONTEXT, &network(), payload, &key(signer));
        let changed = Input::new(edits).edit(&mut bytes, 1);
        let Ok(signed) = Signed::from_bytes(&bytes, 1024) else { continue };
        let verified = signed.verify::<MeshKey>(&network());
        let good = codec::decode::<MeshKey>(payload, MeshKey::LIMIT);
        assert_eq!(verified.is_ok(), !changed && good.is_ok(), "believed what was not signed so");
        let (Ok(verified), Ok(good)) = (verified, good) else { continue };
        let taken = match &mut end {
            None => {
                end = End::new(ONE, OTHER, verified);
                end.is_some()
            }
            Some(end) => end.sessions.set_peer_key(verified).is_ok(),
        };
        assert!(!taken || (signer == OTHER && (epoch == 0 || good.epoch > epoch)), "a key of another, or an older one");
        if !taken {
            continue;
        }
        epoch = good.epoch.max(1);
        if let Some(end) = &mut end {
            end.event(0, |sessions, _| sessions.handle_carrier(Carrier::Lanes, true));
            let effects = end.event(0, Sessions::handle_want);
            assert!(good.is_usable(WALL) || sent(&effects).is_empty(), "a key that is over was used");
            assert!(installed(effects).is_none(), "a session with nobody");
        }
    }
    end.is_some()
}

pub(super) fn keys() -> Vec<Vec<u8>> {
    let payload = golden(SESSION, |found| found == "mesh key payload").concat();
    let record = |public: [u8; 32], epoch: u64| {
        let not_after = WALL.saturating_add(1_000_000);
        codec::encode(&MeshKey { public, epoch, not_after, suites: BOTH.to_vec() })
    };
    let one = |signer: u8, payload: &[u8]| [&[signer, 0, 0][..], &sized(payload)].concat();
    let mut low_order = [0; 32];
    low_order[0] = 1;
    vec![
        one(OTHER, &payload),
        [one(OTHER, &record([9; 32], 1)), one(OTHER, &record([8; 32], 2)), one(OTHER, &record([7; 32], 1))].concat(),
        one(OTHER, &record(low_order, 1)),
        one(3, &record([9; 32], 1)),
    ]
}
