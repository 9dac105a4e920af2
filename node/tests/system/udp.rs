//! UDP sockets: batches arrive as the datagrams they were, whatever the kernel makes of them on the way.

use std::io::IoSliceMut;
use std::time::Instant;

use shoal_node::vpn::system::netlink::Netlink;
use shoal_node::vpn::system::tun::TunOptions;
use shoal_node::vpn::system::udp::{
    BUFFER_LENGTH, Batch, EcnCodepoint, RecvMeta, Sent, UdpError, UdpOptions, UdpSocket, datagrams,
};

use super::{WAIT, address, inside, run, say, switch_on_loopback, tun};

fn open(at: &str) -> UdpSocket {
    UdpSocket::open(&UdpOptions::new(address(at))).unwrap()
}

/// All datagrams until `count` of them are there, and how many reads that took.
fn receive(socket: &UdpSocket, count: usize) -> (Vec<Vec<u8>>, usize, RecvMeta) {
    let mut memory = vec![vec![0; BUFFER_LENGTH]; 4];
    let mut metas = [RecvMeta::default(); 4];
    let (mut arrived, mut filled, mut last) = (Vec::new(), 0, RecvMeta::default());
    let begun = Instant::now();
    while arrived.len() < count && begun.elapsed() < WAIT {
        let mut buffers: Vec<IoSliceMut<'_>> = memory.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let read = socket.receive(&mut buffers, &mut metas).unwrap();
        for (buffer, meta) in memory.iter().zip(&metas).take(read) {
            arrived.extend(datagrams(buffer, meta).map(<[u8]>::to_vec));
            filled += 1;
            last = *meta;
        }
    }
    (arrived, filled, last)
}

#[test]
fn batches_arrive_as_equal_datagrams() {
    inside("udp::batches_arrive_as_equal_datagrams", || {
        switch_on_loopback();
        let bytes: Vec<u8> = (0..=250).cycle().take(99 * 1200 + 700).collect();
        let sent: Vec<Vec<u8>> = bytes.chunks(1200).map(<[u8]>::to_vec).collect();
        for (from, to) in [("127.0.0.1:4000", "127.0.0.1:5000"), ("[::1]:4000", "[::1]:5000")] {
            let (sender, receiver) = (open(from), open(to));
            say(&format!("{:?}", sender.facts()));
            assert!(sender.batch() > 1 && receiver.facts().received_batch > 1);
            assert!(sender.facts().send_buffer >= 2 << 20 && receiver.facts().receive_buffer >= 16 << 20);
            let ecn = Some(EcnCodepoint::Ect1);
            let batch = Batch { to: address(to), from: None, ecn, bytes: &bytes, length: 1200 };
            assert_eq!(sender.send(&batch).unwrap(), Sent::All);
            let (arrived, reads, meta) = receive(&receiver, 100);
            assert_eq!(arrived, sent);
            assert!(reads < 10, "{reads} buffers for 100 datagrams: nothing was put together");
            assert_eq!((meta.addr, meta.ecn, meta.dst_ip), (address(from), ecn, Some(address(to).ip())));
            assert_eq!(receive_nothing(&receiver), 0);

            // One by one it is the same.
            let single = UdpOptions { batches: false, ..UdpOptions::new(address(from)) };
            drop(sender);
            let sender = UdpSocket::open(&single).unwrap();
            assert_eq!((sender.batch(), sender.send(&batch).unwrap()), (1, Sent::All));
            assert_eq!(receive(&receiver, 100).0, sent);
        }
    });
}

fn receive_nothing(socket: &UdpSocket) -> usize {
    let mut buffer = [0; 100];
    let empty = socket.receive(&mut [], &mut [RecvMeta::default()]).unwrap();
    empty + socket.receive(&mut [IoSliceMut::new(&mut buffer)], &mut [RecvMeta::default()]).unwrap()
}

#[test]
fn a_datagram_beyond_the_link_is_not_cut_and_does_not_end_batches() {
    inside("udp::a_datagram_beyond_the_link_is_not_cut_and_does_not_end_batches", || {
        switch_on_loopback();
        let mut netlink = Netlink::open().unwrap();
        let loopback = netlink.link("lo").unwrap().unwrap().index;
        netlink.set_mtu(loopback, 1500).unwrap();
        for (from, to, fits) in [("127.0.0.1:4000", "127.0.0.1:5000", 1472), ("[::1]:4000", "[::1]:5000", 1452)] {
            let (sender, receiver) = (open(from), open(to));
            let bytes = [1; 9000];
            let mut batch = Batch { to: address(to), from: None, ecn: None, bytes: &bytes, length: fits + 1 };
            assert_eq!(sender.send(&batch).unwrap(), Sent::TooLong(0));
            assert!(sender.batch() > 1);
            batch.length = fits;
            assert_eq!(sender.send(&batch).unwrap(), Sent::All);
            let (arrived, ..) = receive(&receiver, bytes.len().div_ceil(fits));
            assert_eq!(arrived.concat(), bytes);
        }
    });
}

#[test]
fn a_full_buffer_is_a_value_and_the_rest_follows() {
    inside("udp::a_full_buffer_is_a_value_and_the_rest_follows", || {
        let _device = tun(&TunOptions::new("shoal0", 1500), &[("10.99.0.1", 24)]);
        // What waits for its turn on a slow link stays the socket's.
        run("tc qdisc replace dev shoal0 root tbf rate 80kbit burst 2000 limit 10000000");
        let small = UdpOptions { send_buffer: 100_000, ..UdpOptions::new(address("10.99.0.1:4000")) };
        let socket = UdpSocket::open(&small).unwrap();
        let bytes = vec![3; 1000 * 1000];
        let batch = Batch { to: address("10.99.0.2:5000"), from: None, ecn: None, bytes: &bytes, length: 1000 };
        let Sent::Full(taken) = socket.send(&batch).unwrap() else { panic!("nothing stopped it") };
        assert!(taken > 0 && taken < bytes.len() && taken % 1000 == 0, "{taken}");
    });
}

#[test]
fn sockets_that_cannot_be_say_why() {
    inside("udp::sockets_that_cannot_be_say_why", || {
        switch_on_loopback();
        let first = open("127.0.0.1:4000");
        let open = |at: &str| UdpSocket::open(&UdpOptions::new(address(at)));
        assert!(matches!(open("127.0.0.1:4000"), Err(UdpError::PortTaken(_))));
        assert!(matches!(open("192.0.2.1:4000"), Err(UdpError::NoSuchAddress(_))));
        // An IPv6 socket leaves IPv4's ports to others.
        assert!(open("0.0.0.0:4001").is_ok() && open("[::]:4000").is_ok());
        let (zero, one) = (open("0.0.0.0:0").unwrap(), open("[::]:0").unwrap());
        assert!(zero.facts().local.port() > 0 && one.facts().local.port() > 0);
        let nowhere = Batch { to: address("192.0.2.1:1"), from: None, ecn: None, bytes: &[1], length: 1 };
        let error = zero.send(&nowhere).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NETUNREACH.raw_os_error()));
        drop(first);
    });
}
