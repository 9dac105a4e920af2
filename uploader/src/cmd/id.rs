//! `id`: the own node id, which other nodes allow or invite. It never shows the key.

use serde_json::json;

use crate::cli::Common;
use crate::exit::Problem;
use crate::home::Home;
use crate::report::Outcome;
use crate::session::variable;

pub(crate) fn run(common: &Common) -> Result<Outcome, Problem> {
    let identity = Home::open(variable)?.identity(common.identity.as_deref())?;
    let node = identity.node().to_string();
    let file = identity.file.display().to_string();
    let warnings = if identity.exposed { vec![format!("{file} can be read by others: chmod 600 it")] } else { vec![] };
    Ok(Outcome {
        details: json!({ "node": node, "file": file }),
        stdout: format!("{node}\n"),
        warnings,
        ..Outcome::default()
    })
}
