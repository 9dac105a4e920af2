//! A name claim: the one label a node would like to be found by, since when, until when; and what may be such a label. It
//! decides nothing: the order of two claims of one label is that of two claims of one address ([`Rank`]), so every member
//! comes to the same holder.
//!
//! The network is in the signature and the peer is its signer, so neither can be said wrongly.

use core::fmt;
use core::str::FromStr;

use minicbor::decode::Error as DecodeError;
use minicbor::{Decode, Decoder, Encode, Encoder};

use crate::codec::{Bounded, ensure};
use crate::id::NodeId;
use crate::mesh::claim::{CLAIM_LIFE_MAX_MS, ESTABLISHED_MS, Rank};
use crate::mesh::peer_hash::PeerHash;
use crate::network::NetworkId;
use crate::signed::{Forged, Signed, Statement};
use crate::units::UnixMillis;

/// Longest label, bytes (RFC 1035 §2.3.4).
pub const LABEL_MAX: usize = 63;
/// From this length on a label of letters and digits alone is no host's: peer ids have 52 characters, and what is nearly
/// as long could be taken for one.
const ID_LENGTH_MIN: usize = 40;
/// Labels that programs ask for of themselves, where a search list is set: who had one would be asked how everybody
/// reaches the web, tunnels IPv6, or their own machine.
const RESERVED: [&str; 3] = ["isatap", "localhost", "wpad"];

/// Why a text cannot be a host's label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a host's name has 1 to {LABEL_MAX} small letters, digits and '-', not at its ends nor twice in third place, and is \
     neither reserved nor like a peer id or peer hash; {0:?} is not so"
)]
pub struct LabelError(pub String);

/// The label of one host: small letters, digits and hyphens (RFC 952, RFC 1123 §2.1), none that could be taken for the id
/// or hash of a peer, or for an encoded name (RFC 5890 §2.3.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostLabel(String);

impl HostLabel {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostLabel {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let bytes = text.as_bytes();
        let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let allowed = bytes.iter().all(|byte| is_plain(byte) || *byte == b'-');
        let ends = [bytes.first(), bytes.last()].iter().all(|byte| byte.is_some_and(is_plain));
        let is_encoded = bytes.get(2..4) == Some(b"--");
        let is_id = bytes.len() >= ID_LENGTH_MIN && bytes.iter().all(is_plain);
        let is_hash = bytes.len() == 2 * PeerHash::LEN && bytes.iter().all(u8::is_ascii_hexdigit);
        let is_reserved = RESERVED.contains(&text);
        if bytes.len() > LABEL_MAX || !allowed || !ends || is_encoded || is_id || is_hash || is_reserved {
            return Err(LabelError(text.chars().take(LABEL_MAX + 1).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for HostLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostLabel({self})")
    }
}

impl<C> Encode<C> for HostLabel {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for HostLabel {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        d.str()?.parse().map_err(|_| DecodeError::message("label of a host"))
    }
}

/// Signed by the node that claims. Of two of one node the later counts, so that a node has one name or none.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NameClaim {
    /// The label it would like; none gives up the one it had.
    #[n(0)]
    pub label: Option<HostLabel>,
    /// When the node became a member, as in its claim of an address.
    #[n(1)]
    pub issued: UnixMillis,
    /// Since when it has claimed this label without a break longer than the life of a claim. Not before `issued`.
    #[n(2)]
    pub bound: UnixMillis,
    /// When this was signed. Of two claims of one node the newer counts.
    #[n(3)]
    pub time: UnixMillis,
    /// Until when it counts, at most [`CLAIM_LIFE_MAX_MS`] after `time`.
    #[n(4)]
    pub expires: UnixMillis,
}

impl Bounded for NameClaim {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.issued <= self.bound && self.bound <= self.time && self.time < self.expires, "order of times")?;
        ensure(self.expires.0.saturating_sub(self.time.0) <= CLAIM_LIFE_MAX_MS, "life of a claim")
    }
}

impl Statement for NameClaim {
    const CONTEXT: &'static str = "shoal mesh name v1";
    const LIMIT: usize = 160;
}

impl NameClaim {
    /// Where this claim of `peer` stands among those of one label; the smallest has it. The order is that of
    /// [claims of addresses](super::claim::Claim::rank), for the same reasons.
    #[must_use]
    pub const fn rank(&self, peer: PeerHash) -> Rank {
        let newcomer = self.time.0.saturating_sub(self.bound.0) < ESTABLISHED_MS;
        Rank { newcomer, issued: self.issued, peer }
    }
}

/// A name claim whose signature was checked, with its envelope to be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedName {
    signed: Signed,
    claim: NameClaim,
    node: NodeId,
}

impl VerifiedName {
    /// Checks an envelope.
    ///
    /// # Errors
    /// [`Forged`] if it is not a name claim of its signer for this network.
    pub fn verify(signed: Signed, network: &NetworkId) -> Result<Self, Forged> {
        let verified = signed.verify::<NameClaim>(network)?;
        let node = NodeId::from(*verified.signer());
        Ok(Self { claim: verified.into_inner(), node, signed })
    }

    /// The envelope.
    #[must_use]
    pub const fn signed(&self) -> &Signed {
        &self.signed
    }

    /// What it says.
    #[must_use]
    pub const fn claim(&self) -> &NameClaim {
        &self.claim
    }

    /// Who says it.
    #[must_use]
    pub const fn node(&self) -> &NodeId {
        &self.node
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn labels_are_hosts_and_nothing_that_could_be_taken_for_another() {
        for good in ["a", "7", "nas", "nas-2", "a--b", &"a-".repeat(31), "0123456789abcdef012"] {
            assert_eq!(good.trim_end_matches('-').parse::<HostLabel>().unwrap().as_str(), good.trim_end_matches('-'));
        }
        let peer = NodeId::from_bytes([7; 32]);
        let folded = peer.to_string().to_ascii_lowercase();
        let hash = PeerHash::of(&peer).to_string();
        let long = "a-".repeat(32);
        for bad in [
            "",
            "-",
            "-a",
            "a-",
            "A",
            "nas.home",
            "na s",
            "näs",
            "a_b",
            "a\0",
            "xn--nas",
            "ab--c",
            "wpad",
            "isatap",
            "localhost",
            &folded,
            &hash,
            &long,
            &"a".repeat(40),
        ] {
            assert!(bad.parse::<HostLabel>().is_err(), "{bad:?}");
            let mut bytes = Vec::new();
            Encoder::new(&mut bytes).str(bad).unwrap();
            assert!(minicbor::decode::<HostLabel>(&bytes).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_largest_claim_fits_its_limit_and_bad_times_are_refused() {
        let most = UnixMillis(u64::MAX);
        let early = UnixMillis(u64::MAX - 1);
        let label = format!("{}a", "a-".repeat(31)).parse().unwrap();
        let largest = NameClaim { label: Some(label), issued: early, bound: early, time: early, expires: most };
        let bytes = codec::encode(&largest);
        assert!(bytes.len() <= NameClaim::LIMIT, "{}", bytes.len());
        assert_eq!(codec::decode::<NameClaim>(&bytes, NameClaim::LIMIT), Ok(largest.clone()));
        for bad in [
            NameClaim { issued: most, ..largest.clone() },
            NameClaim { bound: most, ..largest.clone() },
            NameClaim { expires: early, ..largest.clone() },
            NameClaim { time: UnixMillis(7), bound: UnixMillis(7), issued: UnixMillis(7), ..largest },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
