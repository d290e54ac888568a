//! The limits that end a flow that neither side ends.

use std::{
    fmt, io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::Activity;
use crate::live::Live;

/// How long a flow may rest, and how long a new one waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowTimes {
    /// How long a new flow waits while no route to its exit, or no exit, is up.
    pub route: Duration,
    /// After one side has ended and nothing moves any more.
    pub half_closed: Duration,
    /// While both sides are open.
    pub idle: Duration,
}

impl Default for FlowTimes {
    fn default() -> Self {
        Self {
            // Wi-Fi that joins a network, or a laptop that wakes up, takes some seconds. People wait
            // for a page that long, and programs give up later.
            route: Duration::from_secs(10),
            // Linux forgets a connection whose one side has closed after 60 s, too: as an orphan
            // (tcp_fin_timeout), and in its firewall (nf_conntrack_tcp_timeout_close_wait).
            half_closed: Duration::from_secs(60),
            // A terminal that is left open over night still works in the morning. TCP's own probes
            // find a dead peer long before, and a place that is needed is taken back.
            idle: Duration::from_secs(24 * 3600),
        }
    }
}

/// How long an association may rest at its exit. RFC 4787 (REQ-5) recommends five minutes for the
/// mappings of a NAT, and programs that keep one open send more often.
const ASSOCIATION_IDLE: Duration = Duration::from_secs(300);

/// Why a flow ended that neither of its sides ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEnd {
    /// One side had ended, and nothing moved for [`FlowTimes::half_closed`].
    HalfClosed,
    /// Nothing moved for [`FlowTimes::idle`].
    Idle,
    /// Its place was needed, and no other flow had been idle for longer.
    Evicted,
    /// The user closed it, by the dashboard or the API.
    Closed,
}

impl FlowEnd {
    const ALL: [Self; 4] = [Self::HalfClosed, Self::Idle, Self::Evicted, Self::Closed];

    /// The stable name, as in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HalfClosed => "half-closed",
            Self::Idle => "idle",
            Self::Evicted => "evicted",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for FlowEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HalfClosed => "half-closed for too long",
            Self::Idle => "idle for too long",
            Self::Evicted => "evicted as the longest idle flow: its place was needed",
            Self::Closed => "closed by the user",
        })
    }
}

impl From<FlowEnd> for io::Error {
    fn from(end: FlowEnd) -> Self {
        Self::new(io::ErrorKind::TimedOut, end.to_string())
    }
}

/// The limits of all flows of a node, and how many flows ended by them.
#[derive(Debug, Default)]
pub struct FlowLimits {
    times: Live<FlowTimes>,
    ended: [AtomicU64; FlowEnd::ALL.len()],
}

impl FlowLimits {
    /// Limits with these times, by which no flow has ended yet.
    #[must_use]
    pub fn new(times: FlowTimes) -> Self {
        Self { times: Live::new(times), ended: Default::default() }
    }

    /// How long flows may rest from now on; one that rests keeps its time until something moves.
    pub fn set_times(&self, times: FlowTimes) {
        self.times.set(times);
    }

    /// How long a new flow waits while no route to its exit, or no exit, is up.
    #[must_use]
    pub fn route_timeout(&self) -> Duration {
        self.times.get().route
    }

    /// Waits until a flow is to end, and counts that.
    pub async fn overdue(&self, activity: &Activity, half: &HalfClosed) -> FlowEnd {
        self.overdue_after(|times| times.idle, activity, half).await
    }

    /// The same of a flow that carries datagrams: it may rest for five minutes.
    pub async fn association_overdue(&self, activity: &Activity) -> FlowEnd {
        let idle = |times: &FlowTimes| times.idle.min(ASSOCIATION_IDLE);
        self.overdue_after(idle, activity, &HalfClosed::default()).await
    }

    async fn overdue_after(
        &self,
        idle: impl Fn(&FlowTimes) -> Duration,
        activity: &Activity,
        half: &HalfClosed,
    ) -> FlowEnd {
        let end = tokio::select! {
            biased;
            end = self.rests(idle, activity, half) => end,
            () = activity.evicted() => FlowEnd::Evicted,
            () = activity.closed() => FlowEnd::Closed,
        };
        self.ended[end as usize].fetch_add(1, Ordering::Relaxed);
        end
    }

    async fn rests(
        &self,
        idle: impl Fn(&FlowTimes) -> Duration,
        activity: &Activity,
        half: &HalfClosed,
    ) -> FlowEnd {
        loop {
            let is_half = half.is_set();
            let times = self.times.get();
            let (limit, end) = match is_half {
                true => (times.half_closed, FlowEnd::HalfClosed),
                false => (idle(&times), FlowEnd::Idle),
            };
            let due = activity.last() + limit;
            if due <= Instant::now() {
                return end;
            }
            tokio::select! {
                biased;
                () = sleep_until(due) => {}
                () = half.news.notified(), if !is_half => {}
            }
        }
    }

    /// The flows that ended by a limit so far, by [`FlowEnd::name`].
    #[must_use]
    pub fn ended(&self) -> Vec<(&'static str, u64)> {
        let counts = self.ended.iter().map(|count| count.load(Ordering::Relaxed));
        let named = FlowEnd::ALL.iter().map(|end| end.name());
        named.zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

/// Whether one side of a flow has ended.
#[derive(Debug, Default)]
pub struct HalfClosed {
    set: AtomicBool,
    news: Notify,
}

impl HalfClosed {
    /// One side ends now, which counts as a movement.
    pub fn set(&self, activity: &Activity) {
        activity.touch();
        self.set.store(true, Ordering::Release);
        self.news.notify_one();
    }

    fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Runs a flow whose bytes move at these seconds, and whose one side ends at `half`; returns
    /// how and when it is to end.
    async fn run(moves: &[u64], half: Option<u64>) -> (FlowEnd, u64) {
        let limits = FlowLimits::new(FlowTimes {
            half_closed: secs(60),
            idle: secs(3600),
            ..FlowTimes::default()
        });
        let (start, activity, closed) =
            (Instant::now(), Activity::default(), HalfClosed::default());
        let moving = async {
            let mut events: Vec<_> = moves.iter().map(|at| (*at, false)).collect();
            events.extend(half.map(|at| (at, true)));
            events.sort_unstable();
            for (at, closes) in events {
                sleep(secs(at).saturating_sub(start.elapsed())).await;
                if closes { closed.set(&activity) } else { activity.touch() }
            }
            std::future::pending::<()>().await;
        };
        let end = tokio::select! {
            biased;
            end = limits.overdue(&activity, &closed) => end,
            () = moving => unreachable!("it waits for ever"),
        };
        assert_eq!(limits.ended(), [(end.name(), 1)]);
        (end, start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_may_rest_for_an_hour_and_for_a_minute_when_one_side_has_ended() {
        assert_eq!(run(&[], None).await, (FlowEnd::Idle, 3600));
        assert_eq!(run(&[10, 3000], None).await, (FlowEnd::Idle, 6600));
        assert_eq!(run(&[10], Some(500)).await, (FlowEnd::HalfClosed, 560));
        assert_eq!(run(&[50, 100, 150], Some(5)).await, (FlowEnd::HalfClosed, 210));
    }

    #[tokio::test(start_paused = true)]
    async fn an_association_may_rest_for_five_minutes() {
        let (limits, activity, start) =
            (FlowLimits::default(), Activity::default(), Instant::now());
        assert_eq!(limits.association_overdue(&activity).await, FlowEnd::Idle);
        assert_eq!(start.elapsed(), ASSOCIATION_IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_evicted_or_closed_flow_ends_at_once() {
        for (ask, expected) in [
            (Activity::evict as fn(&Activity), FlowEnd::Evicted),
            (Activity::close, FlowEnd::Closed),
        ] {
            let (limits, activity) = (FlowLimits::default(), Activity::default());
            ask(&activity);
            assert_eq!(limits.overdue(&activity, &HalfClosed::default()).await, expected);
        }
    }
}
