//! Sessions: how two members of a network come to share keys, and how frames are sealed and opened with them. Nothing here
//! sends, reads a clock or draws a random number.
//!
//! - [`sieve`]: which handshake messages are for this node at all, for whoever receives them.
//! - [`gate`]: what an initiation has to show before it may cost anything.
//! - [`sessions`]: all sessions with one peer, as events and effects; `pending` has their handshakes, `live` their ages,
//!   `roaming` the addresses the peer has shown.
//! - [`tx`], [`rx`]: the two halves of one session, for the packet half; `window` keeps replays out.
//! - [`drops`]: why something was not taken. `probe`: messages for fuzzing.
//!
//! Flow of an initiation that arrives: [`Sieve::examine`], [`Gate::examine`], then [`Sessions::handle_initiation`] of the peer it introduces.
//! Response and cookie reply go to the sessions that claimed their receiver index, data frames to the [`RxHalf`] of theirs,
//! and what that opened to [`Sessions::handle_opened`] and [`Sessions::handle_control`].

pub mod drops;
pub mod effect;
pub mod gate;
pub mod indices;
mod keys;
pub mod live;
pub mod noise;
pub mod pending;
#[cfg(feature = "test-utils")]
pub mod probe;
pub mod roaming;
pub mod rx;
pub mod sessions;
pub mod sieve;
pub mod tx;
mod window;

pub use drops::{Dropped, Drops};
pub use effect::{Context, Down, Effect, Installed, Traffic};
pub use gate::{Admitted, Gate, Load, OwnKey, Verdict};
pub use indices::Indices;
pub use noise::PublicKeyOperations;
pub use pending::ATTEMPT_MS;
pub use rx::{Content, Opened, RxHalf};
pub use sessions::{KeyRefused, Pair, Party, Sessions};
pub use sieve::Sieve;
pub use tx::{NotSealed, TxHalf};

#[cfg(test)]
mod tests;
