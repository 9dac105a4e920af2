//! `plan`: how safe a file would be, code by code, and which to take. It stores nothing; with `--nodes` it asks nobody.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};
use shoal_client::client::{Failure, UploadError};
use shoal_client::durability::{AWAY, Churn, Odds, Question, Row, Survey, survey};
use shoal_client::placement::Candidate;
use shoal_protocol::{ByteCount, NodeId};

use crate::cli::{Common, PlanArgs};
use crate::exit::Problem;
use crate::report::Outcome;
use crate::session::Session;
use crate::text::{count, plain};

/// What the figures are reckoned with.
struct Asked {
    question: Question,
    /// Nobody was asked: nothing is known of room and places.
    offline: bool,
    nodes: usize,
    free: u64,
}

pub(crate) async fn run(common: &Common, args: PlanArgs) -> Result<Outcome, Problem> {
    let churn = Churn::new(args.afr / 100.0, args.repair_hours).map_err(|error| {
        Problem::usage(error.to_string(), "--afr or --repair-hours is out of range", "see shoal plan --help")
    })?;
    let question = Question { only: args.only(), size: args.size, target_nines: args.target_nines, churn };
    let (candidates, mut warnings) = match args.nodes {
        Some(nodes) => (imagined(nodes), vec![]),
        None => {
            let session = Session::enter(common, common.network_id()?, &[]).await?;
            let candidates = session.fleet.candidates();
            (candidates, session.leave().await)
        }
    };
    let free = candidates.iter().fold(0u64, |sum, candidate| sum.saturating_add(candidate.free_bytes));
    let found = survey(&question, &candidates).map_err(UploadError::from)?;
    let asked = Asked { question, offline: args.nodes.is_some(), nodes: candidates.len(), free };
    let said = concerns(&found);
    let details = details(&asked, &found, &said);
    let stdout = text(&asked, &found);
    warnings.extend(said);
    Ok(Outcome { shortfall: shortfall(&found), details, stdout, summary: vec![CAVEAT.into()], warnings })
}

/// What nobody should take from the table.
const CAVEAT: &str = "repaired: lost shards are made anew in time, by whoever looks after the file; no repair: nobody does, for a year. \
     Both are for nodes that die one by one: a fire, a bad update or one power line takes many at once";

/// `count` nodes with room, each a domain of its own.
fn imagined(count: u16) -> Vec<Candidate> {
    let node = |number: u16| {
        let mut bytes = [0; 32];
        let (head, _) = bytes.split_at_mut(2);
        head.copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(bytes)
    };
    let one =
        |number| Candidate { node: node(number), free_bytes: u64::MAX, standing: 1.0, domain: None, observed_ip: None };
    (0..count).map(one).collect()
}

/// Nothing recommended: no room anywhere, or not enough nodes for the nines wanted.
fn shortfall(found: &Survey) -> Option<Failure> {
    match found.recommended {
        Some(_) => None,
        None if found.rows.iter().any(|row| row.room) => Some(Failure::TooFewNodes),
        None => Some(Failure::Quota),
    }
}

/// What the owner should know, one sentence each: places that take a file with them, and no node for repairs.
fn concerns(found: &Survey) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &found.rows {
        for (domain, _) in &row.outlook.fatal {
            places.entry(plain(&domain.to_string())).or_default().push(row.code.to_string());
        }
    }
    let lost = |(place, codes): (&String, &Vec<String>)| format!("losing {place} loses a file of {}", codes.join(", "));
    let mut out: Vec<String> = places.iter().map(lost).collect();
    let taken = found.recommended.or(found.default).and_then(|at| found.rows.get(at));
    if let Some(row) = taken.filter(|row| row.outlook.spares(row.code) == 0) {
        out.push(format!("no spare node for {}: a lost shard cannot be made anew before another joins", row.code));
    }
    out
}

fn text(asked: &Asked, found: &Survey) -> String {
    let churn = &asked.question.churn;
    let mut out = count(asked.nodes as u64, "node", "nodes");
    let free = ByteCount(asked.free);
    let _ = match asked.offline {
        true => write!(out, " imagined, each in a place of its own"),
        false => write!(out, " live, {free} free on them"),
    };
    let (afr, hours) = (rounded(churn.yearly_failures() * 100.0), churn.repair_hours());
    let _ = writeln!(out, "; {afr} % of nodes die a year, a repair takes {hours} h");
    if let Some(size) = asked.question.size {
        let _ = writeln!(out, "{} to store", ByteCount(size));
    }
    let _ = writeln!(
        out,
        "\n{:<7} {:<20} {:>5} {:>9} {:>10} {:>9} {:>10}  {:<14} {:>6}  room",
        "code", "profile", "cost", "repaired", "no repair", "5 % away", "10 % away", "domains", "spares"
    );
    for row in &found.rows {
        out.push_str(&line(asked, row));
    }
    let _ = writeln!(out, "(nines: 3 is one file in a thousand; repaired and no repair a year, away at any moment)\n");
    out.push_str(&advice(asked, found));
    out.push('\n');
    out
}

fn line(asked: &Asked, row: &Row) -> String {
    let nines = |odds: Odds| format!("{:.1}", odds.nines());
    let [five, ten] = row.away.map(nines);
    let outlook = &row.outlook;
    let domains = if row.is_fatal() {
        "one takes all".to_owned()
    } else if outlook.is_spread() {
        format!("at most {}", outlook.domain_cap)
    } else {
        format!("{}, not {}", outlook.domain_cap, outlook.wanted_cap)
    };
    let room = match (asked.offline, row.room) {
        (true, _) => "-",
        (false, true) => "yes",
        (false, false) => "no",
    };
    format!(
        "{:<7} {:<20} {:>5.2} {:>9} {:>10} {five:>9} {ten:>10}  {domains:<14} {:>6}  {room}\n",
        row.code.to_string(),
        profiles(row).join(", "),
        row.cost,
        nines(row.repaired),
        nines(row.unrepaired),
        outlook.spares(row.code),
    )
}

fn profiles(row: &Row) -> Vec<String> {
    row.profiles.iter().map(ToString::to_string).collect()
}

/// The one line to act on.
fn advice(asked: &Asked, found: &Survey) -> String {
    let Some(row) = found.recommended.and_then(|at| found.rows.get(at)) else {
        let most = found.rows.iter().filter(|row| row.room && !row.is_fatal()).map(Row::nines).fold(0.0, f64::max);
        return match (shortfall(found), asked.question.target_nines) {
            (Some(Failure::TooFewNodes), Some(target)) => {
                format!("none of these reaches {target} nines, {most:.1} is the most: add nodes, in more places")
            }
            _ => "none of these has room: add room or nodes".to_owned(),
        };
    };
    let usual = if found.recommended == found.default { ", what upload takes by itself" } else { "" };
    let unrepaired = if row.outlook.spares(row.code) == 0 { " without a spare node" } else { "" };
    let (code, cost, nines) = (row.code, row.cost, row.nines());
    format!("recommended: --code {code}{usual}: {nines:.1} nines a year{unrepaired} for {cost:.2} times the bytes")
}

fn details(asked: &Asked, found: &Survey, warnings: &[String]) -> Value {
    let Question { size, target_nines, churn, .. } = &asked.question;
    let code = |at: Option<usize>| at.and_then(|at| found.rows.get(at)).map(|row| row.code.to_string());
    json!({
        "offline": asked.offline,
        "live_nodes": asked.nodes,
        "free_bytes": (!asked.offline).then_some(asked.free),
        "size": size,
        "target_nines": target_nines,
        "afr_percent": rounded(churn.yearly_failures() * 100.0),
        "repair_hours": churn.repair_hours(),
        "codes": found.rows.iter().map(|row| row_json(asked, row)).collect::<Vec<_>>(),
        "default": code(found.default),
        "recommended": code(found.recommended),
        "warnings": warnings,
    })
}

fn row_json(asked: &Asked, row: &Row) -> Value {
    let outlook = &row.outlook;
    let away = AWAY.iter().zip(row.away).map(|(share, odds)| json!({ "away": share, "nines": odds.nines() }));
    let fatal = outlook.fatal.iter().map(|(domain, slots)| json!({ "domain": domain.to_string(), "slots": slots }));
    json!({
        "code": row.code.to_string(),
        "profiles": profiles(row),
        "cost": row.cost,
        "nines": row.nines(),
        "nines_repaired": row.repaired.nines(),
        "nines_repaired_segments_apart": row.apart.map(Odds::nines),
        "nines_unrepaired": row.unrepaired.nines(),
        "repair_at": row.code.n().saturating_sub(1),
        "unreadable": away.collect::<Vec<_>>(),
        "domain_cap": outlook.domain_cap,
        "domain_cap_wanted": outlook.wanted_cap,
        "spread": outlook.is_spread(),
        "loses_file": fatal.collect::<Vec<_>>(),
        "spares": outlook.spares(row.code),
        "holder_bytes": row.size.map(|(bytes, _)| bytes),
        "segments": row.size.map(|(_, segments)| segments),
        "room": (!asked.offline).then_some(row.room),
    })
}

/// Nine digits: 2.5 % is not 2.5000000000000004.
fn rounded(percent: f64) -> f64 {
    (percent * 1e9).round() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::placement::{Profile, parse_code};

    fn asked(question: Question, candidates: &[Candidate], offline: bool) -> (Asked, Survey) {
        let found = survey(&question, candidates).unwrap();
        (Asked { question, offline, nodes: candidates.len(), free: 7_000_000 }, found)
    }

    #[test]
    fn the_table_has_a_line_a_code_and_one_to_act_on() {
        let (asked, found) = asked(Question::default(), &imagined(7), false);
        let text = text(&asked, &found);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "7 nodes live, 7.0 MB free on them; 8 % of nodes die a year, a repair takes 24 h");
        assert_eq!(
            lines[2],
            "code    profile               cost  repaired  no repair  5 % away  10 % away  domains        spares  room"
        );
        assert_eq!(
            lines[9],
            "4+2                           1.50       6.3        2.1       2.7        1.8  at most 1           1  yes"
        );
        assert_eq!(lines.len(), 2 + 1 + found.rows.len() + 3);
        let last = "recommended: --code 3+3, what upload takes by itself: 9.4 nines a year for 2.00 times the bytes";
        assert_eq!(lines.last(), Some(&last));
        assert!(lines.iter().all(|line| line.len() <= 110 && *line == line.trim_end()), "{text}");
    }

    #[test]
    fn nothing_to_recommend_is_16_and_no_room_15() {
        let target = Question { target_nines: Some(50.0), ..Question::default() };
        let (asked_target, found) = asked(target, &imagined(7), true);
        assert_eq!(shortfall(&found), Some(Failure::TooFewNodes));
        assert!(advice(&asked_target, &found).starts_with("none of these reaches 50 nines, "));
        let mut full = imagined(7);
        full.iter_mut().for_each(|candidate| candidate.free_bytes = 10);
        let large = Question { size: Some(1 << 30), ..Question::default() };
        let (asked_large, found) = asked(large, &full, false);
        assert_eq!(shortfall(&found), Some(Failure::Quota));
        assert_eq!(advice(&asked_large, &found), "none of these has room: add room or nodes");
        assert!(line(&asked_large, &found.rows[0]).ends_with("no\n"));
    }

    #[test]
    fn places_and_missing_spares_are_said_once() {
        let mut some = imagined(4);
        for candidate in some.iter_mut().take(3) {
            candidate.domain = Some("cellar".into());
        }
        let (_, found) = asked(Question::default(), &some, false);
        assert_eq!(found.rows.len(), 3);
        let said = concerns(&found);
        assert_eq!(said, ["losing cellar loses a file of 2+2"], "1+2 is recommended, and has a spare");
        let (_, tight) = asked(Question::default(), &imagined(4), false);
        let said = concerns(&tight);
        assert_eq!(said, ["no spare node for 2+2: a lost shard cannot be made anew before another joins"]);
        let only = Question { only: Some(Profile::Exact(parse_code("1+1").unwrap())), ..Question::default() };
        assert_eq!(concerns(&asked(only, &some, false).1), Vec::<String>::new());
    }
}
