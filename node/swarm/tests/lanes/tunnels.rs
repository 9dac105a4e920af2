//! Tunnel lanes between real swarms: a connection of their own, one a pair, frames whole and in order, typed refusals.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use shoal_swarm::{
    FrameBuffer, LaneError, NodeId, Started, SwarmConfig, SwarmEvent, TunnelError, TunnelLane, TunnelReader,
    TunnelWriter, start,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use crate::support::{QUIC, SOON, TAG, TCP, connect, event, eventually, node, raw_streams};

/// A node that has tunnel lanes with anybody.
async fn open_node(seed: u8, listen: &str) -> Started {
    let mut config = SwarmConfig::new(Zeroizing::new([seed; 32]), TAG.to_owned());
    config.listen = vec![listen.to_owned()];
    config.tunnel_strangers = true;
    start(config).await.expect("a swarm starts")
}

/// Bytes towards the node, and the task that forwards them.
type Forwarded = (Arc<AtomicUsize>, AbortHandle);

/// Forwards TCP connections to a node, counts what each carries, and can cut each.
struct Proxy {
    address: String,
    connections: Arc<Mutex<Vec<Forwarded>>>,
}

impl Proxy {
    async fn to(node: &Started) -> Self {
        let address = node.handle.listening().await.remove(0);
        let port: u16 = address.split('/').nth(4).unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
        let connections = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let count = Arc::new(AtomicUsize::new(0));
                let task = tokio::spawn(forward(near, far, Arc::clone(&count)));
                all.lock().unwrap().push((count, task.abort_handle()));
            }
        });
        Self { address, connections }
    }

    /// Bytes each connection carried towards the node.
    fn carried(&self) -> Vec<usize> {
        self.connections.lock().unwrap().iter().map(|(count, _)| count.load(Ordering::Relaxed)).collect()
    }

    fn cut(&self, connection: usize) {
        self.connections.lock().unwrap()[connection].1.abort();
    }
}

async fn forward(near: TcpStream, far: TcpStream, count: Arc<AtomicUsize>) {
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
    let there = async {
        let mut space = vec![0; 256 * 1024];
        while let Ok(read @ 1..) = near_in.read(&mut space).await {
            count.fetch_add(read, Ordering::Relaxed);
            if far_out.write_all(&space[..read]).await.is_err() {
                return;
            }
        }
    };
    let back = async { tokio::io::copy(&mut far_in, &mut near_out).await };
    tokio::select! {
        () = there => {}
        _ = back => {}
    }
}

/// Both call, and whoever accepts finds the lane at either place.
async fn both(a: &mut Started, b: &mut Started) -> (TunnelLane, TunnelLane) {
    let (first, second) = (a.handle.clone(), b.handle.clone());
    let (of_a, of_b) = tokio::join!(first.tunnel(b.handle.local(), SOON), second.tunnel(a.handle.local(), SOON));
    let end = |result: Result<TunnelLane, LaneError>, node: &mut Started| match result {
        Ok(lane) => lane,
        // It came before the call.
        Err(LaneError::TunnelOpen) => node.inbound.tunnels.try_recv().expect("the lane waits here"),
        Err(error) => panic!("{error:?}"),
    };
    (end(of_a, a), end(of_b, b))
}

async fn next(reader: &mut TunnelReader, frames: &mut FrameBuffer) -> Result<Vec<u8>, TunnelError> {
    let mut found = async || loop {
        reader.read(frames).await?;
        if let Some(frame) = frames.next_frame() {
            return Ok(frame.to_vec());
        }
    };
    tokio::time::timeout(SOON, found()).await.expect("a frame in time")
}

async fn talk(a: &mut TunnelLane, b: &mut TunnelLane) {
    for (from, to) in [(&mut a.writer, &mut b.reader), (&mut b.writer, &mut a.reader)] {
        let mut frames = FrameBuffer::default();
        from.send(&[&b"one"[..], b"two"]).await.unwrap();
        assert_eq!(next(to, &mut frames).await.unwrap(), b"one");
        assert_eq!(next(to, &mut frames).await.unwrap(), b"two");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnel_and_bulk_are_on_different_connections() {
    let (mut client, mut server) = (open_node(130, TCP).await, open_node(131, TCP).await);
    let proxy = Proxy::to(&server).await;
    let peer = server.handle.local();
    client.handle.dial(Some(peer), vec![proxy.address.clone()], SOON).await.unwrap();
    eventually(|| server.handle.connected().contains(&client.handle.local())).await;
    let (mut near, mut far) = both(&mut client, &mut server).await;
    assert_eq!((near.shared, far.shared), (false, false));
    assert_eq!((near.peer, far.peer), (peer, client.handle.local()));
    assert_eq!(near.address, Some([127, 0, 0, 1].into()));
    assert_eq!(client.handle.remote_ip(&peer), near.address);
    assert_eq!(proxy.carried().len(), 2);

    const BULK: usize = 8 << 20;
    const FRAMES: usize = 64;
    let mut lane = client.handle.lane(peer, SOON).await.unwrap();
    let sink = tokio::spawn(async move {
        let mut lane = server.inbound.lanes.recv().await.unwrap();
        let mut bytes = vec![0; BULK];
        AsyncReadExt::read_exact(&mut lane.stream, &mut bytes).await.unwrap();
        server
    });
    let frames = tokio::spawn(async move {
        let (mut frames, mut got) = (FrameBuffer::default(), 0);
        while got < FRAMES {
            far.reader.read(&mut frames).await.unwrap();
            while frames.next_frame().is_some() {
                got += 1;
            }
        }
        far
    });
    let bulk = async {
        AsyncWriteExt::write_all(&mut lane, &vec![0; BULK]).await.unwrap();
        AsyncWriteExt::flush(&mut lane).await.unwrap();
    };
    let tunnel = async {
        for _ in 0..FRAMES {
            near.writer.ready().await.unwrap();
            near.writer.send(&[vec![1; 60 * 1024]]).await.unwrap();
        }
    };
    tokio::join!(bulk, tunnel);
    let _ends = (sink.await.unwrap(), frames.await.unwrap());
    let carried = proxy.carried();
    let tunnelled = FRAMES * 60 * 1024;
    assert_eq!(carried.len(), 2, "{carried:?}");
    assert!((BULK..BULK + (1 << 20)).contains(&carried[0]), "{carried:?}");
    assert!((tunnelled..tunnelled + (1 << 20)).contains(&carried[1]), "{carried:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_call_at_once_fifty_times_and_there_is_one_connection() {
    let (mut client, mut server) = (open_node(132, TCP).await, open_node(133, TCP).await);
    let proxy = Proxy::to(&server).await;
    let peer = server.handle.local();
    client.handle.dial(Some(peer), vec![proxy.address.clone()], SOON).await.unwrap();
    eventually(|| server.handle.connected().contains(&client.handle.local())).await;
    for round in 0..50 {
        let (mut near, mut far) = both(&mut client, &mut server).await;
        talk(&mut near, &mut far).await;
        assert_eq!(client.handle.tunnel(peer, SOON).await.err(), Some(LaneError::TunnelOpen), "round {round}");
        assert_eq!(proxy.carried().len(), 2, "one for bulk, one for the tunnel, round {round}");
        assert!(server.inbound.tunnels.try_recv().is_err(), "no second lane");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_both_dialled_there_is_one_lane_too() {
    for round in 0..20 {
        let (mut a, mut b) = (open_node(134 + round * 2, TCP).await, open_node(135 + round * 2, TCP).await);
        // Through proxies: straight dials from listening port to listening port may meet as one connection.
        let (to_a, to_b) = (Proxy::to(&a).await.address, Proxy::to(&b).await.address);
        let (ab, ba) = tokio::join!(a.handle.dial(None, vec![to_b], SOON), b.handle.dial(None, vec![to_a], SOON));
        assert!(ab.is_ok() && ba.is_ok(), "{ab:?} {ba:?}");
        // The links may be known to one side alone at this moment: the rule then differs, and the opens cross.
        let (mut near, mut far) = both(&mut a, &mut b).await;
        talk(&mut near, &mut far).await;
        assert!(a.inbound.tunnels.try_recv().is_err() && b.inbound.tunnels.try_recv().is_err());
        a.handle.shutdown().await;
    }
}

/// Of frame `index` the bytes: a slice of one pattern, at a place and of a length of its own.
fn frame(pattern: &[u8], index: u64) -> &[u8] {
    let mut word = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^= word >> 29;
    word = word.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let from = usize::try_from(word % 65_536).unwrap();
    // Any length as often as any other, and of every other frame a short one more often.
    let short = if word & (1 << 56) == 0 { 0 } else { (word >> 40) % 12 };
    let length = 1 + (usize::try_from((word >> 20) % 65_535).unwrap() >> short);
    &pattern[from..from + length]
}

async fn send_all(writer: &mut TunnelWriter, pattern: &[u8], count: u64) {
    let mut index = 0;
    while index < count {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while index < count && bytes < 60 * 1024 {
            let frame = frame(pattern, index);
            bytes += frame.len();
            batch.push(frame);
            index += 1;
        }
        writer.ready().await.unwrap();
        writer.send(&batch).await.unwrap();
    }
}

async fn check_all(reader: &mut TunnelReader, pattern: &[u8], count: u64) {
    let (mut frames, mut index) = (FrameBuffer::default(), 0);
    while index < count {
        reader.read(&mut frames).await.unwrap();
        while let Some(got) = frames.next_frame() {
            assert!(got == frame(pattern, index), "frame {index}");
            index += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_frames_both_ways_keep_order_and_content() {
    let (mut client, mut server) = (open_node(180, TCP).await, open_node(181, TCP).await);
    connect(&client, &server).await;
    let (mut near, mut far) = both(&mut client, &mut server).await;
    let mut word = 7_u64;
    let pattern: Arc<[u8]> = (0..132_000)
        .map(|_| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.to_be_bytes()[0]
        })
        .collect();
    let (of_near, of_far) = (Arc::clone(&pattern), Arc::clone(&pattern));
    let start = Instant::now();
    let there = tokio::spawn(async move {
        tokio::join!(send_all(&mut near.writer, &of_near, 100_000), check_all(&mut near.reader, &of_near, 100_000));
        near
    });
    let back = tokio::spawn(async move {
        tokio::join!(send_all(&mut far.writer, &of_far, 100_000), check_all(&mut far.reader, &of_far, 100_000));
        far
    });
    let _lanes = (there.await.unwrap(), back.await.unwrap());
    let bytes: usize = (0..100_000).map(|index| frame(&pattern, index).len()).sum();
    let seconds = start.elapsed().as_secs_f64();
    println!("100,000 frames, {} MB each way in {seconds:.1} s", bytes / 1_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_dies_with_its_connection_and_is_opened_again() {
    let (mut client, mut server) = (open_node(182, TCP).await, open_node(183, TCP).await);
    let proxy = Proxy::to(&server).await;
    let peer = server.handle.local();
    client.handle.dial(Some(peer), vec![proxy.address.clone()], SOON).await.unwrap();
    eventually(|| server.handle.connected().contains(&client.handle.local())).await;
    for round in 1..=3 {
        let (mut near, mut far) = both(&mut client, &mut server).await;
        talk(&mut near, &mut far).await;
        proxy.cut(round);
        let mut frames = FrameBuffer::default();
        assert_eq!(next(&mut near.reader, &mut frames).await, Err(TunnelError::Closed));
        assert_eq!(near.writer.ready().await, Err(TunnelError::Closed));
        assert_eq!(next(&mut far.reader, &mut frames).await, Err(TunnelError::Closed));
        assert_eq!(far.writer.send(&[b"lost"]).await, Err(TunnelError::Closed));
        event(&mut client.events, |event| *event == SwarmEvent::TunnelGone { peer }).await;
        let own = client.handle.local();
        event(&mut server.events, |event| *event == SwarmEvent::TunnelGone { peer: own }).await;
        assert_eq!(proxy.carried().len(), round + 1, "bulk kept its connection");
        assert!(client.handle.connected().contains(&peer));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_quic_alone_the_lane_shares_the_connection() {
    let (mut client, mut server) = (open_node(184, QUIC).await, open_node(185, QUIC).await);
    connect(&client, &server).await;
    let (mut near, mut far) = both(&mut client, &mut server).await;
    assert!(near.shared && far.shared);
    talk(&mut near, &mut far).await;
    // Bulk still finds its way.
    let lane = client.handle.lane(server.handle.local(), SOON).await;
    assert!(lane.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_did_not_dial_waits_and_an_owner_that_did_not_call_is_told() {
    let (client, mut server) = (open_node(186, TCP).await, open_node(187, TCP).await);
    connect(&client, &server).await;
    let (peer, own) = (server.handle.local(), client.handle.local());
    let wait = Duration::from_millis(200);
    assert_eq!(server.handle.tunnel(own, wait).await.err(), Some(LaneError::Timeout(wait)));
    let mut near = client.handle.tunnel(peer, SOON).await.unwrap();
    let mut far = tokio::time::timeout(SOON, server.inbound.tunnels.recv()).await.unwrap().unwrap();
    talk(&mut near, &mut far).await;
    assert_eq!(server.handle.tunnel(own, SOON).await.err(), Some(LaneError::TunnelOpen));
    drop(near);
    let ended = next(&mut far.reader, &mut FrameBuffer::default()).await;
    assert_eq!(ended, Err(TunnelError::Closed), "the peer dropped its end");
    let nobody = NodeId::from_bytes([9; 32]);
    assert_eq!(client.handle.tunnel(nobody, SOON).await.err(), Some(LaneError::NotConnected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_told_on_both_sides() {
    let (client, server) = (open_node(188, TCP).await, node(189).await);
    connect(&client, &server).await;
    assert_eq!(client.handle.tunnel(server.handle.local(), SOON).await.err(), Some(LaneError::Denied), "by the peer");
    assert_eq!(server.handle.tunnel(client.handle.local(), SOON).await.err(), Some(LaneError::Denied), "here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_frames_and_second_lanes_are_refused_by_type() {
    let mut server = open_node(190, TCP).await;
    let address = server.handle.listening().await.remove(0);
    let name = format!("/shoal/{TAG}/tunnel/2");
    let end = |bytes: &'static [u8]| {
        let (address, name) = (address.clone(), name.clone());
        async move {
            let (mut streams, _) = raw_streams(&address, name, 2).await;
            let mut answers = Vec::new();
            for stream in &mut streams {
                stream.flush().await.unwrap();
                let mut answer = [0; 2];
                tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await.unwrap().unwrap();
                answers.push(u16::from_be_bytes(answer));
            }
            let yes = answers.iter().position(|answer| *answer == 0).unwrap();
            answers.sort_unstable();
            assert_eq!(answers, [0, 3], "one lane, and busy for the second on this connection");
            streams[yes].write_all(bytes).await.unwrap();
            streams[yes].close().await.unwrap();
            streams
        }
    };
    let (credit, cut, whole): (&[u8], &[u8], &[u8]) = (&[0, 1, 7, 0, 0, 0, 0], &[0, 1, 7, 0, 3, 8, 8], &[0, 1, 7]);
    for (bytes, wanted) in [(credit, TunnelError::Cut), (cut, TunnelError::Cut), (whole, TunnelError::Closed)] {
        let streams = end(bytes).await;
        let mut lane = tokio::time::timeout(SOON, server.inbound.tunnels.recv()).await.unwrap().unwrap();
        let mut frames = FrameBuffer::default();
        assert_eq!(next(&mut lane.reader, &mut frames).await.unwrap(), [7]);
        assert_eq!(next(&mut lane.reader, &mut frames).await, Err(wanted));
        assert_eq!(lane.writer.ready().await, Err(TunnelError::Closed), "both halves");
        drop(streams);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_stops_the_writer() {
    let (mut client, mut server) = (open_node(191, TCP).await, open_node(192, TCP).await);
    connect(&client, &server).await;
    let (mut near, mut far) = both(&mut client, &mut server).await;
    assert_eq!(near.writer.send(&[[]]).await, Err(TunnelError::FrameLength { bytes: 0 }));
    assert_eq!(near.writer.send(&[vec![0; 65_536]]).await, Err(TunnelError::FrameLength { bytes: 65_536 }));
    let three = vec![vec![0; 50_000]; 3];
    assert_eq!(near.writer.send(&three).await, Err(TunnelError::BatchTooLarge { bytes: 150_006 }));
    let mut sent = 0_u64;
    loop {
        let step = async {
            near.writer.ready().await.unwrap();
            sent += 1;
            near.writer.send(&[sent.to_be_bytes().repeat(2048)]).await.unwrap();
        };
        if tokio::time::timeout(Duration::from_millis(300), step).await.is_err() {
            break;
        }
    }
    // The receiver's window is 256 KiB, and the writer holds one batch.
    assert!(sent * 16 * 1024 < 512 * 1024, "{sent} frames");
    let wanted = sent;
    let reading = tokio::spawn(async move {
        let mut frames = FrameBuffer::default();
        for number in 1..=wanted {
            assert_eq!(next(&mut far.reader, &mut frames).await.unwrap()[..8], number.to_be_bytes());
        }
        far
    });
    // What was dropped half way goes out with the next call.
    near.writer.ready().await.unwrap();
    let _far = reading.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_is_told_how_much_of_its_frames_came() {
    let (mut client, mut server) = (open_node(195, TCP).await, open_node(196, TCP).await);
    connect(&client, &server).await;
    let (mut near, mut far) = both(&mut client, &mut server).await;
    let telling = tokio::spawn(async move {
        let (mut frames, mut got) = (FrameBuffer::default(), 0);
        while got < 200 {
            tokio::select! {
                read = far.reader.read(&mut frames) => assert!(read.unwrap().is_none(), "nothing was sent to it"),
                () = far.writer.owed() => far.writer.send::<&[u8]>(&[]).await.unwrap(),
            }
            while frames.next_frame().is_some() {
                got += 1;
            }
        }
        // What was not told yet goes with it.
        far.writer.send(&[b"one more"]).await.unwrap();
        far
    });
    let told = async {
        let (mut frames, mut newest) = (FrameBuffer::default(), 0);
        loop {
            if let Some(credit) = near.reader.read(&mut frames).await.unwrap() {
                assert!(credit.0 >= newest);
                newest = credit.0;
            }
            if frames.next_frame().is_some() {
                return newest;
            }
        }
    };
    let sent = async {
        for length in 1..=200 {
            near.writer.send(&[vec![3; length * 100]]).await.unwrap();
        }
    };
    let (newest, ()) = tokio::join!(told, sent);
    assert_eq!(newest, (1..=200).map(|length: u64| length * 100 + 2).sum::<u64>());
    let _far = telling.await.unwrap();
}

/// Prints the rate of one lane; asserts only that all frames arrive. Release builds tell more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_lane_carries_super_packets() {
    let (mut client, mut server) = (open_node(193, TCP).await, open_node(194, TCP).await);
    connect(&client, &server).await;
    let (mut near, mut far) = both(&mut client, &mut server).await;
    const FRAMES: usize = 8 * 1024;
    let reader = tokio::spawn(async move {
        let (mut frames, mut got, mut reads) = (FrameBuffer::default(), 0, 0);
        while got < FRAMES {
            far.reader.read(&mut frames).await.unwrap();
            reads += 1;
            while frames.next_frame().is_some() {
                got += 1;
            }
        }
        (far, reads)
    });
    let batch = [vec![1; 60 * 1024], vec![2; 60 * 1024]];
    let start = Instant::now();
    for _ in 0..FRAMES / 2 {
        near.writer.ready().await.unwrap();
        near.writer.send(&batch).await.unwrap();
    }
    let (_far, reads) = reader.await.unwrap();
    let bits = (FRAMES * 60 * 1024 * 8) as f64;
    println!("one tunnel lane: {:.2} Gb/s, {reads} reads", bits / 1e9 / start.elapsed().as_secs_f64());
}
