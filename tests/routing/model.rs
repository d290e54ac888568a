//! Random sequences of whatever can happen to a router: nothing panics, versions only grow, and
//! what is old, doubled or nonsense changes nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use ronproxy::internals::{
    flow::RouteWish,
    identity::NodeName,
    overlay::{
        budget::DEFAULT_BUDGET,
        linkstate::{Advertisement, Flood, LinkReport, MAX_VERSION, Roles, Version},
        monitor::{LinkState, LinkSummary, Probe, ProbeKind},
        policy::Policy,
        router::Router,
        select::Selector,
    },
};

use crate::sim::Sim;

const PEERS: u8 = 5;

#[derive(Debug, Clone)]
enum Happening {
    /// Time passes, in milliseconds.
    Pass(u64),
    LinkUp {
        peer: u8,
        restarted: bool,
    },
    Probe {
        peer: u8,
        epoch: u16,
        seq: u32,
        heard: u8,
        answers: Option<u32>,
    },
    /// An advertisement with these figures; which may be older or newer than any before.
    Advert {
        sender: u8,
        origin: u8,
        version: Version,
        age_s: u16,
        links: u8,
    },
    /// The last advertisement comes once more.
    Replay,
    Decide,
}

fn any_version() -> impl Strategy<Value = Version> {
    let number = prop_oneof![0..5u64, Just(MAX_VERSION), Just(u64::MAX), any::<u64>()];
    let version = |(issued, incarnation, sequence)| Version { issued, incarnation, sequence };
    (0..3u64, number.clone(), number).prop_map(version)
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let peer = || 0..PEERS;
    let seq = || prop_oneof![0..9u32, Just(u32::MAX), any::<u32>()];
    let probe = (peer(), 0..3u16, seq(), any::<u8>(), prop::option::of(seq()));
    // The last number is the router itself.
    let advert = (peer(), 0..=PEERS, any_version(), 0..400u16, any::<u8>());
    prop_oneof![
        prop_oneof![0..2_000u64, 0..4_000_000u64].prop_map(Happening::Pass),
        (peer(), any::<bool>()).prop_map(|(peer, restarted)| Happening::LinkUp { peer, restarted }),
        probe.prop_map(|(peer, epoch, seq, heard, answers)| Happening::Probe {
            peer,
            epoch,
            seq,
            heard,
            answers
        }),
        advert.prop_map(|(sender, origin, version, age_s, links)| Happening::Advert {
            sender,
            origin,
            version,
            age_s,
            links
        }),
        Just(Happening::Replay),
        Just(Happening::Decide),
    ]
}

fn name(at: u8) -> NodeName {
    format!("n{at}").parse().unwrap()
}

fn flood(origin: u8, version: Version, age_s: u16, links: u8) -> Flood {
    let up = LinkSummary { state: LinkState::Up, ..LinkSummary::unmeasured(Instant::now()) };
    let peers = (0..PEERS).filter(|peer| links & 1 << peer != 0);
    let advert = Advertisement {
        origin: name(origin),
        version,
        lifetime_s: 60,
        roles: Roles::RELAY,
        addresses: Vec::new(),
        serves: Vec::new(),
        links: peers.map(|peer| LinkReport::new(name(peer), &up)).collect(),
    };
    Flood { age_s, signature: Vec::new(), advert }
}

/// A router, what it was seen to hold, and what it last said of itself.
struct Model {
    router: Router,
    selector: Selector,
    now: Instant,
    held: BTreeMap<NodeName, Version>,
    own: Option<Version>,
    last: Option<(u8, Flood)>,
}

impl Model {
    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Pass(ms) => self.now += Duration::from_millis(ms),
            Happening::LinkUp { peer, restarted } => {
                self.router.link_up(self.now, &name(peer), restarted, 7);
            }
            Happening::Probe { peer, epoch, seq, heard, answers } => {
                let kind = answers.map_or(ProbeKind::Request, |to| ProbeKind::Reply { to });
                let (heard_lost, rarely) = (heard, heard % 2 == 1);
                let probe = Probe {
                    epoch,
                    seq,
                    regular: Some(seq),
                    heard_lost,
                    heard_of: heard,
                    rarely,
                    kind,
                };
                self.router.heard_probe(self.now, &name(peer), &probe);
            }
            Happening::Advert { sender, origin, version, age_s, links } => {
                self.last = Some((sender, flood(origin, version, age_s, links)));
                self.hear();
            }
            Happening::Replay => {
                let before = self.hear();
                assert_eq!(before, self.hear(), "what came before changes nothing");
            }
            Happening::Decide => {
                let wish = RouteWish::default();
                let candidates = self.router.candidates(self.now, &name(0), &wish, &[]);
                self.selector.decide(self.now, candidates);
            }
        }
        self.advance();
    }

    /// Hears the last advertisement; what is held afterwards.
    fn hear(&mut self) -> Vec<(NodeName, Version)> {
        if let Some((sender, flood)) = self.last.clone() {
            let linked: Vec<_> = (0..PEERS).map(name).collect();
            let origin = flood.advert.origin.clone();
            let heard = self.router.heard_advertisement(self.now, &name(sender), flood, &linked);
            for (peer, sent) in heard.send {
                assert_eq!(sent.advert.origin, origin, "nothing else is sent");
                assert!(peer != name(sender) || peer == origin, "only an origin hears of its own");
            }
        }
        self.router.digest(self.now)
    }

    fn advance(&mut self) {
        let due = self.router.advance(self.now, &mut || 0.5);
        if let Some((advert, _)) = due.advert {
            let version = advert.version;
            assert!(self.own < Some(version) || version.sequence == MAX_VERSION, "{version:?}");
            assert!(advert.check().is_ok());
            self.own = Some(version);
        }
        for (origin, version) in self.router.digest(self.now) {
            let before = self.held.insert(origin.clone(), version);
            assert!(before <= Some(version), "{origin} went back from {before:?} to {version:?}");
            assert!(version.incarnation.max(version.sequence) <= MAX_VERSION);
        }
        self.router.next_timeout(self.now);
    }
}

proptest! {
    #[test]
    fn whatever_happens_to_a_router_nothing_panics_and_versions_only_grow(
        happenings in prop::collection::vec(any_happening(), 1..120)
    ) {
        let (us, policy) = (name(PEERS), Policy::default());
        let router = Router::named(us, Roles::RELAY, Vec::new(), 3, policy, DEFAULT_BUDGET);
        let mut model = Model {
            router,
            selector: Selector::new("latency".parse().unwrap()),
            now: Instant::now(),
            held: BTreeMap::new(),
            own: None,
            last: None,
        };
        for happening in &happenings {
            model.happen(happening);
        }
    }
}

#[test]
fn a_node_that_starts_again_is_heard_again_whatever_its_clock_says() {
    use crate::shapes::{rtt, s, triangle};
    // The first incarnation is 1: the clock went back, stood still, went on, and jumped far.
    for incarnation in [0, 1, 2, u64::MAX] {
        let mut sim = Sim::new(&triangle(rtt(60), 80), incarnation % 7);
        sim.run_until(s(60));
        let relay = sim.node("r");
        sim.restart(relay, incarnation);
        sim.run_until(s(64));
        let heard = |sim: &Sim| {
            let digest = sim.router(0).digest(sim.now());
            digest.into_iter().find(|(name, _)| name.as_str() == "r").unwrap().1
        };
        let soon = heard(&sim);
        sim.run_until(s(94));
        assert!(heard(&sim) > soon, "incarnation {incarnation}: {soon:?} is the last one heard");
        let wish = RouteWish::default();
        let exit = sim.name(1).clone();
        let candidates = sim.router(0).candidates(sim.now(), &exit, &wish, &[]);
        let via = candidates.iter().find(|c| c.route.to_string() == "via r").unwrap();
        assert!(via.excluded.is_none() && via.metrics.is_some(), "{incarnation}: {via:?}");
    }
}

#[test]
fn the_same_seed_replays_exactly() {
    use crate::shapes::{rtt, s, triangle};
    let run = |seed| {
        let lossy = rtt(60).with_loss(ronproxy::internals::emulator::LossRate::from_percent(10.0));
        let mut sim = Sim::new(&triangle(lossy, 80), seed);
        sim.run_until(s(120));
        let links = sim.router(0).links(sim.now());
        let figures = links.values().map(|link| (link.rtt, link.loss_out, link.loss_in));
        (figures.collect::<Vec<_>>(), sim.spent(0).probes, sim.spent(1).notices)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
