//! `upload`: files into the swarm, a capability on stdout. What is said to be stored was receipted; what is missing is
//! named, and the capability printed all the same.

use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use serde_json::{Value, json};
use shoal_client::client::{Failure, UploadOptions, UploadPlan, UploadProgress, Uploaded};
use shoal_client::manifest::Capabilities;
use shoal_client::transfer::StoreLimits;
use shoal_protocol::limits::LEASE_MS_DEFAULT;
use shoal_protocol::sealing::KdfParams;
use shoal_protocol::{ByteCount, FileId, NetworkId};
use zeroize::Zeroizing;

use super::{blocking, failures_json};
use crate::catalogue::{self, Upload};
use crate::cli::{Common, UploadArgs};
use crate::exit::Problem;
use crate::home::Home;
use crate::journal::{Found, JournalFile};
use crate::output::{check_new_file, write_private};
use crate::password;
use crate::progress::{UploadBars, wanted};
use crate::report::{Outcome, now, to_stderr};
use crate::session::{Session, variable};
use crate::source::Source;
use crate::text::count;

pub(crate) async fn run(common: &Common, args: UploadArgs) -> Result<Outcome, Problem> {
    let network = common.network_id()?;
    for path in args.manifest_out.iter().chain(&args.capabilities_out) {
        check_new_file(path, args.force)?;
    }
    let (source, options, args) = blocking(move || {
        let mut source = Source::collect(&args.paths)?;
        let password =
            if args.dry_run { Zeroizing::new(Vec::new()) } else { password::read(&args.password, variable, true)? };
        let options = options(&args, password, &source);
        for warning in source.warnings.drain(..) {
            to_stderr(&format!("warning: {warning}"));
        }
        Ok((source, options, args))
    })
    .await?;
    let session = Session::enter(common, network, &[]).await?;
    if args.dry_run {
        return dry_run(session, &options, &source).await;
    }
    let home = session.home.clone();
    let ((journal, mut warnings), args) = blocking(move || Ok((journal(&home, &network, &args), args))).await?;
    let name = source.name();
    let bars = UploadBars::new(wanted(common.json, common.quiet), source.size_hint);
    let progress = |progress: UploadProgress| bars.on(progress);
    let (client, fleet) = (&session.client, &session.fleet);
    let store =
        journal.as_ref().and_then(|journal| journal.store().map_err(|error| warnings.push(not_noted(&error))).ok());
    let uploaded = match store {
        Some(store) => client.upload_noted(source.entries(), &options, fleet, store, &progress).await,
        None => client.upload(source.entries(), &options, fleet, &progress).await,
    };
    let uploaded = uploaded.map_err(|error| {
        let goes_on = journal.is_some() && error.retryable();
        let problem = Problem::from(error);
        if goes_on { Problem { next: format!("{}; {GOES_ON}", problem.next), ..problem } } else { problem }
    })?;
    bars.done();
    drop(options);
    let mut outcome = finish(common, &args, session, name, &uploaded, warnings).await;
    if let Some(Err(error)) = journal.map(|journal| journal.remove()) {
        outcome.warnings.push(format!("the journal of this upload is still there: {error}"));
    }
    Ok(outcome)
}

/// What the same command does after a failure.
const GOES_ON: &str = "the same command goes on where this one stopped";

fn not_noted(error: &dyn std::fmt::Display) -> String {
    format!("this upload cannot be gone on with, should it be interrupted: {error}")
}

/// What makes two commands the same upload: the paths, wherever it is run from, and all that shapes what is stored.
fn identity(args: &UploadArgs) -> io::Result<Vec<Vec<u8>>> {
    let UploadArgs { replica_factor, allow_colocate, audit_rounds, .. } = args;
    let (profile, suite) = (args.profile(), args.cipher.suite());
    let shape = format!("{profile:?} {replica_factor} {allow_colocate} {audit_rounds} {suite}");
    let paths = args.paths.iter().map(|path| {
        let whole = if path == Path::new("-") { Ok(path.clone()) } else { std::path::absolute(path) };
        whole.map(|path| path.into_os_string().into_vec())
    });
    std::iter::once(Ok(shape.into_bytes())).chain(paths).collect()
}

/// The journal of this command, or why there is none.
fn journal(home: &Home, network: &NetworkId, args: &UploadArgs) -> (Option<JournalFile>, Vec<String>) {
    let identity = match identity(args) {
        Ok(identity) => identity,
        Err(error) => return (None, vec![not_noted(&error)]),
    };
    let identity: Vec<&[u8]> = identity.iter().map(Vec::as_slice).collect();
    match JournalFile::open(home, network, &identity) {
        Ok(Found::Journal(journal)) => {
            let cleared = if args.no_resume { journal.clear().err() } else { None };
            (Some(journal), cleared.iter().map(|error| not_noted(error)).collect())
        }
        Ok(Found::Taken) => (None, vec![not_noted(&"the same upload is under way in another process")]),
        Err(error) => (None, vec![not_noted(&error)]),
    }
}

fn options(args: &UploadArgs, password: password::Password, source: &Source) -> UploadOptions {
    UploadOptions {
        profile: args.profile(),
        replicas: args.replica_factor,
        allow_colocate: args.allow_colocate,
        suite: args.cipher.suite(),
        // The client draws the salt.
        kdf: KdfParams::recommended([0; 16]),
        password,
        lease_ms: LEASE_MS_DEFAULT,
        size_hint: source.size_hint,
        audit_rounds: args.audit_rounds,
        limits: StoreLimits::default(),
    }
}

/// Writes down what was stored. Nothing here may lose the capability: what fails becomes a warning and exit 1.
async fn finish(
    common: &Common,
    args: &UploadArgs,
    session: Session,
    name: String,
    uploaded: &Uploaded,
    mut warnings: Vec<String>,
) -> Outcome {
    let capability = uploaded.capabilities.locate.to_text();
    warnings.extend(uploaded.warnings.iter().map(ToString::to_string));
    warnings.extend(uploaded.notes.iter().map(ToString::to_string));
    let mut not_written = Vec::new();
    let manifest = |path: &Path| {
        let bytes = uploaded.manifest.encode().map_err(|error| error.to_string())?;
        write_private(path, &bytes).map_err(|error| error.to_string())
    };
    if let Some(path) = &args.manifest_out {
        not_written.extend(manifest(path).err());
    }
    if let Some(path) = &args.capabilities_out {
        let written = write_private(path, all_capabilities(&uploaded.capabilities).as_bytes());
        not_written.extend(written.err().map(|error| error.to_string()));
    }
    let entry = Upload {
        time_ms: now().0,
        name,
        bytes: uploaded.bytes,
        entries: uploaded.entries,
        capability: capability.to_string(),
        network: common.network_name().to_owned(),
        genesis: common.genesis.map(|key| data_encoding::HEXLOWER.encode(&key)),
    };
    match catalogue::add(&session.home, entry) {
        Ok(true) => {}
        Ok(false) => warnings.push("the list of uploads is full: keep this capability yourself".into()),
        Err(error) => warnings.push(format!("not in the list of uploads: {error}")),
    }
    warnings.extend(session.leave().await);
    let shortfall = if !uploaded.is_complete() {
        Some(Failure::Partial)
    } else {
        (!not_written.is_empty()).then_some(Failure::Other)
    };
    warnings.append(&mut not_written);
    warnings.extend(missing_text(uploaded));
    let mut details = details(uploaded, &capability);
    details["warnings"] = json!(warnings);
    details["manifest"] = json!(args.manifest_out.as_ref().map(|path| path.display().to_string()));
    Outcome { shortfall, details, stdout: format!("{}\n", *capability), summary: summary(uploaded), warnings }
}

fn all_capabilities(capabilities: &Capabilities) -> Zeroizing<String> {
    let Capabilities { locate, read, verify, owner } = capabilities;
    let mut out = Zeroizing::new(String::with_capacity(4 * 1024));
    for capability in [locate, read, verify, owner] {
        out.push_str(&capability.to_text());
        out.push('\n');
    }
    out
}

fn summary(uploaded: &Uploaded) -> Vec<String> {
    let mut lines = vec![
        format!(
            "stored {} ({}) as {}, {}, on {}: {} of shards",
            count(uploaded.entries, "entry", "entries"),
            ByteCount(uploaded.bytes),
            uploaded.code,
            count(u64::from(uploaded.replicas), "copy", "copies"),
            count(uploaded.placement.holders.len() as u64, "node", "nodes"),
            ByteCount(uploaded.coded),
        ),
        "keep the capability below and the password: together they are all that is needed to get it back".into(),
    ];
    if uploaded.kept > 0 {
        lines.insert(
            1,
            format!("{} of it were there from an interrupted upload", ByteCount(uploaded.kept.min(uploaded.bytes))),
        );
    }
    lines
}

/// Which slots are empty, and which nodes did what they should not.
fn missing_text(uploaded: &Uploaded) -> Vec<String> {
    const NAMED: usize = 20;
    let mut out = Vec::new();
    if !uploaded.missing.is_empty() {
        let named =
            uploaded.missing.iter().take(NAMED).map(|(segment, unit)| format!("segment {segment} shard {unit}"));
        let more = uploaded.missing.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        out.push(format!("nobody took {}{more}", named.collect::<Vec<_>>().join(", ")));
    }
    out.extend(uploaded.failed.iter().take(NAMED).map(|(node, error)| format!("{node} failed: {error}")));
    let records = uploaded.records_missing.iter().take(NAMED);
    out.extend(records.map(|(node, error)| format!("{node} keeps no record: {error}")));
    out
}

fn details(uploaded: &Uploaded, capability: &str) -> Value {
    let missing =
        uploaded.missing.iter().map(|(segment, unit)| json!({ "segment": segment.to_string(), "unit": unit }));
    let holders = uploaded.placement.holders.iter().map(|holder| holder.node.to_string());
    json!({
        "capability": capability,
        "file": uploaded.placement.file.to_hex(),
        "code": uploaded.code.to_string(),
        "replicas": uploaded.replicas,
        "bytes": uploaded.bytes,
        "entries": uploaded.entries,
        "segments": uploaded.segments,
        "coded_bytes": uploaded.coded,
        "kept_bytes": uploaded.kept,
        "sent_bytes": uploaded.sent,
        "complete": uploaded.is_complete(),
        "holders": holders.collect::<Vec<_>>(),
        "missing": missing.collect::<Vec<_>>(),
        "failed": failures_json(&uploaded.failed),
        "records_missing": failures_json(uploaded.records_missing.iter().map(|(node, error)| (node, error))),
    })
}

/// What would happen. The real holders are drawn for each upload anew; these are drawn the same way.
async fn dry_run(session: Session, options: &UploadOptions, source: &Source) -> Result<Outcome, Problem> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(crate::home::HomeError::Random)?;
    let plan = session.client.plan(options, &session.fleet, FileId::from_bytes(seed))?;
    let live = session.fleet.storing().count();
    let mut warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    let details = plan_json(&plan, live, options, source, &warnings);
    let stdout = plan_text(&plan, live, options, source);
    warnings.extend(session.leave().await);
    Ok(Outcome { details, stdout, warnings, ..Outcome::default() })
}

fn plan_json(plan: &UploadPlan, live: usize, options: &UploadOptions, source: &Source, warnings: &[String]) -> Value {
    let slots = plan.placement.slots.iter().enumerate().map(
        |(slot, placed)| json!({ "slot": slot, "node": placed.node.to_string(), "domain": placed.domain.to_string() }),
    );
    let spares = plan.placement.spares.iter().map(|placed| placed.node.to_string());
    json!({
        "dry_run": true,
        "code": plan.code.to_string(),
        "replicas": plan.placement.replicas,
        "cipher": options.suite.to_string(),
        "entries": source.len(),
        "bytes": source.size_hint,
        "live_nodes": live,
        "slots": slots.collect::<Vec<_>>(),
        "spares": spares.collect::<Vec<_>>(),
        "warnings": warnings,
    })
}

fn plan_text(plan: &UploadPlan, live: usize, options: &UploadOptions, source: &Source) -> String {
    let size = source.size_hint.map_or_else(|| "unknown size".to_owned(), |size| ByteCount(size).to_string());
    let mut out = format!(
        "would store {} ({size}) as {}, {}, {}; {} live\n",
        count(source.len() as u64, "entry", "entries"),
        plan.code,
        count(u64::from(plan.placement.replicas), "copy", "copies"),
        options.suite,
        count(live as u64, "node", "nodes"),
    );
    for (slot, placed) in plan.placement.slots.iter().enumerate() {
        out.push_str(&format!("slot {slot:<4} {}  domain {}\n", placed.node, placed.domain));
    }
    out.push_str(&format!(
        "{} left as spares; the holders are drawn anew for each upload\n",
        plan.placement.spares.len()
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::keys::RootKey;
    use shoal_client::manifest::capabilities;
    use shoal_protocol::NetworkId;

    #[test]
    fn four_capabilities_a_line_each() {
        let network = NetworkId::derive(None, "home").unwrap();
        let text = all_capabilities(&capabilities(&RootKey::new([5; 32]), &network, &[]));
        let starts: Vec<&str> = text.lines().map(|line| line.split_once('1').map_or("", |(start, _)| start)).collect();
        assert_eq!(starts, ["shoal", "shoalr", "shoalv", "shoalo"]);
    }
}
