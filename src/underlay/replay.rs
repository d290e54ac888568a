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
    /// Their bytes, one packet after another. A bulk transfer uses this room again and again: a copy of its own for each
    /// batch costs page faults, because the system's allocator gives such memory back.
    bytes: VecDeque<u8>,
    /// The most of them since the room was fitted to them.
    most: usize,
    fitted: Option<Instant>,
    /// The packet before the next one was not kept.
    gap: bool,
    again: VecDeque<Bytes>,
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    len: usize,
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
        if let Some(oldest) = now.checked_sub(MAX_AGE).max(arrived) {
            self.forget_before(oldest);
        }
        if contents.len() > MAX_BATCH {
            self.gap = true;
            return;
        }
        let room = MAX_PACKETS.saturating_sub(self.sent.len());
        let (kept, rest) = contents.split_at(contents.len().min(room * segment));
        self.bytes.extend(kept);
        for packet in kept.chunks(segment) {
            let gap = std::mem::take(&mut self.gap);
            self.sent.push_back(Sent { at: now, len: packet.len(), gap });
        }
        self.gap |= !rest.is_empty();
        self.fit_room(now);
    }

    fn forget_before(&mut self, oldest: Instant) {
        let packets = self.sent.partition_point(|sent| sent.at < oldest);
        let bytes: usize = self.sent.drain(..packets).map(|sent| sent.len).sum();
        self.bytes.drain(..bytes);
    }

    /// Gives back room that was not needed for [`MAX_AGE`]. What is in flight varies by much from one
    /// acknowledgement to the next.
    fn fit_room(&mut self, now: Instant) {
        self.most = self.most.max(self.bytes.len());
        if self.fitted.is_some_and(|fitted| now < fitted + MAX_AGE) {
            return;
        }
        if self.bytes.capacity() > 2 * self.most {
            self.bytes.shrink_to(self.most);
        }
        (self.fitted, self.most) = (Some(now), self.bytes.len());
    }

    /// Marks the packets sent after `since` to be sent again. Of a bulk transfer it marks the first
    /// ones sent after each of `from`, in this order, up to the first packet that was not kept.
    pub(super) fn rewind(&mut self, since: Instant, from: [Instant; 2]) {
        self.forget_before(since);
        let gap_at_end = std::mem::take(&mut self.gap);
        let (sent, mut bytes) = (std::mem::take(&mut self.sent), std::mem::take(&mut self.bytes));
        let mut rest = &*bytes.make_contiguous();
        let packets: Vec<&[u8]> = sent
            .iter()
            .map(|sent| {
                let (packet, behind) = rest.split_at(sent.len);
                rest = behind;
                packet
            })
            .collect();
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
            let again = packets[first.max(marked).min(end)..end].iter();
            self.again.extend(again.map(|packet| Bytes::copy_from_slice(packet)));
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
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    fn packets(replay: &mut Replay) -> Vec<Bytes> {
        std::iter::from_fn(|| replay.next()).collect()
    }

    /// Their first bytes.
    fn again(replay: &mut Replay) -> Vec<u8> {
        packets(replay).iter().map(|packet| packet[0]).collect()
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
    fn packets_of_any_length_are_sent_again_as_they_were() {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let (t0, mut replay) = (Instant::now(), Replay::default());
        let mut expected = VecDeque::new();
        for i in 0..2_000_u64 {
            let segment = rng.random_range(200..1_500);
            let batch: Vec<u8> = (0..rng.random_range(1..10_000)).map(|_| rng.random()).collect();
            let arrived = i.saturating_sub(rng.random_range(1..20));
            let at = |i| t0 + Duration::from_millis(i);
            replay.record(at(i), &batch, segment, Some(at(arrived)));
            expected.extend(batch.chunks(segment).map(|packet| (i, packet.to_vec())));
            expected.retain(|(sent, _)| *sent >= arrived);
        }
        expected.truncate(LEAST);
        replay.rewind(t0, [t0; 2]);
        let again = packets(&mut replay);
        assert!(again.len() >= LEAST);
        let expected: Vec<Vec<u8>> = expected.into_iter().map(|(_, packet)| packet).collect();
        assert_eq!(again[..LEAST], expected);
    }

    #[test]
    fn the_room_for_packets_shrinks_after_a_bulk_transfer() {
        let (t0, mut replay) = (Instant::now(), Replay::default());
        let us = |us: u64| t0 + Duration::from_micros(us);
        (0..1_000).for_each(|i| replay.record(us(i), &[1; 1_400], 1_400, None));
        let room = replay.bytes.capacity();
        assert!(room >= 1_400_000);
        // One packet is always under way.
        for i in 1_000..10_000 {
            replay.record(us(1_000 * i), &[1; 100], 100, Some(us(1_000 * (i - 1))));
            let passed = Duration::from_millis(i - 1_000);
            assert!(passed > MAX_AGE || replay.bytes.capacity() == room, "after {passed:?}");
        }
        assert!(replay.bytes.capacity() <= 1_000, "{}", replay.bytes.capacity());
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
