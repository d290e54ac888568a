//! A routing rule in words, and the identifier that goes with them. PURE.

use std::fmt::{Display, Write as _};

use ring::digest::{SHA256, digest};

use super::rules::{Action, Matches};

/// Bytes of an identifier: among 1,024 rules two different ones share it once in 8,000 files.
const ID_BYTES: usize = 4;

/// A rule as people read it: `domain mit.edu, port 443 → exit mit, hint loss`.
pub(super) fn told(matches: &Matches, action: &Action) -> String {
    let mut parts = Vec::new();
    list(&mut parts, "domain", &matches.domain);
    list(&mut parts, "cidr", &matches.cidr);
    list(&mut parts, "port", &matches.port);
    list(&mut parts, "user", &matches.user);
    list(&mut parts, "client", &matches.client);
    let matches = if parts.is_empty() { "every flow".to_owned() } else { parts.join(", ") };
    let mut parts = Vec::new();
    match action {
        Action::Reject => parts.push("reject".to_owned()),
        Action::Overlay(wishes) => {
            list(&mut parts, "exit", &wishes.exits);
            list(&mut parts, "fallback", &wishes.fallback);
            list(&mut parts, "hint", wishes.hint.as_slice());
            list(&mut parts, "class", wishes.class.as_slice());
            parts.extend(wishes.pin.as_ref().map(ToString::to_string));
            list(&mut parts, "avoid", &wishes.avoid);
            let patience = wishes.patience.map(humantime::format_duration);
            list(&mut parts, "patience", patience.as_slice());
            list(&mut parts, "spread", wishes.spread.as_slice());
        }
    }
    let action = if parts.is_empty() { "as the node decides".to_owned() } else { parts.join(", ") };
    format!("{matches} → {action}")
}

/// `name a or b`, if there are any.
fn list(parts: &mut Vec<String>, name: &str, items: &[impl Display]) {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    if !items.is_empty() {
        parts.push(format!("{name} {}", items.join(" or ")));
    }
}

/// The identifier of the rule with these words: it stays when other rules come and go.
pub(super) fn id(told: &str) -> String {
    let digest = digest(&SHA256, told.as_bytes());
    digest.as_ref().iter().take(ID_BYTES).fold(String::new(), |mut id, byte| {
        // Writing to a string does not fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}
