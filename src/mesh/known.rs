//! Members that come and go, as events.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::PoisonError,
};

use super::{MemberFacts, Mesh};
use crate::{
    events::{Event, LeftWhy},
    identity::NodeName,
};

/// The members whose coming was recorded, and whether their certificate is in force. As many as there
/// are members.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<NodeName, bool>);

impl Known {
    /// Compares what is known with what is known now; returns what happened.
    fn compare(&mut self, members: &[MemberFacts]) -> Vec<Event> {
        let mut events = Vec::new();
        let gone = |name: &NodeName| !members.iter().any(|member| member.name == *name);
        self.0.retain(|name, in_force| {
            let gone = gone(name);
            if gone && *in_force {
                events.push(Event::MemberLeft { name: name.clone(), why: LeftWhy::Forgotten });
            }
            !gone
        });
        for member in members {
            let name = member.name.clone();
            match (self.0.entry(name.clone()), member.certified.is_some()) {
                (Entry::Vacant(place), true) => {
                    place.insert(true);
                    events.push(Event::MemberJoined { name });
                }
                (Entry::Occupied(mut known), in_force) => {
                    match (known.insert(in_force), in_force) {
                        (true, false) => {
                            let why = LeftWhy::CertificateEnded;
                            events.push(Event::MemberLeft { name, why });
                        }
                        (false, true) => events.push(Event::MemberJoined { name }),
                        _ => {}
                    }
                }
                (Entry::Vacant(_), false) => {}
            }
        }
        events
    }

    /// Forgets a member without an event: its revocation has one of its own.
    pub(super) fn forget(&mut self, name: &NodeName) {
        self.0.remove(name);
    }
}

impl Mesh {
    /// Records which members came and went.
    pub(super) fn record_members(&self) {
        let members = self.known_members();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.compare(&members).into_iter().for_each(|event| self.events.record(event));
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::*;
    use crate::identity::{
        Peer,
        test_support::{NOW, Overlay},
    };

    fn member(name: &str, certified: Option<&Arc<Peer>>) -> MemberFacts {
        let (name, certified) = (name.parse().unwrap(), certified.cloned());
        MemberFacts { name, addresses: Vec::new(), certified, heard: Instant::now() }
    }

    #[test]
    fn members_come_and_go_once() {
        let peer = Arc::new(Overlay::new().node("utah", NOW).peer().clone());
        let name: NodeName = "utah".parse().unwrap();
        let (valid, ended) = ([member("utah", Some(&peer))], [member("utah", None)]);
        let joined = Event::MemberJoined { name: name.clone() };
        let left = |why| Event::MemberLeft { name: name.clone(), why };
        let mut known = Known::default();
        assert!(known.compare(&ended).is_empty());
        assert_eq!(known.compare(&valid), vec![joined.clone()]);
        assert!(known.compare(&valid).is_empty());
        assert_eq!(known.compare(&ended), [left(LeftWhy::CertificateEnded)]);
        assert!(known.compare(&[]).is_empty());
        assert_eq!(known.compare(&valid), [joined]);
        assert_eq!(known.compare(&[]), [left(LeftWhy::Forgotten)]);
        known.compare(&valid);
        known.forget(&name);
        assert!(known.compare(&[]).is_empty());
    }
}
