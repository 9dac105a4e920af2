//! A question that is not about this network: as it goes to another server, and which message is the answer to it. The
//! message is passed on unread behind its question; it sends nothing, and takes its random number from the caller.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, Query, ResponseCode};

use super::answer::{own_edns, question};

/// A question somebody asked, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub(super) question: Query,
    pub(super) bytes: Vec<u8>,
    pub(super) metadata: Metadata,
    pub(super) edns: Option<Edns>,
}

impl Asked {
    /// The bytes to send to another server: as they were asked, under another number, which nobody can foresee.
    #[must_use]
    pub fn forwarded(&self, number: u16) -> Vec<u8> {
        numbered(&self.bytes, number)
    }

    /// What the asker is told if `answer` is the answer to what was sent under `number`: the same bytes, under the asker's
    /// own number. None where it is something else, which whoever waits ignores.
    #[must_use]
    pub fn answered(&self, answer: &[u8], number: u16) -> Option<Vec<u8>> {
        let (header, asked) = question(answer)?;
        let is_answer = header.metadata.message_type == MessageType::Response
            && header.metadata.id == number
            && header.metadata.op_code == self.metadata.op_code
            && asked.name() == self.question.name()
            && asked.query_type() == self.question.query_type()
            && asked.query_class() == self.question.query_class();
        is_answer.then(|| numbered(answer, self.metadata.id))
    }

    /// The asker is told that nobody here asks others.
    #[must_use]
    pub fn refused(&self) -> Option<Vec<u8>> {
        self.reply(ResponseCode::Refused).to_vec().ok()
    }

    /// The asker is told that no other server answered.
    #[must_use]
    pub fn failed(&self) -> Option<Vec<u8>> {
        self.reply(ResponseCode::ServFail).to_vec().ok()
    }

    /// An empty answer with the question in it.
    pub(super) fn reply(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.metadata.id, self.metadata.op_code);
        message.metadata.response_code = code;
        message.metadata.recursion_desired = self.metadata.recursion_desired;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        message.add_query(self.question.clone());
        message.edns = self.edns.as_ref().map(|edns| own_edns(edns.flags().dnssec_ok));
        message
    }
}

/// A message under another number: its first two bytes (RFC 1035 §4.1.1).
fn numbered(message: &[u8], number: u16) -> Vec<u8> {
    let mut out = message.to_vec();
    for (byte, new) in out.iter_mut().zip(number.to_be_bytes()) {
        *byte = new;
    }
    out
}
