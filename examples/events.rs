//! A program that watches its node while a path fails.
//!
//! ```text
//! cargo run --example events
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{error::Error, sync::Arc, time::Duration};

use ronproxy::{
    Event, Events, Lagged, Node,
    lab::{Lab, Service, Services},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    in_memory().await?.into_iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// An overlay of three nodes in this process; the direct path is cut under an open stream.
pub(crate) async fn in_memory() -> Result<Vec<String>, Box<dyn Error>> {
    let lab = Lab::triangle(Services::default().with("echo.test", echo())).await?;
    let node = lab.open("entry").ok_or("the entry runs")?;
    let events = node.events();
    node.ready().await?;
    // Nodes tell each other about their links at most once a second.
    sleep(Duration::from_secs(3)).await;
    let (a, b) = (lab.topology().address("entry"), lab.topology().address("exit"));
    use_through_a_cut(&node, || lab.internet().cut(a, b)).await?;
    let told = read_until_a_reroute(events).await;
    lab.stop().await;
    Ok(told)
}

async fn use_through_a_cut(node: &Node, cut: impl FnOnce()) -> Result<(), Box<dyn Error>> {
    let mut stream = node.connect("echo.test:7").await?;
    cut();
    stream.write_all(b"hello").await?;
    stream.read_exact(&mut [0; 5]).await?;
    Ok(())
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

fn echo() -> Service {
    Arc::new(|io| {
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(io);
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
    })
}
