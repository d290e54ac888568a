//! What two neighbours say to each other on their link.
//!
//! A **request** travels on a bidirectional stream of its own and gets one **reply**; a **notice**
//! travels on a unidirectional stream and gets none. Each is one message: the stream carries its
//! bytes and ends.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::label::Label;
use crate::{
    flow::{Route, RouteWish},
    identity::NodeName,
};

/// What a node asks its neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first request of the side that dialled: who I am now. Answered by [`Reply::Hello`].
    Hello(Hello),
    /// I am an entry and want a lane to you. Answered by [`Reply::LaneOpened`].
    OpenLane(OpenLane),
    /// Let me send through you. Answered by [`Reply::Granted`].
    Forward(ForwardRequest),
    /// Extend these forwarding labels. Answered by [`Reply::Renewed`].
    Renew(Vec<Label>),
    /// Pass this request on to a node that I cannot reach directly. Answered as the inner one.
    PassOn {
        /// The node that shall answer.
        to: NodeName,
        /// The request to it.
        open: OpenLane,
    },
    /// A request that my neighbour `from` could not bring to you directly. Answered as the inner
    /// one. The receiver trusts the lane's own handshake, not this claim.
    PassedOn {
        /// The node that asks.
        from: NodeName,
        /// Its request.
        open: OpenLane,
    },
    /// My certificate is to be renewed. Answered by [`Reply::Certificate`], by the authority's
    /// node or by one that passes the request on to it.
    RenewCertificate {
        /// A PKCS#10 signing request in DER, of the key whose certificate is to be renewed.
        signing_request: Vec<u8>,
        /// Whether a neighbour passed it on already: then it goes no further.
        passed_on: bool,
    },
}

/// What a node is at present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Drawn at random when the process starts; tells a restarted neighbour from the old one.
    pub incarnation: u64,
    /// Where it sees the one it talks to: that one's outside address, if it is behind a NAT.
    pub seen: Option<SocketAddr>,
    /// The program's version, for listings.
    pub version: String,
    /// The number of the revocation list I hold: the side with the newer one sends it next, and
    /// the other waits for it before the link counts.
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
    /// What the lane wants of its routes.
    pub wish: RouteWish,
}

/// A lane's end asks a relay to forward its packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRequest {
    /// The node to forward to.
    pub toward: NodeName,
    /// The label that node gave us.
    pub label: Label,
    /// Which of the two ends asks; policies look at the entry's groups.
    pub end: LaneEndRole,
    /// The traffic class of the lane's flows.
    pub class: Option<String>,
}

/// The two ends of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaneEndRole {
    /// The end with the local proxy.
    Entry,
    /// The end that opens real connections.
    Exit,
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
}

/// Why a neighbour refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LinkRefusal {
    /// The node is not configured for this role.
    #[error("{0} is not its role")]
    NotMyRole(String),
    /// A policy rule forbids it.
    #[error("refused by its policy ({0})")]
    Policy(String),
    /// The node has no link to the node asked for.
    #[error("it has no link to {0}")]
    NoLink(NodeName),
    /// A cap is reached.
    #[error("it is at its limit: {0}")]
    Full(String),
    /// The request makes no sense here.
    #[error("it does not understand the request")]
    Unexpected,
    /// No certificate is renewed.
    #[error(transparent)]
    Renewal(#[from] RenewalRefusal),
}

/// Why a certificate is not renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RenewalRefusal {
    /// Neither is the node the authority's, nor has it a link to that one.
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

/// What a node tells its neighbour unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// A link-state advertisement, of my own or passed on. It is the origin's member record.
    Advertisement {
        /// `overlay::linkstate::Flood`, encoded: with its origin's signature.
        flood: Vec<u8>,
        /// The certificate of its origin in DER, if I pass it on or the link's handshake showed another.
        certificate: Option<Vec<u8>>,
    },
    /// Which advertisements I hold, by origin and version, encoded; send me what is newer.
    Digest(Vec<u8>),
    /// The authority's revocation list in DER, which is newer than the one you hold.
    Revocations(Vec<u8>),
    /// My certificate was renewed: the new one in DER, of the same key.
    Certificate(Vec<u8>),
    /// Your packets come from this address now.
    Seen(SocketAddr),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{decode, encode};

    #[test]
    fn a_forward_request_has_these_bytes() {
        let request = Request::Forward(ForwardRequest {
            toward: "mit".parse().unwrap(),
            label: Label(5),
            end: LaneEndRole::Exit,
            class: None,
        });
        assert_eq!(
            encode(&request),
            [
                2, // Request::Forward
                3, b'm', b'i', b't', // toward
                5,    // label, as a varint
                1,    // LaneEndRole::Exit
                0,    // no class
            ]
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Reply>(&bytes);
            let _ = decode::<Notice>(&bytes);
        }
    }

    #[test]
    fn a_name_that_no_node_can_have_is_malformed() {
        let mut bytes = encode(&Request::PassedOn {
            from: "aros".parse().unwrap(),
            open: OpenLane {
                reply_label: Label(1),
                route: Route::Direct,
                wish: RouteWish::default(),
            },
        });
        let at = bytes.windows(4).position(|w| w == b"aros").unwrap();
        bytes[at] = b'/';
        assert!(decode::<Request>(&bytes).is_err());
    }
}
