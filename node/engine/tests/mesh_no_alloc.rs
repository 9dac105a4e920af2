//! The packet half takes no memory: an allocator that counts sees none taken while packets go out and come in. One test in
//! a binary of its own, so that nobody else allocates meanwhile.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

mod common;

use common::{Ip, Segment, icmp};
use peak_alloc::PeakAlloc;
use shoal_engine::mesh::flow::{FlowSeed, FlowTable};
use shoal_engine::mesh::packet::icmp::{quoted, too_big};
use shoal_engine::mesh::packet::join::{JOIN_BYTES, Join, Joined};
use shoal_engine::mesh::packet::offload::{complete, ingest, rebuild};
use shoal_engine::mesh::packet::split::{Limits, Prepared, prepare};
use shoal_engine::mesh::packet::virtio::{Form, VirtioHeader};
use shoal_engine::mesh::packet::{Parsed, ecn};
use shoal_engine::mesh::policy::{Direction, Document, Local, Snapshot, Subject};
use shoal_engine::mesh::qos::Rate;
use shoal_engine::mesh::qos::limits::PeerRates;
use shoal_engine::mesh::qos::{Limiter, Protocol, Queue, classify};
use shoal_engine::mesh::relay::Relay;
use shoal_protocol::NodeId;
use shoal_protocol::mesh::class::Class;
use shoal_protocol::mesh::meta::Meta;
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::relay::RelayHeader;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const RATE: Rate = Rate { bytes_per_second: 1 << 40, burst: 1 << 40 };

/// Everything with memory of its own, made before.
struct Machine {
    flows: FlowTable,
    seed: FlowSeed,
    queue: Queue<(usize, usize)>,
    limits: Limiter<()>,
    relay: Relay,
    policy: Snapshot,
    ends: [Subject; 2],
    peer: PeerHash,
    out: Vec<u8>,
}

impl Machine {
    fn new() -> Self {
        let (seed, peer) = (FlowSeed::new([3; 16]), PeerHash::new([2; 10]));
        let document = Document::parse(
            "version = 1\n[[rules]]\nname = \"r\"\naction = \"allow\"\nfrom = [\"*\"]\nto = [\"*\"]\nports = [\"80\"]\n\
             [[exits]]\npeers = [\"*\"]\nusers = [\"*\"]\nallow_lan = [\"10.0.0.0/8\"]\n\
             [[segments]]\nname = \"s\"\nmembers = [\"*\"]\nmode = \"strict\"\n",
        );
        let policy = Snapshot::compile(&document.unwrap(), Local::default(), 1).unwrap();
        let end = |n: u8| {
            let v6 = format!("fd00::{n}").parse().unwrap();
            policy.subject(NodeId::from_bytes([n; 32]), true, Some([10, 0, 0, n].into()), v6)
        };
        let ends = [end(1), end(2)];
        let (mut limits, mut relay) = (Limiter::default(), Relay::new(PeerHash::new([1; 10])));
        limits.set(PeerRates { all: Some(1 << 40), protocols: [Some(1 << 40); 4] });
        relay.grant(peer, RATE, 0);
        let (flows, queue) = (FlowTable::new(seed), Queue::new(125_000_000));
        Self { flows, seed, queue, limits, relay, policy, ends, peer, out: vec![0; 66_000] }
    }

    /// A super-packet on its way out, to the packets of a far side without offloads.
    fn send(&mut self, header: &VirtioHeader, packet: &mut [u8], now_us: u64) -> usize {
        let (parsed, meta) = ingest(header, packet).unwrap();
        let tuple = parsed.tuple();
        let [own, far] = self.ends;
        assert!(self.policy.decide(&own, &far, &tuple, Direction::Outbound, false).is_allowed);
        self.flows.allowed(self.peer, &tuple, parsed.tcp_flags(), 1, now_us / 1000);
        let reply = self.flows.is_reply(self.peer, &tuple.reversed(), Some(0x10), 1, now_us / 1000);
        assert!(reply && self.policy.decide(&far, &own, &tuple.reversed(), Direction::Inbound, true).is_allowed);
        assert!(self.limits.passes(Protocol::of(parsed.protocol), packet.len(), now_us));
        let hash = self.seed.both_ways(&tuple) ^ u64::from(self.seed.label(&tuple));
        for n in 0..40 {
            self.queue.push(
                (n, packet.len()),
                (classify(&parsed), hash + n as u64 % 3, packet.len()),
                now_us,
                |_, _| {},
            );
        }
        let later_us = now_us + 500_000;
        while self.queue.pop(later_us, |item| item.0 % 2 == 0, |_, _| {}).is_some() {}
        let limits = Limits { max_packet: 1400, far: Offloads::default() };
        let Prepared::Split(mut split) = prepare(packet, &parsed, meta, limits).unwrap() else { panic!("whole") };
        let mut pieces = 0;
        while let Some((length, meta)) = split.next(packet, &mut self.out).unwrap() {
            let piece = &mut self.out[..length];
            ecn::mark(piece);
            let (parsed, header) = rebuild(meta, piece).unwrap();
            header.write(Form::Long, &mut [0; 12]).unwrap();
            complete(piece, &parsed).unwrap();
            pieces += 1;
        }
        let own = if parsed.source.is_ipv4() { "10.0.0.9" } else { "fd00::9" }.parse().unwrap();
        let length = too_big(packet, &parsed, own, 1300, &mut self.out).unwrap();
        let answer = Parsed::of(&self.out[..length]).unwrap();
        let about = quoted(&self.out[..length], &answer).unwrap();
        assert!(self.flows.is_about(self.peer, &about, 1, now_us / 1000));
        pieces
    }

    fn relay(&mut self, frame: &mut [u8], now_us: u64) {
        let next = PeerHash::new([4; 10]);
        assert!(self.relay.handle_frame(frame, &self.peer, now_us, |_, _| Some(next)).is_ok());
    }
}

#[test]
fn packets_take_no_memory() {
    let segment = Segment { sequence: 1, flags: 0x18, urgent: 0, options: vec![1; 12], payload: vec![7; 60_000] };
    let packets = [Ip::v4().with_options(), Ip::v6().with_options()].map(|ip| {
        let gso_type = if ip.source.is_ipv4() { 1 } else { 4 };
        let header = VirtioHeader { flags: 1, gso_type, segment_size: 1200, ..VirtioHeader::default() };
        (header, segment.packets(&Ip { traffic_class: 2, ..ip }).1)
    });
    let header = RelayHeader {
        class: Class::Bulk,
        hop_limit: 16,
        flow_label: 1,
        destination: PeerHash::new([9; 10]),
        source: PeerHash::new([2; 10]),
    };
    let frames = vec![[&header.to_bytes()[..], &[0; 1000]].concat(); 101];
    let echo = icmp(&Ip::v6(), 128, 0, &[0; 400]);
    let parts = [1, 1_001].map(|sequence| {
        let segment = Segment { sequence, flags: 0x10, urgent: 0, options: vec![], payload: vec![7; 1_000] };
        segment.packets(&Ip::v6()).0
    });
    let (mut join, mut joined) = (Join::new(), vec![0; JOIN_BYTES]);
    let (mut machine, mut packets, mut frames) = (Machine::new(), packets, frames);
    let mut pieces = 0;

    // The allocator counts for the whole process: the harness, which notes that this test runs, is done by then.
    std::thread::sleep(std::time::Duration::from_millis(100));
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    for (round, frame) in (0..100).zip(&mut frames) {
        for (header, packet) in &mut packets {
            pieces += machine.send(header, packet, round * 1_000_000);
        }
        machine.relay(frame, round);
        for part in &parts {
            let parsed = Parsed::of(part).unwrap();
            assert_eq!(join.push(part, &parsed, Meta::COMPLETE, &mut joined), Ok(Joined::Open));
        }
        assert!(join.finish(&mut joined).is_ok_and(|one| one.is_some_and(|(length, _)| length == 2_060)));
        assert_eq!(Meta::from_bytes(Meta::COMPLETE.to_bytes()), Ok(Meta::COMPLETE));
        assert!(Parsed::of(&echo).is_ok());
    }
    let (peak, after) = (ALLOCATOR.peak_usage(), ALLOCATOR.current_usage());

    assert_eq!((peak, after), (before, before), "bytes taken");
    assert_eq!(pieces, 2 * 100 * 50);
    let counted = std::hint::black_box(vec![0u8; 4096]);
    assert!(ALLOCATOR.peak_usage() > before, "the allocator counts, see {}", counted.len());
}
