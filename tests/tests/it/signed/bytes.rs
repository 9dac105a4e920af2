//! Bytes of statements: every bit, every field, every other spelling, kind, signer and network. None is believed.

use ed25519_dalek::Signer as _;
use shoal_protocol::Signed;
use shoal_tests::budget::say;

use super::cbor::{Twist, changed, count, parse, twists, write};
use super::*;

/// Longest envelope of a golden statement.
const LONGEST: usize = 4096;

/// Every golden payload with its kind and its right envelope.
fn goods() -> Vec<(&'static Kind, Vec<u8>, Signed)> {
    let of = |kind: &'static Kind| {
        kind.payloads().into_iter().map(move |payload| {
            let good = sealed(kind.context, &network(), &payload, &key(1));
            assert!((kind.verifies_by)(&good, &public(&key(1)), &network()), "{}", kind.name);
            (kind, payload, good)
        })
    };
    ALL.iter().flat_map(of).collect()
}

/// Whether these bytes are an envelope anybody believes, as this kind or as any other.
fn is_believed(bytes: &[u8]) -> bool {
    let Ok(signed) = Signed::from_bytes(bytes, LONGEST) else { return false };
    ALL.iter().any(|kind| (kind.verifies)(&signed, &network()))
}

#[test]
fn every_flipped_bit_of_every_kind_is_refused() {
    let mut tried = 0;
    for (kind, _, good) in goods() {
        let mut bytes = good.to_bytes();
        assert!(is_believed(&bytes), "{}", kind.name);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let believed = Signed::from_bytes(&bytes, LONGEST).is_ok_and(|it| (kind.verifies)(&it, &network()));
            assert!(!believed, "{}: bit {bit}", kind.name);
            bytes[bit / 8] ^= 1 << (bit % 8);
            tried += 1;
        }
        for end in 0..bytes.len() {
            assert!(!is_believed(&bytes[..end]), "{}: cut at {end}", kind.name);
            tried += 1;
        }
    }
    say(&format!("signed: {tried} flipped bits and cuts of {} statements, 0 accepted", goods().len()));
    assert!(tried > 15_000, "{tried}");
}

#[test]
fn every_changed_field_of_every_kind_is_refused() {
    let (owner, thief) = (key(1), key(2));
    let mut tried = 0;
    for (kind, payload, good) in goods() {
        let signature = owner.sign(&message(kind.context, &network(), &payload)).to_bytes();
        assert_eq!(envelope(&payload, &public(&owner), &signature), good.to_bytes());
        let others = changed(&parse(&payload));
        assert!(others.len() >= 10, "{}: {} changes", kind.name, others.len());
        for other in others {
            let other = write(&other, None);
            let by_thief = thief.sign(&message(kind.context, &network(), &other)).to_bytes();
            // Under the old signature; under a thief's, with the owner's key written beside it; under a thief's own.
            for (claimed, signature) in [(&owner, &signature), (&owner, &by_thief), (&thief, &signature)] {
                assert!(!is_believed(&envelope(&other, &public(claimed), signature)), "{}", kind.name);
            }
            let own = sealed(kind.context, &network(), &other, &thief);
            assert!(!(kind.verifies_by)(&own, &public(&owner), &network()), "{}: by another", kind.name);
            tried += 4;
        }
    }
    say(&format!("signed: {tried} changed fields, 0 accepted"));
    assert!(tried > 1_000, "{tried}");
}

#[test]
fn no_kind_passes_for_another_or_in_another_network() {
    let mut tried = 0;
    for (kind, payload, good) in goods() {
        for other in ALL.iter().filter(|other| other.context != kind.context) {
            assert!(!(other.verifies)(&good, &network()), "{} read as {}", kind.name, other.name);
            // Even a signer who takes the wrong context on purpose makes no statement of it: the payloads differ.
            let under = sealed(other.context, &network(), &payload, &key(1));
            assert!(!(kind.verifies)(&under, &network()), "{} under {}", kind.name, other.context);
            assert!(!(other.verifies)(&under, &network()), "a payload of {} as {}", kind.name, other.name);
            tried += 3;
        }
        for network in other_networks() {
            assert!(!(kind.verifies)(&good, &network), "{} in another network", kind.name);
            let foreign = sealed(kind.context, &network, &payload, &key(1));
            assert!(!(kind.verifies)(&foreign, &self::network()), "{} of another network", kind.name);
            tried += 2;
        }
        // Context and network without the length between them, or without one of the two.
        let message = message(kind.context, &network(), &payload);
        let (length, context) = (8, kind.context.len());
        for cut in [0..length, length..length + context, length + context..length + context + 32] {
            let mut less = message.clone();
            less.drain(cut);
            let signature = key(1).sign(&less).to_bytes();
            assert!(!is_believed(&envelope(&payload, &public(&key(1)), &signature)), "{}", kind.name);
            tried += 1;
        }
    }
    say(&format!("signed: {tried} other kinds, contexts and networks, 0 accepted"));
}

#[test]
fn no_second_spelling_of_any_kind_is_read_even_rightly_signed() {
    let mut tried = 0;
    for (kind, payload, good) in goods() {
        let tree = parse(&payload);
        for (at, twist) in (0..count(&tree)).flat_map(|at| twists().map(move |twist| (at, twist))) {
            let other = write(&tree, Some((at, twist)));
            // Without its last element, a list, or a statement with an optional field there, is another statement.
            let is_other = twist == Twist::Short && (kind.is_payload)(&other);
            if other == payload || is_other {
                continue;
            }
            let signed = sealed(kind.context, &network(), &other, &key(1));
            assert!(!(kind.verifies)(&signed, &network()), "{}: {twist:?} of item {at}", kind.name);
            tried += 1;
        }
        let long = [&payload[..], &[0]].concat();
        assert!(!(kind.verifies)(&sealed(kind.context, &network(), &long, &key(1)), &network()), "{}", kind.name);
        let huge = vec![0; kind.limit + 1];
        assert!(!(kind.verifies)(&sealed(kind.context, &network(), &huge, &key(1)), &network()), "{}", kind.name);

        let tree = parse(&good.to_bytes());
        for (at, twist) in (0..count(&tree)).flat_map(|at| twists().map(move |twist| (at, twist))) {
            let other = write(&tree, Some((at, twist)));
            if other != good.to_bytes() {
                assert!(!is_believed(&other), "{}: {twist:?} of item {at} of the envelope", kind.name);
                tried += 1;
            }
        }
    }
    say(&format!("signed: {tried} second spellings, rightly signed, 0 accepted"));
    assert!(tried > 2_000, "{tried}");
}
