//! The names of our three stream protocols and the upgrade that hands over the negotiated stream untouched.

use std::convert::Infallible;
use std::future::{Ready, ready};

use libp2p::core::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::{Stream, StreamProtocol};
use smallvec::{SmallVec, smallvec};

/// Which of our protocols a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneKind {
    /// Requests and responses.
    Control,
    /// Shard bytes.
    Shard,
    /// Tunnel frames.
    Tunnel,
}

/// A protocol name with its meaning.
#[derive(Debug, Clone)]
pub(crate) struct LaneProtocol {
    pub(crate) kind: LaneKind,
    pub(crate) name: StreamProtocol,
}

impl AsRef<str> for LaneProtocol {
    fn as_ref(&self) -> &str {
        self.name.as_ref()
    }
}

/// The names of one network: `/shoal/<tag>/ctl/1`, `/shoal/<tag>/shard/1` and `/shoal/<tag>/tunnel/2`. Another network
/// never negotiates.
#[derive(Debug, Clone)]
pub(crate) struct LaneProtocols {
    pub(crate) control: LaneProtocol,
    pub(crate) shard: LaneProtocol,
    pub(crate) tunnel: LaneProtocol,
}

impl LaneProtocols {
    /// Names for a tag of 16 lower-case hexadecimal digits; `None` if it is anything else.
    pub(crate) fn new(tag: &str) -> Option<Self> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if tag.len() != 16 || !tag.bytes().all(digit) {
            return None;
        }
        let name = |lane: &str| StreamProtocol::try_from_owned(format!("/shoal/{tag}/{lane}")).ok();
        Some(Self {
            control: LaneProtocol { kind: LaneKind::Control, name: name("ctl/1")? },
            shard: LaneProtocol { kind: LaneKind::Shard, name: name("shard/1")? },
            tunnel: LaneProtocol { kind: LaneKind::Tunnel, name: name("tunnel/2")? },
        })
    }

    pub(crate) const fn of(&self, kind: LaneKind) -> &LaneProtocol {
        match kind {
            LaneKind::Control => &self.control,
            LaneKind::Shard => &self.shard,
            LaneKind::Tunnel => &self.tunnel,
        }
    }

    pub(crate) fn all(&self) -> Offer {
        Offer(smallvec![self.control.clone(), self.shard.clone(), self.tunnel.clone()])
    }
}

/// The protocols offered for one stream.
#[derive(Debug, Clone)]
pub(crate) struct Offer(SmallVec<[LaneProtocol; 3]>);

impl Offer {
    /// Nothing: peers that are no nodes are offered no lanes.
    pub(crate) fn nothing() -> Self {
        Self(SmallVec::new())
    }

    pub(crate) fn one(protocol: &LaneProtocol) -> Self {
        Self(smallvec![protocol.clone()])
    }
}

impl UpgradeInfo for Offer {
    type Info = LaneProtocol;
    type InfoIter = smallvec::IntoIter<[LaneProtocol; 3]>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (LaneKind, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, info: LaneProtocol) -> Self::Future {
        ready(Ok((info.kind, stream)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (LaneKind, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, info: LaneProtocol) -> Self::Future {
        ready(Ok((info.kind, stream)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_tag() {
        let protocols = LaneProtocols::new("0123456789abcdef").unwrap();
        assert_eq!(protocols.control.as_ref(), "/shoal/0123456789abcdef/ctl/1");
        assert_eq!(protocols.shard.as_ref(), "/shoal/0123456789abcdef/shard/1");
        assert_eq!(protocols.tunnel.as_ref(), "/shoal/0123456789abcdef/tunnel/2");
        assert!(LaneProtocols::new("0123456789ABCDEF").is_none());
        assert!(LaneProtocols::new("home").is_none());
    }
}
