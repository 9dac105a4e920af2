//! Words for a member that is reached over others, by a neighbour that is named and not looked up: probes, their answers and
//! handshakes that are repeated. It decides nothing: by whom is what the control half says.

use shoal_engine::mesh::packet::ecn::Ecn;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::relay::RelayHeader;
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::content::Control;
use shoal_protocol::mesh::session::frame::PathId;

use super::Plane;
use super::link::Link;
use super::send::Outlet;

impl Plane {
    /// Seals a word for `peer` and sends it by `hop`.
    pub(super) fn send_control_by(
        &self,
        peer: PeerHash,
        index: Option<SessionIndex>,
        hop: PeerHash,
        control: &Control,
        out: &mut Outlet,
    ) {
        let Some(link) = self.link(&peer) else { return };
        let header = self.header_to(&link);
        let mut scratch = out.take_scratch();
        let sealed = {
            let mut sending = link.sending();
            let sealer = sending.sealer_of(index);
            sealer.and_then(|sealer| sealer.tx.seal_control(PathId::ROUTED, control, &header.aad(), &mut scratch).ok())
        };
        let bytes = sealed.and_then(|length| scratch.get(..length)).map(<[u8]>::to_vec);
        out.scratch = scratch;
        if let Some(bytes) = bytes {
            self.send_by(peer, hop, &bytes, out);
        }
    }

    /// Sends bytes that are sealed already, or a handshake message, to `peer` by `hop`.
    pub(super) fn send_by(&self, peer: PeerHash, hop: PeerHash, bytes: &[u8], out: &mut Outlet) {
        let Some(link) = self.link(&peer) else { return };
        match self.link(&hop).filter(|next| next.peer != link.peer) {
            Some(next) => self.send_behind(&next, &self.header_to(&link), bytes, out),
            None => self.counters.drop("no-carrier"),
        }
    }

    /// Sends bytes behind a relay header to a neighbour.
    pub(super) fn send_behind(&self, next: &Link, header: &RelayHeader, bytes: &[u8], out: &mut Outlet) {
        let mut scratch = out.take_scratch();
        let length = RelayHeader::LEN.saturating_add(bytes.len());
        if let Some((head, rest)) = scratch.split_first_chunk_mut::<{ RelayHeader::LEN }>() {
            *head = header.to_bytes();
            if let Some(rest) = rest.get_mut(..bytes.len()) {
                rest.copy_from_slice(bytes);
            }
        }
        out.scratch = scratch;
        if let Err(reason) = self.send_relayed(next, Ecn::NotCapable, length, out) {
            self.counters.drop(reason);
        }
    }
}
