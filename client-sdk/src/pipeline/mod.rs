//! Bytes to shards and shards to bytes. Pure: it never opens a file, never draws a salt, never talks to a node, and it
//! holds at most two segments of plaintext at a time.
//!
//! ```text
//! Chunker -> PlainSegment -seal-> [per row: plain -> sealed -> coded -> masked -> hashed] -> SegmentShards
//! SliceVerifier -> masked units -> StoredSegment (unmask, rebuild, repair) -> SegmentOpener -> plaintext
//! ```
//! Rows are states of a type each (`row`), so that no unit can be stored unsealed, uncoded or unmasked; a row goes
//! through all of them while it is still in the cache.

pub mod chunker;
pub mod open;
pub mod pages;
mod row;
pub mod seal;
pub mod segment;
pub mod stored;
pub mod verify;

#[cfg(test)]
mod tests;

pub use chunker::{ChunkError, Chunker, Tail};
pub use open::{OpenError, SegmentOpener};
pub use pages::{PagePlainError, page_bytes, page_plain};
pub use segment::{FileLayout, LayoutError, PlainSegment, SealError, SegmentShards, Shard};
pub use stored::{RepairError, StoredSegment, UnitsError};
pub use verify::{Piece, RangesError, SliceVerifier, VerifyError, encode_ranges};
