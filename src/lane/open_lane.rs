//! An open lane, as its entry sees it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use noq::{Connection, RecvStream, SendStream, VarInt};
use tokio::time::Instant;

use super::{
    LaneEnd, LaneFacts,
    datagrams::Datagrams,
    facts::bytes,
    inflow::Inflow,
    windows::{FlowPort, Windows},
};
use crate::{
    flow::{FlowLabel, Hint, Refusal, Target},
    transport::{code, write_frame},
    wire::lane::{JudgeReply, Open, OpenReply, Purpose},
};

/// An exit from which nothing at all came for so long after an OPEN, not even its acknowledgement,
/// is given up if the flow has another: two reroutes around a dead path take less.
const SILENT_EXIT: Duration = Duration::from_millis(1500);

/// A flow's stream, and its part in the windows of its lane.
pub(super) struct Streams {
    pub(super) send: SendStream,
    pub(super) recv: Inflow,
    pub(super) port: FlowPort,
}

impl Streams {
    /// The two directions of a new stream of the lane with these windows, and the first window of the far end.
    pub(super) fn new(
        windows: &Arc<Windows>,
        (send, recv): (SendStream, RecvStream),
    ) -> (Self, u64) {
        let (port, window) = windows.open(send.id().index());
        let recv = Inflow::new(recv, port.receipts());
        (Self { send, recv, port }, window)
    }
}

/// An open lane.
#[derive(Debug)]
pub struct Lane {
    pub(super) conn: Connection,
    pub(super) end: Arc<LaneEnd>,
    pub(super) windows: Arc<Windows>,
    pub(super) datagrams: Arc<Datagrams>,
    pub(super) idle_since: Mutex<Instant>,
}

impl Lane {
    /// Opens a flow's stream. The outer error is the lane's, the inner one the exit's answer.
    pub(super) async fn open(
        &self,
        (label, purpose, hint): (FlowLabel, &Purpose, &Hint),
    ) -> Result<Result<Streams, Refusal>, String> {
        let both = self.conn.open_bi().await.map_err(|e| e.to_string())?;
        let (mut streams, window) = Streams::new(&self.windows, both);
        let open = Open { label, purpose: purpose.clone(), hint: hint.clone(), window };
        write_frame(&mut streams.send, &open).await.map_err(|e| e.to_string())?;
        let reply = streams.recv.first_message::<OpenReply>().await.map_err(|e| e.to_string())?;
        Ok(reply.map_err(Refusal::bounded).map(|opened| {
            streams.port.allow(opened.window);
            streams
        }))
    }

    /// Asks the exit whether it would carry a flow to `target`. The outer error is the lane's.
    pub(super) async fn ask(&self, target: &Target) -> Result<JudgeReply, String> {
        let both = self.conn.open_bi().await.map_err(|e| e.to_string())?;
        let (mut streams, _) = Streams::new(&self.windows, both);
        let (purpose, hint) = (Purpose::Question(target.clone()), self.end.hint().clone());
        let open = Open { label: FlowLabel(0), purpose, hint, window: 0 };
        write_frame(&mut streams.send, &open).await.map_err(|e| e.to_string())?;
        streams.recv.first_message().await.map_err(|e| e.to_string())
    }

    /// Returns if no packet at all comes in for a while from now on; else never.
    pub(super) async fn hears_nothing(&self) {
        let before = self.end.activity().packets().1;
        tokio::time::sleep(SILENT_EXIT).await;
        if self.end.activity().packets().1 != before {
            std::future::pending::<()>().await;
        }
    }

    /// This end of the lane.
    #[must_use]
    pub fn end(&self) -> &Arc<LaneEnd> {
        &self.end
    }

    /// The round-trip time QUIC measures end to end.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.conn.rtt(noq::PathId::ZERO)
    }

    /// What listings show.
    #[must_use]
    pub fn facts(&self) -> LaneFacts {
        LaneFacts { bytes: bytes(&self.conn), ..self.end.facts() }
    }

    /// Ends the lane and its flows.
    pub fn close(&self, reason: &str) {
        self.conn.close(VarInt::from_u32(code::DONE), reason.as_bytes());
    }
}
