//! Shard bytes from nodes that may lie: verified slices, audits, and the client's half of a transfer.

use std::ops::Range;

use bytes::Bytes;
use shoal_client::net::probe;
use shoal_client::pipeline::{SliceVerifier, encode_ranges};
use shoal_client::transfer::TransferError;
use shoal_client::transport::{Meter, RetrieveJob, StoreJob};
use shoal_protocol::audit::{AuditParties, AuditRequest, Challenge, leaf_ranges, positions};
use shoal_protocol::codec;
use shoal_protocol::lane::{RetrieveTrailer, StoreReply, encode_abort, encode_end, encode_message};
use shoal_protocol::limits::{AUDIT_SLICES_MAX, TRANSFER_SILENCE_MS};
use shoal_protocol::receipt::{ByteRange, Receipt, RefusalStatement, ServeStatement};
use shoal_protocol::{BootEpoch, GroupId, NodeId, Nonce, Refusal, ReservationId, ShardId, Signed, UnixMillis};

use super::input::{Input, Pieces, golden, join};
use super::runtime;
use super::statements::{key, network, node};
use crate::sample;

const REQUESTS: &str = include_str!("../../../protocol/golden/requests.hex");
/// Longest shard here: three levels of the tree, and a part of a group at the end.
const LENGTH_MAX: usize = 70_000;
const NONCE: Nonce = Nonce::from_bytes([0x4e; 16]);

/// A shard and ranges of it that may be asked for.
fn shard_and_ranges(input: &mut Input<'_>) -> (Vec<u8>, Vec<ByteRange>) {
    let shard =
        sample::bytes(u64::from(input.byte()), 1 + usize::try_from(input.long() % LENGTH_MAX as u64).unwrap_or(0));
    let mut ranges: Vec<ByteRange> = Vec::new();
    for _ in 0..1 + input.below(4) {
        let from = ranges.last().map_or(0, |last| last.end as usize + 1);
        let Some(room) = shard.len().checked_sub(from).filter(|room| *room > 0) else { break };
        let start = from + input.below(room);
        let end = start + 1 + usize::try_from(input.long() % (shard.len() - start) as u64).unwrap_or(0);
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        ranges.push(ByteRange { start: narrow(start), end: narrow(end) });
    }
    (shard, ranges)
}

fn wide(ranges: &[ByteRange]) -> Vec<Range<u64>> {
    ranges.iter().map(|range| u64::from(range.start)..u64::from(range.end)).collect()
}

/// A shard, ranges, lengths of pieces and edits: the answer of a node, changed, cut anywhere. Not one wrong byte comes
/// out, and a changed answer is never complete.
pub fn slice(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (shard, ranges) = shard_and_ranges(&mut input);
    let (ranges, id) = (wide(&ranges), ShardId::of(&shard));
    let Ok(mut answer) = encode_ranges(&shard, &ranges) else { panic!("ranges of a shard are refused") };
    let lengths = input.bytes(16);
    let changed = input.edit(&mut answer, 3);
    let Ok(mut verifier) = SliceVerifier::new(id, shard.len() as u64, &ranges) else { panic!("the same are refused") };
    let (mut pieces, mut from, mut refused) = (Pieces::new(&answer, lengths), 0u64, false);
    loop {
        let mut piece = Bytes::copy_from_slice(pieces.take(usize::MAX));
        if piece.is_empty() || refused {
            break;
        }
        while !piece.is_empty() {
            match verifier.push(&mut piece) {
                Ok(None) => {}
                Ok(Some(good)) => {
                    assert!(good.offset >= from && good.bytes.len() <= 16 * 1024, "pieces overlap");
                    from = good.offset + good.bytes.len() as u64;
                    let at = usize::try_from(good.offset).unwrap_or(usize::MAX);
                    assert_eq!(shard.get(at..at + good.bytes.len()), Some(&good.bytes[..]), "a wrong byte");
                }
                Err(error) => {
                    assert!(changed, "a good answer is refused: {error}");
                    assert_eq!(verifier.push(&mut Bytes::from_static(b"x")), Err(error), "goes on after a wrong byte");
                    refused = true;
                    break;
                }
            }
        }
    }
    let complete = verifier.is_complete() && !refused;
    assert_eq!(complete, !changed, "complete: {complete}, changed: {changed}");
    assert_eq!(verifier.finish().is_ok(), complete);
    complete
}

fn head(seed: u8, length: u64, ranges: &[(u16, u64)]) -> Vec<u8> {
    let mut out = vec![seed];
    out.extend((length - 1).to_le_bytes());
    out.extend(u16::try_from(ranges.len() - 1).unwrap_or(0).to_le_bytes());
    for (skip, length) in ranges {
        out.extend(skip.to_le_bytes());
        out.extend((length - 1).to_le_bytes());
    }
    out
}

pub(super) fn slices() -> Vec<Vec<u8>> {
    vec![
        join(&head(1, 65_536, &[(0, 65_536)]), &[0, 0, 0, 0]),
        join(&head(2, 70_000, &[(100, 5000), (20_000, 17)]), &[2, 0, 7, 200, 0, 0]),
        join(&head(3, 1, &[(0, 1)]), &[1, 0, 1, 0, 0]),
        join(&head(4, 20_000, &[(0, 20_000)]), &[0, 0, 1, 0, 99, 0, 0, 1]),
        join(&head(5, 20_000, &[(9, 200)]), &[0, 0, 1, 0, 40, 0, 1]),
    ]
}

/// An audit request: what it asks of the shard is within it and bounded, whatever length it claims.
pub fn audit(data: &[u8]) -> bool {
    let Ok(request) = codec::decode::<AuditRequest>(data, 1024) else { return false };
    assert_eq!(codec::encode(&request), data, "a second spelling");
    if let Challenge::Slices { seed, count } = &request.challenge {
        let (network, auditor, node) = (network(), node(1), node(2));
        let parties = AuditParties { network: &network, auditor: &auditor, node: &node };
        let leaves = positions(parties, seed, &request.shard, request.length, *count);
        let there = request.length.div_ceil(1024);
        assert_eq!(leaves.len(), AUDIT_SLICES_MAX.min(usize::from(*count)).min(there as usize));
        assert!(leaves.is_sorted_by(|a, b| a < b) && leaves.iter().all(|leaf| *leaf < there));
        let ranges = leaf_ranges(&leaves, request.length);
        assert!(ranges.iter().all(|range| range.start < range.end && range.end <= request.length));
        assert!(SliceVerifier::new(request.shard, u64::from(request.length), &wide(&ranges)).is_ok());
    }
    true
}

pub(super) fn audits() -> Vec<Vec<u8>> {
    // Within a request they stand behind its array head and number, and its array of one.
    let requests = golden(REQUESTS, |name| name.starts_with("audit"));
    requests.iter().filter_map(|request| Some(request.get(3..).or(request.get(2..))?.to_vec())).chain(own()).collect()
}

fn own() -> Vec<Vec<u8>> {
    let challenges = [Challenge::Slices { seed: [1; 32], count: 32 }, Challenge::Whole { challenge: [2; 32] }];
    let request = |(length, challenge)| AuditRequest { shard: ShardId::of(b"x"), length, challenge, nonce: NONCE };
    [1, 4 << 20].into_iter().zip(challenges).map(request).map(|request| codec::encode(&request)).collect()
}

/// What a node answers to a RETRIEVE: the right answer in frames of any length, with edits, a statement that may be
/// wrong, or an abort. The client gets the bytes it asked for, or an error; never others.
pub fn client_retrieve(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (shard, ranges) = shard_and_ranges(&mut input);
    let id = ShardId::of(&shard);
    let Ok(answer) = encode_ranges(&shard, &wide(&ranges)) else { panic!("ranges of a shard are refused") };
    let how = input.byte();
    let (frames, lengths) = (input.bytes(8), input.bytes(8));
    let mut stream = Vec::new();
    // Frames and pieces that end within groups, parents and words, but not by the thousand.
    let mut cut = Pieces::new(&answer, frames).in_units_of(61);
    loop {
        let piece = cut.take(65_536);
        if piece.is_empty() {
            break;
        }
        stream.extend(u32::try_from(piece.len()).unwrap_or(u32::MAX).to_be_bytes());
        stream.extend_from_slice(piece);
    }
    let statement = ServeStatement {
        shard: if how & 1 == 0 { id } else { ShardId::of(b"another") },
        ranges: ranges.clone(),
        sent: answer.len() as u64,
        requester: node(1),
        boot_epoch: BootEpoch(1),
        nonce: if how & 2 == 0 { NONCE } else { Nonce::from_bytes([0; 16]) },
        time: UnixMillis(0),
    };
    let signer = key(if how & 4 == 0 { 2 } else { 3 });
    let trailer = RetrieveTrailer { statement: Signed::seal(&statement, &signer, &network()) };
    if how & 8 == 0 {
        stream.extend(encode_end(&trailer));
    } else {
        stream.extend(encode_abort(Refusal::Busy));
    }
    let changed = input.edit(&mut stream, 3);

    let length = u32::try_from(shard.len()).unwrap_or(u32::MAX);
    let meter = Meter::default();
    let job = RetrieveJob { shard: id, length, ranges: ranges.clone(), nonce: NONCE, meter };
    let (network, identity) = (network(), key(1));
    let parties: (_, NodeId, _, _) = (&network, node(2), &identity, UnixMillis(0));
    let mut pieces = Pieces::new(&stream, lengths).in_units_of(37);
    let (result, _) = runtime().block_on(probe::retrieve(&mut pieces, &job, parties));
    let honest = how & 15 == 0;
    match &result {
        Ok(bytes) => {
            let wanted: Vec<u8> =
                ranges.iter().flat_map(|range| &shard[range.start as usize..range.end as usize]).copied().collect();
            assert_eq!(bytes[..], wanted[..], "other bytes than were asked for");
            // Bytes behind the trailer are the next transfer's.
            assert!(honest, "a statement about something else, or by another, counts");
        }
        Err(error) => assert!(!honest || changed, "a good answer is refused: {error}"),
    }
    result.is_ok()
}

pub(super) fn retrievals() -> Vec<Vec<u8>> {
    let whole = head(1, 40_000, &[(0, 40_000)]);
    let parts = head(2, 70_000, &[(100, 5000), (20_000, 17)]);
    let mut out = vec![join(&whole, &[0, 0, 0, 0, 0, 0, 0]), join(&parts, &[0, 2, 0, 200, 90, 1, 0, 50, 0, 0])];
    out.extend([1, 2, 4, 8].map(|how| join(&whole, &[how, 0, 0, 0, 0, 0, 0])));
    out.push(join(&parts, &[0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 1]));
    out
}

/// What a node answers to a STORE: receipt, refusal, or anything. What is handed on as a receipt was an envelope on the
/// wire; a refusal counts only from this node and for this request.
pub fn client_store(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (how, lengths) = (input.byte(), input.bytes(8));
    let shard = sample::bytes(9, 1 + input.below(3000));
    let nonce = if how & 1 == 0 { NONCE } else { Nonce::from_bytes([0; 16]) };
    let signer = key(if how & 2 == 0 { 2 } else { 3 });
    let (id, boot_epoch, time) = (ShardId::of(&shard), BootEpoch(1), UnixMillis(0));
    let reply = if how & 4 == 0 {
        let group = GroupId::from_bytes([1; 32]);
        let length = u32::try_from(shard.len()).unwrap_or(u32::MAX);
        let receipt = Receipt { shard: id, length, group, expires: time, boot_epoch, nonce, time };
        StoreReply::Kept(Signed::seal(&receipt, &signer, &network()))
    } else {
        let refusal = RefusalStatement { reason: Refusal::NoSpace, retry_after_ms: 5, boot_epoch, nonce, time };
        StoreReply::Refused(Signed::seal(&refusal, &signer, &network()))
    };
    let mut stream = if how & 8 == 0 { encode_message(&reply) } else { Vec::new() };
    let changed = input.edit(&mut stream, 3);
    stream.extend_from_slice(input.rest());
    let (reservation, bytes) = (ReservationId(1), shard.into());
    let job = StoreJob { reservation, boot_epoch, nonce: NONCE, shard: id, bytes, silence_ms: TRANSFER_SILENCE_MS };
    let (network, identity) = (network(), key(1));
    let parties = (&network, node(2), &identity, time);
    let (result, _) = runtime().block_on(probe::store(&mut Pieces::new(&stream, lengths), &job, parties));
    match &result {
        Ok(signed) => {
            let envelope = signed.to_bytes();
            assert!(stream.windows(envelope.len()).any(|window| window == envelope), "a receipt nobody sent");
        }
        Err(TransferError::Refused { .. }) => assert!(changed || how & 11 == 0, "a refusal of another request counts"),
        Err(_) => {}
    }
    assert!(changed || how & 12 != 0 || result.is_ok(), "a receipt is not handed on");
    result.is_ok()
}

pub(super) fn stores() -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = [0, 4, 5, 6, 7].iter().map(|how| vec![*how, 0, 0, 200, 3, 0, 0]).collect();
    out.push(vec![0, 2, 0, 1, 9, 200, 3, 1, 0, 30, 0, 0, 1]);
    out.push(vec![8, 0, 0, 9, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]);
    out
}
