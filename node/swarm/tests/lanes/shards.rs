//! Shard lanes between real swarms: none lost, reused, bounded, and BUSY as a type.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use shoal_swarm::{BUSY_ANSWER, InboundLane, LaneError, ShardLane};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::support::{QUIC, SOON, TAG, connect, event, node, node_on, pair, raw_streams};

/// Serves every lane: 8-byte messages come back, until the lane ends.
fn serve(mut lanes: mpsc::Receiver<InboundLane>) {
    tokio::spawn(async move {
        while let Some(mut lane) = lanes.recv().await {
            tokio::spawn(async move {
                let mut message = [0; 8];
                while AsyncReadExt::read_exact(&mut lane.stream, &mut message).await.is_ok() {
                    AsyncWriteExt::write_all(&mut lane.stream, &message).await.unwrap();
                    AsyncWriteExt::flush(&mut lane.stream).await.unwrap();
                }
            });
        }
    });
}

async fn ask(lane: &mut ShardLane, message: u64) -> std::io::Result<u64> {
    AsyncWriteExt::write_all(lane, &message.to_be_bytes()).await?;
    AsyncWriteExt::flush(lane).await?;
    let mut answer = [0; 8];
    AsyncReadExt::read_exact(lane, &mut answer).await?;
    Ok(u64::from_be_bytes(answer))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_at_once_from_one_peer_and_the_ninth_is_told() {
    let server = node(40).await;
    let address = server.handle.listening().await.remove(0);
    serve(server.inbound.lanes);
    let (streams, _) = raw_streams(&address, format!("/shoal/{TAG}/shard/1"), 8).await;
    let mut waiting = Vec::new();
    for (i, mut stream) in (0u64..).zip(streams) {
        waiting.push(tokio::spawn(async move {
            futures::AsyncWriteExt::write_all(&mut stream, &i.to_be_bytes()).await.unwrap();
            futures::AsyncWriteExt::flush(&mut stream).await.unwrap();
            let mut answer = [0; 8];
            futures::AsyncReadExt::read_exact(&mut stream, &mut answer).await.unwrap();
            (u64::from_be_bytes(answer), stream)
        }));
    }
    let all = tokio::time::timeout(SOON, futures::future::try_join_all(waiting)).await.unwrap().unwrap();
    assert_eq!(all.iter().map(|(i, _)| *i).collect::<BTreeSet<_>>().len(), 8);
    assert_eq!(server.handle.counters().lanes_busy, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_eight_are_answered_busy_in_bytes() {
    let server = node(42).await;
    let address = server.handle.listening().await.remove(0);
    serve(server.inbound.lanes);
    let (mut streams, _) = raw_streams(&address, format!("/shoal/{TAG}/shard/1"), 12).await;
    let (mut served, mut busy) = (0, 0);
    for stream in &mut streams {
        futures::AsyncWriteExt::write_all(stream, &[0; 8]).await.unwrap();
        futures::AsyncWriteExt::flush(stream).await.unwrap();
    }
    for stream in &mut streams {
        let mut answer = [0; 6];
        tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        if answer == BUSY_ANSWER {
            busy += 1;
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "closed after BUSY");
        } else {
            served += 1;
        }
    }
    assert_eq!((served, busy), (8, 4));
    assert_eq!(server.handle.counters().lanes_busy, 4);
    streams[0].close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_peers_at_once_lose_nothing() {
    let server = node_on(50, TAG, &["/ip4/127.0.0.1/tcp/0", QUIC]).await;
    let addresses = server.handle.listening().await;
    assert_eq!(addresses.len(), 2);
    let peer = server.handle.local();
    serve(server.inbound.lanes);
    let mut clients = Vec::new();
    for i in 0..16u8 {
        let client = node(60 + i).await;
        let address = addresses[usize::from(i % 2)].clone();
        client.handle.dial(Some(peer), vec![address], SOON).await.unwrap();
        clients.push(client);
    }
    let mut waiting = tokio::task::JoinSet::new();
    for client in &clients {
        for i in 0..4u64 {
            let handle = client.handle.clone();
            waiting.spawn(async move {
                let mut lane = handle.lane(peer, SOON).await.unwrap();
                for round in 0..20 {
                    assert_eq!(ask(&mut lane, i * 1000 + round).await.unwrap(), i * 1000 + round);
                }
                lane.release();
            });
        }
    }
    while let Some(done) = tokio::time::timeout(Duration::from_secs(20), waiting.join_next()).await.unwrap() {
        done.unwrap();
    }
    assert_eq!(server.handle.counters().lanes_busy, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_are_reused_and_bounded() {
    let (client, mut server) = pair(80).await;
    let peer = server.handle.local();
    let (accepted, mut accepted_end) = mpsc::channel(16);
    let (forward, lanes) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(lane) = server.inbound.lanes.recv().await {
            accepted.send(()).await.unwrap();
            forward.send(lane).await.unwrap();
        }
    });
    serve(lanes);
    for i in 0..5 {
        let mut lane = client.handle.lane(peer, SOON).await.unwrap();
        assert_eq!(ask(&mut lane, i).await.unwrap(), i);
        lane.release();
    }
    assert_eq!(accepted_end.recv().await, Some(()));
    assert!(accepted_end.try_recv().is_err(), "one lane carried all five");

    let mut held = Vec::new();
    for i in 0..4 {
        let mut lane = client.handle.lane(peer, SOON).await.unwrap();
        assert_eq!(ask(&mut lane, i).await.unwrap(), i);
        held.push(lane);
    }
    let wait = Duration::from_millis(200);
    assert_eq!(client.handle.lane(peer, wait).await.err(), Some(LaneError::Timeout(wait)));
    let handle = client.handle.clone();
    let fifth = tokio::spawn(async move { handle.lane(peer, SOON).await.map(ShardLane::release) });
    tokio::time::sleep(Duration::from_millis(50)).await;
    held.pop().unwrap().release();
    fifth.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_is_a_type() {
    let (client, server) = pair(84).await;
    let peer = server.handle.local();
    // An owner that serves no lanes is as busy as one that has none left.
    drop(server.inbound.lanes);
    let mut lane = client.handle.lane(peer, SOON).await.unwrap();
    let error = ask(&mut lane, 1).await.unwrap_err();
    assert_eq!(LaneError::of(&error), Some(LaneError::RemoteBusy));
    assert!(LaneError::RemoteBusy.retryable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_three_swarms_still_has_eight_lanes() {
    let server = node(86).await;
    serve(server.inbound.lanes);
    let addresses = server.handle.listening().await;
    let peer = server.handle.local();
    let (mut held, mut busy) = (Vec::new(), 0);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = node(87).await;
        client.handle.dial(Some(peer), addresses.clone(), SOON).await.unwrap();
        for i in 0..4 {
            let mut lane = client.handle.lane(peer, SOON).await.unwrap();
            match ask(&mut lane, i).await {
                Ok(_) => held.push(lane),
                Err(error) => {
                    assert_eq!(LaneError::of(&error), Some(LaneError::RemoteBusy));
                    busy += 1;
                }
            }
        }
        clients.push(client);
    }
    assert_eq!((held.len(), busy), (8, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_ends_lanes_and_a_new_one_serves() {
    let (client, mut server) = pair(90).await;
    let peer = server.handle.local();
    serve(server.inbound.lanes);
    let mut lane = client.handle.lane(peer, SOON).await.unwrap();
    assert_eq!(ask(&mut lane, 1).await.unwrap(), 1);
    server.handle.disconnect(client.handle.local()).await;
    event(&mut server.events, |event| matches!(event, shoal_swarm::SwarmEvent::Disconnected { .. })).await;
    assert!(ask(&mut lane, 2).await.is_err());
    lane.release();
    crate::support::eventually(|| client.handle.connected().is_empty()).await;
    assert_eq!(client.handle.lane(peer, SOON).await.err(), Some(LaneError::NotConnected));
    client.handle.dial(Some(peer), server.handle.listening().await, SOON).await.unwrap();
    let mut lane = client.handle.lane(peer, SOON).await.unwrap();
    assert_eq!(ask(&mut lane, 3).await.unwrap(), 3);
}

/// Prints a raw rate; asserts only that bytes arrive whole. Release builds tell more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_bytes_arrive_whole() {
    let (client, mut server) = (node(92).await, node(93).await);
    let peer = connect(&client, &server).await;
    let total: usize = 64 * 1024 * 1024;
    let reader = tokio::spawn(async move {
        let mut lane = server.inbound.lanes.recv().await.unwrap();
        let (mut buffer, mut read) = (vec![0; 256 * 1024], 0);
        while read < total {
            read += AsyncReadExt::read(&mut lane.stream, &mut buffer).await.unwrap();
        }
        AsyncWriteExt::write_all(&mut lane.stream, &[1]).await.unwrap();
        AsyncWriteExt::flush(&mut lane.stream).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        read
    });
    let mut lane = client.handle.lane(peer, SOON).await.unwrap();
    let block = vec![0; 256 * 1024];
    let start = std::time::Instant::now();
    for _ in 0..total / block.len() {
        AsyncWriteExt::write_all(&mut lane, &block).await.unwrap();
    }
    AsyncWriteExt::flush(&mut lane).await.unwrap();
    AsyncReadExt::read_exact(&mut lane, &mut [0; 1]).await.unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("one lane: {:.2} Gb/s", total as f64 * 8.0 / 1e9 / seconds);
    assert_eq!(reader.await.unwrap(), total);
}
