//! One session as the control half sees it: its age, its traffic, what is due. The keys are elsewhere.

use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::frame::REKEY_BYTES;

use super::effect::Traffic;

/// A session that carries traffic is replaced after this long, milliseconds.
pub const REKEY_AFTER_MS: u64 = 120_000;
/// The keys of a session live no longer than this, milliseconds, used or replaced.
pub const KEY_LIFE_MS: u64 = 180_000;
/// The peer with the greater hash replaces a session only if the other one did not for so long, milliseconds.
pub const REKEY_ELDER_MS: u64 = 10_000;
/// The same by volume: so many bytes beyond [`REKEY_BYTES`], an eighth of what is left until the hard stop.
pub const REKEY_ELDER_BYTES: u64 = REKEY_BYTES / 8;
/// A session without packets for this long is not replaced but left to end, milliseconds.
pub const ACTIVE_MS: u64 = 60_000;
/// After packets came and nothing was sent for this long, a keepalive is sent, milliseconds.
pub const KEEPALIVE_MS: u64 = 10_000;
/// After packets were sent and nothing came for this long, a new handshake is begun, milliseconds: the peer may have
/// forgotten the session. A keepalive and the way back fit in between.
pub const SILENT_MS: u64 = 15_000;
/// A session that its initiator has not used after this long is forgotten, milliseconds.
pub const UNCONFIRMED_MS: u64 = 15_000;
/// The first frame of an initiator is repeated after this long, milliseconds, until the responder says something.
pub const CONFIRM_AGAIN_MS: u64 = 1_000;
/// How often it is repeated.
pub const CONFIRM_TRIES: u8 = 3;

#[derive(Debug)]
pub(super) struct Live {
    pub(super) index: SessionIndex,
    pub(super) made_ms: u64,
    traffic: Traffic,
    /// When packets went last, either way.
    active_ms: u64,
    /// Since when packets were sent and nothing came back.
    unanswered_ms: Option<u64>,
    /// Since when packets came and nothing was sent back.
    owed_ms: Option<u64>,
    /// When to say again that the session is in use, and how often still.
    confirm: Option<(u64, u8)>,
}

impl Live {
    pub(super) const fn new(index: SessionIndex, made_ms: u64, initiator: bool) -> Self {
        let confirm = if initiator { Some((made_ms.saturating_add(CONFIRM_AGAIN_MS), CONFIRM_TRIES)) } else { None };
        Self {
            index,
            made_ms,
            traffic: Traffic {
                sent_bytes: 0,
                sent_payloads: 0,
                received_bytes: 0,
                received_frames: 0,
                received_payloads: 0,
            },
            active_ms: made_ms,
            unanswered_ms: None,
            owed_ms: None,
            confirm,
        }
    }

    pub(super) fn count(&mut self, traffic: Traffic, now_ms: u64) {
        let before = core::mem::replace(&mut self.traffic, traffic);
        if traffic.sent_bytes > before.sent_bytes {
            self.owed_ms = None;
        } else if traffic.received_payloads > before.received_payloads {
            self.owed_ms.get_or_insert(now_ms);
        }
        if traffic.received_frames > before.received_frames {
            self.unanswered_ms = None;
            self.confirm = None;
        } else if traffic.sent_payloads > before.sent_payloads {
            self.unanswered_ms.get_or_insert(now_ms);
        }
        if traffic.sent_payloads > before.sent_payloads || traffic.received_payloads > before.received_payloads {
            self.active_ms = now_ms;
        }
    }

    /// An authentic frame came.
    pub(super) const fn heard(&mut self) {
        self.confirm = None;
        self.unanswered_ms = None;
    }

    pub(super) const fn is_over(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.made_ms) >= KEY_LIFE_MS
    }

    pub(super) const fn is_active(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.active_ms) < ACTIVE_MS
    }

    /// Whether a new session has to take its place. `elder` is the one with the greater hash, who waits a little.
    pub(super) fn is_due(&self, elder: bool, now_ms: u64) -> bool {
        let (age, bytes) = if elder { (REKEY_ELDER_MS, REKEY_ELDER_BYTES) } else { (0, 0) };
        let old = now_ms.saturating_sub(self.made_ms) >= REKEY_AFTER_MS.saturating_add(age) && self.is_active(now_ms);
        let carried = self.traffic.sent_bytes.max(self.traffic.received_bytes);
        let silent = self.unanswered_ms.is_some_and(|since| now_ms.saturating_sub(since) >= SILENT_MS);
        old || carried >= REKEY_BYTES.saturating_add(bytes) || silent
    }

    /// Whether a keepalive has to be sent now; asked once, it counts as sent.
    pub(super) fn take_keepalive(&mut self, now_ms: u64) -> bool {
        if let Some((due_ms, left)) = self.confirm
            && now_ms >= due_ms
        {
            let again = left.checked_sub(1).filter(|left| *left > 0);
            self.confirm = again.map(|left| (now_ms.saturating_add(CONFIRM_AGAIN_MS), left));
            return true;
        }
        let owed = self.owed_ms.is_some_and(|since| now_ms.saturating_sub(since) >= KEEPALIVE_MS);
        if owed {
            self.owed_ms = None;
        }
        owed
    }
}
