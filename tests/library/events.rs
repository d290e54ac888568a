//! What happens to a node, as its program reads it; and reports.

use std::time::Duration;

use ronproxy::{
    Error, Event, Events, FlowFacts, Lagged, LaneSide, LaneStatus, LinkFacts, NodeStatus,
    RefusalKind, RerouteKind, Route,
};
use tokio::time::{sleep, timeout};

use super::{SOON, echo, example_events, overlay, triangle, type_a_key};

/// The next event that `wanted` knows; none that were missed before.
async fn next<T>(events: &mut Events, wanted: impl Fn(&Event) -> Option<T>) -> T {
    let found = async {
        loop {
            let record = events.next().await.expect("the node has stopped").unwrap();
            if let Some(found) = wanted(&record.event) {
                return found;
            }
        }
    };
    timeout(SOON, found).await.expect("it was not told")
}

#[tokio::test(start_paused = true)]
async fn the_example_events_tells_of_a_cut() {
    let told = example_events::in_memory().await.unwrap();
    assert!(told.iter().any(|line| line.contains("moved from direct to via relay")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_program_reads_what_becomes_of_its_streams_and_of_links() {
    let (lab, node) = triangle().await;
    sleep(Duration::from_secs(3)).await;
    let mut events = node.events();
    assert_eq!(events.try_next(), None, "it begins now");
    let mut stream = echo(&node).await;
    let opened = next(&mut events, |event| match event {
        Event::FlowOpened { label, route, .. } => Some((*label, route.clone())),
        _ => None,
    });
    assert_eq!(opened.await, (stream.label(), Some(Route::Direct)));
    let (a, b) = (lab.topology().address("entry"), lab.topology().address("exit"));
    lab.internet().cut(a, b);
    timeout(SOON, type_a_key(&mut stream)).await.expect("it stands still").unwrap();
    let moved = next(&mut events, |event| match event {
        Event::Rerouted { end, from, to, reason, stall_ms, .. } => {
            Some((*end, from.clone(), to.clone(), *reason, *stall_ms))
        }
        _ => None,
    });
    let (end, from, to, reason, stall) = moved.await;
    // Whichever end notices the silence first tells the other one.
    assert!(matches!(reason, RerouteKind::Silent | RerouteKind::FarEnd), "{reason:?}");
    assert_eq!(end, LaneSide::Entry);
    assert_eq!((from, to.to_string()), (Route::Direct, "via relay".to_owned()));
    assert!(stall.is_some_and(|ms| ms < 1_000.0), "{stall:?}");
    // A reader that comes later can begin at the start.
    let down = Event::LinkDown { peer: "exit".parse().unwrap() };
    let mut all = node.events().from_the_start();
    next(&mut all, |event| matches!(event, Event::FlowOpened { .. }).then_some(())).await;
    next(&mut all, |event| (*event == down).then_some(())).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_told_how_many_events_it_missed() {
    let (lab, node) = triangle().await;
    let (mut slow, mut second) = (node.events(), node.events());
    // A class of events keeps 1,024.
    for _ in 0..1_024 + 7 {
        let refused = node.connect("echo.test:7").exit("nobody").await;
        assert!(matches!(refused, Err(Error::Refused(_))));
    }
    assert_eq!(slow.next().await, Some(Err(Lagged { missed: 7 })));
    let mut read = 0;
    while let Some(news) = slow.try_next() {
        let event = news.unwrap().event;
        assert!(matches!(event, Event::FlowRefused { reason: RefusalKind::NoExit, .. }), "{event}");
        read += 1;
    }
    assert_eq!(read, 1_024);
    // Another reader misses as many, whatever the first one read.
    assert_eq!(second.try_next(), Some(Err(Lagged { missed: 7 })));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn events_end_with_the_node_when_all_are_read() {
    let (lab, node) = triangle().await;
    let mut events = node.events();
    let refused = node.connect("echo.test:7").exit("nobody").await;
    assert!(refused.is_err());
    let mut waits = node.events();
    let waiting = tokio::spawn(async move { waits.next().await });
    sleep(Duration::from_millis(10)).await;
    node.stop().await;
    assert_eq!(timeout(SOON, waiting).await.expect("a reader hangs").unwrap(), None);
    drop(node);
    let Some(Ok(last)) = events.next().await else { panic!("it forgot") };
    assert!(matches!(last.event, Event::FlowRefused { .. }), "{last:?}");
    assert_eq!(events.next().await, None);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn reports_show_streams_lanes_and_links_with_their_types() {
    let (lab, node) = triangle().await;
    let stream = echo(&node).await;
    let flows = node.flows();
    assert_eq!((flows.len(), flows[0].label), (1, stream.label()));
    assert_eq!((&flows[0].exit, flows[0].route.clone()), (stream.exit(), stream.route()));
    let lane = &node.lanes()[0];
    assert_eq!((lane.end, Some(lane.facts.lane)), (LaneSide::Entry, flows[0].lane));
    assert_eq!(node.links().iter().filter(|link| link.up).count(), 2);
    let status = node.status();
    assert_eq!((status.members, status.flows, status.lanes_out), (2, 1, 1));
    lab.stop().await;
    assert_eq!(node.status().links_up, 0, "a stopped node answers, too");
}

/// What commands print reads back as the reports of the library.
pub(super) fn listings_read_back(dir: &std::path::Path) {
    fn read<T: serde::de::DeserializeOwned>(dir: &std::path::Path, listing: &str) -> T {
        serde_json::from_value(overlay::json(dir, &[listing])).unwrap()
    }
    let status: NodeStatus = read(dir, "status");
    let (links, lanes): (Vec<LinkFacts>, Vec<LaneStatus>) =
        (read(dir, "links"), read(dir, "lanes"));
    let flows: Vec<FlowFacts> = read(dir, "flows");
    assert_eq!((status.members, status.lanes_out, status.flows), (links.len(), lanes.len(), 1));
    assert_eq!(flows[0].lane, Some(lanes[0].facts.lane));
}
