//! What neighbours, entries and exits send: messages on links and lanes, probes, floods, digests.

use serde::{Serialize, de::DeserializeOwned};

use super::Fuzz;
use crate::{
    flow::{FlowLabel, Refusal, RefusalKind, Route, RouteWish, Target},
    overlay::{
        linkstate::{Advertisement, Flood, LinkReport, Roles, Version},
        monitor::{LinkState, LinkSummary, Probe, ProbeKind},
        sharing::SharedLink,
    },
    wire::{
        datagram::{Header, Piece, frame, parse},
        decode, encode,
        frame::{MAX_PACKET, first, push_frame, whole},
        label::{HEADER_LEN, Label, classify, number},
        lane::{
            AssociationNews, LaneNotice, Moved, Open, OpenReply, Opened, Purpose, RerouteReason,
        },
        link::{
            ForwardRequest, Hello, LaneAsker, LaneRequest, LinkDatagram, LinkRefusal, Notice,
            OpenLane, Reply, Request, SignedLaneRequest,
        },
        nonce::AddressNonce,
        piece,
    },
};

/// Tries a message type: no panic, little memory, and what is read is read again as it was.
fn fuzz<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    name: &'static str,
    seeds: impl IntoIterator<Item = T>,
) {
    let seeds: Vec<_> = seeds.into_iter().map(|seed| encode(&seed)).collect();
    Fuzz::new(name, seeds).run(|bytes| {
        if let Ok(message) = decode::<T>(bytes) {
            assert_eq!(decode::<T>(&encode(&message)).unwrap(), message);
        }
    });
}

fn address() -> std::net::SocketAddr {
    "[2001:db8::1]:4600".parse().unwrap()
}

fn open_lane() -> OpenLane {
    let wish = RouteWish {
        class: Some("bulk".into()),
        pin: Some(Route::Via("utah".parse().unwrap())),
        avoid: vec!["nyu".parse().unwrap()],
        ..RouteWish::default()
    };
    OpenLane { reply_label: Label(1 << 63), route: Route::Direct, wish }
}

fn lane_request() -> SignedLaneRequest {
    let [entry, exit] = ["aros", "mit"].map(|name| name.parse().unwrap());
    let request = LaneRequest { entry, exit, issued: 300, incarnation: 1 << 63, open: open_lane() };
    SignedLaneRequest { request, signature: vec![0x30; 72] }
}

#[test]
fn mutated_requests_are_read_or_refused() {
    let forward = |asker| ForwardRequest { toward: "mit".parse().unwrap(), label: Label(5), asker };
    let requests = [
        Request::Hello(hello()),
        Request::OpenLane(lane_request()),
        Request::Forward(forward(LaneAsker::Entry { class: Some("bulk".into()) })),
        Request::Forward(forward(LaneAsker::Exit(Box::new(lane_request())))),
        Request::Renew((0..512).map(Label).collect()),
        Request::PassOn(lane_request()),
        Request::PassedOn { request: lane_request(), certificate: vec![0x30; 600] },
        Request::RenewCertificate { signing_request: vec![0x30; 250], passed_on: false },
    ];
    fuzz("request", requests);
}

#[test]
fn mutated_replies_are_read_or_refused() {
    let replies = [
        Reply::Hello(hello()),
        Reply::LaneOpened { label: Label(7) },
        Reply::Granted { label: Label(9), seconds: 120 },
        Reply::Renewed(vec![true; 512]),
        Reply::Refused(LinkRefusal::NoLink("mit".parse().unwrap())),
        Reply::Refused(LinkRefusal::Full("64 lanes of one entry".into())),
        Reply::Certificate(vec![vec![0x30; 600]; 2]),
    ];
    fuzz("reply", replies);
}

#[test]
fn mutated_notices_are_read_or_refused() {
    let notices = [
        Notice::Advertisement { flood: encode(&flood()), certificate: Some(vec![0x30; 600]) },
        Notice::Digest(encode(&vec![("mit".to_owned(), flood().advert.version); 20])),
        Notice::Revocations(vec![0x30; 500]),
        Notice::Certificate(vec![0x30; 600]),
        Notice::Seen(address()),
        Notice::Shared(encode(&shared())),
    ];
    fuzz("notice", notices);
}

#[test]
fn mutated_floods_and_digests_are_read_or_refused() {
    Fuzz::new("flood", [encode(&flood())]).run(|bytes| {
        if let Ok(flood) = decode::<Flood>(bytes) {
            let within = flood.check().is_ok();
            assert!(!within || flood.advert.links.len() <= 256, "a cap is missing");
            assert_eq!(decode::<Flood>(&encode(&flood)).unwrap(), flood);
        }
    });
    let version = flood().advert.version;
    fuzz::<Vec<(crate::identity::NodeName, Version)>>(
        "digest",
        [(0..20).map(|n| (format!("n{n}").parse().unwrap(), version)).collect()],
    );
}

#[test]
fn mutated_shared_figures_are_read_or_refused() {
    fuzz("shared", [Vec::new(), shared()]);
}

#[test]
fn mutated_probes_and_lane_notices_are_read_or_refused() {
    let kinds = [ProbeKind::Request, ProbeKind::Reply { to: 300 }, ProbeKind::Finish { to: 1 }];
    let probe = |kind| Probe {
        epoch: 0xbeef,
        seq: 300,
        regular: Some(129),
        heard_lost: 2,
        heard_of: 100,
        rarely: true,
        kind,
    };
    fuzz("probe", kinds.map(probe));
    let moved = Moved { left: Route::Direct, reason: RerouteReason::Silent { ms: 130 } };
    let via = Route::Via("utah".parse().unwrap());
    let notice = LaneNotice {
        epoch: 300,
        seen: 7,
        route: via,
        moved: Some(moved),
        limited: false,
        mine: false,
        ping: true,
    };
    let calm = LaneNotice { moved: None, ..notice.clone() };
    fuzz("lane-notice", [notice, calm]);
}

#[test]
fn mutated_open_headers_and_answers_are_read_or_refused() {
    let open = |purpose| Open {
        label: FlowLabel(0x0a0b),
        purpose,
        hint: "app:page-load".parse().unwrap(),
        window: 1 << 20,
    };
    let targets = ["a.test:80", "192.0.2.1:443", "[2001:db8::1]:22"];
    let targets = targets.map(|target| Purpose::Connect(target.parse().unwrap()));
    fuzz("open", targets.into_iter().chain([Purpose::Datagrams, Purpose::Packets]).map(open));
    let refusal = Refusal::new(RefusalKind::Policy, "no");
    fuzz::<OpenReply>("open-reply", [Ok(Opened { remote: address(), window: 300 }), Err(refusal)]);
}

#[test]
fn mutated_datagrams_of_flows_and_news_of_them_are_read_or_refused() {
    let target = || "a.test:53".parse().unwrap();
    let packet = Target { host: "voice".parse().unwrap(), port: 0 };
    let pieces =
        [Piece::Whole(target()), Piece::Whole(packet), Piece::First(target()), Piece::Second];
    let header = |piece| Header { flow: 5, number: 300, piece };
    let seeds = pieces.map(|piece| frame(&header(piece), b"hello").to_vec());
    Fuzz::new("flow-datagram", seeds).run(|bytes| {
        if let Ok((header, payload)) = parse(bytes) {
            assert_eq!(parse(&frame(&header, payload)).unwrap(), (header, payload));
        }
    });
    let refusal = Refusal::new(RefusalKind::Policy, "no");
    fuzz("news", [AssociationNews::Lost(300), AssociationNews::Refused(target(), refusal)]);
}

#[test]
fn mutated_datagrams_are_classified() {
    let label = [1; HEADER_LEN].to_vec();
    let seeds = [[&label[..], &[0x40; 60]].concat(), vec![2; 40], vec![0x42; 60]];
    Fuzz::new("datagram", seeds).run(|bytes| {
        let _ = (classify(bytes), number(bytes), piece::parse(bytes));
    });
    let nonce = AddressNonce { asker: 7, nonce: 1 << 63 };
    Fuzz::new("address-nonce", [nonce.encode().to_vec()]).run(|bytes| {
        if let Some(nonce) = AddressNonce::decode(bytes) {
            assert_eq!(nonce.encode()[..], bytes[..]);
        }
    });
    let seeds = [LinkDatagram::Probe(encode(&300u64).into()), LinkDatagram::Nonce(1 << 63)];
    Fuzz::new("link-datagram", seeds.map(|seed| seed.encode().to_vec())).run(|bytes| {
        if let Some(read) = LinkDatagram::decode(&bytes.to_vec().into()) {
            assert_eq!(read.encode(), bytes);
        }
    });
}

#[test]
fn mutated_frames_of_streams_are_split_or_refused() {
    let mut frames = Vec::new();
    for length in [1, 1_200, MAX_PACKET] {
        assert!(push_frame(&mut frames, &vec![0x40; length]));
    }
    Fuzz::new("stream-frame", [frames, vec![0, 2, 0x51, 0x21, 0, 1]]).run(|bytes| {
        let Ok(whole) = whole(bytes) else { return };
        let (mut left, mut again) = (&bytes[..whole], Vec::new());
        while let Some((packet, rest)) = first(left).unwrap() {
            assert!(push_frame(&mut again, packet));
            left = rest;
        }
        assert_eq!((again.as_slice(), left), (&bytes[..whole], &[][..]));
    });
}

fn hello() -> Hello {
    Hello {
        incarnation: 300,
        seen: Some(address()),
        version: "0.1.0".into(),
        revocations: 3,
        time: 1_900_000_000,
    }
}

fn shared() -> Vec<SharedLink> {
    let links = flood().advert.links.into_iter();
    links.map(|link| SharedLink { link, age_s: 300, measured: true }).collect()
}

fn flood() -> Flood {
    let now = std::time::Instant::now();
    let summary = LinkSummary {
        state: LinkState::Up,
        rtt: Some(std::time::Duration::from_millis(60)),
        ..LinkSummary::unmeasured(now)
    };
    let link = |n| LinkReport::new(format!("n{n}").parse().unwrap(), &summary);
    let advert = Advertisement {
        origin: "mit".parse().unwrap(),
        version: Version { issued: 1_800_000_000, incarnation: 300, sequence: 7 },
        lifetime_s: 60,
        roles: Roles::RELAY.with(Roles::EXIT),
        addresses: vec![address(); 8],
        serves: vec!["a.b".into(), "10.0.0.0/8".into()],
        links: (0..50).map(link).collect(),
    };
    Flood::new(advert, vec![0x30; 72])
}
