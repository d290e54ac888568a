use proptest::prelude::*;

use super::*;
use crate::overlay::units::LossRate;

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn up(now: Instant, rtt_ms: u64, loss: u32) -> LinkSummary {
    LinkSummary {
        state: LinkState::Up,
        rtt: Some(Duration::from_millis(rtt_ms)),
        loss_out: Some(LossRate::from_percent(loss)),
        loss_in: Some(LossRate::ZERO),
        ..LinkSummary::unmeasured(now)
    }
}

fn own(summary: LinkSummary, measured: bool) -> Own {
    Own { summary, measured }
}

fn told(now: Instant, rtt_ms: u64, loss: u32) -> Vec<SharedLink> {
    vec![SharedLink {
        link: LinkReport::new(name("far"), &up(now, rtt_ms, loss)),
        age_s: 2,
        measured: true,
    }]
}

/// A node whose place for `far` is after that of the sharer `first`.
fn shared(now: Instant) -> (Sharing, NodeName) {
    let mut names = [name("a"), name("b")];
    names.sort_by_key(|node| rank(node, &name("far")));
    let [us, first] = names;
    let mut sharing = Sharing::new(us);
    sharing.set_sharers([first.clone()]);
    assert!(sharing.heard(now, &first, told(now, 60, 0)));
    (sharing, first)
}

fn all_up(_: &NodeName) -> bool {
    true
}

#[test]
fn each_member_has_one_first_node_and_the_work_is_spread() {
    let nodes: Vec<_> = (0..10).map(|n| name(&format!("host{n}"))).collect();
    let first = |member: &NodeName| nodes.iter().max_by_key(|node| rank(node, member)).unwrap();
    let mut work = BTreeMap::<_, usize>::new();
    for member in (0..200).map(|n| name(&format!("far{n}"))) {
        *work.entry(first(&member)).or_default() += 1;
    }
    assert_eq!(work.len(), 10);
    assert!(work.values().all(|members| (8..=36).contains(members)), "{work:?}");
}

#[test]
fn a_node_is_spared_by_one_that_goes_first_and_agrees() {
    let now = Instant::now();
    let (sharing, first) = shared(now);
    let spared = |own: &Own, up: &dyn Fn(&NodeName) -> bool, at| {
        sharing.is_measured_by_another(at, &name("far"), own, up)
    };
    assert!(spared(&own(up(now, 62, 0), true), &all_up, now));
    assert!(!spared(&own(up(now, 90, 0), true), &all_up, now), "the own round trip differs");
    assert!(!spared(&own(up(now, 60, 30), true), &all_up, now), "the own loss differs");
    assert!(!spared(&own(up(now, 60, 30), false), &all_up, now), "the own loss is to be measured");
    assert!(!spared(&own(LinkSummary::unmeasured(now), false), &all_up, now), "not yet up here");
    assert!(!spared(&own(up(now, 62, 0), true), &|node| *node != first, now), "its link is down");
    assert!(!spared(&own(up(now, 62, 0), true), &all_up, now + s(74)), "stale");

    let mut other = Sharing::new(first);
    other.set_sharers([sharing.us.clone()]);
    other.heard(now, &sharing.us, told(now, 60, 0));
    let own = own(up(now, 62, 0), true);
    assert!(!other.is_measured_by_another(now, &name("far"), &own, &all_up), "it goes first");
}

#[test]
fn a_figure_serves_while_own_ones_are_missing_or_old() {
    let now = Instant::now();
    let (sharing, first) = shared(now);
    let figure = |own: &Own| sharing.figure(now, &name("far"), own, &all_up);
    let fresh = figure(&own(LinkSummary::unmeasured(now), false)).unwrap();
    assert_eq!((fresh.by, fresh.metrics.rtt), (first, Duration::from_millis(60)));
    assert!(figure(&own(up(now, 63, 0), false)).is_some());
    assert!(figure(&own(up(now, 63, 0), true)).is_none(), "own ones are fresh");
    assert!(figure(&own(up(now, 90, 0), false)).is_none(), "own ones differ");
}

#[test]
fn no_figure_makes_a_link_up_that_is_down_here() {
    let now = Instant::now();
    let (sharing, _) = shared(now);
    for state in [LinkState::Down, LinkState::Recovering { good: 2 }] {
        let own = own(LinkSummary { state, ..up(now, 60, 0) }, false);
        assert!(sharing.figure(now, &name("far"), &own, &all_up).is_none());
        assert!(!sharing.is_measured_by_another(now, &name("far"), &own, &all_up));
    }
    let unmeasured = LinkSummary::unmeasured(now);
    let figure = sharing.figure(now, &name("far"), &own(unmeasured, false), &all_up).unwrap();
    assert_eq!(figure.over(unmeasured).state, LinkState::Unmeasured, "only its figures are known");
}

#[test]
fn a_path_that_is_down_for_its_first_node_is_measured_by_the_next() {
    let now = Instant::now();
    let (mut sharing, first) = shared(now);
    let own = own(up(now, 60, 0), false);
    assert!(sharing.is_measured_by_another(now, &name("far"), &own, &all_up));
    let down = LinkSummary { state: LinkState::Down, ..up(now, 60, 0) };
    let link = LinkReport::new(name("far"), &down);
    sharing.heard(now, &first, vec![SharedLink { link, age_s: 0, measured: true }]);
    assert!(!sharing.is_measured_by_another(now, &name("far"), &own, &all_up));
    assert!(sharing.figure(now, &name("far"), &own, &all_up).is_none());
}

#[test]
fn the_figures_of_a_sharer_end_with_its_connection() {
    let now = Instant::now();
    let (mut sharing, first) = shared(now);
    sharing.gone(now, &first);
    let own = own(LinkSummary::unmeasured(now), false);
    assert!(sharing.figure(now, &name("far"), &own, &all_up).is_none());
}

#[test]
fn a_node_that_is_not_named_is_not_believed() {
    let now = Instant::now();
    let (mut sharing, _) = shared(now);
    let before = sharing.all(now, &|_| own(up(now, 60, 0), true), &all_up).len();
    assert!(!sharing.heard(now, &name("mallory"), told(now, 1, 0)));
    assert_eq!(sharing.all(now, &|_| own(up(now, 60, 0), true), &all_up).len(), before);
}

#[test]
fn nothing_is_believed_about_this_node_and_its_site() {
    let now = Instant::now();
    let (mut sharing, first) = shared(now);
    let us = sharing.us.clone();
    let about = |of: &NodeName| SharedLink {
        link: LinkReport::new(of.clone(), &up(now, 1, 0)),
        age_s: 0,
        measured: true,
    };
    sharing.heard(now, &first, vec![about(&us), about(&first)]);
    assert_eq!(sharing.all(now, &|_| own(up(now, 60, 0), true), &all_up).len(), 1);
}

#[test]
fn a_sharer_that_differs_for_half_a_minute_is_ignored_for_ten() {
    let start = Instant::now();
    let (mut sharing, first) = shared(start);
    let far = name("far");
    let unmeasured = own(LinkSummary::unmeasured(start), false);
    let mine = own(up(start, 200, 0), true);
    assert!(sharing.review(start, &far, &mine).is_empty());
    for at in [s(10), s(29)] {
        sharing.heard(start + at, &first, told(start, 60, 0));
        assert!(sharing.review(start + at, &far, &mine).is_empty(), "{at:?}");
        assert!(sharing.figure(start + at, &far, &mine, &all_up).is_none());
    }
    assert_eq!(sharing.review(start + s(30), &far, &mine), std::slice::from_ref(&first));
    for at in [s(31), s(600)] {
        sharing.heard(start + at, &first, told(start, 60, 0));
        assert!(sharing.figure(start + at, &far, &unmeasured, &all_up).is_none(), "{at:?}");
    }
    sharing.heard(start + s(640), &first, told(start, 60, 0));
    assert!(sharing.figure(start + s(640), &far, &unmeasured, &all_up).is_some());
}

#[test]
fn a_path_that_changes_for_all_costs_nobody_his_word() {
    let start = Instant::now();
    let (mut sharing, first) = shared(start);
    sharing.heard(start + s(5), &first, told(start, 120, 0));
    // The own check comes a moment later.
    assert!(sharing.review(start + s(5), &name("far"), &own(up(start, 60, 0), false)).is_empty());
    let changed = own(up(start, 121, 0), false);
    assert!(sharing.review(start + s(6), &name("far"), &changed).is_empty());
    assert!(sharing.is_measured_by_another(start + s(6), &name("far"), &changed, &all_up));
    assert!(sharing.review(start + s(60), &name("far"), &changed).is_empty());
}

#[test]
fn a_site_is_told_each_half_minute_and_of_changes_within_seconds() {
    let start = Instant::now();
    let (mut sharing, first) = shared(start);
    let mut at = Vec::new();
    for tenth in 0..1200u32 {
        let now = start + Duration::from_millis(100) * tenth;
        if tenth == 500 {
            sharing.heard(now, &first, Vec::new());
        }
        // It goes down after 70 s.
        let state = if tenth < 700 { LinkState::Up } else { LinkState::Down };
        let link = LinkReport::new(name("near"), &LinkSummary { state, ..up(now, 60, 0) });
        sharing.measured(now, vec![SharedLink { link, age_s: 0, measured: true }], Vec::new());
        let due = sharing.poll_timeout(now, &all_up).is_some_and(|due| due <= now);
        if let Some((to, links)) = sharing.poll(now, &all_up) {
            assert!(due, "it says when it has something to say");
            assert_eq!((to, links.len()), (vec![first.clone()], 1));
            at.push(tenth);
        }
    }
    assert_eq!(at, [0, 300, 600, 700, 1000]);
}

#[test]
fn a_sharer_that_does_not_answer_is_told_once() {
    let start = Instant::now();
    let mut sharing = Sharing::new(name("a"));
    sharing.set_sharers([name("b")]);
    let mut messages = 0;
    for second in 0..600 {
        let now = start + s(second);
        sharing.measured(now, told(now, 60 + 5 * (second % 2), 0), Vec::new());
        messages += usize::from(sharing.poll(now, &all_up).is_some());
        assert!(sharing.poll_timeout(now, &all_up).is_none_or(|due| due > now));
    }
    assert_eq!(messages, 1);
    sharing.greet(&name("b"));
    assert!(sharing.poll(start + s(600), &all_up).is_some(), "its link stands anew");
}

#[test]
fn a_node_that_comes_up_gets_the_figures_and_relies_on_no_hearsay() {
    let now = Instant::now();
    let (mut sharing, first) = shared(now);
    let known = SharedLink { measured: false, ..told(now, 60, 0).remove(0) };
    sharing.measured(now, Vec::new(), vec![known.clone()]);
    assert_eq!(sharing.poll(now, &all_up).unwrap().1, std::slice::from_ref(&known));
    sharing.heard(now, &first, Vec::new());
    let regular = sharing.poll(now + s(30), &all_up).unwrap();
    assert!(regular.1.is_empty(), "it is told once");

    sharing.heard(now + s(31), &first, vec![known]);
    let own = own(up(now, 60, 0), false);
    assert!(sharing.figure(now + s(31), &name("far"), &own, &all_up).is_some());
    assert!(!sharing.is_measured_by_another(now + s(31), &name("far"), &own, &all_up));
}

#[test]
fn figures_that_move_all_the_time_are_told_every_five_seconds() {
    let start = Instant::now();
    let (mut sharing, first) = shared(start);
    let mut messages = 0;
    for second in 0..100 {
        let now = start + s(second);
        sharing.heard(now, &first, Vec::new());
        sharing.measured(now, told(now, 60 + 30 * (second % 2), 0), Vec::new());
        messages += usize::from(sharing.poll(now, &all_up).is_some());
    }
    assert!((16..=21).contains(&messages), "{messages}");
}

#[test]
fn a_sharer_that_tells_without_end_fills_no_more_than_the_cap() {
    let now = Instant::now();
    let (mut sharing, first) = shared(now);
    for batch in 0..100 {
        let links = (0..400).map(|n| {
            let of = name(&format!("n{}", batch * 400 + n));
            SharedLink { link: LinkReport::new(of, &up(now, 60, 0)), age_s: 0, measured: true }
        });
        sharing.heard(now, &first, links.collect());
    }
    assert_eq!(sharing.sharers[&first].len(), MAX_LINKS);
    sharing.poll(now + s(80), &all_up);
    assert_eq!(sharing.sharers[&first].len(), 0, "what is old goes");
    sharing.set_sharers((0..100).map(|n| name(&format!("s{n}"))));
    assert_eq!(sharing.sharers.len(), MAX_SHARERS);
}

#[test]
fn a_revoked_member_is_forgotten_as_teller_and_as_told() {
    let now = Instant::now();
    for gone in ["far", "first"] {
        let (mut sharing, first) = shared(now);
        sharing.forget(&if gone == "far" { name("far") } else { first });
        assert!(sharing.all(now, &|_| own(up(now, 60, 0), true), &all_up).is_empty());
    }
}

#[test]
fn the_bytes_of_shared_figures_are_fixed() {
    let shared = told(Instant::now(), 60, 5);
    let bytes = [
        1, // one link
        3, b'f', b'a', b'r', // the member
        1,    // up
        0xd8, 0x04, // 600 tenths of a millisecond
        10, 0, // loss in half percents
        0, // delivered rate: unknown
        2, // measured 2 s ago
        1, // by the teller itself
    ];
    assert_eq!(crate::wire::encode(&shared), bytes);
    assert_eq!(crate::wire::decode::<Vec<SharedLink>>(&bytes).as_ref(), Ok(&shared));
}

proptest! {
    #[test]
    fn whatever_is_told_the_state_of_a_link_is_its_own(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        rtt in any::<u16>(),
        age in any::<u16>(),
    ) {
        let now = Instant::now();
        let (mut sharing, first) = shared(now);
        if let Ok(links) = crate::wire::decode::<Vec<SharedLink>>(&bytes) {
            sharing.heard(now, &first, links);
        }
        let mut links = told(now, rtt.into(), 0);
        links[0].age_s = age;
        sharing.heard(now, &first, links);
        for summary in [LinkSummary::unmeasured(now), up(now, 60, 0)] {
            let own = own(summary, false);
            sharing.review(now, &name("far"), &own);
            if let Some(figure) = sharing.figure(now, &name("far"), &own, &all_up) {
                prop_assert_eq!(figure.over(summary).state, summary.state);
                prop_assert!(now.saturating_duration_since(figure.measured) < STALE);
            }
        }
    }
}
