//! The journal's format, and what it takes and refuses. What undoing does is in `node/tests/system`.

use super::super::Port;
use super::super::resolver::Asks;
use super::super::sysctl::Switch;
use super::*;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/vpn_made_v1.json");

fn rule() -> Rule {
    use super::super::netlink::Family;
    let bare = Rule {
        family: Family::V6,
        priority: 5210,
        table: 51_820,
        mark: None,
        inverted: false,
        suppress_prefix_length: None,
        source_port: None,
    };
    Rule { mark: Some(0x5348), inverted: true, ..bare }
}

fn everything() -> Vec<Made> {
    use super::super::netlink::Via;
    let route = Route {
        to: "100.64.0.0/10".parse().unwrap(),
        via: Via::Link(7),
        table: 51_820,
        metric: NonZeroU32::new(10).unwrap(),
        mtu: NonZeroU32::new(1400),
        source: Some("100.64.0.1".parse().unwrap()),
    };
    let before = Before { switch: Switch::ForwardV4, value: "0".into(), others: vec![("eth0".into(), "1".into())] };
    let advertisements = Switch::AcceptAdvertisements("eth0".into());
    vec![
        Made::Firewall(Table::kill_switch("home").unwrap()),
        Made::Interface { name: "shoal0".into(), index: 7 },
        Made::Route(route),
        Made::Route(Route { via: Via::Unreachable, to: "::/0".parse().unwrap(), mtu: None, source: None, ..route }),
        Made::RouteTable(51_820),
        Made::Rule(rule()),
        Made::Rule(Rule { suppress_prefix_length: Some(0), source_port: Some(Port::Udp(4001)), mark: None, ..rule() }),
        Made::Switch(before),
        Made::Switch(Before { switch: advertisements, value: "1".into(), others: vec![] }),
        Made::Resolver(ResolvConf::new(Path::new("/etc/resolv.conf"), Path::new("/var/lib/shoal"))),
    ]
}

fn text(content: &Content) -> String {
    serde_json::to_string(content).unwrap() + "\n"
}

#[test]
fn the_journal_has_its_golden_bytes() {
    let content = Content { version: 1, boot: "boot".into(), namespace: "net:[1]".into(), made: everything() };
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(GOLDEN, text(&content)).unwrap();
        panic!("{GOLDEN} is written; look at the difference, then run without UPDATE_GOLDEN");
    }
    let golden = fs::read(GOLDEN).unwrap();
    assert_eq!(String::from_utf8_lossy(&golden), text(&content));
    assert_eq!(parse(&golden, Path::new("x")).unwrap(), content);
}

#[test]
fn what_is_no_journal_of_this_version_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join(FILE);
    let open = |text: &str| {
        fs::write(&file, text).unwrap();
        Journal::open(place.path())
    };
    let whole = fs::read_to_string(GOLDEN).unwrap();
    open(&whole).unwrap();
    let newer = whole.replace("\"version\":1", "\"version\":2");
    assert!(matches!(open(&newer), Err(JournalError::Newer { version: 2, .. })));
    for bad in [
        "".to_owned(),
        whole.chars().take(100).collect(),
        whole.replace("shoal_kill_home", "filter"),
        whole.replace("100.64.0.0/10", "100.64.0.1/10"),
        whole.replace("\"boot\"", "\"reboot\""),
        whole.replace("route-table", "world"),
    ] {
        assert!(matches!(open(&bad), Err(JournalError::Damaged { .. })), "{bad}");
    }
}

#[test]
fn notes_are_on_disk_private_and_never_twice() {
    let place = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(place.path()).unwrap();
    assert!(journal.made().is_empty() && journal.place() == Place::Here);
    journal.note(&[]).unwrap();
    assert!(!place.path().join(FILE).exists());

    journal.note(&everything()).unwrap();
    journal.note(&everything()).unwrap();
    // What a switch was before is what it was before the first of us came.
    let later = Before { switch: Switch::ForwardV4, value: "1".into(), others: vec![] };
    journal.note(&[Made::Switch(later)]).unwrap();
    let again = Journal::open(place.path()).unwrap();
    assert_eq!(again.made(), everything());
    assert_eq!(again.place(), Place::Here);
    let mode = fs::metadata(place.path().join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    journal.forget().unwrap();
    assert!(Journal::open(place.path()).unwrap().made().is_empty());
}

#[test]
fn a_full_journal_refuses_and_keeps_what_it_has() {
    let place = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(place.path()).unwrap();
    let many: Vec<Made> = (0..).map(Made::RouteTable).take(MADE_MAX).collect();
    journal.note(&many).unwrap();
    assert!(matches!(journal.note(&[Made::RouteTable(u32::MAX)]), Err(JournalError::Full)));
    assert_eq!(Journal::open(place.path()).unwrap().made(), many);
}

#[test]
fn an_entry_is_never_longer_than_the_file_has_room_for() {
    let route = Route {
        to: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap(),
        via: super::super::netlink::Via::Link(u32::MAX),
        table: u32::MAX,
        metric: NonZeroU32::MAX,
        mtu: Some(NonZeroU32::MAX),
        source: Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
    };
    let longest = serde_json::to_string(&Made::Route(route)).unwrap().len() as u64;
    assert!(longest < FILE_MAX / MADE_MAX as u64, "{longest}");
}

#[test]
fn after_another_boot_nothing_is_undone_and_elsewhere_nothing_is_touched() {
    let place = tempfile::tempdir().unwrap();
    let mut netlink = Netlink::open().unwrap();
    let written = |boot: &str, namespace: &str| {
        // Undoing this fails, so that one sees whether it was tried.
        let made = vec![Made::Switch(Before { switch: Switch::ForwardV4, value: "no number".into(), others: vec![] })];
        let content = Content { version: 1, boot: boot.into(), namespace: namespace.into(), made };
        fs::write(place.path().join(FILE), text(&content)).unwrap();
        Journal::open(place.path()).unwrap()
    };
    let (boot, namespace) = here().unwrap();

    let mut journal = written("another", &namespace);
    assert_eq!(journal.place(), Place::Rebooted);
    let undone = journal.undo(&mut netlink, |_| false).unwrap();
    assert!(undone.len() == 1 && undone.iter().all(|one| one.result.is_ok()), "{undone:?}");
    assert!(Journal::open(place.path()).unwrap().made().is_empty());
    let mut journal = written("another", &namespace);
    journal.note(&[Made::RouteTable(1)]).unwrap();
    assert_eq!(journal.made(), [Made::RouteTable(1)]);

    // A file of the system's is still there: it is put back, and noted until it is.
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("resolv.conf");
    fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
    let conf = ResolvConf::new(&file, room.path());
    conf.keep().unwrap();
    conf.install(std::net::Ipv6Addr::LOCALHOST, Asks::Ours).unwrap();
    let mut journal = written("another", &namespace);
    journal.content.made.push(Made::Resolver(conf.clone()));
    journal.note(&[Made::RouteTable(1)]).unwrap();
    assert_eq!(journal.made(), [Made::Resolver(conf), Made::RouteTable(1)]);
    let mut journal = Journal::open(place.path()).unwrap();
    journal.content.boot = "another".into();
    let undone = journal.undo(&mut netlink, |_| false).unwrap();
    assert!(undone.len() == 2 && undone.iter().all(|one| one.result.is_ok()), "{undone:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.1\n");

    let mut journal = written(&boot, "net:[1]");
    assert_eq!(journal.place(), Place::Elsewhere);
    assert!(matches!(journal.undo(&mut netlink, |_| true), Err(JournalError::Elsewhere(_))));
    assert!(matches!(journal.note(&[Made::RouteTable(1)]), Err(JournalError::Elsewhere(_))));
    assert_eq!(Journal::open(place.path()).unwrap().made().len(), 1);
    journal.forget().unwrap();
    journal.note(&[Made::RouteTable(1)]).unwrap();

    let mut journal = written(&boot, &namespace);
    journal.note(&[Made::Rule(rule())]).unwrap();
    let undone = journal.undo(&mut netlink, |made| matches!(made, Made::Switch(_))).unwrap();
    assert!(undone.len() == 1 && undone.iter().all(|one| one.result.is_err()), "{undone:?}");
    assert_eq!(Journal::open(place.path()).unwrap().made().len(), 2, "what failed stays");
}
