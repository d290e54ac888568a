//! What a web page can make the entry and the exit hold.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use crate::{meters::Limits, stage::Stage, support};

/// Connections that a page leaves half-closed.
const FLOWS: usize = 200;

#[test]
fn flows_that_end_on_one_side_are_gone_after_a_minute() {
    let stage = Stage::new(141);
    let flows = || stage.node("exit").status().exit_flows;
    let ((held, left), cost) = stage.attack(async {
        let mut kept = Vec::new();
        for _ in 0..FLOWS {
            let mut io = support::open(stage.node("entry"), "deaf.test:80").await;
            io.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            io.shutdown().await.unwrap();
            kept.push(io);
        }
        let held = flows();
        sleep(Duration::from_secs(65)).await;
        for io in &mut kept {
            assert!(io.read(&mut [0]).await.is_err(), "the page's flow stands");
        }
        (held, flows())
    });
    println!("half-closed flows at the exit: {held}, then {left}; {cost}");
    // The member that works beside has one flow, and a new one now and then.
    assert!(held >= FLOWS && left <= 3, "{held}, {left}");
    cost.assert_within(Limits { peak: 32 << 20, ..Limits::default() });
}
