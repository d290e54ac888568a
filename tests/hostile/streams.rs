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

/// Opens so many flows at once on each lane, or as many as have room, one lane after the other, and ends them.
async fn open_and_end(lanes: &[Connection], flows: usize) {
    for lane in lanes {
        let mut open = Vec::new();
        while open.len() < flows {
            // Without room for one more.
            let Some(flow) = open_flow(lane, "sink.test:80").await else { break };
            open.push(flow);
        }
        for (send, recv) in &mut open {
            send.reset(0_u32.into()).unwrap();
            recv.stop(0_u32.into()).unwrap();
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Lanes to the exit.
async fn lanes(stage: &Stage, count: usize) -> Vec<Connection> {
    let link = stage.mallory.link_to(&stage.lab, "exit").await;
    let mut lanes = Vec::new();
    while lanes.len() < count {
        lanes.push(stage.mallory.lane_to(&stage.lab, &link, "exit").await.unwrap());
    }
    lanes
}

/// What the lanes of an entry may gain in all: four times its flows and those that wait for a refusal.
const GAINED: usize = 4 * (2_048 + 1_024);

#[test]
fn lanes_that_had_many_flows_keep_no_room_for_streams_without_end() {
    const WIDE: usize = 6;
    let stage = Stage::new(911);
    let lanes = stage.run(async {
        let lanes = lanes(&stage, WIDE).await;
        open_and_end(&lanes, 2_000).await;
        lanes
    });
    let (begun, cost) = stage.attack(async {
        let mut kept = Vec::new();
        for lane in &lanes {
            kept.extend(begin(lane, &[0xff, 0xff]).await);
        }
        sleep(Duration::from_secs(2)).await;
        kept.len()
    });
    println!("{begun} streams of {WIDE} lanes that had 2,000 flows each: {cost}");
    assert!((10_000..=GAINED + WIDE * 64).contains(&begun), "{begun}");
    cost.assert_within(Limits { peak: 32 << 20, cores: 1.0, log_lines: 200, ..Limits::default() });
}

#[test]
fn streams_that_keep_the_exit_waiting_are_few() {
    let stage = Stage::new(912);
    let (waiting, _) = stage.attack(async {
        let lanes = lanes(&stage, 2).await;
        open_and_end(&lanes, 1_000).await;
        let (mut waiting, mut kept) = (0, Vec::new());
        for lane in &lanes {
            let mut begun = begin(lane, &[0, 9]).await;
            sleep(Duration::from_secs(1)).await;
            for (_, recv) in &mut begun {
                let ended = timeout(Duration::from_millis(1), recv.read(&mut [0; 1])).await;
                waiting += usize::from(ended.is_err());
            }
            kept.push(begun);
        }
        waiting
    });
    assert!((500..=512).contains(&waiting), "{waiting}");
}

#[test]
fn streams_that_an_entry_never_ends_are_bounded_on_all_its_lanes() {
    const WIDE: usize = 8;
    let stage = Stage::new(913);
    let (begun, cost) = stage.attack(async {
        let lanes = lanes(&stage, WIDE).await;
        let mut kept = Vec::new();
        for lane in &lanes {
            let before = kept.len();
            // Refused at once; this end never says that it sends no more.
            while let Some(stream) = open_flow(lane, "nowhere.test:80").await {
                kept.push(stream);
                if kept.len() - before == TRIES {
                    break;
                }
            }
        }
        kept.len()
    });
    println!("{begun} streams of {WIDE} lanes that never end: {cost}");
    assert!(begun <= GAINED + WIDE * 64, "{begun}");
    cost.assert_within(Limits { peak: 32 << 20, cores: 1.0, log_lines: 200, ..Limits::default() });
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
