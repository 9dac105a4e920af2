//! What is done to inner packets between the TUN device and the seal: read, checked, cut, completed, answered. Functions
//! over memory of the caller, without allocation and lock; no socket, no clock, no route is known here.
//!
//! - [`parse`]: bytes to a [`Parsed`], or a [`PacketDrop`].
//! - [`mod@tuple`]: the addresses and ports a decision is about.
//! - [`checksum`]: internet checksums, whole, incremental and partial.
//! - [`virtio`]: the header the kernel puts before a packet.
//! - [`offload`]: that header to the wire's meta and, at the far side, back from the packet itself.
//! - [`split`]: super-packets to packets that fit. [`join`]: packets to super-packets.
//! - [`ecn`]: congestion marks and DSCP.
//! - [`icmp`]: the answer to a packet that does not fit, and what an ICMP error is about.
//!
//! The way out: [`offload::ingest`], policy, route, [`split::prepare`], then [`split::Split::next`] straight into the
//! buffer that is sealed in place: one copy. The way in: opened in place, [`offload::rebuild`], policy, written: none; or,
//! where packets came one by one, [`join::Join`] and written together: one.

mod bytes;
pub mod checksum;
pub mod ecn;
pub mod icmp;
pub mod join;
pub mod offload;
pub mod parse;
pub mod split;
pub mod tuple;
pub mod virtio;

pub use parse::{Fragment, Parsed, Tcp, Transport, Version};
pub use tuple::Tuple;

/// Why a packet goes no further. One word each for metric and log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum PacketDrop {
    /// Shorter than its headers need.
    #[error("truncated")]
    Truncated,
    /// Neither version 4 nor 6.
    #[error("version")]
    Version,
    /// The length of the IPv4 header is below 20 or beyond the packet.
    #[error("header-length")]
    HeaderLength,
    /// The IPv4 header checksum is wrong.
    #[error("header-checksum")]
    HeaderChecksum,
    /// The stated length is not the length of the packet, or it is a jumbogram.
    #[error("total-length")]
    TotalLength,
    /// IPv4 options that run over their end.
    #[error("options")]
    Options,
    /// It names further stops: what a policy decides about would not be where it goes.
    #[error("source-route")]
    SourceRoute,
    /// More extension headers than [`parse::EXTENSIONS_MAX`], or out of order.
    #[error("extensions")]
    Extensions,
    /// A fragment beyond the largest packet, not cut at 8 bytes, or of a fragment.
    #[error("fragment")]
    Fragment,
    /// A first fragment that hides its ports, or a second that would overwrite them.
    #[error("tiny-fragment")]
    TinyFragment,
    /// A TCP, UDP or ICMP header that contradicts itself or the packet.
    #[error("transport")]
    Transport,
    /// Offload claims that the packet does not bear out, or more segments than allowed.
    #[error("bad-offload")]
    BadOffload,
    /// It does not fit where it goes and may not be cut: to be answered with [`icmp::too_big`].
    #[error("too-big")]
    TooBig,
    /// The caller's buffer is too small. A bug of the caller, never of a sender.
    #[error("no-room")]
    NoRoom,
}

impl PacketDrop {
    /// All reasons, in the order of counters.
    pub const ALL: [Self; 14] = [
        Self::Truncated,
        Self::Version,
        Self::HeaderLength,
        Self::HeaderChecksum,
        Self::TotalLength,
        Self::Options,
        Self::SourceRoute,
        Self::Extensions,
        Self::Fragment,
        Self::TinyFragment,
        Self::Transport,
        Self::BadOffload,
        Self::TooBig,
        Self::NoRoom,
    ];
}
