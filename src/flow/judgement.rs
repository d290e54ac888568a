//! What an exit says of a flow that nobody opens.

use serde::{Deserialize, Serialize};

/// What the policy of an exit says of a flow to a target. A refusal stands beside it, in a `Result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    /// The policy allows it.
    Allowed,
    /// The policy refuses neither name nor port, and decides when the name is resolved.
    DependsOnAddress,
}
