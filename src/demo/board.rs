//! The dashboard of the demo's entry.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Admin, LinkMaker, RunFacts},
    app::Node,
    dashboard::{self, BindError, Dashboard, Settings},
    entry::LocalUsers,
};

/// Where a node's dashboard is by default; if the port is taken, a free one is used.
const PORT: u16 = 1090;

/// The dashboard of the demo's entry. Dropping it closes it.
pub(super) struct Board {
    links: LinkMaker,
    stop: CancellationToken,
}

impl Board {
    /// Opens the dashboard of `node`.
    pub(super) async fn open(node: &Node, proxy: SocketAddr) -> Result<Self, BindError> {
        let bind = |port| {
            Dashboard::bind(Settings {
                listen: (Ipv4Addr::LOCALHOST, port).into(),
                open_metrics: false,
                local_users: LocalUsers::Own,
                token: dashboard::token(rand::random()),
                clash_origins: Vec::new(),
            })
        };
        let dashboard = match bind(PORT).await {
            Err(BindError::PortInUse(_)) => bind(0).await?,
            bound => bound?,
        };
        let (links, stop) = (dashboard.links(), CancellationToken::new());
        let admin = Admin {
            view: node.view(),
            run: RunFacts {
                pid: std::process::id(),
                listen: proxy,
                authority: false,
                confinement: "none: a demo".to_owned(),
                started: Instant::now(),
            },
            stop: CancellationToken::new(),
            links: Some(links.clone()),
            reload: None,
            logs: None,
            exit_flows: None,
            save: None,
        };
        tokio::spawn(dashboard.serve(Arc::new(admin), stop.clone()));
        Ok(Self { links, stop })
    }

    /// A link that opens it once.
    pub(super) fn link(&self) -> String {
        (self.links)()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Board")
    }
}
