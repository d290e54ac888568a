//! The demo's sites and the six paths between them, as data. PURE.

use std::fmt;

/// One of the four sites. The order is that of the map's reading direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Place {
    /// The entry: the visitor's proxy is here.
    ArosNet,
    /// A relay on the research backbone.
    Utah,
    /// The exit, in front of the campus web site.
    Mit,
    /// A relay behind a cable modem.
    MediaOne,
}

impl Place {
    /// All sites.
    pub(super) const ALL: [Self; 4] = [Self::ArosNet, Self::Utah, Self::Mit, Self::MediaOne];

    /// The name of the node and of the emulated site.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ArosNet => "arosnet",
            Self::Utah => "utah",
            Self::Mit => "mit",
            Self::MediaOne => "mediaone",
        }
    }

    /// The name as people write it.
    #[must_use]
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::ArosNet => "ArosNet",
            Self::Utah => "Utah",
            Self::Mit => "MIT",
            Self::MediaOne => "MediaOne",
        }
    }

    /// The site of this name, in any case.
    #[must_use]
    pub(super) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}

/// A path between two sites, both ways, by its number on the map less one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PathId(usize);

/// The ends of each path; the first is the path that flows would take without an overlay.
const ENDS: [(Place, Place); 6] = [
    (Place::ArosNet, Place::Mit),
    (Place::ArosNet, Place::Utah),
    (Place::Utah, Place::Mit),
    (Place::ArosNet, Place::MediaOne),
    (Place::MediaOne, Place::Mit),
    (Place::Utah, Place::MediaOne),
];

impl PathId {
    /// The Internet's own path from the entry to the exit.
    pub(super) const DIRECT: Self = Self(0);

    /// All paths, in the order of their numbers.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..ENDS.len()).map(Self)
    }

    /// The path with this number on the map, from 1 on.
    #[must_use]
    pub(super) fn numbered(number: usize) -> Option<Self> {
        number.checked_sub(1).filter(|index| *index < ENDS.len()).map(Self)
    }

    /// The path between two sites, named in either order.
    #[must_use]
    pub(super) fn between(a: Place, b: Place) -> Option<Self> {
        Self::all().find(|path| path.ends() == (a, b) || path.ends() == (b, a))
    }

    /// Its two ends.
    #[must_use]
    pub(super) const fn ends(self) -> (Place, Place) {
        ENDS[self.0]
    }

    /// Its number on the map.
    #[must_use]
    pub(super) const fn number(self) -> usize {
        self.0 + 1
    }

    /// Its place in arrays of paths.
    #[must_use]
    pub(super) const fn index(self) -> usize {
        self.0
    }
}

impl fmt::Display for PathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = self.ends();
        f.pad(&format!("{a}–{b}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_sites_has_one_path_in_either_order() {
        for a in Place::ALL {
            for b in Place::ALL.into_iter().filter(|b| *b != a) {
                let path = PathId::between(a, b).unwrap();
                assert_eq!(PathId::between(b, a), Some(path));
                assert_eq!(PathId::numbered(path.number()), Some(path));
            }
        }
        assert_eq!(PathId::all().count(), 6);
        assert_eq!((PathId::numbered(0), PathId::numbered(7)), (None, None));
    }
}
