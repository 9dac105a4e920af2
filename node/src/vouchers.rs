//! What is spent of vouchers, on disk: `vouchers.log` in the data directory, only there where somebody's vouchers count.
//! It never decides whether a voucher counts, which is the engine's, and never gives back what was spent.
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | `"SHOALVO1"`, once |
//! | 0 | 32 | issuer's public key, of each line |
//! | 32 | 8 | serial, LE |
//! | 40 | 8 | bytes spent so far over all uses, LE |
//! | 48 | 8 | when the voucher is over, milliseconds since 1970, LE |
//! | 56 | 4 | CRC32C of the 56 bytes before, LE |
//!
//! A line is appended and synced before anything is promised for it. A line torn at the end was never promised; one that is
//! damaged before the last is an error, because what it spent would be spent again. The file is written anew,
//! without what is over, when the node starts and when it has grown.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shoal_engine::vouchers::{Ledger, Spent, VOUCHERS_MAX};
use shoal_protocol::{PublicKey, UnixMillis};

use crate::files::{read_bounded, write_private};

/// Name of the file in the data directory.
const FILE: &str = "vouchers.log";
const MAGIC: &[u8; 8] = b"SHOALVO1";
/// Bytes of a line.
const LINE: usize = 60;
/// Bytes of a line before its checksum.
const BODY: usize = 56;
/// Lines after which the file is written anew: four for each voucher that may be known.
const LINES_MAX: usize = 4 * VOUCHERS_MAX;
/// Longest file, bytes.
const FILE_MAX: u64 = (MAGIC.len() + LINES_MAX * LINE) as u64;

/// Why what was spent is not known.
#[derive(Debug, thiserror::Error)]
pub enum VoucherLogError {
    /// The system's reason.
    #[error("cannot use {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Of another version, or no such file at all.
    #[error("{0} is not a log of vouchers this version reads")]
    Unknown(PathBuf),
    /// A line before the last is damaged.
    #[error("{0} is damaged in the middle")]
    Damaged(PathBuf),
}

/// The open file. After a failed write or sync it takes nothing more until the node is started again.
#[derive(Debug)]
pub(crate) struct VoucherLog {
    path: PathBuf,
    file: Option<File>,
    lines: usize,
}

impl VoucherLog {
    /// Reads what earlier runs spent, and writes it anew without what is over. Blocks.
    pub(crate) fn open(data: &Path, wall: UnixMillis) -> Result<(Self, Ledger), VoucherLogError> {
        let path = data.join(FILE);
        let io = |cause| VoucherLogError::Io { path: path.clone(), cause };
        let lines = match read_bounded(&path, FILE_MAX).map_err(io)? {
            Some(bytes) => parse(&bytes, &path)?,
            None => Vec::new(),
        };
        let ledger = Ledger::restore(lines);
        let mut log = Self { path: path.clone(), file: None, lines: 0 };
        log.rewrite(&ledger, wall).map_err(io)?;
        Ok((log, ledger))
    }

    /// Whether it has grown so long that it should be written anew before the next line.
    pub(crate) const fn is_long(&self) -> bool {
        self.lines >= LINES_MAX
    }

    /// Writes one line down; when this returns it is on stable media. Blocks.
    pub(crate) fn append(&mut self, spent: &Spent) -> io::Result<()> {
        // Taken, so that an error leaves none: after a failed sync the descriptor says nothing any more.
        let mut file = self.file.take().ok_or_else(|| io::Error::other("an earlier write failed"))?;
        file.write_all(&encode(spent))?;
        file.sync_data()?;
        self.lines = self.lines.saturating_add(1);
        self.file = Some(file);
        Ok(())
    }

    /// Writes everything anew that is not over. Blocks.
    pub(crate) fn rewrite(&mut self, ledger: &Ledger, wall: UnixMillis) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        self.lines = 0;
        for line in ledger.lines(wall) {
            bytes.extend_from_slice(&encode(&line));
            self.lines = self.lines.saturating_add(1);
        }
        write_private(&self.path, &bytes)?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        Ok(())
    }
}

fn encode(spent: &Spent) -> Vec<u8> {
    let (issuer, serial) = &spent.key;
    let mut line = Vec::with_capacity(LINE);
    line.extend_from_slice(issuer.as_bytes());
    for number in [*serial, spent.bytes, spent.expires.0] {
        line.extend_from_slice(&number.to_le_bytes());
    }
    line.extend_from_slice(&crc32c::crc32c(&line).to_le_bytes());
    line
}

fn decode(line: &[u8]) -> Option<Spent> {
    let (body, sum) = line.split_at_checked(BODY)?;
    if sum != crc32c::crc32c(body).to_le_bytes() {
        return None;
    }
    let (issuer, rest) = body.split_first_chunk::<32>()?;
    let (serial, rest) = rest.split_first_chunk::<8>()?;
    let (bytes, rest) = rest.split_first_chunk::<8>()?;
    let (expires, _) = rest.split_first_chunk::<8>()?;
    Some(Spent {
        key: (PublicKey::from_bytes(*issuer), u64::from_le_bytes(*serial)),
        bytes: u64::from_le_bytes(*bytes),
        expires: UnixMillis(u64::from_le_bytes(*expires)),
    })
}

fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Spent>, VoucherLogError> {
    let lines = bytes.strip_prefix(MAGIC).ok_or_else(|| VoucherLogError::Unknown(path.to_path_buf()))?;
    let read: Vec<Option<Spent>> = lines.chunks(LINE).map(decode).collect();
    let good = read.iter().take_while(|line| line.is_some()).count();
    // Each line is synced before the next is begun, so only the last one can be torn.
    if good.saturating_add(1) < read.len() {
        return Err(VoucherLogError::Damaged(path.to_path_buf()));
    }
    Ok(read.into_iter().flatten().collect())
}

/// What a file of these bytes says is spent, written again.
#[cfg(feature = "test-utils")]
pub(crate) fn rewritten(bytes: &[u8]) -> Option<Vec<u8>> {
    let lines = parse(bytes, Path::new(FILE)).ok()?;
    Some([MAGIC.to_vec(), lines.iter().flat_map(encode).collect()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_engine::vouchers::Grant;

    const WALL: UnixMillis = UnixMillis(1000);

    fn grant(serial: u64) -> Grant {
        Grant { key: (PublicKey::from_bytes([7; 32]), serial), bytes: 100, expires: UnixMillis(2000) }
    }

    fn spend(log: &mut VoucherLog, ledger: &mut Ledger, serial: u64, bytes: u64) {
        let spent = ledger.charge(&grant(serial), bytes, WALL).unwrap();
        log.append(&spent).unwrap();
    }

    #[test]
    fn what_is_spent_stays_spent_across_a_restart() {
        let place = tempfile::tempdir().unwrap();
        let (mut log, mut ledger) = VoucherLog::open(place.path(), WALL).unwrap();
        spend(&mut log, &mut ledger, 1, 60);
        spend(&mut log, &mut ledger, 2, 100);
        spend(&mut log, &mut ledger, 1, 30);
        drop(log);
        let (_, again) = VoucherLog::open(place.path(), WALL).unwrap();
        assert_eq!((again.check(&grant(1), 11).is_err(), again.check(&grant(1), 10).is_ok()), (true, true));
        assert!(again.check(&grant(2), 1).is_err());
        let length = std::fs::metadata(place.path().join(FILE)).unwrap().len();
        assert_eq!(length, 8 + 2 * 60, "one line a voucher after a start");
        VoucherLog::open(place.path(), UnixMillis(2000)).unwrap();
        assert_eq!(std::fs::metadata(place.path().join(FILE)).unwrap().len(), 8, "what is over is forgotten");
    }

    #[test]
    fn a_torn_end_is_cut_and_a_damaged_middle_refused() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join(FILE);
        let (mut log, mut ledger) = VoucherLog::open(place.path(), WALL).unwrap();
        (1..=3).for_each(|serial| spend(&mut log, &mut ledger, serial, serial));
        let whole = std::fs::read(&file).unwrap();
        for cut in 8 + 2 * 60..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            let (_, again) = VoucherLog::open(place.path(), WALL).unwrap();
            assert_eq!(again.lines(WALL).count(), 2, "cut at {cut}");
        }
        for at in 0..whole.len() - 60 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&file, &bytes).unwrap();
            let error = VoucherLog::open(place.path(), WALL).unwrap_err();
            let unknown = matches!(error, VoucherLogError::Unknown(_));
            assert!(if at < 8 { unknown } else { matches!(error, VoucherLogError::Damaged(_)) }, "{at}: {error}");
            assert_eq!(std::fs::read(&file).unwrap(), bytes, "what is not understood is left alone");
        }
        // Each line is synced before the next is begun: two bad ones are no torn write.
        let mut bytes = whole.clone();
        bytes[8 + 60..].fill(0);
        std::fs::write(&file, &bytes).unwrap();
        assert!(matches!(VoucherLog::open(place.path(), WALL), Err(VoucherLogError::Damaged(_))));
    }

    #[test]
    fn after_a_failure_nothing_is_taken_any_more() {
        let place = tempfile::tempdir().unwrap();
        let (mut log, mut ledger) = VoucherLog::open(place.path(), WALL).unwrap();
        // Not writable: every write fails.
        log.file = Some(File::open(place.path().join(FILE)).unwrap());
        let spent = ledger.charge(&grant(1), 1, WALL).unwrap();
        assert!(log.append(&spent).is_err());
        let error = log.append(&spent).unwrap_err();
        assert_eq!(error.to_string(), "an earlier write failed");
    }

    #[test]
    fn a_line_has_these_bytes() {
        let spent =
            Spent { key: (PublicKey::from_bytes([0xaa; 32]), 9), bytes: 0x1234, expires: UnixMillis(0x0102_0304) };
        let hex = data_encoding::HEXLOWER.encode(&encode(&spent));
        let body = format!("{}0900000000000000341200000000000004030201", "aa".repeat(32));
        assert!(hex.starts_with(&format!("{body}00000000")) && hex.len() == 2 * LINE, "{hex}");
        assert_eq!(decode(&encode(&spent)), Some(spent));
        assert_eq!(decode(&encode(&spent)[..LINE - 1]), None);
    }
}
