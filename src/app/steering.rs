//! What the user of a running node wants of new flows, until further notice. PURE.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{config::Wishes, flow::Hint, identity::NodeName};

/// Relays that can be avoided at once: a list that a person keeps in mind, and far below what a request
/// for a lane carries.
const MAX_AVOIDED: usize = 64;

/// What is wanted of new flows. It goes before the rules, and after what a client asks for by its user
/// name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steering {
    /// The exit to use; `None`: as the rules say.
    pub exit: Option<NodeName>,
    /// The hint; `None`: as the rules say.
    pub hint: Option<Hint>,
    /// Relays not to use, beside those of the rules.
    pub avoid: BTreeSet<NodeName>,
    /// The identifiers of rules that decide nothing.
    #[serde(default)]
    pub paused: BTreeSet<String>,
}

/// A change of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steer {
    /// Use this exit; `None`: as the rules say.
    Exit(Option<NodeName>),
    /// Use this hint; `None`: as the rules say.
    Hint(Option<Hint>),
    /// Avoid this relay, or no longer.
    Avoid(NodeName, bool),
    /// Pause the rule with this number or identifier, or no longer.
    Pause(String, bool),
}

/// The change is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SteerError {
    /// Nobody has this name.
    #[error("no node of this overlay that is known here is named {0}; `ronproxy links` lists them")]
    Unknown(NodeName),
    /// It opens no connections for others.
    #[error("{0} is not an exit now; `ronproxy routes` lists the exits")]
    NotAnExit(NodeName),
    /// There is no such rule.
    #[error("{0:?} is no rule's number or identifier; `ronproxy rules` lists them")]
    NoRule(String),
    /// Too many relays.
    #[error(
        "{MAX_AVOIDED} relays are avoided already; take one back with `ronproxy avoid RELAY --not`"
    )]
    TooMany,
}

impl Steering {
    /// Makes a change.
    ///
    /// # Errors
    /// When too many relays would be avoided.
    pub fn change(&mut self, steer: Steer) -> Result<(), SteerError> {
        match steer {
            Steer::Exit(exit) => self.exit = exit,
            Steer::Hint(hint) => self.hint = hint,
            Steer::Avoid(relay, false) => drop(self.avoid.remove(&relay)),
            Steer::Pause(rule, false) => drop(self.paused.remove(&rule)),
            Steer::Pause(rule, true) => drop(self.paused.insert(rule)),
            Steer::Avoid(relay, true) => {
                if self.avoid.len() >= MAX_AVOIDED && !self.avoid.contains(&relay) {
                    return Err(SteerError::TooMany);
                }
                self.avoid.insert(relay);
            }
        }
        Ok(())
    }

    /// What the rules wish, as it is steered.
    #[must_use]
    pub fn steer(&self, mut wishes: Wishes) -> Wishes {
        if let Some(exit) = &self.exit {
            wishes.exits = vec![exit.clone()];
            wishes.fallback.clear();
        }
        if self.hint.is_some() {
            wishes.hint.clone_from(&self.hint);
        }
        let more = self.avoid.iter().filter(|relay| !wishes.avoid.contains(relay));
        let more: Vec<_> = more.cloned().collect();
        wishes.avoid.extend(more);
        wishes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    #[test]
    fn steering_goes_before_the_rules_and_can_be_taken_back() {
        let rules = Wishes {
            exits: vec![name("mit")],
            fallback: vec![name("nyu")],
            hint: Some(Hint::Loss),
            avoid: vec![name("utah")],
            ..Wishes::default()
        };
        let mut steering = Steering::default();
        assert_eq!(steering.steer(rules.clone()), rules);
        steering.change(Steer::Exit(Some(name("cmu")))).unwrap();
        steering.change(Steer::Hint(Some(Hint::Latency))).unwrap();
        for relay in ["utah", "nyu"] {
            steering.change(Steer::Avoid(name(relay), true)).unwrap();
        }
        let steered = steering.steer(rules.clone());
        assert_eq!((steered.exits, steered.fallback), (vec![name("cmu")], vec![]));
        assert_eq!(steered.hint, Some(Hint::Latency));
        assert_eq!(steered.avoid, [name("utah"), name("nyu")]);
        steering.change(Steer::Exit(None)).unwrap();
        steering.change(Steer::Hint(None)).unwrap();
        for relay in ["utah", "nyu"] {
            steering.change(Steer::Avoid(name(relay), false)).unwrap();
        }
        assert_eq!(steering, Steering::default());
        assert_eq!(steering.steer(rules.clone()), rules);
    }

    #[test]
    fn only_so_many_relays_can_be_avoided() {
        let mut steering = Steering::default();
        for n in 0..MAX_AVOIDED {
            steering.change(Steer::Avoid(name(&format!("n{n}")), true)).unwrap();
        }
        assert_eq!(steering.change(Steer::Avoid(name("one-more"), true)), Err(SteerError::TooMany));
        steering.change(Steer::Avoid(name("n3"), true)).unwrap();
    }
}
