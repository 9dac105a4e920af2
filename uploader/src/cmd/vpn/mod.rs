//! `vpn`: what the node of this machine says about its private network. Every figure is the node's; nothing is changed.

mod ping;
mod tables;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shoal_client::client::Failure;
use shoal_protocol::local::{Request, view};

use crate::cli::{Common, VpnArgs, VpnCommand};
use crate::exit::Problem;
use crate::node::LocalNode;
use crate::report::Outcome;
use crate::session::variable;

pub(crate) async fn run(common: &Common, args: VpnArgs) -> Result<Outcome, Problem> {
    let node = LocalNode::find(args.node.as_deref(), variable)?;
    match args.command {
        VpnCommand::Status => shown::<view::Status>(&node, Request::VpnStatus {}, tables::status).await,
        VpnCommand::Peers => shown::<view::Peers>(&node, Request::VpnPeers {}, tables::peers).await,
        VpnCommand::Routes => shown::<view::Routes>(&node, Request::VpnRoutes {}, tables::routes).await,
        VpnCommand::Why(args) => shown::<view::Why>(&node, Request::VpnWhy { peer: args.peer }, tables::why).await,
        VpnCommand::Stats => shown::<view::Stats>(&node, Request::VpnStats {}, tables::stats).await,
        VpnCommand::Ping(args) => ping::run(common, &node, args).await,
    }
}

/// Asks, and shows the answer.
async fn shown<T: Serialize + DeserializeOwned>(
    node: &LocalNode,
    request: Request,
    table: fn(&T) -> String,
) -> Result<Outcome, Problem> {
    let told: T = node.ask(request).await?;
    Ok(Outcome { details: details(&told)?, stdout: table(&told), ..Outcome::default() })
}

fn details(told: &impl Serialize) -> Result<Value, Problem> {
    serde_json::to_value(told).map_err(|error| {
        let cause = "the node says what JSON cannot hold";
        Problem::new(Failure::Other, format!("cannot write JSON: {error}"), cause, "repeat without --json")
    })
}
