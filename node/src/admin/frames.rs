//! Frames of the control socket, read and written within a bound and a time, and requests in and out of JSON. It acts on
//! none.

use std::io::{self, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_protocol::local::{
    ANSWER_MAX, Answer, Code, Complaint, Envelope, PATIENCE_MS, PREFIX, REQUEST_MAX, Reply, Request, VERSION, frame,
    length,
};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// How long a request may take to arrive, and an answer to leave.
pub(crate) const PATIENCE: Duration = Duration::from_millis(PATIENCE_MS);
/// Characters of an error that are told: it may quote what was sent.
pub(super) const ERROR_MAX: usize = 300;

/// Reads one request.
///
/// # Errors
/// The complaint that is answered; none where the connection broke and nobody hears it.
pub(super) async fn request(reader: &mut (impl AsyncRead + Unpin)) -> Result<Envelope, Option<Complaint>> {
    let json = timeout(PATIENCE, read(reader)).await.map_err(|_| late())?;
    parse(&json?).map_err(Some)
}

async fn read(reader: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Option<Complaint>> {
    let mut prefix = [0; PREFIX];
    reader.read_exact(&mut prefix).await.map_err(|_| None)?;
    let length = length(prefix, REQUEST_MAX).map_err(|error| malformed(&error.to_string()))?;
    let mut json = vec![0; length];
    reader.read_exact(&mut json).await.map_err(|_| None)?;
    Ok(json)
}

/// The request in a frame's JSON.
///
/// # Errors
/// The complaint that is answered.
pub(crate) fn parse(json: &[u8]) -> Result<Envelope, Complaint> {
    /// What is read of a request that may be of a version to come.
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let other = serde_json::from_slice::<Versioned>(json).ok().filter(|said| said.version != VERSION);
    if let Some(Versioned { version }) = other {
        let what = format!("the request is of version {version}, this node speaks {VERSION}");
        let next = "use the program that came with the running shoald";
        return Err(Complaint::new(Code::Version, what, "node and program are of different releases", next));
    }
    match serde_json::from_slice::<Envelope>(json) {
        // What is about the store is about no network.
        Ok(Envelope { network: Some(_), request: Request::StoreStatus {} | Request::StoreJob { .. }, .. }) => {
            Err(malformed("the store is of no private network"))
        }
        Ok(envelope) => Ok(envelope),
        Err(error) => Err(malformed(&error.to_string())),
    }
}

fn malformed(reason: &str) -> Complaint {
    let what = format!("not a request: {reason}").chars().take(ERROR_MAX).collect::<String>();
    let next = "use shoal or shoald; docs/PROTOCOL.md has the requests";
    Complaint::new(Code::Malformed, what, "another program spoke, or one of another release", next)
}

fn late() -> Complaint {
    let what = format!("no whole request came within {} s", PATIENCE.as_secs());
    Complaint::new(Code::Late, what, "the program that asks hangs", "repeat")
}

/// An answer as a frame.
pub(super) fn encode<T: Serialize>(answer: Answer<T>) -> Vec<u8> {
    let json = serde_json::to_vec(&Reply::new(answer)).unwrap_or_default();
    frame(&json, ANSWER_MAX).unwrap_or_else(|| {
        let why = "there is more to tell than one answer holds";
        let complaint = Complaint::new(Code::TooLong, "the answer is too long", why, "ask for less");
        let json = serde_json::to_vec(&Reply::<()>::new(Answer::Error(complaint))).unwrap_or_default();
        frame(&json, ANSWER_MAX).unwrap_or_default()
    })
}

/// Asks on a connected socket, and waits for the answer's JSON. Blocks.
///
/// # Errors
/// The system's; `InvalidData` if what comes is no frame.
pub(crate) fn ask(stream: &mut (impl Read + Write), request: Request) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(&Envelope::new(request))?;
    let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    stream.write_all(&frame(&json, REQUEST_MAX).ok_or(io::ErrorKind::InvalidInput)?)?;
    let mut prefix = [0; PREFIX];
    stream.read_exact(&mut prefix)?;
    let length = length(prefix, ANSWER_MAX).map_err(wrong)?;
    let mut answer = Vec::new();
    // It grows by what comes, not by what was said.
    stream.take(length as u64).read_to_end(&mut answer)?;
    if answer.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::NodeId;
    use shoal_protocol::local::{JobCommand, PeerName};

    #[test]
    fn requests_read_in_their_only_form() {
        let node = NodeId::from_bytes([7; 32]);
        let job = |command| Request::StoreJob { name: "scrub".into(), command };
        let why = format!(r#"{{"version":1,"request":{{"vpn.why":{{"peer":"{node}"}}}}}}"#);
        for (text, request) in [
            (r#"{"version":1,"request":{"store.status":{}}}"#, Request::StoreStatus {}),
            (r#"{"version":1,"request":{"store.job":{"name":"scrub","command":"start"}}}"#, job(JobCommand::Start)),
            (
                r#"{"version":1,"request":{"store.job":{"name":"scrub","command":{"speed":7}}}}"#,
                job(JobCommand::Speed(7)),
            ),
            (r#"{"version":1,"request":{"vpn.status":{}}}"#, Request::VpnStatus {}),
            (r#"{"version":1,"request":{"vpn.peers":{}}}"#, Request::VpnPeers {}),
            (r#"{"version":1,"request":{"vpn.routes":{}}}"#, Request::VpnRoutes {}),
            (r#"{"version":1,"request":{"vpn.stats":{}}}"#, Request::VpnStats {}),
            (&why, Request::VpnWhy { peer: PeerName::Node(node) }),
            (
                r#"{"version":1,"request":{"vpn.ping":{"peer":"100.64.0.7","count":3}}}"#,
                Request::VpnPing { peer: PeerName::Address([100, 64, 0, 7].into()), count: 3 },
            ),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(Envelope::new(request.clone())), "{text}");
            assert_eq!(serde_json::to_string(&Envelope::new(request)).unwrap(), text);
        }
        let text = r#"{"version":1,"network":"work","request":{"vpn.status":{}}}"#;
        let envelope = Envelope::of(Some("work".into()), Request::VpnStatus {});
        assert_eq!(parse(text.as_bytes()), Ok(envelope.clone()));
        assert_eq!(serde_json::to_string(&envelope).unwrap(), text);
    }

    #[test]
    fn anything_else_is_refused_with_a_short_text() {
        let deep = "[".repeat(4_000);
        let unknown = format!(r#"{{"version":1,"request":{{"{}":{{}}}}}}"#, "x".repeat(3_000));
        for text in [
            "",
            "fish",
            "{}",
            "null",
            r#"{"version":1}"#,
            r#"{"request":{"vpn.status":{}}}"#,
            r#"{"version":"1","request":{"vpn.status":{}}}"#,
            r#"{"version":1,"version":1,"request":{"vpn.status":{}}}"#,
            r#"{"version":1,"network":7,"request":{"vpn.status":{}}}"#,
            r#"{"version":1,"network":"work","request":{"store.status":{}}}"#,
            r#"{"version":1,"request":"vpn.status"}"#,
            r#"{"version":1,"request":{"vpn.status":{"a":1}}}"#,
            r#"{"version":1,"request":{"vpn.status":{}},"more":1}"#,
            r#"{"version":1,"request":{"vpn.status":{}}} {}"#,
            r#"{"version":1,"request":{"vpn.status":{},"vpn.peers":{}}}"#,
            r#"{"version":1,"request":{"vpn.why":{}}}"#,
            r#"{"version":1,"request":{"vpn.why":{"peer":"me"}}}"#,
            r#"{"version":1,"request":{"vpn.ping":{"peer":"100.64.0.7"}}}"#,
            r#"{"version":1,"request":{"vpn.ping":{"peer":"100.64.0.7","count":256}}}"#,
            r#"{"version":1,"request":{"vpn.ping":{"peer":"100.64.0.7","count":-1}}}"#,
            r#"{"version":1,"request":{"store.job":{"name":"scrub","command":{"speed":-1}}}}"#,
            r#"{"version":1,"request":{"store.job":{"name":"scrub","command":"start","now":true}}}"#,
            &deep,
            &unknown,
        ] {
            let complaint = parse(text.as_bytes()).unwrap_err();
            assert_eq!(complaint.code, Code::Malformed, "{text}");
            assert!(complaint.what.chars().count() <= ERROR_MAX, "{}", complaint.what);
        }
        assert_eq!(parse(b"\xff\xfe").unwrap_err().code, Code::Malformed);
        let later = parse(br#"{"version":2,"request":{"vpn.dance":7},"more":true}"#).unwrap_err();
        assert_eq!(later.code, Code::Version);
    }

    #[test]
    fn an_answer_too_long_is_an_error_that_says_so() {
        let frame = encode(Answer::Ok("x".repeat(ANSWER_MAX)));
        let reply: Reply<String> = serde_json::from_slice(&frame[PREFIX..]).unwrap();
        assert!(matches!(reply.answer, Answer::Error(Complaint { code: Code::TooLong, .. })));
        assert_eq!(encode(Answer::Ok(7)), [&[0, 0, 0, 20][..], br#"{"version":1,"ok":7}"#].concat());
    }
}
