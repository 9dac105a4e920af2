//! Every sender beside every receiver: devices with all offloads, without those of UDP and with none, as the kernels they
//! run on have them, and on the sender each of them switched off while it runs. What goes in comes out.

use std::process::{Command, Stdio};

use serde_json::Value;
use shoal_tests::asked::vpn;
use shoal_tests::budget::say;
use shoal_tests::datagrams;
use shoal_tests::member::Member;
use shoal_tests::space::Space;
use shoal_tests::traffic::{echo, transfer};

use super::{DEVICE, Pair, SHOAL, SHOALD, is_possible, on_carrier};

const OLD_KERNEL: &str = env!("CARGO_BIN_EXE_test-old-kernel");
/// Bytes of TCP each way over each family.
const TRANSFER: usize = 2 << 20;
/// Datagrams, their length and how many are sent with one call: an odd number, so that the last batch is short.
pub(super) const DATAGRAMS: (usize, usize, usize) = (95, 1_100, 30);
/// A packet of TCP on average, bytes: super-packets have more, single ones less.
const SUPER: u64 = 4_000;

/// Which offloads the kernel of a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    New,
    /// None of UDP: before Linux 6.2.
    WithoutUdp,
    /// None, and no virtio header.
    WithoutAny,
}

impl Kernel {
    pub(super) const ALL: [Self; 3] = [Self::New, Self::WithoutUdp, Self::WithoutAny];

    pub(super) fn run(self, space: &Space) -> Command {
        let kind = match self {
            Self::New => return space.command(SHOALD),
            Self::WithoutUdp => "udp",
            Self::WithoutAny => "all",
        };
        let mut command = space.command(OLD_KERNEL);
        command.args([kind, SHOALD]);
        command
    }

    /// What `ethtool -k` says of a fresh device: super-packets of TCP, of UDP, checksums.
    const fn features(self) -> [bool; 3] {
        [!matches!(self, Self::WithoutAny), matches!(self, Self::New), !matches!(self, Self::WithoutAny)]
    }
}

/// What `ethtool` is told of the sender's device before a transfer.
const SWITCHES: [&str; 5] =
    ["tso on gso on tx on tx-udp-segmentation on", "tx-udp-segmentation off", "tso off", "gso off", "tx off"];

fn ethtool(space: &Space, words: &str) -> String {
    let mut command = space.command("ethtool");
    let output = command.args(words.split_whitespace()).stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether the device has it: super-packets of TCP, of UDP, checksums.
fn features(space: &Space) -> [bool; 3] {
    let said = ethtool(space, &format!("-k {DEVICE}"));
    let names = ["tcp-segmentation-offload: on", "tx-udp-segmentation: on", "tx-checksumming: on"];
    names.map(|name| said.lines().any(|line| line.trim().starts_with(name)))
}

/// Packets and bytes a node sent for its machine.
fn sent(member: &Member) -> (u64, u64) {
    let stats = vpn(SHOAL, &member.node.data, &["stats"]).unwrap();
    let classes: Vec<Value> = stats["sent"].as_object().unwrap().values().cloned().collect();
    let sum = |name: &str| classes.iter().map(|class| class[name].as_u64().unwrap()).sum();
    (sum("packets"), sum("bytes"))
}

/// Sends everything one way, and back with the words that say it came.
fn one_way(from: (&Member, &Space), to: (&Member, &Space), what: &str) {
    for address in to.0.addresses() {
        let before = sent(from.0);
        transfer(from.1, to.1, address, TRANSFER).unwrap_or_else(|error| panic!("{what}, TCP: {error:#}"));
        let after = sent(from.0);
        let average = (after.1 - before.1) / (after.0 - before.0).max(1);
        let [segmented, ..] = features(from.1);
        assert_eq!(average > SUPER, segmented, "{what}: {average} bytes a packet of TCP");
        let (count, length, batch) = DATAGRAMS;
        let again = datagrams::send(from.1, to.1, address, count, length, batch)
            .unwrap_or_else(|error| panic!("{what}, batches: {error:#}"));
        assert!(again < 2, "{what}: {again} batches were sent again");
        echo(from.1, to.1, address, &[0, 1, 1_200, 5_000]).unwrap_or_else(|error| panic!("{what}, UDP: {error:#}"));
    }
}

fn all_combinations(carrier: &str) {
    let mut count = 0;
    for (at, left) in Kernel::ALL.into_iter().enumerate() {
        for right in &Kernel::ALL[at..] {
            let programs = [left, *right].map(|kernel| move |space: &Space| kernel.run(space));
            let mut pair = Pair::run_as(programs, &["--vpn-carrier", carrier]);
            on_carrier(&pair, carrier);
            let (a, b) = ((&pair.a, &pair.left), (&pair.b, &pair.right));
            // Two of a kind differ by nothing: once is enough.
            let both = usize::from(left != *right) + 1;
            for (kernel, from, to) in [(left, a, b), (*right, b, a)].into_iter().take(both) {
                assert_eq!(features(from.1), kernel.features(), "a fresh device on {kernel:?}");
                for switch in SWITCHES {
                    ethtool(from.1, &format!("-K {DEVICE} {}", SWITCHES[0]));
                    ethtool(from.1, &format!("-K {DEVICE} {switch}"));
                    one_way(from, to, &format!("{left:?} and {right:?}, {carrier}, {switch}"));
                    count += 1;
                }
                ethtool(from.1, &format!("-K {DEVICE} {}", SWITCHES[0]));
            }
            for member in [&mut pair.a, &mut pair.b] {
                let counted = member.counted().unwrap();
                say(&format!("vpn {carrier}, {left:?} and {right:?}: {counted}"));
                for reason in ["device-refused", "bad-offload", "checksum"] {
                    assert!(!counted.contains(reason), "{counted}");
                }
            }
        }
    }
    say(&format!("vpn {carrier}: {count} combinations of sender and receiver"));
}

/// As [`is_possible`], with `ethtool`.
fn has_switches(test: &str) -> bool {
    let is_there = Command::new("sh").args(["-c", "command -v ethtool"]).output().unwrap().status.success();
    assert!(is_there || std::env::var_os("CI").is_none(), "ethtool is missing");
    if !is_there {
        say(&format!("vpn: SKIPPED {test}, ethtool is missing"));
    }
    is_there && is_possible(test)
}

#[test]
fn every_sender_reaches_every_receiver_on_lanes() {
    if has_switches("every_sender_reaches_every_receiver_on_lanes") {
        all_combinations("lanes");
    }
}

#[test]
fn every_sender_reaches_every_receiver_on_datagrams() {
    if has_switches("every_sender_reaches_every_receiver_on_datagrams") {
        all_combinations("udp");
    }
}
