//! The flow of an association at its two ends: the stream that opens and ends it.
//!
//! After OPEN and its answer only the exit writes on the stream: news of lost and refused datagrams. The
//! end of either direction ends the flow.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    LaneEnd,
    datagrams::{DatagramPort, Receiving},
    inflow::Inflow,
    open_lane::Streams,
};
use crate::{
    flow::{DatagramDrop, DatagramFlow, DatagramSink, FlowGuard, FlowLabel, Target},
    transport::{FrameError, read_frame, write_frame},
    wire::lane::AssociationNews,
};

/// How often the exit tells how many datagrams were lost, if that has changed.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// An association's flow over a lane, seen from its entry.
pub(super) struct LaneDatagrams {
    label: FlowLabel,
    /// The lane may end before the flow is dropped.
    end: Weak<LaneEnd>,
    port: Arc<DatagramPort>,
    ended: CancellationToken,
    _drop_ends: DropGuard,
}

impl LaneDatagrams {
    /// The flow on `streams`; `client` takes what comes in.
    pub(super) fn begin(
        guard: FlowGuard,
        streams: Streams,
        (end, port): (Weak<LaneEnd>, Arc<DatagramPort>),
        client: Arc<dyn DatagramSink>,
    ) -> Self {
        let receiving = port.receive(client.clone());
        let (ended, dropped) = (CancellationToken::new(), CancellationToken::new());
        let label = guard.entry().label;
        let counts = port.clone();
        let done = ended.clone().drop_guard();
        let until = dropped.clone();
        tokio::spawn(async move {
            let _kept: (FlowGuard, Receiving, DropGuard);
            let mut streams = streams;
            let activity = guard.entry().carried.activity();
            tokio::select! {
                biased;
                () = until.cancelled() => {}
                () = hear(&mut streams.recv, &counts, &*client) => {}
                () = activity.closed() => {}
            }
            // The stream may have ended with the lane.
            let _ = streams.send.finish();
            _kept = (guard, receiving, done);
        });
        Self { label, end, port, ended, _drop_ends: dropped.drop_guard() }
    }
}

/// Takes the exit's news until it ends the flow.
async fn hear(recv: &mut Inflow, port: &DatagramPort, client: &dyn DatagramSink) {
    recv.expect_messages();
    loop {
        match read_frame::<AssociationNews>(recv).await {
            Ok(AssociationNews::Lost(lost)) => {
                port.counts().lost_sent.store(lost, Ordering::Relaxed)
            }
            Ok(AssociationNews::Refused(peer, refusal)) => client.refused(&peer, refusal.bounded()),
            Err(FrameError::Stream(_)) => return,
            Err(error) => return tracing::debug!(%error, "a message about datagrams is unreadable"),
        }
    }
}

impl DatagramFlow for LaneDatagrams {
    fn label(&self) -> FlowLabel {
        self.label
    }

    fn is_open(&self) -> bool {
        !self.ended.is_cancelled()
    }

    fn waits_since(&self) -> Option<Instant> {
        self.end.upgrade()?.waits_since()
    }

    fn room(&self, peer: &Target) -> usize {
        self.port.room(peer)
    }

    fn send(&self, peer: &Target, payload: &[u8]) -> Result<(), DatagramDrop> {
        match self.is_open() {
            true => self.port.send(peer, payload),
            false => Err(DatagramDrop::FlowEnded),
        }
    }
}

/// Tells the entry what became of an association's datagrams, until the entry ends it.
pub(super) async fn tell_news(
    streams: &mut Streams,
    port: &DatagramPort,
    mut news: mpsc::Receiver<AssociationNews>,
) {
    let Streams { send, recv, .. } = streams;
    let tell = async {
        let (mut ticks, mut told) = (interval(TELL_EVERY), 0);
        loop {
            let news = tokio::select! {
                biased;
                Some(news) = news.recv() => news,
                _ = ticks.tick() => {
                    let lost = port.counts().lost_received.load(Ordering::Relaxed);
                    if lost == told {
                        continue;
                    }
                    told = lost;
                    AssociationNews::Lost(lost)
                }
            };
            if write_frame(send, &news).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = tell => {}
        () = recv.end() => {}
    }
}
