//! The node's one UDP socket, and its streams: demultiplexing, label switching, virtual addresses.
//!
//! ```text
//!            QUIC endpoint (links and lanes)
//!     poll_recv ▲                     │ poll_send
//!   ┌───────────┴─────────────────────▼───────────┐
//!   │ LabelSocket                                 │  virtual address fd72:6f6e::S ⇄ lane slot S
//!   │   [QUIC]            → up, as it came        │
//!   │   [label → slot S]  → in order → up, from S │  slot S → label L at neighbour N
//!   │   [label → N, L']   → swap, straight out    │
//!   └───────────┬─────────────────────▲───────────┘
//!               ▼                     │
//!            UDP socket (real, or of the emulator), and streams (TLS on TCP)
//! ```
//!
//! QUIC sees one stable virtual address per lane slot. The route of a slot is a [`NextHop`] in the
//! [`Switch`]. It may change at any packet, and QUIC does not see the change.

mod arrivals;
mod askers;
mod burst;
mod forward;
mod hold;
mod interfaces;
pub mod labels;
mod neighbour;
mod no_udp;
mod order;
mod outside;
mod path_mtu;
mod pieces;
mod prefix;
mod receive;
mod reorder;
mod replay;
mod routed;
mod send;
mod sizing;
mod slots;
mod socket;
mod streams;
mod switch;
mod turn;
mod up;
mod virtual_address;

pub use arrivals::Arrivals;
pub use askers::NonceInbox;
pub(crate) use interfaces::{address_towards, own_addresses, present_address};
pub use neighbour::Neighbour;
pub use no_udp::no_udp;
pub use path_mtu::PathMtu;
pub use prefix::prefix;
pub(crate) use routed::{default_router, routed, unspecified};
pub(crate) use send::MAX_QUIC_PACKET;
pub use sizing::{Leave, Sizing};
pub use slots::{SlotActivity, SlotId};
pub use socket::{LabelSocket, bind_udp};
pub use streams::{Carrier, StreamEnd, StreamHold, StreamId, Streams};
pub(crate) use switch::MAX_SLOTS;
pub use switch::{DropCounts, DropReason, NextHop, Switch};
pub(crate) use turn::{AfterTurn, Gap, Gaps, InTurns, after_turn};
pub use virtual_address::is_virtual;
