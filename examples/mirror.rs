//! A program that fetches an object by the exit whose downloads are fastest, as it measures them itself.
//!
//! ```text
//! cargo run --example mirror                                            an overlay of three nodes in memory
//! cargo run --example mirror -- FOLDER mirror.example:80 /file mit utah  a real one, by these exits
//! ```
//!
//! Round trips and losses do not tell how long a page takes: an exit may be near, and its server slow. So the
//! program posts what it measures, and the hint `app:fetch` ranks exits by that.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{error::Error, time::Duration};

use ronproxy::{EmulatedPath, EmulatedStream, Emulation, Hint, Node, NodeName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep},
};

/// The metric: the time to fetch the object, in seconds.
const METRIC: &str = "fetch";

/// A path that is slow now may be good in minutes, so measurements fade within that time.
const HALF_LIFE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [folder, server, path, exits @ ..] => {
            let node = Node::open(folder).listen(([0; 4], 0).into()).start().await?;
            node.ready().await?;
            let exits: Vec<NodeName> =
                exits.iter().map(|exit| exit.parse()).collect::<Result<_, _>>()?;
            let mirror =
                Mirror { node: node.clone(), server: server.clone(), path: path.clone(), exits };
            for _ in 0..10 {
                println!("{}", mirror.fetch().await?);
            }
            node.stop().await;
        }
        _ => in_memory().await?.iter().for_each(|fetched| println!("{fetched}")),
    }
    Ok(())
}

/// An object on a server that several exits reach.
struct Mirror {
    node: Node,
    server: String,
    path: String,
    exits: Vec<NodeName>,
}

impl Mirror {
    /// Fetches the object: by an exit that was not measured lately, if there is one, else by the best.
    /// Returns a line on it.
    async fn fetch(&self) -> Result<String, Box<dyn Error>> {
        let metric = || self.node.metric(METRIC).half_life(HALF_LIFE);
        let unknown = self.exits.iter().find(|exit| metric().value(exit).is_none());
        let started = Instant::now();
        let hint: Hint = format!("app:{METRIC}").parse()?;
        let connect = self.node.connect(self.server.as_str()).hint(hint);
        let mut stream = match unknown {
            Some(exit) => connect.exit(exit.clone()).await?,
            None => connect.await?,
        };
        let request =
            format!("GET {} HTTP/1.0\r\nHost: {}\r\n\r\n", self.path, stream.target().host);
        stream.write_all(request.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let seconds = started.elapsed().as_secs_f64();
        metric().post_for(&stream, seconds)?;
        Ok(format!("{} bytes by {} in {seconds:.2} s", answer.len(), stream.exit()))
    }
}

/// Two exits reach the server; the path to the nearer one is narrow, and later the other one's is narrower.
pub(crate) async fn in_memory() -> Result<Vec<String>, Box<dyn Error>> {
    let narrow = |mbit: u64| EmulatedPath::new(NEAR).rate(mbit * 1_000_000);
    let overlay = Emulation::new()
        .entry("entry")
        .exit("near")
        .exit("far")
        .path("entry", "near", narrow(2))
        .path("entry", "far", EmulatedPath::new(FAR).rate(50_000_000))
        .path("near", "far", EmulatedPath::new(FAR))
        .host("mirror.test", object)
        .start()
        .await?;
    let node = overlay.node("entry")?;
    // Until both exits are known.
    overlay.settled().await;
    let exits = vec!["near".parse()?, "far".parse()?];
    let mirror = Mirror { node, server: "mirror.test:80".into(), path: "/".into(), exits };
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(mirror.fetch().await?);
    }
    overlay.set_path("entry", "far", narrow(1))?;
    // What was measured fades, and is measured again.
    sleep(HALF_LIFE * 9).await;
    for _ in 0..4 {
        told.push(mirror.fetch().await?);
    }
    overlay.stop().await;
    Ok(told)
}

/// One way to the near exit, and to the far one.
const NEAR: Duration = Duration::from_millis(5);
const FAR: Duration = Duration::from_millis(40);

/// A web server with an object of a megabyte.
async fn object(mut stream: EmulatedStream) {
    let mut request = String::new();
    // A client that goes away gets no answer.
    if stream.read_to_string(&mut request).await.is_ok() {
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await;
        let _ = stream.write_all(&vec![b'x'; 1_000_000]).await;
        let _ = stream.shutdown().await;
    }
}
