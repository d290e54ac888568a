//! What a flow carries while something happens to it, and how its stalls are measured.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ronproxy::internals::{
    app::Node,
    flow::FlowIo,
    lab::{Service, Services},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::Instant,
};

use crate::support::{self, pattern};

/// What a flow carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// As much as the path takes, towards the entry.
    Download,
    /// As much as the path takes, towards the exit.
    Upload,
    /// 10 Mbit/s towards the entry.
    Stream,
    /// A keystroke every 200 ms; each must be echoed before the next.
    Keystrokes,
}

/// Between two pieces of a stream.
const PIECE_EVERY: Duration = Duration::from_millis(10);
/// 10 Mbit/s.
const PIECE: usize = 12_500;
const KEYSTROKE_EVERY: Duration = Duration::from_millis(200);

/// Counts what arrives and remembers the longest wait. Clones share the count.
#[derive(Clone)]
pub(crate) struct Arrivals(Arc<Mutex<Counted>>);

struct Counted {
    bytes: usize,
    /// Since when something has been waited for; `None` while nothing is due.
    waiting: Option<Instant>,
    longest: Duration,
    wrong: Option<String>,
}

impl Arrivals {
    pub(crate) fn new() -> Self {
        let counted = Counted {
            bytes: 0,
            waiting: Some(Instant::now()),
            longest: Duration::ZERO,
            wrong: None,
        };
        Self(Arc::new(Mutex::new(counted)))
    }

    /// Takes `bytes`, which came at `at` of the flow; more are due at once.
    fn arrived(&self, at: usize, bytes: &[u8]) {
        let mut counted = self.0.lock().unwrap();
        if *bytes != *pattern(at, bytes.len()) {
            counted.wrong = Some(format!("corrupted near byte {at}"));
        }
        counted.bytes += bytes.len();
        counted.end_wait();
        counted.waiting = Some(Instant::now());
    }

    fn echoed(&self) {
        let mut counted = self.0.lock().unwrap();
        counted.bytes += 1;
        counted.end_wait();
    }

    fn typed(&self) {
        self.0.lock().unwrap().waiting = Some(Instant::now());
    }

    fn failed(&self, error: &dyn std::fmt::Display) {
        self.0.lock().unwrap().wrong = Some(error.to_string());
    }

    /// Forgets the waits so far, and the part of the present one that has passed.
    pub(crate) fn restart(&self) {
        let mut counted = self.0.lock().unwrap();
        counted.longest = Duration::ZERO;
        counted.waiting = counted.waiting.map(|_| Instant::now());
    }

    /// The longest wait since the restart, the present one included.
    pub(crate) fn longest(&self) -> Duration {
        let counted = self.0.lock().unwrap();
        let present = counted.waiting.map_or(Duration::ZERO, |since| since.elapsed());
        counted.longest.max(present)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.lock().unwrap().bytes
    }

    /// Why the flow ended or what was corrupted, if so.
    pub(crate) fn wrong(&self) -> Option<String> {
        self.0.lock().unwrap().wrong.clone()
    }
}

impl Counted {
    fn end_wait(&mut self) {
        if let Some(since) = self.waiting.take() {
            self.longest = self.longest.max(since.elapsed());
        }
    }
}

/// The usual services, and those of [`start`], which count at `arrivals`.
pub(crate) fn services(arrivals: &Arrivals) -> Services {
    support::services()
        .with("counter.test", counter(arrivals.clone()))
        .with("stream.test", stream())
}

/// Takes an upload and counts it.
pub(crate) fn counter(arrivals: Arrivals) -> Service {
    Arc::new(move |mut io| {
        let arrivals = arrivals.clone();
        tokio::spawn(async move { count(&mut *io, &arrivals).await });
    })
}

/// Sends pieces at a steady pace, whatever happens: what could not leave is sent late.
pub(crate) fn stream() -> Service {
    Arc::new(|mut io| {
        tokio::spawn(async move {
            let (mut at, mut tick) = (0, tokio::time::interval(PIECE_EVERY));
            loop {
                tick.tick().await;
                if io.write_all(pattern(at, PIECE)).await.is_err() {
                    return;
                }
                at += PIECE;
            }
        });
    })
}

/// Opens a flow and begins the work on it.
pub(crate) async fn start(node: &Node, work: Work, arrivals: &Arrivals) -> JoinHandle<()> {
    let host = match work {
        Work::Download => "source.test:80",
        Work::Upload => "counter.test:80",
        Work::Stream => "stream.test:80",
        Work::Keystrokes => "echo.test:80",
    };
    begin(support::open(node, host).await, work, arrivals)
}

/// Begins the work on a flow to the service that suits it.
pub(crate) fn begin(mut io: Box<dyn FlowIo>, work: Work, arrivals: &Arrivals) -> JoinHandle<()> {
    let arrivals = arrivals.clone();
    arrivals.restart();
    tokio::spawn(async move {
        match work {
            Work::Download => {
                support::request(&mut *io, usize::MAX >> 1).await;
                count(&mut *io, &arrivals).await;
            }
            Work::Stream => count(&mut *io, &arrivals).await,
            Work::Upload => feed(&mut *io, &arrivals).await,
            Work::Keystrokes => type_keys(&mut *io, &arrivals).await,
        }
    })
}

async fn count(io: &mut dyn FlowIo, arrivals: &Arrivals) {
    let (mut at, mut buf) = (0, vec![0; 64 * 1024]);
    loop {
        match io.read(&mut buf).await {
            Ok(0) => return arrivals.failed(&"the flow ended"),
            Ok(n) => {
                arrivals.arrived(at, &buf[..n]);
                at += n;
            }
            Err(error) => return arrivals.failed(&error),
        }
    }
}

async fn feed(io: &mut dyn FlowIo, arrivals: &Arrivals) {
    let mut at = 0;
    loop {
        if let Err(error) = io.write_all(pattern(at, 32 * 1024)).await {
            return arrivals.failed(&error);
        }
        at += 32 * 1024;
    }
}

async fn type_keys(io: &mut dyn FlowIo, arrivals: &Arrivals) {
    let mut tick = tokio::time::interval(KEYSTROKE_EVERY);
    let mut key = [0];
    loop {
        tick.tick().await;
        arrivals.typed();
        let echo = async {
            io.write_all(b"x").await?;
            io.read_exact(&mut key).await
        };
        if let Err(error) = echo.await {
            return arrivals.failed(&error);
        }
        arrivals.echoed();
    }
}
