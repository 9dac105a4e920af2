//! What is asked of the userspace network by flags and file, and that checked. It opens nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;
use serde::Deserialize;
use shoal_protocol::NodeId;

use super::sockets::PUBLISHED_MAX;
use crate::problem::{Failure, Problem};

/// Local ports that lead to services of members.
const FORWARDS_MAX: usize = 32;
/// Bytes of a domain name (RFC 1035 2.3.4).
const NAME_MAX: usize = 253;

/// Flags of `run` about a private network without an interface; each is also a key of the table `[vpn]`.
#[derive(Debug, Default, Args)]
pub(crate) struct UserspaceArgs {
    /// Take part without an interface and without any right: in this process alone
    #[arg(long)]
    pub(crate) vpn_userspace: bool,
    /// Lead programs that speak SOCKS5 into the private network; a port alone is one of 127.0.0.1
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) socks: Option<String>,
    /// Lead a local TCP port to a member's, as 8080=nas:80, repeatable
    #[arg(long, value_name = "LOCAL=PEER:PORT")]
    pub(crate) forward: Vec<String>,
    /// Let members reach a local TCP service by a port of this node, as 80=127.0.0.1:8080, repeatable
    #[arg(long, value_name = "PORT=ADDR:PORT")]
    pub(crate) publish: Vec<String>,
    /// Let --socks and --forward listen on addresses that other machines reach: whoever connects is let in
    #[arg(long)]
    pub(crate) vpn_expose: bool,
}

/// The same keys of the table `[vpn]` of a configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct UserspaceFile {
    pub(crate) userspace: bool,
    pub(crate) socks: Option<String>,
    pub(crate) forward: Vec<String>,
    pub(crate) publish: Vec<String>,
    pub(crate) expose: bool,
}

/// A checked configuration of the userspace network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserspaceConfig {
    /// Where SOCKS5 is spoken.
    pub socks: Option<SocketAddr>,
    /// Local ports that lead to members.
    pub forwards: Vec<Forward>,
    /// Ports of this node that lead to local services.
    pub published: Vec<Publish>,
}

/// A local port that leads to a member's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where programs connect.
    pub local: SocketAddr,
    /// Whom to.
    pub to: Host,
    /// Which port there.
    pub port: u16,
}

/// A member, as people write one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By an address.
    Address(IpAddr),
    /// By its id.
    Peer(NodeId),
    /// By a name: its label, or with the domain of the network.
    Name(String),
}

/// A port of this node that leads to a local service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Which port members connect to.
    pub port: u16,
    /// Where the service is.
    pub to: SocketAddr,
}

/// Lets flags win over the file; none where an interface is wanted.
///
/// # Errors
/// [`Problem`] of usage.
pub(crate) fn check(args: &UserspaceArgs, file: UserspaceFile) -> Result<Option<UserspaceConfig>, Problem> {
    let lists = |flags: &[String], file: Vec<String>| if flags.is_empty() { file } else { flags.to_vec() };
    let socks = args.socks.clone().or(file.socks);
    let forwards = lists(&args.forward, file.forward);
    let published = lists(&args.publish, file.publish);
    if !(args.vpn_userspace || file.userspace) {
        let flag =
            [("--socks", socks.is_some()), ("--forward", !forwards.is_empty()), ("--publish", !published.is_empty())];
        return match flag.iter().find(|(_, is_asked)| *is_asked) {
            Some((flag, _)) => Err(wrong(
                format!("{flag} is for a private network without an interface, and this one has one"),
                "with an interface every program of the machine is in the network by itself",
                "add --vpn-userspace, or leave the flag out",
            )),
            None => Ok(None),
        };
    }
    bounded("--forward", forwards.len(), FORWARDS_MAX)?;
    bounded("--publish", published.len(), PUBLISHED_MAX)?;
    let config = UserspaceConfig {
        socks: socks.map(|text| listen(&text, "--socks 127.0.0.1:1080")).transpose()?,
        forwards: forwards.iter().map(|text| forward(text)).collect::<Result<_, _>>()?,
        published: published.iter().map(|text| publish(text)).collect::<Result<_, _>>()?,
    };
    let listened = config.socks.iter().chain(config.forwards.iter().map(|forward| &forward.local));
    if let Some(open) = listened.copied().find(|address| !address.ip().is_loopback())
        && !(args.vpn_expose || file.expose)
    {
        return Err(wrong(
            format!("{open} is reached by other machines, and nobody is asked for a password there"),
            "whoever connects would be in the private network as this node",
            "listen on 127.0.0.1, or add --vpn-expose if that is what you want",
        ));
    }
    let mut ports: Vec<u16> = config.published.iter().map(|publish| publish.port).collect();
    ports.sort_unstable();
    if let Some([twice, _]) = ports.windows(2).find_map(|pair| <[u16; 2]>::try_from(pair).ok().filter(|[a, b]| a == b))
    {
        let what = format!("port {twice} is published twice");
        return Err(wrong(what, "one port leads to one service", "leave out one of the two, or choose another port"));
    }
    Ok(Some(config))
}

fn wrong(what: String, why: &str, next: &str) -> Problem {
    Problem::new(Failure::Usage, what, why, next)
}

fn bounded(flag: &str, count: usize, most: usize) -> Result<(), Problem> {
    if count <= most {
        return Ok(());
    }
    let what = format!("{flag} is given {count} times, and {most} are possible");
    Err(wrong(what, "each keeps a port open", "leave some out; programs that speak SOCKS need none, see --socks"))
}

fn mistyped(text: &str, is_no: &str, example: &str) -> Problem {
    wrong(format!("{text:?} is no {is_no}"), "it is mistyped", &format!("write it like {example}"))
}

/// An address to listen on; a port alone is one of this machine.
fn listen(text: &str, example: &str) -> Result<SocketAddr, Problem> {
    let port = text.parse::<u16>().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    port.or_else(|_| text.parse()).map_err(|_| mistyped(text, "address and port", example))
}

fn forward(text: &str) -> Result<Forward, Problem> {
    const EXAMPLE: &str = "--forward 8080=nas:80, or --forward 127.0.0.1:8080=100.64.1.2:80";
    let no = || mistyped(text, "way from a local port to a member's", EXAMPLE);
    let (local, to) = text.split_once('=').ok_or_else(no)?;
    let local = listen(local, EXAMPLE)?;
    if let Ok(address) = to.parse::<SocketAddr>() {
        let port = Some(address.port()).filter(|port| *port > 0).ok_or_else(no)?;
        return Ok(Forward { local, to: Host::Address(address.ip()), port });
    }
    let (host, port) = to.rsplit_once(':').ok_or_else(no)?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(no)?;
    let to = match host.parse::<NodeId>() {
        Ok(node) => Host::Peer(node),
        Err(_) if is_name(host) => Host::Name(host.to_owned()),
        Err(_) => return Err(no()),
    };
    Ok(Forward { local, to, port })
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    !text.is_empty() && text.len() <= NAME_MAX && text.bytes().all(allowed)
}

fn publish(text: &str) -> Result<Publish, Problem> {
    let no = || mistyped(text, "port and local service", "--publish 80=127.0.0.1:8080");
    let (port, to) = text.split_once('=').ok_or_else(no)?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(no)?;
    let to = listen(to, "--publish 80=127.0.0.1:8080")?;
    if to.port() == 0 { Err(no()) } else { Ok(Publish { port, to }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(socks: Option<&str>, forward: &[&str], publish: &[&str]) -> UserspaceArgs {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        UserspaceArgs {
            vpn_userspace: true,
            socks: socks.map(str::to_owned),
            forward: own(forward),
            publish: own(publish),
            vpn_expose: false,
        }
    }

    fn checked(args: &UserspaceArgs) -> Result<UserspaceConfig, String> {
        check(args, UserspaceFile::default()).map(Option::unwrap).map_err(|problem| problem.to_string())
    }

    #[test]
    fn ports_alone_are_of_this_machine() {
        let peer = NodeId::from_bytes([7; 32]);
        let forwards = ["8080=nas:80", "[::1]:1=[fd00::1]:443", "2=100.64.1.2:22", "3=nas.home.shoal.internal:1"];
        let config = checked(&args(Some("1080"), &forwards, &["80=8080", "443=192.168.1.5:443"])).unwrap();
        assert_eq!(config.socks, Some("127.0.0.1:1080".parse().unwrap()));
        let to: Vec<_> =
            config.forwards.iter().map(|forward| (forward.local.to_string(), forward.to.clone())).collect();
        assert_eq!(to[0], ("127.0.0.1:8080".into(), Host::Name("nas".into())));
        assert_eq!(to[1], ("[::1]:1".into(), Host::Address("fd00::1".parse().unwrap())));
        assert_eq!(to[2].1, Host::Address("100.64.1.2".parse().unwrap()));
        assert_eq!(config.published[0], Publish { port: 80, to: "127.0.0.1:8080".parse().unwrap() });
        let by_id = checked(&args(None, &[&format!("1={peer}:22")], &[])).unwrap();
        assert_eq!((by_id.forwards[0].to.clone(), by_id.forwards[0].port), (Host::Peer(peer), 22));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_next_command() {
        for (wrong, next) in [
            (args(Some("fish"), &[], &[]), "--socks 127.0.0.1:1080"),
            (args(Some("0.0.0.0:1080"), &[], &[]), "--vpn-expose"),
            (args(None, &["0.0.0.0:1=nas:80"], &[]), "--vpn-expose"),
            (args(None, &["8080"], &[]), "--forward 8080=nas:80"),
            (args(None, &["1=nas"], &[]), "--forward 8080=nas:80"),
            (args(None, &["1=nas:0"], &[]), "--forward 8080=nas:80"),
            (args(None, &["1=a b:3"], &[]), "--forward 8080=nas:80"),
            (args(None, &[], &["0=1"]), "--publish 80=127.0.0.1:8080"),
            (args(None, &[], &["80"]), "--publish 80=127.0.0.1:8080"),
            (args(None, &[], &["80=1", "80=2"]), "another port"),
            (args(None, &["1=nas:1"; FORWARDS_MAX + 1], &[]), "--socks"),
            (UserspaceArgs { vpn_userspace: false, ..args(Some("1080"), &[], &[]) }, "--vpn-userspace"),
        ] {
            let error = check(&wrong, UserspaceFile::default()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(next), "{wrong:?}: {error}");
        }
        let exposed = UserspaceArgs { vpn_expose: true, ..args(Some("0.0.0.0:1080"), &[], &[]) };
        assert!(checked(&exposed).is_ok());
        assert!(check(&UserspaceArgs::default(), UserspaceFile::default()).unwrap().is_none());
    }
}
