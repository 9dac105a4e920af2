//! Every kind of statement that is signed, against everything that is not that statement: bits and fields changed, other
//! spellings, other signers, kinds and networks, other requests and times, and replays to those who act on it, also over
//! real sockets and after a restart. One table of kinds; a kind of the protocol without a row fails a test.

mod bytes;
mod cbor;
mod judges;
mod nodes;
mod visitor;

use std::path::Path;

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signer as _, SigningKey};
use shoal_protocol::audit::AuditStatement;
use shoal_protocol::codec;
use shoal_protocol::group::{Group, Voucher};
use shoal_protocol::loss::LossStatement;
use shoal_protocol::mesh::claim::Claim;
use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::name::NameClaim;
use shoal_protocol::mesh::route::Origin;
use shoal_protocol::peer_record::PeerRecord;
use shoal_protocol::receipt::{DeliveryReceipt, Receipt, RefusalStatement, ServeStatement};
use shoal_protocol::record::Record;
use shoal_protocol::signed::Statement;
use shoal_protocol::{NetworkId, NodeId, PublicKey, Signed};

const STATEMENTS: &str = concat!(
    include_str!("../../../../protocol/golden/statements.hex"),
    include_str!("../../../../protocol/golden/routes.hex"),
    include_str!("../../../../protocol/golden/mesh_session.hex"),
);
const PROTOCOL: &str = include_str!("../../../../docs/PROTOCOL.md");
/// How often each statement is sent again.
const REPLAYS: usize = 1_000;

/// One kind of statement, its type forgotten.
struct Kind {
    /// Its type in `protocol`.
    name: &'static str,
    context: &'static str,
    /// Its payloads in `protocol/golden/statements.hex` begin with this.
    golden: &'static str,
    limit: usize,
    /// Whether a payload is one of this kind.
    is_payload: fn(&[u8]) -> bool,
    /// Whether an envelope is believed.
    verifies: fn(&Signed, &NetworkId) -> bool,
    /// Whether an envelope is believed, if by this signer.
    verifies_by: fn(&Signed, &PublicKey, &NetworkId) -> bool,
    acts: Acts,
}

/// Who acts on a statement, and where that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acts {
    /// A node: in `judges` and, over sockets, in `nodes`.
    Node,
    /// A client: in `judges`.
    Client,
    /// A member of the private network, where who is newer counts and not when it was said: in `node/engine/tests/claims.rs`,
    /// `node/engine/tests/routing.rs` and the tests of `node/engine/src/mesh/session` and `node/engine/src/mesh/names`.
    Member,
    /// Nobody yet: no source that ships reads one.
    Nobody,
}

const fn kind<T: Statement>(name: &'static str, golden: &'static str, acts: Acts) -> Kind {
    Kind {
        name,
        context: T::CONTEXT,
        golden,
        limit: T::LIMIT,
        is_payload: |bytes| codec::decode::<T>(bytes, T::LIMIT).is_ok(),
        verifies: |signed, network| signed.verify::<T>(network).is_ok(),
        verifies_by: |signed, signer, network| signed.verify_by::<T>(signer, network).is_ok(),
        acts,
    }
}

/// Every kind there is.
const ALL: [Kind; 14] = [
    kind::<PeerRecord>("PeerRecord", "peer record payload", Acts::Node),
    kind::<Group>("Group", "group payload", Acts::Node),
    kind::<Voucher>("Voucher", "voucher payload", Acts::Node),
    kind::<Record>("Record", "record payload", Acts::Node),
    kind::<Receipt>("Receipt", "receipt payload", Acts::Client),
    kind::<RefusalStatement>("RefusalStatement", "refusal payload", Acts::Client),
    kind::<ServeStatement>("ServeStatement", "serve statement payload", Acts::Client),
    kind::<AuditStatement>("AuditStatement", "audit statement payload", Acts::Client),
    kind::<LossStatement>("LossStatement", "loss statement payload", Acts::Nobody),
    kind::<DeliveryReceipt>("DeliveryReceipt", "delivery receipt payload", Acts::Nobody),
    kind::<Claim>("Claim", "claim payload", Acts::Member),
    kind::<NameClaim>("NameClaim", "name claim payload", Acts::Member),
    kind::<Origin>("Origin", "origin payload", Acts::Member),
    kind::<MeshKey>("MeshKey", "mesh key payload", Acts::Member),
];

impl Kind {
    /// Its payloads in git.
    fn payloads(&self) -> Vec<Vec<u8>> {
        let lines = STATEMENTS.lines().filter_map(|line| line.split_once(" = "));
        let own = lines.filter(|(name, _)| name.starts_with(self.golden));
        own.map(|(_, hex)| HEXLOWER.decode(hex.as_bytes()).unwrap()).collect()
    }
}

fn network() -> NetworkId {
    NetworkId::derive(None, "signed").unwrap()
}

/// The same name under a founding key, another name, and nothing at all.
fn other_networks() -> [NetworkId; 3] {
    [
        NetworkId::derive(Some(&[7; 32]), "signed").unwrap(),
        NetworkId::derive(None, "signee").unwrap(),
        NetworkId::from_bytes([0; 32]),
    ]
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().to_bytes())
}

fn node_of(key: &SigningKey) -> NodeId {
    NodeId::from_bytes(key.verifying_key().to_bytes())
}

/// What a signature is over.
fn message(context: &str, network: &NetworkId, payload: &[u8]) -> Vec<u8> {
    let mut out = (context.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(context.as_bytes());
    out.extend_from_slice(network.as_bytes());
    out.extend_from_slice(payload);
    out
}

/// The bytes of an envelope of any three parts.
fn envelope(payload: &[u8], key: &PublicKey, signature: &[u8; 64]) -> Vec<u8> {
    let mut out = vec![0xa3, 0x00];
    let mut bytes = Vec::new();
    minicbor::Encoder::new(&mut bytes).bytes(payload).unwrap();
    out.extend(bytes);
    out.extend([0x01, 0x58, 32]);
    out.extend_from_slice(key.as_bytes());
    out.extend([0x02, 0x58, 64]);
    out.extend_from_slice(signature);
    out
}

/// An envelope around any payload, rightly signed under any context.
fn sealed(context: &str, network: &NetworkId, payload: &[u8], signer: &SigningKey) -> Signed {
    let signature = signer.sign(&message(context, network, payload)).to_bytes();
    Signed::from_bytes(&envelope(payload, &public(signer), &signature), usize::MAX).unwrap()
}

/// Sources that ship, of everything but `protocol`, which only defines.
fn shipped() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut out = Vec::new();
    let mut folders: Vec<_> = ["client-sdk/src", "node/src", "node/engine/src", "node/swarm/src", "uploader/src"]
        .map(|folder| root.join(folder))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                out.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    out
}

/// Types with a context in `protocol/src`, tests left out.
fn declared() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/src");
    let (mut out, mut folders) = (Vec::new(), vec![folder]);
    while let Some(folder) = folders.pop() {
        let paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.extend(paths.iter().filter(|path| path.is_dir()).cloned());
        for path in paths.iter().filter(|path| path.is_file()) {
            let text = std::fs::read_to_string(path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            for part in text.split("impl Statement for ").skip(1) {
                let name = part.split_whitespace().next().unwrap();
                let context = part.split("CONTEXT: &'static str = \"").nth(1).and_then(|rest| rest.split('"').next());
                out.push((name.to_owned(), context.unwrap().to_owned()));
            }
        }
    }
    out.sort();
    out
}

/// Contexts in the tables of statements of the protocol.
fn documented(text: &str) -> Vec<String> {
    let text = text.replace("| statement (§4) | context |", "| statement | context |");
    let tables = text.split("| statement | context |").skip(1);
    let rows = tables.flat_map(|table| table.lines().skip(2).take_while(|line| line.starts_with('|')));
    let mut out: Vec<String> = rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect();
    out.sort();
    out
}

#[test]
fn no_signed_kind_is_missing_here() {
    let mut rows: Vec<(String, String)> = ALL.iter().map(|kind| (kind.name.into(), kind.context.into())).collect();
    rows.sort();
    assert_eq!(rows, declared(), "the kinds of protocol/src");
    let mut contexts: Vec<String> = ALL.iter().map(|kind| kind.context.to_owned()).collect();
    contexts.sort();
    assert_eq!(contexts, documented(PROTOCOL), "the kinds of docs/PROTOCOL.md");
    let more = PROTOCOL.replacen("| Receipt |", "| New | `shoal new v1` | x |\n| Receipt |", 1);
    assert_ne!(contexts, documented(&more), "a new row would be noticed");
    contexts.dedup();
    assert_eq!(contexts.len(), ALL.len(), "two kinds of one context");
    for kind in &ALL {
        assert!(!kind.payloads().is_empty(), "{} has no golden payload", kind.name);
        assert!(kind.payloads().iter().all(|payload| (kind.is_payload)(payload)), "{}", kind.name);
    }
}

#[test]
fn kinds_nobody_acts_on_are_read_by_nobody() {
    let sources = shipped();
    assert!(sources.len() > 100, "the sources were not found");
    // Those of members are read through types of the protocol that hold their envelope.
    for kind in ALL.iter().filter(|kind| kind.acts != Acts::Member) {
        let read = format!("::<{}>", kind.name);
        let readers: Vec<&str> =
            sources.iter().filter(|(_, text)| text.contains(&read)).map(|(path, _)| path.as_str()).collect();
        assert_eq!(readers.is_empty(), kind.acts == Acts::Nobody, "{} is read by {readers:?}", kind.name);
    }
}
