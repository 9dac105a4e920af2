//! `files`: what was uploaded from here, and forgetting it. It never touches the swarm.

use std::fmt::Write;

use serde_json::{Value, json};
use shoal_client::client::Failure;
use shoal_protocol::ByteCount;

use crate::catalogue::{self, Upload};
use crate::cli::FilesArgs;
use crate::exit::Problem;
use crate::home::Home;
use crate::report::Outcome;
use crate::session::variable;
use crate::text::{count, plain, time};

pub(crate) fn run(args: &FilesArgs) -> Result<Outcome, Problem> {
    let home = Home::open(variable)?;
    if let Some(number) = args.remove {
        let removed = catalogue::remove(&home, number)?;
        let removed = removed.ok_or_else(|| {
            Problem::new(
                Failure::NotFound,
                format!("the list has no line {number}"),
                "lines count from 1",
                "run `shoal files`",
            )
        })?;
        return Ok(Outcome {
            summary: vec![format!("forgot {}; its shards stay until their lease ends", plain(&removed.name))],
            details: json!({ "removed": line_json(number, &removed) }),
            ..Outcome::default()
        });
    }
    let uploads = catalogue::list(&home)?;
    let lines: Vec<Value> = (1..).zip(&uploads).map(|(number, upload)| line_json(number, upload)).collect();
    Ok(Outcome { details: json!({ "files": lines }), stdout: table(&uploads), ..Outcome::default() })
}

fn line_json(number: usize, upload: &Upload) -> Value {
    let mut line = serde_json::to_value(upload).unwrap_or_default();
    line["number"] = json!(number);
    line
}

fn table(uploads: &[Upload]) -> String {
    let mut out = String::new();
    for (number, upload) in (1..).zip(uploads) {
        let when = time(i64::try_from(upload.time_ms).unwrap_or(i64::MAX));
        let size = ByteCount(upload.bytes).to_string();
        let entries = count(upload.entries, "entry", "entries");
        let name = plain(&upload.name);
        let _ = writeln!(out, "{number:>4}  {when}  {size:>9}  {entries:>11}  {}  {name}", plain(&upload.network));
        let _ = writeln!(out, "      {}", plain(&upload.capability));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lines_an_upload() {
        let upload = Upload {
            time_ms: 0,
            name: "a\nb".into(),
            bytes: 8_388_608,
            entries: 2,
            capability: "shoal1x".into(),
            network: "home".into(),
            genesis: None,
        };
        let text = table(std::slice::from_ref(&upload));
        assert_eq!(text, "   1  1970-01-01 00:00:00     8.3 MB    2 entries  home  a\\u{a}b\n      shoal1x\n");
        let line = line_json(1, &upload);
        assert_eq!(
            (&line["number"], &line["capability"], &line["name"]),
            (&json!(1), &json!("shoal1x"), &json!("a\nb"))
        );
    }
}
