//! The performance database by the library's door.

use std::time::Duration;

use ronproxy::{EmulatedPath, Emulation};
use tokio::time::sleep;

use super::example_perfdb;

#[tokio::test(start_paused = true)]
async fn the_example_perfdb_shows_who_measures_and_who_takes_over() {
    let told = example_perfdb::in_memory().await.unwrap();
    println!("{}", told.join("\n"));
    let by_itself = told.iter().filter(|line| line.ends_with("measured by itself")).count();
    let by_another = told.iter().filter(|line| line.ends_with("s ago")).count();
    // Three hosts, then two; one of them measures.
    assert_eq!((by_itself, by_another), (2, 3), "{told:#?}");
    let first = told[0].split(' ').next().unwrap();
    let after = told.iter().skip_while(|line| !line.ends_with("stops:")).skip(1);
    assert!(
        after.clone().count() == 3 && after.into_iter().all(|line| !line.contains(first)),
        "{told:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_lists_what_its_site_measured_with_source_and_age() {
    let path = EmulatedPath::new(Duration::from_millis(30));
    let plan = Emulation::new().entry("a").entry("b").exit("far").site(&["a", "b"]);
    let overlay = plan.path("a", "far", path).path("b", "far", path).start().await.unwrap();
    overlay.settled().await;
    sleep(Duration::from_secs(120)).await;
    let [a, b] = ["a", "b"].map(|name| overlay.node(name).unwrap().performance());
    // One measures for both.
    let [figure] = &[a, b].concat()[..] else { panic!("not one figure") };
    assert_eq!((figure.peer.as_str(), figure.used.as_str()), ("far", "used"));
    assert!((figure.rtt_ms - 60.0).abs() < 1.0 && figure.age_seconds < 75.0, "{figure:?}");
    overlay.stop().await;
}
