//! What happened to a node lately: one typed stream of events, and counters of them.
//!
//! A role that sees something happen records it in the node's [`Events`]. Readers keep the number of
//! the last event that they have read and ask for what came after it. So a slow reader costs nothing: it is
//! told how many events made room for newer ones.
//!
//! | file | what it holds |
//! |---|---|
//! | `event` | PURE: what can happen |
//! | `history` | PURE: the last day of it, bounded |
//! | `totals` | PURE: counters since the start, for metrics |
//! | `hub` | the shell: the clock, the lock, and who waits for news |

mod event;
mod history;
mod hub;
mod totals;

pub use event::{Class, Event, LaneSide, LeftWhy, RerouteKind};
pub use history::{History, KEPT, Moment, Page, Query, Record};
pub use hub::Events;
pub use totals::{STALL_BOUNDS, Totals, Used};
