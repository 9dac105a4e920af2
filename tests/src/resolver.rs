//! The `/etc/resolv.conf` of one network namespace: `ip netns exec` mounts it over that of the machine, so that nothing a
//! test runs there changes where this machine asks for names. It goes with its value.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// The file.
#[derive(Debug)]
pub struct ResolvConf {
    folder: PathBuf,
}

impl ResolvConf {
    /// An empty one for the namespace of this name.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(namespace: &str) -> Result<Self> {
        let folder = PathBuf::from("/etc/netns").join(namespace);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let own = Self { folder };
        own.write("")?;
        Ok(own)
    }

    /// Where it is, seen from outside of the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join("resolv.conf")
    }

    /// What it holds.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path())?)
    }

    /// Replaces what it holds; it stays the same file, for programs that run have it mounted.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, content: &str) -> Result<()> {
        Ok(fs::write(self.path(), content)?)
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        // The folder of all namespaces goes with the last of them.
        let _ = fs::remove_dir("/etc/netns");
    }
}
