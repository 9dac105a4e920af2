//! A hash map in sixteen parts of unequal size, so that they double at different times. It never looks at what it keeps.
//!
//! One table that doubles holds 75 bytes an entry of 32 just after it grew, and stops its writer while it moves all of
//! them. Parts whose shares grow by 2^(1/16) grow one after the other: the mean stays near 33 / 0.63 = 52 bytes, and a
//! growth moves a sixteenth.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// First bytes of a key.
pub(crate) type Prefix = [u8; 16];

/// How many parts.
const PARTS: usize = 16;
/// Where each part begins in the space of the last two bytes of a prefix: 65536 x sum of 2^(i/16) for i below it, as a
/// share of the sum over all sixteen.
const STARTS: [u16; PARTS] =
    [0, 2902, 5932, 9096, 12400, 15850, 19454, 23216, 27146, 31249, 35534, 40009, 44682, 49562, 54658, 59979];

/// The map.
#[derive(Debug)]
pub(crate) struct StaggeredMap<V> {
    parts: [HashMap<Prefix, V>; PARTS],
}

impl<V> Default for StaggeredMap<V> {
    fn default() -> Self {
        Self { parts: std::array::from_fn(|_| HashMap::new()) }
    }
}

fn part(key: &Prefix) -> usize {
    let [.., high, low] = *key;
    STARTS.partition_point(|start| *start <= u16::from_be_bytes([high, low])).saturating_sub(1)
}

impl<V> StaggeredMap<V> {
    fn of(&self, key: &Prefix) -> &HashMap<Prefix, V> {
        &self.parts[part(key)]
    }

    fn of_mut(&mut self, key: &Prefix) -> &mut HashMap<Prefix, V> {
        &mut self.parts[part(key)]
    }

    pub(crate) fn get(&self, key: &Prefix) -> Option<&V> {
        self.of(key).get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &Prefix) -> Option<&mut V> {
        self.of_mut(key).get_mut(key)
    }

    pub(crate) fn entry(&mut self, key: Prefix) -> Entry<'_, Prefix, V> {
        self.of_mut(&key).entry(key)
    }

    pub(crate) fn remove(&mut self, key: &Prefix) -> Option<V> {
        self.of_mut(key).remove(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(HashMap::len).sum()
    }

    /// All entries in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Prefix, &V)> {
        self.parts.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_keys_and_their_shares_grow_evenly() {
        let total: f64 = (0..PARTS).map(|i| (i as f64 / 16.0).exp2()).sum();
        for (i, start) in STARTS.iter().enumerate() {
            let before: f64 = (0..i).map(|i| (i as f64 / 16.0).exp2()).sum();
            let exact = 65_536.0 * before / total;
            assert!((exact - f64::from(*start)).abs() < 1.0, "part {i}: {exact}");
        }
        let key = |n: u16| {
            let mut key = [0; 16];
            key[14..].copy_from_slice(&n.to_be_bytes());
            key
        };
        assert_eq!((part(&key(0)), part(&key(2901)), part(&key(2902)), part(&key(u16::MAX))), (0, 0, 1, 15));
    }

    #[test]
    fn behaves_like_a_map() {
        let mut map = StaggeredMap::default();
        let key = |n: u32| *blake3::hash(&n.to_le_bytes()).as_bytes().first_chunk::<16>().unwrap();
        for n in 0..5000 {
            assert!(matches!(map.entry(key(n)), Entry::Vacant(_)));
            map.entry(key(n)).or_insert(n);
        }
        assert_eq!(map.len(), 5000);
        assert!((0..5000).all(|n| map.get(&key(n)) == Some(&n)) && map.get(&key(5000)).is_none());
        *map.get_mut(&key(7)).unwrap() = 1;
        assert_eq!((map.remove(&key(7)), map.remove(&key(7)), map.len()), (Some(1), None, 4999));
        assert_eq!(map.iter().count(), 4999);
        assert!(map.parts.iter().all(|part| part.len() > 100));
    }
}
