//! Known answers: a handshake and its first frames with fixed randomness, in both suites. `UPDATE_GOLDEN=1` writes the file
//! and then fails, so that nobody passes by rewriting.

use std::path::Path;

use data_encoding::HEXLOWER;
use shoal_protocol::Suite;
use shoal_protocol::mesh::session::frame::PathId;

use super::super::*;
use super::world::*;
use crate::path::Carrier;

fn transcript(name: &str, suites: &[Suite]) -> Vec<String> {
    let mut world = World::with_suites(0x6f1d, suites, BOTH);
    world.want(0);
    world.run(100, &mut well);
    let mut lines: Vec<String> = world
        .sent
        .iter()
        .enumerate()
        .map(|(at, message)| format!("{name}, message {at} = {}", HEXLOWER.encode(&message.bytes)))
        .collect();
    for (from, path) in [(0, PathId::LANES), (1, PathId::LANES), (0, PathId::DUAL)] {
        let frame = world.members[from].seal(path, b"golden packet").unwrap();
        world.members[1 - from].receive(Carrier::Lanes, &frame, world.now_ms);
        let opened = world.members[1 - from].got.last().map(Vec::as_slice);
        assert_eq!(opened, Some(&b"golden packet"[..]));
        lines.push(format!("{name}, from {from} on {} = {}", path.number(), HEXLOWER.encode(&frame)));
    }
    assert_eq!(world.members[0].suite, Some(shoal_protocol::mesh::key::data_suite(suites, BOTH)));
    lines
}

fn cookie() -> String {
    let mut world = World::new(0x6f1d);
    world.members[1].load = Load::High;
    world.want(0);
    world.run(15, &mut well);
    let reply = world.sent.last().unwrap();
    format!("cookie reply = {}", HEXLOWER.encode(&reply.bytes))
}

#[test]
fn handshakes_and_frames_are_what_they_were() {
    let mut now = transcript("chacha20-poly1305", CHACHA);
    now.extend(transcript("aes-256-gcm", BOTH));
    now.push(cookie());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join("sessions.hex");
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&path, now.join("\n") + "\n").unwrap();
        panic!("sessions.hex was written; read the difference, then run again without UPDATE_GOLDEN");
    }
    let found = std::fs::read_to_string(&path).unwrap();
    for (line, new) in found.lines().zip(&now) {
        assert_eq!(line, new);
    }
    assert_eq!(found.lines().count(), now.len());
}
