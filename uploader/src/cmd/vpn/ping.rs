//! `vpn ping`: one probe after the other, until enough are sent or one came back directly. It measures nothing itself: the
//! node does, inside the session.

use std::time::Duration;

use serde_json::json;
use shoal_client::client::Failure;
use shoal_protocol::local::{Request, view};
use tokio::time::sleep;

use super::tables;
use crate::cli::{Common, PingArgs};
use crate::exit::Problem;
use crate::node::LocalNode;
use crate::report::{Outcome, to_stderr};

/// Probes where no number is given.
const COUNT: u16 = 4;
/// And most of them where a direct way is waited for: a minute, in which addresses are tried twice.
const COUNT_UNTIL_DIRECT: u16 = 60;
/// Between two probes.
const REST: Duration = Duration::from_millis(200);
/// Between two where a direct way is waited for.
const REST_UNTIL_DIRECT: Duration = Duration::from_secs(1);

pub(super) async fn run(common: &Common, node: &LocalNode, args: PingArgs) -> Result<Outcome, Problem> {
    let peer = args.peer.peer;
    let count = args.count.unwrap_or(if args.until_direct { COUNT_UNTIL_DIRECT } else { COUNT });
    let rest = if args.until_direct { REST_UNTIL_DIRECT } else { REST };
    let is_watched = args.until_direct && !common.quiet && !common.json;
    let mut all: Option<view::Pings> = None;
    for number in 0..count {
        if number > 0 {
            sleep(rest).await;
        }
        let told: view::Pings = node.ask(Request::VpnPing { peer, count: 1 }).await?;
        if is_watched {
            told.pings.iter().for_each(|ping| to_stderr(&tables::ping(ping)));
        }
        let is_direct = told.pings.iter().any(came_directly);
        match &mut all {
            Some(all) => all.pings.extend(told.pings),
            None => all = Some(told),
        }
        if args.until_direct && is_direct {
            break;
        }
    }
    // At least one was sent, for the count begins at one.
    Ok(outcome(&all.ok_or_else(Problem::interrupted)?, args.until_direct, is_watched))
}

/// Whether it came back without another member in between.
const fn came_directly(ping: &view::Ping) -> bool {
    ping.direct && ping.rtt_us.is_some()
}

fn outcome(all: &view::Pings, until_direct: bool, is_watched: bool) -> Outcome {
    let round_trips: Vec<u64> = all.pings.iter().filter_map(|ping| ping.rtt_us).collect();
    let least = round_trips.iter().min().copied();
    let most = round_trips.iter().max().copied();
    let sum = round_trips.iter().fold(0_u64, |sum, rtt| sum.saturating_add(*rtt));
    let mean = sum.checked_div(round_trips.len() as u64);
    let direct = all.pings.last().is_some_and(came_directly);
    let failed = round_trips.is_empty() || (until_direct && !direct);
    let mut stdout = String::new();
    if !is_watched {
        all.pings.iter().for_each(|ping| stdout.push_str(&(tables::ping(ping) + "\n")));
    }
    stdout.push_str(&tables::pings(all, least.zip(mean).zip(most).map(|((least, mean), most)| [least, mean, most])));
    Outcome {
        shortfall: failed.then_some(Failure::Network),
        details: json!({
            "node": all.node.to_string(),
            "pings": all.pings,
            "sent": all.pings.len(),
            "received": round_trips.len(),
            "direct": direct,
            "min_us": least,
            "mean_us": mean,
            "max_us": most,
        }),
        stdout,
        ..Outcome::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::NodeId;

    fn pings(list: &[(bool, Option<u64>)]) -> view::Pings {
        let ping = |(direct, rtt_us): &(bool, Option<u64>)| {
            let carrier = if *direct { view::Carrier::Lanes } else { view::Carrier::Routed };
            view::Ping { carrier, address: None, direct: *direct, rtt_us: *rtt_us }
        };
        view::Pings { node: NodeId::from_bytes([7; 32]), pings: list.iter().map(ping).collect() }
    }

    #[test]
    fn one_that_came_back_is_enough_unless_a_direct_one_is_wanted() {
        let exit = |list: &[(bool, Option<u64>)], until_direct| outcome(&pings(list), until_direct, false).shortfall;
        assert_eq!(exit(&[(true, None), (true, Some(9))], false), None);
        assert_eq!(exit(&[(false, Some(9))], false), None);
        assert_eq!(exit(&[(true, None)], false), Some(Failure::Network));
        assert_eq!(exit(&[(false, Some(9)), (true, Some(9))], true), None);
        assert_eq!(exit(&[(false, Some(9))], true), Some(Failure::Network));
        assert_eq!(exit(&[(true, None)], true), Some(Failure::Network));
    }

    #[test]
    fn figures_are_of_those_that_came_back() {
        let told = outcome(&pings(&[(true, Some(100)), (true, None), (true, Some(401))]), false, false);
        let figures = ["sent", "received", "min_us", "mean_us", "max_us"].map(|key| told.details[key].as_u64());
        assert_eq!(figures, [3, 2, 100, 250, 401].map(Some));
        assert_eq!(told.stdout.lines().count(), 4, "{}", told.stdout);
        let lost = outcome(&pings(&[(true, None)]), false, false);
        assert!(lost.details["mean_us"].is_null() && lost.stdout.contains("0 of 1"), "{}", lost.stdout);
    }
}
