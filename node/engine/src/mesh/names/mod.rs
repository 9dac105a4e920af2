//! Names in the private network: who has which label, and what a question of DNS is answered. It opens no socket, asks no
//! other server, and believes nobody but the signers of claims.
//!
//! - [`table`]: claims of labels, and this node's own.
//! - [`zone`]: what names and addresses there are, as one immutable snapshot.
//! - `ask`: what of the zone a name is. [`mod@answer`]: from the bytes of a question to those of its answer.
//! - [`forward`]: what goes to another server unread, and which answer of it is one.
//!
//! Under `<network>.shoal.internal`, where `<network>` is the name of the network as a label or the first 16 hexadecimal
//! digits of its id, a member is found by three labels:
//!
//! | label | who has it |
//! |---|---|
//! | its peer id, in small or capital letters | it alone, always: nobody can sign for it |
//! | its peer hash, 20 hexadecimal digits, the end of its IPv6 address | it alone, as surely as the address is its own |
//! | the label it claimed | whoever's claim ranks first among the members' that are known |
//!
//! A shorter piece of the peer id is no name: what is unambiguous today could be another's tomorrow, and a name that
//! changes its owner because somebody joined is worse than none.

pub mod answer;
mod ask;
pub mod forward;
pub mod table;
#[cfg(test)]
mod tests;
pub mod zone;

pub use answer::{Over, Reply, answer, answer_among};
pub use ask::{Named, named};
pub use forward::Asked;
pub use table::{NameEffect, Names};
pub use zone::{Member, Zone, network_label};
