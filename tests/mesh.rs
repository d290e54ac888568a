//! The mesh of whole nodes, in virtual time: what it costs, how soon it notices, who joins and leaves.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]
#![expect(clippy::print_stdout, reason = "the rows of figures are the product")]

#[path = "mesh/clocks.rs"]
mod clocks;
#[path = "mesh/cost.rs"]
mod cost;
#[path = "mesh/forged.rs"]
mod forged;
#[path = "mesh/membership.rs"]
mod membership;
#[path = "mesh/nat.rs"]
mod nat;
#[path = "mesh/renewal.rs"]
mod renewal;
#[path = "mesh/requests.rs"]
mod requests;
#[path = "mesh/revocation.rs"]
mod revocation;
#[path = "mesh/sharing.rs"]
mod sharing;
mod support;
