//! Records and manifest files: round trips, every flipped bit, wrong keys, wrong passwords, pages that do not belong.

use shoal_protocol::codec::encode;
use shoal_protocol::limits::RECORD_MAX;
use shoal_protocol::record::{RecordKind, link};
use shoal_protocol::signed::Forged;

use super::*;

fn open_own(signed: &[u8]) -> Result<Opened<OwnerRecord>, RecordError> {
    open_owner(signed, &network(), &owner(), &root().locator())
}

fn open_place(signed: &[u8]) -> Result<Opened<PlacementRecord>, RecordError> {
    let verify = root().read().verify();
    let steward = PublicKey::from_bytes(verify.steward_signer().verifying_key().to_bytes());
    open_placement(signed, 0, &network(), &file_id(), &steward, &verify)
}

#[test]
fn a_valid_manifest_is_summed_up() {
    let bytes = upload().manifest().encode().unwrap();
    let summary = validate(&bytes, PASSWORD).unwrap();
    assert_eq!((summary.file, summary.network, summary.code.to_string().as_str()), (file_id(), network(), "2+1"));
    assert_eq!((summary.owner_version, summary.placement_version, summary.passwords, summary.holders), (1, 1, 1, 3));
    let tree = summary.tree.unwrap();
    assert_eq!((tree.files, tree.directories, tree.links, tree.content_bytes), (3, 1, 1, 5005));
    assert_eq!((tree.segments, tree.pages, tree.shards), (1, 1, 6));
    assert!(tree.stream_bytes >= 5000);
    assert_eq!(ManifestFile::decode(&bytes).unwrap().encode().unwrap(), bytes);
}

#[test]
fn without_cached_pages_the_records_are_checked() {
    let manifest = ManifestFile { pages: vec![], ..upload().manifest() };
    assert_eq!(validate(&manifest.encode().unwrap(), PASSWORD).unwrap().tree, None);
}

#[test]
fn wrong_password_is_told_from_damage() {
    let bytes = upload().manifest().encode().unwrap();
    let error = validate(&bytes, b"wrong").unwrap_err();
    assert_eq!((error.clone(), error.retryable()), (ValidateError::WrongPassword, true));
    let mut bad = bytes;
    bad[100] ^= 1;
    assert_eq!(validate(&bad, PASSWORD), Err(Damage::File(FileError::Checksum).into()));
}

#[test]
fn every_flipped_bit_of_a_file_is_found_without_a_password() {
    let bytes = upload().manifest().encode().unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let error = ManifestFile::decode(&bad).unwrap_err();
        assert!(matches!(error, FileError::Checksum | FileError::Magic), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(ManifestFile::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
    assert!(ManifestFile::decode(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn newer_formats_and_giants_are_refused() {
    let mut bytes = upload().manifest().encode().unwrap();
    bytes.truncate(bytes.len() - 32);
    bytes[8] = 2;
    bytes.extend_from_slice(&derive(shoal_protocol::hash::MANIFEST_FILE, &[&bytes]));
    assert_eq!(validate(&bytes, PASSWORD), Err(ValidateError::Version(2)));
    assert_eq!(ManifestFile::decode(&vec![0; MANIFEST_MAX + 1]).unwrap_err(), FileError::TooLarge(MANIFEST_MAX + 1));
    let big = ManifestFile { owner_record: vec![0; RECORD_MAX + 1], ..upload().manifest() };
    assert!(matches!(big.encode(), Err(FileError::Field(_))));
}

/// What validation says of a file whose parts were changed and whose checksum was made anew.
fn refusal(change: impl FnOnce(&mut ManifestFile, &Upload)) -> ValidateError {
    let upload = upload();
    let mut manifest = upload.manifest();
    change(&mut manifest, &upload);
    validate(&manifest.encode().unwrap(), PASSWORD).unwrap_err()
}

#[test]
fn parts_that_do_not_belong_are_damage() {
    let page0 = SegmentNumber::page(0).unwrap();
    let verify = root().read().verify();
    let other_network = NetworkId::derive(None, "other").unwrap();
    let stray = refusal(|manifest, upload| {
        let number = SegmentNumber::page(9).unwrap();
        manifest.pages.push(CachedPage::seal(&upload.layout, &verify, number, &upload.pages[0].1, [1; 32]));
    });
    assert_eq!(stray, Damage::Page(SegmentNumber::page(9).unwrap()).into());
    let missing = refusal(|manifest, upload| {
        let number = SegmentNumber::page(9).unwrap();
        manifest.pages = vec![CachedPage::seal(&upload.layout, &verify, number, &upload.pages[0].1, [1; 32])];
    });
    assert_eq!(missing, Damage::Tree(TreeError::Incomplete { missing: 1, first: page0 }).into());
    // Well-formed, sealed with the right key, but not the page the owner signed: a steward cannot slip one in.
    let forged = refusal(|manifest, upload| {
        let tree = build(shape(2, 1), &segments(&shape(2, 1), 1), &inlines(1)).unwrap();
        let body = &tree.bodies[&tree.root.number];
        manifest.pages = vec![CachedPage::seal(&upload.layout, &verify, page0, body, [1; 32])];
    });
    assert_eq!(forged, Damage::Page(page0).into());
    let foreign = refusal(|manifest, _| manifest.network = other_network);
    assert_eq!(foreign, Damage::Owner(Forged::BadSignature.into()).into());
    let locked = refusal(|manifest, _| manifest.locator = RootKey::new([8; 32]).locator());
    assert_eq!(locked, Damage::Owner(RecordError::Sealed).into());
    let unsigned = refusal(|manifest, _| *manifest.placement_records[0].last_mut().unwrap() ^= 1);
    assert!(matches!(unsigned, ValidateError::Damaged(Damage::Placement { index: 0, .. })));
    let unplaced = refusal(|manifest, upload| {
        let mut body = upload.placement.clone();
        body.ranges.remove(0);
        manifest.placement_records = vec![make_placement(&body, 0, &verify, &network(), None, [2; 32]).unwrap()];
    });
    assert_eq!(unplaced, Damage::Unplaced(SegmentNumber(0)).into());
    let slot = refusal(|manifest, upload| {
        let mut body = upload.owner_record.clone();
        body.slots[0].sealed[3] ^= 1;
        manifest.owner_record = make_owner(&body, &root(), &network(), None, [3; 32]).unwrap();
    });
    assert_eq!(slot, Damage::Slot(0).into());
}

#[test]
fn a_slot_with_another_root_key_is_refused() {
    let mut body = upload().owner_record;
    let kek = kek(PASSWORD, &body.kdf).unwrap();
    body.slots = vec![make_slot(&kek, SUITE, &file_id(), &RootKey::new([8; 32]), [1; 32])];
    let signed = make_owner(&body, &root(), &network(), None, [3; 32]).unwrap();
    let opened = open_own(&signed).unwrap();
    assert_eq!(unlock(&opened, &network(), PASSWORD).unwrap_err(), UnlockError::ForeignRoot);
}

#[test]
fn every_flipped_bit_of_a_record_is_refused() {
    let manifest = upload().manifest();
    assert!(open_own(&manifest.owner_record).is_ok() && open_place(&manifest.placement_records[0]).is_ok());
    let flips = |good: &[u8], refused: &dyn Fn(&[u8]) -> bool| {
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&bad), "bit {bit}");
        }
    };
    flips(&manifest.owner_record, &|bytes| open_own(bytes).is_err());
    flips(&manifest.placement_records[0], &|bytes| open_place(bytes).is_err());
}

#[test]
fn records_of_others_are_refused() {
    let upload = upload();
    let signed = make_owner(&upload.owner_record, &root(), &network(), None, [1; 32]).unwrap();
    let stranger = PublicKey::from_bytes(RootKey::new([8; 32]).owner_signer().verifying_key().to_bytes());
    let locator = root().locator();
    let wrong = open_owner(&signed, &network(), &stranger, &locator);
    assert!(matches!(wrong, Err(RecordError::Forged(Forged::WrongSigner { .. }))));
    let elsewhere = NetworkId::derive(None, "other").unwrap();
    assert!(open_owner(&signed, &elsewhere, &owner(), &locator).is_err());
    let foreign = RootKey::new([8; 32]);
    assert_eq!(open_owner(&signed, &network(), &owner(), &foreign.locator()), Err(RecordError::Sealed));
    assert!(matches!(make_owner(&upload.owner_record, &foreign, &network(), None, [1; 32]), Err(MakeError::Body(_))));
    // A placement record under another index, and one about another file.
    let verify = root().read().verify();
    let second = make_placement(&upload.placement, 1, &verify, &network(), None, [1; 32]).unwrap();
    assert_eq!(open_place(&second), Err(RecordError::Kind));
    let body = PlacementRecord { file: FileId::from_bytes([1; 32]), ..upload.placement };
    let other = make_placement(&body, 0, &verify, &network(), None, [1; 32]).unwrap();
    assert_eq!(open_place(&other), Err(RecordError::Sealed));
}

#[test]
fn successors_link_back_and_the_newest_wins() {
    let body = placement_body();
    let verify = root().read().verify();
    let make = |previous: Option<&Opened<PlacementRecord>>, salt: u8| {
        make_placement(&body, 0, &verify, &network(), previous, [salt; 32]).unwrap()
    };
    let first = make(None, 1);
    let opened = open_place(&first).unwrap();
    assert_eq!((opened.version(), opened.index(), opened.signed()), (1, 0, &first[..]));
    let (second, rival) = (make(Some(&opened), 2), make(Some(&opened), 3));
    let mut broken = make(Some(&open_place(&second).unwrap()), 4);
    *broken.last_mut().unwrap() ^= 1;
    let all = [&first[..], &broken, &rival, &second, b"junk"];
    let best = newest(all, open_place).unwrap();
    assert_eq!(best.version(), 2);
    let expected = if link(&second) > link(&rival) { &second } else { &rival };
    assert_eq!(best.signed(), expected);
    assert_eq!(newest(all.into_iter().rev(), open_place).unwrap(), best);
    assert!(newest([&broken[..]], open_place).is_none());
    // The predecessor must be the same record.
    let other = make_placement(&body, 1, &verify, &network(), Some(&opened), [1; 32]);
    assert!(matches!(other, Err(MakeError::Body(_))));
}

#[test]
fn records_that_are_too_large_are_not_made() {
    let mut body = placement_body();
    let holder = Holder { addresses: vec!["x".repeat(256); 8], ..body.holders[0].clone() };
    body.holders = vec![holder; 100];
    let made = make_placement(&body, 0, &root().read().verify(), &network(), None, [1; 32]);
    assert!(matches!(made, Err(MakeError::TooLarge { .. })));
}

#[test]
fn capabilities_lead_to_the_record() {
    let all = capabilities(&root(), &network(), &hints());
    let signed = upload().manifest().owner_record;
    for capability in [&all.locate, &all.read, &all.verify, &all.owner] {
        let locator = crate::keys::Locator::new(*capability.locator());
        assert!(open_owner(&signed, &network(), capability.owner(), &locator).is_ok());
        assert!(capability.is_for(&network()));
    }
    assert_eq!(all.owner.secret(), Some(root().as_bytes()));
    assert_eq!(all.locate.secret(), None);
    let key = RecordKind::Owner.key(&network(), all.locate.owner(), 0);
    assert_eq!(encode(&key).len(), 34);
}

#[test]
fn the_manifest_of_an_upload_tells_its_tree() {
    let upload = upload();
    let opened = Manifest::open(&upload.manifest(), PASSWORD).unwrap();
    assert_eq!(opened.root.as_bytes(), root().as_bytes());
    assert_eq!(opened.owner.root, upload.tree_root);
    let tree = opened.tree.unwrap();
    assert_eq!(
        tree.entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(),
        ["docs", "docs/a.txt", "docs/big.bin", "docs/empty", "link"]
    );
    let pieces = tree.pieces(&tree.entries[2], 10..20).unwrap();
    assert_eq!(pieces, [Piece { segment: SegmentNumber(0), plain: 10..20 }]);
}
