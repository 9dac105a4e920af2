//! `shards`: who holds what, as the holders say themselves. It moves no shard and believes no length it did not expect.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};
use shoal_client::client::{Failure, Held, HeldState};
use shoal_protocol::layout::Code;
use shoal_protocol::{ByteCount, NodeId, SegmentNumber};

use super::open;
use crate::cli::{Common, ReadArgs};
use crate::exit::Problem;
use crate::report::Outcome;

/// Shards of one node or segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tally {
    present: usize,
    missing: usize,
    unreachable: usize,
    bytes: u64,
    /// One letter a shard: + present, - missing, ? unreachable.
    marks: String,
    /// Distinct indices present, of segments.
    indices: Vec<usize>,
}

impl Tally {
    fn add(&mut self, held: &Held, code: Code) {
        match held.state {
            HeldState::Present => {
                self.present += 1;
                self.bytes = self.bytes.saturating_add(u64::from(held.place.length));
                let index = held.place.unit % code.n();
                if !self.indices.contains(&index) {
                    self.indices.push(index);
                }
            }
            HeldState::Missing => self.missing += 1,
            HeldState::Unreachable => self.unreachable += 1,
        }
        self.marks.push(mark(held.state));
    }
}

const fn mark(state: HeldState) -> char {
    match state {
        HeldState::Present => '+',
        HeldState::Missing => '-',
        HeldState::Unreachable => '?',
    }
}

/// All holders' answers, summed up.
pub(super) struct Holdings {
    code: Code,
    nodes: BTreeMap<NodeId, Tally>,
    segments: BTreeMap<SegmentNumber, Tally>,
    absent: Vec<Held>,
}

impl Holdings {
    pub(super) fn of(held: Vec<Held>, code: Code) -> Self {
        let mut out = Self { code, nodes: BTreeMap::new(), segments: BTreeMap::new(), absent: Vec::new() };
        for held in held {
            if let Some(node) = held.place.node {
                out.nodes.entry(node).or_default().add(&held, code);
            }
            out.segments.entry(held.place.segment).or_default().add(&held, code);
            if held.state != HeldState::Present {
                out.absent.push(held);
            }
        }
        out
    }

    /// 13 if some segment cannot be rebuilt now, 3 if something is not there.
    pub(super) fn shortfall(&self) -> Option<Failure> {
        if self.segments.values().any(|tally| tally.indices.len() < self.code.k()) {
            Some(Failure::TooFewShards)
        } else {
            (!self.absent.is_empty()).then_some(Failure::Partial)
        }
    }

    fn text(&self) -> String {
        let mut out = format!("code {}: any {} of a segment are enough\n\n", self.code, self.code.k());
        let _ = writeln!(out, "{:<52}  {:>7}  {:>7}  {:>7}  {:>9}", "node", "present", "missing", "no word", "size");
        for (node, tally) in &self.nodes {
            let (node, size) = (node.to_string(), ByteCount(tally.bytes).to_string());
            let Tally { present, missing, unreachable, .. } = tally;
            let _ = writeln!(out, "{node:<52}  {present:>7}  {missing:>7}  {unreachable:>7}  {size:>9}");
        }
        let _ = writeln!(out, "\n{:<10}  {:>7}  shards: + there, - missing, ? no word", "segment", "present");
        for (segment, tally) in &self.segments {
            let (segment, total) = (segment.to_string(), tally.marks.len());
            let _ = writeln!(out, "{segment:<10}  {:>3}/{total:<3}  {}", tally.present, tally.marks);
        }
        if !self.absent.is_empty() {
            out.push_str("\nnot there:\n");
        }
        for Held { place, state } in &self.absent {
            let node = place.node.map_or_else(|| "no holder".to_owned(), |node| node.to_string());
            let _ = writeln!(out, "  segment {} shard {}  {}  {node}", place.segment, place.unit, word(*state));
        }
        out
    }

    fn json(&self) -> Value {
        let nodes = self.nodes.iter().map(|(node, tally)| {
            json!({ "node": node.to_string(), "shards": tally.present, "missing": tally.missing,
                    "unreachable": tally.unreachable, "bytes": tally.bytes })
        });
        let segments = self.segments.iter().map(|(segment, tally)| {
            json!({ "segment": segment.to_string(), "present": tally.present, "missing": tally.missing,
                    "unreachable": tally.unreachable, "distinct": tally.indices.len() })
        });
        let absent = self.absent.iter().map(|Held { place, state }| {
            json!({ "segment": place.segment.to_string(), "unit": place.unit, "shard": place.shard.to_string(),
                    "node": place.node.map(|node| node.to_string()), "state": word(*state) })
        });
        json!({
            "code": self.code.to_string(),
            "nodes": nodes.collect::<Vec<_>>(),
            "segments": segments.collect::<Vec<_>>(),
            "missing": absent.collect::<Vec<_>>(),
        })
    }
}

const fn word(state: HeldState) -> &'static str {
    match state {
        HeldState::Present => "present",
        HeldState::Missing => "missing",
        HeldState::Unreachable => "unreachable",
    }
}

pub(crate) async fn run(common: &Common, args: ReadArgs) -> Result<Outcome, Problem> {
    let opened = open(common, args.target, args.access).await?;
    let held = opened.session.client.holdings(&opened.file, &opened.session.fleet).await;
    let holdings = Holdings::of(held, opened.file.code());
    let mut details = holdings.json();
    details["file"] = json!(opened.file.placement().file.to_hex());
    details["replicas"] = json!(opened.file.replicas());
    let (shortfall, stdout) = (holdings.shortfall(), holdings.text());
    Ok(Outcome { shortfall, details, stdout, warnings: opened.close().await, ..Outcome::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::client::ShardPlace;
    use shoal_protocol::ShardId;

    fn held(segment: u32, unit: usize, node: Option<u8>, state: HeldState) -> Held {
        let node = node.map(|node| NodeId::from_bytes([node; 32]));
        let shard = ShardId::from_bytes([7; 32]);
        Held { place: ShardPlace { segment: SegmentNumber(segment), unit, shard, length: 100, node }, state }
    }

    #[test]
    fn shortfall_by_distinct_indices() {
        use HeldState::{Missing, Present, Unreachable};
        let code = Code::new(2, 1).unwrap();
        let all = |states: [HeldState; 6]| {
            let held = states.into_iter().enumerate().map(|(unit, state)| held(0, unit, Some(unit as u8), state));
            Holdings::of(held.collect(), code)
        };
        assert_eq!(all([Present; 6]).shortfall(), None);
        assert_eq!(all([Present, Present, Missing, Missing, Missing, Unreachable]).shortfall(), Some(Failure::Partial));
        // Two copies of one index are one index.
        let twins = all([Present, Missing, Missing, Present, Missing, Missing]);
        assert_eq!(twins.shortfall(), Some(Failure::TooFewShards));
        assert_eq!(twins.json()["segments"][0]["distinct"], json!(1));
    }

    #[test]
    fn table_names_nodes_segments_and_what_is_gone() {
        let code = Code::new(1, 1).unwrap();
        let held = vec![
            held(0, 0, Some(1), HeldState::Present),
            held(0, 1, None, HeldState::Missing),
            held(SegmentNumber::FIRST_PAGE, 0, Some(1), HeldState::Unreachable),
            held(SegmentNumber::FIRST_PAGE, 1, Some(2), HeldState::Present),
        ];
        let holdings = Holdings::of(held, code);
        let text = holdings.text();
        assert!(text.contains("+-") && text.contains("?+") && text.contains("page 0"), "{text}");
        assert!(text.contains("segment 0 shard 1  missing  no holder"), "{text}");
        assert_eq!(holdings.json()["missing"].as_array().unwrap().len(), 2);
        assert_eq!(holdings.shortfall(), Some(Failure::Partial));
    }
}
