//! How programs of this machine come to ask a name server of ours where several networks have one. systemd-resolved is told
//! of each with its device; the file has room for one that is asked, and each of them answers for all. It answers nothing.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use crate::problem::with_causes;
use crate::vpn::machine::{Machine, Slot};
use crate::vpn::roles::system::SystemError;
use crate::vpn::system::netlink::Netlink;
use crate::vpn::system::resolver::{self, Asks, Nameserver, ResolvConf, Resolved, ResolverError, Way};
use crate::vpn::system::state::Made;

/// A name server of ours, and what programs are to ask it.
#[derive(Clone, Debug)]
pub(crate) struct Led {
    pub(super) interface: String,
    pub(super) own: Ipv6Addr,
    pub(super) domains: Vec<String>,
    pub(super) asks: Asks,
}

/// Who answered programs before.
#[derive(Debug)]
pub(super) enum Before {
    /// systemd-resolved knows whom.
    Resolved,
    /// These.
    Servers(Vec<Nameserver>),
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Leads {
    data: PathBuf,
    /// Found with the first server.
    way: Option<Way>,
    servers: BTreeMap<Slot, Led>,
    /// What stands in the file.
    written: Option<(Ipv6Addr, Asks)>,
}

impl Leads {
    /// Of a node whose files are in `data`.
    pub(crate) fn new(data: &Path) -> Self {
        Self { data: data.to_owned(), way: None, servers: BTreeMap::new(), written: None }
    }

    /// Programs ask this server from now on, too. Blocks.
    ///
    /// # Errors
    /// [`ResolverError`]; then they do not.
    pub(super) fn add(&mut self, slot: Slot, led: Led, machine: &Machine) -> Result<Before, ResolverError> {
        let way = match &self.way {
            Some(way) => way.clone(),
            None => Way::find(Path::new(ResolvConf::PATH), &self.data)?,
        };
        let before = match &way {
            Way::Resolved(resolved) => {
                register(resolved, &led)?;
                Before::Resolved
            }
            Way::File(conf) => {
                let before = conf.nameservers()?;
                if self.servers.is_empty() {
                    conf.keep()?;
                    machine.note(&[Made::Resolver(conf.clone())])?;
                }
                Before::Servers(before)
            }
        };
        self.way = Some(way);
        self.servers.insert(slot, led);
        self.write().inspect_err(|_| self.remove(slot, machine))?;
        Ok(before)
    }

    /// Programs are to ask it this. One that nobody asks stays so. Blocks.
    ///
    /// # Errors
    /// [`ResolverError`].
    pub(super) fn ask(&mut self, slot: Slot, asks: Asks) -> Result<(), ResolverError> {
        let Some(led) = self.servers.get_mut(&slot) else { return Ok(()) };
        led.asks = asks;
        if let Some(Way::Resolved(resolved)) = &self.way {
            register(resolved, led)?;
        }
        self.write()
    }

    /// Programs no longer ask it, but those that are left; after the last one the file is as it was. What systemd-resolved
    /// was told goes with the device. Blocks.
    pub(super) fn remove(&mut self, slot: Slot, machine: &Machine) {
        if self.servers.remove(&slot).is_none() {
            return;
        }
        if !self.servers.is_empty() {
            if let Err(error) = self.write() {
                tracing::warn!(error = %with_causes(&error), "programs ask a name server of ours that is gone");
            }
            return;
        }
        (self.written, self.way) = (None, None);
        let put_back = || -> Result<(), SystemError> {
            machine.undo(&mut Netlink::open()?, |made| matches!(made, Made::Resolver(_)))
        };
        if let Err(error) = put_back() {
            tracing::warn!(error = %with_causes(&error), "the system's resolver is not as it was");
        }
    }

    /// Has the file name the server that is to be asked.
    fn write(&mut self) -> Result<(), ResolverError> {
        let (Some(Way::File(conf)), Some(led)) = (&self.way, chosen(&self.servers)) else { return Ok(()) };
        let wanted = (led.own, led.asks);
        if self.written != Some(wanted) {
            conf.install(led.own, led.asks)?;
            self.written = Some(wanted);
        }
        Ok(())
    }
}

/// Who is asked where one alone can be: whoever is to be asked everything, else the first network's.
fn chosen(servers: &BTreeMap<Slot, Led>) -> Option<&Led> {
    let everything = servers.values().find(|led| led.asks == Asks::Everything);
    everything.or_else(|| servers.values().next())
}

fn register(resolved: &Resolved, led: &Led) -> Result<(), ResolverError> {
    let server = resolver::Server { interface: &led.interface, address: led.own, domains: &led.domains };
    resolved.register(&server, led.asks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_to_be_asked_everything_is_asked_first() {
        let led = |last: u16, asks| {
            let own = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
            Led { interface: "shoal0".to_owned(), own, domains: Vec::new(), asks }
        };
        let mut slots = Slot::beside();
        let (one, two) = (slots.next().unwrap(), slots.next().unwrap());
        let mut servers = BTreeMap::from([(two, led(2, Asks::Ours)), (one, led(1, Asks::Ours))]);
        let asked = |servers: &BTreeMap<Slot, Led>| chosen(servers).map(|led| led.own.segments()[7]);
        assert_eq!(asked(&servers), Some(1));
        servers.insert(two, led(2, Asks::Everything));
        assert_eq!(asked(&servers), Some(2));
        servers.remove(&two);
        assert_eq!(asked(&servers), Some(1));
        servers.clear();
        assert_eq!(asked(&servers), None);
    }
}
