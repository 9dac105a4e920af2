//! Capability strings: all that is needed to find a file, and (by kind) to read, verify or own it.
//!
//! ```text
//! text  = bech32m (BIP-350, no 90-character limit), hrp "shoal", "shoalr", "shoalv" or "shoalo"
//! bytes = format u8 = 1 || network tag 8 || owner key 32 || locator 32 || secret 32 (not in "shoal")
//!         || hint count u8 || hints { node id 32, address length u8, address }*
//! ```
//! A `shoal1` string needs a password beside it; the others are secrets by themselves and never belong in argv.

use core::fmt;

use bech32::{Bech32m, Hrp};
use zeroize::Zeroizing;

use crate::id::{NodeId, PublicKey};
use crate::limits::HINTS_MAX;
use crate::network::NetworkId;
use crate::record::is_plain_text;

/// First byte of the binary form.
pub const CAPABILITY_FORMAT: u8 = 1;
/// Longest address in a hint, bytes: three hints stay under bech32m's 1,023 characters.
pub const HINT_ADDRESS_MAX: usize = 96;
/// Longest capability text accepted, characters.
pub const CAPABILITY_TEXT_MAX: usize = 1023;

/// Which key a capability carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapabilityKind {
    /// None: the password opens the rest.
    Locate,
    /// Kr: read everything, change nothing.
    Read,
    /// Kv: audit, repair, renew, write the placement, read nothing.
    Verify,
    /// R: everything, also delete and change slots.
    Owner,
}

impl CapabilityKind {
    const ALL: [Self; 4] = [Self::Locate, Self::Read, Self::Verify, Self::Owner];

    /// The text before the separator.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Locate => "shoal",
            Self::Read => "shoalr",
            Self::Verify => "shoalv",
            Self::Owner => "shoalo",
        }
    }
}

/// A node that may know the file, so that no bootstrap list is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Who.
    pub node: NodeId,
    /// Where it was, multiaddr text; may be empty.
    pub address: String,
}

/// A parsed capability.
#[derive(Clone, PartialEq, Eq)]
pub struct Capability {
    kind: CapabilityKind,
    network_tag: [u8; 8],
    owner: PublicKey,
    locator: Zeroizing<[u8; 32]>,
    secret: Zeroizing<[u8; 32]>,
    hints: Vec<Hint>,
}

/// Why a text is no capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// Mistyped, cut, or not a capability at all.
    #[error("not a Shoal capability, or mistyped: its checksum does not match")]
    Checksum,
    /// Well-formed bech32m of something else.
    #[error("not a Shoal capability: it begins with {0:?}")]
    Prefix(String),
    /// A newer format.
    #[error("capability of format {0}, this version knows {CAPABILITY_FORMAT}")]
    Format(u8),
    /// The bytes inside are not in order.
    #[error("capability is damaged: {0}")]
    Malformed(&'static str),
}

impl Capability {
    /// Puts one together. `secret` is ignored for [`CapabilityKind::Locate`]; hints beyond the limits are left out.
    #[must_use]
    pub fn new(
        kind: CapabilityKind,
        network: &NetworkId,
        owner: PublicKey,
        locator: [u8; 32],
        secret: [u8; 32],
        hints: Vec<Hint>,
    ) -> Self {
        let secret = if kind == CapabilityKind::Locate { [0; 32] } else { secret };
        let mut kept: Vec<Hint> = hints;
        kept.retain(|hint| hint.address.is_empty() || is_plain_text(&hint.address, HINT_ADDRESS_MAX));
        kept.truncate(HINTS_MAX);
        Self {
            kind,
            network_tag: network.tag_bytes(),
            owner,
            locator: Zeroizing::new(locator),
            secret: Zeroizing::new(secret),
            hints: kept,
        }
    }

    /// Which key it carries.
    #[must_use]
    pub const fn kind(&self) -> CapabilityKind {
        self.kind
    }

    /// Whether it is for this network.
    #[must_use]
    pub fn is_for(&self, network: &NetworkId) -> bool {
        self.network_tag == network.tag_bytes()
    }

    /// The network's tag, hexadecimal.
    #[must_use]
    pub fn network_tag(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.network_tag)
    }

    /// The owner's public key: names the file.
    #[must_use]
    pub const fn owner(&self) -> &PublicKey {
        &self.owner
    }

    /// The locator secret: opens the owner record.
    #[must_use]
    pub fn locator(&self) -> &[u8; 32] {
        &self.locator
    }

    /// Kr, Kv or R by kind; none in a plain capability.
    #[must_use]
    pub fn secret(&self) -> Option<&[u8; 32]> {
        (self.kind != CapabilityKind::Locate).then_some(&*self.secret)
    }

    /// Nodes that may know the file.
    #[must_use]
    pub fn hints(&self) -> &[Hint] {
        &self.hints
    }

    /// The text form.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(512));
        bytes.push(CAPABILITY_FORMAT);
        bytes.extend_from_slice(&self.network_tag);
        bytes.extend_from_slice(self.owner.as_bytes());
        bytes.extend_from_slice(&*self.locator);
        if self.kind != CapabilityKind::Locate {
            bytes.extend_from_slice(&*self.secret);
        }
        // Both counts were bounded by `new` and `parse`.
        bytes.push(u8::try_from(self.hints.len()).unwrap_or(0));
        for hint in &self.hints {
            bytes.extend_from_slice(hint.node.as_bytes());
            bytes.push(u8::try_from(hint.address.len()).unwrap_or(0));
            bytes.extend_from_slice(hint.address.as_bytes());
        }
        let text = Hrp::parse(self.kind.prefix()).map(|hrp| bech32::encode::<Bech32m>(hrp, &bytes));
        match text {
            Ok(Ok(text)) => Zeroizing::new(text),
            Ok(Err(_)) | Err(_) => unreachable!("length and prefix are bounded by construction"),
        }
    }

    /// Reads the text form; surrounding white space is ignored.
    ///
    /// # Errors
    /// [`CapabilityError`] with the first reason found.
    pub fn parse(text: &str) -> Result<Self, CapabilityError> {
        let text = text.trim();
        if text.len() > CAPABILITY_TEXT_MAX {
            return Err(CapabilityError::Checksum);
        }
        let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text)
            .map_err(|_| CapabilityError::Checksum)?;
        let prefix = checked.hrp().to_lowercase();
        let kind = CapabilityKind::ALL
            .into_iter()
            .find(|kind| kind.prefix() == prefix)
            .ok_or_else(|| CapabilityError::Prefix(prefix.chars().take(20).collect()))?;
        let bytes = Zeroizing::new(checked.byte_iter().collect::<Vec<u8>>());
        Self::parse_bytes(kind, &bytes)
    }

    fn parse_bytes(kind: CapabilityKind, bytes: &[u8]) -> Result<Self, CapabilityError> {
        let mut rest = bytes;
        let [format] = take(&mut rest)?;
        if format != CAPABILITY_FORMAT {
            return Err(CapabilityError::Format(format));
        }
        let network_tag = take(&mut rest)?;
        let owner = PublicKey::from_bytes(take(&mut rest)?);
        let locator = Zeroizing::new(take(&mut rest)?);
        let secret = if kind == CapabilityKind::Locate { [0; 32] } else { take(&mut rest)? };
        let [count] = take(&mut rest)?;
        if usize::from(count) > HINTS_MAX {
            return Err(CapabilityError::Malformed("too many hints"));
        }
        let mut hints = Vec::new();
        for _ in 0..count {
            let node = NodeId::from_bytes(take(&mut rest)?);
            let [length] = take(&mut rest)?;
            let (address, after) =
                rest.split_at_checked(usize::from(length)).ok_or(CapabilityError::Malformed("cut short"))?;
            rest = after;
            let address = core::str::from_utf8(address).map_err(|_| CapabilityError::Malformed("address"))?;
            if !address.is_empty() && !is_plain_text(address, HINT_ADDRESS_MAX) {
                return Err(CapabilityError::Malformed("address"));
            }
            hints.push(Hint { node, address: address.into() });
        }
        if !rest.is_empty() {
            return Err(CapabilityError::Malformed("bytes at the end"));
        }
        Ok(Self { kind, network_tag, owner, locator, secret: Zeroizing::new(secret), hints })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CapabilityError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(CapabilityError::Malformed("cut short"))?;
    *rest = tail;
    Ok(*head)
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capability({}1.. of {:?}, redacted)", self.kind.prefix(), self.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kind: CapabilityKind) -> Capability {
        let network = NetworkId::derive(None, "home").unwrap();
        let hint = |n: u8| Hint { node: NodeId::from_bytes([n; 32]), address: "/ip4/192.168.1.10/tcp/4701".into() };
        Capability::new(kind, &network, PublicKey::from_bytes([3; 32]), [4; 32], [5; 32], vec![hint(1), hint(2)])
    }

    #[test]
    fn text_round_trips_for_every_kind() {
        for kind in CapabilityKind::ALL {
            let capability = sample(kind);
            let text = capability.to_text();
            assert!(text.starts_with(&format!("{}1", kind.prefix())));
            assert!(Capability::parse(&format!(" {} \n", *text)).unwrap() == capability);
            assert!(Capability::parse(&text.to_uppercase()).unwrap() == capability);
            assert_eq!(capability.secret().is_some(), kind != CapabilityKind::Locate);
        }
    }

    #[test]
    fn every_changed_character_is_refused() {
        let text = sample(CapabilityKind::Locate).to_text();
        for at in 0..text.len() {
            for with in ['q', 'p', '7'] {
                let mut bad: Vec<char> = text.chars().collect();
                if bad[at] == with {
                    continue;
                }
                bad[at] = with;
                assert!(Capability::parse(&bad.into_iter().collect::<String>()).is_err(), "position {at}");
            }
        }
        assert!(Capability::parse(&text[..text.len() - 1]).is_err());
        assert!(Capability::parse("").is_err());
        assert!(Capability::parse(&"shoal1q".repeat(1000)).is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let debug = format!("{:?}", sample(CapabilityKind::Owner));
        assert!(debug.contains("redacted") && !debug.contains("0505"));
    }
}
