//! One neighbour, measured by another carrier than its link goes over: PURE.
//!
//! The probes are those of a link ([`Monitor`]), at their fastest regular pace. On a stream no packet is lost: TCP
//! repeats it after 0.2 s or more, and what came behind it waits. So there an exchange that is late
//! ([`Monitor::late`]) counts as lost. Otherwise a stream over a path with random loss would look clean, and be slow.

use std::time::{Duration, Instant};

use super::{
    metrics::PathMetrics,
    monitor::{LinkState, Monitor, Need, Probe},
    units::LossRate,
};

/// How long a trial takes. It has some 60 exchanges: of a path that loses a tenth of them, one or none is lost in one
/// trial of 70.
pub const TRIAL: Duration = Duration::from_secs(30);

/// Exchanges without which a trial says nothing.
const ENOUGH: usize = 20;

/// A carrier on which nothing was heard for longer works no more: some probes' pauses and round trips.
const STILL_HEARD: Duration = Duration::from_secs(5);

/// The trial of one carrier, at the end that dialled.
#[derive(Debug)]
pub struct CarrierTrial {
    monitor: Monitor,
    until: Instant,
    by_stream: bool,
}

impl CarrierTrial {
    /// A trial that begins at `now`. `epoch` is random; `by_stream`: the carrier delivers late rather than never.
    #[must_use]
    pub fn new(now: Instant, epoch: u16, by_stream: bool) -> Self {
        let mut monitor = Monitor::new(now, epoch);
        monitor.set_need(now, Need::Usual);
        Self { monitor, until: now + TRIAL, by_stream }
    }

    /// Takes a message of the peer; the answer, if any, is to be sent at once.
    pub fn handle_message(&mut self, now: Instant, message: &Probe) -> Option<Probe> {
        self.monitor.handle_message(now, message)
    }

    /// Counts what is lost by `now`, and returns the probe that is due. `draw` is random, uniform in 0..1.
    pub fn advance(&mut self, now: Instant, draw: f64) -> Option<Probe> {
        self.monitor.handle_timeout(now);
        self.monitor.hurry(now);
        self.monitor.poll_transmit(now, draw)
    }

    /// When [`Self::advance`] is to be called next; the trial may be over then.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.monitor.poll_timeout().map_or(self.until, |at| at.min(self.until))
    }

    /// Whether it has lasted long enough.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// What it found; `None` while that is too little, or the carrier never worked.
    #[must_use]
    pub fn metrics(&self, now: Instant) -> Option<PathMetrics> {
        let enough = self.monitor.outcomes() >= ENOUGH;
        measured(&self.monitor, now, self.by_stream).filter(|_| enough)
    }

    /// What goes on measuring the carrier when the link goes over it.
    #[must_use]
    pub fn into_monitor(self) -> Monitor {
        self.monitor
    }
}

/// What `monitor` measured of a carrier, once it was up. One that is silent, or a stream that is down, loses all: UDP
/// that loses much is found down every few seconds, and still carries. `by_stream`: exchanges that are late count as
/// lost.
#[must_use]
pub fn measured(monitor: &Monitor, now: Instant, by_stream: bool) -> Option<PathMetrics> {
    let summary = monitor.summary(now);
    let metrics = summary.metrics()?;
    let loss_out = match summary.state {
        LinkState::Up if !by_stream => return Some(metrics),
        LinkState::Unmeasured => LossRate::TOTAL,
        LinkState::Down if by_stream || !is_heard(monitor, now) => LossRate::TOTAL,
        LinkState::Up | LinkState::Recovering { .. } | LinkState::Down => {
            monitor.late().unwrap_or_default()
        }
    };
    Some(PathMetrics { loss_out, loss_in: LossRate::default(), ..metrics })
}

/// Whether the carrier that `monitor` measures works still.
#[must_use]
pub fn is_heard(monitor: &Monitor, now: Instant) -> bool {
    monitor.heard().is_some_and(|heard| now < heard + STILL_HEARD)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    const RTT: Duration = Duration::from_millis(60);

    /// A trial on a carrier that is tried by `fate`: of the n-th packet how long it takes, `None` if it is lost.
    fn run(by_stream: bool, mut fate: impl FnMut(usize) -> Option<Duration>) -> CarrierTrial {
        let start = Instant::now();
        let mut ends = (CarrierTrial::new(start, 1, by_stream), Monitor::new(start, 2));
        let mut wire: BTreeMap<(Instant, usize), (bool, Probe)> = BTreeMap::new();
        let (mut now, mut sent) = (start, 0);
        let mut send =
            |wire: &mut BTreeMap<_, _>, now: Instant, ours: bool, probe: Option<Probe>| {
                let Some(probe) = probe else { return };
                sent += 1;
                if let Some(takes) = fate(sent) {
                    wire.insert((now + takes, sent), (ours, probe));
                }
            };
        while !ends.0.is_over(now) {
            let probe = ends.0.advance(now, 0.5);
            send(&mut wire, now, true, probe);
            let next = wire.first_key_value().map(|((at, _), _)| *at);
            now = next.map_or(ends.0.next(), |at| at.min(ends.0.next()));
            while let Some(entry) = wire.first_entry().filter(|entry| entry.key().0 <= now) {
                let (ours, probe) = entry.remove();
                let answer = match ours {
                    true => ends.1.handle_message(now, &probe),
                    false => ends.0.handle_message(now, &probe),
                };
                send(&mut wire, now, !ours, answer);
            }
        }
        let took = now.saturating_duration_since(start);
        assert!(took >= TRIAL && took < TRIAL + RTT, "{took:?}");
        ends.0
    }

    fn loss(trial: &CarrierTrial) -> f64 {
        trial.metrics(trial.until).unwrap().round_trip_loss().fraction()
    }

    #[test]
    fn a_clean_carrier_is_measured_by_sixty_exchanges() {
        for by_stream in [true, false] {
            let trial = run(by_stream, |_| Some(RTT / 2));
            let found = trial.metrics(trial.until).unwrap();
            assert_eq!((found.round_trip_loss(), found.rtt), (LossRate::default(), RTT));
            assert!((50..=60).contains(&trial.monitor.outcomes()), "{trial:?}");
        }
    }

    #[test]
    fn what_tcp_repeats_counts_as_lost() {
        // A fifth of the packets is lost, and TCP repeats them after 0.2 s and a round trip.
        let mut chance = StdRng::seed_from_u64(7);
        let mut is_lost = || chance.random_bool(0.2);
        let (on_time, repeated) = (RTT / 2, RTT * 3 / 2 + Duration::from_millis(200));
        let stream = run(true, |_| Some(if is_lost() { repeated } else { on_time }));
        let udp = run(false, |_| Some(RTT / 2).filter(|_| !is_lost()));
        let (stream, udp) = (loss(&stream), loss(&udp));
        assert!((0.2..0.5).contains(&stream) && (0.2..0.5).contains(&udp), "{stream} {udp}");
    }

    #[test]
    fn a_carrier_that_fails_loses_all_and_one_that_is_dead_has_no_figures() {
        let of = |passes| {
            let trial = run(true, |n| Some(RTT / 2).filter(|_| n <= passes));
            trial.metrics(trial.until).map(PathMetrics::round_trip_loss)
        };
        assert_eq!((of(0), of(40)), (None, Some(LossRate::TOTAL)));
    }

    #[test]
    fn udp_that_loses_much_has_its_loss_also_while_it_is_down() {
        let mut down = 0;
        for seed in 0..200 {
            let mut chance = StdRng::seed_from_u64(seed);
            let trial = run(false, |_| Some(RTT / 2).filter(|_| chance.random_bool(0.7)));
            let Some(found) = trial.metrics(trial.until) else { continue };
            let found = found.round_trip_loss().fraction();
            assert!((0.1..0.95).contains(&found), "seed {seed}: {found}");
            down += usize::from(trial.monitor.summary(trial.until).state == LinkState::Down);
        }
        println!("{down} of 200 trials ended while it was down");
        assert!(down > 0);
    }
}
