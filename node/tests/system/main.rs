//! The shells of the VPN around the operating system, each in a network and mount namespace of its own: devices, tables of
//! the kernel, sockets, the firewall, and that what a killed process left is undone. Needs root; without it these tests
//! say that they were skipped, and fail where CI is set. Nothing outside of the namespaces is changed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod firewall;
mod netlink;
mod state;
mod tun;
mod udp;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use shoal_engine::mesh::packet::Parsed;
use shoal_engine::mesh::packet::virtio::VirtioHeader;
use shoal_node::vpn::system::netlink::{Address, Netlink};
use shoal_node::vpn::system::tun::{BUFFER_LENGTH, FORM, Tun, TunOptions};

/// Set in a process that is in namespaces of its own.
const INSIDE: &str = "SHOAL_TEST_NAMESPACE";
/// What the tests run beside the code they test.
const PROGRAMS: &str = "ip, tc, nft, setpriv";
/// Fails where one of them is missing, or the driver.
const NEEDED: &str = "for p in ip tc nft setpriv; do command -v $p || exit 1; done; test -c /dev/net/tun";
/// How long a test waits for what should come at once.
const WAIT: Duration = Duration::from_secs(5);

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs `body` in namespaces of its own: this program again, with this one test.
fn inside(test: &str, body: impl FnOnce()) {
    inside_as(test, &[], body);
}

/// The same, started by another program that takes some right away.
fn inside_as(test: &str, starter: &[&str], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        body();
        return;
    }
    let unshare = ["--net", "--mount", "--"];
    let possible = Command::new("unshare").args(unshare).args(starter).args(["sh", "-c", NEEDED]).output();
    match possible {
        Ok(output) if output.status.success() => {}
        why if std::env::var_os("CI").is_none() => {
            say(&format!("system: SKIPPED {test}, no root, {PROGRAMS} or /dev/net/tun here: {why:?}"));
            return;
        }
        why => panic!("no root, {PROGRAMS} or /dev/net/tun here: {why:?}"),
    }
    let mut command = Command::new("unshare");
    command.args(unshare).args(starter).arg(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(INSIDE, "1").stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(" 1 passed"), "{said}\n{errors}");
    say(errors.trim_end());
}

/// Runs a program that has to succeed, and says what it said.
fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Makes somebody else's tables of nftables.
fn foreign_tables(ruleset: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{ruleset}");
}

/// A TUN device with these addresses, switched on.
fn tun(options: &TunOptions, addresses: &[(&str, u8)]) -> Tun {
    let mut netlink = Netlink::open().unwrap();
    let tun = Tun::open(options, &mut netlink).unwrap();
    let link = tun.facts().index;
    for (address, prefix_length) in addresses {
        let address = Address { link, address: address.parse().unwrap(), prefix_length: *prefix_length };
        netlink.add_address(&address).unwrap();
    }
    netlink.set_up(link, true).unwrap();
    tun
}

fn switch_on_loopback() {
    let mut netlink = Netlink::open().unwrap();
    let loopback = netlink.link("lo").unwrap().unwrap();
    netlink.set_up(loopback.index, true).unwrap();
}

/// The next packet to this address, with its header; the kernel sends others of its own.
fn next_to(tun: &Tun, to: IpAddr) -> (VirtioHeader, Vec<u8>) {
    let found = packets_to(tun, to, WAIT);
    found.unwrap_or_else(|| panic!("no packet to {to}"))
}

/// The same, if it comes within this time.
fn packets_to(tun: &Tun, to: IpAddr, wait: Duration) -> Option<(VirtioHeader, Vec<u8>)> {
    let begun = Instant::now();
    let mut buffer = vec![0xaa; BUFFER_LENGTH];
    while begun.elapsed() < wait {
        let Some(length) = tun.read(&mut buffer).unwrap() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let (header, packet) = VirtioHeader::parse(&buffer[..length], FORM).unwrap();
        if Parsed::of(packet).is_ok_and(|parsed| parsed.destination == to) {
            return Some((header, packet.to_vec()));
        }
    }
    None
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Turns a packet round: what was sent comes back, its checksums as they were.
fn turned(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (at, length, ports) = if packet[0] >> 4 == 4 { (12, 4, usize::from(packet[0] & 15) * 4) } else { (8, 16, 40) };
    let (left, right) = packet[at..at + 2 * length].split_at_mut(length);
    left.swap_with_slice(right);
    let (left, right) = packet[ports..ports + 4].split_at_mut(2);
    left.swap_with_slice(right);
    packet
}

/// A header and its packet in one buffer.
fn framed(header: &VirtioHeader, packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; FORM.length()];
    header.write(FORM, &mut bytes).unwrap();
    bytes.extend_from_slice(packet);
    bytes
}
