//! Flows survive: what can happen to paths and nodes, in virtual time on the emulated Internet.
//!
//! Each scenario runs over several seeds and prints one row: what was measured, and the aim. More
//! runs: `RON_SCENARIO_RUNS=50`. One seed again: `RON_SEED=7`. Figures only, without asserting the
//! bounds: `RON_MEASURE=1`. Longer chaos: `RON_CHAOS_MINUTES=30`. Logs: `RON_TEST_LOG=ronproxy=info`.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]
#![expect(clippy::print_stdout, reason = "the rows of figures are the product")]

mod support;

#[path = "survival/figures.rs"]
mod figures;
#[path = "survival/storm.rs"]
mod storm;
#[path = "survival/transfers.rs"]
mod transfers;
#[path = "survival/trouble.rs"]
mod trouble;
#[path = "survival/watch.rs"]
mod watch;
#[path = "survival/work.rs"]
mod work;

#[path = "survival/calm.rs"]
mod calm;
#[path = "survival/chaos.rs"]
mod chaos;
#[path = "survival/congestion.rs"]
mod congestion;
#[path = "survival/cut.rs"]
mod cut;
#[path = "survival/drawn.rs"]
mod drawn;
#[path = "survival/lossy.rs"]
mod lossy;
#[path = "survival/near.rs"]
mod near;
#[path = "survival/nodes.rs"]
mod nodes;
#[path = "survival/order.rs"]
mod order;
#[path = "survival/outage.rs"]
mod outage;
#[path = "survival/replay.rs"]
mod replay;
#[path = "survival/requests.rs"]
mod requests;
#[path = "survival/restore.rs"]
mod restore;
#[path = "survival/shift.rs"]
mod shift;
#[path = "survival/sizes.rs"]
mod sizes;
#[path = "survival/wide.rs"]
mod wide;
