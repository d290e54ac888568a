//! Transfers over a cable, and keys beside them.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::nodes::Server;

/// How often a key is typed, beside the time that it takes.
const KEY_EVERY: Duration = Duration::from_millis(100);

/// Bytes read or written at once.
const BLOCK: usize = 256 << 10;

/// A transfer without an end of its own.
pub(crate) struct Bulk {
    stream: TcpStream,
    /// The bytes that have arrived.
    arrived: Arc<AtomicU64>,
    /// Ends with the stream; gives the longest pause between two of its calls.
    thread: JoinHandle<Duration>,
}

impl Bulk {
    /// Reads all that comes.
    pub(crate) fn download(stream: TcpStream) -> Self {
        let arrived = Arc::<AtomicU64>::default();
        let count = arrived.clone();
        Self::start(stream, arrived, move |stream, block| match stream.read(block) {
            Ok(read @ 1..) => {
                count.fetch_add(read as u64, Ordering::Relaxed);
                true
            }
            _ => false,
        })
    }

    /// Writes as fast as it goes. Only what reaches the server counts.
    pub(crate) fn upload(stream: TcpStream, server: &Server) -> Self {
        Self::start(stream, server.taken.clone(), |stream, block| stream.write_all(block).is_ok())
    }

    fn start(
        stream: TcpStream,
        arrived: Arc<AtomicU64>,
        step: impl Fn(&mut TcpStream, &mut [u8]) -> bool + Send + 'static,
    ) -> Self {
        // So that closing it discards what waits to be sent.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        let mut other = stream.try_clone().unwrap();
        let thread = thread::spawn(move || {
            let (mut block, mut longest) = (vec![0; BLOCK], Duration::ZERO);
            loop {
                let began = Instant::now();
                let goes_on = step(&mut other, &mut block);
                longest = longest.max(began.elapsed());
                if !goes_on {
                    return longest;
                }
            }
        });
        Self { stream, arrived, thread }
    }

    /// The rate in Mbit/s from now on, for this long.
    pub(crate) fn rate(&self, time: Duration) -> f64 {
        rates([self], time)[0]
    }

    /// Ends it; the longest pause.
    pub(crate) fn end(self) -> Duration {
        assert!(!self.thread.is_finished(), "a transfer has ended");
        self.stream.shutdown(Shutdown::Both).unwrap();
        self.thread.join().unwrap()
    }
}

/// The rates of transfers in Mbit/s from now on, for this long.
pub(crate) fn rates<const N: usize>(bulks: [&Bulk; N], time: Duration) -> [f64; N] {
    let began = Instant::now();
    let before = bulks.map(|bulk| bulk.arrived.load(Ordering::Relaxed));
    thread::sleep(time);
    let after = bulks.map(|bulk| bulk.arrived.load(Ordering::Relaxed));
    let took = began.elapsed().as_secs_f64();
    std::array::from_fn(|at| (after[at] - before[at]) as f64 * 8e-6 / took)
}

/// Types a key; the time to its echo in ms.
pub(crate) fn type_key(stream: &mut TcpStream) -> f64 {
    let began = Instant::now();
    stream.write_all(b"k").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let took = began.elapsed();
    thread::sleep(KEY_EVERY);
    took.as_secs_f64() * 1e3
}

/// The value that this share of the values does not exceed.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank is small")]
    values[(rank as usize).clamp(1, values.len()) - 1]
}

/// The median, the least and the most. Of two, the larger is the median.
pub(crate) fn spread(values: &mut [f64], decimals: usize) -> String {
    values.sort_by(f64::total_cmp);
    let [median, least, most] = [values.len() / 2, 0, values.len() - 1].map(|at| values[at]);
    format!("{median:.decimals$} ({least:.decimals$} to {most:.decimals$})")
}
