//! The bytes that the hostile peer says: the only place here that knows the wire format.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use ronproxy::internals::{
    flow::{FlowLabel, Hint, Route, RouteWish},
    identity::{Credentials, NodeName, UnixTime},
    overlay::{
        linkstate::{Advertisement, Flood, LinkReport, Roles, Version},
        monitor::{LinkState, LinkSummary, Probe, ProbeKind},
        sharing::SharedLink,
        units::LossRate,
    },
    underlay::{SlotId, labels::LabelTable},
    wire::{
        datagram::{Header, Piece, frame},
        decode, encode,
        label::{Label, push_labelled},
        lane::{JudgeReply, LaneNotice, Moved, Open, OpenReply, Purpose, RerouteReason},
        link::{
            ForwardRequest, Hello, LaneAsker, LaneRequest, LinkDatagram, LinkRefusal, Notice,
            OpenLane, RenewalRefusal, Reply, Request, RequestFault, SignedLaneRequest,
        },
    },
};

/// The introduction of a process that sees its neighbour at `seen`.
pub(crate) fn hello(incarnation: u64, seen: Option<SocketAddr>, revocations: u64) -> Vec<u8> {
    let (version, time) = ("0.1.0".to_owned(), UnixTime::now().as_secs());
    encode(&Request::Hello(Hello { incarnation, seen, version, revocations, time }))
}

/// "Your packets come from this address now."
pub(crate) fn seen(at: SocketAddr) -> Vec<u8> {
    encode(&Notice::Seen(at))
}

/// "I moved from `left` to `route`, and know of all your moves; answer."
pub(crate) fn moved(epoch: u64, left: Route, route: Route, reason: RerouteReason) -> Bytes {
    let (moved, seen) = (Some(Moved { left, reason }), u64::MAX);
    encode(&LaneNotice { epoch, seen, route, moved, limited: true, mine: false, ping: true }).into()
}

/// Unsigned hearsay of members, as version 1 of the protocol had it: variant 0 of the notices, then
/// name, addresses and roles of each.
pub(crate) fn hearsay(members: &[(String, Vec<SocketAddr>)]) -> Vec<u8> {
    let members: Vec<_> =
        members.iter().map(|(name, addresses)| (name, addresses, (true, true))).collect();
    [vec![0], encode(&members)].concat()
}

/// A request of `entry` to `exit` for a lane for nothing in particular, signed by `by`.
fn lane(by: &Credentials, entry: &NodeName, exit: &NodeName, reply: Label) -> SignedLaneRequest {
    let wish = RouteWish::default();
    let open = OpenLane { reply_label: reply, route: Route::Direct, wish };
    lane_of(by, (entry, exit), 0, open)
}

/// The same with these wishes, to the process of the exit with this incarnation.
fn lane_of(
    by: &Credentials,
    (entry, exit): (&NodeName, &NodeName),
    incarnation: u64,
    open: OpenLane,
) -> SignedLaneRequest {
    let request = LaneRequest {
        entry: entry.clone(),
        exit: exit.clone(),
        issued: by.now().as_secs() << 20 | u64::from(rand::random::<u32>() >> 12),
        incarnation,
        open,
    };
    let signature = by.sign(&request.statement()).unwrap();
    SignedLaneRequest { request, signature }
}

/// A request of `by` to the exit for a lane whose way back leads over `via`.
fn lane_via(by: &Credentials, via: &str, incarnation: u64) -> SignedLaneRequest {
    let (route, wish) = (Route::Via(via.parse().unwrap()), RouteWish::default());
    let open = OpenLane { reply_label: Label(rand::random()), route, wish };
    lane_of(by, (&by.peer().name, &"exit".parse().unwrap()), incarnation, open)
}

/// The same, to the exit itself.
pub(crate) fn open_lane_via(by: &Credentials, via: &str) -> Vec<u8> {
    encode(&Request::OpenLane(lane_via(by, via, 0)))
}

/// The same, to a relay that is to pass it on to the exit's process with this incarnation.
pub(crate) fn pass_on_via(by: &Credentials, via: &str, incarnation: u64) -> Vec<u8> {
    encode(&Request::PassOn(lane_via(by, via, incarnation)))
}

/// The exit's incarnation, if the answer says that the request was for another one.
pub(crate) fn other_incarnation(reply: &[u8]) -> Option<u64> {
    match decode(reply).ok()? {
        Reply::Refused(LinkRefusal::Unproved(RequestFault::OtherIncarnation(present))) => {
            Some(present)
        }
        _ => None,
    }
}

/// A request of `by` to `exit` for a lane whose packets are to come under `reply`.
pub(crate) fn open_lane(by: &Credentials, exit: &str, reply: Label) -> Vec<u8> {
    encode(&Request::OpenLane(lane(by, &by.peer().name, &exit.parse().unwrap(), reply)))
}

/// A request of `by` to `exit`, dated by these seconds since 1970, with this number within the second.
pub(crate) fn open_lane_at(by: &Credentials, exit: &str, (seconds, low): (u64, u64)) -> Vec<u8> {
    let (entry, exit) = (by.peer().name.clone(), exit.parse().unwrap());
    let (route, wish) = (Route::Direct, RouteWish::default());
    let open = OpenLane { reply_label: Label(rand::random()), route, wish };
    let request = LaneRequest { entry, exit, issued: seconds << 20 | low, incarnation: 0, open };
    let signature = by.sign(&request.statement()).unwrap();
    encode(&Request::OpenLane(SignedLaneRequest { request, signature }))
}

/// The incarnation in the answer to an introduction.
pub(crate) fn heard_incarnation(reply: &[u8]) -> Option<u64> {
    match decode(reply).ok()? {
        Reply::Hello(hello) => Some(hello.incarnation),
        _ => None,
    }
}

/// The same for a lane of this traffic class.
pub(crate) fn open_lane_of(by: &Credentials, exit: &str, reply: Label, class: &str) -> Vec<u8> {
    let wish = RouteWish { class: Some(class.to_owned()), ..RouteWish::default() };
    let open = OpenLane { reply_label: reply, route: Route::Direct, wish };
    let ends = (&by.peer().name, &exit.parse().unwrap());
    encode(&Request::OpenLane(lane_of(by, ends, 0, open)))
}

/// The label under which a granted lane's packets go; `None` if it was refused.
pub(crate) fn granted_lane(reply: &[u8]) -> Option<Label> {
    match decode(reply).ok()? {
        Reply::LaneOpened { label } => Some(label),
        _ => None,
    }
}

/// Makes a label of the peer's own lead to one of its slots.
pub(crate) fn own_label(labels: &mut LabelTable, holder: &NodeName, slot: SlotId) -> Label {
    let label = Label(rand::random());
    labels.grant_slot(label, holder, slot).unwrap();
    label
}

/// A request that `by` signed for a lane to `exit`, and claims to pass on for `from`.
pub(crate) fn passed_on(by: &Credentials, from: &str, exit: &str) -> Vec<u8> {
    let label = Label(rand::random());
    let request = lane(by, &from.parse().unwrap(), &exit.parse().unwrap(), label);
    encode(&Request::PassedOn { request, certificate: by.certificate().to_vec() })
}

/// A request to forward to `toward`, under its label there.
pub(crate) fn forward(toward: &str, label: Label, class: Option<String>) -> Vec<u8> {
    let (toward, asker) = (toward.parse().unwrap(), LaneAsker::Entry { class });
    encode(&Request::Forward(ForwardRequest { toward, label, asker }))
}

/// The same with the claim to be the exit of a lane that `toward` asked for; `by` signed the request.
pub(crate) fn forward_as_exit(by: &Credentials, toward: &str, label: Label) -> Vec<u8> {
    let toward: NodeName = toward.parse().unwrap();
    let request = lane(by, &toward, &by.peer().name, Label(rand::random()));
    let asker = LaneAsker::Exit(Box::new(request));
    encode(&Request::Forward(ForwardRequest { toward, label, asker }))
}

/// The label under which packets are forwarded; `None` if that was refused.
pub(crate) fn granted_forward(reply: &[u8]) -> Option<Label> {
    match decode(reply).ok()? {
        Reply::Granted { label, .. } => Some(label),
        _ => None,
    }
}

/// The sentence of a refusal; `None` if it is none.
pub(crate) fn refusal(reply: &[u8]) -> Option<String> {
    match decode(reply).ok()? {
        Reply::Refused(refusal) => Some(refusal.to_string()),
        _ => None,
    }
}

/// A record of `origin`, signed with the key of `by`, and the certificate of `by` beside it.
pub(crate) fn record(
    origin: &str,
    by: &Credentials,
    version: (u64, u64),
    addresses: &[SocketAddr],
) -> Vec<u8> {
    signed_record(by, advertisement(origin, by, version, addresses))
}

/// A member's own record, which says that it is an exit.
pub(crate) fn exit_record(by: &Credentials, version: (u64, u64)) -> Vec<u8> {
    let own = advertisement(by.peer().name.as_str(), by, version, &[]);
    signed_record(by, Advertisement { roles: Roles::EXIT, ..own })
}

/// A member's own record that ends after a second.
pub(crate) fn short_record(by: &Credentials, version: (u64, u64)) -> Vec<u8> {
    let own = advertisement(by.peer().name.as_str(), by, version, &[]);
    signed_record(by, Advertisement { lifetime_s: 1, ..own })
}

/// A member's own record of the greatest size: 255 links with long names, and no address.
pub(crate) fn large_record(by: &Credentials, version: (u64, u64)) -> Vec<u8> {
    let unmeasured = LinkSummary::unmeasured(std::time::Instant::now());
    let name = |n| format!("{n:0>63}").parse().unwrap();
    let links = (0..255).map(|n| LinkReport::new(name(n), &unmeasured)).collect();
    let own = advertisement(by.peer().name.as_str(), by, version, &[]);
    signed_record(by, Advertisement { links, ..own })
}

fn advertisement(
    origin: &str,
    by: &Credentials,
    (incarnation, sequence): (u64, u64),
    addresses: &[SocketAddr],
) -> Advertisement {
    let issued = by.peer().starts.as_secs();
    Advertisement {
        origin: origin.parse().unwrap(),
        version: Version { issued, incarnation, sequence },
        lifetime_s: 300,
        roles: Roles::NONE,
        addresses: addresses.to_vec(),
        serves: Vec::new(),
        links: Vec::new(),
    }
}

fn signed_record(by: &Credentials, advert: Advertisement) -> Vec<u8> {
    let signature = by.sign(&encode(&advert)).unwrap();
    let flood = encode(&Flood::new(advert, signature));
    encode(&Notice::Advertisement { flood, certificate: Some(by.certificate().to_vec()) })
}

/// An advertisement as its origin made it, said to be made nearly its lifetime ago; `None` if the notice
/// is no advertisement.
pub(crate) fn aged(notice: &[u8]) -> Option<Vec<u8>> {
    let Ok(Notice::Advertisement { flood, certificate }) = decode(notice) else { return None };
    let flood: Flood = decode(&flood).ok()?;
    let flood = encode(&Flood { age_s: flood.advert.lifetime_s - 1, ..flood });
    Some(encode(&Notice::Advertisement { flood, certificate }))
}

/// A digest that holds nothing: it asks for everything.
pub(crate) fn empty_digest() -> Vec<u8> {
    let nothing: Vec<(NodeName, Version)> = Vec::new();
    encode(&Notice::Digest(encode(&nothing)))
}

/// The header of a flow to `target`.
pub(crate) fn open(target: &str) -> Vec<u8> {
    open_for(Purpose::Connect(target.parse().unwrap()))
}

/// The question whether the exit would carry a flow to `target`, for a link.
pub(crate) fn judge(target: &str) -> Vec<u8> {
    encode(&Request::Judge(target.parse().unwrap()))
}

/// The same with a host name that no check has seen.
pub(crate) fn judge_raw(host: &str) -> Vec<u8> {
    // Variant 8 of requests, variant 1 of a host (a name), name, port.
    encode(&(8u32, 1u32, host, 80u16))
}

/// The same for a lane.
pub(crate) fn question(target: &str) -> Vec<u8> {
    open_for(Purpose::Question(target.parse().unwrap()))
}

/// The same for a lane with a host name that no check has seen.
pub(crate) fn question_raw(host: &str) -> Vec<u8> {
    // Label, variant 4 of a purpose, variant 1 of a host (a name), name, port, hint, window.
    encode(&(7u64, 4u32, 1u32, host, 80u16, "latency", 0u64))
}

/// What an exit answered to a question on a link; `None`: something else.
pub(crate) fn judged(reply: &[u8]) -> Option<JudgeReply> {
    match decode(reply).ok()? {
        Reply::Judged(answer) => Some(answer),
        _ => None,
    }
}

/// What an exit answered to a question on a lane, with its length in front.
pub(crate) fn answered(answer: &[u8]) -> Option<JudgeReply> {
    decode(answer.get(2..)?).ok()
}

/// The header of an association's flow.
pub(crate) fn open_association() -> Vec<u8> {
    open_for(Purpose::Datagrams)
}

fn open_for(purpose: Purpose) -> Vec<u8> {
    // As much as an entry may grant: the exit must not trust it with its memory.
    encode(&Open { label: FlowLabel(7), purpose, hint: Hint::Latency, window: 1 << 40 })
}

/// A datagram of the association on the stream with this index.
pub(crate) fn datagram(flow: u64, number: u16, target: &str, payload: &[u8]) -> Bytes {
    let piece = Piece::Whole(target.parse().unwrap());
    frame(&Header { flow, number, piece }, payload)
}

/// The first part of one whose second part never comes.
pub(crate) fn half_a_datagram(flow: u64, number: u16, target: &str, payload: &[u8]) -> Bytes {
    let piece = Piece::First(target.parse().unwrap());
    frame(&Header { flow, number, piece }, payload)
}

/// A packet under a label, with a number of the sender's choice.
pub(crate) fn labelled(label: Label, number: u16, packet: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_labelled(&mut bytes, label, number, packet);
    bytes
}

/// A probe that asks for an answer.
pub(crate) fn probe(seq: u32) -> Vec<u8> {
    let kind = ProbeKind::Request;
    let probe = Probe {
        epoch: 7,
        seq,
        regular: Some(seq),
        heard_lost: 0,
        heard_of: 0,
        rarely: false,
        kind,
    };
    LinkDatagram::Probe(encode(&probe).into()).encode().into()
}

/// The answer to a probe; `None` if the datagram asks for none.
pub(crate) fn probe_reply(datagram: &Bytes, seq: u32) -> Option<Vec<u8>> {
    let LinkDatagram::Probe(bytes) = LinkDatagram::decode(datagram)? else { return None };
    let asked: Probe = decode(&bytes).ok()?;
    let kind = ProbeKind::Reply { to: asked.seq };
    let reply = Probe {
        epoch: 7,
        seq,
        regular: Some(seq),
        heard_lost: 0,
        heard_of: 50,
        rarely: false,
        kind,
    };
    let reply = LinkDatagram::Probe(encode(&reply).into()).encode();
    (asked.kind == ProbeKind::Request).then(|| reply.into())
}

/// "I measured these links just now": the member, the round-trip time in milliseconds, the loss in percent.
pub(crate) fn shared(links: &[(String, u64, u32)]) -> Vec<u8> {
    let link = |(peer, rtt_ms, percent): &(String, u64, u32)| {
        let loss = Some(LossRate::from_percent(*percent));
        let summary = LinkSummary {
            state: LinkState::Up,
            rtt: Some(Duration::from_millis(*rtt_ms)),
            loss_out: loss,
            loss_in: loss,
            ..LinkSummary::unmeasured(std::time::Instant::now())
        };
        SharedLink {
            link: LinkReport::new(peer.parse().unwrap(), &summary),
            age_s: 0,
            measured: true,
        }
    };
    let links: Vec<SharedLink> = links.iter().map(link).collect();
    encode(&Notice::Shared(encode(&links)))
}

/// The same with what nobody can read.
pub(crate) fn unreadable_shared() -> Vec<u8> {
    encode(&Notice::Shared(vec![0xff; 40]))
}

/// The header of a flow to a host name that no check has seen.
pub(crate) fn open_raw(host: &str, port: u16) -> Vec<u8> {
    // Label, variant 1 of a host (a name), name, port, hint, window.
    encode(&(7u64, 1u32, host, port, "latency", 300u64))
}

/// Whether the exit's answer, with its length in front, says that the flow is open.
pub(crate) fn opened(answer: &[u8]) -> bool {
    answer.get(2..).is_some_and(|answer| matches!(decode::<OpenReply>(answer), Ok(Ok(_))))
}

/// A revocation list.
pub(crate) fn revocations(der: &[u8]) -> Vec<u8> {
    encode(&Notice::Revocations(der.to_vec()))
}

/// A certificate that claims to follow the one on the link.
pub(crate) fn certificate(der: &[u8]) -> Vec<u8> {
    encode(&Notice::Certificate(der.to_vec()))
}

/// A request for the next certificate: the peer's own, or one that it claims to pass on.
pub(crate) fn renew_certificate(signing_request: &[u8], passed_on: bool) -> Vec<u8> {
    let signing_request = signing_request.to_vec();
    encode(&Request::RenewCertificate { signing_request, passed_on })
}

/// Whether a neighbour asks for its next certificate.
pub(crate) fn asks_for_certificate(request: &[u8]) -> bool {
    matches!(decode(request), Ok(Request::RenewCertificate { .. }))
}

/// An answer to that.
pub(crate) fn renewed(chain: Vec<Vec<u8>>) -> Vec<u8> {
    encode(&Reply::Certificate(chain))
}

/// Another answer: the authority's refusal.
pub(crate) fn says_revoked() -> Vec<u8> {
    encode(&Reply::Refused(RenewalRefusal::Revoked.into()))
}
