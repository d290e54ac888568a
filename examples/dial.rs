//! A program that is a node of the overlay and opens one connection through it.
//!
//! ```text
//! cargo run --example dial                                  an overlay of three nodes in memory
//! cargo run --example dial -- FOLDER example.org:80         a real one; `ronproxy join` made FOLDER
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{error::Error, time::Duration};

use ronproxy::{EmulatedStream, Emulation, Hint, Node, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (stream, answer) = match arguments.as_slice() {
        [folder, target] => {
            let node = Node::open(folder).listen(([0; 4], 0).into()).start().await?;
            let fetched = fetch(&node, target).await?;
            node.stop().await;
            fetched
        }
        _ => in_memory().await?,
    };
    println!("{stream}");
    println!("{answer}");
    Ok(())
}

/// Asks `target` for a page. This is all that a program needs of the library.
async fn fetch(node: &Node, target: &str) -> Result<(String, String), Box<dyn Error>> {
    node.ready().await?;
    // On the route that loses least, and not given up before five minutes of silence.
    let mut stream =
        node.connect(target).hint(Hint::Loss).patience(Duration::from_secs(300)).await?;
    let request = format!("GET / HTTP/1.0\r\nHost: {}\r\n\r\n", stream.target().host);
    stream.write_all(request.as_bytes()).await?;
    // The exit has the whole request when this returns. Reading goes on.
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok((describe(&stream), answer))
}

fn describe(stream: &Stream) -> String {
    let route = stream.route().map_or_else(|| "none".to_owned(), |route| route.to_string());
    let (sent, received) = stream.bytes();
    format!(
        "flow {} left at {}, route {route}: {sent} bytes sent, {received} received",
        stream.label(),
        stream.exit()
    )
}

/// The same in an overlay of three nodes in this process, with one web server behind its exit.
pub(crate) async fn in_memory() -> Result<(String, String), Box<dyn Error>> {
    let overlay = Emulation::triangle().host("hello.test", hello).start().await?;
    let fetched = fetch(&overlay.node("entry")?, "hello.test:80").await?;
    overlay.stop().await;
    Ok(fetched)
}

/// A web server that reads a request to its end and answers.
async fn hello(mut stream: EmulatedStream) {
    let mut request = String::new();
    // A client that goes away gets no answer.
    if stream.read_to_string(&mut request).await.is_ok() {
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nHello from the exit.\n").await;
        let _ = stream.shutdown().await;
    }
}
