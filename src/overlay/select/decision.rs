//! A decision about a route, with all that `why` prints.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::rank::Tier;
use crate::flow::Route;
use crate::overlay::candidates::{Candidate, Exclusion};

/// The decision of a [`super::Selector`], and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The route to use from now on; `None` when all routes are forbidden.
    pub route: Option<Route>,
    /// Why it is another route than before; `None` when it is the same.
    pub changed: Option<ChangeReason>,
    /// All candidates: the usable ones by rank, best first, then the excluded ones.
    pub candidates: Vec<Explained>,
    /// The two best usable routes besides `route`. Their labels are granted in advance.
    pub alternatives: Vec<Route>,
}

/// A candidate, and its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The route and its figures.
    pub candidate: Candidate,
    /// What became of it.
    pub verdict: Verdict,
}

/// The verdict on a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the route.
    Chosen,
    /// It is the route although it is excluded, because no other is usable.
    Kept(Exclusion),
    /// It could not be used.
    Excluded(Exclusion),
    /// It beats the current route, but the last change is too recent. It waits for this long.
    HeldDown(Duration),
    /// It beats the current route, but not yet for long enough.
    Unproven,
    /// It ranks before the current route, but not by the margin.
    WithinMargin,
    /// It is worse than the chosen route, being in this tier.
    Worse(Tier),
}

/// A [`Verdict`] without its reason, as in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// It is the route.
    Chosen,
    /// It is the route, as no other is usable.
    Kept,
    /// It cannot be used.
    Excluded,
    /// It is better, but the last change is too recent.
    HeldDown,
    /// It is better, but not yet for long enough.
    Unproven,
    /// It is better, but not by the margin.
    WithinMargin,
    /// It is worse.
    Worse,
}

impl Verdict {
    /// The verdict without its reason.
    #[must_use]
    pub fn kind(&self) -> VerdictKind {
        match self {
            Self::Chosen => VerdictKind::Chosen,
            Self::Kept(_) => VerdictKind::Kept,
            Self::Excluded(_) => VerdictKind::Excluded,
            Self::HeldDown(_) => VerdictKind::HeldDown,
            Self::Unproven => VerdictKind::Unproven,
            Self::WithinMargin => VerdictKind::WithinMargin,
            Self::Worse(_) => VerdictKind::Worse,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen => f.write_str("chosen"),
            Self::Kept(reason) => write!(f, "kept, as nothing else is left, although: {reason}"),
            Self::Excluded(reason) => reason.fmt(f),
            Self::HeldDown(left) => {
                write!(
                    f,
                    "better, but the last change was recent; {:.1} s left",
                    left.as_secs_f64()
                )
            }
            Self::Unproven => f.write_str("faster, but not yet for long enough to be no chance"),
            Self::WithinMargin => f.write_str("better, but not by the margin for a change"),
            Self::Worse(Tier::Good) => f.write_str("not as good"),
            Self::Worse(Tier::Lossy) => f.write_str("loses too much"),
            Self::Worse(Tier::Unmeasured) => f.write_str("not measured"),
        }
    }
}

/// Why a route changed; also the metric's label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ChangeReason {
    /// There was no route before.
    First,
    /// The route before could no longer be used.
    Excluded(Exclusion),
    /// The route before is no longer known at all.
    Vanished,
    /// The new route is in a better tier: measured rather than not, clean rather than lossy.
    BetterTier {
        /// The tier of the route before.
        from: Tier,
        /// The tier of the new route.
        to: Tier,
    },
    /// The new route is better by more than the margin.
    Better,
    /// The far end of the lane uses the new route, or refused the one before.
    FarEnd,
    /// The new route is tried, to find its rate.
    Trial,
}

impl ChangeReason {
    /// Whether the route before was left because it could not be used, or lost much.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::Excluded(_) | Self::Vanished | Self::BetterTier { from: Tier::Lossy, .. }
        )
    }

    /// The stable name, as in metrics and JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Excluded(reason) => reason.name(),
            Self::Vanished => "vanished",
            Self::BetterTier { from: Tier::Lossy, .. } => "lossy",
            Self::BetterTier { .. } => "measured",
            Self::Better => "better",
            Self::FarEnd => "far-end",
            Self::Trial => "trial",
        }
    }
}

impl fmt::Display for ChangeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("there was no route"),
            Self::Excluded(reason) => write!(f, "the route before: {reason}"),
            Self::Vanished => f.write_str("the route before is no longer known"),
            Self::BetterTier { from, to } => write!(f, "{to} instead of {from}"),
            Self::Better => f.write_str("better by more than the margin"),
            Self::FarEnd => f.write_str("the far end uses it"),
            Self::Trial => f.write_str("tried, to find out what it carries"),
        }
    }
}
