//! A hundred peers in one process, for a node to know: each a swarm of its own with a signed record, which greets, tells
//! of all the others and asks as often as a node does. They store nothing and answer nothing else.
//!
//! It prints the address of the first; then, for each line on its standard input, how many are connected to anybody and
//! how many records the peer that the line names gave. It ends when its input is closed.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use shoal_engine::directory::ASK_AGAIN_MS;
use shoal_protocol::control::{Hello, PROTOCOL_VERSION, Request, Response};
use shoal_protocol::limits::PEERS_PAGE_MAX;
use shoal_protocol::peer_record::PeerRecord;
use shoal_protocol::{BootEpoch, ByteCount, NetworkId, NodeId, Refusal, Signed};
use shoal_swarm::{InboundRequest, Started, SwarmConfig, SwarmEvent, SwarmHandle, start};
use shoal_tests::process::NETWORK;
use shoal_tests::sample::clock;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::CHILD;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The process, from outside.
pub(crate) struct Crowd {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Where the first of them listens.
    pub(crate) address: String,
}

impl Crowd {
    /// Starts so many peers.
    pub(crate) fn start(count: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([CHILD, "crowd", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut address = String::new();
        output.read_line(&mut address).unwrap();
        Self { child, input, output, address: address.trim().to_owned() }
    }

    /// How many are connected to the node, and how many records of others the node gives.
    pub(crate) fn ask(&mut self, node: &str) -> (usize, usize) {
        writeln!(self.input, "{node}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let numbers: Vec<usize> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        (numbers[0], numbers[1])
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of them.
#[derive(Clone)]
struct Member {
    hello: Hello,
    /// What it says to PEERS.
    others: Arc<Vec<Signed>>,
    handle: SwarmHandle,
}

/// The process, from inside.
pub(crate) fn run(count: u8) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let members = runtime.block_on(begin(count));
    let address = runtime.block_on(members[0].handle.listening()).remove(0);
    let say = |line: String| {
        println!("{line}");
        io::stdout().flush().unwrap();
    };
    say(address);
    for line in io::stdin().lock().lines() {
        let node: NodeId = line.unwrap().parse().unwrap();
        let connected: Vec<&Member> =
            members.iter().filter(|member| member.handle.connected().contains(&node)).collect();
        let known = connected.first().map_or(0, |member| runtime.block_on(peers_of(&member.handle, node)));
        say(format!("{} {known}", connected.len()));
    }
}

/// Starts all of them, then has each serve and ask.
async fn begin(count: u8) -> Vec<Member> {
    let network = NetworkId::derive(None, NETWORK).unwrap();
    let mut begun: Vec<(Started, Hello)> = Vec::new();
    for number in 1..=count {
        // Keys of no consequence: they sign for peers that exist in this process alone.
        let seed = *blake3::hash(&[number]).as_bytes();
        let mut config = SwarmConfig::new(Zeroizing::new(seed), network.tag());
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
        let started = start(config).await.unwrap();
        let addresses = started.handle.listening().await;
        let bare = |address: &String| address.split("/p2p/").next().unwrap_or_default().to_owned();
        let record = PeerRecord {
            addresses: addresses.iter().map(bare).collect(),
            boot_epoch: BootEpoch(u64::from(number)),
            free: ByteCount(1 << 30),
            domain: None,
            stores: true,
            time: clock(),
        };
        let hello = Hello {
            versions: vec![PROTOCOL_VERSION],
            boot_epoch: record.boot_epoch,
            free: record.free,
            domain: None,
            time: record.time,
            record: Some(Signed::seal(&record, &SigningKey::from_bytes(&seed), &network)),
        };
        begun.push((started, hello));
    }
    let mut records: Vec<Signed> = begun.iter().filter_map(|(_, hello)| hello.record.clone()).collect();
    records.sort_by_key(|signed| NodeId::from(*signed.claimed_signer()));
    let others = Arc::new(records);
    begun
        .into_iter()
        .map(|(Started { handle, inbound, events }, hello)| {
            let member = Member { hello, others: Arc::clone(&others), handle };
            drop(inbound.lanes);
            tokio::spawn(serve(member.clone(), inbound.requests));
            tokio::spawn(ask(member.clone(), events));
            member
        })
        .collect()
}

async fn serve(member: Member, mut requests: mpsc::Receiver<InboundRequest>) {
    while let Some(request) = requests.recv().await {
        let response = match Request::from_bytes(&request.body) {
            Ok(Request::Hello(_)) => Response::Hello(Hello { time: clock(), ..member.hello.clone() }),
            Ok(Request::Peers { after }) => {
                let behind =
                    |signed: &&Signed| after.is_none_or(|after| NodeId::from(*signed.claimed_signer()) > after);
                let mut rest = member.others.iter().filter(behind).cloned();
                let records = rest.by_ref().take(PEERS_PAGE_MAX).collect();
                Response::Peers { records, more: rest.next().is_some() }
            }
            _ => Response::refused(Refusal::Unsupported),
        };
        let _ = request.reply(response.to_bytes().into());
    }
}

/// Greets who connects, then asks whom they know, now and again, as a node does.
async fn ask(member: Member, mut events: mpsc::Receiver<SwarmEvent>) {
    let mut again = tokio::time::interval(Duration::from_millis(ASK_AGAIN_MS));
    loop {
        tokio::select! {
            event = events.recv() => match event {
                None => return,
                Some(SwarmEvent::Connected { peer, .. }) => {
                    let hello = Request::Hello(Hello { time: clock(), ..member.hello.clone() });
                    let _ = member.handle.request(peer, hello.to_bytes().into(), ANSWER).await;
                }
                Some(_) => {}
            },
            _ = again.tick() => {
                for peer in member.handle.connected() {
                    peers_of(&member.handle, peer).await;
                }
            }
        }
    }
}

/// How many records a peer gives, page by page.
async fn peers_of(handle: &SwarmHandle, peer: NodeId) -> usize {
    let (mut after, mut count) = (None, 0);
    loop {
        let request = Request::Peers { after }.to_bytes();
        let Ok(answer) = handle.request(peer, request.into(), ANSWER).await else { return count };
        let Ok(Response::Peers { records, more }) = Response::from_bytes(&answer) else { return count };
        count += records.len();
        match records.last() {
            Some(last) if more => after = Some(NodeId::from(*last.claimed_signer())),
            _ => return count,
        }
    }
}
