//! TUN devices: what they promise is what they do, down to super-packets in both directions, and every failure has its
//! own name.

use std::io::{IoSliceMut, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shoal_engine::mesh::packet::offload::{complete, ingest, rebuild};
use shoal_engine::mesh::packet::virtio::{GSO_NONE, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, VirtioHeader};
use shoal_engine::mesh::packet::{Parsed, Tcp};
use shoal_node::vpn::system::netlink::Netlink;
use shoal_node::vpn::system::tun::{Tun, TunError, TunOptions, Wanted, Written};
use shoal_node::vpn::system::udp::{BUFFER_LENGTH, Batch, RecvMeta, Sent, UdpOptions, UdpSocket, datagrams};
use shoal_protocol::mesh::meta::Meta;
use shoal_protocol::mesh::offloads::Offloads;
use socket2::{Domain, Protocol, Socket, Type};

use super::{address, framed, inside, inside_as, next_to, run, say, tun, turned};

const OWN: [(&str, u8); 2] = [("10.99.0.1", 24), ("fd99::1", 64)];

fn there() -> IpAddr {
    "10.99.0.2".parse().unwrap()
}

fn options(wanted: Wanted) -> TunOptions {
    TunOptions { wanted, ..TunOptions::new("shoal0", 1280) }
}

#[test]
fn a_device_says_what_it_got_and_the_kernel_says_the_same() {
    inside("tun::a_device_says_what_it_got_and_the_kernel_says_the_same", || {
        let mut netlink = Netlink::open().unwrap();
        let device = Tun::open(&options(Wanted::All), &mut netlink).unwrap();
        let facts = device.facts().clone();
        say(&format!("opened {facts:?}"));
        // Linux 6.2 and newer; the machine that runs this has to.
        assert_eq!(facts.offloads, Offloads::ALL);
        let link = netlink.link("shoal0").unwrap().unwrap();
        assert!(link.tun && !link.up && link.index == facts.index);
        assert_eq!((link.mtu, link.queue_length, link.gso_max_segments), (1280, 1000, 128));
        assert_eq!((facts.queue_length, facts.gso_max_segments), (1000, 128));
        drop(device);
        assert_eq!(netlink.link("shoal0").unwrap(), None, "a device outlives its owner");

        let device = Tun::open(&options(Wanted::Tcp), &mut netlink).unwrap();
        assert_eq!(device.facts().offloads, Offloads { uso: false, ..Offloads::ALL });
        drop(device);
        let device = Tun::open(&options(Wanted::Nothing), &mut netlink).unwrap();
        assert_eq!(device.facts().offloads, Offloads::default());
    });
}

/// A ping through the kernel: its question is read from the device, the answer written into it.
fn ping(wanted: Wanted) {
    let device = tun(&options(wanted), &OWN);
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    socket.set_read_timeout(Some(super::WAIT)).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(device.read(&mut buffer[..10]).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    // Echo request, number 1, with its checksum.
    socket.send_to(&[8, 0, 0xf7, 0xfd, 0, 1, 0, 1], &address("10.99.0.2:0").into()).unwrap();
    let mut polled = [PollFd::new(&device, PollFlags::IN)];
    assert_eq!(poll(&mut polled, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap(), 1);
    let (header, packet) = next_to(&device, there());
    assert_eq!((header, packet.len()), (VirtioHeader::default(), 28));
    assert_eq!(packet[20..], [8, 0, 0xf7, 0xfd, 0, 1, 0, 1]);

    let mut answer = turned(&packet);
    answer[20..].copy_from_slice(&[0, 0, 0xff, 0xfd, 0, 1, 0, 1]);
    assert_eq!(device.write(&framed(&header, &answer)).unwrap(), Written::Taken);
    let mut received = [std::mem::MaybeUninit::uninit(); 64];
    assert_eq!(socket.recv(&mut received).unwrap(), 28);
    assert!(device.as_fd().try_clone_to_owned().is_ok());
}

#[test]
fn a_ping_goes_out_and_comes_back_with_offloads() {
    inside("tun::a_ping_goes_out_and_comes_back_with_offloads", || ping(Wanted::All));
}

#[test]
fn a_ping_goes_out_and_comes_back_without_offloads() {
    inside("tun::a_ping_goes_out_and_comes_back_without_offloads", || ping(Wanted::Nothing));
}

/// A batch of 10 x 1,000 bytes through the kernel into the device, read and told to the wire and back, then turned round.
#[test]
fn a_batch_of_datagrams_is_one_super_packet_in_both_directions() {
    inside("tun::a_batch_of_datagrams_is_one_super_packet_in_both_directions", || {
        let device = tun(&options(Wanted::All), &OWN);
        let socket = UdpSocket::open(&UdpOptions::new(address("10.99.0.1:4000"))).unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let batch = Batch { to: address("10.99.0.2:5000"), from: None, ecn: None, bytes: &bytes, length: 1000 };
        assert_eq!(socket.send(&batch).unwrap(), Sent::All);
        let (header, mut packet) = next_to(&device, there());
        assert_eq!((header.gso_type, header.segment_size, packet.len()), (GSO_UDP_L4, 1000, 10_028));
        let (_, meta) = ingest(&header, &mut packet).unwrap();
        assert!(matches!(meta, Meta::Super { .. }));

        let mut back = turned(&packet);
        let (_, header) = rebuild(meta, &mut back).unwrap();
        assert_eq!(device.write(&framed(&header, &back)).unwrap(), Written::Taken);
        let mut buffer = vec![0; BUFFER_LENGTH];
        let mut metas = [RecvMeta::default()];
        let mut arrived = Vec::new();
        let begun = std::time::Instant::now();
        while arrived.len() < 10 && begun.elapsed() < super::WAIT {
            let count = socket.receive(&mut [IoSliceMut::new(&mut buffer)], &mut metas).unwrap();
            for meta in &metas[..count] {
                arrived.extend(datagrams(&buffer, meta).map(<[u8]>::to_vec));
            }
        }
        let sent: Vec<Vec<u8>> = bytes.chunks(1000).map(<[u8]>::to_vec).collect();
        assert_eq!(arrived, sent);
        // What no kernel takes: a super-packet whose segments are longer than all of it allows.
        let wrong = VirtioHeader { checksum_start: 60_000, ..header };
        assert_eq!(device.write(&framed(&wrong, &back)).unwrap(), Written::Refused);
    });
}

/// Without offloads the same batch comes datagram by datagram, its checksums made, and nothing open is taken.
#[test]
fn without_offloads_packets_are_whole_and_so_must_be_what_is_written() {
    inside("tun::without_offloads_packets_are_whole_and_so_must_be_what_is_written", || {
        let device = tun(&options(Wanted::Nothing), &OWN);
        let socket = UdpSocket::open(&UdpOptions::new(address("10.99.0.1:4000"))).unwrap();
        let batch = Batch { to: address("10.99.0.2:5000"), from: None, ecn: None, bytes: &[7; 3000], length: 1000 };
        assert_eq!(socket.send(&batch).unwrap(), Sent::All);
        for _ in 0..3 {
            let (header, packet) = next_to(&device, there());
            assert_eq!((header, packet.len()), (VirtioHeader::default(), 1028));
            let mut made = packet.clone();
            complete(&mut made, &Parsed::of(&packet).unwrap()).unwrap();
            assert_eq!(made, packet, "a checksum was left open");
            assert_eq!(device.write(&framed(&header, &packet)).unwrap(), Written::Taken);
            let open = VirtioHeader { flags: NEEDS_CSUM, checksum_start: 20, checksum_offset: 6, ..header };
            assert_eq!(device.write(&framed(&open, &packet)).unwrap(), Written::Refused);
        }
        assert_eq!(device.write(&[0; 4]).unwrap(), Written::Refused);
    });
}

/// Without super-packets of UDP the device is as with them, but for those.
#[test]
fn where_udp_is_not_wanted_its_datagrams_come_one_by_one() {
    inside("tun::where_udp_is_not_wanted_its_datagrams_come_one_by_one", || {
        let device = tun(&options(Wanted::Tcp), &OWN);
        for (from, to) in [("10.99.0.1:4000", "10.99.0.2:5000"), ("[fd99::1]:4000", "[fd99::2]:5000")] {
            let (from, to) = (address(from), address(to));
            let socket = UdpSocket::open(&UdpOptions::new(from)).unwrap();
            let batch = Batch { to, from: None, ecn: None, bytes: &[7; 3000], length: 1000 };
            assert_eq!((socket.batch(), socket.send(&batch).unwrap()), (64, Sent::All));
            for _ in 0..3 {
                let (header, packet) = next_to(&device, to.ip());
                let headers = if to.is_ipv4() { 28 } else { 48 };
                assert_eq!((header.gso_type, packet.len()), (GSO_NONE, 1000 + headers));
            }
        }
    });
}

/// A connection is opened by hand, then a long write has to come as a super-packet of TCP.
#[test]
fn a_long_write_of_tcp_is_one_super_packet() {
    inside("tun::a_long_write_of_tcp_is_one_super_packet", || {
        let device = tun(&options(Wanted::All), &OWN);
        let writer = std::thread::spawn(|| {
            let mut stream = TcpStream::connect("10.99.0.2:80")?;
            stream.write_all(&[5; 8000])?;
            // Closed only once the test has seen what it waits for.
            std::io::Read::read(&mut stream, &mut [0; 1])
        });
        let (_, syn) = next_to(&device, there());
        let Parsed { transport: shoal_engine::mesh::packet::Transport::Tcp(tcp), .. } = Parsed::of(&syn).unwrap()
        else {
            panic!("no TCP")
        };
        assert_eq!(tcp.flags, Tcp::SYN);
        // The same options, so the same segment size and window; number 1000.
        let mut answer = turned(&syn);
        answer[24..28].copy_from_slice(&1000_u32.to_be_bytes());
        answer[28..32].copy_from_slice(&tcp.sequence.wrapping_add(1).to_be_bytes());
        answer[33] = Tcp::SYN | Tcp::ACK;
        let parsed = Parsed::of(&answer).unwrap();
        complete(&mut answer, &parsed).unwrap();
        assert_eq!(device.write(&framed(&VirtioHeader::default(), &answer)).unwrap(), Written::Taken);
        let (header, packet) = loop {
            let (header, packet) = next_to(&device, there());
            if header.gso_type != GSO_NONE {
                break (header, packet);
            }
        };
        assert_eq!((header.gso_type, header.segment_size), (GSO_TCPV4, 1280 - 20 - 32));
        assert!(packet.len() > 2 * 1280, "{}", packet.len());
        let mut reset = turned(&packet[..52]);
        reset[3] = 52;
        reset[2] = 0;
        reset[24..28].copy_from_slice(&1001_u32.to_be_bytes());
        reset[33] = Tcp::RST;
        reset[10..12].fill(0);
        let sum = reset[..20].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum::<u32>();
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        reset[10..12].copy_from_slice(&sum.to_be_bytes());
        let parsed = Parsed::of(&reset).unwrap();
        complete(&mut reset, &parsed).unwrap();
        assert_eq!(device.write(&framed(&VirtioHeader::default(), &reset)).unwrap(), Written::Taken);
        assert!(writer.join().unwrap().is_err());
    });
}

#[test]
fn every_failure_has_its_name() {
    inside("tun::every_failure_has_its_name", || {
        let mut netlink = Netlink::open().unwrap();
        let mut open = |name: &str, mtu| Tun::open(&TunOptions::new(name, mtu), &mut netlink);
        let first = open("shoal0", 1280).unwrap();
        for taken in ["shoal0", "lo"] {
            assert!(matches!(open(taken, 1280), Err(TunError::NameTaken(_))), "{taken}");
        }
        for bad in ["", "shoal%d", "sixteen-letters-", "a b", "a/b"] {
            assert!(matches!(open(bad, 1280), Err(TunError::BadName(_))), "{bad}");
        }
        assert!(matches!(open("shoal1", 1279), Err(TunError::BadMtu(1279))));
        // A device of somebody else's that lives on without a process.
        run("ip tuntap add mode tun name others");
        assert!(matches!(open("others", 1280), Err(TunError::NameTaken(_))));
        drop(first);
        // One that has to go: its packets fail, and nothing else does.
        let device = tun(&options(Wanted::All), &OWN);
        let index = device.facts().index;
        Netlink::open().unwrap().remove_link(index).unwrap();
        assert!(device.read(&mut [0; 2000]).is_err());

        // An empty folder nobody may write to stands for a kernel without the driver.
        run("mount -t tmpfs -o ro tmpfs /dev/net");
        let mut netlink = Netlink::open().unwrap();
        let error = Tun::open(&TunOptions::new("shoal2", 1280), &mut netlink).unwrap_err();
        assert!(matches!(error, TunError::NoDriver(_)), "{error:?}");
    });
}

#[test]
fn without_the_capability_the_error_says_so() {
    let without = ["setpriv", "--inh-caps=-net_admin,-net_raw", "--bounding-set=-net_admin,-net_raw", "--"];
    inside_as("tun::without_the_capability_the_error_says_so", &without, || {
        let mut netlink = Netlink::open().unwrap();
        let error = Tun::open(&TunOptions::new("shoal0", 1280), &mut netlink).unwrap_err();
        assert!(matches!(error, TunError::NotPermitted(_)), "{error:?}");
        let marked = UdpOptions { mark: Some(1), ..UdpOptions::new(address("127.0.0.1:0")) };
        let error = UdpSocket::open(&marked).unwrap_err();
        assert!(matches!(error, shoal_node::vpn::system::udp::UdpError::NotPermitted(_)), "{error:?}");
        let error = netlink.remove_table(9999).and_then(|_| netlink.set_up(1, true)).unwrap_err();
        assert!(matches!(error, shoal_node::vpn::system::netlink::NetlinkError::NotPermitted { .. }), "{error:?}");
    });
}
