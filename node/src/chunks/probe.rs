//! The formats of the store for fuzzing: made with right checksums and MACs around anything, and read back. It is no part
//! of a shipped program and does no IO.

use shoal_protocol::ShardId;

use super::bao::outboard;
use super::record::{
    Codec, ENTRY_BYTES, Entry, HEADER_BYTES, KEY_FILE_BYTES, Kind, SEGMENT_HEADER_BYTES, SegmentHeader, StoreKey,
    TRAILER_BYTES, checksum, tail,
};
use super::{snapshot, upkeep};

/// What a record is made of; nothing of it needs to be sensible.
#[derive(Debug, Clone)]
pub struct RecordSpec {
    /// Its kind, if there is one of this number.
    pub kind: u8,
    /// Key; a PUT with none of its own gets that of its payload.
    pub key: Option<[u8; 32]>,
    /// Group.
    pub group: [u8; 32],
    /// Payload.
    pub payload: Vec<u8>,
    /// Version or time, as the kind has it.
    pub number: u64,
    /// Place in the order of all records.
    pub sequence: u64,
}

/// A store whose key is known here.
#[derive(Debug)]
pub struct Probe {
    key: StoreKey,
    codec: Codec,
}

impl Probe {
    /// The store that is made of `seed`.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        let key = StoreKey::from_seed(seed);
        Self { codec: Codec::new(&key), key }
    }

    /// `store.key`.
    #[must_use]
    pub fn key_file(&self) -> Vec<u8> {
        self.key.encode().to_vec()
    }

    /// `segments/store.id`.
    #[must_use]
    pub fn marker(&self) -> Vec<u8> {
        self.codec.marker().to_vec()
    }

    /// Puts the right MAC into the last 16 bytes.
    pub fn mac(&self, bytes: &mut [u8]) {
        if let Some((covered, mac)) = bytes.split_last_chunk_mut::<16>() {
            let right = self.codec.long_mac(covered);
            mac.iter_mut().zip(right).for_each(|(to, from)| *to = from);
        }
    }

    /// Puts the right MAC of table and trailer into the last 16 bytes of a footer.
    pub fn footer_mac(&self, footer: &mut [u8]) {
        let Some(at) = footer.len().checked_sub(TRAILER_BYTES) else { return };
        let (table, trailer) = footer.split_at_mut(at);
        let mut covered = trailer.get(..TRAILER_BYTES - 16).unwrap_or_default().to_vec();
        covered.extend_from_slice(table);
        let right = self.codec.long_mac(&covered);
        trailer.iter_mut().skip(TRAILER_BYTES - 16).zip(right).for_each(|(to, from)| *to = from);
    }

    /// Puts the right MAC into the last 32 bytes.
    pub fn long_mac(&self, bytes: &mut [u8]) {
        if let Some((covered, mac)) = bytes.split_last_chunk_mut::<32>() {
            *mac = self.codec.long_mac(covered);
        }
    }

    /// The header of a segment.
    #[must_use]
    pub fn segment_header_of(&self, segment: u64, previous: u32, previous_end: u64) -> Vec<u8> {
        let store = self.codec.store;
        self.codec.segment_header(&SegmentHeader { store, segment, previous, previous_end }).to_vec()
    }

    /// A whole record with header, outboard, checksum and padding; none if its kind does not exist.
    #[must_use]
    pub fn record_of(&self, spec: &RecordSpec, segment: u64, offset: u64) -> Option<Vec<u8>> {
        let (entry, hashes) = entry(spec, offset)?;
        let mut out = self.codec.header(&entry, segment).to_vec();
        out.extend_from_slice(&spec.payload);
        out.extend_from_slice(&hashes);
        out.extend_from_slice(&tail(checksum(&spec.payload, &hashes), entry.payload, entry.outboard));
        Some(out)
    }

    /// The footer of a segment whose records end at `end`.
    #[must_use]
    pub fn footer_of(&self, records: &[(RecordSpec, u64)], segment: u64, end: u64) -> Vec<u8> {
        let entries: Vec<Entry> = records.iter().filter_map(|(spec, offset)| Some(entry(spec, *offset)?.0)).collect();
        self.codec.footer(&entries, segment, end)
    }

    /// A record header read at a place, written again.
    #[must_use]
    pub fn record_header(&self, bytes: &[u8], segment: u64, offset: u64) -> Option<Vec<u8>> {
        let bytes: &[u8; HEADER_BYTES] = bytes.try_into().ok()?;
        let entry = self.codec.check_header(bytes, segment, offset).ok()?;
        Some(self.codec.header(&entry, segment).to_vec())
    }

    /// A segment header of this store, written again; of another store's only that it is one.
    #[must_use]
    pub fn segment_header(&self, bytes: &[u8], segment: u64) -> Option<Vec<u8>> {
        let bytes: &[u8; SEGMENT_HEADER_BYTES] = bytes.try_into().ok()?;
        let header = self.codec.check_segment_header(bytes, segment).ok()?;
        (header.store == self.codec.store).then(|| self.codec.segment_header(&header).to_vec())
    }

    /// Table and trailer at the end of a file whose records end at `end`, written again.
    #[must_use]
    pub fn footer(&self, bytes: &[u8], segment: u64, end: u64) -> Option<Vec<u8>> {
        let (table, trailer) = bytes.split_last_chunk::<TRAILER_BYTES>()?;
        let length = end.checked_add(u64::try_from(bytes.len()).ok()?)?;
        let found = Codec::peek_trailer(trailer, segment, length)?;
        let whole = usize::try_from(found.count).ok()?.checked_mul(ENTRY_BYTES)? == table.len();
        let entries = self.codec.check_footer(table, trailer).ok().filter(|_| whole && found.table == end)?;
        Some(self.codec.footer(&entries, segment, end))
    }

    /// A snapshot of the index, written again.
    #[must_use]
    pub fn snapshot(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        Some(snapshot::encode(&snapshot::decode(bytes, &self.codec)?, &self.codec))
    }
}

/// A key file, written again.
#[must_use]
pub fn key_file(bytes: &[u8]) -> Option<Vec<u8>> {
    let bytes: &[u8; KEY_FILE_BYTES] = bytes.try_into().ok()?;
    Some(StoreKey::decode(bytes).ok()?.encode().to_vec())
}

/// Where the scrub is, written again.
#[must_use]
pub fn scrub(bytes: &[u8]) -> Option<String> {
    Some(upkeep::scrub_text(&upkeep::parse_scrub(bytes)?))
}

fn entry(spec: &RecordSpec, offset: u64) -> Option<(Entry, Vec<u8>)> {
    let kind = Kind::from_byte(spec.kind)?;
    let (id, hashes) =
        if kind == Kind::Put { outboard(&spec.payload) } else { (ShardId::from_bytes([0; 32]), Vec::new()) };
    let entry = Entry {
        kind,
        key: spec.key.unwrap_or(*id.as_bytes()),
        group: spec.group,
        payload: u32::try_from(spec.payload.len()).ok()?,
        outboard: u32::try_from(hashes.len()).ok()?,
        number: spec.number,
        sequence: spec.sequence,
        offset,
    };
    Some((entry, hashes))
}
