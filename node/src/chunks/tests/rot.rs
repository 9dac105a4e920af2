//! Rot: every byte of every file of a small store flipped, many bytes of a larger one, forged records in payloads, and
//! sectors that do not read. Nothing wrong is ever served, whatever was not hit stays, one scrub pass finds the damage,
//! and after one compaction it is gone.
//!
//! It never counts what was hit as lost without looking: a flip in padding or in dead bytes costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::super::commit::{Draft, Writer};
use super::super::jobs::scrub::Found;
use super::super::log::Log;
use super::super::open::prepare;
use super::super::read;
use super::super::segment::segment_number;
use super::super::vfs_mem::{Fault, FaultError};
use super::sectors::BadSectors;
use super::world::*;
use super::*;

/// What a reader gets of a shard, and the groups that hold it.
type StreamAndHolders = (Vec<u8>, BTreeSet<[u8; 32]>);

/// A store on disk, closed, and all there is to know of it.
struct Sample {
    disk: MemVfs,
    config: StoreConfig,
    /// Encoded streams of the shards that are there, and who holds them.
    shards: BTreeMap<[u8; 32], StreamAndHolders>,
    /// Two newest versions of each record.
    records: BTreeMap<[u8; 32], Vec<u64>>,
    /// When each group is over.
    groups: BTreeMap<[u8; 32], u64>,
    /// Whatever was ever signed: by key and number.
    signed: BTreeMap<([u8; 32], u64), Vec<u8>>,
    /// Which bytes of the segments are whose.
    places: Vec<(u32, Range<u64>, Thing)>,
}

/// What a flip can cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Shard([u8; 32]),
    Version([u8; 32], u64),
    Group([u8; 32]),
}

/// One flipped byte.
#[derive(Clone, Debug)]
struct Flip {
    path: PathBuf,
    at: u64,
    mask: u8,
}

/// How a store came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Through,
    /// It does not open, and says why.
    Refused,
}

fn signed_bytes(key: [u8; 32], number: u64) -> Vec<u8> {
    let mut bytes = [key, key, key, key].concat();
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes
}

impl Sample {
    /// A store of shards of these sizes in segments of `segment_bytes`, with records, statements and marks between.
    fn new(sizes: &[usize], segment_bytes: u64) -> Self {
        let disk = MemVfs::default();
        let config = StoreConfig { segment_bytes, trash_ms: 100, ..config() };
        let (mut writer, _) = writer_with(&disk, config).unwrap();
        let mut signed = BTreeMap::new();
        for (n, size) in sizes.iter().enumerate() {
            if n + 2 == sizes.len() {
                // So that later only what is damaged is worth compacting.
                compact(&mut writer).unwrap();
            }
            Self::add(&mut writer, n as u64, *size, &mut signed);
        }
        writer.finish();
        save(&writer).unwrap();
        drop(writer);
        Self::of(disk, config, signed)
    }

    fn add(writer: &mut Writer, n: u64, size: usize, signed: &mut BTreeMap<([u8; 32], u64), Vec<u8>>) {
        let bytes = payload(5000 + n, size);
        let id = *ShardId::of(&bytes).as_bytes();
        let holder = |n: u64| group(1 + (n % 3) as u8);
        let mut drafts = vec![put_draft(&bytes, holder(n))];
        if n.is_multiple_of(3) {
            drafts.push(Draft::mark(Kind::Ref, id, *holder(n + 1).as_bytes()));
        }
        if n.is_multiple_of(6) {
            drafts.push(Draft { number: 700, ..Draft::mark(Kind::Drop, id, *holder(n).as_bytes()) });
        }
        if n % 8 == 5 {
            drafts.push(Draft::mark(Kind::Tombstone, id, [0; 32]));
        }
        let name = holder(n);
        let (key, end) = ([0x81 + (n % 2) as u8; 32], u64::MAX - 100 + n);
        for (kind, key, number) in [(Kind::Record, key, n + 1), (Kind::Group, *name.as_bytes(), end)] {
            let bytes = signed_bytes(key, number);
            drafts.push(signed_draft(kind, key, name, number, &bytes));
            signed.insert((key, number), bytes);
        }
        let answers = writer.commit(drafts);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }

    /// Reads everything once, in good order.
    fn of(disk: MemVfs, config: StoreConfig, signed: BTreeMap<([u8; 32], u64), Vec<u8>>) -> Self {
        let (writer, _) = writer_with(&disk.fork(), config).unwrap();
        let shared = &writer.shared;
        let (mut shards, mut records, mut groups) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut places = Vec::new();
        let index = shared.index();
        for (_, slot) in index.shards.iter() {
            let file = shared.files.get(slot.segment).unwrap();
            let entry = read::read_header(file.as_ref(), &shared.codec, slot.segment, slot.offset()).unwrap();
            let (bytes, done) = stream(shared, &ShardId::from_bytes(entry.key)).unwrap();
            assert!(done.is_ok());
            shards.insert(entry.key, (bytes, index.groups_of(&entry.key, slot)));
            places.push((slot.segment, entry.offset..entry.end(), Thing::Shard(entry.key)));
        }
        for (key, versions) in &index.records {
            for place in versions.iter().flatten() {
                records.entry(*key).or_insert_with(Vec::new).push(place.number);
                let span = place.offset()..place.offset() + place.size();
                places.push((place.segment, span, Thing::Version(*key, place.number)));
            }
        }
        for state in index.groups.iter() {
            let Some(place) = state.place else { continue };
            groups.insert(state.id, place.number);
            places.push((place.segment, place.offset()..place.offset() + place.size(), Thing::Group(state.id)));
        }
        drop(index);
        Self { disk, config, shards, records, groups, signed, places }
    }

    /// All files but the one that only holds space back, with their bytes.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let paths = self.disk.paths().into_iter().filter(|path| !path.ends_with("reserve"));
        paths.map(|path| (path.clone(), self.disk.contents(&path).unwrap())).collect()
    }

    fn bytes(&self) -> usize {
        self.files().iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// What lies in these bytes.
    fn hit(&self, path: &Path, bytes: &Range<u64>) -> BTreeSet<Thing> {
        let overlaps = |span: &Range<u64>| span.start < bytes.end && bytes.start < span.end;
        let in_file =
            self.places.iter().filter(|(segment, span, _)| segment_path(data(), *segment) == path && overlaps(span));
        in_file.map(|(_, _, thing)| *thing).collect()
    }

    /// Everything that was not hit is there and right; whatever else is there is right too. `marks`: whether the holders
    /// of a shard are certain.
    fn look(&self, writer: &Writer, hit: &BTreeSet<Thing>, marks: bool, what: &str) {
        let shared = &writer.shared;
        for (key, (wanted, holders)) in &self.shards {
            let hit = hit.contains(&Thing::Shard(*key));
            match stream(shared, &ShardId::from_bytes(*key)) {
                None => assert!(hit, "{what}: shard {:02x} is gone", key[0]),
                Some((bytes, Ok(_))) => assert!(bytes == *wanted, "{what}: wrong bytes of shard {:02x}", key[0]),
                Some((bytes, Err(error))) => {
                    assert!(wanted.starts_with(&bytes), "{what}: wrong bytes of shard {:02x} before {error}", key[0]);
                    assert!(hit, "{what}: shard {:02x}: {error}", key[0]);
                }
            }
            if let Some(slot) = shared.find(key).filter(|_| marks && !hit) {
                assert_eq!(shared.index().groups_of(key, &slot), *holders, "{what}: holders of {:02x}", key[0]);
            }
        }
        for (key, wanted) in &self.records {
            let mut found = BTreeSet::new();
            for back in 0..2 {
                let place = shared.index().record(key, back);
                let Some(place) = place else { continue };
                match read::read_signed(&shared.files, &shared.codec, &place, Kind::Record, key) {
                    Ok(bytes) => {
                        assert_eq!(
                            Some(&bytes),
                            self.signed.get(&(*key, place.number)),
                            "{what}: record {:02x}",
                            key[0]
                        );
                        found.insert(place.number);
                    }
                    Err(error) => {
                        let hit = hit.contains(&Thing::Version(*key, place.number));
                        assert!(hit, "{what}: version {} of {:02x}: {error}", place.number, key[0]);
                    }
                }
            }
            for number in wanted.iter().filter(|number| !hit.contains(&Thing::Version(*key, **number))) {
                assert!(found.contains(number), "{what}: version {number} of {:02x} is gone", key[0]);
            }
        }
        for (id, end) in &self.groups {
            let hit = hit.contains(&Thing::Group(*id));
            let Some(place) = shared.index().group(id) else {
                assert!(hit, "{what}: group {:02x} is gone", id[0]);
                continue;
            };
            match read::read_signed(&shared.files, &shared.codec, &place, Kind::Group, id) {
                Ok(bytes) => {
                    assert_eq!(Some(&bytes), self.signed.get(&(*id, place.number)), "{what}: group {:02x}", id[0])
                }
                Err(error) => assert!(hit, "{what}: group {:02x}: {error}", id[0]),
            }
            assert!(hit || place.number == *end, "{what}: group {:02x} went back", id[0]);
        }
    }

    /// The claims of this file for some flips, made while the store is closed or right after it was opened.
    fn rot(&self, flips: &[Flip], while_open: bool, what: &str) -> Came {
        let disk = self.disk.fork();
        let flip = || flips.iter().for_each(|flip| disk.rot(&flip.path, flip.at, flip.mask));
        let on = |name: &str| flips.iter().any(|flip| flip.path == data().join(name));
        if !while_open {
            flip();
        }
        let before: Vec<Option<u8>> = flips.iter().map(|flip| byte(&disk, flip)).collect();
        let (mut writer, report) = match writer_with(&disk, self.config) {
            Ok(opened) => opened,
            Err(error) => {
                let keys = on("store.key") && on("store.key.copy");
                let expected = keys && matches!(error, OpenError::KeyDamaged(_));
                assert!(expected && !while_open, "{what}: does not open: {error:?}");
                return Came::Refused;
            }
        };
        if while_open {
            flip();
        }
        let left = |(flip, before): (&Flip, &Option<u8>)| {
            byte(&disk, flip).is_some() && (while_open || byte(&disk, flip) == *before)
        };
        let left: Vec<&Flip> = flips.iter().zip(&before).filter(|pair| left(*pair)).map(|(flip, _)| flip).collect();
        let hit: BTreeSet<Thing> =
            flips.iter().flat_map(|flip| self.hit(&flip.path, &(flip.at..flip.at + 1))).collect();
        // Without the snapshot a mark that is hit may be missed; with it, it is known.
        let marks = while_open || flips.len() == 1 || !on("index");
        self.look(&writer, &hit, marks, &format!("{what}, opened"));
        let found = scrub(&mut writer).unwrap_or_else(|error| panic!("{what}: scrub: {error}"));
        let noticed = found.damaged > 0 || report.quarantined > 0 || report.torn_bytes > 0;
        assert!(noticed || left.is_empty(), "{what}: not found: {found:?}, {report:?}");
        compact(&mut writer).unwrap_or_else(|error| panic!("{what}: compaction: {error}"));
        self.look(&writer, &hit, marks, &format!("{what}, compacted"));
        for flip in left.iter().filter(|flip| flip.path.extension().is_some_and(|end| end == "seg")) {
            assert!(disk.contents(&flip.path).is_none(), "{what}: the damaged segment is still there");
        }
        // It is a third of the time: for the short budget every fourth time will do.
        if is_long() || flips[0].at.is_multiple_of(4) {
            let again = scrub(&mut writer).unwrap();
            assert_eq!(Found { records: 0, bytes: 0, ..again }, Found::default(), "{what}: found again");
        }
        if flips.len() == 1 {
            for (key, _) in self.shards.iter().filter(|(key, _)| writer.shared.find(key).is_none()) {
                assert!(writer.shared.index().losses.contains_key(key), "{what}: {:02x} is lost in silence", key[0]);
            }
        }
        if flips.iter().map(|flip| flip.at).sum::<u64>().is_multiple_of(16) {
            finish(writer);
            let (writer, _) = writer_with(&disk, self.config).unwrap();
            self.look(&writer, &hit, marks, &format!("{what}, opened again"));
            consistent(&writer, what);
        }
        Came::Through
    }
}

fn byte(disk: &MemVfs, flip: &Flip) -> Option<u8> {
    disk.contents(&flip.path)?.get(flip.at as usize).copied()
}

fn small() -> Sample {
    Sample::new(
        &[1, 60, 700, 2500, 40, 1500, 20_000, 300, 4000, 1000, 6000, 128, 5000, 64, 3000, 900, 5500, 200, 1700],
        9 * 1024,
    )
}

/// Never 0, and every bit has its turn.
fn mask(at: u64) -> u8 {
    (at as u8).wrapping_mul(37) | 1 << (at / 8 % 8)
}

fn every_byte(while_open: bool) {
    let sample = small();
    let started = std::time::Instant::now();
    let (mut count, mut refused) = (0u64, 0u64);
    for (path, bytes) in sample.files() {
        for at in 0..bytes.len() as u64 {
            if !is_long() && at.is_multiple_of(2) == while_open {
                // Two neighbours share the two ways, unless there is time for both.
                continue;
            }
            let flip = Flip { path: path.clone(), at, mask: mask(at) };
            let what = format!("{} byte {at} mask {:#04x}, open {while_open}", path.display(), flip.mask);
            refused += u64::from(sample.rot(&[flip], while_open, &what) == Came::Refused);
            count += 1;
        }
    }
    eprintln!(
        "{count} bytes of {} files flipped, open {while_open}: {refused} refused, {:?}",
        sample.files().len(),
        started.elapsed()
    );
    assert!(count > if is_long() { 60_000 } else { 30_000 }, "only {count} bytes");
    assert!(sample.files().len() >= 8, "too few segments");
}

#[test]
fn every_byte_of_a_closed_store_may_rot() {
    every_byte(false);
}

#[test]
fn every_byte_of_an_open_store_may_rot() {
    every_byte(true);
}

#[test]
fn many_bytes_of_a_larger_store_may_rot_at_once() {
    let sizes: Vec<usize> = (0..80).map(|n| 100 + n * 7919 % 26_000).collect();
    let sample = Sample::new(&sizes, 96 * 1024);
    let files = sample.files();
    let wanted = if is_long() { 1_000_000 } else { 20_000 };
    let started = std::time::Instant::now();
    let (mut flipped, mut stores, mut refused) = (0, 0u64, 0u64);
    for seed in 0.. {
        if flipped >= wanted {
            break;
        }
        let mut random = Random::new(seed);
        let mut flips = Vec::new();
        for _ in 0..8 + random.below(80) {
            let mut at = random.below(sample.bytes() as u64);
            for (path, bytes) in &files {
                if at < bytes.len() as u64 {
                    // One byte once: the same bit flipped twice is as it was.
                    if !flips.iter().any(|flip: &Flip| flip.path == *path && flip.at == at) {
                        flips.push(Flip { path: path.clone(), at, mask: 1 << random.below(8) });
                    }
                    break;
                }
                at -= bytes.len() as u64;
            }
        }
        flipped += flips.len();
        stores += 1;
        let came = sample.rot(&flips, seed % 2 == 1, &format!("seed {seed}"));
        refused += u64::from(came == Came::Refused);
    }
    let bytes = sample.bytes();
    eprintln!("{flipped} flips in {stores} stores of {bytes} bytes: {refused} refused, {:?}", started.elapsed());
    assert!(refused < stores / 2, "too few come through to prove anything");
}

#[test]
fn a_segment_with_a_damaged_record_and_a_damaged_footer_is_removed() {
    let sample = small();
    let (segment, span, _) = sample.places.iter().find(|(.., thing)| matches!(thing, Thing::Shard(_))).unwrap();
    let path = segment_path(data(), *segment);
    let last = sample.disk.contents(&path).unwrap().len() as u64 - 1;
    let disk = sample.disk.fork();
    let (mut writer, _) = writer_with(&disk, sample.config).unwrap();
    disk.rot(&path, span.start, 1);
    disk.rot(&path, last, 1);
    assert!(scrub(&mut writer).unwrap().damaged > 0);
    compact(&mut writer).unwrap();
    assert!(disk.contents(&path).is_none());
}

#[test]
fn a_record_damaged_before_its_segment_was_sealed_does_not_keep_the_segment() {
    let sample = small();
    let disk = sample.disk.fork();
    let last = disk.paths().into_iter().rfind(|path| path.extension().is_some_and(|end| end == "seg")).unwrap();
    let number = segment_number(last.file_name().unwrap().to_str().unwrap()).unwrap();
    let put = sample.places.iter().find(|(segment, _, thing)| *segment == number && matches!(thing, Thing::Shard(_)));
    // With its footer damaged the last segment is scanned, a shard the snapshot knows is missed, and a footer is made
    // without it.
    disk.rot(&last, put.unwrap().1.start, 1);
    disk.rot(&last, disk.contents(&last).unwrap().len() as u64 - 1, 1);
    let (mut writer, _) = writer_with(&disk, sample.config).unwrap();
    scrub(&mut writer).unwrap();
    compact(&mut writer).unwrap();
    assert!(disk.contents(&last).is_none());
}

#[test]
fn forged_records_in_a_payload_stay_payload_when_its_own_header_rots() {
    let disk = MemVfs::default();
    let (mut writer, _) = writer_with(&disk, config()).unwrap();
    let mut signed = BTreeMap::new();
    (0..8).for_each(|n| Sample::add(&mut writer, n, 300 + 700 * n as usize, &mut signed));
    writer.end_segment(0);
    // The payload of the next record begins at the same place of the next segment as the second unit of this one.
    let first = disk.contents(&segment_path(data(), 0)).unwrap();
    let begin = 64 + HEADER_BYTES;
    let stranger = record::tests::codec();
    let victim = *ShardId::of(&payload(5000, 300)).as_bytes();
    let mut forged = first[begin..].to_vec();
    forged.resize(forged.len().next_multiple_of(64), 0);
    for n in 0..64 {
        let mark = Entry {
            kind: Kind::Tombstone,
            key: victim,
            group: [0; 32],
            payload: 0,
            outboard: 0,
            number: 0,
            sequence: u64::MAX / 2 + n,
            offset: (begin + forged.len()) as u64,
        };
        forged.extend_from_slice(&stranger.header(&mark, 1));
        forged.extend_from_slice(&[0; 64]);
    }
    // True records of this store from another place, marks among them, at every alignment.
    first[64..].chunks(64).step_by(3).for_each(|unit| forged.extend_from_slice(unit));
    forged.extend_from_slice(&first);
    let forged = Bytes::from(forged);
    let id = ShardId::of(&forged);
    assert_eq!(writer.commit(vec![put_draft(&forged, group(1))])[0], Ok(Stored::New));
    assert_eq!(writer.commit(vec![put_draft(&payload(9, 500), group(1))])[0], Ok(Stored::New));
    let before = writer.shared.index().shards();
    drop(writer);
    let sample = Sample::of(disk.fork(), config(), signed);
    let path = segment_path(data(), 1);
    for at in 64..begin as u64 {
        let rotten = sample.disk.fork();
        rotten.rot(&path, at, mask(at));
        let what = format!("byte {at} of the header of the forgery");
        let (mut writer, report) = writer_with(&rotten, config()).unwrap();
        assert_eq!((report.quarantined, report.records), (1, report.records), "{what}");
        let hit = BTreeSet::from([Thing::Shard(*id.as_bytes())]);
        for _ in 0..2 {
            sample.look(&writer, &hit, true, &what);
            assert_eq!(writer.shared.index().shards(), before - 1, "{what}");
            assert!(writer.shared.find(id.as_bytes()).is_none(), "{what}");
            scrub(&mut writer).unwrap();
            compact(&mut writer).unwrap();
        }
        consistent(&writer, &what);
    }
}

/// The store of `sample` with what its orderly end left taken away: no snapshot, the last segment without a footer.
fn killed(sample: &Sample) -> MemVfs {
    let disk = sample.disk.fork();
    let (writer, _) = writer_with(&disk, sample.config).unwrap();
    drop(writer);
    disk.set_contents(&data().join("index"), b"");
    disk
}

#[test]
fn a_sector_that_does_not_read_costs_what_lies_in_it_and_truncates_nothing() {
    let sample = small();
    let mut tried = 0;
    for disk in [sample.disk.fork(), killed(&sample)] {
        let files = disk.paths().into_iter().filter(|path| path.extension().is_some_and(|end| end == "seg"));
        for path in files.collect::<Vec<_>>() {
            let length = disk.contents(&path).unwrap().len() as u64;
            for start in (0..length).step_by(512) {
                let what = format!("{} sector at {start}", path.display());
                let disk = disk.fork();
                let bytes = start..start + 512;
                // One page is given up at a time, so its neighbours in it may be missed until it reads again.
                let page = start.saturating_sub(4096)..start + 4608;
                let bad = BadSectors::new(&disk, &path, bytes);
                let open = |disk: &BadSectors| prepare(Arc::new(disk.clone()), data(), sample.config, &[3; 32]);
                let hit = sample.hit(&path, &page);
                let (writer, _) = open(&bad).unwrap_or_else(|error| panic!("{what}: {error:?}"));
                sample.look(&writer, &hit, false, &what);
                drop(writer);
                bad.heal();
                let (writer, _) = open(&bad).unwrap();
                sample.look(&writer, &BTreeSet::new(), true, &format!("{what}, healed"));
                drop(writer);
                let bad = BadSectors::new(&disk, &path, start..start + 512);
                let (mut writer, _) = open(&bad).unwrap();
                let found = scrub(&mut writer).unwrap_or_else(|error| panic!("{what}: scrub: {error}"));
                let done = compact(&mut writer);
                assert!(done.is_ok(), "{what}: {found:?} {done:?}");
                sample.look(&writer, &hit, false, &format!("{what}, scrubbed"));
                tried += 1;
            }
        }
    }
    eprintln!("{tried} sectors that do not read");
    assert!(tried > 150);
}

#[test]
fn a_disk_that_reads_nothing_for_a_while_loses_nothing() {
    let sample = small();
    for after in 0..120 {
        let disk = sample.disk.fork();
        let (mut writer, _) = writer_with(&disk, sample.config).unwrap();
        let lengths = |disk: &MemVfs| -> Vec<usize> {
            sample.files().iter().map(|(path, _)| disk.contents(path).map_or(0, |bytes| bytes.len())).collect()
        };
        let before = lengths(&disk);
        disk.fail_operation(after, Fault { error: FaultError::Io, lasting: true });
        if scrub(&mut writer).is_ok() {
            assert!(after > 80, "after {after}: a scrub that read nothing ended well");
            break;
        }
        let _ = compact(&mut writer);
        disk.heal();
        sample.look(&writer, &BTreeSet::new(), true, &format!("after {after}"));
        let kept = lengths(&disk).iter().zip(&before).all(|(now, before)| now >= before);
        assert!(kept, "after {after}: a file is shorter");
        assert!(writer.shared.index().losses.is_empty(), "after {after}");
        drop(writer);
        sample.look(
            &writer_with(&disk, sample.config).unwrap().0,
            &BTreeSet::new(),
            true,
            &format!("after {after}, reopened"),
        );
    }
}
