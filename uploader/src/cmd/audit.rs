//! `audit`: the holders prove what they hold, to whom has the verify key; what they signed is kept. It reads no content,
//! and never calls a node that is away a loser of data.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};
use shoal_client::audit::{Entry, Transcript, TranscriptBuilder, Verdict};
use shoal_client::client::{AuditOptions, Failure, OpenFile, ShardPlace};
use shoal_protocol::audit::Challenge;
use shoal_protocol::{NodeId, SegmentNumber, ShardId};

use super::{Opened, blocking, open};
use crate::audits;
use crate::cli::{AuditArgs, Common};
use crate::exit::Problem;
use crate::report::{Outcome, now};
use crate::text::{plain, time};

/// Results of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    asked: usize,
    proved: usize,
    late: usize,
    absent: usize,
    damaged: usize,
    lied: usize,
    unknown: usize,
}

impl Tally {
    fn add(&mut self, verdict: &Verdict) {
        self.asked += 1;
        *match verdict {
            Verdict::Proved => &mut self.proved,
            Verdict::Late { .. } => &mut self.late,
            Verdict::Absent => &mut self.absent,
            Verdict::Damaged => &mut self.damaged,
            Verdict::Lied(_) => &mut self.lied,
            Verdict::Unknown(_) => &mut self.unknown,
        } += 1;
    }
}

/// One question that was not proved.
#[derive(Debug)]
struct Failing {
    node: NodeId,
    segment: SegmentNumber,
    unit: u16,
    shard: ShardId,
    asked: &'static str,
    verdict: Verdict,
}

/// All results, summed up.
#[derive(Debug, Default)]
pub(super) struct Results {
    nodes: BTreeMap<NodeId, Tally>,
    failing: Vec<Failing>,
    /// Shards that nobody was found to hold.
    nowhere: Vec<ShardPlace>,
}

impl Results {
    pub(super) fn add(&mut self, entry: &Entry, verdict: Verdict) {
        self.nodes.entry(entry.node).or_default().add(&verdict);
        if verdict != Verdict::Proved {
            let Entry { node, segment, unit, request, .. } = entry;
            let (node, segment, unit, shard) = (*node, *segment, *unit, request.shard);
            self.failing.push(Failing { node, segment, unit, shard, asked: asked(entry), verdict });
        }
    }

    fn total(&self) -> Tally {
        let mut sum = Tally::default();
        for tally in self.nodes.values() {
            sum.asked += tally.asked;
            sum.proved += tally.proved;
            sum.late += tally.late;
            sum.absent += tally.absent;
            sum.damaged += tally.damaged;
            sum.lied += tally.lied;
            sum.unknown += tally.unknown;
        }
        sum
    }

    /// 14 if a node lied or its copy is damaged, 3 if something else is not proved.
    pub(super) fn shortfall(&self) -> Option<Failure> {
        let Tally { damaged, lied, .. } = self.total();
        if damaged > 0 || lied > 0 {
            Some(Failure::Integrity)
        } else {
            (!self.failing.is_empty() || !self.nowhere.is_empty()).then_some(Failure::Partial)
        }
    }

    fn text(&self) -> String {
        let mut out = format!(
            "{:<52}  {:>6}  {:>6}  {:>6}  {:>6}  {:>7}  {:>6}  {:>7}\n",
            "node", "asked", "proved", "late", "absent", "damaged", "lied", "unknown"
        );
        for (node, tally) in &self.nodes {
            let Tally { asked, proved, late, absent, damaged, lied, unknown } = tally;
            let node = node.to_string();
            let _ = writeln!(
                out,
                "{node:<52}  {asked:>6}  {proved:>6}  {late:>6}  {absent:>6}  {damaged:>7}  {lied:>6}  {unknown:>7}"
            );
        }
        if self.shortfall().is_some() {
            out.push_str("\nnot proved:\n");
        }
        for Failing { node, segment, unit, verdict, .. } in &self.failing {
            let (word, why) = (word(verdict), why(verdict));
            let why = if why.is_empty() { why } else { format!(": {why}") };
            let _ = writeln!(out, "  segment {segment} shard {unit}  {word}{why}  {node}");
        }
        for ShardPlace { segment, unit, .. } in &self.nowhere {
            let _ = writeln!(out, "  segment {segment} shard {unit}  nobody holds it");
        }
        out
    }

    fn json(&self) -> Value {
        let nodes = self.nodes.iter().map(|(node, tally)| {
            let Tally { asked, proved, late, absent, damaged, lied, unknown } = tally;
            json!({ "node": node.to_string(), "asked": asked, "proved": proved, "late": late, "absent": absent,
                    "damaged": damaged, "lied": lied, "unknown": unknown })
        });
        let failing = self.failing.iter().map(|failing| {
            let Failing { node, segment, unit, shard, asked, verdict } = failing;
            json!({ "segment": segment.to_string(), "unit": unit, "node": node.to_string(),
                    "shard": shard.to_string(), "asked": asked, "verdict": word(verdict),
                    "reason": why(verdict), "proof": is_proof(verdict) })
        });
        let nowhere = self.nowhere.iter().map(|place| {
            json!({ "segment": place.segment.to_string(), "unit": place.unit, "shard": place.shard.to_string() })
        });
        json!({
            "nodes": nodes.collect::<Vec<_>>(),
            "failing": failing.collect::<Vec<_>>(),
            "nowhere": nowhere.collect::<Vec<_>>(),
        })
    }
}

const fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Proved => "proved",
        Verdict::Late { .. } => "late",
        Verdict::Absent => "absent",
        Verdict::Damaged => "damaged",
        Verdict::Lied(_) => "lied",
        Verdict::Unknown(_) => "unknown",
    }
}

fn why(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Proved | Verdict::Absent | Verdict::Damaged => String::new(),
        Verdict::Late { took_ms, allowed_ms } => format!("{took_ms} ms, {allowed_ms} ms are enough"),
        // A transcript may come from anybody: its texts must not drive the terminal.
        Verdict::Lied(lie) => plain(&lie.to_string()),
        Verdict::Unknown(doubt) => plain(&doubt.to_string()),
    }
}

/// Whether the node's own signature proves it to anybody.
const fn is_proof(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Lied(lie) if lie.is_proof())
}

const fn asked(entry: &Entry) -> &'static str {
    match entry.request.challenge {
        Challenge::Slices { .. } => "slices",
        Challenge::Whole { .. } => "whole",
    }
}

pub(crate) async fn run(common: &Common, args: AuditArgs) -> Result<Outcome, Problem> {
    if let Some(path) = args.verify_transcript {
        return blocking(move || audits::read(&path).map(|transcript| judged_again(&transcript))).await;
    }
    let opened = open(common, args.target, args.access).await?;
    let mut warnings = Vec::new();
    let tokens = if args.whole { tokens(&opened, args.rounds, &mut warnings)? } else { BTreeMap::new() };
    let sample = usize::try_from(args.sample).unwrap_or(usize::MAX);
    let options = AuditOptions { sample, rounds: args.rounds, tokens };
    let client = &opened.session.client;
    let file = opened.file.placement().file;
    let mut transcript = TranscriptBuilder::new(*client.network(), client.node(), file, now());
    let mut results = Results::default();
    let nowhere = client
        .audit(&opened.file, &opened.session.fleet, &options, &mut |audited| {
            results.add(&audited.entry, audited.verdict.clone());
            transcript.add(audited.entry, &audited.verdict);
        })
        .await;
    results.nowhere = nowhere;
    results.failing.sort_by_key(|failing| (failing.segment, failing.unit));

    let transcript = transcript.finish();
    let mut details = results.json();
    details["file"] = json!(file.to_hex());
    details["rounds"] = json!(args.rounds);
    details["sample"] = json!(args.sample);
    details["left_out"] = json!(transcript.left_out);
    let mut shortfall = results.shortfall();
    let mut summary = Vec::new();
    match audits::keep(&opened.session.home, &transcript) {
        Ok(path) => {
            details["transcript"] = json!(path.display().to_string());
            summary.push(format!("the answers are kept in {}", path.display()));
        }
        Err(error) => {
            warnings.push(format!("the answers are not kept: {error}"));
            shortfall = shortfall.or(Some(Failure::Other));
        }
    }
    warnings.extend(opened.close().await);
    Ok(Outcome { shortfall, details, stdout: results.text(), summary, warnings })
}

/// Token rounds to ask each holder, spent from now on.
fn tokens(opened: &Opened, rounds: u32, warnings: &mut Vec<String>) -> Result<BTreeMap<NodeId, Vec<u8>>, Problem> {
    let have = opened.file.audit_rounds();
    if have == 0 {
        warnings.push("this upload has no tokens (upload --audit-rounds N makes them): slices are asked".into());
        return Ok(BTreeMap::new());
    }
    let nodes = reachable(&opened.file, opened);
    let file = opened.file.placement().file;
    let given = audits::spend_rounds(&opened.session.home, &file, &nodes, have, rounds)?;
    let wanted = usize::try_from(rounds).unwrap_or(usize::MAX);
    for node in &nodes {
        let left = given.get(node).map_or(0, Vec::len);
        if left < wanted {
            warnings
                .push(format!("{node} has seen its tokens: {left} of {rounds} rounds are whole, the others slices"));
        }
    }
    Ok(given)
}

/// Holders that answered: one that is away would spend a round for nothing.
fn reachable(file: &OpenFile, opened: &Opened) -> Vec<NodeId> {
    let holders = file.placement().holders.iter().map(|holder| holder.node);
    holders.filter(|node| opened.session.fleet.get(node).is_some()).collect()
}

/// The same verdicts from the evidence alone.
fn judged_again(transcript: &Transcript) -> Outcome {
    let mut results = Results::default();
    let mut proofs = 0;
    for entry in &transcript.entries {
        let verdict = transcript.verdict(entry);
        proofs += usize::from(is_proof(&verdict));
        results.add(entry, verdict);
    }
    let (auditor, entries) = (transcript.auditor, transcript.entries.len());
    let mut details = results.json();
    details["file"] = json!(transcript.file.to_hex());
    details["auditor"] = json!(auditor.to_string());
    details["begun_ms"] = json!(transcript.begun.0);
    details["left_out"] = json!(transcript.left_out);
    details["proofs"] = json!(proofs);
    let begun = time(i64::try_from(transcript.begun.0).unwrap_or(i64::MAX));
    let head = format!(
        "file      {}\nauditor   {auditor}\nbegun     {begun} UTC\nanswers   {entries}, {} left out\nproofs    {proofs}: lies under the node's own signature\n\n",
        transcript.file.to_hex(),
        transcript.left_out,
    );
    Outcome { shortfall: results.shortfall(), details, stdout: head + &results.text(), ..Outcome::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::audit::{Doubt, Lie, Outcome as Answered};
    use shoal_protocol::audit::AuditRequest;
    use shoal_protocol::{Nonce, UnixMillis};

    fn entry(node: u8, unit: u16) -> Entry {
        let challenge = Challenge::Slices { seed: [1; 32], count: 4 };
        let shard = ShardId::from_bytes([3; 32]);
        Entry {
            node: NodeId::from_bytes([node; 32]),
            segment: SegmentNumber(5),
            unit,
            request: AuditRequest { shard, length: 100, challenge, nonce: Nonce::from_bytes([0; 16]) },
            token: None,
            time: UnixMillis(1),
            took_ms: 1,
            allowed_ms: 2,
            outcome: Answered::Failed("x".into()),
        }
    }

    fn results(verdicts: impl IntoIterator<Item = Verdict>) -> Results {
        let mut results = Results::default();
        for (unit, verdict) in verdicts.into_iter().enumerate() {
            results.add(&entry(1, unit as u16), verdict);
        }
        results
    }

    #[test]
    fn exit_codes_follow_the_worst_verdict() {
        let unknown = || Verdict::Unknown(Doubt::Failed("away".into()));
        let late = Verdict::Late { took_ms: 9, allowed_ms: 8 };
        assert_eq!(results([Verdict::Proved, Verdict::Proved]).shortfall(), None);
        for partial in [Verdict::Absent, unknown(), late] {
            assert_eq!(results([Verdict::Proved, partial]).shortfall(), Some(Failure::Partial));
        }
        for bad in [Verdict::Damaged, Verdict::Lied(Lie::Whole)] {
            assert_eq!(results([Verdict::Absent, bad, unknown()]).shortfall(), Some(Failure::Integrity));
        }
        let place = ShardPlace {
            segment: SegmentNumber(0),
            unit: 1,
            shard: ShardId::from_bytes([1; 32]),
            length: 5,
            node: None,
        };
        let nowhere = Results { nowhere: vec![place], ..results([Verdict::Proved]) };
        assert_eq!(nowhere.shortfall(), Some(Failure::Partial));
        assert!(nowhere.text().contains("segment 0 shard 1  nobody holds it"));
    }

    #[test]
    fn table_counts_and_names_every_failing_shard() {
        let results = results([Verdict::Proved, Verdict::Absent, Verdict::Lied(Lie::Digest)]);
        let text = results.text();
        assert!(text.contains("segment 5 shard 1  absent  ") && text.contains("segment 5 shard 2  lied: "), "{text}");
        let json = results.json();
        assert_eq!((&json["nodes"][0]["asked"], &json["nodes"][0]["proved"]), (&json!(3), &json!(1)));
        assert_eq!((&json["failing"][1]["verdict"], &json["failing"][1]["proof"]), (&json!("lied"), &json!(false)));
        assert_eq!(json["failing"].as_array().unwrap().len(), 2);
    }
}
