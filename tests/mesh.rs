//! The mesh of whole nodes, in virtual time: what it costs, how soon it notices, who joins and leaves.

#[path = "mesh/cost.rs"]
mod cost;
#[path = "mesh/membership.rs"]
mod membership;
#[path = "mesh/nat.rs"]
mod nat;
mod support;
