//! Puts the bytes of a stream back in order. Pure.
//!
//! QUIC keeps received packets in blocks, and hands on pieces of these. A piece keeps its whole block in memory,
//! with packets of other flows in it. So this module copies pieces that arrive before their turn. Each run of
//! them has a fixed cost beside its bytes, so the number of short runs that may wait is small.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Runs that may wait, beside those of the other two limits: only few are of a keystroke.
const RUNS: usize = 64;

/// One more may wait for so many bytes that wait: losses leave runs of whole packets.
const BYTES_PER_RUN: usize = 256;

/// And one for so many bytes from the first gap to the last run. A sender repeats a lost packet with less room, beside an
/// acknowledgement, and its last byte in another packet: such runs are short, and two of a packet at most.
const SPAN_PER_RUN: u64 = 512;

/// The longest run: it grows by a quarter of its length, so at most so much of it is unused.
const LONGEST: usize = 64 << 10;

/// The far end sends its bytes in such an order that too many short runs of them wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the far end leaves too many gaps in its bytes")]
pub(super) struct TooManyGaps;

/// The bytes of one direction of a stream.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    /// The offset of the next byte in order.
    next: u64,
    /// Runs of bytes after a gap, by offset.
    runs: BTreeMap<u64, Vec<u8>>,
    /// Bytes in runs.
    waiting: usize,
}

impl Reassembly {
    /// How many bytes came in order.
    pub(super) fn in_order(&self) -> u64 {
        self.next
    }

    /// How many bytes wait for one before them.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes a piece that has not come before; adds the bytes that are in order now to `ready`.
    ///
    /// # Errors
    /// When too many runs wait.
    pub(super) fn take(
        &mut self,
        offset: u64,
        bytes: Bytes,
        ready: &mut Vec<Bytes>,
    ) -> Result<(), TooManyGaps> {
        if offset > self.next {
            return self.keep(offset, &bytes);
        }
        self.next += bytes.len() as u64;
        ready.push(bytes);
        while let Some(run) = self.runs.remove(&self.next) {
            self.next += run.len() as u64;
            self.waiting -= run.len();
            ready.push(run.into());
        }
        Ok(())
    }

    fn keep(&mut self, offset: u64, bytes: &[u8]) -> Result<(), TooManyGaps> {
        self.waiting += bytes.len();
        let before = self.runs.range_mut(..offset).next_back();
        let continues = |(start, run): &(&u64, &mut Vec<u8>)| {
            **start + run.len() as u64 == offset && run.len() < LONGEST
        };
        if let Some((_, run)) = before.filter(continues) {
            let missing = (run.len() + bytes.len()).saturating_sub(run.capacity());
            if missing > 0 {
                run.reserve_exact(bytes.len() + run.len() / 4);
            }
            run.extend_from_slice(bytes);
            return Ok(());
        }
        self.runs.insert(offset, bytes.to_vec());
        let of_span = usize::try_from(self.span() / SPAN_PER_RUN).unwrap_or(usize::MAX);
        let most = RUNS.saturating_add(self.waiting / BYTES_PER_RUN).saturating_add(of_span);
        match self.runs.len() <= most {
            true => Ok(()),
            false => Err(TooManyGaps),
        }
    }

    /// From the first gap to the last run. QUIC's window of a stream bounds it.
    fn span(&self) -> u64 {
        let last = self.runs.last_key_value();
        last.map_or(0, |(start, run)| start + run.len() as u64 - self.next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory(of: &Reassembly) -> usize {
        of.runs.values().map(|run| run.capacity() + 64).sum()
    }

    #[test]
    fn waiting_bytes_pin_nothing_of_the_batch_they_came_in() {
        let (mut flow, mut ready) = (Reassembly::default(), Vec::new());
        let batch = Bytes::from(vec![7; 64 << 10]);
        for at in [100, 200, 300] {
            flow.take(at, batch.slice(0..1), &mut ready).unwrap();
        }
        assert!(ready.is_empty() && batch.is_unique());
        flow.take(0, batch.slice(0..100), &mut ready).unwrap();
        assert_eq!(ready.iter().map(Bytes::len).collect::<Vec<_>>(), [100, 1]);
    }

    #[test]
    fn short_runs_are_few_and_whole_packets_are_not_counted() {
        let (mut flow, mut ready) = (Reassembly::default(), Vec::new());
        let crumb = Bytes::from_static(b"x");
        let taken = (1..1_000).take_while(|n| flow.take(2 * n, crumb.clone(), &mut ready).is_ok());
        assert_eq!(taken.count(), RUNS);
        assert!(memory(&flow) < 8 << 10, "{}", memory(&flow));
        let (mut flow, packet) = (Reassembly::default(), Bytes::from(vec![7; 1_200]));
        for n in 1..10_000 {
            flow.take(2_400 * n, packet.clone(), &mut ready).unwrap();
        }
        assert!(memory(&flow) < flow.waiting * 5 / 4, "{}", memory(&flow));
    }

    #[test]
    fn the_last_bytes_of_many_lost_packets_may_come_first() {
        let (mut flow, mut ready) = (Reassembly::default(), Vec::new());
        let (packet, last) = (Bytes::from(vec![7; 1_407]), Bytes::from_static(b"x"));
        let window = (2 << 20) / 1_408;
        (0..window).for_each(|n| flow.take(1_408 * n + 1_407, last.clone(), &mut ready).unwrap());
        assert!(memory(&flow) < (2 << 20) / 10, "{}", memory(&flow));
        (0..window).for_each(|n| flow.take(1_408 * n, packet.clone(), &mut ready).unwrap());
        assert!(
            flow.runs.is_empty()
                && ready.iter().map(Bytes::len).sum::<usize>() == 1_408 * window as usize
        );
    }

    proptest! {
        #[test]
        fn bytes_come_out_in_order_whatever_order_they_came_in(
            lengths in prop::collection::vec(1_usize..3_000, 1..200),
            order in any::<u64>(),
        ) {
            let total: usize = lengths.iter().sum();
            let all: Bytes = (0..total).map(|at| at.to_be_bytes()[7]).collect::<Vec<_>>().into();
            let mut at = 0;
            let mut pieces: Vec<_> = lengths
                .iter()
                .map(|length| {
                    at += length;
                    (at - length, all.slice(at - length..at))
                })
                .collect();
            // A few places from where they belong, as after losses.
            pieces.sort_by_key(|(start, _)| {
                (*start as u64 / 4_096).wrapping_add(order.wrapping_mul(*start as u64 | 1) >> 60)
            });
            let (mut flow, mut ready) = (Reassembly::default(), Vec::new());
            for (start, piece) in pieces {
                prop_assert_eq!(flow.take(start as u64, piece, &mut ready), Ok(()));
                prop_assert!(memory(&flow) <= flow.waiting * 5 / 4 + 64 * 200 + LONGEST);
            }
            prop_assert!(flow.runs.is_empty() && flow.waiting == 0);
            prop_assert_eq!(ready.concat(), all);
        }
    }
}
