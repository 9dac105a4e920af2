//! The index as a file, so that opening reads only what is younger. It is a copy: damaged, deleted or too old it costs
//! the time to read the log, never a record.
//!
//! The table of its layout is in the documentation of [`super`]. All integers are little-endian.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::index::{Groups, Index, Place, Prefix, SegmentUse, Slot, Versions};
use super::record::Codec;
use super::shared::Shared;
use super::vfs::{OpenMode, Vfs, read_file, remove_if_there, replace_file};

const MAGIC: &[u8; 8] = b"SHOALIDX";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 104;
const MAC_BYTES: usize = 32;
/// Largest snapshot that is read: 2^28 shards.
const BYTES_MAX: u64 = 1 << 34;
/// Bytes of the entries of each section, in the order of the file.
const SIZES: [u64; 8] = [48, 56, 32, 48, 36, 80, 40, 40];

fn path(data: &Path) -> PathBuf {
    data.join("index")
}

/// The bytes of a snapshot of `index`.
pub(crate) fn encode(index: &Index, codec: &Codec) -> Vec<u8> {
    let counts = [
        index.segments.len(),
        index.groups.len(),
        index.shards.len(),
        index.collided.len(),
        index.refs.len(),
        index.records.len(),
        index.trash.len(),
        index.losses.len(),
    ];
    let size: u64 = counts.iter().zip(SIZES).map(|(count, size)| (*count as u64).saturating_mul(size)).sum();
    let mut out = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(HEADER_BYTES + MAC_BYTES));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&codec.store);
    counts.iter().for_each(|count| out.extend_from_slice(&(*count as u64).to_le_bytes()));
    out.extend_from_slice(&index.next_sequence.to_le_bytes());
    index.segments.iter().for_each(|(number, held)| encode_segment(&mut out, number, held));
    for group in index.groups.iter() {
        out.extend_from_slice(&group.id);
        encode_place(&mut out, group.place);
    }
    for (prefix, slot) in index.shards.iter() {
        out.extend_from_slice(prefix);
        encode_slot(&mut out, slot);
    }
    for (key, slot) in &index.collided {
        out.extend_from_slice(key);
        encode_slot(&mut out, slot);
    }
    for (key, group) in &index.refs {
        out.extend_from_slice(key);
        out.extend_from_slice(&group.to_le_bytes());
    }
    for (key, [newest, previous]) in &index.records {
        out.extend_from_slice(key);
        encode_place(&mut out, *newest);
        encode_place(&mut out, *previous);
    }
    for (key, time) in index.trash.iter().chain(&index.losses) {
        out.extend_from_slice(key);
        out.extend_from_slice(&time.to_le_bytes());
    }
    let mac = codec.long_mac(&out);
    out.extend_from_slice(&mac);
    out
}

fn encode_segment(out: &mut Vec<u8>, number: u32, held: &SegmentUse) {
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&[u8::from(held.sealed), u8::from(held.suspect), 0, 0]);
    out.extend_from_slice(&held.end.to_le_bytes());
    out.extend_from_slice(&held.marks.to_le_bytes());
    out.extend_from_slice(&held.first.to_le_bytes());
    out.extend_from_slice(&held.last_mark.to_le_bytes());
    out.extend_from_slice(&held.records.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

fn encode_slot(out: &mut Vec<u8>, slot: &Slot) {
    for word in [slot.segment, slot.unit, slot.length, slot.group] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// No record begins at unit 0: that is how an absent place is told.
fn encode_place(out: &mut Vec<u8>, place: Option<Place>) {
    let place = place.unwrap_or(Place { segment: 0, unit: 0, length: 0, group: 0, number: 0 });
    for word in [place.segment, place.unit, place.length, place.group] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&place.number.to_le_bytes());
}

/// The index in a snapshot, if it is one of this store, whole and of this version.
pub(crate) fn decode(bytes: &[u8], codec: &Codec) -> Option<Index> {
    let (bytes, mac) = bytes.split_last_chunk::<MAC_BYTES>()?;
    let mut reader = Reader(bytes);
    let header = reader.take::<32>()?;
    let ours = header[..8] == MAGIC[..] && header[8] == VERSION && header[9..16] == [0; 7];
    if !ours || header[16..] != codec.store || !codec.is_long_mac(bytes, mac) {
        return None;
    }
    let mut counts = [0; 8];
    for count in &mut counts {
        *count = reader.u64()?;
    }
    let next_sequence = reader.u64()?;
    let size =
        counts.iter().zip(SIZES).try_fold(0u64, |sum, (count, size)| sum.checked_add(count.checked_mul(size)?))?;
    if size != reader.0.len() as u64 {
        return None;
    }
    let mut index = Index { next_sequence, ..Index::default() };
    let [segments, groups, shards, collided, refs, records, trash, losses] = counts;
    for _ in 0..segments {
        let (number, held) = reader.segment()?;
        *index.segments.entry(number) = held;
    }
    for _ in 0..groups {
        let id = reader.take::<32>()?;
        let handle = index.groups.handle(&id);
        index.groups.set_place(handle, reader.place()?);
    }
    for _ in 0..shards {
        let prefix: Prefix = reader.take()?;
        index.shards.entry(prefix).or_insert(reader.slot()?);
    }
    for _ in 0..collided {
        index.collided.insert(reader.take()?, reader.slot()?);
    }
    for _ in 0..refs {
        index.refs.insert((reader.take()?, reader.u32()?));
    }
    for _ in 0..records {
        let (key, versions): ([u8; 32], Versions) = (reader.take()?, [reader.place()?, reader.place()?]);
        index.records.insert(key, versions);
    }
    index.trash = reader.times(trash)?;
    index.losses = reader.times(losses)?;
    recount(&mut index);
    Some(index)
}

/// What the index says of itself is counted, never stored.
fn recount(index: &mut Index) {
    let slots = index.shards.iter().map(|(_, slot)| *slot).chain(index.collided.values().copied());
    let places = index.records.values().flatten().flatten().copied();
    let statements: Vec<Place> = index.groups.iter().filter_map(|group| group.place).collect();
    let mut groups = Groups::clone(&index.groups);
    for slot in slots {
        index.segments.alive(slot.segment, slot.size());
        groups.hold(slot.group, slot.length);
    }
    for place in places {
        index.segments.alive(place.segment, place.size());
        groups.hold(place.group, place.length);
    }
    for place in statements {
        index.segments.alive(place.segment, place.size());
    }
    for (_, group) in &index.refs {
        groups.hold(*group, 0);
    }
    index.groups = groups;
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn slot(&mut self) -> Option<Slot> {
        Some(Slot { segment: self.u32()?, unit: self.u32()?, length: self.u32()?, group: self.u32()? })
    }

    fn place(&mut self) -> Option<Option<Place>> {
        let Slot { segment, unit, length, group } = self.slot()?;
        let number = self.u64()?;
        Some((unit != 0).then_some(Place { segment, unit, length, group, number }))
    }

    fn segment(&mut self) -> Option<(u32, SegmentUse)> {
        let number = self.u32()?;
        let [sealed, suspect, ..] = self.take::<4>()?;
        let (end, marks, first, last_mark) = (self.u64()?, self.u64()?, self.u64()?, self.u64()?);
        let records = self.u32()?;
        self.u32()?;
        let held =
            SegmentUse { end, live: 0, marks, records, first, last_mark, sealed: sealed != 0, suspect: suspect != 0 };
        Some((number, held))
    }

    fn times(&mut self, count: u64) -> Option<BTreeMap<[u8; 32], u64>> {
        (0..count).map(|_| Some((self.take()?, self.u64()?))).collect()
    }
}

/// The index as of the last snapshot. Whatever is wrong with the file, there is none then.
pub(crate) fn load(vfs: &dyn Vfs, data: &Path, codec: &Codec) -> Option<Index> {
    decode(&read_file(vfs, &path(data), BYTES_MAX).ok()??, codec)
}

/// Replaces the snapshot by one of the index as it is now. Returns where it ends, a sequence number.
///
/// Until this returns the one before may be what a crash leaves, so compaction keeps to that.
///
/// # Errors
/// The system's; the snapshot is then the one before or the new one.
pub(crate) fn take(vfs: &dyn Vfs, data: &Path, shared: &Shared) -> std::io::Result<u64> {
    let (bytes, end) = {
        let index = shared.index();
        (encode(&index, &shared.codec), index.next_sequence)
    };
    replace_file(vfs, data, &path(data), &bytes)?;
    shared.snapshot.store(end, Ordering::Release);
    Ok(end)
}

/// Deletes the snapshot: the next open reads the log.
///
/// # Errors
/// The system's.
pub(crate) fn remove(vfs: &dyn Vfs, data: &Path) -> std::io::Result<()> {
    remove_if_there(vfs, &path(data))?;
    vfs.sync_dir(data)
}

/// Whether the snapshot is whole; `None` if there is none.
pub(crate) fn is_whole(vfs: &dyn Vfs, data: &Path, codec: &Codec) -> Option<bool> {
    vfs.open(&path(data), OpenMode::Read).ok()?;
    Some(load(vfs, data, codec).is_some())
}
