//! A seeded Internet in memory, for the demo, the tests and the benchmarks.
//!
//! | file | what it holds |
//! |---|---|
//! | `units` | [`LossRate`], [`Bitrate`]: one type per unit |
//! | `counters` | [`DropReason`], [`Counters`]: what became of every packet |
//! | `link` | PURE: [`Link`], one direction of one path: delay, jitter, loss, rate, queue, MTU |
//! | `nat` | PURE: address translation |
//! | `inbox` | PURE: the packets on their way to one socket, and those waiting to be read |
//! | `world` | PURE: hosts, links and inboxes put together |
//! | `internet` | [`Internet`], the handle with which tests and the demo change the world |
//! | `socket` | `noq::AsyncUdpSocket` over the world |
//! | `topology` | [`Topology`]: named sites and their paths; [`paper_sites`], [`triangle`] |
//! | `scenario` | [`Event`]: changes at set times, as data, and [`play`] |
//! | `trace` | PURE: a digest of all packets, to compare two runs |
//! | `weather` | PURE: [`Weather`], hours of changing delay and loss |
//!
//! # Time
//!
//! The emulator reads tokio's clock only, so under `start_paused` an hour takes no time at all and
//! every arrival is exact: a packet arrives at the first tick of tokio's timer (1 ms) that is not
//! before its computed arrival. There is no task and no timer per packet, one timer per socket.
//!
//! # Chance
//!
//! Each directed pair of hosts draws from a generator of its own, seeded by the Internet's seed
//! and the two addresses. What one pair sends never changes the luck of another. On a
//! single-threaded runtime with virtual time a lab's seed decides a run to the last packet
//! ([`Internet::trace`]): a node draws from one source (`Chance`), QUIC too, its signatures have one length,
//! its tasks look at what is ready in a fixed order, and it walks through tables in the order of their keys.

mod counters;
mod inbox;
mod internet;
mod link;
mod nat;
mod scenario;
mod seed;
mod socket;
mod topology;
mod trace;
mod units;
mod weather;
mod world;

#[cfg(test)]
mod tests;

pub use counters::{Counters, DropReason};
pub use internet::{Cable, Internet};
pub use link::{InFlight, Link, LinkModel, Loss, Queue, Verdict};
pub use scenario::{Change, Event, play};
pub use topology::{Path, Site, Topology, Triangle, paper_sites, triangle};
pub use units::{Bitrate, LossRate};
pub use weather::{Climate, PairWeather, Spell, Weather};
