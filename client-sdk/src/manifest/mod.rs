//! How an upload describes itself: entries and extents, the page tree, the records, the local manifest file.
//!
//! Pure: pages and records arrive and leave as bytes, random salts and the sealing of page segments are arguments.
//! Pure: pages and records come and go as bytes, random salts and the sealing of page segments are arguments.
//!
//! Upload: [`Packer`] -> [`TreeBuilder`] -> [`make_owner`], [`make_placement`] -> [`ManifestFile`].
//! Retrieve: [`open_owner`] -> [`unlock`] -> [`TreeReader`] -> [`FileTree::pieces`].

mod build;
mod capabilities;
mod file;
mod pack;
mod path;
mod read;
mod records;
mod tree;
mod validate;

pub use build::{BuildError, PAGE_BODY_MAX, TreeBuilder, fits_page};
pub use capabilities::{Capabilities, capabilities};
pub use file::{CachedPage, FileError, MANIFEST_FORMAT, MANIFEST_MAX, ManifestFile, PLACEMENTS_MAX};
pub use pack::{FileFeed, Meta, PackError, Packer};
pub use path::PathError;
pub use read::{TreeError, TreeReader, WANTED_MAX};
pub use records::{
    MakeError, Opened, RecordError, UnlockError, make_owner, make_placement, newest, open_owner, open_placement, unlock,
};
pub use tree::{FileTree, Piece, PieceError, TreeShape};
pub use validate::{Damage, Manifest, Summary, TreeSummary, ValidateError, validate};

#[cfg(test)]
mod tests;
