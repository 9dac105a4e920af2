//! Seeded bytes, sources and in-memory clients: the same on every machine and in every run.

use std::future;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::TryStreamExt;
use shoal_client::client::{
    Client, Environment, Fleet, JournalStore, OpenFile, RetrieveError, Secret, SourceContent, SourceEntry, UploadError,
    UploadOptions, UploadSource, Uploaded,
};
use shoal_client::manifest::Meta;
use shoal_client::memory::{MEMORY_CLIENT, MemorySwarm};
use shoal_client::placement::Profile;
use shoal_client::transfer::StoreLimits;
use shoal_protocol::capability::Capability;
use shoal_protocol::layout::Code;
use shoal_protocol::limits::{KDF_MEMORY_KIB_MIN, LEASE_MS_DEFAULT};
use shoal_protocol::sealing::KdfParams;
use shoal_protocol::{NetworkId, Suite, UnixMillis};
use zeroize::Zeroizing;

/// The password of all samples.
pub const PASSWORD: &[u8] = b"correct horse battery staple";

/// `length` bytes that look random and depend on `seed` alone.
#[must_use]
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// The wall clock.
#[must_use]
pub fn clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Clock of the machine, randomness from a seed: no two draws of one environment are alike.
#[must_use]
pub fn environment(seed: u64) -> Environment {
    let draws = AtomicU64::new(0);
    let entropy = move |out: &mut [u8]| {
        let draw = draws.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&draw.to_le_bytes());
        hasher.finalize_xof().fill(out);
    };
    Environment { clock, entropy: Arc::new(entropy) }
}

/// A file of a source.
#[must_use]
pub fn file(path: &str, content: impl Read + Send + 'static) -> SourceEntry {
    SourceEntry {
        meta: Meta { path: path.to_owned(), mode: 0o644, modified_ms: 1_700_000_000_000 },
        content: SourceContent::File(Box::new(content)),
    }
}

/// A source of one file.
#[must_use]
pub fn one_file(content: Vec<u8>) -> UploadSource {
    Box::new(std::iter::once(Ok(file("file.bin", io::Cursor::new(content)))))
}

/// Options with the cheapest allowed password hash.
#[must_use]
pub fn options(k: usize, m: usize) -> UploadOptions {
    let code = Code::new(k, m).unwrap_or(Code { data: 1, parity: 1 });
    UploadOptions {
        profile: Profile::Exact(code),
        replicas: 1,
        allow_colocate: false,
        suite: Suite::ChaCha20Poly1305,
        kdf: KdfParams { salt: [0; 16], memory_kib: KDF_MEMORY_KIB_MIN, passes: 1, lanes: 1 },
        password: Zeroizing::new(PASSWORD.to_vec()),
        lease_ms: LEASE_MS_DEFAULT,
        size_hint: None,
        audit_rounds: 0,
        limits: StoreLimits::default(),
    }
}

/// A journal in memory: what a file would hold, shared by its clones.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Bytes after which nothing can be appended any more.
    pub room: Option<usize>,
}

impl MemoryJournal {
    /// What is in it.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    /// As if this had been written.
    pub fn set(&self, bytes: Vec<u8>) {
        *self.lock() = bytes;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalStore for MemoryJournal {
    fn load(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.bytes())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.set(bytes.to_vec());
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut journal = self.lock();
        if self.room.is_some_and(|room| journal.len() + bytes.len() > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        journal.extend_from_slice(bytes);
        Ok(())
    }
}

/// A client of an in-memory swarm.
pub struct MemoryWorld {
    /// The nodes.
    pub swarm: Arc<MemorySwarm>,
    /// The client.
    pub client: Client<MemorySwarm>,
    /// Everybody it found.
    pub fleet: Mutex<Fleet>,
}

impl MemoryWorld {
    /// A client and `count` nodes it has found.
    ///
    /// # Errors
    /// If discovery fails: it cannot, in memory.
    pub async fn new(seed: u64, count: u8) -> Result<Self, shoal_client::client::ConnectError> {
        let network = NetworkId::from_bytes([7; 32]);
        let swarm = Arc::new(MemorySwarm::new(network, count, clock));
        let client = Client::new(Arc::clone(&swarm), network, MEMORY_CLIENT, environment(seed));
        let world = Self { swarm, client, fleet: Mutex::default() };
        world.discover().await?;
        Ok(world)
    }

    /// Greets everybody anew.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn discover(&self) -> Result<(), shoal_client::client::ConnectError> {
        let known: Vec<_> = self.swarm.ids().into_iter().map(|node| (node, vec![])).collect();
        let fleet = self.client.discover(&[], &known).await?;
        *self.fleet.lock().unwrap_or_else(PoisonError::into_inner) = fleet;
        Ok(())
    }

    /// A copy of what was found.
    #[must_use]
    pub fn fleet(&self) -> Fleet {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uploads a source.
    ///
    /// # Errors
    /// As the client says.
    pub async fn upload(&self, source: UploadSource, options: &UploadOptions) -> Result<Uploaded, UploadError> {
        self.client.upload(source, options, &self.fleet(), &|_| {}).await
    }

    /// Opens a file by capability and password, asking whoever answers now.
    ///
    /// # Errors
    /// As the client says.
    pub async fn open(&self, capability: &Capability, password: &[u8]) -> Result<OpenFile, RetrieveError> {
        self.discover().await?;
        let secret = Secret::Password(Zeroizing::new(password.to_vec()));
        self.client.open(capability, None, &secret, &mut self.fleet()).await
    }

    /// All content of one entry.
    ///
    /// # Errors
    /// As the client says.
    pub async fn read(&self, file: &OpenFile, path: &str) -> Result<Vec<u8>, RetrieveError> {
        let entry = file.tree().entries.iter().find(|entry| entry.path == path);
        let entry = entry.ok_or_else(|| RetrieveError::NoEntry(path.to_owned()))?;
        self.read_range(file, path, 0..entry.size).await
    }

    /// Some content of one entry.
    ///
    /// # Errors
    /// As the client says.
    pub async fn read_range(
        &self,
        file: &OpenFile,
        path: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<u8>, RetrieveError> {
        let entry = file.tree().entries.iter().find(|entry| entry.path == path);
        let entry = entry.ok_or_else(|| RetrieveError::NoEntry(path.to_owned()))?;
        if let Some(inline) = &entry.inline {
            let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            return Ok(inline.get(cut(range.start)..cut(range.end)).unwrap_or_default().to_vec());
        }
        let pieces = file.tree().pieces(entry, range).map_err(|error| RetrieveError::Integrity(error.to_string()))?;
        let fleet = self.fleet();
        let read = self.client.read(file, &fleet, &pieces);
        read.try_fold(Vec::new(), |mut out, piece| {
            out.extend_from_slice(&piece.bytes);
            future::ready(Ok(out))
        })
        .await
    }
}
