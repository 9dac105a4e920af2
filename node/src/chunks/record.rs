//! The bytes of the segment log: encoding and checking of headers, footers and the store key. It never does IO.
//!
//! The tables of the layouts are in the documentation of [`super`]. All integers are little-endian.

use shoal_protocol::hash::{self, LOG_HEADER};
use shoal_protocol::limits::{RECORD_MAX, SHARD_MAX};

use super::bao::outboard_length;

/// Every record and every segment's first record begin on a multiple of this.
pub(crate) const ALIGN: u64 = 64;
/// Bytes of a record header.
pub(crate) const HEADER_BYTES: usize = 128;
/// Bytes of a segment header.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of one entry of a footer table.
pub(crate) const ENTRY_BYTES: usize = 96;
/// Bytes of the trailer that ends a sealed segment.
pub(crate) const TRAILER_BYTES: usize = 64;
/// Bytes of `store.key`.
pub(crate) const KEY_FILE_BYTES: usize = 96;
/// Bytes of `segments/store.id`.
pub(crate) const MARKER_BYTES: usize = 64;
/// Bytes of the checksum behind payload and outboard.
pub(crate) const CRC_BYTES: usize = 4;

const VERSION: u8 = 1;
const RECORD_MAGIC: &[u8; 4] = b"SHRC";
const SEGMENT_MAGIC: &[u8; 8] = b"SHOALSEG";
const TRAILER_MAGIC: &[u8; 8] = b"SHOALEND";
const MARKER_MAGIC: &[u8; 8] = b"SHOALDIR";
const KEY_MAGIC: &[u8; 8] = b"SHOALKEY";
const MAC_BYTES: usize = 16;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A shard and its first group; again for a key: the newer bytes replace the older.
    Put = 1,
    /// One more group holds the shard.
    Ref = 2,
    /// One group no longer holds the shard.
    Drop = 3,
    /// The signed statement of a lease group; the newest counts.
    Group = 4,
    /// One version of a signed record; the two highest numbers count.
    Record = 5,
    /// The shard or record under this key is gone.
    Tombstone = 6,
}

impl Kind {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Put, Self::Ref, Self::Drop, Self::Group, Self::Record, Self::Tombstone]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// Whether these lengths can belong to a record of this kind.
    fn allows(self, payload: u32, outboard: u32) -> bool {
        match self {
            Self::Put => (1..=SHARD_MAX).contains(&payload) && outboard == outboard_length(payload),
            Self::Group | Self::Record => (1..=RECORD_MAX as u32).contains(&payload) && outboard == 0,
            Self::Ref | Self::Drop | Self::Tombstone => payload == 0 && outboard == 0,
        }
    }
}

/// One record without its bytes: the content of a header and of a footer entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub kind: Kind,
    pub key: [u8; 32],
    pub group: [u8; 32],
    /// Bytes of the payload.
    pub payload: u32,
    /// Bytes of the outboard.
    pub outboard: u32,
    /// Of a RECORD its version; of a GROUP when it is over and of a DROP when it was made, milliseconds since 1970; of a
    /// TOMBSTONE when the shard was found damaged, 0 if it was removed; else 0.
    pub number: u64,
    /// Counts all records of the store in the order they were appended.
    pub sequence: u64,
    /// Where the header begins in its segment, bytes.
    pub offset: u64,
}

impl Entry {
    /// Bytes of the record on disk with its padding.
    pub(crate) fn size(&self) -> u64 {
        record_size(self.payload, self.outboard)
    }

    /// Where the next record may begin.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.size())
    }
}

/// Bytes a record takes on disk: header, payload, outboard, checksum, padding to [`ALIGN`].
pub(crate) const fn record_size(payload: u32, outboard: u32) -> u64 {
    let raw = HEADER_BYTES as u64 + payload as u64 + outboard as u64 + CRC_BYTES as u64;
    raw.next_multiple_of(ALIGN)
}

/// Checksum and zero padding behind `payload` and `outboard` bytes.
pub(crate) fn tail(crc: u32, payload: u32, outboard: u32) -> Vec<u8> {
    let before = HEADER_BYTES as u64 + u64::from(payload) + u64::from(outboard);
    let length = record_size(payload, outboard).saturating_sub(before);
    let mut out = crc.to_le_bytes().to_vec();
    out.resize(usize::try_from(length).unwrap_or(CRC_BYTES), 0);
    out
}

/// Checksum of payload and outboard together.
pub(crate) fn checksum(payload: &[u8], outboard: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(payload), outboard)
}

/// Why bytes are not a structure of ours at this place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Damaged, foreign, misplaced, or never written.
    Invalid,
    /// Ours, but from a later version of the program: the text says what is unknown.
    Newer(String),
}

/// What a segment header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub store: [u8; 16],
    pub segment: u64,
    pub previous: u32,
    /// Bytes of the previous segment that count; all beyond was never promised. `u64::MAX`: unknown.
    pub previous_end: u64,
}

/// Where the footer table of a sealed segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub count: u32,
    pub table: u64,
}

/// Who this store is. The key is secret: with it one could forge records through payloads.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoreKey {
    pub id: [u8; 16],
    pub key: [u8; 32],
}

impl std::fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl StoreKey {
    /// Takes id and key from 32 fresh random bytes.
    pub(crate) fn from_seed(seed: &[u8; 32]) -> Self {
        let id = hash::derive(LOG_HEADER, &[b"store id", seed]);
        let mut short = [0; 16];
        short.iter_mut().zip(id).for_each(|(to, from)| *to = from);
        Self { id: short, key: hash::derive(LOG_HEADER, &[b"store key", seed]) }
    }

    pub(crate) fn encode(&self) -> [u8; KEY_FILE_BYTES] {
        let mut out = [0; KEY_FILE_BYTES];
        put(&mut out, 0, KEY_MAGIC);
        put(&mut out, 8, &[VERSION]);
        put(&mut out, 16, &self.id);
        put(&mut out, 32, &self.key);
        let sum = *blake3::hash(&out[..64]).as_bytes();
        put(&mut out, 64, &sum);
        out
    }

    pub(crate) fn decode(bytes: &[u8; KEY_FILE_BYTES]) -> Result<Self, Refused> {
        if bytes[..8] != KEY_MAGIC[..] || bytes[64..] != blake3::hash(&bytes[..64]).as_bytes()[..] {
            return Err(Refused::Invalid);
        }
        if bytes[8] != VERSION || bytes[9..16] != [0; 7] {
            return Err(Refused::Newer(format!("store key version {}", bytes[8])));
        }
        Ok(Self { id: take(bytes, 16), key: take(bytes, 32) })
    }
}

/// Encodes and checks under one store's key.
#[derive(Clone)]
pub(crate) struct Codec {
    pub store: [u8; 16],
    key: [u8; 32],
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Codec {
    pub(crate) fn new(store: &StoreKey) -> Self {
        Self { store: store.id, key: hash::derive(LOG_HEADER, &[&store.key]) }
    }

    fn mac(&self, bytes: &[u8]) -> [u8; MAC_BYTES] {
        take(blake3::keyed_hash(&self.key, bytes).as_bytes(), 0)
    }

    /// The whole MAC, for files of their own.
    pub(crate) fn long_mac(&self, bytes: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.key, bytes).as_bytes()
    }

    /// Whether this is [`Codec::long_mac`] of these bytes, in constant time.
    pub(crate) fn is_long_mac(&self, bytes: &[u8], mac: &[u8; 32]) -> bool {
        blake3::keyed_hash(&self.key, bytes) == blake3::Hash::from_bytes(*mac)
    }

    /// What lies beside the segments and says whose they are.
    pub(crate) fn marker(&self) -> [u8; MARKER_BYTES] {
        let mut out = [0; MARKER_BYTES];
        put(&mut out, 0, MARKER_MAGIC);
        put(&mut out, 8, &[VERSION]);
        put(&mut out, 16, &self.store);
        let mac = self.mac(&out[..48]);
        put(&mut out, 48, &mac);
        out
    }

    /// The header of `entry` in `segment`.
    pub(crate) fn header(&self, entry: &Entry, segment: u64) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        put(&mut out, 0, RECORD_MAGIC);
        put(&mut out, 4, &[VERSION, entry.kind as u8]);
        put(&mut out, 8, &entry.key);
        put(&mut out, 40, &entry.group);
        put(&mut out, 72, &entry.payload.to_le_bytes());
        put(&mut out, 76, &entry.outboard.to_le_bytes());
        put(&mut out, 80, &entry.number.to_le_bytes());
        put(&mut out, 88, &entry.sequence.to_le_bytes());
        put(&mut out, 96, &segment.to_le_bytes());
        put(&mut out, 104, &entry.offset.to_le_bytes());
        let mac = self.mac(&out[..112]);
        put(&mut out, 112, &mac);
        out
    }

    /// Checks a header read at `offset` of `segment`. A true copy from elsewhere is invalid here.
    pub(crate) fn check_header(&self, bytes: &[u8; HEADER_BYTES], segment: u64, offset: u64) -> Result<Entry, Refused> {
        if bytes[..4] != RECORD_MAGIC[..] || !same(&bytes[112..], &self.mac(&bytes[..112])) {
            return Err(Refused::Invalid);
        }
        if u64::from_le_bytes(take(bytes, 96)) != segment || u64::from_le_bytes(take(bytes, 104)) != offset {
            return Err(Refused::Invalid);
        }
        if bytes[4] != VERSION || bytes[6..8] != [0; 2] {
            return Err(Refused::Newer(format!("record version {} at {offset}", bytes[4])));
        }
        let Some(kind) = Kind::from_byte(bytes[5]) else {
            return Err(Refused::Newer(format!("record kind {} at {offset}", bytes[5])));
        };
        let entry = Entry {
            kind,
            key: take(bytes, 8),
            group: take(bytes, 40),
            payload: u32::from_le_bytes(take(bytes, 72)),
            outboard: u32::from_le_bytes(take(bytes, 76)),
            number: u64::from_le_bytes(take(bytes, 80)),
            sequence: u64::from_le_bytes(take(bytes, 88)),
            offset,
        };
        if kind.allows(entry.payload, entry.outboard) { Ok(entry) } else { Err(Refused::Invalid) }
    }

    pub(crate) fn segment_header(&self, header: &SegmentHeader) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        put(&mut out, 0, SEGMENT_MAGIC);
        put(&mut out, 8, &[VERSION]);
        put(&mut out, 12, &header.previous.to_le_bytes());
        put(&mut out, 16, &header.store);
        put(&mut out, 32, &header.segment.to_le_bytes());
        put(&mut out, 40, &header.previous_end.to_le_bytes());
        let mac = self.mac(&out[..48]);
        put(&mut out, 48, &mac);
        out
    }

    /// Checks a segment header. One of another store is returned as it is: its MAC cannot be checked here.
    pub(crate) fn check_segment_header(
        &self,
        bytes: &[u8; SEGMENT_HEADER_BYTES],
        segment: u64,
    ) -> Result<SegmentHeader, Refused> {
        let header = SegmentHeader {
            store: take(bytes, 16),
            segment: u64::from_le_bytes(take(bytes, 32)),
            previous: u32::from_le_bytes(take(bytes, 12)),
            previous_end: u64::from_le_bytes(take(bytes, 40)),
        };
        if bytes[..8] != SEGMENT_MAGIC[..] {
            return Err(Refused::Invalid);
        }
        if header.store != self.store {
            // With our id in its place it is ours to the last byte: then it is not another store's, but damaged.
            let mut ours = *bytes;
            put(&mut ours, 16, &self.store);
            let is_ours = same(&ours[48..], &self.mac(&ours[..48]));
            return if is_ours { Err(Refused::Invalid) } else { Ok(header) };
        }
        if !same(&bytes[48..], &self.mac(&bytes[..48])) || header.segment != segment {
            return Err(Refused::Invalid);
        }
        if bytes[8] != VERSION || bytes[9..12] != [0; 3] {
            return Err(Refused::Newer(format!("segment version {}", bytes[8])));
        }
        Ok(header)
    }

    /// The footer of a segment whose records end at `table`: entries, then the trailer.
    pub(crate) fn footer(&self, entries: &[Entry], segment: u64, table: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(entries.len().saturating_mul(ENTRY_BYTES).saturating_add(TRAILER_BYTES));
        for entry in entries {
            out.extend_from_slice(&encode_entry(entry));
        }
        let mut trailer = [0; TRAILER_BYTES];
        put(&mut trailer, 0, TRAILER_MAGIC);
        put(&mut trailer, 8, &[VERSION]);
        put(&mut trailer, 12, &u32::try_from(entries.len()).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut trailer, 16, &segment.to_le_bytes());
        put(&mut trailer, 24, &table.to_le_bytes());
        let mac = self.footer_mac(&out, &trailer);
        put(&mut trailer, 48, &mac);
        out.extend_from_slice(&trailer);
        out
    }

    fn footer_mac(&self, table: &[u8], trailer: &[u8; TRAILER_BYTES]) -> [u8; MAC_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&trailer[..48]).update(table);
        take(hasher.finalize().as_bytes(), 0)
    }

    /// Where the table of a file of `length` bytes is, if these last bytes say so. Believe it only after
    /// [`Codec::check_footer`].
    pub(crate) fn peek_trailer(bytes: &[u8; TRAILER_BYTES], segment: u64, length: u64) -> Option<Trailer> {
        let count = u32::from_le_bytes(take(bytes, 12));
        let table = u64::from_le_bytes(take(bytes, 24));
        let size = u64::from(count).checked_mul(ENTRY_BYTES as u64)?.checked_add(TRAILER_BYTES as u64)?;
        let fits = table.checked_add(size)? == length && table >= SEGMENT_HEADER_BYTES as u64;
        let ours = bytes[..8] == TRAILER_MAGIC[..] && u64::from_le_bytes(take(bytes, 16)) == segment;
        (fits && ours).then_some(Trailer { count, table })
    }

    /// The entries of a footer, if table and trailer are as they were written.
    pub(crate) fn check_footer(&self, table: &[u8], trailer: &[u8; TRAILER_BYTES]) -> Result<Vec<Entry>, Refused> {
        if !same(&trailer[48..], &self.footer_mac(table, trailer)) {
            return Err(Refused::Invalid);
        }
        if trailer[8] != VERSION || trailer[9..12] != [0; 3] || trailer[32..48] != [0; 16] {
            return Err(Refused::Newer(format!("footer version {}", trailer[8])));
        }
        let end = u64::from_le_bytes(take(trailer, 24));
        let mut entries = Vec::with_capacity(table.len() / ENTRY_BYTES);
        for bytes in table.as_chunks::<ENTRY_BYTES>().0 {
            let entry = decode_entry(bytes)?;
            if entry.end() > end {
                return Err(Refused::Invalid);
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn encode_entry(entry: &Entry) -> [u8; ENTRY_BYTES] {
    let mut out = [0; ENTRY_BYTES];
    let unit = u32::try_from(entry.offset / ALIGN).unwrap_or(u32::MAX);
    put(&mut out, 0, &unit.to_le_bytes());
    put(&mut out, 4, &[entry.kind as u8]);
    put(&mut out, 8, &entry.payload.to_le_bytes());
    put(&mut out, 12, &entry.outboard.to_le_bytes());
    put(&mut out, 16, &entry.number.to_le_bytes());
    put(&mut out, 24, &entry.sequence.to_le_bytes());
    put(&mut out, 32, &entry.key);
    put(&mut out, 64, &entry.group);
    out
}

fn decode_entry(bytes: &[u8; ENTRY_BYTES]) -> Result<Entry, Refused> {
    let Some(kind) = Kind::from_byte(bytes[4]) else {
        return Err(Refused::Newer(format!("record kind {} in a footer", bytes[4])));
    };
    if bytes[5..8] != [0; 3] {
        return Err(Refused::Newer("unknown bytes in an entry of a footer".to_owned()));
    }
    let entry = Entry {
        kind,
        key: take(bytes, 32),
        group: take(bytes, 64),
        payload: u32::from_le_bytes(take(bytes, 8)),
        outboard: u32::from_le_bytes(take(bytes, 12)),
        number: u64::from_le_bytes(take(bytes, 16)),
        sequence: u64::from_le_bytes(take(bytes, 24)),
        offset: u64::from(u32::from_le_bytes(take(bytes, 0))).saturating_mul(ALIGN),
    };
    if kind.allows(entry.payload, entry.outboard) { Ok(entry) } else { Err(Refused::Invalid) }
}

/// Copies `from` to `out` at a place that this file's constants keep inside.
fn put(out: &mut [u8], at: usize, from: &[u8]) {
    debug_assert!(at + from.len() <= out.len());
    out.iter_mut().skip(at).zip(from).for_each(|(to, byte)| *to = *byte);
}

/// `N` bytes at a place that this file's constants keep inside.
fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    debug_assert!(at + N <= bytes.len());
    let mut out = [0; N];
    out.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, byte)| *to = *byte);
    out
}

/// Compares without an early end.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn codec() -> Codec {
        Codec::new(&StoreKey::from_seed(&[9; 32]))
    }

    fn entry(kind: Kind) -> Entry {
        let (payload, outboard, number) = match kind {
            Kind::Put => (40_000, 128, 0),
            Kind::Group => (300, 0, 0),
            Kind::Record => (500, 0, 7),
            Kind::Ref | Kind::Drop | Kind::Tombstone => (0, 0, 0),
        };
        let (key, group) = ([kind as u8; 32], [0x40 + kind as u8; 32]);
        Entry { kind, key, group, payload, outboard, number, sequence: 3, offset: 64 * kind as u64 }
    }

    impl Codec {
        /// A header as a later version might write it: true MAC, kind 7.
        pub(crate) fn header_of_unknown_kind(&self, segment: u64, offset: u64) -> [u8; HEADER_BYTES] {
            let mut bytes = self.header(&Entry { offset, ..entry(Kind::Ref) }, segment);
            bytes[5] = 7;
            let mac = self.mac(&bytes[..112]);
            put(&mut bytes, 112, &mac);
            bytes
        }
    }

    const KINDS: [Kind; 6] = [Kind::Put, Kind::Ref, Kind::Drop, Kind::Group, Kind::Record, Kind::Tombstone];

    #[test]
    fn every_flipped_bit_of_a_header_is_refused() {
        for kind in KINDS {
            let entry = entry(kind);
            let good = codec().header(&entry, 5);
            assert_eq!(codec().check_header(&good, 5, entry.offset), Ok(entry));
            for bit in 0..HEADER_BYTES * 8 {
                let mut bad = good;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(codec().check_header(&bad, 5, entry.offset), Err(Refused::Invalid), "bit {bit}");
            }
            assert_eq!(codec().check_header(&good, 6, entry.offset), Err(Refused::Invalid));
            assert_eq!(codec().check_header(&good, 5, entry.offset + 64), Err(Refused::Invalid));
            let other = Codec::new(&StoreKey::from_seed(&[8; 32]));
            assert_eq!(other.check_header(&good, 5, entry.offset), Err(Refused::Invalid));
        }
    }

    #[test]
    fn an_unknown_kind_or_version_with_a_true_mac_is_newer() {
        for (at, value) in [(4, 2), (5, 7), (6, 1)] {
            let mut bytes = codec().header(&entry(Kind::Ref), 5);
            bytes[at] = value;
            let mac = codec().mac(&bytes[..112]);
            put(&mut bytes, 112, &mac);
            assert!(matches!(codec().check_header(&bytes, 5, 128), Err(Refused::Newer(_))));
        }
    }

    #[test]
    fn every_flipped_bit_of_footer_segment_header_and_key_is_refused() {
        let entries: Vec<Entry> = KINDS.into_iter().map(entry).collect();
        let footer = codec().footer(&entries, 5, 1 << 20);
        let split = footer.len() - TRAILER_BYTES;
        let check = |bytes: &[u8]| codec().check_footer(&bytes[..split], bytes[split..].try_into().unwrap());
        assert_eq!(check(&footer), Ok(entries));
        for bit in 0..footer.len() * 8 {
            let mut bad = footer.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check(&bad), Err(Refused::Invalid), "bit {bit}");
        }
        let header = SegmentHeader { store: codec().store, segment: 5, previous: 4, previous_end: 77 };
        let good = codec().segment_header(&header);
        assert_eq!(codec().check_segment_header(&good, 5), Ok(header));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(codec().check_segment_header(&bad, 5).is_err_or_foreign(), "bit {bit}");
        }
        let good = StoreKey::from_seed(&[1; 32]).encode();
        assert!(StoreKey::decode(&good).is_ok());
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(StoreKey::decode(&bad).is_err(), "bit {bit}");
        }
    }

    trait Foreign {
        fn is_err_or_foreign(&self) -> bool;
    }
    impl Foreign for Result<SegmentHeader, Refused> {
        fn is_err_or_foreign(&self) -> bool {
            self.as_ref().map_or(true, |header| header.store != codec().store)
        }
    }

    #[test]
    fn bytes_without_a_meaning_in_a_footer_entry_are_of_a_later_version() {
        let footer = codec().footer(&KINDS.map(entry), 5, 1 << 20);
        let split = footer.len() - TRAILER_BYTES;
        for at in 5..8 {
            let (mut table, mut trailer) = (footer[..split].to_vec(), footer[split..].try_into().unwrap());
            table[2 * ENTRY_BYTES + at] = 1;
            let mac = codec().footer_mac(&table, &trailer);
            put(&mut trailer, 48, &mac);
            assert!(matches!(codec().check_footer(&table, &trailer), Err(Refused::Newer(_))), "byte {at}");
        }
    }

    /// One record of each kind, a footer, a segment header and a store key, as they are on disk.
    #[test]
    fn golden_bytes() {
        let codec = codec();
        let mut all = StoreKey::from_seed(&[9; 32]).encode().to_vec();
        let segment = SegmentHeader { store: codec.store, segment: 5, previous: 4, previous_end: 1024 };
        all.extend_from_slice(&codec.segment_header(&segment));
        let mut entries = Vec::new();
        let mut offset = 64;
        for kind in KINDS {
            let payload: Vec<u8> = (0..entry(kind).payload).map(|n| (n % 253) as u8).collect();
            let outboard = if kind == Kind::Put { crate::chunks::bao::outboard(&payload).1 } else { Vec::new() };
            let entry = Entry { offset, ..entry(kind) };
            all.extend_from_slice(&codec.header(&entry, 5));
            all.extend_from_slice(&payload);
            all.extend_from_slice(&outboard);
            all.extend_from_slice(&tail(checksum(&payload, &outboard), entry.payload, entry.outboard));
            offset = entry.end();
            entries.push(entry);
        }
        all.extend_from_slice(&codec.footer(&entries, 5, offset));

        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/segment_log_v1.bin");
        if std::env::var_os("SHOAL_WRITE_GOLDEN").is_some() {
            std::fs::write(path, &all).unwrap();
        }
        assert!(std::fs::read(path).unwrap() == all, "the format of the log changed: stores out there are unreadable");
    }

    proptest! {
        #[test]
        fn headers_round_trip(
            kind in 0..6_usize, key: [u8; 32], group: [u8; 32], length in 1..=SHARD_MAX,
            number: u64, sequence: u64, segment: u64, unit in 1..u64::from(u32::MAX),
        ) {
            let kind = KINDS[kind];
            let (payload, outboard) = match kind {
                Kind::Put => (length, outboard_length(length)),
                Kind::Group | Kind::Record => (length.min(RECORD_MAX as u32), 0),
                Kind::Ref | Kind::Drop | Kind::Tombstone => (0, 0),
            };
            let entry = Entry { kind, key, group, payload, outboard, number, sequence, offset: unit * ALIGN };
            let codec = codec();
            prop_assert_eq!(codec.check_header(&codec.header(&entry, segment), segment, entry.offset), Ok(entry));
            prop_assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry));
            prop_assert_eq!(entry.size() % ALIGN, 0);
            prop_assert_eq!(
                entry.size(),
                (HEADER_BYTES + payload as usize + outboard as usize + tail(0, payload, outboard).len()) as u64
            );
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 512)) {
            let codec = codec();
            prop_assert!(codec.check_header(bytes[..128].try_into().unwrap(), 1, 64).is_err());
            prop_assert!(codec.check_footer(&bytes[..96], bytes[96..160].try_into().unwrap()).is_err());
            prop_assert!(StoreKey::decode(bytes[..96].try_into().unwrap()).is_err());
            let _ = Codec::peek_trailer(bytes[..64].try_into().unwrap(), 1, 512);
        }
    }
}
