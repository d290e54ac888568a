//! A node's name.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A node's name within its overlay: 1 to 63 characters of `a-z`, `0-9` and `-`, not at an end.
///
/// The overlay authority gives a name to one key at a time, so the name identifies the node.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

/// The text is not a node name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no node name; use 1 to 63 characters of a-z, 0-9 and '-', as in utah-2")]
pub struct ParseNameError(String);

impl NodeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(ParseNameError(text.chars().take(64).collect()))
        }
    }
}

impl TryFrom<&str> for NodeName {
    type Error = ParseNameError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for NodeName {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_name_labels_are_node_names() {
        for text in ["mit", "utah-2", "4site", &"a".repeat(63)] {
            assert_eq!(text.parse::<NodeName>().unwrap().as_str(), text);
        }
        for text in ["", "MIT", "-a", "a-", "a.b", "a b", "é", &"a".repeat(64)] {
            assert!(text.parse::<NodeName>().is_err(), "{text:?} was accepted");
        }
    }
}
