//! What one answer to an AUDIT says about the node that gave it. It believes no length, id or position of the answer,
//! and takes nothing for data loss that may be the network's fault or the auditor's own.

use core::ops::Range;

use bytes::Bytes;
use minicbor::{Decode, Encode};
use shoal_protocol::audit::{
    AuditParties, AuditRequest, AuditStatement, Challenge, answer_bytes_max, answer_digest, leaf_ranges, positions,
};
use shoal_protocol::limits::AUDIT_TOKEN;
use shoal_protocol::signed::{Forged, ensure_fresh};
use shoal_protocol::{NetworkId, NodeId, PublicKey, Refusal, Signed, UnixMillis};

use crate::pipeline::{RangesError, SliceVerifier, VerifyError};
use crate::transfer::TransferError;

/// Longest text about a failed exchange that is kept, bytes.
pub(super) const FAILURE_TEXT_MAX: usize = 256;

/// What was asked, of whom, by whom.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The swarm.
    pub network: &'a NetworkId,
    /// Who asks.
    pub auditor: &'a NodeId,
    /// Who is asked.
    pub node: &'a NodeId,
    /// What; its length is the manifest's.
    pub request: &'a AuditRequest,
    /// What the answer to a whole challenge begins with.
    pub token: Option<[u8; AUDIT_TOKEN]>,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// An answer.
    #[n(0)]
    Answered {
        /// A signed [`AuditStatement`], nothing checked yet.
        #[n(0)]
        statement: Signed,
        /// Its bytes.
        #[cbor(n(1), with = "minicbor::bytes")]
        answer: Vec<u8>,
    },
    /// A refusal. Control refusals are not signed: it is the auditor's word.
    #[n(1)]
    Refused(#[n(0)] Refusal),
    /// No answer: the auditor's words, at most 256 bytes.
    #[n(2)]
    Failed(#[n(0)] String),
}

/// When an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The auditor's wall clock when it was there.
    pub now: UnixMillis,
    /// Milliseconds from the question to the answer.
    pub took_ms: u64,
    /// Milliseconds it might take: [`super::allowed_ms`].
    pub allowed_ms: u64,
}

/// How an answer is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// Not signed by the node asked, for this network, as an audit statement.
    #[error("statement refused: {0}")]
    Forged(Forged),
    /// A statement about another request.
    #[error("statement about another request")]
    Request,
    /// A statement to somebody else.
    #[error("statement to another auditor")]
    Auditor,
    /// The statement is about other bytes than came.
    #[error("statement about other bytes")]
    Digest,
    /// More bytes than any answer has.
    #[error("answer of {0} bytes is too long")]
    Length(usize),
    /// Bytes that are not the asked leaves of the shard.
    #[error(transparent)]
    Slices(VerifyError),
    /// Another hash of the whole shard than the token says.
    #[error("hash of the whole shard differs from its token")]
    Whole,
}

impl Lie {
    /// Whether the node's signature and the shard id alone prove it to anybody: an honest node never signs leaves that
    /// do not verify. Whether a token is right only those know who held the shard, and bytes that are not the signed
    /// ones may have been changed by the auditor.
    #[must_use]
    pub const fn is_proof(&self) -> bool {
        matches!(self, Self::Slices(_))
    }
}

/// Why nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The node would not answer now, or does not answer audits.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// It was not reached, or answered with something else.
    #[error("{0}")]
    Failed(String),
    /// The two clocks differ by more than two minutes: the nonce is right, so the answer is no replay, and either clock
    /// may be the wrong one.
    #[error("clocks differ: it says {said:?}, here it is {now:?}")]
    Clock {
        /// Time in the statement.
        said: UnixMillis,
        /// The auditor's time.
        now: UnixMillis,
    },
    /// A whole answer, and no token to compare it with.
    #[error("there is no token to compare with")]
    NoToken,
    /// The question itself makes no sense.
    #[error("cannot be judged: {0}")]
    Question(RangesError),
}

/// What a node showed about one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds what was asked for.
    Proved,
    /// It proved it, but later than an honest node needs.
    Late {
        /// Milliseconds it took.
        took_ms: u64,
        /// Milliseconds it might take.
        allowed_ms: u64,
    },
    /// It says that it does not have it: an honest loss.
    Absent,
    /// It says that its copy is damaged: an honest loss.
    Damaged,
    /// It gave an answer that is wrong.
    Lied(Lie),
    /// Nothing is known. Never data loss.
    Unknown(Doubt),
}

/// What came of a failed exchange.
#[must_use]
pub fn outcome_of(error: &TransferError) -> Outcome {
    match error {
        TransferError::Refused { reason, .. } => Outcome::Refused(*reason),
        other => {
            let mut text = other.to_string();
            let end = (0..=FAILURE_TEXT_MAX.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
            text.truncate(end.unwrap_or(0));
            Outcome::Failed(text)
        }
    }
}

/// The verdict on one outcome.
#[must_use]
pub fn judge(question: &Question<'_>, outcome: &Outcome, timing: Timing) -> Verdict {
    match outcome {
        // Another length than the manifest's is another shard, as STAT counts it.
        Outcome::Refused(Refusal::NotFound | Refusal::Mismatch) => Verdict::Absent,
        Outcome::Refused(Refusal::Damaged) => Verdict::Damaged,
        Outcome::Refused(reason) => Verdict::Unknown(Doubt::Refused(*reason)),
        Outcome::Failed(text) => Verdict::Unknown(Doubt::Failed(text.clone())),
        Outcome::Answered { statement, answer } => {
            let time = match bound(question, statement, answer) {
                Ok(time) => time,
                Err(lie) => return Verdict::Lied(lie),
            };
            match proved(question, answer) {
                Err(verdict) => verdict,
                Ok(()) => in_time(time, timing),
            }
        }
    }
}

/// Whether this statement binds the node to this answer to this question; when it says that was.
fn bound(question: &Question<'_>, statement: &Signed, answer: &[u8]) -> Result<UnixMillis, Lie> {
    let signer = PublicKey::from(*question.node);
    let statement = statement.verify_by::<AuditStatement>(&signer, question.network).map_err(Lie::Forged)?;
    if statement.request != *question.request {
        return Err(Lie::Request);
    }
    if statement.auditor != *question.auditor {
        return Err(Lie::Auditor);
    }
    if answer.len() as u64 > answer_bytes_max(question.request.length, &question.request.challenge) {
        return Err(Lie::Length(answer.len()));
    }
    if statement.digest != answer_digest(answer) {
        return Err(Lie::Digest);
    }
    Ok(statement.time)
}

/// Whether the bytes are the ones asked for.
fn proved(question: &Question<'_>, answer: &[u8]) -> Result<(), Verdict> {
    match &question.request.challenge {
        Challenge::Slices { seed, count } => slices(question, seed, *count, answer),
        Challenge::Whole { .. } => {
            let token = question.token.ok_or(Verdict::Unknown(Doubt::NoToken))?;
            let hash = <&[u8; 32]>::try_from(answer).map_err(|_| Verdict::Lied(Lie::Whole))?;
            if hash.starts_with(&token) { Ok(()) } else { Err(Verdict::Lied(Lie::Whole)) }
        }
    }
}

fn slices(question: &Question<'_>, seed: &[u8; 32], count: u8, answer: &[u8]) -> Result<(), Verdict> {
    let AuditRequest { shard, length, .. } = question.request;
    let parties = AuditParties { network: question.network, auditor: question.auditor, node: question.node };
    let leaves = positions(parties, seed, shard, *length, count);
    let ranges: Vec<Range<u64>> =
        leaf_ranges(&leaves, *length).iter().map(|range| u64::from(range.start)..u64::from(range.end)).collect();
    let verifier = SliceVerifier::new(*shard, u64::from(*length), &ranges);
    let mut verifier = verifier.map_err(|error| Verdict::Unknown(Doubt::Question(error)))?;
    let wrong = |error| Verdict::Lied(Lie::Slices(error));
    let mut input = Bytes::copy_from_slice(answer);
    while verifier.push(&mut input).map_err(wrong)?.is_some() {}
    verifier.finish().map_err(wrong)
}

fn in_time(said: UnixMillis, Timing { now, took_ms, allowed_ms }: Timing) -> Verdict {
    if ensure_fresh(said, now).is_err() {
        Verdict::Unknown(Doubt::Clock { said, now })
    } else if took_ms > allowed_ms {
        Verdict::Late { took_ms, allowed_ms }
    } else {
        Verdict::Proved
    }
}
