//! Checked transfers of every kind, one after the other, and what became of them.

use std::{cell::RefCell, fmt, io, rc::Rc, time::Duration};

use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use ronproxy::internals::flow::FlowIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

use crate::support::pattern;

/// A flow without a single byte for so long is lost: longer than its patience.
const LOST_AFTER: Duration = Duration::from_secs(61);

/// A longer stall is noted in the log.
const NOTEWORTHY: Duration = Duration::from_secs(2);

/// What became of all flows.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) finished: usize,
    pub(crate) bytes: usize,
    pub(crate) worst: Duration,
    pub(crate) lost: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flows, mib, lost) = (self.finished, self.bytes >> 20, self.lost.len());
        write!(f, "{flows} flows, {mib} MiB, {lost} lost")
    }
}

/// The way from an application to the services.
pub(crate) trait Door {
    /// Opens a flow to `target`.
    async fn open(&self, target: &str) -> io::Result<Box<dyn FlowIo>>;
}

/// Makes one transfer after the other.
pub(crate) struct Session<D> {
    rng: Pcg64Mcg,
    entry: &'static str,
    door: D,
    tally: Rc<RefCell<Tally>>,
    until: Instant,
}

impl<D: Door> Session<D> {
    pub(crate) fn new(
        rng: Pcg64Mcg,
        entry: &'static str,
        door: D,
        tally: Rc<RefCell<Tally>>,
        until: Instant,
    ) -> Self {
        Self { rng, entry, door, tally, until }
    }

    /// Session 0 types; the others download and upload.
    pub(crate) async fn run(mut self, number: u64) {
        while Instant::now() < self.until {
            let size = match self.rng.random_range(0..4) {
                0 => self.rng.random_range(1 << 20..4 << 20),
                _ => self.rng.random_range(1..100_000),
            };
            let kind = if number == 0 { 2 } else { self.rng.random_range(0..2) };
            let began = Instant::now();
            let outcome = match kind {
                0 => self.download(size).await,
                1 if size < 1 << 20 => self.upload(size).await,
                1 => self.exchange(size).await,
                _ => self.type_for(Duration::from_secs(60)).await,
            };
            let kind = ["download", "upload", "typing"][kind];
            self.note(kind, size, began, outcome);
            sleep(Duration::from_millis(self.rng.random_range(200..3_000))).await;
        }
    }

    fn note(&self, kind: &str, size: usize, began: Instant, outcome: io::Result<usize>) {
        let mut tally = self.tally.borrow_mut();
        match outcome {
            Ok(bytes) => {
                tally.finished += 1;
                tally.bytes += bytes;
            }
            Err(error) => {
                tracing::info!(%error, entry = self.entry, "a flow is lost");
                let (before, took) = (self.until - began, began.elapsed());
                let when = format!("{before:?} before the end, after {took:?}");
                tally.lost.push(format!("{kind} of {size}, {when}: {error}"));
            }
        }
    }

    async fn download(&self, size: usize) -> io::Result<usize> {
        let mut io = self.door.open("source.test:80").await?;
        io.write_all(format!("GET {size}\n").as_bytes()).await?;
        let (mut at, mut buf) = (0, vec![0; 64 * 1024]);
        loop {
            match self.within(io.read(&mut buf)).await? {
                0 if at == size => return Ok(size),
                0 => return Err(io::Error::other(format!("ended after {at} of {size}"))),
                n if buf[..n] == *pattern(at, n) => at += n,
                _ => return Err(io::Error::other(format!("CORRUPT near {at}"))),
            }
        }
    }

    async fn upload(&self, size: usize) -> io::Result<usize> {
        let mut io = self.door.open("sink.test:80").await?;
        let mut at = 0;
        while at < size {
            let piece = pattern(at, (size - at).min(32 * 1024));
            self.within(io.write_all(piece)).await?;
            at += piece.len();
        }
        io.shutdown().await?;
        let mut answer = String::new();
        self.within(io.read_to_string(&mut answer)).await?;
        if answer.trim() == size.to_string() {
            Ok(size)
        } else {
            Err(io::Error::other(format!("CORRUPT or cut short: {answer:?} of {size}")))
        }
    }

    /// Sends and reads back at the same time: the waits show how both directions go on, which the
    /// wait for an answer to an upload, most of it buffered, would not.
    async fn exchange(&self, size: usize) -> io::Result<usize> {
        let (mut reader, mut writer) = tokio::io::split(self.door.open("echo.test:7").await?);
        let write = async {
            let mut at = 0;
            while at < size {
                let piece = pattern(at, (size - at).min(32 * 1024));
                writer.write_all(piece).await?;
                at += piece.len();
            }
            writer.shutdown().await
        };
        let read = async {
            let (mut at, mut buf) = (0, vec![0; 64 * 1024]);
            loop {
                match self.within(reader.read(&mut buf)).await? {
                    0 if at == size => return Ok(2 * size),
                    0 => return Err(io::Error::other(format!("ended after {at} of {size}"))),
                    n if buf[..n] == *pattern(at, n) => at += n,
                    _ => return Err(io::Error::other(format!("CORRUPT near {at}"))),
                }
            }
        };
        tokio::try_join!(write, read).map(|((), bytes)| bytes)
    }

    async fn type_for(&self, span: Duration) -> io::Result<usize> {
        let mut io = self.door.open("echo.test:7").await?;
        let (began, mut keys) = (Instant::now(), 0);
        while began.elapsed() < span {
            let mut echo = [0; 8];
            let key = u64::to_be_bytes(keys as u64);
            self.within(async {
                io.write_all(&key).await?;
                io.read_exact(&mut echo).await
            })
            .await?;
            if echo != key {
                return Err(io::Error::other("CORRUPT echo"));
            }
            keys += 1;
            sleep(Duration::from_millis(500)).await;
        }
        Ok(16 * keys)
    }

    /// Waits for a step of a flow, but not longer than its patience.
    async fn within<T>(&self, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let began = Instant::now();
        let done = timeout(LOST_AFTER, step).await;
        if began.elapsed() > NOTEWORTHY {
            tracing::info!(stall = ?began.elapsed(), entry = self.entry, "a flow stalled");
        }
        let mut tally = self.tally.borrow_mut();
        tally.worst = tally.worst.max(began.elapsed());
        done.unwrap_or_else(|_| Err(io::Error::other("STUCK")))
    }
}
