//! Content to upload that is the same in every run and needs no memory: blocks of pseudo-random bytes, each with its own
//! number in front, so that no two are alike. It measures nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use shoal_tests::sample;

const BLOCK_BYTES: usize = 1 << 20;

/// Writes `total` bytes to `out`; their hash.
pub(crate) fn write_to(out: &mut dyn Write, total: u64) -> io::Result<blake3::Hash> {
    let mut block = sample::bytes(1, BLOCK_BYTES);
    let mut hasher = blake3::Hasher::new();
    let (mut number, mut left) = (0u64, total);
    while left > 0 {
        block[..8].copy_from_slice(&number.to_le_bytes());
        let part = &block[..left.min(BLOCK_BYTES as u64) as usize];
        out.write_all(part)?;
        hasher.update(part);
        number += 1;
        left -= part.len() as u64;
    }
    out.flush()?;
    Ok(hasher.finalize())
}

/// Makes a file of `total` bytes; its hash.
pub(crate) fn file(path: &Path, total: u64) -> blake3::Hash {
    write_to(&mut File::create(path).unwrap(), total).unwrap()
}

/// Reads to the end; the hash of all, and how much it was.
pub(crate) fn hash_of(input: &mut dyn Read) -> io::Result<(blake3::Hash, u64)> {
    let (mut hasher, mut buffer, mut total) = (blake3::Hasher::new(), vec![0; BLOCK_BYTES], 0);
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok((hasher.finalize(), total)),
            count => {
                hasher.update(&buffer[..count]);
                total += count as u64;
            }
        }
    }
}
