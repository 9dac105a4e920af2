//! A map from numbers to values whose clones share all they can: the base of a cheap copy of a file.
//!
//! It knows nothing of files or crashes and never shares a change: a group is copied before its first change.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Numbers per group: a change after a clone copies one group and the list of groups.
const GROUP: u64 = 64;

#[derive(Clone, Debug)]
pub(super) struct SharedMap<T> {
    groups: BTreeMap<u64, Arc<BTreeMap<u64, T>>>,
}

impl<T> Default for SharedMap<T> {
    fn default() -> Self {
        Self { groups: BTreeMap::new() }
    }
}

impl<T: Clone> SharedMap<T> {
    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.groups.get(&(number / GROUP))?.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        // Looks before it copies, so that a miss leaves the group shared.
        self.get(number)?;
        Arc::make_mut(self.groups.get_mut(&(number / GROUP))?).get_mut(&number)
    }

    pub(super) fn get_or_insert(&mut self, number: u64, new: impl FnOnce() -> T) -> &mut T {
        Arc::make_mut(self.groups.entry(number / GROUP).or_default()).entry(number).or_insert_with(new)
    }

    pub(super) fn insert(&mut self, number: u64, value: T) {
        Arc::make_mut(self.groups.entry(number / GROUP).or_default()).insert(number, value);
    }

    pub(super) fn remove(&mut self, number: u64) {
        if self.get(number).is_some()
            && let Some(group) = self.groups.get_mut(&(number / GROUP))
        {
            Arc::make_mut(group).remove(&number);
        }
    }

    /// Removes `number` and all above it.
    pub(super) fn remove_from(&mut self, number: u64) {
        self.groups.split_off(&number.div_ceil(GROUP));
        if let Some(group) = self.groups.get_mut(&(number / GROUP))
            && group.range(number..).next().is_some()
        {
            Arc::make_mut(group).split_off(&number);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.groups.values().flat_map(|group| group.iter().map(|(number, value)| (*number, value)))
    }
}
