//! The house rules as functions: a file in, complaints out. None of them reads a disk, so that each can be fed a bad
//! snippet.

use crate::scan::{Source, functions, line_of, words};

/// Lines a file that ships may have.
pub const FILE_SOFT: usize = 500;
/// Lines no exception and no test goes beyond.
pub const FILE_HARD: usize = 900;
/// Lines of code a function may have.
pub const FUNCTION_HARD: usize = 80;

/// What pure code may not name: runtime, sockets, files, clocks, threads, random sources.
const IMPURE: [&str; 12] = [
    "tokio",
    "std::net",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "Instant::now",
    "SystemTime",
    "thread_rng",
    "getrandom",
    "rand",
    "libp2p",
];

/// Files larger than the soft cap, each with its reason.
pub struct Exception {
    pub path: &'static str,
    pub reason: &'static str,
}

pub fn header(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") { vec![] } else { vec![format!("{}: does not begin with `//! `", source.path)] }
}

pub fn file_size(source: &Source, exceptions: &[Exception]) -> Vec<String> {
    let lines = source.lines();
    let excused = exceptions.iter().any(|row| row.path == source.path && !row.reason.is_empty());
    let cap = if excused || source.is_test() { FILE_HARD } else { FILE_SOFT };
    if lines > cap { vec![format!("{}: {lines} lines, {cap} are allowed", source.path)] } else { vec![] }
}

pub fn stale_exceptions(sources: &[Source], exceptions: &[Exception]) -> Vec<String> {
    let needed = |row: &&Exception| sources.iter().any(|source| source.path == row.path && source.lines() > FILE_SOFT);
    exceptions.iter().filter(|row| !needed(row)).map(|row| format!("{}: needs no exception", row.path)).collect()
}

pub fn function_size(source: &Source) -> Vec<String> {
    let long = functions(&source.shipped()).into_iter().filter(|f| f.lines > FUNCTION_HARD && !f.excused);
    long.map(|f| format!("{}:{}: fn {} has {} lines", source.path, f.line, f.name, f.lines)).collect()
}

/// Whether a file belongs to the pure half of the house.
pub fn is_pure(path: &str) -> bool {
    let client = path.strip_prefix("client-sdk/src/");
    let shell = |path: &str| path.starts_with("net/") || path.starts_with("client/") || path == "memory.rs";
    path.starts_with("protocol/src/")
        || path.starts_with("node/engine/src/")
        || path.starts_with("reputation/src/")
        || client.is_some_and(|path| !shell(path))
}

pub fn purity(source: &Source) -> Vec<String> {
    if is_pure(&source.path) { forbidden(source, &source.shipped(), &IMPURE, "in pure code") } else { vec![] }
}

pub fn libp2p_in_code(source: &Source) -> Vec<String> {
    let allowed = source.path.starts_with("node/swarm/") || source.path.starts_with("tests/");
    if allowed { vec![] } else { forbidden(source, &source.code(), &["libp2p"], "outside node/swarm") }
}

pub fn unsafe_code(source: &Source) -> Vec<String> {
    let allowed = source.path.starts_with("node/src/vpn/tun");
    if allowed { vec![] } else { forbidden(source, &source.code(), &["unsafe"], "outside node/src/vpn/tun") }
}

pub fn bounded_channels(source: &Source) -> Vec<String> {
    let code = source.code();
    let mut found = forbidden(source, &code, &["unbounded_channel"], "channels have bounds");
    let called = |at: &usize| code[at + "unbounded".len()..].starts_with(['(', ':']);
    let futures = words(&code, "unbounded").into_iter().filter(called);
    found.extend(futures.map(|at| format!("{}:{}: channel without a bound", source.path, line_of(&code, at))));
    // The channel without a capacity is the unbounded one of the standard library.
    let bare = |at: &usize| {
        let rest = &code[at + "mpsc::channel".len()..];
        rest.starts_with("()")
            || (rest.starts_with("::<") && rest.find('(').is_some_and(|at| rest[at..].starts_with("()")))
    };
    let bare = words(&code, "mpsc::channel").into_iter().filter(bare);
    found.extend(bare.map(|at| format!("{}:{}: channel without a bound", source.path, line_of(&code, at))));
    found
}

pub fn unfinished(source: &Source) -> Vec<String> {
    let code = source.code();
    let names = ["todo", "unimplemented", "dbg"];
    let called = |(at, name): &(usize, &str)| code[at + name.len()..].starts_with('!');
    let all = names.iter().flat_map(|name| words(&code, name).into_iter().map(move |at| (at, *name))).filter(called);
    all.map(|(at, name)| format!("{}:{}: {name}! is left", source.path, line_of(&code, at))).collect()
}

fn forbidden(source: &Source, code: &str, names: &[&str], why: &str) -> Vec<String> {
    let places = names.iter().flat_map(|name| words(code, name).into_iter().map(move |at| (at, *name)));
    places.map(|(at, name)| format!("{}:{}: names {name}, {why}", source.path, line_of(code, at))).collect()
}

/// A line of a manifest with the section it is in.
fn manifest_lines(text: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut out = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).into();
        }
        out.push((section.clone(), line.into()));
    }
    out
}

fn is_dependencies(section: &str) -> bool {
    !section.starts_with("workspace.") && section.rsplit('.').next().is_some_and(|last| last.ends_with("dependencies"))
}

/// Versions stand in the workspace manifest alone.
pub fn member_versions(manifest: &Source) -> Vec<String> {
    let bad = |(section, line): &(String, String)| {
        let table = line.starts_with('[') && section.contains("dependencies.");
        table || (is_dependencies(section) && !line.starts_with('[') && !line.contains("workspace = true"))
    };
    let lines = manifest_lines(&manifest.text).into_iter().filter(bad);
    lines.map(|(_, line)| format!("{}: `{line}` does not inherit from the workspace", manifest.path)).collect()
}

/// The only features are `net` and `test-utils`, and none is on by default.
pub fn features(manifest: &Source) -> Vec<String> {
    let in_features = manifest_lines(&manifest.text)
        .into_iter()
        .filter(|(section, line)| section == "features" && !line.starts_with('['));
    let allowed = |line: &str| {
        let (name, value) = line.split_once('=').map_or((line, ""), |(name, value)| (name.trim(), value.trim()));
        matches!(name, "net" | "test-utils") || (name == "default" && value == "[]")
    };
    in_features
        .filter(|(_, line)| !allowed(line))
        .map(|(_, line)| format!("{}: feature `{line}`", manifest.path))
        .collect()
}

/// libp2p is a dependency of node/swarm, and a development one of tests.
pub fn libp2p_in_manifest(manifest: &Source) -> Vec<String> {
    let allowed = |section: &str| match manifest.path.as_str() {
        "Cargo.toml" | "node/swarm/Cargo.toml" => true,
        "tests/Cargo.toml" => section == "dev-dependencies",
        _ => false,
    };
    let named = manifest_lines(&manifest.text)
        .into_iter()
        .filter(|(section, line)| line.starts_with("libp2p") && !allowed(section));
    named.map(|(section, line)| format!("{}: `{line}` in [{section}]", manifest.path)).collect()
}

/// No key lies in the repository.
pub fn key_material(path: &str, text: Option<&str>) -> Vec<String> {
    let by_name = [".key", ".pem", ".p12", ".pfx"].iter().any(|ending| path.ends_with(ending));
    // In two parts, so that this file does not hold the mark itself.
    let mark = ["PRIVATE", " KEY-----"].concat();
    let ours = ["identity", "genesis"].map(|what| format!("shoal-{what}-1 "));
    let is_ours = |text: &str| ours.iter().any(|mark| text.starts_with(mark.as_str()));
    let by_content = text.is_some_and(|text| text.contains(&mark) || is_ours(text));
    if by_name || by_content { vec![format!("{path}: holds a key")] } else { vec![] }
}

/// Every golden file is named by some test.
pub fn unread_golden<'a>(files: impl IntoIterator<Item = &'a str>, sources: &[Source]) -> Vec<String> {
    let golden = files.into_iter().filter(|path| path.contains("/golden/"));
    let unread = golden.filter(|path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        !sources.iter().any(|source| source.text.contains(name))
    });
    unread.map(|path| format!("{path}: no test reads it")).collect()
}

/// What the client may not pull in without `net`.
pub fn wasm_tree(tree: &str) -> Vec<String> {
    let banned = |name: &&str| {
        ["tokio", "libp2p", "aws-lc", "ring", "cc"].iter().any(|bad| {
            name == bad
                || name.strip_prefix(bad).is_some_and(|rest| rest.starts_with('-') && *bad != "ring" && *bad != "cc")
        })
    };
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(banned).map(|name| format!("client-sdk without net depends on {name}")).collect()
}

/// Texts that stand between quotes in `code_text` and look like a context or a refusal word, and not in `document`.
pub fn undocumented(code_text: &str, document: &str) -> Vec<String> {
    let quoted = code_text.split('"').skip(1).step_by(2);
    let is_context = |text: &&str| text.starts_with("shoal ") && text.ends_with(" v1");
    let missing = quoted.filter(is_context).filter(|text| !document.contains(text));
    missing.map(|text| format!("docs/PROTOCOL.md does not name {text:?}")).collect()
}

/// Requirement ids are given once; links between documents lead somewhere.
pub fn document(source: &Source, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let ids = source.text.lines().filter_map(|line| line.strip_prefix("| SHOAL-")?.split(' ').next());
    let twice = ids.filter(|id| !seen.insert(*id)).map(|id| format!("{}: SHOAL-{id} is given twice", source.path));
    let links = source.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let dead = links.filter(|link| !link.contains("://") && !exists(&format!("{folder}/{link}")));
    twice.chain(dead.map(|link| format!("{}: link to {link} leads nowhere", source.path))).collect()
}

/// Tests that a document names as `file.rs::test` and that are not there.
pub fn lost_proofs(document: &Source, code: &[Source]) -> Vec<String> {
    let named = document.text.split('`').filter_map(|word| word.split_once(".rs::"));
    let there = |file: &str, test: &str| {
        let source = code.iter().find(|source| source.path.strip_suffix(".rs") == Some(file));
        source.is_some_and(|source| source.text.contains(&format!("fn {test}(")))
    };
    let lost = named.filter(|(file, test)| !file.contains(' ') && !there(file, test));
    lost.map(|(file, test)| format!("{}: there is no test {file}.rs::{test}", document.path)).collect()
}
