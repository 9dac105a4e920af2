//! What one neighbour was told and what it told: series, numbers, window, pace, acknowledgements. It chooses no statement
//! and reads no clock.

use std::collections::VecDeque;
use std::sync::Arc;

use shoal_protocol::BootEpoch;
use shoal_protocol::mesh::flood::{FLOOD_PACE_MS, FLOOD_WINDOW, FloodAck, FloodItem};

use super::kept::Statement;
use super::{ACK_MS, NotTaken, RESEND_FIRST_MS, RESEND_MAX_MS};

/// How much sooner than its pace a neighbour's message may come, milliseconds: what was in flight over a way of two windows
/// and arrives at once.
const AHEAD_MS: u64 = 2 * FLOOD_WINDOW * FLOOD_PACE_MS;

/// A message that was not acknowledged yet. It is sent again as it was, for it may have been taken.
#[derive(Debug)]
struct Flight {
    number: u64,
    items: Vec<Arc<Statement>>,
    /// When it was sent; none after it was sent again, for then nobody knows which one was acknowledged.
    sent_ms: Option<u64>,
    sent: bool,
}

/// One neighbour in one of its runs.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) epoch: BootEpoch,
    /// Its place among the holders of statements.
    pub(super) slot: u16,
    /// Since when there is no link to it; none where there is one.
    pub(super) lost_ms: Option<u64>,
    /// Of news, everything up to this place was told.
    pub(super) told: u64,
    series: u64,
    /// Of the last message of the series.
    number: u64,
    /// At most [`FLOOD_WINDOW`].
    flights: VecDeque<Flight>,
    /// Which of them goes out next.
    next: usize,
    acked: u64,
    /// No message with statements before.
    pace_ms: u64,
    /// When the flights go out once more; never, where there are none.
    resend_ms: u64,
    /// Wait before it: doubled each time, back to `round_trip` when something is acknowledged.
    wait_ms: u64,
    round_trip_ms: u64,
    /// Series and number of its last message that was taken.
    heard: (u64, u64),
    /// When an acknowledgement is due.
    ack_ms: Option<u64>,
    /// When its next message is due by its pace.
    intake_ms: u64,
}

impl Neighbour {
    pub(super) const fn new(epoch: BootEpoch, slot: u16, series: u64) -> Self {
        Self {
            epoch,
            slot,
            lost_ms: None,
            told: 0,
            series,
            number: 0,
            flights: VecDeque::new(),
            next: 0,
            acked: 0,
            pace_ms: 0,
            resend_ms: u64::MAX,
            wait_ms: RESEND_FIRST_MS,
            round_trip_ms: 0,
            heard: (0, 0),
            ack_ms: None,
            intake_ms: 0,
        }
    }

    /// Everything is told again, in another series.
    pub(super) fn begin(&mut self, series: u64) {
        (self.series, self.number, self.acked, self.told) = (series, 0, 0, 0);
        self.flights.clear();
        (self.next, self.resend_ms) = (0, u64::MAX);
    }

    /// The link is there again, in the same runs: what was in flight goes out at once.
    pub(super) fn resume(&mut self) {
        (self.lost_ms, self.next, self.wait_ms) = (None, 0, self.first_wait_ms());
        self.resend_ms = u64::MAX;
    }

    /// An acknowledgement came. `true` if the neighbour forgot what it had taken, and a new series has to begin.
    pub(super) fn acknowledged(&mut self, ack: FloodAck, now_ms: u64) -> bool {
        if ack.series != self.series || ack.through > self.number {
            return false;
        }
        if ack.through == 0 && self.acked > 0 {
            return true;
        }
        if ack.through <= self.acked {
            return false;
        }
        self.acked = ack.through;
        while let Some(flight) = self.flights.pop_front() {
            if flight.number > ack.through {
                self.flights.push_front(flight);
                break;
            }
            self.next = self.next.saturating_sub(1);
            if let Some(sent_ms) = flight.sent_ms {
                self.round_trip_ms = now_ms.saturating_sub(sent_ms);
            }
        }
        self.wait_ms = self.first_wait_ms();
        self.resend_ms = if self.flights.is_empty() { u64::MAX } else { now_ms.saturating_add(self.wait_ms) };
        false
    }

    /// A message with statements came: whether they are the next ones.
    pub(super) fn take(&mut self, series: u64, number: u64, now_ms: u64) -> Result<(), NotTaken> {
        if series < self.heard.0 {
            return Err(NotTaken::Late);
        }
        if series > self.heard.0 {
            self.heard = (series, 0);
        }
        // Also for what is not taken: the sender has to hear how far it got.
        self.ack_ms = self.ack_ms.or(Some(now_ms.saturating_add(ACK_MS)));
        match number.checked_sub(self.heard.1) {
            None | Some(0) => return Err(NotTaken::Late),
            Some(1) => {}
            Some(_) => return Err(NotTaken::Gap),
        }
        if self.intake_ms > now_ms.saturating_add(AHEAD_MS) {
            return Err(NotTaken::TooMany);
        }
        self.intake_ms = self.intake_ms.max(now_ms).saturating_add(FLOOD_PACE_MS);
        self.heard.1 = number;
        Ok(())
    }

    /// Whether there is room for another message, and it would be the next to go out, now. What were composed earlier could
    /// tell the neighbour what it says itself in the meantime.
    pub(super) fn may_tell(&self, now_ms: u64) -> bool {
        self.next == self.flights.len() && self.has_room() && self.pace_ms <= now_ms && now_ms < self.resend_ms
    }

    /// Puts a new message behind those in flight. Its items are not empty, and there is room.
    pub(super) fn tell(&mut self, items: Vec<Arc<Statement>>, told: u64) {
        self.told = told;
        self.number = self.number.saturating_add(1);
        self.flights.push_back(Flight { number: self.number, items, sent_ms: None, sent: false });
    }

    /// Series, number and statements of the message that goes out now, if one does.
    pub(super) fn send(&mut self, now_ms: u64) -> Option<(u64, u64, Vec<FloodItem>)> {
        if now_ms >= self.resend_ms {
            self.next = 0;
            self.wait_ms = self.wait_ms.saturating_mul(2).min(RESEND_MAX_MS);
            self.resend_ms = u64::MAX;
        }
        if self.pace_ms > now_ms {
            return None;
        }
        let flight = self.flights.get_mut(self.next)?;
        flight.sent_ms = if flight.sent { None } else { Some(now_ms) };
        flight.sent = true;
        let item = |statement: &Arc<Statement>| FloodItem { kind: statement.kind, signed: statement.signed.clone() };
        let message = (self.series, flight.number, flight.items.iter().map(item).collect());
        self.next = self.next.saturating_add(1);
        self.pace_ms = now_ms.saturating_add(FLOOD_PACE_MS);
        // From the last of them on, so that a wait begins when all are out.
        self.resend_ms = now_ms.saturating_add(self.wait_ms);
        Some(message)
    }

    /// The acknowledgement to send: with a message whenever something was ever taken, by itself when it is due.
    pub(super) fn acknowledge(&mut self, with_message: bool, now_ms: u64) -> Option<FloodAck> {
        let is_due = self.ack_ms.is_some_and(|ack_ms| ack_ms <= now_ms);
        if self.heard.0 == 0 || !(with_message || is_due) {
            return None;
        }
        self.ack_ms = None;
        Some(FloodAck { series: self.heard.0, through: self.heard.1 })
    }

    /// When something is to be done for it; `news` says whether there is something it was not told.
    pub(super) fn due_ms(&self, news: bool) -> u64 {
        let waits = self.next < self.flights.len() || (news && self.has_room());
        let send = if waits { self.pace_ms } else { self.resend_ms };
        send.min(self.ack_ms.unwrap_or(u64::MAX))
    }

    fn has_room(&self) -> bool {
        (self.flights.len() as u64) < FLOOD_WINDOW
    }

    fn first_wait_ms(&self) -> u64 {
        self.round_trip_ms.saturating_mul(2).clamp(RESEND_FIRST_MS, RESEND_MAX_MS)
    }
}
