//! Why a flow could not be opened.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

use crate::{identity::NodeName, text::cleaned};

/// Longest detail text a refusal carries, in bytes.
///
/// It is shown to people, so a peer must not fill a log or a page with it.
const MAX_DETAIL: usize = 200;

/// Why a flow could not be opened: a kind that programs match on, and one sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason as an enum; it is also the metric label and selects the client's reply code.
    pub kind: RefusalKind,
    /// One human sentence, at most 200 bytes.
    pub detail: String,
    /// The exit that refused or that could not be reached; `None` when no exit was chosen. Local
    /// knowledge of the entry: it is not sent.
    #[serde(skip)]
    pub exit: Option<NodeName>,
}

/// The reasons for which a flow is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RefusalKind {
    /// The exit's (or a relay's) policy does not allow this destination for this entry.
    Policy,
    /// The destination's name does not resolve at the exit.
    NameNotFound,
    /// The destination refused the connection.
    ConnectionRefused,
    /// No route from the exit to the destination.
    Unreachable,
    /// The destination, or the exit, did not answer in time.
    TimedOut,
    /// No exit is known or live for this destination.
    NoExit,
    /// The chosen exit cannot be reached over the overlay.
    ExitUnreachable,
    /// A limit (flows, file descriptors, memory) is reached; trying later may work.
    Overloaded,
    /// The peer broke the protocol.
    Protocol,
    /// The chosen node opens no connections for others: its certificate does not grant it, or its
    /// configuration does not enable it.
    NotAnExit,
}

impl Refusal {
    /// A refusal of `kind`; `detail` is cut at 200 bytes.
    #[must_use]
    pub fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), exit: None }.bounded()
    }

    /// The same refusal as one of this exit.
    #[must_use]
    pub(crate) fn at(self, exit: NodeName) -> Self {
        Self { exit: Some(exit), ..self }
    }

    /// The same refusal with its detail cut to the limit and without control characters; for one
    /// that came from a peer.
    #[must_use]
    pub(crate) fn bounded(mut self) -> Self {
        self.detail = cleaned(&self.detail, MAX_DETAIL);
        self
    }

    /// The refusal that an error of `connect(2)` means.
    #[must_use]
    pub(crate) fn from_connect_error(error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => RefusalKind::ConnectionRefused,
            io::ErrorKind::TimedOut => RefusalKind::TimedOut,
            _ if is_exhaustion(error) => RefusalKind::Overloaded,
            _ => RefusalKind::Unreachable,
        };
        match kind {
            RefusalKind::ConnectionRefused => {
                Self::new(kind, "no program listens on that port, or a firewall rejects it")
            }
            _ => Self::new(kind, error.to_string()),
        }
    }
}

/// Whether `error` says that this process or machine has run out of file descriptors or memory
/// (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`): a reason to wait, not to give up.
#[must_use]
pub fn is_exhaustion(error: &io::Error) -> bool {
    // Linux and the BSDs agree on EMFILE, ENFILE and ENOMEM; ENOBUFS is 105 on Linux, 55 on BSD.
    matches!(error.raw_os_error(), Some(23 | 24 | 12 | 105 | 55))
}

impl RefusalKind {
    /// The stable name of the kind, as in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::NameNotFound => "name-not-found",
            Self::ConnectionRefused => "connection-refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed-out",
            Self::NoExit => "no-exit",
            Self::ExitUnreachable => "exit-unreachable",
            Self::Overloaded => "overloaded",
            Self::Protocol => "protocol",
            Self::NotAnExit => "not-an-exit",
        }
    }

    /// What somebody whose flow was refused may do, in a sentence.
    #[must_use]
    pub fn cure(self) -> &'static str {
        match self {
            Self::Policy => {
                "Choose another exit, or ask its operator. `ronproxy why` shows whether a rule of yours or the exit's decides."
            }
            Self::NameNotFound => "Check the address for mistakes.",
            Self::ConnectionRefused => "Check the address, or try again later.",
            Self::Unreachable => "Try again later, or choose another exit.",
            Self::TimedOut => "Try again later.",
            Self::NoExit => {
                "See with `ronproxy links` which exits are up, and with `ronproxy doctor` what is wrong."
            }
            Self::ExitUnreachable => "See with `ronproxy links` which nodes are up, and try again.",
            Self::Overloaded => "Try again in a moment.",
            Self::Protocol => "Check that both nodes run the same version.",
            Self::NotAnExit => "Choose another exit, or run `ronproxy doctor` on that node.",
        }
    }

    /// Whether another exit may carry the flow although this one refused it.
    ///
    /// A name that does not resolve and a destination that refuses are the same everywhere, and a
    /// destination that does not answer has used up the client's time.
    #[must_use]
    pub fn may_differ_elsewhere(self) -> bool {
        match self {
            Self::Policy
            | Self::Unreachable
            | Self::ExitUnreachable
            | Self::Overloaded
            | Self::Protocol
            | Self::NotAnExit => true,
            Self::NameNotFound | Self::ConnectionRefused | Self::TimedOut | Self::NoExit => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_is_cut_and_drives_no_terminal() {
        let refusal = Refusal::new(RefusalKind::Policy, "ä".repeat(500));
        assert_eq!(refusal.detail.len(), 200);
        let detail = "no\u{1b}[2J\r\nX: y".to_owned();
        let refusal = Refusal { detail, ..Refusal::new(RefusalKind::Policy, "") }.bounded();
        assert_eq!(refusal.detail, "no?[2J??X: y");
    }
}
