//! One feature of a device switched off: that it is handed super-packets of UDP. It is asked of the kernel's ethtool family
//! over generic netlink (Linux 5.8), for which there is no call without `unsafe`. It switches nothing on.
//!
//! ```text
//! message: command u8, version u8 = 1, zeros 2, attributes (linux/genetlink.h)
//! CTRL 3: family name (2)          -> family number (1)
//! ETHTOOL 12: header (1) {device index (1), flags (3)}, wanted (3) {bits (3) {bit (1) {name (2)}}}
//! ```
//! A bit without a value is one to switch off (linux/ethtool_netlink.h, Documentation/networking/ethtool-netlink.rst).

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NetlinkDeserializable, NetlinkHeader, NetlinkPayload,
    NetlinkSerializable, Nla, NlasIterator, Parseable,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::channel::Channel;
use super::{Netlink, NetlinkError};

/// GENL_ID_CTRL: the family that knows the numbers of the others.
const CONTROL: u16 = 16;
/// CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME.
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// ETHTOOL_MSG_FEATURES_SET, ETHTOOL_A_FEATURES_HEADER and _WANTED.
const FEATURES_SET: u8 = 12;
const HEADER: u16 = 1;
const WANTED: u16 = 3;
/// ETHTOOL_A_HEADER_DEV_INDEX, ETHTOOL_A_HEADER_FLAGS with ETHTOOL_FLAG_OMIT_REPLY.
const DEVICE_INDEX: u16 = 1;
const FLAGS: u16 = 3;
const OMIT_REPLY: u32 = 2;
/// ETHTOOL_A_BITSET_BITS, ETHTOOL_A_BITSET_BITS_BIT, ETHTOOL_A_BITSET_BIT_NAME.
const BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
/// The feature's name, with the zero that ends it (net/ethtool/common.c).
const UDP_SEGMENTATION: &[u8] = b"tx-udp-segmentation\0";

/// A message of generic netlink.
struct Generic {
    family: u16,
    command: u8,
    attributes: Vec<DefaultNla>,
}

/// Bytes before the attributes.
const GENERIC_HEADER: usize = 4;

impl NetlinkSerializable for Generic {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len().saturating_add(GENERIC_HEADER)
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let Some((header, rest)) = buffer.split_first_chunk_mut::<GENERIC_HEADER>() else { return };
        *header = [self.command, 1, 0, 0];
        self.attributes.as_slice().emit(rest);
    }
}

impl NetlinkDeserializable for Generic {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        let Some((&[command, ..], rest)) = payload.split_first_chunk::<GENERIC_HEADER>() else {
            return Err("no header of generic netlink".to_owned().into());
        };
        let attributes = NlasIterator::new(rest).map(|nla| DefaultNla::parse(&nla?)).collect::<Result<_, _>>()?;
        Ok(Self { family: header.message_type, command, attributes })
    }
}

impl From<Generic> for NetlinkPayload<Generic> {
    fn from(message: Generic) -> Self {
        Self::InnerMessage(message)
    }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

fn nest(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inside.buffer_len()];
    inside.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

/// The number the kernel gave a family.
fn family(channel: &mut Channel, name: &[u8]) -> Result<u16, NetlinkError> {
    let doing = "find the ethtool family";
    let attributes = vec![DefaultNla::new(FAMILY_NAME, name.to_vec())];
    channel.send(Generic { family: CONTROL, command: GET_FAMILY, attributes }, NLM_F_ACK, doing)?;
    let mut found = None;
    channel.receive(doing, |message: Generic| {
        let id = message.attributes.iter().find(|attribute| attribute.kind() == FAMILY_ID);
        let mut bytes = [0; 2];
        if let Some(id) = id.filter(|id| id.value_len() == bytes.len()) {
            id.emit_value(&mut bytes);
            found = Some(u16::from_ne_bytes(bytes));
        }
    })?;
    found.ok_or(NetlinkError::Answer { doing })
}

impl Netlink {
    /// Makes the kernel cut super-packets of UDP itself before a device is handed them.
    ///
    /// # Errors
    /// [`NetlinkError`]; `Missing` on kernels without the ethtool family.
    pub fn refuse_udp_super_packets(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut channel = Channel::open(NETLINK_GENERIC)?;
        let family = family(&mut channel, b"ethtool\0")?;
        let bit = nest(BIT, &[DefaultNla::new(BIT_NAME, UDP_SEGMENTATION.to_vec())]);
        let attributes = vec![
            nest(HEADER, &[number(DEVICE_INDEX, index), number(FLAGS, OMIT_REPLY)]),
            nest(WANTED, &[nest(BITS, &[bit])]),
        ];
        let doing = "switch off super-packets of UDP";
        channel.send(Generic { family, command: FEATURES_SET, attributes }, NLM_F_ACK, doing)?;
        channel.receive(doing, |_: Generic| ())
    }
}
