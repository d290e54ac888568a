//! The flow label.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names one flow at its entry: 32 random bits, unique among the entry's live flows.
///
/// It stands in every log line, event and listing about the flow, and travels in the flow's OPEN
/// header so that the exit's log can be matched with the entry's. It is a name, not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FlowLabel(pub u32);

impl fmt::Display for FlowLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}
