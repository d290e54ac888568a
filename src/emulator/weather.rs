//! Hours of changing delay and loss, from a seed. PURE: the time is an argument.
//!
//! It has the features by which the figures of the RON papers differ from a constant: a daily
//! rhythm, noise, spikes, episodes that all paths of one site share, and long lossy episodes.

use std::{f64::consts::TAU, net::IpAddr, time::Duration};

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use super::{
    link::LinkModel,
    scenario::{Change, Event},
    seed,
    topology::{Path, Topology, paper_sites},
    units::LossRate,
};

/// Conditions are constant for this long: finer than the paper's figures show.
const STEP: Duration = Duration::from_secs(30);

/// The daily rhythm's period.
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// What the weather of one directed pair is made of; it adds to the pair's model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Climate {
    /// Extra delay at the busiest hour: a raised cosine over 24 h, nothing at the start, this
    /// much at 12 h.
    pub diurnal: Duration,
    /// Mean of the exponentially distributed extra delay that changes every 30 s.
    pub noise: Duration,
    /// Episodes of this pair alone.
    pub own: Vec<Spell>,
    /// Episodes of a site's access: all pairs from and to the site have them at the same time.
    /// A pair suffers those of both its ends.
    pub shared: Vec<Spell>,
}

/// A kind of episode.
///
/// Episodes begin as a Poisson process. Length and loss are uniformly distributed, extra delay
/// log-uniformly (most are small, a few big). Overlapping episodes add up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spell {
    /// Mean time between two beginnings.
    pub every: Duration,
    /// Shortest and longest.
    pub lasts: (Duration, Duration),
    /// Least and greatest extra delay; a greatest of zero means none.
    pub delay: (Duration, Duration),
    /// Least and greatest loss.
    pub loss: (LossRate, LossRate),
}

/// The weather of all paths of a topology over some hours.
#[derive(Debug, Clone, PartialEq)]
pub struct Weather {
    pairs: Vec<PairWeather>,
    length: Duration,
}

/// The weather of one directed pair.
#[derive(Debug, Clone, PartialEq)]
pub struct PairWeather {
    /// The sender.
    pub from: IpAddr,
    /// The receiver.
    pub to: IpAddr,
    base: LinkModel,
    diurnal: Duration,
    noise: Duration,
    noise_seed: u64,
    episodes: Vec<Episode>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Episode {
    begins: Duration,
    ends: Duration,
    delay: Duration,
    loss: LossRate,
}

impl Spell {
    /// A spike of delay: about every hour, half a minute to three, 20 to 400 ms, up to 1 % of loss.
    #[must_use]
    pub const fn spike() -> Self {
        Self {
            every: Duration::from_secs(3_600),
            lasts: (Duration::from_secs(30), Duration::from_secs(180)),
            delay: (Duration::from_millis(20), Duration::from_millis(400)),
            loss: (LossRate::ZERO, LossRate::from_percent(1.0)),
        }
    }

    /// A long lossy episode: about every 8 h, half an hour, 5 to 30 % (the paper's figure 4).
    #[must_use]
    pub const fn long_loss() -> Self {
        Self {
            every: Duration::from_secs(8 * 3_600),
            lasts: (Duration::from_secs(20 * 60), Duration::from_secs(40 * 60)),
            delay: (Duration::ZERO, Duration::ZERO),
            loss: (LossRate::from_percent(5.0), LossRate::from_percent(30.0)),
        }
    }

    /// A full access link: about every 12 h, 2 to 10 min, 10 to 60 ms, 1 to 10 %.
    #[must_use]
    pub const fn full_access() -> Self {
        Self {
            every: Duration::from_secs(12 * 3_600),
            lasts: (Duration::from_secs(120), Duration::from_secs(600)),
            delay: (Duration::from_millis(10), Duration::from_millis(60)),
            loss: (LossRate::from_percent(1.0), LossRate::from_percent(10.0)),
        }
    }
}

impl Weather {
    /// The weather of this many hours for each path of the topology, around its models.
    ///
    /// The same seed gives a pair the same weather, whatever other pairs there are.
    #[must_use]
    pub fn new(
        seed: u64,
        length: Duration,
        topology: &Topology,
        climate: impl Fn(&Path) -> Climate,
    ) -> Self {
        let forecast = |path: &Path| PairWeather::new(seed, length, path, &climate(path));
        Self { pairs: topology.paths().iter().map(forecast).collect(), length }
    }

    /// Weather in the spirit of the HotOS 2001 paper's figures 3 and 4, for [`paper_sites`]: over
    /// 62 h MIT–ArosNet has a mean round trip of about 97 ms, the way through Utah of about 68 ms
    /// and it is the faster one in about 92 % of samples; loss on the direct path reaches 30 %.
    /// The climates are tuned to these figures of the paper, so they cannot confirm them: what a
    /// replay shows is how well routing finds what is there to find.
    ///
    /// The direct path's model is that of [`paper_sites`] with its queueing taken out (a floor of
    /// 31 ms each way, no jitter) because the weather puts it back.
    #[must_use]
    pub fn paper(seed: u64, length: Duration) -> Self {
        let sites = paper_sites();
        let (mit, arosnet) = (sites.address("mit"), sites.address("arosnet"));
        let mediaone = sites.address("mediaone");
        let model = LinkModel {
            delay: Duration::from_millis(31),
            jitter: Duration::ZERO,
            ..sites.build(seed).model(mit, arosnet)
        };
        let sites = sites.both("mit", "arosnet", model);
        Self::new(seed, length, &sites, |path| {
            let ends = [path.from, path.to];
            if ends.contains(&mit) && ends.contains(&arosnet) {
                Climate::crowded_transit()
            } else if ends.contains(&mediaone) {
                Climate::cable_modem()
            } else {
                Climate::research_backbone()
            }
        })
    }

    /// How packets travel from one host to another at this time; `None` for an unknown pair.
    ///
    /// After the end of the forecast episodes cease; the rhythm and the noise go on.
    #[must_use]
    pub fn at(&self, from: IpAddr, to: IpAddr, t: Duration) -> Option<LinkModel> {
        self.pair(from, to).map(|pair| pair.at(t))
    }

    /// The weather of one directed pair; `None` if the topology has no such path.
    #[must_use]
    pub fn pair(&self, from: IpAddr, to: IpAddr) -> Option<&PairWeather> {
        self.pairs.iter().find(|pair| (pair.from, pair.to) == (from, to))
    }

    /// The whole weather as a scenario to [`play`](super::play): each pair's model at the
    /// beginning, then whenever it changes, in the order of time.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        let steps = self.length.as_secs() / STEP.as_secs();
        let times = (0..=steps).map(|step| Duration::from_secs(step * STEP.as_secs()));
        times.flat_map(|t| self.pairs.iter().filter_map(move |pair| pair.change_at(t))).collect()
    }
}

impl Climate {
    /// A research backbone: hardly any weather.
    #[must_use]
    pub fn research_backbone() -> Self {
        Self { noise: Duration::from_micros(200), ..Self::default() }
    }

    /// Commercial transit through full exchanges: every kind of weather.
    #[must_use]
    pub fn crowded_transit() -> Self {
        Self {
            diurnal: Duration::from_millis(20),
            noise: Duration::from_millis(4),
            own: vec![Spell::spike(), Spell::long_loss()],
            shared: Vec::new(),
        }
    }

    /// A cable modem: a daily rhythm and a shared access that is full at times.
    #[must_use]
    pub fn cable_modem() -> Self {
        Self {
            diurnal: Duration::from_millis(10),
            noise: Duration::from_millis(3),
            own: vec![Spell::spike()],
            shared: vec![Spell::full_access()],
        }
    }
}

impl PairWeather {
    fn new(seed: u64, length: Duration, path: &Path, climate: &Climate) -> Self {
        let pair = seed::derive_pair(seed, path.from, path.to);
        let mut episodes = episodes(seed::derive(pair, b"own"), length, &climate.own);
        for site in [path.from, path.to] {
            let site = seed::derive_host(seed::derive(seed, b"shared"), site);
            episodes.extend(self::episodes(site, length, &climate.shared));
        }
        Self {
            from: path.from,
            to: path.to,
            base: path.model,
            diurnal: climate.diurnal,
            noise: climate.noise,
            noise_seed: seed::derive(pair, b"noise"),
            episodes,
        }
    }

    /// How packets travel at this time: constant over each 30 s.
    #[must_use]
    pub fn at(&self, t: Duration) -> LinkModel {
        let step = t.as_secs() / STEP.as_secs();
        let t = Duration::from_secs(step * STEP.as_secs());
        let mut delay = self.base.delay + self.rhythm(t) + self.noise(step);
        let mut loss = LossRate::ZERO;
        for episode in self.episodes.iter().filter(|e| e.begins <= t && t < e.ends) {
            delay += episode.delay;
            loss = loss.then(episode.loss);
        }
        LinkModel { delay, loss: self.base.loss.then(loss), ..self.base }
    }

    fn rhythm(&self, t: Duration) -> Duration {
        let angle = TAU * t.as_secs_f64() / DAY.as_secs_f64();
        self.diurnal.mul_f64((1.0 - angle.cos()) / 2.0)
    }

    /// Drawn from the step's own seed, so that any time can be asked for in any order.
    fn noise(&self, step: u64) -> Duration {
        let mut rng = seed::rng(seed::derive(self.noise_seed, &step.to_le_bytes()));
        self.noise.mul_f64(exponential(&mut rng))
    }

    fn change_at(&self, t: Duration) -> Option<Event> {
        let model = self.at(t);
        let changed = t.checked_sub(STEP).is_none_or(|before| self.at(before) != model);
        changed.then(|| Change::Set { from: self.from, to: self.to, model }.at(t))
    }
}

fn episodes(seed: u64, length: Duration, spells: &[Spell]) -> Vec<Episode> {
    let mut found = Vec::new();
    for (kind, spell) in (0_u64..).zip(spells) {
        let mut rng = seed::rng(seed::derive(seed, &kind.to_le_bytes()));
        let mut begins = Duration::ZERO;
        loop {
            // A second at least, so that a mean of zero ends, too.
            let gap = spell.every.mul_f64(exponential(&mut rng));
            begins += gap.max(Duration::from_secs(1));
            if begins >= length {
                break;
            }
            found.push(spell.episode(begins, &mut rng));
        }
    }
    found
}

impl Spell {
    fn episode(&self, begins: Duration, rng: &mut Pcg64Mcg) -> Episode {
        let between = |least: f64, most: f64, rng: &mut Pcg64Mcg| {
            (most - least).max(0.0).mul_add(rng.random::<f64>(), least)
        };
        let (shortest, longest) = self.lasts;
        let lasts = between(shortest.as_secs_f64(), longest.as_secs_f64(), rng);
        let (least, most) = self.loss;
        let loss = LossRate::from_fraction(between(least.fraction(), most.fraction(), rng));
        let (least, most) = self.delay;
        let delay = if most.is_zero() {
            Duration::ZERO
        } else {
            // A logarithm needs a positive least: a microsecond stands for zero.
            let logarithm = |d: Duration| d.as_secs_f64().max(1e-6).ln();
            Duration::from_secs_f64(between(logarithm(least), logarithm(most), rng).exp())
        };
        Episode { begins, ends: begins + Duration::from_secs_f64(lasts), delay, loss }
    }
}

/// Exponentially distributed with mean 1.
fn exponential(rng: &mut Pcg64Mcg) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}
