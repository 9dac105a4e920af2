//! Texts that people or other programs hand over: capability strings, ids, addresses, sizes, profiles.

use bech32::{Bech32m, Hrp};
use shoal_client::placement::{Profile, parse_code};
use shoal_node::probe;
use shoal_protocol::capability::{CAPABILITY_TEXT_MAX, Capability, CapabilityKind, HINT_ADDRESS_MAX, Hint};
use shoal_protocol::limits::{CODE_MAX, HINTS_MAX};
use shoal_protocol::{NetworkId, NodeId, ShardId, Suite};
use shoal_swarm::{ip_of, peer_address};

use super::input::join;
use super::records::owner;
use super::statements::{network, node};

const CAPABILITIES: &str = include_str!("../../../protocol/golden/capabilities.txt");
const PREFIXES: [&str; 5] = ["shoal", "shoalr", "shoalv", "shoalo", "lnbc"];

/// A capability string: any text (first byte 0), or any bytes behind a right checksum.
pub fn capability(data: &[u8]) -> bool {
    let Some((which, bytes)) = data.split_first() else { return false };
    let text = match usize::from(*which).checked_sub(1) {
        None => String::from_utf8_lossy(bytes).into_owned(),
        Some(which) => {
            let prefix = Hrp::parse_unchecked(PREFIXES[which % PREFIXES.len()]);
            let Ok(text) = bech32::encode::<Bech32m>(prefix, bytes) else { return false };
            text
        }
    };
    let Ok(capability) = Capability::parse(&text) else { return false };
    assert!(text.trim().len() <= CAPABILITY_TEXT_MAX);
    assert!(capability.hints().len() <= HINTS_MAX);
    assert!(capability.hints().iter().all(|hint| hint.address.len() <= HINT_ADDRESS_MAX));
    assert_eq!(capability.secret().is_none(), capability.kind() == CapabilityKind::Locate);
    // White space around it and capitals are the only freedom there is.
    assert_eq!(capability.to_text().as_str(), text.trim().to_lowercase(), "a second spelling");
    true
}

pub(super) fn capabilities() -> Vec<Vec<u8>> {
    let lines = CAPABILITIES.lines().filter_map(|line| line.split_once(" = "));
    let mut out: Vec<Vec<u8>> = lines.map(|(_, text)| join(&[0], text.as_bytes())).collect();
    let hint = |address: &str| Hint { node: node(1), address: address.into() };
    for (which, kind) in
        (1..).zip([CapabilityKind::Locate, CapabilityKind::Read, CapabilityKind::Verify, CapabilityKind::Owner])
    {
        let hints = vec![hint("/ip4/192.0.2.1/tcp/1"), hint("")];
        let text = Capability::new(kind, &network(), owner(), [4; 32], [5; 32], hints).to_text();
        let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(&text);
        let bytes: Vec<u8> = checked.map(|checked| checked.byte_iter().collect()).unwrap_or_default();
        out.push(join(&[which], &bytes));
    }
    out
}

/// Ids, names, sizes, profiles: the first byte says which, the rest is the text.
pub fn identifier(data: &[u8]) -> bool {
    let Some((which, bytes)) = data.split_first() else { return false };
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match which % 7 {
        0 => again::<NodeId>(text),
        1 => again::<ShardId>(text),
        2 => again::<Suite>(text),
        3 => again::<Profile>(text),
        4 => {
            let Ok(code) = parse_code(text) else { return false };
            assert!(code.k() >= 1 && code.m() >= 1 && code.n() <= CODE_MAX, "{code} is out of bounds");
            true
        }
        5 => probe::size(text).is_some(),
        _ => {
            let name = NetworkId::derive(None, text);
            assert!(name.is_err() || text.len() <= shoal_protocol::limits::NETWORK_NAME_MAX);
            name.is_ok()
        }
    }
}

/// What is read is shown as a text that reads as the same.
fn again<T: std::str::FromStr + std::fmt::Display + PartialEq>(text: &str) -> bool {
    let Ok(value) = text.parse::<T>() else { return false };
    let shown = value.to_string();
    assert!(shown.parse::<T>().is_ok_and(|found| found == value), "{shown} is not read again");
    true
}

pub(super) fn identifiers() -> Vec<Vec<u8>> {
    let texts = [
        (0, node(1).to_string()),
        (1, ShardId::of(b"x").to_string()),
        (2, Suite::Aes256Gcm.to_string()),
        (2, Suite::ChaCha20Poly1305.to_string()),
        (3, "balanced".to_owned()),
        (3, "resilient".to_owned()),
        (3, "4+2".to_owned()),
        (4, "16+17".to_owned()),
        (4, "254+1".to_owned()),
        (5, "1.5 TiB".to_owned()),
        (5, "99999999999999999TB".to_owned()),
        (6, "home".to_owned()),
    ];
    texts.iter().map(|(which, text)| join(&[*which], text.as_bytes())).collect()
}

/// An address as a person, a peer record or a hint has it. What is understood is one transport address, and reads as the
/// same again.
pub fn address(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let _ = ip_of(text);
    match peer_address(text) {
        Err(error) => {
            // It is shown to people: it must not grow with what was sent.
            assert!(error.to_string().len() <= 4096, "an error of {} bytes", error.to_string().len());
            false
        }
        Ok(read) => {
            assert!(read.address.starts_with('/') && read.address.split('/').all(|part| part != "p2p-circuit"));
            let again = peer_address(&read.address);
            assert!(again.is_ok_and(|again| again.address == read.address && again.peer.is_none()));
            true
        }
    }
}

pub(super) fn addresses() -> Vec<Vec<u8>> {
    let texts = [
        "/ip4/192.0.2.1/tcp/4701".to_owned(),
        "/ip6/2001:db8::1/udp/4701/quic-v1".to_owned(),
        format!("/dns4/example.org/tcp/4700/p2p/{}", node(1)),
        format!("/ip4/192.0.2.7/tcp/1/p2p/{0}/p2p-circuit/p2p/{0}", node(2)),
        "192.0.2.7:4001".to_owned(),
        "/dnsaddr/example.org".to_owned(),
        "/memory/5".to_owned(),
        "/ip4/192.0.2.7/udp/5".to_owned(),
        "/unix/%2Ftmp".to_owned(),
        "/dnsaddr/a.p2p-circuit.org".to_owned(),
    ];
    texts.into_iter().map(String::into_bytes).collect()
}
