//! What was asked and answered in one audit, as a file: every entry can be judged again by anybody, with the same
//! verdict. What nodes signed is evidence against them; refusals, failures and times are the auditor's own word.
//!
//! ```text
//! file = "SHOALAUD" || format u8 = 1 || CBOR transcript || derive('shoal audit transcript v1', all before) 32
//! ```

use minicbor::{Decode, Encode};
use shoal_protocol::audit::AuditRequest;
use shoal_protocol::codec::{Bounded, CodecError, decode, encode};
use shoal_protocol::hash::{AUDIT_TRANSCRIPT, derive};
use shoal_protocol::limits::{AUDIT_TOKEN, CONTROL_FRAME_MAX};
use shoal_protocol::{FileId, NetworkId, NodeId, SegmentNumber, UnixMillis};

use super::judge::{FAILURE_TEXT_MAX, Outcome, Question, Timing, Verdict, judge};

/// First bytes of a transcript file.
const MAGIC: &[u8; 8] = b"SHOALAUD";
/// Version of the file.
pub const TRANSCRIPT_FORMAT: u8 = 1;
/// Largest file, bytes: about 300 answers of 32 slices, or 100,000 of whole shards.
pub const TRANSCRIPT_MAX: usize = 16 * 1024 * 1024;
/// Most entries of a file.
pub const ENTRIES_MAX: usize = 65_536;
/// Bytes of the checksum at the end.
const CHECKSUM: usize = 32;
/// Bytes of a file beside its entries, at most: magic, format, ids, numbers, heads, checksum.
const OVERHEAD: usize = 8 + 1 + 3 * 34 + 9 + 5 + 5 + 8 + CHECKSUM;

/// One question and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// Who was asked.
    #[n(0)]
    pub node: NodeId,
    /// Segment or page of the shard.
    #[n(1)]
    pub segment: SegmentNumber,
    /// replica x n + index.
    #[n(2)]
    pub unit: u16,
    /// What was asked.
    #[n(3)]
    pub request: AuditRequest,
    /// What a whole answer begins with, 16 bytes.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub token: Option<Vec<u8>>,
    /// When the outcome was there, by the auditor's clock.
    #[n(5)]
    pub time: UnixMillis,
    /// Milliseconds it took.
    #[n(6)]
    pub took_ms: u64,
    /// Milliseconds it might take.
    #[n(7)]
    pub allowed_ms: u64,
    /// What came.
    #[n(8)]
    pub outcome: Outcome,
}

impl Bounded for Entry {
    fn check(&self) -> Result<(), &'static str> {
        self.request.check()?;
        ensure(self.token.as_ref().is_none_or(|token| token.len() == AUDIT_TOKEN), "length of a token")?;
        match &self.outcome {
            Outcome::Answered { answer, .. } => ensure(answer.len() <= CONTROL_FRAME_MAX, "length of an answer"),
            Outcome::Refused(_) => Ok(()),
            Outcome::Failed(text) => ensure(text.len() <= FAILURE_TEXT_MAX, "text of a failure"),
        }
    }
}

/// All of one audit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Transcript {
    /// The swarm.
    #[cbor(n(0), with = "network")]
    pub network: NetworkId,
    /// Who asked.
    #[n(1)]
    pub auditor: NodeId,
    /// About which file.
    #[n(2)]
    pub file: FileId,
    /// When it began.
    #[n(3)]
    pub begun: UnixMillis,
    /// Entries that found no room.
    #[n(4)]
    pub left_out: u32,
    /// The others, those that are not proved first of all kept.
    #[n(5)]
    pub entries: Vec<Entry>,
}

impl Bounded for Transcript {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.entries.len() <= ENTRIES_MAX, "count of entries")?;
        self.entries.iter().try_for_each(Entry::check)
    }
}

/// Why bytes are no transcript.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscriptError {
    /// Another kind of file.
    #[error("not a transcript of an audit")]
    Magic,
    /// Cut or changed.
    #[error("checksum differs: it was cut or changed")]
    Checksum,
    /// Written by a newer program.
    #[error("format {0} is not known")]
    Version(u8),
    /// Longer than any transcript.
    #[error("{0} bytes are more than a transcript has")]
    TooLarge(usize),
    /// Not what a transcript holds.
    #[error("transcript refused: {0}")]
    Body(CodecError),
}

impl Transcript {
    /// The verdict on one entry, as it was when it was made.
    #[must_use]
    pub fn verdict(&self, entry: &Entry) -> Verdict {
        let token = entry.token.as_ref().and_then(|token| token.as_slice().try_into().ok());
        let question = Question {
            network: &self.network,
            auditor: &self.auditor,
            node: &entry.node,
            request: &entry.request,
            token,
        };
        let timing = Timing { now: entry.time, took_ms: entry.took_ms, allowed_ms: entry.allowed_ms };
        judge(&question, &entry.outcome, timing)
    }

    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(TRANSCRIPT_FORMAT);
        out.append(&mut encode(self));
        let checksum = derive(AUDIT_TRANSCRIPT, &[&out]);
        out.extend_from_slice(&checksum);
        out
    }

    /// Reads the bytes of a file: length, magic and checksum before anything is parsed.
    ///
    /// # Errors
    /// [`TranscriptError`] with the first reason found.
    pub fn decode(bytes: &[u8]) -> Result<Self, TranscriptError> {
        if bytes.len() > TRANSCRIPT_MAX {
            return Err(TranscriptError::TooLarge(bytes.len()));
        }
        if !bytes.starts_with(MAGIC) {
            return Err(TranscriptError::Magic);
        }
        let (covered, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TranscriptError::Checksum)?;
        if derive(AUDIT_TRANSCRIPT, &[covered]) != *checksum {
            return Err(TranscriptError::Checksum);
        }
        let rest = covered.strip_prefix(MAGIC).ok_or(TranscriptError::Magic)?;
        let (&format, body) = rest.split_first().ok_or(TranscriptError::Checksum)?;
        if format != TRANSCRIPT_FORMAT {
            return Err(TranscriptError::Version(format));
        }
        decode(body, TRANSCRIPT_MAX).map_err(TranscriptError::Body)
    }
}

/// Gathers entries within the bounds of a file.
#[derive(Debug)]
pub struct TranscriptBuilder {
    transcript: Transcript,
    bytes: usize,
    most: usize,
    /// Whether each entry was proved, and how long it is.
    kept: Vec<(bool, usize)>,
}

impl TranscriptBuilder {
    /// An empty one.
    #[must_use]
    pub const fn new(network: NetworkId, auditor: NodeId, file: FileId, begun: UnixMillis) -> Self {
        let transcript = Transcript { network, auditor, file, begun, left_out: 0, entries: Vec::new() };
        Self { transcript, bytes: OVERHEAD, most: TRANSCRIPT_MAX, kept: Vec::new() }
    }

    /// The same, for a smaller file.
    #[cfg(test)]
    pub(super) fn within(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Adds an entry. Where room is short, those that are proved make place for those that are not.
    pub fn add(&mut self, entry: Entry, verdict: &Verdict) {
        let proved = *verdict == Verdict::Proved;
        let length = encode(&entry).len();
        while !proved && !self.fits(length) {
            let Some(at) = self.kept.iter().rposition(|(proved, _)| *proved) else { break };
            let (_, freed) = self.kept.remove(at);
            self.transcript.entries.remove(at);
            self.bytes = self.bytes.saturating_sub(freed);
            self.transcript.left_out = self.transcript.left_out.saturating_add(1);
        }
        if self.fits(length) {
            self.bytes = self.bytes.saturating_add(length);
            self.kept.push((proved, length));
            self.transcript.entries.push(entry);
        } else {
            self.transcript.left_out = self.transcript.left_out.saturating_add(1);
        }
    }

    /// What was gathered.
    #[must_use]
    pub fn finish(self) -> Transcript {
        self.transcript
    }

    fn fits(&self, length: usize) -> bool {
        self.bytes.saturating_add(length) <= self.most && self.kept.len() < ENTRIES_MAX
    }
}

fn ensure(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}

/// A network id as a byte string.
mod network {
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};
    use shoal_protocol::NetworkId;

    pub(super) fn encode<C, W: Write>(
        value: &NetworkId,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.bytes(value.as_bytes())?.ok()
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<NetworkId, DecodeError> {
        let bytes = d.bytes()?.try_into().map_err(|_| DecodeError::message("length of a network id"))?;
        Ok(NetworkId::from_bytes(bytes))
    }
}
