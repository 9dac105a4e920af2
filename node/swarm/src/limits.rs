//! Every bound of the swarm in one place, with its reason. Nothing here is read from a peer or a file.

use std::time::Duration;

/// Commands waiting for the driver; a full queue answers Busy at once.
pub const COMMANDS_MAX: usize = 256;
/// Events waiting for the owner of [`crate::Started::events`]; beyond it they are counted and reported as `Lagged`.
pub const EVENTS_MAX: usize = 256;
/// Listeners one swarm may have.
pub const LISTENERS_MAX: usize = 16;
/// Bound addresses remembered over all listeners: a wildcard binds one per interface.
pub const LISTEN_ADDRESSES_MAX: usize = 64;
/// Longest wait for one listener to be bound.
pub const BIND_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes that inbound connections may begin a second, in the long run. One costs up to a millisecond of a
/// processor, so all of them a tenth of one. What is beyond is closed before it costs anything, whoever it is: that
/// shows only after the handshake, so peers come again.
pub const HANDSHAKES_PER_SECOND: u32 = 100;
/// Handshakes that may begin at once after a rest: a thirtieth of a second of a processor, which others wait for.
pub const HANDSHAKES_BURST: u32 = 32;
/// IP addresses where a member was seen last that are remembered: from there handshakes have a pace of their own, which
/// a flood from elsewhere does not use up. The one longest not seen is forgotten first.
pub const MEMBER_ADDRESSES_MAX: usize = 256;
/// Inbound connections in handshake; beyond it the oldest gives way. A handshake holds its socket and at most 64 KiB
/// of buffers, so all of them 16 MiB. An honest one survives as long as fewer others than this arrive meanwhile: at
/// [`HANDSHAKES_PER_SECOND`] that are more than two seconds.
pub const HANDSHAKES_MAX: usize = 256;
/// Inbound connections in handshake the Swarm may know of: those, and as many that just gave way and were not polled
/// since.
pub const PENDING_INBOUND_MAX: u32 = 2 * HANDSHAKES_MAX as u32;
/// Outbound connections in handshake; also the most dials the driver tracks.
pub const PENDING_OUTBOUND_MAX: u32 = 64;
/// Connections to one peer. Hole punching needs more than one.
pub const CONNECTIONS_PER_PEER_MAX: u32 = 6;
/// Established inbound connections.
pub const INBOUND_CONNECTIONS_MAX: u32 = 256;
/// Established inbound connections of strangers, where there are members: identities are free, so strangers could take
/// every place. Half stays for members. A hostile one was seen to cost up to 300 KiB, so all of them 38 MiB: with the
/// handshakes less than 64 MiB.
pub const STRANGER_CONNECTIONS_MAX: usize = INBOUND_CONNECTIONS_MAX as usize / 2;
/// Established outbound connections.
pub const OUTBOUND_CONNECTIONS_MAX: u32 = 128;
/// Established connections in all, both ways: each costs buffers, and none is worth more than the others.
pub const CONNECTIONS_MAX: u32 = INBOUND_CONNECTIONS_MAX + OUTBOUND_CONNECTIONS_MAX;
/// Established inbound connections from one public network, a /24 or a /48: identities are free, addresses are not.
/// Private and loopback addresses are not counted, a household may have any number of machines.
pub const CONNECTIONS_PER_SUBNET_MAX: usize = 16;
/// Share of the machine's memory above which new connections are refused.
pub const MEMORY_SHARE_MAX: f64 = 0.75;
/// Streams of one yamux or QUIC connection: 8 + 4 lanes each way, control, identify, ping, a tunnel and room for refusals.
pub const STREAMS_MAX: usize = 64;
/// A QUIC connection without packets is given up after this long, milliseconds; keep-alives go every 5 s.
pub const QUIC_IDLE_MS: u32 = 30_000;
/// Receive window of one QUIC stream, bytes: 250 Mb/s at 128 ms, and a transfer may have four. What a peer sends and we
/// do not read, because it does not read us, lies in memory up to this.
pub const QUIC_STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// Receive window of one QUIC connection, bytes.
pub const QUIC_CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Inbound streams of one connection that are still negotiating.
pub const NEGOTIATING_MAX: usize = 64;
/// A connection without streams is closed after this long.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// One address that does not answer is given up after this long.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Negotiating one stream may take this long.
pub const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Addresses one dial may name.
pub const DIAL_ADDRESSES_MAX: usize = 8;
/// Callers that may wait for one dial.
pub const DIAL_WAITERS_MAX: usize = 16;
/// Longest text of one multiaddr, bytes.
pub const ADDRESS_TEXT_MAX: usize = shoal_protocol::limits::ADDRESS_MAX;

/// Peers the ban list remembers; the least recently struck is forgotten first.
pub const BANS_MAX: usize = 10_000;
/// First ban after a protocol violation; each further one is half as long again.
pub const BAN_FIRST: Duration = Duration::from_secs(5);
/// Up to this share, in thousandths, is added to a ban at random, so that those banned together do not return together.
pub const BAN_JITTER_THOUSANDTHS: u32 = 250;
/// Longest ban the back-off reaches.
pub const BAN_LONGEST: Duration = Duration::from_secs(30 * 60);
/// Longest ban a caller may ask for: keeps clock arithmetic far from overflow.
pub const BAN_ASKED_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Inbound shard lanes of one peer, over all its connections.
pub const INBOUND_LANES_PER_PEER_MAX: usize = 8;
/// Inbound shard lanes of all peers. Also the capacity of [`crate::Inbound::lanes`], so a permit always has a place.
pub const INBOUND_LANES_MAX: usize = 256;
/// Inbound shard lanes of all strangers, where there are members: a lane may rest, so strangers could take every one. A
/// quarter stays for members.
pub const STRANGER_LANES_MAX: usize = INBOUND_LANES_MAX / 4 * 3;
/// Lanes refused on one connection, for its peer had all of its own, after which it is closed. Nodes open four, so only
/// who breaks the rules gets there.
pub const LANES_REFUSED_MAX: usize = 64;
/// BUSY answers being written; beyond it a refused lane is reset without words and counted.
pub const BUSY_ANSWERS_MAX: usize = 64;
/// Longest time to write one BUSY answer.
pub const BUSY_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Outbound shard lanes to one peer, pooled and reused.
pub const OUTBOUND_LANES_PER_PEER_MAX: usize = 4;
/// Callers that may wait for a lane to one peer.
pub const LANE_WAITERS_MAX: usize = 64;
/// A pooled lane nobody used for this long is closed. Acceptors should wait at least twice as long.
pub const IDLE_LANE_MAX: Duration = Duration::from_secs(30);
/// Tunnel lanes of all peers, opened and accepted. Also the capacity of [`crate::Inbound::tunnels`], so a permit always
/// has a place. A lane holds one frame buffer each way, so all of them 128 x (256 + 128) KiB = 48 MiB.
pub const TUNNELS_MAX: usize = 128;
/// Answers to tunnel streams being written; beyond it a stream is reset without words and counted.
pub const TUNNEL_ANSWERS_MAX: usize = 64;
/// After this long an opened tunnel lane is settled: an open of the other side that crossed ours is over by then, so
/// who opens later has lost its end of the lane.
pub const TUNNEL_SETTLED: Duration = STREAM_TIMEOUT;
/// Times one call opens a tunnel lane that the peer answers BUSY: it may not have seen yet that the lane before ended.
pub const TUNNEL_ATTEMPTS_MAX: usize = 3;
/// Pause between those, in which the peer's own open may arrive: some round trips.
pub const TUNNEL_RETRY: Duration = Duration::from_millis(500);
/// Longest frame of a tunnel lane, bytes: what its two-byte length can say.
pub const TUNNEL_FRAME_MAX: usize = u16::MAX as usize;
/// Bytes of a [`crate::FrameBuffer`]: three of the longest frames are whole in it, so that the part of a frame that is
/// moved to its front is a fraction of what was read.
pub const FRAME_BUFFER_BYTES: usize = 256 * 1024;
/// Bytes a tunnel writer holds for one batch; a batch that does not fit is refused. Twice the 64 KiB that make a write
/// large, so that two of the longest frames never need two batches.
pub const TUNNEL_BATCH_MAX: usize = 2 * (TUNNEL_FRAME_MAX + 2);
/// Peers whose TCP addresses are remembered; the one named longest ago is forgotten first.
pub const ADDRESS_BOOK_PEERS_MAX: usize = CONNECTIONS_MAX as usize;

/// Bytes that may wait in the system unsent, and as many between a tunnel lane and the system: together 64 KiB.
pub const UNSENT_FLOOR: usize = 32 * 1024;
/// Time whose bytes may wait in each of the two places, where that is more than [`UNSENT_FLOOR`]: together 10 ms.
pub const UNSENT_TIME: Duration = Duration::from_millis(5);
/// Most bytes that may wait in each place: 5 ms at 6.7 Gb/s, more than one connection was seen to carry.
pub const UNSENT_MAX: usize = 4 * 1024 * 1024;
/// A rate is measured over at least this long: several wake-ups of a task.
pub const RATE_WINDOW: Duration = Duration::from_millis(10);
/// After this long without a measurement the one before says nothing.
pub const RATE_FORGOTTEN: Duration = Duration::from_secs(1);

/// Open requests waiting in one connection's handler.
pub const OPENS_MAX: usize = 32;

/// Largest control frame, bytes, without its 4-byte length.
pub const CONTROL_FRAME_MAX: usize = shoal_protocol::limits::CONTROL_FRAME_MAX;
/// Requests in flight on one control lane.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64;
/// Commands to one control lane: every request in flight may ask twice, once to send and once to cancel.
pub const CONTROL_COMMANDS_MAX: usize = 2 * REQUESTS_IN_FLIGHT_MAX;
/// Pongs waiting to be written; a peer that pings faster is read more slowly.
pub const PONGS_MAX: usize = 4;
/// Requests of all peers waiting for the owner of [`crate::Inbound::requests`]; a full queue stops reading.
pub const INBOUND_REQUESTS_MAX: usize = 256;
/// Bytes of replies, of all connections, that wait to be written. Beyond it the connection with the most of them is
/// closed: it asks and does not read. As many as 256 of the largest replies.
pub const REPLIES_UNSENT_MAX: usize = 256 * CONTROL_FRAME_MAX;
/// Longest time to write one control frame: 64 KiB at 4 KiB/s. Who reads more slowly is closed, else its replies would
/// lie in memory for ever.
pub const FRAME_WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest deadline a remote may ask for; longer ones are cut to it.
pub const DEADLINE_MAX: Duration = Duration::from_secs(600);
/// Control pings are this far apart.
pub const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Pings without any frame in return after which the connection is closed.
pub const PINGS_MISSED_MAX: u32 = 3;
/// Bytes a control reader asks for at a time: memory grows with bytes received, not with lengths claimed.
pub const CONTROL_READ_STEP: usize = 8 * 1024;

/// Longest time a stop may take to say goodbye and to end its tasks.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
/// Control lane tasks: one each way per connection.
pub const WORKERS_MAX: usize =
    2 * (INBOUND_CONNECTIONS_MAX as usize + OUTBOUND_CONNECTIONS_MAX as usize) + 2 * CONNECTIONS_PER_PEER_MAX as usize;
/// Longest agent or protocol text kept from an identify message, characters.
pub const IDENTIFY_TEXT_MAX: usize = 128;
/// Most protocol names kept from an identify message.
pub const IDENTIFY_PROTOCOLS_MAX: usize = 64;

/// Least time between two credits of a tunnel lane that has little to tell: a third of what may wait on a link, so that
/// its sender never runs dry for want of one.
pub const CREDIT_PAUSE: Duration = Duration::from_millis(1);
/// So many bytes are told of at once: a millisecond at a gigabit, two of the longest frames.
pub const CREDIT_BYTES: u64 = 128 * 1024;

const _: () = assert!(STREAMS_MAX > INBOUND_LANES_PER_PEER_MAX + OUTBOUND_LANES_PER_PEER_MAX + 8);
const _: () = assert!(FRAME_BUFFER_BYTES >= 2 * (TUNNEL_FRAME_MAX + 2));
const _: () = assert!(CONTROL_COMMANDS_MAX >= 2 * REQUESTS_IN_FLIGHT_MAX);
