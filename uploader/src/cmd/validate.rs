//! `validate`: a manifest file checked on its own. It asks nobody, and a password only when the file itself is whole.

use serde_json::{Value, json};
use shoal_client::client::{Failure, with_causes};
use shoal_client::manifest::{Summary, ValidateError, validate};
use shoal_protocol::ByteCount;

use super::blocking;
use crate::cli::ValidateArgs;
use crate::exit::Problem;
use crate::password;
use crate::report::Outcome;
use crate::session::variable;
use crate::target;
use crate::text::count;

pub(crate) async fn run(args: ValidateArgs) -> Result<Outcome, Problem> {
    let summary = blocking(move || {
        let (bytes, _) = target::manifest(&args.manifest)?;
        let password = password::read(&args.password, variable, false)?;
        validate(&bytes, &password).map_err(problem)
    })
    .await?;
    Ok(Outcome { details: details(&summary), stdout: text(&summary), ..Outcome::default() })
}

fn problem(error: ValidateError) -> Problem {
    let (failure, cause, next) = match &error {
        ValidateError::WrongPassword => (
            Failure::Password,
            "the file is whole, and this password opens no slot of it",
            "repeat with the right password",
        ),
        ValidateError::Damaged(_) => (
            Failure::Integrity,
            "it was changed or cut since it was written",
            "use the capability instead, or another copy",
        ),
        ValidateError::Version(_) => (Failure::Other, "a newer shoal wrote it", "update shoal"),
        ValidateError::Kdf(_) => (Failure::Other, "memory is short for its password hash", "free memory and repeat"),
    };
    Problem::new(failure, with_causes(&error), cause, next)
}

fn details(summary: &Summary) -> Value {
    let tree = summary.tree.as_ref().map(|tree| {
        json!({
            "files": tree.files, "directories": tree.directories, "links": tree.links,
            "content_bytes": tree.content_bytes, "stream_bytes": tree.stream_bytes,
            "segments": tree.segments, "pages": tree.pages, "shards": tree.shards,
        })
    });
    json!({
        "network_tag": summary.network.tag(),
        "file": summary.file.to_hex(),
        "cipher": summary.suite.to_string(),
        "code": summary.code.to_string(),
        "replicas": summary.replicas,
        "owner_version": summary.owner_version,
        "placement_version": summary.placement_version,
        "passwords": summary.passwords,
        "holders": summary.holders,
        "tree": tree,
    })
}

fn text(summary: &Summary) -> String {
    let Summary { suite, code, replicas, holders, passwords, .. } = summary;
    let copies = count(u64::from(*replicas), "copy", "copies");
    let mut out = format!(
        "good\nfile      {}\nnetwork   {}\ncode      {code}, {copies}, {suite}\nholders   {holders}\npasswords {passwords}\n",
        summary.file.to_hex(),
        summary.network.tag(),
    );
    match &summary.tree {
        Some(tree) => out.push_str(&format!(
            "content   {} in {} files, {} directories, {} links\nshards    {} in {} segments and {} pages\n",
            ByteCount(tree.content_bytes),
            tree.files,
            tree.directories,
            tree.links,
            tree.shards,
            tree.segments,
            tree.pages,
        )),
        None => out.push_str("content   not listed: the pages are in the swarm only\n"),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::manifest::Damage;

    #[test]
    fn exit_codes_tell_password_from_damage() {
        assert_eq!(problem(ValidateError::WrongPassword).failure, Failure::Password);
        assert_eq!(problem(ValidateError::Damaged(Damage::Slot(0))).failure, Failure::Integrity);
        assert_eq!(problem(ValidateError::Version(9)).failure, Failure::Other);
    }
}
