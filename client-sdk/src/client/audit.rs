//! An audit of a file: each holder is asked to prove what it should hold, with the verify key alone. It judges by
//! [`crate::audit`], keeps nothing, and asks a node that does not answer only so often.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use shoal_protocol::audit::{AuditRequest, Challenge};
use shoal_protocol::control::{Request, Response};
use shoal_protocol::{NodeId, Refusal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Client, Fleet, OpenFile, ShardPlace};
use crate::audit::{
    Entry, Outcome, Question, Timing, Verdict, allowed_ms, challenge, judge, outcome_of, pick, slices_for,
};
use crate::keys::AuditTokenKey;
use crate::transfer::TransferError;
use crate::transport::ShardTransport;

/// Nodes asked at the same time.
const NODES: usize = 16;
/// Questions to one node at the same time: few, so that an answer waits for the disk and not for the others.
const QUESTIONS: usize = 4;
/// Results on their way to the caller.
const RESULTS: usize = 64;
/// Questions in a row that may go without any answer before a node is asked no more.
const SILENT: u32 = 3;
/// How often slices are asked of a node that is busy.
const TRIES: u32 = 3;
/// Longest rest before a node that is busy is asked again, milliseconds.
const REST_MS: u64 = 5_000;
/// How long beyond its deadline an answer is waited for: it is late, but says more than none.
const GRACE: Duration = Duration::from_secs(5);

/// What to ask.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// Shards of each node a round, drawn anew each time; all where it has no more.
    pub sample: usize,
    /// Rounds.
    pub rounds: u32,
    /// Token rounds that each node may be asked, the first of them in the first round: what is used here is spent, and
    /// must be written down before. Where there is none, and for pages, slices are asked.
    pub tokens: BTreeMap<NodeId, Vec<u8>>,
}

/// One question, what came of it and what that says.
#[derive(Clone, Debug)]
pub struct Audited {
    /// Which round, from 0.
    pub round: u32,
    /// Which shard.
    pub place: ShardPlace,
    /// The evidence.
    pub entry: Entry,
    /// What it says.
    pub verdict: Verdict,
}

/// What one node is asked in one round.
struct Task<'a> {
    round: u32,
    node: NodeId,
    places: Vec<&'a ShardPlace>,
    /// The token round to ask.
    token_round: Option<u8>,
    /// Milliseconds to the node and back; or why it cannot be asked.
    link: Result<u64, TransferError>,
}

/// One question to be asked.
struct Asking {
    challenge: Challenge,
    token: Option<[u8; 16]>,
}

impl<T: ShardTransport> Client<T> {
    /// Asks holders of `file` to prove what they hold, and hands every result to `on`, in any order. Returns the shards
    /// that nobody was found to hold at the upload, who cannot be asked.
    pub async fn audit(
        &self,
        file: &OpenFile,
        fleet: &Fleet,
        options: &AuditOptions,
        on: &mut (dyn FnMut(Audited) + Send),
    ) -> Vec<ShardPlace> {
        let mut by_node: BTreeMap<NodeId, Vec<ShardPlace>> = BTreeMap::new();
        let mut nowhere = Vec::new();
        for place in file.shard_places() {
            match place.node {
                Some(node) => by_node.entry(node).or_default().push(place),
                None => nowhere.push(place),
            }
        }
        let links = self.links(by_node.keys().copied().collect(), fleet).await;
        let key = file.source().verify.audit_token_key(&file.placement().file);
        for round in 0..options.rounds {
            let tasks: Vec<Task<'_>> =
                by_node.iter().map(|(node, places)| self.task(round, *node, places, options, &links)).collect();
            let (out, mut results) = mpsc::channel(RESULTS);
            let asking = async {
                stream::iter(tasks).for_each_concurrent(NODES, |task| self.ask_node(file, &key, task, &out)).await;
                drop(out);
            };
            let taking = async {
                while let Some(audited) = results.recv().await {
                    on(audited);
                }
            };
            tokio::join!(asking, taking);
        }
        nowhere
    }

    /// Round trips to all nodes, measured by a greeting each.
    async fn links(&self, nodes: Vec<NodeId>, fleet: &Fleet) -> BTreeMap<NodeId, Result<u64, TransferError>> {
        let greeted = stream::iter(nodes).map(|node| async move {
            if fleet.get(&node).is_none() {
                return (node, Err(TransferError::Unreachable("it was not found".into())));
            }
            let begun = Instant::now();
            (node, self.greet_again(node).await.map(|_| elapsed_ms(begun)))
        });
        greeted.buffer_unordered(NODES).collect().await
    }

    fn task<'a>(
        &self,
        round: u32,
        node: NodeId,
        places: &'a [ShardPlace],
        options: &AuditOptions,
        links: &BTreeMap<NodeId, Result<u64, TransferError>>,
    ) -> Task<'a> {
        let drawn = pick(places.len(), options.sample, || u64::from_le_bytes(self.environment.random()));
        let unknown = || Err(TransferError::Unreachable("it was not found".into()));
        let token_round = usize::try_from(round).ok().and_then(|at| options.tokens.get(&node)?.get(at)).copied();
        Task {
            round,
            node,
            places: drawn.into_iter().filter_map(|at| places.get(at)).collect(),
            token_round,
            link: links.get(&node).cloned().unwrap_or_else(unknown),
        }
    }

    async fn ask_node(&self, file: &OpenFile, key: &AuditTokenKey, task: Task<'_>, out: &mpsc::Sender<Audited>) {
        let Task { round, node, places, token_round, link } = task;
        let count = slices_for(places.len());
        let silent = AtomicU32::new(0);
        let (silent, link) = (&silent, &link);
        stream::iter(places)
            .for_each_concurrent(QUESTIONS, |place| async move {
                let token = token_round.and_then(|round| Some((round, file.audit_token(place, round)?)));
                let asking = match token {
                    Some((round, token)) => {
                        let challenge = challenge(key, &place.shard, round);
                        Asking { challenge: Challenge::Whole { challenge }, token: Some(token) }
                    }
                    None => self.fresh_slices(count),
                };
                let (entry, verdict) = self.ask(node, place, asking, link.as_ref().copied(), silent).await;
                // The receiver lives until all of this is done.
                let _ = out.send(Audited { round, place: place.clone(), entry, verdict }).await;
            })
            .await;
    }

    fn fresh_slices(&self, count: u8) -> Asking {
        Asking { challenge: Challenge::Slices { seed: self.environment.random(), count }, token: None }
    }

    /// Asks, again with a fresh seed where the node is busy; a token's challenge is shown only once.
    async fn ask(
        &self,
        node: NodeId,
        place: &ShardPlace,
        mut asking: Asking,
        link: Result<u64, &TransferError>,
        silent: &AtomicU32,
    ) -> (Entry, Verdict) {
        let mut tries = 0;
        loop {
            tries += 1;
            let nonce = self.nonce();
            let request =
                AuditRequest { shard: place.shard, length: place.length, challenge: asking.challenge.clone(), nonce };
            let allowed_ms = allowed_ms(link.unwrap_or(0), &request);
            let begun = Instant::now();
            let (outcome, rest) = match link {
                Err(error) => (outcome_of(error), None),
                Ok(_) if silent.load(Ordering::Relaxed) >= SILENT => {
                    (Outcome::Failed("it was asked no more: it had not answered".into()), None)
                }
                Ok(_) => self.exchange(node, request.clone(), allowed_ms).await,
            };
            let timing = Timing { now: self.now(), took_ms: elapsed_ms(begun), allowed_ms };
            if let (Some(rest_ms), Challenge::Slices { count, .. }, true) = (rest, &asking.challenge, tries < TRIES) {
                tokio::time::sleep(Duration::from_millis(u64::from(rest_ms).min(REST_MS))).await;
                asking = self.fresh_slices(*count);
                continue;
            }
            match outcome {
                Outcome::Failed(_) => silent.fetch_add(1, Ordering::Relaxed),
                Outcome::Answered { .. } | Outcome::Refused(_) => silent.swap(0, Ordering::Relaxed),
            };
            return self.judged(node, place, request, asking.token, outcome, timing);
        }
    }

    /// What came, and where the node is busy when to come again, milliseconds.
    async fn exchange(&self, node: NodeId, request: AuditRequest, allowed_ms: u64) -> (Outcome, Option<u32>) {
        let deadline = Duration::from_millis(allowed_ms).saturating_add(GRACE);
        match self.transport.request(node, Request::Audit(request), deadline).await {
            Ok(Response::Audit { statement, answer }) => (Outcome::Answered { statement, answer }, None),
            Ok(_) => (Outcome::Failed("it answered AUDIT with something else".into()), None),
            Err(error @ TransferError::Refused { reason: Refusal::Busy, retry_after_ms }) => {
                (outcome_of(&error), Some(retry_after_ms))
            }
            Err(error) => (outcome_of(&error), None),
        }
    }

    fn judged(
        &self,
        node: NodeId,
        place: &ShardPlace,
        request: AuditRequest,
        token: Option<[u8; 16]>,
        outcome: Outcome,
        timing: Timing,
    ) -> (Entry, Verdict) {
        let question = Question { network: &self.network, auditor: &self.node, node: &node, request: &request, token };
        let verdict = judge(&question, &outcome, timing);
        let entry = Entry {
            node,
            segment: place.segment,
            unit: u16::try_from(place.unit).unwrap_or(u16::MAX),
            request,
            token: token.map(|token| token.to_vec()),
            time: timing.now,
            took_ms: timing.took_ms,
            allowed_ms: timing.allowed_ms,
            outcome,
        };
        (entry, verdict)
    }
}

fn elapsed_ms(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
