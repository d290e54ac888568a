//! Messages between the two ends of a lane.
//!
//! Each flow is one bidirectional stream. It begins with an OPEN header from the entry and the
//! exit's answer, each a message with its length in front (16 bits, big endian); the flow's bytes
//! follow. About the lane as a whole the ends send notices as DATAGRAM frames (RFC 9221).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::flow::{FlowLabel, Hint, Host, Judgement, ParseTargetError, Refusal, Route, Target};

/// The OPEN header of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The flow's label at its entry.
    pub label: FlowLabel,
    /// What the flow is for.
    pub purpose: Purpose,
    /// Its routing hint.
    pub hint: Hint,
    /// How many bytes of the flow the exit may send before it is granted more.
    pub window: u64,
}

/// What a flow is for.
///
/// On the wire it is a [`Target`] whose host has more variants: two without a port, and one with a target of its own. A node that does not
/// know one of them refuses the flow as malformed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenPurpose", into = "WrittenPurpose")]
pub enum Purpose {
    /// A connection to this destination.
    Connect(Target),
    /// The datagrams of an association.
    Datagrams,
    /// Packets for programs of the exit. In their frames the peer's host is their type, and its port 0.
    Packets,
    /// No flow, but the question whether the exit would carry one to this destination. Answered by a
    /// [`JudgeReply`], with which the stream ends.
    Question(Target),
}

/// A [`Purpose`] as the wire has it.
#[derive(Serialize, Deserialize)]
enum WrittenPurpose {
    Ip(IpAddr, u16),
    Name(String, u16),
    Datagrams,
    Packets,
    Question(Target),
}

impl From<Purpose> for WrittenPurpose {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Connect(Target { host: Host::Ip(ip), port }) => Self::Ip(ip, port),
            Purpose::Connect(Target { host: Host::Name(name), port }) => Self::Name(name, port),
            Purpose::Datagrams => Self::Datagrams,
            Purpose::Packets => Self::Packets,
            Purpose::Question(target) => Self::Question(target),
        }
    }
}

impl TryFrom<WrittenPurpose> for Purpose {
    type Error = ParseTargetError;

    fn try_from(written: WrittenPurpose) -> Result<Self, Self::Error> {
        let (host, port) = match written {
            WrittenPurpose::Datagrams => return Ok(Self::Datagrams),
            WrittenPurpose::Packets => return Ok(Self::Packets),
            WrittenPurpose::Question(target) => return Ok(Self::Question(target)),
            WrittenPurpose::Ip(ip, port) => (Host::Ip(ip), port),
            WrittenPurpose::Name(name, port) => (Host::written(name)?, port),
        };
        Ok(Self::Connect(Target { host, port }))
    }
}

/// What an exit tells of an association on its flow's stream, after its answer to OPEN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssociationNews {
    /// So many of the entry's datagrams did not arrive, in all.
    Lost(u64),
    /// Datagrams to this destination are dropped, for this reason.
    Refused(Target, Refusal),
}

/// The exit's answer to OPEN.
pub type OpenReply = Result<Opened, Refusal>;

/// The exit's answer to the OPEN of a question. A refusal has the bytes of one of a flow.
pub type JudgeReply = Result<Judgement, Refusal>;

/// The exit has connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The address the exit connected to.
    pub remote: std::net::SocketAddr,
    /// How many bytes of the flow the entry may send before it is granted more.
    pub window: u64,
}

/// A notice from one end of a lane to the other, unreliable. It has the whole routing state of its
/// sender, so a later notice replaces a lost one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneNotice {
    /// Rises with each move of the sender.
    pub epoch: u64,
    /// The receiver's last epoch that the sender has heard of.
    pub seen: u64,
    /// The route on which the sender sends.
    pub route: Route,
    /// The sender's last move; `None` before the first.
    pub moved: Option<Moved>,
    /// The sender's direction is limited by its route and not by the application: a bulk transfer.
    pub limited: bool,
    /// The silence that caused the receiver's last move was on the sender's own line.
    pub mine: bool,
    /// The receiver shall answer at once, with a notice without this flag.
    pub ping: bool,
}

/// A move of a lane's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The route that was left.
    pub left: Route,
    /// Why.
    pub reason: RerouteReason,
}

/// Why a lane's end changed its route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RerouteReason {
    /// Packets were outstanding, and nothing came in on the old route for this long.
    Silent {
        /// The silence in milliseconds.
        ms: u32,
    },
    /// The old route lost a large share of the lane's packets, for seconds.
    Lossy {
        /// The share in percent.
        percent: u8,
    },
    /// The overlay measured the new route to be better.
    Better,
    /// The far end reported it.
    FarEnd,
    /// A trial whether the new route carries more.
    Trial,
}

impl std::fmt::Display for RerouteReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent { ms } => write!(f, "the old route was silent for {ms} ms"),
            Self::Lossy { percent } => write!(f, "the old route lost {percent} % of the packets"),
            Self::Better => f.write_str("the new route is better"),
            Self::FarEnd => f.write_str("the far end asked for it"),
            Self::Trial => f.write_str("the new route is tried"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        flow::RefusalKind,
        wire::{decode, encode},
    };

    #[test]
    fn an_open_header_has_these_bytes() {
        let open = Open {
            label: FlowLabel(0x0a0b),
            purpose: Purpose::Connect("a.test:80".parse().unwrap()),
            hint: Hint::Loss,
            window: 300,
        };
        assert_eq!(
            encode(&open),
            [
                0x8b, 0x14, // label, as a varint
                1, 6, b'a', b'.', b't', b'e', b's', b't', // Host::Name
                80,   // port, as a varint
                4, b'l', b'o', b's', b's', // hint
                0xac, 2, // window
            ]
        );
    }

    #[test]
    fn an_open_header_of_datagrams_or_packets_has_these_bytes() {
        for (purpose, variant) in [(Purpose::Datagrams, 2), (Purpose::Packets, 3)] {
            let open = Open { label: FlowLabel(5), purpose, hint: Hint::Latency, window: 3 };
            let bytes = encode(&open);
            assert_eq!(bytes, [&[5, variant, 7][..], b"latency", &[3]].concat());
            assert_eq!(decode::<Open>(&bytes).unwrap(), open);
        }
    }

    #[test]
    fn the_open_header_of_a_question_has_these_bytes() {
        let purpose = Purpose::Question("a.test:80".parse().unwrap());
        let open = Open { label: FlowLabel(5), purpose, hint: Hint::Latency, window: 0 };
        let bytes = encode(&open);
        let expected = [&[5, 4, 1, 6][..], b"a.test", &[80, 7], b"latency", &[0]].concat();
        assert_eq!(bytes, expected);
        assert_eq!(decode::<Open>(&bytes).unwrap(), open);
        assert_eq!(encode(&JudgeReply::Ok(Judgement::DependsOnAddress)), [0, 1]);
    }

    #[test]
    fn a_node_without_associations_finds_such_a_header_malformed() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only its form counts")]
        struct Older {
            label: FlowLabel,
            target: Target,
            hint: Hint,
            window: u64,
        }
        let open = |purpose| Open { label: FlowLabel(5), purpose, hint: Hint::Latency, window: 3 };
        let connect = open(Purpose::Connect("192.0.2.1:80".parse().unwrap()));
        assert!(decode::<Older>(&encode(&connect)).is_ok());
        for purpose in [Purpose::Datagrams, Purpose::Packets] {
            assert!(decode::<Older>(&encode(&open(purpose))).is_err());
        }
    }

    #[test]
    fn a_refusal_reads_back() {
        let reply: OpenReply = Err(Refusal::new(RefusalKind::Policy, "no"));
        assert_eq!(decode::<OpenReply>(&encode(&reply)).unwrap(), reply);
    }

    #[test]
    fn a_notice_has_these_bytes() {
        let moved = Moved { left: Route::Direct, reason: RerouteReason::Silent { ms: 130 } };
        let route = Route::Via("utah".parse().unwrap());
        let notice = LaneNotice {
            epoch: 2,
            seen: 1,
            route,
            moved: Some(moved),
            limited: false,
            mine: false,
            ping: true,
        };
        assert_eq!(
            encode(&notice),
            [
                2, 1, // epoch, seen
                8, b'v', b'i', b'a', b' ', b'u', b't', b'a', b'h', // route
                1, 6, b'd', b'i', b'r', b'e', b'c', b't', // left
                0, 0x82, 1, // silent for 130 ms
                0, 0, // not limited, not mine
                1, // ping
            ]
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode::<Open>(&bytes);
            let _ = decode::<OpenReply>(&bytes);
            let _ = decode::<JudgeReply>(&bytes);
            let _ = decode::<AssociationNews>(&bytes);
            let _ = decode::<LaneNotice>(&bytes);
        }
    }
}
