//! The raw lane rate: bytes through the lanes that shards take, one client and several processes, without a store, a
//! cipher of ours or a hash. What the loop can reach at best on this machine. It keeps nothing.
//!
//! A client says `u8 direction, u64 length`, then that many bytes follow in frames as transfers have them; those that go
//! up are answered with one byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use shoal_protocol::limits::LANE_FRAME_MAX;
use shoal_protocol::{NetworkId, NodeId};
use shoal_swarm::limits::OUTBOUND_LANES_PER_PEER_MAX;
use shoal_swarm::{InboundLane, ShardLane, Started, SwarmConfig, start};
use shoal_tests::bench::machine::Work;
use shoal_tests::process::NETWORK;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::CHILD;

/// How long connections and lanes may take to be there.
const SOON: Duration = Duration::from_secs(10);
/// Length word of a frame.
const WORD: usize = 4;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// What moving bytes took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) took: Duration,
    pub(crate) client: Work,
    pub(crate) peers: Work,
}

/// A process at the other end.
struct Sink {
    child: Child,
    address: String,
    /// It ends when this is closed.
    _open: ChildStdin,
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One client in this process, connected to several others.
pub(crate) struct Lanes {
    sinks: Vec<Sink>,
    peers: Vec<NodeId>,
    client: Started,
    runtime: Runtime,
}

impl Lanes {
    /// Starts `count` processes and connects to them.
    pub(crate) fn new(count: usize) -> Self {
        let sinks: Vec<Sink> = (0..count).map(|_| start_sink()).collect();
        let runtime = runtime();
        let (client, peers) = runtime.block_on(async {
            let client = start(config(&[])).await.unwrap();
            let mut peers = Vec::new();
            for sink in &sinks {
                peers.push(client.handle.dial(None, vec![sink.address.clone()], SOON).await.unwrap());
            }
            (client, peers)
        });
        Self { sinks, peers, client, runtime }
    }

    /// Moves `total` bytes, evenly over all peers and as many lanes to each as a client may have.
    pub(crate) fn run(&self, way: Way, total: u64) -> Moved {
        let handle = &self.client.handle;
        let each = total / (self.peers.len() * OUTBOUND_LANES_PER_PEER_MAX) as u64;
        let sinks = || self.sinks.iter().map(|sink| Work::of(sink.child.id())).sum::<Work>();
        let own = || Work::of(std::process::id());
        self.runtime.block_on(async {
            let mut lanes: Vec<ShardLane> = Vec::new();
            for peer in self.peers.iter().flat_map(|peer| [*peer; OUTBOUND_LANES_PER_PEER_MAX]) {
                lanes.push(handle.lane(peer, SOON).await.unwrap());
            }
            let (sinks_before, own_before, since) = (sinks(), own(), Instant::now());
            let moving: Vec<_> = lanes.into_iter().map(|lane| tokio::spawn(ask(lane, way, each))).collect();
            for moved in moving {
                moved.await.unwrap().unwrap();
            }
            let took = since.elapsed();
            Moved { took, client: own().since(own_before), peers: sinks().since(sinks_before) }
        })
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn config(listen: &[&str]) -> SwarmConfig {
    let mut seed = [0; 32];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut seed).unwrap();
    let mut config = SwarmConfig::new(Zeroizing::new(seed), NetworkId::derive(None, NETWORK).unwrap().tag());
    config.listen = listen.iter().map(ToString::to_string).collect();
    config
}

fn start_sink() -> Sink {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([CHILD, "sink"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let open = child.stdin.take().unwrap();
    Sink { child, address: address.trim().to_owned(), _open: open }
}

/// The other process: serves lanes until its standard input is closed.
pub(crate) fn sink() {
    let runtime = runtime();
    let started = runtime.block_on(start(config(&["/ip4/127.0.0.1/tcp/0"]))).unwrap();
    let address = runtime.block_on(started.handle.listening()).remove(0);
    println!("{address}");
    io::stdout().flush().unwrap();
    let mut lanes = started.inbound.lanes;
    runtime.spawn(async move {
        while let Some(lane) = lanes.recv().await {
            tokio::spawn(serve(lane));
        }
    });
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

async fn serve(mut lane: InboundLane) {
    let stream = &mut lane.stream;
    // The lane ends with an error when the client closes it.
    while let (Ok(way), Ok(length)) = (stream.read_u8().await, stream.read_u64().await) {
        let served = match way {
            0 => take(stream, length).await.is_ok() && stream.write_u8(1).await.is_ok(),
            _ => give(stream, length).await.is_ok(),
        };
        if !served || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn ask(mut lane: ShardLane, way: Way, length: u64) -> io::Result<()> {
    lane.write_u8(u8::from(way == Way::Down)).await?;
    lane.write_u64(length).await?;
    match way {
        Way::Up => {
            give(&mut lane, length).await?;
            lane.flush().await?;
            lane.read_u8().await?;
        }
        Way::Down => {
            lane.flush().await?;
            take(&mut lane, length).await?;
        }
    }
    lane.release();
    Ok(())
}

async fn give(out: &mut (impl AsyncWrite + Unpin), length: u64) -> io::Result<()> {
    let mut frame = vec![7; WORD + LANE_FRAME_MAX];
    let mut left = length;
    while left > 0 {
        let piece = left.min(LANE_FRAME_MAX as u64) as usize;
        frame[..WORD].copy_from_slice(&(piece as u32).to_be_bytes());
        out.write_all(&frame[..WORD + piece]).await?;
        left -= piece as u64;
    }
    Ok(())
}

async fn take(input: &mut (impl AsyncRead + Unpin), length: u64) -> io::Result<()> {
    let mut frame = BytesMut::with_capacity(LANE_FRAME_MAX);
    let mut left = length;
    while left > 0 {
        let piece = input.read_u32().await? as usize;
        assert!(piece <= LANE_FRAME_MAX && piece as u64 <= left, "a frame of {piece}");
        frame.clear();
        while frame.len() < piece {
            let missing = piece - frame.len();
            if input.read_buf(&mut (&mut frame).limit(missing)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        left -= piece as u64;
    }
    Ok(())
}
