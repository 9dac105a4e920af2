//! Big-endian numbers at places that may not exist. Nothing here panics.

use super::PacketDrop;

pub(super) fn byte(bytes: &[u8], at: usize) -> Result<u8, PacketDrop> {
    bytes.get(at).copied().ok_or(PacketDrop::Truncated)
}

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], PacketDrop> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(PacketDrop::Truncated)
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Result<u16, PacketDrop> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Result<u32, PacketDrop> {
    array(bytes, at).map(u32::from_be_bytes)
}

/// Writes `value` at `at`.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<(), PacketDrop> {
    let end = at.checked_add(value.len()).ok_or(PacketDrop::NoRoom)?;
    bytes.get_mut(at..end).ok_or(PacketDrop::NoRoom)?.copy_from_slice(value);
    Ok(())
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) -> Result<(), PacketDrop> {
    put(bytes, at, &value.to_be_bytes())
}
