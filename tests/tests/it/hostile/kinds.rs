//! The attacks: each is one connection that does its kind of harm until the other side ends it. None of them is a
//! member of anything.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::poll_fn;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt};
use libp2p::core::transport::{DialOpts, PortUse, Transport};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::identity::Keypair;
use libp2p::quic;
use shoal_protocol::control::Request;
use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::wire::{
    ACK, DATA, Duplex, FIN, NOISE, PING, SYN, TLS, WINDOW, data, header, muxed, name, open, proposal, request,
    say_and_stay, select, tcp, until_gone,
};

/// Between two bytes of a slow one.
const DRIP: Duration = Duration::from_millis(500);

/// Where a node is, and what its lanes are called.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) tcp: SocketAddr,
    pub(super) quic: SocketAddr,
    pub(super) control: String,
    pub(super) shard: String,
}

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    HalfOpen,
    SlowSelect,
    SlowNoise,
    TlsStopsInTheMiddle,
    Garbage,
    NameOfAnyLength,
    SilentInside,
    StreamFlood,
    PingFlood,
    YamuxLies,
    SlowStream,
    ControlFlood,
    ControlLies,
    CborBombs,
    UnreadReplies,
    LaneFlood,
    LaneLies,
    IdentifyLies,
    QuicStops,
    QuicFlood,
}

impl Kind {
    pub(super) const ALL: [Self; 20] = [
        Self::HalfOpen,
        Self::SlowSelect,
        Self::SlowNoise,
        Self::TlsStopsInTheMiddle,
        Self::Garbage,
        Self::NameOfAnyLength,
        Self::SilentInside,
        Self::StreamFlood,
        Self::PingFlood,
        Self::YamuxLies,
        Self::SlowStream,
        Self::ControlFlood,
        Self::ControlLies,
        Self::CborBombs,
        Self::UnreadReplies,
        Self::LaneFlood,
        Self::LaneLies,
        Self::IdentifyLies,
        Self::QuicStops,
        Self::QuicFlood,
    ];

    /// One connection to its end; `number` varies what it does.
    pub(super) async fn attack(self, target: &Target, number: usize) -> io::Result<()> {
        let security = if number.is_multiple_of(2) { NOISE } else { TLS };
        match self {
            Self::HalfOpen => until_gone(&mut tcp(target.tcp, number).await?).await,
            Self::SlowSelect => drip(&mut tcp(target.tcp, number).await?, &proposal(security)).await,
            Self::SlowNoise => {
                let mut stream = tcp(target.tcp, number).await?;
                select(&mut stream, NOISE).await?;
                drip(&mut stream, &[&65_535_u16.to_be_bytes()[..], &[0; 64]].concat()).await
            }
            Self::TlsStopsInTheMiddle => {
                let mut stream = tcp(target.tcp, number).await?;
                select(&mut stream, TLS).await?;
                // A record of 16 KiB that would hold a hello of 16 MiB, and only its first bytes.
                say_and_stay(&mut stream, &[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff, 3, 3, 7, 7, 7]).await
            }
            Self::Garbage => {
                let mut stream = tcp(target.tcp, number).await?;
                if number.is_multiple_of(3) {
                    select(&mut stream, security).await?;
                }
                say_and_stay(&mut stream, &noise_of(number, 8 * 1024)).await
            }
            Self::NameOfAnyLength => {
                let mut stream = tcp(target.tcp, number).await?;
                say_and_stay(&mut stream, &varint(number)).await
            }
            Self::QuicStops => quic_stops(target).await,
            Self::QuicFlood => quic_flood(target, number).await,
            inside => inside.attack_inside(target, number, &mut *muxed(target.tcp, number, security).await?).await,
        }
    }

    /// The kinds that finish the handshake first.
    async fn attack_inside(self, target: &Target, number: usize, stream: &mut dyn Duplex) -> io::Result<()> {
        match self {
            Self::StreamFlood => flood(stream, |n| header(WINDOW, SYN, 2 * n + 1, 0).to_vec()).await,
            Self::PingFlood => flood(stream, |n| header(PING, SYN, 0, n).to_vec()).await,
            Self::YamuxLies => say_and_stay(stream, &yamux_lie(number)).await,
            Self::SlowStream => drip(stream, &open(1, &target.control, &request(1, &[0; 200]))).await,
            Self::ControlFlood => {
                let ping = [&9_u32.to_be_bytes()[..], &[3], &7_u64.to_be_bytes()].concat();
                let said = ping.repeat(500);
                flood(stream, |n| open(2 * n + 1, &target.control, &said)).await
            }
            Self::ControlLies => say_and_stay(stream, &open(1, &target.control, &control_lie(number))).await,
            Self::CborBombs => {
                let body = cbor_bomb(number);
                flood(stream, |n| match n {
                    0 => open(1, &target.control, &request(0, &body)),
                    _ => data(0, 1, &request(u64::from(n), &body)),
                })
                .await
            }
            Self::UnreadReplies => unread_replies(target, stream).await,
            // Every other one says nothing on its lanes, to keep them.
            Self::LaneFlood => {
                let said = if number.is_multiple_of(40) { Vec::new() } else { noise_of(number, 64) };
                flood(stream, |n| open(2 * n + 1, &target.shard, &said)).await
            }
            Self::LaneLies => {
                let lies: Vec<u8> =
                    (0..12).flat_map(|n| open(2 * n + 1, &target.shard, &lane_lie(number + n as usize))).collect();
                say_and_stay(stream, &lies).await
            }
            Self::IdentifyLies => identify_lies(number, stream).await,
            _ => until_gone(stream).await,
        }
    }
}

/// One byte at a time, then silence.
async fn drip(stream: &mut dyn Duplex, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        stream.flush().await?;
        sleep(DRIP).await;
    }
    until_gone(stream).await
}

/// Frame after frame, as fast as they are taken for a second, then twenty a second; what comes back is read.
async fn flood(stream: &mut dyn Duplex, mut frame: impl FnMut(u32) -> Vec<u8>) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let writing = async {
        for number in 0.. {
            writer.write_all(&frame(number)).await?;
            writer.flush().await?;
            sleep(if number < 200 { Duration::from_millis(2) } else { Duration::from_millis(50) }).await;
        }
        Ok(())
    };
    let reading = async {
        let mut sink = vec![0; 16 * 1024];
        while reader.read(&mut sink).await? > 0 {}
        Ok(())
    };
    tokio::select! {
        end = writing => end,
        end = reading => end,
    }
}

/// Bytes without a meaning.
fn noise_of(number: usize, length: usize) -> Vec<u8> {
    shoal_tests::sample::bytes(number as u64, length)
}

/// A length as a varint of one to eleven bytes, up to 2^70, and little after it.
fn varint(number: usize) -> Vec<u8> {
    let bytes = number % 11;
    [&vec![0xff; bytes][..], &[0x7f], &[b'/'; 40]].concat()
}

/// Frames of yamux that are none, or too large, or of nobody.
fn yamux_lie(number: usize) -> Vec<u8> {
    let lengths = [u32::MAX, 1 << 31, 1 << 24, (1 << 20) + 1, 1 << 20, 256 * 1024 + 1];
    let length = lengths[number % lengths.len()];
    match number % 5 {
        0 => header(DATA, SYN, 1, length).to_vec(),
        1 => [header(WINDOW, SYN, 1, u32::MAX), header(WINDOW, 0, 1, u32::MAX)].concat(),
        2 => [header(DATA, SYN, 2, 0), header(DATA, FIN, 0, length)].concat(),
        3 => [&[9, 9, 0xff, 0xff][..], &[0xff; 8]].concat(),
        _ => [&header(DATA, SYN, 1, length)[..], &[1; 64]].concat(),
    }
}

/// Frames of the control lane with every wrong length, and right ones that do not come.
fn control_lie(number: usize) -> Vec<u8> {
    let lengths = [0, 65_537, 1 << 24, 1 << 31, u32::MAX, 65_536, 1, 12];
    let length: u32 = lengths[number % lengths.len()];
    [&length.to_be_bytes()[..], &[u8::try_from(number % 7).unwrap_or(0)], &[0; 30]].concat()
}

/// Requests that nest without end, or say that much follows.
pub(super) fn cbor_bomb(number: usize) -> Vec<u8> {
    let huge = 0xffff_ffff_ffff_ffff_u64.to_be_bytes();
    match number % 6 {
        0 => vec![0x81; 65_000],
        1 => [&[0x9b][..], &huge, &[0; 100]].concat(),
        2 => [&[0xbb][..], &huge, &[0; 100]].concat(),
        3 => [&[0x5b][..], &huge, &[0; 100]].concat(),
        4 => [&[0x82, 4, 0x84, 0, 0, 0x9a, 0xff, 0xff, 0xff, 0xff][..], &[0; 100]].concat(),
        _ => [0x9f, 0xbf, 0xdb, 0xff].repeat(16_000),
    }
}

/// Headers of transfers that are too long, or empty, or nest, or do not come.
fn lane_lie(number: usize) -> Vec<u8> {
    let lengths = [u32::MAX, u32::MAX - 1, 1 << 31, 16 * 1024 + 1, 16 * 1024, 0, 1 << 20];
    let length = lengths[number % lengths.len()];
    [&length.to_be_bytes()[..], &[0x81; 200]].concat()
}

/// Asks as fast as it may, and never reads an answer.
async fn unread_replies(target: &Target, stream: &mut dyn Duplex) -> io::Result<()> {
    let body = Request::Peers { after: None }.to_bytes();
    stream.write_all(&open(1, &target.control, &[])).await?;
    for number in 0_u64.. {
        stream.write_all(&data(0, 1, &request(number, &body))).await?;
        stream.flush().await?;
        sleep(Duration::from_millis(if number < 300 { 2 } else { 100 })).await;
    }
    Ok(())
}

/// Agrees to every stream the node opens, and answers with a message that never ends.
async fn identify_lies(number: usize, stream: &mut dyn Duplex) -> io::Result<()> {
    loop {
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        if head[1] != DATA {
            continue;
        }
        let mut body = vec![0; length.min(1 << 20) as usize];
        stream.read_exact(&mut body).await?;
        let theirs = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if body.starts_with(&name(super::wire::SELECT)) {
            stream.write_all(&data(ACK, theirs, &[body, varint(number)].concat())).await?;
            stream.flush().await?;
        }
    }
}

async fn quic_connection(to: SocketAddr) -> io::Result<(quic::tokio::Transport, StreamMuxerBox)> {
    let key = Keypair::generate_ed25519();
    let mut transport = quic::tokio::Transport::new(quic::Config::new(&key));
    let address: Multiaddr = format!("/ip4/{}/udp/{}/quic-v1", to.ip(), to.port()).parse().map_err(io::Error::other)?;
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let dial = transport.dial(address, options).map_err(|error| io::Error::other(format!("{error:?}")))?;
    let (_, connection) = dial.await.map_err(io::Error::other)?;
    Ok((transport, StreamMuxerBox::new(connection)))
}

/// The first packet of a handshake, and none after it.
async fn quic_stops(target: &Target) -> io::Result<()> {
    let (ear, mouth) = (UdpSocket::bind("127.0.0.1:0").await?, UdpSocket::bind("127.0.0.1:0").await?);
    let to = ear.local_addr()?;
    let mut packet = vec![0; 2048];
    let dialling = tokio::spawn(async move { quic_connection(to).await.map(drop) });
    let length = ear.recv(&mut packet).await?;
    dialling.abort();
    packet.truncate(length);
    mouth.send_to(&packet, target.quic).await?;
    mouth.send_to(&noise_of(length, 1200), target.quic).await?;
    sleep(Duration::from_secs(10)).await;
    Ok(())
}

/// Streams without end over QUIC, each with requests whose answers are not read, as many bytes as the node takes.
async fn quic_flood(target: &Target, number: usize) -> io::Result<()> {
    let (_transport, mut connection) = quic_connection(target.quic).await?;
    let ping = [&9_u32.to_be_bytes()[..], &[3], &7_u64.to_be_bytes()].concat().repeat(80_000);
    let mut held = Vec::new();
    loop {
        let opening = async {
            poll_fn(|cx| {
                let _ = connection.poll_unpin(cx);
                connection.poll_outbound_unpin(cx)
            })
            .await
        };
        // As many as it grants, then one every now and then.
        if let Ok(opened) = tokio::time::timeout(Duration::from_secs(1), opening).await {
            let mut stream = opened.map_err(io::Error::other)?;
            let protocol = if held.len().is_multiple_of(2) { &target.control } else { &target.shard };
            stream.write_all(&proposal(protocol)).await?;
            let said = if held.is_empty() { ping.clone() } else { noise_of(number, 64) };
            // Nobody reads what comes back: at some point the node takes no more.
            let saying = async {
                stream.write_all(&said).await?;
                stream.flush().await
            };
            if let Ok(said) = tokio::time::timeout(Duration::from_secs(1), saying).await {
                said?;
            }
            held.push(stream);
        }
        sleep(Duration::from_millis(20)).await;
    }
}
