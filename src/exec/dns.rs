//! The name server inside the namespace (RFC 1035): it gives names addresses that stand for them. PURE.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_resolver::proto::{
    op::{Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::PTR},
    serialize::binary::{BinDecodable, BinDecoder},
};

use super::names::{Names, stands_for_a_name};
use crate::flow::Host;

/// How long programs may keep an address, in seconds. Short, so that a name in use is asked for again and its address
/// is not given away.
const TTL: u32 = 30;

/// The answer to a query; `None` if it is none. If `is_there` is false the node does not answer, and no name resolves.
pub(super) fn answer(query: &[u8], is_there: bool, names: &mut Names) -> Option<Vec<u8>> {
    let mut decoder = BinDecoder::new(query);
    let header = Header::read(&mut decoder).ok()?;
    // What is an answer itself gets none.
    if header.message_type == MessageType::Response {
        return None;
    }
    let mut answer = Message::response(header.id, header.op_code);
    answer.metadata = Metadata::response_from_request(&header.metadata);
    answer.metadata.recursion_available = true;
    // One question; what follows it, such as EDNS, asks for nothing that is answered here, and is not read.
    let one = header.counts.queries == 1;
    let question = one.then(|| Query::read(&mut decoder).ok()).flatten();
    let reply = match &question {
        None => Err(ResponseCode::FormErr),
        Some(question)
            if header.op_code != OpCode::Query || question.query_class() != DNSClass::IN =>
        {
            Err(ResponseCode::NotImp)
        }
        Some(_) if !is_there => Err(ResponseCode::ServFail),
        Some(question) => reply(question, names),
    };
    match (&question, reply) {
        (Some(question), Ok(Some(data))) => {
            answer.answers.push(Record::from_rdata(question.name().clone(), TTL, data));
        }
        (_, Ok(_)) => {}
        (_, Err(code)) => answer.metadata.response_code = code,
    }
    answer.queries.extend(question);
    answer.to_vec().ok()
}

/// The content of a record; `None`: the name exists, but has no such record.
fn reply(question: &Query, names: &mut Names) -> Result<Option<RData>, ResponseCode> {
    if question.query_type() == RecordType::PTR {
        let name = asked_about(question.name()).and_then(|address| names.name_of(address));
        let name = name.ok_or(ResponseCode::NXDomain)?;
        let name = Name::from_ascii(name).map_err(|_| ResponseCode::ServFail)?;
        return Ok(Some(RData::PTR(PTR(name))));
    }
    let name = question.name().to_lowercase().to_ascii();
    let name = name.trim_end_matches('.');
    let is_local = name == "localhost" || name.ends_with(".localhost");
    let host = name.parse::<Host>().map_err(|_| ResponseCode::NXDomain)?;
    match (question.query_type(), host) {
        (RecordType::A, _) if is_local => Ok(Some(RData::A(Ipv4Addr::LOCALHOST.into()))),
        (RecordType::AAAA, _) if is_local => Ok(Some(RData::AAAA(Ipv6Addr::LOCALHOST.into()))),
        (RecordType::A, Host::Ip(IpAddr::V4(ip))) => Ok(Some(RData::A(ip.into()))),
        (RecordType::A, Host::Name(name)) => Ok(Some(RData::A(names.address_of(&name).into()))),
        (RecordType::A | RecordType::AAAA, _) => Ok(None),
        // Programs go on with an address when there are none of these.
        (RecordType::SRV | RecordType::NAPTR | RecordType::SVCB | RecordType::HTTPS, _) => Ok(None),
        _ => Err(ResponseCode::NotImp),
    }
}

/// The address that stands for a name and that a name below in-addr.arpa is about.
fn asked_about(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len())
        .then(|| net.addr())
        .filter(|address| stands_for_a_name(*address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A query as `dig` sends it, with EDNS.
    fn query(name: &str, kind: RecordType) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend([u16::from(kind), 1].map(u16::to_be_bytes).concat());
        bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    /// The code, and the content of the record as text.
    fn ask(names: &mut Names, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        read(&answer(&query(name, kind), true, names).unwrap(), name)
    }

    fn read(answer: &[u8], name: &str) -> (ResponseCode, Vec<String>) {
        let answer = Message::from_vec(answer).unwrap();
        let told = &answer.metadata;
        assert_eq!((told.id, told.message_type), (0xabcd, MessageType::Response));
        assert!(told.recursion_desired && told.recursion_available);
        // The name comes back as it was written: some programs check its capitals.
        assert_eq!(answer.queries[0].name().to_ascii(), format!("{name}."));
        let records = answer.answers.iter().inspect(|record| assert_eq!(record.ttl, TTL));
        (told.response_code, records.map(|record| record.data.to_string()).collect())
    }

    fn found(text: &str) -> (ResponseCode, Vec<String>) {
        (ResponseCode::NoError, vec![text.to_owned()])
    }

    fn nothing(code: ResponseCode) -> (ResponseCode, Vec<String>) {
        (code, Vec::new())
    }

    #[test]
    fn a_name_gets_an_address_that_leads_back_to_it() {
        use RecordType::{A, AAAA, HTTPS, PTR};
        let mut names = Names::default();
        assert_eq!(ask(&mut names, "Web.Test", A), found("198.18.1.0"));
        assert_eq!(ask(&mut names, "web.test", A), found("198.18.1.0"));
        assert_eq!(ask(&mut names, "web.test", AAAA), nothing(ResponseCode::NoError));
        assert_eq!(ask(&mut names, "web.test", HTTPS), nothing(ResponseCode::NoError));
        assert_eq!(ask(&mut names, "0.1.18.198.in-addr.arpa", PTR), found("web.test."));
        for none in ["9.9.18.198.in-addr.arpa", "1.18.198.in-addr.arpa", "web.test"] {
            assert_eq!(ask(&mut names, none, PTR), nothing(ResponseCode::NXDomain), "{none}");
        }
    }

    #[test]
    fn an_answer_has_these_bytes() {
        let asked = query("a.test", RecordType::A);
        let told = answer(&asked, true, &mut Names::default()).unwrap();
        let (header, rest) = told.split_at(12);
        // An answer; recursion was desired, and is available; one question, one record.
        assert_eq!(header, [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        let (question, record) = rest.split_at(12);
        assert_eq!(question, &asked[12..24]);
        // The name at byte 12; A, IN, 30 s, four bytes.
        assert_eq!(record, [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 198, 18, 1, 0]);
    }

    #[test]
    fn this_machine_and_written_addresses_need_no_exit() {
        use RecordType::{A, AAAA};
        let mut names = Names::default();
        assert_eq!(ask(&mut names, "localhost", A), found("127.0.0.1"));
        assert_eq!(ask(&mut names, "a.localhost", AAAA), found("::1"));
        assert_eq!(ask(&mut names, "192.0.2.1", A), found("192.0.2.1"));
    }

    #[test]
    fn a_question_that_it_cannot_answer_gets_an_error_code() {
        let mut names = Names::default();
        let not_here = nothing(ResponseCode::NotImp);
        assert_eq!(ask(&mut names, "web.test", RecordType::MX), not_here);
        let odd = answer(&query("two words.test", RecordType::A), true, &mut names).unwrap();
        assert_eq!(read(&odd, "two\\040words.test"), nothing(ResponseCode::NXDomain));
        let mut update = query("web.test", RecordType::A);
        update[2] = 5 << 3;
        let told = Message::from_vec(&answer(&update, true, &mut names).unwrap()).unwrap();
        assert_eq!(told.metadata.response_code, ResponseCode::NotImp);
        let told = Message::from_vec(&answer(&[0; 12], true, &mut names).unwrap()).unwrap();
        assert_eq!(told.metadata.response_code, ResponseCode::FormErr);
        update[2] = 0x80;
        assert_eq!(answer(&update, true, &mut names), None);
        assert_eq!(answer(&[0; 11], true, &mut names), None);
    }

    #[test]
    fn without_the_node_no_name_resolves() {
        let failed = answer(&query("web.test", RecordType::A), false, &mut Names::default());
        assert_eq!(read(&failed.unwrap(), "web.test"), nothing(ResponseCode::ServFail));
    }

    proptest! {
        #[test]
        fn garbage_is_answered_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..80), one: bool) {
            let mut bytes = bytes;
            if one && bytes.len() > 12 {
                bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            }
            let answer = answer(&bytes, true, &mut Names::default());
            // Beside the question at most one record.
            prop_assert!(answer.is_none_or(|answer| answer.len() <= bytes.len().max(12) + 300));
        }
    }
}
