//! From bytes to a question and from a reply to bytes. No I/O, no decisions.

use bytes::Bytes;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Bytes of a DNS header.
pub const HEADER: usize = 12;
/// UDP payload size that we announce (DNS flag day 2020).
const OUR_PAYLOAD: u16 = 1232;
/// Largest UDP answer we make, whatever the client allows: a sidecar's clients are on loopback, where
/// nothing fragments.
pub const MAX_UDP: usize = 4096;
/// Largest message over TCP.
pub const MAX_TCP: usize = u16::MAX as usize;

/// How a question came, and so how large its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A frame with two bytes of length.
    Tcp,
}

/// One question that can be answered.
#[derive(Debug, Clone)]
pub struct Question {
    /// Lower case, no final dot; empty for the root.
    pub name: String,
    /// What is asked for.
    pub kind: RecordType,
    /// How it came.
    pub transport: Transport,
    /// The bytes as they came.
    pub raw: Bytes,
    id: u16,
    asked: Query,
    recursion_desired: bool,
    checking_disabled: bool,
    /// The client's EDNS payload size and its DO bit.
    edns: Option<(u16, bool)>,
}

/// What a message turned out to be.
#[derive(Debug)]
pub enum Parsed {
    /// To be answered.
    Question(Box<Question>),
    /// Not answerable, with the refusal to send.
    Refuse(Vec<u8>),
    /// Not a query at all; answering could make two servers talk for ever.
    Ignore,
}

/// An answer before it has bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The response code.
    pub code: ResponseCode,
    /// Whether we are the authority for the name.
    pub authoritative: bool,
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section: the SOA of a negative answer.
    pub authorities: Vec<Record>,
}

impl Reply {
    /// An authoritative answer; without records it says that the name exists and this type does not.
    pub fn authoritative(answers: Vec<Record>) -> Self {
        Self {
            code: ResponseCode::NoError,
            authoritative: true,
            answers,
            authorities: Vec::new(),
        }
    }

    /// A reply of a code alone.
    pub fn code(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
        }
    }
}

/// Reads one message.
pub fn parse(raw: Bytes, transport: Transport) -> Parsed {
    if raw.len() < HEADER || raw[2] & 0x80 != 0 {
        return Parsed::Ignore;
    }
    let id = u16::from_be_bytes([raw[0], raw[1]]);
    let refuse =
        |op: OpCode, code| Parsed::Refuse(encode_or_header(&Message::error_msg(id, op, code), id, code));
    let Ok(message) = Message::from_vec(&raw) else {
        return refuse(OpCode::Query, ResponseCode::FormErr);
    };
    let meta = &message.metadata;
    if meta.message_type != MessageType::Query {
        return Parsed::Ignore;
    }
    if meta.op_code != OpCode::Query {
        return refuse(meta.op_code, ResponseCode::NotImp);
    }
    let [asked] = message.queries.as_slice() else {
        return refuse(OpCode::Query, ResponseCode::FormErr);
    };
    if let Some(edns) = &message.edns
        && edns.version() > 0
    {
        let mut reply = Message::error_msg(id, OpCode::Query, ResponseCode::BADVERS);
        reply.queries.push(asked.clone());
        let mut ours = Edns::new();
        ours.set_max_payload(OUR_PAYLOAD)
            .set_rcode_high(ResponseCode::BADVERS.high());
        reply.edns = Some(ours);
        return Parsed::Refuse(encode_or_header(&reply, id, ResponseCode::FormErr));
    }
    if asked.query_class() != DNSClass::IN
        || matches!(asked.query_type(), RecordType::AXFR | RecordType::IXFR)
    {
        let mut reply = Message::error_msg(id, OpCode::Query, ResponseCode::Refused);
        reply.queries.push(asked.clone());
        return Parsed::Refuse(encode_or_header(&reply, id, ResponseCode::Refused));
    }
    Parsed::Question(Box::new(Question {
        name: plain(asked.name()),
        kind: asked.query_type(),
        transport,
        id,
        asked: asked.clone(),
        recursion_desired: meta.recursion_desired,
        checking_disabled: meta.checking_disabled,
        edns: message
            .edns
            .as_ref()
            .map(|e| (e.max_payload(), e.flags().dnssec_ok)),
        raw,
    }))
}

/// A name as tables have it: lower case, no final dot.
pub fn plain(name: &Name) -> String {
    let mut text = name.to_ascii();
    if text.ends_with('.') {
        text.pop();
    }
    text.make_ascii_lowercase();
    text
}

impl Question {
    /// The message's id.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The name as it was asked, for the answer's records.
    pub fn owner(&self) -> &Name {
        self.asked.name()
    }

    /// A record for the name that was asked.
    pub fn record(&self, ttl: u32, data: RData) -> Record {
        Record::from_rdata(self.owner().clone(), ttl, data)
    }

    /// Whether records of `kind` answer this question.
    pub fn wants(&self, kind: RecordType) -> bool {
        self.kind == kind || self.kind == RecordType::ANY
    }

    /// The question section as it came: name, type and class. Names are never compressed there, because
    /// nothing stands before them that a pointer could point to.
    pub(crate) fn asked_bytes(&self) -> &[u8] {
        let mut at = HEADER;
        while let Some(&length) = self.raw.get(at).filter(|l| **l != 0) {
            at += 1 + usize::from(length);
        }
        self.raw.get(HEADER..at + 5).unwrap_or_default()
    }

    /// What an answer depends on besides name and type, for caches.
    pub(crate) fn variant(&self) -> (bool, bool, bool, bool) {
        let dnssec = self.edns.is_some_and(|(_, dnssec)| dnssec);
        (
            self.recursion_desired,
            self.checking_disabled,
            self.edns.is_some(),
            dnssec,
        )
    }

    /// Most bytes the answer may have.
    pub fn room(&self) -> usize {
        match (self.transport, self.edns) {
            (Transport::Tcp, _) => MAX_TCP,
            (Transport::Udp, None) => 512,
            (Transport::Udp, Some((payload, _))) => usize::from(payload).clamp(512, MAX_UDP),
        }
    }

    /// The reply in bytes. What does not fit is cut at a record and the truncation bit set, so that a
    /// client without TCP still has addresses to use (RFC 2181 section 9).
    pub fn encode(&self, reply: &Reply) -> Vec<u8> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.response_code = reply.code;
        message.metadata.authoritative = reply.authoritative;
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.answers.clone_from(&reply.answers);
        message.authorities.clone_from(&reply.authorities);
        self.finish(message)
    }

    /// Bytes of a message of somebody else, made an answer to this question: id, question and size.
    pub(crate) fn readdress(&self, mut message: Message) -> Vec<u8> {
        message.metadata.id = self.id;
        message.metadata.recursion_desired = self.recursion_desired;
        self.finish(message)
    }

    fn finish(&self, mut message: Message) -> Vec<u8> {
        message.queries = vec![self.asked.clone()];
        message.edns = self.edns.map(|(_, dnssec)| {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_PAYLOAD).set_dnssec_ok(dnssec);
            edns
        });
        let room = self.room();
        loop {
            match message.to_vec() {
                Ok(bytes) if bytes.len() <= room => return bytes,
                // Only a message of ours whose records cannot be written gets here.
                Err(_) if message.answers.is_empty() && message.authorities.is_empty() => {
                    return header(self.id, ResponseCode::ServFail);
                }
                Ok(_) if message.answers.is_empty() && message.authorities.is_empty() => {
                    return header(self.id, ResponseCode::ServFail);
                }
                _ => {
                    message.metadata.truncation = true;
                    message.additionals.clear();
                    if message.authorities.is_empty() {
                        let keep = message.answers.len() * 7 / 8;
                        message.answers.truncate(keep);
                    } else {
                        message.authorities.clear();
                    }
                }
            }
        }
    }
}

fn encode_or_header(message: &Message, id: u16, code: ResponseCode) -> Vec<u8> {
    message.to_vec().unwrap_or_else(|_| header(id, code))
}

/// A bare header with QR set.
fn header(id: u16, code: ResponseCode) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    vec![a, b, 0x80, code.low(), 0, 0, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::A;

    use super::*;

    pub(crate) fn query(name: &str, kind: RecordType, edns: Option<u16>) -> Bytes {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message
            .queries
            .push(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.edns = edns.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        message.to_vec().unwrap().into()
    }

    fn question(name: &str, edns: Option<u16>, transport: Transport) -> Question {
        match parse(query(name, RecordType::A, edns), transport) {
            Parsed::Question(q) => *q,
            other => panic!("{other:?}"),
        }
    }

    fn many(q: &Question, n: u8) -> Reply {
        Reply::authoritative(
            (0..n)
                .map(|i| q.record(30, RData::A(A::new(10, 0, 0, i))))
                .collect(),
        )
    }

    #[test]
    fn an_answer_echoes_id_case_and_flags() {
        let q = question("ReViews.Default.", Some(1232), Transport::Udp);
        assert_eq!(q.name, "reviews.default");
        let m = Message::from_vec(&q.encode(&many(&q, 1))).unwrap();
        assert_eq!(m.metadata.id, 77);
        assert!(m.metadata.authoritative && m.metadata.recursion_desired && m.metadata.recursion_available);
        assert_eq!(m.queries[0].name().to_ascii(), "ReViews.Default.");
        assert_eq!(m.answers[0].name.to_ascii(), "ReViews.Default.");
        assert!(m.edns.is_some());
        let q = question("a.", None, Transport::Udp);
        assert!(Message::from_vec(&q.encode(&many(&q, 1))).unwrap().edns.is_none());
    }

    #[test]
    fn what_does_not_fit_is_cut_at_a_record() {
        for (edns, room) in [(None, 512), (Some(100), 512), (Some(1232), 1232)] {
            let q = question("a.example.", edns, Transport::Udp);
            let bytes = q.encode(&many(&q, 200));
            assert!(bytes.len() <= room && bytes.len() > room / 2, "{}", bytes.len());
            let m = Message::from_vec(&bytes).unwrap();
            assert!(m.metadata.truncation && !m.answers.is_empty());
        }
        let q = question("a.example.", None, Transport::Tcp);
        let m = Message::from_vec(&q.encode(&many(&q, 200))).unwrap();
        assert!(!m.metadata.truncation);
        assert_eq!(m.answers.len(), 200);
    }

    #[test]
    fn what_is_no_plain_query_is_refused_or_ignored() {
        let code = |bytes: Vec<u8>| Message::from_vec(&bytes).unwrap().metadata.response_code;
        let refusal = |raw: Bytes| match parse(raw, Transport::Udp) {
            Parsed::Refuse(bytes) => code(bytes),
            other => panic!("{other:?}"),
        };
        assert!(matches!(
            parse(Bytes::from_static(&[1, 2, 3]), Transport::Udp),
            Parsed::Ignore
        ));
        let mut response = query("a.", RecordType::A, None).to_vec();
        response[2] |= 0x80;
        assert!(matches!(parse(response.into(), Transport::Udp), Parsed::Ignore));
        let mut notify = query("a.", RecordType::A, None).to_vec();
        notify[2] |= 4 << 3;
        assert_eq!(refusal(notify.into()), ResponseCode::NotImp);
        let mut two = query("a.", RecordType::A, None).to_vec();
        two[5] = 2;
        assert_eq!(refusal(two.into()), ResponseCode::FormErr);
        assert_eq!(
            refusal(query("a.", RecordType::AXFR, None)),
            ResponseCode::Refused
        );
        let mut chaos = query("version.bind.", RecordType::TXT, None).to_vec();
        let at = chaos.len() - 1;
        chaos[at] = 3;
        assert_eq!(refusal(chaos.into()), ResponseCode::Refused);
        let mut newer = query("a.", RecordType::A, Some(1232)).to_vec();
        let version = newer.len() - 5;
        newer[version] = 1;
        // 16 is BADVERS here and BADSIG in a signed message.
        assert_eq!(u16::from(refusal(newer.into())), u16::from(ResponseCode::BADVERS));
    }
}
