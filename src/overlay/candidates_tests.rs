//! Candidates from link state, policy and constraints. The overlay: this node is `nyu`, the exit
//! `mit`, and there are relays.

use std::time::Duration;

use super::*;
use crate::overlay::{
    linkstate::{Advertisement, Flood, LinkReport, Version},
    units::LossRate,
};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn link(state: LinkState, rtt_ms: u64, out: u32, back: u32) -> LinkSummary {
    LinkSummary {
        state,
        rtt: (rtt_ms > 0).then(|| Duration::from_millis(rtt_ms)),
        loss_out: Some(LossRate::from_percent(out)),
        loss_in: Some(LossRate::from_percent(back)),
        ..LinkSummary::unmeasured(Instant::now())
    }
}

fn up(rtt_ms: u64) -> LinkSummary {
    link(LinkState::Up, rtt_ms, 0, 0)
}

struct Overlay {
    own: NodeName,
    links: BTreeMap<NodeName, LinkSummary>,
    db: LinkStateDb,
    policy: Policy,
    tag: Tag,
    constraints: Constraints,
    now: Instant,
}

impl Overlay {
    fn new(links: &[(&str, LinkSummary)]) -> Self {
        Self {
            own: name("nyu"),
            links: links.iter().map(|(peer, link)| (name(peer), *link)).collect(),
            db: LinkStateDb::new(name("nyu")),
            policy: Policy::default(),
            tag: Tag::default(),
            constraints: Constraints::default(),
            now: Instant::now(),
        }
    }

    fn advertise(mut self, origin: &str, roles: Roles, links: &[(&str, LinkSummary)]) -> Self {
        let advert = Advertisement {
            origin: name(origin),
            version: Version { issued: 0, incarnation: 1, sequence: 1 },
            lifetime_s: 60,
            roles,
            addresses: Vec::new(),
            serves: Vec::new(),
            links: links.iter().map(|(peer, link)| LinkReport::new(name(peer), link)).collect(),
        };
        self.db.install(self.now, Flood::new(advert, Vec::new()));
        self
    }

    fn candidates(&self) -> Vec<Candidate> {
        let view = View {
            own: &self.own,
            links: &self.links,
            db: &self.db,
            policy: &self.policy,
            now: self.now,
        };
        candidates(&view, &name("mit"), &self.tag, &self.constraints)
    }

    fn of(&self, route: &str) -> Candidate {
        let route: Route = route.parse().unwrap();
        self.candidates().into_iter().find(|candidate| candidate.route == route).unwrap()
    }

    fn excluded(&self, route: &str) -> Option<String> {
        self.of(route).excluded.map(|reason| reason.to_string())
    }
}

fn one_relay() -> Overlay {
    Overlay::new(&[("mit", up(60)), ("utah", link(LinkState::Up, 20, 10, 0))]).advertise(
        "utah",
        Roles::RELAY,
        &[("mit", link(LinkState::Up, 30, 0, 5))],
    )
}

#[test]
fn a_relayed_candidate_combines_both_links_by_direction() {
    let candidates = one_relay().candidates();
    assert_eq!(candidates[0].route, Route::Direct);
    let via = candidates[1].metrics.unwrap();
    assert_eq!(via.rtt, Duration::from_millis(50));
    assert_eq!(via.loss_out, LossRate::from_percent(10));
    assert_eq!(via.loss_in, LossRate::from_percent(5));
    assert_eq!(candidates.len(), 2, "neither this node nor the exit is a relay");
}

#[test]
fn the_exits_view_of_a_link_serves_when_the_relay_has_none() {
    let overlay = Overlay::new(&[("utah", up(20))]).advertise("utah", Roles::RELAY, &[]).advertise(
        "mit",
        Roles::EXIT,
        &[("utah", link(LinkState::Up, 30, 0, 5))],
    );
    let via = overlay.of("via utah").metrics.unwrap();
    assert_eq!((via.loss_out, via.loss_in), (LossRate::from_percent(5), LossRate::ZERO));
}

#[test]
fn a_link_that_one_end_calls_down_is_down() {
    let overlay =
        one_relay().advertise("mit", Roles::EXIT, &[("utah", link(LinkState::Down, 30, 0, 0))]);
    assert_eq!(overlay.excluded("via utah").unwrap(), "link utah–mit is down");
}

#[test]
fn each_state_of_the_first_link_has_its_outcome() {
    let cases = [
        (LinkState::Up, None),
        (LinkState::Unmeasured, None),
        (LinkState::Down, Some("link nyu–mit is down")),
        (LinkState::Recovering { good: 2 }, Some("recovering, 2 of 3 good probes")),
    ];
    for (state, expected) in cases {
        let overlay = Overlay::new(&[("mit", link(state, 60, 0, 0))]);
        assert_eq!(overlay.excluded("direct").as_deref(), expected);
    }
}

#[test]
fn nothing_known_leaves_direct_as_an_unmeasured_candidate() {
    let direct = Overlay::new(&[]).of("direct");
    assert_eq!((direct.metrics, direct.excluded), (None, None));
}

#[test]
fn only_nodes_that_offer_to_relay_and_were_heard_of_are_relays() {
    let overlay = Overlay::new(&[("mit", up(60)), ("utah", up(1)), ("cmu", up(1))]).advertise(
        "cmu",
        Roles::EXIT,
        &[("mit", up(1))],
    );
    assert_eq!(overlay.excluded("via utah").unwrap(), "not heard of lately");
    assert_eq!(overlay.excluded("via cmu").unwrap(), "does not relay");
}

#[test]
fn pins_vetoes_and_policy_exclude_before_any_figure() {
    let mut overlay = one_relay();
    overlay.constraints.avoid = vec![name("utah")];
    assert_eq!(overlay.excluded("via utah").unwrap(), "to be avoided");
    overlay.constraints = Constraints { via: Some(name("utah")), ..Constraints::default() };
    assert_eq!(overlay.excluded("direct").unwrap(), "pinned to another route");
    assert_eq!(overlay.excluded("via utah"), None);
    overlay.constraints = Constraints { via: Some(name("gone")), ..Constraints::default() };
    assert_eq!(overlay.excluded("via gone").unwrap(), "not heard of lately");
    overlay.constraints = Constraints { direct_only: true, ..Constraints::default() };
    assert_eq!(overlay.excluded("via utah").unwrap(), "pinned to another route");
    overlay.constraints = Constraints::default();
    overlay.policy = toml::from_str::<BTreeMap<String, Policy>>(
        "[[policy]]\nname='research-only'\nfrom='utah'\nto='mit'\nallow_groups=['research']",
    )
    .unwrap()
    .remove("policy")
    .unwrap();
    assert_eq!(overlay.excluded("via utah").unwrap(), "refused by policy rule research-only");
    overlay.tag.groups = vec!["research".to_owned()];
    assert_eq!(overlay.excluded("via utah"), None);
}

#[test]
fn an_application_value_is_never_negative_nor_nan() {
    assert_eq!(AppValue::new(-1.0), None);
    assert_eq!(AppValue::new(f64::NAN), None);
    assert_eq!(AppValue::new(2.5).unwrap().millionths(), 2_500_000);
}
