//! Decoders of the files in the home directory for fuzzing, which other crates cannot reach. It is no part of a shipped
//! program, and opens no file.

/// The seed in an identity file.
#[must_use]
pub fn identity(bytes: &[u8]) -> Option<[u8; 32]> {
    crate::home::parse_identity(bytes).map(|key| key.to_bytes())
}

/// The nodes in `peers.json`, written again.
#[must_use]
pub fn peers(bytes: &[u8]) -> Option<Vec<u8>> {
    crate::peers::written_again(bytes)
}

/// The uploads in the catalogue, written again.
#[must_use]
pub fn catalogue(bytes: &[u8]) -> Option<Vec<u8>> {
    crate::catalogue::written_again(bytes)
}
