//! A connection of this machine and one of the private network, joined: bytes both ways until both sides are done. What
//! one side ends the other is told, an end as an end and a reset as a reset.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use super::connection::Connection;

/// Bytes carried at once each way.
const PIECE: usize = 64 * 1024;

/// Carries until both sides are done.
pub(super) async fn join(mut local: TcpStream, mut far: Connection) {
    let _ = local.set_nodelay(true);
    let carried = copy_bidirectional_with_sizes(&mut local, &mut far, PIECE, PIECE).await;
    if let Err(error) = carried {
        tracing::debug!(%error, remote = %far.remote(), "a connection was reset");
        // A program that reads an end where there was none believes that it has everything.
        refuse(&local);
    }
}

/// Closes a connection of this machine so that its program sees a refusal, not an end.
pub(super) fn refuse(local: &TcpStream) {
    // Without it the program sees an end, which is all that is lost.
    let _ = SockRef::from(local).set_linger(Some(Duration::ZERO));
}
