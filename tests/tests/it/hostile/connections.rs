//! Thousands of hostile connections at a time, of every kind: the memory and descriptors of the node stay within bounds,
//! a member is served about as fast as before, one that comes newly gets in, and afterwards nothing is left.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shoal_protocol::control::Request;
use shoal_tests::budget::{HOSTILE_CONNECTIONS, say};
use shoal_tests::process::{Footprint, Shoald, footprint, forget_peak, turns};
use tokio::sync::watch;
use tokio::time::sleep;

use super::kinds::{Kind, Target, cbor_bomb};
use super::{Peer, node, target};

const MEMBER: [u8; 32] = [1; 32];
const NEWCOMER: [u8; 32] = [2; 32];
/// Bytes of the shard a member reads again and again.
const LENGTH: u32 = 64 * 1024;
/// How long one phase is measured.
const PHASE: Duration = Duration::from_secs(4);
/// Phases on the decoy and on the node, in turn.
const ROUNDS: usize = 2;
/// What resident memory may grow by.
const MEMORY_KIB: u64 = 64 * 1024;
/// What the slowest percent may take beyond twice that of the control: a burst of handshakes. This and the rest of the
/// bound is multiplied by how much longer than it ran the node waited for a processor that others had.
const BURST: Duration = Duration::from_millis(100);
/// A member that comes newly is in by then.
const LET_IN: Duration = Duration::from_secs(15);
/// What a node with the default 1,024 descriptors still has room for beside its files.
const DESCRIPTORS: usize = 900;

/// The attackers: as many tasks as connections, each of which comes again when it was thrown out.
struct Attack {
    at: watch::Sender<Option<Arc<Target>>>,
    made: Arc<AtomicUsize>,
}

impl Attack {
    fn new(count: usize) -> Self {
        let (at, _) = watch::channel(None);
        let made = Arc::new(AtomicUsize::new(0));
        for number in 0..count {
            tokio::spawn(attacker(number, at.subscribe(), Arc::clone(&made)));
        }
        Self { at, made }
    }

    fn turn(&self, target: Option<&Arc<Target>>) {
        self.at.send_replace(target.cloned());
    }
}

async fn attacker(number: usize, mut at: watch::Receiver<Option<Arc<Target>>>, made: Arc<AtomicUsize>) {
    let kind = Kind::ALL[number % Kind::ALL.len()];
    let mut attempt = number;
    loop {
        let Some(target) = at.borrow_and_update().clone() else {
            if at.changed().await.is_err() {
                return;
            }
            continue;
        };
        // All within a second, and then each half a second to two after it was thrown out.
        let wait = if attempt == number { number % 1000 } else { 500 + attempt.wrapping_mul(7919) % 1500 };
        attempt = attempt.wrapping_add(Kind::ALL.len());
        let attack = async {
            sleep(Duration::from_millis(wait as u64)).await;
            made.fetch_add(1, Ordering::Relaxed);
            // A hostile connection ends as it ends.
            let _ = kind.attack(&target, attempt).await;
        };
        tokio::select! {
            () = attack => {}
            changed = at.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// How long one question and one small read took together, many times.
struct Times(Vec<Duration>);

impl Times {
    fn at(&self, thousandths: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted[(sorted.len() * thousandths / 1000).min(sorted.len() - 1)]
    }
}

/// A node under test with the member that uses it.
struct Place {
    node: Shoald,
    target: Arc<Target>,
    member: Peer,
    shard: shoal_protocol::ShardId,
}

impl Place {
    async fn new(data: &Path) -> Self {
        let node = node(data, &[MEMBER, NEWCOMER], &[]);
        let member = Peer::connect(MEMBER, &node, LET_IN).await.unwrap();
        let shard = member.store(1, LENGTH).await.unwrap();
        let target = Arc::new(target(&node));
        Self { node, target, member, shard }
    }

    fn footprint(&self) -> Footprint {
        footprint(self.node.pid()).unwrap()
    }

    /// The member works for a phase; a newcomer comes in the middle of it. How long each took, and the most descriptors.
    async fn phase(&self) -> (Times, Duration, usize) {
        let (begun, mut times, mut descriptors) = (Instant::now(), Vec::new(), 0);
        let coming = async {
            sleep(PHASE / 2).await;
            let begun = Instant::now();
            let newcomer = Peer::connect(NEWCOMER, &self.node, LET_IN).await.unwrap();
            let let_in = begun.elapsed();
            newcomer.retrieve(self.shard, LENGTH, LENGTH).await.unwrap();
            let_in
        };
        let working = async {
            while begun.elapsed() < PHASE {
                let asked = Instant::now();
                let question = Request::Peers { after: None };
                shoal_client::transport::ShardTransport::request(
                    &*self.member.lanes,
                    self.member.node,
                    question,
                    LET_IN,
                )
                .await
                .unwrap();
                self.member.retrieve(self.shard, LENGTH, 16 * 1024).await.unwrap();
                times.push(asked.elapsed());
                descriptors = descriptors.max(self.footprint().descriptors);
                sleep(Duration::from_millis(3)).await;
            }
        };
        let (let_in, ()) = tokio::join!(coming, working);
        (Times(times), let_in, descriptors)
    }
}

/// As many descriptors as the system lets this process have; how many that are.
fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn line(name: &str, times: &Times, let_in: Duration) {
    let (p50, p99, count) = (times.at(500), times.at(990), times.0.len());
    say(&format!("  {name}: {count} operations, median {p50:.2?}, p99 {p99:.2?}; newcomer in after {let_in:.2?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_connections_harm_neither_the_node_nor_its_members() {
    let count = HOSTILE_CONNECTIONS.take();
    let allowed = raise_descriptors();
    assert!(allowed as usize > count + 1000, "the system lets this process have only {allowed} descriptors");
    let room = tempfile::tempdir().unwrap();
    let place = Place::new(&room.path().join("node")).await;
    // The same attack on another node shows what the attackers cost the machine: the rest is what they cost the node.
    let decoy = Place::new(&room.path().join("decoy")).await;
    let attack = Attack::new(count);
    let (quiet, let_in, _) = place.phase().await;
    line("quiet", &quiet, let_in);
    let before = place.footprint();
    forget_peak(place.node.pid()).unwrap();

    let (mut control, mut attacked, mut descriptors) = (Times(Vec::new()), Times(Vec::new()), 0);
    let (mut ran, mut waited, mut under_attack) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        for (name, at, sum) in [("attack on another", &decoy, &mut control), ("attack", &place, &mut attacked)] {
            let made = attack.made.load(Ordering::Relaxed);
            let (begun, earlier) = (Instant::now(), turns(at.node.pid()).unwrap());
            attack.turn(Some(&at.target));
            sleep(Duration::from_secs(1)).await;
            let (times, let_in, most) = place.phase().await;
            line(name, &times, let_in);
            sum.0.extend(times.0);
            descriptors = descriptors.max(most);
            let made = attack.made.load(Ordering::Relaxed) - made;
            if name == "attack" {
                let later = turns(at.node.pid()).unwrap();
                (ran, waited) = (ran + later.ran - earlier.ran, waited + later.waited - earlier.waited);
                under_attack += begun.elapsed();
            }
            let now = place.footprint();
            say(&format!("    {made} connections tried; {now:?}, {most} descriptors at most"));
        }
    }
    attack.turn(None);
    let during = place.footprint();
    let grown = during.peak_kib.saturating_sub(before.rss_kib);
    let ratio = attacked.at(990).as_secs_f64() / control.at(990).as_secs_f64();
    let to_quiet = attacked.at(990).as_secs_f64() / quiet.at(990).as_secs_f64();
    say(&format!("{count} hostile connections: p99 {ratio:.2}x the control, {to_quiet:.2}x quiet; medians {:.2}x", {
        attacked.at(500).as_secs_f64() / control.at(500).as_secs_f64()
    }));
    let stretch = 1.0 + waited.as_secs_f64() / ran.as_secs_f64();
    let processors = ran.as_secs_f64() / under_attack.as_secs_f64();
    say(&format!("  the node had {processors:.2} processors under attack and waited {stretch:.1}x as long for them"));
    say(&format!("  memory {} KiB before, +{grown} KiB at most, {descriptors} descriptors", before.rss_kib));
    let ended = Instant::now();
    let drained = loop {
        let now = place.footprint();
        // The newcomers' own connections end with them; the member's stays.
        if now.descriptors <= before.descriptors + 2 || ended.elapsed() > Duration::from_secs(20) {
            break now;
        }
        sleep(Duration::from_millis(100)).await;
    };
    say(&format!("  drained after {:.1?}: {drained:?}", ended.elapsed()));
    assert!(grown <= MEMORY_KIB, "resident memory grew by {grown} KiB");
    let most = (control.at(990) * 2 + BURST).mul_f64(stretch);
    assert!(attacked.at(990) <= most, "p99 {:?} of {:?}, at most {most:?}", attacked.at(990), control.at(990));
    assert!(descriptors <= DESCRIPTORS, "{descriptors} descriptors");
    assert!(drained.descriptors <= before.descriptors + 2, "{drained:?} of {before:?}");
    place.member.store(2, LENGTH).await.unwrap();
}

#[test]
fn no_nesting_and_no_length_is_believed() {
    for number in 0..6 {
        assert!(Request::from_bytes(&cbor_bomb(number)).is_err(), "{number}");
    }
    for bomb in [vec![0x81; 1_000_000], vec![0xa1; 1_000_000], vec![0xd8; 1_000_000], vec![0x9f; 1_000_000]] {
        assert!(Request::from_bytes(&bomb).is_err());
    }
}
