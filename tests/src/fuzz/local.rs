//! What other programs and people of the same machine hand to a node or leave in a home directory: the control
//! socket, the configuration, keys, lists.

use shoal_client::audit::{Entry, Outcome, TRANSCRIPT_FORMAT, Transcript, Verdict};
use shoal_node::probe;
use shoal_protocol::audit::{AuditRequest, Challenge};
use shoal_protocol::hash::{AUDIT_TRANSCRIPT, derive};
use shoal_protocol::local::REQUEST_MAX;
use shoal_protocol::{FileId, NetworkId, NodeId, Nonce, Refusal, SegmentNumber, ShardId, UnixMillis};

use super::input::join;

/// The JSON of a request on the control socket. An answer to what is none is short, whatever was sent.
pub fn admin_request(data: &[u8]) -> bool {
    match probe::admin_request(data) {
        Ok(again) => {
            assert!(probe::admin_request(&again).is_ok_and(|twice| twice == again), "not read as it was written");
            assert!(again.len() <= REQUEST_MAX || data.len() > REQUEST_MAX, "a request that could not be asked again");
            true
        }
        Err(text) => {
            assert!(text.chars().count() <= 300, "an error of {} characters", text.chars().count());
            false
        }
    }
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    let node = NodeId::from_bytes([7; 32]);
    let requests = [
        r#"{"store.status":{}}"#,
        r#"{"store.job":{"name":"scrub","command":"start"}}"#,
        r#"{"store.job":{"name":"scrub","command":{"speed":7}}}"#,
        r#"{"store.job":{"name":"compact","command":"pause"}}"#,
        r#"{"store.job":{"name":"x","command":{"speed":-1}}}"#,
        r#"{"vpn.status":{}}"#,
        r#"{"vpn.peers":{}}"#,
        r#"{"vpn.routes":{}}"#,
        r#"{"vpn.stats":{}}"#,
        r#"{"vpn.why":{"peer":"fd00::7"}}"#,
        r#"{"vpn.ping":{"peer":"100.64.0.7","count":16}}"#,
        &format!(r#"{{"vpn.ping":{{"peer":"{node}","count":1}}}}"#),
    ];
    let mut seeds: Vec<Vec<u8>> =
        requests.iter().map(|request| format!(r#"{{"version":1,"request":{request}}}"#).into_bytes()).collect();
    seeds.push(br#"{"version":2,"request":{"vpn.later":7}}"#.to_vec());
    seeds.push(br#"{"version":1,"network":"work","request":{"vpn.status":{}}}"#.to_vec());
    seeds.push(br#"{"version":1,"network":"work","request":{"store.status":{}}}"#.to_vec());
    seeds
}

/// What a transcript begins with.
const MAGIC: &[u8; 8] = b"SHOALAUD";

/// A transcript of an audit, as it is or under a true checksum. Its verdicts are judged anew whatever it says.
pub fn audit_transcript(data: &[u8]) -> bool {
    let Some((how, rest)) = data.split_first() else { return false };
    let checksummed = || {
        let mut file = [&MAGIC[..], &[TRANSCRIPT_FORMAT], rest].concat();
        let checksum = derive(AUDIT_TRANSCRIPT, &[&file]);
        file.extend_from_slice(&checksum);
        file
    };
    let file = if how & 1 == 0 { rest.to_vec() } else { checksummed() };
    let Ok(transcript) = Transcript::decode(&file) else { return false };
    assert!(transcript.encode() == file, "a transcript with two spellings");
    for entry in &transcript.entries {
        let proved = transcript.verdict(entry) == Verdict::Proved;
        assert!(!proved || matches!(entry.outcome, Outcome::Answered { .. }), "proved without an answer");
    }
    true
}

pub(super) fn transcripts() -> Vec<Vec<u8>> {
    let entry = |outcome| Entry {
        node: super::statements::node(2),
        segment: SegmentNumber(0),
        unit: 1,
        request: AuditRequest {
            shard: ShardId::from_bytes([3; 32]),
            length: 5000,
            challenge: Challenge::Slices { seed: [4; 32], count: 3 },
            nonce: Nonce::from_bytes([5; 16]),
        },
        token: None,
        time: UnixMillis(1_780_000_000_000),
        took_ms: 12,
        allowed_ms: 5_000,
        outcome,
    };
    let transcript = Transcript {
        network: NetworkId::from_bytes([1; 32]),
        auditor: super::statements::node(1),
        file: FileId::from_bytes([6; 32]),
        begun: UnixMillis(1_780_000_000_000),
        left_out: 0,
        entries: vec![entry(Outcome::Refused(Refusal::NotFound)), entry(Outcome::Failed("gone".into()))],
    };
    let whole = transcript.encode();
    let body = whole.get(MAGIC.len() + 1..whole.len() - 32).unwrap_or_default();
    vec![join(&[0], &whole), join(&[1], body)]
}

/// A configuration file. What is taken is checked to the last value.
pub fn node_config(data: &[u8]) -> bool {
    let Ok(config) = probe::config(data) else { return false };
    assert!(!config.listen.is_empty());
    let addresses = config.listen.iter().chain(&config.bootstrap);
    assert!(addresses.into_iter().all(|address| shoal_swarm::peer_address(address).is_ok()), "an address nobody dials");
    let pools: Vec<_> = config.vpn.iter().chain(config.networks.iter().map(|network| &network.vpn)).collect();
    let tuns: Vec<_> = pools.iter().filter_map(|vpn| Some((vpn.tun_name.as_ref()?, vpn.pool.prefix()))).collect();
    for (number, (tun, pool)) in tuns.iter().enumerate() {
        let others = tuns.iter().skip(number + 1);
        let apart = |(other, their): &(&String, _)| other != tun && !pool.overlaps(their);
        assert!(others.into_iter().all(apart), "two networks share an interface or addresses");
    }
    assert!(config.domain.is_none_or(|domain| domain.len() <= shoal_protocol::limits::DOMAIN_MAX));
    true
}

pub(super) fn configs() -> Vec<Vec<u8>> {
    let id = super::statements::node(1);
    let all = format!(
        "data-dir = \"/var/lib/shoal\"\nlisten = [\"/ip4/0.0.0.0/tcp/4700\"]\nbootstrap = [\"/ip4/192.0.2.1/tcp/1\"]\n\
         network = \"home\"\nquota = \"25GB\"\nallow-peer = [\"{id}\"]\nopen = false\ndomain = \"attic\"\njson = true\n\
         log-level = \"warn\"\nlog-format = \"json\"\ngenesis = \"{}\"\n",
        "00".repeat(32)
    );
    let vpn = *b"[vpn]\nenabled = true\ntun-name = \"shoal0\"\nmtu = 1400\npool = \"10.9.0.0/16\"\ncarrier = \"udp\"\n\
                port = 4701\nname = \"nas\"\nno-dns = true\n";
    let networks = *b"[vpn]\n[[networks]]\nname = \"work\"\nopen = true\nlisten = [\"/ip4/0.0.0.0/tcp/4800\"]\n\
                     [networks.vpn]\ntun-name = \"work0\"\npool = \"10.9.0.0/16\"\n";
    let others = ["", "qouta = \"1GB\"", "open = 1", "[table]", "listen = []", "network = \"a b\"", "quota = \"1\""];
    others.iter().map(|text| text.as_bytes().to_vec()).chain([all.into_bytes(), vpn.into(), networks.into()]).collect()
}

/// A log of vouchers, as it is or with true checksums. At most its last line is left out.
pub fn voucher_log(data: &[u8]) -> bool {
    let Some((how, rest)) = data.split_first() else { return false };
    let mut file = rest.to_vec();
    if how & 1 == 1 {
        file = VOUCHER_MAGIC.to_vec();
        for line in rest.chunks(VOUCHER_BODY) {
            file.extend_from_slice(line);
            file.extend_from_slice(&crc32c::crc32c(line).to_le_bytes());
        }
    }
    let Some(again) = probe::voucher_log(&file) else { return false };
    assert!(file.starts_with(&again), "a log of vouchers with two spellings");
    assert!(file.len() - again.len() <= VOUCHER_BODY + 4, "more than one line was torn");
    true
}

/// What a log of vouchers begins with, and the bytes of a line before its checksum.
const VOUCHER_MAGIC: &[u8; 8] = b"SHOALVO1";
const VOUCHER_BODY: usize = 56;

pub(super) fn voucher_logs() -> Vec<Vec<u8>> {
    let lines = [join(&[1], &[7; 3 * VOUCHER_BODY]), join(&[1], &[7; VOUCHER_BODY + 9])];
    [join(&[0], VOUCHER_MAGIC), join(&[0], b"SHOALVO2")].into_iter().chain(lines).collect()
}

/// Which file, then its bytes: identity and genesis of a node, identity, peers and catalogue of a client.
pub fn home_file(data: &[u8]) -> bool {
    let Some((which, bytes)) = data.split_first() else { return false };
    match which % 5 {
        0 => probe::identity(bytes).is_some_and(|seed| holds_seed(bytes, &seed)),
        1 => {
            let Some((name, seed)) = probe::genesis(bytes) else { return false };
            // Whether the name may be one is asked when it is used.
            let _ = NetworkId::derive(None, &name);
            holds_seed(bytes, &seed)
        }
        2 => shoal_uploader::probe::identity(bytes).is_some_and(|seed| holds_seed(bytes, &seed)),
        3 => stays(bytes, shoal_uploader::probe::peers),
        _ => stays(bytes, shoal_uploader::probe::catalogue),
    }
}

/// A key is what stands in its file, digit by digit.
fn holds_seed(bytes: &[u8], seed: &[u8]) -> bool {
    let digits = data_encoding::HEXLOWER.encode(seed);
    let is_there = bytes.windows(digits.len()).any(|window| window == digits.as_bytes());
    assert!(is_there, "another key than in the file");
    true
}

fn stays(bytes: &[u8], again: fn(&[u8]) -> Option<Vec<u8>>) -> bool {
    let Some(written) = again(bytes) else { return false };
    assert!(again(&written).is_some_and(|twice| twice == written), "not read as it was written");
    true
}

pub(super) fn home_files() -> Vec<Vec<u8>> {
    let digits = "1f".repeat(32);
    // Put together here: a file that begins like a key has no place in the repository.
    let identity = ["shoal-identity", "-1 ", &digits, "\n"].concat();
    let genesis = ["shoal-genesis", "-1 home ", &digits, "\n"].concat();
    let peers = br#"[{"network":"aa","node":"12D3","addresses":["/ip4/192.0.2.1/tcp/1"]}]"#;
    let catalogue =
        br#"[{"time_ms":1,"name":"a","bytes":2,"entries":1,"capability":"shoal1","network":"home","genesis":"00"}]"#;
    vec![
        join(&[0], identity.as_bytes()),
        join(&[1], genesis.as_bytes()),
        join(&[2], identity.as_bytes()),
        join(&[3], peers),
        join(&[4], catalogue),
        join(&[4], b"[{}]"),
    ]
}
