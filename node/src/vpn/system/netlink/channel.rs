//! One netlink socket, of any protocol: a request out, its answer in. It knows no table and waits for nothing.

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

use super::NetlinkError;

/// Parts one answer may have: a dump comes in parts of up to 32 KiB, so this is 2 GiB; a machine with every route of
/// the internet has 1/20 of it.
const PARTS_MAX: usize = 65_536;

/// A socket, and the number of its last request.
pub(super) struct Channel {
    socket: Socket,
    sequence: u32,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Channel {
    /// A socket of a protocol to the namespace this thread is in.
    pub(super) fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol).map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Open)?;
        socket.set_non_blocking(true).map_err(NetlinkError::Open)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request.
    pub(super) fn send<I>(&mut self, body: I, flags: u16, doing: &'static str) -> Result<(), NetlinkError>
    where
        I: NetlinkSerializable + Into<NetlinkPayload<I>>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, body.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let sent = self.socket.send(&bytes, 0).map_err(|source| NetlinkError::Refused { doing, source })?;
        if sent == bytes.len() { Ok(()) } else { Err(NetlinkError::Answer { doing }) }
    }

    /// Reads the answer to the last request to its end. Messages of an earlier one, whose reader gave up, are passed over.
    pub(super) fn receive<I: NetlinkDeserializable>(
        &mut self,
        doing: &'static str,
        mut each: impl FnMut(I),
    ) -> Result<(), NetlinkError> {
        for _ in 0..PARTS_MAX {
            let (bytes, _) = self.socket.recv_from_full().map_err(|source| NetlinkError::Refused { doing, source })?;
            for message in messages(&bytes) {
                let message: NetlinkMessage<I> = message.ok_or(NetlinkError::Answer { doing })?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => match error.raw_code() {
                        0 => return Ok(()),
                        code => return Err(NetlinkError::of(code.saturating_neg(), doing)),
                    },
                    NetlinkPayload::InnerMessage(body) => each(body),
                    _ => {}
                }
            }
        }
        Err(NetlinkError::Answer { doing })
    }
}

/// The messages of one part; `None` for bytes that are none, after which nothing follows.
pub(super) fn messages<I: NetlinkDeserializable>(mut bytes: &[u8]) -> impl Iterator<Item = Option<NetlinkMessage<I>>> {
    /// Netlink messages begin at multiples of this (NLMSG_ALIGNTO).
    const ALIGNMENT: usize = 4;
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let read = NetlinkMessage::<I>::deserialize(bytes).ok();
        let length = read.as_ref().and_then(|message| usize::try_from(message.header.length).ok());
        let step = length.filter(|length| *length > 0).map(|length| length.next_multiple_of(ALIGNMENT));
        bytes = step.and_then(|step| bytes.get(step..)).unwrap_or_default();
        Some(read)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::RouteNetlinkMessage;

    #[test]
    fn bytes_that_are_no_messages_end_the_reading() {
        let read =
            |bytes: &[u8]| messages::<RouteNetlinkMessage>(bytes).map(|one| one.is_some()).collect::<Vec<bool>>();
        assert!(read(&[]).is_empty());
        // A message of nothing (NLMSG_NOOP), as the kernel would write it, twice.
        let noop = [16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&[noop, noop].concat()), [true, true]);
        assert_eq!(read(&[&noop[..], &noop[..15]].concat()), [true, false]);
        for length in [0, 1, 15, 17, 255] {
            let mut wrong = noop;
            wrong[0] = length;
            assert_eq!(read(&wrong), [false], "{length}");
        }
    }
}
