//! Two userspace ends joined in memory, over lines that are whole, lose packets or bring them out of order: what is sent
//! arrives, whatever becomes of single packets, and nothing is reset.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::channel::Channel;
use super::connection::Connection;
use super::stack::{ConnectError, Listener, Stack};
use crate::vpn::system::tun::Written;

const PORT: u16 = 7;
/// A deadline that nothing reaches that goes on at all, also beside programs that take all processors.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a line does to packets.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// Of a thousand packets so many are lost.
    lost: u64,
    /// Of a thousand so many are overtaken by the next few.
    late: u64,
}

struct End {
    stack: Arc<Stack>,
    channel: Arc<Channel>,
    addresses: (Ipv4Addr, Ipv6Addr),
}

impl End {
    fn new(number: u8) -> Self {
        let addresses = (Ipv4Addr::new(100, 64, 0, number), Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, u16::from(number)));
        let channel = Arc::new(Channel::new().unwrap());
        let stack = Stack::new(Arc::clone(&channel), 1280, (Some(addresses.0), addresses.1), u64::from(number));
        Self { stack, channel, addresses }
    }

    fn place(&self, is_v4: bool) -> SocketAddr {
        let address = if is_v4 { IpAddr::V4(self.addresses.0) } else { IpAddr::V6(self.addresses.1) };
        SocketAddr::new(address, PORT)
    }
}

/// Two ends, a line between them, and the threads that make it all go.
struct Pair {
    ends: [End; 2],
    listener: Option<Listener>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    full: Arc<AtomicU64>,
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

impl Pair {
    fn new(line: Line, seed: u64) -> Self {
        let ends = [End::new(1), End::new(2)];
        let listener = Some(ends[1].stack.publish(PORT));
        let (stop, full) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for end in &ends {
            let (stack, stop) = (Arc::clone(&end.stack), Arc::clone(&stop));
            threads.push(std::thread::spawn(move || stack.run(&stop).unwrap()));
        }
        for (from, to, salt) in [(0, 1, 1), (1, 0, 2)] {
            let (from, to) = (Arc::clone(&ends[from].channel), Arc::clone(&ends[to].channel));
            let (stop, full) = (Arc::clone(&stop), Arc::clone(&full));
            threads.push(std::thread::spawn(move || carry((&from, &to), line, seed ^ salt, (&stop, &full))));
        }
        Self { ends, listener, stop, threads, full }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        for end in &self.ends {
            end.channel.stack().wake().unwrap();
        }
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// Carries packets one way as the packet half does: what the other end has no room for is lost.
fn carry((from, to): (&Channel, &Channel), line: Line, seed: u64, (stop, full): (&AtomicBool, &AtomicU64)) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut buffer = vec![0; 4096];
    let mut late: Vec<(u64, Vec<u8>)> = Vec::new();
    let give = |packet: &[u8]| match to.write(packet).unwrap() {
        Written::Taken => {}
        Written::Full => drop(full.fetch_add(1, Ordering::Relaxed)),
        Written::Refused => panic!("an unfinished packet"),
    };
    while !stop.load(Ordering::Acquire) {
        let Some(length) = from.read(&mut buffer).unwrap() else {
            // Nobody comes behind to overtake them.
            late.drain(..).for_each(|(_, packet)| give(&packet));
            let short = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&short)).unwrap();
            continue;
        };
        let packet = &buffer[..length];
        if random(&mut state) % 1000 < line.lost {
            continue;
        }
        if random(&mut state) % 1000 < line.late {
            late.push((1 + random(&mut state) % 6, packet.to_vec()));
            continue;
        }
        give(packet);
        late.retain_mut(|(left, packet)| {
            *left -= 1;
            if *left == 0 {
                give(packet);
            }
            *left > 0
        });
    }
}

fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random(&mut state).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends `sent` while it reads to the end, then says what it read.
async fn exchange(connection: Connection, sent: Vec<u8>) -> std::io::Result<blake3::Hash> {
    let (mut reader, mut writer) = tokio::io::split(connection);
    let writing = async {
        writer.write_all(&sent).await?;
        writer.shutdown().await
    };
    let reading = async {
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 16 * 1024]);
        loop {
            match reader.read(&mut buffer).await? {
                0 => return Ok(hasher.finalize()),
                length => hasher.update(&buffer[..length]),
            };
        }
    };
    tokio::try_join!(writing, reading).map(|((), hash)| hash)
}

/// Opens `count` connections at once over both families and sends `length` bytes each way on each.
async fn bytes_arrive(line: Line, count: u64, length: usize) {
    let seed = u64::from_le_bytes(crate::clock::random().unwrap());
    println!("seed {seed}, {line:?}");
    let begun = Instant::now();
    let mut pair = Pair::new(line, seed);
    let mut listener = pair.listener.take().unwrap();
    let far = Arc::clone(&pair.ends[1].stack);
    let serving = tokio::spawn(async move {
        let mut served = tokio::task::JoinSet::new();
        for _ in 0..count {
            let connection = far.accept(&mut listener).await.expect("the stack is there");
            // What is sent back is the same for all: who asks is not known here.
            served.spawn(exchange(connection, bytes(length, 1000)));
        }
        let mut hashes = Vec::new();
        while let Some(hash) = served.join_next().await {
            hashes.push(hash.unwrap().expect("the far side was reset"));
        }
        hashes
    });
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..count {
        let (near, to) = (Arc::clone(&pair.ends[0].stack), pair.ends[1].place(number % 2 == 0));
        asking.spawn(async move {
            let connection = near.connect(to).await.expect("a connection");
            exchange(connection, bytes(length, number)).await.expect("the near side was reset")
        });
    }
    let all = async {
        while let Some(hash) = asking.join_next().await {
            assert_eq!(hash.unwrap(), blake3::hash(&bytes(length, 1000)), "what came back");
        }
        let mut hashes: Vec<_> = serving.await.unwrap().iter().map(|hash| hash.to_hex()).collect();
        let mut wanted: Vec<_> = (0..count).map(|number| blake3::hash(&bytes(length, number)).to_hex()).collect();
        hashes.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(hashes, wanted, "what went out");
    };
    tokio::time::timeout(DEADLINE, all).await.expect("it goes on");
    println!("{count} of {length} bytes: {:?}, {} not taken", begun.elapsed(), pair.full.load(Ordering::Relaxed));
    pair.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_arrive_both_ways_at_once_over_both_families() {
    bytes_arrive(Line::default(), 2, 4 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_many_connections_at_once_arrive() {
    bytes_arrive(Line::default(), 48, 256 << 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_arrive_over_a_line_that_loses_packets() {
    bytes_arrive(Line { lost: 10, late: 0 }, 4, 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_arrive_over_a_line_that_brings_packets_out_of_order() {
    bytes_arrive(Line { lost: 0, late: 30 }, 4, 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_arrive_over_a_line_that_loses_and_mixes() {
    bytes_arrive(Line { lost: 10, late: 10 }, 24, 128 << 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_nobody_published_is_refused_at_once() {
    let pair = Pair::new(Line::default(), 1);
    for is_v4 in [true, false] {
        let mut to = pair.ends[1].place(is_v4);
        to.set_port(8);
        assert_eq!(pair.ends[0].stack.connect(to).await.unwrap_err(), ConnectError::Refused);
    }
    pair.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_one_direction_leaves_the_other_open() {
    let mut pair = Pair::new(Line::default(), 1);
    let mut listener = pair.listener.take().unwrap();
    let mut near = pair.ends[0].stack.connect(pair.ends[1].place(false)).await.unwrap();
    let mut far = pair.ends[1].stack.accept(&mut listener).await.unwrap();
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut asked = Vec::new();
    far.read_to_end(&mut asked).await.unwrap();
    assert_eq!(asked, b"question");
    tokio::time::sleep(Duration::from_millis(50)).await;
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    drop(far);
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    drop(near);
    pair.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_dropped_before_its_end_is_reset() {
    let mut pair = Pair::new(Line::default(), 1);
    let mut listener = pair.listener.take().unwrap();
    let mut near = pair.ends[0].stack.connect(pair.ends[1].place(true)).await.unwrap();
    let far = pair.ends[1].stack.accept(&mut listener).await.unwrap();
    drop(far);
    let read = near.read_u8().await.unwrap_err();
    assert_eq!(read.kind(), std::io::ErrorKind::ConnectionReset);
    pair.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_says_nothing_for_a_while_is_not_cut_off_and_nothing_is_done_meanwhile() {
    let mut pair = Pair::new(Line::default(), 1);
    let mut listener = pair.listener.take().unwrap();
    let mut near = pair.ends[0].stack.connect(pair.ends[1].place(true)).await.unwrap();
    let mut far = pair.ends[1].stack.accept(&mut listener).await.unwrap();
    let before = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    println!("processor time while nothing happens: {:?} to {:?}", before, after);
    far.write_all(b"there").await.unwrap();
    let mut word = [0; 5];
    near.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"there");
    pair.stop();
}
