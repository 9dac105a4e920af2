//! The table of an exit or subnet router: what the mesh may reach through this machine and of it, that answers come back,
//! masquerade, and the clamp of TCP's segment size. It lets nothing through that another table drops: a drop of any table
//! is one.

use shoal_protocol::mesh::prefix::Prefix;

use super::{FirewallError, Ruleset, Table, quoted};

/// What the table of an exit says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitRules {
    /// The TUN device.
    pub tun: String,
    /// Addresses the mesh sends from: others are dropped, and these are masqueraded on the way out.
    pub sources: Vec<Prefix>,
    /// Addresses of other private networks of this machine: not reached from this one, and nothing comes from there.
    pub apart: Vec<Prefix>,
    /// Reached in spite of `deny`: the machine's own mesh addresses, networks that are let in by name.
    pub allow: Vec<Prefix>,
    /// Never reached, neither on this machine nor behind it. A prefix for IPv4 is not applied to IPv6 addresses that
    /// carry one: those have to be listed too.
    pub deny: Vec<Prefix>,
    /// Networks of this machine whose hosts may open connections into the mesh. Others get answers only.
    pub inbound: Vec<Prefix>,
}

impl ExitRules {
    /// The table as nft takes it.
    ///
    /// # Errors
    /// [`FirewallError`]: a bad name, a list that is too long.
    pub fn ruleset(&self, table: Table) -> Result<Ruleset, FirewallError> {
        let tun = quoted(&self.tun)?;
        let mut ruleset = Ruleset::new(table);
        ruleset.sets("source", &self.sources)?;
        ruleset.sets("apart", &self.apart)?;
        ruleset.sets("allow", &self.allow)?;
        ruleset.sets("deny", &self.deny)?;
        ruleset.sets("inbound", &self.inbound)?;
        let text = TEXT.replace("TUN", &tun);
        text.lines().for_each(|line| ruleset.line(line.trim()));
        Ok(ruleset)
    }
}

/// `TUN` stands for the device. The chains come before those of other tables at the usual priority, which still have
/// their say; an `accept` ends only the chain it is in. The clamp never raises (`nft_exthdr`). What the machine itself
/// sends is not masqueraded, also where its own address is in the mesh's pool, as with some providers.
const TEXT: &str = "\
chain floor {
    ip saddr != @source4 counter drop
    ip6 saddr != @source6 counter drop
    ip daddr @apart4 counter drop
    ip6 daddr @apart6 counter drop
    ip daddr @allow4 accept
    ip6 daddr @allow6 accept
    ip daddr @deny4 counter drop
    ip6 daddr @deny6 counter drop
}
chain into_mesh {
    ip saddr @apart4 counter drop
    ip6 saddr @apart6 counter drop
    ct state established,related accept
    ip saddr @inbound4 accept
    ip6 saddr @inbound6 accept
    counter drop
}
chain input {
    type filter hook input priority filter - 5; policy accept;
    iifname TUN jump floor
}
chain forward {
    type filter hook forward priority filter - 5; policy accept;
    iifname TUN jump floor
    iifname TUN accept
    oifname TUN jump into_mesh
}
chain clamp {
    type filter hook forward priority mangle; policy accept;
    iifname TUN tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    oifname TUN tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
}
chain outgoing {
    type nat hook postrouting priority srcnat; policy accept;
    oifname TUN return
    fib saddr type local return
    ip saddr @source4 masquerade
    ip6 saddr @source6 masquerade
}
";
