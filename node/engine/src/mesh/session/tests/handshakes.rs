//! Handshakes: that they converge, what a forged one costs, when keys are replaced and when they end.

use std::sync::Arc;

use shoal_protocol::Suite;
use shoal_protocol::mesh::session::MessageKind;
use shoal_protocol::mesh::session::content::CloseReason;
use shoal_protocol::mesh::session::frame::{HARD_STOP_BYTES, PathId, REKEY_BYTES};
use zeroize::Zeroizing;

use super::super::live::{KEY_LIFE_MS, REKEY_AFTER_MS};
use super::super::*;
use super::world::*;
use crate::path::Carrier;

fn kind(message: &UnderWay) -> MessageKind {
    MessageKind::of_first_byte(message.bytes[0]).unwrap()
}

fn udp(port: u16) -> Carrier {
    Carrier::Udp((core::net::Ipv4Addr::LOCALHOST, port).into())
}

#[test]
fn one_round_trip_and_a_frame_make_a_session() {
    for starter in 0..2 {
        let mut world = World::new(1);
        world.want(starter);
        world.run(30, &mut well);
        assert!(world.members.iter().all(|member| member.up && member.installs == 1));
        assert_eq!(world.members[0].suite, Some(Suite::Aes256Gcm));
        world.assert_works();
        world.assert_one_session();
        assert_eq!(world.sent.iter().filter(|message| kind(message) != MessageKind::Data).count(), 2);
    }
}

#[test]
fn without_aes_on_one_side_both_take_the_common_suite() {
    let mut world = World::with_suites(1, BOTH, CHACHA);
    world.want(0);
    world.run(50, &mut well);
    assert!(world.members.iter().all(|member| member.suite == Some(Suite::ChaCha20Poly1305)));
    world.assert_works();
}

#[test]
fn a_record_of_other_suites_than_the_peer_signed_makes_no_session() {
    // The initiator believes the responder has ChaCha20 alone: a downgrade by somebody in between fails on the prologue.
    let mut world = World::with_suites(1, BOTH, BOTH);
    let forged = own_key(2, 1, CHACHA);
    let pair = world.members[0].sessions.pair.clone();
    world.members[0].sessions = Sessions::new(pair, own_key(1, 1, BOTH), record(2, &forged)).unwrap();
    world.members[0].sessions.handle_carrier(Carrier::Lanes, true);
    world.want(0);
    world.run(900, &mut well);
    assert!(!world.members[0].up && !world.members[1].up);
    assert_eq!(world.members[1].sessions.drops().of(Dropped::Undecryptable), 1);
}

#[test]
fn both_at_once_end_with_one_session() {
    for seed in 0..50 {
        for delays in [[10, 10], [1, 500], [500, 1], [300, 300], [590, 590], [700, 700], [900, 900], [100, 1_500]] {
            let mut world = World::new(seed);
            world.want(0);
            world.want(1);
            world.run(20_000, &mut |message| vec![delays[message.to]]);
            world.assert_one_session();
            world.assert_works();
            assert!(world.members.iter().all(|member| member.downs.is_empty()));
        }
    }
}

#[test]
fn every_loss_order_and_repetition_of_the_first_messages_converges() {
    // Each of the first six messages is lost, quick, slow, or comes twice: 4^6 histories, begun by either or both.
    for history in 0..4_usize.pow(6) {
        let starters: &[usize] = [&[0][..], &[1], &[0, 1]][history % 3];
        let (mut world, mut count) = (World::new(history as u64), 0);
        world.chatter = true;
        starters.iter().for_each(|starter| world.want(*starter));
        let mut fate = |_: &UnderWay| {
            let choice = if count < 6 { history / 4_usize.pow(count) % 4 } else { 1 };
            count += 1;
            [vec![], vec![10], vec![1_500], vec![10, 40]][choice].clone()
        };
        world.run(45_000, &mut fate);
        for member in &world.members {
            assert!(member.up, "history {history}");
        }
        world.assert_works();
        world.run(3_000, &mut well);
        world.assert_one_session();
    }
}

#[test]
fn a_third_of_all_messages_lost_still_ends_in_a_session() {
    for seed in 0..40 {
        let (mut world, mut random) = (World::new(seed), Bytes(seed));
        world.chatter = true;
        world.want(0);
        world.want(1);
        world.run(60_000, &mut |_| if random.next() % 3 == 0 { vec![] } else { vec![5 + random.next() % 700] });
        assert!(world.members.iter().all(|member| member.up), "seed {seed}");
        world.run(5_000, &mut well);
        world.assert_works();
    }
}

#[test]
fn a_peer_that_never_answers_is_given_up_and_tried_again_when_wanted() {
    let mut world = World::new(1);
    world.want(0);
    world.run(120_000, &mut |_| vec![]);
    assert_eq!(world.members[0].downs, [Down::Unreachable]);
    let tries = world.sent.len();
    assert!((15..=30).contains(&tries), "{tries} initiations in {ATTEMPT_MS} ms");
    world.want(0);
    world.run(100, &mut well);
    world.assert_works();
}

#[test]
fn an_initiation_counts_once_and_only_if_it_is_newer() {
    let mut world = World::new(1);
    world.want(0);
    world.run(200, &mut well);
    let initiation = world.sent.iter().find(|message| kind(message) == MessageKind::Initiation).unwrap().bytes.clone();
    for _ in 0..10 {
        world.now_ms += 100;
        world.members[1].receive(Carrier::Lanes, &initiation, world.now_ms);
    }
    assert_eq!(world.members[1].sessions.drops().of(Dropped::StaleStamp), 10);
    assert_eq!(world.members[1].installs, 1);
    world.assert_works();
}

#[test]
fn a_forged_initiation_costs_no_multiplication_and_under_load_neither_does_a_real_one_without_cookie() {
    let mut world = World::new(1);
    world.want(0);
    world.collect(&mut well);
    let initiation = world.under_way.remove(0).bytes;
    let cost = |world: &World| world.members[1].sessions.operations().count();
    for at in 0..initiation.len() {
        let mut bad = initiation.clone();
        bad[at] ^= 1;
        // MAC2 is not looked at without load, so the bytes of it are left as they are.
        if at < initiation.len() - 16 {
            world.members[1].receive(Carrier::Lanes, &bad, 0);
        }
    }
    assert_eq!(cost(&world), 0, "no multiplication without a right MAC1");
    assert_eq!(world.members[1].gate.drops().of(Dropped::BadMac1), 163 - 32 - 2 + 16);

    world.members[1].load = Load::High;
    for _ in 0..1_000 {
        world.members[1].receive(Carrier::Lanes, &initiation, 0);
    }
    assert_eq!(cost(&world), 0, "under load none without a cookie");
    assert_eq!(world.members[1].gate.drops().of(Dropped::NoCookie), 1_000);

    // The first cookie that arrives makes the initiator come again at once, and now it is answered.
    world.run(200, &mut well);
    assert!(world.members.iter().all(|member| member.up));
    assert!((1..=16).contains(&cost(&world)), "{}", cost(&world));
    world.assert_works();
}

#[test]
fn a_cookie_is_good_for_its_source_alone_and_for_a_while() {
    let mut world = World::new(1);
    world.members[1].load = Load::High;
    world.want(0);
    world.run(200, &mut well);
    let shown = world.sent.iter().rev().find(|message| kind(message) == MessageKind::Initiation).unwrap().bytes.clone();
    let gate = &mut world.members[1].gate;
    let mut random = Bytes(5);
    let mut admits = |source: &[u8], now_ms| {
        matches!(gate.examine(&shown, source, Load::High, now_ms, &mut |out| random.fill(out)), Verdict::Admitted(_))
    };
    assert!(admits(b"lanes", 200) && admits(b"lanes", 119_000));
    assert!(!admits(b"udp 127.0.0.1:1", 200));
    assert!(admits(b"lanes", 239_000), "the secret is kept until a newer one was used");
    assert!(!admits(b"udp 127.0.0.1:1", 239_000), "which makes a newer one");
    assert!(!admits(b"lanes", 360_000));
}

#[test]
fn forged_responses_cost_little_and_do_not_end_the_handshake() {
    let mut world = World::new(1);
    world.want(0);
    world.run(15, &mut well);
    let response = world.under_way.iter().find(|message| kind(message) == MessageKind::Response).unwrap().bytes.clone();
    let before = world.members[0].sessions.operations().count();
    for at in 0..response.len() {
        let mut bad = response.clone();
        bad[at] ^= 0x80;
        world.members[0].receive(Carrier::Lanes, &bad, 15);
    }
    assert_eq!(world.members[0].sessions.operations().count(), before);
    world.run(100, &mut well);
    world.assert_works();
}

#[test]
fn sessions_are_replaced_while_packets_go_and_end_when_none_do() {
    let mut world = World::new(3);
    world.want(1);
    world.run(100, &mut well);
    let mut installs = 1;
    for second in 1..=610 {
        world.run(1_000, &mut well);
        world.assert_works();
        let now = world.members[0].installs;
        assert_eq!(world.members[1].installs, now);
        if now > installs {
            installs = now;
            assert!(second % 120 <= 5, "replaced after {second} s");
        }
    }
    assert_eq!(installs, 6, "every two minutes");
    world.run(KEY_LIFE_MS + 1_000, &mut well);
    for member in &world.members {
        assert_eq!((member.up, member.downs.as_slice(), member.halves.len()), (false, &[Down::Idle][..], 0));
        assert!(member.indices.is_empty());
    }
    assert_eq!(world.members[0].sessions.drops().total() + world.members[1].sessions.drops().total(), 0);
}

#[test]
fn the_peer_with_the_greater_hash_replaces_too_if_the_other_one_does_not() {
    let mut world = World::new(3);
    world.want(0);
    world.run(100, &mut well);
    // The first one's initiations never arrive.
    let mut fate = |message: &UnderWay| {
        if message.to == 1 && kind(message) == MessageKind::Initiation { vec![] } else { vec![10] }
    };
    for _ in 0..140 {
        world.run(1_000, &mut fate);
        world.assert_works();
    }
    assert_eq!(world.members[0].installs, 2);
}

#[test]
fn volume_replaces_a_session_and_ends_one_that_was_not_replaced() {
    let mut world = World::new(3);
    world.want(0);
    world.run(100, &mut well);
    let index = world.members[0].using.unwrap();
    world.members[0].halves.get_mut(&index).unwrap().0.skip(REKEY_BYTES, 5);
    world.run(200, &mut well);
    assert_eq!(world.members[0].installs, 2);
    world.assert_works();

    let index = world.members[0].using.unwrap();
    let (tx, rx) = world.members[0].halves.get_mut(&index).unwrap();
    tx.skip(HARD_STOP_BYTES - 37, 9);
    rx.skip(HARD_STOP_BYTES - 37);
    let mut buffer = [0; 128];
    let kind = shoal_protocol::mesh::session::content::ContentKind::Packet;
    assert_eq!(tx.seal(PathId::LANES, kind, AAD, &mut buffer, 64..72), Err(NotSealed::Exhausted));
    assert!(tx.seal(PathId::LANES, kind, AAD, &mut buffer, 64..71).is_ok(), "to the last byte");
    let from = world.members[1].seal(PathId::LANES, &[0; 8]).unwrap();
    let (_, rx) = world.members[0].halves.get_mut(&index).unwrap();
    assert_eq!(rx.open(&mut from.clone(), AAD).err(), Some(Dropped::Exhausted));
}

#[test]
fn a_peer_that_forgot_the_session_is_found_out_and_gets_a_new_one() {
    let mut world = World::new(3);
    world.want(0);
    world.run(100, &mut well);
    let fresh = World::new(4);
    let [_, forgot] = fresh.members;
    world.members[1] = forgot;
    for _ in 0..170 {
        let frame = world.members[0].seal(PathId::LANES, b"anybody there?").unwrap();
        world.members[1].receive(Carrier::Lanes, &frame, world.now_ms);
        world.run(100, &mut well);
    }
    world.assert_works();
    assert_eq!(world.members[1].installs, 1);
}

#[test]
fn a_closed_session_leaves_nothing() {
    let mut world = World::new(3);
    world.want(0);
    world.run(100, &mut well);
    world.members[0].event(100, |s, cx| s.close(CloseReason::Stopping, cx));
    world.run(100, &mut well);
    assert_eq!(world.members[0].downs, [Down::Ended]);
    assert_eq!(world.members[1].downs, [Down::Closed(CloseReason::Stopping)]);
    assert!(world.members.iter().all(|member| member.halves.is_empty() && member.indices.is_empty()));
}

#[test]
fn new_mesh_keys_are_followed_and_old_and_unknown_ones_refused() {
    let mut world = World::new(3);
    let second = own_key(1, 2, BOTH);
    world.members[0].gate.set_own_key(Arc::clone(&second));
    world.members[0].sessions.set_own_key(Arc::clone(&second));
    world.want(0);
    world.run(900, &mut well);
    assert_eq!((world.members[1].up, world.members[1].wanted_keys.as_slice()), (false, &[2][..]));
    world.members[1].sessions.set_peer_key(record(1, &second)).unwrap();
    assert_eq!(world.members[1].sessions.set_peer_key(record(1, &second)), Err(KeyRefused::NotNewer));
    assert_eq!(world.members[1].sessions.set_peer_key(record(2, &second)), Err(KeyRefused::WrongNode));
    world.run(10_000, &mut well);
    world.assert_works();

    // Who has not heard of the newest key of the responder still reaches it by the one before.
    let mut world = World::new(3);
    world.members[0].gate.set_own_key(Arc::clone(&second));
    world.want(1);
    world.run(100, &mut well);
    assert!(world.members[1].up);
    let third = own_key(1, 3, BOTH);
    let mut world = World::new(3);
    world.members[0].gate.set_own_key(second);
    world.members[0].gate.set_own_key(third);
    world.want(1);
    world.run(100, &mut well);
    assert_eq!((world.members[1].up, world.members[0].gate.drops().of(Dropped::BadMac1)), (false, 1));
}

#[test]
fn expired_keys_begin_and_answer_nothing() {
    let mut world = World::new(3);
    world.now_ms = 24 * 3600 * 1000;
    world.want(0);
    world.run(1_000, &mut well);
    assert!(world.sent.is_empty());
    assert!(world.members[0].sessions.drops().of(Dropped::KeyExpired) >= 1);

    let mut world = World::new(3);
    world.want(0);
    world.collect(&mut well);
    let initiation = world.under_way.remove(0).bytes;
    world.members[1].receive(Carrier::Lanes, &initiation, 24 * 3600 * 1000);
    assert_eq!(world.members[1].sessions.drops().of(Dropped::KeyExpired), 1);
    assert_eq!(world.members[1].sessions.operations().count(), 0);
}

#[test]
fn a_secret_only_one_of_them_has_makes_no_session() {
    let mut world = World::new(3);
    world.members[0].sessions.set_psk(Zeroizing::new([9; 32]));
    world.want(0);
    world.run(900, &mut well);
    assert!(!world.members[0].up);
    assert_eq!(world.members[0].sessions.drops().of(Dropped::Undecryptable), 1);
    world.members[1].sessions.set_psk(Zeroizing::new([9; 32]));
    world.run(10_000, &mut well);
    world.assert_works();
}

#[test]
fn a_new_address_is_used_after_its_challenge_was_answered() {
    let mut world = World::new(3);
    world.want(0);
    world.run(100, &mut well);
    let frame = world.members[0].seal(PathId::new(2).unwrap(), b"from elsewhere").unwrap();
    // Somebody in between sends it on from an address of his own: the challenge goes there, and no answer comes.
    world.members[1].receive(udp(666), &frame, world.now_ms);
    world.run(1_000, &mut |message| if message.on == udp(666) { vec![] } else { vec![10] });
    assert!(world.members[1].validated.is_empty());
    let to_666 = world.sent.iter().filter(|message| message.on == udp(666)).count();
    assert_eq!(to_666, 1, "nothing but the challenge");
    let frame = world.members[0].seal(PathId::new(2).unwrap(), b"really").unwrap();
    world.members[1].receive(udp(7), &frame, world.now_ms);
    world.run(100, &mut well);
    assert_eq!(world.members[1].validated, [udp(7)]);
}

#[test]
fn an_owner_who_does_not_drain_is_refused_events() {
    let mut world = World::new(3);
    let member = &mut world.members[0];
    let mut indices = Indices::default();
    let mut random = Bytes(1);
    for now_ms in (0..4_000_000).step_by(REKEY_AFTER_MS as usize / 10) {
        let now = crate::Now { wall: shoal_protocol::UnixMillis(WALL), uptime_ms: now_ms };
        let mut cx = Context { now, random: &mut |out: &mut [u8]| random.fill(out), indices: &mut indices };
        member.sessions.handle_want(&mut cx);
        member.sessions.handle_timeout(&mut cx);
    }
    assert!(member.sessions.drops().of(Dropped::Busy) > 0);
    assert!(std::iter::from_fn(|| member.sessions.poll()).count() <= sessions::EFFECTS_MAX);
}
