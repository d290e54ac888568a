//! A route: direct, or through one relay.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::Hint;
use crate::identity::{NodeName, ParseNameError};

/// How a lane's packets reach the exit.
///
/// At most one intermediate node: in the paper a second one gains almost nothing (SOSP 2001,
/// section 6.2.3). `Direct` orders first, because the simpler of two equal routes is better.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Route {
    /// Straight to the exit.
    Direct,
    /// Through this relay.
    Via(NodeName),
}

impl Route {
    /// The relay; `None` when direct.
    #[must_use]
    pub fn relay(&self) -> Option<&NodeName> {
        match self {
            Self::Direct => None,
            Self::Via(relay) => Some(relay),
        }
    }

    /// The node to which a packet for `end` goes first.
    pub(crate) fn first_node<'a>(&'a self, end: &'a NodeName) -> &'a NodeName {
        self.relay().unwrap_or(end)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Via(relay) => write!(f, "via {relay}"),
        }
    }
}

/// The text is not a route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseRouteError {
    /// Neither `direct` nor `via NODE`.
    #[error("a route is written `direct` or `via NODE`")]
    Form,
    /// What follows `via` is no node name.
    #[error(transparent)]
    Name(#[from] ParseNameError),
}

impl FromStr for Route {
    type Err = ParseRouteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("via ") {
            Some(relay) => Ok(Self::Via(relay.parse()?)),
            None if text == "direct" => Ok(Self::Direct),
            None => Err(ParseRouteError::Form),
        }
    }
}

impl TryFrom<String> for Route {
    type Error = ParseRouteError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Route> for String {
    fn from(route: Route) -> Self {
        route.to_string()
    }
}

/// Nodes that one lane may avoid: all of an overlay.
const MAX_AVOIDED: usize = 256;

/// The requirements of a lane on its routes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct RouteWish {
    /// Which quality matters.
    pub hint: Hint,
    /// The traffic class, for relays' policies: a name by [`is_class`].
    #[serde(deserialize_with = "bounded_class")]
    pub class: Option<String>,
    /// The only route that may be taken, if a rule says so.
    pub pin: Option<Route>,
    /// Relays that must not be crossed; at most 256, as many as an overlay has nodes.
    #[serde(deserialize_with = "bounded_avoid")]
    pub avoid: Vec<NodeName>,
}

/// Whether `text` is the name of a traffic class: 1 to 32 characters of a-z, 0-9, `-` and `_`.
#[must_use]
pub fn is_class(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

/// Reads a class that a peer sent: a name by [`is_class`], or none.
pub(crate) fn bounded_class<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let class = Option::<String>::deserialize(d)?;
    if class.as_deref().is_some_and(|class| !is_class(class)) {
        return Err(D::Error::custom("not the name of a traffic class"));
    }
    Ok(class)
}

fn bounded_avoid<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<NodeName>, D::Error> {
    let avoid = Vec::deserialize(d)?;
    if avoid.len() > MAX_AVOIDED {
        return Err(D::Error::custom("more nodes to avoid than an overlay has"));
    }
    Ok(avoid)
}

impl RouteWish {
    /// Whether the wish allows `route`.
    #[must_use]
    pub fn admits(&self, route: &Route) -> bool {
        match (&self.pin, route) {
            (Some(pin), route) => pin == route,
            (None, Route::Direct) => true,
            (None, Route::Via(relay)) => !self.avoid.contains(relay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_reads_back_what_it_prints() {
        for text in ["direct", "via utah"] {
            assert_eq!(text.parse::<Route>().unwrap().to_string(), text);
        }
        for text in ["", "Direct", "via", "via ", "via UTAH", "utah"] {
            assert!(text.parse::<Route>().is_err(), "{text:?}");
        }
    }
    #[test]
    fn a_class_or_a_list_that_is_too_long_is_malformed() {
        let read = |class: &str, avoided: usize| {
            let avoid = vec!["utah".parse().unwrap(); avoided];
            let wish = RouteWish { class: Some(class.into()), avoid, ..RouteWish::default() };
            postcard::from_bytes::<RouteWish>(&postcard::to_stdvec(&wish).unwrap()).is_ok()
        };
        assert!(read("bulk-2_b", MAX_AVOIDED) && read(&"x".repeat(32), 0));
        for class in ["", "Bulk", "a b", "\x1b[2J", &"x".repeat(33)] {
            assert!(!read(class, 0), "{class:?}");
        }
        assert!(!read("bulk", MAX_AVOIDED + 1));
    }
}
