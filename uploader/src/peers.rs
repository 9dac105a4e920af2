//! Nodes met before, per network, newest first and few. It never says whether they still live.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use shoal_client::client::Fleet;
use shoal_protocol::limits::ADDRESSES_MAX;
use shoal_protocol::{NetworkId, NodeId};

use crate::home::{Home, HomeError};

const FILE: &str = "peers.json";
/// Most nodes remembered of one network.
const PEERS_MAX: usize = 32;
/// Most nodes remembered at all.
const TOTAL_MAX: usize = 512;
/// Longest file, bytes: 512 nodes with 8 addresses of 256 bytes.
const FILE_MAX: usize = 2 * 1024 * 1024;

/// One node; texts, so that one bad line does not hide the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    network: String,
    node: String,
    addresses: Vec<String>,
}

/// The nodes remembered of a network.
pub(crate) fn remembered(home: &Home, network: &NetworkId) -> Result<Vec<(NodeId, Vec<String>)>, HomeError> {
    let known: Vec<Known> = home.load(FILE, FILE_MAX)?.unwrap_or_default();
    let tag = network.tag();
    let of_network = known.into_iter().filter(|known| known.network == tag).take(PEERS_MAX);
    Ok(of_network
        .filter_map(|mut known| {
            known.addresses.truncate(ADDRESSES_MAX);
            Some((known.node.parse().ok()?, known.addresses))
        })
        .collect())
}

/// Remembers the storing nodes of a fleet.
pub(crate) fn remember(home: &Home, network: &NetworkId, fleet: &Fleet) -> Result<(), HomeError> {
    let tag = network.tag();
    let met = fleet.storing().filter(|live| !live.addresses.is_empty()).take(PEERS_MAX).map(|live| Known {
        network: tag.clone(),
        node: live.node.to_string(),
        addresses: live.addresses.iter().take(ADDRESSES_MAX).cloned().collect(),
    });
    let met: Vec<Known> = met.collect();
    home.update(FILE, FILE_MAX, |known: &mut Vec<Known>| merge(known, met, &tag))
}

/// `met` first, then what was known, within the bounds.
fn merge(known: &mut Vec<Known>, met: Vec<Known>, tag: &str) {
    let old = std::mem::replace(known, met);
    known.extend(old);
    let (mut seen, mut of_network) = (BTreeSet::new(), 0);
    known.retain(|one| {
        of_network += usize::from(one.network == tag);
        (one.network != tag || of_network <= PEERS_MAX) && seen.insert((one.network.clone(), one.node.clone()))
    });
    known.truncate(TOTAL_MAX);
}

/// What a file of these bytes holds, as it is written again.
#[cfg(feature = "test-utils")]
pub(crate) fn written_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let list: Vec<Known> = serde_json::from_slice(bytes.get(..FILE_MAX.min(bytes.len()))?).ok()?;
    serde_json::to_vec_pretty(&list).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(network: &str, number: usize) -> Known {
        Known { network: network.into(), node: number.to_string(), addresses: vec![] }
    }

    #[test]
    fn newest_first_once_and_few() {
        let mut list: Vec<Known> = (0..40).map(|number| known("a", number)).chain([known("b", 1)]).collect();
        merge(&mut list, vec![known("a", 7), known("a", 99)], "a");
        assert_eq!(list[..3], [known("a", 7), known("a", 99), known("a", 0)]);
        assert_eq!(list.iter().filter(|one| one.network == "a" && one.node == "7").count(), 1);
        assert!(list.iter().filter(|one| one.network == "a").count() <= PEERS_MAX);
        assert!(list.contains(&known("b", 1)));
        let mut many: Vec<Known> = (0..1000).map(|number| known(&number.to_string(), 1)).collect();
        merge(&mut many, vec![known("a", 1)], "a");
        assert_eq!((many.len(), &many[0]), (TOTAL_MAX, &known("a", 1)));
    }

    #[test]
    fn bad_lines_are_left_out() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(|_| Some(place.path().as_os_str().to_owned())).unwrap();
        let network = NetworkId::derive(None, "home").unwrap();
        let node = NodeId::from_bytes([9; 32]);
        let good =
            Known { network: network.tag(), node: node.to_string(), addresses: vec!["/ip4/127.0.0.1/tcp/1".into()] };
        home.update(FILE, FILE_MAX, |list: &mut Vec<Known>| {
            *list = vec![known(&network.tag(), 1), good, known("other", 2)];
        })
        .unwrap();
        assert_eq!(remembered(&home, &network).unwrap(), [(node, vec!["/ip4/127.0.0.1/tcp/1".to_owned()])]);
    }
}
