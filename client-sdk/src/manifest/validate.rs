//! A manifest file checked without the swarm, and what is in it once its password is known. The password hash runs
//! once, after the checksum and every signature were found right.
//!
//! A cached page is believed only if sealing it again under its own salt gives the shards that the signed root names:
//! it is the page the swarm holds, not one that somebody with the verify key put into the file.

use std::collections::BTreeMap;

use shoal_protocol::layout::Code;
use shoal_protocol::limits::RECORD_MAX;
use shoal_protocol::page::{Entry, EntryKind};
use shoal_protocol::record::{OwnerRecord, PlacementRecord, Record};
use shoal_protocol::{FileId, NetworkId, SegmentNumber, Signed, Suite};

use super::file::{CachedPage, FileError, ManifestFile};
use super::read::{TreeError, TreeReader};
use super::records::{Opened, RecordError, UnlockError, open_owner, open_placement, unlock};
use super::tree::{FileTree, TreeShape};
use crate::keys::{KdfError, ReadKey, RootKey, SlotError};
use crate::pipeline::{FileLayout, LayoutError};

/// What is wrong with a manifest file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file as a whole.
    #[error(transparent)]
    File(FileError),
    /// Its owner record.
    #[error("owner record")]
    Owner(#[source] RecordError),
    /// One of its placement records.
    #[error("placement record {index}")]
    Placement {
        /// Which.
        index: u32,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// A key slot.
    #[error("key slot {0}")]
    Slot(usize),
    /// Code or replicas.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The root key belongs to another file.
    #[error("root key of another file")]
    ForeignRoot,
    /// A page that does not open, is none of this tree, or is not the one the root names.
    #[error("cached {0} is not the one its owner signed")]
    Page(SegmentNumber),
    /// The tree of pages.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// No placement record says who holds it.
    #[error("no placement of segment {0}")]
    Unplaced(SegmentNumber),
}

/// Why a manifest file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidateError {
    /// Everything a password is not needed for is in order, and no key slot belongs to this one. Exit 12.
    #[error("wrong password")]
    WrongPassword,
    /// Something is not as it was written. Exit 14.
    #[error("manifest is damaged")]
    Damaged(#[from] Damage),
    /// A newer format.
    #[error("manifest file of a newer format, {0}")]
    Version(u8),
    /// The password hash cannot be run on this machine.
    #[error(transparent)]
    Kdf(KdfError),
}

impl ValidateError {
    /// Whether the same file may pass with another password or more memory.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::WrongPassword | Self::Kdf(_) => true,
            Self::Damaged(_) | Self::Version(_) => false,
        }
    }
}

impl From<FileError> for ValidateError {
    fn from(error: FileError) -> Self {
        if let FileError::Version(version) = error { Self::Version(version) } else { Damage::File(error).into() }
    }
}

impl From<UnlockError> for ValidateError {
    fn from(error: UnlockError) -> Self {
        match error {
            UnlockError::Kdf(error) => Self::Kdf(error),
            UnlockError::Slot(SlotError::WrongPassword) => Self::WrongPassword,
            UnlockError::Slot(SlotError::Damaged { slot }) => Damage::Slot(slot).into(),
            UnlockError::ForeignRoot => Damage::ForeignRoot.into(),
        }
    }
}

/// A manifest file, opened and believed.
#[derive(Debug)]
pub struct Manifest {
    /// The root key.
    pub root: RootKey,
    /// The owner record.
    pub owner: Opened<OwnerRecord>,
    /// The placement records, index 0 first.
    pub placements: Vec<Opened<PlacementRecord>>,
    /// The whole tree; none if the file caches no pages.
    pub tree: Option<FileTree>,
}

/// What a valid manifest file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its network.
    pub network: NetworkId,
    /// The file.
    pub file: FileId,
    /// Cipher pair.
    pub suite: Suite,
    /// Code.
    pub code: Code,
    /// Copies of every shard.
    pub replicas: u8,
    /// Version of the owner record.
    pub owner_version: u64,
    /// Version of placement record 0.
    pub placement_version: u64,
    /// Passwords that open it.
    pub passwords: usize,
    /// Distinct nodes in all placement records.
    pub holders: usize,
    /// What the cached tree says.
    pub tree: Option<TreeSummary>,
}

/// Counts over a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeSummary {
    /// Regular files.
    pub files: usize,
    /// Directories.
    pub directories: usize,
    /// Symbolic links.
    pub links: usize,
    /// Bytes of content of all files.
    pub content_bytes: u64,
    /// Bytes of the stream, padding included.
    pub stream_bytes: u64,
    /// Data segments.
    pub segments: usize,
    /// Pages.
    pub pages: usize,
    /// Shards, of pages too.
    pub shards: u64,
}

/// Checks the bytes of a manifest file without asking anybody: checksum, signatures, the password (one run of its
/// hash), every page, and that each segment has a placement.
///
/// # Errors
/// [`ValidateError`]; a damaged file is told from a wrong password.
pub fn validate(bytes: &[u8], password: &[u8]) -> Result<Summary, ValidateError> {
    let file = ManifestFile::decode(bytes)?;
    let manifest = Manifest::open(&file, password)?;
    Ok(manifest.summary(file.network))
}

impl Manifest {
    /// Opens everything in `file`.
    ///
    /// # Errors
    /// [`ValidateError`].
    pub fn open(file: &ManifestFile, password: &[u8]) -> Result<Self, ValidateError> {
        let owner = open_owner(&file.owner_record, &file.network, &file.owner, &file.locator).map_err(Damage::Owner)?;
        check_signatures(file, &owner)?;
        let shape = TreeShape::from(&*owner);
        let layout = FileLayout::new(shape.file, shape.suite, shape.code, shape.replicas).map_err(Damage::Layout)?;
        let root = unlock(&owner, &file.network, password)?;
        let read = root.read();
        if root.locator().as_bytes() != file.locator.as_bytes() {
            return Err(Damage::ForeignRoot.into());
        }
        let placements = open_placements(file, &owner, &read)?;
        let tree = if file.pages.is_empty() {
            None
        } else {
            let reader = TreeReader::new(owner.root.clone(), shape, Some(read.clone())).map_err(Damage::Tree)?;
            Some(read_pages(&file.pages, reader, &layout, &read)?)
        };
        if let Some(tree) = &tree {
            check_placed(tree, &placements, layout.units())?;
        }
        Ok(Self { root, owner, placements, tree })
    }

    /// What there is to say about it.
    #[must_use]
    pub fn summary(&self, network: NetworkId) -> Summary {
        let mut holders: Vec<_> =
            self.placements.iter().flat_map(|record| record.holders.iter().map(|holder| holder.node)).collect();
        holders.sort_unstable();
        holders.dedup();
        let OwnerRecord { file, suite, code, replicas, ref slots, .. } = *self.owner;
        let shards = code.n() as u64 * u64::from(replicas);
        Summary {
            network,
            file,
            suite,
            code,
            replicas,
            owner_version: self.owner.version(),
            placement_version: self.placements.first().map_or(0, Opened::version),
            passwords: slots.len(),
            holders: holders.len(),
            tree: self.tree.as_ref().map(|tree| count(tree, shards)),
        }
    }
}

/// Signatures of the placement records, checked before a password is asked for anything.
fn check_signatures(file: &ManifestFile, owner: &OwnerRecord) -> Result<(), Damage> {
    for (index, signed) in (0..).zip(&file.placement_records) {
        let damage = |source| Damage::Placement { index, source };
        let signed = Signed::from_bytes(signed, RECORD_MAX).map_err(|error| damage(error.into()))?;
        signed.verify_by::<Record>(&owner.steward, &file.network).map_err(|error| damage(error.into()))?;
    }
    Ok(())
}

fn open_placements(
    file: &ManifestFile,
    owner: &OwnerRecord,
    read: &ReadKey,
) -> Result<Vec<Opened<PlacementRecord>>, Damage> {
    let verify = read.verify();
    let open = |(index, signed): (u32, &Vec<u8>)| {
        open_placement(signed, index, &file.network, &owner.file, &owner.steward, &verify)
            .map_err(|source| Damage::Placement { index, source })
    };
    (0..).zip(&file.placement_records).map(open).collect()
}

/// The tree in the cached pages: all of them, each the one its reference names.
fn read_pages(
    pages: &[CachedPage],
    mut reader: TreeReader,
    layout: &FileLayout,
    read: &ReadKey,
) -> Result<FileTree, Damage> {
    let mut cached: BTreeMap<SegmentNumber, &CachedPage> = pages.iter().map(|page| (page.number(), page)).collect();
    loop {
        let found = reader.wanted().find_map(|wanted| Some((wanted.clone(), cached.remove(&wanted.number)?)));
        let Some((wanted, page)) = found else { break };
        let body = page.open_as(&wanted, layout, read).ok_or(Damage::Page(wanted.number))?;
        reader.accept(wanted.number, &body)?;
    }
    let tree = reader.finish()?;
    match cached.into_keys().next() {
        None => Ok(tree),
        Some(stray) => Err(Damage::Page(stray)),
    }
}

/// Whether some record has a row of slots for every segment and page.
fn check_placed(tree: &FileTree, placements: &[Opened<PlacementRecord>], slots: usize) -> Result<(), Damage> {
    let placed = |number: SegmentNumber| {
        placements.iter().any(|record| {
            let after = record.ranges.partition_point(|range| range.last < number);
            record.ranges.get(after).is_some_and(|range| range.first <= number && range.slots.len() == slots)
        })
    };
    let segments = (0..).map(SegmentNumber).take(tree.segments.len());
    let mut all = segments.chain(tree.pages.iter().map(|page| page.number));
    all.find(|&number| !placed(number)).map_or(Ok(()), |number| Err(Damage::Unplaced(number)))
}

fn count(tree: &FileTree, shards: u64) -> TreeSummary {
    let of = |kind| tree.entries.iter().filter(|entry| entry.kind == kind).count();
    let is_file = |entry: &&Entry| entry.kind == EntryKind::File;
    TreeSummary {
        files: of(EntryKind::File),
        directories: of(EntryKind::Directory),
        links: of(EntryKind::Symlink),
        content_bytes: tree.entries.iter().filter(is_file).fold(0, |sum, entry| sum.saturating_add(entry.size)),
        stream_bytes: tree.stream_length(),
        segments: tree.segments.len(),
        pages: tree.pages.len(),
        shards: shards.saturating_mul((tree.segments.len() + tree.pages.len()) as u64),
    }
}
