//! The lines.

use std::time::Duration;

use ronproxy::internals::emulator::{Bitrate, LinkModel, Loss, LossRate, Queue};

/// The usual line: a round trip of 40 ms, and 50 Mbit/s.
const ONE_WAY: Duration = Duration::from_millis(20);
const MBIT: u32 = 50;
const QUEUE: Duration = Duration::from_millis(100);

/// The least rate, of the better of TCP's: of lines that keep their packets, and of those that lose some.
const KEPT: f64 = 0.95;
const LOST: f64 = 0.9;

/// The mean length of a burst, and its loss in percent.
const BURST: Duration = Duration::from_millis(20);
const BURST_LOSS: f64 = 30.0;

/// Rates of a line that varies, in Mbit/s, and how long each lasts: as of a radio link.
const RATES: &[u32] = &[50, 15, 80, 30];
const EACH: Duration = Duration::from_secs(1);

/// A line that one transfer has alone.
pub(crate) struct Line {
    pub(crate) name: String,
    /// Of each direction.
    pub(crate) model: LinkModel,
    /// The least rate, of the better of TCP's.
    pub(crate) aim: f64,
    /// By what the time of a measurement is multiplied.
    pub(crate) times: u32,
    /// Its rates, and how long each lasts, if it has more than one.
    pub(crate) varies: Option<(&'static [u32], Duration)>,
}

/// A line that two transfers share.
pub(crate) struct Shared {
    pub(crate) name: &'static str,
    pub(crate) model: LinkModel,
    pub(crate) upload: bool,
}

/// The lines for one transfer.
pub(crate) fn lines() -> Vec<Line> {
    let usual = line(ONE_WAY, Bitrate::mbit(MBIT), QUEUE);
    let row = |name: String, model, aim| Line { name, model, aim, times: 1, varies: None };
    let mut rows = vec![row("clean".to_owned(), usual, KEPT)];
    rows.extend([1, 3, 10, 20].map(|ms| {
        let name = format!("jitter ±{ms} ms, packets overtake");
        row(name, usual.with_overtaking(Duration::from_millis(ms)), KEPT)
    }));
    rows.extend([1.0, 2.0, 3.0].map(|percent| {
        let name = format!("loss {percent} % each way");
        row(name, usual.with_loss(LossRate::from_percent(percent)), LOST)
    }));
    rows.extend([1.0, 2.0, 3.0].map(|percent| {
        let name = format!("bursts, {percent} % each way");
        row(name, LinkModel { loss: bursts(percent), ..usual }, LOST)
    }));
    let long = Duration::from_millis(500);
    rows.push(row(
        "deep queue, 500 ms".to_owned(),
        LinkModel { queue: Queue::Time(long), ..usual },
        KEPT,
    ));
    let far = Duration::from_millis(100);
    rows.push(Line {
        name: "long: 200 Mbit/s, round trip and queue 200 ms".to_owned(),
        model: line(far, Bitrate::mbit(200), far * 2),
        aim: KEPT,
        times: 2,
        varies: None,
    });
    rows.push(Line {
        varies: Some((RATES, EACH)),
        ..row("varying: 50, 15, 80, 30 Mbit/s, a second each".to_owned(), usual, KEPT)
    });
    rows
}

/// The lines for two transfers.
pub(crate) fn shared() -> [Shared; 2] {
    [
        Shared {
            name: "shared: 50 Mbit/s, queue of 100 ms, downloads",
            model: line(ONE_WAY, Bitrate::mbit(MBIT), QUEUE),
            upload: false,
        },
        Shared {
            name: "shared: 1 Mbit/s, queue of 1 s, uploads",
            model: line(ONE_WAY, Bitrate::mbit(1), Duration::from_secs(1)),
            upload: true,
        },
    ]
}

fn line(one_way: Duration, rate: Bitrate, queue: Duration) -> LinkModel {
    LinkModel::new(one_way).with_rate(rate, Queue::Time(queue))
}

/// Bursts with this mean loss.
fn bursts(percent: f64) -> Loss {
    Loss::GilbertElliott {
        good: LossRate::ZERO,
        bad: LossRate::from_percent(BURST_LOSS),
        good_for: BURST.mul_f64(BURST_LOSS / percent - 1.0),
        bad_for: BURST,
    }
}
