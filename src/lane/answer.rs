//! The exit's answer to OPEN, in a limited time.

use std::time::Duration;

use noq::{SendStream, VarInt};
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    flow::{Carried, FlowLimits, HalfClosed, Refusal},
    transport::{code, write_frame},
    wire::lane::{OpenReply, Opened},
};

/// How long the entry may take for the answer, after which the flow is reset. It fits into the window with which
/// streams begin, so an entry that keeps to the protocol has it in a round trip or two.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// Tells the entry that its flow is open; a flow whose place is needed ends meanwhile, too.
pub(super) async fn accept(
    send: &mut SendStream,
    opened: Opened,
    (carried, limits): (&Carried, &FlowLimits),
) -> Result<(), String> {
    let (half, reply) = (HalfClosed::default(), OpenReply::Ok(opened));
    tokio::select! {
        biased;
        told = tell(send, &reply) => told,
        end = limits.overdue(carried.activity(), &half) => Err(end.to_string()),
    }
}

/// Tells the entry why it gets no flow, and ends the stream.
pub(super) async fn refuse(send: &mut SendStream, refusal: Refusal) {
    end_with(send, &OpenReply::Err(refusal.bounded())).await;
}

/// Sends an answer after which nothing follows, and ends the stream.
pub(super) async fn end_with(send: &mut SendStream, reply: &impl Serialize) {
    // A stream that has ended needs no end.
    let _ = match tell(send, reply).await {
        Ok(()) => send.finish(),
        Err(_) => send.reset(VarInt::from_u32(code::FLOW_RESET)),
    };
}

async fn tell(send: &mut SendStream, reply: &impl Serialize) -> Result<(), String> {
    match timeout(TIMEOUT, write_frame(send, reply)).await {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(_) => Err("no window for it in 20 s".to_owned()),
    }
}
