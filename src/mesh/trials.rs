//! When a neighbour is measured by another carrier beside its link, and what was found. PURE: time is an argument.
//!
//! A link over UDP that loses much has a stream measured beside it, and a link over a stream UDP. The better one
//! becomes the link. While the link is over UDP and that is sound, nothing of this happens.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    overlay::{metrics::PathMetrics, select::is_lossy, trial::TRIAL},
    underlay::Carrier,
};

/// First and longest pause between two trials of a neighbour; it doubles. A trial costs some 30 kB, and may change
/// the carrier: so in the long run that is changed every ten minutes at most, whatever the figures are.
const PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// After UDP was in use for so long without a trial, the pause is the first one again. UDP that is bad whenever it
/// is used lasts for the longest pause and a trial, so it does not shorten the pauses.
const LASTED: Duration = Duration::from_secs(1200);

/// The end that accepted the stream, or of a lossy link over UDP the one with the larger name, waits so much longer
/// before each trial: then the other end's trial has begun, and it waits for the next one.
const POLITENESS: Duration = Duration::from_secs(5);

/// Addresses that one trial dials, one after the other: with more, two trials would take all places of addresses for
/// half a minute. The next trial goes on at once with those that follow.
const ADDRESSES: usize = 2;

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
    /// This end dialled the link.
    ours: bool,
    under_way: bool,
    /// The trial under way has its connection.
    connected: bool,
    /// How many addresses were tried in vain: the next trial begins with the one after them.
    tried: usize,
    /// How many addresses are left to try without a pause, until one is reached.
    left: usize,
    /// Since when the link is seen to lose much.
    lossy_since: Option<Instant>,
    next: Option<Instant>,
    pause: Option<Duration>,
    other: Option<Measured>,
}

impl Trials {
    /// The carrier to measure now, if any. `lossy`: the link loses much; `polite`: this end leaves the
    /// trials of a stream to the other one.
    pub(super) fn wants(&mut self, now: Instant, lossy: bool, polite: bool) -> Option<Carrier> {
        if !lossy {
            self.lossy_since = None;
        }
        let since = lossy.then(|| *self.lossy_since.get_or_insert(now));
        let (other, from, polite) = match self.link?.0 {
            Carrier::Udp => (Carrier::Tls, self.next.max(Some(since?)), polite),
            Carrier::Tls => (Carrier::Udp, self.next, !self.ours),
        };
        let wait = if polite { POLITENESS } else { Duration::ZERO };
        let is_due = self.left > 0 || from.is_none_or(|from| now >= from + wait);
        let is_due = is_due && !self.under_way;
        is_due.then_some(other)
    }

    /// A trial has begun; there are `of` addresses to choose from.
    pub(super) fn began(&mut self, now: Instant, of: usize) {
        self.under_way = true;
        if self.left == 0 {
            self.rest(now);
            self.left = of;
        }
    }

    /// It has a connection.
    pub(super) fn connected(&mut self) {
        self.connected = true;
    }

    /// The other end has begun one: this end waits for the next one. False if it is refused: one of this end has its
    /// connection, and goes `first`. One that is still dialled may fail, and stands in no other's way.
    pub(super) fn hosts(&mut self, now: Instant, first: bool) -> bool {
        if first && self.connected {
            return false;
        }
        self.rest(now);
        true
    }

    /// Those of the other's `addresses` that the next trial dials, one after the other.
    pub(super) fn choose(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let first = self.tried.checked_rem(addresses.len()).unwrap_or(0);
        addresses.rotate_left(first);
        addresses.truncate(ADDRESSES);
        addresses
    }

    fn rest(&mut self, now: Instant) {
        let is_udp = self.link.is_some_and(|(carrier, _)| carrier == Carrier::Udp);
        let calm = is_udp && self.next.is_none_or(|next| now >= next + LASTED);
        let pause = self.pause.filter(|_| !calm).unwrap_or(PAUSE.0);
        self.next = Some(now + TRIAL + pause);
        self.pause = Some((pause * 2).min(PAUSE.1));
    }

    /// It has ended. If it reached nobody, the next one follows without a pause, until all addresses were tried.
    pub(super) fn ended(&mut self) {
        self.left = match std::mem::take(&mut self.connected) {
            true => 0,
            false => {
                self.tried = self.tried.wrapping_add(ADDRESSES);
                self.left.saturating_sub(ADDRESSES)
            }
        };
        self.under_way = false;
    }

    /// Takes the figures of a carrier that the link does not go over.
    pub(super) fn found(&mut self, measured: Measured) {
        self.other = Some(measured);
    }

    /// A link stands; `ours`: this end dialled.
    pub(super) fn linked(&mut self, now: Instant, carrier: Carrier, ours: bool) {
        let before = self.link.replace((carrier, now));
        (self.ours, self.left) = (ours, 0);
        if carrier == Carrier::Udp {
            return;
        }
        let lasted = before.is_some_and(|(carrier, since)| {
            carrier == Carrier::Udp && now.saturating_duration_since(since) >= LASTED
        });
        if lasted {
            (self.next, self.pause) = (None, None);
        }
        self.next = self.next.max(Some(now + PAUSE.0));
    }

    /// The link is gone.
    pub(super) fn unlinked(&mut self) {
        self.link = None;
    }

    /// The network may be another one: UDP is tried at once.
    pub(super) fn network_changed(&mut self) {
        let Self { link, ours, under_way, connected, .. } = *self;
        *self = Self { link, ours, under_way, connected, ..Self::default() };
    }

    /// Whether UDP, which the link does not go over, lost more than a good route may when it was measured lately.
    pub(super) fn udp_is_lossy(&self, now: Instant) -> bool {
        let lossy = |other: Measured| other.carrier == Carrier::Udp && is_lossy(other.metrics);
        self.other(now).is_some_and(lossy)
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

    const RTT: Duration = Duration::from_millis(500);

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
                trials.began(now, 1);
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
            trials.began(now, 1);
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
            // Of every trial, not only of the first one. The second one hears of it a round trip later.
            let mut at = at;
            for pause in [30, 60, 120, 240, 480, 600, 600] {
                first.began(at, 1);
                assert!(second.hosts(at + RTT, false));
                first.ended();
                at += TRIAL + s(pause);
                assert_eq!(first.wants(at - s(1), true, false), None);
                assert_eq!(second.wants(at + RTT + s(4), true, true), None, "{carrier:?} {pause}");
                assert!(first.wants(at, true, false).is_some());
            }
            // It does not begin one: then the second one does.
            assert!(second.wants(at + RTT + POLITENESS, true, true).is_some());
        }
    }

    #[test]
    fn of_two_trials_that_began_at_once_one_is_refused() {
        let now = Instant::now();
        let mut trials = Trials::default();
        trials.linked(now, Carrier::Udp, true);
        trials.began(now, 1);
        assert!(trials.hosts(now, true), "it may reach nobody");
        trials.connected();
        assert!(!trials.hosts(now, true) && trials.hosts(now, false));
        trials.ended();
        assert!(trials.hosts(now, true));
    }

    #[test]
    fn a_trial_that_reached_nobody_leaves_its_addresses_to_the_last() {
        let (mut trials, now) = (Trials::default(), Instant::now());
        let all: Vec<SocketAddr> = (1..=5).map(|port| ([192, 0, 2, 1], port).into()).collect();
        let mut ports = |connects| {
            let chosen = trials.choose(all.clone());
            trials.began(now, all.len());
            if connects {
                trials.connected();
            }
            trials.ended();
            chosen.iter().map(SocketAddr::port).collect::<Vec<_>>()
        };
        assert_eq!([ports(false), ports(false), ports(false)], [[1, 2], [3, 4], [5, 1]]);
        assert_eq!([ports(true), ports(true)], [[2, 3], [2, 3]]);
        assert_eq!(trials.choose(Vec::new()), []);
    }

    #[test]
    fn a_trial_that_reached_nobody_is_followed_at_once_until_all_were_tried() {
        let (mut trials, now) = (Trials::default(), Instant::now());
        trials.linked(now, Carrier::Tls, true);
        let at = now + PAUSE.0;
        for _ in 0..3 {
            assert!(trials.wants(at, false, false).is_some());
            trials.began(at, 5);
            assert!(trials.wants(at, false, false).is_none(), "one is under way");
            trials.ended();
        }
        assert!(trials.wants(at + TRIAL + PAUSE.0 - s(1), false, false).is_none());
        assert!(trials.wants(at + TRIAL + PAUSE.0, false, false).is_some());
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
                trials.began(now, 1);
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
        assert!(!trials.udp_is_lossy(at));
        trials.linked(at, Carrier::Tls, true);
        assert!(trials.other(at).is_none(), "it is in use");
        let lossy = PathMetrics { loss_out: LossRate::from_percent(36), ..metrics };
        for (metrics, is_lossy) in [(metrics, false), (lossy, true)] {
            trials.found(Measured { carrier: Carrier::Udp, metrics, at });
            assert_eq!(trials.udp_is_lossy(at), is_lossy);
        }
        assert!(!trials.udp_is_lossy(at + SHOWN_FOR), "that was long ago");
    }
}
