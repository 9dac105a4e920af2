//! What one network of a node needs of who belongs to it: who this node is there, who may do what, who is known, and what is
//! said of this node to others. The main network and those beside it have one each. It stores nothing for anybody, and
//! decides nothing: the tables are the engine's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ed25519_dalek::SigningKey;
use shoal_engine::admission::{Admission, Denial, Operation};
use shoal_engine::counters::Counters;
use shoal_engine::directory::Directory;
use shoal_protocol::control::{Hello, PROTOCOL_VERSION, Request, Response};
use shoal_protocol::mesh::message::MeshMessage;
use shoal_protocol::peer_record::PeerRecord;
use shoal_protocol::signed::Statement;
use shoal_protocol::{BootEpoch, ByteCount, NetworkId, NodeId, Refusal, Signed};

use crate::clock;
use crate::vpn::control::{VpnEvent, VpnHandle};
use crate::vpn::running::VpnPlace;

/// Who asks, and the IP address it is seen at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) address: Option<IpAddr>,
}

/// Bytes this node can still take in the network, as they are now; none where it stores nothing there.
pub(crate) type Room = Option<Arc<dyn Fn() -> ByteCount + Send + Sync>>;

/// The engine's tables.
pub(crate) struct Tables {
    pub(crate) admission: Admission,
    pub(crate) directory: Directory,
    pub(crate) refused: Counters,
}

/// What a membership is made of.
pub(crate) struct Parts {
    pub(crate) network: NetworkId,
    pub(crate) key: SigningKey,
    pub(crate) boot_epoch: BootEpoch,
    pub(crate) domain: Option<String>,
    pub(crate) room: Room,
    pub(crate) admission: Admission,
    pub(crate) directory: Directory,
    /// Where the node listens, without its id.
    pub(crate) addresses: Vec<String>,
    pub(crate) vpn: VpnPlace,
}

/// See the head of this file.
pub(crate) struct Membership {
    network: NetworkId,
    key: SigningKey,
    node: NodeId,
    boot_epoch: BootEpoch,
    domain: Option<String>,
    room: Room,
    tables: Mutex<Tables>,
    own_record: Mutex<Signed>,
    addresses: Mutex<Vec<String>>,
    /// The private network, once it runs.
    vpn: VpnPlace,
}

impl Membership {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { network, key, boot_epoch, domain, room, admission, directory, addresses, vpn } = parts;
        let record = own_record(&room, boot_epoch, domain.clone(), addresses.clone());
        let own_record = Signed::seal(&record, &key, &network);
        Self {
            network,
            node: NodeId::from_bytes(key.verifying_key().to_bytes()),
            key,
            boot_epoch,
            domain,
            room,
            tables: Mutex::new(Tables { admission, directory, refused: Counters::default() }),
            own_record: Mutex::new(own_record),
            addresses: Mutex::new(addresses),
            vpn,
        }
    }

    pub(crate) const fn network(&self) -> &NetworkId {
        &self.network
    }

    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) const fn boot_epoch(&self) -> BootEpoch {
        self.boot_epoch
    }

    /// The private network, if it runs.
    pub(crate) fn vpn(&self) -> Option<VpnHandle> {
        self.vpn.get()
    }

    /// The tables, for as long as a decision takes; nothing waits while holding them.
    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sign<T: Statement>(&self, statement: &T) -> Signed {
        Signed::seal(statement, &self.key, &self.network)
    }

    /// The node's own signed record.
    pub(crate) fn own_record(&self) -> Signed {
        self.own_record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on the node says it listens there; addresses without its id, the best first.
    pub(crate) fn set_addresses(&self, addresses: Vec<String>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Signs the own record anew, with what is true now.
    pub(crate) fn renew_own_record(&self) -> Signed {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let signed = self.sign(&own_record(&self.room, self.boot_epoch, self.domain.clone(), addresses));
        *self.own_record.lock().unwrap_or_else(PoisonError::into_inner) = signed.clone();
        signed
    }

    pub(crate) fn admit(&self, peer: Peer, operation: Operation) -> Result<(), Denial> {
        self.tables().admission.admit(peer.node, peer.address, operation, clock::now())
    }

    /// Counts a refusal that was answered.
    pub(crate) fn refused(&self, reason: Refusal) {
        self.tables().refused.refused(reason);
    }

    /// Refusals since the start by their word, those that never happened left out.
    pub(crate) fn refusals(&self) -> BTreeMap<String, u64> {
        let tables = self.tables();
        let seen = tables.refused.by_reason().filter(|(_, count)| *count > 0);
        seen.map(|(word, count)| (word.to_owned(), count)).collect()
    }

    /// Answers what is asked of who belongs to the network, of somebody who was admitted. What needs a store comes back.
    ///
    /// # Errors
    /// The request, if it is about anything else.
    pub(crate) fn answer(&self, from: Peer, request: Request) -> Result<Result<Response, Refusal>, Box<Request>> {
        Ok(match request {
            Request::Hello(hello) => Ok(self.greet(from.node, hello)),
            Request::Peers { after } => {
                let (records, more) = self.tables().directory.peers(after, clock::wall());
                Ok(Response::Peers { records, more })
            }
            Request::Locate { nodes } => {
                let (records, more) = self.tables().directory.locate(&nodes, clock::wall());
                Ok(Response::Peers { records, more })
            }
            Request::Mesh(message) => self.mesh(from, message),
            other => return Err(Box::new(other)),
        })
    }

    /// Hands a word about the private network on; what became of it shows there. Members alone are heard.
    fn mesh(&self, from: Peer, message: Box<MeshMessage>) -> Result<Response, Refusal> {
        let vpn = self.vpn().ok_or(Refusal::Unsupported)?;
        let event = VpnEvent::Message { from: from.node, seen: from.address, message };
        if vpn.tell(event) { Ok(Response::Taken) } else { Err(Refusal::Busy) }
    }

    fn greet(&self, peer: NodeId, hello: Hello) -> Response {
        if let Err(error) = self.tables().directory.heard_hello(peer, hello, clock::now()) {
            tracing::info!(%peer, %error, "a peer record was not believed");
        }
        Response::Hello(self.own_hello())
    }

    /// What this node says of itself.
    pub(crate) fn own_hello(&self) -> Hello {
        Hello {
            versions: vec![PROTOCOL_VERSION],
            boot_epoch: self.boot_epoch,
            free: free(&self.room),
            domain: self.domain.clone(),
            time: clock::wall(),
            record: Some(self.own_record()),
        }
    }
}

fn free(room: &Room) -> ByteCount {
    room.as_ref().map_or(ByteCount(0), |room| room())
}

fn own_record(room: &Room, boot_epoch: BootEpoch, domain: Option<String>, addresses: Vec<String>) -> PeerRecord {
    PeerRecord { addresses, boot_epoch, free: free(room), domain, stores: room.is_some(), time: clock::wall() }
}
