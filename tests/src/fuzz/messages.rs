//! Messages without a signature of their own: control requests and responses, the frames of both lanes. What is read is
//! written again as it was.

use futures::executor::block_on;
use shoal_node::probe::{LaneItem, lane as node_lane};
use shoal_protocol::Refusal;
use shoal_protocol::codec::{self, Message};
use shoal_protocol::control::{Request, Response};
use shoal_protocol::lane::{
    DataWord, DeliveryReply, Header, RetrieveTrailer, StoreReply, StoreTrailer, encode_abort, encode_end,
    encode_message, message_length,
};
use shoal_protocol::limits::{CONTROL_FRAME_MAX, LANE_FRAME_MAX, LANE_MESSAGE_MAX};
use shoal_swarm::control::codec::{Frame, LENGTH_BYTES, RESPONSE_BODY_MAX, decode, encode, frame_length};
use shoal_swarm::control::probe::frames;

use super::input::{Input, Pieces, golden, join};
use super::runtime;

const REQUESTS: &str = include_str!("../../../protocol/golden/requests.hex");
const RESPONSES: &str = include_str!("../../../protocol/golden/responses.hex");
const LANE: &str = include_str!("../../../protocol/golden/lane.hex");

/// A message has one spelling and keeps its limit; whether `bytes` are one.
pub(super) fn canonical<T: Message>(bytes: &[u8], limit: usize) -> bool {
    let Ok(value) = codec::decode::<T>(bytes, limit) else { return false };
    assert!(bytes.len() <= limit && value.check().is_ok(), "out of its bounds");
    assert_eq!(codec::encode(&value), bytes, "a second spelling");
    true
}

/// A control request of a peer.
pub fn control_request(data: &[u8]) -> bool {
    canonical::<Request>(data, CONTROL_FRAME_MAX)
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    golden(REQUESTS, |_| true)
}

/// The answer of a node.
pub fn control_response(data: &[u8]) -> bool {
    canonical::<Response>(data, CONTROL_FRAME_MAX)
}

pub(super) fn responses() -> Vec<Vec<u8>> {
    golden(RESPONSES, |_| true)
}

/// One message of a shard lane behind its length word: the first byte says which, the rest is the stream.
pub fn lane_message(data: &[u8]) -> bool {
    let Some((which, stream)) = data.split_first() else { return false };
    match which % 5 {
        0 => framed::<Header>(stream, false),
        1 => framed::<StoreTrailer>(stream, true),
        2 => framed::<StoreReply>(stream, false),
        3 => framed::<RetrieveTrailer>(stream, true),
        _ => framed::<DeliveryReply>(stream, false),
    }
}

fn framed<T: Message>(stream: &[u8], is_trailer: bool) -> bool {
    let mut rest = stream;
    if is_trailer {
        let Some((word, after)) = rest.split_first_chunk::<4>() else { return false };
        if DataWord::parse(*word) != Ok(DataWord::End) {
            return false;
        }
        rest = after;
    }
    let Some((word, after)) = rest.split_first_chunk::<4>() else { return false };
    let Ok(length) = message_length(*word) else { return false };
    assert!((1..=LANE_MESSAGE_MAX).contains(&length));
    let Some(body) = after.get(..length) else { return false };
    let Ok(value) = codec::decode::<T>(body, LANE_MESSAGE_MAX) else { return false };
    let again = if is_trailer { encode_end(&value) } else { encode_message(&value) };
    assert!(stream.starts_with(&again), "a second spelling");
    true
}

pub(super) fn lane_messages() -> Vec<Vec<u8>> {
    let of = |which: u8, names: &[&str]| -> Vec<Vec<u8>> {
        let lines = golden(LANE, |name| names.contains(&name));
        lines.iter().map(|line| join(&[which], line)).collect()
    };
    let kinds: [(u8, &[&str]); 5] = [
        (0, &["store header", "retrieve header"]),
        (1, &["store end and trailer"]),
        (2, &["store reply, kept", "store reply, refused"]),
        (3, &["retrieve end and trailer"]),
        (4, &["delivery reply"]),
    ];
    kinds.iter().flat_map(|(which, names)| of(*which, names)).collect()
}

/// A whole lane as a node reads it, arriving in pieces: how many come, then the lengths, then the stream. It is the same
/// however it was cut, and what was read is what stood there.
pub fn lane_stream(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let lengths = input.bytes(16);
    let stream = input.rest();
    let items = runtime().block_on(node_lane(Pieces::new(stream, lengths)));
    assert_eq!(items, runtime().block_on(node_lane(Pieces::new(stream, &[]))), "the cuts matter");
    let mut again = Vec::new();
    for item in &items {
        match item {
            LaneItem::Header(header) => again.extend(encode_message(header)),
            LaneItem::Data(length) => {
                assert!((1..=LANE_FRAME_MAX).contains(length));
                let word = u32::try_from(*length).unwrap_or(u32::MAX).to_be_bytes();
                let from = again.len().saturating_add(word.len());
                again.extend(word);
                again.extend_from_slice(stream.get(from..from.saturating_add(*length)).unwrap_or_default());
            }
            LaneItem::Trailer(trailer) => again.extend(encode_end(trailer)),
            LaneItem::Reply(reply) => again.extend(encode_message(reply)),
            LaneItem::Abort(number) => {
                again.extend_from_slice(&encode_abort(Refusal::Cancelled)[..4]);
                again.extend(number.to_be_bytes());
            }
        }
    }
    assert!(stream.starts_with(&again), "what was read is not what was sent");
    items.len() > 1
}

pub(super) fn lane_streams() -> Vec<Vec<u8>> {
    let line = |name: &'static str| golden(LANE, move |found| found == name).concat();
    let data = [&5u32.to_be_bytes()[..], b"bytes"].concat();
    let store = [line("store header"), data.clone(), data, line("store end and trailer")].concat();
    let retrieve = [line("retrieve header"), line("delivery reply")].concat();
    let aborted = [line("retrieve header"), line("abort, busy"), line("store header"), line("abort, busy")].concat();
    let cuts: [&[u8]; 3] = [&[0, 0], &[1, 0, 1], &[3, 0, 7, 1, 64]];
    let streams = [store, retrieve, aborted];
    streams.iter().zip(cuts).map(|(stream, cuts)| join(cuts, stream)).collect()
}

/// Frames of the control lane in pieces: the lengths of the pieces, then the stream.
pub fn control_frames(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let lengths = input.bytes(16);
    let stream = input.rest();
    let read = block_on(frames(&mut Pieces::new(stream, lengths)));
    let mut rest = stream;
    for frame in &read {
        let mut again = bytes::BytesMut::new();
        encode(frame, &mut again);
        let (head, after) = rest.split_at(again.len().min(rest.len()));
        assert_eq!(head, &again[..], "a second spelling");
        if let Frame::Request { body, .. } | Frame::Response { body, .. } = frame {
            assert!(body.len() <= RESPONSE_BODY_MAX);
        }
        rest = after;
    }
    // Where the reader stopped there is no whole frame.
    if let Some((word, after)) = rest.split_first_chunk::<LENGTH_BYTES>()
        && let Ok(length) = frame_length(*word)
        && let Some(body) = after.get(..length)
    {
        assert!(decode(bytes::Bytes::copy_from_slice(body)).is_err(), "a good frame was not read");
    }
    !read.is_empty()
}

pub(super) fn control_streams() -> Vec<Vec<u8>> {
    let body = bytes::Bytes::from_static(b"body");
    let frames = [
        Frame::Request { id: 1, deadline_ms: 1000, body: body.clone() },
        Frame::Response { id: 1, body },
        Frame::Cancel { id: 2 },
        Frame::Ping { id: 3 },
        Frame::Pong { id: 3 },
        Frame::Goodbye { reason: 0 },
    ];
    let mut all = bytes::BytesMut::new();
    frames.iter().for_each(|frame| encode(frame, &mut all));
    vec![join(&[0, 0], &all), join(&[2, 0, 1, 5], &all), join(&[0, 0], &[0, 1, 0, 1, 9])]
}
