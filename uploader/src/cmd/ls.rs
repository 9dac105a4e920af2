//! `ls`: what an upload holds. It reads records and pages, never content.

use std::fmt::Write;

use serde_json::{Value, json};
use shoal_protocol::page::{Entry, EntryKind};

use super::open;
use crate::cli::{Common, ReadArgs};
use crate::exit::Problem;
use crate::report::Outcome;
use crate::text::{mode, plain, time};

pub(crate) async fn run(common: &Common, args: ReadArgs) -> Result<Outcome, Problem> {
    let opened = open(common, args.target, args.access).await?;
    let entries = opened.entries()?;
    let stdout = table(entries);
    let entries: Vec<Value> = entries.iter().map(entry_json).collect();
    let details = json!({
        "file": opened.file.placement().file.to_hex(),
        "code": opened.file.code().to_string(),
        "replicas": opened.file.replicas(),
        "entries": entries,
    });
    Ok(Outcome { details, stdout, warnings: opened.close().await, ..Outcome::default() })
}

const fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
    }
}

/// Where a link leads, as text.
fn link(entry: &Entry) -> Option<String> {
    let target = entry.inline.as_ref().filter(|_| entry.kind == EntryKind::Symlink)?;
    Some(String::from_utf8_lossy(target).into_owned())
}

fn entry_json(entry: &Entry) -> Value {
    json!({
        "path": entry.path,
        "kind": kind(entry.kind),
        "mode": format!("{:04o}", entry.mode),
        "modified_ms": entry.modified_ms,
        "bytes": entry.size,
        "link": link(entry),
    })
}

fn table(entries: &[Entry]) -> String {
    let width = entries.iter().map(|entry| entry.size.to_string().len()).max().unwrap_or(1);
    let mut out = String::new();
    for entry in entries {
        let (mode, when) = (mode(entry.kind, entry.mode), time(entry.modified_ms));
        let _ = write!(out, "{mode} {:>width$} {when} {}", entry.size, plain(&entry.path));
        match link(entry) {
            Some(link) => out.push_str(&format!(" -> {}\n", plain(&link))),
            None => out.push('\n'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_an_entry() {
        let entry = |path: &str, kind, inline: Option<&[u8]>, size| Entry {
            path: path.into(),
            kind,
            mode: 0o755,
            modified_ms: 0,
            size,
            extents: vec![],
            inline: inline.map(Into::into),
        };
        let entries = [
            entry("d", EntryKind::Directory, None, 0),
            entry("d/f\x1b", EntryKind::File, Some(b"x"), 1234),
            entry("d/l", EntryKind::Symlink, Some(b"../x"), 4),
        ];
        let text = table(&entries);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "drwxr-xr-x    0 1970-01-01 00:00:00 d");
        assert_eq!(lines[1], "-rwxr-xr-x 1234 1970-01-01 00:00:00 d/f\\u{1b}");
        assert_eq!(lines[2], "lrwxr-xr-x    4 1970-01-01 00:00:00 d/l -> ../x");
        let json = entry_json(&entries[2]);
        assert_eq!((&json["mode"], &json["link"], &json["kind"]), (&json!("0755"), &json!("../x"), &json!("symlink")));
    }
}
