//! Install rules, caps, expiry and forwarding of the link-state database.

use proptest::prelude::*;

use super::*;
use crate::overlay::{
    linkstate::{LinkReport, MAX_LINKS, MAX_SERVES, MAX_VERSION, Roles},
    monitor::{LinkState, LinkSummary},
};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn flood(origin: &str, incarnation: u64, sequence: u64, up: &[&str]) -> Flood {
    let link = |peer: &&str| {
        let up = LinkState::Up;
        let summary = LinkSummary { state: up, ..LinkSummary::unmeasured(Instant::now()) };
        LinkReport::new(name(peer), &summary)
    };
    let advert = Advertisement {
        origin: name(origin),
        version: Version { issued: 0, incarnation, sequence },
        lifetime_s: 60,
        roles: Roles::RELAY,
        addresses: Vec::new(),
        serves: Vec::new(),
        links: up.iter().map(link).collect(),
    };
    Flood::new(advert, Vec::new())
}

fn db() -> (LinkStateDb, Instant) {
    (LinkStateDb::new(name("me")), Instant::now())
}

#[test]
fn only_a_newer_incarnation_or_sequence_is_installed() {
    let (mut db, now) = db();
    let cases = [
        ((5, 5), Install::Installed),
        ((5, 5), Install::Duplicate),
        ((5, 4), Install::Stale),
        ((4, 99), Install::Stale),
        ((5, 6), Install::Installed),
        ((6, 0), Install::Installed),
        ((5, 7), Install::Stale),
    ];
    for ((incarnation, sequence), expected) in cases {
        let install = db.install(now, flood("a", incarnation, sequence, &[]));
        assert_eq!(install, expected, "({incarnation}, {sequence})");
    }
}

#[test]
fn the_next_holder_of_a_forgotten_name_is_not_shadowed_by_the_last() {
    let (mut db, now) = db();
    db.install(now, flood("a", MAX_VERSION, MAX_VERSION, &[]));
    db.install(now, flood("b", 5, 5, &[]));
    db.forget(&name("a"));
    assert_eq!((db.get(&name("a"), now), db.len()), (None, 1));
    assert_eq!(db.install(now, flood("a", 1, 1, &[])), Install::Installed);
    // Also if the last one had expired before.
    let later = now + Duration::from_secs(60);
    db.expire(later);
    db.forget(&name("a"));
    assert_eq!(db.install(later, flood("a", 1, 1, &[])), Install::Installed);
}

#[test]
fn a_newer_certificate_of_a_name_wins_over_any_number() {
    let (mut db, now) = db();
    let under = |issued, incarnation| {
        let mut flood = flood("a", incarnation, 1, &[]);
        flood.advert.version.issued = issued;
        flood
    };
    assert_eq!(db.install(now, under(10, MAX_VERSION)), Install::Installed);
    assert_eq!(db.install(now, under(11, 1)), Install::Installed);
    assert_eq!(db.install(now, under(10, MAX_VERSION)), Install::Stale);
}

#[test]
fn an_expired_node_does_not_come_back_by_a_replay() {
    let (mut db, now) = db();
    db.install(now, flood("a", 5, 5, &[]));
    let later = now + Duration::from_secs(60);
    assert_eq!(db.get(&name("a"), later), None, "even before it is swept");
    assert_eq!(db.poll_timeout(), Some(later));
    assert_eq!(db.expire(later), [name("a")]);
    assert_eq!(db.install(later, flood("a", 5, 5, &[])), Install::Duplicate);
    assert_eq!(db.install(later, flood("a", 5, 4, &[])), Install::Stale);
    assert_eq!(db.get(&name("a"), later), None);
    assert_eq!(db.install(later, flood("a", 5, 6, &[])), Install::Installed);
}

#[test]
fn age_shortens_a_life_and_what_is_over_is_not_taken() {
    let (mut db, now) = db();
    db.install(now, Flood { age_s: 50, ..flood("a", 1, 1, &[]) });
    assert_eq!(db.expire(now + Duration::from_secs(10)), [name("a")]);
    let old = Flood { age_s: 60, ..flood("b", 1, 1, &[]) };
    assert_eq!(db.install(now, old), Install::Expired);
}

#[test]
fn the_smallest_age_that_a_neighbour_says_counts() {
    let (mut db, t0) = db();
    let seconds = Duration::from_secs;
    let aged = |age_s| Flood { age_s, ..flood("a", 1, 1, &["b"]) };
    assert_eq!(db.install(t0, aged(59)), Install::Installed);
    assert_eq!(db.install(t0 + seconds(1) / 2, aged(1)), Install::Younger);
    assert_eq!(db.flood(&name("a"), t0 + seconds(1)).unwrap().age_s, 2);
    assert_eq!(db.install(t0 + seconds(1), aged(59)), Install::Duplicate);
    // Also after it has expired by what the first one said.
    let mut late = LinkStateDb::new(name("me"));
    late.install(t0, aged(59));
    assert_eq!(late.expire(t0 + seconds(1)), [name("a")]);
    assert_eq!(late.install(t0 + seconds(2), aged(3)), Install::Younger);
    assert!(late.get(&name("a"), t0 + seconds(58)).is_some());
    assert_eq!(late.expire(t0 + seconds(59)), [name("a")]);
}

#[test]
fn nobody_makes_an_advertisement_younger_than_its_first_copy() {
    let (mut db, t0) = db();
    let mut now = t0;
    db.install(now, Flood { age_s: 30, ..flood("a", 1, 1, &[]) });
    for _ in 0..120 {
        now += Duration::from_secs(1);
        db.expire(now);
        db.install(now, flood("a", 1, 1, &[]));
        assert_eq!(db.get(&name("a"), now).is_some(), now < t0 + Duration::from_secs(60));
    }
}

#[test]
fn other_bytes_of_the_same_version_change_nothing() {
    let (mut db, now) = db();
    db.install(now, Flood { age_s: 59, ..flood("a", 1, 1, &["b"]) });
    assert_eq!(db.install(now, flood("a", 1, 1, &["c"])), Install::Duplicate);
    let forged = Flood { signature: vec![1], ..flood("a", 1, 1, &["b"]) };
    assert_eq!(db.install(now, forged), Install::Duplicate);
}

#[test]
fn smaller_and_smaller_ages_are_forwarded_a_few_times() {
    let (mut db, now) = db();
    let installs = (0..60).rev().map(|age_s| Flood { age_s, ..flood("a", 1, 1, &[]) });
    let news = installs.filter(|flood| db.install(now, flood.clone()) != Install::Duplicate);
    assert_eq!(news.count(), 6, "1, 2, 4, ... 32 s are left");
}

#[test]
fn the_age_travels_on_and_never_shrinks() {
    let (mut db, now) = db();
    db.install(now, Flood { age_s: 10, ..flood("a", 1, 1, &[]) });
    let sent = db.flood(&name("a"), now + Duration::from_millis(1500)).unwrap();
    assert_eq!(sent.age_s, 12);
}

#[test]
fn advertisements_in_our_own_name_are_never_kept() {
    let (mut db, now) = db();
    assert_eq!(db.install(now, flood("me", 9, 9, &["a"])), Install::Own);
    assert!(db.is_empty());
}

#[test]
fn the_caps_hold_when_filled() {
    let (mut db, now) = db();
    for n in 0..MAX_NODES {
        assert_eq!(db.install(now, flood(&format!("n{n}"), 1, 1, &[])), Install::Installed);
    }
    let one_more = db.install(now, flood("late", 1, 1, &[]));
    assert_eq!(one_more, Install::Refused(RefuseReason::TooManyNodes));
    assert_eq!(db.install(now, flood("n0", 1, 2, &[])), Install::Installed, "known ones go on");

    let peers: Vec<_> = (0..=MAX_LINKS).map(|n| format!("p{n}")).collect();
    let peers: Vec<_> = peers.iter().map(String::as_str).collect();
    let wide = db.install(now, flood("n1", 1, 3, &peers));
    assert_eq!(wide, Install::Refused(RefuseReason::TooManyLinks));
    assert_eq!(db.install(now, flood("n1", 1, 3, &peers[1..])), Install::Installed);
}

#[test]
fn the_memory_of_expired_nodes_is_bounded() {
    let (mut db, mut now) = db();
    for round in 0..6 {
        for n in 0..MAX_NODES {
            db.install(now, flood(&format!("r{round}-{n}"), 1, 1, &[]));
        }
        now += MAX_LIFETIME;
        db.expire(now);
    }
    assert_eq!(db.retired.len(), MAX_RETIRED);
}

#[test]
fn a_contradictory_advertisement_is_refused() {
    let (mut db, now) = db();
    let bad = Install::Refused(RefuseReason::BadLinks);
    assert_eq!(db.install(now, flood("a", 1, 1, &["b", "b"])), bad);
    assert_eq!(db.install(now, flood("a", 1, 1, &["a"])), bad);
    let wrap = db.install(now, flood("a", 1, MAX_VERSION + 1, &[]));
    assert_eq!(wrap, Install::Refused(RefuseReason::VersionOutOfRange));
    let mut serves = flood("a", 1, 1, &[]);
    serves.advert.serves = vec![String::new(); MAX_SERVES + 1];
    assert_eq!(db.install(now, serves), Install::Refused(RefuseReason::TooMuchServed));
}

#[test]
fn a_digest_fetches_exactly_what_is_missing_or_old() {
    let (mut full, now) = db();
    let (mut behind, _) = db();
    for (origin, sequence) in [("a", 3), ("b", 3), ("c", 3)] {
        full.install(now, flood(origin, 1, sequence, &[]));
    }
    behind.install(now, flood("a", 1, 3, &[]));
    behind.install(now, flood("b", 1, 2, &[]));
    behind.install(now, flood("z", 1, 2, &[]));
    for missing in full.newer_than(&behind.digest(now), now) {
        assert_eq!(behind.install(now, missing), Install::Installed);
    }
    assert!(full.newer_than(&behind.digest(now), now).is_empty());
}

#[test]
fn a_healthy_overlay_forwards_nothing() {
    let (mut db, now) = db();
    db.install(now, flood("a", 1, 1, &["me", "b", "c"]));
    assert!(db.forward_to(&name("a"), &[name("a"), name("b"), name("c")], now).is_empty());
}

#[test]
fn of_all_nodes_that_could_forward_around_a_broken_link_two_do() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let now = Instant::now();
    for sequence in 0..12 {
        let mut forwarders = 0;
        // a cannot reach f; everything else is up.
        for own in &names[1..5] {
            let mut db = LinkStateDb::new(name(own));
            for origin in names.iter().filter(|origin| *origin != own) {
                let broken = |peer: &&&str| !matches!((*origin, **peer), ("a", "f") | ("f", "a"));
                let peers = names.iter().filter(|peer| *peer != origin).filter(broken);
                db.install(now, flood(origin, 1, sequence, &peers.copied().collect::<Vec<_>>()));
            }
            let up: Vec<_> = names.iter().filter(|n| *n != own).map(|n| name(n)).collect();
            let targets = db.forward_to(&name("a"), &up, now);
            assert!(targets.is_empty() || targets == [name("f")], "{targets:?}");
            forwarders += targets.len();
        }
        assert_eq!(forwarders, FORWARDERS, "sequence {sequence}");
    }
}

#[test]
fn the_only_node_that_can_forward_does() {
    let (mut db, now) = db();
    db.install(now, flood("a", 1, 1, &["me"]));
    assert_eq!(db.forward_to(&name("a"), &[name("a"), name("f")], now), [name("f")]);
}

proptest! {
    #[test]
    fn any_order_and_any_replay_ends_in_the_newest(
        versions in prop::collection::vec((0u64..4, 0u64..8), 1..60), replays in any::<u64>()
    ) {
        let (mut db, now) = db();
        let mut newest = None;
        for (index, &(incarnation, sequence)) in versions.iter().enumerate() {
            let version = Version { issued: 0, incarnation, sequence };
            let install = db.install(now, flood("a", incarnation, sequence, &[]));
            prop_assert_eq!(install == Install::Installed, newest.is_none_or(|n| version > n));
            newest = newest.max(Some(version));
            if replays >> (index % 64) & 1 == 1 {
                let (incarnation, sequence) = versions[index / 2];
                db.install(now, flood("a", incarnation, sequence, &["b"]));
            }
            let held = db.get(&name("a"), now).unwrap();
            prop_assert_eq!(Some(held.version), newest);
            prop_assert!(held.links.is_empty(), "a replay replaced what was held");
        }
    }

    #[test]
    fn random_advertisements_never_exceed_the_caps(
        adverts in prop::collection::vec(
            ("[a-z]{1,2}", any::<u64>(), any::<u64>(), any::<u16>(), any::<u16>(), 0u64..400), 0..300
        )
    ) {
        let (mut db, mut now) = db();
        for (origin, incarnation, sequence, age_s, lifetime_s, wait) in adverts {
            now += Duration::from_millis(wait);
            let mut flood = flood(&origin, incarnation, sequence, &["zz9"]);
            flood.age_s = age_s;
            flood.advert.lifetime_s = lifetime_s;
            db.install(now, flood);
            db.expire(now);
            prop_assert!(db.len() <= MAX_NODES && db.retired.len() <= MAX_RETIRED);
            prop_assert!(db.poll_timeout().is_none_or(|at| at > now && at <= now + MAX_LIFETIME));
        }
    }
}
