//! What a lane's end remembers of its reroutes, and what each of them cost.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use crate::{flow::Route, identity::NodeName, underlay::Arrivals, wire::lane::RerouteReason};

/// Reroutes that a lane's end remembers for listings.
const KEPT: usize = 32;

/// A lane that heard nothing for this long before a reroute for the better was idle, not stalled.
const IDLE: Duration = Duration::from_secs(1);

/// The far end's news of a reroute comes within this time of the first packet on the new route.
const NEWS: Duration = Duration::from_millis(500);

/// One change of a lane's route.
#[derive(Debug, Clone)]
pub struct Reroute {
    /// When.
    pub at: Instant,
    /// The route that was left.
    pub from: Route,
    /// The route that was taken.
    pub to: Route,
    /// Why.
    pub reason: RerouteReason,
    /// Where the far end asked for it: why it did.
    pub far_reason: Option<RerouteReason>,
    /// How long the lane stood still: from the last packet before to the first one after, and no
    /// less than the silence that was the reason. `None` until that packet is there.
    pub stall: Option<Duration>,
}

/// Why a route is left.
#[derive(Debug, Clone, Copy)]
pub struct Cause {
    /// Why.
    pub reason: RerouteReason,
    /// Where the far end asked for it: why it did.
    pub far_reason: Option<RerouteReason>,
    /// Since when what was sent has probably been lost, all of it.
    pub dead_since: Option<Instant>,
    /// About when the first packet was sent that was lost: later, for what was sent in between may
    /// have arrived without our having heard of it. Twice, in order: nobody knows which of the two
    /// links of a relayed route broke.
    pub lost_from: Option<[Instant; 2]>,
}

impl Cause {
    /// A reason of a route that is not dead.
    pub(super) fn other(reason: RerouteReason) -> Self {
        Self { reason, far_reason: None, dead_since: None, lost_from: None }
    }

    /// The silence that was noticed, here or at the far end.
    fn silence(&self) -> Option<Duration> {
        match self.far_reason.unwrap_or(self.reason) {
            RerouteReason::Silent { ms } => Some(Duration::from_millis(ms.into())),
            _ => None,
        }
    }
}

/// The reroutes of one lane's end.
#[derive(Debug, Default)]
pub(super) struct History {
    count: u64,
    kept: VecDeque<Reroute>,
    open: Option<Stall>,
}

/// A stall that is not over: since when, and how long it has been at least.
#[derive(Debug, Clone, Copy)]
struct Stall {
    since: Instant,
    least: Duration,
}

impl History {
    /// Adds a change of the route at `now`.
    pub(super) fn add(&mut self, arrivals: &Arrivals, (from, to): (Route, Route), cause: &Cause) {
        self.settle(arrivals);
        let (at, least) = (Instant::now(), cause.silence().unwrap_or_default());
        let ended = if cause.far_reason.is_some() && cause.silence().is_some() {
            // The far end has moved already: what ended our silence came before its news.
            Some(recent_pause(arrivals, at, cause.dead_since).unwrap_or_default().max(least))
        } else {
            None
        };
        self.open = ended.is_none().then(|| Stall { since: since(arrivals, at, cause), least });
        if self.open.is_some() {
            arrivals.await_next();
        }
        self.count += 1;
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        let Cause { reason, far_reason, .. } = *cause;
        self.kept.push_back(Reroute { at, from, to, reason, far_reason, stall: ended });
    }

    /// Ends the stall that is open if a packet has come in.
    fn settle(&mut self, arrivals: &Arrivals) {
        let Some((open, heard)) = self.open.zip(arrivals.awaited()) else { return };
        self.open = None;
        if let Some(last) = self.kept.back_mut() {
            last.stall = Some(heard.saturating_duration_since(open.since).max(open.least));
        }
    }

    /// How many reroutes there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// When the last one was.
    pub(super) fn moved_at(&self) -> Option<Instant> {
        self.kept.back().map(|reroute| reroute.at)
    }

    /// The last ones, oldest first.
    pub(super) fn last(&mut self, arrivals: &Arrivals) -> Vec<Reroute> {
        self.settle(arrivals);
        self.kept.iter().cloned().collect()
    }
}

/// Since when a lane that is rerouted at `at` stands still.
fn since(arrivals: &Arrivals, at: Instant, cause: &Cause) -> Instant {
    let last = arrivals.last().unwrap_or(at).min(at);
    match cause.dead_since {
        // Before that nothing was outstanding, so nobody waited.
        Some(dead) => last.max(dead),
        None if at.duration_since(last) < IDLE => last,
        None => at,
    }
}

/// How long the pause was that ended just before `at`; what lies before `from` does not count.
fn recent_pause(arrivals: &Arrivals, at: Instant, from: Option<Instant>) -> Option<Duration> {
    let (began, ended) = arrivals.last_pause()?;
    let began = from.map_or(began, |from| began.max(from));
    (ended + NEWS >= at).then(|| ended.saturating_duration_since(began))
}

/// What listings show of a lane's end.
#[derive(Debug, Clone, Serialize)]
pub struct LaneFacts {
    /// The lane's number at this node.
    pub lane: u32,
    /// The node at the far end.
    pub peer: NodeName,
    /// The route its packets take from here.
    #[serde(serialize_with = "as_text")]
    pub route: Route,
    /// How often the route changed.
    pub reroutes: u64,
    /// Why it changed last.
    pub last_reroute: Option<String>,
    /// The last changes, oldest first.
    pub history: Vec<RerouteFacts>,
    /// Packets sent and received.
    pub packets: (u64, u64),
}

/// What listings show of one reroute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RerouteFacts {
    /// How long ago, in seconds.
    pub seconds_ago: f64,
    /// The route that was left.
    pub from: String,
    /// The route that was taken.
    pub to: String,
    /// Why, in few words.
    pub reason: String,
    /// How long the lane stood still, in milliseconds; `None` while it does.
    pub stall_ms: Option<f64>,
}

impl From<&Reroute> for RerouteFacts {
    fn from(reroute: &Reroute) -> Self {
        let reason = match reroute.far_reason {
            Some(far) => format!("far end: {}", brief(far)),
            None => brief(reroute.reason),
        };
        Self {
            seconds_ago: reroute.at.elapsed().as_secs_f64(),
            from: reroute.from.to_string(),
            to: reroute.to.to_string(),
            reason,
            stall_ms: reroute.stall.map(|stall| stall.as_secs_f64() * 1e3),
        }
    }
}

/// A reason in few words, for a listing that names both routes.
fn brief(reason: RerouteReason) -> String {
    match reason {
        RerouteReason::Silent { ms } => format!("silent for {ms} ms"),
        RerouteReason::Lossy { percent } => format!("lost {percent} % of the packets"),
        RerouteReason::Better => "a better route".to_owned(),
        RerouteReason::FarEnd => "asked to".to_owned(),
    }
}

fn as_text<S: serde::Serializer>(route: &Route, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(route)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SILENT: RerouteReason = RerouteReason::Silent { ms: 100 };

    async fn pass(ms: u64) {
        advance(Duration::from_millis(ms)).await;
    }

    fn ago(ms: u64) -> Option<Instant> {
        Instant::now().checked_sub(Duration::from_millis(ms))
    }

    fn moved() -> (Route, Route) {
        (Route::Direct, Route::Via("relay".parse().unwrap()))
    }

    fn stall(history: &mut History, arrivals: &Arrivals) -> Option<u128> {
        history.last(arrivals).last().unwrap().stall.map(|stall| stall.as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_lasts_from_the_last_packet_before_to_the_first_one_after() {
        let (mut history, arrivals) = (History::default(), Arrivals::default());
        pass(10).await;
        arrivals.note();
        pass(100).await;
        let cause =
            Cause { reason: SILENT, far_reason: None, dead_since: ago(150), lost_from: None };
        history.add(&arrivals, moved(), &cause);
        assert_eq!(stall(&mut history, &arrivals), None);
        pass(60).await;
        arrivals.note();
        pass(5).await;
        arrivals.note();
        assert_eq!(stall(&mut history, &arrivals), Some(160));
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_was_outstanding_is_no_stall() {
        let (mut history, arrivals) = (History::default(), Arrivals::default());
        pass(10).await;
        arrivals.note();
        pass(60_000).await;
        let cause =
            Cause { reason: SILENT, far_reason: None, dead_since: ago(150), lost_from: None };
        history.add(&arrivals, moved(), &cause);
        pass(60).await;
        arrivals.note();
        assert_eq!(stall(&mut history, &arrivals), Some(210));
        pass(60_000).await;
        let better = Cause {
            reason: RerouteReason::Better,
            far_reason: None,
            dead_since: None,
            lost_from: None,
        };
        history.add(&arrivals, moved(), &better);
        pass(60).await;
        arrivals.note();
        assert_eq!(stall(&mut history, &arrivals), Some(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_that_the_far_end_ended_is_the_pause_before_its_news() {
        let (mut history, arrivals) = (History::default(), Arrivals::default());
        pass(10).await;
        arrivals.note();
        pass(180).await;
        arrivals.note();
        let far = Cause {
            reason: RerouteReason::FarEnd,
            far_reason: Some(SILENT),
            dead_since: ago(500),
            lost_from: None,
        };
        history.add(&arrivals, moved(), &far);
        assert_eq!(stall(&mut history, &arrivals), Some(180));
        let facts = RerouteFacts::from(&history.last(&arrivals)[0]);
        assert_eq!(facts.reason, "far end: silent for 100 ms");
        // A direction that is dead alone shows in the far end's silence only.
        pass(5_000).await;
        history.add(&arrivals, moved(), &Cause { dead_since: ago(200), ..far });
        assert_eq!(stall(&mut history, &arrivals), Some(100));
    }

    #[tokio::test(start_paused = true)]
    async fn old_reroutes_make_room_and_are_still_counted() {
        let (mut history, arrivals) = (History::default(), Arrivals::default());
        let better = Cause {
            reason: RerouteReason::Better,
            far_reason: None,
            dead_since: None,
            lost_from: None,
        };
        (0..KEPT + 3).for_each(|_| history.add(&arrivals, moved(), &better));
        assert_eq!(history.count(), KEPT as u64 + 3);
        assert_eq!(history.last(&arrivals).len(), KEPT);
    }
}
