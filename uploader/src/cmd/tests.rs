//! Trees through source, an in-memory swarm and stage, and back: what the commands do between argv and stdout.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use shoal_client::client::{Client, Environment, Failure, Fleet, OpenFile, Secret, UploadOptions, Uploaded};
use shoal_client::manifest::validate;
use shoal_client::memory::{Fault, MemorySwarm};
use shoal_client::placement::{Profile, parse_code};
use shoal_client::transfer::StoreLimits;
use shoal_protocol::limits::{KDF_MEMORY_KIB_MIN, LEASE_MS_DEFAULT};
use shoal_protocol::sealing::KdfParams;
use shoal_protocol::{NetworkId, NodeId, Suite};
use zeroize::Zeroizing;

use super::retrieve::{Staging, commit, fetch, place, restore_directories};
use super::shards::Holdings;
use crate::exit::Problem;
use crate::output::write_private;
use crate::progress::{ReadBar, UploadBars};
use crate::report::now;
use crate::source::Source;
use crate::stage::Stage;
use crate::target::{self, Target};

const PASSWORD: &[u8] = b"correct horse";

struct World {
    swarm: Arc<MemorySwarm>,
    client: Client<MemorySwarm>,
    fleet: Fleet,
}

impl World {
    async fn new() -> Self {
        let network = NetworkId::derive(None, "home").unwrap();
        let swarm = Arc::new(MemorySwarm::new(network, 4, now));
        let entropy = Arc::new(|out: &mut [u8]| getrandom::fill(out).unwrap());
        let client = Client::new(
            Arc::clone(&swarm),
            network,
            NodeId::from_bytes([250; 32]),
            Environment { clock: now, entropy },
        );
        let known: Vec<_> = swarm.ids().into_iter().map(|node| (node, vec![])).collect();
        let fleet = client.discover(&[], &known).await.unwrap();
        Self { swarm, client, fleet }
    }

    async fn upload(&self, path: &Path) -> Uploaded {
        let source = Source::collect(&[path.to_owned()]).unwrap();
        let options = UploadOptions {
            profile: Profile::Exact(parse_code("2+2").unwrap()),
            replicas: 1,
            allow_colocate: false,
            suite: Suite::ChaCha20Poly1305,
            kdf: KdfParams { salt: [0; 16], memory_kib: KDF_MEMORY_KIB_MIN, passes: 1, lanes: 1 },
            password: Zeroizing::new(PASSWORD.to_vec()),
            lease_ms: LEASE_MS_DEFAULT,
            size_hint: source.size_hint,
            audit_rounds: 0,
            limits: StoreLimits::default(),
        };
        let bars = UploadBars::new(false, source.size_hint);
        self.client.upload(source.entries(), &options, &self.fleet, &|progress| bars.on(progress)).await.unwrap()
    }

    async fn open(&self, target: &Target) -> OpenFile {
        let secret = Secret::Password(Zeroizing::new(PASSWORD.to_vec()));
        let mut fleet = self.fleet.clone();
        self.client.open(&target.capability(), target.cached(), &secret, &mut fleet).await.unwrap()
    }

    async fn retrieve(&self, file: &OpenFile, out: &Path) -> Result<(), Problem> {
        let entries = &file.tree().entries;
        let (out, strip) = place(entries, Some(out.to_owned()))?;
        let stage = Arc::new(Stage::new(&out, false)?);
        let bar = ReadBar::new(false, 1);
        fetch(&self.client, &self.fleet, file, &Staging { stage: &stage, strip, bar: &bar }).await?;
        let out = commit(stage)?;
        assert_eq!(restore_directories(entries, &out, strip), Vec::<String>::new());
        Ok(())
    }
}

/// Path, mode, time and content of everything below `root`, links not followed.
fn listing(root: &Path) -> Vec<(String, u32, i64, Vec<u8>)> {
    let entries = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().map(Result::unwrap);
    let describe = |entry: walkdir::DirEntry| {
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        let content = if metadata.is_symlink() {
            fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
        } else if metadata.is_file() {
            fs::read(entry.path()).unwrap()
        } else {
            vec![]
        };
        let relative = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        (relative, metadata.mode(), metadata.mtime(), content)
    };
    entries.map(describe).collect()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..length).map(step).collect()
}

fn sample_tree(root: &Path) {
    fs::create_dir_all(root.join("sub/empty")).unwrap();
    for (at, length) in [0, 1, 2048, 2049, 65_520, 65_521, 300_000].into_iter().enumerate() {
        fs::write(root.join(format!("sub/f{at}")), noise(at as u64, length)).unwrap();
    }
    fs::write(root.join("sub-a"), noise(9, 5000)).unwrap();
    symlink("sub/f3", root.join("link")).unwrap();
    symlink("../../outside", root.join("sub/dangling")).unwrap();
    fs::set_permissions(root.join("sub/f2"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(root.join("sub/empty"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::File::open(root.join("sub")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_comes_back_the_same() {
    let room = tempfile::tempdir().unwrap();
    let (tree, out) = (room.path().join("tree"), room.path().join("out"));
    sample_tree(&tree);
    let world = World::new().await;
    let uploaded = world.upload(&tree).await;
    let file = world.open(&Target::Capability(uploaded.capabilities.locate.clone())).await;
    world.retrieve(&file, &out).await.unwrap();
    assert_eq!(listing(&out), listing(&tree));
    let again = world.retrieve(&file, &out).await.unwrap_err();
    assert_eq!(again.failure, Failure::Usage, "an existing target is refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_file_validates_and_opens() {
    let room = tempfile::tempdir().unwrap();
    let (path, out, manifest) = (room.path().join("f"), room.path().join("g"), room.path().join("m"));
    fs::write(&path, noise(1, 200_000)).unwrap();
    let world = World::new().await;
    let uploaded = world.upload(&path).await;
    write_private(&manifest, &uploaded.manifest.encode().unwrap()).unwrap();
    let (bytes, _) = target::manifest(&manifest).unwrap();
    assert_eq!(validate(&bytes, PASSWORD).unwrap().code, uploaded.code);
    let target = target::resolve(Some(manifest.as_os_str()), None, |_| None).unwrap();
    assert!(target.needs_password() && target.network() == Some(*world.client.network()));
    let file = world.open(&target).await;
    world.retrieve(&file, &out).await.unwrap();
    assert!(fs::read(&out).unwrap() == noise(1, 200_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_shards_leave_no_file_and_are_reported() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("f");
    fs::write(&path, noise(2, 200_000)).unwrap();
    let world = World::new().await;
    let uploaded = world.upload(&path).await;
    let file = world.open(&Target::Capability(uploaded.capabilities.locate.clone())).await;
    let shortfall = async || Holdings::of(world.client.holdings(&file, &world.fleet).await, file.code()).shortfall();
    assert_eq!(shortfall().await, None);
    let ids = world.swarm.ids();
    world.swarm.set(ids[0], Fault::Down);
    assert_eq!(shortfall().await, Some(Failure::Partial));
    world.swarm.set(ids[1], Fault::Down);
    world.swarm.set(ids[2], Fault::Down);
    assert_eq!(shortfall().await, Some(Failure::TooFewShards));
    let failed = world.retrieve(&file, &room.path().join("out")).await.unwrap_err();
    assert_eq!((failed.failure, failed.text().lines().count()), (Failure::TooFewShards, 3));
    let left: Vec<_> = fs::read_dir(room.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["f"]);
}
