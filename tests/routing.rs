//! Routing on its own, hour after hour: many [`Router`]s and [`Selector`]s, whose probes and
//! advertisements travel over emulated paths. No QUIC, no tokio, no sockets: one queue of events in
//! virtual time, seeded, which replays exactly.
//!
//! Each scenario prints one row: what was measured, and the aim; figures 3 and 4 also draw an SVG
//! into `target/figures`. More runs: `RON_SCENARIO_RUNS=50`. One seed again: `RON_SEED=7`. Figures
//! only, without asserting the bounds: `RON_MEASURE=1`. Figures 3 and 4 over as many hours as in the
//! paper: `RON_ROUTING_HOURS=62`. See `docs/figures.md`.
//!
//! [`Router`]: ronproxy::internals::overlay::router::Router
//! [`Selector`]: ronproxy::internals::overlay::select::Selector

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]
#![expect(clippy::print_stdout, reason = "the rows of figures are the product")]

#[path = "survival/figures.rs"]
mod figures;

#[path = "routing/control.rs"]
mod control;
#[path = "routing/net.rs"]
mod net;
#[path = "routing/plot.rs"]
mod plot;
#[path = "routing/queue.rs"]
mod queue;
#[path = "routing/sim.rs"]
mod sim;
#[path = "routing/site.rs"]
mod site;
#[path = "routing/watch.rs"]
mod watch;

#[path = "routing/shapes.rs"]
mod shapes;

#[path = "routing/crowd.rs"]
mod crowd;
#[path = "routing/detour.rs"]
mod detour;
#[path = "routing/figure_3.rs"]
mod figure_3;
#[path = "routing/figure_4.rs"]
mod figure_4;
#[path = "routing/flap.rs"]
mod flap;
#[path = "routing/measured.rs"]
mod measured;
#[path = "routing/model.rs"]
mod model;
#[path = "routing/policy.rs"]
mod policy;
#[path = "routing/reach.rs"]
mod reach;

use std::time::Duration;

/// How long figures 3 and 4 last: `RON_ROUTING_HOURS`, or as long as a test may take.
fn hours(default: u64) -> Duration {
    let hours = std::env::var("RON_ROUTING_HOURS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(hours.unwrap_or(default) * 3_600)
}
