//! One question to the node that runs on a directory, over its administration socket. It opens no store and waits for
//! no more than a few seconds.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::de::DeserializeOwned;
use shoal_protocol::local::{Answer, Reply, Request, SOCKET};

use crate::admin::Address;
use crate::admin::frames::{self, PATIENCE};
use crate::problem::{Failure, Problem};

/// What the running node says; `None` if none runs.
pub(super) fn ask<T: DeserializeOwned>(data: &Path, request: Request) -> Result<Option<T>, Problem> {
    let stream = match Address::new(data).and_then(|address| UnixStream::connect(address.path())) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(unreachable(data, &error)),
    };
    let json = converse(stream, request).map_err(|error| unreachable(data, &error))?;
    match serde_json::from_slice(&json) {
        Ok(Reply { answer: Answer::Ok(told), .. }) => Ok(Some(told)),
        Ok(Reply { answer: Answer::Error(complaint), .. }) => {
            let what = format!("the node refused: {}", complaint.what);
            Err(Problem::new(Failure::Other, what, &complaint.why, &complaint.next))
        }
        Err(_) => {
            let what = format!("the answer from {} makes no sense", data.join(SOCKET).display());
            Err(Problem::new(Failure::Other, what, "the node is of another version, or just ended", "repeat"))
        }
    }
}

fn converse(mut stream: UnixStream, request: Request) -> io::Result<Vec<u8>> {
    // Twice the node's patience: it may be busy with others first.
    let patience = PATIENCE.saturating_mul(2);
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    frames::ask(&mut stream, request)
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
    use shoal_protocol::local::{ANSWER_MAX, PREFIX, frame};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// What is made of this answer where a number is asked for.
    fn answered(answer: Vec<u8>) -> Result<Option<u8>, Problem> {
        let place = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(place.path().join(SOCKET)).unwrap();
        let node = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut prefix = [0; PREFIX];
            stream.read_exact(&mut prefix).unwrap();
            let mut json = vec![0; u32::from_be_bytes(prefix) as usize];
            stream.read_exact(&mut json).unwrap();
            stream.write_all(&answer).unwrap();
            String::from_utf8(json).unwrap()
        });
        let result = ask(place.path(), Request::StoreStatus {});
        assert_eq!(node.join().unwrap(), r#"{"version":1,"request":{"store.status":{}}}"#);
        result
    }

    fn framed(json: &str) -> Vec<u8> {
        frame(json.as_bytes(), ANSWER_MAX).unwrap()
    }

    #[test]
    fn nobody_there_is_no_error_and_nonsense_is_one() {
        let place = tempfile::tempdir().unwrap();
        assert!(matches!(ask::<()>(place.path(), Request::StoreStatus {}), Ok(None)));
        drop(UnixListener::bind(place.path().join(SOCKET)).unwrap());
        assert!(matches!(ask::<()>(place.path(), Request::StoreStatus {}), Ok(None)), "a dead node's socket");
        assert!(matches!(answered(framed(r#"{"version":1,"ok":7}"#)), Ok(Some(7))));
        let cut = framed(r#"{"version":1,"ok":7}"#)[..20].to_vec();
        let huge = [&[0xff; 4][..], b"{}"].concat();
        let texts = ["{}", r#"{"version":1,"ok":{"health":1}}"#, r#"{"version":1,"ok":"#].map(framed);
        for nonsense in texts.into_iter().chain([vec![], cut, huge, b"{\"ok\":null}\n".to_vec()]) {
            assert!(answered(nonsense).is_err());
        }
        let refused = r#"{"version":1,"error":{"code":"new","what":"no such job","why":"w","try":"t"}}"#;
        let refused = answered(framed(refused)).unwrap_err().to_string();
        assert!(refused.contains("the node refused: no such job"), "{refused}");
    }
}
