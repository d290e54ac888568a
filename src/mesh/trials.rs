//! When a neighbour is measured by another carrier beside its link, and what was found. PURE: time is an argument.
//!
//! A link over UDP that loses much has a stream measured beside it, and a link over a stream UDP. The better one
//! becomes the link. While the link is over UDP and that is sound, nothing of this happens.

use std::time::{Duration, Instant};

use crate::{
    overlay::{metrics::PathMetrics, trial::TRIAL},
    underlay::Carrier,
};

/// First and longest pause between two trials of a neighbour; it doubles. A trial costs some 30 kB, and may change
/// the carrier: so in the long run that is changed every ten minutes at most, whatever the figures are.
const PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// After UDP was in use for so long without a trial, the pause is the first one again. UDP that is bad whenever it
/// is used lasts for the longest pause and a trial, so it does not shorten the pauses.
const LASTED: Duration = Duration::from_secs(1200);

/// The end that accepted the stream, or of a lossy link over UDP the one with the larger name, waits so much longer:
/// then the other end's trial has begun, and it waits for the next one.
const POLITENESS: Duration = Duration::from_secs(5);

/// How old figures may be that are shown: the longest pause, a trial, and a handshake.
const SHOWN_FOR: Duration = Duration::from_secs(660);

/// Figures of a carrier that the link does not go over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    pub(super) carrier: Carrier,
    pub(super) metrics: PathMetrics,
    pub(super) at: Instant,
}

/// The trials of one neighbour.
#[derive(Debug, Default)]
pub(super) struct Trials {
    /// What the link goes over, and since when.
    link: Option<(Carrier, Instant)>,
    under_way: bool,
    /// Since when the link is seen to lose much.
    lossy_since: Option<Instant>,
    next: Option<Instant>,
    pause: Option<Duration>,
    other: Option<Measured>,
}

impl Trials {
    /// The carrier to measure now, if any. `lossy`: the link loses much; `polite`: this end leaves the first
    /// trial of a stream to the other one.
    pub(super) fn wants(&mut self, now: Instant, lossy: bool, polite: bool) -> Option<Carrier> {
        if !lossy {
            self.lossy_since = None;
        }
        let since = lossy.then(|| *self.lossy_since.get_or_insert(now));
        let wait = if polite { POLITENESS } else { Duration::ZERO };
        if self.under_way || self.next.is_some_and(|next| now < next) {
            return None;
        }
        match self.link?.0 {
            Carrier::Udp => (now >= since? + wait).then_some(Carrier::Tls),
            Carrier::Tls => Some(Carrier::Udp),
        }
    }

    /// A trial has begun.
    pub(super) fn began(&mut self, now: Instant) {
        self.under_way = true;
        self.rest(now);
    }

    /// The other end has begun one: this end waits for the next one.
    pub(super) fn hosts(&mut self, now: Instant) {
        self.rest(now);
    }

    fn rest(&mut self, now: Instant) {
        let is_udp = self.link.is_some_and(|(carrier, _)| carrier == Carrier::Udp);
        let calm = is_udp && self.next.is_none_or(|next| now >= next + LASTED);
        let pause = self.pause.filter(|_| !calm).unwrap_or(PAUSE.0);
        self.next = Some(now + TRIAL + pause);
        self.pause = Some((pause * 2).min(PAUSE.1));
    }

    /// It has ended.
    pub(super) fn ended(&mut self) {
        self.under_way = false;
    }

    /// Takes the figures of a carrier that the link does not go over.
    pub(super) fn found(&mut self, measured: Measured) {
        self.other = Some(measured);
    }

    /// A link stands; `ours`: this end dialled.
    pub(super) fn linked(&mut self, now: Instant, carrier: Carrier, ours: bool) {
        let before = self.link.replace((carrier, now));
        if carrier == Carrier::Udp {
            return;
        }
        let lasted = before.is_some_and(|(carrier, since)| {
            carrier == Carrier::Udp && now.saturating_duration_since(since) >= LASTED
        });
        if lasted {
            (self.next, self.pause) = (None, None);
        }
        let first = PAUSE.0 + if ours { Duration::ZERO } else { POLITENESS };
        self.next = self.next.max(Some(now + first));
    }

    /// The link is gone.
    pub(super) fn unlinked(&mut self) {
        self.link = None;
    }

    /// The network may be another one: UDP is tried at once.
    pub(super) fn network_changed(&mut self) {
        *self = Self { link: self.link, under_way: self.under_way, ..Self::default() };
    }

    /// What is known of the carrier that the link does not go over.
    pub(super) fn other(&self, now: Instant) -> Option<Measured> {
        let (link, _) = self.link?;
        let other = self.other.filter(|other| other.carrier != link)?;
        (now.saturating_duration_since(other.at) < SHOWN_FOR).then_some(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::units::LossRate;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_sound_link_over_udp_has_no_trials() {
        let (mut trials, now) = (Trials::default(), Instant::now());
        assert_eq!(trials.wants(now, true, false), None, "there is no link");
        trials.linked(now, Carrier::Udp, true);
        assert_eq!(trials.wants(now + s(9000), false, false), None);
        assert_eq!(trials.wants(now + s(9000), true, false), Some(Carrier::Tls));
    }

    #[test]
    fn one_trial_is_under_way_and_pauses_double() {
        for carrier in [Carrier::Udp, Carrier::Tls] {
            let (mut trials, mut now) = (Trials::default(), Instant::now());
            trials.linked(now, carrier, true);
            now += PAUSE.0;
            for pause in [30, 60, 120, 240, 480, 600, 600] {
                assert!(trials.wants(now, true, false).is_some_and(|other| other != carrier));
                trials.began(now);
                assert_eq!(trials.wants(now + s(9000), true, false), None, "one is under way");
                trials.ended();
                now += TRIAL + s(pause);
                assert_eq!(trials.wants(now - s(1), true, false), None, "{pause}");
            }
            trials.network_changed();
            assert!(trials.wants(now, true, false).is_some());
        }
    }

    #[test]
    fn udp_that_was_sound_for_long_makes_the_pause_short_again() {
        let (mut trials, mut now) = (Trials::default(), Instant::now());
        trials.linked(now, Carrier::Tls, true);
        for _ in 0..7 {
            now += s(700);
            trials.began(now);
            trials.ended();
        }
        trials.linked(now, Carrier::Udp, true);
        now += LASTED;
        trials.linked(now, Carrier::Tls, true);
        assert_eq!(trials.wants(now + PAUSE.0, false, false), Some(Carrier::Udp));
    }

    #[test]
    fn one_end_leaves_the_trial_to_the_other_one() {
        let now = Instant::now();
        for carrier in [Carrier::Udp, Carrier::Tls] {
            let [mut first, mut second] = [true, false].map(|ours| {
                let mut trials = Trials::default();
                trials.linked(now, carrier, ours);
                trials
            });
            let begins = (0..100).map(s).find(|at| first.wants(now + *at, true, false).is_some());
            let at = now + begins.unwrap();
            assert!((0..5).all(|later| second.wants(at + s(later), true, true).is_none()));
            first.began(at);
            second.hosts(at);
            assert_eq!(second.wants(at + TRIAL + s(29), true, true), None);
        }
    }

    #[test]
    fn udp_that_is_bad_whenever_it_is_used_changes_carriers_rarely() {
        let (mut trials, start) = (Trials::default(), Instant::now());
        trials.linked(start, Carrier::Udp, true);
        let (mut carrier, mut changes) = (Carrier::Udp, Vec::new());
        for second in 0..6 * 3600 {
            let now = start + s(second);
            // It is policed: it loses much in use, and nothing while it is measured.
            if let Some(other) = trials.wants(now, carrier == Carrier::Udp, false) {
                trials.began(now);
                trials.ended();
                trials.linked(now, other, true);
                carrier = other;
                changes.push(second);
            }
        }
        assert!(changes.len() <= 6 * 6 + 5, "{changes:?}");
        assert!(changes[5..].windows(2).all(|pair| pair[1] - pair[0] >= 600), "{changes:?}");
    }

    #[test]
    fn figures_are_shown_of_the_other_carrier_while_they_are_fresh() {
        let (mut trials, at) = (Trials::default(), Instant::now());
        let loss = LossRate::default();
        let metrics = PathMetrics {
            rtt: s(1),
            loss_out: loss,
            loss_in: loss,
            exchanges: 66,
            delivered: None,
        };
        trials.linked(at, Carrier::Udp, true);
        trials.found(Measured { carrier: Carrier::Tls, metrics, at });
        assert!(trials.other(at + SHOWN_FOR - s(1)).is_some());
        assert!(trials.other(at + SHOWN_FOR).is_none());
        trials.linked(at, Carrier::Tls, true);
        assert!(trials.other(at).is_none(), "it is in use");
    }
}
