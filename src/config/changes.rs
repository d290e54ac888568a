//! What differs between two configurations, and what of it needs a restart. Pure.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Config;

/// What a new configuration changes, by section or key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Changes {
    /// What can be put into force while the node runs.
    pub live: Vec<Cow<'static, str>>,
    /// What needs a restart.
    pub restart: Vec<Cow<'static, str>>,
}

impl Changes {
    /// Leaves out a section that concerns another program.
    pub(crate) fn leave_out(&mut self, section: &str) {
        let concerns =
            |name: &Cow<'static, str>| name.split('.').next().is_none_or(|first| first != section);
        self.live.retain(concerns);
        self.restart.retain(concerns);
    }
}

impl Config {
    /// What `next` changes.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Changes {
        let differ = |pairs: &[(&'static str, bool)]| {
            pairs.iter().filter(|(_, differs)| *differs).map(|(name, _)| (*name).into()).collect()
        };
        Changes {
            live: differ(&[
                ("node.advertise", self.node.advertise != next.node.advertise),
                ("rule", self.rules != next.rules),
                ("policy", self.policy != next.policy),
                ("flow", self.flow != next.flow),
                ("entry.users", self.entry.users != next.entry.users),
                ("exit.allow", self.exit.allow != next.exit.allow),
                ("exit.deny", self.exit.deny != next.exit.deny),
                ("exit.allow_private", self.exit.allow_private != next.exit.allow_private),
                (
                    "exit.max_associations_per_entry",
                    self.exit.max_associations_per_entry != next.exit.max_associations_per_entry,
                ),
                ("log.filter", self.log.filter != next.log.filter),
                ("log.destinations", self.log.destinations != next.log.destinations),
            ]),
            restart: differ(&[
                ("node", self.node_apart() != next.node_apart()),
                ("entry", self.entry_apart() != next.entry_apart()),
                ("exit", self.exit_apart() != next.exit_apart()),
                ("lane", self.lane != next.lane),
                ("probe", self.probe != next.probe),
                ("relay", self.relay != next.relay),
                ("authority", self.authority != next.authority),
                ("dashboard", self.dashboard != next.dashboard),
                ("events", self.events != next.events),
                ("log.format", self.log.format != next.log.format),
            ]),
        }
    }

    /// The node's section without what is live.
    fn node_apart(&self) -> super::Node {
        super::Node { advertise: Vec::new(), ..self.node.clone() }
    }

    /// The entry's section without what is live.
    fn entry_apart(&self) -> crate::entry::Config {
        crate::entry::Config { users: Vec::new(), ..self.entry.clone() }
    }

    /// The exit's section without what is live.
    fn exit_apart(&self) -> crate::exit::Config {
        let plain = crate::exit::Config::default();
        crate::exit::Config {
            allow: plain.allow,
            deny: plain.deny,
            allow_private: plain.allow_private,
            max_associations_per_entry: plain.max_associations_per_entry,
            ..self.exit.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(from: &str, to: &str) -> Changes {
        Config::parse(from).unwrap().changes(&Config::parse(to).unwrap())
    }

    #[test]
    fn each_changed_key_is_named_with_what_it_needs() {
        assert_eq!(changes("", ""), Changes::default());
        let both = changes(
            "[[rule]]\nport = 25\nreject = true",
            "[exit]\nenabled = true\ndeny = [{ port = [25] }]\n[lane]\npatience = '10s'\n[log]\nfilter = 'debug'\n\
             [[entry.users]]\nname = 'ann'\npassword = 'x'",
        );
        assert_eq!(both.live, ["rule", "entry.users", "exit.deny", "log.filter"]);
        assert_eq!(both.restart, ["exit", "lane"]);
        let mut fewer = both;
        fewer.leave_out("log");
        assert_eq!(fewer.live, ["rule", "entry.users", "exit.deny"]);
        let fewer = changes("", "[exit]\nmax_associations_per_entry = 5");
        assert_eq!(fewer.live, ["exit.max_associations_per_entry"]);
        assert!(fewer.restart.is_empty());
        let named = changes("", "[node]\nadvertise = ['a.test:1']");
        assert_eq!(named.live, ["node.advertise"]);
        assert!(named.restart.is_empty());
        let named = changes("", "[node]\nadvertise = ['a.test:1']\nudp = false");
        assert_eq!(named.live, ["node.advertise"]);
        assert_eq!(named.restart, ["node"]);
        let moved = changes("", "[entry]\nlisten = '127.0.0.1:9'\n[dashboard]\nenabled = false");
        assert!(moved.live.is_empty());
        assert_eq!(moved.restart, ["entry", "dashboard"]);
    }
}
