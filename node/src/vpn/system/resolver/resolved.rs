//! systemd-resolved, told by its program `resolvectl` which domains are asked for at our name server. It hands over no other
//! server, and nothing of what it does outlives our device: what is told of a link goes with it.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Asks, Nameserver, ResolverError, Server};

/// Where the program is.
const PROGRAMS: [&str; 2] = ["/usr/bin/resolvectl", "/bin/resolvectl"];
/// Files that systemd-resolved makes, or that lead to it (systemd-resolved.service(8)).
const FILES: [&str; 2] = ["/run/systemd/resolve", "/usr/lib/systemd/resolv.conf"];
/// Where it answers programs that read nothing but server addresses.
const STUBS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];
/// How long the program may take: it waits for a bus that may have nobody on it.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of its complaint that are kept.
const SAID_MAX: u64 = 200;

/// Whether a link to this file leads to systemd-resolved.
pub(super) fn is_its_file(path: &Path) -> bool {
    FILES.iter().any(|file| path.starts_with(file))
}

/// Whether these servers are systemd-resolved alone.
pub(super) fn is_its_stub(servers: &[Nameserver]) -> bool {
    let is_stub = |server: &Nameserver| STUBS.iter().any(|stub| server.address == IpAddr::V4(*stub));
    !servers.is_empty() && servers.iter().all(is_stub)
}

/// The program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    program: PathBuf,
}

impl Resolved {
    /// Finds it.
    ///
    /// # Errors
    /// [`ResolverError::NoProgram`].
    pub fn find() -> Result<Self, ResolverError> {
        let found = PROGRAMS.iter().map(PathBuf::from).find(|program| program.is_file());
        found.map(Self::at).ok_or(ResolverError::NoProgram)
    }

    /// This program.
    #[must_use]
    pub const fn at(program: PathBuf) -> Self {
        Self { program }
    }

    /// Questions about the domains go to the server, others where they went before; or all of them to the server.
    ///
    /// # Errors
    /// [`ResolverError`]; then nothing is told.
    pub fn register(&self, server: &Server<'_>, asks: Asks) -> Result<(), ResolverError> {
        let [first, second, wishes @ ..] = words(server, asks);
        self.run(&first)?;
        self.run(&second).inspect_err(|_| self.revert(server.interface))?;
        for wish in wishes {
            // Older ones have no such switch, and then no such default either.
            if let Err(error) = self.run(&wish) {
                tracing::debug!(%error, ?wish, "a wish resolvectl does not fulfil");
            }
        }
        Ok(())
    }

    /// Takes it back.
    fn revert(&self, interface: &str) {
        if let Err(error) = self.run(&["revert".to_owned(), interface.to_owned()]) {
            tracing::debug!(%error, "resolvectl did not take back what it was told");
        }
    }

    fn run(&self, words: &[String]) -> Result<(), ResolverError> {
        let mut command = Command::new(&self.program);
        command.args(words).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(ResolverError::Run)?;
        let begun = Instant::now();
        let status = loop {
            match child.try_wait().map_err(ResolverError::Run)? {
                Some(status) => break status,
                None if begun.elapsed() >= ANSWER_MAX => {
                    // It is ours; one that just ended is as well.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(ResolverError::Run(io::ErrorKind::TimedOut.into()));
                }
                None => std::thread::sleep(LOOK),
            }
        };
        if status.success() {
            return Ok(());
        }
        let mut said = Vec::new();
        if let Some(pipe) = child.stderr.take() {
            // What cannot be read is not said.
            let _ = pipe.take(SAID_MAX).read_to_end(&mut said);
        }
        Err(ResolverError::Refused(String::from_utf8_lossy(&said).trim().to_owned()))
    }
}

/// What the program is told, in order: the server, its domains (with `~`: to ask there, not to search in; `~.` is every
/// domain), whether it is asked for others too, and that it has no signatures.
fn words(server: &Server<'_>, asks: Asks) -> [Vec<String>; 4] {
    let of = |command: &str, more: Vec<String>| [vec![command.to_owned(), server.interface.to_owned()], more].concat();
    let (all, is_default) = match asks {
        Asks::Ours => (None, "no"),
        Asks::Everything => (Some("~."), "yes"),
    };
    [
        of("dns", vec![server.address.to_string()]),
        of("domain", server.domains.iter().map(|domain| format!("~{domain}")).chain(all.map(str::to_owned)).collect()),
        of("default-route", vec![is_default.to_owned()]),
        of("dnssec", vec!["no".to_owned()]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn server(domains: &[String]) -> Server<'_> {
        Server { interface: "shoal0", address: "fd00::1".parse().unwrap(), domains }
    }

    /// A program that writes down what it is told, and fails where its first word is `fails`.
    fn program(room: &Path, fails: &str) -> Resolved {
        let (path, log) = (room.join("resolvectl"), room.join("log"));
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {}\nif [ \"$1\" = \"{fails}\" ]; then echo no such link >&2; exit 1; fi\n",
            log.display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Resolved::at(path)
    }

    #[test]
    fn it_is_told_of_our_domains_or_of_all() {
        let room = tempfile::tempdir().unwrap();
        let domains = ["shoal.internal".to_owned(), "64.100.in-addr.arpa".to_owned()];
        let log = || fs::read_to_string(room.path().join("log")).unwrap();
        let told = "dns shoal0 fd00::1\ndomain shoal0 ~shoal.internal ~64.100.in-addr.arpa\ndefault-route shoal0 no\n\
                    dnssec shoal0 no\n";
        let resolved = program(room.path(), "none");
        resolved.register(&server(&domains), Asks::Ours).unwrap();
        assert_eq!(log(), told);
        resolved.register(&server(&domains), Asks::Everything).unwrap();
        let all = "dns shoal0 fd00::1\ndomain shoal0 ~shoal.internal ~64.100.in-addr.arpa ~.\ndefault-route shoal0 yes\n\
                   dnssec shoal0 no\n";
        assert_eq!(log(), format!("{told}{all}"));
    }

    #[test]
    fn what_it_refuses_is_an_error_or_a_wish() {
        let domains = ["shoal.internal".to_owned()];
        for (fails, is_error) in [("dns", true), ("domain", true), ("default-route", false), ("dnssec", false)] {
            let room = tempfile::tempdir().unwrap();
            let result = program(room.path(), fails).register(&server(&domains), Asks::Ours);
            assert_eq!(result.is_err(), is_error, "{fails}");
            if let Err(error) = result {
                assert_eq!(error.to_string(), "resolvectl: no such link");
                let log = fs::read_to_string(room.path().join("log")).unwrap();
                assert_eq!(log.contains("revert"), fails == "domain", "{log}");
            }
        }
        assert!(matches!(
            Resolved::at("/nowhere".into()).register(&server(&domains), Asks::Ours),
            Err(ResolverError::Run(_))
        ));
    }
}
