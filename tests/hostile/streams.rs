//! Streams of a lane that do not say what they are for, or give no room for the answer.

use std::time::Duration;

use noq::{Connection, RecvStream, SendStream};
use tokio::time::{sleep, timeout};

use crate::{
    meters::Limits,
    peer::{Windows, open_flow},
    stage::Stage,
};

/// As many as a lane may carry flows.
const TRIES: usize = 4_096;

/// Of the 64 that an entry may have.
const LANES: usize = 8;

/// Opens streams until there is no room for more, and begins each with these bytes.
async fn begin(lane: &Connection, bytes: &[u8]) -> Vec<(SendStream, RecvStream)> {
    let mut begun = Vec::new();
    while begun.len() < TRIES {
        let opened = timeout(Duration::from_secs(1), lane.open_bi()).await;
        let Ok(Ok((mut send, recv))) = opened else { break };
        send.write_all(bytes).await.unwrap();
        begun.push((send, recv));
    }
    begun
}

#[test]
fn streams_that_announce_much_and_say_nothing_are_few_and_small() {
    let stage = Stage::new(909);
    let (begun, cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let mut kept = Vec::new();
        for _ in 0..LANES {
            let lane = stage.mallory.lane_to(&stage.lab, &link, "exit").await.unwrap();
            let begun = begin(&lane, &[0xff, 0xff]).await;
            kept.push((lane, begun));
        }
        sleep(Duration::from_secs(2)).await;
        kept.iter().map(|(_, begun)| begun.len()).sum::<usize>()
    });
    println!("{begun} streams of {LANES} lanes that announce 64 KiB each: {cost}");
    assert!(begun <= LANES * 200, "{begun}");
    cost.assert_within(Limits { peak: 16 << 20, cores: 1.0, ..Limits::default() });
}

#[test]
fn a_flow_whose_entry_takes_no_answer_ends() {
    let stage = Stage::new(910);
    let exit = stage.node("exit");
    let flows = stage.run(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let victim = stage.victim("exit");
        let lane = stage.mallory.peer().lane_with(&victim, &link, Windows::None).await.unwrap().0;
        let mut kept = Vec::new();
        for _ in 0..50 {
            kept.push(open_flow(&lane, "sink.test:80").await.unwrap());
        }
        sleep(Duration::from_secs(1)).await;
        let open = exit.status().exit_flows;
        // The bound, and some round trips.
        sleep(Duration::from_secs(22)).await;
        (open, exit.status().exit_flows)
    });
    assert_eq!(flows, (50, 0), "at once, and after 20 s");
}
