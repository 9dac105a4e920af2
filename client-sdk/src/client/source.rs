//! The local half of an upload, on a thread of its own: reads the source, packs, cuts, seals, codes, masks and hashes,
//! and hands finished segments over one at a time. It opens no file itself and talks to nobody.

use std::collections::BTreeMap;
use std::io::{self, Read};

use bytes::Bytes;
use shoal_protocol::layout::SegmentShape;
use shoal_protocol::page::{Entry, PageRef, SegmentRef};
use shoal_protocol::sealing::Salt;
use shoal_protocol::{NodeId, SegmentNumber, ShardId};
use tokio::sync::mpsc;

use super::journal::Logbook;
use super::{Environment, UploadError};
use crate::audit::mint;
use crate::journal::JournalSegment;
use crate::keys::{AuditTokenKey, ReadKey};
use crate::manifest::{
    BuildError, CachedPage, FileFeed, MANIFEST_MAX, Meta, PackError, Packer, TreeBuilder, TreeShape,
};
use crate::pipeline::{Chunker, FileLayout, PlainSegment, SegmentShards};

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// Page bytes kept for the local manifest; larger uploads keep their pages in the swarm only.
const CACHED_BYTES: usize = MANIFEST_MAX / 2;

/// What an entry holds.
pub enum SourceContent {
    /// Bytes, read to their end.
    File(Box<dyn Read + Send>),
    /// Nothing.
    Directory,
    /// The target of a link.
    Symlink(Vec<u8>),
}

/// One thing to upload.
pub struct SourceEntry {
    /// Path, permission bits, time.
    pub meta: Meta,
    /// What it holds.
    pub content: SourceContent,
}

/// Entries in ascending order of their paths' bytes. An error names what could not be read.
pub type UploadSource = Box<dyn Iterator<Item = Result<SourceEntry, (String, io::Error)>> + Send>;

/// A segment on its way from the sealing thread to the sender.
#[derive(Debug)]
pub(super) struct ReadySegment {
    /// Which.
    pub(super) number: SegmentNumber,
    /// Plaintext bytes, padding included; 0 for a page.
    pub(super) plain: u64,
    /// Its shards by unit; none where every unit has its holder.
    pub(super) shards: Vec<(ShardId, Bytes)>,
    /// Who holds each unit from an earlier run.
    pub(super) held: Vec<Option<NodeId>>,
}

/// What sealing everything gave.
#[derive(Debug)]
pub(super) struct SealedSource {
    /// Root of the page tree.
    pub(super) root: PageRef,
    /// Bytes of content.
    pub(super) bytes: u64,
    /// Files, directories and links.
    pub(super) entries: u64,
    /// Shard bytes made, parity, replicas and pages included.
    pub(super) coded: u64,
    /// Segments and pages.
    pub(super) segments: u64,
    /// Plaintext bytes, padding included, that were in place from an earlier run and not sealed again.
    pub(super) kept: u64,
    /// All pages for the local manifest, or none where they would be too many.
    pub(super) pages: Vec<CachedPage>,
}

/// What sealing takes beside the source.
pub(super) struct SealingKeys<'a> {
    /// Seals data, and its verify key pages and audit tokens.
    pub(super) read: &'a ReadKey,
    /// Draws salts.
    pub(super) environment: &'a Environment,
    /// Rounds to mint audit tokens for.
    pub(super) audit_rounds: u8,
    /// Where sealed segments are noted.
    pub(super) logbook: Logbook,
    /// What an earlier run sealed.
    pub(super) kept: BTreeMap<SegmentNumber, JournalSegment>,
}

/// Seals everything `source` gives and sends it into `out`, in order, the pages after or between the data.
///
/// # Errors
/// [`UploadError`]; [`UploadError::Interrupted`] when the receiver is gone.
pub(super) fn seal_source(
    source: UploadSource,
    layout: FileLayout,
    keys: SealingKeys<'_>,
    out: mpsc::Sender<ReadySegment>,
) -> Result<SealedSource, UploadError> {
    let SealingKeys { read, environment, audit_rounds, logbook, kept } = keys;
    let shape =
        TreeShape { file: *layout.file(), suite: layout.suite(), code: layout.code(), replicas: layout.replicas() };
    let mut packer = Packer::new(shape.code, shape.replicas);
    let mut chunker = Chunker::new(shape.code);
    let mut tree = TreeBuilder::new(shape, read.clone(), || environment.random());
    let token_key = read.verify().audit_token_key(layout.file());
    let tokens = Tokens { key: token_key, rounds: audit_rounds };
    let done = Done::default();
    let mut sealer =
        Sealer { layout, read, environment, tokens, logbook, kept, out, done, pages: Some(vec![]), cached: 0 };
    let (mut bytes, mut entries) = (0u64, 0u64);
    let mut buffer = vec![0; READ_BYTES];
    for item in source {
        let SourceEntry { meta, content } = item.map_err(|(path, cause)| UploadError::Source { path, cause })?;
        let path = meta.path.clone();
        let entry = match content {
            SourceContent::Directory => packer.directory(meta),
            SourceContent::Symlink(target) => packer.symlink(meta, target),
            SourceContent::File(mut reader) => {
                let mut feed = packer.begin(meta).map_err(|error| pack_error(&path, error))?;
                feed_file(&mut feed, reader.as_mut(), &path, &mut buffer, &mut |input| {
                    sealer.stream(input, &mut chunker, &mut tree)
                })?;
                packer.finish(feed)
            }
        };
        let entry: Entry = entry.map_err(|error| pack_error(&path, error))?;
        bytes = bytes.saturating_add(entry.size);
        entries += 1;
        tree.entry(entry, &mut |number, body| sealer.page(number, body)).map_err(build_error)?;
    }
    let rest = chunker.finish().map_err(|error| UploadError::TooLarge(error.to_string()))?;
    for segment in rest {
        sealer.data(segment, &mut tree)?;
    }
    let root = tree.finish(&mut |number, body| sealer.page(number, body)).map_err(build_error)?;
    Ok(SealedSource {
        root,
        bytes,
        entries,
        coded: sealer.done.coded,
        segments: sealer.done.segments,
        kept: sealer.done.kept,
        pages: sealer.pages.unwrap_or_default(),
    })
}

fn feed_file(
    feed: &mut FileFeed,
    reader: &mut dyn Read,
    path: &str,
    buffer: &mut [u8],
    stream: &mut dyn FnMut(&[u8]) -> Result<(), UploadError>,
) -> Result<(), UploadError> {
    loop {
        let count = match reader.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(UploadError::Source { path: path.to_owned(), cause }),
        };
        feed.write(buffer.get(..count).unwrap_or_default(), &mut *stream)?;
    }
}

/// How audit tokens are minted.
struct Tokens {
    key: AuditTokenKey,
    rounds: u8,
}

/// Counts of what was handed out.
#[derive(Default)]
struct Done {
    coded: u64,
    segments: u64,
    kept: u64,
}

struct Sealer<'a> {
    layout: FileLayout,
    read: &'a ReadKey,
    environment: &'a Environment,
    tokens: Tokens,
    logbook: Logbook,
    kept: BTreeMap<SegmentNumber, JournalSegment>,
    out: mpsc::Sender<ReadySegment>,
    done: Done,
    /// None once they were too many.
    pages: Option<Vec<CachedPage>>,
    cached: usize,
}

impl Sealer<'_> {
    /// Bytes of the stream: cut, and each full segment sealed and sent.
    fn stream<R: FnMut() -> [u8; 32]>(
        &mut self,
        mut input: &[u8],
        chunker: &mut Chunker,
        tree: &mut TreeBuilder<R>,
    ) -> Result<(), UploadError> {
        while !input.is_empty() {
            if let Some(segment) = chunker.push(&mut input).map_err(|error| UploadError::TooLarge(error.to_string()))? {
                self.data(segment, tree)?;
            }
        }
        Ok(())
    }

    fn data<R: FnMut() -> [u8; 32]>(
        &mut self,
        segment: PlainSegment,
        tree: &mut TreeBuilder<R>,
    ) -> Result<(), UploadError> {
        let mark = self.logbook.mark(&segment);
        let kept = self.kept.remove(&segment.number()).filter(|kept| Some(kept.mark) == mark);
        let reference = match kept {
            Some(kept) if kept.is_whole() => self.keep(segment.number(), kept)?,
            Some(kept) => self.seal_again(segment, kept)?,
            None => {
                let (number, units) = (segment.number(), self.layout.units());
                let sealed = self.seal(segment, self.environment.random())?;
                self.logbook.sealed(number, mark, &sealed.reference);
                self.hand_out(sealed, vec![None; units])?
            }
        };
        tree.segment(reference, &mut |number, body| self.page(number, body)).map_err(build_error)
    }

    fn page(&mut self, number: SegmentNumber, body: &[u8]) -> Result<PageRef, UploadError> {
        let page = PlainSegment::page(number, self.layout.code(), body)
            .map_err(|error| UploadError::TooLarge(error.to_string()))?;
        self.cached = self.cached.saturating_add(body.len());
        if self.cached > CACHED_BYTES {
            self.pages = None;
        }
        if let Some(pages) = &mut self.pages {
            let salt = self.environment.random();
            pages.push(CachedPage::seal(&self.layout, &self.read.verify(), number, body, salt));
        }
        let units = self.layout.units();
        let sealed = self.seal(page, self.environment.random())?;
        Ok(PageRef { number, segment: self.hand_out(sealed, vec![None; units])? })
    }

    /// A segment that is where it should be, shard by shard.
    fn keep(&mut self, number: SegmentNumber, kept: JournalSegment) -> Result<SegmentRef, UploadError> {
        let JournalSegment { reference, held, .. } = kept;
        let plain = u64::from(reference.plain);
        let shape = SegmentShape::new(self.layout.code(), reference.plain as usize)
            .map_err(|what| UploadError::Seal(what.to_owned()))?;
        self.done.coded += (shape.shard_length() * held.len()) as u64;
        self.done.segments += 1;
        self.done.kept += plain;
        self.give(ReadySegment { number, plain, shards: vec![], held })?;
        Ok(reference)
    }

    /// A segment of which some shards are missing: the same plaintext under the same salt gives the same shards.
    fn seal_again(&mut self, segment: PlainSegment, kept: JournalSegment) -> Result<SegmentRef, UploadError> {
        let sealed = self.seal(segment, kept.reference.salt)?;
        if sealed.reference != kept.reference {
            return Err(UploadError::Seal("the journal names other shards than its salt gives".into()));
        }
        self.hand_out(sealed, kept.held)
    }

    fn seal(&self, segment: PlainSegment, salt: Salt) -> Result<SegmentShards, UploadError> {
        let sealed = segment.seal(&self.layout, self.read, salt);
        let mut sealed = sealed.map_err(|error| UploadError::Seal(error.to_string()))?;
        // Pages have none: what refers to them lies in other pages and in the owner record, which must stay small.
        if !sealed.number.is_page() {
            sealed.reference.tokens = mint(&self.tokens.key, &sealed.shards, self.tokens.rounds);
        }
        Ok(sealed)
    }

    fn hand_out(&mut self, sealed: SegmentShards, held: Vec<Option<NodeId>>) -> Result<SegmentRef, UploadError> {
        let SegmentShards { number, reference, shards } = sealed;
        self.done.segments += 1;
        self.done.coded += shards.iter().map(|shard| shard.bytes.len() as u64).sum::<u64>();
        let plain = if number.is_page() { 0 } else { u64::from(reference.plain) };
        let shards = shards.into_iter().map(|shard| (shard.id, shard.bytes)).collect();
        self.give(ReadySegment { number, plain, shards, held })?;
        Ok(reference)
    }

    fn give(&self, segment: ReadySegment) -> Result<(), UploadError> {
        self.out.blocking_send(segment).map_err(|_| UploadError::Interrupted)
    }
}

fn pack_error(path: &str, error: PackError) -> UploadError {
    match error {
        PackError::TooLong => UploadError::TooLarge(error.to_string()),
        PackError::Path(_) | PackError::LinkTarget(_) => UploadError::Path(path.to_owned(), error.to_string()),
    }
}

fn build_error(error: BuildError<UploadError>) -> UploadError {
    match error {
        BuildError::Seal(error) => error,
        other => UploadError::TooLarge(other.to_string()),
    }
}
