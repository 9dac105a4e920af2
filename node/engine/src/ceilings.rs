//! What a lease group may still be promised: its ceiling, less what is stored and what is promised for it already. It
//! counts promises; what is stored is the store's to count.

use std::collections::BTreeMap;

use shoal_protocol::{ByteCount, GroupId, Refusal};

/// Bytes promised and neither stored nor given up, by group. No more groups than there are promises, which are bounded.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    promised: BTreeMap<GroupId, u64>,
}

impl Claims {
    /// Promises `bytes` more of a group of which so much is stored. A promise that is being stored counts twice for a
    /// moment, never not at all.
    ///
    /// # Errors
    /// [`Refusal::NoLease`] beyond the ceiling.
    pub fn claim(&mut self, group: GroupId, bytes: u64, stored: ByteCount, ceiling: ByteCount) -> Result<(), Refusal> {
        let promised = self.promised.get(&group).copied().unwrap_or(0);
        let after = promised.checked_add(bytes).ok_or(Refusal::NoLease)?;
        if after.checked_add(stored.0).is_none_or(|all| all > ceiling.0) {
            return Err(Refusal::NoLease);
        }
        self.promised.insert(group, after);
        Ok(())
    }

    /// Stored by now, or given up.
    pub fn release(&mut self, group: &GroupId, bytes: u64) {
        if let Some(promised) = self.promised.get_mut(group) {
            *promised = promised.saturating_sub(bytes);
            if *promised == 0 {
                self.promised.remove(group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_and_promised_together_stay_below_the_ceiling() {
        let (one, other) = (GroupId::from_bytes([1; 32]), GroupId::from_bytes([2; 32]));
        let mut claims = Claims::default();
        let mut claim = |group, bytes, stored| claims.claim(group, bytes, ByteCount(stored), ByteCount(1000));
        assert_eq!(claim(one, 600, 0), Ok(()));
        assert_eq!(claim(one, 401, 0), Err(Refusal::NoLease));
        assert_eq!(claim(one, 400, 1), Err(Refusal::NoLease));
        assert_eq!(claim(one, 400, 0), Ok(()));
        assert_eq!(claim(other, 1000, 0), Ok(()), "groups are apart");
        assert_eq!(claim(other, u64::MAX, 0), Err(Refusal::NoLease));
        assert_eq!(claim(other, 0, u64::MAX), Err(Refusal::NoLease));
        claims.release(&one, 600);
        assert_eq!(claims.claim(one, 600, ByteCount(600), ByteCount(1000)), Err(Refusal::NoLease));
        assert_eq!(claims.claim(one, 0, ByteCount(600), ByteCount(1000)), Ok(()));
        claims.release(&one, 400);
        claims.release(&other, u64::MAX);
        claims.release(&other, 1);
        assert!(claims.promised.is_empty(), "nothing is kept of groups without promises");
    }
}
