//! Helpers of the swarm tests: nodes of one network, a stock libp2p peer, and a peer that opens raw streams.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, SubstreamProtocol, Swarm, SwarmEvent as Libp2pEvent, ToSwarm,
};
use libp2p::{PeerId, Stream, StreamProtocol, SwarmBuilder, identify, noise, ping, tcp, tls, yamux};
use shoal_swarm::{NodeId, Started, SwarmConfig, SwarmEvent, start};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// The tag of the tests' network.
pub(crate) const TAG: &str = "00112233445566aa";
/// Long enough for a busy two-core machine, short enough to fail.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

pub(crate) async fn node_on(seed: u8, tag: &str, listen: &[&str]) -> Started {
    logs();
    let mut config = SwarmConfig::new(Zeroizing::new([seed; 32]), tag.to_owned());
    config.listen = listen.iter().map(ToString::to_string).collect();
    start(config).await.expect("a swarm starts")
}

pub(crate) async fn node(seed: u8) -> Started {
    node_on(seed, TAG, &[TCP]).await
}

/// Logs to the test's output by RUST_LOG.
fn logs() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}

/// Two nodes, the first connected to the second.
pub(crate) async fn pair(seed: u8) -> (Started, Started) {
    let (client, server) = (node(seed).await, node(seed + 1).await);
    connect(&client, &server).await;
    (client, server)
}

pub(crate) async fn connect(client: &Started, server: &Started) -> NodeId {
    let addresses = server.handle.listening().await;
    let peer = client.handle.dial(None, addresses, SOON).await.expect("a connection");
    assert_eq!(peer, server.handle.local());
    // The accepting side knows a moment later.
    eventually(|| server.handle.connected().contains(&client.handle.local())).await;
    peer
}

pub(crate) async fn eventually(mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(SOON, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it happens in time");
}

pub(crate) async fn event(
    events: &mut mpsc::Receiver<SwarmEvent>,
    mut wanted: impl FnMut(&SwarmEvent) -> bool,
) -> SwarmEvent {
    tokio::time::timeout(SOON, async {
        loop {
            let event = events.recv().await.expect("the swarm lives");
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
    .expect("the event comes in time")
}

/// Answers every request with its body, in the background.
pub(crate) fn echo(mut requests: mpsc::Receiver<shoal_swarm::InboundRequest>) {
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            let body = request.body.clone();
            let _ = request.reply(body);
        }
    });
}

#[derive(NetworkBehaviour)]
pub(crate) struct Stock {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(crate) raw: Raw,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Carrier {
    Noise,
    Tls,
    Quic,
}

/// A plain libp2p peer: identify, ping, and streams on demand. It shares no code with the node.
pub(crate) fn stock(carrier: Carrier) -> (Swarm<Stock>, mpsc::Receiver<Stream>) {
    let (streams, streams_end) = mpsc::channel(64);
    let behaviour = |key: &libp2p::identity::Keypair| Stock {
        identify: identify::Behaviour::new(identify::Config::new("test/1".into(), key.public())),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(200))),
        raw: Raw { queue: VecDeque::new(), streams },
    };
    let idle = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(Duration::from_secs(60));
    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let config = tcp::Config::default;
    let swarm = match carrier {
        Carrier::Noise => {
            let tcp = builder.with_tcp(config(), noise::Config::new, yamux::Config::default).unwrap();
            tcp.with_behaviour(behaviour).unwrap().with_swarm_config(idle).build()
        }
        Carrier::Tls => {
            let tcp = builder.with_tcp(config(), tls::Config::new, yamux::Config::default).unwrap();
            tcp.with_behaviour(behaviour).unwrap().with_swarm_config(idle).build()
        }
        Carrier::Quic => builder.with_quic().with_behaviour(behaviour).unwrap().with_swarm_config(idle).build(),
    };
    (swarm, streams_end)
}

/// Drives a stock peer in the background and opens `count` streams of a protocol to the node at `address`.
pub(crate) async fn raw_streams(address: &str, protocol: String, count: usize) -> (Vec<Stream>, PeerId) {
    let (mut swarm, mut streams) = stock(Carrier::Noise);
    let own = *swarm.local_peer_id();
    swarm.dial(address.parse::<Multiaddr>().unwrap()).unwrap();
    let peer = loop {
        if let Libp2pEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
            break peer_id;
        }
    };
    let protocol = StreamProtocol::try_from_owned(protocol).unwrap();
    for _ in 0..count {
        swarm.behaviour_mut().raw.queue.push_back((peer, protocol.clone()));
    }
    tokio::spawn(async move {
        loop {
            let _ = swarm.select_next_some().await;
        }
    });
    let mut opened = Vec::new();
    for _ in 0..count {
        opened.push(tokio::time::timeout(SOON, streams.recv()).await.expect("streams open").expect("peer lives"));
    }
    (opened, own)
}

/// Opens streams of any protocol and hands them over.
pub(crate) struct Raw {
    pub(crate) queue: VecDeque<(PeerId, StreamProtocol)>,
    streams: mpsc::Sender<Stream>,
}

pub(crate) struct RawHandler {
    queue: VecDeque<StreamProtocol>,
    streams: mpsc::Sender<Stream>,
}

impl NetworkBehaviour for Raw {
    type ConnectionHandler = RawHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<RawHandler, ConnectionDenied> {
        Ok(RawHandler { queue: VecDeque::new(), streams: self.streams.clone() })
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<RawHandler, ConnectionDenied> {
        Ok(RawHandler { queue: VecDeque::new(), streams: self.streams.clone() })
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, StreamProtocol>> {
        match self.queue.pop_front() {
            Some((peer_id, event)) => {
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event })
            }
            None => Poll::Pending,
        }
    }
}

impl ConnectionHandler for RawHandler {
    type FromBehaviour = StreamProtocol;
    type ToBehaviour = Infallible;
    type InboundProtocol = libp2p::core::upgrade::DeniedUpgrade;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(libp2p::core::upgrade::DeniedUpgrade, ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Infallible>> {
        match self.queue.pop_front() {
            Some(name) => {
                let protocol = SubstreamProtocol::new(ReadyUpgrade::new(name), ());
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
            }
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: StreamProtocol) {
        self.queue.push_back(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), ()>,
    ) {
        if let ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) = event {
            let _ = self.streams.try_send(protocol);
        }
    }
}
