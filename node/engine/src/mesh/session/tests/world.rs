//! Two members and the network between them, in virtual time: what is sent arrives as a test says. It checks by itself
//! that no session seals two frames with one counter.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::content::{ContentKind, Control};
use shoal_protocol::mesh::session::frame::{BEFORE_BODY, DATA_HEADER, PathId};
use shoal_protocol::mesh::session::handshake::Offer;
use shoal_protocol::mesh::session::{MessageKind, SessionIndex};
use shoal_protocol::{NetworkId, NodeId, PublicKey, Signed, Suite, UnixMillis, Verified};
use zeroize::Zeroizing;

use super::super::*;
use crate::Now;
use crate::path::Carrier;

pub(super) const CHACHA: &[Suite] = &[Suite::ChaCha20Poly1305];
pub(super) const BOTH: &[Suite] = &[Suite::ChaCha20Poly1305, Suite::Aes256Gcm];
pub(super) const AAD: &[u8] = b"destination, source, label";
/// Wall clock at uptime 0.
pub(super) const WALL: u64 = 1_700_000_000_000;
pub(super) const STEP_MS: u64 = 50;

pub(super) fn network() -> NetworkId {
    NetworkId::derive(Some(&[7; 32]), "tests").unwrap()
}

pub(super) fn signer(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(super) fn node(n: u8) -> NodeId {
    PublicKey::from_bytes(signer(n).verifying_key().to_bytes()).into()
}

pub(super) fn own_key(n: u8, epoch: u64, suites: &[Suite]) -> Arc<OwnKey> {
    let mut secret = Zeroizing::new([n; 32]);
    secret[31] = epoch as u8;
    Arc::new(OwnKey::new(secret, epoch, UnixMillis(WALL + 24 * 3600 * 1000), suites.to_vec()))
}

pub(super) fn record(n: u8, key: &OwnKey) -> Verified<MeshKey> {
    Signed::seal(key.record(), &signer(n), &network()).verify(&network()).unwrap()
}

/// A source of bytes that are the same in every run (SplitMix64).
pub(super) struct Bytes(pub(super) u64);

impl Bytes {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(super) fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// One member.
pub(super) struct Member {
    pub(super) gate: Gate,
    pub(super) sessions: Sessions,
    pub(super) indices: Indices,
    pub(super) random: Bytes,
    pub(super) halves: BTreeMap<SessionIndex, (TxHalf, RxHalf)>,
    pub(super) suite: Option<Suite>,
    pub(super) using: Option<SessionIndex>,
    pub(super) up: bool,
    pub(super) downs: Vec<Down>,
    pub(super) validated: Vec<Carrier>,
    pub(super) wanted_keys: Vec<u64>,
    pub(super) got: Vec<Vec<u8>>,
    pub(super) installs: usize,
    pub(super) load: Load,
    /// Headers sealed, by session.
    sealed: BTreeMap<SessionIndex, BTreeSet<[u8; DATA_HEADER]>>,
    out: VecDeque<(Carrier, Vec<u8>)>,
}

impl Member {
    fn new(n: u8, other: u8, suites: &[Suite], other_suites: &[Suite], seed: u64) -> Self {
        let (own, peer) = (own_key(n, 1, suites), own_key(other, 1, other_suites));
        let offer = Offer { offloads: Offloads { uso: n == 1, ..Offloads::ALL }, max_frame: 9000 };
        let party = |n| Party { node: node(n), hash: PeerHash::new([n; 10]) };
        let pair = Pair { network: network(), own: party(n), peer: party(other), offer };
        Self {
            gate: Gate::new(network(), Arc::clone(&own)),
            sessions: Sessions::new(pair, own, record(other, &peer)).unwrap(),
            indices: Indices::default(),
            random: Bytes(seed << 8 | u64::from(n)),
            halves: BTreeMap::new(),
            suite: None,
            using: None,
            up: false,
            downs: Vec::new(),
            validated: Vec::new(),
            wanted_keys: Vec::new(),
            got: Vec::new(),
            installs: 0,
            load: Load::Calm,
            sealed: BTreeMap::new(),
            out: VecDeque::new(),
        }
    }

    /// One event, and all that it causes.
    pub(super) fn event(&mut self, now_ms: u64, event: impl FnOnce(&mut Sessions, &mut Context<'_>)) {
        let (random, indices) = (&mut self.random, &mut self.indices);
        let now = Now { wall: UnixMillis(WALL + now_ms), uptime_ms: now_ms };
        event(&mut self.sessions, &mut Context { now, random: &mut |out| random.fill(out), indices });
        while let Some(effect) = self.sessions.poll() {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send { on, bytes } => self.out.push_back((on, bytes)),
            Effect::Install(installed) => {
                let Installed { index, tx, rx, offer, suite } = *installed;
                assert_eq!(offer.max_frame, 9000);
                self.suite = Some(suite);
                self.installs += 1;
                self.sealed.remove(&index);
                assert!(self.halves.insert(index, (tx, rx)).is_none(), "an index is installed once");
                assert!(self.halves.len() <= 4, "three sessions, and the one that replaces the last");
            }
            Effect::Use { index } => {
                assert!(self.halves.contains_key(&index));
                self.using = Some(index);
            }
            Effect::Control { index, on, control } => {
                let mut frame = vec![0; 128];
                let (tx, _) = self.halves.get_mut(&index).unwrap();
                let length = tx.seal_control(path_of(on), &control, AAD, &mut frame).unwrap();
                frame.truncate(length);
                self.sealed_once(index, &frame);
                self.out.push_back((on, frame));
            }
            Effect::Erase { index } => {
                assert!(self.halves.remove(&index).is_some());
                if self.using == Some(index) {
                    self.using = None;
                }
            }
            Effect::Up => assert!(!std::mem::replace(&mut self.up, true)),
            Effect::Down(why) => {
                self.up = false;
                self.downs.push(why);
            }
            Effect::Validated { carrier } => self.validated.push(carrier),
            Effect::WantKey { epoch } => self.wanted_keys.push(epoch),
        }
    }

    fn sealed_once(&mut self, index: SessionIndex, frame: &[u8]) {
        let header = *frame.first_chunk::<DATA_HEADER>().unwrap();
        assert!(self.sealed.entry(index).or_default().insert(header), "a counter was used twice");
    }

    /// Seals a packet with the session in use.
    pub(super) fn seal(&mut self, path: PathId, packet: &[u8]) -> Option<Vec<u8>> {
        let index = self.using?;
        let mut buffer = vec![0; 64 + packet.len() + 16];
        buffer[64..64 + packet.len()].copy_from_slice(packet);
        let (tx, _) = self.halves.get_mut(&index).unwrap();
        let frame = tx.seal(path, ContentKind::Packet, AAD, &mut buffer, 64..64 + packet.len()).unwrap();
        assert_eq!(frame.start, 64 - BEFORE_BODY);
        let frame = buffer[frame].to_vec();
        self.sealed_once(index, &frame);
        Some(frame)
    }

    /// What came from the network.
    pub(super) fn receive(&mut self, from: Carrier, bytes: &[u8], now_ms: u64) {
        match bytes.first().copied().and_then(MessageKind::of_first_byte) {
            Some(MessageKind::Initiation) => {
                let (random, source) = (&mut self.random, from.to_string());
                let verdict =
                    self.gate.examine(bytes, source.as_bytes(), self.load, now_ms, &mut |out| random.fill(out));
                match verdict {
                    Verdict::Admitted(admitted) => self.event(now_ms, |s, cx| s.handle_initiation(&admitted, from, cx)),
                    Verdict::Cookie(reply) => self.out.push_back((from, reply.to_vec())),
                    Verdict::Dropped(_) => {}
                }
            }
            Some(MessageKind::Response) => self.event(now_ms, |s, cx| s.handle_response(bytes, from, cx)),
            Some(MessageKind::CookieReply) => self.event(now_ms, |s, cx| s.handle_cookie(bytes, from, cx)),
            Some(MessageKind::Data) => self.receive_frame(from, bytes, now_ms),
            None => {}
        }
    }

    fn receive_frame(&mut self, from: Carrier, bytes: &[u8], now_ms: u64) {
        let mut frame = bytes.to_vec();
        let Ok(index) = RxHalf::index_of(&frame) else { return };
        let Some((_, rx)) = self.halves.get_mut(&index) else { return };
        let control: Option<Control> = match rx.open(&mut frame, AAD) {
            Ok(Opened { content: Content::Packet(packet), .. }) => {
                self.got.push(packet.to_vec());
                None
            }
            Ok(Opened { content: Content::Control(control), .. }) => Some(control),
            Ok(Opened { content: Content::Relayed(_), .. }) | Err(_) => return,
        };
        self.event(now_ms, |s, cx| s.handle_opened(index, from, cx));
        if let Some(control) = control {
            self.event(now_ms, |s, cx| s.handle_control(index, from, control, cx));
        }
    }

    fn tick(&mut self, now_ms: u64) {
        let traffic: Vec<_> = self.halves.iter().map(|(index, (tx, rx))| (*index, Traffic::of(tx, rx))).collect();
        for (index, traffic) in traffic {
            self.event(now_ms, |s, cx| s.handle_traffic(index, traffic, cx));
        }
        self.event(now_ms, |s, cx| s.handle_timeout(cx));
        assert!(self.halves.len() <= 3, "next, current, previous");
        let pending = usize::from(self.sessions.pending.is_some());
        assert_eq!(self.indices.len(), self.halves.len() + pending, "no index is left over");
    }
}

pub(super) fn path_of(carrier: Carrier) -> PathId {
    PathId::new(match carrier {
        Carrier::Lanes => 0,
        Carrier::Routed => 1,
        Carrier::Udp(_) => 2,
    })
    .unwrap()
}

/// A message under way.
#[derive(Clone, Debug)]
pub(super) struct UnderWay {
    pub(super) at_ms: u64,
    pub(super) to: usize,
    pub(super) on: Carrier,
    pub(super) bytes: Vec<u8>,
}

/// What becomes of each message: after how many milliseconds its copies arrive.
pub(super) type Fate<'a> = &'a mut dyn FnMut(&UnderWay) -> Vec<u64>;

/// Member 0 has the smaller hash.
pub(super) struct World {
    pub(super) members: [Member; 2],
    pub(super) now_ms: u64,
    pub(super) under_way: Vec<UnderWay>,
    pub(super) sent: Vec<UnderWay>,
    /// Whether both send a packet a second as soon as they can.
    pub(super) chatter: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_suites(seed, BOTH, BOTH)
    }

    pub(super) fn with_suites(seed: u64, one: &[Suite], other: &[Suite]) -> Self {
        let mut members = [Member::new(1, 2, one, other, seed), Member::new(2, 1, other, one, seed)];
        members.iter_mut().for_each(|member| member.sessions.handle_carrier(Carrier::Lanes, true));
        Self { members, now_ms: 0, under_way: Vec::new(), sent: Vec::new(), chatter: false }
    }

    pub(super) fn want(&mut self, member: usize) {
        self.members[member].event(self.now_ms, |s, cx| s.handle_want(cx));
    }

    pub(super) fn collect(&mut self, fate: Fate<'_>) {
        for from in 0..2 {
            while let Some((on, bytes)) = self.members[from].out.pop_front() {
                let message = UnderWay { at_ms: self.now_ms, to: 1 - from, on, bytes };
                for delay in fate(&message) {
                    self.under_way.push(UnderWay { at_ms: self.now_ms + delay, ..message.clone() });
                }
                self.sent.push(message);
            }
        }
    }

    /// Lets so many milliseconds pass.
    pub(super) fn run(&mut self, for_ms: u64, fate: Fate<'_>) {
        let end = self.now_ms + for_ms;
        self.collect(fate);
        loop {
            let tick = (self.now_ms / STEP_MS + 1) * STEP_MS;
            let first = self.under_way.iter().enumerate().min_by_key(|(at, message)| (message.at_ms, *at));
            let first = first.map(|(at, message)| (at, message.at_ms)).filter(|(_, at_ms)| *at_ms <= tick.min(end));
            if let Some((at, at_ms)) = first {
                self.now_ms = self.now_ms.max(at_ms);
                let message = self.under_way.remove(at);
                self.members[message.to].receive(message.on, &message.bytes, self.now_ms);
            } else if tick <= end {
                self.now_ms = tick;
                for member in &mut self.members {
                    if self.chatter
                        && tick.is_multiple_of(1_000)
                        && let Some(frame) = member.seal(PathId::LANES, b"chatter")
                    {
                        member.out.push_back((Carrier::Lanes, frame));
                    }
                    member.tick(tick);
                }
            } else {
                self.now_ms = end;
                return;
            }
            self.collect(fate);
        }
    }

    /// A packet each way arrives over the sessions in use.
    pub(super) fn assert_works(&mut self) {
        for from in 0..2 {
            let packet = self.now_ms.to_le_bytes();
            let frame = self.members[from].seal(PathId::LANES, &packet).expect("a session");
            let before = self.members[1 - from].got.len();
            self.members[1 - from].receive(Carrier::Lanes, &frame, self.now_ms);
            assert_eq!(self.members[1 - from].got.get(before).map(Vec::as_slice), Some(&packet[..]), "from {from}");
        }
    }

    /// Both seal with the same session: each frame of one opens with what the other one seals with.
    pub(super) fn assert_one_session(&mut self) {
        for from in 0..2 {
            let frame = self.members[from].seal(PathId::LANES, b"which").expect("a session");
            assert_eq!(RxHalf::index_of(&frame).ok(), self.members[1 - from].using, "from {from}");
        }
    }
}

/// Everything arrives after ten milliseconds.
pub(super) fn well(_: &UnderWay) -> Vec<u64> {
    vec![10]
}
