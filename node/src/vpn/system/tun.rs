//! One TUN device: opened with all the offloads the kernel gives, then packets with their virtio header in and out of the
//! caller's buffers. It looks into no packet, and gives the device no address and no route.
//!
//! A buffer holds what `shoal_engine::mesh::packet::virtio` reads and writes, then the packet. That is byte for byte what
//! the kernel carries: tun-rs hands its reads and writes on as they are, and leaves the header at its 10 bytes. A device
//! without offloads has no header in the kernel; then this file adds zeros and takes them off, so that a buffer has one
//! layout always.
//!
//! A device lives as long as its [`Tun`]: a killed process takes it, its addresses and its routes along.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use shoal_engine::mesh::packet::virtio::Form;
use shoal_protocol::mesh::meta::SEGMENTS_MAX;
use shoal_protocol::mesh::offloads::Offloads;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::is_interface_name;
use super::netlink::{Netlink, NetlinkError};

/// The file all TUN devices are opened from.
const CONTROL: &str = "/dev/net/tun";

/// The form of the header in every buffer: the kernel's, unless told otherwise.
pub const FORM: Form = Form::Short;

/// Bytes a buffer needs so that nothing is cut off: the header and the longest IP packet. The kernel says of a longer
/// packet than the buffer only how much of it there was room for.
pub const BUFFER_LENGTH: usize = FORM.length() + 65_535;

/// The least MTU: IPv6 has no smaller one (RFC 8200, 5).
pub const MTU_MIN: u16 = 1280;

/// Packets the device's queue takes unless more are asked for: 500, the kernel's own, is less than one round trip's worth
/// of super-packets to a far place, and what does not fit is lost.
pub const QUEUE_LENGTH: u32 = 1000;

/// How many offloads are asked for. Fewer are for kernels and drivers that promise what they break.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Super-packets of TCP and UDP, pending checksums.
    #[default]
    All,
    /// As before without super-packets of UDP.
    Tcp,
    /// Whole packets with whole checksums, one a read.
    Nothing,
}

/// What is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunOptions {
    /// The device's name, by [`is_interface_name`].
    pub name: String,
    /// Bytes of the longest packet, from [`MTU_MIN`].
    pub mtu: u16,
    /// Packets its queue takes.
    pub queue_length: u32,
    /// How many offloads to ask for.
    pub wanted: Wanted,
}

impl TunOptions {
    /// All offloads and the usual queue.
    #[must_use]
    pub fn new(name: &str, mtu: u16) -> Self {
        Self { name: name.to_owned(), mtu, queue_length: QUEUE_LENGTH, wanted: Wanted::All }
    }
}

/// What was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunFacts {
    /// Its name.
    pub name: String,
    /// Its number, by which [`Netlink`] knows it.
    pub index: u32,
    /// What the kernel takes from us.
    pub offloads: Offloads,
    /// The form of the header in every buffer.
    pub form: Form,
    /// Packets its queue takes.
    pub queue_length: u32,
    /// Segments in a super-packet of the kernel's at most. Above [`SEGMENTS_MAX`] on kernels before 4.16.
    pub gso_max_segments: u32,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The process lacks CAP_NET_ADMIN.
    #[error("the system does not let this process make a TUN device")]
    NotPermitted(#[source] io::Error),
    /// The control file is not there, or nothing is behind it.
    #[error("there is no {CONTROL}")]
    NoDriver(#[source] io::Error),
    /// The control file is there, and not for this process.
    #[error("{CONTROL} may not be opened")]
    DriverDenied(#[source] io::Error),
    /// There is an interface of this name.
    #[error("there is an interface `{0}` already")]
    NameTaken(String),
    /// No name of an interface.
    #[error("`{0}` is no name for an interface")]
    BadName(String),
    /// An MTU below [`MTU_MIN`].
    #[error("an MTU of {0} is below {MTU_MIN}")]
    BadMtu(u16),
    /// The device was opened and could not be looked at or set up.
    #[error("the new TUN device cannot be set up")]
    Setup(#[source] NetlinkError),
    /// The kernel refuses or fails.
    #[error("the kernel makes no TUN device")]
    Other(#[source] io::Error),
}

impl TunError {
    /// Whether the same request may succeed later with nothing changed by hand.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Setup(source) => source.retryable(),
            Self::NameTaken(_) => true,
            _ => false,
        }
    }
}

/// What became of a packet that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The kernel has it.
    Taken,
    /// The kernel has no room just now.
    Full,
    /// The kernel refuses this header or packet (EINVAL), or what it describes is beyond the device's offloads. The
    /// device is as good as before.
    Refused,
}

/// An open TUN device. Reads and writes may run side by side on two threads.
pub struct Tun {
    device: SyncDevice,
    /// Whether the kernel carries the header.
    header: bool,
    facts: TunFacts,
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tun").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Tun {
    /// Makes a device, switched off, without addresses.
    ///
    /// # Errors
    /// [`TunError`].
    pub fn open(options: &TunOptions, netlink: &mut Netlink) -> Result<Self, TunError> {
        if !is_interface_name(&options.name) {
            return Err(TunError::BadName(options.name.clone()));
        }
        if options.mtu < MTU_MIN {
            return Err(TunError::BadMtu(options.mtu));
        }
        // A persistent TUN device of somebody else's would be opened, not refused.
        if netlink.link(&options.name).map_err(TunError::Setup)?.is_some() {
            return Err(TunError::NameTaken(options.name.clone()));
        }
        let (device, header) = build(options).map_err(|error| explain(error, &options.name, netlink))?;
        device.set_nonblocking(true).map_err(TunError::Other)?;
        let udp = header && device.udp_gso() && options.wanted == Wanted::All;
        let offloads = Offloads { tso4: header, tso6: header, uso: udp, checksum: header };
        let facts = set_up(options, offloads, netlink)?;
        Ok(Self { device, header, facts })
    }

    /// What was opened.
    #[must_use]
    pub fn facts(&self) -> &TunFacts {
        &self.facts
    }

    /// Reads one packet with its header and says how many bytes both have; `None` if there is none just now. `buffer`
    /// should have [`BUFFER_LENGTH`] bytes.
    ///
    /// # Errors
    /// Of the kernel: EIO once the device is gone; `InvalidInput` for a buffer without room for the header.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let length = FORM.length();
        if buffer.len() <= length {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (target, before) = if self.header {
            (buffer, 0)
        } else {
            let (header, packet) = buffer.split_at_mut(length);
            header.fill(0);
            (packet, length)
        };
        loop {
            match self.device.recv(target) {
                Ok(read) => return Ok(Some(read.saturating_add(before))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes one packet with its header.
    ///
    /// # Errors
    /// Of the kernel: EIO while the device is switched off or gone.
    pub fn write(&self, bytes: &[u8]) -> io::Result<Written> {
        let source = if self.header {
            bytes
        } else {
            match bytes.split_at_checked(FORM.length()) {
                // Nobody finishes what a header without offloads leaves open.
                Some((header, packet)) if header.iter().all(|byte| *byte == 0) => packet,
                _ => return Ok(Written::Refused),
            }
        };
        loop {
            match self.device.send(source) {
                Ok(sent) if sent == source.len() => return Ok(Written::Taken),
                Ok(_) => return Ok(Written::Refused),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Full),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => return Ok(Written::Refused),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// The device, and whether it has headers: first with offloads, where they are wanted, then without. tun-rs goes on
/// without those of UDP by itself.
fn build(options: &TunOptions) -> io::Result<(SyncDevice, bool)> {
    let builder = |offload: bool| {
        let builder = DeviceBuilder::new().name(options.name.clone()).mtu(options.mtu).enable(false);
        builder.with(|more| {
            more.offload(offload).tx_queue_len(options.queue_length);
        })
    };
    // The header's numbers would have the machine's order, and nothing here can tell the device another.
    if options.wanted != Wanted::Nothing && cfg!(target_endian = "little") {
        match builder(true).build_sync() {
            Ok(device) => return Ok((device, true)),
            Err(error) if is_about_offloads(&error) => {
                tracing::warn!(%error, "the TUN driver knows no offloads, going on without");
            }
            Err(error) => return Err(error),
        }
    }
    builder(false).build_sync().map(|device| (device, false))
}

fn is_about_offloads(error: &io::Error) -> bool {
    let codes = [Errno::INVAL, Errno::NOTTY, Errno::OPNOTSUPP];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

/// What the kernel says of the new device, after it was told how many segments we take.
fn set_up(options: &TunOptions, offloads: Offloads, netlink: &mut Netlink) -> Result<TunFacts, TunError> {
    let gone = || TunError::Other(io::ErrorKind::NotFound.into());
    let index = netlink.link(&options.name).map_err(TunError::Setup)?.ok_or_else(gone)?.index;
    let segments = u32::try_from(SEGMENTS_MAX).unwrap_or(u32::MAX);
    if let Err(error) = netlink.set_gso_max_segments(index, segments) {
        tracing::warn!(%error, "super-packets of more than {SEGMENTS_MAX} segments may come and will be dropped");
    }
    if options.wanted == Wanted::Tcp
        && let Err(error) = netlink.refuse_udp_super_packets(index)
    {
        tracing::warn!(%error, "super-packets of UDP were not wanted and may come nevertheless");
    }
    if let Err(error) = netlink.refuse_link_local(index) {
        tracing::debug!(%error, "the device may get an address of its own");
    }
    let link = netlink.link(&options.name).map_err(TunError::Setup)?.ok_or_else(gone)?;
    Ok(TunFacts {
        name: link.name,
        index,
        offloads,
        form: FORM,
        queue_length: link.queue_length,
        gso_max_segments: link.gso_max_segments,
    })
}

/// Which step failed: tun-rs says only with what. So the control file is tried by itself, and the name looked for again.
fn explain(error: io::Error, name: &str, netlink: &mut Netlink) -> TunError {
    match OpenOptions::new().read(true).write(true).open(CONTROL).map_err(|error| (error.kind(), error)) {
        Err((io::ErrorKind::PermissionDenied, denied)) => return TunError::DriverDenied(denied),
        Err((_, missing)) if is_no_driver(&missing) => return TunError::NoDriver(missing),
        Err(_) | Ok(_) => {}
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return TunError::NotPermitted(error);
    }
    match netlink.link(name) {
        Ok(Some(_)) => TunError::NameTaken(name.to_owned()),
        _ => TunError::Other(error),
    }
}

fn is_no_driver(error: &io::Error) -> bool {
    let codes = [Errno::NOENT, Errno::NOTDIR, Errno::NXIO, Errno::NODEV];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}
