//! The same download twice: through the overlay, and held to the direct path by a rule, as a connection
//! without an overlay is. What arrives is shown as two graphs.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{
    client::{Client, ClientError, Download},
    site::{HELD, HOSTS},
    text::mbits,
};

/// Rates are means over this time: a stall of 0.2 s is seen as a notch.
const SAMPLE: Duration = Duration::from_millis(200);

/// Samples kept: more than a half of any screen shows.
const SAMPLES: usize = 300;

/// Two graphs of rates in bits per second, oldest first, each with its title.
pub(super) type Graphs = [(String, Vec<u64>); 2];

/// Two downloads of one object. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Pair {
    overlay: Connection,
    held: Connection,
    traces: [Trace; 2],
}

impl Pair {
    /// Begins both; `done` gets the end of the one through the overlay.
    pub(super) fn start<F: Future<Output = ()> + Send>(
        client: Client,
        path: &str,
        now: Instant,
        done: impl FnOnce(Result<Download, ClientError>) -> F + Send + 'static,
    ) -> Self {
        Self {
            overlay: Connection::open(client, HOSTS[0], path, Duration::ZERO, done),
            held: Connection::open(client, HELD, path, Duration::ZERO, |_| std::future::ready(())),
            traces: [Trace::new(now), Trace::new(now)],
        }
    }

    /// The download through the overlay.
    pub(super) fn overlay(&self) -> &Connection {
        &self.overlay
    }

    /// Whether both have brought something.
    pub(super) fn flows(&self) -> bool {
        self.overlay.bytes() > 0 && self.held.bytes() > 0
    }

    /// Whether both have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.overlay.task.is_finished() && self.held.task.is_finished()
    }

    /// Takes in what has arrived by `now`.
    pub(super) fn look(&mut self, now: Instant) {
        let arrived = [self.overlay.bytes(), self.held.bytes()];
        for (trace, bytes) in self.traces.iter_mut().zip(arrived) {
            trace.take(now, bytes);
        }
    }

    /// Their rates.
    pub(super) fn graphs(&self) -> Graphs {
        let [overlay, held] = &self.traces;
        [("With the overlay", overlay), ("Without it", held)]
            .map(|(title, trace)| (format!("{title}: {}", mbits(trace.now())), trace.rates()))
    }

    /// The same in a line.
    pub(super) fn rates(&self) -> String {
        let [overlay, held] = &self.traces;
        let (overlay, held) = (mbits(overlay.now()), mbits(held.now()));
        format!("the download through the overlay: {overlay}; without it: {held}")
    }
}

/// A request. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Connection {
    meter: Arc<Mutex<Meter>>,
    task: JoinHandle<()>,
}

impl Connection {
    /// Asks for `path`; `usual` is the time between two pieces of the answer, and `done` gets its end.
    pub(super) fn open<F: Future<Output = ()> + Send>(
        client: Client,
        host: &'static str,
        path: &str,
        usual: Duration,
        done: impl FnOnce(Result<Download, ClientError>) -> F + Send + 'static,
    ) -> Self {
        let meter = Arc::new(Mutex::new(Meter { usual, ..Meter::default() }));
        let seen = meter.clone();
        let progress = move |bytes| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), bytes);
        };
        let path = path.to_owned();
        let task =
            tokio::spawn(async move { done(client.download(host, &path, progress).await).await });
        Self { meter, task }
    }

    /// Whether it has ended, or never began.
    pub(super) fn is_lost(&self) -> bool {
        self.task.is_finished() || self.bytes() == 0
    }

    /// What has arrived.
    pub(super) fn bytes(&self) -> u64 {
        self.meter().bytes
    }

    /// The longest pause so far, beyond the usual one, also one that lasts at `now`.
    pub(super) fn longest_pause(&self, now: Instant) -> Duration {
        self.meter().longest_by(now)
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What has arrived, and how long it paused.
#[derive(Debug, Default)]
struct Meter {
    usual: Duration,
    bytes: u64,
    last: Option<Instant>,
    /// The longest pause between two pieces, beyond the usual one.
    longest: Duration,
}

impl Meter {
    fn take(&mut self, now: Instant, bytes: u64) {
        self.longest = self.longest_by(now);
        self.last = Some(now);
        self.bytes = bytes;
    }

    /// The longest pause, also one that lasts at `now`.
    fn longest_by(&self, now: Instant) -> Duration {
        let pause = self.last.map(|last| now.saturating_duration_since(last));
        self.longest.max(pause.unwrap_or_default().saturating_sub(self.usual))
    }
}

/// The rate of a download over time.
#[derive(Debug)]
struct Trace {
    last: (Instant, u64),
    rates: VecDeque<u64>,
}

impl Trace {
    fn new(now: Instant) -> Self {
        Self { last: (now, 0), rates: VecDeque::new() }
    }

    fn take(&mut self, now: Instant, bytes: u64) {
        let (at, before) = self.last;
        let span = now.saturating_duration_since(at);
        if span < SAMPLE {
            return;
        }
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.last = (now, bytes);
        if self.rates.len() == SAMPLES {
            self.rates.pop_front();
        }
        self.rates.push_back(bytes.saturating_sub(before) * 8 * 1000 / millis);
    }

    /// The mean of the last second.
    fn now(&self) -> u64 {
        let last = self.rates.iter().rev().take(5);
        last.clone().sum::<u64>() / (last.count() as u64).max(1)
    }

    fn rates(&self) -> Vec<u64> {
        self.rates.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_a_notch_in_the_trace_and_a_pause_of_the_meter() {
        let start = Instant::now();
        let (mut trace, mut meter) = (Trace::new(start), Meter::default());
        for tick in 1..=SAMPLES as u64 + 10 {
            let now = start + SAMPLE * u32::try_from(tick).unwrap();
            let bytes = if tick == 200 { 199 * 250_000 } else { tick * 250_000 };
            trace.take(now, bytes);
            if tick != 200 {
                meter.take(now, bytes);
            }
        }
        let rates = trace.rates();
        assert_eq!(rates.len(), SAMPLES);
        assert_eq!((rates.iter().min(), rates.iter().max()), (Some(&0), Some(&20_000_000)));
        assert_eq!((trace.now(), meter.longest), (10_000_000, SAMPLE * 2));
        let end = meter.last.unwrap() + SAMPLE * 3;
        assert_eq!(meter.longest_by(end), SAMPLE * 3, "a pause that lasts counts");
    }
}
