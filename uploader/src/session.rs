//! One visit to the swarm: own identity, a swarm that only dials, everybody who answers. What is met is remembered for
//! the next visit. It serves nobody and decides nothing about trust.

use std::ffi::OsString;
use std::sync::Arc;

use shoal_client::client::{Client, ConnectError, Environment, Failure, Fleet, with_causes};
use shoal_client::net::LaneTransport;
use shoal_protocol::capability::Hint;
use shoal_protocol::{NetworkId, NodeId};
use shoal_swarm::{AddressError, PeerAddress, StartError, SwarmConfig, peer_address};
use zeroize::Zeroizing;

use crate::cli::Common;
use crate::exit::Problem;
use crate::home::{Home, HomeError};
use crate::peers;
use crate::report::now;

/// Most addresses taken from SHOAL_PEERS.
const PEERS_MAX: usize = 256;

/// Why the swarm cannot be visited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// No identity or memory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// SHOAL_PEERS is not a list of addresses.
    #[error("SHOAL_PEERS: {0}")]
    Peers(AddressError),
    /// The swarm does not start.
    #[error("the swarm does not start: {0}")]
    Start(String),
    /// Nobody answers.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl From<StartError> for SessionError {
    fn from(error: StartError) -> Self {
        Self::Start(with_causes(&error))
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        let what = error.to_string();
        match error {
            SessionError::Home(error) => error.into(),
            SessionError::Connect(error) => error.into(),
            SessionError::Peers(_) => {
                Self::usage(what, "it is a list of multiaddrs, apart by commas or spaces", "correct SHOAL_PEERS")
            }
            SessionError::Start(_) => Self::new(
                Failure::Other,
                what,
                "the system gives no sockets or threads",
                "close other programs and repeat",
            ),
        }
    }
}

/// A visit.
pub(crate) struct Session {
    pub(crate) client: Client<LaneTransport>,
    pub(crate) fleet: Fleet,
    pub(crate) home: Home,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

impl Session {
    /// Starts, and greets everybody who can be found.
    pub(crate) async fn enter(common: &Common, network: NetworkId, hints: &[Hint]) -> Result<Self, SessionError> {
        let home = Home::open(variable)?;
        let identity = home.identity(common.identity.as_deref())?;
        let mut warnings = Vec::new();
        if identity.exposed {
            warnings.push(format!("{} can be read by others: chmod 600 it", identity.file.display()));
        }
        // Once proven, the system's source does not fail later.
        getrandom::fill(&mut [0; 32]).map_err(HomeError::Random)?;
        let seed = Zeroizing::new(identity.key.to_bytes());
        // Nothing is served: the queues of what peers ask are dropped.
        let swarm = shoal_swarm::start(SwarmConfig::new(seed, network.tag())).await?.handle;
        let node = identity.node();
        let transport = Arc::new(LaneTransport::new(swarm, network, identity.key, now));
        let client = Client::new(transport, network, node, Environment { clock: now, entropy: Arc::new(entropy) });

        let mut given = common.peers.clone();
        if given.is_empty() {
            given = variable("SHOAL_PEERS").map_or(Ok(vec![]), |list| peer_list(&list.to_string_lossy()))?;
        }
        let remembered = if given.is_empty() {
            peers::remembered(&home, &network).unwrap_or_else(|error| {
                warnings.push(error.to_string());
                vec![]
            })
        } else {
            vec![]
        };
        let (addresses, known) = contacts(&given, hints, remembered, node);
        let fleet = client.discover(&addresses, &known).await?;
        Ok(Self { client, fleet, home, warnings })
    }

    /// Remembers who was met, and says goodbye. Returns what the user should know.
    pub(crate) async fn leave(mut self) -> Vec<String> {
        if let Err(error) = peers::remember(&self.home, self.client.network(), &self.fleet) {
            self.warnings.push(format!("the nodes met are not remembered: {error}"));
        }
        self.client.transport().swarm().shutdown().await;
        self.warnings
    }
}

/// A variable of the environment.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A client without randomness must not go on: it would seal with keys that others can guess.
fn entropy(out: &mut [u8]) {
    if getrandom::fill(out).is_err() {
        std::process::abort();
    }
}

/// Addresses apart by commas or white space.
fn peer_list(list: &str) -> Result<Vec<PeerAddress>, SessionError> {
    let words = list.split(|character: char| character == ',' || character.is_whitespace());
    words
        .filter(|word| !word.is_empty())
        .take(PEERS_MAX)
        .map(|word| peer_address(word).map_err(SessionError::Peers))
        .collect()
}

/// Addresses whose node is not known, and known nodes with their addresses.
type Contacts = (Vec<String>, Vec<(NodeId, Vec<String>)>);

/// Whom to greet first: those given, else those hinted at and remembered; each node once, never ourselves.
fn contacts(given: &[PeerAddress], hints: &[Hint], remembered: Vec<(NodeId, Vec<String>)>, own: NodeId) -> Contacts {
    let mut addresses = Vec::new();
    let mut known: Vec<(NodeId, Vec<String>)> = Vec::new();
    let mut add = |node: NodeId, more: Vec<String>| {
        if node == own || more.is_empty() {
            return;
        }
        match known.iter_mut().find(|(there, _)| *there == node) {
            Some((_, there)) => there.extend(more),
            None => known.push((node, more)),
        }
    };
    for PeerAddress { address, peer } in given {
        match peer {
            Some(node) => add(*node, vec![address.clone()]),
            None => addresses.push(address.clone()),
        }
    }
    let hints = hints.iter().filter(|hint| given.is_empty() && !hint.address.is_empty());
    for hint in hints {
        add(hint.node, vec![hint.address.clone()]);
    }
    for (node, more) in remembered {
        add(node, more);
    }
    for (_, there) in &mut known {
        let mut distinct = std::collections::BTreeSet::new();
        there.retain(|address| distinct.insert(address.clone()));
        there.truncate(shoal_protocol::limits::ADDRESSES_MAX);
    }
    (addresses, known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_peers() {
        let list = peer_list(" /ip4/127.0.0.1/tcp/1,/ip4/127.0.0.1/tcp/2\n/dns/example.org/tcp/3 ,, ").unwrap();
        assert_eq!(list.len(), 3);
        assert!(peer_list("").unwrap().is_empty());
        let error = peer_list("127.0.0.1:4001").unwrap_err();
        let problem = Problem::from(error);
        assert_eq!(problem.failure, Failure::Usage);
        assert!(problem.what.contains("/ip4/127.0.0.1/tcp/4001"), "{}", problem.what);
    }

    #[test]
    fn everybody_once_and_never_ourselves() {
        let node = |number: u8| NodeId::from_bytes([number; 32]);
        let peer = |address: &str, peer| PeerAddress { address: address.into(), peer };
        let given = [peer("a", None), peer("b", Some(node(1))), peer("c", Some(node(9)))];
        let hints = [Hint { node: node(1), address: "c".into() }, Hint { node: node(2), address: String::new() }];
        let remembered = vec![(node(1), vec!["d".into()]), (node(3), vec!["e".into()]), (node(4), vec![])];
        let (addresses, known) = contacts(&given, &hints, vec![], node(9));
        assert_eq!(
            (addresses, known),
            (vec!["a".to_owned()], vec![(node(1), vec!["b".into()])]),
            "given ones stay alone"
        );
        let (addresses, known) = contacts(&[], &hints, remembered, node(9));
        assert!(addresses.is_empty());
        assert_eq!(known, [(node(1), vec!["c".to_owned(), "d".into()]), (node(3), vec!["e".into()])]);
    }
}
