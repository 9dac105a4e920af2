//! Transfer sessions: which shard goes to which node, and from whom it comes back. Pure decisions: every session takes
//! events and hands out actions; it never waits, sends or reads a clock.

mod error;
mod fetch;
mod pace;
mod pieces;
mod receipt;
mod store;

pub use error::TransferError;
pub use fetch::{FetchSession, FetchState};
pub use pace::{Pace, SILENCE_MS, WINDOW_BYTES, WINDOW_MS};
pub use pieces::append_wanted;
pub use receipt::{Expected, ReceiptError, check_receipt};
pub use store::{StoreAction, StoreLimits, StoreOutcome, StoreSession, StoreTask};
