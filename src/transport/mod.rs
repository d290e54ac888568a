//! How QUIC is used: one endpoint per node, and the parameters of links and lanes.

mod adaptive;
mod configs;
mod first_rtt;
mod framing;
mod knock;
mod parameters;
mod recent_loss;
mod reroute;
mod reroute_mark;
mod resume;
mod sizes;
mod tokens;

pub use configs::{
    CertificateFault, ConfigureError, LaneClient, LaneServer, join_client_config, knock_with,
    link_client_config, link_server_config,
};
pub use framing::{
    FrameError, LONGEST_FRAME, read_frame, read_message, write_frame, write_message,
};
pub use knock::{Claim, Knock, KnockKey, Shown, sender, shown};
pub(crate) use parameters::LANE_DATAGRAMS_UNSENT;
pub use parameters::{
    Congestion, CongestionByHint, LANE_SEND_WINDOW, LaneOptions, OPENED_LANE_WINDOW,
    expect_message, trust_link,
};
pub(crate) use parameters::{FLOW_WINDOW, FLOWS_PER_LANE, UNOPENED_STREAMS};
use parameters::{
    guest_parameters, hosted_lane_parameters, join_parameters, lane_parameters, link_parameters,
};
pub use reroute_mark::{RerouteMark, RoundTrips};
pub use tokens::seal_tokens;

/// Application error codes with which we close connections and reset streams.
pub mod code {
    /// Orderly end: the node stops, or the lane is no longer needed.
    pub const DONE: u32 = 0;
    /// The peer's certificate or protocol identifier does not fit.
    pub const UNAUTHORISED: u32 = 1;
    /// Another connection to the same peer serves already.
    pub const DUPLICATE: u32 = 2;
    /// The peer broke our protocol.
    pub const PROTOCOL: u32 = 3;
    /// The flow was reset by the application behind it.
    pub const FLOW_RESET: u32 = 4;
    /// A cap was reached.
    pub const FULL: u32 = 5;
}
