//! Decoders of a node for fuzzing, which other crates cannot reach: bytes in, what was understood out. It is no part of
//! a shipped program, opens no socket, and writes nothing.

use bytes::BytesMut;
use clap::Parser;
use shoal_protocol::lane::{DataWord, DeliveryReply, Header, StoreTrailer};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::admin::frames;
use crate::cli::RunArgs;
use crate::service::stream::{LaneEnd, LaneIo};
use crate::{config, genesis, identity, size, vouchers};

/// A request on the control socket, written again.
///
/// # Errors
/// The text that is answered.
pub fn admin_request(json: &[u8]) -> Result<Vec<u8>, String> {
    let envelope = frames::parse(json).map_err(|complaint| complaint.what)?;
    serde_json::to_vec(&envelope).map_err(|error| error.to_string())
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    run: RunArgs,
}

/// The configuration in a file of these bytes, for a node whose directory does not exist.
///
/// # Errors
/// What the user is told.
pub fn config(bytes: &[u8]) -> Result<config::Config, String> {
    let line =
        Line::try_parse_from(["shoald", "--data-dir", "/nonexistent/shoal"]).map_err(|error| error.to_string())?;
    config::probe(&line.run, bytes).map_err(|problem| problem.to_string())
}

/// The seed in an identity file.
#[must_use]
pub fn identity(bytes: &[u8]) -> Option<[u8; 32]> {
    identity::parse(bytes).map(|key| key.to_bytes())
}

/// Network and seed in a genesis file.
#[must_use]
pub fn genesis(bytes: &[u8]) -> Option<(String, [u8; 32])> {
    genesis::parse(bytes).map(|(name, key)| (name, key.to_bytes()))
}

/// What a log of vouchers says is spent, written again.
#[must_use]
pub fn voucher_log(bytes: &[u8]) -> Option<Vec<u8>> {
    vouchers::rewritten(bytes)
}

/// A size as people write it, bytes.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    text.parse::<size::Size>().ok().map(|size| size.0)
}

/// What a node read from a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneItem {
    /// The message that begins a transfer.
    Header(Header),
    /// Data of a shard: how many bytes.
    Data(usize),
    /// The end of a shard.
    Trailer(StoreTrailer),
    /// The end of a retrieval.
    Reply(DeliveryReply),
    /// The other side gave up: the number of its reason.
    Abort(u16),
}

/// Reads transfer after transfer until the stream ends or breaks the protocol.
pub async fn lane<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Vec<LaneItem> {
    let (mut io, mut out) = (LaneIo::new(stream), Vec::new());
    while let Ok(header) = io.next_header::<Header>(Duration::from_secs(1)).await {
        let is_store = matches!(header, Header::Store { .. });
        out.push(LaneItem::Header(header));
        let ended = if is_store { stored(&mut io, &mut out).await } else { delivered(&mut io, &mut out).await };
        if ended.is_err() {
            break;
        }
    }
    out
}

async fn stored<S: AsyncRead + AsyncWrite + Unpin>(io: &mut LaneIo<S>, out: &mut Vec<LaneItem>) -> Result<(), LaneEnd> {
    loop {
        match io.data_word().await? {
            DataWord::Data(length) => {
                // Both ways of a node: into the buffer of a reservation, and past it.
                if out.len().is_multiple_of(2) {
                    io.read_into(&mut BytesMut::new(), length).await?;
                } else {
                    io.skip(length).await?;
                }
                out.push(LaneItem::Data(length));
            }
            DataWord::End => {
                out.push(LaneItem::Trailer(io.message().await?));
                return Ok(());
            }
            DataWord::Abort => {
                out.push(LaneItem::Abort(io.abort_number().await?));
                return Ok(());
            }
        }
    }
}

async fn delivered<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut LaneIo<S>,
    out: &mut Vec<LaneItem>,
) -> Result<(), LaneEnd> {
    // The client may speak before it is asked: what came early must not be lost.
    io.is_interrupted()?;
    let word = io.word().await?;
    let item = match DataWord::parse(word) {
        Ok(DataWord::Abort) => LaneItem::Abort(io.abort_number().await?),
        _ => LaneItem::Reply(io.message_after(word).await?),
    };
    out.push(item);
    Ok(())
}
