//! The frames of the control lane as bytes: pure, no stream, no clock. It never looks into a body.
//!
//! | offset | bytes | field | in |
//! |---|---|---|---|
//! | 0 | 4 | length of all that follows, big-endian, 1..=65536 | every frame |
//! | 4 | 1 | kind: 0 request, 1 response, 2 cancel, 3 ping, 4 pong, 5 goodbye | every frame |
//! | 5 | 8 | request id, big-endian | every frame |
//! | 13 | 4 | deadline in milliseconds from receipt, big-endian | request |
//! | 13 or 17 | rest | body | request, response |
//!
//! The peer that opened the stream sends requests, cancels, pings and a goodbye; the peer that accepted it sends
//! responses, pongs and a goodbye. Any other kind, a body where none belongs, or a frame too short for its kind ends
//! the connection. Request ids are chosen by the opener and are unique while in flight; responses come in any order.
//! A pong repeats the id of its ping. The id of a goodbye is its reason: 0 means that the sender stops.

use bytes::{BufMut, Bytes, BytesMut};

use crate::limits::CONTROL_FRAME_MAX;

/// Bytes of the length field.
pub const LENGTH_BYTES: usize = 4;
/// Kind and request id.
const HEAD: usize = 1 + 8;
/// Kind, request id and deadline.
const REQUEST_HEAD: usize = HEAD + 4;
/// Largest body of a request, bytes.
pub const REQUEST_BODY_MAX: usize = CONTROL_FRAME_MAX - REQUEST_HEAD;
/// Largest body of a response, bytes.
pub const RESPONSE_BODY_MAX: usize = CONTROL_FRAME_MAX - HEAD;

/// One frame of the control lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Kind 0: the opener asks.
    Request {
        /// Chosen by the opener.
        id: u64,
        /// Milliseconds the opener will wait from now on.
        deadline_ms: u32,
        /// Opaque.
        body: Bytes,
    },
    /// Kind 1: the acceptor answers.
    Response {
        /// Of the request.
        id: u64,
        /// Opaque.
        body: Bytes,
    },
    /// Kind 2: the opener no longer waits.
    Cancel {
        /// Of the request.
        id: u64,
    },
    /// Kind 3: the opener measures the round trip.
    Ping {
        /// Repeated by the pong.
        id: u64,
    },
    /// Kind 4: the acceptor's echo.
    Pong {
        /// Of the ping.
        id: u64,
    },
    /// Kind 5: the sender closes the connection after this frame.
    Goodbye {
        /// 0: the sender stops.
        reason: u64,
    },
}

/// Why bytes are not a frame. The connection they came on is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is 0 or above the limit.
    #[error("control frame of {0} bytes; 1 to {CONTROL_FRAME_MAX} are allowed")]
    Length(u32),
    /// The frame ends before its kind's fields do.
    #[error("control frame is shorter than its kind needs")]
    Short,
    /// A kind nobody defined.
    #[error("control frame of unknown kind {0}")]
    Kind(u8),
    /// A body where the kind has none.
    #[error("control frame of kind {0} has a body")]
    Body(u8),
}

/// Checks a length field.
///
/// # Errors
/// [`FrameError::Length`] outside 1..=65536.
pub fn frame_length(field: [u8; LENGTH_BYTES]) -> Result<usize, FrameError> {
    let claimed = u32::from_be_bytes(field);
    match usize::try_from(claimed) {
        Ok(length) if (1..=CONTROL_FRAME_MAX).contains(&length) => Ok(length),
        _ => Err(FrameError::Length(claimed)),
    }
}

/// Reads one frame from its bytes after the length field, without copying the body.
///
/// # Errors
/// [`FrameError`] when the bytes are no frame.
pub fn decode(mut bytes: Bytes) -> Result<Frame, FrameError> {
    let kind = *bytes.first().ok_or(FrameError::Short)?;
    let head: [u8; 8] = bytes.get(1..HEAD).and_then(|id| id.try_into().ok()).ok_or(FrameError::Short)?;
    let id = u64::from_be_bytes(head);
    let bare = |frame: Frame| if bytes.len() == HEAD { Ok(frame) } else { Err(FrameError::Body(kind)) };
    match kind {
        0 => {
            let field: [u8; 4] =
                bytes.get(HEAD..REQUEST_HEAD).and_then(|d| d.try_into().ok()).ok_or(FrameError::Short)?;
            let body = bytes.split_off(REQUEST_HEAD);
            Ok(Frame::Request { id, deadline_ms: u32::from_be_bytes(field), body })
        }
        1 => Ok(Frame::Response { id, body: bytes.split_off(HEAD) }),
        2 => bare(Frame::Cancel { id }),
        3 => bare(Frame::Ping { id }),
        4 => bare(Frame::Pong { id }),
        5 => bare(Frame::Goodbye { reason: id }),
        other => Err(FrameError::Kind(other)),
    }
}

/// Appends one frame with its length field. Bodies are checked by the callers against [`REQUEST_BODY_MAX`] and
/// [`RESPONSE_BODY_MAX`] before a frame is made.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    let (kind, id, deadline_ms, body): (u8, u64, Option<u32>, &[u8]) = match frame {
        Frame::Request { id, deadline_ms, body } => (0, *id, Some(*deadline_ms), body),
        Frame::Response { id, body } => (1, *id, None, body),
        Frame::Cancel { id } => (2, *id, None, &[]),
        Frame::Ping { id } => (3, *id, None, &[]),
        Frame::Pong { id } => (4, *id, None, &[]),
        Frame::Goodbye { reason } => (5, *reason, None, &[]),
    };
    let head = if deadline_ms.is_some() { REQUEST_HEAD } else { HEAD };
    let length = head.saturating_add(body.len());
    debug_assert!(length <= CONTROL_FRAME_MAX, "callers bound bodies");
    out.reserve(LENGTH_BYTES.saturating_add(length));
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.put_u8(kind);
    out.put_u64(id);
    if let Some(deadline_ms) = deadline_ms {
        out.put_u32(deadline_ms);
    }
    out.put_slice(body);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let body = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        prop_oneof![
            (any::<u64>(), any::<u32>(), body()).prop_map(|(id, deadline_ms, body)| Frame::Request {
                id,
                deadline_ms,
                body
            }),
            (any::<u64>(), body()).prop_map(|(id, body)| Frame::Response { id, body }),
            any::<u64>().prop_map(|id| Frame::Cancel { id }),
            any::<u64>().prop_map(|id| Frame::Ping { id }),
            any::<u64>().prop_map(|id| Frame::Pong { id }),
            any::<u64>().prop_map(|reason| Frame::Goodbye { reason }),
        ]
    }

    fn split(mut bytes: BytesMut) -> (usize, Bytes) {
        let field = bytes.split_to(LENGTH_BYTES);
        (frame_length([field[0], field[1], field[2], field[3]]).unwrap(), bytes.freeze())
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(frame in any_frame()) {
            let mut out = BytesMut::new();
            encode(&frame, &mut out);
            let (length, rest) = split(out);
            prop_assert_eq!(length, rest.len());
            prop_assert_eq!(decode(rest), Ok(frame));
        }

        #[test]
        fn what_is_decoded_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(frame) = decode(Bytes::from(bytes.clone())) {
                let mut out = BytesMut::new();
                encode(&frame, &mut out);
                prop_assert_eq!(split(out).1, bytes);
            }
        }

        #[test]
        fn lengths_outside_the_limit_are_refused(claimed in any::<u32>()) {
            let fits = (1..=65_536).contains(&claimed);
            prop_assert_eq!(frame_length(claimed.to_be_bytes()).is_ok(), fits);
        }
    }

    #[test]
    fn golden_request() {
        let mut out = BytesMut::new();
        encode(&Frame::Request { id: 0x0102, deadline_ms: 1000, body: Bytes::from_static(b"hi") }, &mut out);
        assert_eq!(&out[..], [0, 0, 0, 15, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 0xe8, b'h', b'i']);
    }

    #[test]
    fn the_largest_bodies_fit_one_frame() {
        let mut out = BytesMut::new();
        encode(&Frame::Request { id: 1, deadline_ms: 1, body: vec![7; REQUEST_BODY_MAX].into() }, &mut out);
        assert_eq!(split(out).0, CONTROL_FRAME_MAX);
        let mut out = BytesMut::new();
        encode(&Frame::Response { id: 1, body: vec![7; RESPONSE_BODY_MAX].into() }, &mut out);
        assert_eq!(split(out).0, CONTROL_FRAME_MAX);
    }

    #[test]
    fn strange_frames_are_named() {
        assert_eq!(decode(Bytes::new()), Err(FrameError::Short));
        assert_eq!(decode(Bytes::from_static(&[3, 0, 0])), Err(FrameError::Short));
        assert_eq!(decode(Bytes::from_static(&[0; 9])), Err(FrameError::Short));
        assert_eq!(decode(Bytes::from_static(&[9; 9])), Err(FrameError::Kind(9)));
        assert_eq!(decode(Bytes::from_static(&[2; 10])), Err(FrameError::Body(2)));
    }
}
