//! Reading a whole record back and comparing all of it with what it must be. It never changes a file, and what it
//! returns was checked to the last byte.

use std::io;

use bytes::Bytes;

use super::bao;
use super::record::{CRC_BYTES, Codec, Entry, HEADER_BYTES, Kind, checksum};
use super::vfs::VfsFile;

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The header is not the one that was written here.
    Header,
    /// Payload, outboard or checksum are not what was written.
    Body,
    /// The bytes between the checksum and the next record are not zero.
    Padding,
    /// The disk does not read it.
    Unreadable,
}

/// A record that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    pub payload: Bytes,
    pub outboard: Vec<u8>,
    pub crc: u32,
    /// Whether only the padding is wrong: nothing of the record itself.
    pub padding: bool,
}

/// Reads the record `entry` of `segment` and checks header, checksum, padding, and of a shard hash and tree.
pub(crate) fn read_whole(file: &dyn VfsFile, codec: &Codec, segment: u32, entry: &Entry) -> Result<Whole, Damage> {
    let size = usize::try_from(entry.size()).map_err(|_| Damage::Header)?;
    let mut bytes = vec![0; size];
    // Once more: what reads the second time is no damage.
    let read = file.read_exact_at(&mut bytes, entry.offset).or_else(|_| file.read_exact_at(&mut bytes, entry.offset));
    read.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Damage::Body,
        _ => Damage::Unreadable,
    })?;
    let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Damage::Header)?;
    if codec.check_header(header, u64::from(segment), entry.offset) != Ok(*entry) {
        return Err(Damage::Header);
    }
    let (payload, rest) = body.split_at_checked(entry.payload as usize).ok_or(Damage::Body)?;
    let (outboard, rest) = rest.split_at_checked(entry.outboard as usize).ok_or(Damage::Body)?;
    let (stored, padding) = rest.split_at_checked(CRC_BYTES).ok_or(Damage::Body)?;
    let crc = checksum(payload, outboard);
    if *stored != crc.to_le_bytes() {
        return Err(Damage::Body);
    }
    if entry.kind == Kind::Put {
        let (id, tree) = bao::outboard(payload);
        if *id.as_bytes() != entry.key || tree != outboard {
            return Err(Damage::Body);
        }
    }
    let outboard = outboard.to_vec();
    let padding = padding.iter().any(|byte| *byte != 0);
    let payload = HEADER_BYTES..HEADER_BYTES.saturating_add(entry.payload as usize);
    Ok(Whole { payload: Bytes::from(bytes).slice(payload), outboard, crc, padding })
}
