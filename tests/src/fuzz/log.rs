//! What a store reads back from its disk, format by format. Without the store's key nothing is taken for its own; with
//! right MACs around anything, what is read is written again as it was.

use std::sync::OnceLock;

use shoal_node::chunks::probe::{Probe, RecordSpec, key_file, scrub};

use super::input::{Input, join};

const STORE_FILES: &[u8] = include_bytes!("../../../node/golden/store_files_v1.bin");
const SEGMENT_LOG: &[u8] = include_bytes!("../../../node/golden/segment_log_v1.bin");
/// Where the records of the segments here end.
const END: u64 = 4096;

/// The store of all inputs.
pub(super) fn probe() -> &'static Probe {
    static PROBE: OnceLock<Probe> = OnceLock::new();
    PROBE.get_or_init(|| Probe::new(&[9; 32]))
}

/// One spelling, or refused; with a MAC that was not renewed after a change always refused.
fn again(bytes: &[u8], read: Option<Vec<u8>>, why: &str) -> bool {
    if let Some(written) = &read {
        assert!(written == bytes, "{why}: a second spelling");
    }
    read.is_some()
}

/// Whether the MAC is renewed, segment, place, then the 128 bytes of a record header.
pub fn record_header(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (renew, segment, offset) = (input.byte(), u64::from(input.byte()), u64::from(input.byte()) * 64);
    let mut bytes = input.rest().to_vec();
    if !renew.is_multiple_of(2) {
        bytes.resize(128, 0);
        probe().mac(&mut bytes);
    }
    again(&bytes, probe().record_header(&bytes, segment, offset), "record header")
}

/// One record of each kind, rightly made.
fn specs() -> Vec<RecordSpec> {
    let spec = |kind: u8| RecordSpec {
        kind,
        key: (kind != 1).then_some([kind; 32]),
        group: if kind == 6 { [0; 32] } else { [1; 32] },
        payload: if matches!(kind, 1 | 4 | 5) { vec![kind; 300] } else { vec![] },
        number: if matches!(kind, 3..=5) { 7 } else { 0 },
        sequence: u64::from(kind),
    };
    (1..=6).map(spec).collect()
}

pub(super) fn headers() -> Vec<Vec<u8>> {
    let of = |spec: &RecordSpec| {
        let record = probe().record_of(spec, 3, 64)?;
        Some(join(&[0, 3, 1], record.get(..128)?))
    };
    let mut out: Vec<Vec<u8>> = specs().iter().filter_map(of).collect();
    let renewed = out.iter().map(|seed| join(&[1], seed.get(1..).unwrap_or_default())).collect::<Vec<_>>();
    out.extend(renewed);
    out
}

/// Whether the MAC is renewed, the segment, then the 64 bytes of a segment header.
pub fn segment_header(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (renew, segment) = (input.byte(), u64::from(input.byte()));
    let mut bytes = input.rest().to_vec();
    if !renew.is_multiple_of(2) {
        bytes.resize(64, 0);
        probe().mac(&mut bytes);
    }
    again(&bytes, probe().segment_header(&bytes, segment), "segment header")
}

pub(super) fn segment_headers() -> Vec<Vec<u8>> {
    let good = probe().segment_header_of(3, 2, 640);
    vec![join(&[0, 3], &good), join(&[1, 3], &good), join(&[0, 4], &good), join(&[0, 0], &SEGMENT_LOG[..64])]
}

/// Whether the MAC is renewed, the segment, then table and trailer.
pub fn segment_footer(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (renew, segment) = (input.byte(), u64::from(input.byte()));
    let mut bytes = input.rest().to_vec();
    if !renew.is_multiple_of(2) {
        probe().footer_mac(&mut bytes);
    }
    again(&bytes, probe().footer(&bytes, segment, END), "footer")
}

pub(super) fn footers() -> Vec<Vec<u8>> {
    let records: Vec<(RecordSpec, u64)> = specs().into_iter().zip((1..).map(|at| at * 512)).collect();
    let good = probe().footer_of(&records, 3, END);
    let empty = probe().footer_of(&[], 3, END);
    vec![join(&[0, 3], &good), join(&[1, 3], &good), join(&[0, 3], &empty), join(&[0, 4], &good)]
}

/// Whether the MAC is renewed, then the file `index`. What was taken for an index is written as one that is taken for the
/// same; without a right MAC nothing is.
pub fn store_index(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let renew = input.byte();
    let mut bytes = input.rest().to_vec();
    if !renew.is_multiple_of(2) {
        bytes.extend_from_slice(&[0; 32]);
        probe().long_mac(&mut bytes);
    }
    let Some(written) = probe().snapshot(&bytes) else { return false };
    let again = probe().snapshot(&written);
    assert!(again.is_some_and(|again| ordered(&again) == ordered(&written)), "an index that changes by being saved");
    true
}

/// The file without its MAC, its shards in order: they are written in that of a hash table, which is another in each
/// index.
fn ordered(file: &[u8]) -> (Vec<&[u8]>, &[u8], &[u8]) {
    let count = |section: usize| {
        let bytes = file.get(32 + section * 8..40 + section * 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, |bytes| usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(0))
    };
    let (covered, _) = file.split_at(file.len().saturating_sub(32));
    let (before, rest) = covered.split_at(104 + count(0) * 48 + count(1) * 56);
    let (shards, behind) = rest.split_at(count(2) * 32);
    let mut shards: Vec<&[u8]> = shards.chunks(32).collect();
    shards.sort_unstable();
    (shards, before, behind)
}

pub(super) fn indexes() -> Vec<Vec<u8>> {
    let golden = STORE_FILES.get(64..).unwrap_or_default();
    let covered = golden.get(..golden.len().saturating_sub(32)).unwrap_or_default();
    vec![join(&[0], golden), join(&[1], covered), join(&[1], &[covered, &[0; 8]].concat())]
}

/// Which file, then its bytes: `store.key` as it is or with a right checksum, or where the scrub is.
pub fn store_files(data: &[u8]) -> bool {
    let Some((which, bytes)) = data.split_first() else { return false };
    match which % 3 {
        0 => again(bytes, key_file(bytes), "store.key"),
        1 => {
            let mut file = bytes.to_vec();
            file.resize(64, 0);
            let sum = *blake3::hash(&file).as_bytes();
            file.extend_from_slice(&sum);
            again(&file, key_file(&file), "store.key")
        }
        _ => {
            let Some(text) = scrub(bytes) else { return false };
            assert!(scrub(text.as_bytes()).is_some_and(|again| again == text));
            true
        }
    }
}

pub(super) fn files() -> Vec<Vec<u8>> {
    let key = probe().key_file();
    vec![
        join(&[0], &key),
        join(&[1], &key[..64]),
        join(&[2], b"shoal-scrub-1 1700000000000 0 3 10 4096 0 0 0\n"),
        join(&[2], b"shoal-scrub-1 18446744073709551615 1 4294967295 1 2 3 4 5"),
    ]
}
