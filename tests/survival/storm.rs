//! Sessions of checked transfers while everything breaks.

use std::{cell::RefCell, rc::Rc, time::Duration};

use tokio::{
    task::LocalSet,
    time::{Instant, timeout},
};

use crate::{
    figures::{rng, row},
    transfers::{Door, Session, Tally},
    trouble::{Fragile, make_trouble},
};

/// Sessions of each entry at once.
const SESSIONS: u64 = 3;

/// How long it lasts: as many minutes as `RON_CHAOS_MINUTES` says.
pub(crate) fn span(default: u64) -> Duration {
    let minutes = std::env::var("RON_CHAOS_MINUTES").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(60 * minutes.unwrap_or(default))
}

/// How to have the same again.
pub(crate) fn replay(seed: u64, span: Duration) -> String {
    format!("replay with RON_SEED={seed} RON_CHAOS_MINUTES={}", span.as_secs() / 60)
}

/// Uses and breaks the overlay for a while; `doors` are those of its entries.
pub(crate) async fn rage<D: Door + Clone + 'static>(
    lab: &mut impl Fragile,
    doors: Vec<(&'static str, D)>,
    seed: u64,
    span: Duration,
) -> Tally {
    println!("chaos: {}", replay(seed, span));
    let tally = Rc::new(RefCell::new(Tally::default()));
    let until = Instant::now() + span;
    let tasks = LocalSet::new();
    for (i, (entry, door)) in (0..).zip(doors) {
        for n in 0..SESSIONS {
            let rng = rng(seed << 8 | i << 4 | n);
            let session = Session::new(rng, entry, door.clone(), tally.clone(), until);
            tasks.spawn_local(session.run(n));
        }
    }
    tasks.run_until(make_trouble(lab, rng(seed), until)).await;
    // Everything heals; what is open must come to its end.
    timeout(Duration::from_secs(240), tasks).await.unwrap_or_else(|_| {
        tally.borrow_mut().lost.push("a flow never ended after everything had healed".into());
    });
    Rc::into_inner(tally)
        .map_or_else(|| unreachable!("all sessions have ended"), RefCell::into_inner)
}

/// Prints what became of all flows, and fails if any was lost.
pub(crate) fn judge(tally: &Tally, seed: u64, span: Duration) {
    let figures = format!("{tally}; longest flow stall {:?}", tally.worst);
    row(&format!("chaos of {span:?}, seed {seed}"), &figures, "nothing lost");
    let replay = replay(seed, span);
    assert!(tally.lost.is_empty(), "{replay}: {:#?}", tally.lost);
    assert!(tally.finished > 20, "{replay}: hardly anything was carried");
}
