//! Vouchers: whether one counts here and now, and how much of each is spent. What is spent has to be durable before
//! anything is promised for it: [`Ledger::charge`] says what to write down, the shell does. It never writes itself.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::group::Voucher;
use shoal_protocol::{NetworkId, NodeId, PublicKey, Refusal, Signed, UnixMillis};

/// Vouchers whose use is remembered. Those that are over make room; beyond it new ones are refused, never forgotten.
pub const VOUCHERS_MAX: usize = 65_536;

/// One voucher: who issued it, and its serial. Its issuer never gives one serial to two vouchers for one node.
pub type VoucherKey = (PublicKey, u64);

/// A voucher that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which.
    pub key: VoucherKey,
    /// Bytes over all uses.
    pub bytes: u64,
    /// Until when.
    pub expires: UnixMillis,
}

/// Judges a voucher by itself: signed by one of `issuers`, for this holder, on this node, not over.
///
/// # Errors
/// [`Refusal::Forged`] for a wrong signature, [`Refusal::Denied`] for another issuer, holder or node, or one that is over.
pub fn judge(
    signed: &Signed,
    network: &NetworkId,
    issuers: &BTreeSet<NodeId>,
    holder: NodeId,
    node: NodeId,
    wall: UnixMillis,
) -> Result<Grant, Refusal> {
    // Cheap before dear: whoever no issuer is costs no signature check.
    if !issuers.contains(&NodeId::from(*signed.claimed_signer())) {
        return Err(Refusal::Denied);
    }
    let voucher = signed.verify::<Voucher>(network).map_err(|_| Refusal::Forged)?;
    if voucher.holder != holder || voucher.node != node || voucher.expires <= wall {
        return Err(Refusal::Denied);
    }
    let key = (*voucher.signer(), voucher.serial);
    Ok(Grant { key, bytes: voucher.bytes.0, expires: voucher.expires })
}

/// What of one voucher is spent: to be written down whenever it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Which voucher.
    pub key: VoucherKey,
    /// Bytes spent.
    pub bytes: u64,
    /// When it is over, and need not be remembered any more.
    pub expires: UnixMillis,
}

/// What is spent of all vouchers.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    spent: BTreeMap<VoucherKey, (u64, UnixMillis)>,
}

impl Ledger {
    /// The ledger an earlier run wrote down. Of several lines of one voucher the largest counts: what is spent only grows.
    #[must_use]
    pub fn restore(lines: impl IntoIterator<Item = Spent>) -> Self {
        let mut ledger = Self::default();
        for line in lines {
            let (bytes, expires) = ledger.spent.entry(line.key).or_insert((0, line.expires));
            *bytes = (*bytes).max(line.bytes);
            *expires = (*expires).max(line.expires);
        }
        ledger
    }

    /// Whether so much of a voucher is left; it spends nothing.
    ///
    /// # Errors
    /// [`Refusal::Denied`] beyond what the voucher is for.
    pub fn check(&self, grant: &Grant, bytes: u64) -> Result<(), Refusal> {
        let before = self.spent.get(&grant.key).map_or(0, |(bytes, _)| *bytes);
        before.checked_add(bytes).filter(|after| *after <= grant.bytes).map(drop).ok_or(Refusal::Denied)
    }

    /// Spends `bytes` of a voucher; the line to write down before anything is promised. What is spent and then not used
    /// stays spent: a crash between the two must not make a voucher new.
    ///
    /// # Errors
    /// [`Refusal::Denied`] beyond what the voucher is for, [`Refusal::Busy`] when too many vouchers are in use.
    pub fn charge(&mut self, grant: &Grant, bytes: u64, wall: UnixMillis) -> Result<Spent, Refusal> {
        let (before, known_until) = self.spent.get(&grant.key).copied().unwrap_or((0, grant.expires));
        let after = before.checked_add(bytes).filter(|after| *after <= grant.bytes).ok_or(Refusal::Denied)?;
        if !self.spent.contains_key(&grant.key) && self.spent.len() >= VOUCHERS_MAX {
            self.spent.retain(|_, (_, expires)| *expires > wall);
            if self.spent.len() >= VOUCHERS_MAX {
                return Err(Refusal::Busy);
            }
        }
        // Of two vouchers of one serial, which no honest issuer makes, the later end counts: it is remembered longer.
        let expires = known_until.max(grant.expires);
        self.spent.insert(grant.key, (after, expires));
        Ok(Spent { key: grant.key, bytes: after, expires })
    }

    /// Everything that is not over, for a file written anew.
    pub fn lines(&self, wall: UnixMillis) -> impl Iterator<Item = Spent> {
        let live = self.spent.iter().filter(move |(_, (_, expires))| *expires > wall);
        live.map(|(key, (bytes, expires))| Spent { key: *key, bytes: *bytes, expires: *expires })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use shoal_protocol::ByteCount;

    const WALL: UnixMillis = UnixMillis(1_000_000);

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn id(key: &SigningKey) -> NodeId {
        NodeId::from_bytes(key.verifying_key().to_bytes())
    }

    fn network(name: &str) -> NetworkId {
        NetworkId::derive(None, name).unwrap()
    }

    fn voucher(holder: u8, node: u8, expires: u64, serial: u64) -> Voucher {
        let (holder, node) = (NodeId::from_bytes([holder; 32]), NodeId::from_bytes([node; 32]));
        Voucher { holder, node, bytes: ByteCount(1000), expires: UnixMillis(expires), serial }
    }

    fn judged(voucher: &Voucher, by: u8, on: &str) -> Result<Grant, Refusal> {
        let signed = Signed::seal(voucher, &key(by), &network(on));
        let (holder, node) = (NodeId::from_bytes([7; 32]), NodeId::from_bytes([8; 32]));
        judge(&signed, &network("home"), &BTreeSet::from([id(&key(1))]), holder, node, WALL)
    }

    #[test]
    fn only_an_issuers_voucher_for_this_holder_and_node_counts() {
        let good = voucher(7, 8, WALL.0 + 1, 3);
        let grant = judged(&good, 1, "home").unwrap();
        assert_eq!((grant.key.1, grant.bytes, grant.expires), (3, 1000, UnixMillis(WALL.0 + 1)));
        assert_eq!(judged(&good, 2, "home"), Err(Refusal::Denied), "nobody's issuer");
        assert_eq!(judged(&good, 1, "elsewhere"), Err(Refusal::Forged), "another network");
        assert_eq!(judged(&voucher(6, 8, WALL.0 + 1, 3), 1, "home"), Err(Refusal::Denied), "another holder");
        assert_eq!(judged(&voucher(7, 9, WALL.0 + 1, 3), 1, "home"), Err(Refusal::Denied), "another node");
        assert_eq!(judged(&voucher(7, 8, WALL.0, 3), 1, "home"), Err(Refusal::Denied), "over");
    }

    #[test]
    fn a_voucher_is_spent_once_also_across_a_restart() {
        let grant = judged(&voucher(7, 8, WALL.0 + 1, 3), 1, "home").unwrap();
        let mut ledger = Ledger::default();
        let first = ledger.charge(&grant, 600, WALL).unwrap();
        assert_eq!((ledger.check(&grant, 401), ledger.check(&grant, 400)), (Err(Refusal::Denied), Ok(())));
        assert_eq!(ledger.charge(&grant, 401, WALL), Err(Refusal::Denied));
        let second = ledger.charge(&grant, 400, WALL).unwrap();
        assert_eq!((first.bytes, second.bytes), (600, 1000));
        assert_eq!(ledger.charge(&grant, 1, WALL), Err(Refusal::Denied));
        assert_eq!(ledger.charge(&grant, u64::MAX, WALL), Err(Refusal::Denied));
        // Lines in any order: an older one never gives back.
        let mut again = Ledger::restore([second, first]);
        assert_eq!(again.charge(&grant, 1, WALL), Err(Refusal::Denied));
        assert_eq!(again.lines(WALL).collect::<Vec<_>>(), [second]);
        assert_eq!(again.lines(UnixMillis(WALL.0 + 1)).count(), 0);
        // The same serial of another issuer, and another serial of the same one, are other vouchers.
        let other = Grant { key: (grant.key.0, 4), ..grant };
        assert!(again.charge(&other, 1000, WALL).is_ok());
    }

    #[test]
    fn a_full_ledger_refuses_and_forgets_only_what_is_over() {
        let issuer = PublicKey::from_bytes(key(1).verifying_key().to_bytes());
        let line = |serial| Spent { key: (issuer, serial), bytes: 1, expires: UnixMillis(WALL.0 + serial) };
        let mut ledger = Ledger::restore((1..=VOUCHERS_MAX as u64).map(line));
        let grant = Grant { key: (issuer, 0), bytes: 10, expires: UnixMillis(u64::MAX) };
        assert_eq!(ledger.charge(&grant, 1, WALL), Err(Refusal::Busy));
        let known = Grant { key: (issuer, 5), bytes: 10, expires: UnixMillis(WALL.0 + 5) };
        assert!(ledger.charge(&known, 1, WALL).is_ok(), "known ones go on");
        assert!(ledger.charge(&grant, 1, UnixMillis(WALL.0 + 1)).is_ok(), "one is over now");
        assert_eq!(ledger.spent.len(), VOUCHERS_MAX);
    }
}
