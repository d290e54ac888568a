//! A program that serves a name of its overlay: it greets each caller by the name in its certificate.
//!
//! ```text
//! cargo run --example serve                            an overlay of three nodes in memory
//! cargo run --example serve -- FOLDER wiki.lab:80      a real one; then, elsewhere: curl -x socks5h://127.0.0.1:1080 http://wiki.lab/
//! ```
//!
//! For a real one the authority invites the node with `ronproxy invite --name wiki --exit --serves wiki.lab`.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;

use ronproxy::{Emulation, Inbound, Listener, Node};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

/// The node is an exit for the name that it serves, and carries nothing else.
pub(crate) const CONFIG: &str = "[exit]\nenabled = true\nallow = []";

/// As much of a request's head as it reads: no more memory for one caller.
const MAX_HEAD: u64 = 8 * 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [folder, name] => {
            let node = Node::open(folder).config(CONFIG).start().await?;
            greet_all(node.serve(name.as_str())?).await;
        }
        _ => println!("{}", in_memory().await?),
    }
    Ok(())
}

/// Serves until the node is stopped.
pub(crate) async fn greet_all(mut listener: Listener) {
    while let Ok(stream) = listener.accept().await {
        tokio::spawn(greet(stream));
    }
}

/// Answers a request for a page. A caller that goes away gets no answer.
async fn greet(stream: Inbound) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let left = MAX_HEAD.saturating_sub(head.len() as u64);
        if (&mut stream).take(left).read_line(&mut head).await? == 0 {
            // Dropped without a shutdown: the caller sees a reset.
            return Ok(());
        }
    }
    let mut stream = stream.into_inner();
    let page = format!("Hello {}, in {:?}.\n", stream.peer(), stream.groups());
    let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The same in an overlay of three nodes in this process: `exit` serves the name, and `entry` calls it.
pub(crate) async fn in_memory() -> Result<String, Box<dyn Error>> {
    let overlay = Emulation::triangle().start().await?;
    let exit = overlay.node("exit")?;
    tokio::spawn(greet_all(exit.serve("wiki.lab:80")?));
    let entry = overlay.node("entry")?;
    let mut stream = entry.connect("wiki.lab:80").await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    overlay.stop().await;
    Ok(answer)
}
