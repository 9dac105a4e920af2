//! One node and what it says to neighbours that behave, stay silent, forget, repeat themselves or lie. The neighbours are
//! written out by hand here; many real ones are in `tests/flood.rs`.

use shoal_protocol::UnixMillis;
use shoal_protocol::mesh::flood::{FLOOD_ITEM_MAX, FLOOD_PACE_MS, FLOOD_WINDOW, FloodAck};

use super::*;

const WALL: u64 = 1_700_000_000_000;
const DAY: u64 = 24 * 3600 * 1000;
const OWN: BootEpoch = BootEpoch(7);

fn now(uptime_ms: u64) -> Now {
    Now { wall: UnixMillis(WALL + uptime_ms), uptime_ms }
}

fn node(n: u16) -> NodeId {
    let mut bytes = [9; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn claim(signer: u16, version: u64) -> Statement {
    let signed = [&signer.to_be_bytes()[..], &version.to_be_bytes()].concat();
    Statement { kind: FloodKind::Claim, signer: node(signer), version, expires: UnixMillis(WALL + DAY), signed }
}

fn flood() -> Flood {
    Flood::new(node(0), OWN)
}

fn news(flood: &mut Flood, statement: Statement, from: Option<u16>) -> Result<(), NotKept> {
    flood.handle_news(statement, from.map(node), now(0))
}

/// Everything that goes out at this moment.
fn sends(flood: &mut Flood, at: u64) -> Vec<Send> {
    flood.handle_timeout(now(at));
    std::iter::from_fn(|| flood.poll(now(at))).collect()
}

/// The only message of this moment.
fn one(flood: &mut Flood, at: u64) -> FloodMessage {
    let mut all = sends(flood, at);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).message
}

fn said(message: &FloodMessage) -> Vec<Vec<u8>> {
    message.items.iter().map(|item| item.signed.clone()).collect()
}

fn from(n: u64, series: u64, number: u64, signed: &[u8]) -> FloodMessage {
    let items = vec![FloodItem { kind: FloodKind::Claim, signed: signed.to_vec() }];
    FloodMessage { from: BootEpoch(n), to: OWN, series, number, items, ack: None }
}

fn ack(n: u64, series: u64, through: u64) -> FloodMessage {
    let ack = Some(FloodAck { series, through });
    FloodMessage { from: BootEpoch(n), to: OWN, series: 0, number: 0, items: vec![], ack }
}

#[test]
fn a_new_neighbour_hears_everything_once_and_the_newest_of_each() {
    let mut flood = flood();
    for n in 1..=100 {
        news(&mut flood, claim(n, 1), None).unwrap();
    }
    news(&mut flood, claim(3, 2), None).unwrap();
    assert!(flood.handle_link(node(1000), BootEpoch(1)));
    let first = one(&mut flood, 0);
    assert_eq!((first.from, first.to, first.number, first.items.len()), (OWN, BootEpoch(1), 1, FLOOD_ITEMS_MAX));
    assert!(sends(&mut flood, FLOOD_PACE_MS - 1).is_empty(), "the pace");
    let second = one(&mut flood, FLOOD_PACE_MS);
    let all: BTreeSet<Vec<u8>> = said(&first).into_iter().chain(said(&second)).collect();
    assert_eq!((first.items.len() + second.items.len(), all.len()), (100, 100));
    assert!(all.contains(&claim(3, 2).signed) && !all.contains(&claim(3, 1).signed));
    flood.handle_message(node(1000), ack(1, first.series, 2), now(200)).unwrap();
    assert!((200..60_000).step_by(100).all(|at| sends(&mut flood, at).is_empty()));
}

#[test]
fn who_said_it_does_not_hear_it() {
    let mut flood = flood();
    for n in [1, 2, 3] {
        flood.handle_link(node(n), BootEpoch(1));
    }
    news(&mut flood, claim(50, 1), Some(1)).unwrap();
    flood.handle_known(FloodKind::Claim, node(50), 1, node(2));
    // What was said was older: the newest is told.
    flood.handle_known(FloodKind::Claim, node(50), 0, node(3));
    let all = sends(&mut flood, 0);
    assert_eq!(all.iter().map(|send| send.to).collect::<Vec<_>>(), [node(3)]);
    // Nor when what it said came back to it as no news.
    assert_eq!(news(&mut flood, claim(50, 1), Some(3)), Err(NotKept::Old));
    assert!(flood.due_ms() > 0);
    // Another run of it knows nothing.
    flood.handle_link(node(1), BootEpoch(2));
    assert_eq!(one(&mut flood, 10).to, BootEpoch(2));
}

#[test]
fn a_newer_statement_takes_the_place_of_one_that_waits() {
    let mut flood = flood();
    flood.handle_link(node(1), BootEpoch(1));
    for version in 1..=5 {
        news(&mut flood, claim(50, version), None).unwrap();
    }
    assert_eq!(news(&mut flood, claim(50, 4), None), Err(NotKept::Old));
    assert_eq!(said(&one(&mut flood, 0)), [claim(50, 5).signed]);
    assert_eq!(flood.len(), 1);
}

#[test]
fn what_is_not_acknowledged_is_sent_again_as_it_was_and_ever_more_rarely() {
    let mut flood = flood();
    flood.handle_link(node(1), BootEpoch(1));
    let mut sent = Vec::new();
    for at in (0..60_000).step_by(50) {
        if at % 500 == 0 {
            news(&mut flood, claim(50, at + 1), None).unwrap();
        }
        sent.extend(sends(&mut flood, at).into_iter().map(|send| (at, send.message)));
    }
    let last = sent.iter().map(|(_, message)| message.number).max().unwrap();
    assert_eq!(last, FLOOD_WINDOW, "no more in flight than the window");
    for number in 1..=last {
        let same: Vec<&FloodMessage> = sent.iter().map(|(_, message)| message).filter(|m| m.number == number).collect();
        assert!(same.len() > 3 && same.windows(2).all(|pair| pair[0] == pair[1]), "{number}: {}", same.len());
    }
    let firsts: Vec<u64> = sent.iter().filter(|(_, message)| message.number == 1).map(|(at, _)| *at).collect();
    let waits: Vec<u64> = firsts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.is_sorted() && waits.len() < 12, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= RESEND_MAX_MS + FLOOD_WINDOW * FLOOD_PACE_MS + 50), "{waits:?}");
    // The newest follows what it had to wait for.
    flood.handle_message(node(1), ack(1, sent[0].1.series, last), now(60_000)).unwrap();
    assert_eq!(said(&one(&mut flood, 60_000)), [claim(50, 59_501).signed]);
}

#[test]
fn messages_are_taken_in_order_once_and_acknowledged() {
    let mut flood = flood();
    flood.handle_link(node(1), BootEpoch(1));
    let mut take =
        |number, at| flood.handle_message(node(1), from(1, 9, number, b"x"), now(at)).map(|items| items.len());
    assert_eq!(take(2, 0), Err(NotTaken::Gap));
    assert_eq!(take(1, 1), Ok(1));
    assert_eq!(take(1, 2), Err(NotTaken::Late));
    assert_eq!(take(2, 3), Ok(1));
    assert!(sends(&mut flood, ACK_MS - 1).is_empty());
    let message = one(&mut flood, ACK_MS);
    assert_eq!((message.number, message.ack), (0, Some(FloodAck { series: 9, through: 2 })));
    assert!(sends(&mut flood, 1000).is_empty(), "said once");
    // A message takes it along.
    flood.handle_message(node(1), from(1, 9, 3, b"x"), now(1000)).unwrap();
    news(&mut flood, claim(50, 1), None).unwrap();
    let message = one(&mut flood, 1000);
    assert_eq!((message.number, message.ack), (1, Some(FloodAck { series: 9, through: 3 })));
    // Another series begins at 1; what is left of the one before is void.
    assert_eq!(flood.handle_message(node(1), from(1, 10, 1, b"x"), now(2000)).map(|items| items.len()), Ok(1));
    assert_eq!(flood.handle_message(node(1), from(1, 9, 4, b"x"), now(2000)), Err(NotTaken::Late));
}

#[test]
fn other_runs_and_strangers_are_not_heard() {
    let mut flood = flood();
    flood.handle_link(node(1), BootEpoch(1));
    assert_eq!(flood.handle_message(node(2), from(1, 1, 1, b"x"), now(0)), Err(NotTaken::NoLink));
    assert_eq!(flood.handle_message(node(1), from(2, 1, 1, b"x"), now(0)), Err(NotTaken::OtherRun));
    let before = FloodMessage { to: BootEpoch(6), ..from(1, 1, 1, b"x") };
    assert_eq!(flood.handle_message(node(1), before, now(0)), Err(NotTaken::OtherRun));
    assert!(!flood.handle_link(node(0), OWN), "itself");
    flood.handle_link_lost(node(1), now(0));
    assert_eq!(flood.handle_message(node(1), from(1, 1, 1, b"x"), now(0)), Err(NotTaken::NoLink));
}

#[test]
fn a_neighbour_that_sends_faster_than_its_pace_is_not_taken() {
    let mut flood = flood();
    flood.handle_link(node(1), BootEpoch(1));
    let mut taken = 0;
    for at in 0..10_000 {
        taken += u64::from(flood.handle_message(node(1), from(1, 1, taken + 1, b"x"), now(at)).is_ok());
    }
    let pace = 10_000 / FLOOD_PACE_MS;
    assert!((pace..=pace + 2 * FLOOD_WINDOW + 1).contains(&taken), "{taken}");
    // What it repeats costs one small answer in ACK_MS at most.
    let mut answers = 0;
    for at in 10_000..11_000 {
        assert_eq!(flood.handle_message(node(1), from(1, 1, 1, b"x"), now(at)), Err(NotTaken::Late));
        answers += sends(&mut flood, at).len() as u64;
    }
    assert!(answers <= 1000 / ACK_MS + 1, "{answers}");
}

#[test]
fn a_link_that_comes_back_goes_on_and_a_neighbour_that_forgot_hears_everything_again() {
    let mut flood = flood();
    flood.handle_link(node(1), BootEpoch(1));
    news(&mut flood, claim(50, 1), None).unwrap();
    let first = one(&mut flood, 0);
    flood.handle_message(node(1), ack(1, first.series, 1), now(10)).unwrap();
    news(&mut flood, claim(51, 1), None).unwrap();
    let second = one(&mut flood, 100);
    flood.handle_link_lost(node(1), now(150));
    news(&mut flood, claim(52, 1), None).unwrap();
    assert!((150..5_000).step_by(50).all(|at| sends(&mut flood, at).is_empty()), "there is no link");
    flood.handle_link(node(1), BootEpoch(1));
    assert_eq!(one(&mut flood, 5_000), second, "as it was");
    flood.handle_message(node(1), ack(1, first.series, 2), now(5_010)).unwrap();
    let third = one(&mut flood, 5_100);
    assert_eq!((third.number, said(&third)), (3, vec![claim(52, 1).signed]));
    // An acknowledgement of what was never sent, or of another series, says nothing.
    for (series, through) in [(first.series, 4), (first.series + 1, 0), (first.series, 1)] {
        flood.handle_message(node(1), ack(1, series, through), now(5_150)).unwrap();
        assert!(sends(&mut flood, 5_200).is_empty());
    }
    flood.handle_message(node(1), ack(1, first.series, 0), now(5_250)).unwrap();
    let again = one(&mut flood, 5_300);
    assert_eq!((again.series > first.series, again.number, again.items.len()), (true, 1, 3));
}

#[test]
fn what_is_over_is_neither_kept_nor_told() {
    let mut flood = flood();
    assert_eq!(news(&mut flood, Statement { expires: UnixMillis(WALL), ..claim(1, 1) }, None), Err(NotKept::Expired));
    for length in [0, FLOOD_ITEM_MAX + 1] {
        assert_eq!(news(&mut flood, Statement { signed: vec![1; length], ..claim(1, 1) }, None), Err(NotKept::Length));
    }
    news(&mut flood, Statement { expires: UnixMillis(WALL + 1_000), ..claim(1, 1) }, None).unwrap();
    news(&mut flood, claim(2, 1), None).unwrap();
    flood.handle_timeout(now(SWEEP_MS));
    assert_eq!(flood.statements().map(|statement| statement.signer).collect::<Vec<_>>(), [node(2)]);
    flood.handle_link(node(1), BootEpoch(1));
    assert_eq!(said(&one(&mut flood, SWEEP_MS)), [claim(2, 1).signed]);
}

#[test]
fn statements_and_neighbours_have_their_bounds() {
    let mut flood = flood();
    for n in 0..STATEMENTS_MAX {
        news(&mut flood, claim(u16::try_from(n).unwrap(), 1), None).unwrap();
    }
    assert_eq!(news(&mut flood, claim(u16::MAX, 1), None), Err(NotKept::Full));
    let key = Statement { kind: FloodKind::MeshKey, ..claim(u16::MAX, 1) };
    assert_eq!(news(&mut flood, key, None), Ok(()), "the other kind has its own places");
    assert_eq!(news(&mut flood, claim(7, 2), None), Ok(()), "a newer one needs none");
    for n in 0..u16::try_from(NEIGHBOURS_MAX).unwrap() {
        assert!(flood.handle_link(node(20_000 + n), BootEpoch(1)));
    }
    assert!(!flood.handle_link(node(1), BootEpoch(1)));
    flood.handle_link_lost(node(20_005), now(2));
    flood.handle_link_lost(node(20_004), now(1));
    assert!(flood.handle_link(node(1), BootEpoch(1)), "in place of one that is gone");
    assert!(flood.handle_link(node(20_005), BootEpoch(1)), "the one that is gone for longest was forgotten");
    assert!(!flood.handle_link(node(20_004), BootEpoch(1)));
}
