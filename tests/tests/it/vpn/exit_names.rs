//! Names of the internet while everything goes through an exit: the exit asks for them, and the network the user is in
//! sees no question.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use shoal_tests::member::Member;
use shoal_tests::process::Shoal;
use shoal_tests::space::Space;

use super::names::{Elsewhere, Over, ask};
use super::{DEVICE, OPEN, SHOAL, SHOALD, is_possible, reached, until};

/// What the resolver of the user's network tells for every name, and what that of the exit's.
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
/// See [`NEAR`].
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 81);
const BEFORE: &str = "search example.org\nnameserver 10.77.0.3\noptions timeout:1 attempts:1\n";
const WAIT: Duration = Duration::from_secs(20);
const NAME: &str = "www.example.com";

/// What a program of the machine finds.
fn found(space: &Space) -> Option<Ipv4Addr> {
    let output = space.command("getent").args(["ahostsv4", NAME]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.split_whitespace().next().and_then(|word| word.parse().ok())
}

#[test]
fn the_exit_asks_for_its_users_and_their_own_network_sees_no_question() {
    if !is_possible("the_exit_asks_for_its_users_and_their_own_network_sees_no_question") {
        return;
    }
    let [left, right] = [(); 2].map(|()| Space::new().unwrap());
    left.cable(("cable", "10.77.0.1/24"), &right, ("cable", "10.77.0.2/24")).unwrap();
    for address in ["10.77.0.3/24", "10.77.0.4/24"] {
        right.ip(&format!("address add {address} dev cable")).unwrap();
    }
    left.ip("route add default via 10.77.0.2").unwrap();
    left.resolver().write(BEFORE).unwrap();
    right.resolver().write("nameserver 10.77.0.4\n").unwrap();
    let near = Elsewhere::start(&right, "10.77.0.3".parse().unwrap(), NEAR).unwrap();
    let far = Elsewhere::start(&right, "10.77.0.4".parse().unwrap(), FAR).unwrap();
    let room = tempfile::tempdir().unwrap();
    let start = |space: &Space, name: &str, more: &[&str]| {
        let begin = [&OPEN[..], &[DEVICE, "--listen", "/ip4/0.0.0.0/tcp/4100"], more].concat();
        Member::start(SHOALD, space, &room.path().join(name), &begin).unwrap()
    };
    let exit = start(&right, "exit", &["--exit-node"]);
    let next = format!("/ip4/10.77.0.2/tcp/4100/p2p/{}", exit.node.id);
    let mut user = start(&left, "user", &["--bootstrap", &next, "--use-exit", &exit.node.id, "--kill-switch"]);
    reached(&left, exit.v4.into(), WAIT);
    until("the exit tells names", WAIT, || found(&left) == Some(FAR));
    assert!(far.asked() > 0);
    let file = || left.resolver().read().unwrap();
    assert!(file().contains("#shoal# nameserver 10.77.0.3\n"), "{}", file());

    // Both families, both transports; about the members themselves it says nothing.
    for to in [IpAddr::V4(exit.v4), exit.v6.into()] {
        for over in [Over::Udp, Over::Tcp] {
            let answer = ask(&left, to, over, "www.example.org.", RecordType::A).unwrap().unwrap();
            assert_eq!(answer.answers.len(), 1, "{to} {over:?}: {answer}");
            let own = format!("{}.vpn.shoal.internal.", exit.node.id);
            let answer = ask(&left, to, over, &own, RecordType::A).unwrap().unwrap();
            assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{to} {over:?}");
        }
    }
    // The user is nobody's exit.
    let answer = ask(&right, user.v6.into(), Over::Udp, "www.example.org.", RecordType::A).unwrap().unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    assert_eq!(near.asked(), 0, "the user's own network was asked");

    // Without the exit everything is as before, and with it again as with it.
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let data = room.path().join("user");
    let choose = |who: &str| {
        let output = shoal.run(&["vpn", "--node", data.to_str().unwrap(), "exit", "use", who]).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    choose("off");
    until("the near resolver is asked again", WAIT, || found(&left) == Some(NEAR));
    assert!(file().ends_with(BEFORE), "{}", file());
    choose(&exit.node.id);
    until("the exit is asked again", WAIT, || found(&left) == Some(FAR));
    let asked = near.asked();
    drop(exit);
    assert_eq!(found(&left), None, "nobody else is asked where the exit is gone");
    assert_eq!(near.asked(), asked);
    user.node.terminate().unwrap();
    assert_eq!(file(), BEFORE);
}
