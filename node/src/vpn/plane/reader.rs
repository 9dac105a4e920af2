//! Packets of the device, read and sent in their order by whoever has the turn: its own thread, or, while that sleeps, who
//! just gave the device a packet and finds the answer to it there. Each thread that need not be woken is some ten
//! microseconds less on the way of a packet. It decides nothing about them.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Plane;
use super::send::Outlet;
use crate::vpn::system::tun;

/// Packets read from the device before what was sealed of them is sent for certain.
const BURST: usize = 64;
/// Packets that are sent by who gave the device others: what a few of those are answered with. More is a flow, which is
/// better read beside its receiving than between.
const ANSWERS_MAX: usize = 4;

/// What the device is read with. Whoever has it sends all that it read before another does: no packet overtakes another.
#[derive(Debug)]
pub(super) struct Reader {
    /// Of the longest packet, where there is a device.
    buffer: Vec<u8>,
    out: Outlet,
}

impl Reader {
    pub(super) fn new(has_device: bool) -> Self {
        Self { buffer: vec![0; if has_device { tun::BUFFER_LENGTH } else { 0 }], out: Outlet::patient() }
    }
}

/// When the thread of the device has something to do next.
pub(super) enum Next {
    /// There may be more packets.
    AtOnce,
    /// When a packet comes, somebody wakes it, or after so long.
    WhenWoken(Option<Duration>),
}

impl Plane {
    /// Reads packets of the device, if there is one, and sends them and what waited for its turn.
    pub(super) fn serve_device(&self) -> io::Result<Next> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.read_device(&mut reader, BURST)?;
        let limited = self.serve_limited(&mut reader.out);
        self.serve_waiting(&mut reader.out);
        Ok(if count == BURST { Next::AtOnce } else { Next::WhenWoken(limited) })
    }

    /// Whether the thread that reads the device waits for a packet.
    pub(super) fn reader_sleeps(&self, sleeps: bool) {
        self.is_unread.store(sleeps, Ordering::Release);
    }

    /// Sends what the device answered to what it was given, unless its thread does.
    pub(super) fn send_answers(&self) {
        if !self.is_unread.load(Ordering::Acquire) {
            return;
        }
        let Ok(mut reader) = self.reader.try_lock() else { return };
        match self.read_device(&mut reader, ANSWERS_MAX) {
            // Its thread did not see the socket become full.
            Ok(_) if reader.out.is_stuck() => self.wake_sender(),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "answers of the device are left to its thread"),
        }
    }

    fn read_device(&self, reader: &mut Reader, most: usize) -> io::Result<usize> {
        let mut count = 0;
        while count < most
            && let Some(device) = &self.device
            && let Some(length) = device.read(&mut reader.buffer)?
        {
            self.handle_device(reader.buffer.get_mut(..length).unwrap_or_default(), &mut reader.out);
            count = count.saturating_add(1);
        }
        if count > 0 || reader.out.is_stuck() {
            self.flush(&mut reader.out);
        }
        Ok(count)
    }
}
