//! The policy document as people write it: TOML, every key known, every mistake with its line. It resolves no name; that is
//! [`super::compile`].
//!
//! ```toml
//! version = 1
//! default = "members"                # or "deny"
//!
//! [groups]
//! admins = ["12D3KooW.."]
//!
//! [[rules]]                          # the first that fits decides
//! name = "ssh for admins"
//! action = "allow"                   # or "deny"
//! from = ["admins"]                  # groups, peer ids, "*"
//! to = ["*"]                         # also "internet": what is behind an exit
//! protocol = "tcp"                   # tcp, udp, icmp or a number; without it any
//! ports = ["22", "8000-8100"]        # of the destination
//! addresses = ["10.1.0.0/16"]        # of the destination
//!
//! [[prefixes]]                       # who may announce what is behind it
//! prefix = "10.1.0.0/16"
//! peers = ["admins"]
//!
//! [[exits]]                          # who may send whom to the internet
//! peers = ["12D3KooW.."]
//! users = ["admins"]
//! allow_lan = ["192.168.7.0/24"]
//! deny = ["203.0.113.0/24"]
//!
//! [[segments]]
//! name = "cameras"
//! members = ["12D3KooW.."]
//! prefixes = ["10.2.0.0/16"]         # what is behind a prefix counts too
//! mode = "local_only"                # or "strict", "internet_only"
//!
//! [[limits]]                         # the first that fits counts, each way, for each peer by itself
//! peer = "12D3KooW.."                # or a group, or "*"
//! rate = "20 Mbit"                   # of all of it, a second
//! udp = "5 Mbit"                     # also tcp, icmp, other
//! ```

use std::collections::BTreeMap;

use serde::Deserialize;
use shoal_protocol::NodeId;
use shoal_protocol::mesh::prefix::Prefix;
use toml::Spanned;

use crate::suggest::meant;

/// The only version of this form.
pub const POLICY_VERSION: u64 = 1;
/// Longest text, bytes: the largest document that its other bounds allow is smaller.
pub const TEXT_MAX: usize = 1 << 20;
/// Most groups: a peer's groups are the bits of one word.
pub const GROUPS_MAX: usize = 64;
/// Most peers of a list: the largest mesh.
pub const PEERS_MAX: usize = 2048;
/// Most rules: each is looked at for a packet that fits none.
pub const RULES_MAX: usize = 256;
/// Most prefixes.
pub const PREFIXES_MAX: usize = 1024;
/// Most exits.
pub const EXITS_MAX: usize = 32;
/// Most segments: a peer's segments are the bits of one word.
pub const SEGMENTS_MAX: usize = 64;
/// Most limits: each is looked at for a peer once.
pub const LIMITS_MAX: usize = 256;
/// Most ports or addresses of one rule, and most prefixes of an exit or segment.
pub const LIST_MAX: usize = 64;

/// A text and where it stands, for messages.
pub type Word = Spanned<String>;

/// A mistake in a document: what, where, and what was probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// Line, counted from 1, if it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// The word that was probably meant.
    pub suggestion: Option<String>,
}

impl core::error::Error for PolicyError {}

impl core::fmt::Display for PolicyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.what)?;
        match &self.suggestion {
            Some(word) => write!(f, "; did you mean `{word}`?"),
            None => Ok(()),
        }
    }
}

/// What a packet gets that no rule fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultRule {
    /// Members of the network may talk.
    #[default]
    Members,
    /// Nobody may.
    Deny,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Lets it pass, and its replies.
    Allow,
    /// Drops it.
    Deny,
}

/// What a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Members talk to each other; beyond the segment only where a rule says so.
    Strict,
    /// Members reach the internet through their exits, and no other member.
    InternetOnly,
    /// Members reach members and what is behind them, and no exit.
    LocalOnly,
}

/// `[[rules]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleText {
    /// For messages and verdicts.
    pub name: Word,
    /// What it does.
    pub action: Action,
    /// Groups, peer ids, `*`, `internet`.
    pub from: Vec<Word>,
    /// The same.
    pub to: Vec<Word>,
    /// `tcp`, `udp`, `icmp` or a number.
    pub protocol: Option<Word>,
    /// Ports and ranges of the destination.
    #[serde(default)]
    pub ports: Vec<Word>,
    /// Prefixes of the destination.
    #[serde(default)]
    pub addresses: Vec<Word>,
}

/// `[[prefixes]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixText {
    /// What is behind.
    pub prefix: Word,
    /// Whom.
    pub peers: Vec<Word>,
}

/// `[[exits]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitText {
    /// Who is an exit.
    pub peers: Vec<Word>,
    /// For whom.
    pub users: Vec<Word>,
    /// Private networks of the exit that may be reached all the same.
    #[serde(default)]
    pub allow_lan: Vec<Word>,
    /// What may not be reached in addition.
    #[serde(default)]
    pub deny: Vec<Word>,
}

/// `[[segments]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentText {
    /// For messages.
    pub name: Word,
    /// Who is in it.
    pub members: Vec<Word>,
    /// What behind them is in it.
    #[serde(default)]
    pub prefixes: Vec<Word>,
    /// What it is for.
    pub mode: Mode,
}

/// `[[limits]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitText {
    /// A peer id, a group or `*`.
    pub peer: Word,
    /// Of all that goes to it, and of all that comes from it.
    pub rate: Option<Word>,
    /// Of TCP.
    pub tcp: Option<Word>,
    /// Of UDP.
    pub udp: Option<Word>,
    /// Of ICMP and ICMPv6.
    pub icmp: Option<Word>,
    /// Of all other protocols together.
    pub other: Option<Word>,
}

/// A document that was read, its names not yet resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`POLICY_VERSION`].
    pub version: u64,
    /// Counted up by whoever signs one.
    #[serde(default)]
    pub serial: u64,
    /// For what no rule fits.
    #[serde(default)]
    pub default: DefaultRule,
    /// Peer ids by name.
    #[serde(default)]
    pub groups: BTreeMap<String, Vec<Word>>,
    /// In the order in which they are tried.
    #[serde(default)]
    pub rules: Vec<RuleText>,
    /// Rights to announce.
    #[serde(default)]
    pub prefixes: Vec<PrefixText>,
    /// Rights to leave.
    #[serde(default)]
    pub exits: Vec<ExitText>,
    /// Parts of the network.
    #[serde(default)]
    pub segments: Vec<SegmentText>,
    /// How much may go to peers and come from them.
    #[serde(default)]
    pub limits: Vec<LimitText>,
    /// Where lines end in the text, for messages.
    #[serde(skip)]
    breaks: Vec<usize>,
}

impl Document {
    /// The built-in rule alone: members of one network may talk, everything else is denied.
    #[must_use]
    pub fn built_in() -> Self {
        Self { version: POLICY_VERSION, ..Self::default() }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`PolicyError`] with the line of an unknown key, a value of the wrong kind, or another version.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > TEXT_MAX {
            let what = format!("a policy of {} bytes is over the limit of {TEXT_MAX}", text.len());
            return Err(PolicyError { line: None, what, suggestion: None });
        }
        let breaks: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        let mut document: Self = toml::from_str(text).map_err(|error| PolicyError {
            line: error.span().map(|span| line_of(&breaks, span.start)),
            what: error.message().to_owned(),
            suggestion: meant(error.message()),
        })?;
        document.breaks = breaks;
        if document.version != POLICY_VERSION {
            let what = format!("policy version {}; this program knows version {POLICY_VERSION}", document.version);
            return Err(PolicyError { line: None, what, suggestion: None });
        }
        Ok(document)
    }

    /// What a node's owner grants by starting it as an exit, or by using one: `exit` is one for `user`, and without a user
    /// for everybody. A document that says anything of exits decides alone.
    pub fn grant_exit(&mut self, exit: NodeId, user: Option<NodeId>) {
        if self.exits.is_empty() {
            let user = user.map_or_else(|| "*".to_owned(), |user| user.to_string());
            let (peers, users) = (vec![unplaced(exit.to_string())], vec![unplaced(user)]);
            self.exits.push(ExitText { peers, users, allow_lan: vec![], deny: vec![] });
        }
    }

    /// What a node's owner grants by letting it lead to these prefixes: they are behind `node`. A document that says
    /// anything of prefixes decides alone.
    pub fn grant_prefixes(&mut self, prefixes: impl IntoIterator<Item = Prefix>, node: NodeId) {
        if self.prefixes.is_empty() {
            let peers = vec![unplaced(node.to_string())];
            let text = |prefix: Prefix| PrefixText { prefix: unplaced(prefix.to_string()), peers: peers.clone() };
            self.prefixes.extend(prefixes.into_iter().map(text));
        }
    }

    /// A mistake at this word.
    pub(super) fn mistake(&self, word: &Word, what: String, suggestion: Option<String>) -> PolicyError {
        PolicyError { line: Some(line_of(&self.breaks, word.span().start)), what, suggestion }
    }
}

/// A word that stands nowhere in a text. It is made of what cannot be mistyped, so no message names its line.
fn unplaced(text: String) -> Word {
    Spanned::new(0..0, text)
}

/// The line a byte is in, counted from 1.
fn line_of(breaks: &[usize], at: usize) -> usize {
    breaks.partition_point(|line_end| *line_end < at).saturating_add(1)
}
