//! What the sessions of a peer want done, and what they are told with every event. It is data alone.

use shoal_protocol::Suite;
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::content::{CloseReason, Control};
use shoal_protocol::mesh::session::handshake::Offer;

use super::indices::Indices;
use super::rx::RxHalf;
use super::tx::TxHalf;
use crate::Now;
use crate::path::Carrier;

/// What every event brings with it.
pub struct Context<'a> {
    /// The time.
    pub now: Now,
    /// Fills memory with random bytes that nobody can foresee.
    pub random: &'a mut dyn FnMut(&mut [u8]),
    /// The node's indices.
    pub indices: &'a mut Indices,
}

/// Two halves and what was agreed about them. Both go to their owners once; dropping them wipes their keys.
#[derive(Debug)]
pub struct Installed {
    /// By which arriving frames name it.
    pub index: SessionIndex,
    /// Seals. Not to be used before [`Effect::Use`].
    pub tx: TxHalf,
    /// Opens, from now on.
    pub rx: RxHalf,
    /// What the peer can take in.
    pub offer: Offer,
    /// What frames are sealed with.
    pub suite: Suite,
}

/// Why a peer has no session any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// Nothing was to be sent; the next packet makes a new one.
    Idle,
    /// The peer closed it.
    Closed(CloseReason),
    /// This node closed it.
    Ended,
    /// It was needed, but could not be replaced in time.
    Expired,
    /// No handshake was answered in [`super::ATTEMPT_MS`].
    Unreachable,
}

/// To be done, in this order, by the owner of sockets, lanes and halves.
#[derive(Debug)]
pub enum Effect {
    /// Send a handshake message as it is.
    Send {
        /// Which way.
        on: Carrier,
        /// The message, at most 163 bytes.
        bytes: Vec<u8>,
    },
    /// Take these halves.
    Install(Box<Installed>),
    /// Seal with this session from now on.
    Use {
        /// Which.
        index: SessionIndex,
    },
    /// Seal this word with this session and send it.
    Control {
        /// Which session.
        index: SessionIndex,
        /// Which way; an address here may be one that is still to be validated.
        on: Carrier,
        /// The word.
        control: Control,
    },
    /// Drop both halves of this session.
    Erase {
        /// Which.
        index: SessionIndex,
    },
    /// There is a session now, where there was none.
    Up,
    /// There is none any more.
    Down(Down),
    /// The peer answered at this address: it may be used.
    Validated {
        /// Which.
        carrier: Carrier,
    },
    /// The peer uses a mesh key of this epoch, which is not known here.
    WantKey {
        /// Which.
        epoch: u64,
    },
}

/// What passed through the halves of a session since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// [`TxHalf::bytes`].
    pub sent_bytes: u64,
    /// [`TxHalf::payloads`].
    pub sent_payloads: u64,
    /// [`RxHalf::bytes`].
    pub received_bytes: u64,
    /// [`RxHalf::frames`].
    pub received_frames: u64,
    /// [`RxHalf::payloads`].
    pub received_payloads: u64,
}

impl Traffic {
    /// What `tx` and `rx` of one session have counted.
    #[must_use]
    pub const fn of(tx: &TxHalf, rx: &RxHalf) -> Self {
        Self {
            sent_bytes: tx.bytes(),
            sent_payloads: tx.payloads(),
            received_bytes: rx.bytes(),
            received_frames: rx.frames(),
            received_payloads: rx.payloads(),
        }
    }
}
