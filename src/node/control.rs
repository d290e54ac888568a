//! The socket in a node's folder that the commands of `ronproxy` ask.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::Reloader;
use crate::app;

/// Answers commands until `end` is cancelled. What it returns is cancelled when one asks the node to stop.
#[cfg(feature = "proxy")]
pub(super) fn serve(
    commands: UnixListener,
    node: &app::Node,
    listen: SocketAddr,
    reloader: Option<Arc<Reloader>>,
    end: CancellationToken,
) -> CancellationToken {
    use crate::admin::{self, Admin, Reload, RunFacts};

    let reload = reloader
        .map(|reloader| -> Reload { Arc::new(move |text: Option<&str>| reloader.reload(text)) });
    let admin = Arc::new(Admin {
        view: node.view(),
        run: RunFacts {
            pid: std::process::id(),
            listen,
            authority: false,
            confinement: "as its program is".to_owned(),
            started: std::time::Instant::now(),
        },
        stop: CancellationToken::new(),
        links: None,
        reload,
    });
    let asked = admin.stop.clone();
    tokio::spawn(admin::serve(commands, admin, end));
    asked
}

/// Says to each command, in HTTP, that this program cannot answer it. The socket stays served, as that is
/// how another process sees that the folder is in use.
#[cfg(not(feature = "proxy"))]
pub(super) fn serve(
    commands: UnixListener,
    _node: &app::Node,
    _listen: SocketAddr,
    _reloader: Option<Arc<Reloader>>,
    end: CancellationToken,
) -> CancellationToken {
    use tokio::io::AsyncWriteExt as _;

    const ANSWER: &str = "the node runs in a program that was built without ronproxy's feature `proxy`, which \
                          answers commands";
    let answer = async move {
        while let Ok((mut client, _)) = commands.accept().await {
            let length = ANSWER.len();
            let head = format!("HTTP/1.1 501 Not Implemented\r\ncontent-length: {length}\r\n");
            let text = format!("{head}connection: close\r\n\r\n{ANSWER}");
            // A client that has gone needs no answer, and so short a one fits into the socket's buffer.
            let _ = client.write_all(text.as_bytes()).await;
        }
    };
    tokio::spawn(end.run_until_cancelled_owned(answer));
    CancellationToken::new()
}
