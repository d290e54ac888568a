//! From a folder to a running node.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tokio_util::sync::CancellationToken;

#[cfg(feature = "proxy")]
use super::control;
#[cfg(not(feature = "proxy"))]
use super::mute;
use super::{
    ControlSocket, Error, ListWatch, MemberKeeper, Node, Reloader,
    handle::InFolder,
    settings::{self, NoSocket, Sockets},
    steering,
};
use crate::{
    app,
    config::Config,
    identity::{NodeDir, NodeFile},
};

/// A node that is to be started; see [`Node::open`].
///
/// The folder's `config.toml` holds: rules, policies, the roles exit and relay, addresses. Three things are
/// the program's own: its log (the node logs by [`tracing`]), its confinement, and the dashboard, which
/// such a node does not have.
#[derive(Debug, Clone)]
pub struct Builder {
    dir: PathBuf,
    config: Option<String>,
    listen: Option<SocketAddr>,
    proxy: bool,
}

impl Builder {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), config: None, listen: None, proxy: false }
    }

    /// The configuration, in the notation of `config.toml`, instead of the folder's file. What it does not
    /// say has its default.
    #[must_use]
    pub fn config(self, text: &str) -> Self {
        Self { config: Some(text.to_owned()), ..self }
    }

    /// Where the node's UDP socket listens, instead of what the configuration says. With port 0 the system
    /// chooses one, which [`Node::local_addr`] tells.
    #[must_use]
    pub fn listen(self, address: SocketAddr) -> Self {
        Self { listen: Some(address), ..self }
    }

    /// Whether the node has a local proxy, too, as the configuration says under `[entry]`. Default: `false`.
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn proxy(self, proxy: bool) -> Self {
        Self { proxy, ..self }
    }

    /// Starts the node, in a runtime of tokio. It has no links yet: see [`Node::ready`].
    ///
    /// # Errors
    /// [`Error::Folder`], [`Error::Config`] or [`Error::Authority`] when the folder cannot be used,
    /// [`Error::Busy`] while another process runs its node, [`Error::Listen`] or [`Error::Start`] when a
    /// socket cannot be had.
    pub async fn start(self) -> Result<Node, Error> {
        let mut config = match &self.config {
            Some(text) => Config::parse(text)?,
            None => Config::load(&NodeDir::at(&self.dir).path(NodeFile::Config))?,
        };
        let (read, in_file) = (config.clone(), self.config.is_none());
        config.entry.enabled &= self.proxy;
        let dir = NodeDir::at(std::path::absolute(&self.dir).unwrap_or(self.dir));
        dir.bring_up_to_date()?;
        if dir.has_authority() {
            return Err(Error::Authority(dir.config_folder().to_owned()));
        }
        let credentials = settings::credentials(&dir)?;
        let (socket, commands) = ControlSocket::claim(&dir.socket()).await?;
        config.node.listen = self.listen.unwrap_or(config.node.listen);
        let sockets = settings::open_sockets(&config.node);
        let Sockets { udp, listen, streams } = sockets
            .map_err(|NoSocket { address, error, .. }| Error::Listen { address, source: error })?;
        let (settings, exit) = settings::node(&dir, config, credentials, (listen, streams), None);
        let node = Arc::new(app::Node::start(settings, udp, settings::DRAIN).await?);
        node.watch_network();
        node.view().resume(steering::load(&dir));
        let others: &[_] =
            if self.proxy { &["log", "dashboard"] } else { &["log", "dashboard", "entry"] };
        let reloader = Reloader::new(&dir, read, node.view(), exit).without(others);
        let reloader = Arc::new(if in_file { reloader } else { reloader.without_file() });

        let serving = CancellationToken::new();
        #[cfg(feature = "proxy")]
        let asked = {
            let reload = in_file.then(|| reloader.clone());
            control::serve(commands, &node, (listen, &dir), reload, serving.clone())
        };
        #[cfg(not(feature = "proxy"))]
        let asked = mute::serve(commands, serving.clone());
        let mut keeper = MemberKeeper::new(dir.clone(), node.view());
        let lists = ListWatch::new(&dir, node.credentials().clone());
        let keeping = async move { tokio::join!(keeper.run(), lists.run()) };
        tokio::spawn(serving.clone().run_until_cancelled_owned(keeping));

        let folder = InFolder {
            dir,
            socket: Mutex::new(Some(socket)),
            listen,
            reloader,
            _ends: serving.clone().drop_guard(),
            serving: serving.clone(),
        };
        let node = Node::new(node, Some(folder));
        let stopper = node.stopper();
        tokio::spawn(async move {
            if serving.run_until_cancelled_owned(asked.cancelled_owned()).await.is_some() {
                stopper.await;
            }
        });
        Ok(node)
    }
}
