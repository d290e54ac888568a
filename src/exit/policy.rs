//! The exit's policy: destinations, and who may reach them. Pure.
//!
//! A flow is checked twice. [`Policy::check_name`] runs before its name is resolved, so that a
//! refused name costs no look-up. [`Policy::check_addr`] runs for each address before the
//! connection, so that a name cannot lead to a forbidden network.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use super::{Config, Rule, ranges::Faces};
use crate::flow::{Host, Refusal, RefusalKind};

/// The exit's policy. `deny` wins over everything; then the built-in list of special addresses,
/// which only `allow_private` opens; then one `allow` rule must match.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    enabled: bool,
    /// `None` allows every public destination.
    allow: Option<Vec<Rule>>,
    deny: Vec<Rule>,
    allow_private: Vec<IpNet>,
}

/// Why the policy does not carry a flow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct PolicyDenial {
    /// The rule that decided.
    pub reason: DenialReason,
    /// The host that was checked, as the entry named it.
    pub host: Host,
    /// The host's address; `None` when the request was denied before resolution.
    pub ip: Option<IpAddr>,
    /// The port asked for.
    pub port: u16,
}

/// The rule that denies a flow; its [`name`](Self::name) is the metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DenialReason {
    /// The node carries nothing: `exit.enabled` is false.
    NotAnExit,
    /// The rule at this position of `exit.deny` matches, counted from 0.
    DenyRule(usize),
    /// `exit.allow` is present and none of its rules matches.
    NotAllowed,
    /// A cloud's metadata service, which returns the machine's credentials.
    Metadata,
    /// `0.0.0.0/8` or `::`, which mean the exit itself.
    Unspecified,
    /// `127.0.0.0/8` or `::1`: the exit itself.
    Loopback,
    /// An address of the exit's own interfaces, which its firewall does not protect against itself.
    OwnAddress,
    /// A private network (RFC 1918, RFC 4193, RFC 3879).
    Private,
    /// `100.64.0.0/10`, between a provider and its customers (RFC 6598).
    SharedNat,
    /// Link-local: `169.254.0.0/16` or `fe80::/10`.
    LinkLocal,
    /// A documentation range (RFC 5737, RFC 3849, RFC 9637).
    Documentation,
    /// A benchmarking range (RFC 2544, RFC 5180).
    Benchmarking,
    /// A multicast group.
    Multicast,
    /// The limited broadcast address.
    Broadcast,
    /// A range reserved for other uses than unicast.
    Reserved,
}

impl Policy {
    /// The policy that `config` describes.
    #[must_use]
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            enabled: config.enabled,
            allow: config.allow.clone(),
            deny: config.deny.clone(),
            allow_private: config.allow_private.clone(),
        }
    }

    /// Checks a request of an entry in `groups`, before resolution.
    ///
    /// `Ok` means "not yet denied": every address still needs [`Self::check_addr`].
    ///
    /// # Errors
    /// When the node is no exit, a `deny` rule without `cidr` matches, or no `allow` rule could
    /// match whatever the address is.
    pub(crate) fn check_name(
        &self,
        groups: &[String],
        host: &Host,
        port: u16,
    ) -> Result<(), PolicyDenial> {
        self.check_denied(groups, host, port)?;
        let asked = |rule: &Rule| rule.matches_request(groups, host, port);
        if self.allow.as_ref().is_some_and(|rules| !rules.iter().any(asked)) {
            let (reason, host) = (DenialReason::NotAllowed, host.clone());
            return Err(PolicyDenial { reason, host, ip: None, port });
        }
        Ok(())
    }

    /// Checks whether the node is an exit, and the `deny` rules without `cidr`.
    ///
    /// # Errors
    /// When one of them denies the request.
    pub(super) fn check_denied(
        &self,
        groups: &[String],
        host: &Host,
        port: u16,
    ) -> Result<(), PolicyDenial> {
        let denied = |reason| Err(PolicyDenial { reason, host: host.clone(), ip: None, port });
        if !self.enabled {
            return denied(DenialReason::NotAnExit);
        }
        let asked = |rule: &Rule| rule.matches_request(groups, host, port);
        match self.deny.iter().position(|rule| rule.cidr.is_empty() && asked(rule)) {
            Some(at) => denied(DenialReason::DenyRule(at)),
            None => Ok(()),
        }
    }

    /// Checks one address of `host`, for an entry in `groups`. It includes the checks of
    /// [`Self::check_name`].
    ///
    /// # Errors When the policy denies `ip`.
    pub(crate) fn check_addr(
        &self,
        groups: &[String],
        host: &Host,
        ip: IpAddr,
        port: u16,
    ) -> Result<(), PolicyDenial> {
        // `deny` comes first, because its reason is the operator's own and so the more useful one.
        self.check_rules(groups, host, ip, port)?;
        match Faces::of(ip).denial() {
            Some(reason) if !self.is_exempt(reason, ip) => {
                Err(PolicyDenial { reason, host: host.clone(), ip: Some(ip), port })
            }
            _ => Ok(()),
        }
    }

    /// Checks the operator's rules alone, without the built-in list.
    pub(super) fn check_rules(
        &self,
        groups: &[String],
        host: &Host,
        ip: IpAddr,
        port: u16,
    ) -> Result<(), PolicyDenial> {
        let denied = |reason| Err(PolicyDenial { reason, host: host.clone(), ip: Some(ip), port });
        if !self.enabled {
            return denied(DenialReason::NotAnExit);
        }
        let faces = Faces::of(ip);
        let asked = |rule: &Rule| rule.matches_request(groups, host, port);
        let deny = |rule: &Rule| asked(rule) && rule.may_cover(&faces);
        if let Some(at) = self.deny.iter().position(deny) {
            return denied(DenialReason::DenyRule(at));
        }
        let allow = |rule: &Rule| asked(rule) && rule.covers(&faces);
        if self.allow.as_ref().is_some_and(|rules| !rules.iter().any(allow)) {
            return denied(DenialReason::NotAllowed);
        }
        Ok(())
    }

    /// Whether `allow_private` opens `ip`, which is otherwise denied for `reason`.
    pub(super) fn is_exempt(&self, reason: DenialReason, ip: IpAddr) -> bool {
        let faces = Faces::of(ip);
        // Opening a LAN must not open the metadata service that shares its range.
        let wide_enough = |net: &IpNet| {
            reason != DenialReason::Metadata || net.prefix_len() == net.max_prefix_len()
        };
        self.allow_private.iter().any(|net| wide_enough(net) && faces.is_in(net))
    }
}

impl DenialReason {
    /// The stable name, as in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAnExit => "not-an-exit",
            Self::DenyRule(_) => "deny-rule",
            Self::NotAllowed => "not-allowed",
            Self::Metadata => "metadata",
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::OwnAddress => "own-address",
            Self::Private => "private",
            Self::SharedNat => "shared-nat",
            Self::LinkLocal => "link-local",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Reserved => "reserved",
        }
    }
}

impl fmt::Display for DenialReason {
    /// Completes "the exit does not carry this because".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnExit => "this node is not an exit",
            Self::DenyRule(at) => return write!(f, "rule {} of its deny list matches", at + 1),
            Self::NotAllowed => "no rule of its allow list matches",
            Self::Metadata => "that is a cloud metadata service",
            Self::Unspecified => "that address means the exit itself",
            Self::Loopback => "that is the exit's loopback",
            Self::OwnAddress => "that is an address of the exit itself",
            Self::Private => "that is a private network",
            Self::SharedNat => "that is a provider's shared network (100.64.0.0/10)",
            Self::LinkLocal => "that is the exit's local link",
            Self::Documentation => "that range is for documentation",
            Self::Benchmarking => "that range is for benchmarks",
            Self::Multicast => "that is a multicast group",
            Self::Broadcast => "that is a broadcast address",
            Self::Reserved => "that range is reserved",
        })
    }
}

impl PolicyDenial {
    fn sentence(&self) -> String {
        let Self { reason, host, ip, port } = self;
        match (reason, ip) {
            (DenialReason::NotAnExit, _) => reason.to_string(),
            (_, Some(ip)) if *host != Host::Ip(*ip) => {
                format!("the exit does not carry port {port} of {ip} ({host}): {reason}")
            }
            _ => format!("the exit does not carry port {port} of {host}: {reason}"),
        }
    }
}

impl From<PolicyDenial> for Refusal {
    fn from(denial: PolicyDenial) -> Self {
        let kind = match denial.reason {
            DenialReason::NotAnExit => RefusalKind::NotAnExit,
            _ => RefusalKind::Policy,
        };
        Self::new(kind, denial.to_string())
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
