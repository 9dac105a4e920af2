//! Messages of SOCKS5, as programs of a machine send them to a node without an interface: a stream of a greeting and a
//! request, and datagrams.

use shoal_engine::mesh::socks::{self, DATAGRAM_HEADER_MAX, MESSAGE_MAX, Reply};
use std::net::SocketAddr;

/// A greeting and what follows it, and the same bytes as a datagram. What is read lies in what came, no decision changes
/// with what comes behind it, and a message that is not all there yet is never longer than any may be.
pub fn socks_message(data: &[u8]) -> bool {
    let greeted = socks::greeting(data);
    if greeted == Ok(None) {
        assert!(data.len() < MESSAGE_MAX, "a greeting that never ends");
    }
    let mut understood = false;
    if let Ok(Some((_, end))) = greeted {
        assert!(end <= data.len());
        understood = request(data.get(end..).unwrap_or_default());
    }
    understood |= request(data);
    match socks::datagram(data) {
        Ok((target, port, at)) => {
            assert!(at <= data.len() && at <= DATAGRAM_HEADER_MAX);
            if let socks::Target::Address(address) = target {
                let place = SocketAddr::new(address, port);
                assert_eq!(socks::datagram_header(place), data[..at], "an address has one form");
            }
            true
        }
        Err(_) => understood,
    }
}

fn request(bytes: &[u8]) -> bool {
    match socks::request(bytes) {
        Ok(Some((request, end))) => {
            assert!(end <= bytes.len() && end <= MESSAGE_MAX);
            assert_eq!(socks::request(&bytes[..end]), Ok(Some((request, end))), "bytes behind it were read");
            for shorter in 0..end {
                assert_eq!(socks::request(&bytes[..shorter]), Ok(None), "half of it was enough");
            }
            true
        }
        Ok(None) => {
            assert!(bytes.len() < MESSAGE_MAX, "a request that never ends");
            false
        }
        Err(_) => false,
    }
}

/// Of each kind one.
pub(super) fn messages() -> Vec<Vec<u8>> {
    let greeting: &[u8] = &[5, 2, 2, 0];
    let name = b"nas.home.shoal.internal";
    let named = [&[3, name.len() as u8][..], name, &[0, 80]].concat();
    let v4 = socks::reply(Reply::Succeeded, SocketAddr::from(([100, 64, 1, 2], 80)));
    let v6 = socks::reply(Reply::Succeeded, SocketAddr::from(([0xfd00, 1, 2, 3, 4, 5, 6, 7], 443)));
    let connect = |place: &[u8]| [greeting, &[5, 1, 0], place].concat();
    vec![
        connect(&named),
        connect(&v4[3..]),
        connect(&v6[3..]),
        [greeting, &[5, 3, 0], &v4[3..]].concat(),
        [&[5, 1, 0][..], &named].concat(),
        [&[0, 0, 0][..], &named, b"payload"].concat(),
        [&[0, 0, 0][..], &v6[3..], b"payload"].concat(),
        [&[0, 0, 1][..], &v4[3..], b"a piece"].concat(),
        b"GET / HTTP/1.1\r\n".to_vec(),
    ]
}
