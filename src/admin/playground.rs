//! Paths that may be cut: of the demo, whose Internet is emulated. No other node has any.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An Internet to play with.
#[derive(Clone)]
pub(crate) struct Playground {
    /// Its paths.
    pub paths: Arc<dyn Fn() -> Vec<PlayPath> + Send + Sync>,
    /// Cuts the path between two nodes, or heals it.
    pub cut: Arc<Cut>,
}

type Cut = dyn Fn(&str, &str, bool) -> Result<(), String> + Send + Sync;

/// A path between two nodes, both ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlayPath {
    /// One end.
    pub from: String,
    /// The other one.
    pub to: String,
    /// Whether it is cut.
    pub cut: bool,
}

/// Cuts or heals the path that the question names.
///
/// # Errors
/// A sentence that says what to write instead.
pub(super) fn cut(playground: &Playground, asked: &str) -> Result<Vec<PlayPath>, String> {
    let field = |wanted: &str| {
        let mut fields = form_urlencoded::parse(asked.as_bytes());
        fields.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let cut = match field("cut").as_deref() {
        Some("1") => true,
        Some("0") => false,
        _ => return Err("write cut=1 or cut=0, as in /path?from=utah&to=mit&cut=1".to_owned()),
    };
    let (from, to) = (field("from").unwrap_or_default(), field("to").unwrap_or_default());
    (playground.cut)(&from, &to, cut)?;
    Ok((playground.paths)())
}
