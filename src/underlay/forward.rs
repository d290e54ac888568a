//! Forwarding: packets for other nodes leave in as few system calls as they can.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use noq::{
    UdpSender,
    udp::{RecvMeta, Transmit},
};

use super::{
    DropReason, NextHop, Switch,
    burst::{Burst, Towards},
};
use crate::wire::label::relay;

/// So many packets that came together leave at once, without a copy. Fewer wait for others that leave with them, until
/// the end of what was received in one call.
const ENOUGH: usize = 16;

/// The way out for packets of others. A relay does not queue: what the socket does not take is dropped.
#[derive(Debug)]
pub(super) struct Forwarder(Burst);

impl Forwarder {
    pub(super) fn new(physical: Pin<Box<dyn UdpSender>>) -> Self {
        Self(Burst::new(physical))
    }

    /// Marks packets of `stride` bytes as forwarded, replaces their label, and takes them for the next hop. A relay does
    /// nothing else.
    pub(super) fn take(
        &mut self,
        switch: &Switch,
        next: &NextHop,
        (bytes, stride, meta): (&mut [u8], usize, RecvMeta),
        cx: &mut Context<'_>,
    ) {
        let packets = bytes.len().div_ceil(stride);
        let Some(destination) = next.neighbour.address() else {
            switch.count_drop(DropReason::NoRoute, packets);
            return;
        };
        for packet in bytes.chunks_mut(stride) {
            relay(packet, next.label);
        }
        let (towards, segment) = (Towards { destination, ecn: meta.ecn }, stride.min(bytes.len()));
        // Where the socket takes single packets only, those that came together do not leave together.
        let alone = packets >= ENOUGH || packets > self.0.max_segments().get();
        if alone || !self.0.fits(towards, bytes.len(), segment) {
            self.flush(switch, cx);
        }
        if alone {
            self.send(switch, towards, (bytes, stride), cx);
        } else {
            self.0.push(towards, segment, |burst| burst.extend_from_slice(bytes));
        }
    }

    /// Sends what was taken.
    pub(super) fn flush(&mut self, switch: &Switch, cx: &mut Context<'_>) {
        let taken = self.0.waiting();
        if taken.0 == 0 {
            return;
        }
        let sent = self.0.poll_flush(cx);
        self.0.clear();
        count(switch, &sent, taken);
    }

    fn send(
        &mut self,
        switch: &Switch,
        Towards { destination, ecn }: Towards,
        (bytes, stride): (&[u8], usize),
        cx: &mut Context<'_>,
    ) {
        let max = self.0.max_segments().get() * stride;
        for contents in bytes.chunks(max) {
            let packets = contents.len().div_ceil(stride);
            let segment_size = (packets > 1).then_some(stride);
            let transmit = Transmit { destination, ecn, contents, segment_size, src_ip: None };
            count(switch, &self.0.poll_send(&transmit, cx), (packets, contents.len()));
        }
    }
}

fn count(switch: &Switch, sent: &Poll<io::Result<()>>, (packets, bytes): (usize, usize)) {
    match sent {
        Poll::Ready(Ok(())) => switch.count_forwarded(packets, bytes),
        Poll::Ready(Err(_)) | Poll::Pending => switch.count_drop(DropReason::SocketFull, packets),
    }
}
