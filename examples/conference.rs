//! A video conference between two nodes: audio and video are two types of packets with one label, so they take
//! the same route. A path fails in the middle of it.
//!
//! ```text
//! cargo run --example conference
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{error::Error, time::Duration};

use ronproxy::{Emulation, FlowLabel, Hint, Node, Route};
use tokio::{
    task::JoinHandle,
    time::{Instant, interval, sleep},
};

/// All packets of the conference have this label.
const CALL: FlowLabel = FlowLabel(0xca11);

/// It lasts so long, and the path fails in the middle.
const LASTS: Duration = Duration::from_secs(4);

/// What is sent: 50 packets of voice a second, and 300 of video, 2.4 Mbit/s.
const AUDIO: Medium = Medium { name: "audio", every: Duration::from_millis(20), bytes: 160 };
const VIDEO: Medium = Medium { name: "video", every: Duration::from_micros(3_333), bytes: 1_000 };

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let conference = in_memory().await?;
    println!("audio and video went {}, then {}", conference.before, conference.after);
    conference.heard.iter().for_each(|heard| println!("{heard}"));
    Ok(())
}

/// What became of the conference.
pub(crate) struct Conference {
    /// The routes of the label's flow.
    pub(crate) before: Route,
    pub(crate) after: Route,
    /// What the other side had of each medium.
    pub(crate) heard: Vec<Heard>,
}

struct Medium {
    name: &'static str,
    every: Duration,
    bytes: usize,
}

/// An overlay of three nodes in this process: `entry` talks to `exit`.
pub(crate) async fn in_memory() -> Result<Conference, Box<dyn Error>> {
    let overlay = Emulation::triangle().start().await?;
    let (here, there) = (overlay.node("entry")?, overlay.node("exit")?);
    // Until the way by the relay is known.
    overlay.settled().await;
    let listeners = [AUDIO, VIDEO].map(|medium| listen(&there, medium));
    // The call begins when the other side has heard it ring. Until its flow is open, only 32 packets wait.
    let mut bell = there.conduit("ring")?;
    here.conduit("ring")?.label(CALL).hint(Hint::Latency).send("exit", b"")?;
    bell.recv().await?;
    let speakers = [AUDIO, VIDEO].map(|medium| speak(&here, medium));
    sleep(LASTS / 2).await;
    let before = route(&here).ok_or("no flow of the call")?;
    overlay.cut("entry", "exit")?;
    let mut sent = Vec::new();
    for speaker in speakers {
        sent.push(speaker?.await?);
    }
    let after = route(&here).ok_or("no flow of the call")?;
    // What is still under way.
    sleep(Duration::from_secs(1)).await;
    // The listeners end with their node.
    there.stop().await;
    let mut heard = Vec::new();
    for (listener, sent) in listeners.into_iter().zip(sent) {
        heard.push(Heard { sent, ..listener?.await? });
    }
    overlay.stop().await;
    Ok(Conference { before, after, heard })
}

/// The route of the flow that carries the call's packets.
fn route(node: &Node) -> Option<Route> {
    node.flows().into_iter().find(|flow| flow.label == CALL)?.route
}

/// Sends a medium for as long as the conference lasts; returns how many packets.
fn speak(node: &Node, medium: Medium) -> Result<JoinHandle<u32>, ronproxy::Error> {
    let conduit = node.conduit(medium.name)?.label(CALL).hint(Hint::Latency);
    Ok(tokio::spawn(async move {
        let (start, mut ticks, mut sent) = (Instant::now(), interval(medium.every), 0_u32);
        while start.elapsed() < LASTS {
            ticks.tick().await;
            let mut packet = vec![0; medium.bytes];
            packet[..4].copy_from_slice(&sent.to_be_bytes());
            // A packet that is not sent is lost like one that the overlay loses.
            let _ = conduit.send("exit", &packet);
            sent += 1;
        }
        sent
    }))
}

/// What came of one medium.
pub(crate) struct Heard {
    name: &'static str,
    pub(crate) sent: u32,
    pub(crate) arrived: u32,
    /// The longest time in which nothing came.
    pub(crate) pause: Duration,
}

impl std::fmt::Display for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, sent, arrived, pause } = self;
        let lost = sent.saturating_sub(*arrived);
        write!(
            f,
            "{name}: {sent} packets sent, {lost} lost; longest pause {} ms",
            pause.as_millis()
        )
    }
}

/// Receives a medium until the node stops.
fn listen(node: &Node, medium: Medium) -> Result<JoinHandle<Heard>, ronproxy::Error> {
    let mut conduit = node.conduit(medium.name)?;
    Ok(tokio::spawn(async move {
        let mut heard = Heard { name: medium.name, sent: 0, arrived: 0, pause: Duration::ZERO };
        let mut last = None;
        while let Ok(_packet) = conduit.recv().await {
            let now = Instant::now();
            heard.arrived += 1;
            heard.pause = heard.pause.max(last.map_or(Duration::ZERO, |last| now - last));
            last = Some(now);
        }
        heard
    }))
}
