//! The lease groups of a store by small handles: their newest statement, and how much they hold. It never reads a
//! clock: whether a group is over is for the caller to compare.

use std::collections::HashMap;

use super::Place;

/// Most lease groups one node knows.
pub(crate) const GROUPS_MAX: usize = 1 << 20;
/// The handle of no group.
pub(crate) const NO_GROUP: u32 = u32::MAX;

/// One group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupState {
    pub id: [u8; 32],
    /// Its newest statement; the number is when it is over, milliseconds since 1970.
    pub place: Option<Place>,
    /// Shards and records it holds.
    pub holds: u32,
    /// Bytes of its records, and of the shards of which it is the first holder: who comes later to bytes that are there
    /// takes them over when those before let go.
    pub bytes: u64,
}

/// All groups. A handle stays what it is for as long as the store is open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    list: Vec<GroupState>,
    handles: HashMap<[u8; 32], u32>,
}

impl Groups {
    /// The handle of a group, a new one if it is not known; [`NO_GROUP`] if there are too many.
    pub(crate) fn handle(&mut self, id: &[u8; 32]) -> u32 {
        if let Some(handle) = self.handles.get(id) {
            return *handle;
        }
        let Some(handle) = u32::try_from(self.list.len()).ok().filter(|handle| *handle != NO_GROUP) else {
            return NO_GROUP;
        };
        self.list.push(GroupState { id: *id, place: None, holds: 0, bytes: 0 });
        self.handles.insert(*id, handle);
        handle
    }

    /// The handle of a known group.
    pub(crate) fn known(&self, id: &[u8; 32]) -> Option<u32> {
        self.handles.get(id).copied()
    }

    pub(crate) fn get(&self, handle: u32) -> Option<&GroupState> {
        self.list.get(handle as usize)
    }

    /// When a group is over; `None` if no statement of it is known.
    pub(crate) fn expires(&self, handle: u32) -> Option<u64> {
        Some(self.get(handle)?.place?.number)
    }

    /// Replaces the statement; returns the one before.
    pub(crate) fn set_place(&mut self, handle: u32, place: Option<Place>) -> Option<Place> {
        let group = self.list.get_mut(handle as usize)?;
        std::mem::replace(&mut group.place, place)
    }

    /// One thing more, of which so many bytes are the group's own.
    pub(crate) fn hold(&mut self, handle: u32, bytes: u32) {
        if let Some(group) = self.list.get_mut(handle as usize) {
            group.holds = group.holds.saturating_add(1);
        }
        self.take_over(handle, bytes);
    }

    /// One thing less, of which so many bytes were the group's own.
    pub(crate) fn release(&mut self, handle: u32, bytes: u32) {
        if let Some(group) = self.list.get_mut(handle as usize) {
            group.holds = group.holds.saturating_sub(1);
            group.bytes = group.bytes.saturating_sub(u64::from(bytes));
        }
    }

    /// Bytes of what the group holds already become its own.
    pub(crate) fn take_over(&mut self, handle: u32, bytes: u32) {
        if let Some(group) = self.list.get_mut(handle as usize) {
            group.bytes = group.bytes.saturating_add(u64::from(bytes));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// In the order of their handles.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &GroupState> {
        self.list.iter()
    }
}
