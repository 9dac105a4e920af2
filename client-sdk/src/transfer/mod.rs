//! Transfer sessions: which shard goes to which node, and from whom it comes back. Pure decisions: every session takes
//! events and hands out actions; it never waits, sends or reads a clock.

mod crowd;
mod error;
mod fetch;
mod history;
mod pace;
mod pieces;
mod receipt;
mod store;
mod watch;
mod window;

pub use crowd::{CROWD_MIN, Crowd};
pub use error::TransferError;
pub use fetch::{Chance, FetchSession, FetchState};
pub use history::History;
pub use pace::Pace;
pub use pieces::append_wanted;
pub use receipt::{Expected, ReceiptError, check_receipt};
pub use store::{Sent, StoreAction, StoreLimits, StoreOutcome, StoreSession, StoreTask};
pub use watch::Watch;
pub use window::{WINDOW_MAX, Window};
