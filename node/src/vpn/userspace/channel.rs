//! Between the packet half and the userspace stack: packets of the stack on their way out, packets of others on their way
//! in, each in a queue with a bound. It looks into no packet.
//!
//! The stack never makes a packet there is no room for: it asks first, and is woken when there is room again. Asking and
//! noting that somebody waits are one step under one lock, so no wake is lost. What comes in and finds no room is lost and
//! counted, as at a device whose queue is full.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::vpn::system::tun::{FORM, Written};
use crate::vpn::system::wake::Wake;

/// Packets that may wait on their way out; the packet half takes them as fast as it takes a device's.
const OUT_MAX: usize = 1024;
/// Places that only answers to packets may take, and that one pass over all sockets of the stack needs at most: a socket
/// that was asked for a packet and not given the room forgets that it had one to send.
pub(super) const OUT_SPARE: usize = 384;
/// Who waits for room is woken when at most so many packets are left.
const OUT_LOW: usize = OUT_MAX / 4;
/// Bytes that may wait on their way in: more than one connection's window, and what a busy moment of all of them brings.
const IN_BYTES_MAX: usize = 4 << 20;
/// What a waiting packet takes besides its bytes, so that empty ones are not free.
const PACKET_COST: usize = 64;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Channel {
    out: Mutex<Out>,
    inbound: Mutex<Inbound>,
    /// Readable while packets wait on their way out.
    leaving: Wake,
    /// Wakes the stack.
    stack: Wake,
}

#[derive(Debug, Default)]
struct Out {
    packets: VecDeque<Vec<u8>>,
    /// The stack waits for room.
    is_awaited: bool,
}

#[derive(Debug, Default)]
struct Inbound {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Channel {
    /// One with nothing in it.
    ///
    /// # Errors
    /// If the system is out of descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { out: Mutex::default(), inbound: Mutex::default(), leaving: Wake::new()?, stack: Wake::new()? })
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbound(&self) -> MutexGuard<'_, Inbound> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next packet of the stack, with an empty virtio header before it; `None` if there is none.
    ///
    /// # Errors
    /// Of the system; none is known.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let (packet, has_room) = {
            let mut out = self.out();
            let packet = out.packets.pop_front();
            if packet.is_none() {
                // Under the lock: a packet that comes next makes it readable again.
                self.leaving.take()?;
            }
            let has_room = out.is_awaited && out.packets.len() <= OUT_LOW;
            if has_room {
                out.is_awaited = false;
            }
            (packet, has_room)
        };
        if has_room {
            self.stack.wake()?;
        }
        let Some(packet) = packet else { return Ok(None) };
        let length = FORM.length().saturating_add(packet.len());
        let target = buffer.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
        let (header, body) = target.split_at_mut(FORM.length());
        header.fill(0);
        body.copy_from_slice(&packet);
        Ok(Some(length))
    }

    /// Gives the stack a packet behind a virtio header, which has to be empty: the stack finishes nothing.
    ///
    /// # Errors
    /// Of the system; none is known.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<Written> {
        let packet = match bytes.split_at_checked(FORM.length()) {
            Some((header, packet)) if header.iter().all(|byte| *byte == 0) => packet,
            _ => return Ok(Written::Refused),
        };
        let was_empty = {
            let mut inbound = self.inbound();
            let cost = packet.len().saturating_add(PACKET_COST);
            if inbound.bytes.saturating_add(cost) > IN_BYTES_MAX {
                return Ok(Written::Full);
            }
            inbound.bytes = inbound.bytes.saturating_add(cost);
            inbound.packets.push_back(packet.to_vec());
            inbound.packets.len() == 1
        };
        if was_empty {
            self.stack.wake()?;
        }
        Ok(Written::Taken)
    }

    /// What wakes the stack.
    pub(super) const fn stack(&self) -> &Wake {
        &self.stack
    }

    /// The next packet for the stack.
    pub(super) fn arrived(&self) -> Option<Vec<u8>> {
        let mut inbound = self.inbound();
        let packet = inbound.packets.pop_front()?;
        inbound.bytes = inbound.bytes.saturating_sub(packet.len().saturating_add(PACKET_COST));
        Some(packet)
    }

    /// Whether packets wait for the stack.
    pub(super) fn has_arrived(&self) -> bool {
        !self.inbound().packets.is_empty()
    }

    /// Whether packets of the stack wait on their way out.
    pub(super) fn has_leaving(&self) -> bool {
        !self.out().packets.is_empty()
    }

    /// Whether there is room for a pass over all sockets; if not, the stack is woken when there is.
    pub(super) fn has_room(&self) -> bool {
        self.has_places(OUT_SPARE)
    }

    /// Whether there is room for the answer to a packet; if not, the stack is woken when there is.
    pub(super) fn has_answer_room(&self) -> bool {
        self.has_places(1)
    }

    fn has_places(&self, places: usize) -> bool {
        let mut out = self.out();
        let has = OUT_MAX.saturating_sub(out.packets.len()) >= places;
        out.is_awaited |= !has;
        has
    }

    /// Takes a packet of the stack, which asked for room before.
    pub(super) fn leave(&self, packet: Vec<u8>) {
        let mut out = self.out();
        debug_assert!(out.packets.len() < OUT_MAX, "a packet nobody asked room for");
        out.packets.push_back(packet);
        if out.packets.len() == 1
            && let Err(error) = self.leaving.wake()
        {
            tracing::error!(%error, "packets of the userspace stack wait, and nobody can be told");
        }
    }
}

/// Readable while packets wait on their way out.
impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.leaving.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(packet: &[u8]) -> Vec<u8> {
        [&vec![0; FORM.length()][..], packet].concat()
    }

    #[test]
    fn packets_go_both_ways_in_order_behind_an_empty_header() {
        let channel = Channel::new().unwrap();
        channel.leave(vec![1; 40]);
        channel.leave(vec![2; 60]);
        let mut buffer = vec![9; 200];
        for (byte, length) in [(1, 40), (2, 60)] {
            assert_eq!(channel.read(&mut buffer).unwrap(), Some(FORM.length() + length));
            assert_eq!(buffer[..FORM.length() + length], framed(&vec![byte; length]));
        }
        assert_eq!(channel.read(&mut buffer).unwrap(), None);
        assert_eq!(channel.write(&framed(&[7; 30])).unwrap(), Written::Taken);
        assert_eq!(channel.write(&[1; 30]).unwrap(), Written::Refused, "an unfinished packet");
        assert!(channel.has_arrived() && channel.stack().take().unwrap());
        assert_eq!(channel.arrived(), Some(vec![7; 30]));
        assert_eq!(channel.arrived(), None);
    }

    #[test]
    fn a_full_way_out_is_seen_before_a_packet_is_made_and_room_wakes_once() {
        let channel = Channel::new().unwrap();
        let mut buffer = vec![0; 100];
        while channel.has_room() {
            channel.leave(vec![0; 20]);
        }
        while channel.has_answer_room() {
            channel.leave(vec![0; 20]);
        }
        assert!(!channel.stack().take().unwrap());
        let mut read = 0;
        while !channel.stack().take().unwrap() {
            assert!(channel.read(&mut buffer).unwrap().is_some(), "nobody was woken");
            read += 1;
        }
        assert_eq!(read, OUT_MAX - OUT_LOW);
        assert!(channel.has_room());
        while channel.read(&mut buffer).unwrap().is_some() {}
        assert!(!channel.stack().take().unwrap(), "nobody waited any more");
    }

    #[test]
    fn what_comes_in_is_bounded_by_its_bytes() {
        let channel = Channel::new().unwrap();
        let mut taken = 0;
        while channel.write(&framed(&[1; 1200])).unwrap() == Written::Taken {
            taken += 1;
        }
        assert_eq!(taken, IN_BYTES_MAX / (1200 + PACKET_COST));
        assert!(channel.arrived().is_some());
        assert_eq!(channel.write(&framed(&[1; 1200])).unwrap(), Written::Taken);
    }
}
