//! A segment of TCP as far as [`super::losses`] needs it. It is read, never written, and its checksum is the stack's matter.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    IpProtocol, IpVersion, Ipv4Packet, Ipv6Packet, TCP_HEADER_LEN, TcpControl, TcpPacket, TcpSeqNumber,
};

use super::port::Ends;

/// See the head of this file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    pub(super) control: TcpControl,
    pub(super) sequence: TcpSeqNumber,
    pub(super) acknowledged: TcpSeqNumber,
    pub(super) window: u16,
    /// Bytes of data.
    pub(super) length: usize,
    pub(super) has_options: bool,
}

impl Segment {
    /// That of a packet; none if it has none or is broken.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let (from, to, payload): (IpAddr, IpAddr, &[u8]) = match IpVersion::of_packet(packet).ok()? {
            IpVersion::Ipv4 => {
                let packet = Ipv4Packet::new_checked(packet).ok()?;
                let is_whole = packet.frag_offset() == 0 && !packet.more_frags();
                if packet.next_header() != IpProtocol::Tcp || !is_whole {
                    return None;
                }
                (packet.src_addr().into(), packet.dst_addr().into(), packet.payload())
            }
            IpVersion::Ipv6 => {
                let packet = Ipv6Packet::new_checked(packet).ok()?;
                if packet.next_header() != IpProtocol::Tcp {
                    return None;
                }
                (packet.src_addr().into(), packet.dst_addr().into(), packet.payload())
            }
        };
        let tcp = TcpPacket::new_checked(payload).ok()?;
        let control = match (tcp.syn(), tcp.fin(), tcp.rst()) {
            (_, _, true) => TcpControl::Rst,
            (true, _, _) => TcpControl::Syn,
            (_, true, _) => TcpControl::Fin,
            _ => TcpControl::None,
        };
        Some(Self {
            from: SocketAddr::new(from, tcp.src_port()),
            to: SocketAddr::new(to, tcp.dst_port()),
            control,
            sequence: tcp.seq_number(),
            acknowledged: tcp.ack_number(),
            window: tcp.window_len(),
            length: tcp.payload().len(),
            has_options: usize::from(tcp.header_len()) > TCP_HEADER_LEN,
        })
    }

    /// The ends as whoever sent it has them.
    pub(super) const fn of_sender(&self) -> Ends {
        Ends { local: self.from, remote: self.to }
    }

    /// The ends as whoever it is for has them.
    pub(super) const fn of_receiver(&self) -> Ends {
        Ends { local: self.to, remote: self.from }
    }

    /// The number behind its last.
    pub(super) fn end(&self) -> TcpSeqNumber {
        self.sequence + self.length + self.control.len()
    }

    /// Whether it says nothing but how far the other side is.
    pub(super) fn is_pure(&self) -> bool {
        self.control == TcpControl::None && self.length == 0
    }
}
