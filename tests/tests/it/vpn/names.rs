//! Names on real machines: programs and plain DNS clients ask the node of their machine, over both transports and both
//! families; other domains go where they went before; the machine's `resolv.conf` is as it was when the node is gone.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use shoal_protocol::NetworkId;
use shoal_tests::budget::say;
use shoal_tests::member::Member;
use shoal_tests::space::Space;

use super::{DEVICE, OPEN, SHOALD, is_possible, reached, until};

/// How long an answer may take: as long as the node waits for the server it asks, and more.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long the names of a member may take to be known.
const KNOWN: Duration = Duration::from_secs(20);
/// What the server of other domains answers.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
/// Bytes of text in its long answer: more than a datagram without EDNS takes.
const LONG: usize = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Udp,
    Tcp,
}

/// One question from one machine to one address; none if nothing is answered.
pub(super) fn ask(from: &Space, to: IpAddr, over: Over, name: &str, kind: RecordType) -> Result<Option<Message>> {
    let mut message = Message::new(0x5a5a, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name)?, kind));
    let (query, to) = (message.to_vec()?, SocketAddr::new(to, 53));
    let answer = match over {
        Over::Udp => {
            let socket = from.inside(|| Ok(UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(ANSWER_MAX))?;
            socket.send(&query)?;
            let mut buffer = vec![0; 65_535];
            let Ok(length) = socket.recv(&mut buffer) else { return Ok(None) };
            buffer[..length].to_vec()
        }
        Over::Tcp => {
            let mut stream = from.inside(|| Ok(TcpStream::connect_timeout(&to, ANSWER_MAX)?))?;
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            stream.write_all(&[&u16::try_from(query.len())?.to_be_bytes()[..], &query].concat())?;
            let Some(answer) = read(&mut stream)? else { return Ok(None) };
            answer
        }
    };
    let answer = Message::from_vec(&answer)?;
    ensure!(answer.metadata.id == 0x5a5a && answer.queries == message.queries, "an answer to something else: {answer}");
    Ok(Some(answer))
}

/// One message of a stream; none where it ended before.
fn read(stream: &mut TcpStream) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    if stream.read_exact(&mut length).is_err() {
        return Ok(None);
    }
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

/// A server of other domains: it knows an address for every name, and a long text.
pub(super) struct Elsewhere {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Elsewhere {
    /// At `address`, telling `told` for every name.
    pub(super) fn start(space: &Space, address: IpAddr, told: Ipv4Addr) -> Result<Self> {
        let place = SocketAddr::new(address, 53);
        let (udp, tcp) = space.inside(|| Ok((UdpSocket::bind(place)?, TcpListener::bind(place)?)))?;
        udp.set_read_timeout(Some(Duration::from_millis(50)))?;
        tcp.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (one, two) = (Arc::clone(&stop), Arc::clone(&stop));
        let asked = Arc::new(AtomicUsize::new(0));
        let (seen, met) = (Arc::clone(&asked), Arc::clone(&asked));
        let datagrams = std::thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            while !one.load(Ordering::Relaxed) {
                let Ok((length, from)) = udp.recv_from(&mut buffer) else { continue };
                seen.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = Self::answer(&buffer[..length], Over::Udp, told) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let streams = std::thread::spawn(move || {
            while !two.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = tcp.accept() else {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                met.fetch_add(1, Ordering::Relaxed);
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(ANSWER_MAX));
                if let Ok(Some(query)) = read(&mut stream)
                    && let Some(answer) = Self::answer(&query, Over::Tcp, told)
                {
                    let length = u16::try_from(answer.len()).unwrap_or_default().to_be_bytes();
                    let _ = stream.write_all(&[&length[..], &answer].concat());
                }
            }
        });
        Ok(Self { stop, asked, threads: vec![datagrams, streams] })
    }

    /// Datagrams and connections it had.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn answer(query: &[u8], over: Over, told: Ipv4Addr) -> Option<Vec<u8>> {
        let mut message = Message::from_vec(query).ok()?;
        let question = message.queries.first()?.clone();
        message.metadata.message_type = MessageType::Response;
        message.metadata.recursion_available = true;
        let name = question.name().clone();
        match question.query_type() {
            RecordType::A => {
                message.add_answer(Record::from_rdata(name, 7, RData::A(A(told))));
            }
            RecordType::TXT if over == Over::Udp => message.metadata.truncation = true,
            RecordType::TXT => {
                let text = vec!["x".repeat(200); LONG / 200];
                message.add_answer(Record::from_rdata(name, 7, RData::TXT(TXT::new(text))));
            }
            _ => message.metadata.response_code = ResponseCode::NXDomain,
        }
        message.to_vec().ok()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Two machines and a cable, a server of other domains on the right one, and what is in the left one's file before.
struct Scene {
    a: Member,
    b: Member,
    _elsewhere: Elsewhere,
    left: Space,
    right: Space,
    room: tempfile::TempDir,
}

const BEFORE: &str = "# by hand\nsearch example.org\nnameserver 10.77.0.2\noptions timeout:1\n";

impl Scene {
    fn new() -> Result<Self> {
        let (left, right) = (Space::new()?, Space::new()?);
        left.cable(("cable", "10.77.0.1/24"), &right, ("cable", "10.77.0.2/24"))?;
        left.resolver().write(BEFORE)?;
        let elsewhere = Elsewhere::start(&right, "10.77.0.2".parse()?, ELSEWHERE)?;
        let room = tempfile::tempdir()?;
        let a = Member::start(
            SHOALD,
            &left,
            &room.path().join("a"),
            &Self::arguments("10.77.0.1", &["--vpn-name", "nas"]),
        )?;
        let next = ["--bootstrap", &a.node.address, "--vpn-name", "box"];
        let b = Member::start(SHOALD, &right, &room.path().join("b"), &Self::arguments("10.77.0.2", &next))?;
        reached(&left, b.v4.into(), KNOWN);
        reached(&right, a.v6.into(), KNOWN);
        Ok(Self { a, b, _elsewhere: elsewhere, left, right, room })
    }

    fn arguments<'a>(address: &str, more: &[&'a str]) -> Vec<&'a str> {
        let listen = if address == "10.77.0.1" { "/ip4/10.77.0.1/tcp/0" } else { "/ip4/10.77.0.2/tcp/0" };
        [&OPEN[..], &[DEVICE, "--listen", listen], more].concat()
    }

    /// What the left machine's own node answers, over every transport and family alike.
    fn told(&self, name: &str, kind: RecordType) -> Message {
        let ways = [
            (self.a.v6.into(), Over::Udp),
            (self.a.v6.into(), Over::Tcp),
            (self.a.v4.into(), Over::Udp),
            (self.a.v4.into(), Over::Tcp),
        ];
        let answers: Vec<Message> = ways
            .into_iter()
            .map(|(to, over)| {
                let answer = ask(&self.left, to, over, name, kind).and_then(|answer| answer.context("no answer"));
                answer.unwrap_or_else(|error| panic!("{name} from {to} over {over:?}: {error:#}"))
            })
            .collect();
        // Everything but the number of the snapshot, which may have changed in between.
        let content = |message: &Message| (message.metadata, message.answers.clone(), message.authorities.len());
        for answer in &answers {
            assert_eq!(content(answer), content(&answers[0]), "{name}");
        }
        answers[0].clone()
    }

    fn found(&self, name: &str, kind: RecordType) -> Vec<RData> {
        self.told(name, kind).answers.into_iter().map(|record| record.data).collect()
    }
}

#[test]
fn members_are_found_by_name_and_others_where_they_were_found_before() {
    if !is_possible("members_are_found_by_name_and_others_where_they_were_found_before") {
        return;
    }
    let scene = Scene::new().unwrap();
    let known = || {
        let answer = ask(&scene.left, scene.a.v6.into(), Over::Udp, "box.vpn.shoal.internal.", RecordType::A);
        answer.unwrap().is_some_and(|answer| !answer.answers.is_empty())
    };
    let took = until("the other's name is known", KNOWN, known);
    say(&format!("vpn names: known {took:?} after both were reached"));
    let tag = NetworkId::derive(None, "vpn").unwrap().tag();
    let both = |member: &Member| (RData::A(A(member.v4)), RData::AAAA(member.v6.into()));
    for (member, label) in [(&scene.a, "nas"), (&scene.b, "box")] {
        let (a, aaaa) = both(member);
        for host in [member.node.id.as_str(), &member.node.id.to_ascii_lowercase(), label] {
            for network in ["vpn", &tag] {
                let name = format!("{host}.{network}.shoal.internal.");
                assert_eq!(scene.found(&name, RecordType::A), std::slice::from_ref(&a), "{name}");
                assert_eq!(scene.found(&name, RecordType::AAAA), std::slice::from_ref(&aaaa), "{name}");
            }
        }
        for address in member.addresses() {
            let [RData::PTR(name)] = &scene.found(&Name::from(address).to_ascii(), RecordType::PTR)[..] else {
                panic!("{address} leads to no name")
            };
            assert_eq!(name.0.to_ascii(), format!("{label}.vpn.shoal.internal."));
        }
    }
    for name in ["nobody.vpn.shoal.internal.", "box.other.shoal.internal."] {
        let answer = scene.told(name, RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert!(matches!(answer.authorities[..], [ref soa] if soa.record_type() == RecordType::SOA), "{name}");
    }
    assert_eq!(scene.found("www.example.com.", RecordType::A), [RData::A(A(ELSEWHERE))]);

    // What is too long for a datagram says so, and comes over TCP.
    let text = |over| ask(&scene.left, scene.a.v6.into(), over, "long.example.com.", RecordType::TXT).unwrap().unwrap();
    assert!(text(Over::Udp).metadata.truncation);
    let RData::TXT(long) = &text(Over::Tcp).answers[0].data else { panic!("no text") };
    assert_eq!(long.txt_data.iter().map(|part| part.len()).sum::<usize>(), LONG);

    // Programs of the machine ask by their own means.
    for (name, expected) in [
        ("box.vpn.shoal.internal", scene.b.v4.to_string()),
        ("nas.vpn.shoal.internal", scene.a.v4.to_string()),
        ("www.example.com", ELSEWHERE.to_string()),
    ] {
        let output = scene.left.command("getent").args(["ahostsv4", name]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.starts_with(&expected), "{name}: {said}");
    }
}

#[test]
fn a_member_asks_its_own_node_and_no_other() {
    if !is_possible("a_member_asks_its_own_node_and_no_other") {
        return;
    }
    let scene = Scene::new().unwrap();
    for to in scene.a.addresses() {
        for name in ["nas.vpn.shoal.internal.", "www.example.com."] {
            let answer = ask(&scene.right, to, Over::Udp, name, RecordType::A).unwrap().context("no answer").unwrap();
            assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name}");
            assert!(answer.answers.is_empty(), "{answer}");
            assert!(!matches!(ask(&scene.right, to, Over::Tcp, name, RecordType::A), Ok(Some(_))), "{name} over TCP");
        }
    }
    // The right machine's file named nobody, so there is nobody its node could ask.
    let own = scene.b.v6.into();
    let answer = ask(&scene.right, own, Over::Udp, "www.example.com.", RecordType::A).unwrap().unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    // Off the private network nobody answers at all: the server is on the private addresses alone.
    for space in [&scene.left, &scene.right] {
        assert!(space.inside(|| Ok(TcpStream::connect("10.77.0.1:53")?)).is_err());
    }
}

#[test]
fn the_file_of_the_resolver_is_as_it_was_when_the_node_is_gone() {
    if !is_possible("the_file_of_the_resolver_is_as_it_was_when_the_node_is_gone") {
        return;
    }
    let mut scene = Scene::new().unwrap();
    let data = scene.room.path().join("a");
    let file = |scene: &Scene| scene.left.resolver().read().unwrap();
    let with_block = file(&scene);
    let server = format!("nameserver {}", scene.a.v6);
    assert!(with_block.ends_with(BEFORE) && with_block.lines().nth(1) == Some(&server), "{with_block}");
    assert!(data.join("vpn-resolv.conf").exists());
    scene.a.node.terminate().unwrap();
    assert_eq!(file(&scene), BEFORE, "after SIGTERM");
    assert!(!data.join("vpn-resolv.conf").exists() && !data.join("vpn.made").exists());

    let start = |more: &[&'static str]| {
        let arguments = Scene::arguments("10.77.0.1", more);
        Member::start(SHOALD, &scene.left, &data, &arguments).unwrap()
    };
    let mut killed = start(&[]);
    killed.node.kill().unwrap();
    assert_eq!(file(&scene), with_block, "nobody takes it away after SIGKILL");
    // The next run takes it over, and its end takes it away.
    let mut again = start(&[]);
    assert_eq!(file(&scene), with_block);
    again.node.kill().unwrap();
    // A run that wants no names puts it right at once, and answers none.
    let mut without = start(&["--no-dns"]);
    assert_eq!(file(&scene), BEFORE, "after SIGKILL and a start");
    let place = SocketAddr::new(without.v6.into(), 53);
    assert!(scene.left.inside(|| Ok(TcpStream::connect_timeout(&place, ANSWER_MAX)?)).is_err());
    without.node.terminate().unwrap();
    assert_eq!(file(&scene), BEFORE);
    // Somebody else's lines that came meanwhile stay.
    let mut last = start(&[]);
    scene.left.resolver().write(&file(&scene).replace("timeout:1", "timeout:2")).unwrap();
    last.node.terminate().unwrap();
    assert_eq!(file(&scene), BEFORE.replace("timeout:1", "timeout:2"));
}
