//! How long a lane's packets wait for one that they overtook. PURE: time is an argument.
//!
//! The time adapts to the path, as RACK's reordering window does (RFC 8985, section 6.2). It is
//! zero on a path without late packets, so a lost packet delays no other packet there.

use std::time::{Duration, Instant};

/// The longest hold. On cellular links and across parallel paths packets come up to 80 ms late. A gap that
/// a forged number opened delays a lane by this much, which is less than the shortest verdict of silence.
pub(super) const LONGEST: Duration = Duration::from_millis(100);

/// A late packet raises the hold to at most twice its value plus this. So one outlier changes
/// little, and five late packets in a row raise it to 60 ms.
const STEP: Duration = Duration::from_millis(2);

/// A late packet counts in the window in which it comes and in the next one: for 5 to 10 s. A path
/// that reorders has many late packets in that time, under load and under keystrokes.
const WINDOW: Duration = Duration::from_secs(5);

/// The hold of one direction of one lane.
#[derive(Debug, Default)]
pub(super) struct Hold {
    now: Duration,
    /// The beginning of the present window, and the longest hold that its packets needed.
    window: Option<(Instant, Duration)>,
    /// The longest hold that packets of the previous window needed.
    before: Duration,
}

impl Hold {
    /// A hold of this length from now on.
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

    /// A packet came by this much after the first packet that overtook it. The others had not
    /// waited for so long.
    pub(super) fn came_late(&mut self, now: Instant, by: Duration) {
        self.ask(now, enough_for(by).min(2 * self.now + STEP), by);
    }

    /// A packet came by this much after the first packet that overtook it. The others had waited
    /// for it.
    pub(super) fn came_in_time(&mut self, now: Instant, after: Duration) {
        self.ask(now, enough_for(after), after);
    }

    fn ask(&mut self, now: Instant, hold: Duration, lateness: Duration) {
        // No hold is long enough for such a packet.
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
