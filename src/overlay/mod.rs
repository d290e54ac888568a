//! The overlay's routing, PURE: no clock, no socket, no randomness. Time and chance are arguments.
//!
//! | module | what it knows |
//! |---|---|
//! | [`units`] | loss rates and bit rates as types |
//! | [`latency`], [`loss`], [`throughput`] | one estimator each |
//! | [`monitor`] | one link: probes, up and down, its summary |
//! | [`budget`] | how often to probe and to advertise |
//! | [`linkstate`] | what nodes advertise, when, and what is kept of it |
//! | [`trial`] | one neighbour by another carrier, for half a minute |
//! | [`metrics`] | the figures of a path, and how links compose |
//! | [`policy`] | which flows may use which links and relays |
//! | [`connects`] | how long exits take to connect to destinations |
//! | [`posted`] | values of metrics that applications post |
//! | [`candidates`] | the routes to an exit, their figures, or why they are none |
//! | [`select`] | which of them a lane takes, and why |
//! | [`history`] | the last changes of route |
//! | [`sharing`] | the figures of remote members that the nodes of one site tell each other |
//! | [`router`] | all of it put together, for one node |

pub mod budget;
pub mod candidates;
pub mod connects;
pub mod history;
pub mod latency;
pub mod linkstate;
pub mod loss;
mod means;
pub mod metrics;
pub mod monitor;
pub mod policy;
pub mod posted;
pub mod router;
pub mod select;
pub mod sharing;
pub mod throughput;
pub mod trial;
pub mod units;
