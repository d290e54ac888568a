//! The behaviour of one neighbour: its budgets, the messages dropped for it, and the log lines
//! about it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::budget::{Kind, Offence, PeerBudget};
use crate::{identity::NodeName, wire::link::RequestFault};

/// The least time between two log lines of one kind about one neighbour. The next line says how
/// many were left out.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Requests of one neighbour that are answered at the same time. Further ones wait in their
/// streams.
const MAX_CONCURRENT_REQUESTS: usize = 16;

/// Why a message of a neighbour, or to one, was dropped; also the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkDrop {
    /// A message over the budget of its kind.
    OverBudget(Kind),
    /// An advertisement of a neighbour that caused too many signature checks.
    ChecksOverBudget,
    /// A part of the answer to a digest, because the neighbour asked for too much.
    AnswerOverBudget,
    /// A message that cannot be read.
    Malformed,
    /// A notice to a neighbour that reads its notices too slowly.
    OutboxFull,
    /// A link of a neighbour whose links are refused at present.
    LinkRefused,
    /// A new address of the neighbour that did not return its nonce.
    AddressUnanswered,
    /// A request for a lane, or its proof, that is not valid.
    LaneRequest(RequestFault),
    /// A request for a certificate over the budget.
    RenewalOverBudget,
    /// A signing request that cannot be read, or is not of the key that it should be of.
    SigningRequest,
    /// A certificate in answer to a request for one that is not the authority's for the asker's key.
    RenewedCertificate,
    /// Figures of a node that the configuration does not name.
    NotNamed,
    /// A member without a place in the directory, because 256 others have links.
    DirectoryFull,
    /// An advertisement or an address in it; the reason is the name of another enum.
    Advertisement(&'static str),
}

impl LinkDrop {
    /// The stable name, as in metrics, JSON and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OverBudget(Kind::Request) => "request-over-budget",
            Self::OverBudget(Kind::Notice) => "notice-over-budget",
            Self::OverBudget(Kind::Advertisement) => "advertisement-over-budget",
            Self::OverBudget(Kind::Digest) => "digest-over-budget",
            Self::OverBudget(Kind::Shared) => "shared-over-budget",
            Self::OverBudget(Kind::Probe) => "probe-over-budget",
            Self::ChecksOverBudget => "checks-over-budget",
            Self::AnswerOverBudget => "answer-over-budget",
            Self::Malformed => "malformed",
            Self::OutboxFull => "outbox-full",
            Self::LinkRefused => "link-refused",
            Self::AddressUnanswered => "address-unanswered",
            Self::LaneRequest(fault) => fault.name(),
            Self::RenewalOverBudget => "renewal-over-budget",
            Self::SigningRequest => "bad-signing-request",
            Self::RenewedCertificate => "bad-renewed-certificate",
            Self::NotNamed => "shared-not-named",
            Self::DirectoryFull => "directory-full",
            Self::Advertisement(reason) => reason,
        }
    }
}

/// Counts of drops on all links, by reason. Reasons are names of enums, so there are few.
#[derive(Debug, Default)]
pub struct LinkDrops(Mutex<BTreeMap<&'static str, u64>>);

impl LinkDrops {
    /// Counts one drop.
    pub fn count(&self, reason: LinkDrop) {
        *self.lock().entry(reason.name()).or_default() += 1;
    }

    /// The counts so far, by reason; those that are zero are left out.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        self.lock().iter().map(|(reason, count)| (*reason, *count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which log lines about a neighbour are due. PURE.
#[derive(Debug, Default)]
pub struct LogLimit(BTreeMap<&'static str, (Instant, u64)>);

impl LogLimit {
    /// Whether a line of this kind is due: if so, how many were left out since the last.
    pub fn due(&mut self, now: Instant, kind: &'static str) -> Option<u64> {
        match self.0.get_mut(kind) {
            Some((last, left_out)) if now.saturating_duration_since(*last) < LOG_EVERY => {
                *left_out += 1;
                None
            }
            Some(entry) => Some(std::mem::replace(entry, (now, 0)).1),
            None => {
                self.0.insert(kind, (now, 0));
                Some(0)
            }
        }
    }
}

/// The behaviour of one neighbour. It belongs to its key and outlives the links.
pub struct Conduct {
    name: NodeName,
    drops: Arc<LinkDrops>,
    state: Mutex<(PeerBudget, LogLimit)>,
    places: Arc<Semaphore>,
}

impl Conduct {
    pub(super) fn new(name: NodeName, drops: Arc<LinkDrops>) -> Self {
        let places = Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS));
        Self { name, drops, state: Mutex::default(), places }
    }

    /// Takes one message of this kind from the budget. The caller drops a message over the budget.
    ///
    /// # Errors Over the budget. The error says whether to close the link.
    pub fn take(&self, now: Instant, kind: Kind) -> Result<(), CloseLink> {
        if self.lock().0.take(now, kind) {
            return Ok(());
        }
        Err(self.offended(now, LinkDrop::OverBudget(kind), Offence::OverBudget))
    }

    /// Counts and logs a drop that came from an offence.
    pub fn offended(&self, now: Instant, drop: LinkDrop, offence: Offence) -> CloseLink {
        let close = CloseLink(self.lock().0.offend(now, offence));
        self.dropped(now, drop);
        if close.0 {
            tracing::warn!(
                neighbour = %self.name, reason = drop.name(),
                "links of the neighbour are refused for a while: it sends too many messages, or malformed ones"
            );
        }
        close
    }

    /// Counts and logs a drop.
    pub fn dropped(&self, now: Instant, drop: LinkDrop) {
        self.drops.count(drop);
        if let Some(more) = self.log(now, drop.name()) {
            tracing::info!(neighbour = %self.name, reason = drop.name(), more, "dropped");
        }
    }

    /// Whether a log line of this kind is due: if so, how many were left out since the last.
    pub fn log(&self, now: Instant, kind: &'static str) -> Option<u64> {
        self.lock().1.due(now, kind)
    }

    /// Takes the check of a signature and of a certificate from the budget; false if it is over the budget.
    pub fn take_check(&self, now: Instant) -> bool {
        self.with_budget(|budget| {
            let may = budget.may_check(now);
            if may {
                budget.checked(now, true, true);
            }
            may
        })
    }

    /// Places for requests that are worked on, of all links of the neighbour.
    pub(super) fn places(&self) -> Arc<Semaphore> {
        self.places.clone()
    }

    /// Reads or changes the budgets.
    pub fn with_budget<T>(&self, act: impl FnOnce(&mut PeerBudget) -> T) -> T {
        act(&mut self.lock().0)
    }

    /// Whether links of the neighbour are refused at present.
    #[must_use]
    pub fn is_refused(&self, now: Instant) -> bool {
        self.lock().0.is_refused(now)
    }

    fn lock(&self) -> MutexGuard<'_, (PeerBudget, LogLimit)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the neighbour's link is to be closed, as its credit is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct CloseLink(pub bool);

impl fmt::Debug for Conduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conduct({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_log_line_a_minute_says_how_many_were_left_out() {
        let (mut log, start) = (LogLimit::default(), Instant::now());
        let mut lines = Vec::new();
        for second in 0..180 {
            lines.extend(log.due(start + Duration::from_secs(second), "forged"));
        }
        assert_eq!(lines, [0, 59, 59]);
        assert_eq!(log.due(start, "malformed"), Some(0), "another kind has its own line");
    }

    #[test]
    fn messages_over_budget_are_counted_by_kind() {
        let drops = Arc::<LinkDrops>::default();
        let conduct = Conduct::new("a".parse().unwrap(), drops.clone());
        let now = Instant::now();
        let taken = (0..10).filter(|_| conduct.take(now, Kind::Digest).is_ok()).count();
        assert_eq!(taken, 2);
        assert_eq!(conduct.take(now, Kind::Probe), Ok(()));
        assert_eq!(drops.counts(), [("digest-over-budget", 8)]);
    }
}
