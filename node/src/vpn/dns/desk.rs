//! Between the control task and the name server: the newest names, this node's IPv4 address, whom other domains are asked
//! of, and the own name claim between two runs. It answers nothing and decides nothing.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_engine::mesh::names::Zone;
use shoal_engine::mesh::network::Network;
use shoal_protocol::codec;
use shoal_protocol::mesh::name::NameClaim;
use tokio::sync::watch;

use super::{Others, Told};
use crate::files::{read_bounded, write_private};

/// The own name claim, between two runs.
const FILE: &str = "vpn-name";
/// Bytes of the file.
const FILE_MAX: u64 = 256;
/// Least time between two snapshots: one of 4,096 members takes some milliseconds, and statements come in by the hundred.
const PACE: Duration = Duration::from_millis(500);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Desk {
    /// The network's name as a label.
    label: Option<String>,
    file: PathBuf,
    zone: watch::Sender<Arc<Zone>>,
    v4: watch::Sender<Option<Ipv4Addr>>,
    others: watch::Sender<Others>,
    /// The snapshot is out of date.
    stale: bool,
    made: Instant,
}

impl Desk {
    /// A desk of this network, whose label is `label`; other domains are asked of `others` at first.
    pub(crate) fn new(network: &Network, label: Option<String>, others: Others, data: &Path) -> Self {
        let zone = network.zone(label.as_deref(), 1);
        let (zone, v4) = (watch::Sender::new(Arc::new(zone)), watch::Sender::new(network.own_ipv4()));
        let others = watch::Sender::new(others);
        Self { label, file: data.join(FILE), zone, v4, others, stale: true, made: Instant::now() }
    }

    /// What the name server hears.
    pub(crate) fn told(&self) -> Told {
        Told { zone: self.zone.subscribe(), v4: self.v4.subscribe(), others: self.others.subscribe() }
    }

    /// The last name claim of the run before. One that cannot be read is none: another may have the name then.
    pub(crate) fn saved(data: &Path) -> Option<NameClaim> {
        let bytes = read_bounded(&data.join(FILE), FILE_MAX).ok()??;
        codec::decode::<NameClaim>(&bytes, FILE_MAX as usize).ok()
    }

    /// Keeps the own claim for the next run.
    pub(crate) fn save(&self, claim: &NameClaim) {
        if let Err(error) = write_private(&self.file, &codec::encode(claim)) {
            tracing::warn!(%error, file = %self.file.display(), "the claim of the own name is not kept");
        }
    }

    /// This node has another IPv4 address, or none.
    pub(crate) fn moved(&self, address: Option<Ipv4Addr>) {
        self.v4.send_if_modified(|known| std::mem::replace(known, address) != address);
    }

    /// Other domains are asked of these from now on.
    pub(crate) fn ask(&self, others: Others) {
        self.others.send_if_modified(|known| std::mem::replace(known, others) != others);
    }

    /// Names changed.
    pub(crate) const fn changed(&mut self) {
        self.stale = true;
    }

    /// Makes a new snapshot, if it is needed and not too soon.
    pub(crate) fn tick(&mut self, network: &Network) {
        if !self.stale || self.made.elapsed() < PACE {
            return;
        }
        (self.stale, self.made) = (false, Instant::now());
        let serial = self.zone.borrow().serial().wrapping_add(1);
        self.zone.send_replace(Arc::new(network.zone(self.label.as_deref(), serial)));
    }
}
