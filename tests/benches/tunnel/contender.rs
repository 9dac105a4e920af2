//! Who is measured: the cable alone, `shoald` by each carrier, and rivals. Each turn begins with two fresh machines and a
//! cable and ends with nothing left of them.

use std::env;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use shoal_tests::asked::vpn;
use shoal_tests::bench::machine::{Work, memory_of};
use shoal_tests::member::Member;
use shoal_tests::space::Space;
use tempfile::TempDir;

use crate::rivals::{RIVALS, Rival};

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");
/// How long a tunnel may take until it carries.
const READY: Duration = Duration::from_secs(30);
/// Addresses below the tunnel, as all rivals are told.
const LEFT: &str = "10.77.0.1";
const RIGHT: &str = "10.77.0.2";
/// The right end of a rival's tunnel.
const RIVAL_RIGHT: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
/// Where `shoald` takes datagrams.
pub(crate) const PORT: &str = "4200";

/// One way from the left machine to the right one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Contender {
    /// Without a tunnel.
    Cable,
    /// `shoald` with `--vpn-carrier` so.
    Shoal(&'static str),
    /// Somebody else's.
    Rival(&'static Rival),
}

impl Contender {
    /// All that can be measured here; others are named.
    pub(crate) fn all() -> Vec<Self> {
        let only = env::var("TUNNEL_ONLY").unwrap_or_default();
        let only: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
        let own = [Self::Cable, Self::Shoal("lanes"), Self::Shoal("udp")];
        let (there, missing): (Vec<&Rival>, Vec<&Rival>) = RIVALS.iter().partition(|rival| rival.is_installed());
        if !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|rival| rival.name).collect();
            println!("not installed, not measured: {}", names.join(", "));
        }
        let all = own.into_iter().chain(there.into_iter().map(Self::Rival));
        all.filter(|contender| only.is_empty() || only.contains(&contender.name())).collect()
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cable => "cable",
            Self::Shoal(carrier) => carrier,
            Self::Rival(rival) => rival.name,
        }
    }
}

/// Two machines and what joins them, at work.
pub(crate) struct Running {
    // What runs ends before its machines.
    members: Vec<Member>,
    processes: Vec<Child>,
    pub(crate) left: Space,
    pub(crate) right: Space,
    /// Where the right machine is reached through what is measured.
    pub(crate) address: Ipv4Addr,
    room: TempDir,
}

impl Running {
    /// Starts it with this MTU where that can be said, and waits until it carries.
    pub(crate) fn start(contender: Contender, mtu: u16) -> Self {
        let (left, right) = (Space::new().unwrap(), Space::new().unwrap());
        left.cable(("cable", &format!("{LEFT}/24")), &right, ("cable", &format!("{RIGHT}/24"))).unwrap();
        let room = tempfile::tempdir().unwrap();
        let (members, processes) = (Vec::new(), Vec::new());
        let mut running = Self { members, processes, left, right, address: RIGHT.parse().unwrap(), room };
        match contender {
            Contender::Cable => {}
            Contender::Shoal(carrier) => running.start_shoal(carrier, mtu),
            Contender::Rival(rival) => running.start_rival(rival),
        }
        let begun = Instant::now();
        while !running.left.ping(running.address.into(), 56).unwrap() {
            assert!(begun.elapsed() < READY, "{} carries nothing after {READY:?}", contender.name());
        }
        if let Contender::Shoal(carrier) = contender {
            running.wait_for(carrier);
        }
        running
    }

    fn start_shoal(&mut self, carrier: &str, mtu: u16) {
        let mtu = mtu.to_string();
        for (space, own) in [(&self.left, LEFT), (&self.right, RIGHT)] {
            let listen = format!("/ip4/{own}/tcp/0");
            let mut arguments = vec!["--network", "bench", "--open", "--tun-name", "shoal0", "--listen", &listen];
            arguments.extend(["--vpn-carrier", carrier, "--vpn-mtu", &mtu, "--vpn-port", PORT]);
            if let Some(first) = self.members.first() {
                arguments.extend(["--bootstrap", &first.node.address]);
            }
            let member = Member::start(SHOALD, space, &self.room.path().join(own), &arguments).unwrap();
            self.address = member.v4;
            self.members.push(member);
        }
    }

    /// Lanes serve until an address is proven.
    fn wait_for(&self, carrier: &str) {
        let begun = Instant::now();
        let is_on = |member: &Member| {
            let ways = vpn(SHOAL, &member.node.data, &["peers"]).unwrap()["peers"][0]["ways"].clone();
            ways[0]["carrier"] == carrier && ways[1].is_null()
        };
        while !self.members.iter().all(is_on) {
            assert!(begun.elapsed() < READY, "not on {carrier} after {READY:?}");
            sleep(Duration::from_millis(50));
        }
    }

    fn start_rival(&mut self, rival: &Rival) {
        self.address = RIVAL_RIGHT;
        self.run(rival.prepare);
        for (script, space) in [(rival.left, &self.left), (rival.right, &self.right)] {
            let mut command = space.command("sh");
            command.args(["-c", script]).process_group(0);
            // What they say is kept beside what they were told, for whoever looks at a failure with a debugger.
            let log = std::fs::File::create(self.room.path().join(format!("log{}", self.processes.len()))).unwrap();
            let errors = log.try_clone().unwrap();
            let command = surroundings(&mut command, &self.room, self).stdout(log).stderr(errors);
            self.processes.push(command.spawn().unwrap());
            sleep(Duration::from_secs(1));
        }
        self.run(rival.then);
    }

    /// Runs a script to its end.
    fn run(&self, script: &str) {
        let mut command = Command::new("sh");
        let output = surroundings(command.args(["-ec", script]), &self.room, self).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Data folder of the right node, if it is one.
    pub(crate) fn right_data(&self) -> Option<&std::path::Path> {
        self.members.get(1).map(|member| member.node.data.as_path())
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.members.iter().map(|member| member.node.pid()).chain(self.processes.iter().map(Child::id))
    }

    /// Processor time of all programs of the tunnel, on both machines.
    pub(crate) fn work(&self) -> Work {
        self.pids().map(Work::of).sum()
    }

    /// The most memory one of them had, MiB.
    pub(crate) fn peak_mib(&self) -> f64 {
        let peaks = self.pids().filter_map(|pid| memory_of(&pid.to_string(), "VmHWM"));
        peaks.max().unwrap_or_default() as f64 / f64::from(1 << 20)
    }
}

/// Where a script works, and what it finds there.
fn surroundings<'a>(command: &'a mut Command, room: &TempDir, running: &Running) -> &'a mut Command {
    let path = env::var("PATH").unwrap_or_default();
    let path = env::var("PEERS_BIN").map_or_else(|_| path.clone(), |peers| format!("{peers}:{path}"));
    command.current_dir(room.path()).env("PATH", path).env("W", room.path()).stdin(Stdio::null());
    command.env("A", running.left.name()).env("B", running.right.name())
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.processes {
            let group = Pid::from_child(child);
            // Asked first, for some take things down that a killed one would leave.
            let _ = kill_process_group(group, Signal::TERM);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(1) && matches!(child.try_wait(), Ok(None)) {
                sleep(Duration::from_millis(20));
            }
            let _ = kill_process_group(group, Signal::KILL);
            let _ = child.wait();
        }
    }
}
