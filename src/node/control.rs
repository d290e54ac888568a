//! The socket in a node's folder that the commands of `ronproxy` ask.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{Reloader, members::membership, steering};
use crate::{
    admin::{self, Admin, Reload, RunFacts},
    app,
    identity::NodeDir,
};

/// Answers commands until `end` is cancelled. What it returns is cancelled when one asks the node to stop.
pub(super) fn serve(
    commands: UnixListener,
    node: &app::Node,
    (listen, dir): (SocketAddr, &NodeDir),
    reloader: Option<Arc<Reloader>>,
    end: CancellationToken,
) -> CancellationToken {
    let reload = reloader
        .map(|reloader| -> Reload { Arc::new(move |text: Option<&str>| reloader.reload(text)) });
    let admin = Arc::new(Admin {
        view: node.view(),
        run: RunFacts {
            pid: std::process::id(),
            listen,
            authority: false,
            invites: false,
            confinement: "as its program is".to_owned(),
        },
        started: std::time::Instant::now(),
        stop: CancellationToken::new(),
        links: None,
        reload,
        logs: None,
        exit_flows: None,
        save: Some(steering::saver(dir)),
        membership: membership(node, None),
        playground: None,
    });
    let asked = admin.stop.clone();
    tokio::spawn(admin::serve(commands, admin, end));
    asked
}
