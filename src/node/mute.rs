//! The socket in the folder of a node whose program was built without the answers to commands.
//!
//! It stays served, as that is how another process sees that the folder is in use.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use crate::accept;

/// What each command is told.
const ANSWER: &str = "the node runs in a program that was built without ronproxy's feature `proxy`, which \
                      answers commands\n";

/// A command that does not send its request within this time gets no answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest request, in bytes. All but a new configuration are much shorter.
const MAX_REQUEST: usize = 8 << 10;

/// Says to each command, in HTTP, until `end`, that this program cannot answer it. What it returns is never
/// cancelled: no command can ask the node to stop.
#[cfg(not(feature = "proxy"))]
pub(super) fn serve(
    commands: UnixListener,
    end: tokio_util::sync::CancellationToken,
) -> tokio_util::sync::CancellationToken {
    tokio::spawn(end.run_until_cancelled_owned(answer_all(commands)));
    tokio_util::sync::CancellationToken::new()
}

async fn answer_all(commands: UnixListener) {
    loop {
        let accepted = accept::or_pause(commands.accept().await, "the command socket").await;
        let Some((client, _)) = accepted else { continue };
        match timeout(HEAD_TIMEOUT, answer(client)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a command could not be answered"),
            Err(_) => tracing::debug!("a command sent no request"),
        }
    }
}

async fn answer(mut client: UnixStream) -> io::Result<()> {
    // Closing a socket with unread bytes resets it, and the answer might be lost.
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        if client.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let length = ANSWER.len();
    let head = format!("HTTP/1.1 501 Not Implemented\r\ncontent-length: {length}\r\n");
    client.write_all(format!("{head}connection: close\r\n\r\n{ANSWER}").as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_is_told_what_is_missing_and_the_next_one_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let serving = tokio::spawn(answer_all(UnixListener::bind(&path).unwrap()));
        // One that says nothing delays the others for a second.
        let silent = UnixStream::connect(&path).await.unwrap();
        for _ in 0..2 {
            let mut client = UnixStream::connect(&path).await.unwrap();
            client.write_all(b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 501 ") && answer.ends_with(ANSWER), "{answer}");
        }
        drop(silent);
        serving.abort();
    }
}
