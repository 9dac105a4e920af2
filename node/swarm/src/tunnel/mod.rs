//! Tunnel lanes: whole frames between two nodes, on a connection of their own. It knows nothing of what a frame holds.
//!
//! `open` chooses or makes the connection and opens the lane, `accept` is the other end of that, `slot` keeps it at one
//! lane a pair, `book` remembers where a peer can be dialled over TCP, `lane` and `frames` are what the
//! owner holds, `tally` says when the peer is to be told what came.

pub(crate) mod accept;
pub(crate) mod book;
pub(crate) mod frames;
pub(crate) mod lane;
pub(crate) mod open;
pub(crate) mod slot;
pub(crate) mod tally;
