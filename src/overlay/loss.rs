//! The loss estimators of one direction of one link: exact for probes, decaying for data.

use std::time::{Duration, Instant};

use super::units::LossRate;

/// How many probe messages the window remembers: the paper's 100 (SOSP 2001, §5.2), a resolution
/// of 1 %.
pub(super) const WINDOW: u32 = 100;

/// The exchanges of the windows of both directions, of three messages each.
pub(super) const EXCHANGES: u32 = 2 * WINDOW / 3;

/// Below this many messages, the missing ones count as received. Otherwise one lost packet of the
/// first two would be a loss rate of 50 %, and a lane would avoid a new link by chance.
pub(super) const MIN_WEIGHT: u32 = 10;

/// Which of the last 100 numbered messages arrived: one direction, exact.
///
/// A gap in the numbers is a loss until the missing message arrives late. Numbers compare by
/// RFC 1982 arithmetic, so their wrap is harmless.
#[derive(Debug, Clone, Copy, Default)]
pub struct LossWindow {
    /// Bit `i` is set when the message `highest - i` arrived.
    arrived: u128,
    /// How many of the bits are valid, at most [`WINDOW`].
    span: u32,
    highest: u32,
    started: bool,
    /// How many of the messages count that are missing before the next one; `None`: all.
    counted: Option<u32>,
}

impl LossWindow {
    /// Records that message `seq` arrived. Duplicates change nothing.
    ///
    /// A number more than 100 behind the highest is a sender that started again: the window does
    /// the same.
    pub fn record(&mut self, seq: u32) {
        if !self.started {
            *self = Self { arrived: 1, span: 1, highest: seq, started: true, counted: None };
            return;
        }
        let ahead = seq.wrapping_sub(self.highest);
        let behind = self.highest.wrapping_sub(seq);
        if behind == 0 {
            return;
        }
        if behind < self.span {
            self.arrived |= 1 << behind;
        } else if behind > WINDOW && behind <= u32::MAX / 2 {
            *self = Self { arrived: 1, span: 1, highest: seq, started: true, counted: None };
        } else if ahead <= u32::MAX / 2 {
            let mask = (1 << WINDOW) - 1;
            let sent = self.counted.take().map_or(ahead, |missing| ahead.min(missing + 1));
            self.arrived = (self.arrived.checked_shl(sent).unwrap_or(0) | 1) & mask;
            self.span = self.span.saturating_add(sent).min(WINDOW);
            self.highest = seq;
        }
    }

    /// Drops the losses, but keeps the numbering: missing messages from before now do not count as
    /// lost, nor those before the next message, as they may be from before now.
    pub fn forget(&mut self) {
        self.arrived = 0;
        self.span = 0;
        self.counted = Some(0);
    }

    /// An outage is over. Of the messages missing before the next one, one counts at most: a peer may have
    /// numbered those of the outage.
    pub fn resume(&mut self) {
        self.counted.get_or_insert(1);
    }

    /// Messages known to be lost, and messages known to be sent, among the last 100.
    #[must_use]
    pub fn counts(&self) -> LossCounts {
        LossCounts::new(self.span - self.arrived.count_ones(), self.span)
    }
}

/// Messages lost and messages sent, at most 100, as one end reports them to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LossCounts {
    lost: u32,
    of: u32,
}

impl LossCounts {
    /// `lost` of `of` messages; both are clamped to 0 ≤ lost ≤ of ≤ 100.
    #[must_use]
    pub fn new(lost: u32, of: u32) -> Self {
        let of = of.min(WINDOW);
        Self { lost: lost.min(of), of }
    }

    /// Messages lost.
    #[must_use]
    pub fn lost(self) -> u32 {
        self.lost
    }

    /// Messages sent.
    #[must_use]
    pub fn of(self) -> u32 {
        self.of
    }

    /// The loss rate; `None` when nothing was sent. With fewer than 10 messages the missing ones
    /// count as received.
    #[must_use]
    pub fn rate(self) -> Option<LossRate> {
        self.pooled(0, 0)
    }

    /// The rate over these messages and `lost` of `of` data packets together.
    pub(super) fn pooled(self, lost: u64, of: u64) -> Option<LossRate> {
        let sent = u64::from(self.of) + of;
        let weight = sent.max(u64::from(MIN_WEIGHT));
        (sent > 0).then(|| LossRate::from_counts(u64::from(self.lost) + lost, weight))?
    }
}

/// How many data packets count: ten times the probes. So a busy lane decides, and a change of its
/// loss shows after about a thousand packets (0.1 s at 100 Mbit/s).
const DATA_WEIGHT: u64 = 1000;

/// How long data counts after the last sample. Without a limit, a lane that left the link would
/// freeze its loss. 10 s is the slowest probe interval, so a probe has been sent since.
const DATA_FRESH: Duration = Duration::from_secs(10);

/// The loss that lanes see among their own packets, outbound, over about the last 1,000.
#[derive(Debug, Clone, Copy, Default)]
pub struct DataLoss {
    lost: u64,
    of: u64,
    last: Option<Instant>,
}

impl DataLoss {
    /// Takes `lost` and `delivered` packets.
    pub fn record(&mut self, now: Instant, lost: u32, delivered: u32) {
        if lost == 0 && delivered == 0 {
            return;
        }
        if !self.is_fresh(now) {
            *self = Self::default();
        }
        self.lost += u64::from(lost);
        self.of += u64::from(lost) + u64::from(delivered);
        if self.of > DATA_WEIGHT {
            self.lost = (self.lost * DATA_WEIGHT + self.of / 2) / self.of;
            self.of = DATA_WEIGHT;
        }
        self.last = Some(now);
    }

    /// The loss of `probes` and of recent data together: each packet weighs the same.
    #[must_use]
    pub fn pooled_with(&self, probes: LossCounts, now: Instant) -> Option<LossRate> {
        if self.is_fresh(now) { probes.pooled(self.lost, self.of) } else { probes.rate() }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < DATA_FRESH)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn after(seqs: impl IntoIterator<Item = u32>) -> (u32, u32) {
        let mut window = LossWindow::default();
        seqs.into_iter().for_each(|seq| window.record(seq));
        (window.counts().lost(), window.counts().of())
    }

    #[test]
    fn gaps_are_losses_until_the_missing_message_arrives() {
        assert_eq!(after([]), (0, 0));
        assert_eq!(after([7]), (0, 1));
        assert_eq!(after([0, 1, 4]), (2, 5));
        assert_eq!(after([0, 1, 4, 3]), (1, 5));
        assert_eq!(after([0, 1, 4, 3, 3, 4, 0]), (1, 5));
        assert_eq!(after([5, 3]), (0, 1), "what was sent before the window began is no loss");
    }

    #[test]
    fn the_window_holds_exactly_a_hundred_messages() {
        assert_eq!(after((0..1000).filter(|seq| seq % 4 != 0)), (25, 100));
        assert_eq!(after([0, 1_000_000]), (99, 100));
    }

    #[test]
    fn the_wrap_of_the_numbers_is_harmless() {
        assert_eq!(after([u32::MAX - 1, u32::MAX, 0, 2]), (1, 5));
    }

    #[test]
    fn a_sender_that_starts_again_starts_a_new_window() {
        assert_eq!(after((500..600).chain([3, 4, 6])), (1, 4));
    }

    #[test]
    fn losses_from_before_a_reset_are_not_counted_after_it() {
        let mut window = LossWindow::default();
        [0, 1, 50].into_iter().for_each(|seq| window.record(seq));
        window.forget();
        assert_eq!(window.counts().rate(), None);
        [51, 53].into_iter().for_each(|seq| window.record(seq));
        assert_eq!((window.counts().lost(), window.counts().of()), (1, 3));
    }

    #[test]
    fn an_outage_counts_as_one_lost_message() {
        let mut window = LossWindow::default();
        [0, 2].into_iter().for_each(|seq| window.record(seq));
        window.resume();
        [90, 92].into_iter().for_each(|seq| window.record(seq));
        assert_eq!((window.counts().lost(), window.counts().of()), (3, 7));
    }

    #[test]
    fn one_loss_among_the_first_two_messages_is_no_fifty_percent() {
        assert_eq!(LossCounts::new(1, 2).rate(), Some(LossRate::from_percent(10)));
        assert_eq!(LossCounts::new(200, 200).rate(), Some(LossRate::TOTAL));
    }

    #[test]
    fn data_outweighs_probes_while_it_is_fresh() {
        let now = Instant::now();
        let mut data = DataLoss::default();
        (0..100).for_each(|_| data.record(now, 30, 70));
        let probes = LossCounts::new(0, 100);
        let pooled = data.pooled_with(probes, now).unwrap().fraction();
        assert!((pooled - 300.0 / 1100.0).abs() < 1e-3, "{pooled}");
        assert_eq!(data.pooled_with(probes, now + DATA_FRESH), Some(LossRate::ZERO));
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_list_of_all_arrivals(
            gaps in prop::collection::vec(0u32..20, 1..300)
        ) {
            // Bounded reordering, as networks do it: rising numbers, neighbours exchanged.
            let mut seqs: Vec<u32> = gaps
                .iter()
                .scan(0, |seq, gap| { *seq += gap; Some(*seq) })
                .collect();
            for pair in seqs.chunks_mut(2) {
                pair.reverse();
            }
            let mut window = LossWindow::default();
            seqs.iter().for_each(|&seq| window.record(seq));
            let last = *seqs.iter().max().unwrap();
            let span = window.counts().of();
            let set: BTreeSet<u32> = seqs.into_iter().filter(|seq| last - seq < span).collect();
            prop_assert_eq!(window.counts().lost(), span - u32::try_from(set.len()).unwrap());
        }

        #[test]
        fn any_numbers_are_survived(seqs in prop::collection::vec(any::<u32>(), 0..300)) {
            let (lost, of) = after(seqs);
            prop_assert!(lost <= of && of <= WINDOW);
        }
    }
}
