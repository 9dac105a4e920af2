//! The local half of an upload, on a thread of its own: reads the source, packs, cuts, seals, codes, masks and hashes,
//! and hands finished segments over one at a time. It opens no file itself and talks to nobody.

use std::io::{self, Read};

use shoal_protocol::SegmentNumber;
use shoal_protocol::page::{Entry, PageRef};
use tokio::sync::mpsc;

use super::{Environment, UploadError};
use crate::audit::mint;
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
}

/// Seals everything `source` gives and sends it into `out`, in order, the pages after or between the data.
///
/// # Errors
/// [`UploadError`]; [`UploadError::Interrupted`] when the receiver is gone.
pub(super) fn seal_source(
    source: UploadSource,
    layout: FileLayout,
    keys: &SealingKeys<'_>,
    out: mpsc::Sender<SegmentShards>,
) -> Result<SealedSource, UploadError> {
    let SealingKeys { read, environment, audit_rounds } = *keys;
    let shape =
        TreeShape { file: *layout.file(), suite: layout.suite(), code: layout.code(), replicas: layout.replicas() };
    let mut packer = Packer::new(shape.code, shape.replicas);
    let mut chunker = Chunker::new(shape.code);
    let mut tree = TreeBuilder::new(shape, read.clone(), || environment.random());
    let token_key = read.verify().audit_token_key(layout.file());
    let tokens = Tokens { key: token_key, rounds: audit_rounds };
    let mut sealer =
        Sealer { layout, read, environment, tokens, out, coded: 0, segments: 0, pages: Some(vec![]), cached: 0 };
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
        coded: sealer.coded,
        segments: sealer.segments,
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

struct Sealer<'a> {
    layout: FileLayout,
    read: &'a ReadKey,
    environment: &'a Environment,
    tokens: Tokens,
    out: mpsc::Sender<SegmentShards>,
    coded: u64,
    segments: u64,
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
        let reference = self.send(segment)?;
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
        Ok(PageRef { number, segment: self.send(page)? })
    }

    fn send(&mut self, segment: PlainSegment) -> Result<shoal_protocol::page::SegmentRef, UploadError> {
        let sealed = segment
            .seal(&self.layout, self.read, self.environment.random())
            .map_err(|error| UploadError::Seal(error.to_string()))?;
        self.segments += 1;
        self.coded += sealed.shards.iter().map(|shard| shard.bytes.len() as u64).sum::<u64>();
        let mut reference = sealed.reference.clone();
        // Pages have none: what refers to them lies in other pages and in the owner record, which must stay small.
        if !sealed.number.is_page() {
            reference.tokens = mint(&self.tokens.key, &sealed.shards, self.tokens.rounds);
        }
        self.out.blocking_send(sealed).map_err(|_| UploadError::Interrupted)?;
        Ok(reference)
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
