//! Recent packets of a slot, which are sent again after a reroute. PURE: time is an argument.
//!
//! QUIC does not see a reroute. It retransmits lost data when an acknowledgement of a later packet
//! has come over the new route: one round trip after the reroute. Sending the same packets again at
//! once saves that round trip. The far end's QUIC drops packets that it already has.
//!
//! A lane that sends little sends all of them again. A bulk transfer sends only the first ones
//! again, for which the application at the far end waits. All of them would fill the new route's
//! queue.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

/// Most packets kept that are not known to have arrived. At 100 Mbit/s and 230 ms so many are in
/// flight: 3 MB.
const MAX_PACKETS: usize = 2048;

/// A larger batch is not kept. It has jumbo packets between fast machines, and a copy of each would
/// cost throughput. QUIC's largest batch of ordinary packets (ten) is smaller.
const MAX_BATCH: usize = 16 * 1024;

/// Older packets are dropped, because the longest silence before a verdict is shorter. Packets that
/// need no acknowledgement would otherwise stay for ever.
const MAX_AGE: Duration = Duration::from_secs(3);

/// A transfer with more lost packets is a bulk transfer. All of them could overflow the queue of a
/// new route of 20 Mbit/s, and the notice of the reroute is behind them.
const BULK: usize = 64;

/// Most packets of a bulk transfer that are sent again. 100 Mbit/s carry them in 15 ms, and the
/// time of the first lost packet is known to within some milliseconds only.
const BEGINNING: usize = 128;

/// At most this part of the packets in flight is sent again at once. The packets in flight filled
/// the old route and its queue, and a queue holds a third of them or more.
const PART: usize = 3;

/// So many packets may be sent again in any case.
const LEAST: usize = 16;

/// The packets a slot sent lately.
#[derive(Debug, Default)]
pub(super) struct Replay {
    sent: VecDeque<Sent>,
    /// The packet before the next one was not kept.
    gap: bool,
    again: VecDeque<Bytes>,
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    packet: Bytes,
    /// The packet before it was not kept.
    gap: bool,
}

impl Replay {
    /// Keeps the packets of a batch that was just sent. Packets sent before `arrived` have arrived,
    /// or QUIC has declared them lost.
    pub(super) fn record(
        &mut self,
        now: Instant,
        contents: &[u8],
        segment: usize,
        arrived: Option<Instant>,
    ) {
        let old = |at| at + MAX_AGE < now || arrived.is_some_and(|arrived| at < arrived);
        while self.sent.front().is_some_and(|sent| old(sent.at)) {
            self.sent.pop_front();
        }
        if contents.len() > MAX_BATCH {
            self.gap = true;
            return;
        }
        let room = MAX_PACKETS.saturating_sub(self.sent.len());
        let kept = contents.len().min(room * segment);
        let mut batch = Bytes::copy_from_slice(&contents[..kept]);
        while !batch.is_empty() {
            let packet = batch.split_to(segment.min(batch.len()));
            let gap = std::mem::take(&mut self.gap);
            self.sent.push_back(Sent { at: now, packet, gap });
        }
        self.gap |= kept < contents.len();
    }

    /// Marks the packets sent after `since` to be sent again. Of a bulk transfer it marks the first
    /// ones sent after each of `from`, in this order, up to the first packet that was not kept.
    pub(super) fn rewind(&mut self, since: Instant, from: [Instant; 2]) {
        let gap_at_end = std::mem::take(&mut self.gap);
        let mut sent = std::mem::take(&mut self.sent);
        sent.retain(|sent| sent.at >= since);
        // A packet that is missing before the first one has arrived.
        let bulk = gap_at_end || sent.len() > BULK || sent.iter().skip(1).any(|sent| sent.gap);
        let beginnings = if from[0] == from[1] { 1 } else { 2 };
        let few = sent.len() / PART / beginnings;
        let (from, limit) =
            if bulk { (from, few.clamp(LEAST, BEGINNING)) } else { ([since; 2], BULK) };
        self.again.clear();
        let mut marked = 0;
        for from in from {
            let first = sent.partition_point(|sent| sent.at < from);
            let kept = sent.iter().skip(first + 1).take_while(|sent| !sent.gap).count() + 1;
            let end = (first + kept.min(limit)).min(sent.len());
            let again = sent.range_mut(first.max(marked).min(end)..end);
            self.again.extend(again.map(|sent| std::mem::take(&mut sent.packet)));
            marked = marked.max(end);
        }
    }

    /// The next packet to be sent again.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        self.again.pop_front()
    }

    /// Puts a packet back that could not be sent now.
    pub(super) fn put_back(&mut self, packet: Bytes) {
        self.again.push_front(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(replay: &mut Replay) -> Vec<u8> {
        std::iter::from_fn(|| replay.next()).map(|packet| packet[0]).collect()
    }

    #[test]
    fn packets_sent_since_then_are_sent_again_in_order_and_once() {
        let (t0, mut replay) = (Instant::now(), Replay::default());
        let ms = |ms| t0 + Duration::from_millis(ms);
        for i in 0..6 {
            replay.record(ms(10 * u64::from(i)), &[i, i, i, i], 4, None);
        }
        replay.rewind(ms(30), [ms(40); 2]);
        assert_eq!(again(&mut replay), [3, 4, 5]);
        replay.rewind(ms(0), [ms(0); 2]);
        assert_eq!(again(&mut replay), [0; 0]);
    }

    #[test]
    fn packets_that_arrived_are_forgotten() {
        let (t0, mut replay) = (Instant::now(), Replay::default());
        let ms = |ms| t0 + Duration::from_millis(ms);
        for i in 0..100_u8 {
            let arrived = i.checked_sub(5).map(|arrived| ms(u64::from(arrived)));
            replay.record(ms(u64::from(i)), &[i], 1, arrived);
        }
        assert_eq!(replay.sent.len(), 6);
        replay.rewind(t0, [t0; 2]);
        assert_eq!(again(&mut replay), [94, 95, 96, 97, 98, 99]);
    }

    #[test]
    fn of_a_bulk_transfer_the_beginning_is_sent_again_wherever_that_may_be() {
        let (t0, mut replay) = (Instant::now(), Replay::default());
        for i in 0..1000_u32 {
            replay.record(t0 + Duration::from_millis(i.into()), &[i.to_be_bytes()[3]], 1, None);
        }
        replay.rewind(t0, [512, 720].map(|ms| t0 + Duration::from_millis(ms)));
        let first = (0..=u8::MAX).take(BEGINNING);
        let second = (208..=u8::MAX).chain(0..=u8::MAX).take(BEGINNING);
        assert_eq!(again(&mut replay), first.chain(second).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_than_a_third_of_what_is_in_flight_is_sent_again_at_once() {
        for (sent, second, again_each) in [(150, 75, 25), (150, 0, 50), (65, 30, 16)] {
            let (t0, mut replay) = (Instant::now(), Replay::default());
            let ms = |ms: u64| t0 + Duration::from_millis(ms);
            (0..sent).for_each(|i: u8| replay.record(ms(i.into()), &[i], 1, None));
            replay.rewind(t0, [ms(0), ms(second.into())]);
            let mut expected: Vec<u8> = (0..again_each).collect();
            expected.extend((second..second + again_each).filter(|_| second > 0));
            assert_eq!(again(&mut replay), expected);
        }
    }

    #[test]
    fn a_packet_in_two_selections_is_sent_again_once() {
        for (second, expected) in [(0, BEGINNING), (10, BEGINNING + 10)] {
            let (t0, mut replay) = (Instant::now(), Replay::default());
            let ms = |ms| t0 + Duration::from_millis(ms);
            (0..1000).for_each(|i| replay.record(ms(i), &[i.to_be_bytes()[7]], 1, None));
            replay.rewind(t0, [ms(0), ms(second)]);
            assert_eq!(again(&mut replay), (0..=u8::MAX).take(expected).collect::<Vec<_>>());
        }
    }

    #[test]
    fn behind_a_batch_that_was_not_kept_nothing_is_sent_again() {
        let (t0, mut replay) = (Instant::now(), Replay::default());
        let ms = |ms| t0 + Duration::from_millis(ms);
        replay.record(ms(0), &[0, 1], 1, None);
        replay.record(ms(1), &[7; MAX_BATCH + 1], 1400, None);
        replay.record(ms(2), &[2], 1, None);
        replay.rewind(ms(0), [ms(0); 2]);
        assert_eq!(again(&mut replay), [0, 1]);
        replay.record(ms(3), &[7; MAX_BATCH + 1], 1400, None);
        replay.rewind(ms(3), [ms(3); 2]);
        assert_eq!(again(&mut replay), [0; 0]);
    }

    #[test]
    fn a_fast_stream_keeps_no_more_than_the_cap() {
        let (t0, mut replay) = (Instant::now(), Replay::default());
        for i in 0..2 * MAX_PACKETS as u64 {
            replay.record(t0 + Duration::from_micros(i), &[1; 4], 4, None);
        }
        assert_eq!(replay.sent.len(), MAX_PACKETS);
        replay.record(t0 + 2 * MAX_AGE, &[2; 4], 4, None);
        assert_eq!(replay.sent.len(), 1);
    }
}
