//! Connections: stock peers, dial errors by kind, bans, start and stop.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use libp2p::swarm::SwarmEvent as Libp2pEvent;
use libp2p::{Multiaddr, identify};
use shoal_swarm::{DialError, LinkKind, NodeId, RequestError, StartError, SwarmConfig, SwarmEvent, start};
use zeroize::Zeroizing;

use crate::support::{
    Carrier, QUIC, SOON, StockEvent, TAG, TCP, connect, echo, event, eventually, node, node_on, pair, stock,
};

async fn stock_peer_is_at_home(carrier: Carrier, listen: &str) {
    let mut server = node_on(100, TAG, &[listen]).await;
    let (mut swarm, _streams) = stock(carrier);
    swarm.dial(server.handle.listening().await.remove(0).parse::<Multiaddr>().unwrap()).unwrap();
    let (mut identified, mut pings) = (None, 0);
    let seen = async {
        while identified.is_none() || pings < 3 {
            match swarm.select_next_some().await {
                Libp2pEvent::Behaviour(StockEvent::Identify(identify::Event::Received { info, .. })) => {
                    identified = Some(info);
                }
                Libp2pEvent::Behaviour(StockEvent::Ping(ping)) => {
                    ping.result.expect("pings are answered");
                    pings += 1;
                }
                Libp2pEvent::ConnectionClosed { cause, .. } => panic!("closed: {cause:?}"),
                Libp2pEvent::OutgoingConnectionError { error, .. } => panic!("not connected: {error:?}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(SOON, seen).await.expect("identified and pinged");
    let info = identified.unwrap();
    assert!(info.agent_version.starts_with("shoal/"));
    assert!(info.listen_addrs.is_empty(), "listen addresses stay private");
    let own = NodeId::from_peer_id_bytes(&swarm.local_peer_id().to_bytes()).unwrap();
    let told = event(&mut server.events, |event| matches!(event, SwarmEvent::Identified { .. })).await;
    assert!(matches!(told, SwarmEvent::Identified { peer, .. } if peer == own));
    // It has no control lane, and keeps its connection all the same.
    let driving = tokio::spawn(async move { while swarm.next().await.is_some() {} });
    assert_eq!(server.handle.request(own, Bytes::new(), SOON).await, Err(RequestError::Unsupported));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.handle.connected(), [own]);
    driving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_peer_over_noise() {
    stock_peer_is_at_home(Carrier::Noise, TCP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_peer_over_tls() {
    stock_peer_is_at_home(Carrier::Tls, TCP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_peer_over_quic() {
    stock_peer_is_at_home(Carrier::Quic, QUIC).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_tells_both_sides() {
    let (mut client, mut server) = pair(104).await;
    let (a, b) = (client.handle.local(), server.handle.local());
    let told = event(&mut client.events, |event| matches!(event, SwarmEvent::Connected { .. })).await;
    let listening = server.handle.listening().await.remove(0);
    let SwarmEvent::Connected { peer, address, outbound } = told else { panic!() };
    assert_eq!((peer, outbound, format!("{address}/p2p/{b}")), (b, true, listening));
    let told = event(&mut server.events, |event| matches!(event, SwarmEvent::Connected { .. })).await;
    assert!(matches!(told, SwarmEvent::Connected { peer, outbound: false, .. } if peer == a));
    let told = event(&mut client.events, |event| matches!(event, SwarmEvent::ObservedAddress { .. })).await;
    assert!(
        matches!(told, SwarmEvent::ObservedAddress { peer, address } if peer == b && address.contains("127.0.0.1"))
    );
    eventually(|| client.handle.rtt(&b).is_some_and(|rtt| rtt < Duration::from_secs(1))).await;
    assert_eq!(client.handle.link(&b), Some(LinkKind::Direct));
    client.handle.disconnect(b).await;
    event(&mut server.events, |event| *event == SwarmEvent::Disconnected { peer: a }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dial_errors_say_what_happened() {
    let (client, server) = (node(106).await, node(107).await);
    let (peer, addresses) = (server.handle.local(), server.handle.listening().await);
    let dial = |target, address: &str| client.handle.dial(target, vec![address.to_owned()], SOON);

    let start = Instant::now();
    assert!(matches!(dial(None, "/ip4/127.0.0.1/tcp/1").await, Err(DialError::Refused)));
    assert!(matches!(dial(Some(peer), "/ip4/127.0.0.1/tcp/1").await, Err(DialError::Refused)));
    assert!(start.elapsed() < Duration::from_secs(2), "a refusal is quick");

    assert!(matches!(dial(None, "/ip4/127.0.0.1").await, Err(DialError::BadAddress(_))));
    assert!(matches!(dial(None, "127.0.0.1:5").await, Err(DialError::BadAddress(_))));
    assert!(matches!(client.handle.dial(Some(peer), vec![], SOON).await, Err(DialError::NoAddress)));
    let own = client.handle.listening().await;
    assert!(matches!(dial(None, &own[0]).await, Err(DialError::Ourselves)));

    let other = NodeId::from_bytes(*node(108).await.handle.local().as_bytes());
    let plain = shoal_swarm::peer_address(&addresses[0]).unwrap().address;
    let wrong = dial(Some(other), &plain).await;
    assert!(
        matches!(wrong, Err(DialError::WrongPeer { expected, obtained: Some(got) }) if expected == other && got == peer)
    );
    assert!(matches!(dial(Some(other), &addresses[0]).await, Err(DialError::BadAddress(_))));

    // A listener that accepts and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port());
    let late = client.handle.dial(None, vec![address.clone()], Duration::from_millis(200)).await;
    assert!(matches!(late, Err(DialError::Timeout)));

    // Several addresses: the dead one does not hide the live one.
    let both = vec!["/ip4/127.0.0.1/tcp/1".to_owned(), plain.clone()];
    assert_eq!(client.handle.dial(None, both, SOON).await.unwrap(), peer);
    assert_eq!(client.handle.dial(Some(peer), vec![], SOON).await.unwrap(), peer, "joins the connection");
    assert_eq!(dial(None, &plain).await.unwrap(), peer, "joins the connection by address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_to_one_peer_share_one_connection() {
    let (client, mut server) = (node(110).await, node(111).await);
    let (peer, addresses) = (server.handle.local(), server.handle.listening().await);
    let dials = (0..10).map(|_| client.handle.dial(Some(peer), addresses.clone(), SOON));
    assert!(futures::future::join_all(dials).await.iter().all(|dial| matches!(dial, Ok(reached) if *reached == peer)));
    // A connection closed before the server has it would never be known there.
    event(&mut server.events, |event| matches!(event, SwarmEvent::Connected { .. })).await;
    client.handle.disconnect(peer).await;
    event(&mut server.events, |event| matches!(event, SwarmEvent::Disconnected { .. })).await;
    assert!(server.handle.connected().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bans_close_and_keep_out() {
    let (client, mut server) = pair(112).await;
    let (a, b) = (client.handle.local(), server.handle.local());
    server.handle.ban(a, Duration::from_secs(60));
    event(&mut server.events, |event| *event == SwarmEvent::Disconnected { peer: a }).await;
    eventually(|| client.handle.connected().is_empty()).await;
    let _ = client.handle.dial(Some(b), server.handle.listening().await, SOON).await;
    eventually(|| client.handle.connected().is_empty()).await;
    assert!(server.handle.connected().is_empty());
    let back = server.handle.dial(Some(a), client.handle.listening().await, SOON).await;
    assert!(matches!(back, Err(DialError::Denied(_))), "{back:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allowlist_and_address_filter() {
    let server = node(114).await;
    let mut config = SwarmConfig::new(Zeroizing::new([115; 32]), TAG.to_owned());
    config.allowed = Some(vec![NodeId::from_bytes([1; 32])]);
    let strict = start(config).await.unwrap();
    let dialled = strict.handle.dial(Some(server.handle.local()), server.handle.listening().await, SOON).await;
    assert!(matches!(dialled, Err(DialError::Denied(_))), "{dialled:?}");
    let mut config = SwarmConfig::new(Zeroizing::new([116; 32]), TAG.to_owned());
    config.address_filter = Some(std::sync::Arc::new(|ip| ip.is_loopback()));
    let filtered = start(config).await.unwrap();
    let dialled = filtered.handle.dial(None, server.handle.listening().await, SOON).await;
    assert!(matches!(dialled, Err(DialError::Denied(_))), "{dialled:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_says_what_is_wrong() {
    let config = |listen: &str, tag: &str| {
        let mut config = SwarmConfig::new(Zeroizing::new([120; 32]), tag.to_owned());
        config.listen = vec![listen.to_owned()];
        config
    };
    assert!(matches!(start(config(TCP, "home")).await, Err(StartError::NetworkTag(_))));
    assert!(matches!(start(config("/ip4/1.2.3.4", TAG)).await, Err(StartError::ListenAddress { .. })));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let failed = start(config(&address, TAG)).await.unwrap_err();
    assert!(matches!(&failed, StartError::Listen { address: named, .. } if *named == address), "{failed}");
    let elsewhere = start(config("/ip4/192.0.2.1/tcp/0", TAG)).await.unwrap_err();
    assert!(matches!(elsewhere, StartError::Listen { .. }));
    let wildcard = node_on(121, TAG, &["/ip4/0.0.0.0/tcp/0"]).await;
    let bound = wildcard.handle.listening().await;
    assert!(bound.iter().any(|address| address.starts_with("/ip4/127.0.0.1/tcp/")), "{bound:?}");
    assert!(bound.iter().all(|address| address.ends_with(&format!("/p2p/{}", wildcard.handle.local()))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_is_quick_and_frees_ports() {
    let (mut client, server) = pair(122).await;
    let (a, b) = (client.handle.local(), server.handle.local());
    let address = server.handle.listening().await.remove(0);
    let extra = node(124).await;
    connect(&extra, &server).await;
    let lane = client.handle.lane(b, SOON).await.unwrap();
    echo(server.inbound.requests);
    assert!(client.handle.request(b, Bytes::new(), SOON).await.is_ok());
    let start_of_stop = Instant::now();
    server.handle.shutdown().await;
    assert!(start_of_stop.elapsed() < Duration::from_secs(2), "{:?}", start_of_stop.elapsed());
    event(&mut client.events, |event| *event == SwarmEvent::Disconnected { peer: b }).await;
    assert!(matches!(
        server.handle.dial(Some(a), client.handle.listening().await, SOON).await,
        Err(DialError::Stopped)
    ));
    drop(lane);
    let again = shoal_swarm::peer_address(&address).unwrap().address;
    let back = node_on(123, TAG, &[&again]).await;
    assert_eq!(connect(&client, &back).await, b, "a goodbye is no violation");
}
