//! The transport parameters of links and lanes, each with its reason.

use std::{sync::Arc, time::Duration};

use noq::{
    AckFrequencyConfig, Connection, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
    congestion::{Bbr3Config, CubicConfig},
};
use serde::Deserialize;

use super::{
    reroute::{Kind, OnReroute, RouteAwareFactory},
    reroute_mark::RerouteMark,
    resume::RoutesTo,
};
use crate::{flow::Hint, underlay::MAX_QUIC_PACKET};

/// The congestion control of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// BBR where the lane is alone in the queue, CUBIC beside others: see `adaptive`.
    #[default]
    Adaptive,
    /// BBR version 3: models the path; gives way to more than 2 % of loss.
    Bbr3,
    /// CUBIC (RFC 9438): backs off on every loss, and fills the queue.
    Cubic,
}

/// The congestion control of lanes by their flows' hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CongestionByHint {
    /// For the hint `latency`; `None`: as for all.
    pub latency: Option<Congestion>,
    /// For the hint `loss`.
    pub loss: Option<Congestion>,
    /// For the hint `throughput`.
    pub throughput: Option<Congestion>,
}

impl CongestionByHint {
    fn of(self, hint: &Hint) -> Option<Congestion> {
        match hint {
            Hint::Latency => self.latency,
            Hint::Loss => self.loss,
            Hint::Throughput => self.throughput,
            Hint::App(_) => None,
        }
    }
}

/// What is configured about lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneOptions {
    /// The congestion control.
    pub congestion: Congestion,
    /// Where another one suits the flows' hint better.
    pub by_hint: CongestionByHint,
    /// A lane, and its flows, survive for this long without a packet, while no route works. The smaller value of
    /// the two ends counts.
    pub patience: Duration,
    /// The largest QUIC packet that path MTU discovery tries, 1,200 to 8,941 bytes, where the first hop takes
    /// it.
    pub max_packet: u16,
}

impl LaneOptions {
    /// The same where the route takes packets of up to `longest` bytes, as far as is known.
    pub(super) fn within(self, longest: u16) -> Self {
        Self { max_packet: self.max_packet.min(longest), ..self }
    }
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self {
            congestion: Congestion::default(),
            by_hint: CongestionByHint::default(),
            patience: Duration::from_secs(600),
            max_packet: MAX_QUIC_PACKET,
        }
    }
}

impl Congestion {
    fn factory(self, mark: &Arc<RerouteMark>, routes: RoutesTo) -> Arc<RouteAwareFactory> {
        let (kind, on_reroute) = match self {
            Self::Adaptive => (Kind::Adaptive, OnReroute::Told),
            Self::Cubic => (Kind::Other(Arc::<CubicConfig>::default()), OnReroute::Keeps),
            Self::Bbr3 => (Kind::Other(Arc::<Bbr3Config>::default()), OnReroute::RestartsIfLonger),
        };
        Arc::new(RouteAwareFactory { mark: mark.clone(), kind, on_reroute, routes })
    }
}

/// Window of one flow, in bytes: what the far end may send before this end's application reads. 16 MiB fill
/// 1 Gbit/s at 100 ms with a queue of a third of that. A lane gives each flow a window of its own below this one. A stream
/// that is not read as its bytes arrive must get less than 2,048 packets: noq-proto 1.4.0 ends the whole connection with
/// "too many gaps" when one stream buffers more, with or without gaps.
pub(crate) const FLOW_WINDOW: u32 = 16 << 20;

/// Window of a whole lane at its entry, in bytes, until its share of the entry's memory is known: what
/// slow start sends in five round trips.
pub const OPENED_LANE_WINDOW: u32 = 256 << 10;

/// The same of a lane at its exit: an OPEN header.
const HOSTED_LANE_WINDOW: u32 = 16 << 10;

/// Unacknowledged bytes that a lane may keep at its entry.
pub const LANE_SEND_WINDOW: u64 = 16 << 20;

/// Streams of a new lane whose OPEN has not come yet. As many flows may add a first window each to the lane's
/// congestion window when they begin together.
pub(crate) const UNOPENED_STREAMS: u32 = 64;

/// Flows that one lane may carry at once.
pub(crate) const FLOWS_PER_LANE: u32 = 4096;

/// A lane without traffic sends this many keep-alives within its patience. Three in a row may be lost.
const KEEP_ALIVES: u32 = 4;

/// A link's connection ends after this time without a packet, and is dialled anew. Keep-alives come every 20 s,
/// probes mostly every 14 s or more often, so a dead path is down before this.
const LINK_IDLE: Duration = Duration::from_secs(30);

/// QUIC's keep-alive on a link, for links that are probed every 100 s only. Other links are probed more often than
/// this.
const LINK_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Requests and notices that a neighbour may have under way at once.
const LINK_STREAMS: u32 = 64;

/// Window of one stream of a link, in bytes: the longest message.
const MESSAGE_WINDOW: u32 = 64 << 10;

/// Windows of a whole link, in bytes: unread, and unacknowledged. With both datagram buffers a link
/// pins at most 0.6 MB, and 2.5 times the unread bytes if the peer sends them in crumbs.
const LINK_WINDOW: u32 = 192 << 10;
const LINK_SEND_WINDOW: u64 = 256 << 10;

/// The same until the introductions are over, and for joiners: one request of 4 KiB, and the answer
/// in pieces.
const GUEST_WINDOW: u32 = 8 << 10;
const GUEST_SEND_WINDOW: u64 = 32 << 10;

/// Bytes of unread probes and lane notices kept; newer ones replace older ones.
const DATAGRAM_BUFFER: usize = 64 << 10;

/// Room for a lane's datagrams that came and are unread, as QUIC counts it: 10 ms of 200,000 datagrams of 200 bytes
/// a second. The lane's driver takes them at its next turn, so they are held no longer than it waits for one.
const LANE_DATAGRAMS_UNREAD: usize = 512 << 10;

/// Room for a lane's datagrams that wait to be sent, as QUIC counts it: 32 bytes for each beside its own. The
/// lane itself lets at most a quarter of it fill, so that the smallest datagrams fit, too, and notices always.
pub(crate) const LANE_DATAGRAMS_UNSENT: usize = 2 << 20;

/// The largest packet of a link: with the header of a lane it would fill an Ethernet frame over IPv6. A link
/// sends little, and has no use for more.
const LINK_PACKET: u16 = 1441;

fn common(max_packet: u16) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(max_packet);
    config
        .mtu_discovery_config(Some(discovery))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER);
    config
}

fn idle(timeout: Duration) -> Option<IdleTimeout> {
    timeout.try_into().ok()
}

/// The parameters of a lane that this node opens.
pub(super) fn lane_parameters(
    options: LaneOptions,
    hint: &Hint,
    mark: &Arc<RerouteMark>,
    routes: RoutesTo,
) -> Arc<TransportConfig> {
    Arc::new(lane_config(options, hint, mark, routes))
}

fn lane_config(
    options: LaneOptions,
    hint: &Hint,
    mark: &Arc<RerouteMark>,
    routes: RoutesTo,
) -> TransportConfig {
    let congestion = options.by_hint.of(hint).unwrap_or(options.congestion);
    let mut config = common(options.max_packet);
    config
        .datagram_receive_buffer_size(Some(LANE_DATAGRAMS_UNREAD))
        .datagram_send_buffer_size(LANE_DATAGRAMS_UNSENT)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .stream_receive_window(VarInt::from_u32(FLOW_WINDOW))
        .receive_window(VarInt::from_u32(OPENED_LANE_WINDOW))
        .send_window(LANE_SEND_WINDOW)
        .max_idle_timeout(idle(options.patience))
        .keep_alive_interval(Some(options.patience / KEEP_ALIVES))
        .congestion_controller_factory(congestion.factory(mark, routes));
    config
}

/// Links acknowledge at most once per round trip or per five packets. Probes need no quick acknowledgement: one
/// packet then acknowledges the request and the finish of an exchange. Without this, noq sends an acknowledgement
/// in a packet of its own for each of the three messages, because it adds none to a packet before it is due.
fn delayed_ack_config() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    // The protocol bounds it by the round-trip time or 25 ms, whichever is longer.
    config.max_ack_delay(Some(LINK_IDLE)).ack_eliciting_threshold(VarInt::from_u32(4));
    config
}

/// The parameters of a link that this node dials.
pub(super) fn link_parameters() -> Arc<TransportConfig> {
    Arc::new(link_config())
}

/// The parameters of a link that another node dials, until the introductions are over: one stream, small windows.
pub(super) fn guest_parameters() -> Arc<TransportConfig> {
    let mut config = link_config();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(GUEST_WINDOW))
        .send_window(GUEST_SEND_WINDOW);
    Arc::new(config)
}

/// Gives an accepted connection the room of a link: its peer, a member, has introduced itself.
pub fn trust_link(conn: &Connection) {
    conn.set_receive_window(VarInt::from_u32(LINK_WINDOW));
    conn.set_send_window(LINK_SEND_WINDOW);
    conn.set_max_concurrent_bi_streams(VarInt::from_u32(LINK_STREAMS));
    conn.set_max_concurrent_uni_streams(VarInt::from_u32(LINK_STREAMS));
}

/// Gives a connection room for one message of the greatest length before it is a link: its peer announced a
/// newer revocation list. In the window of a guest that would take eight round trips.
pub fn expect_message(conn: &Connection) {
    conn.set_receive_window(VarInt::from_u32(MESSAGE_WINDOW));
}

fn link_config() -> TransportConfig {
    let mut config = common(LINK_PACKET);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(LINK_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(LINK_STREAMS))
        .stream_receive_window(VarInt::from_u32(MESSAGE_WINDOW))
        .receive_window(VarInt::from_u32(LINK_WINDOW))
        .send_window(LINK_SEND_WINDOW)
        .max_idle_timeout(idle(LINK_IDLE))
        .keep_alive_interval(Some(LINK_KEEP_ALIVE))
        // noq-proto 1.4.0 writes its ACK_FREQUENCY frame without looking for room, and panics in the
        // second segment of a batch whose first one was a short probe. Without offload no packet
        // is cut to the length of another, and a link has no use for it.
        .enable_segmentation_offload(false)
        .ack_frequency_config(Some(delayed_ack_config()));
    config
}

/// The parameters of a lane that another node opens: it has no room until the memory of its entry is
/// known to allow it.
pub(super) fn hosted_lane_parameters(
    options: LaneOptions,
    hint: &Hint,
    mark: &Arc<RerouteMark>,
    routes: RoutesTo,
) -> Arc<TransportConfig> {
    let mut config = lane_config(options, hint, mark, routes);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(UNOPENED_STREAMS))
        .receive_window(VarInt::from_u32(HOSTED_LANE_WINDOW))
        .send_window(HOSTED_LANE_WINDOW.into());
    Arc::new(config)
}

/// The parameters of a joining node's connection: one request, and short patience.
pub(super) fn join_parameters() -> Arc<TransportConfig> {
    let mut config = common(LINK_PACKET);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(idle(Duration::from_secs(10)));
    Arc::new(config)
}
