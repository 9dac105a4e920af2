//! An upload from plan to capability. What is promised in [`Uploaded`] happened: it is built from receipts.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_protocol::capability::Hint;
use shoal_protocol::group::Group;
use shoal_protocol::layout::SegmentShape;
use shoal_protocol::limits::HINTS_MAX;
use shoal_protocol::record::{Holder, OwnerRecord, PlacementRecord, RECORD_FORMAT, RecordKind};
use shoal_protocol::sealing::KdfParams;
use shoal_protocol::{ByteCount, FileId, GroupId, NodeId, PublicKey, SegmentNumber, Signed, Suite};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::desk::Desks;
use super::ground::Ground;
use super::journal::{JournalNote, JournalStore};
use super::records::RecordToKeep;
use super::send::Sender;
use super::source::{SealedSource, SealingKeys, UploadSource, seal_source};
use super::{Client, Fleet, UploadError};
use crate::keys::RootKey;
use crate::manifest::{
    Capabilities, ManifestFile, Opened, RecordError, capabilities, fits_page, make_owner, make_placement, newest,
    open_owner, open_placement,
};
use crate::pipeline::FileLayout;
use crate::placement::{Placement, Profile, Rules, Warning, choose, place};
use crate::transfer::{StoreLimits, StoreOutcome, StoreSession, TransferError};
use crate::transport::ShardTransport;

/// Times the expected data bytes that a group may use on one node: padding, and where nodes share, parity up to k+3k.
const CEILING_FACTOR: u64 = 4;
/// What a group may use on one node beside that: pages, records, small tails.
const CEILING_MARGIN: u64 = 64 << 20;
/// What a group may use on one node when the size is not known: 1 PiB.
const CEILING_UNKNOWN: u64 = 1 << 50;

/// How to upload.
#[derive(Clone)]
pub struct UploadOptions {
    /// Which code.
    pub profile: Profile,
    /// Copies of every shard, each masked differently.
    pub replicas: u8,
    /// Several shards of a segment on one node, for tests.
    pub allow_colocate: bool,
    /// Which ciphers.
    pub suite: Suite,
    /// Cost of the password hash; its salt is drawn afresh.
    pub kdf: KdfParams,
    /// Opens the file again.
    pub password: Zeroizing<Vec<u8>>,
    /// How long nodes keep the bytes unless renewed, milliseconds.
    pub lease_ms: u64,
    /// Bytes of the source, where known: only for room and placement, never trusted.
    pub size_hint: Option<u64>,
    /// Rounds of whole-shard audits to mint tokens for, 0 to 64: each hashes every shard once more, and adds 16 bytes a
    /// shard to the pages.
    pub audit_rounds: u8,
    /// Bounds of what is under way.
    pub limits: StoreLimits,
}

/// What an upload would do.
#[derive(Debug, Clone)]
pub struct UploadPlan {
    /// The code chosen.
    pub code: shoal_protocol::layout::Code,
    /// Who would hold what.
    pub placement: Placement,
    /// What the owner should know.
    pub warnings: Vec<Warning>,
}

/// Something moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadProgress {
    /// Plaintext bytes read and sealed.
    Sealed {
        /// Bytes, padding included.
        plain: u64,
    },
    /// Shard bytes receipted.
    Sent {
        /// Bytes.
        bytes: u64,
    },
    /// Plaintext bytes whose shards are all receipted or given up.
    Receipted {
        /// Bytes, padding included.
        plain: u64,
    },
    /// Data and pages are safe; records follow.
    Records,
}

/// A file that is in the swarm.
#[derive(Debug)]
pub struct Uploaded {
    /// The strings that lead back to it.
    pub capabilities: Capabilities,
    /// The root key.
    pub root: RootKey,
    /// Who holds what.
    pub placement: PlacementRecord,
    /// The code used.
    pub code: shoal_protocol::layout::Code,
    /// Copies of every shard.
    pub replicas: u8,
    /// Bytes of content.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// Segments and pages.
    pub segments: u64,
    /// Shard bytes made.
    pub coded: u64,
    /// Plaintext bytes, padding included, that an earlier run had stored whole.
    pub kept: u64,
    /// Shard bytes that this run sent, and nodes receipted.
    pub sent: u64,
    /// What became of the journal, where that is not what the owner would expect.
    pub notes: Vec<JournalNote>,
    /// Shards nobody took: segment and unit. Empty when the upload is complete.
    pub missing: Vec<(SegmentNumber, usize)>,
    /// Nodes that failed during the transfer.
    pub failed: BTreeMap<NodeId, TransferError>,
    /// Nodes that should have kept a record and did not.
    pub records_missing: Vec<(NodeId, TransferError)>,
    /// What the owner should know.
    pub warnings: Vec<Warning>,
    /// All of this as a local file.
    pub manifest: ManifestFile,
}

impl Uploaded {
    /// Whether every shard and record is where it should be.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.records_missing.is_empty()
    }
}

impl<T: ShardTransport> Client<T> {
    /// Chooses code and holders among the live nodes; `file` seeds the choice.
    ///
    /// # Errors
    /// [`UploadError::Placement`].
    pub fn plan(&self, options: &UploadOptions, fleet: &Fleet, file: FileId) -> Result<UploadPlan, UploadError> {
        let candidates = fleet.candidates();
        let code = match options.profile {
            Profile::Exact(code) if options.allow_colocate => code,
            profile => choose(profile, candidates.len())?.code,
        };
        let mut warnings = choose(options.profile, candidates.len()).map(|choice| choice.warnings).unwrap_or_default();
        let slot_bytes = options.size_hint.map_or(0, |size| size / code.k() as u64);
        let rules = Rules { allow_colocate: options.allow_colocate };
        let placement = place(file, code, options.replicas, &candidates, slot_bytes, rules)?;
        warnings.extend(placement.warnings.iter().cloned());
        Ok(UploadPlan { code, placement, warnings })
    }

    /// Uploads everything `source` gives.
    ///
    /// # Errors
    /// [`UploadError`]; what was stored by then is unreachable and expires with its lease.
    pub async fn upload(
        &self,
        source: UploadSource,
        options: &UploadOptions,
        fleet: &Fleet,
        progress: &(dyn Fn(UploadProgress) + Send + Sync),
    ) -> Result<Uploaded, UploadError> {
        let ground = self.ground(options, fleet, None).await?;
        self.upload_on(ground, source, options, fleet, progress).await
    }

    /// As [`Client::upload`], but goes on where the journal in `store` stopped, if it is of such an upload and the password
    /// opens it, and notes in it what gets stored. When it has succeeded, the journal is the caller's to remove, once the
    /// capability is where it cannot be lost.
    ///
    /// # Errors
    /// [`UploadError`]; what was stored by then is found again with the journal, until its lease is over.
    pub async fn upload_noted(
        &self,
        source: UploadSource,
        options: &UploadOptions,
        fleet: &Fleet,
        store: Box<dyn JournalStore>,
        progress: &(dyn Fn(UploadProgress) + Send + Sync),
    ) -> Result<Uploaded, UploadError> {
        let ground = self.ground(options, fleet, Some(store)).await?;
        self.upload_on(ground, source, options, fleet, progress).await
    }

    async fn upload_on(
        &self,
        mut ground: Ground,
        source: UploadSource,
        options: &UploadOptions,
        fleet: &Fleet,
        progress: &(dyn Fn(UploadProgress) + Send + Sync),
    ) -> Result<Uploaded, UploadError> {
        let plan = &ground.plan;
        let layout = FileLayout::new(ground.file, options.suite, plan.code, plan.placement.replicas)
            .map_err(|error| UploadError::Seal(error.to_string()))?;
        if !fits_page(layout.units(), options.audit_rounds) {
            let (units, rounds) = (layout.units(), options.audit_rounds);
            let what = format!("tokens of {rounds} audit rounds for {units} shards a segment do not fit a page");
            return Err(UploadError::TooLarge(what));
        }
        let group = self.group(&ground, options);
        let sender = self.sender(options, &ground, fleet, &group)?;
        let (sealed_out, sealed) = mpsc::channel(1);
        let (environment, read, audit_rounds) = (self.environment.clone(), ground.root.read(), options.audit_rounds);
        let (logbook, kept) = (ground.logbook.clone(), std::mem::take(&mut ground.kept));
        let sealing = tokio::task::spawn_blocking(move || {
            let keys = SealingKeys { read: &read, environment: &environment, audit_rounds, logbook, kept };
            seal_source(source, layout, keys, sealed_out)
        });
        let sent = sender.run(sealed, progress).await;
        // A sender that fails drops the channel, which ends the sealing thread with Interrupted: its own error is the cause.
        let sealed = sealing.await.map_err(|_| UploadError::Interrupted)?;
        let (outcome, sealed) = match (sent, sealed) {
            (Ok(outcome), Ok(sealed)) => (outcome, sealed),
            (Ok(_), Err(error)) | (Err(_), Err(error @ (UploadError::Source { .. } | UploadError::Path(..)))) => {
                return Err(error);
            }
            (Err(error), _) => return Err(error),
        };
        progress(UploadProgress::Records);
        self.publish(options, fleet, ground, group, outcome, sealed).await
    }

    fn sender(
        &self,
        options: &UploadOptions,
        ground: &Ground,
        fleet: &Fleet,
        group: &Signed,
    ) -> Result<Sender<T>, UploadError> {
        let code = ground.plan.code;
        let shape = SegmentShape::new(code, code.segment_plain()).map_err(|what| UploadError::Seal(what.to_owned()))?;
        let full_shard = u32::try_from(shape.shard_length()).unwrap_or(u32::MAX);
        let desks = Desks::new(Arc::clone(&self.transport), group.clone(), full_shard, fleet);
        let (slots, spares) = ground.slots.clone();
        let session = StoreSession::new(code, slots, spares, options.allow_colocate, options.limits);
        let least = if options.allow_colocate { 1 } else { code.happy() };
        let group = GroupId::of_owner(&self.network, &ground.owner);
        let logbook = ground.logbook.clone();
        Ok(Sender { client: self.clone(), desks: Arc::new(desks), group, session, least, logbook })
    }

    fn group(&self, ground: &Ground, options: &UploadOptions) -> Signed {
        let steward = ground.root.read().verify().steward_signer().verifying_key().to_bytes();
        // Where nodes may share, one may get everything.
        let k = ground.plan.code.k() as u64;
        let share = |size: u64| {
            if options.allow_colocate { size.saturating_mul(u64::from(options.replicas)) } else { size / k }
        };
        let ceiling = options
            .size_hint
            .map_or(CEILING_UNKNOWN, |size| share(size).saturating_mul(CEILING_FACTOR).saturating_add(CEILING_MARGIN));
        let issued = self.now();
        let group = Group {
            steward: PublicKey::from_bytes(steward),
            payer: self.node.into(),
            ceiling: ByteCount(ceiling),
            issued,
            expires: issued.saturating_add(options.lease_ms),
            serial: ground.serial,
        };
        Signed::seal(&group, &ground.root.owner_signer(), &self.network)
    }

    /// Placement record, then owner record: only then can the file be found.
    async fn publish(
        &self,
        options: &UploadOptions,
        fleet: &Fleet,
        ground: Ground,
        group: Signed,
        outcome: StoreOutcome,
        sealed: SealedSource,
    ) -> Result<Uploaded, UploadError> {
        let Ground { root, owner, file, plan, .. } = &ground;
        let verify = root.read().verify();
        let steward = PublicKey::from_bytes(verify.steward_signer().verifying_key().to_bytes());
        let placement = placement_record(*file, fleet, &plan.placement, &outcome);
        let owner_body = owner_record(options, &ground, steward, &sealed);
        let earlier = if ground.resumed { self.earlier_records(&ground, &steward, fleet).await } else { (None, None) };
        let refused = |error: crate::manifest::MakeError| UploadError::TooLarge(error.to_string());
        let salt = self.environment.random();
        let placement_record =
            make_placement(&placement, 0, &verify, &self.network, earlier.0.as_ref(), salt).map_err(refused)?;
        let salt = self.environment.random();
        let owner_record = make_owner(&owner_body, root, &self.network, earlier.1.as_ref(), salt).map_err(refused)?;
        let need = plan.code.happy().min(outcome.holders.len());
        let mut records_missing = Vec::new();
        for (what, kind, signer, bytes) in [
            ("placement", RecordKind::Placement, &steward, &placement_record),
            ("owner", RecordKind::Owner, owner, &owner_record),
        ] {
            let key = kind.key(&self.network, signer, 0);
            let record = Signed::from_bytes(bytes, shoal_protocol::limits::RECORD_MAX)
                .map_err(|error| UploadError::TooLarge(error.to_string()))?;
            let group_id = GroupId::of_owner(&self.network, owner);
            let nodes = Self::record_nodes(fleet, &outcome.holders, &key);
            let kept =
                self.keep_record(fleet, &nodes, &RecordToKeep { group: &group, group_id, record: &record }).await;
            if kept.by.len() < need {
                return Err(UploadError::Records { what, have: kept.by.len(), need, failures: kept.failures });
            }
            records_missing.extend(kept.failures);
        }
        let hints = hints(&placement);
        let manifest = ManifestFile {
            network: self.network,
            owner: *owner,
            locator: root.locator(),
            hints: hints.clone(),
            owner_record,
            placement_records: vec![placement_record],
            pages: sealed.pages,
        };
        Ok(Uploaded {
            capabilities: capabilities(root, &self.network, &hints),
            root: root.clone(),
            manifest,
            placement,
            code: plan.code,
            replicas: plan.placement.replicas,
            bytes: sealed.bytes,
            entries: sealed.entries,
            segments: sealed.segments,
            coded: sealed.coded,
            kept: sealed.kept,
            sent: outcome.sent,
            notes: ground.note.into_iter().chain(ground.logbook.failure()).collect(),
            missing: outcome.missing,
            failed: outcome.failed,
            records_missing,
            warnings: ground.plan.warnings,
        })
    }

    /// The records of a run that was interrupted after it had stored them: new ones have to succeed them.
    async fn earlier_records(
        &self,
        ground: &Ground,
        steward: &PublicKey,
        fleet: &Fleet,
    ) -> (Option<Opened<PlacementRecord>>, Option<Opened<OwnerRecord>>) {
        let (verify, locator) = (ground.root.read().verify(), ground.root.locator());
        let placement = self.earlier(fleet, RecordKind::Placement, steward, |signed| {
            open_placement(signed, 0, &self.network, &ground.file, steward, &verify)
        });
        let owner = self.earlier(fleet, RecordKind::Owner, &ground.owner, |signed| {
            open_owner(signed, &self.network, &ground.owner, &locator)
        });
        futures::join!(placement, owner)
    }

    async fn earlier<R>(
        &self,
        fleet: &Fleet,
        kind: RecordKind,
        signer: &PublicKey,
        open: impl Fn(&[u8]) -> Result<Opened<R>, RecordError>,
    ) -> Option<Opened<R>> {
        let found = self.fetch_record(fleet, kind.key(&self.network, signer, 0)).await;
        let found: Vec<Vec<u8>> = found.iter().map(Signed::to_bytes).collect();
        newest(found.iter().map(Vec::as_slice), open)
    }
}

fn owner_record(options: &UploadOptions, ground: &Ground, steward: PublicKey, sealed: &SealedSource) -> OwnerRecord {
    OwnerRecord {
        format: RECORD_FORMAT,
        file: ground.file,
        suite: options.suite,
        code: ground.plan.code,
        replicas: ground.plan.placement.replicas,
        kdf: ground.kdf.clone(),
        slots: vec![ground.slot.clone()],
        root: sealed.root.clone(),
        steward,
        previous_roots: vec![],
    }
}

fn placement_record(file: FileId, fleet: &Fleet, plan: &Placement, outcome: &StoreOutcome) -> PlacementRecord {
    let domains: BTreeMap<NodeId, Option<String>> =
        plan.slots.iter().chain(&plan.spares).map(|placed| (placed.node, placed.domain.record_text())).collect();
    let holders = outcome.holders.iter().map(|node| Holder {
        node: *node,
        addresses: fleet.get(node).map(|live| bounded(&live.addresses)).unwrap_or_default(),
        domain: domains.get(node).cloned().flatten(),
    });
    PlacementRecord { format: RECORD_FORMAT, file, holders: holders.collect(), ranges: outcome.ranges.clone() }
}

fn bounded(addresses: &[String]) -> Vec<String> {
    use shoal_protocol::limits::{ADDRESS_MAX, ADDRESSES_MAX};
    let plain = |address: &&String| shoal_protocol::record::is_plain_text(address, ADDRESS_MAX);
    addresses.iter().filter(plain).take(ADDRESSES_MAX).cloned().collect()
}

fn hints(placement: &PlacementRecord) -> Vec<Hint> {
    let hint =
        |holder: &Holder| Hint { node: holder.node, address: holder.addresses.first().cloned().unwrap_or_default() };
    placement.holders.iter().take(HINTS_MAX).map(hint).collect()
}
