use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand_pcg::Pcg64Mcg;

use super::ms;
use crate::emulator::{
    Bitrate, DropReason, InFlight, Link, LinkModel, Loss, LossRate, Queue, Verdict, seed,
};

#[test]
fn a_perfect_link_delivers_after_exactly_its_delay() {
    let now = Instant::now();
    let mut link = Link::new(LinkModel::new(ms(30)));
    assert_eq!(link.send(now, 1_200, &mut rng()), Verdict::Deliver { at: now + ms(30) });
}

#[test]
fn a_bottleneck_sends_exactly_at_its_rate() {
    let now = Instant::now();
    let mut link = Link::new(slow(Queue::Time(ms(1_000))));
    let arrivals = burst(&mut link, now, 10);
    let expected: Vec<_> = (1..=10).map(|n| Verdict::Deliver { at: now + ms(n) }).collect();
    assert_eq!(arrivals, expected, "1,000 bytes take 1 ms at 8 Mbit/s");
}

#[test]
fn a_full_queue_drops_the_tail_and_says_so() {
    let now = Instant::now();
    for queue in [Queue::Time(ms(5)), Queue::Bytes(5_000)] {
        let mut link = Link::new(slow(queue));
        let arrivals = burst(&mut link, now, 8);
        let dropped = arrivals.iter().filter(|v| **v == Verdict::Dropped(DropReason::QueueFull));
        assert_eq!(dropped.count(), 3, "{queue:?} holds five");
        assert!(matches!(arrivals[4], Verdict::Deliver { at } if at == now + ms(5)));
        let later = link.send(now + ms(1), 1_000, &mut rng());
        assert_eq!(later, Verdict::Deliver { at: now + ms(6) }, "one has left, one fits");
        assert_eq!(link.counters().dropped(DropReason::QueueFull), 3);
    }
}

#[test]
fn a_packet_that_finds_the_link_idle_always_fits() {
    let mut link = Link::new(slow(Queue::Bytes(0)));
    assert!(matches!(link.send(Instant::now(), 1_000, &mut rng()), Verdict::Deliver { .. }));
}

#[test]
fn a_packet_bigger_than_the_mtu_vanishes() {
    let mut link = Link::new(LinkModel { mtu: 1_300, ..LinkModel::default() });
    let now = Instant::now();
    assert!(matches!(link.send(now, 1_300, &mut rng()), Verdict::Deliver { .. }));
    assert_eq!(link.send(now, 1_301, &mut rng()), Verdict::Dropped(DropReason::TooBig));
}

#[test]
fn the_share_of_lost_packets_converges_to_the_models_mean() {
    let bursty = Loss::GilbertElliott {
        good: LossRate::from_percent(1.0),
        bad: LossRate::from_percent(50.0),
        good_for: ms(9_000),
        bad_for: ms(1_000),
    };
    for loss in [Loss::None, Loss::Bernoulli(LossRate::from_percent(3.0)), bursty] {
        let mut link = Link::new(LinkModel { loss, ..LinkModel::default() });
        let (start, mut rng) = (Instant::now(), rng());
        for n in 0..200_000 {
            link.send(start + ms(100 * n), 100, &mut rng);
        }
        let share = link.counters().dropped(DropReason::Chance) as f64 / 200_000.0;
        let expected = loss.mean().fraction();
        assert!((share - expected).abs() <= expected * 0.08, "{share} for {expected}");
    }
}

#[test]
fn gilbert_elliott_losses_come_in_bursts() {
    let loss = Loss::GilbertElliott {
        good: LossRate::ZERO,
        bad: LossRate::TOTAL,
        good_for: ms(9_000),
        bad_for: ms(1_000),
    };
    let mut link = Link::new(LinkModel { loss, ..LinkModel::default() });
    let (start, mut rng) = (Instant::now(), rng());
    let lost: Vec<bool> = (0..100_000)
        .map(|n| matches!(link.send(start + ms(10 * n), 100, &mut rng), Verdict::Dropped(_)))
        .collect();
    let in_all = lost.iter().filter(|&&l| l).count() as f64;
    let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count() as f64;
    assert!((60.0..150.0).contains(&(in_all / bursts)), "a second is a hundred packets");
}

#[test]
fn jitter_has_its_mean_and_its_ceiling() {
    for reorder in [false, true] {
        let model = LinkModel { reorder, ..LinkModel::new(ms(20)).with_jitter(ms(10)) };
        let mut link = Link::new(model);
        let (start, mut rng) = (Instant::now(), rng());
        let extra: Vec<Duration> = (0..20_000)
            .map(|n| start + ms(1_000 * n))
            .map(|now| arrival(link.send(now, 100, &mut rng)) - now - ms(20))
            .collect();
        let mean = extra.iter().sum::<Duration>() / 20_000;
        assert!((ms(9)..ms(11)).contains(&mean), "{mean:?}");
        assert!(extra.iter().all(|&e| e <= ms(50)));
    }
}

#[test]
fn only_a_link_that_reorders_lets_packets_overtake() {
    for reorder in [false, true] {
        let model = LinkModel { reorder, ..LinkModel::new(ms(20)).with_jitter(ms(10)) };
        let arrivals = burst(&mut Link::new(model), Instant::now(), 1_000);
        let ordered = arrivals.windows(2).all(|pair| arrival(pair[0]) <= arrival(pair[1]));
        assert_eq!(ordered, !reorder);
    }
}

#[test]
fn a_delay_that_swings_has_its_mean_and_its_bounds_and_packets_overtake() {
    for (swing, least) in [(15, 5), (40, 0)] {
        let mut link = Link::new(LinkModel::new(ms(20)).with_overtaking(ms(swing)));
        let (start, mut rng) = (Instant::now(), rng());
        let mut delay = |n| arrival(link.send(start + ms(n), 100, &mut rng)) - start - ms(n);
        let delays: Vec<Duration> = (0..20_000).map(&mut delay).collect();
        let bounds = ms(least)..=ms(20 + swing);
        assert!(delays.iter().all(|delay| bounds.contains(delay)), "±{swing} ms");
        let mean = delays.iter().sum::<Duration>() / 20_000;
        assert!(swing > 20 || (ms(19)..ms(21)).contains(&mean), "{mean:?}");
        assert!(delays.windows(2).any(|pair| pair[0] > pair[1] + ms(1)));
    }
}

#[test]
fn a_new_model_keeps_what_is_in_flight_and_the_order() {
    let now = Instant::now();
    let mut link = Link::new(LinkModel::new(ms(200)));
    link.send(now, 100, &mut rng());
    assert_eq!(link.set_model(LinkModel::new(ms(10))), InFlight::Kept);
    let next = link.send(now, 100, &mut rng());
    assert_eq!(next, Verdict::Deliver { at: now + ms(200) }, "behind the one before");
    let late = link.send(now + ms(300), 100, &mut rng());
    assert_eq!(late, Verdict::Deliver { at: now + ms(310) });
}

#[test]
fn a_cut_loses_what_is_in_flight_and_a_healed_link_starts_empty() {
    let now = Instant::now();
    let model = slow(Queue::Time(ms(1_000)));
    let mut link = Link::new(model);
    burst(&mut link, now, 100);
    assert_eq!(link.set_model(LinkModel { up: false, ..model }), InFlight::Lost);
    assert_eq!(link.send(now, 1_000, &mut rng()), Verdict::Dropped(DropReason::Cut));
    assert_eq!(link.set_model(model), InFlight::Kept);
    let healed = link.send(now + ms(1), 1_000, &mut rng());
    assert_eq!(healed, Verdict::Deliver { at: now + ms(2) });
}

proptest! {
    #[test]
    fn no_interval_carries_more_than_its_rate_and_its_order_is_kept(
        lens in prop::collection::vec(1_usize..1_472, 1..200),
        gaps in prop::collection::vec(0_u64..3_000, 200),
        kbit in 100_u32..100_000,
        jitter in 0_u64..20,
    ) {
        let rate = Bitrate::kbit(kbit);
        let model = LinkModel::new(ms(5)).with_rate(rate, Queue::Time(ms(50)));
        let mut link = Link::new(LinkModel { jitter: ms(jitter), ..model });
        let (start, mut rng) = (Instant::now(), rng());
        let (mut now, mut last) = (start, start);
        let mut delivered = Duration::ZERO;
        for (&len, &gap) in lens.iter().zip(&gaps) {
            now += Duration::from_micros(gap);
            if let Verdict::Deliver { at } = link.send(now, len, &mut rng) {
                delivered += rate.time_for(len);
                prop_assert!(at >= last, "order");
                prop_assert!(at >= start + ms(5) + delivered, "rate");
                let queued = ms(50).max(rate.time_for(len));
                prop_assert!(at <= now + ms(5) + queued + ms(5 * jitter), "queue");
                last = at;
            }
        }
        let counters = link.counters();
        prop_assert_eq!(counters.sent, lens.len() as u64);
        prop_assert_eq!(counters.in_flight() + counters.dropped_in_all(), counters.sent);
    }

    #[test]
    fn equal_seeds_give_equal_verdicts(seed: u64, percent in 0.0..100.0) {
        let model = LinkModel::new(ms(5))
            .with_loss(LossRate::from_percent(percent))
            .with_jitter(ms(3));
        let now = Instant::now();
        let run = || {
            let (mut link, mut rng) = (Link::new(model), seed::rng(seed));
            (0..100).map(|n| link.send(now + ms(n), 100, &mut rng)).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn neighbouring_seeds_and_pairs_are_unrelated() {
    let pair = |seed, from, to| seed::derive_pair(seed, super::host(from), super::host(to));
    let seeds = [pair(1, 1, 2), pair(1, 2, 1), pair(2, 1, 2), pair(1, 1, 3)];
    for (n, one) in seeds.iter().enumerate() {
        for other in &seeds[n + 1..] {
            assert!((one ^ other).count_ones() > 10, "{seeds:x?}");
        }
    }
}

#[test]
fn rates_out_of_range_move_to_the_nearer_bound() {
    for (given, taken) in [(-1.0, 0.0), (f64::NAN, 0.0), (0.25, 0.25), (7.0, 1.0)] {
        assert_eq!(LossRate::from_fraction(given).fraction(), taken);
    }
    assert_eq!(Bitrate::kbit(0).as_bits_per_second(), 1);
}

fn slow(queue: Queue) -> LinkModel {
    LinkModel::default().with_rate(Bitrate::mbit(8), queue)
}

fn burst(link: &mut Link, now: Instant, count: usize) -> Vec<Verdict> {
    let mut rng = rng();
    (0..count).map(|_| link.send(now, 1_000, &mut rng)).collect()
}

fn arrival(verdict: Verdict) -> Instant {
    match verdict {
        Verdict::Deliver { at } => at,
        Verdict::Dropped(reason) => panic!("dropped: {reason}"),
    }
}

fn rng() -> Pcg64Mcg {
    seed::rng(1)
}
