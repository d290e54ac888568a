//! Messages between two neighbours on their link.
//!
//! A **request** travels on a bidirectional stream of its own and gets one **reply**; a **notice**
//! travels on a unidirectional stream and gets none. Each is one message: the stream carries its
//! bytes and ends.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use super::{encode, label::Label};
use crate::{
    flow::{Judgement, Refusal, Route, RouteWish, Target, bounded_class},
    identity::NodeName,
    text::cleaned,
};

/// What a node asks its neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first request of the side that dialled: who I am now. Answered by [`Reply::Hello`].
    Hello(Hello),
    /// I am an entry and want a lane to you. Answered by [`Reply::LaneOpened`].
    OpenLane(SignedLaneRequest),
    /// Let me send through you. Answered by [`Reply::Granted`].
    Forward(ForwardRequest),
    /// Extend these forwarding labels. Answered by [`Reply::Renewed`].
    Renew(Vec<Label>),
    /// Pass this request of mine on to its exit, which I cannot reach directly. Answered as
    /// [`Request::OpenLane`].
    PassOn(SignedLaneRequest),
    /// A request that my neighbour could not bring to you directly. Answered as
    /// [`Request::OpenLane`].
    PassedOn {
        /// Its request, with its signature.
        request: SignedLaneRequest,
        /// The certificate, in DER, of the node that asks.
        certificate: Vec<u8>,
    },
    /// My certificate is to be renewed. Answered by [`Reply::Certificate`], by the authority's
    /// node or by one that passes the request on to it.
    RenewCertificate {
        /// A PKCS#10 signing request in DER, of the key whose certificate is to be renewed.
        signing_request: Vec<u8>,
        /// Whether a neighbour has passed it on already. Such a request is not passed on again.
        passed_on: bool,
    },
    /// Try to reach me from where my machine has not heard of you. Answered by [`Reply::Reached`].
    Reach,
    /// Would you carry a flow of mine to this target? Answered by [`Reply::Judged`].
    Judge(Target),
    /// The first request on a connection that is to be measured beside the link, by probes. Answered by
    /// [`Reply::Trial`]. If a [`Request::Hello`] follows, it becomes the link.
    Trial,
}

/// What a node is at present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Random per process. It distinguishes a restarted neighbour from the old one.
    pub incarnation: u64,
    /// The receiver's address as the sender sees it: its outside address, if it is behind a NAT.
    pub seen: Option<SocketAddr>,
    /// The program's version, for listings.
    pub version: String,
    /// The number of the sender's revocation list. The side with the newer list sends it next, and
    /// the other side waits for it before the link counts.
    pub revocations: u64,
    /// My clock, in seconds since 1970.
    pub time: u64,
}

/// An entry asks an exit for a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenLane {
    /// The label under which the entry receives this lane's packets.
    pub reply_label: Label,
    /// The route on which the exit shall answer at first.
    pub route: Route,
    /// What the lane requires of its routes.
    pub wish: RouteWish,
}

/// Who asks whom for a lane, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRequest {
    /// The node that asks and will connect.
    pub entry: NodeName,
    /// The node that shall answer.
    pub exit: NodeName,
    /// The entry's clock in seconds since 1970, shifted left by 20 bits, and a number that makes it
    /// greater than that of any request before. An exit answers each number once.
    pub issued: u64,
    /// The exit's incarnation ([`Hello::incarnation`]) as the entry knows it, or 0. A relay could bring a
    /// request again after the exit has restarted and forgotten it, so an exit answers what a relay brings
    /// only if it is for this incarnation.
    pub incarnation: u64,
    /// The lane.
    pub open: OpenLane,
}

/// The prefix of a lane request when it is signed. No advertisement begins with it, because its
/// node name would have 108 bytes.
const STATEMENT: &[u8] = b"lane request 1\0";

impl LaneRequest {
    /// The bytes that the entry signs.
    #[must_use]
    pub fn statement(&self) -> Vec<u8> {
        [STATEMENT, &encode(self)].concat()
    }
}

/// A lane request and its entry's signature, as identity makes it of [`LaneRequest::statement`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedLaneRequest {
    /// The request.
    pub request: LaneRequest,
    /// Ed25519.
    pub signature: Vec<u8>,
}

/// A lane's end asks a relay to forward its packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRequest {
    /// The node to forward to: the other end of the lane.
    pub toward: NodeName,
    /// The label that node gave us.
    pub label: Label,
    /// The end of the lane for which the node asks.
    pub asker: LaneAsker,
}

/// The end of a lane for which a node asks for forwarding. Policies check the entry's groups and
/// class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaneAsker {
    /// As the entry, which needs no proof: the groups are its own.
    Entry {
        /// The traffic class of the lane's flows: a name by [`is_class`](crate::flow::is_class).
        #[serde(deserialize_with = "bounded_class")]
        class: Option<String>,
    },
    /// As the exit, proved by the entry's request for the lane.
    Exit(Box<SignedLaneRequest>),
}

/// The two ends of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneEndRole {
    /// The end with the local proxy.
    Entry,
    /// The end that opens real connections.
    Exit,
}

impl LaneAsker {
    /// Which end it is.
    #[must_use]
    pub fn role(&self) -> LaneEndRole {
        match self {
            Self::Entry { .. } => LaneEndRole::Entry,
            Self::Exit(_) => LaneEndRole::Exit,
        }
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Who I am now.
    Hello(Hello),
    /// Send the lane's packets under this label.
    LaneOpened {
        /// The exit's label for the lane.
        label: Label,
    },
    /// Packets under `label` will be forwarded for `seconds` unless renewed.
    Granted {
        /// The relay's label.
        label: Label,
        /// The grant's lifetime in seconds.
        seconds: u32,
    },
    /// For each label asked about, whether it was extended.
    Renewed(Vec<bool>),
    /// No, and why.
    Refused(LinkRefusal),
    /// The next certificate and the authority's, in DER.
    Certificate(Vec<Vec<u8>>),
    /// How the asker was reached.
    Reached(Reached),
    /// What the policy says of the flow.
    Judged(Result<Judgement, Refusal>),
    /// The connection is measured.
    Trial,
}

/// How one node reached another one that asked for it; `None`: it could not be tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// By UDP, from a port from which it had never sent.
    pub udp: Option<bool>,
    /// By a stream, at the TCP port that the asker tells.
    pub tcp: Option<bool>,
}

/// Messages between neighbours in DATAGRAM frames (RFC 9221).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkDatagram {
    /// A probe of the link, encoded.
    Probe(Bytes),
    /// The nonce that the receiver sent to the sender's present address.
    Nonce(u64),
}

impl LinkDatagram {
    /// The frame's content.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Probe(probe) => [&[0], &probe[..]].concat().into(),
            Self::Nonce(nonce) => [&[1], &nonce.to_be_bytes()[..]].concat().into(),
        }
    }

    /// Reads a frame's content; `None` if it is neither.
    #[must_use]
    pub fn decode(content: &Bytes) -> Option<Self> {
        match content.split_first()? {
            (0, _) => Some(Self::Probe(content.slice(1..))),
            (1, nonce) => Some(Self::Nonce(u64::from_be_bytes(nonce.try_into().ok()?))),
            _ => None,
        }
    }
}

/// Longest text of a neighbour in its refusal, in bytes. It is logged and shown in a line.
const MAX_TEXT: usize = 200;

/// Reads a neighbour's text without control characters, cut to [`MAX_TEXT`].
fn cleaned_text<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(cleaned(&String::deserialize(d)?, MAX_TEXT))
}

/// Why a neighbour refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LinkRefusal {
    /// The node is not configured for this role.
    #[error("{0} is not its role")]
    NotMyRole(#[serde(deserialize_with = "cleaned_text")] String),
    /// A policy rule forbids it.
    #[error("refused by its policy ({0})")]
    Policy(#[serde(deserialize_with = "cleaned_text")] String),
    /// The node has no link to the node asked for.
    #[error("it has no link to {0}")]
    NoLink(NodeName),
    /// A cap is reached.
    #[error("it is at its limit: {0}")]
    Full(#[serde(deserialize_with = "cleaned_text")] String),
    /// The request makes no sense here.
    #[error("it does not understand the request")]
    Unexpected,
    /// No certificate is renewed.
    #[error(transparent)]
    Renewal(#[from] RenewalRefusal),
    /// The request for a lane is not proved to be the entry's, or is not new.
    #[error("the request for a lane is not valid there: {0}")]
    Unproved(RequestFault),
}

/// Why a signed request for a lane is not valid.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    thiserror::Error,
)]
pub enum RequestFault {
    /// It names another exit, entry or label than those concerned.
    #[error("it is for another lane")]
    OtherLane,
    /// The entry did not sign it.
    #[error("its entry did not sign it")]
    Signature,
    /// The certificate that came along is not a present member's of the entry's name.
    #[error("the entry's certificate is not valid")]
    Certificate,
    /// It was issued in another hour than the present one.
    #[error("its time differs by more than an hour; set the clocks of both nodes")]
    Clock,
    /// It came before, or too many later ones did.
    #[error("it was answered before")]
    Replayed,
    /// Too many other entries have asked within the hour.
    #[error("too many entries have asked within the hour")]
    TooMany,
    /// The neighbour passes on more requests than it may.
    #[error("this neighbour passes on too many requests; ask again in some seconds")]
    TooFast,
    /// It is for an earlier incarnation of the exit, or for an unknown one; this is the present one.
    #[error("it was made for an earlier run of the exit")]
    OtherIncarnation(u64),
}

impl RequestFault {
    /// The stable name, as in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OtherLane => "request-other-lane",
            Self::Signature => "request-bad-signature",
            Self::Certificate => "request-bad-certificate",
            Self::Clock => "request-clock",
            Self::Replayed => "request-replayed",
            Self::TooMany => "request-entries-full",
            Self::TooFast => "request-too-fast",
            Self::OtherIncarnation(_) => "request-other-incarnation",
        }
    }
}

/// Why a certificate is not renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RenewalRefusal {
    /// The node is not the authority's, and has no link to that node.
    #[error("it has no link to the overlay's authority")]
    NoAuthority,
    /// The authority has no record of the key.
    #[error("the authority has no record of this node's key; join again in a new folder")]
    UnknownKey,
    /// The node was revoked.
    #[error("the authority has revoked this node")]
    Revoked,
    /// The authority failed; its own log says why.
    #[error("the authority could not issue a certificate; look at its log")]
    Failed,
}

/// A message that a node sends to its neighbour without a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// A link-state advertisement, of the sender or passed on. It is the origin's member record.
    Advertisement {
        /// `overlay::linkstate::Flood`, encoded: with its origin's signature.
        flood: Vec<u8>,
        /// The certificate of its origin in DER, if the sender passes it on or the link's handshake
        /// showed another.
        certificate: Option<Vec<u8>>,
    },
    /// The advertisements that the sender holds, by origin and version, encoded. The receiver sends
    /// newer ones.
    Digest(Vec<u8>),
    /// The authority's revocation list in DER. It is newer than the receiver's.
    Revocations(Vec<u8>),
    /// The sender's renewed certificate in DER, of the same key.
    Certificate(Vec<u8>),
    /// The receiver's packets come from this address now.
    Seen(SocketAddr),
    /// The figures of members that the sender measured: a list of `overlay::sharing::SharedLink`, encoded. For the
    /// nodes of its site.
    Shared(Vec<u8>),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        flow::{Hint, RefusalKind},
        wire::decode,
    };

    fn lane_request() -> SignedLaneRequest {
        let open = OpenLane {
            reply_label: Label(1),
            route: Route::Direct,
            wish: RouteWish { hint: Hint::Loss, ..RouteWish::default() },
        };
        let [entry, exit] = ["aros", "mit"].map(|name| name.parse().unwrap());
        let request = LaneRequest { entry, exit, issued: 300, incarnation: 7, open };
        SignedLaneRequest { request, signature: vec![0x30, 0x01] }
    }

    #[test]
    fn a_forward_request_of_an_entry_has_these_bytes() {
        let request = Request::Forward(ForwardRequest {
            toward: "mit".parse().unwrap(),
            label: Label(5),
            asker: LaneAsker::Entry { class: Some("bulk".into()) },
        });
        assert_eq!(
            encode(&request),
            [
                2, // Request::Forward
                3, b'm', b'i', b't', // toward
                5,    // label, as a varint
                0,    // LaneAsker::Entry
                1, 4, b'b', b'u', b'l', b'k', // class
            ]
        );
    }

    #[test]
    fn a_request_to_be_reached_and_its_answer_have_these_bytes() {
        assert_eq!(encode(&Request::Reach), [7]);
        let reached = Reached { udp: Some(true), tcp: Some(false) };
        assert_eq!(encode(&Reply::Reached(reached)), [6, 1, 1, 1, 0]);
        assert_eq!(encode(&Reply::Reached(Reached::default())), [6, 0, 0]);
    }

    #[test]
    fn a_trial_and_its_answer_have_these_bytes() {
        assert_eq!((encode(&Request::Trial), encode(&Reply::Trial)), (vec![9], vec![8]));
    }

    #[test]
    fn a_question_about_a_target_and_its_answers_have_these_bytes() {
        let question = Request::Judge("a.test:80".parse().unwrap());
        assert_eq!(encode(&question), [&[8, 1, 6][..], b"a.test", &[80]].concat());
        for (answer, bytes) in [
            (Ok(Judgement::Allowed), &[7, 0, 0][..]),
            (Ok(Judgement::DependsOnAddress), &[7, 0, 1]),
            (Err(Refusal::new(RefusalKind::Policy, "no")), &[7, 1, 0, 2, b'n', b'o']),
        ] {
            assert_eq!(encode(&Reply::Judged(answer)), bytes);
        }
    }

    #[test]
    fn a_lane_request_has_these_bytes_and_is_signed_under_a_name_of_its_own() {
        let signed = lane_request();
        let request = [
            4, b'a', b'r', b'o', b's', // entry
            3, b'm', b'i', b't', // exit
            0xac, 0x02, // issued
            7,    // incarnation
            1,    // reply label
            6, b'd', b'i', b'r', b'e', b'c', b't', // route
            4, b'l', b'o', b's', b's', 0, 0, 0, // hint, no class, no pin, avoid nothing
        ];
        let wire = [&[4], &request[..], &[2, 0x30, 0x01]].concat();
        assert_eq!(encode(&Request::PassOn(signed.clone())), wire);
        let statement = [b"lane request 1\0", &request[..]].concat();
        assert_eq!(signed.request.statement(), statement);
    }

    #[test]
    fn link_datagrams_have_these_bytes() {
        for (datagram, bytes) in [
            (LinkDatagram::Probe(Bytes::from_static(b"abc")), &b"\x00abc"[..]),
            (LinkDatagram::Nonce(0x0102_0304_0506_0708), &[1, 1, 2, 3, 4, 5, 6, 7, 8]),
        ] {
            assert_eq!(datagram.encode(), bytes);
            assert_eq!(LinkDatagram::decode(&Bytes::copy_from_slice(bytes)), Some(datagram));
        }
        for bytes in [&[][..], &[1], &[1; 8], &[1; 10], &[2; 9]] {
            assert_eq!(LinkDatagram::decode(&Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
    }

    #[test]
    fn the_text_of_a_refusal_is_cut_and_drives_no_terminal() {
        let said = format!("\u{1b}[2J\n{}", "x".repeat(60_000));
        for refusal in [LinkRefusal::NotMyRole, LinkRefusal::Policy, LinkRefusal::Full] {
            let read: Reply = decode(&encode(&Reply::Refused(refusal(said.clone())))).unwrap();
            let kept = format!("?[2J?{}", "x".repeat(MAX_TEXT - 5));
            assert_eq!(read, Reply::Refused(refusal(kept)));
        }
    }

    #[test]
    fn a_class_that_is_no_name_makes_the_request_malformed() {
        let asker = LaneAsker::Entry { class: Some("bulk".into()) };
        let mut bytes = encode(&asker);
        assert_eq!(decode::<LaneAsker>(&bytes).as_ref(), Ok(&asker));
        bytes[3] = b'\n';
        assert!(decode::<LaneAsker>(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Reply>(&bytes);
            let _ = decode::<Notice>(&bytes);
            let _ = LinkDatagram::decode(&Bytes::from(bytes));
        }
    }

    #[test]
    fn a_name_that_no_node_can_have_is_malformed() {
        let certificate = Vec::new();
        let mut bytes = encode(&Request::PassedOn { request: lane_request(), certificate });
        let at = bytes.windows(4).position(|w| w == b"aros").unwrap();
        bytes[at] = b'/';
        assert!(decode::<Request>(&bytes).is_err());
    }
}
