//! The journal of an upload: what was sealed and receipted so far, so that the same command goes on after an interruption
//! and sends nothing twice that is already where it should be. Pure: bytes come and go, salts are arguments; where the
//! file lies is the caller's business. It holds no password, and its key only behind the password.
//!
//! ```text
//! file    = "SHOALUJ1" || format u8 = 1 || length u16 LE || header CBOR || entry*
//! header  = { 0: network 32, 1: file 32, 2: suite, 3: password-hash settings, 4: key slot with R }
//! entry   = length u32 LE || salt 32 || ciphertext || tag            key derive(journal, R, salt), nonce 0,
//!                                                                    AAD number = place of the entry, from 0
//! inside  = { 0: begin } or { 1: sealed } or { 2: held }
//! begin   = { 0: code, 1: replicas, 2: audit rounds, 3: group serial }     the first entry, and no other
//! sealed  = { 0: segment, 1: mark 32, 2: segment reference }              a later one of a segment replaces it
//! held    = { 0: segment, 1: unit, 2: node }                              the node receipted that shard
//! mark    = keyed BLAKE3 under derive(journal mark, R) of segment u32 LE || last u8 || length u64 LE || plaintext
//! ```
//! What follows the first entry that is cut, does not open or makes no sense is as good as not written. A segment whose
//! plaintext has the same mark is the same: whole, it is not sealed again; in part, it is sealed again under its own
//! salt, which gives the same bytes. Any other plaintext gets a fresh salt, so no key ever sees two plaintexts.

mod entry;
mod file;
mod mark;
mod state;

pub use entry::{Begin, Entry, HeldUnit, SealedSegment};
pub use file::{JOURNAL_FORMAT, JOURNAL_MAX, JournalError, JournalHeader, JournalWriter, replay};
pub use mark::{Mark, mark};
pub use state::{JournalSegment, JournalState, slots_as_left};

#[cfg(test)]
mod tests;
