//! A document to a snapshot: names to bits, texts to prefixes and ports, every contradiction refused with its line. It
//! decides nothing about packets.

use core::net::IpAddr;
use std::collections::BTreeMap;

use shoal_protocol::NodeId;
use shoal_protocol::mesh::prefix::{Prefix, PrefixError};

use super::document::{
    Document, EXITS_MAX, ExitText, GROUPS_MAX, LIMITS_MAX, LIST_MAX, LimitText, PEERS_MAX, PREFIXES_MAX, PolicyError,
    RULES_MAX, RuleText, SEGMENTS_MAX, SegmentText, Word,
};
use super::floor::{self, Floor, FloorFacts};
use super::prefix_table::PrefixTable;
use super::rate::{NoRate, bytes_per_second};
use super::snapshot::{Exit, Protocol, Rule, Segment, Selector, Snapshot};
use crate::mesh::packet::tuple::{TCP, UDP};
use crate::mesh::qos::limits::PeerRates;
use crate::suggest::closest;

/// What only this machine knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// All its addresses, those inside the mesh left out.
    pub addresses: Vec<IpAddr>,
    /// Networks it is connected to.
    pub connected: Vec<Prefix>,
    /// Where the addresses of members are: the pools of the mesh.
    pub pools: Vec<Prefix>,
}

/// Most addresses and connected networks a machine is taken to have; each is looked at for a packet that leaves.
pub const LOCAL_MAX: usize = 1024;

impl Snapshot {
    /// Compiles a document. `generation` is another one for each snapshot of a run.
    ///
    /// # Errors
    /// [`PolicyError`] with the line of the first name, prefix or port that means nothing or too much.
    pub fn compile(document: &Document, local: Local, generation: u64) -> Result<Self, PolicyError> {
        let resolver = Resolver::new(document)?;
        at_most("rules", document.rules.len(), RULES_MAX)?;
        at_most("prefixes", document.prefixes.len(), PREFIXES_MAX)?;
        at_most("exits", document.exits.len(), EXITS_MAX)?;
        at_most("segments", document.segments.len(), SEGMENTS_MAX)?;
        at_most("limits", document.limits.len(), LIMITS_MAX)?;
        at_most("addresses of this machine", local.addresses.len(), LOCAL_MAX)?;
        at_most("networks of this machine", local.connected.len(), LOCAL_MAX)?;
        let rules = document.rules.iter().map(|rule| resolver.rule(rule)).collect::<Result<_, _>>()?;
        let exits = document.exits.iter().map(|exit| resolver.exit(exit)).collect::<Result<_, _>>()?;
        let segments = document.segments.iter().map(|segment| resolver.segment(segment)).collect::<Result<_, _>>()?;
        let limits = document.limits.iter().map(|limit| resolver.limit(limit)).collect::<Result<_, _>>()?;
        Ok(Self {
            generation,
            serial: document.serial,
            default: document.default,
            prefixes: resolver.sites(&local)?,
            segment_prefixes: resolver.segment_prefixes()?,
            groups_of: resolver.groups_of()?,
            rules,
            exits,
            segments,
            limits,
            local,
        })
    }
}

fn at_most(what: &str, found: usize, most: usize) -> Result<(), PolicyError> {
    let error = || PolicyError { line: None, what: format!("{found} {what}; {most} are possible"), suggestion: None };
    if found > most { Err(error()) } else { Ok(()) }
}

/// Names of one document.
struct Resolver<'a> {
    document: &'a Document,
    /// Bits by name, in the order of the names.
    groups: BTreeMap<&'a str, u64>,
}

impl<'a> Resolver<'a> {
    fn new(document: &'a Document) -> Result<Self, PolicyError> {
        at_most("groups", document.groups.len(), GROUPS_MAX)?;
        let bits = (0u32..).map(|at| 1u64.checked_shl(at).unwrap_or(0));
        let groups: BTreeMap<&str, u64> = document.groups.keys().map(String::as_str).zip(bits).collect();
        for name in groups.keys() {
            let reserved = ["*", "internet"].contains(name) || name.parse::<NodeId>().is_ok() || name.is_empty();
            if reserved {
                let what = format!("a group cannot be called `{name}`");
                return Err(PolicyError { line: None, what, suggestion: None });
            }
        }
        Ok(Self { document, groups })
    }

    fn mistake(&self, word: &Word, what: impl Into<String>) -> PolicyError {
        self.document.mistake(word, what.into(), None)
    }

    fn groups_of(&self) -> Result<BTreeMap<NodeId, u64>, PolicyError> {
        let mut groups_of: BTreeMap<NodeId, u64> = BTreeMap::new();
        for (name, peers) in &self.document.groups {
            at_most(&format!("peers in group `{name}`"), peers.len(), PEERS_MAX)?;
            let bit = self.groups.get(name.as_str()).copied().unwrap_or(0);
            for peer in peers {
                let node: NodeId = peer.as_ref().parse().map_err(|_| self.mistake(peer, not_a_peer(peer)))?;
                *groups_of.entry(node).or_default() |= bit;
            }
        }
        Ok(groups_of)
    }

    /// Whom a list means; `internet` only where it can be meant.
    fn selector(&self, words: &[Word], may_be_internet: bool) -> Result<Selector, PolicyError> {
        at_most("peers of a list", words.len(), PEERS_MAX)?;
        let mut selector = Selector::default();
        for word in words {
            match (word.as_ref().as_str(), self.groups.get(word.as_ref().as_str())) {
                (_, Some(bit)) => selector.groups |= bit,
                ("*", None) => selector.everyone = true,
                ("internet", None) if may_be_internet => selector.internet = true,
                ("internet", None) => {
                    let what = "`internet` stands in `to` of a rule alone: what comes from there are only ever replies";
                    return Err(self.mistake(word, what));
                }
                (text, None) => match text.parse::<NodeId>() {
                    Ok(node) => selector.peers.push(node),
                    Err(_) => {
                        let meant = closest(text, self.groups.keys().copied());
                        let what = format!("there is no group `{}`, and it is no peer id", shown(text));
                        return Err(self.document.mistake(word, what, meant));
                    }
                },
            }
        }
        selector.peers.sort_unstable();
        selector.peers.dedup();
        Ok(selector)
    }

    fn prefix(&self, word: &Word) -> Result<Prefix, PolicyError> {
        word.as_ref().parse().map_err(|error| self.mistake(word, not_a_prefix(word.as_ref(), error)))
    }

    fn prefixes(&self, words: &[Word]) -> Result<Vec<Prefix>, PolicyError> {
        at_most("prefixes of a list", words.len(), LIST_MAX)?;
        words.iter().map(|word| self.prefix(word)).collect()
    }

    fn rule(&self, text: &RuleText) -> Result<Rule, PolicyError> {
        at_most("ports of a rule", text.ports.len(), LIST_MAX)?;
        let protocol = text.protocol.as_ref().map(|word| self.protocol(word)).transpose()?.unwrap_or(Protocol::Any);
        if let Some(port) = text.ports.first()
            && !matches!(protocol, Protocol::Any | Protocol::Number(TCP | UDP))
        {
            return Err(self.mistake(port, "only tcp and udp have ports"));
        }
        Ok(Rule {
            name: text.name.as_ref().chars().take(80).collect(),
            action: text.action,
            from: self.selector(&text.from, false)?,
            to: self.selector(&text.to, true)?,
            protocol,
            ports: text.ports.iter().map(|word| self.ports(word)).collect::<Result<_, _>>()?,
            addresses: self.prefixes(&text.addresses)?,
        })
    }

    fn protocol(&self, word: &Word) -> Result<Protocol, PolicyError> {
        match (word.as_ref().as_str(), word.as_ref().parse::<u8>()) {
            ("any", _) => Ok(Protocol::Any),
            ("tcp", _) => Ok(Protocol::Number(TCP)),
            ("udp", _) => Ok(Protocol::Number(UDP)),
            ("icmp", _) => Ok(Protocol::Icmp),
            (_, Ok(number)) => Ok(Protocol::Number(number)),
            (text, Err(_)) => {
                let meant = closest(text, ["any", "tcp", "udp", "icmp"].into_iter());
                let what = format!("`{}` is no protocol: any, tcp, udp, icmp or a number to 255", shown(text));
                Err(self.document.mistake(word, what, meant))
            }
        }
    }

    fn ports(&self, word: &Word) -> Result<(u16, u16), PolicyError> {
        let (first, last) = word.as_ref().split_once('-').unwrap_or((word.as_ref(), word.as_ref()));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok((first, last)),
            _ => Err(self.mistake(word, format!("`{}` is no port and no range like 8000-8100", shown(word.as_ref())))),
        }
    }

    fn exit(&self, text: &ExitText) -> Result<Exit, PolicyError> {
        let allow_lan = self.prefixes(&text.allow_lan)?;
        for (prefix, word) in allow_lan.iter().zip(&text.allow_lan) {
            if floor::check(prefix.address(), FloorFacts::default()) == Some(Floor::Never) || prefix.is_default() {
                return Err(self.mistake(word, format!("no exit may ever reach {prefix}")));
            }
        }
        Ok(Exit {
            peers: self.selector(&text.peers, false)?,
            users: self.selector(&text.users, false)?,
            allow_lan,
            deny: self.prefixes(&text.deny)?,
        })
    }

    fn segment(&self, text: &SegmentText) -> Result<Segment, PolicyError> {
        let name = text.name.as_ref().chars().take(80).collect();
        Ok(Segment { name, mode: text.mode, members: self.selector(&text.members, false)? })
    }

    fn limit(&self, text: &LimitText) -> Result<(Selector, PeerRates), PolicyError> {
        let rate = |word: &Option<Word>| word.as_ref().map(|word| self.rate(word)).transpose();
        let protocols = [rate(&text.tcp)?, rate(&text.udp)?, rate(&text.icmp)?, rate(&text.other)?];
        let rates = PeerRates { all: rate(&text.rate)?, protocols };
        if rates == PeerRates::default() {
            return Err(
                self.mistake(&text.peer, "this limits nothing: it needs a rate, or one of tcp, udp, icmp, other")
            );
        }
        Ok((self.selector(std::slice::from_ref(&text.peer), false)?, rates))
    }

    fn rate(&self, word: &Word) -> Result<u64, PolicyError> {
        bytes_per_second(word.as_ref()).map_err(|NoRate { why, suggestion }| {
            let what = format!("`{}` is no rate like 20 Mbit: it {why}", shown(word.as_ref()));
            self.document.mistake(word, what, suggestion)
        })
    }

    fn sites(&self, local: &Local) -> Result<PrefixTable<Selector>, PolicyError> {
        let mut rows: BTreeMap<Prefix, Selector> = BTreeMap::new();
        for text in &self.document.prefixes {
            let prefix = self.prefix(&text.prefix)?;
            if prefix.is_default() {
                return Err(self.mistake(&text.prefix, format!("{prefix} is the internet: that is for [[exits]]")));
            }
            if floor::check(prefix.address(), FloorFacts::default()) == Some(Floor::Never) {
                return Err(self.mistake(&text.prefix, format!("{prefix} is behind nobody")));
            }
            if let Some(pool) = local.pools.iter().find(|pool| pool.overlaps(&prefix)) {
                let what = format!("{prefix} overlaps {pool}, the addresses of the members themselves");
                return Err(self.mistake(&text.prefix, what));
            }
            if rows.insert(prefix, self.selector(&text.peers, false)?).is_some() {
                return Err(self.mistake(&text.prefix, format!("{prefix} is listed twice; name all its peers once")));
            }
        }
        Ok(PrefixTable::new(rows.into_iter().collect()))
    }

    /// The segments of what is behind a prefix: those of every prefix around it.
    fn segment_prefixes(&self) -> Result<PrefixTable<u64>, PolicyError> {
        let mut rows: BTreeMap<Prefix, u64> = BTreeMap::new();
        for (at, text) in (0u32..).zip(&self.document.segments) {
            for prefix in self.prefixes(&text.prefixes)? {
                *rows.entry(prefix).or_default() |= 1u64.checked_shl(at).unwrap_or(0);
            }
        }
        let around =
            |inner: &Prefix| rows.iter().filter(|(outer, _)| outer.covers(inner)).fold(0, |all, row| all | row.1);
        Ok(PrefixTable::new(rows.keys().map(|prefix| (*prefix, around(prefix))).collect()))
    }
}

/// What is wrong with a prefix, for who wrote it.
fn not_a_prefix(text: &str, error: PrefixError) -> String {
    let named = shown(text);
    match error {
        PrefixError::Text => format!("`{named}` is not a prefix like 10.1.0.0/16 or fd00:1::/64"),
        PrefixError::TooLong { .. } => format!("`{named}` has a length beyond its address"),
        PrefixError::Mapped => format!("`{named}` is an IPv4 prefix: write it as one, like 10.1.0.0/16"),
        PrefixError::HostBits => {
            let parts =
                text.split_once('/').and_then(|(address, length)| address.parse().ok().zip(length.parse().ok()));
            let meant = parts.map(|(address, length)| format!("; the prefix is {}", Prefix::around(address, length)));
            format!("`{named}` has bits beyond its length{}", meant.unwrap_or_default())
        }
    }
}

fn not_a_peer(word: &Word) -> String {
    format!("`{}` is no peer id; groups hold peer ids only", shown(word.as_ref()))
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}
