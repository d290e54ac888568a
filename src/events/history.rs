//! The events of the last day, bounded. PURE.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Class, Event};

/// Events kept of each class. A page with four times as many has about 1 MB.
pub const KEPT: usize = 1024;

/// Older events are forgotten: "what was that hiccup this morning" is answered, and what somebody did the
/// day before is no longer in memory.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Time since the node started. It ages events, as a wall clock may jump.
    pub since_start: Duration,
    /// Milliseconds since 1970, to be shown.
    pub unix_ms: u64,
}

/// One event of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its number: 1 is the first since the node started, and none is left out.
    pub id: u64,
    /// When it happened, in milliseconds since 1970.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Which events a reader asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Those after this number; `None`: the last ones.
    pub since: Option<u64>,
    /// At most so many; `None`: all that are kept.
    pub limit: Option<usize>,
    /// Those of these classes; empty: of all.
    pub classes: Vec<Class>,
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The events, oldest first.
    pub events: Vec<Record>,
    /// How many events between the one asked for and the last one here are no longer kept.
    pub dropped: u64,
    /// What to ask for next: the number of the last event looked at.
    pub next: u64,
}

/// The events of the last day, at most [`KEPT`] of each class.
#[derive(Debug, Default)]
pub struct History {
    last: u64,
    /// Of each class, oldest first, with the time when it is forgotten.
    kept: [VecDeque<(Duration, Record)>; Class::ALL.len()],
}

impl History {
    /// Adds an event that happened `ago` before `now`; the oldest of its class makes room.
    pub fn add(&mut self, now: Moment, ago: Duration, event: Event) -> u64 {
        self.forget(now.since_start);
        self.last += 1;
        let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        let ring = &mut self.kept[event.class() as usize];
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        let at_ms = now.unix_ms.saturating_sub(ago_ms);
        ring.push_back((now.since_start + KEPT_FOR, Record { id: self.last, at_ms, event }));
        self.last
    }

    /// Puts what an earlier process kept, oldest first, before what happened in this one, which is numbered on.
    /// What the wall clock says to be from more than a day ago is left out.
    pub fn restore(&mut self, now: Moment, earlier: Vec<Record>) {
        let last = earlier.iter().map(|record| record.id).max().unwrap_or(0);
        for (_, record) in self.kept.iter_mut().flatten() {
            record.id += last;
        }
        self.last += last;
        for record in earlier.into_iter().rev() {
            // A time to come is that of a clock that was ahead.
            let age = Duration::from_millis(now.unix_ms.saturating_sub(record.at_ms));
            let ring = &mut self.kept[record.event.class() as usize];
            if age <= KEPT_FOR && ring.len() < KEPT {
                ring.push_front((now.since_start + KEPT_FOR - age, record));
            }
        }
    }

    /// The number of the last event; 0 before the first.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The events that `query` asks for.
    pub fn read(&mut self, now: Moment, query: &Query) -> Page {
        self.forget(now.since_start);
        let wanted = |class: &Class| query.classes.is_empty() || query.classes.contains(class);
        // A reader of an earlier process of this node begins anew.
        let since = query.since.filter(|since| *since <= self.last);
        let after = since.unwrap_or(0);
        let rings = Class::ALL.iter().filter(|class| wanted(class));
        let records = rings.flat_map(|class| &self.kept[*class as usize]);
        let mut events: Vec<&Record> =
            records.map(|(_, record)| record).filter(|record| record.id > after).collect();
        events.sort_unstable_by_key(|record| record.id);
        let limit = query.limit.unwrap_or(usize::MAX);
        let mut next = self.last;
        if events.len() > limit {
            match since {
                Some(_) => {
                    events.truncate(limit);
                    next = events.last().map_or(after, |record| record.id);
                }
                None => drop(events.drain(..events.len() - limit)),
            }
        }
        let dropped = if since.is_some() { self.missing(after, next) } else { 0 };
        Page { events: events.into_iter().cloned().collect(), dropped, next }
    }

    /// How many of the events after `after`, up to `next`, are no longer kept.
    fn missing(&self, after: u64, next: u64) -> u64 {
        let within = |(_, record): &&(Duration, Record)| (after + 1..=next).contains(&record.id);
        let held = self.kept.iter().flatten().filter(within).count() as u64;
        next.saturating_sub(after).saturating_sub(held)
    }

    fn forget(&mut self, now: Duration) {
        for ring in &mut self.kept {
            while ring.front().is_some_and(|(until, _)| now > *until) {
                ring.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Refusal, RefusalKind};

    fn at(seconds: u64) -> Moment {
        let unix_ms = 1_700_000_000_000 + seconds * 1000;
        Moment { since_start: Duration::from_secs(seconds), unix_ms }
    }

    fn link_up() -> Event {
        Event::LinkUp { peer: "utah".parse().unwrap() }
    }

    fn refused() -> Event {
        Event::refused("a.test:1".into(), &Refusal::new(RefusalKind::Policy, "no"))
    }

    fn after(since: u64) -> Query {
        Query { since: Some(since), ..Query::default() }
    }

    #[test]
    fn a_flood_of_one_class_leaves_the_others_and_says_what_it_cost() {
        let mut history = History::default();
        history.add(at(0), Duration::ZERO, link_up());
        for _ in 0..KEPT + 7 {
            history.add(at(1), Duration::ZERO, refused());
        }
        let page = history.read(at(2), &after(0));
        assert_eq!((page.events.len(), page.dropped), (KEPT + 1, 7));
        assert_eq!(page.events[0].event, link_up());
        assert_eq!(page.next, history.last());
        let overlay = Query { classes: vec![Class::Overlay], ..Query::default() };
        assert_eq!(history.read(at(2), &overlay).events.len(), 1);
        // Who reads on has missed nothing more.
        assert_eq!(history.read(at(2), &after(page.next)).dropped, 0);
    }

    #[test]
    fn a_reader_pages_forwards_or_asks_for_the_last_ones() {
        let mut history = History::default();
        for n in 0..10 {
            history.add(at(n), Duration::ZERO, link_up());
        }
        let ids = |page: &Page| page.events.iter().map(|record| record.id).collect::<Vec<_>>();
        let page = history.read(at(10), &Query { limit: Some(3), ..after(2) });
        assert_eq!((ids(&page), page.next), (vec![3, 4, 5], 5));
        let page = history.read(at(10), &Query { limit: Some(2), ..Query::default() });
        assert_eq!((ids(&page), page.next), (vec![9, 10], 10));
        // A number of another process of this node.
        assert_eq!(ids(&history.read(at(10), &after(999))).len(), 10);
    }

    #[test]
    fn events_of_an_earlier_process_come_first_and_age_on() {
        let mut earlier = History::default();
        for n in 0..3 {
            earlier.add(at(n), Duration::ZERO, link_up());
        }
        let day = 24 * 3600;
        let kept = earlier.read(at(3), &Query::default()).events;
        // A process that starts when the first one is older than a day.
        let wall =
            |seconds| Moment { since_start: Duration::from_secs(seconds), ..at(day + seconds) };
        let mut history = History::default();
        history.add(wall(1), Duration::ZERO, refused());
        history.restore(wall(1), kept.clone());
        let page = history.read(wall(1), &Query::default());
        let ids: Vec<u64> = page.events.iter().map(|record| record.id).collect();
        assert_eq!((ids, history.last()), (vec![2, 3, 4], 4));
        assert_eq!(history.read(wall(2), &after(0)).events.len(), 2);
        assert_eq!(history.add(wall(5), Duration::ZERO, link_up()), 5);
        assert_eq!(history.read(wall(5), &after(0)).events.len(), 2);
        // A file with more than there is room for.
        let many = kept.iter().cycle().take(3 * KEPT).cloned().collect();
        history.restore(wall(5), many);
        assert!(history.read(wall(5), &Query::default()).events.len() <= 2 * KEPT);
    }

    #[test]
    fn an_event_is_forgotten_after_a_day_whatever_the_wall_clock_does() {
        let mut history = History::default();
        history.add(at(5), Duration::from_millis(2500), link_up());
        let day = 24 * 3600;
        let jumped = Moment { unix_ms: 5_000_000_000_000, ..at(day) };
        let page = history.read(jumped, &Query::default());
        assert_eq!(page.events[0].at_ms, 1_700_000_002_500);
        let page = history.read(at(day + 6), &after(0));
        assert_eq!((page.events.len(), page.dropped), (0, 1));
    }
}
