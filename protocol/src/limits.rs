//! Every bound two machines must agree on, in one place. Nothing here is a default: each is refused beyond.

/// Plaintext bytes in one full frame: a unit less its tag.
pub const FRAME_PLAIN: usize = 65_520;
/// Bytes an AEAD tag adds to a frame.
pub const TAG: usize = 16;
/// Bytes of one full unit: frame and tag, four bao groups.
pub const UNIT: usize = FRAME_PLAIN + TAG;
/// Most rows of one segment; [`crate::layout::Code::rows_per_segment`] lowers it for wide codes.
pub const ROWS_MAX: usize = 32;
/// Units of one segment over all shards: bounds a segment's coded size to 64 MiB.
pub const SEGMENT_UNITS_MAX: usize = 1024;
/// Most shards of one code, data and parity together: the field has 256 elements.
pub const CODE_MAX: usize = 255;
/// Largest shard a node accepts, bytes. Twice what the layout makes, so that other clients have room.
pub const SHARD_MAX: u32 = 4 * 1024 * 1024;
/// Largest control frame, bytes, without its 4-byte length.
pub const CONTROL_FRAME_MAX: usize = 64 * 1024;
/// Largest data frame on a shard lane, bytes.
pub const LANE_FRAME_MAX: usize = 64 * 1024;
/// Largest header, trailer or reply on a shard lane, bytes.
pub const LANE_MESSAGE_MAX: usize = 16 * 1024;
/// Largest page in plain form, bytes.
pub const PAGE_MAX: usize = 64 * 1024;
/// Largest record in signed form, bytes: with its envelope it fits one control frame.
pub const RECORD_MAX: usize = 60 * 1024;
/// Files up to this size are stored in their entry, not in segments.
pub const INLINE_MAX: usize = 2 * 1024;
/// Most shards one manifest may name.
pub const SHARDS_PER_MANIFEST_MAX: u64 = 1 << 24;
/// Longest path of an entry, UTF-8 bytes.
pub const PATH_MAX: usize = 4096;
/// Most entries one page may hold; the page size bounds it earlier in practice.
pub const PAGE_ENTRIES_MAX: usize = 8192;
/// Most extents of one entry.
pub const EXTENTS_MAX: usize = 1024;
/// Largest replica factor.
pub const REPLICAS_MAX: u8 = 8;
/// Most password slots of one file.
pub const SLOTS_MAX: usize = 16;
/// Most versions whose page roots an owner record remembers.
pub const PREVIOUS_ROOTS_MAX: usize = 16;
/// Most holder hints in a capability string.
pub const HINTS_MAX: usize = 3;
/// Longest text of one multiaddr, bytes.
pub const ADDRESS_MAX: usize = 256;
/// Most addresses in one peer record.
pub const ADDRESSES_MAX: usize = 8;
/// Longest failure-domain label, bytes.
pub const DOMAIN_MAX: usize = 64;
/// Most peer records in one PEERS or LOCATE answer.
pub const PEERS_PAGE_MAX: usize = 32;
/// Most node ids in one LOCATE request.
pub const LOCATE_MAX: usize = 32;
/// Most shards one RESERVE may ask for.
pub const RESERVE_MAX: usize = 64;
/// A reservation is void after this long, milliseconds.
pub const RESERVATION_MS: u64 = 60_000;
/// Most shard ids in one STAT.
pub const STAT_MAX: usize = 256;
/// Losses of a page.
pub const LOSSES_PAGE_MAX: usize = 256;
/// Most slices of one AUDIT: 32 slices with their paths fit a control frame, 64 do not.
pub const AUDIT_SLICES_MAX: usize = 32;
/// Bytes of an audit token.
pub const AUDIT_TOKEN: usize = 16;
/// Most audit tokens of one shard: rounds of whole-shard audits.
pub const AUDIT_ROUNDS_MAX: u8 = 64;
/// Most ranges of one RETRIEVE.
pub const RANGES_MAX: usize = 64;
/// Silence that ends a transfer of a shard on either side, milliseconds.
pub const TRANSFER_SILENCE_MS: u64 = 15_000;
/// Time over which the slowest allowed rate of a transfer is measured, milliseconds.
pub const TRANSFER_WINDOW_MS: u64 = 20_000;
/// Bytes that must move within that time: 8 KiB/s.
pub const TRANSFER_WINDOW_BYTES: u64 = 8 * 1024 * TRANSFER_WINDOW_MS / 1000;
/// Freshness window of addressed messages, milliseconds, both ways.
pub const FRESHNESS_MS: u64 = 120_000;
/// Longest network name, bytes.
pub const NETWORK_NAME_MAX: usize = 64;
/// Protocol versions a HELLO may list.
pub const VERSIONS_MAX: usize = 8;
/// Longest lease a group may ask for: ten years, milliseconds. Keeps expiry arithmetic far from overflow.
pub const LEASE_MS_MAX: u64 = 10 * 366 * 24 * 3600 * 1000;
/// Default lease: 31 days, milliseconds.
pub const LEASE_MS_DEFAULT: u64 = 31 * 24 * 3600 * 1000;
/// Longest password-hash memory accepted, KiB: 1 GiB.
pub const KDF_MEMORY_KIB_MAX: u32 = 1024 * 1024;
/// Least password-hash memory accepted, KiB: 19 MiB.
pub const KDF_MEMORY_KIB_MIN: u32 = 19 * 1024;
/// Most passes of the password hash.
pub const KDF_PASSES_MAX: u32 = 16;
/// Most lanes of the password hash.
pub const KDF_LANES_MAX: u32 = 16;

const _: () = assert!(RECORD_MAX + 1024 <= CONTROL_FRAME_MAX);
const _: () = assert!(UNIT == 64 * 1024);
const _: () = assert!(ROWS_MAX * UNIT <= SHARD_MAX as usize);
