use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{due::LONGEST_PAUSE, *};
use crate::{
    identity::test_support::{NOW, Overlay, after},
    mesh::{dials::Dials, trials::Measured},
    overlay::{metrics::PathMetrics, units::LossRate},
};

fn info(name: &str, port: u16) -> MemberInfo {
    MemberInfo { name: name.parse().unwrap(), addresses: vec![at(port)], key: None }
}

fn at(port: u16) -> SocketAddr {
    ([192, 0, 2, 1], port).into()
}

/// A certificate's content, as if it were `name`'s.
fn peer(name: &str) -> Arc<Peer> {
    static TEMPLATE: std::sync::LazyLock<Peer> =
        std::sync::LazyLock::new(|| Overlay::new().node("a", NOW).peer().clone());
    Arc::new(Peer { name: name.parse().unwrap(), ..TEMPLATE.clone() })
}

fn record(name: &str) -> Arc<MemberRecord> {
    let name = name.parse().unwrap();
    Arc::new(MemberRecord { name, certificate: vec![1; 600], record: vec![2; 400] })
}

fn members(us: &str) -> Members {
    Members::new(us.parse().unwrap())
}

/// The addresses in the record of `name` are these ports of one host.
fn learn(members: &mut Members, now: Instant, name: &str, ports: &[u16]) -> bool {
    let addresses = ports.iter().map(|port| at(*port)).collect();
    members.recorded(now, &peer(name), addresses, &record(name))
}

/// The members to dial, if nothing else is under way.
fn due(members: &mut Members, now: Instant) -> Vec<(NodeName, Vec<SocketAddr>)> {
    let due = members.due(now, &mut Dials::default(), |_| false, |_| true).into_iter();
    due.map(|dial| (dial.name, dial.addresses)).collect()
}

#[test]
fn the_smaller_name_dials_a_new_member_at_once_the_larger_later() {
    let t0 = Instant::now();
    let (mut a, mut z) = (members("a"), members("z"));
    learn(&mut a, t0, "m", &[1]);
    learn(&mut z, t0, "m", &[1]);
    assert_eq!(due(&mut a, t0).len(), 1);
    assert_eq!(due(&mut z, t0).len(), 0);
    assert_eq!(due(&mut z, t0 + POLITENESS).len(), 1);
}

#[test]
fn a_node_that_starts_again_dials_all_it_remembers_at_once() {
    let (mut z, t0) = (members("z"), Instant::now());
    z.bootstrap(t0, &info("a", 1));
    z.remember(t0, &peer("m"), vec![at(2)], &record("m"));
    assert_eq!(due(&mut z, t0).len(), 2);
}

#[test]
fn a_member_is_dialled_where_it_was_last_seen_and_where_its_record_says() {
    let (mut z, t0) = (members("z"), Instant::now());
    z.remember(t0, &peer("a"), vec![at(1)], &record("a"));
    for name in ["a", "m", "z"] {
        z.last_seen(t0, &name.parse().unwrap(), at(2));
    }
    let dialled: Vec<_> = due(&mut z, t0).into_iter().map(|(_, addresses)| addresses).collect();
    assert_eq!(dialled, [vec![at(2), at(1)], vec![at(2)]]);
}

#[test]
fn bootstrap_addresses_are_dialled_until_a_record_is_here() {
    let (mut a, now) = (members("a"), Instant::now());
    a.bootstrap(now, &info("m", 1));
    assert_eq!(due(&mut a, now)[0].1, [at(1)]);
    assert!(a.all()[0].certified.is_none(), "nobody has shown a certificate");
    learn(&mut a, now, "m", &[2, 3]);
    assert_eq!(due(&mut a, now)[0].1, [at(2), at(3)]);
    let (bootstrap, records) = a.written();
    assert_eq!((bootstrap[0].addresses.clone(), records.len()), (vec![at(2), at(3)], 1));
    // All addresses of its next record are refused.
    learn(&mut a, now, "m", &[]);
    assert_eq!(a.written().0[0].addresses, []);
}

#[test]
fn failures_back_off_and_new_addresses_are_tried_at_once_a_few_times() {
    let (mut a, mut now, name) = (members("a"), Instant::now(), "m".parse().unwrap());
    learn(&mut a, now, "m", &[1]);
    for _ in 0..10 {
        now += LONGEST_PAUSE;
        assert_eq!(due(&mut a, now).len(), 1);
        a.dial_failed(now, &name, Carrier::Udp);
        assert!(due(&mut a, now).is_empty());
    }
    learn(&mut a, now, "m", &[1, 2]);
    assert_eq!(due(&mut a, now), [(name.clone(), vec![at(1), at(2)])]);
    // A record that changes every second does not bring a dial every second.
    let mut dials = 0;
    for port in 3..63 {
        a.dial_failed(now, &name, Carrier::Udp);
        now += Duration::from_secs(1);
        learn(&mut a, now, "m", &[port]);
        dials += due(&mut a, now).len();
    }
    assert!((4..=20).contains(&dials), "{dials} dials in a minute");
}

#[test]
fn addresses_without_a_route_take_no_place() {
    let (mut a, t0, mut dials) = (members("a"), Instant::now(), Dials::default());
    let v6 = |member: u16, n: u16| SocketAddr::from(([0x2001, 0xdb8, member, n, 0, 0, 0, 1], 53));
    for member in 0..20 {
        let addresses = (0..8).map(|n| v6(member, n)).collect();
        a.recorded(t0, &peer(&format!("b{member}")), addresses, &record(&format!("b{member}")));
    }
    a.recorded(t0, &peer("m"), vec![v6(99, 1), at(1)], &record("m"));
    let mut due = |later, reaches: fn(SocketAddr) -> bool| {
        let due = a.due(t0 + later, &mut dials, |_| false, reaches);
        due.into_iter().map(|dial| (dial.name.to_string(), dial.addresses)).collect::<Vec<_>>()
    };
    assert_eq!(due(POLITENESS, |to| to.is_ipv4()), [("m".to_owned(), vec![at(1)])]);
    // The machine gets IPv6.
    assert_eq!(due(POLITENESS + Duration::from_millis(900), |_| true), []);
    assert_eq!(due(POLITENESS + Duration::from_secs(1), |_| true).len(), 2, "15 addresses");
}

#[test]
fn a_node_never_learns_of_itself() {
    let (mut a, now) = (members("a"), Instant::now());
    learn(&mut a, now, "a", &[1]);
    a.bootstrap(now, &info("a", 1));
    assert!(a.names().is_empty());
}

#[test]
fn a_full_directory_drops_the_member_that_was_silent_longest() {
    let (mut a, now) = (members("a"), Instant::now());
    for n in 0..2 * MAX_MEMBERS {
        a.bootstrap(now, &info(&format!("b{n}"), 1));
    }
    assert_eq!(a.names().len(), MAX_MEMBERS);
    for n in 0..MAX_MEMBERS {
        let later = now + Duration::from_millis(n as u64);
        assert!(learn(&mut a, later, &format!("n{n}"), &[1]), "an uncertified one makes room");
    }
    assert!(a.all().iter().all(|member| member.certified.is_some()));
    a.linked(now, &peer("n0"), (true, None));
    assert!(learn(&mut a, now + Duration::from_secs(1), "new", &[1]));
    let names = a.names();
    let has = |name: &str| names.contains(&name.parse().unwrap());
    assert!(has("new") && has("n0") && !has("n1"), "n0 has a link, n1 was silent longest");
    for n in 0..MAX_MEMBERS {
        a.linked(now, &peer(&format!("n{n}")), (true, None));
    }
    assert!(!learn(&mut a, now, "another", &[1]), "all 256 have links");
    let many: Vec<_> = (1..100).collect();
    learn(&mut a, now, "n5", &many);
    assert_eq!(a.get(&"n5".parse().unwrap()).unwrap().addresses.len(), MAX_ADDRESSES);
}

#[test]
fn a_record_under_an_older_certificate_changes_nothing() {
    let (mut a, now) = (members("a"), Instant::now());
    let next = Arc::new(Peer { starts: after(9), ..(*peer("m")).clone() });
    a.recorded(now, &next, vec![at(9)], &record("m"));
    learn(&mut a, now, "m", &[1]);
    let m = a.get(&"m".parse().unwrap()).unwrap();
    assert_eq!((m.addresses, m.certified), (vec![at(9)], Some(next)));
}

#[test]
fn a_silent_member_is_forgotten_after_a_day_unless_we_are_cut_off() {
    let (mut a, start) = (members("a"), Instant::now());
    learn(&mut a, start, "m", &[1]);
    let later = start + FORGET_AFTER * 3;
    due(&mut a, later);
    assert_eq!(a.names().len(), 1, "we hear of nobody");
    a.linked(later, &peer("n"), (true, None));
    due(&mut a, later);
    assert_eq!(a.names(), ["n".parse().unwrap()], "others would tell of it");
    due(&mut a, later + FORGET_AFTER * 30);
    assert_eq!(a.names().len(), 1, "a linked member is never forgotten");
}

#[test]
fn the_first_link_after_an_outage_ends_the_pauses() {
    let (mut a, now) = (members("a"), Instant::now());
    for name in ["m", "n"] {
        learn(&mut a, now, name, &[1]);
        (0..9).for_each(|_| a.dial_failed(now, &name.parse().unwrap(), Carrier::Udp));
    }
    assert!(due(&mut a, now).is_empty());
    a.linked(now, &peer("m"), (true, None));
    assert_eq!(due(&mut a, now).len(), 1);
}

#[test]
fn every_address_has_its_turn_though_not_all_are_dialled_at_once() {
    let (mut a, mut now) = (members("a"), Instant::now());
    let elsewhere: SocketAddr = "198.51.100.7:1".parse().unwrap();
    let told: Vec<_> = (1..=5).map(at).chain([elsewhere]).collect();
    a.recorded(now, &peer("m"), told.clone(), &record("m"));
    let mut tried = BTreeSet::new();
    for _ in 0..3 {
        now += LONGEST_PAUSE;
        tried.extend(due(&mut a, now).into_iter().flat_map(|(_, addresses)| addresses));
        a.dial_failed(now, &"m".parse().unwrap(), Carrier::Udp);
    }
    assert_eq!(tried, told.into_iter().collect());
}

#[test]
fn a_member_whose_path_is_down_is_dialled_beside_its_link() {
    let (mut a, now, name) = (members("a"), Instant::now(), "m".parse().unwrap());
    a.linked(now, &peer("m"), (true, Some(at(7))));
    assert!(due(&mut a, now).is_empty());
    a.path_down(now, &name);
    assert!(a.is_path_down(&name));
    assert_eq!(due(&mut a, now).len(), 1);
    a.path_up(&name);
    assert!(due(&mut a, now + LONGEST_PAUSE * 2).is_empty());
}

#[test]
fn a_member_that_moved_is_dialled_where_its_new_record_says() {
    let (mut alice, now, bob) = (members("alice"), Instant::now(), "bob".parse().unwrap());
    learn(&mut alice, now, "bob", &[1]);
    alice.linked(now, &peer("bob"), (true, Some(at(1))));
    // Our link died with the move. Another node that still hears it passes its record on.
    alice.path_down(now, &bob);
    assert_eq!(due(&mut alice, now).len(), 1);
    learn(&mut alice, now, "bob", &[1, 2]);
    assert_eq!(due(&mut alice, now), [(bob, vec![at(1), at(2)])]);
}

#[test]
fn a_member_without_a_valid_certificate_is_dialled_and_has_no_role() {
    let (mut a, now) = (members("a"), Instant::now());
    let mut exit = (*peer("m")).clone();
    exit.roles.exit = true;
    a.recorded(now, &Arc::new(exit.clone()), vec![at(1)], &record("m"));
    assert!(a.all()[0].is_exit());
    assert!(a.expire(NOW).is_empty());
    assert_eq!(a.expire(exit.expires), [exit.name.clone()]);
    assert!(a.expire(exit.expires).is_empty(), "told once");
    assert!(!a.all()[0].is_exit());
    assert_eq!(due(&mut a, now).len(), 1);
    a.renewed(now, &Arc::new(Peer { starts: after(99), ..exit.clone() }));
    assert!(a.all()[0].is_exit(), "the next certificate is here");
    a.expel(&exit.name);
    assert!(a.names().is_empty());
}

#[test]
fn members_with_fewer_failures_come_first_and_refused_ones_never() {
    let (mut a, now) = (members("a"), Instant::now());
    for (host, name) in [(1, "m"), (2, "n"), (3, "o")] {
        let addresses = vec![([192, 0, 2, host], 1).into()];
        a.recorded(now, &peer(name), addresses, &record(name));
    }
    a.dial_failed(now, &"m".parse().unwrap(), Carrier::Udp);
    let later = now + LONGEST_PAUSE;
    let refused = |peer: &Peer| peer.name.as_str() == "n";
    let due = a.due(later, &mut Dials::default(), refused, |_| true);
    let names: Vec<_> = due.iter().map(|dial| dial.name.to_string()).collect();
    assert_eq!(names, ["o", "m"]);
}

#[test]
fn a_names_next_holder_inherits_no_address_and_no_pause() {
    let (mut a, now) = (members("a"), Instant::now());
    learn(&mut a, now, "m", &[1, 2]);
    a.linked(now, &peer("m"), (true, Some(at(3))));
    a.unlinked(now, &"m".parse().unwrap());
    // It has used up what fresh addresses may cause, and does not answer.
    for port in 4..30 {
        learn(&mut a, now, "m", &[port]);
        a.dial_failed(now, &"m".parse().unwrap(), Carrier::Udp);
    }
    assert_eq!(due(&mut a, now), []);
    let key = crate::identity::Fingerprint::of(b"another");
    let next = Peer { key, starts: after(99), ..(*peer("m")).clone() };
    a.recorded(now, &Arc::new(next), vec![at(50)], &record("m"));
    assert_eq!(due(&mut a, now), [("m".parse().unwrap(), vec![at(50)])]);
}

#[test]
fn an_unchanged_record_is_not_written_again_and_large_ones_go_last() {
    let (mut a, now) = (members("a"), Instant::now());
    learn(&mut a, now, "m", &[1]);
    let before = a.written().1[0].clone();
    let newer = MemberRecord { record: vec![3; 400], ..(*before).clone() };
    a.recorded(now, &peer("m"), vec![at(1)], &Arc::new(newer.clone()));
    assert!(Arc::ptr_eq(&before, &a.written().1[0]));
    a.recorded(now, &peer("m"), vec![at(2)], &Arc::new(newer.clone()));
    assert_eq!(*a.written().1[0], newer);
    for n in 0..MAX_MEMBERS - 1 {
        let name: NodeName = format!("x{n}").parse().unwrap();
        let large = MemberRecord { name, certificate: vec![0; 600], record: vec![0; 30_000] };
        a.recorded(now, &peer(&format!("x{n}")), vec![at(1)], &Arc::new(large));
    }
    let (_, written) = a.written();
    assert_eq!(written[0].name.to_string(), "m");
    assert!(written.iter().map(|record| record.size()).sum::<usize>() <= WRITTEN_BYTES);
}

proptest! {
    #[test]
    fn no_sequence_exceeds_the_caps(
        steps in prop::collection::vec((0u8..8, 0u16..400, 0u64..100), 1..600)
    ) {
        let (mut a, mut now) = (members("a"), Instant::now());
        let mut dials = Dials::default();
        for (step, n, wait) in steps {
            now += Duration::from_millis(wait);
            let text = format!("n{n}");
            let name = text.parse().unwrap();
            match step {
                0 => a.bootstrap(now, &info(&text, 1)),
                1 | 2 => { learn(&mut a, now, &text, &[n + 1, n + 2]); }
                3 => { a.linked(now, &peer(&text), (true, Some(at(n + 1)))); }
                4 => a.unlinked(now, &name),
                5 => a.path_down(now, &name),
                6 => a.dial_failed(now, &name, Carrier::Udp),
                _ => for Dial { name, addresses, .. } in a.due(now, &mut dials, |_| false, |_| true) {
                    prop_assert!(!addresses.is_empty());
                    dials.end(&name, &addresses);
                }
            }
            prop_assert!(a.names().len() <= MAX_MEMBERS);
        }
    }
}

#[test]
fn a_member_is_dialled_by_a_stream_at_each_ip_address_once() {
    let (mut a, t0) = (members("a"), Instant::now());
    a.set_ways(Ways { udp: true, streams: true, udp_blocked: false });
    let mut addresses: Vec<_> = (1..=7).map(at).collect();
    addresses.push(reach::stream_mark(443));
    a.recorded(t0, &peer("m"), addresses, &record("m"));
    a.last_seen(t0, &"m".parse().unwrap(), ([192, 0, 2, 9], 7).into());
    let streams = |a: &mut Members, now| a.streams_due(now, &mut Dials::default(), |_| false);
    assert!(streams(&mut a, t0).is_empty());
    assert!(due(&mut a, t0)[0].1.iter().all(|udp| !reach::is_stream_mark(*udp)));
    let begun = streams(&mut a, t0 + crate::mesh::UDP_HEAD_START);
    let addresses = [([192, 0, 2, 9], 443).into(), at(443)];
    assert_eq!((begun.len(), &begun[0].addresses[..]), (1, &addresses[..]));
    assert_eq!(begun[0].carrier, Carrier::Tls);
    // With a link over it UDP is measured later, and it does not count as where UDP finds the member.
    let virtual_address = "[fd72:6f6e::1:0:1]:1".parse().unwrap();
    assert!(a.linked(t0, &peer("m"), (true, Some(virtual_address))));
    a.dial_ended(&"m".parse().unwrap(), Carrier::Udp);
    let member = a.get(&"m".parse().unwrap()).unwrap();
    assert!(!member.addresses.contains(&virtual_address));
    let mut trials = |seconds| {
        let (now, lossy) = (t0 + Duration::from_secs(seconds), BTreeSet::new());
        a.trials_due(now, &mut Dials::default(), &lossy, |_| false, |_| true)
    };
    assert!(trials(29).is_empty());
    let begun = trials(30);
    assert_eq!((begun.len(), begun[0].carrier, begun[0].trial), (1, Carrier::Udp, true));
    assert!(trials(3000).is_empty(), "it is under way");
    assert!(due(&mut a, t0 + Duration::from_secs(3000)).is_empty());
}

#[test]
fn a_stream_is_dialled_again_where_it_led() {
    let (mut a, t0) = (members("a"), Instant::now());
    a.set_ways(Ways { udp: false, streams: true, udp_blocked: false });
    let name: NodeName = "m".parse().unwrap();
    // No address in its record may be dialled.
    a.recorded(t0, &peer("m"), vec![reach::stream_mark(443)], &record("m"));
    let streams = |a: &mut Members, now| a.streams_due(now, &mut Dials::default(), |_| false);
    assert!(streams(&mut a, t0).is_empty());
    a.linked(t0, &peer("m"), (true, Some("[fd72:6f6e::1:0:1]:1".parse().unwrap())));
    a.streamed(&name, Some(at(443)));
    a.unlinked(t0, &name);
    assert_eq!(streams(&mut a, t0)[0].addresses, [at(443)]);
}

/// UDP to the member lost a third when it was measured. Its link goes over a stream, which a lane finds silent.
#[test]
fn lossy_udp_is_dialled_beside_a_silent_stream_where_none_can_be() {
    let (t0, name): (_, NodeName) = (Instant::now(), "m".parse().unwrap());
    let third = LossRate::from_percent(33);
    let metrics = PathMetrics {
        rtt: POLITENESS,
        loss_out: third,
        loss_in: third,
        exchanges: 66,
        delivered: None,
    };
    let found = Measured { carrier: Carrier::Udp, metrics, at: t0 };
    for (streams, addresses, dials) in [
        (true, vec![at(1), reach::stream_mark(443)], 0),
        (true, vec![at(1)], 1),
        (false, vec![at(1), reach::stream_mark(443)], 1),
    ] {
        let mut a = members("a");
        a.set_ways(Ways { udp: true, streams, udp_blocked: false });
        a.recorded(t0, &peer("m"), addresses, &record("m"));
        // The member dialled.
        a.linked(t0, &peer("m"), (false, Some("[fd72:6f6e::1:0:1]:1".parse().unwrap())));
        a.trials(&name).unwrap().found(found);
        assert!(due(&mut a, t0).is_empty(), "the stream is not silent");
        a.suspect(t0, &name);
        let by_stream = a.streams_due(t0, &mut Dials::default(), |_| false);
        assert_eq!((due(&mut a, t0).len(), by_stream.len()), (dials, 1 - dials));
    }
}
