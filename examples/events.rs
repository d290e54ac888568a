//! A program that watches its node while a path fails.
//!
//! ```text
//! cargo run --example events
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{error::Error, time::Duration};

use ronproxy::{EmulatedStream, Emulation, Event, Events, Lagged};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    in_memory().await?.into_iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// An overlay of three nodes in this process; the direct path is cut under an open stream.
pub(crate) async fn in_memory() -> Result<Vec<String>, Box<dyn Error>> {
    let overlay = Emulation::triangle().host("echo.test", echo).start().await?;
    let node = overlay.node("entry")?;
    let events = node.events();
    // Until the way by the relay is known.
    overlay.settled().await;
    let mut stream = node.connect("echo.test:7").await?;
    overlay.cut("entry", "exit")?;
    stream.write_all(b"hello").await?;
    stream.read_exact(&mut [0; 5]).await?;
    drop(stream);
    let told = read_until_a_reroute(events).await;
    overlay.stop().await;
    Ok(told)
}

/// What a program that watches does: it matches what it wants to act on, and the rest has a sentence.
async fn read_until_a_reroute(mut events: Events) -> Vec<String> {
    let mut told = Vec::new();
    while let Ok(Some(news)) = timeout(Duration::from_secs(5), events.next()).await {
        match news.map(|record| record.event) {
            Ok(event @ Event::Rerouted { .. }) => {
                told.push(event.to_string());
                break;
            }
            Ok(event) => told.push(event.to_string()),
            Err(Lagged { missed }) => told.push(format!("{missed} events were missed")),
        }
    }
    told
}

async fn echo(stream: EmulatedStream) {
    let (mut read, mut write) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut read, &mut write).await;
}
