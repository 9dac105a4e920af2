//! `vpn`: what the node of this machine says about its private network, and what it is told of it. Every figure is the
//! node's; nothing is decided here.

mod ping;
mod tables;

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shoal_client::client::Failure;
use shoal_protocol::local::request::PATH_MAX;
use shoal_protocol::local::{Request, view};

use crate::cli::{Common, ExitCommand, PolicyCommand, RouteCommand, VpnArgs, VpnCommand};
use crate::exit::Problem;
use crate::node::LocalNode;
use crate::report::Outcome;
use crate::session::variable;

pub(crate) async fn run(common: &Common, args: VpnArgs) -> Result<Outcome, Problem> {
    let node = LocalNode::find(args.node.as_deref(), variable)?.about(common.network.clone());
    match args.command {
        VpnCommand::Status => shown::<view::Status>(&node, Request::VpnStatus {}, tables::status).await,
        VpnCommand::Peers => shown::<view::Peers>(&node, Request::VpnPeers {}, tables::peers).await,
        VpnCommand::Routes => shown::<view::Routes>(&node, Request::VpnRoutes {}, tables::routes).await,
        VpnCommand::Why(args) => shown::<view::Why>(&node, Request::VpnWhy { peer: args.peer }, tables::why).await,
        VpnCommand::Stats => shown::<view::Stats>(&node, Request::VpnStats {}, tables::stats).await,
        VpnCommand::Ping(args) => ping::run(common, &node, args).await,
        VpnCommand::Up => done(&node, Request::VpnUp {}).await,
        VpnCommand::Down => done(&node, Request::VpnDown {}).await,
        VpnCommand::Exit(ExitCommand::Use { through }) => done(&node, Request::VpnExit { through }).await,
        VpnCommand::Route(command) => {
            let (prefix, advertise) = match command {
                RouteCommand::Add(args) => (args.prefix, true),
                RouteCommand::Rm(args) => (args.prefix, false),
            };
            done(&node, Request::VpnRoute { prefix, advertise }).await
        }
        VpnCommand::Policy(PolicyCommand::Reload) => done(&node, Request::VpnPolicyReload {}).await,
        VpnCommand::Policy(PolicyCommand::Check { file }) => {
            let file = whole(&file)?;
            done(&node, Request::VpnPolicyCheck { file }).await
        }
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

/// Asks for something that says no more than that it was done.
async fn done(node: &LocalNode, request: Request) -> Result<Outcome, Problem> {
    shown::<view::Done>(node, request, |_| "done\n".to_owned()).await
}

/// A path as the node understands it, whatever directory it runs in.
fn whole(file: &Path) -> Result<String, Problem> {
    let whole = std::path::absolute(file).ok().and_then(|path| path.into_os_string().into_string().ok());
    whole.filter(|path| path.len() <= PATH_MAX).ok_or_else(|| {
        let what = format!("{} cannot be named to the node", file.display());
        Problem::usage(what, "its path is too long, or not UTF-8", "move it, and repeat")
    })
}

fn details(told: &impl Serialize) -> Result<Value, Problem> {
    serde_json::to_value(told).map_err(|error| {
        let cause = "the node says what JSON cannot hold";
        Problem::new(Failure::Other, format!("cannot write JSON: {error}"), cause, "repeat without --json")
    })
}
