//! One question to the node that runs on a directory, over its administration socket. It opens no store and waits for
//! no more than a few seconds.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::admin::{Address, Answer, LINE_MAX, NodeStatus, PATIENCE, Request, SOCKET};
use crate::problem::{Failure, Problem};

/// What the running node says; `None` if none runs.
pub(super) fn ask(data: &Path, request: &Request) -> Result<Option<Option<Box<NodeStatus>>>, Problem> {
    let stream = match Address::new(data).and_then(|address| UnixStream::connect(address.path())) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(unreachable(data, &error)),
    };
    let line = converse(stream, request).map_err(|error| unreachable(data, &error))?;
    match serde_json::from_slice(&line) {
        Ok(Answer::Ok(status)) => Ok(Some(status)),
        Ok(Answer::Error(text)) => {
            let cause = "the node is of another version, or under heavy load";
            Err(Problem::new(Failure::Other, format!("the node refused: {text}"), cause, "use the shoald that runs"))
        }
        Err(_) => Err(senseless(data)),
    }
}

/// What a user is told about an answer that is none.
pub(super) fn senseless(data: &Path) -> Problem {
    let what = format!("the answer from {} makes no sense", data.join(SOCKET).display());
    Problem::new(Failure::Other, what, "the node is of another version, or just ended", "repeat")
}

fn converse(mut stream: UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    // Twice the node's patience: it may be busy with others first.
    let patience = PATIENCE.saturating_mul(2);
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream).take(LINE_MAX as u64).read_until(b'\n', &mut answer)?;
    Ok(answer)
}

fn unreachable(data: &Path, error: &io::Error) -> Problem {
    let what = format!("cannot ask the node at {}: {error}", data.join(SOCKET).display());
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Problem::new(Failure::Denied, what, "the node belongs to somebody else", "repeat as its owner");
    }
    Problem::new(Failure::Other, what, "it is starting, ending or overloaded", "wait a moment and repeat")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn answered(answer: &'static [u8]) -> Result<Option<Option<Box<NodeStatus>>>, Problem> {
        let place = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(place.path().join(SOCKET)).unwrap();
        let node = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(answer).unwrap();
            line
        });
        let result = ask(place.path(), &Request::Status {});
        assert_eq!(node.join().unwrap(), "{\"status\":{}}\n");
        result
    }

    #[test]
    fn nobody_there_is_no_error_and_nonsense_is_one() {
        let place = tempfile::tempdir().unwrap();
        assert!(matches!(ask(place.path(), &Request::Status {}), Ok(None)));
        drop(UnixListener::bind(place.path().join(SOCKET)).unwrap());
        assert!(matches!(ask(place.path(), &Request::Status {}), Ok(None)), "a dead node's socket");
        assert!(matches!(answered(b"{\"ok\":null}\n"), Ok(Some(None))));
        for nonsense in [&b""[..], b"\n", b"{\"ok\":{\"health\":1}}\n", b"{\"ok\":"] {
            assert!(answered(nonsense).is_err());
        }
        let refused = answered(b"{\"error\":\"no such job\"}\n").unwrap_err().to_string();
        assert!(refused.contains("the node refused: no such job"), "{refused}");
    }
}
