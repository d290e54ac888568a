//! The dashboard of the demo's entry.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    commands::Command,
    facts::Condition,
    paths::{PathId, Place},
};
use crate::{
    admin::{Admin, LinkMaker, PlayPath, Playground, RunFacts},
    app::Node,
    dashboard::{self, BindError, Dashboard, Settings},
    entry::LocalUsers,
    node::members::membership,
};

/// Where a node's dashboard is by default; if the port is taken, a free one is used.
const PORT: u16 = 1090;

/// Clicks that wait for the demo; people click slower.
const QUEUE: usize = 32;

/// What the visitor did to each path, in the order of their numbers.
pub(super) type Conditions = Arc<Mutex<[Condition; 6]>>;

/// The dashboard of the demo's entry. Dropping it closes it.
pub(super) struct Board {
    links: LinkMaker,
    clicks: mpsc::Receiver<Command>,
    stop: CancellationToken,
}

/// A dashboard whose port is taken. It answers when it is opened.
pub(super) struct Bound(Dashboard);

impl Bound {
    /// Takes the port.
    pub(super) async fn bind() -> Result<Self, BindError> {
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
            Err(BindError::PortInUse(_)) => bind(0).await,
            bound => bound,
        };
        dashboard.map(Self)
    }

    /// Where it is.
    pub(super) fn listen(&self) -> SocketAddr {
        self.0.listen()
    }

    /// Opens it as the dashboard of `node`.
    pub(super) fn open(self, node: &Node, proxy: SocketAddr, conditions: Conditions) -> Board {
        let dashboard = self.0;
        let (links, stop) = (dashboard.links(), CancellationToken::new());
        let (clicked, clicks) = mpsc::channel(QUEUE);
        let admin = Admin {
            view: node.view(),
            run: RunFacts {
                pid: std::process::id(),
                listen: proxy,
                authority: false,
                invites: false,
                confinement: "none: a demo".to_owned(),
            },
            started: Instant::now(),
            stop: CancellationToken::new(),
            links: Some(links.clone()),
            reload: None,
            logs: None,
            exit_flows: None,
            save: None,
            membership: membership(node, None),
            playground: Some(playground(conditions, clicked)),
        };
        tokio::spawn(dashboard.serve(Arc::new(admin), stop.clone()));
        Board { links, clicks, stop }
    }
}

impl Board {
    /// What somebody clicked on the map.
    pub(super) async fn clicked(&mut self) -> Option<Command> {
        self.clicks.recv().await
    }

    /// A link that opens it once.
    pub(super) fn link(&self) -> String {
        (self.links)()
    }
}

/// The paths, as the map of the dashboard shows and cuts them.
fn playground(conditions: Conditions, clicked: mpsc::Sender<Command>) -> Playground {
    let paths = move || {
        let conditions = *conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let path = |(path, condition): (PathId, Condition)| {
            let ends = path.ends();
            let (from, to) = (ends.0.name().to_owned(), ends.1.name().to_owned());
            PlayPath { from, to, cut: condition == Condition::Cut }
        };
        PathId::all().zip(conditions).map(path).collect()
    };
    let cut = move |from: &str, to: &str, cut| {
        let ends = Place::find(from).zip(Place::find(to));
        let path = ends.and_then(|(a, b)| PathId::between(a, b));
        let path = path.ok_or("no path is there; name two of arosnet, utah, mit, mediaone")?;
        let command = if cut { Command::Cut(path) } else { Command::Heal(path) };
        clicked.try_send(command).map_err(|_| "the demo is busy; try it again".to_owned())
    };
    Playground { paths: Arc::new(paths), cut: Arc::new(cut) }
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
