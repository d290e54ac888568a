//! How long a lane's packets wait for one that they overtook. PURE: time is an argument.
//!
//! As RACK's reordering window (RFC 8985, section 6.2) it grows with what the path shows. A path on which
//! nothing comes late has no hold, so a lost packet delays nobody there.

use std::time::{Duration, Instant};

/// The longest hold. On cellular links and across parallel paths packets come up to 80 ms late. A gap that
/// a forged number opened delays a lane by this much, which is less than the shortest verdict of silence.
pub(super) const LONGEST: Duration = Duration::from_millis(100);

/// A late packet raises the hold to at most twice what it is and this: one outlier teaches little, five
/// late packets in a row teach 60 ms.
const STEP: Duration = Duration::from_millis(2);

/// Evidence counts in the window in which it comes and in the next one: 5 to 10 s. A path that reorders
/// shows it many times in that time, under load or under keystrokes.
const WINDOW: Duration = Duration::from_secs(5);

/// The hold of one direction of one lane.
#[derive(Debug, Default)]
pub(super) struct Hold {
    now: Duration,
    /// What the window at hand asks for, and when it began.
    window: Option<(Instant, Duration)>,
    /// What the window before asked for.
    before: Duration,
}

impl Hold {
    /// One that holds packets for this long from now on.
    #[cfg(test)]
    pub(super) fn of(now: Instant, time: Duration) -> Self {
        Self { now: time, window: Some((now, time)), before: Duration::ZERO }
    }

    /// How long packets wait at present.
    pub(super) fn time(&self) -> Duration {
        self.now
    }

    /// Closes the window if it is over.
    pub(super) fn roll(&mut self, now: Instant) {
        let Some((began, asked)) = self.window else { return };
        let over = now.saturating_duration_since(began);
        if over < WINDOW {
            return;
        }
        self.before = if over < 2 * WINDOW { asked } else { Duration::ZERO };
        self.window = (!self.before.is_zero()).then_some((now, Duration::ZERO));
        self.now = self.before;
    }

    /// A packet came so long after the first one that overtook it, and the others had not waited so long.
    pub(super) fn came_late(&mut self, now: Instant, by: Duration) {
        self.ask(now, enough_for(by).min(2 * self.now + STEP), by);
    }

    /// A packet came so long after the first one that overtook it, and the others had waited.
    pub(super) fn came_in_time(&mut self, now: Instant, after: Duration) {
        self.ask(now, enough_for(after), after);
    }

    fn ask(&mut self, now: Instant, hold: Duration, lateness: Duration) {
        // For what comes later than that no hold is long enough.
        if lateness > LONGEST {
            return;
        }
        let (_, asked) = self.window.get_or_insert((now, Duration::ZERO));
        *asked = hold.max(*asked);
        self.now = self.now.max(hold);
    }
}

/// An eighth more than this packet needed: the next one may be a little later.
fn enough_for(lateness: Duration) -> Duration {
    (lateness * 9 / 8).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_outlier_teaches_little_and_a_few_late_packets_teach_enough() {
        let (mut hold, t0) = (Hold::default(), Instant::now());
        let mut holds = Vec::new();
        for _ in 0..6 {
            hold.came_late(t0, ms(40));
            holds.push(hold.time());
        }
        assert_eq!(holds, [2, 6, 14, 30, 45, 45].map(ms));
    }

    #[test]
    fn a_packet_that_no_hold_would_have_caught_teaches_nothing() {
        let (mut hold, t0) = (Hold::default(), Instant::now());
        hold.came_late(t0, LONGEST + ms(1));
        assert_eq!(hold.time(), Duration::ZERO);
        (0..20).for_each(|_| hold.came_late(t0, ms(99)));
        assert_eq!(hold.time(), LONGEST);
    }

    #[test]
    fn the_hold_ends_when_nothing_comes_late_for_seconds() {
        let (mut hold, t0) = (Hold::default(), Instant::now());
        let mut at = |s, act: fn(&mut Hold, Instant)| {
            let now = t0 + Duration::from_secs(s);
            hold.roll(now);
            act(&mut hold, now);
            hold.time()
        };
        let late: fn(&mut Hold, Instant) = |hold, now| hold.came_late(now, ms(8));
        let in_time: fn(&mut Hold, Instant) = |hold, now| hold.came_in_time(now, ms(4));
        let nothing: fn(&mut Hold, Instant) = |_, _| {};
        assert_eq!([at(0, late), at(0, late), at(0, late)], [2, 6, 9].map(ms));
        assert_eq!(at(4, in_time), ms(9));
        assert_eq!(at(6, in_time), ms(9), "the window before asked for it");
        assert_eq!(at(11, nothing), ms(9) / 2, "packets that came in time keep up what they need");
        assert_eq!(at(17, nothing), Duration::ZERO);
        assert_eq!(at(18, late), ms(2));
        assert_eq!(at(40, nothing), Duration::ZERO);
    }
}
