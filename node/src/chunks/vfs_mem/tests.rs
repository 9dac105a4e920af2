//! Tests of the simulated disk: what a crash may keep, and that each fault hits what it was asked to hit.
//!
//! They never depend on time; every choice comes from a seed.

use std::collections::BTreeSet;

use super::*;
use crate::chunks::random::Random;
use crate::chunks::vfs::write_at;

const DIR: &str = "/d";

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// A disk with a durable file of these bytes, and the file.
fn disk_with(bytes: &[u8]) -> (MemVfs, Arc<dyn VfsFile>) {
    let vfs = MemVfs::default();
    let file = vfs.open(&path("file"), OpenMode::Create).unwrap();
    write_at(file.as_ref(), bytes, 0).unwrap();
    file.sync_all().unwrap();
    vfs.sync_dir(Path::new(DIR)).unwrap();
    (vfs, file)
}

/// The file after a crash of a fork, for each of many seeds.
fn after_crashes(vfs: &MemVfs) -> impl Iterator<Item = Vec<u8>> {
    (0..400).map(|seed| {
        let fork = vfs.fork();
        fork.crash(seed);
        fork.contents(&path("file")).unwrap()
    })
}

#[test]
fn synced_bytes_survive_every_crash_and_unsynced_ones_sometimes() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..200 {
        let (vfs, file) = disk_with(&[1; 2048]);
        write_at(file.as_ref(), &[2; 2048], 2048).unwrap();

        vfs.crash(seed);

        let bytes = vfs.contents(&path("file")).unwrap();
        assert_eq!(bytes.get(..2048), Some(&[1; 2048][..]), "seed {seed}");
        if bytes.len() == 4096 && bytes.ends_with(&[2; 2048]) {
            kept += 1;
        } else {
            lost += 1;
        }
        assert!(file.length().is_err(), "an old handle is dead");
    }
    assert!(kept > 10 && lost > 10, "{kept} {lost}");
}

#[test]
fn an_unsynced_rename_is_kept_or_lost_as_a_whole() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..50 {
        let vfs = MemVfs::default();
        let (a, b) = (path("a"), path("b"));
        vfs.open(&a, OpenMode::Create).unwrap().sync_all().unwrap();
        vfs.sync_dir(Path::new(DIR)).unwrap();
        vfs.rename(&a, &b).unwrap();
        vfs.crash(seed);
        match vfs.list(Path::new(DIR)).unwrap().as_slice() {
            [name] if name == "a" => old += 1,
            [name] if name == "b" => new += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(old > 0 && new > 0);
}

#[test]
fn no_crash_loses_a_file_that_was_only_renamed() {
    let mut seen = BTreeSet::new();
    let (vfs, _) = disk_with(b"old");
    vfs.rename(&path("file"), &path("kept")).unwrap();
    let new = vfs.open(&path("file"), OpenMode::Create).unwrap();
    write_at(new.as_ref(), b"new", 0).unwrap();
    new.sync_all().unwrap();
    for seed in 0..100 {
        let fork = vfs.fork();
        fork.crash(seed);
        let all: Vec<_> = fork.paths().iter().map(|path| fork.contents(path).unwrap()).collect();
        assert!(all.contains(&b"old".to_vec()), "seed {seed}");
        seen.insert(fork.paths());
    }
    assert_eq!(seen.len(), 3, "old name only, new name only, both: {seen:?}");

    vfs.sync_dir(Path::new(DIR)).unwrap();
    vfs.remove(&path("kept")).unwrap();
    let left: BTreeSet<_> = (0..50).map(|seed| crashed(&vfs, seed).paths().len()).collect();
    assert_eq!(left, BTreeSet::from([1, 2]), "a removal is lost or kept");
}

fn crashed(vfs: &MemVfs, seed: u64) -> MemVfs {
    let fork = vfs.fork();
    fork.crash(seed);
    fork
}

#[test]
fn capacity_and_injected_errors() {
    let vfs = MemVfs::default();
    vfs.set_capacity(Some(1000));
    let file = vfs.open(Path::new("/f"), OpenMode::Create).unwrap();
    assert_eq!(file.allocate(1001).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.allocate(1000).unwrap();
    assert_eq!(vfs.free_bytes(Path::new("/")).unwrap(), 0);
    vfs.fail_write_after(1);
    write_at(file.as_ref(), b"a", 0).unwrap();
    assert_eq!(write_at(file.as_ref(), b"a", 0).unwrap_err().raw_os_error(), Some(5));
    write_at(file.as_ref(), b"a", 0).unwrap();
    vfs.fail_sync_after(0);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    vfs.cut_power_after(1);
    write_at(file.as_ref(), b"b", 0).unwrap();
    assert!(write_at(file.as_ref(), b"b", 0).is_err());
    assert!(file.sync_data().is_err());
}

#[test]
fn every_subset_of_two_writes_in_one_sector_is_seen() {
    let (vfs, file) = disk_with(&[0; 512]);
    write_at(file.as_ref(), &[1; 20], 10).unwrap();
    write_at(file.as_ref(), &[2; 20], 20).unwrap();
    let seen: BTreeSet<_> =
        after_crashes(&vfs).map(|bytes| (bytes[10], bytes[25], bytes[35], bytes[9], bytes[40])).collect();
    let expected = [(0, 0, 0, 0, 0), (1, 1, 0, 0, 0), (0, 2, 2, 0, 0), (1, 2, 2, 0, 0)];
    assert_eq!(seen, BTreeSet::from(expected));
}

#[test]
fn many_writes_of_one_sector_are_merged_and_none_is_torn_or_out_of_order() {
    let (vfs, file) = disk_with(&[0; 512]);
    for number in 1..=100_u8 {
        write_at(file.as_ref(), &[number; 4], u64::from(number) * 4).unwrap();
        write_at(file.as_ref(), &[number; 4], 0).unwrap();
    }
    let mut all = 0;
    for bytes in after_crashes(&vfs) {
        assert_eq!(bytes[..4], [bytes[0]; 4]);
        for number in 1..=100_u8 {
            let start = usize::from(number) * 4;
            let kept = &bytes[start..start + 4];
            assert!(kept == [0; 4] || kept == [number; 4]);
        }
        let merged: BTreeSet<bool> = (1..=91).map(|number| bytes[number * 4] != 0).collect();
        assert_eq!(merged.len(), 1, "the oldest survive together");
        all += usize::from(bytes[400] == 100 && bytes[0] == 100 && bytes[4] == 1);
    }
    assert!(all > 10);
    file.sync_data().unwrap();
    assert_eq!(after_crashes(&vfs).collect::<BTreeSet<_>>().into_iter().next(), vfs.contents(&path("file")));
}

#[test]
fn a_crash_keeps_any_length_on_the_way() {
    let (vfs, file) = disk_with(&[7; 1000]);
    file.set_length(5000).unwrap();
    file.set_length(3000).unwrap();
    file.set_length(4000).unwrap();
    let seen: BTreeSet<_> = after_crashes(&vfs).map(|bytes| bytes.len()).collect();
    for length in [1000, 5000, 3000, 4000] {
        assert!(seen.contains(&length), "{length}");
    }
    assert!(seen.len() > 10, "any length between");
    assert!(after_crashes(&vfs).all(|bytes| bytes[..1000] == [7; 1000] && bytes[1000..].iter().all(|byte| *byte == 0)));
    file.sync_data().unwrap();
    assert!(after_crashes(&vfs).all(|bytes| bytes.len() == 4000));
}

#[test]
fn a_cut_zeros_what_lies_beyond_and_may_be_lost() {
    let (vfs, file) = disk_with(&[7; 2000]);
    file.set_length(700).unwrap();
    file.set_length(2000).unwrap();
    let cut: Vec<u8> = [[7; 700].as_slice(), &[0; 1300]].concat();
    assert_eq!(vfs.contents(&path("file")).unwrap(), cut);
    let seen: BTreeSet<_> = after_crashes(&vfs).filter(|bytes| bytes.len() == 2000).collect();
    assert_eq!(seen, BTreeSet::from([cut.clone(), vec![7; 2000]]), "kept or lost as a whole");
    assert!(after_crashes(&vfs).any(|bytes| bytes == [7; 700]));

    // Writes after the cut are kept apart from it, and bytes written before it never come back behind it.
    write_at(file.as_ref(), &[8; 10], 1990).unwrap();
    for bytes in after_crashes(&vfs).filter(|bytes| bytes.len() == 2000) {
        assert!(bytes[700..1990] == [0; 1290] || bytes[700..1990] == [7; 1290]);
    }
    file.sync_data().unwrap();
    assert!(after_crashes(&vfs).all(|bytes| bytes[700..1990] == [0; 1290] && bytes[1990..] == [8; 10]));
}

/// Whatever mixture of operations ran, a sync makes exactly the live view durable, and a crash without one keeps only
/// bytes that were once there.
#[test]
fn what_was_seen_at_a_sync_survives() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (vfs, file) = disk_with(&[1; 900]);
        let mut model = vec![1; 900];
        let mut written = vec![BTreeSet::from([0, 1]); 1600];
        for step in 0..120_u8 {
            let offset = usize::try_from(random.below(1500)).unwrap();
            if random.below(5) == 0 {
                model.resize(offset, 0);
                file.set_length(offset as u64).unwrap();
            } else {
                let length = usize::try_from(random.below(60)).unwrap() + 1;
                model.resize(model.len().max(offset + length), 0);
                model[offset..offset + length].fill(step);
                written[offset..offset + length].iter_mut().for_each(|values| values.extend([step]));
                write_at(file.as_ref(), &vec![step; length], offset as u64).unwrap();
            }
            assert_eq!(vfs.contents(&path("file")).unwrap(), model, "seed {seed} step {step}");
        }
        for kept in (0..20).map(|crash| crashed(&vfs, crash).contents(&path("file")).unwrap()) {
            assert!(kept.len() < 1600 && kept.iter().zip(&written).all(|(byte, values)| values.contains(byte)));
        }
        file.sync_data().unwrap();
        assert_eq!(crashed(&vfs, seed).contents(&path("file")).unwrap(), model, "seed {seed}");
    }
}

#[test]
fn a_failed_sync_loses_bytes_that_are_still_seen_until_they_are_written_again() {
    let (vfs, file) = disk_with(&[1; 1024]);
    write_at(file.as_ref(), &[2; 1024], 0).unwrap();
    vfs.fail_sync_after(0);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(vfs.contents(&path("file")).unwrap(), [2; 1024], "readers still see them");
    assert!(after_crashes(&vfs).all(|bytes| bytes == [1; 1024]), "a later sync does not bring them back");

    write_at(file.as_ref(), &[2; 1024], 0).unwrap();
    file.sync_data().unwrap();
    assert!(after_crashes(&vfs).all(|bytes| bytes == [2; 1024]), "the same bytes written again are pending again");
}

/// A little workload; stops at nothing and gives the kind of error of each operation.
fn workload(vfs: &MemVfs) -> Vec<Option<io::ErrorKind>> {
    let dir = Path::new(DIR);
    let (a, b) = (path("a"), path("b"));
    let mut seen = Vec::new();
    let mut note = |result: io::Result<()>| seen.push(result.err().map(|error| error.kind()));
    note(vfs.create_dir(dir));
    note(vfs.lock(dir).map(drop));
    note(vfs.list(dir).map(drop));
    note(vfs.open(&a, OpenMode::Create).map(drop));
    note(vfs.rename(&a, &b));
    note(vfs.open(&path("file"), OpenMode::Read).map(drop));
    let opened = vfs.open(&path("file"), OpenMode::Write);
    note(opened.as_ref().map(drop).map_err(|error| error.kind().into()));
    if let Ok(file) = opened {
        note(file.length().map(drop));
        note(file.allocate(4000));
        note(write_at(file.as_ref(), &[3; 600], 100));
        note(file.read_exact_at(&mut [0; 10], 0));
        note(file.set_length(3000));
        note(file.sync_data());
        note(file.sync_all());
    }
    note(vfs.sync_dir(dir));
    note(vfs.remove(&b));
    note(vfs.free_bytes(dir).map(drop));
    seen
}

#[test]
fn a_fault_hits_exactly_the_operation_it_was_asked_for() {
    let kinds = {
        let (vfs, _file) = disk_with(&[1; 1000]);
        vfs.record_trace();
        assert!(workload(&vfs).iter().all(Option::is_none));
        vfs.trace()
    };
    assert_eq!(kinds.len(), 17);
    assert_eq!(kinds.iter().map(|operation| operation.kind).collect::<BTreeSet<_>>().len(), 17, "every kind once");
    assert_eq!(kinds[4], Operation { kind: OperationKind::Rename, path: path("a") });
    assert_eq!(kinds.iter().filter(|operation| operation.kind.changes()).count(), 10);
    for number in 0..17_usize {
        let (vfs, _file) = disk_with(&[1; 1000]);
        let before = vfs.operations();
        vfs.fail_operation(number as u64, Fault { error: FaultError::NoSpace, lasting: false });
        let seen = workload(&vfs);
        // What needs the file that this one did not make or name finds none.
        let full = |index: &usize| seen[*index] == Some(io::ErrorKind::StorageFull);
        let failed: Vec<_> = (0..seen.len()).filter(full).collect();
        assert_eq!(failed, [number]);
        assert_eq!(seen[number], Some(io::ErrorKind::StorageFull));
        assert_eq!(vfs.operations() - before, seen.len() as u64);
    }
}

#[test]
fn a_lasting_fault_hits_its_group_until_healed() {
    use OperationKind::{Allocate, List, Read, SetLength, SyncAll, SyncData, SyncDir, Write};
    for (first, group) in [
        (9, vec![Write, SetLength]),
        (8, vec![Allocate, Write, SetLength]),
        (12, vec![SyncData, SyncAll, SyncDir]),
        (10, vec![Read, OperationKind::Free]),
    ] {
        let (vfs, _file) = disk_with(&[1; 1000]);
        vfs.record_trace();
        vfs.fail_operation(first, Fault { error: FaultError::Io, lasting: true });
        let seen = workload(&vfs);
        let failed = vfs.trace().into_iter().zip(&seen).filter(|(_, error)| error.is_some());
        assert_eq!(failed.map(|(operation, _)| operation.kind).collect::<Vec<_>>(), group);
        vfs.crash(0);
        assert_eq!(vfs.list(Path::new(DIR)).is_err(), group.contains(&Read) || group.contains(&List));
        vfs.heal();
        assert!(workload(&vfs).iter().all(Option::is_none));
    }
}

#[test]
fn a_failed_write_leaves_half_of_its_bytes() {
    let (vfs, file) = disk_with(&[1; 100]);
    vfs.fail_operation(1, Fault { error: FaultError::Io, lasting: false });
    write_at(file.as_ref(), &[2; 10], 0).unwrap();
    assert_eq!(write_at(file.as_ref(), &[3; 50], 100).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(vfs.contents(&path("file")).unwrap(), [&[2; 10][..], &[1; 90], &[3; 25]].concat());
}

#[test]
fn the_disk_fills_at_the_exact_byte() {
    for limit in 0..=300_usize {
        let (vfs, file) = disk_with(&[]);
        vfs.fill_at_byte(limit as u64);
        let results: Vec<bool> =
            (0..3).map(|step| write_at(file.as_ref(), &[step + 1; 100], u64::from(step) * 100).is_ok()).collect();
        assert_eq!(results, [limit >= 100, limit >= 200, limit >= 300]);
        let bytes = vfs.contents(&path("file")).unwrap();
        assert_eq!(bytes.len(), limit);
        let full = limit < 300;
        assert_eq!(vfs.free_bytes(Path::new(DIR)).unwrap() == 0, full);
        if full {
            assert_eq!(file.allocate(limit as u64 + 1).unwrap_err().kind(), io::ErrorKind::StorageFull);
            write_at(file.as_ref(), &bytes, 0).unwrap();
        }
        vfs.heal();
        file.allocate(limit as u64 + 1).unwrap();
        write_at(file.as_ref(), &[9; 1000], 0).unwrap();
    }
}

#[test]
fn a_new_capacity_ends_a_full_disk() {
    let (vfs, file) = disk_with(&[1; 10]);
    vfs.fill_at_byte(5);
    assert!(write_at(file.as_ref(), &[2; 10], 10).is_err());
    assert!(file.set_length(16).is_err());
    vfs.set_capacity(Some(16));
    file.set_length(16).unwrap();
    assert!(file.set_length(17).is_err());
}

#[test]
fn crash_points_are_disks_of_their_own() {
    let (vfs, file) = disk_with(&[1; 600]);
    vfs.record_points();
    write_at(file.as_ref(), &[2; 600], 0).unwrap();
    file.read_exact_at(&mut [0; 1], 0).unwrap();
    file.sync_data().unwrap();
    let acknowledged = vfs.points();
    vfs.rename(&path("file"), &path("other")).unwrap();
    let points = vfs.take_points();
    assert_eq!((acknowledged, points.len(), vfs.points()), (2, 3, 0));
    let kinds: Vec<_> = points.iter().map(|point| point.operation.kind).collect();
    assert_eq!(kinds, [OperationKind::Write, OperationKind::SyncData, OperationKind::Rename]);

    let states: BTreeSet<_> = after_crashes(&points[1].disk).collect();
    assert!(states.contains(&vec![1; 600]) && states.contains(&vec![2; 600]), "its writes are still unsynced");
    assert!(after_crashes(&points[0].disk).all(|bytes| bytes == [1; 600]));
    assert!(after_crashes(&points[2].disk).all(|bytes| bytes == [2; 600]), "synced before the point");

    // Opened, changed and crashed without any effect on the others.
    let reopened = points[0].disk.open(&path("file"), OpenMode::Write).unwrap();
    write_at(reopened.as_ref(), &[9; 600], 0).unwrap();
    reopened.sync_all().unwrap();
    points[0].disk.crash(1);
    assert_eq!(points[1].disk.contents(&path("file")).unwrap(), [2; 600]);
    assert_eq!(vfs.contents(&path("other")).unwrap(), [2; 600]);
    assert_eq!(points[0].disk.points(), 0);
}

#[test]
fn big_and_many_cost_little() {
    let (vfs, file) = disk_with(&[1; 100]);
    file.allocate(1 << 40).unwrap();
    file.sync_all().unwrap();
    vfs.record_points();
    file.set_length(200_000).unwrap();
    write_at(file.as_ref(), &vec![5; 200_000], 0).unwrap();
    for step in 0..300_u64 {
        write_at(file.as_ref(), &[6; 700], step * 600).unwrap();
    }
    let points = vfs.take_points();
    assert_eq!(points.len(), 302);
    assert_eq!(points[0].disk.fork().contents(&path("none")), None);
    for (step, point) in (0..300_usize).zip(&points[2..]) {
        let bytes = point.disk.contents(&path("file")).unwrap();
        let end = if step == 0 { 0 } else { step * 600 + 100 };
        assert!(bytes[..end].iter().all(|byte| *byte == 6) && bytes[end..].iter().all(|byte| *byte == 5));
    }
}

#[test]
fn rot_flips_the_byte_durable_and_live() {
    let (vfs, file) = disk_with(&[1; 1000]);
    write_at(file.as_ref(), &[4; 10], 600).unwrap();
    vfs.rot(&path("file"), 3, 0x80);
    vfs.rot(&path("file"), 605, 0x80);
    vfs.rot(&path("file"), 1000, 0xff);
    let live = vfs.contents(&path("file")).unwrap();
    assert_eq!((live[3], live[605], live.len()), (0x81, 0x84, 1000));
    assert!(after_crashes(&vfs).all(|bytes| bytes[3] == 0x81 && [0x81, 0x84].contains(&bytes[605])));
    file.sync_data().unwrap();
    assert!(after_crashes(&vfs).all(|bytes| bytes == live));
    vfs.set_contents(&path("file"), b"other");
    assert!(after_crashes(&vfs).all(|bytes| bytes == b"other"));
}
