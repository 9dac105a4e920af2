//! Values by prefix, and the longest prefix that fits. It knows nothing of what the values mean.

use core::net::IpAddr;
use std::collections::BTreeSet;

use shoal_protocol::mesh::prefix::Prefix;

/// Values by prefix; the longest that fits is found by one binary search a length in use.
#[derive(Clone, Debug)]
pub struct PrefixTable<T> {
    /// Ordered by prefix, none twice.
    rows: Vec<(Prefix, T)>,
    /// Lengths in use, the longest first.
    lengths: Vec<u8>,
}

impl<T> PrefixTable<T> {
    /// A table of these rows; of two with one prefix the first counts.
    #[must_use]
    pub fn new(mut rows: Vec<(Prefix, T)>) -> Self {
        rows.sort_by_key(|(prefix, _)| *prefix);
        rows.dedup_by_key(|(prefix, _)| *prefix);
        let lengths: BTreeSet<u8> = rows.iter().map(|(prefix, _)| prefix.length()).collect();
        Self { rows, lengths: lengths.into_iter().rev().collect() }
    }

    /// The longest prefix that has all of `wanted`, with its value.
    #[must_use]
    pub fn longest(&self, wanted: &Prefix) -> Option<(&Prefix, &T)> {
        let lengths = self.lengths.iter().filter(|length| **length <= wanted.length());
        lengths.into_iter().find_map(|length| {
            let prefix = Prefix::around(wanted.address(), *length);
            let at = self.rows.binary_search_by_key(&prefix, |(prefix, _)| *prefix).ok()?;
            self.rows.get(at).map(|(prefix, value)| (prefix, value))
        })
    }

    /// The longest prefix an address is in, with its value.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<(&Prefix, &T)> {
        self.longest(&Prefix::host(address))
    }
}
