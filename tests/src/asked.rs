//! What `shoal vpn` says of a running node, as its JSON report has it. It judges nothing.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::Shoal;

/// Details of `shoal vpn` with these words for the node in `data`; `shoal` is the program.
///
/// # Errors
/// If it does not end with success and a report.
pub fn vpn(shoal: &str, data: &Path, words: &[&str]) -> Result<Value> {
    let node = data.to_str().context("the folder has no name in UTF-8")?;
    let output = Shoal::new(shoal, &data.join("home")).run(&[&["vpn", "--node", node], words, &["--json"]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "shoal vpn {}: {}", words.join(" "), said.trim());
    let report: Value = serde_json::from_slice(&output.stdout)?;
    Ok(report["details"].clone())
}

/// What a node counts as dropped for `reason`, of which it has one word.
///
/// # Errors
/// As [`vpn`].
pub fn dropped(shoal: &str, data: &Path, reason: &str) -> Result<u64> {
    Ok(vpn(shoal, data, &["stats"])?["dropped"][reason].as_u64().unwrap_or_default())
}
