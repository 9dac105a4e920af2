//! Why a message of a session was not taken, and how often each. It never says from whom.

use core::fmt;

/// Why bytes that claimed to be of a session went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// Not a message of its kind, or with a field out of bounds.
    Malformed,
    /// A version that is not spoken here.
    Version,
    /// The first MAC is wrong: not of this network, or for a key that is no longer used.
    BadMac1,
    /// Under load, and without the cookie of its source; a cookie was sent.
    NoCookie,
    /// The one it introduces is not the peer this is about.
    WrongPeer,
    /// Of a mesh key that is older or newer than the known one.
    WrongEpoch,
    /// A mesh key is over, ours or theirs.
    KeyExpired,
    /// The handshake message does not open.
    Undecryptable,
    /// The stamp of the initiation is not newer than the last.
    StaleStamp,
    /// Another initiation was taken a moment ago.
    TooSoon,
    /// Both initiated and the other one has to give way.
    LostTie,
    /// Answers no handshake that is under way.
    NoHandshake,
    /// The initiation was answered wrongly too often.
    TooManyAnswers,
    /// For a session that is not there.
    NoSession,
    /// This number was accepted before.
    Replayed,
    /// So far behind the newest number that it is not known whether it was accepted before.
    TooOld,
    /// The tag of a frame does not match.
    Forged,
    /// The session has carried all it may.
    Exhausted,
    /// Opened, but of no kind that is known, or with a field out of bounds.
    BadContent,
    /// There is no room for what it would need.
    Busy,
}

impl Dropped {
    /// Every reason, for tables and tests.
    pub const ALL: [Self; 20] = [
        Self::Malformed,
        Self::Version,
        Self::BadMac1,
        Self::NoCookie,
        Self::WrongPeer,
        Self::WrongEpoch,
        Self::KeyExpired,
        Self::Undecryptable,
        Self::StaleStamp,
        Self::TooSoon,
        Self::LostTie,
        Self::NoHandshake,
        Self::TooManyAnswers,
        Self::NoSession,
        Self::Replayed,
        Self::TooOld,
        Self::Forged,
        Self::Exhausted,
        Self::BadContent,
        Self::Busy,
    ];

    /// The word in logs, metrics and on screen.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::BadMac1 => "bad_mac1",
            Self::NoCookie => "no_cookie",
            Self::WrongPeer => "wrong_peer",
            Self::WrongEpoch => "wrong_epoch",
            Self::KeyExpired => "key_expired",
            Self::Undecryptable => "undecryptable",
            Self::StaleStamp => "stale_stamp",
            Self::TooSoon => "too_soon",
            Self::LostTie => "lost_tie",
            Self::NoHandshake => "no_handshake",
            Self::TooManyAnswers => "too_many_answers",
            Self::NoSession => "no_session",
            Self::Replayed => "replayed",
            Self::TooOld => "too_old",
            Self::Forged => "forged",
            Self::Exhausted => "exhausted",
            Self::BadContent => "bad_content",
            Self::Busy => "busy",
        }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Drops since the start, by reason. Counting allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    counts: [u64; Dropped::ALL.len()],
}

impl Drops {
    /// Counts one; stops at the largest number.
    pub fn add(&mut self, reason: Dropped) {
        if let Some(count) = self.counts.get_mut(reason as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// How often for this reason.
    #[must_use]
    pub fn of(&self, reason: Dropped) -> u64 {
        self.counts.get(reason as usize).copied().unwrap_or_default()
    }

    /// Every reason with its count.
    pub fn by_reason(&self) -> impl Iterator<Item = (Dropped, u64)> {
        Dropped::ALL.into_iter().zip(self.counts)
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_and_a_count_of_its_own() {
        let mut drops = Drops::default();
        for (times, reason) in Dropped::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| drops.add(reason));
        }
        for (times, (reason, count)) in drops.by_reason().enumerate() {
            assert_eq!((count, drops.of(reason)), (times as u64, times as u64), "{reason}");
        }
        assert_eq!(drops.total(), 190);
        let words: std::collections::BTreeSet<_> = Dropped::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(words.len(), Dropped::ALL.len());
    }
}
