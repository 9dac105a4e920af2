//! Handshake messages and frames that are right but for what somebody chose of their inside: for fuzzing, which cannot make
//! them without keys. It is no part of a shipped program.

use shoal_protocol::NodeId;
use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::frame::DataHeader;
use shoal_protocol::mesh::session::handshake::{
    HANDSHAKE_MAC, INITIATION_BEFORE_MAC1, Initiation, Introduction, OFFER, OPENING, RESPONSE_BEFORE_MAC1, Response,
    Side, mac1, prologue,
};
use zeroize::Zeroizing;

use super::noise::{Initiator, Inputs, PSK, PublicKeyOperations, Responder};
use super::tx::TxHalf;
use super::{OwnKey, Pair};

/// One side of a handshake, with all that it needs of the other.
#[derive(Clone, Copy, Debug)]
pub struct Maker<'a> {
    /// Who it is and who the other one is.
    pub pair: &'a Pair,
    /// Its own key.
    pub own: &'a OwnKey,
    /// The key of the other one.
    pub peer: &'a MeshKey,
}

fn side<'a>(node: &'a NodeId, key: &'a MeshKey) -> Side<'a> {
    Side { node, epoch: key.epoch, suites: &key.suites }
}

impl Maker<'_> {
    /// The initiation whose opening is `opening`, whatever that means; none if the other one's key is of low order.
    #[must_use]
    pub fn initiation(&self, sender: SessionIndex, opening: &[u8; OPENING], ephemeral: [u8; 32]) -> Option<Initiation> {
        let (own, peer) = (side(&self.pair.own.node, self.own.record()), side(&self.pair.peer.node, self.peer));
        let prologue = prologue(&self.pair.network, own, peer);
        let operations = PublicKeyOperations::default();
        let (_, noise) = Initiator::begin(self.inputs(&prologue, ephemeral, &operations), opening).ok()?;
        let none = [0; HANDSHAKE_MAC];
        let mut message = Initiation { sender, introduction: [0; 18], noise, mac1: none, mac2: none };
        let introduction = Introduction { peer: self.pair.own.hash, epoch: self.own.record().epoch };
        message.introduction = introduction.mask(&self.pair.network, &self.peer.public, &message.ephemeral());
        let bytes = message.to_bytes();
        message.mac1 = mac1(&self.pair.network, &self.peer.public, bytes.get(..INITIATION_BEFORE_MAC1)?);
        Some(message)
    }

    /// The response to an initiation of the other one, whose offer is `offer`, whatever that means.
    #[must_use]
    pub fn response(
        &self,
        initiation: &Initiation,
        sender: SessionIndex,
        offer: &[u8; OFFER],
        ephemeral: [u8; 32],
    ) -> Option<Response> {
        let (own, peer) = (side(&self.pair.own.node, self.own.record()), side(&self.pair.peer.node, self.peer));
        let prologue = prologue(&self.pair.network, peer, own);
        let operations = PublicKeyOperations::default();
        let (responder, _) = Responder::read(self.inputs(&prologue, ephemeral, &operations), &initiation.noise).ok()?;
        let (_, noise) = responder.answer(offer).ok()?;
        let mut message = Response { sender, receiver: initiation.sender, noise, mac1: [0; HANDSHAKE_MAC] };
        let bytes = message.to_bytes();
        message.mac1 = mac1(&self.pair.network, &self.peer.public, bytes.get(..RESPONSE_BEFORE_MAC1)?);
        Some(message)
    }

    fn inputs<'a>(
        &'a self,
        prologue: &'a [u8],
        ephemeral: [u8; 32],
        operations: &'a PublicKeyOperations,
    ) -> Inputs<'a> {
        let (secret, peer, ephemeral) = (&self.own.secret, &self.peer.public, Zeroizing::new(ephemeral));
        Inputs { secret, peer, prologue, psk: &[0; PSK], ephemeral, operations }
    }
}

/// The frame with this header and a right tag around `inside`, whose first byte is the kind; `tx` counts nothing.
#[must_use]
pub fn frame(tx: &TxHalf, header: DataHeader, inside: &[u8], aad: &[u8]) -> Vec<u8> {
    let mut text = inside.to_vec();
    let tag = tx.seal_as(header.counter, aad, &mut text);
    [&header.to_bytes()[..], &text, &tag].concat()
}
