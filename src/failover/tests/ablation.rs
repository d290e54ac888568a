//! What each constant of [`Timing`] buys: two agents with it at a quarter and at four times its value, over many seeds.
//!
//! ```sh
//! cargo test --release --lib ablation -- --ignored --nocapture
//! ```
//! prints a table. `RON_SEEDS` says over how many seeds, default 50. Constants of grants and of capacity need
//! relays that forget and queues that fill, which are not modelled here.

use std::{sync::Mutex, thread};

use super::*;

/// What is measured in each scenario; less is better.
const MEASURES: [&str; 14] = [
    "cut, stream: wait, ms",
    "cut, keys: wait, ms",
    "cut of one direction: wait, ms",
    "random outages: wait, ms",
    "random outages: moves a minute",
    "line pauses: % of the time elsewhere",
    "path flaps: wait, ms",
    "path flaps: moves a minute",
    "30 % loss: % of packets lost",
    "5 % loss: % of packets lost",
    "0.4 % loss: moves an hour",
    "jitter: moves an hour",
    "jitter, keys of one end: packets per key",
    "end sleeps: its verdicts an hour",
];

type Figures = [f64; MEASURES.len()];

/// One constant, and how to multiply it by a ratio.
type Knob = (&'static str, fn(&mut Timing, [u32; 2]));

macro_rules! knobs {
    ($($kind:ident $field:ident),* $(,)?) => {
        [$((stringify!($field), |timing, factor| knobs!(@$kind timing.$field, factor))),*]
    };
    (@time $place:expr, $factor:ident) => { $place = $place * $factor[0] / $factor[1] };
    (@count $place:expr, $factor:ident) => {
        $place = ($place * u64::from($factor[0]) / u64::from($factor[1])).max(1)
    };
    (@loss $place:expr, $factor:ident) => {
        $place = LossRate::new($place.fraction() * f64::from($factor[0]) / f64::from($factor[1]))
    };
    (@excess $place:expr, $factor:ident) => {
        $place = 1.0 + ($place - 1.0) * f64::from($factor[0]) / f64::from($factor[1])
    };
}

const KNOBS: [Knob; 20] = knobs![
    time ping_after,
    time verdict_after,
    time longest_answer,
    time slow_answer_memory,
    time unknown_rtt,
    time ack_queue,
    count busy_packets,
    time overslept,
    time rest_after,
    time first_hold,
    time memory,
    time loss_window,
    count loss_packets,
    count loss_many,
    time loss_stale,
    loss leave_above,
    excess cleaner_factor,
    loss probes_lost,
    time tick,
    time slow_tick,
];

/// A lane with `timing` that breaks in the ways of `seed`.
struct Trouble {
    timing: Timing,
    rng: Pcg64Mcg,
}

impl Trouble {
    fn pair(&mut self, outages: &[Outage]) -> Pair {
        let mut pair = Pair::with(self.timing, outages);
        pair.rng = Pcg64Mcg::seed_from_u64(self.rng.random());
        pair.jitter = 2;
        pair
    }

    /// The longer wait of both ends for data, if the direct way is cut.
    fn cut(&mut self, directions: [bool; 2], every: [u64; 2]) -> f64 {
        let from = self.rng.random_range(3_000..5_000);
        let mut pair = self.pair(&[Outage { directions, ..Outage::of(0, from, 60_000) }]);
        pair.run(2_900, every);
        pair.restart_waits();
        pair.run(10_000, every);
        wait(&pair)
    }

    fn outages(&mut self) -> Vec<Outage> {
        let works = self.rng.random_range(0..WAYS.len());
        let one = |rng: &mut Pcg64Mcg| {
            let (from, which) = (rng.random_range(2_000..40_000), rng.random_range(0..3));
            let until = from + rng.random_range(200..20_000);
            let directions = [which != 1, which != 2];
            Outage { directions, ..Outage::of(rng.random_range(0..WAYS.len()), from, until) }
        };
        let all: Vec<_> = (0..8).map(|_| one(&mut self.rng)).collect();
        all.into_iter().filter(|outage| outage.way != works).collect()
    }

    /// The direct way loses `share` from the third second to the last.
    fn loss(&mut self, share: f64, seconds: u64) -> Pair {
        let until = seconds * 1_000;
        let mut pair = self.pair(&[]);
        pair.losses = vec![Lossy { way: 0, from: 3_000, until, share }];
        pair.run(until, BUSY);
        pair
    }

    fn figures(&mut self) -> Figures {
        let both = [true; 2];
        let mut figures = [0.0; MEASURES.len()];
        figures[0] = self.cut(both, BUSY);
        figures[1] = self.cut(both, [200, 200]);
        let out = self.rng.random_bool(0.5);
        figures[2] = self.cut([out, !out], BUSY);
        let outages = self.outages();
        let mut pair = self.pair(&outages);
        pair.run(62_000, BUSY);
        (figures[3], figures[4]) = (wait(&pair), moves(&pair) * 60.0 / 62.0);
        figures[5] = self.pauses();
        let mut pair = self.flapping();
        pair.run(120_000, BUSY);
        (figures[6], figures[7]) = (wait(&pair), moves(&pair) / 2.0);
        figures[8] = lost(&self.loss(0.3, 33));
        figures[9] = lost(&self.loss(0.05, 33));
        figures[10] = moves(&self.loss(0.004, 200)) * 3_600.0 / 200.0;
        let mut pair = self.pair(&[]);
        pair.jitter = 15;
        pair.run(60_000, BUSY);
        figures[11] = moves(&pair) * 30.0;
        let mut pair = self.pair(&[]);
        pair.jitter = 15;
        pair.run(60_000, [200, 0]);
        figures[11] += moves(&pair) * 30.0;
        figures[12] = pair.ends.iter().map(|end| end.packets_out).sum::<usize>() as f64 / 300.0;
        figures[13] = self.sleeps();
        figures
    }

    /// The line of an end pauses; the share of the time with an end on another route.
    fn pauses(&mut self) -> f64 {
        let mut pair = self.pair(&[]);
        pair.pauses = (1..6)
            .map(|n| {
                let from = n * 20_000 + self.rng.random_range(0..5_000);
                (self.rng.random_range(0..2), from, from + self.rng.random_range(150..1_500))
            })
            .collect();
        100.0 * pair.steps_elsewhere(140_000, 100, BUSY) as f64 / 1_400.0
    }

    /// The direct way fails again and again.
    fn flapping(&mut self) -> Pair {
        let mut outages = Vec::new();
        let mut from = 3_000;
        while from < 120_000 {
            let until = from + self.rng.random_range(1_000..6_000);
            outages.push(Outage::of(0, from, until));
            from = until + self.rng.random_range(2_000..10_000);
        }
        self.pair(&outages)
    }

    /// An end does nothing for some hundred milliseconds now and then: how often it finds its route silent for that.
    /// (The other end cannot tell it from a route that fails.)
    fn sleeps(&mut self) -> f64 {
        let mut pair = self.pair(&[]);
        pair.asleep = (1..30)
            .map(|n| {
                let from = n * 2_000 + self.rng.random_range(0..1_000);
                (0, from, from + self.rng.random_range(20..800))
            })
            .collect();
        pair.run(60_000, BUSY);
        let silent = |why: &Option<_>| matches!(why, Some(RerouteReason::Silent { .. }));
        60.0 * pair.ends[0].moves.iter().filter(|(.., why)| silent(why)).count() as f64
    }
}

fn wait(pair: &Pair) -> f64 {
    let open =
        [0, 1].map(|end| if pair.delivered[end] == 0 { 0 } else { pair.now - pair.delivered[end] });
    [pair.longest_wait, open].into_iter().flatten().max().unwrap_or(0) as f64
}

fn moves(pair: &Pair) -> f64 {
    pair.ends.iter().map(|end| end.moves.len()).sum::<usize>() as f64
}

fn lost(pair: &Pair) -> f64 {
    let sum = |of: fn(&End) -> u64| pair.ends.iter().map(of).sum::<u64>() as f64;
    100.0 * sum(|end| end.counts.lost) / sum(|end| end.counts.sent)
}

/// The figures of all seeds: the mean of counts and shares, and of waits what 95 % of the runs stay below.
fn over_seeds(timing: Timing, seeds: u64) -> Figures {
    let runs: Vec<_> = (0..seeds)
        .map(|seed| Trouble { timing, rng: Pcg64Mcg::seed_from_u64(seed) }.figures())
        .collect();
    std::array::from_fn(|n| {
        let mut values: Vec<_> = runs.iter().map(|figures| figures[n]).collect();
        values.sort_by(f64::total_cmp);
        match MEASURES[n].ends_with("wait, ms") {
            true => values[(values.len() * 95).div_ceil(100) - 1],
            false => values.iter().sum::<f64>() / values.len() as f64,
        }
    })
}

/// What differs by a fifth of its value, or of 1 if that is less.
fn differences(with: &Figures, without: &Figures) -> String {
    let told = (0..MEASURES.len()).filter_map(|n| {
        let (new, old) = (with[n], without[n]);
        let matters = (new - old).abs() > 0.2 * old.max(1.0);
        matters.then(|| format!("{}: {old:.1} → {new:.1}", MEASURES[n]))
    });
    let told: Vec<_> = told.collect();
    if told.is_empty() { "–".into() } else { told.join("; ") }
}

#[test]
#[ignore = "a command of minutes: cargo test --release --lib ablation -- --ignored --nocapture"]
fn each_constant_at_a_quarter_and_at_four_times_its_value() {
    let seeds = std::env::var("RON_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(50);
    let began = Instant::now();
    let usual = over_seeds(Timing::default(), seeds);
    for (measure, value) in MEASURES.iter().zip(usual) {
        println!("| {measure} | {value:.2} |");
    }
    let next = Mutex::new(KNOBS.iter());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((name, multiply)) = next.lock().unwrap().next() else { return };
                    let told = [[1, 4], [4, 1]].map(|factor| {
                        let mut timing = Timing::default();
                        multiply(&mut timing, factor);
                        differences(&over_seeds(timing, seeds), &usual)
                    });
                    println!("| `{name}` | {} | {} |", told[0], told[1]);
                }
            });
        }
    });
    println!("{seeds} seeds, {:?}", began.elapsed());
}

#[test]
fn the_constants_hold_in_all_troubles_of_a_seed() {
    let figures = over_seeds(Timing::default(), 1);
    let bound = |n: usize, most: f64| {
        assert!(figures[n] <= most, "{}: {} of at most {most}", MEASURES[n], figures[n]);
    };
    for (n, most) in [(0, 250.0), (1, 450.0), (2, 400.0), (3, 1_500.0), (5, 5.0), (11, 0.0)] {
        bound(n, most);
    }
    bound(13, 60.0);
}
