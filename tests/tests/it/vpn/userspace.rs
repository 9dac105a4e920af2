//! A node without a device and without any right, as nobody: programs of its machine get into the private network by SOCKS
//! and forwarded ports, members get to its published ports, and nothing of the system is touched.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::time::Duration;

use shoal_tests::asked::vpn;
use shoal_tests::budget::say;
use shoal_tests::member::Member;
use shoal_tests::sample::bytes;
use shoal_tests::socks::{self, To};
use shoal_tests::space::Space;
use tempfile::TempDir;

use super::{DEVICE, SHOAL, SHOALD, is_possible, reached, settled, until};

/// Bytes sent each way.
const TRANSFER: usize = 16 << 20;
/// Where services listen.
const SERVICE: u16 = 7000;
/// What nobody listens on.
const NOBODY_THERE: u16 = 7001;
/// The port of a published service.
const PUBLISHED: u16 = 80;
/// The user and group without any right.
const NOBODY: u32 = 65_534;
const PATIENCE: Duration = Duration::from_secs(60);

/// The node's program as nobody, where there is no device driver.
fn powerless(space: &Space) -> Command {
    let mut command = space.command("unshare");
    let script = "mount -t tmpfs -o ro none /dev/net && exec setpriv --reuid=65534 --regid=65534 --clear-groups \
                  --bounding-set=-all --inh-caps=-all \"$0\" \"$@\"";
    command.args(["--mount", "sh", "-c", script, SHOALD]);
    command
}

/// A member with a device on the left, one in userspace on the right, a cable between them.
struct Machines {
    device: Member,
    inside: Member,
    left: Space,
    right: Space,
    room: TempDir,
}

impl Machines {
    /// Both with these arguments more.
    fn new(on_device: &[&str], inside: &[&str]) -> Self {
        let (left, right) = (Space::new().unwrap(), Space::new().unwrap());
        left.cable(("cable", "10.77.0.1/24"), &right, ("cable", "10.77.0.2/24")).unwrap();
        let room = tempfile::tempdir().unwrap();
        std::fs::set_permissions(room.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let first = ["--network", "vpn", "--open", "--tun-name", DEVICE, "--listen", "/ip4/10.77.0.1/tcp/0"];
        let device = Member::start(
            SHOALD,
            &left,
            &room.path().join("a"),
            &[&first[..], &["--vpn-name", "dev"], on_device].concat(),
        )
        .unwrap();
        let member = powerless_member(&right, &room, "b", ("10.77.0.2", &device.node.address), inside);
        let machines = Self { device, inside: member, left, right, room };
        reached(&machines.left, machines.inside.v6.into(), Duration::from_secs(60));
        reached(&machines.left, machines.inside.v4.into(), Duration::from_secs(60));
        machines
    }

    fn socks(&self) -> SocketAddr {
        place(&self.inside, "socks")
    }
}

/// A member in userspace as nobody.
fn powerless_member(space: &Space, room: &TempDir, name: &str, (own, first): (&str, &str), more: &[&str]) -> Member {
    let data = room.path().join(name);
    std::fs::create_dir_all(&data).unwrap();
    chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700)).unwrap();
    let listen = format!("/ip4/{own}/tcp/0");
    let begin = ["--network", "vpn", "--open", "--vpn-userspace", "--listen", &listen, "--bootstrap", first];
    let member = Member::start_as(powerless(space), &data, &[&begin[..], more].concat()).unwrap();
    assert!(member.node.vpn["ifname"].is_null() && member.node.vpn["userspace"] == true, "{}", member.node.vpn);
    member
}

fn place(member: &Member, name: &str) -> SocketAddr {
    let text = match &member.node.vpn[name] {
        serde_json::Value::Array(all) => all[0].as_str(),
        other => other.as_str(),
    };
    text.unwrap_or_else(|| panic!("no {name} in {}", member.node.vpn)).parse().unwrap()
}

fn listen(space: &Space, address: &str) -> TcpListener {
    space.inside(|| Ok(TcpListener::bind(address)?)).unwrap()
}

fn accepted(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    patient(stream)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends to the end on one thread while it reads to the end; what came has this hash.
fn half(mut stream: TcpStream, sent: Vec<u8>) -> std::thread::JoinHandle<blake3::Hash> {
    std::thread::spawn(move || {
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; 64 * 1024]);
        loop {
            match stream.read(&mut piece).unwrap() {
                0 => break,
                length => hasher.update(&piece[..length]),
            };
        }
        writing.join().unwrap();
        hasher.finalize()
    })
}

/// Both ways at once, `length` bytes, compared at both ends.
fn both_ways(what: &str, near: TcpStream, far: TcpStream, length: usize) {
    let (out, back) = (bytes(1, length), bytes(2, length));
    let hashes = [blake3::hash(&out), blake3::hash(&back)];
    let begun = std::time::Instant::now();
    let (near, far) = (half(near, out), half(far, back));
    assert_eq!([far.join().unwrap(), near.join().unwrap()], hashes, "{what}");
    let rate = length as f64 * 16e-6 / begun.elapsed().as_secs_f64();
    say(&format!("vpn userspace: {what}, {length} bytes each way, {rate:.0} Mb/s"));
}

#[test]
fn programs_reach_members_by_socks_and_nobody_else() {
    if !is_possible("programs_reach_members_by_socks_and_nobody_else") {
        return;
    }
    let machines = Machines::new(&[], &["--socks", "0"]);
    let socks = machines.socks();
    assert!(socks.ip().is_loopback());
    let by_v4 = listen(&machines.left, &format!("0.0.0.0:{SERVICE}"));
    let by_v6 = listen(&machines.left, &format!("[{}]:{SERVICE}", machines.device.v6));
    let id = machines.device.node.id.to_lowercase();
    let names = [format!("{id}.vpn.shoal.internal"), "DEV.vpn.shoal.internal.".to_owned()];
    // Names are told a little later than keys.
    until("the name is known", PATIENCE, || {
        let asked = socks::ask(&machines.right, socks, 1, &To::Name(names[1].clone()), SERVICE).unwrap();
        asked.1 == 0 && {
            drop(accepted(&by_v6));
            true
        }
    });
    for (to, listener) in [
        (To::Address(machines.device.v4.into()), &by_v4),
        (To::Address(machines.device.v6.into()), &by_v6),
        (To::Name(names[0].clone()), &by_v6),
        (To::Name(machines.device.v4.to_string()), &by_v4),
    ] {
        let near = socks::connect(&machines.right, socks, &to, SERVICE).unwrap();
        both_ways(&format!("SOCKS to {to:?}"), near, accepted(listener), TRANSFER);
    }
    for (to, port, answer) in [
        (To::Name("example.org".into()), 80, 2),
        (To::Name("nobody.vpn.shoal.internal".into()), 80, 4),
        (To::Address([192, 0, 2, 1].into()), 80, 3),
        (To::Address(IpAddr::V4(machines.inside.v4)), 80, 3),
        (To::Address(machines.device.v4.into()), NOBODY_THERE, 5),
        (To::Name(names[0].clone()), NOBODY_THERE, 5),
    ] {
        let (_, said, _) = socks::ask(&machines.right, socks, 1, &to, port).unwrap();
        assert_eq!(said, answer, "{to:?}");
    }
    let (_, said, _) = socks::ask(&machines.right, socks, 2, &To::Address(machines.device.v4.into()), 80).unwrap();
    assert_eq!(said, 7, "BIND is not offered");
    let status = vpn(SHOAL, &machines.inside.node.data, &["status"]).unwrap();
    assert!(status["interface"].is_null() && status["userspace"] == true, "{status}");
    let peers = vpn(SHOAL, &machines.inside.node.data, &["peers"]).unwrap();
    assert_eq!(peers["peers"][0]["node"], machines.device.node.id.as_str(), "{peers}");
}

#[test]
fn datagrams_of_socks_programs_come_back() {
    if !is_possible("datagrams_of_socks_programs_come_back") {
        return;
    }
    let machines = Machines::new(&[], &["--socks", "127.0.0.1:0"]);
    let associated = socks::associate(&machines.right, machines.socks()).unwrap();
    for address in machines.device.addresses() {
        let server = machines.left.inside(|| Ok(UdpSocket::bind((address, SERVICE))?)).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for size in [0, 1, 512, 1232] {
            let sent = bytes(size as u64, size);
            let mut came = None;
            // Datagrams are promised to nobody.
            for _ in 0..10 {
                associated.send(&To::Address(address), SERVICE, &sent).unwrap();
                let mut buffer = [0; 4096];
                let Ok((length, from)) = server.recv_from(&mut buffer) else { continue };
                assert!(machines.inside.addresses().contains(&from.ip()), "{from}");
                assert_eq!(buffer[..length], sent);
                server.send_to(&buffer[..length], from).unwrap();
                if let Ok(back) = associated.receive() {
                    came = Some(back);
                    break;
                }
            }
            let (from, payload) = came.expect("a datagram of ten comes back");
            assert_eq!(payload, sent);
            assert_eq!(from.len(), if address.is_ipv4() { 7 } else { 19 });
            // What came twice is not taken for the next one.
            while associated.receive().is_ok() {}
        }
    }
}

#[test]
fn members_reach_what_is_published_and_programs_what_is_forwarded() {
    if !is_possible("members_reach_what_is_published_and_programs_what_is_forwarded") {
        return;
    }
    let published = format!("{PUBLISHED}=127.0.0.1:{SERVICE}");
    let absent = format!("81=127.0.0.1:{NOBODY_THERE}");
    let forwarded = format!("0=dev:{SERVICE}");
    let machines = Machines::new(&[], &["--publish", &published, "--publish", &absent, "--forward", &forwarded]);
    let service = listen(&machines.right, &format!("127.0.0.1:{SERVICE}"));
    let dial = |address: IpAddr, port: u16| {
        machines.left.inside(|| Ok(TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE))).unwrap()
    };
    for address in machines.inside.addresses() {
        let near = patient(dial(address, PUBLISHED).unwrap());
        both_ways(&format!("published on {address}"), near, accepted(&service), TRANSFER);
        let refused = dial(address, SERVICE).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "what was not published");
        // The port is published, and its service is not there: the member is let go at once, also before it has looked
        // whether it is connected.
        let lost = dial(address, 81).and_then(|near| patient(near).read(&mut [0]));
        assert!(lost.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
    let far = listen(&machines.left, &format!("[{}]:{SERVICE}", machines.device.v6));
    let port = place(&machines.inside, "forwards");
    let mut known = None;
    until("the name is known", PATIENCE, || {
        let near = machines.right.inside(|| Ok(TcpStream::connect(port)?)).unwrap();
        far.set_nonblocking(true).unwrap();
        for _ in 0..50 {
            if let Ok((stream, _)) = far.accept() {
                stream.set_nonblocking(false).unwrap();
                known = Some((patient(near), patient(stream)));
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    });
    let (near, far) = known.unwrap();
    both_ways("forwarded", near, far, TRANSFER);
}

#[test]
fn the_rules_count_in_userspace_as_on_a_device() {
    if !is_possible("the_rules_count_in_userspace_as_on_a_device") {
        return;
    }
    let kept = tempfile::tempdir().unwrap();
    let file = kept.path().join("policy.toml");
    let rule = |name: &str, ports: &str| {
        format!(
            "[[rules]]\nname = \"{name}\"\naction = \"deny\"\nfrom = [\"*\"]\nto = [\"*\"]\nprotocol = \"tcp\"\nports = [\"{ports}\"]\n"
        )
    };
    std::fs::write(
        &file,
        format!("version = 1\ndefault = \"members\"\n{}{}", rule("web", "80"), rule("service", "7000")),
    )
    .unwrap();
    std::fs::set_permissions(kept.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let published = format!("{PUBLISHED}=127.0.0.1:{SERVICE}");
    let more = [
        "--socks",
        "0",
        "--publish",
        &published,
        "--publish",
        "82=127.0.0.1:7000",
        "--vpn-policy",
        file.to_str().unwrap(),
    ];
    let machines = Machines::new(&[], &more);
    let service = listen(&machines.right, &format!("127.0.0.1:{SERVICE}"));
    let dial = |port: u16, patience: Duration| {
        let to = SocketAddr::new(machines.inside.v4.into(), port);
        machines.left.inside(|| Ok(TcpStream::connect_timeout(&to, patience))).unwrap()
    };
    assert!(dial(PUBLISHED, Duration::from_secs(3)).is_err(), "the rules deny it");
    let near = patient(dial(82, PATIENCE).unwrap());
    both_ways("published and allowed", near, accepted(&service), 1 << 20);
    let _there = listen(&machines.left, &format!("0.0.0.0:{SERVICE}"));
    let to = To::Address(machines.device.v4.into());
    let (_, said, _) = socks::ask(&machines.right, machines.socks(), 1, &to, SERVICE).unwrap();
    assert_eq!(said, 2, "not allowed by the rules");
}

#[test]
fn two_nodes_in_userspace_reach_each_other_and_leave_nothing() {
    if !is_possible("two_nodes_in_userspace_reach_each_other_and_leave_nothing") {
        return;
    }
    let published = format!("{PUBLISHED}=127.0.0.1:{SERVICE}");
    let mut machines = Machines::new(&[], &["--publish", &published]);
    let third = Space::new().unwrap();
    machines.left.cable(("other", "10.78.0.1/24"), &third, ("cable", "10.78.0.2/24")).unwrap();
    third.ip("route add default via 10.78.0.1").unwrap();
    machines.right.ip("route add default via 10.77.0.1").unwrap();
    let forwarded = format!("0={}:{PUBLISHED}", machines.inside.node.id);
    let first = machines.device.node.address.clone();
    third.ip("route add 10.77.0.0/24 via 10.78.0.1").unwrap();
    settled(&machines.right);
    settled(&third);
    let before = (machines.right.tables().unwrap(), third.tables().unwrap());
    let mut other = powerless_member(&third, &machines.room, "c", ("10.78.0.2", &first), &["--forward", &forwarded]);
    reached(&machines.left, other.v4.into(), PATIENCE);
    let service = listen(&machines.right, &format!("127.0.0.1:{SERVICE}"));
    service.set_nonblocking(true).unwrap();
    let port = place(&other, "forwards");
    let mut known = None;
    until("one reaches the other", PATIENCE, || {
        let near = third.inside(|| Ok(TcpStream::connect(port)?)).unwrap();
        for _ in 0..50 {
            if let Ok((stream, _)) = service.accept() {
                stream.set_nonblocking(false).unwrap();
                known = Some((patient(near), patient(stream)));
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    });
    let (near, far) = known.unwrap();
    both_ways("userspace to userspace", near, far, TRANSFER);
    for member in [&mut machines.inside, &mut other] {
        let took = member.node.terminate().unwrap();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    assert_eq!((machines.right.tables().unwrap(), third.tables().unwrap()), before, "nothing was touched");
    assert!(machines.right.nft("list ruleset").unwrap().is_empty());
}

#[test]
fn a_connection_is_reset_when_the_node_in_userspace_ends() {
    if !is_possible("a_connection_is_reset_when_the_node_in_userspace_ends") {
        return;
    }
    let published = format!("{PUBLISHED}=127.0.0.1:{SERVICE}");
    let mut machines = Machines::new(&[], &["--publish", &published]);
    let service = listen(&machines.right, &format!("127.0.0.1:{SERVICE}"));
    let to = SocketAddr::new(machines.inside.v4.into(), PUBLISHED);
    let mut near = patient(machines.left.inside(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?)).unwrap());
    let mut far = accepted(&service);
    near.write_all(b"there").unwrap();
    let mut word = [0; 5];
    far.read_exact(&mut word).unwrap();
    assert!(machines.inside.node.terminate().unwrap() < Duration::from_secs(2));
    let read = near.read(&mut word);
    let is_reset = read.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
    assert!(is_reset, "no end is pretended: {read:?}");
}
