//! The name server inside the namespace (RFC 1035): it gives names addresses that stand for them. PURE.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::{Names, stands_for_a_name};
use crate::flow::Host;

/// The length of a message's header.
const HEADER: usize = 12;

/// The longest name in text.
const LONGEST_NAME: usize = 253;

/// How long programs may keep an address, in seconds. Short, so that a name in use is asked for again and its address
/// is not given away.
const TTL: u32 = 30;

/// Codes of answers.
const FORMAT_ERROR: u8 = 1;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;

/// Kinds of records.
const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
/// SRV, NAPTR, SVCB and HTTPS: programs go on with an address when there are none.
const GO_ON_WITHOUT: [u16; 4] = [33, 35, 64, 65];

/// The class of the Internet.
const INTERNET: u16 = 1;

/// A query with one question.
struct Question<'a> {
    /// The header and the question.
    bytes: &'a [u8],
    name: String,
    kind: u16,
    class: u16,
}

enum Reply {
    /// The content of a record.
    Record(Vec<u8>),
    /// The name exists, but has no such record.
    Nothing,
    Failure(u8),
}

/// The answer to a query; `None` if it is none. If `is_there` is false the node does not answer, and no name resolves.
pub(super) fn answer(query: &[u8], is_there: bool, names: &mut Names) -> Option<Vec<u8>> {
    // What is an answer itself gets none.
    if query.get(2)? & 0x80 != 0 || query.len() < HEADER {
        return None;
    }
    let Some(question) = Question::read(query) else {
        return Some(message(&query[..HEADER], 0, &Reply::Failure(FORMAT_ERROR)));
    };
    let reply = if query[2] >> 3 & 15 != 0 || question.class != INTERNET {
        Reply::Failure(NOT_IMPLEMENTED)
    } else if !is_there {
        Reply::Failure(SERVER_FAILURE)
    } else {
        question.reply(names)
    };
    Some(message(question.bytes, question.kind, &reply))
}

impl<'a> Question<'a> {
    fn read(query: &'a [u8]) -> Option<Self> {
        // One question; what follows it, such as EDNS, asks for nothing that is answered here.
        if query.get(4..6)? != [0, 1] {
            return None;
        }
        let (mut name, mut at) = (String::new(), HEADER);
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            // Longer ones are pointers, which a question has no use for.
            let label = query.get(at..at + length).filter(|_| length < 64)?;
            at += length;
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(*byte).to_ascii_lowercase()));
            if name.len() > LONGEST_NAME {
                return None;
            }
        }
        let word = |at| Some(u16::from_be_bytes(*query.get(at..)?.first_chunk()?));
        Some(Self { kind: word(at)?, class: word(at + 2)?, bytes: query.get(..at + 4)?, name })
    }

    fn reply(&self, names: &mut Names) -> Reply {
        if self.kind == PTR {
            let name = reversed(&self.name).filter(|address| stands_for_a_name(*address));
            let name = name.and_then(|address| names.name_of(address));
            return name.map_or(Reply::Failure(NO_SUCH_NAME), |name| Reply::Record(labels(&name)));
        }
        let is_local = self.name == "localhost" || self.name.ends_with(".localhost");
        let Ok(host) = self.name.parse::<Host>() else { return Reply::Failure(NO_SUCH_NAME) };
        match (self.kind, host) {
            (A, _) if is_local => Reply::Record(Ipv4Addr::LOCALHOST.octets().into()),
            (AAAA, _) if is_local => Reply::Record(Ipv6Addr::LOCALHOST.octets().into()),
            (A, Host::Ip(IpAddr::V4(ip))) => Reply::Record(ip.octets().into()),
            (A, Host::Name(name)) => Reply::Record(names.address_of(&name).octets().into()),
            (A | AAAA, _) => Reply::Nothing,
            (kind, _) if GO_ON_WITHOUT.contains(&kind) => Reply::Nothing,
            _ => Reply::Failure(NOT_IMPLEMENTED),
        }
    }
}

/// The address that a name below in-addr.arpa is about.
fn reversed(name: &str) -> Option<IpAddr> {
    let digits = name.strip_suffix(".in-addr.arpa")?;
    let parts: Vec<&str> = digits.rsplit('.').collect();
    parts.join(".").parse().ok()
}

/// A name as messages have it.
fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        // A checked name has labels of at most 63 bytes.
        bytes.push(u8::try_from(label.len()).unwrap_or_default());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn message(asked: &[u8], kind: u16, reply: &Reply) -> Vec<u8> {
    let (code, record) = match reply {
        Reply::Record(record) => (0, Some(record)),
        Reply::Nothing => (0, None),
        Reply::Failure(code) => (*code, None),
    };
    let mut bytes = asked.to_vec();
    // An answer, with the query's kind and its wish for recursion, which is available.
    bytes[2] = 0x80 | bytes[2] & 0x79;
    bytes[3] = 0x80 | code;
    let questions = u8::from(asked.len() > HEADER);
    bytes[4..HEADER].copy_from_slice(&[0, questions, 0, u8::from(record.is_some()), 0, 0, 0, 0]);
    if let Some(record) = record {
        // The name is the one at byte 12.
        bytes.extend_from_slice(&[0xc0, 12]);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&INTERNET.to_be_bytes());
        bytes.extend_from_slice(&TTL.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(record.len()).unwrap_or_default().to_be_bytes());
        bytes.extend_from_slice(record);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        bytes.extend(labels(name));
        bytes.extend([kind.to_be_bytes(), INTERNET.to_be_bytes()].concat());
        // EDNS, as `dig` sends it.
        bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    /// The code, and the content of the record.
    fn ask(names: &mut Names, name: &str, kind: u16) -> (u8, Vec<u8>) {
        let answer = answer(&query(name, kind), true, names).unwrap();
        assert_eq!(answer[..3], [0xab, 0xcd, 0x81]);
        let question = HEADER + labels(name).len() + 4;
        let record = if answer[7] == 1 { answer[question + 12..].to_vec() } else { vec![] };
        (answer[3] & 15, record)
    }

    #[test]
    fn a_name_gets_an_address_that_leads_back_to_it() {
        let mut names = Names::default();
        assert_eq!(ask(&mut names, "Web.Test", A), (0, vec![198, 18, 1, 0]));
        assert_eq!(ask(&mut names, "web.test", AAAA), (0, vec![]));
        assert_eq!(ask(&mut names, "web.test", 65), (0, vec![]));
        assert_eq!(ask(&mut names, "0.1.18.198.in-addr.arpa", PTR), (0, labels("web.test")));
        assert_eq!(ask(&mut names, "9.9.18.198.in-addr.arpa", PTR), (NO_SUCH_NAME, vec![]));
    }

    #[test]
    fn this_machine_and_written_addresses_need_no_exit() {
        let mut names = Names::default();
        assert_eq!(ask(&mut names, "localhost", A), (0, vec![127, 0, 0, 1]));
        assert_eq!(ask(&mut names, "a.localhost", AAAA).1[15], 1);
        assert_eq!(ask(&mut names, "192.0.2.1", A), (0, vec![192, 0, 2, 1]));
    }

    #[test]
    fn what_is_not_known_here_is_said_so() {
        let mut names = Names::default();
        assert_eq!(ask(&mut names, "web.test", 15).0, NOT_IMPLEMENTED);
        assert_eq!(ask(&mut names, "two words.test", A).0, NO_SUCH_NAME);
        let mut update = query("web.test", A);
        update[2] = 5 << 3;
        assert_eq!(answer(&update, true, &mut names).unwrap()[3] & 15, NOT_IMPLEMENTED);
        assert_eq!(answer(&[0; 12], true, &mut names).unwrap()[3] & 15, FORMAT_ERROR);
        update[2] = 0x80;
        assert_eq!(answer(&update, true, &mut names), None);
    }

    #[test]
    fn without_the_node_no_name_resolves() {
        let mut names = Names::default();
        let failed = answer(&query("web.test", A), false, &mut names).unwrap();
        assert_eq!((failed[3] & 15, failed[7]), (SERVER_FAILURE, 0));
    }

    proptest! {
        #[test]
        fn garbage_is_answered_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..80), one: bool) {
            let mut bytes = bytes;
            if one && bytes.len() > HEADER {
                bytes[2..HEADER].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            }
            let _ = answer(&bytes, true, &mut Names::default());
        }
    }
}
