//! The moves of one lane end, with the reason and the stall of each.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Traffic;
use crate::{flow::Route, wire::lane::RerouteReason};

/// Moves that a lane's end remembers for listings.
const KEPT: usize = 32;

/// If nothing came in for this long before a move to a better route, the lane was idle and not
/// stalled.
const IDLE: Duration = Duration::from_secs(1);

/// The far end's notice of a move comes within this time after the first packet on the new route.
const NEWS: Duration = Duration::from_millis(500);

/// One change of a lane's route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reroute {
    /// When.
    pub at: Instant,
    /// The route that was left.
    pub from: Route,
    /// The route that was taken.
    pub to: Route,
    /// Why.
    pub reason: RerouteReason,
    /// The far end's reason, if the far end asked for the move.
    pub far_reason: Option<RerouteReason>,
    /// How long no packet came in: from the last packet before the move to the first one after it,
    /// and at least the silence that was the reason. `None` until that packet came.
    pub stall: Option<Duration>,
}

/// An estimate of the packets that were lost on a silent route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    /// All packets sent after this time were probably lost.
    pub since: Instant,
    /// About when the first lost packet was sent. It is later, because packets in between may have
    /// arrived without an acknowledgement. There are two times, in order, because either link of a
    /// relayed route may have failed.
    pub from: [Instant; 2],
}

/// Why a route is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) reason: RerouteReason,
    /// The far end's reason, if the far end asked for the move.
    pub(super) far_reason: Option<RerouteReason>,
    /// The packets lost on a silent route.
    pub(super) lost: Option<Lost>,
}

impl Cause {
    /// A reason other than silence.
    pub(super) fn other(reason: RerouteReason) -> Self {
        Self { reason, far_reason: None, lost: None }
    }

    /// The silence that was detected, here or at the far end.
    fn silence(&self) -> Option<Duration> {
        match self.far_reason.unwrap_or(self.reason) {
            RerouteReason::Silent { ms } => Some(Duration::from_millis(ms.into())),
            _ => None,
        }
    }
}

/// The moves of one lane's end.
#[derive(Debug, Default)]
pub(super) struct RouteLog {
    count: u64,
    kept: VecDeque<Reroute>,
    /// The open stall of the last move: its beginning, and its least length.
    open: Option<(Instant, Duration)>,
}

impl RouteLog {
    /// Adds a change of the route at `at`.
    pub(super) fn add(
        &mut self,
        at: Instant,
        traffic: &Traffic,
        (from, to): (Route, Route),
        cause: &Cause,
    ) {
        self.settle(traffic);
        let least = cause.silence().unwrap_or_default();
        let followed_silence = cause.far_reason.is_some() && cause.silence().is_some();
        // The far end has already moved. The packet that ended our silence came before its notice.
        let stall = followed_silence
            .then(|| recent(traffic.pause, at, cause).unwrap_or_default().max(least));
        self.open = stall.is_none().then(|| (since(traffic, at, cause), least));
        self.count += 1;
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        let Cause { reason, far_reason, .. } = *cause;
        self.kept.push_back(Reroute { at, from, to, reason, far_reason, stall });
    }

    /// Ends the open stall if a packet has come in since the move.
    pub(super) fn settle(&mut self, traffic: &Traffic) {
        let (Some((since, least)), Some(last)) = (self.open, self.kept.back_mut()) else { return };
        let Some(arrived) = traffic.arrived.filter(|arrived| *arrived > last.at) else { return };
        let first = traffic.pause.map(|(_, ended)| ended).filter(|ended| *ended > last.at);
        let heard = first.unwrap_or(arrived);
        last.stall = Some(heard.saturating_duration_since(since).max(least));
        self.open = None;
    }

    /// How many moves there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// When the last one was.
    pub(super) fn moved_at(&self) -> Option<Instant> {
        self.kept.back().map(|reroute| reroute.at)
    }

    /// The last ones, oldest first.
    pub(super) fn last(&self) -> Vec<Reroute> {
        self.kept.iter().cloned().collect()
    }
}

/// The beginning of the stall of a lane that moves at `at`.
fn since(traffic: &Traffic, at: Instant, cause: &Cause) -> Instant {
    let last = traffic.arrived.unwrap_or(at).min(at);
    match cause.lost {
        // Before that no packet was outstanding.
        Some(lost) => last.max(lost.since),
        None if at.saturating_duration_since(last) < IDLE => last,
        None => at,
    }
}

/// The length of the pause that ended just before `at`, without the part before the loss.
fn recent(pause: Option<(Instant, Instant)>, at: Instant, cause: &Cause) -> Option<Duration> {
    let (began, ended) = pause?;
    let began = cause.lost.map_or(began, |lost| began.max(lost.since));
    (ended + NEWS >= at).then(|| ended.saturating_duration_since(began))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: RerouteReason = RerouteReason::Silent { ms: 100 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn moved() -> (Route, Route) {
        (Route::Direct, Route::Via("relay".parse().unwrap()))
    }

    fn silent(since: Instant) -> Cause {
        let lost = Some(Lost { since, from: [since; 2] });
        Cause { reason: SILENT, far_reason: None, lost }
    }

    fn heard(arrived: Instant, pause: Option<(Instant, Instant)>) -> Traffic {
        Traffic { arrived: Some(arrived), pause, ..Traffic::NONE }
    }

    fn stall(log: &RouteLog) -> Option<u128> {
        log.last().last().unwrap().stall.map(|stall| stall.as_millis())
    }

    #[test]
    fn a_stall_lasts_from_the_last_packet_to_the_first_one_after() {
        let (mut log, t0) = (RouteLog::default(), Instant::now());
        log.add(t0 + ms(100), &heard(t0, None), moved(), &silent(t0 - ms(50)));
        log.settle(&heard(t0, None));
        assert_eq!(stall(&log), None);
        let pause = Some((t0, t0 + ms(160)));
        log.settle(&heard(t0 + ms(165), pause));
        assert_eq!(stall(&log), Some(160));
    }

    #[test]
    fn time_in_which_nothing_was_outstanding_is_no_stall() {
        let (mut log, t0) = (RouteLog::default(), Instant::now());
        let at = t0 + ms(60_000);
        log.add(at, &heard(t0, None), moved(), &silent(at - ms(150)));
        log.settle(&heard(at + ms(60), None));
        assert_eq!(stall(&log), Some(210));
        let later = at + ms(60_000);
        log.add(later, &heard(at, None), moved(), &Cause::other(RerouteReason::Better));
        log.settle(&heard(later + ms(60), None));
        assert_eq!(stall(&log), Some(60));
    }

    #[test]
    fn a_stall_that_the_far_end_ended_is_the_pause_before_its_news() {
        let (mut log, t0) = (RouteLog::default(), Instant::now());
        let far = Cause { reason: RerouteReason::FarEnd, far_reason: Some(SILENT), ..silent(t0) };
        let (began, ended) = (t0 + ms(10), t0 + ms(190));
        log.add(ended, &heard(ended, Some((began, ended))), moved(), &far);
        assert_eq!(stall(&log), Some(180));
        // If one direction alone is dead, only the far end finds silence.
        log.add(ended + ms(5_000), &heard(ended, Some((began, ended))), moved(), &far);
        assert_eq!(stall(&log), Some(100));
    }

    #[test]
    fn old_moves_make_room_and_are_still_counted() {
        let (mut log, t0) = (RouteLog::default(), Instant::now());
        let better = Cause::other(RerouteReason::Better);
        (0..KEPT + 3).for_each(|_| log.add(t0, &Traffic::NONE, moved(), &better));
        assert_eq!(log.count(), KEPT as u64 + 3);
        assert_eq!(log.last().len(), KEPT);
    }
}
