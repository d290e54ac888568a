//! The entry's routing rules, as they are listed and paused.

use serde::{Deserialize, Serialize};

use super::{
    status::NodeView,
    steering::{Steer, SteerError},
};

/// A routing rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleFacts {
    /// Its number, counted from 1 as in the file.
    pub rule: usize,
    /// What names it although other rules come and go.
    pub id: String,
    /// The rule in words.
    pub text: String,
    /// Whether it is paused.
    pub paused: bool,
}

impl NodeView {
    /// The entry's routing rules, in order: the first that matches and is not paused decides.
    #[must_use]
    pub fn rules(&self) -> Vec<RuleFacts> {
        let paused = self.steering().paused;
        let rules = self.dialer.rules.get();
        let facts = rules.told().zip(1..).map(|((id, text), rule)| RuleFacts {
            rule,
            id: id.to_owned(),
            text: text.to_owned(),
            paused: paused.contains(id),
        });
        facts.collect()
    }

    /// The change with the rule's identifier, which a number stands for.
    ///
    /// # Errors
    /// When there is no such rule.
    pub(super) fn named(&self, change: Steer) -> Result<Steer, SteerError> {
        let Steer::Pause(which, on) = change else { return Ok(change) };
        let rules = self.rules();
        let found = rules.iter().find(|rule| rule.id == which || rule.rule.to_string() == which);
        found.map(|rule| Steer::Pause(rule.id.clone(), on)).ok_or(SteerError::NoRule(which))
    }
}
