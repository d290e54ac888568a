//! A member with a lane that sends frames of QUIC without end, or opens flows that nobody answers.

use std::time::Duration;

use noq::VarInt;
use tokio::time::{Instant, sleep};

use crate::{meters::Limits, peer::open_flow, stage::Stage};

/// How long each storm lasts.
const LENGTH: Duration = Duration::from_secs(20);

#[test]
fn streams_that_are_reset_at_once_cost_an_exit_little() {
    let stage = Stage::new(941);
    let (begun, cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let lane = stage.mallory.lane_to(&stage.lab, &link, "exit").await.unwrap();
        let (mut begun, end) = (0u64, Instant::now() + LENGTH);
        while Instant::now() < end && lane.close_reason().is_none() {
            for _ in 0..16 {
                let Some((mut send, mut recv)) = open_flow(&lane, "sink.test:80").await else {
                    break;
                };
                let _ = send.reset(0u32.into());
                let _ = recv.stop(0u32.into());
                begun += 1;
            }
            sleep(Duration::from_millis(5)).await;
        }
        begun
    });
    println!("{begun} streams opened and reset: {cost}");
    assert!(begun > 1_000, "{begun}");
    cost.assert_within(Limits { peak: 16 << 20, cores: 1.0, ..Limits::default() });
}

#[test]
fn reset_notices_and_endless_credit_cost_a_neighbour_little() {
    let stage = Stage::new(942);
    let (sent, cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let (mut sent, end) = (0u32, Instant::now() + LENGTH);
        while Instant::now() < end && link.ended().is_none() {
            // A MAX_STREAMS frame of each kind, and one of MAX_DATA.
            link.conn.set_max_concurrent_uni_streams(VarInt::from_u32(100 + sent % 50_000));
            link.conn.set_max_concurrent_bi_streams(VarInt::from_u32(100 + sent % 50_000));
            link.conn.set_receive_window(VarInt::from_u32((1 << 20) + sent));
            if let Ok(Ok(mut stream)) =
                tokio::time::timeout(Duration::from_millis(5), link.conn.open_uni()).await
            {
                let _ = stream.write(&[7]).await;
                let _ = stream.reset(0u32.into());
            }
            sent += 1;
            sleep(Duration::from_millis(1)).await;
        }
        sent
    });
    println!("{sent} rounds of credit and of notices that are reset: {cost}");
    assert!(sent > 100, "{sent}");
    cost.assert_within(Limits { peak: 16 << 20, cores: 1.0, ..Limits::default() });
}
