//! Words to one neighbour, one after the other, and the lane to it. Each runs on a task of its own that ends with the
//! connection; what was not said by then is lost, and said again where it matters.

use std::time::Duration;

use bytes::Bytes;
use shoal_protocol::NodeId;
use shoal_swarm::{LaneError, SwarmHandle, TunnelLane};
use tokio::sync::mpsc;

/// Words that wait for one neighbour. Beyond them they are lost, as if the connection were slow.
const WORDS_MAX: usize = 64;
/// How long a neighbour may take to say that it read a word.
const WORD_MAX: Duration = Duration::from_secs(10);
/// How long a lane may take to be opened.
const LANE_MAX: Duration = Duration::from_secs(15);
/// First and longest wait before a lane is asked for again.
const LANE_AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Where to put words for a neighbour.
#[derive(Debug)]
pub(super) struct Words(mpsc::Sender<Bytes>);

impl Words {
    /// Starts the task; it ends when this is dropped.
    pub(super) fn to(node: NodeId, swarm: SwarmHandle) -> Self {
        let (sender, mut words) = mpsc::channel::<Bytes>(WORDS_MAX);
        tokio::spawn(async move {
            while let Some(word) = words.recv().await {
                if let Err(error) = swarm.request(node, word, WORD_MAX).await {
                    tracing::debug!(peer = %node, %error, "a word about the private network was not taken");
                }
            }
        });
        Self(sender)
    }

    /// Says a word; whether there was room for it.
    pub(super) fn say(&self, word: Bytes) -> bool {
        self.0.try_send(word).is_ok()
    }
}

/// Asks for a lane until there is one, or no connection any more.
pub(super) async fn open_lane(node: NodeId, swarm: SwarmHandle) -> Option<TunnelLane> {
    let (mut wait, longest) = LANE_AGAIN;
    loop {
        match swarm.tunnel(node, LANE_MAX).await {
            Ok(lane) => return Some(lane),
            // The peer opened it meanwhile, and it comes to its owner another way.
            Err(LaneError::TunnelOpen) => {
                tokio::time::sleep(LANE_AGAIN.0).await;
                return None;
            }
            Err(error) => tracing::debug!(peer = %node, %error, "no tunnel lane"),
        }
        swarm.link(&node)?;
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(longest);
    }
}
