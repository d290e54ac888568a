//! A member that works while another attacks: what it notices.

use std::{cell::Cell, fmt, future::Future, time::Duration};

use ronproxy::internals::{app::Node, flow::FlowIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::support;

/// What its flow sends each time: 40 kbit/s and back, so that the attack and not this costs CPU time.
const PIECE: usize = 500;
const EVERY: Duration = Duration::from_millis(100);

/// A new flow begins once in this time.
const NEW_FLOW_EVERY: Duration = Duration::from_secs(2);

/// Shorter attacks say nothing of goodput: a round trip is a part of them.
const LONG_ENOUGH: Duration = Duration::from_secs(5);

/// What a member noticed of an attack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    /// The part of its flow's bytes that came back in time; `None` for a short attack.
    pub(crate) share: Option<f64>,
    /// The longest that a new flow took to answer.
    pub(crate) slowest_flow: Duration,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(share) = self.share {
            write!(f, "goodput {:.0} %, ", 100.0 * share)?;
        }
        write!(f, "new flows within {:?}", self.slowest_flow)
    }
}

/// Runs an attack to its end while a member with the flow `io` works at `node`.
pub(crate) async fn beside<T>(
    node: &Node,
    io: &mut Box<dyn FlowIo>,
    attack: impl Future<Output = T>,
) -> (T, Served) {
    let start = Instant::now();
    let (back, slowest) = (Cell::new(0u32), Cell::new(Duration::ZERO));
    let (mut read, mut write) = tokio::io::split(io);
    let writing = async {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            ticks.tick().await;
            write.write_all(&[7; PIECE]).await.unwrap();
        }
    };
    let reading = async {
        let mut piece = [0; PIECE];
        loop {
            read.read_exact(&mut piece).await.unwrap();
            back.set(back.get() + 1);
        }
    };
    let opening = async {
        loop {
            let began = Instant::now();
            let mut io = support::open(node, "echo.test:7").await;
            io.write_all(b"x").await.unwrap();
            io.read_exact(&mut [0]).await.unwrap();
            slowest.set(slowest.get().max(began.elapsed()));
            sleep_until(began + NEW_FLOW_EVERY).await;
        }
    };
    let output = tokio::select! {
        output = attack => output,
        () = async { tokio::join!(writing, reading, opening); } => unreachable!("it works without end"),
    };
    let took = start.elapsed();
    let share = f64::from(back.get()) * EVERY.as_secs_f64() / took.as_secs_f64();
    let share = (took >= LONG_ENOUGH).then_some(share);
    (output, Served { share, slowest_flow: slowest.get() })
}
