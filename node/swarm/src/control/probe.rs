//! The reader of control frames for fuzzing, which other crates cannot reach. It is no part of a shipped program.

use futures::AsyncRead;

use super::codec::Frame;
use super::wire::read_frame;

/// Every frame that is read from `stream` until it ends or breaks the protocol.
pub async fn frames(stream: &mut (impl AsyncRead + Unpin)) -> Vec<Frame> {
    let mut out = Vec::new();
    while let Ok(frame) = read_frame(stream).await {
        out.push(frame);
    }
    out
}
