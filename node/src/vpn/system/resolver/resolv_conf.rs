//! A block of ours in front of `/etc/resolv.conf` (resolv.conf(5)), with its content before in a backup. It follows no link,
//! and takes away nothing but what it put there.
//!
//! ```text
//! # BEGIN shoal: names of the private network; taken away when shoald ends
//! nameserver fd12:3456:789a::1
//! # END shoal
//! ```
//!
//! What stood in the file stays behind the block: a resolver asks the servers there when ours is gone. Where nobody else is
//! to be asked ([`Asks::Everything`]), the lines that name them begin with `#shoal# ` meanwhile. The file is written in place, in one piece: it may be mounted over, as in containers, and then nothing can take its place.
//!
//! On the way back the content is put back byte for byte, unless somebody wrote the file meanwhile: then the block alone is
//! taken out of what they wrote, and a file without the block is left as it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::{Asks, ResolverError};
use crate::files::{read_bounded, write_private};

/// The name of the backup, in the data directory.
const BACKUP: &str = "vpn-resolv.conf";
/// The first line of the block; other texts behind the name may follow in later versions.
const BEGIN: &[u8] = b"# BEGIN shoal";
/// What is put before lines that name other servers.
const ASIDE: &[u8] = b"#shoal# ";
/// What the first line says.
const SAYS: &str = "# BEGIN shoal: names of the private network; taken away when shoald ends";
/// The last line of the block.
const END: &str = "# END shoal";
/// Bytes of the longest file: those of glibc have three servers and six domains.
const FILE_MAX: u64 = 64 * 1024;
/// Servers a resolver reads (MAXNS of resolv.h).
const NAMESERVERS_MAX: usize = 3;

/// A server the file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nameserver {
    /// Its address.
    pub address: IpAddr,
    /// The interface a link-local address is on.
    pub interface: Option<String>,
}

/// The file and where its content is kept: also what is noted of it in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolvConf {
    file: PathBuf,
    backup: PathBuf,
}

impl ResolvConf {
    /// Where programs look.
    pub const PATH: &'static str = "/etc/resolv.conf";

    /// This file, with its backup in `data`.
    #[must_use]
    pub fn new(file: &Path, data: &Path) -> Self {
        Self { file: file.to_owned(), backup: data.join(BACKUP) }
    }

    /// The servers it names besides ours, in their order, at most [`NAMESERVERS_MAX`].
    ///
    /// # Errors
    /// [`ResolverError`] of the file.
    pub fn nameservers(&self) -> Result<Vec<Nameserver>, ResolverError> {
        let content = self.read(&mut self.open(false)?)?;
        Ok(nameservers(&without_block(&content).unwrap_or(content)))
    }

    /// Keeps the content, durably. To be done before what follows is noted in the journal.
    ///
    /// # Errors
    /// [`ResolverError`]; the file is as it was.
    pub fn keep(&self) -> Result<(), ResolverError> {
        let content = self.read(&mut self.open(false)?)?;
        // A block of a run whose journal is lost is none of the content.
        let content = without_block(&content).unwrap_or(content);
        write_private(&self.backup, &content).map_err(|source| Self::io(&self.backup, source))
    }

    /// Puts the block in front, in the place of an older one, and other servers aside if they are not to be asked.
    ///
    /// # Errors
    /// [`ResolverError`].
    pub fn install(&self, server: Ipv6Addr, asks: Asks) -> Result<(), ResolverError> {
        let mut file = self.open(true)?;
        let content = self.read(&mut file)?;
        let content = without_block(&content).unwrap_or(content);
        self.write(&file, &with_block(&content, server, asks))
    }

    /// Takes the block away again. Twice is fine, and so is a file that is gone.
    ///
    /// # Errors
    /// [`ResolverError`]; then the backup is still there.
    pub fn restore(&self) -> Result<(), ResolverError> {
        match self.open(true) {
            Ok(mut file) => self.restore_in(&mut file)?,
            // Somebody else's file or link is there by now, or none: nothing of ours is left.
            Err(ResolverError::NoFile(_) | ResolverError::Link { .. }) => {}
            Err(error) => return Err(error),
        }
        match fs::remove_file(&self.backup) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Self::io(&self.backup, source)),
            _ => Ok(()),
        }
    }

    fn restore_in(&self, file: &mut File) -> Result<(), ResolverError> {
        let content = self.read(file)?;
        let kept = read_bounded(&self.backup, FILE_MAX).map_err(|source| Self::io(&self.backup, source))?;
        match (without_block(&content), kept) {
            // What others wrote around the block is theirs; where they wrote nothing this is what was kept.
            (Some(rest), _) => self.write(file, &rest),
            (None, Some(kept)) if is_cut_off(&content, &kept) => self.write(file, &kept),
            (None, _) => Ok(()),
        }
    }

    /// The file, if it is one.
    fn open(&self, write: bool) -> Result<File, ResolverError> {
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits()).unwrap_or(0);
        let opened = OpenOptions::new().read(true).write(write).custom_flags(flags).open(&self.file);
        match opened {
            Ok(file) if file.metadata().is_ok_and(|facts| facts.is_file()) => Ok(file),
            Ok(_) => Err(ResolverError::NoFile(self.file.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ResolverError::NoFile(self.file.clone())),
            Err(error) => match fs::read_link(&self.file) {
                Ok(target) => Err(ResolverError::Link { path: self.file.clone(), target }),
                Err(_) => Err(Self::io(&self.file, error)),
            },
        }
    }

    fn read(&self, file: &mut File) -> Result<Vec<u8>, ResolverError> {
        let mut content = Vec::new();
        let read = file.take(FILE_MAX.saturating_add(1)).read_to_end(&mut content);
        read.map_err(|source| Self::io(&self.file, source))?;
        if content.len() as u64 > FILE_MAX {
            return Err(ResolverError::TooLong(self.file.clone()));
        }
        Ok(content)
    }

    /// In place, the bytes before the length: whoever reads meanwhile sees the new lines first.
    fn write(&self, file: &File, content: &[u8]) -> Result<(), ResolverError> {
        let written = file
            .write_all_at(content, 0)
            .and_then(|()| file.set_len(content.len() as u64))
            .and_then(|()| file.sync_all());
        written.map_err(|source| Self::io(&self.file, source))
    }

    fn io(path: &Path, source: io::Error) -> ResolverError {
        ResolverError::Io { path: path.to_owned(), source }
    }
}

fn with_block(content: &[u8], server: Ipv6Addr, asks: Asks) -> Vec<u8> {
    let block = format!("{SAYS}\nnameserver {server}\n{END}\n");
    let lines = content.split_inclusive(|byte| *byte == b'\n');
    let aside = |line: &&[u8]| asks == Asks::Everything && (names_a_server(line) || line.starts_with(ASIDE));
    let behind = lines.flat_map(|line| [if aside(&line) { ASIDE } else { &[] }, line]);
    [block.as_bytes()].into_iter().chain(behind).collect::<Vec<_>>().concat()
}

fn names_a_server(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    line.split_ascii_whitespace().next() == Some("nameserver")
}

/// The content without our block; none if there is no whole one.
fn without_block(content: &[u8]) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = content.split_inclusive(|byte| *byte == b'\n').collect();
    let begin = lines.iter().position(|line| line.starts_with(BEGIN))?;
    let behind = lines.get(begin..)?;
    let length = behind.iter().position(|line| line.strip_suffix(b"\n").unwrap_or(line) == END.as_bytes())?;
    let end = begin.saturating_add(length).saturating_add(1);
    let rest = lines.get(..begin)?.iter().chain(lines.get(end..)?);
    Some(rest.map(|line| line.strip_prefix(ASIDE).unwrap_or(line)).collect::<Vec<_>>().concat())
}

/// Whether the content is what is left when a write of ours is cut off: a block without an end, as far as it got; or what
/// was kept, with the end of what it was written over behind it.
fn is_cut_off(content: &[u8], kept: &[u8]) -> bool {
    let is_half_back = content.strip_prefix(kept).is_some_and(|tail| {
        let end = [END.as_bytes(), b"\n", kept].concat();
        !tail.is_empty() && (end.ends_with(tail) || tail.ends_with(&end))
    });
    content.starts_with(BEGIN) || BEGIN.starts_with(content) || is_half_back
}

fn nameservers(content: &[u8]) -> Vec<Nameserver> {
    let text = String::from_utf8_lossy(content);
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let server = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        let (address, interface) = match server.split_once('%') {
            Some((address, interface)) => (address, Some(interface.to_owned())),
            None => (server, None),
        };
        Some(Nameserver { address: address.parse().ok()?, interface })
    });
    named.take(NAMESERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const OLD: &str = "# made by hand\nsearch example.org\nnameserver 192.0.2.1\nnameserver 2001:db8::1 \n";
    const SERVER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

    struct Room {
        _place: tempfile::TempDir,
        conf: ResolvConf,
    }

    fn room(content: &[u8]) -> Room {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("resolv.conf");
        fs::write(&file, content).unwrap();
        fs::create_dir(place.path().join("data")).unwrap();
        let conf = ResolvConf::new(&file, &place.path().join("data"));
        Room { _place: place, conf }
    }

    fn installed(content: &[u8]) -> Room {
        let room = room(content);
        room.conf.keep().unwrap();
        room.conf.install(SERVER, Asks::Ours).unwrap();
        room
    }

    fn content(room: &Room) -> String {
        String::from_utf8(fs::read(&room.conf.file).unwrap()).unwrap()
    }

    #[test]
    fn our_server_comes_first_and_the_file_comes_back_byte_for_byte() {
        for old in [OLD, "", "nameserver 192.0.2.1", "\n\n# no end"] {
            let room = room(old.as_bytes());
            fs::set_permissions(&room.conf.file, fs::Permissions::from_mode(0o640)).unwrap();
            let before = fs::metadata(&room.conf.file).unwrap();
            room.conf.keep().unwrap();
            room.conf.install(SERVER, Asks::Ours).unwrap();
            let new = content(&room);
            assert!(new.ends_with(old) && new.lines().nth(1) == Some("nameserver fd00::1"), "{new}");
            assert_eq!(room.conf.nameservers().unwrap(), nameservers(old.as_bytes()), "ours is not named");
            for _ in 0..2 {
                room.conf.restore().unwrap();
                assert_eq!(content(&room), old);
            }
            let after = fs::metadata(&room.conf.file).unwrap();
            assert_eq!((after.ino(), after.mode(), after.uid()), (before.ino(), before.mode(), before.uid()));
            assert!(!room.conf.backup.exists());
        }
    }

    #[test]
    fn others_are_put_aside_and_come_back() {
        let room = installed(OLD.as_bytes());
        room.conf.install(SERVER, Asks::Everything).unwrap();
        assert_eq!(nameservers(content(&room).as_bytes()).len(), 1, "{}", content(&room));
        assert!(content(&room).contains("search example.org"));
        assert_eq!(room.conf.nameservers().unwrap(), nameservers(OLD.as_bytes()));
        // A run that was killed, and the next one that keeps what it finds.
        room.conf.keep().unwrap();
        room.conf.install(SERVER, Asks::Ours).unwrap();
        assert!(content(&room).ends_with(OLD));
        room.conf.install(SERVER, Asks::Everything).unwrap();
        fs::write(&room.conf.file, format!("{}nameserver 192.0.2.9\n", content(&room))).unwrap();
        room.conf.restore().unwrap();
        assert_eq!(content(&room), format!("{OLD}nameserver 192.0.2.9\n"));
    }

    #[test]
    fn what_others_wrote_meanwhile_stays() {
        let room = installed(OLD.as_bytes());
        fs::write(&room.conf.file, format!("# dhcp\n{}nameserver 192.0.2.9\n", content(&room))).unwrap();
        room.conf.restore().unwrap();
        assert_eq!(content(&room), format!("# dhcp\n{OLD}nameserver 192.0.2.9\n"));

        let room = installed(OLD.as_bytes());
        fs::write(&room.conf.file, "nameserver 192.0.2.9\n").unwrap();
        room.conf.restore().unwrap();
        assert_eq!(content(&room), "nameserver 192.0.2.9\n");

        let room = installed(OLD.as_bytes());
        fs::remove_file(&room.conf.file).unwrap();
        symlink("/nowhere", &room.conf.file).unwrap();
        room.conf.restore().unwrap();
        assert_eq!(fs::read_link(&room.conf.file).unwrap(), Path::new("/nowhere"));
    }

    #[test]
    fn a_block_of_a_run_whose_backup_or_journal_is_lost_goes_too() {
        let room = installed(OLD.as_bytes());
        fs::remove_file(&room.conf.backup).unwrap();
        room.conf.restore().unwrap();
        assert_eq!(content(&room), OLD);

        let room = installed(OLD.as_bytes());
        room.conf.keep().unwrap();
        room.conf.install(Ipv6Addr::LOCALHOST, Asks::Ours).unwrap();
        assert_eq!(content(&room).matches("BEGIN").count(), 1);
        room.conf.restore().unwrap();
        assert_eq!(content(&room), OLD);
    }

    #[test]
    fn a_write_that_was_cut_off_is_made_good() {
        let whole = with_block(OLD.as_bytes(), SERVER, Asks::Ours);
        for length in 0..SAYS.len() {
            let room = installed(OLD.as_bytes());
            fs::write(&room.conf.file, &whole[..length]).unwrap();
            room.conf.restore().unwrap();
            let left = content(&room);
            assert_eq!(left, OLD, "{length}");
        }
        // On the way back, between the bytes and the length.
        for old in [OLD, "#\n"] {
            let room = installed(old.as_bytes());
            let mut half = fs::read(&room.conf.file).unwrap();
            half[..old.len()].copy_from_slice(old.as_bytes());
            fs::write(&room.conf.file, half).unwrap();
            room.conf.restore().unwrap();
            assert_eq!(content(&room), old);
        }
    }

    #[test]
    fn links_folders_and_long_files_are_left_alone() {
        let room = room(OLD.as_bytes());
        let link = room.conf.file.with_extension("link");
        symlink(&room.conf.file, &link).unwrap();
        let through = ResolvConf { file: link, backup: room.conf.backup.clone() };
        assert!(matches!(through.install(SERVER, Asks::Ours), Err(ResolverError::Link { .. })));
        assert_eq!(content(&room), OLD);
        fs::write(&room.conf.file, vec![b'#'; 70_000]).unwrap();
        assert!(matches!(room.conf.install(SERVER, Asks::Ours), Err(ResolverError::TooLong(_))));
        fs::remove_file(&room.conf.file).unwrap();
        assert!(matches!(room.conf.install(SERVER, Asks::Ours), Err(ResolverError::NoFile(_))));
    }

    #[test]
    fn servers_are_read_as_resolvers_read_them() {
        let text = "nameserver 192.0.2.1\n#nameserver 192.0.2.2\n nameserver\tfe80::1%eth0 # x\nnameserver fish\n\
                    nameserverx 192.0.2.3\nnameserver 2001:db8::1\nnameserver 192.0.2.4\n";
        let found: Vec<(String, Option<String>)> = nameservers(text.as_bytes())
            .into_iter()
            .map(|server| (server.address.to_string(), server.interface))
            .collect();
        let bare = |text: &str| (text.to_owned(), None);
        let expected = [bare("192.0.2.1"), ("fe80::1".to_owned(), Some("eth0".to_owned())), bare("2001:db8::1")];
        assert_eq!(found, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        #[test]
        fn whatever_a_file_holds_is_found_again_behind_the_block(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assume!(without_block(&content).is_none() && !content.split(|byte| *byte == b'\n').any(|line| line.starts_with(ASIDE)));
            for asks in [Asks::Ours, Asks::Everything] {
                prop_assert_eq!(without_block(&with_block(&content, SERVER, asks)), Some(content.clone()));
            }
        }
    }
}
