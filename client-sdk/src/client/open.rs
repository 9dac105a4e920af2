//! From a capability to a file that can be read: owner record, key, placement, pages. Newer records win over cached ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use shoal_protocol::capability::{Capability, CapabilityKind};
use shoal_protocol::control::{Request, Response};
use shoal_protocol::layout::{Code, SegmentShape};
use shoal_protocol::limits::{AUDIT_TOKEN, STAT_MAX};
use shoal_protocol::page::{PageRef, SegmentRef};
use shoal_protocol::record::{OwnerRecord, PlacementRecord, RecordKind};
use shoal_protocol::{NodeId, PublicKey, SegmentNumber, ShardId, Signed};
use zeroize::Zeroizing;

use super::fetch::Source;
use super::peers::Peers;
use super::{Client, Fleet, RetrieveError};
use crate::keys::{Locator, ReadKey, RootKey, VerifyKey};
use crate::manifest::{
    FileTree, ManifestFile, Opened, TreeReader, TreeShape, UnlockError, newest, open_owner, open_placement, unlock,
};
use crate::pipeline::{FileLayout, page_bytes};
use crate::transport::ShardTransport;

/// Shard ids asked of one node at once, and nodes asked at once.
const STAT_NODES: usize = 16;

/// What opens a file beside its capability.
#[derive(Clone)]
pub enum Secret {
    /// The capability carries a key itself.
    None,
    /// The upload's password.
    Password(Zeroizing<Vec<u8>>),
}

/// One shard and where it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPlace {
    /// Segment or page.
    pub segment: SegmentNumber,
    /// replica x n + index.
    pub unit: usize,
    /// Its id.
    pub shard: ShardId,
    /// Its bytes.
    pub length: u32,
    /// Its holder, where the upload found one.
    pub node: Option<NodeId>,
}

/// What a holder says of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldState {
    /// It has it, of the right length.
    Present,
    /// It does not, or of another length; or nobody was found at the upload.
    Missing,
    /// It did not answer.
    Unreachable,
}

/// A shard, and what its holder says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub place: ShardPlace,
    /// What its holder says.
    pub state: HeldState,
}

/// A file whose keys, placement and pages are known.
pub struct OpenFile {
    source: Source,
    tree: Arc<FileTree>,
    owner_record: Opened<OwnerRecord>,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenFile({:?})", self.owner_record.file)
    }
}

impl OpenFile {
    /// Entries and segments.
    #[must_use]
    pub const fn tree(&self) -> &Arc<FileTree> {
        &self.tree
    }

    /// Who holds what.
    #[must_use]
    pub fn placement(&self) -> &PlacementRecord {
        &self.source.placement
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.owner_record.code
    }

    /// Copies of every shard.
    #[must_use]
    pub fn replicas(&self) -> u8 {
        self.owner_record.replicas
    }

    /// Whether content can be opened, or only verified.
    #[must_use]
    pub const fn can_read(&self) -> bool {
        self.source.read.is_some()
    }

    /// Nodes that were silent for so long while reading that others were asked as well, and how often.
    #[must_use]
    pub fn stalls(&self) -> Vec<(NodeId, u32)> {
        self.source.peers.history(|history| history.stalls().collect())
    }

    /// Nodes that proved useless while reading, and why.
    #[must_use]
    pub fn shunned(&self) -> Vec<(NodeId, crate::transfer::TransferError)> {
        self.source.peers.shunned()
    }

    /// Every shard of every segment and page, in order.
    #[must_use]
    pub fn shard_places(&self) -> Vec<ShardPlace> {
        let data = self.tree.segments.iter().enumerate();
        let data = data.map(|(index, segment)| (SegmentNumber(u32::try_from(index).unwrap_or(u32::MAX)), segment));
        let pages = self.tree.pages.iter().map(|page| (page.number, &page.segment));
        let mut places = Vec::new();
        for (number, segment) in data.chain(pages) {
            let shape = SegmentShape::new(self.code(), segment.plain as usize);
            let length = shape.map_or(0, |shape| u32::try_from(shape.shard_length()).unwrap_or(u32::MAX));
            for (unit, shard) in segment.shards.iter().enumerate() {
                let node = self.source.placement.holder(number, unit).map(|holder| holder.node);
                places.push(ShardPlace { segment: number, unit, shard, length, node });
            }
        }
        places
    }

    /// Rounds of whole-shard audits that its data segments have tokens for; 0 where the upload minted none.
    #[must_use]
    pub fn audit_rounds(&self) -> u8 {
        self.tree.segments.iter().map(SegmentRef::audit_rounds).max().unwrap_or(0)
    }

    /// The token of a round of one shard. Pages have none.
    pub(super) fn audit_token(&self, place: &ShardPlace, round: u8) -> Option<[u8; AUDIT_TOKEN]> {
        let number = Some(place.segment).filter(|number| !number.is_page())?;
        self.tree.segments.get(usize::try_from(number.0).ok()?)?.audit_token(round, place.unit)
    }

    pub(super) const fn source(&self) -> &Source {
        &self.source
    }
}

/// Keys as far as the caller's secret leads.
struct Keys {
    read: Option<ReadKey>,
    verify: VerifyKey,
}

impl<T: ShardTransport> Client<T> {
    /// Finds the records, takes the keys out of `capability` or the password, and reads the page tree. Holders that
    /// the fleet lacks are greeted and added to it.
    ///
    /// # Errors
    /// [`RetrieveError`].
    pub async fn open(
        &self,
        capability: &Capability,
        cached: Option<&ManifestFile>,
        secret: &Secret,
        fleet: &mut Fleet,
    ) -> Result<OpenFile, RetrieveError> {
        if !capability.is_for(&self.network) {
            return Err(RetrieveError::OtherNetwork { found: capability.network_tag(), expected: self.network.tag() });
        }
        let owner_record = self.find_owner_record(capability, cached, fleet).await?;
        let keys = self.keys(capability, secret, &owner_record).await?;
        let steward = PublicKey::from_bytes(keys.verify.steward_signer().verifying_key().to_bytes());
        if steward != owner_record.steward {
            return Err(RetrieveError::Integrity("the owner record names another steward than the key gives".into()));
        }
        let placement = self.find_placement_record(&owner_record, &keys.verify, cached, fleet).await?;
        self.greet_holders(&placement, fleet).await;
        let shape = TreeShape::from(&*owner_record);
        let layout = FileLayout::new(shape.file, shape.suite, shape.code, shape.replicas)
            .map_err(|error| RetrieveError::Integrity(error.to_string()))?;
        let source = Source {
            layout,
            verify: keys.verify,
            read: keys.read,
            placement: Arc::new(placement),
            peers: Arc::new(Peers::default()),
        };
        let tree = self.tree(&source, shape, &owner_record.root, cached, fleet).await?;
        Ok(OpenFile { source, tree: Arc::new(tree), owner_record })
    }

    async fn find_owner_record(
        &self,
        capability: &Capability,
        cached: Option<&ManifestFile>,
        fleet: &Fleet,
    ) -> Result<Opened<OwnerRecord>, RetrieveError> {
        let locator = Locator::new(*capability.locator());
        let key = RecordKind::Owner.key(&self.network, capability.owner(), 0);
        let mut found: Vec<Vec<u8>> = self.fetch_record(fleet, key).await.iter().map(Signed::to_bytes).collect();
        let answered = !found.is_empty();
        found.extend(cached.map(|file| file.owner_record.clone()));
        let opened = newest(found.iter().map(Vec::as_slice), |signed| {
            open_owner(signed, &self.network, capability.owner(), &locator)
        });
        match opened {
            Some(record) => Ok(record),
            None if answered => Err(RetrieveError::Integrity("no copy of the owner record verifies".into())),
            None => Err(RetrieveError::NoRecord { what: "owner", asked: fleet.len() }),
        }
    }

    async fn keys(
        &self,
        capability: &Capability,
        secret: &Secret,
        record: &Opened<OwnerRecord>,
    ) -> Result<Keys, RetrieveError> {
        let whole = |read: ReadKey| Keys { verify: read.verify(), read: Some(read) };
        match (capability.kind(), capability.secret(), secret) {
            (CapabilityKind::Owner, Some(key), _) => Ok(whole(RootKey::new(*key).read())),
            (CapabilityKind::Read, Some(key), _) => Ok(whole(ReadKey::new(*key))),
            (CapabilityKind::Verify, Some(key), _) => Ok(Keys { read: None, verify: VerifyKey::new(*key) }),
            (_, _, Secret::Password(password)) => {
                let (record, network, password) = (record.clone(), self.network, password.clone());
                let work = tokio::task::spawn_blocking(move || unlock(&record, &network, &password));
                match work.await.map_err(|_| RetrieveError::Interrupted)? {
                    Ok(root) => Ok(whole(root.read())),
                    Err(UnlockError::Slot(crate::keys::SlotError::WrongPassword)) => Err(RetrieveError::WrongPassword),
                    Err(error) => Err(RetrieveError::Integrity(error.to_string())),
                }
            }
            (_, _, Secret::None) => Err(RetrieveError::PasswordNeeded),
        }
    }

    async fn find_placement_record(
        &self,
        owner_record: &Opened<OwnerRecord>,
        verify: &VerifyKey,
        cached: Option<&ManifestFile>,
        fleet: &Fleet,
    ) -> Result<PlacementRecord, RetrieveError> {
        let key = RecordKind::Placement.key(&self.network, &owner_record.steward, 0);
        let mut found: Vec<Vec<u8>> = self.fetch_record(fleet, key).await.iter().map(Signed::to_bytes).collect();
        found.extend(cached.into_iter().flat_map(|file| file.placement_records.iter().cloned()));
        let opened = newest(found.iter().map(Vec::as_slice), |signed| {
            open_placement(signed, 0, &self.network, &owner_record.file, &owner_record.steward, verify)
        });
        match opened {
            Some(record) => Ok((*record).clone()),
            None if !found.is_empty() => {
                Err(RetrieveError::Integrity("no copy of the placement record verifies".into()))
            }
            None => Err(RetrieveError::NoRecord { what: "placement", asked: fleet.len() }),
        }
    }

    /// Holders that nobody told us about may still be where the placement says.
    async fn greet_holders(&self, placement: &PlacementRecord, fleet: &mut Fleet) {
        let strangers: Vec<(NodeId, Vec<String>)> = placement
            .holders
            .iter()
            .filter(|holder| fleet.get(&holder.node).is_none() && !holder.addresses.is_empty())
            .map(|holder| (holder.node, holder.addresses.clone()))
            .collect();
        if strangers.is_empty() {
            return;
        }
        if let Ok(more) = self.discover(&[], &strangers).await {
            fleet.merge(more);
        }
    }

    async fn tree(
        &self,
        source: &Source,
        shape: TreeShape,
        root: &PageRef,
        cached: Option<&ManifestFile>,
        fleet: &Fleet,
    ) -> Result<FileTree, RetrieveError> {
        let damaged = |error: crate::manifest::TreeError| RetrieveError::Integrity(error.to_string());
        let mut reader = TreeReader::new(root.clone(), shape, source.read.clone()).map_err(damaged)?;
        loop {
            let wanted: Vec<PageRef> = reader.wanted().cloned().collect();
            if wanted.is_empty() {
                return reader.finish().map_err(damaged);
            }
            let mut fetched = stream::iter(wanted.into_iter().map(|page| async move {
                if let Some(body) = cached.and_then(|file| cached_page(file, &page, source)) {
                    return Ok((page.number, body.to_vec()));
                }
                let plain = 0..page.segment.plain as usize;
                let plain = self.fetch_plain(source, fleet, page.number, &page.segment, plain).await?;
                let body = page_bytes(&plain).map_err(|error| RetrieveError::Integrity(error.to_string()))?;
                Ok((page.number, body.to_vec()))
            }))
            .buffer_unordered(4);
            while let Some(page) = fetched.next().await {
                let page: Result<(SegmentNumber, Vec<u8>), RetrieveError> = page;
                let (number, body) = page?;
                reader.accept(number, &body).map_err(damaged)?;
            }
        }
    }

    /// Asks every holder by STAT which of its shards it really has.
    pub async fn holdings(&self, file: &OpenFile, fleet: &Fleet) -> Vec<Held> {
        let mut out = self.ask_holdings(file.shard_places(), fleet).await;
        out.sort_by_key(|held| (held.place.segment, held.place.unit));
        out
    }

    /// Asks by STAT which of `places` are as they should be; in no order.
    pub(super) async fn ask_holdings(&self, places: Vec<ShardPlace>, fleet: &Fleet) -> Vec<Held> {
        let mut by_node: BTreeMap<NodeId, Vec<ShardPlace>> = BTreeMap::new();
        let mut out = Vec::with_capacity(places.len());
        for place in places {
            match place.node {
                Some(node) => by_node.entry(node).or_default().push(place),
                None => out.push(Held { place, state: HeldState::Missing }),
            }
        }
        let asked = by_node.into_iter().map(|(node, places)| self.stat(node, places, fleet));
        let answers: Vec<Vec<Held>> = stream::iter(asked).buffer_unordered(STAT_NODES).collect().await;
        out.extend(answers.into_iter().flatten());
        out
    }

    async fn stat(&self, node: NodeId, places: Vec<ShardPlace>, fleet: &Fleet) -> Vec<Held> {
        let mut out = Vec::with_capacity(places.len());
        for chunk in places.chunks(STAT_MAX) {
            let request = Request::Stat { shards: chunk.iter().map(|place| place.shard).collect() };
            let answer = if fleet.get(&node).is_some() {
                self.transport.request(node, request, std::time::Duration::from_secs(10)).await.ok()
            } else {
                None
            };
            for (index, place) in chunk.iter().enumerate() {
                let state = match &answer {
                    Some(Response::Stat { held }) => match held.get(index).and_then(|held| held.length) {
                        Some(length) if length == place.length => HeldState::Present,
                        _ => HeldState::Missing,
                    },
                    _ => HeldState::Unreachable,
                };
                out.push(Held { place: place.clone(), state });
            }
        }
        out
    }
}

/// The page from a local manifest, if it seals to the very shards that `page` names; with the verify key alone that
/// cannot be told, and the swarm is asked.
fn cached_page(file: &ManifestFile, page: &PageRef, source: &Source) -> Option<Zeroizing<Vec<u8>>> {
    let cached = file.pages.iter().find(|cached| cached.number() == page.number)?;
    cached.open_as(page, &source.layout, source.read.as_ref()?)
}
