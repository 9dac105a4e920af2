//! What a plane takes packets from and gives them to: a TUN device of the system, or the stack in this process. Both give
//! and take a virtio header before each packet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use shoal_protocol::mesh::offloads::Offloads;

use crate::vpn::system::tun::{Tun, Written};
use crate::vpn::userspace::channel::Channel;

/// See the head of this file.
#[derive(Debug)]
pub(crate) enum Device {
    /// Of the system.
    Tun(Tun),
    /// The way to the stack in this process.
    Stack(Arc<Channel>),
}

impl Device {
    /// Its name in the system, if it has one.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Tun(tun) => Some(&tun.facts().name),
            Self::Stack(_) => None,
        }
    }

    /// What it takes unfinished.
    pub(crate) fn offloads(&self) -> Offloads {
        match self {
            Self::Tun(tun) => tun.facts().offloads,
            Self::Stack(_) => Offloads::default(),
        }
    }

    /// Reads one packet; `None` if there is none just now.
    ///
    /// # Errors
    /// Of the system.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Tun(tun) => tun.read(buffer),
            Self::Stack(channel) => channel.read(buffer),
        }
    }

    /// Writes one packet.
    ///
    /// # Errors
    /// Of the system.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<Written> {
        match self {
            Self::Tun(tun) => tun.write(bytes),
            Self::Stack(channel) => channel.write(bytes),
        }
    }
}

/// Readable while there are packets.
impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tun(tun) => tun.as_fd(),
            Self::Stack(channel) => channel.as_fd(),
        }
    }
}
