//! What an attack costs: memory, CPU time, log lines, packets to third parties.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use ronproxy::internals::emulator::Internet;
use tokio::{runtime::Runtime, time::Instant};
use tracing::{
    Event, Id, Level, Subscriber,
    field::{Field, Visit},
    span::Attributes,
};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt as _},
    registry::LookupSpan,
};

use crate::member::Served;

/// Lines of the log that are kept to be shown when a test fails.
const SHOWN_LINES: usize = 12;

/// A runtime in virtual time, on this thread only: so the meters see all of it and nothing else.
pub(crate) fn virtual_time() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

/// What the nodes on this thread, and the attacker, used during an attack.
#[derive(Debug)]
pub(crate) struct Cost {
    /// Most bytes of heap held at once beyond those held before.
    pub(crate) peak: u64,
    /// Bytes of heap still held afterwards beyond those held before.
    pub(crate) kept: i64,
    /// CPU time of this thread.
    pub(crate) cpu: Duration,
    /// How long it took, in virtual time.
    pub(crate) took: Duration,
    /// Lines that an operator sees by default: `info` and above.
    pub(crate) log_lines: usize,
    /// The first different ones, and the spans they stand in.
    pub(crate) log: Vec<String>,
    /// Bytes that the overlay's nodes sent to addresses of no member.
    pub(crate) third_party_bytes: u64,
    /// What another member noticed; `None` where the test looks for itself.
    pub(crate) served: Option<Served>,
}

/// What an attack may cost at most. The default is what most attacks stay below.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of heap.
    pub(crate) peak: u64,
    /// CPU time of all nodes and of the attacker, in a build for tests, as a part of the attack's time;
    /// and a second beside it, for what happens once.
    pub(crate) cores: f64,
    /// Lines of the log.
    pub(crate) log_lines: usize,
    /// Bytes to third parties.
    pub(crate) third_party_bytes: u64,
    /// The longest that a new flow of another member may take.
    pub(crate) new_flow: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peak: 8 << 20,
            cores: 0.25,
            log_lines: 80,
            third_party_bytes: 0,
            new_flow: Duration::from_secs(1),
        }
    }
}

/// The part of their goodput that other members keep.
const KEPT_GOODPUT: f64 = 0.9;

impl Cost {
    /// Fails if the attack cost more than `limits` say.
    pub(crate) fn assert_within(&self, limits: Limits) {
        let within = self.peak <= limits.peak
            && self.cpu <= self.took.mul_f64(limits.cores) + Duration::from_secs(1)
            && self.log_lines <= limits.log_lines
            && self.third_party_bytes <= limits.third_party_bytes;
        assert!(within, "{self}, where {limits:?} are the most: {:#?}", self.log);
        let Some(served) = self.served else { return };
        let served_well = served.share.is_none_or(|share| share >= KEPT_GOODPUT)
            && served.slowest_flow <= limits.new_flow;
        assert!(served_well, "another member: {served}");
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        #[expect(clippy::cast_precision_loss, reason = "it is printed with one decimal")]
        let (peak, kept) = (mib(self.peak as f64), mib(self.kept as f64));
        let (cpu, took) = (self.cpu.as_secs_f64(), self.took.as_secs_f64());
        write!(
            f,
            "+{peak:.1} MiB at most, {kept:+.1} MiB kept, {cpu:.2} s of CPU in {took:.0} s, {} log lines, \
             {} bytes to third parties",
            self.log_lines, self.third_party_bytes
        )?;
        self.served.map_or(Ok(()), |served| write!(f, "; another member: {served}"))
    }
}

/// Runs an attack to its end and says what it cost.
pub(crate) fn cost<T>(runtime: &Runtime, attack: impl Future<Output = T>) -> (T, Cost) {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    let mut output = None;
    let mut took = Duration::ZERO;
    let timed = async {
        let start = Instant::now();
        let output = attack.await;
        took = start.elapsed();
        output
    };
    let cpu = cpu_time();
    let memory = tracing::subscriber::with_default(subscriber, || {
        allocation_counter::measure(|| output = Some(runtime.block_on(timed)))
    });
    let cpu = cpu_time() - cpu;
    let lines = lines.0.lock().unwrap();
    let cost = Cost {
        peak: memory.bytes_max,
        kept: memory.bytes_current,
        cpu,
        took,
        log_lines: lines.count,
        log: lines.first.clone(),
        third_party_bytes: 0,
        served: None,
    };
    (output.unwrap(), cost)
}

/// CPU time of this thread so far.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Counts the lines of a log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    count: usize,
    first: Vec<String>,
}

impl Counted {
    /// Keeps a line that is not kept yet. The counter itself is no cost of the attack.
    fn keep(&mut self, line: Line) {
        if self.first.len() < SHOWN_LINES && !self.first.contains(&line.0) {
            allocation_counter::opt_out(|| self.first.push(line.0.clone()));
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO {
            return;
        }
        let mut lines = self.0.lock().unwrap();
        lines.count += 1;
        let mut line = Line(format!("{} {}:", metadata.level(), metadata.target()));
        event.record(&mut line);
        lines.keep(line);
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut lines = self.0.lock().unwrap();
        if *attributes.metadata().level() <= Level::INFO {
            let mut line = Line(format!("span {}:", attributes.metadata().name()));
            attributes.record(&mut line);
            lines.keep(line);
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

/// Packets and bytes that hosts sent, by destination, since the last look.
pub(crate) struct Traffic {
    internet: Internet,
    hosts: Vec<IpAddr>,
    before: BTreeMap<(IpAddr, IpAddr), (u64, u64)>,
}

impl Traffic {
    /// Counts what these hosts send from now on.
    pub(crate) fn of(internet: &Internet, hosts: &[IpAddr]) -> Self {
        let mut traffic =
            Self { internet: internet.clone(), hosts: hosts.to_vec(), before: BTreeMap::new() };
        traffic.before = traffic.totals();
        traffic
    }

    fn totals(&self) -> BTreeMap<(IpAddr, IpAddr), (u64, u64)> {
        let sent = self.hosts.iter().flat_map(|host| {
            let sent = self.internet.sent_by(*host).into_iter();
            sent.map(|(to, counters)| ((*host, to), (counters.sent, counters.sent_bytes)))
        });
        sent.collect()
    }

    /// Packets and bytes to each address for which `matches` holds.
    pub(crate) fn to(&self, matches: impl Fn(IpAddr) -> bool) -> BTreeMap<IpAddr, (u64, u64)> {
        let mut sums: BTreeMap<IpAddr, (u64, u64)> = BTreeMap::new();
        for ((from, to), (packets, bytes)) in self.totals() {
            let before = self.before.get(&(from, to)).copied().unwrap_or_default();
            let (packets, bytes) = (packets - before.0, bytes - before.1);
            if matches(to) && packets > 0 {
                let sum = sums.entry(to).or_default();
                *sum = (sum.0 + packets, sum.1 + bytes);
            }
        }
        sums
    }

    /// Packets and bytes to one address.
    pub(crate) fn to_host(&self, host: IpAddr) -> (u64, u64) {
        self.to(|to| to == host).get(&host).copied().unwrap_or_default()
    }
}
