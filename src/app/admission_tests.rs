//! Floods against the pools, in virtual time.

use std::{collections::VecDeque, time::Duration};

use proptest::prelude::*;

use super::*;

fn stranger(ip: [u8; 4], validated: bool) -> Arrival {
    Arrival { who: Who::Stranger(ip.into()), validated, may_retry: !validated }
}

fn invited(ip: [u8; 4], validated: bool) -> Arrival {
    Arrival { who: Who::Invited(ip.into()), validated, may_retry: !validated }
}

/// A member at an address where it was not seen.
fn moved(ip: [u8; 4], validated: bool) -> Arrival {
    moved_of("mallory", ip, validated)
}

fn moved_of(name: &str, ip: [u8; 4], validated: bool) -> Arrival {
    let who = Who::Member { name: name.parse().unwrap(), ip: ip.into(), seen: false };
    Arrival { who, validated, may_retry: !validated }
}

/// From the address of this number of a member, which was seen there.
fn member_at(name: &str, address: u8) -> Arrival {
    let [a, b, ..] = hash(7, name).to_be_bytes();
    let who =
        Who::Member { name: name.parse().unwrap(), ip: [10, a, b, address].into(), seen: true };
    Arrival { who, validated: true, may_retry: false }
}

fn member(name: &str) -> Arrival {
    member_at(name, 1)
}

fn unproved(arrival: Arrival) -> Arrival {
    Arrival { validated: false, may_retry: true, ..arrival }
}

fn lane(entry: &str, slot: u32) -> Arrival {
    let who = Who::Lane { entry: entry.parse().unwrap(), slot };
    Arrival { who, validated: false, may_retry: true }
}

fn accepted(verdict: Verdict) -> Option<u64> {
    match verdict {
        Verdict::Accept { ticket, .. } => Some(ticket),
        _ => None,
    }
}

/// Ten seconds of 1,460 Initials a second (14 Mbit/s) from `prefixes` prefixes whose addresses prove
/// themselves and then stand still; returns how many of 10 honest strangers, members and lanes, one a
/// second of each, got in at the first try, and how many handshakes began in all.
fn flood(prefixes: u8) -> ([usize; 3], usize) {
    let start = Instant::now();
    let mut admission = Admission::new(start, 7);
    let mut honest = [0; 3];
    let mut began = 0;
    for packet in 0..14_600_u32 {
        let now = start + Duration::from_micros(685) * packet;
        let from = [198, 51, u8::try_from(packet % u32::from(prefixes)).unwrap(), 9];
        for validated in [false, true] {
            began +=
                usize::from(accepted(admission.judge(now, stranger(from, validated))).is_some());
        }
        if packet % 1460 == 700 {
            let slot = packet;
            let tries = [stranger([192, 0, 2, 1], true), member("mit"), lane("utah", slot)];
            for (kind, arrival) in tries.into_iter().enumerate() {
                if let Some(ticket) = accepted(admission.judge(now, arrival)) {
                    honest[kind] += 1;
                    admission.done(ticket);
                }
            }
        }
    }
    (honest, began)
}

#[test]
fn a_flood_from_one_address_keeps_nobody_out() {
    let (honest, began) = flood(1);
    assert_eq!(honest, [10, 10, 10]);
    assert!(began < 60, "{began} handshakes began");
}

#[test]
fn a_flood_from_100_prefixes_keeps_no_member_and_no_lane_out() {
    let ([strangers, members, lanes], began) = flood(100);
    assert_eq!((members, lanes), (10, 10));
    // A stranger tries again after a second, then two, then four.
    assert!(strangers >= 3, "{strangers} of 10 strangers");
    assert!(began < 1_100, "{began} handshakes began");
}

#[test]
fn a_strangers_address_needs_proof_before_any_handshake() {
    let now = Instant::now();
    let mut admission = Admission::new(now, 1);
    for who in [stranger, invited] {
        assert_eq!(admission.judge(now, who([203, 0, 9, 1], false)), Verdict::Retry);
        assert!(accepted(admission.judge(now, who([203, 0, 9, 1], true))).is_some());
    }
}

/// A minute of first packets from forged addresses, 1,000 a second, each in another prefix; returns how many
/// were answered.
fn answers_to_forgers(who: fn([u8; 4], bool) -> Arrival, admission: &mut Admission) -> usize {
    let start = Instant::now();
    let forged = (0..60_000_u32).filter(|n| {
        let [_, a, b, c] = n.to_be_bytes();
        let now = start + Duration::from_millis((*n).into());
        let verdict = admission.judge(now, who([20 + a, b, c, 1], false));
        assert!(accepted(verdict).is_none(), "an address without a proof");
        verdict == Verdict::Retry
    });
    forged.count()
}

#[test]
fn forged_addresses_get_a_bounded_number_of_answers() {
    let mut admission = Admission::new(Instant::now(), 1);
    let answers = answers_to_forgers(stranger, &mut admission);
    assert!((60..=32 + 60).contains(&answers), "{answers} to who knows the overlay");
    let answers = answers_to_forgers(moved, &mut admission);
    assert!((12..=16 + 12).contains(&answers), "{answers} to a member");
    let answers = answers_to_forgers(invited, &mut admission);
    assert!((1_200..=32 + 1_200).contains(&answers), "{answers} to who was invited");
    let later = Instant::now() + Duration::from_secs(60);
    // The flood leaves no trace in the buckets of those who prove themselves.
    assert!(accepted(admission.judge(later, stranger([192, 0, 2, 1], true))).is_some());
}

#[test]
fn a_member_that_forges_addresses_uses_up_its_own_answers() {
    let mut admission = Admission::new(Instant::now(), 1);
    let _ = answers_to_forgers(moved, &mut admission);
    let later = Instant::now() + Duration::from_secs(60);
    let ask = |name, admission: &mut Admission| {
        admission.judge(later, moved_of(name, [192, 0, 2, 1], false))
    };
    assert_eq!(ask("mallory", &mut admission), Verdict::Ignore(Outcome::RetryRate));
    assert_eq!(ask("utah", &mut admission), Verdict::Retry);
    let proved = moved_of("utah", [192, 0, 2, 1], true);
    assert!(accepted(admission.judge(later, proved)).is_some());
}

#[test]
fn the_invited_have_answers_and_places_that_others_cannot_take() {
    let now = Instant::now();
    let mut admission = Admission::new(now, 1);
    for n in 0..200 {
        for proved in [false, true] {
            let _ = admission.judge(now, stranger([203, 0, n, 1], proved));
        }
    }
    assert!(admission.strangers.len() >= 64, "{}", admission.strangers.len());
    let places = (0..100).filter(|n| {
        let asked = admission.judge(now, invited([203, 1, *n, 1], false));
        asked == Verdict::Retry
            && accepted(admission.judge(now, invited([203, 1, *n, 1], true))).is_some()
    });
    assert_eq!(places.count(), MAX_INVITED);
    let later = now + Duration::from_secs(1);
    let verdict = admission.judge(later, invited([192, 0, 2, 1], true));
    assert!(matches!(verdict, Verdict::Accept { instead_of: Some(_), .. }), "{verdict:?}");
}

/// Ten seconds of first packets in the name of `members` members, 860 a second of each, of which each
/// takes up a place for five seconds or is garbage that ends at once; returns at which of its own first
/// packets, one a second after three seconds, one of these members got in.
fn forged_in_the_name_of(members: u8, garbage: bool) -> Option<usize> {
    let start = Instant::now();
    let mut admission = Admission::new(start, 7);
    let mut under_way = VecDeque::new();
    for packet in 0..8_600_u32 {
        let now = start + Duration::from_micros(1_163) * packet;
        while under_way.front().is_some_and(|(ends, _)| *ends <= now) {
            let (_, ticket) = under_way.pop_front().unwrap();
            admission.done(ticket);
        }
        let lives = if garbage { Duration::ZERO } else { Duration::from_secs(5) };
        for n in 0..members {
            let forged = unproved(member(&format!("m{n}")));
            under_way.extend(accepted(admission.judge(now, forged)).map(|t| (now + lives, t)));
        }
        if packet > 3 * 860 && packet % 860 == 430 {
            let asked = admission.judge(now, unproved(member("m0")));
            let proved = (asked == Verdict::Retry).then(|| admission.judge(now, member("m0")));
            if accepted(proved.unwrap_or(asked)).is_some() {
                return Some(usize::try_from(packet / 860).unwrap() - 2);
            }
        }
    }
    None
}

#[test]
fn first_packets_in_a_members_name_do_not_keep_that_member_out() {
    for (members, within) in [(1, 1), (3, 1)] {
        for garbage in [false, true] {
            let tries = forged_in_the_name_of(members, garbage);
            println!("{members} members, garbage {garbage}: in at try {tries:?}");
            assert!(tries.is_some_and(|tries| tries <= within), "{members} {garbage}: {tries:?}");
        }
    }
}

#[test]
fn an_address_that_proved_itself_has_places_that_forgers_cannot_take() {
    let now = Instant::now();
    let mut admission = Admission::new(now, 1);
    let forged = unproved(member("mit"));
    let taken = (0..100).filter(|_| accepted(admission.judge(now, forged.clone())).is_some());
    assert_eq!(taken.count(), RETRY_PER_NAME);
    let proved = (0..100).filter(|_| accepted(admission.judge(now, member("mit"))).is_some());
    assert_eq!(proved.count(), MAX_PER_NAME);
}

/// Twenty seconds in which each of so many members proves each of four addresses and leaves a handshake
/// there half done for five seconds, 160 times a second; returns the most places that they had, and how
/// many of an honest member's 18 tries, one a second, succeeded.
fn half_done_by(members: u32) -> (usize, usize) {
    let start = Instant::now();
    let mut admission = Admission::new(start, 7);
    let mut under_way: VecDeque<(Instant, u64)> = VecDeque::new();
    let (mut most, mut honest) = (0, 0);
    for round in 0..800_u32 {
        let now = start + Duration::from_millis(25) * round;
        while under_way.front().is_some_and(|(ends, _)| *ends <= now) {
            admission.done(under_way.pop_front().unwrap().1);
        }
        for n in 0..members * 4 {
            let (name, address) =
                (format!("bad{}", n % members), u8::try_from(n / members).unwrap());
            if let Verdict::Accept { ticket, instead_of } =
                admission.judge(now, member_at(&name, address))
            {
                under_way.retain(|(_, other)| Some(*other) != instead_of);
                under_way.push_back((now + Duration::from_secs(5), ticket));
            }
        }
        most = most.max(admission.members.len());
        if round >= 80 && round % 40 == 0 {
            let ticket = accepted(admission.judge(now, member("mit")));
            honest += usize::from(ticket.is_some());
            ticket.into_iter().for_each(|ticket| admission.done(ticket));
        }
    }
    (most, honest)
}

#[test]
fn members_that_leave_handshakes_half_done_keep_no_other_out() {
    for (members, places) in [(1, 4 * MAX_PER_NAME), (2, 128), (8, 128), (12, 128)] {
        let (most, honest) = half_done_by(members);
        println!("{members} members had {most} places; another got in {honest} of 18 times");
        assert_eq!((most, honest), (places, 18), "{members} members");
    }
}

#[test]
fn in_a_full_pool_the_member_with_the_most_places_loses_its_oldest() {
    let start = Instant::now();
    let mut admission = Admission::new(start, 1);
    let mut begin =
        |name: &str, millis| admission.judge(start + Duration::from_millis(millis), member(name));
    assert!(accepted(begin("mit", 0)).is_some());
    let places = [16, 16, 16, 16, 16, 16, 15, 16].into_iter().enumerate();
    let mut oldest = Vec::new();
    for (n, places) in places {
        let tickets: Vec<_> = (0..places)
            .map(|place| accepted(begin(&format!("bad{n}"), 10 + place)).unwrap())
            .collect();
        oldest.extend((places == 16).then(|| tickets[0]));
    }
    // One with hardly fewer places waits until they had their time.
    assert_eq!(begin("bad6", 900), Verdict::Ignore(Outcome::MembersFull));
    let verdict = begin("utah", 900);
    let Verdict::Accept { instead_of: Some(gone), .. } = verdict else { panic!("{verdict:?}") };
    assert!(oldest.contains(&gone), "{gone} of {oldest:?}");
}

#[test]
fn a_stranger_where_a_member_was_takes_nothing_of_it_elsewhere() {
    let start = Instant::now();
    let mut admission = Admission::new(start, 1);
    let (mut elsewhere, mut there) = (0, 0);
    for n in 0..1_000 {
        let now = start + Duration::from_millis(10 * n);
        for arrival in [unproved(member_at("mit", 2)), member_at("mit", 2)] {
            there += usize::from(accepted(admission.judge(now, arrival)).is_some());
        }
        if n % 100 == 99 {
            for arrival in [unproved(member("mit")), member("mit")] {
                let ticket = accepted(admission.judge(now, arrival)).expect("a place at once");
                admission.done(ticket);
                elsewhere += 1;
            }
        }
    }
    assert!(elsewhere == 20 && there < 200, "{elsewhere} {there}");
}

fn hash(seed: u64, of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, of).hash(&mut hasher);
    hasher.finish()
}

/// Somebody who knows the overlay forges the addresses of three prefixes for a minute. Somebody of a fourth comes
/// each four seconds.
#[test]
fn first_packets_in_the_name_of_some_prefixes_keep_no_other_out() {
    let start = Instant::now();
    let mut admission = Admission::new(start, 7);
    let mut answered = 0;
    for n in 0..60_000_u64 {
        let now = start + Duration::from_millis(n);
        let _ = admission.judge(now, stranger([203, 0, n.to_le_bytes()[0] % 3, 7], false));
        if n % 4_000 == 500 {
            let verdict = admission.judge(now, stranger([192, 0, 2, 7], false));
            answered += usize::from(verdict == Verdict::Retry);
        }
    }
    assert_eq!(answered, 15);
}

#[test]
fn one_entry_cannot_take_all_lane_handshakes() {
    let now = Instant::now();
    let mut admission = Admission::new(now, 1);
    let of_one =
        (0..100).filter(|slot| accepted(admission.judge(now, lane("mit", *slot))).is_some());
    assert_eq!(of_one.count(), MAX_LANES_PER_ENTRY);
    assert!(accepted(admission.judge(now, lane("utah", 200))).is_some());
    assert!(accepted(admission.judge(now, lane("nyu", 201))).is_some());
    assert!(accepted(admission.judge(now, lane("nyu", 201))).is_some());
    let third = admission.judge(now, lane("nyu", 201));
    assert_eq!(third, Verdict::Ignore(Outcome::EntryFull));
}

#[test]
fn a_full_pool_gives_up_the_oldest_handshake_that_had_its_time() {
    let start = Instant::now();
    let mut admission = Admission::new(start, 1);
    let full = (0..u8::MAX).take(MAX_STRANGERS);
    let tickets: Vec<_> = full
        .map(|n| {
            let now = start + Duration::from_millis(n.into());
            accepted(admission.judge(now, stranger([203, 0, n, 1], true))).unwrap()
        })
        .collect();
    let late = stranger([192, 0, 2, 1], true);
    let soon = admission.judge(start + Duration::from_millis(900), late.clone());
    assert_eq!(soon, Verdict::Ignore(Outcome::StrangersFull));
    let verdict = admission.judge(start + Duration::from_millis(1_000), late);
    let Verdict::Accept { instead_of, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!(instead_of, Some(tickets[0]));
}

#[test]
fn in_a_full_prefix_the_oldest_gives_way_to_the_next() {
    let start = Instant::now();
    let mut admission = Admission::new(start, 1);
    let neighbour = |n| stranger([203, 0, 113, n], true);
    let tickets: Vec<_> =
        (0..16).map(|n| accepted(admission.judge(start, neighbour(n))).unwrap()).collect();
    let soon = admission.judge(start + Duration::from_millis(900), neighbour(99));
    assert_eq!(soon, Verdict::Ignore(Outcome::PrefixBusy));
    // Another prefix has room, and does not push anybody out.
    let elsewhere = admission.judge(start, stranger([192, 0, 2, 1], true));
    assert!(matches!(elsewhere, Verdict::Accept { instead_of: None, .. }), "{elsewhere:?}");
    let verdict = admission.judge(start + Duration::from_secs(1), neighbour(99));
    let Verdict::Accept { instead_of, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!(instead_of, Some(tickets[0]));
    assert_eq!(admission.strangers.len(), 17);
}

#[test]
fn a_prefix_is_what_one_person_has_addresses_of() {
    let same = |a: &str, b: &str| prefix(a.parse().unwrap()) == prefix(b.parse().unwrap());
    assert!(same("192.0.2.1", "192.0.2.254") && same("192.0.2.1", "::ffff:192.0.2.9"));
    assert!(same("2001:db8:1:2::3", "2001:db8:1:ffff::1"));
    assert!(!same("192.0.2.1", "192.0.3.1") && !same("2001:db8:1::", "2001:db8:2::"));
}

proptest! {
    #[test]
    fn pools_stay_within_their_bounds_whatever_arrives(
        arrivals in prop::collection::vec((0_u8..4, any::<[u8; 2]>(), any::<bool>(), 0_u64..2_000), 1..400)
    ) {
        let mut now = Instant::now();
        let mut admission = Admission::new(now, 3);
        let mut open: Vec<u64> = Vec::new();
        for (kind, [a, b], validated, wait) in arrivals {
            now += Duration::from_millis(wait / 20);
            let mut arrival = match kind {
                0 => lane(["a", "b", "c"][usize::from(a % 3)], b.into()),
                1 => member_at(["a", "b", "c"][usize::from(a % 3)], b),
                2 => invited([10, a, b, 1], validated),
                _ => stranger([10, a, b, 1], validated),
            };
            arrival.validated = validated;
            match admission.judge(now, arrival) {
                Verdict::Accept { ticket, instead_of } => {
                    open.retain(|other| Some(*other) != instead_of);
                    open.push(ticket);
                }
                Verdict::Retry => prop_assert!(!validated),
                Verdict::Ignore(_) => {}
            }
            if b < 60 && !open.is_empty() {
                admission.done(open.swap_remove(usize::from(a) % open.len()));
            }
            let (l, m, s) = (&admission.lanes, &admission.members, &admission.strangers);
            let i = &admission.invited;
            prop_assert!(l.len() <= MAX_LANES && m.len() <= MAX_MEMBERS);
            prop_assert!(s.len() <= MAX_STRANGERS && i.len() <= MAX_INVITED);
            prop_assert_eq!(l.len() + m.len() + s.len() + i.len(), open.len());
        }
    }
}
