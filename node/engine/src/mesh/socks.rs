//! Messages of SOCKS5 (RFC 1928): read from a stream and from datagrams, and answers. It opens nothing and resolves nothing.
//!
//! A reader gets the bytes so far: `None` says that more are needed, never more than [`MESSAGE_MAX`]. No authentication is
//! all that is known: who reaches the port may use it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The version of everything here.
const VERSION: u8 = 5;
/// The method without authentication.
const NO_AUTHENTICATION: u8 = 0;
/// No method that was offered will do.
const NO_METHOD: u8 = 0xff;
/// The kinds of address.
const KIND_V4: u8 = 1;
/// See [`KIND_V4`].
const KIND_NAME: u8 = 3;
/// See [`KIND_V4`].
const KIND_V6: u8 = 4;
/// Bytes of the longest message of a stream: a greeting has 2 + 255, a request 4 + 1 + 255 + 2.
pub const MESSAGE_MAX: usize = 262;
/// Bytes before the payload of a datagram at most; as many as a request has.
pub const DATAGRAM_HEADER_MAX: usize = MESSAGE_MAX;

/// Why a message is none. Nothing is said to who sent it: what it speaks is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// Another protocol, or another version.
    #[error("version {0} is not 5")]
    Version(u8),
    /// A byte that has to be zero is not.
    #[error("a reserved byte is not zero")]
    Reserved,
    /// A name that is empty or no text.
    #[error("the name is none")]
    Name,
    /// A piece of a datagram: what was cut is not put together again, as the RFC leaves free.
    #[error("a fragment of a datagram")]
    Fragment,
    /// A datagram that ends early.
    #[error("a datagram ends early")]
    Truncated,
    /// An address of an unknown kind.
    #[error("no kind {0} of address is known")]
    AddressKind(u8),
}

/// What a client wants to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A connection.
    Connect,
    /// To be connected to: not offered.
    Bind,
    /// Datagrams.
    Associate,
    /// What nobody knows.
    Other(u8),
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Address(IpAddr),
    /// A name, as it was written.
    Name(String),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is to be done.
    pub command: Command,
    /// Where to.
    pub target: Target,
    /// And at which port.
    pub port: u16,
}

/// The answer to a request, by the numbers of the RFC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// It is done.
    Succeeded = 0,
    /// Something failed here.
    Failure = 1,
    /// The rules forbid it.
    NotAllowed = 2,
    /// No way leads there.
    NetworkUnreachable = 3,
    /// Nobody is there.
    HostUnreachable = 4,
    /// Somebody is there and does not want it.
    Refused = 5,
    /// Nobody answers in time.
    Expired = 6,
    /// The command is not offered.
    NoCommand = 7,
    /// The kind of address is not known.
    NoAddressKind = 8,
}

/// Reads a greeting: whether the client can go without authentication, and how many bytes it has.
///
/// # Errors
/// [`SocksError::Version`].
pub fn greeting(bytes: &[u8]) -> Result<Option<(bool, usize)>, SocksError> {
    version(bytes)?;
    let Some(count) = bytes.get(1).copied().map(usize::from) else { return Ok(None) };
    let end = count.saturating_add(2);
    Ok(bytes.get(2..end).map(|methods| (methods.contains(&NO_AUTHENTICATION), end)))
}

/// The answer to a greeting: without authentication, or not at all.
#[must_use]
pub const fn method(is_offered: bool) -> [u8; 2] {
    [VERSION, if is_offered { NO_AUTHENTICATION } else { NO_METHOD }]
}

/// Reads a request, and how many bytes it has.
///
/// # Errors
/// [`SocksError`]; for [`SocksError::AddressKind`] there is an answer.
pub fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, SocksError> {
    version(bytes)?;
    if bytes.get(2).is_some_and(|reserved| *reserved != 0) {
        return Err(SocksError::Reserved);
    }
    let Some((target, port, end)) = place(bytes)? else { return Ok(None) };
    let command = match bytes.get(1).copied().unwrap_or_default() {
        1 => Command::Connect,
        2 => Command::Bind,
        3 => Command::Associate,
        other => Command::Other(other),
    };
    Ok(Some((Request { command, target, port }, end)))
}

/// The answer to a request; `bound` is where this side of it is.
#[must_use]
pub fn reply(reply: Reply, bound: SocketAddr) -> Vec<u8> {
    let mut out = vec![VERSION, reply as u8, 0];
    write_place(bound, &mut out);
    out
}

/// Reads what stands before the payload of a datagram: where it goes, and where the payload begins.
///
/// # Errors
/// [`SocksError`].
pub fn datagram(bytes: &[u8]) -> Result<(Target, u16, usize), SocksError> {
    match bytes {
        [0, 0, 0, ..] => place(bytes)?.ok_or(SocksError::Truncated),
        [0, 0, _, ..] => Err(SocksError::Fragment),
        [_, _, _, ..] => Err(SocksError::Reserved),
        _ => Err(SocksError::Truncated),
    }
}

/// What stands before the payload of a datagram that came from `from`.
#[must_use]
pub fn datagram_header(from: SocketAddr) -> Vec<u8> {
    let mut out = vec![0; 3];
    write_place(from, &mut out);
    out
}

fn version(bytes: &[u8]) -> Result<(), SocksError> {
    match bytes.first() {
        Some(&other) if other != VERSION => Err(SocksError::Version(other)),
        _ => Ok(()),
    }
}

/// The place behind three bytes, and where it ends; none if it is not all there.
fn place(bytes: &[u8]) -> Result<Option<(Target, u16, usize)>, SocksError> {
    /// Where the address begins.
    const AT: usize = 4;
    let Some(kind) = bytes.get(3).copied() else { return Ok(None) };
    let rest = bytes.get(AT..).unwrap_or_default();
    let found = match kind {
        KIND_V4 => rest.first_chunk::<4>().map(|octets| (Target::Address(Ipv4Addr::from(*octets).into()), 4)),
        KIND_V6 => rest.first_chunk::<16>().map(|octets| (Target::Address(Ipv6Addr::from(*octets).into()), 16)),
        KIND_NAME => {
            let Some(length) = rest.first().copied().map(usize::from) else { return Ok(None) };
            if length == 0 {
                return Err(SocksError::Name);
            }
            let end = length.saturating_add(1);
            match rest.get(1..end) {
                Some(name) => Some((Target::Name(text(name)?), end)),
                None => None,
            }
        }
        other => return Err(SocksError::AddressKind(other)),
    };
    let Some((target, length)) = found else { return Ok(None) };
    let Some(port) = rest.get(length..).and_then(<[u8]>::first_chunk::<2>) else { return Ok(None) };
    Ok(Some((target, u16::from_be_bytes(*port), AT.saturating_add(length).saturating_add(2))))
}

/// A name as hosts have them: printable ASCII without spaces.
fn text(name: &[u8]) -> Result<String, SocksError> {
    let is_name = name.iter().all(u8::is_ascii_graphic);
    let text = core::str::from_utf8(name).ok().filter(|_| is_name);
    text.map(str::to_owned).ok_or(SocksError::Name)
}

fn write_place(place: SocketAddr, out: &mut Vec<u8>) {
    match place.ip() {
        IpAddr::V4(address) => {
            out.push(KIND_V4);
            out.extend(address.octets());
        }
        IpAddr::V6(address) => {
            out.push(KIND_V6);
            out.extend(address.octets());
        }
    }
    out.extend(place.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A request as a client writes it.
    fn written(command: u8, target: &Target, port: u16) -> Vec<u8> {
        let mut out = vec![5, command, 0];
        match target {
            Target::Address(address) => write_place(SocketAddr::new(*address, port), &mut out),
            Target::Name(name) => {
                out.extend([3, u8::try_from(name.len()).unwrap()]);
                out.extend(name.as_bytes());
                out.extend(port.to_be_bytes());
            }
        }
        out
    }

    fn target() -> impl Strategy<Value = Target> {
        prop_oneof![
            any::<Ipv4Addr>().prop_map(|address| Target::Address(address.into())),
            any::<Ipv6Addr>().prop_map(|address| Target::Address(address.into())),
            "[a-zA-Z0-9.-]{1,255}".prop_map(Target::Name),
        ]
    }

    #[test]
    fn a_greeting_needs_all_its_methods() {
        assert_eq!(greeting(&[]), Ok(None));
        assert_eq!(greeting(&[5]), Ok(None));
        assert_eq!(greeting(&[5, 2, 1]), Ok(None));
        assert_eq!(greeting(&[5, 2, 1, 0, 9]), Ok(Some((true, 4))));
        assert_eq!(greeting(&[5, 1, 2]), Ok(Some((false, 3))));
        assert_eq!(greeting(&[5, 0]), Ok(Some((false, 2))));
        assert_eq!(greeting(b"GET / HTTP/1.1"), Err(SocksError::Version(b'G')));
        assert_eq!((method(true), method(false)), ([5, 0], [5, 255]));
    }

    #[test]
    fn what_a_request_may_not_have_is_said() {
        assert_eq!(request(&[4, 1]), Err(SocksError::Version(4)));
        assert_eq!(request(&[5, 1, 7]), Err(SocksError::Reserved));
        assert_eq!(request(&[5, 1, 0, 2]), Err(SocksError::AddressKind(2)));
        assert_eq!(request(&[5, 1, 0, 3, 0]), Err(SocksError::Name));
        assert_eq!(request(&[5, 1, 0, 3, 2, b'a', b' ', 0, 1]), Err(SocksError::Name));
    }

    #[test]
    fn a_datagram_in_pieces_is_none() {
        assert_eq!(datagram(&[0, 0, 1, 1, 1, 2, 3, 4, 0, 5]), Err(SocksError::Fragment));
        assert_eq!(datagram(&[0, 1, 0, 1, 1, 2, 3, 4, 0, 5]), Err(SocksError::Reserved));
        assert_eq!(datagram(&[0, 0]), Err(SocksError::Truncated));
        assert_eq!(datagram(&[0, 0, 0, 1, 1, 2, 3, 4, 0]), Err(SocksError::Truncated));
        let from = SocketAddr::from(([1, 2, 3, 4], 5));
        assert_eq!(datagram_header(from), [0, 0, 0, 1, 1, 2, 3, 4, 0, 5]);
    }

    #[test]
    fn a_reply_has_the_number_and_the_place() {
        let bound = "[fd00::1]:1080".parse().unwrap();
        let mut wanted = vec![5, 2, 0, 4, 0xfd];
        wanted.extend([0; 14]);
        wanted.extend([1, 4, 56]);
        assert_eq!(reply(Reply::NotAllowed, bound), wanted);
    }

    proptest! {
        #[test]
        fn a_request_is_read_as_it_was_written_and_only_when_it_is_all_there(
            command in 1_u8..=9, target in target(), port: u16, more in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let bytes = written(command, &target, port);
            prop_assert!(bytes.len() <= MESSAGE_MAX);
            for end in 0..bytes.len() {
                prop_assert_eq!(request(&bytes[..end]), Ok(None));
            }
            let command = match command {
                1 => Command::Connect,
                2 => Command::Bind,
                3 => Command::Associate,
                other => Command::Other(other),
            };
            let all = [&bytes[..], &more].concat();
            prop_assert_eq!(request(&all), Ok(Some((Request { command, target, port }, bytes.len()))));
        }

        #[test]
        fn a_datagram_is_read_as_it_was_written(target in target(), port: u16, payload: Vec<u8>) {
            let mut bytes = written(0, &target, port);
            bytes[0] = 0;
            let at = bytes.len();
            bytes.extend(payload);
            prop_assert_eq!(datagram(&bytes), Ok((target, port, at)));
        }

        #[test]
        fn no_bytes_are_read_beyond_their_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some((_, end))) = greeting(&bytes) {
                prop_assert!(end <= bytes.len() && end <= MESSAGE_MAX);
            }
            if let Ok(Some((_, end))) = request(&bytes) {
                prop_assert!(end <= bytes.len() && end <= MESSAGE_MAX);
            }
            if let Ok((_, _, at)) = datagram(&bytes) {
                prop_assert!(at <= bytes.len() && at <= DATAGRAM_HEADER_MAX);
            }
        }
    }
}
