//! Policy routing: which flows may use which links and relays.
//!
//! A flow carries a [`Tag`]. The entry leaves out candidates that a rule refuses. A relay checks
//! its own rules when it is asked for a label, with the groups of the entry's *certificate* and not
//! with a claim of the entry.

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::identity::NodeName;

/// The most rules. Each is checked for each candidate of each flow.
pub const MAX_RULES: usize = 256;

/// The properties of a flow that policies check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tag {
    /// The groups of the flow's source.
    pub groups: Vec<String>,
    /// The traffic class a rule or the application gave it; `None` is a class of its own, which no
    /// list of classes contains.
    pub class: Option<String>,
}

/// The name of a policy rule; what `why` shows when the rule excludes a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct RuleName(Arc<str>);

impl RuleName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RuleName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for RuleName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<RuleName> for String {
    fn from(name: RuleName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node, or `any`. (So a node called `any` cannot be named in a rule.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NodePattern {
    /// Every node.
    #[default]
    Any,
    /// This node.
    Node(NodeName),
}

impl NodePattern {
    fn matches(&self, name: &NodeName) -> bool {
        match self {
            Self::Any => true,
            Self::Node(node) => node == name,
        }
    }
}

impl TryFrom<String> for NodePattern {
    type Error = crate::identity::ParseNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "any" { Ok(Self::Any) } else { Ok(Self::Node(text.parse()?)) }
    }
}

impl From<NodePattern> for String {
    fn from(pattern: NodePattern) -> Self {
        match pattern {
            NodePattern::Any => "any".to_owned(),
            NodePattern::Node(name) => name.to_string(),
        }
    }
}

/// One `[[policy]]` entry of the configuration: a condition on the flows that use a link or relay.
///
/// It concerns a path that goes over a link between `from` and `to` (in either direction: a flow
/// uses both) and, if `relay` is given, through that relay. A flow is refused when it matches an item
/// of a deny list, or when an allow list is given and it matches none of its items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// The rule's name, unique; 1 to 64 bytes.
    pub name: RuleName,
    /// One end of the link; default `any`.
    #[serde(default)]
    pub from: NodePattern,
    /// The other end of the link; default `any`.
    #[serde(default)]
    pub to: NodePattern,
    /// The relay it concerns; `None` concerns direct and relayed paths alike.
    #[serde(default)]
    pub relay: Option<NodeName>,
    /// Only flows with one of these groups; empty means all.
    #[serde(default)]
    pub allow_groups: Vec<String>,
    /// No flow with one of these groups.
    #[serde(default)]
    pub deny_groups: Vec<String>,
    /// Only flows of one of these classes; empty means all.
    #[serde(default)]
    pub allow_classes: Vec<String>,
    /// No flow of one of these classes.
    #[serde(default)]
    pub deny_classes: Vec<String>,
}

impl PolicyRule {
    fn concerns(&self, relay: Option<&NodeName>, from: &NodeName, to: &NodeName) -> bool {
        if self.relay.is_some() && self.relay.as_ref() != relay {
            return false;
        }
        let over = |a: &NodeName, b: &NodeName| {
            (self.from.matches(a) && self.to.matches(b))
                || (self.from.matches(b) && self.to.matches(a))
        };
        match relay {
            Some(relay) => over(from, relay) || over(relay, to),
            None => over(from, to),
        }
    }

    fn admits(&self, tag: &Tag) -> bool {
        let grouped = |list: &[String]| list.iter().any(|group| tag.groups.contains(group));
        let classed = |list: &[String]| list.iter().any(|class| tag.class.as_ref() == Some(class));
        !grouped(&self.deny_groups)
            && !classed(&self.deny_classes)
            && (self.allow_groups.is_empty() || grouped(&self.allow_groups))
            && (self.allow_classes.is_empty() || classed(&self.allow_classes))
    }

    fn is_idle(&self) -> bool {
        [&self.allow_groups, &self.deny_groups, &self.allow_classes, &self.deny_classes]
            .iter()
            .all(|list| list.is_empty())
    }
}

/// All rules of a node, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<PolicyRule>", into = "Vec<PolicyRule>")]
pub struct Policy {
    rules: Vec<PolicyRule>,
}

/// Why a list of rules is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More than 256 rules.
    #[error("more than 256 policy rules; merge some")]
    TooMany,
    /// The name is empty or longer than 64 bytes.
    #[error("{0:?} is not the name of a policy rule: it must have 1 to 64 bytes")]
    Name(String),
    /// Two rules have this name.
    #[error("two policy rules are named {0}; give each one its own name")]
    Twice(RuleName),
    /// The rule has neither an allow nor a deny list.
    #[error("policy rule {0} allows and denies nothing; give it allow_groups or another list")]
    Idle(RuleName),
}

impl TryFrom<Vec<PolicyRule>> for Policy {
    type Error = PolicyError;

    fn try_from(rules: Vec<PolicyRule>) -> Result<Self, Self::Error> {
        if rules.len() > MAX_RULES {
            return Err(PolicyError::TooMany);
        }
        let mut names = BTreeSet::new();
        for rule in &rules {
            if !(1..=64).contains(&rule.name.as_str().len()) {
                return Err(PolicyError::Name(rule.name.as_str().chars().take(64).collect()));
            }
            if !names.insert(&rule.name) {
                return Err(PolicyError::Twice(rule.name.clone()));
            }
            if rule.is_idle() {
                return Err(PolicyError::Idle(rule.name.clone()));
            }
        }
        Ok(Self { rules })
    }
}

impl From<Policy> for Vec<PolicyRule> {
    fn from(policy: Policy) -> Self {
        policy.rules
    }
}

impl Policy {
    /// Whether a flow with `tag` may go from `from` to `to`, directly or through `relay`.
    ///
    /// # Errors
    /// The first rule, in the order of the configuration, that refuses it.
    pub fn admits(
        &self,
        tag: &Tag,
        relay: Option<&NodeName>,
        from: &NodeName,
        to: &NodeName,
    ) -> Result<(), RuleName> {
        let refusing = |rule: &&PolicyRule| rule.concerns(relay, from, to) && !rule.admits(tag);
        self.rules.iter().find(refusing).map_or(Ok(()), |rule| Err(rule.name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Config {
        policy: Policy,
    }

    fn policy(text: &str) -> Result<Policy, String> {
        toml::from_str::<Config>(text).map(|c| c.policy).map_err(|e| e.to_string())
    }

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn tag(groups: &[&str], class: Option<&str>) -> Tag {
        Tag {
            groups: groups.iter().map(|&g| g.to_owned()).collect(),
            class: class.map(str::to_owned),
        }
    }

    const RULES: &str = r#"
        [[policy]]
        name = "research-only"
        from = "utah"
        to = "mit"
        allow_groups = ["research", "staff"]

        [[policy]]
        name = "no-guests-at-cmu"
        relay = "cmu"
        deny_groups = ["guest"]

        [[policy]]
        name = "bulk-stays-direct"
        relay = "utah"
        deny_classes = ["bulk"]
    "#;

    #[test]
    fn each_rule_refuses_what_it_names_and_nothing_else() {
        let policy = policy(RULES).unwrap();
        let cases: [(&[&str], _, _, _, _, _); 9] = [
            (&[], None, None, "utah", "mit", Err("research-only")),
            (&[], None, None, "mit", "utah", Err("research-only")),
            (&["research"], None, None, "utah", "mit", Ok(())),
            (&["guest", "staff"], None, None, "utah", "mit", Ok(())),
            (&[], None, Some("utah"), "nyu", "mit", Err("research-only")),
            (&[], None, Some("utah"), "nyu", "cmu", Ok(())),
            (&["guest"], None, Some("cmu"), "nyu", "mit", Err("no-guests-at-cmu")),
            (&["guest"], None, None, "nyu", "cmu", Ok(())),
            (&["staff"], Some("bulk"), Some("utah"), "nyu", "mit", Err("bulk-stays-direct")),
        ];
        for (groups, class, relay, from, to, expected) in cases {
            let relay = relay.map(name);
            let got = policy.admits(&tag(groups, class), relay.as_ref(), &name(from), &name(to));
            let expected = expected.map_err(RuleName::from);
            assert_eq!(got, expected, "{groups:?} {class:?} {relay:?} {from} {to}");
        }
    }

    #[test]
    fn a_flow_without_a_class_is_in_no_list_of_classes() {
        let rule = "[[policy]]\nname='web'\nallow_classes=['web']";
        let policy = policy(rule).unwrap();
        assert!(policy.admits(&tag(&[], None), None, &name("a"), &name("b")).is_err());
        assert!(policy.admits(&tag(&[], Some("web")), None, &name("a"), &name("b")).is_ok());
    }

    #[test]
    fn mistakes_in_the_configuration_are_refused() {
        let cases = [
            ("[[policy]]\nname='a'\nallow_group=['x']", "unknown field"),
            ("[[policy]]\nname='a'", "allows and denies nothing"),
            ("[[policy]]\nname=''\nallow_groups=['x']", "1 to 64 bytes"),
            ("[[policy]]\nname='a'\nfrom='A B'\nallow_groups=['x']", "no node name"),
            (
                "[[policy]]\nname='a'\nallow_groups=['x']\n[[policy]]\nname='a'\nallow_groups=['y']",
                "two policy rules",
            ),
        ];
        for (text, expected) in cases {
            let error = policy(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_number_of_rules_is_bounded() {
        let rule = |n: usize| format!("[[policy]]\nname='r{n}'\nallow_groups=['x']\n");
        let fit: String = (0..MAX_RULES).map(rule).collect();
        assert!(policy(&fit).is_ok());
        assert!(policy(&format!("{fit}{}", rule(MAX_RULES))).unwrap_err().contains("256"));
    }
}
