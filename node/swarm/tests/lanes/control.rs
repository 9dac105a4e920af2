//! The control lane between real swarms: round trips, order, deadlines, cancels, limits, and peers that break it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt};
use shoal_swarm::control::codec::{REQUEST_BODY_MAX, RESPONSE_BODY_MAX};
use shoal_swarm::{NodeId, ReplyError, RequestError};

use crate::support::{SOON, TAG, connect, echo, event, eventually, node, node_on, pair, raw_streams};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_come_back_out_of_order() {
    let (client, mut server) = pair(10).await;
    let peer = server.handle.local();
    tokio::spawn(async move {
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(server.inbound.requests.recv().await.unwrap());
        }
        while let Some(request) = held.pop() {
            let mut body = request.body.to_vec();
            body.push(b'!');
            request.reply(body.into()).unwrap();
        }
        std::future::pending::<()>().await;
    });
    let asked = (0..10u8).map(|i| client.handle.request(peer, Bytes::from(vec![i]), SOON));
    let answers = futures::future::try_join_all(asked).await.unwrap();
    for (i, answer) in (0u8..).zip(answers) {
        assert_eq!(&answer[..], [i, b'!']);
    }
    assert!(client.handle.rtt(&peer).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_ask_and_largest_bodies_pass() {
    let (client, server) = pair(12).await;
    let (a, b) = (client.handle.local(), server.handle.local());
    echo(client.inbound.requests);
    echo(server.inbound.requests);
    let body = Bytes::from(vec![7; REQUEST_BODY_MAX]);
    assert_eq!(client.handle.request(b, body.clone(), SOON).await, Ok(body.clone()));
    assert_eq!(server.handle.request(a, body.clone(), SOON).await, Ok(body));
    let large = Bytes::from(vec![7; REQUEST_BODY_MAX + 1]);
    let refused = client.handle.request(b, large, SOON).await;
    assert_eq!(refused, Err(RequestError::TooLarge { bytes: REQUEST_BODY_MAX + 1 }));
    let nobody = NodeId::from_bytes([3; 32]);
    assert_eq!(client.handle.request(nobody, Bytes::new(), SOON).await, Err(RequestError::NotConnected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_pass_and_tell_the_server() {
    let (client, mut server) = pair(14).await;
    let peer = server.handle.local();
    let deadline = Duration::from_millis(300);
    let start = Instant::now();
    let asked = client.handle.request(peer, Bytes::from_static(b"slow"), deadline);
    let (answer, request) = tokio::join!(asked, server.inbound.requests.recv());
    assert_eq!(answer, Err(RequestError::Timeout(deadline)));
    assert!(start.elapsed() < Duration::from_secs(3));
    let request = request.unwrap();
    assert!(request.deadline <= deadline && request.deadline > Duration::from_millis(100));
    tokio::time::timeout(SOON, request.gone()).await.unwrap();
    assert!(request.is_gone());
    assert_eq!(request.reply(Bytes::new()), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_future_cancels() {
    let (client, mut server) = pair(16).await;
    let peer = server.handle.local();
    let handle = client.handle.clone();
    let asked = tokio::spawn(async move { handle.request(peer, Bytes::from_static(b"x"), SOON).await });
    let request = server.inbound.requests.recv().await.unwrap();
    assert!(!request.is_gone());
    asked.abort();
    tokio::time::timeout(Duration::from_secs(3), request.gone()).await.expect("the cancel arrives");
    let too_large = Bytes::from(vec![0; RESPONSE_BODY_MAX + 1]);
    assert!(matches!(request.reply(too_large), Err(ReplyError::TooLarge { .. })));
    // The lane lives on.
    echo(server.inbound.requests);
    assert_eq!(client.handle.request(peer, Bytes::from_static(b"y"), SOON).await, Ok(Bytes::from_static(b"y")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_in_flight_and_no_more() {
    let (client, mut server) = pair(18).await;
    let peer = server.handle.local();
    let mut asked = tokio::task::JoinSet::new();
    for i in 0..64u8 {
        let handle = client.handle.clone();
        asked.spawn(async move { handle.request(peer, Bytes::from(vec![i]), SOON).await });
    }
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(tokio::time::timeout(SOON, server.inbound.requests.recv()).await.unwrap().unwrap());
    }
    assert_eq!(client.handle.request(peer, Bytes::new(), SOON).await, Err(RequestError::Busy));
    for request in held {
        let body = request.body.clone();
        request.reply(body).unwrap();
    }
    while let Some(answer) = asked.join_next().await {
        assert!(answer.unwrap().is_ok());
    }
    echo(server.inbound.requests);
    assert_eq!(client.handle.request(peer, Bytes::from_static(b"z"), SOON).await, Ok(Bytes::from_static(b"z")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_network_never_negotiates() {
    let (mut client, server) = (node(20).await, node_on(21, "ffeeddccbbaa9988", &[crate::support::TCP]).await);
    let peer = connect(&client, &server).await;
    // Before and after identify has answered.
    let early = client.handle.request(peer, Bytes::new(), SOON).await;
    assert_eq!(early, Err(RequestError::Unsupported));
    event(&mut client.events, |event| matches!(event, shoal_swarm::SwarmEvent::Identified { .. })).await;
    assert_eq!(client.handle.request(peer, Bytes::new(), SOON).await, Err(RequestError::Unsupported));
    let lane = client.handle.lane(peer, SOON).await;
    assert_eq!(lane.err(), Some(shoal_swarm::LaneError::Unsupported));
    assert_eq!(client.handle.connected(), [peer], "the connection itself stays");
}

/// Writes raw bytes on a control stream and waits until the node closes the connection.
async fn garbage(node: &shoal_swarm::Started, bytes: &[u8]) {
    let address = node.handle.listening().await.remove(0);
    let (mut streams, own) = raw_streams(&address, format!("/shoal/{TAG}/ctl/1"), 1).await;
    let own = NodeId::from_peer_id_bytes(&own.to_bytes()).unwrap();
    let stream = &mut streams[0];
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the stream ends");
    eventually(|| !node.handle.connected().contains(&own)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_drops_its_sender_only() {
    let (client, server) = (node(22).await, node(23).await);
    let peer = connect(&client, &server).await;
    let (requests, mut server) = (
        server.inbound.requests,
        shoal_swarm::Started {
            inbound: shoal_swarm::Inbound {
                requests: tokio::sync::mpsc::channel(1).1,
                lanes: server.inbound.lanes,
                tunnels: server.inbound.tunnels,
            },
            ..server
        },
    );
    echo(requests);
    let ask = || client.handle.request(peer, Bytes::from_static(b"still here"), SOON);
    assert!(ask().await.is_ok());
    garbage(&server, &[0, 0, 0, 0]).await;
    garbage(&server, &[0, 1, 0, 1, 0, 0]).await;
    garbage(&server, &[0, 0, 0, 9, 77, 0, 0, 0, 0, 0, 0, 0, 1]).await;
    // A response from the side that may only ask.
    garbage(&server, &[0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 1]).await;
    // One id twice.
    let request = [0, 0, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 255, 255];
    let (address, protocol) = (server.handle.listening().await.remove(0), format!("/shoal/{TAG}/ctl/1"));
    let (mut streams, _) = raw_streams(&address, protocol, 1).await;
    streams[0].write_all(&request).await.unwrap();
    streams[0].flush().await.unwrap();
    let mut answer = [0; 13];
    streams[0].read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert!(ask().await.is_ok());
    assert_eq!(server.handle.counters().violations, 4);
    assert!(server.events.recv().await.is_some());
}
