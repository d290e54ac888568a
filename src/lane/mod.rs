//! Lanes: QUIC connections between an entry and an exit, whose streams are flows.
//!
//! Flows with the same [`LaneKey`] (exit, hint, traffic class and other wishes about the route) share a lane, and so its
//! route. QUIC runs end to end over the slot's virtual address. The route beneath it belongs to the
//! [`LaneEnd`] of each side, which reroutes its own direction: a driver beside it carries out what its
//! [`RouteAgent`](crate::failover::RouteAgent) decides.
//!
//! ```text
//!  entry: LanePool ── Lane ── LaneEnd ─┐                      ┌─ LaneEnd ── LaneHost :exit
//!                      │ QUIC streams  └─ label ─(relay)─ label ─┘     │
//!                   LaneFlow ⇄ pump ⇄ client        server ⇄ pump ⇄ stream
//! ```

/// A line of the log; only for those that look closely if it is not `told`.
macro_rules! log_line {
    ($told:expr, $($line:tt)+) => {
        if $told { tracing::info!($($line)+) } else { tracing::debug!($($line)+) }
    };
}

mod acceptor;
mod answer;
mod arrivals;
mod association;
mod backlog;
mod broken;
mod datagrams;
mod driver;
mod end;
mod facts;
mod flow;
mod host;
mod inflow;
mod memory;
mod open_lane;
mod pool;
mod pump;
mod read_buffers;
mod reassembly;
mod room;
mod serve;
mod sparse;
mod tally;
mod unread;
mod window;
mod windows;

pub use acceptor::{FlowAcceptor, Outward, OutwardStream, Place};
pub use end::{HopRequest, LaneEnd, RouteControl};
pub(crate) use facts::STILL_AFTER;
pub use facts::{LaneFacts, RerouteFacts, why};
pub use host::{Granted, LaneHost};
pub use open_lane::Lane;
pub use pool::{LaneKey, LanePool};
pub use windows::LaneBudget;

#[cfg(test)]
mod tests;
