//! The private network of the shipped program: real nodes in network namespaces, packets of the real kernel. Needs root;
//! without it these tests say that they were skipped, and fail where CI is set.

mod apart;
mod carriers;
mod ecn;
mod exit_names;
mod forged;
mod forwarded;
mod line;
mod loss;
mod names;
mod networks;
mod offloads;
mod order;
mod qos;
mod refusals;
mod roles;
mod stop;
mod two;
mod userspace;

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use shoal_tests::asked::vpn;
use shoal_tests::budget::say;
use shoal_tests::member::Member;
use shoal_tests::space::Space;
use tempfile::TempDir;

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");
/// The name of every device here: each is in a namespace of its own.
const DEVICE: &str = "shoal-t";
/// What the members of one network are told.
const OPEN: [&str; 4] = ["--network", "vpn", "--open", "--tun-name"];
/// Fails where something is missing.
const NEEDED: &str = "for p in ip tc nft ping setpriv; do command -v $p || exit 1; done; test -c /dev/net/tun";

/// Whether namespaces, devices and programs are to be had; says so where they are not.
fn is_possible(test: &str) -> bool {
    let missing = match (Space::new(), Command::new("sh").args(["-c", NEEDED]).output()) {
        (Ok(_), Ok(output)) if output.status.success() => return true,
        (Err(error), _) => format!("{error:#}"),
        (Ok(_), _) => "ip, tc, nft, ping, setpriv or /dev/net/tun is missing".to_owned(),
    };
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    say(&format!("vpn: SKIPPED {test}, {missing}"));
    false
}

/// Waits until the kernel says of every link that is on that its other end is there: it says so a little later, and what is
/// compared afterwards would differ by that alone.
fn settled(space: &Space) {
    until("the links are up", Duration::from_secs(60), || {
        let links = space.ip("-o link").unwrap();
        let mut on = links.lines().filter(|line| line.contains(",UP"));
        on.all(|line| line.contains("state UP") || line.contains("state UNKNOWN"))
    });
}

/// Waits until something holds; how long that took.
fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}

/// Waits until an address answers; how long that took.
fn reached(from: &Space, to: IpAddr, limit: Duration) -> Duration {
    until(&format!("{to} answers"), limit, || from.ping(to, 56).unwrap())
}

/// Waits until each of the two sends to the other on this carrier.
fn on_carrier(pair: &Pair, carrier: &str) -> Duration {
    let is_on = |data: &Path| {
        let peers = vpn(SHOAL, data, &["peers"]).unwrap();
        let ways = peers["peers"][0]["ways"].as_array().cloned().unwrap_or_default();
        ways.len() == 1 && ways[0]["carrier"] == carrier
    };
    let both = || is_on(&pair.a.node.data) && is_on(&pair.b.node.data);
    until(&format!("both are on {carrier}"), Duration::from_secs(20), both)
}

/// Two machines and a cable, a node on each; the right one begins with the left one. Nodes end before their machines.
struct Pair {
    a: Member,
    b: Member,
    left: Space,
    right: Space,
    room: TempDir,
}

impl Pair {
    /// Both with these arguments more; waits until each reaches the other.
    fn new(more: &[&str]) -> Self {
        Self::run_as([|space| space.command(SHOALD); 2], more)
    }

    /// The same, the left one and the right one started as these commands.
    fn run_as(programs: [impl Fn(&Space) -> Command; 2], more: &[&str]) -> Self {
        let (left, right) = (Space::new().unwrap(), Space::new().unwrap());
        left.cable(("cable", "10.77.0.1/24"), &right, ("cable", "10.77.0.2/24")).unwrap();
        let room = tempfile::tempdir().unwrap();
        let begin = [&OPEN[..], &[DEVICE, "--listen"]].concat();
        let first = [&begin, &["/ip4/10.77.0.1/tcp/0"][..], more].concat();
        let a = Member::start_as(programs[0](&left), &room.path().join("a"), &first).unwrap();
        let second = [&begin, &["/ip4/10.77.0.2/tcp/0", "--bootstrap", &a.node.address][..], more].concat();
        let b = Member::start_as(programs[1](&right), &room.path().join("b"), &second).unwrap();
        let pair = Self { a, b, left, right, room };
        reached(&pair.left, pair.b.v4.into(), Duration::from_secs(20));
        reached(&pair.right, pair.a.v4.into(), Duration::from_secs(20));
        pair
    }
}
