//! The routing rules of an entry: which exit, hint and route a flow gets. Pure.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    patterns::{Domain, Ports, one_or_many},
    rule_text, sections,
};
use crate::{
    flow::{Hint, Host, Route, Target, is_class},
    identity::NodeName,
    quantity::Network,
};

/// Most rules in one file. Every flow is compared with each; 1,024 cost some microseconds.
const MAX_RULES: usize = 1024;

/// The `[[rule]]` tables, in order: the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Rules(#[serde(deserialize_with = "rules")] Vec<Rule>);

/// One `[[rule]]`: a flow matches when every match key that is present has an item that matches.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawRule")]
pub struct Rule {
    matches: Matches,
    action: Action,
    /// The rule in words.
    told: String,
    /// What names it although other rules come and go.
    id: String,
}

/// What the rules say about a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What to do with it.
    pub action: Action,
    /// The rule that decided, counted from 1 as in the file; `None` when none matched.
    pub rule: Option<usize>,
}

/// What to do with a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Carry it over the overlay, with these wishes.
    Overlay(Wishes),
    /// Refuse it.
    Reject,
}

/// The settings of a rule for a flow. The node decides what the rule leaves open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// The exits to use: of those that are alive the best one, in doubt the first. Empty: any that
    /// serves the destination.
    pub exits: Vec<NodeName>,
    /// The routing hint.
    pub hint: Option<Hint>,
    /// The traffic class, for the policy of relays and exits.
    pub class: Option<String>,
    /// The only route to use, from `via` or `direct`.
    pub pin: Option<Route>,
    /// Relays not to use.
    pub avoid: Vec<NodeName>,
    /// The exits to use when none of `exits` can be reached by an admissible route. Empty: the flow
    /// fails.
    pub fallback: Vec<NodeName>,
    /// How long a flow outlives complete silence; `None`: as `[lane] patience` says.
    pub patience: Option<Duration>,
    /// Over how many lanes the flows are spread, each on a route of its own where several are nearly
    /// equal, 2 to 8; `None`: one.
    pub spread: Option<u8>,
}

impl Rules {
    /// What the rules but the `paused` ones say about a flow to `target`, of SOCKS or HTTP `user`, from
    /// `client`.
    ///
    /// Names are resolved at the exit: `cidr` matches targets given as an address only.
    #[must_use]
    pub fn choose(
        &self,
        target: &Target,
        user: Option<&str>,
        client: IpAddr,
        paused: &BTreeSet<String>,
    ) -> Choice {
        let found = self
            .0
            .iter()
            .position(|rule| !paused.contains(&rule.id) && rule.matches.flow(target, user, client));
        match found {
            Some(index) => Choice { action: self.0[index].action.clone(), rule: Some(index + 1) },
            None => Choice { action: Action::Overlay(Wishes::default()), rule: None },
        }
    }

    /// The identifier and the words of each rule, in order.
    pub fn told(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|rule| (rule.id.as_str(), rule.told.as_str()))
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Matches {
    pub(super) domain: Vec<Domain>,
    pub(super) cidr: Vec<IpNet>,
    pub(super) port: Vec<Ports>,
    pub(super) user: Vec<String>,
    pub(super) client: Vec<IpNet>,
}

impl Matches {
    fn flow(&self, target: &Target, user: Option<&str>, client: IpAddr) -> bool {
        let within = |nets: &[IpNet], ip: IpAddr| any(nets, |net| net.contains(&ip.to_canonical()));
        let in_cidr = match target.host {
            Host::Ip(ip) => within(&self.cidr, ip),
            Host::Name(_) => self.cidr.is_empty(),
        };
        in_cidr
            && any(&self.domain, |domain| domain.matches(&target.host))
            && any(&self.port, |ports| ports.contains(target.port))
            && any(&self.user, |name| user == Some(name.as_str()))
            && within(&self.client, client)
    }
}

/// An absent key matches everything.
fn any<T>(items: &[T], matches: impl FnMut(&T) -> bool) -> bool {
    items.is_empty() || items.iter().any(matches)
}

/// A rule as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawRule {
    #[serde(deserialize_with = "one_or_many")]
    domain: Vec<Domain>,
    #[serde(deserialize_with = "one_or_many")]
    cidr: Vec<Network>,
    #[serde(deserialize_with = "one_or_many")]
    port: Vec<Ports>,
    #[serde(deserialize_with = "one_or_many")]
    user: Vec<String>,
    #[serde(deserialize_with = "one_or_many")]
    client: Vec<Network>,
    #[serde(deserialize_with = "one_or_many")]
    exit: Vec<NodeName>,
    hint: Option<Hint>,
    class: Option<String>,
    via: Option<NodeName>,
    #[serde(deserialize_with = "one_or_many")]
    avoid: Vec<NodeName>,
    direct: bool,
    reject: bool,
    #[serde(deserialize_with = "one_or_many")]
    fallback: Vec<NodeName>,
    #[serde(deserialize_with = "patience")]
    patience: Option<Duration>,
    spread: Option<u8>,
}

fn patience<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    sections::patience(deserializer).map(Some)
}

impl TryFrom<RawRule> for Rule {
    type Error = &'static str;

    fn try_from(raw: RawRule) -> Result<Self, Self::Error> {
        let matches = Matches {
            domain: raw.domain,
            cidr: Network::all(raw.cidr),
            port: raw.port,
            user: raw.user,
            client: Network::all(raw.client),
        };
        let wishes = Wishes {
            exits: raw.exit,
            hint: raw.hint,
            class: raw.class,
            pin: match (raw.via, raw.direct) {
                (Some(_), true) => {
                    return Err("a rule goes `via` a relay or `direct`, not both; take out one");
                }
                (Some(relay), false) => Some(Route::Via(relay)),
                (None, true) => Some(Route::Direct),
                (None, false) => None,
            },
            avoid: raw.avoid,
            fallback: raw.fallback,
            patience: raw.patience,
            spread: raw.spread,
        };
        if wishes.spread.is_some_and(|lanes| !(2..=8).contains(&lanes)) {
            return Err("`spread` is the number of routes to use at once; write 2 to 8");
        }
        if wishes.spread.is_some() && wishes.pin.is_some() {
            return Err("a rule with `via` or `direct` has one route only; take out `spread`");
        }
        if wishes.fallback.iter().any(|exit| wishes.exits.contains(exit)) {
            return Err("a `fallback` exit stands in `exit` too; take it out of one");
        }
        if !matches.domain.is_empty() && !matches.cidr.is_empty() {
            return Err("no target matches both `domain` and `cidr`; write two rules");
        }
        if wishes.class.as_deref().is_some_and(|class| !is_class(class)) {
            return Err("a `class` has 1 to 32 characters of a-z, 0-9, '-' and '_'");
        }
        let via = wishes.pin.as_ref().and_then(Route::relay);
        if via.is_some_and(|via| wishes.avoid.contains(via)) {
            return Err("the rule goes `via` a node that it says to `avoid`; take it out of one");
        }
        let action = match raw.reject {
            false => Action::Overlay(wishes),
            true if wishes == Wishes::default() => Action::Reject,
            true => return Err("`reject` stands alone; take out the rule's other actions"),
        };
        let told = rule_text::told(&matches, &action);
        let id = rule_text::id(&told);
        Ok(Self { matches, action, told, id })
    }
}

fn rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Rule>, D::Error> {
    let rules = Vec::<Rule>::deserialize(deserializer)?;
    if rules.len() > MAX_RULES {
        return Err(D::Error::custom(format!(
            "{} rules are too many; write at most {MAX_RULES}",
            rules.len()
        )));
    }
    Ok(rules)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
