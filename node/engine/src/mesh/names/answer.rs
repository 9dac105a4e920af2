//! From the bytes of a question to those of its answer, by a snapshot of the names. Messages are read and written by
//! hickory-proto; nothing is asked of anybody here, and no clock is read.
//!
//! Whatever a question holds, its answer is one message of at most [`ANSWER_MAX`] bytes. What is no question, or is an
//! answer itself, is answered by nothing at all, so that two servers never talk to each other without an end.

use std::sync::Arc;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::ask::{Meaning, There, is_of, meaning};
use super::forward::Asked;
use super::zone::{DOMAIN, Member, Zone};

/// Longest question that is read, bytes: one name, and room for what EDNS pads it with (RFC 8467 §4.1).
pub const QUERY_MAX: usize = 4096;
/// Longest answer about this network, bytes: what a datagram may have without EDNS (RFC 1035 §2.3.4). Names have at most
/// 255 and 134 bytes here, and there are two addresses to one.
pub const ANSWER_MAX: usize = 512;
/// How long an answer may be kept, seconds: a member that moved is found again within a minute.
pub const TTL_S: u32 = 60;
/// How long it may be remembered that there is none, seconds: members are heard of within seconds of their coming.
pub const NEGATIVE_TTL_S: u32 = 5;
/// What EDNS is told we take over UDP, bytes: what every path carries whole (RFC 9715 §3.1).
const PAYLOAD: u16 = 1232;
/// Most records beside a question: EDNS and a signature, with room.
const ADDITIONALS_MAX: u16 = 4;
/// SOA: refresh, retry and expire, for secondary servers that do not exist.
const SOA_TIMES: [i32; 3] = [3600, 600, 86_400];

/// What a question came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// A datagram.
    Udp,
    /// A stream.
    Tcp,
}

/// What becomes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This is the answer.
    Answer(Vec<u8>),
    /// Another server has to be asked, or it is to be refused.
    Elsewhere(Asked),
    /// Nothing is said.
    Silence,
}

/// See the head of this file.
#[must_use]
pub fn answer(query: &[u8], zone: &Zone, over: Over) -> Reply {
    answer_among(query, zone, &[], over)
}

/// As [`answer`]. `others` are zones of further networks of this machine: a name of theirs is answered as their
/// own servers do, everything else as if they were not there.
#[must_use]
pub fn answer_among(query: &[u8], zone: &Zone, others: &[Arc<Zone>], over: Over) -> Reply {
    let asked = match read(query) {
        Ok(asked) => asked,
        Err(None) => return Reply::Silence,
        Err(Some((header, code))) => return said(plain(&header, code)),
    };
    let name = asked.question.name();
    let texts: Option<Vec<String>> = name.iter().map(text).collect();
    // A label that is no text is none of ours, wherever it stands.
    let Some(texts) = texts else { return Reply::Elsewhere(asked) };
    let labels: Vec<&str> = texts.iter().map(String::as_str).collect();
    let owner = if is_of(&labels, zone) { None } else { others.iter().find(|other| is_of(&labels, other)) };
    let zone = owner.map_or(zone, Arc::as_ref);
    let Meaning::Ours { apex, there } = meaning(&labels, zone) else { return Reply::Elsewhere(asked) };
    if asked.question.query_class() != DNSClass::IN {
        return said(asked.reply(ResponseCode::Refused));
    }
    match ours(&asked, apex, there, zone) {
        Some(message) => bounded(message, &asked, over),
        None => said(asked.reply(ResponseCode::ServFail)),
    }
}

/// One refusal of a whole question, whoever asked: for those who may not ask.
#[must_use]
pub fn refusal(query: &[u8]) -> Option<Vec<u8>> {
    let asked = read(query).ok()?;
    asked.reply(ResponseCode::Refused).to_vec().ok()
}

/// Reads a question. Without one: nothing is said, or this code.
fn read(query: &[u8]) -> Result<Asked, Option<(Header, ResponseCode)>> {
    if query.len() > QUERY_MAX {
        return Err(None);
    }
    let header = Header::read(&mut BinDecoder::new(query)).map_err(|_| None)?;
    let (facts, counts) = (&header.metadata, &header.counts);
    if facts.message_type != MessageType::Query {
        return Err(None);
    }
    if facts.op_code != OpCode::Query {
        return Err(Some((header, ResponseCode::NotImp)));
    }
    // Counts are claims: room is made for them when the rest is read, so they are bounded here.
    let is_question = counts.queries == 1 && counts.answers == 0 && counts.authorities == 0;
    if !is_question || counts.additionals > ADDITIONALS_MAX {
        return Err(Some((header, ResponseCode::FormErr)));
    }
    let message = Message::from_vec(query).map_err(|_| Some((header, ResponseCode::FormErr)))?;
    let [question] = message.queries.as_slice() else { return Err(Some((header, ResponseCode::FormErr))) };
    let asked =
        Asked { question: question.clone(), bytes: query.to_vec(), metadata: message.metadata, edns: message.edns };
    if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(Some((header, ResponseCode::BADVERS)));
    }
    Ok(asked)
}

/// A label in small letters; none if it is not ASCII.
fn text(label: &[u8]) -> Option<String> {
    let text = core::str::from_utf8(label).ok().filter(|text| text.is_ascii())?;
    Some(text.to_ascii_lowercase())
}

/// The answer about a name of ours; none if it cannot be written.
fn ours(asked: &Asked, apex: usize, there: There<'_>, zone: &Zone) -> Option<Message> {
    let (name, kind) = (asked.question.name(), asked.question.query_type());
    let wants = |one: RecordType| kind == one || kind == RecordType::ANY;
    let mut message = asked.reply(ResponseCode::NoError);
    message.metadata.authoritative = true;
    let mut add = |data: RData| {
        message.add_answer(Record::from_rdata(name.clone(), TTL_S, data));
    };
    match there {
        There::Host(member) => {
            if let Some(v4) = member.v4.filter(|_| wants(RecordType::A)) {
                add(RData::A(A(v4)));
            }
            if wants(RecordType::AAAA) {
                add(RData::AAAA(AAAA(member.v6)));
            }
        }
        There::Pointer(member) if wants(RecordType::PTR) => add(RData::PTR(PTR(host_name(member, zone)?))),
        There::Apex => {
            if wants(RecordType::SOA) {
                add(RData::SOA(soa(zone)?));
            }
            if wants(RecordType::NS) {
                add(RData::NS(NS(name_of(zone.local(), zone)?)));
            }
        }
        There::Nothing => message.metadata.response_code = ResponseCode::NXDomain,
        There::Pointer(_) | There::Others => {}
    }
    if message.answers.is_empty() {
        let owner = name.trim_to(apex);
        message.add_authority(Record::from_rdata(owner, NEGATIVE_TTL_S, RData::SOA(soa(zone)?)));
    }
    Some(message)
}

/// The name a member is called by: its label, or its peer id.
fn host_name(member: &Member, zone: &Zone) -> Option<Name> {
    match &member.label {
        Some(label) => name_of(label.as_str(), zone),
        None => name_of(&member.node.to_string(), zone),
    }
}

fn name_of(host: &str, zone: &Zone) -> Option<Name> {
    let [domain, top] = DOMAIN;
    let labels = [host, zone.network(), domain, top];
    Name::from_labels(labels.map(str::as_bytes)).ok()
}

/// The authority: this node for itself, and nobody to write to (RFC 6303 §3 names them so).
fn soa(zone: &Zone) -> Option<SOA> {
    let nobody = Name::from_labels([&b"nobody"[..], b"invalid"]).ok()?;
    let [refresh, retry, expire] = SOA_TIMES;
    Some(SOA::new(name_of(zone.local(), zone)?, nobody, zone.serial(), refresh, retry, expire, NEGATIVE_TTL_S))
}

/// As bytes. What were longer than the asker takes would say so, and be asked again over TCP.
fn bounded(message: Message, asked: &Asked, over: Over) -> Reply {
    let most = match over {
        Over::Udp => asked.edns.as_ref().map_or(ANSWER_MAX, |edns| usize::from(edns.max_payload().clamp(512, PAYLOAD))),
        Over::Tcp => usize::from(u16::MAX),
    };
    match message.to_vec() {
        Ok(bytes) if bytes.len() <= most => Reply::Answer(bytes),
        _ => said(message.truncate()),
    }
}

fn said(message: Message) -> Reply {
    message.to_vec().map_or(Reply::Silence, Reply::Answer)
}

/// An answer to what could not be read: nothing but a code.
fn plain(header: &Header, code: ResponseCode) -> Message {
    let mut message = Message::response(header.metadata.id, header.metadata.op_code);
    message.metadata.response_code = code;
    message.metadata.recursion_desired = header.metadata.recursion_desired;
    if code.high() > 0 {
        message.edns = Some(own_edns(false));
    }
    message
}

/// What we say of ourselves to those who use EDNS.
pub(super) fn own_edns(dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_version(0).set_dnssec_ok(dnssec_ok);
    edns
}

/// The question alone, for those who compare.
pub(super) fn question(bytes: &[u8]) -> Option<(Header, Query)> {
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder).ok()?;
    if header.counts.queries != 1 {
        return None;
    }
    Some((header, Query::read(&mut decoder).ok()?))
}
