//! The state beside others, who fill the queue: CUBIC's window, and trials whether they are gone.

use std::time::{Duration, Instant};

use noq::congestion::Controller as _;

use super::{Adaptive, CRUISE_ROUNDS, Phase, as_f64, cubic::Cubic, round::Round};

/// A sender that fills a queue has a window larger by this factor than one that keeps it empty.
const OTHERS_WINDOW: f64 = 2.0;

/// How long the lane assumes other senders until it tests whether they are gone: 2 s and 12 rounds. The time doubles,
/// up to 40 s, each time they are still there, or back within 10 s.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MOST_PAUSE: Duration = Duration::from_secs(40);
const RETURN: Duration = Duration::from_secs(10);
const PAUSE_ROUNDS: u32 = 12;

/// How many rounds such a trial lasts: one until we hold back, one until the queue shows it, one more.
const TRIAL_ROUNDS: u32 = 3;

/// Others fill the queue.
#[derive(Debug, Clone)]
pub(super) struct Sharing {
    pub(super) cubic: Cubic,
    next_trial: Instant,
    /// In the round after the window shrank, losses are still those of the packets before.
    recovers: bool,
    /// Rounds since the last trial.
    rounds: u32,
    /// Rounds of the trial under way.
    pub(super) trial: Option<u32>,
}

impl Adaptive {
    /// Others fill the queue, or overflowed it.
    pub(super) fn share(&mut self, now: Instant, lost: bool) {
        let back = now < self.alone_since + RETURN;
        self.pause = if back { longer(self.pause) } else { FIRST_PAUSE };
        let in_use = as_f64(self.in_flight).max(self.path.bdp().unwrap_or_default());
        let window = in_use.min(as_f64(self.window())) / f64::from(self.path.mtu());
        let cubic = if lost {
            Cubic::after_congestion_at(now, window)
        } else {
            Cubic::growing_to(now, window, OTHERS_WINDOW * window)
        };
        self.sharing = Some(Sharing {
            cubic,
            next_trial: now + self.pause,
            recovers: true,
            rounds: 0,
            trial: None,
        });
        self.path.set_beside_others(true);
        self.path.loss.hold_back(false);
        self.stood = 0;
    }

    /// A round beside others has ended.
    pub(super) fn share_on(&mut self, now: Instant, round: Round) {
        let Some(sharing) = &mut self.sharing else { return };
        let alone = !round.others && !round.app_limited;
        match sharing.trial {
            Some(_) if alone => {
                self.sharing = None;
                (self.alone_since, self.queue_since) = (now, now);
                self.path.set_beside_others(false);
                self.enter(now, Phase::Cruise { left: CRUISE_ROUNDS });
            }
            Some(rounds) if rounds + 1 < TRIAL_ROUNDS => sharing.trial = Some(rounds + 1),
            Some(_) => {
                self.pause = longer(self.pause);
                (sharing.trial, sharing.rounds) = (None, 0);
                sharing.cubic.go_on(now);
                sharing.next_trial = now + self.pause;
                self.path.loss.hold_back(false);
            }
            None => {
                let shrinks = round.congested && round.queued && !sharing.recovers;
                if shrinks {
                    sharing.cubic.on_congestion(now);
                }
                sharing.recovers = shrinks;
                sharing.rounds += 1;
                let due = now >= sharing.next_trial && sharing.rounds >= PAUSE_ROUNDS;
                // Loss without a queue is not that of others.
                let unexplained = round.congested && !round.queued && !sharing.recovers;
                let tries = (due || unexplained) && !round.app_limited;
                sharing.trial = tries.then_some(0);
                // Loss in the round after the window shrank is the path's own loss, too.
                self.path.loss.hold_back(round.congested || sharing.trial.is_some());
            }
        }
    }
}

/// The pause after one that was too short.
fn longer(pause: Duration) -> Duration {
    (2 * pause).min(MOST_PAUSE)
}
