//! What neighbours say to each other about the private network, over the control lane (§10): who is there, and then
//! routes and statements. It carries no packet.

use core::net::{IpAddr, SocketAddr};

use minicbor::decode::Error as DecodeError;
use minicbor::{Decode, Decoder, Encode, Encoder};

use super::flood::FloodMessage;
use super::route::RouteMessage;
use crate::codec::{Bounded, ensure};
use crate::id::BootEpoch;
use crate::signed::Signed;

/// Most addresses a node names for its datagrams: two families, and a machine with a few networks.
pub const ENDPOINTS_MAX: usize = 8;
/// Most bytes of a signed mesh key record, with its envelope.
pub const MESH_KEY_MAX: usize = 512;

/// Where datagrams of a node may be sent: address (4 or 16 bytes) || port u16 BE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint(SocketAddr);

impl Endpoint {
    /// An address somebody can be reached at: with a port, neither unspecified nor multicast, and IPv4 as IPv4.
    #[must_use]
    pub fn new(address: SocketAddr) -> Option<Self> {
        let ip = address.ip().to_canonical();
        let is_one = address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast();
        is_one.then(|| Self(SocketAddr::new(ip, address.port())))
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.0
    }
}

impl<C> Encode<C> for Endpoint {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let port = self.0.port().to_be_bytes();
        match self.0.ip() {
            IpAddr::V4(ip) => e.bytes(&[&ip.octets()[..], &port].concat())?.ok(),
            IpAddr::V6(ip) => e.bytes(&[&ip.octets()[..], &port].concat())?.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for Endpoint {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        let bytes = d.bytes()?;
        let (ip, port) = bytes.split_last_chunk::<2>().ok_or_else(|| DecodeError::message("length of an endpoint"))?;
        let ip = match (<[u8; 4]>::try_from(ip), <[u8; 16]>::try_from(ip)) {
            (Ok(ip), _) => IpAddr::from(ip),
            (_, Ok(ip)) => IpAddr::from(ip),
            _ => return Err(DecodeError::message("length of an endpoint")),
        };
        let address = SocketAddr::new(ip, u16::from_be_bytes(*port));
        let endpoint = Self::new(address).filter(|endpoint| endpoint.0 == address);
        endpoint.ok_or_else(|| DecodeError::message("an endpoint nobody is at"))
    }
}

/// The first word on every connection between two members that take part, and again when something in it changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MeshHello {
    /// The sender's run.
    #[n(0)]
    pub epoch: BootEpoch,
    /// A signed [`super::key::MeshKey`], the sender's own.
    #[n(1)]
    pub key: Signed,
    /// Where it takes datagrams, best first; none where it takes none.
    #[n(2)]
    pub endpoints: Vec<Endpoint>,
}

impl Bounded for MeshHello {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.endpoints.len() <= ENDPOINTS_MAX, "count of endpoints")?;
        ensure(self.key.to_bytes().len() <= MESH_KEY_MAX, "length of a mesh key record")
    }
}

/// One word between neighbours.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum MeshMessage {
    /// The sender takes part.
    #[n(0)]
    Hello(#[n(0)] MeshHello),
    /// See §16.
    #[n(1)]
    Routes(#[n(0)] RouteMessage),
    /// See §16.
    #[n(2)]
    Flood(#[n(0)] FloodMessage),
    /// The sender takes part no longer.
    #[n(3)]
    Leave,
}

impl Bounded for MeshMessage {
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Hello(hello) => hello.check(),
            Self::Routes(routes) => routes.check(),
            Self::Flood(flood) => flood.check(),
            Self::Leave => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn endpoints_are_places_somebody_can_be_at() {
        for text in ["192.0.2.1:7", "[2001:db8::1]:65535", "[fe80::1]:1"] {
            let endpoint = Endpoint::new(text.parse().unwrap()).unwrap();
            assert_eq!(endpoint.address().to_string(), text);
            let bytes = minicbor::to_vec(endpoint).unwrap();
            assert_eq!(minicbor::decode::<Endpoint>(&bytes).unwrap(), endpoint);
        }
        for text in ["0.0.0.0:7", "[::]:7", "192.0.2.1:0", "224.0.0.1:7", "[ff02::1]:7"] {
            assert_eq!(Endpoint::new(text.parse().unwrap()), None, "{text}");
        }
        let mapped = Endpoint::new("[::ffff:192.0.2.1]:7".parse().unwrap()).unwrap();
        assert_eq!(mapped.address().to_string(), "192.0.2.1:7");
        for bytes in [&[0; 5][..], &[1; 7], &[1; 17], &[0; 6], &[1, 1, 1, 1, 0, 0]] {
            let mut out = Vec::new();
            Encoder::new(&mut out).bytes(bytes).unwrap();
            assert!(minicbor::decode::<Endpoint>(&out).is_err(), "{bytes:?}");
        }
        let mut v6 = [0; 18];
        v6[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1, 0, 7]);
        let mut out = Vec::new();
        Encoder::new(&mut out).bytes(&v6).unwrap();
        assert!(minicbor::decode::<Endpoint>(&out).is_err(), "one address has one spelling");
    }

    #[test]
    fn leaving_says_nothing_else() {
        let bytes = codec::encode(&MeshMessage::Leave);
        assert_eq!(codec::decode::<MeshMessage>(&bytes, 8), Ok(MeshMessage::Leave));
    }
}
