//! Cheating nodes against the judge: statements and answers changed, replayed, taken from elsewhere, guessed; and the
//! bytes of transcripts.

use std::ops::Range;

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use shoal_protocol::audit::{
    AuditParties, AuditRequest, AuditStatement, Challenge, answer_digest, leaf_ranges, positions, whole_answer,
};
use shoal_protocol::{
    BootEpoch, FileId, NetworkId, NodeId, Nonce, Refusal, SegmentNumber, ShardId, Signed, UnixMillis,
};

use super::*;
use crate::pipeline::encode_ranges;
use crate::transfer::TransferError;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const IN_TIME: Timing = Timing { now: NOW, took_ms: 10, allowed_ms: 6000 };

fn network() -> NetworkId {
    NetworkId::from_bytes([3; 32])
}

fn node_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn id(key: &SigningKey) -> NodeId {
    NodeId::from_bytes(key.verifying_key().to_bytes())
}

fn auditor() -> NodeId {
    NodeId::from_bytes([9; 32])
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn slices(shard: &[u8], seed: u8, count: u8) -> AuditRequest {
    request(shard, Challenge::Slices { seed: [seed; 32], count })
}

fn request(shard: &[u8], challenge: Challenge) -> AuditRequest {
    let length = u32::try_from(shard.len()).unwrap();
    AuditRequest { shard: ShardId::of(shard), length, challenge, nonce: Nonce::from_bytes([4; 16]) }
}

/// The leaves of a request when these two talk.
fn leaves(request: &AuditRequest, network: &NetworkId, auditor: &NodeId, node: &NodeId) -> Vec<u32> {
    let Challenge::Slices { seed, count } = &request.challenge else { panic!("asks for leaves") };
    positions(AuditParties { network, auditor, node }, seed, &request.shard, request.length, *count)
}

fn encoded(shard: &[u8], leaves: &[u32]) -> Vec<u8> {
    let ranges: Vec<Range<u64>> = leaf_ranges(leaves, u32::try_from(shard.len()).unwrap())
        .iter()
        .map(|range| u64::from(range.start)..u64::from(range.end))
        .collect();
    encode_ranges(shard, &ranges).unwrap()
}

/// What an honest node answers.
fn answer(shard: &[u8], request: &AuditRequest) -> Vec<u8> {
    match &request.challenge {
        Challenge::Whole { challenge } => whole_answer(challenge, shard).to_vec(),
        Challenge::Slices { .. } => encoded(shard, &leaves(request, &network(), &auditor(), &id(&node_key()))),
    }
}

fn statement(request: &AuditRequest, answer: &[u8]) -> AuditStatement {
    AuditStatement {
        request: request.clone(),
        digest: answer_digest(answer),
        auditor: auditor(),
        boot_epoch: BootEpoch(7),
        time: NOW,
    }
}

fn signed(statement: &AuditStatement) -> Signed {
    Signed::seal(statement, &node_key(), &network())
}

/// An answer the node signs, whatever it is.
fn says(request: &AuditRequest, answer: Vec<u8>) -> Outcome {
    Outcome::Answered { statement: signed(&statement(request, &answer)), answer }
}

fn judged(request: &AuditRequest, outcome: &Outcome) -> Verdict {
    judged_at(request, outcome, None, IN_TIME)
}

fn judged_at(request: &AuditRequest, outcome: &Outcome, token: Option<[u8; 16]>, timing: Timing) -> Verdict {
    let (network, auditor, node) = (network(), auditor(), id(&node_key()));
    judge(&Question { network: &network, auditor: &auditor, node: &node, request, token }, outcome, timing)
}

#[test]
fn honest_answers_are_proved_at_every_length() {
    for length in [1, 1023, 1024, 1025, 16_383, 16_384, 16_385, 65_536, 100_000, 300_000] {
        let shard = noise(1, length);
        for count in [1, 2, 31, 32] {
            let request = slices(&shard, 5, count);
            assert_eq!(
                judged(&request, &says(&request, answer(&shard, &request))),
                Verdict::Proved,
                "{length} {count}"
            );
        }
    }
}

#[test]
fn every_flipped_bit_of_a_statement_is_refused() {
    let shard = noise(2, 20_000);
    let request = slices(&shard, 5, 3);
    let answer = answer(&shard, &request);
    let bytes = signed(&statement(&request, &answer)).to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let Ok(statement) = Signed::from_bytes(&bad, 2048) else { continue };
        let verdict = judged(&request, &Outcome::Answered { statement, answer: answer.clone() });
        assert!(matches!(verdict, Verdict::Lied(Lie::Forged(_))), "bit {bit}: {verdict:?}");
    }
}

#[test]
fn every_field_of_a_statement_binds_even_under_the_nodes_signature() {
    let shard = noise(2, 20_000);
    let asked = slices(&shard, 5, 3);
    let honest = answer(&shard, &asked);
    let good = statement(&asked, &honest);
    let with = |statement: AuditStatement| {
        judged(&asked, &Outcome::Answered { statement: signed(&statement), answer: honest.clone() })
    };
    assert_eq!(with(good.clone()), Verdict::Proved);
    let other = |request: AuditRequest| AuditStatement { request, ..good.clone() };
    for request in [
        AuditRequest { shard: ShardId::of(b"other"), ..asked.clone() },
        AuditRequest { length: 20_001, ..asked.clone() },
        AuditRequest { nonce: Nonce::from_bytes([5; 16]), ..asked.clone() },
        slices(&shard, 6, 3),
        slices(&shard, 5, 4),
        request(&shard, Challenge::Whole { challenge: [5; 32] }),
    ] {
        assert_eq!(with(other(request)), Verdict::Lied(Lie::Request));
    }
    assert_eq!(with(AuditStatement { auditor: id(&node_key()), ..good.clone() }), Verdict::Lied(Lie::Auditor));
    assert_eq!(with(AuditStatement { digest: [0; 32], ..good.clone() }), Verdict::Lied(Lie::Digest));
    for time in [NOW.0 - 120_001, NOW.0 + 120_001] {
        let verdict = with(AuditStatement { time: UnixMillis(time), ..good.clone() });
        assert_eq!(verdict, Verdict::Unknown(Doubt::Clock { said: UnixMillis(time), now: NOW }));
    }
    let forged = |statement: Signed| judged(&asked, &Outcome::Answered { statement, answer: honest.clone() });
    let stranger = SigningKey::from_bytes(&[8; 32]);
    for statement in
        [Signed::seal(&good, &stranger, &network()), Signed::seal(&good, &node_key(), &NetworkId::from_bytes([4; 32]))]
    {
        assert!(matches!(forged(statement), Verdict::Lied(Lie::Forged(_))));
    }
}

#[test]
fn a_cached_answer_is_worthless_for_any_other_question() {
    let shard = noise(3, 200_000);
    let first = slices(&shard, 1, 8);
    let (cached, proof) = (answer(&shard, &first), signed(&statement(&first, &answer(&shard, &first))));
    let replayed = Outcome::Answered { statement: proof, answer: cached.clone() };
    assert_eq!(judged(&first, &replayed), Verdict::Proved);
    // Replayed as it was.
    for second in [slices(&shard, 2, 8), AuditRequest { nonce: Nonce::from_bytes([5; 16]), ..first.clone() }] {
        assert_eq!(judged(&second, &replayed), Verdict::Lied(Lie::Request));
    }
    let (network_of, auditor_of, node_of) = (network(), auditor(), id(&node_key()));
    let other = SigningKey::from_bytes(&[8; 32]);
    let (other_network, other_node) = (NetworkId::from_bytes([4; 32]), id(&other));
    let good = Question { network: &network_of, auditor: &auditor_of, node: &node_of, request: &first, token: None };
    let elsewhere = [
        Question { network: &other_network, ..good },
        Question { auditor: &other_node, ..good },
        Question { node: &other_node, ..good },
    ];
    for question in elsewhere {
        assert!(matches!(judge(&question, &replayed, IN_TIME), Verdict::Lied(_)), "{question:?}");
    }
    // Signed anew for the other question, by a node that does sign for it: the leaves are others.
    let second = slices(&shard, 2, 8);
    assert!(matches!(judged(&second, &says(&second, cached.clone())), Verdict::Lied(Lie::Slices(_))));
    for question in elsewhere {
        let statement = AuditStatement { auditor: *question.auditor, ..statement(&first, &cached) };
        let signer = if *question.node == other_node { &other } else { &node_key() };
        let statement = Signed::seal(&statement, signer, question.network);
        let verdict = judge(&question, &Outcome::Answered { statement, answer: cached.clone() }, IN_TIME);
        assert!(matches!(verdict, Verdict::Lied(Lie::Slices(_))), "{question:?}: {verdict:?}");
    }
}

#[test]
fn one_seed_asks_every_pair_for_other_leaves() {
    let shard = noise(4, 2 << 20);
    let other = NodeId::from_bytes([7; 32]);
    let (network_of, node) = (network(), id(&node_key()));
    for seed in 0..64 {
        let request = slices(&shard, seed, 32);
        let own = leaves(&request, &network_of, &auditor(), &node);
        for theirs in [
            leaves(&request, &network_of, &auditor(), &other),
            leaves(&request, &network_of, &other, &node),
            leaves(&request, &NetworkId::from_bytes([4; 32]), &auditor(), &node),
        ] {
            let shared = own.iter().filter(|leaf| theirs.contains(leaf)).count();
            // 32 of 2048 leaves: half a leaf is shared by chance.
            assert!(shared <= 6, "seed {seed}: {shared} shared");
        }
    }
}

#[test]
fn other_leaves_lengths_and_cuts_are_lies_that_anybody_can_prove() {
    let shard = noise(5, 100_000);
    let request = slices(&shard, 5, 4);
    let honest = answer(&shard, &request);
    let own = leaves(&request, &network(), &auditor(), &id(&node_key()));
    let neighbours: Vec<u32> = own.iter().map(|leaf| if *leaf == 0 { 1 } else { leaf - 1 }).collect();
    let mut longer = honest.clone();
    longer.push(0);
    for bad in [encoded(&shard, &neighbours), honest[..honest.len() - 1].to_vec(), longer, vec![], vec![0; 100]] {
        let verdict = judged(&request, &says(&request, bad));
        assert!(matches!(&verdict, Verdict::Lied(lie) if lie.is_proof()), "{verdict:?}");
    }
    let flood = judged(&request, &says(&request, vec![0; 60_000]));
    assert_eq!(flood, Verdict::Lied(Lie::Length(60_000)));
    // The manifest says one length, the shard has another: it cannot be proved, whatever is sent.
    for length in [99_999, 100_001, 98_000, 1] {
        let wrong = AuditRequest { length, ..request.clone() };
        assert_ne!(judged(&wrong, &says(&wrong, honest.clone())), Verdict::Proved, "{length}");
    }
}

#[test]
fn every_changed_byte_of_an_answer_is_found() {
    let shard = noise(6, 40_000);
    let request = slices(&shard, 5, 2);
    let honest = answer(&shard, &request);
    for at in 0..honest.len() {
        let mut bad = honest.clone();
        bad[at] ^= 0x10;
        assert!(matches!(judged(&request, &says(&request, bad)), Verdict::Lied(Lie::Slices(_))), "byte {at}");
    }
}

#[test]
fn whole_answers_are_compared_with_their_token() {
    let shard = noise(7, 30_000);
    let request = request(&shard, Challenge::Whole { challenge: [5; 32] });
    let honest = answer(&shard, &request);
    let token: [u8; 16] = honest[..16].try_into().unwrap();
    let with = |bytes: &[u8], token| judged_at(&request, &says(&request, bytes.to_vec()), token, IN_TIME);
    assert_eq!(with(&honest, Some(token)), Verdict::Proved);
    assert_eq!(with(&honest, None), Verdict::Unknown(Doubt::NoToken));
    let mut other = whole_answer(&[6; 32], &shard);
    assert_eq!(with(&other, Some(token)), Verdict::Lied(Lie::Whole), "the answer of another round");
    other = whole_answer(&[5; 32], &shard[1..]);
    assert_eq!(with(&other, Some(token)), Verdict::Lied(Lie::Whole), "a byte is missing");
    assert_eq!(with(&token, Some(token)), Verdict::Lied(Lie::Whole), "the token alone is not the answer");
    assert!(!Lie::Whole.is_proof(), "who minted the token may have been wrong");
}

#[test]
fn only_a_wrong_answer_is_a_lie_and_only_the_nodes_own_word_a_loss() {
    let shard = noise(8, 5000);
    let request = slices(&shard, 5, 4);
    let refused = |reason| judged(&request, &outcome_of(&TransferError::refused(reason)));
    for reason in Refusal::ALL {
        let verdict = refused(reason);
        match reason {
            Refusal::NotFound | Refusal::Mismatch => assert_eq!(verdict, Verdict::Absent),
            Refusal::Damaged => assert_eq!(verdict, Verdict::Damaged),
            _ => assert_eq!(verdict, Verdict::Unknown(Doubt::Refused(reason))),
        }
    }
    let long = "ü".repeat(1000);
    for error in [
        TransferError::Unreachable("gone".into()),
        TransferError::Lost("reset".into()),
        TransferError::TooSlow,
        TransferError::Protocol(long),
    ] {
        let outcome = outcome_of(&error);
        assert!(matches!(&outcome, Outcome::Failed(text) if text.len() <= 256), "{outcome:?}");
        assert!(matches!(judged(&request, &outcome), Verdict::Unknown(Doubt::Failed(_))));
    }
}

#[test]
fn late_is_told_from_wrong_and_from_right() {
    let shard = noise(9, 5000);
    let request = slices(&shard, 5, 4);
    let honest = says(&request, answer(&shard, &request));
    let after = |took_ms| Timing { took_ms, ..IN_TIME };
    assert_eq!(judged_at(&request, &honest, None, after(6000)), Verdict::Proved);
    let late = Verdict::Late { took_ms: 6001, allowed_ms: 6000 };
    assert_eq!(judged_at(&request, &honest, None, after(6001)), late);
    let wrong = says(&request, vec![1, 2, 3]);
    assert!(matches!(judged_at(&request, &wrong, None, after(6001)), Verdict::Lied(_)));
}

#[test]
fn a_node_that_misses_two_in_a_hundred_leaves_is_caught() {
    let (network_of, node) = (network(), id(&node_key()));
    let shards: Vec<Vec<u8>> = (0..8).map(|n| noise(n, 64)).collect();
    let mut caught = 0;
    for trial in 0..500u32 {
        let found = shards.iter().any(|shard| {
            let seed = *blake3::hash(&[&trial.to_le_bytes()[..], shard].concat()).as_bytes();
            let parties = AuditParties { network: &network_of, auditor: &auditor(), node: &node };
            let asked = positions(parties, &seed, &ShardId::of(shard), 2 << 20, slices_for(8));
            // 41 of 2048 leaves are gone.
            asked.iter().any(|leaf| leaf % 50 == 7)
        });
        caught += u32::from(found);
    }
    // 1 - 0.98^256 = 99.4 %, standard deviation 0.34 %.
    assert!(caught >= 490, "{caught} of 500");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_but_the_honest_bytes_is_proved(
        length in 1usize..120_000,
        count in 1u8..=32,
        seed: u8,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let shard = noise(u64::from(seed), length);
        let request = slices(&shard, seed, count);
        let honest = answer(&shard, &request);
        let mut bytes = honest.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let proved = judged(&request, &says(&request, bytes.clone())) == Verdict::Proved;
        prop_assert_eq!(proved, bytes == honest);
    }
}

fn entry(node: &SigningKey, unit: u16, request: AuditRequest, outcome: Outcome) -> Entry {
    Entry {
        node: id(node),
        segment: SegmentNumber(2),
        unit,
        request,
        token: None,
        time: NOW,
        took_ms: 12,
        allowed_ms: 5014,
        outcome,
    }
}

fn transcript() -> Transcript {
    let shard = noise(10, 1500);
    let request = slices(&shard, 5, 1);
    let whole = self::request(&shard, Challenge::Whole { challenge: [6; 32] });
    let honest = answer(&shard, &whole);
    let proved = entry(&node_key(), 0, request.clone(), says(&request, answer(&shard, &request)));
    let token = Some(honest[..16].to_vec());
    let by_token = Entry { token, ..entry(&node_key(), 1, whole.clone(), says(&whole, honest)) };
    let gone = entry(&node_key(), 2, request.clone(), Outcome::Refused(Refusal::NotFound));
    let away = entry(&node_key(), 3, request, Outcome::Failed("not reachable: x".into()));
    Transcript {
        network: network(),
        auditor: auditor(),
        file: FileId::from_bytes([0xf1; 32]),
        begun: NOW,
        left_out: 1,
        entries: vec![proved, by_token, gone, away],
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.as_bytes().chunks(96).map(|line| format!("{}\n", std::str::from_utf8(line).unwrap())).collect()
}

#[test]
fn transcripts_have_the_golden_bytes_and_the_same_verdicts_again() {
    let bytes = transcript().encode();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/transcript.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, hex(&bytes)).unwrap();
        panic!("{golden} was written: read the difference, then run without UPDATE_GOLDEN");
    }
    assert_eq!(hex(&bytes), std::fs::read_to_string(golden).unwrap());
    let again = Transcript::decode(&bytes).unwrap();
    assert_eq!(again, transcript());
    let verdicts: Vec<Verdict> = again.entries.iter().map(|entry| again.verdict(entry)).collect();
    assert_eq!(verdicts[..3], [Verdict::Proved, Verdict::Proved, Verdict::Absent]);
    assert!(matches!(verdicts[3], Verdict::Unknown(_)));
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_transcript_is_refused() {
    let bytes = transcript().encode();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let error = Transcript::decode(&bad).unwrap_err();
        assert!(matches!(error, TranscriptError::Checksum | TranscriptError::Magic), "bit {bit}: {error}");
    }
    for length in 0..bytes.len() {
        assert!(Transcript::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
    let sealed_again = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = bytes[..bytes.len() - 32].to_vec();
        change(&mut body);
        let checksum = shoal_protocol::hash::derive(shoal_protocol::hash::AUDIT_TRANSCRIPT, &[&body]);
        Transcript::decode(&[body, checksum.to_vec()].concat())
    };
    assert_eq!(sealed_again(&|_| ()), Ok(transcript()));
    assert_eq!(sealed_again(&|body| body[8] = 2), Err(TranscriptError::Version(2)));
    assert!(matches!(sealed_again(&|body| body.push(0)), Err(TranscriptError::Body(_))));
    let huge = vec![0; TRANSCRIPT_MAX + 1];
    assert_eq!(Transcript::decode(&huge), Err(TranscriptError::TooLarge(TRANSCRIPT_MAX + 1)));
}

#[test]
fn a_full_transcript_keeps_what_is_not_proved() {
    let Transcript { network, auditor, file, begun, entries, .. } = transcript();
    let one = shoal_protocol::codec::encode(&entries[0]).len();
    let mut builder = TranscriptBuilder::new(network, auditor, file, begun).within(one * 4);
    for unit in 0..10 {
        builder.add(Entry { unit, ..entries[0].clone() }, &Verdict::Proved);
    }
    for unit in 10..12 {
        builder.add(Entry { unit, ..entries[0].clone() }, &Verdict::Lied(Lie::Digest));
    }
    let full = builder.finish();
    let units: Vec<u16> = full.entries.iter().map(|entry| entry.unit).collect();
    assert!(units.ends_with(&[10, 11]) && units.len() >= 3, "{units:?}");
    assert_eq!(full.left_out as usize + units.len(), 12);
    assert!(full.encode().len() <= one * 4);
}
