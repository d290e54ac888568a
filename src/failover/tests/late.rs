//! Answers that come later than they did, from a route and after a sleep.

use super::*;

#[test]
fn a_lane_stays_on_a_route_that_answers_later_than_it_did() {
    for (later, every) in [60, 200, 400].into_iter().flat_map(|ms| [(ms, BUSY), (ms, [200, 200])]) {
        let mut pair = Pair::new(&[Outage::of(0, 3_000, 60_000)]);
        // What others sent on the direct path goes over to the relays.
        pair.later = [(0, 0), (3_000, later), (3_000, later)];
        pair.run(2_900, every);
        pair.restart_waits();
        pair.run(10_000, every);
        let reasons = [pair.reasons(0), pair.reasons(1)];
        assert!(reasons.iter().all(|moves| moves.len() == 1), "{later} ms, {every:?}: {reasons:?}");
        // The relay's link answers once, and the packet takes its way.
        let most = 400 + 2 * later + every[0];
        assert!(pair.longest_wait.iter().all(|wait| *wait < most), "{:?}", pair.longest_wait);
    }
}

#[test]
fn an_end_that_slept_finds_a_cut_as_fast_as_before() {
    for (end, every) in [0, 1].into_iter().flat_map(|end| [(end, BUSY), (end, [0, 2])]) {
        let mut pair = Pair::new(&[Outage::of(0, 8_000, 60_000)]);
        pair.asleep = vec![(end, 2_000, 6_000)];
        pair.run(7_900, every);
        pair.restart_waits();
        pair.run(12_000, every);
        let reasons = [pair.reasons(0), pair.reasons(1)];
        assert!(
            pair.longest_wait[0] < 250,
            "{end}, {every:?}: {:?} {reasons:?}",
            pair.longest_wait
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_ends_meet_on_a_route_that_works_however_late_it_is(
        outages in outages(),
        later in prop::array::uniform3((2_000..40_000u64, 0..400u64)),
        every in prop::sample::select(vec![[2, 2], [200, 200], [0, 3], [3, 0]]),
    ) {
        let mut pair = Pair::new(&outages);
        pair.later = later;
        pair.run(62_000, every);
        pair.restart_waits();
        pair.run(67_000, every);
        for to in [0, 1] {
            let wait = pair.now - pair.delivered[to];
            prop_assert!(
                every[1 - to] == 0 || wait < 1_000,
                "{wait} ms, {:?} {:?}", pair.reasons(0), pair.reasons(1)
            );
        }
    }
}
