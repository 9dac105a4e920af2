//! What an upload stands on: its keys, its password slot, its plan, and what an earlier run left in place. The password is
//! hashed once where there is no journal, and once more where a journal has to be given up.

use std::collections::BTreeMap;

use shoal_protocol::layout::{Code, SegmentShape};
use shoal_protocol::sealing::{KdfParams, KeySlot};
use shoal_protocol::{FileId, NodeId, PublicKey, SegmentNumber};

use super::journal::{JournalNote, JournalStore, Logbook};
use super::open::{HeldState, ShardPlace};
use super::upload::{UploadOptions, UploadPlan};
use super::{Client, Fleet, UploadError};
use crate::journal::{Begin, JournalHeader, JournalSegment, JournalState, replay, slots_as_left};
use crate::keys::{Kek, RootKey, kek, make_slot};
use crate::placement::Profile;
use crate::transport::ShardTransport;

/// What an upload stands on.
pub(super) struct Ground {
    pub(super) root: RootKey,
    pub(super) owner: PublicKey,
    pub(super) file: FileId,
    pub(super) kdf: KdfParams,
    pub(super) slot: KeySlot,
    pub(super) plan: UploadPlan,
    /// Nodes by slot, and who replaces them.
    pub(super) slots: (Vec<NodeId>, Vec<NodeId>),
    /// Serial of the group.
    pub(super) serial: u64,
    /// Whether an earlier run got this far; then there may be records already.
    pub(super) resumed: bool,
    /// What an earlier run sealed, as far as nodes still have it.
    pub(super) kept: BTreeMap<SegmentNumber, JournalSegment>,
    pub(super) logbook: Logbook,
    pub(super) note: Option<JournalNote>,
}

/// Keys of an upload, before anything is planned.
struct Keys {
    root: RootKey,
    owner: PublicKey,
    file: FileId,
    kdf: KdfParams,
    slot: KeySlot,
}

impl<T: ShardTransport> Client<T> {
    /// Goes on where the journal in `store` stopped, or begins anew.
    pub(super) async fn ground(
        &self,
        options: &UploadOptions,
        fleet: &Fleet,
        store: Option<Box<dyn JournalStore>>,
    ) -> Result<Ground, UploadError> {
        let Some(mut store) = store else {
            let keys = self.fresh_keys(options).await?;
            let plan = self.plan(options, fleet, keys.file)?;
            return Ok(self.stand(options, keys, plan, None, None));
        };
        let (store, found) = tokio::task::spawn_blocking(move || {
            let found = store.load();
            (store, found)
        })
        .await
        .map_err(|_| UploadError::Interrupted)?;
        let note = match found {
            Err(error) => Some(JournalNote::Unreadable(error)),
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => match self.reopen(options, fleet, bytes).await {
                Ok((keys, plan, mut state)) => {
                    self.forget_what_is_gone(&mut state, fleet).await;
                    return Ok(self.stand(options, keys, plan, Some(state), Some(store)));
                }
                Err(note) => Some(note),
            },
        };
        let keys = self.fresh_keys(options).await?;
        let plan = self.plan(options, fleet, keys.file)?;
        Ok(Ground { note, ..self.stand(options, keys, plan, None, Some(store)) })
    }

    async fn hash(options: &UploadOptions, kdf: &KdfParams) -> Result<Kek, UploadError> {
        let (password, kdf) = (options.password.clone(), kdf.clone());
        let hashed = tokio::task::spawn_blocking(move || kek(&password, &kdf)).await;
        hashed.map_err(|_| UploadError::Interrupted)?.map_err(|error| UploadError::Seal(error.to_string()))
    }

    async fn fresh_keys(&self, options: &UploadOptions) -> Result<Keys, UploadError> {
        let root = RootKey::new(self.environment.random());
        let owner = PublicKey::from_bytes(root.owner_signer().verifying_key().to_bytes());
        let file = FileId::of_owner(&self.network, &owner);
        let kdf = KdfParams { salt: self.environment.random(), ..options.kdf.clone() };
        let kek = Self::hash(options, &kdf).await?;
        let slot = make_slot(&kek, options.suite, &file, &root, self.environment.random());
        Ok(Keys { root, owner, file, kdf, slot })
    }

    /// The keys, the plan and the state of a journal that this upload can go on with.
    async fn reopen(
        &self,
        options: &UploadOptions,
        fleet: &Fleet,
        bytes: Vec<u8>,
    ) -> Result<(Keys, UploadPlan, JournalState), JournalNote> {
        let (header, entries) = JournalHeader::read(&bytes)?;
        if header.network != *self.network.as_bytes() || header.suite != options.suite {
            return Err(JournalNote::Options);
        }
        let kek = Self::hash(options, &header.kdf).await;
        let kek = kek.map_err(|error| JournalNote::Unreadable(std::io::Error::other(error.to_string())))?;
        let root = header.unlock(&kek)?;
        let state = replay(&header, &root, bytes.get(entries..).unwrap_or_default())?;
        let Begin { code, replicas, audit_rounds, .. } = *state.begin();
        let same_code = match options.profile {
            Profile::Exact(wanted) => wanted == code,
            _ => true,
        };
        if replicas != options.replicas || audit_rounds != options.audit_rounds || !same_code {
            return Err(JournalNote::Options);
        }
        let JournalHeader { file, kdf, slot, .. } = header;
        let exact = UploadOptions { profile: Profile::Exact(code), ..options.clone() };
        let plan = self.plan(&exact, fleet, file).map_err(|error| match error {
            UploadError::Placement(error) => JournalNote::Code(error),
            _ => JournalNote::Options,
        })?;
        let owner = PublicKey::from_bytes(root.owner_signer().verifying_key().to_bytes());
        Ok((Keys { root, owner, file, kdf, slot }, plan, state))
    }

    /// Asks every node for what it receipted. What it does not have, or who does not answer, is not counted on.
    async fn forget_what_is_gone(&self, state: &mut JournalState, fleet: &Fleet) {
        let code = state.begin().code;
        let places: Vec<ShardPlace> = state
            .holdings()
            .map(|(segment, unit, shard, node)| {
                let length = shard_length(code, state.plain(segment));
                ShardPlace { segment, unit, shard, length, node: Some(node) }
            })
            .collect();
        for held in self.ask_holdings(places, fleet).await {
            if held.state != HeldState::Present {
                state.forget(held.place.segment, held.place.unit);
            }
        }
    }

    fn stand(
        &self,
        options: &UploadOptions,
        keys: Keys,
        plan: UploadPlan,
        left: Option<JournalState>,
        store: Option<Box<dyn JournalStore>>,
    ) -> Ground {
        let Keys { root, owner, file, kdf, slot } = keys;
        let serial = left.as_ref().map_or(1, |state| state.begin().serial.saturating_add(1));
        let resumed = left.is_some();
        let state = left.unwrap_or_else(|| {
            let (code, replicas, audit_rounds) = (plan.code, plan.placement.replicas, options.audit_rounds);
            JournalState::new(Begin { code, replicas, audit_rounds, serial })
        });
        let nodes = |placed: &[crate::placement::Placed]| -> Vec<NodeId> { placed.iter().map(|at| at.node).collect() };
        let (slots, spares) = (nodes(&plan.placement.slots), nodes(&plan.placement.spares));
        let slots = if options.allow_colocate { (slots, spares) } else { slots_as_left(&slots, &spares, &state) };
        let logbook = store.map_or_else(Logbook::default, |store| {
            let header = JournalHeader {
                network: *self.network.as_bytes(),
                file,
                suite: options.suite,
                kdf: kdf.clone(),
                slot: slot.clone(),
            };
            Logbook::open(store, &header, &root, &state, serial, &self.environment)
        });
        let kept = state.into_segments();
        Ground { root, owner, file, kdf, slot, plan, slots, serial, resumed, kept, logbook, note: None }
    }
}

fn shard_length(code: Code, plain: Option<u32>) -> u32 {
    let shape = plain.and_then(|plain| SegmentShape::new(code, usize::try_from(plain).ok()?).ok());
    shape.and_then(|shape| u32::try_from(shape.shard_length()).ok()).unwrap_or(u32::MAX)
}
