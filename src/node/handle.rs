//! A running node, as a program holds it.

use std::{
    fmt,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Builder, Conduit, Connect, ControlSocket, Error, Events, Listener, MemberKeeper, Metric,
    PacketSender, Reloader, Stream,
};
use crate::{
    app::{self, ConduitError, FlowFacts, LaneStatus, NodeStatus, NodeView, Packet},
    config::Changes,
    flow::{FlowRequest, Target},
    identity::{NodeDir, NodeName},
    mesh::{LinkFacts, Mesh, SharedFacts},
};

/// A running node of the overlay. Clones are handles on the same node.
///
/// Stop it with [`stop`](Self::stop). When the last handle is dropped, the node ends at once: its streams
/// fail, and other nodes find that out by themselves.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    node: Arc<app::Node>,
    view: Arc<NodeView>,
    folder: Option<InFolder>,
}

/// What a node that was opened from a folder does with it.
pub(super) struct InFolder {
    pub(super) dir: NodeDir,
    /// The folder's lock.
    pub(super) socket: Mutex<Option<ControlSocket>>,
    /// Where the node's UDP socket is.
    pub(super) listen: SocketAddr,
    pub(super) reloader: Arc<Reloader>,
    /// Ends what answers commands and keeps the folder's files.
    pub(super) serving: CancellationToken,
    pub(super) _ends: DropGuard,
}

impl Node {
    /// A node from the folder that `ronproxy join` made. [`Builder::start`] starts it.
    ///
    /// The folder may be given to `ronproxy --dir`, too: while the node runs, `ronproxy status`, `flows`,
    /// `why`, `events` and the others show it, and `ronproxy stop` stops it.
    pub fn open(dir: impl AsRef<Path>) -> Builder {
        Builder::new(dir.as_ref())
    }

    /// A handle on a node that something else has started, and stops.
    #[cfg(feature = "emulator")]
    pub(crate) fn of(node: Arc<app::Node>) -> Self {
        Self::new(node, None)
    }

    pub(super) fn new(node: Arc<app::Node>, folder: Option<InFolder>) -> Self {
        let view = Arc::new(node.view());
        Self { inner: Arc::new(Inner { node, view, folder }) }
    }

    /// What stops the node without keeping it.
    pub(super) fn stopper(&self) -> impl Future<Output = ()> + Send + 'static {
        let inner = Arc::downgrade(&self.inner);
        async move {
            if let Some(inner) = inner.upgrade() {
                inner.stop().await;
            }
        }
    }

    /// The node's name in the overlay.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        self.inner.view.name()
    }

    /// Where the node's UDP socket is; `None` in an overlay in memory.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.folder.as_ref().map(|folder| folder.listen)
    }

    /// Where its local proxy listens; `None`: it has none. See [`Builder::proxy`].
    #[must_use]
    pub fn proxy_addr(&self) -> Option<SocketAddr> {
        self.inner.node.proxy()
    }

    /// Waits until the node has a link to another node and an exit is in reach; the node itself counts, if
    /// it is one. It waits as long as that takes: put a time-out round it.
    ///
    /// [`connect`](Self::connect) does not need it. It waits by itself for some seconds.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the node has stopped.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut news = self.inner.view.route_news();
        let stopped = self.inner.node.stopped();
        while !stopped.is_cancelled() {
            if self.inner.view.can_open() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                changed = news.changed() => changed.map_err(|_| Error::Stopped)?,
            }
        }
        Err(Error::Stopped)
    }

    /// Opens a stream to `target`, `"HOST:PORT"` or a [`Target`]. A name is resolved at the exit.
    ///
    /// It resolves when the exit has connected. While no route or no exit is up it waits, for 10 s or as
    /// `route_timeout` under `[flow]` says.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason of the overlay or the exit; [`Error::Target`] and the like for
    /// what cannot be asked; [`Error::Stopped`].
    pub fn connect<T>(&self, target: T) -> Connect<'_>
    where
        T: TryInto<Target>,
        T::Error: Into<Error>,
    {
        Connect::new(self, target.try_into().map_err(Into::into))
    }

    pub(super) async fn dial(&self, request: FlowRequest) -> Result<Stream, Error> {
        let Inner { node, view, .. } = &*self.inner;
        let stopped = node.stopped();
        let flow = tokio::select! {
            biased;
            () = stopped.cancelled() => return Err(Error::Stopped),
            flow = async { node.dialer().dial(request).await } => flow?,
        };
        // The table lists a flow for as long as it lives.
        let entry = view.flow(flow.label()).ok_or(Error::Stopped)?;
        Ok(Stream::new(flow.into_io(), entry, view.clone(), stopped.clone()))
    }

    /// Serves a name, `"wiki.lab:80"`, as an exit does: flows of other nodes to it end in this program.
    ///
    /// The node must be an exit, and its certificate must serve the name: invite it with
    /// `--exit --serves wiki.lab`. Then every member finds it, as it is the exit that serves the name most
    /// closely. A certificate without `--serves` serves every name, but others find it only when their flow
    /// names this exit. To carry nothing else, write `allow = []` under `[exit]`; `deny` rules hold for served
    /// names, too.
    ///
    /// ```no_run
    /// # async fn serve(node: &ronproxy::Node) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncWriteExt as _;
    ///
    /// let mut wiki = node.serve("wiki.lab:80")?;
    /// loop {
    ///     let mut stream = wiki.accept().await?;
    ///     tokio::spawn(async move {
    ///         let hello = format!("Hello, {}.\n", stream.peer());
    ///         stream.write_all(hello.as_bytes()).await?;
    ///         stream.shutdown().await
    ///     });
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Serve`] when this node may not serve it, or does already; [`Error::Target`];
    /// [`Error::Stopped`].
    pub fn serve<T>(&self, target: T) -> Result<Listener, Error>
    where
        T: TryInto<Target>,
        T::Error: Into<Error>,
    {
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        let node = &self.inner.node;
        let accepts = node.serve(target.try_into().map_err(Into::into)?)?;
        Ok(Listener::new(accepts, node.stopped().clone()))
    }

    /// Receives the packets of a type that other nodes send to this one, and sends such packets. The type is a
    /// name of 1 to 32 characters of `a-z`, `0-9`, `-` and `_`.
    ///
    /// Others can send to a node that is an exit (`ronproxy invite --exit`, `[exit] enabled = true`; with
    /// `allow = []` it carries nothing else). Every member can send.
    ///
    /// ```no_run
    /// # async fn talk(node: &ronproxy::Node) -> Result<(), ronproxy::Error> {
    /// let mut chat = node.conduit("chat")?;
    /// chat.send("mit", b"hello")?;
    /// let packet = chat.recv().await?;
    /// println!("{}: {:?}", packet.peer(), packet.bytes());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Conduit`] when the name is no type's name, the program receives the type already, or 64
    /// others; [`Error::Stopped`].
    pub fn conduit(&self, kind: &str) -> Result<Conduit, Error> {
        let node = &self.inner.node;
        let receives = node.receive(app::packet_type(kind)?)?;
        Ok(Conduit::new(receives, node.outlets().clone(), node.stopped().clone()))
    }

    /// Calls `callback` with each packet of a type, in a thread of its own, until the node stops.
    ///
    /// A callback that blocks delays only the packets of its type: those that its queue does not hold are
    /// dropped. One that panics loses its packet, and is called with the next; a program that is
    /// built with `panic = "abort"` ends instead. Both are counted.
    ///
    /// # Errors
    /// As for [`conduit`](Self::conduit), and when this node is no exit, so that nobody can send to it.
    pub fn on_packet<F>(&self, kind: &str, callback: F) -> Result<PacketSender, Error>
    where
        F: FnMut(Packet) + Send + 'static,
    {
        let mesh = self.mesh();
        if !self.is_stopped() && !mesh.is_exit(&mesh.us().name) {
            return Err(ConduitError::NotAnExit.into());
        }
        self.conduit(kind)?.call(callback)
    }

    /// A metric that the program defines: 1 to 32 characters of `a-z`, `0-9`, `-` and `_`.
    ///
    /// The hint `app:NAME` ranks exits and routes by what was posted, with the margins and hold-downs of the
    /// built-in hints. An exit or route without a value comes after those with one, so the program has to try
    /// it itself, by [`Connect::exit`]; where none has a value, latency decides. The metric `connect` is the node's
    /// own: how long exits take to connect to the destination of the flow.
    ///
    /// ```no_run
    /// # async fn load(node: &ronproxy::Node) -> Result<(), Box<dyn std::error::Error>> {
    /// let started = std::time::Instant::now();
    /// let stream = node.connect("mirror.example:80").hint("app:page-load".parse()?).await?;
    /// // … the page is read …
    /// node.metric("page-load").post_for(&stream, started.elapsed().as_secs_f64())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn metric(&self, name: &str) -> Metric<'_> {
        Metric::new(self, name)
    }

    pub(super) fn mesh(&self) -> &Mesh {
        self.inner.node.mesh()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.inner.node.stopped().is_cancelled()
    }

    /// What happens to the node from now on: reroutes, links, members, flows, refusals.
    #[must_use]
    pub fn events(&self) -> Events {
        let Inner { node, view, .. } = &*self.inner;
        Events::from_now_on(view.events().clone(), node.stopped().clone())
    }

    /// The node in numbers, now. This and the lists below are what `ronproxy status`, `links`, `lanes` and
    /// `flows` print with `--json`; the structs read that text back, too.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.inner.view.status()
    }

    /// The members that the node knows, each with its link.
    #[must_use]
    pub fn links(&self) -> Vec<LinkFacts> {
        self.inner.view.link_facts()
    }

    /// What the other nodes of this site measured of members: the performance database (SOSP 2001, section 3.1). The
    /// nodes of a site name each other in `[probe] share_with`. As `ronproxy perfdb --json`.
    #[must_use]
    pub fn performance(&self) -> Vec<SharedFacts> {
        self.inner.view.shared_facts()
    }

    /// The lanes that start or end at the node.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneStatus> {
        self.inner.view.lane_facts()
    }

    /// The open flows that began at the node: its streams, and those of its proxy.
    #[must_use]
    pub fn flows(&self) -> Vec<FlowFacts> {
        self.inner.view.flow_facts()
    }

    /// Reads the folder's `config.toml` again, and puts into force what can change while the node runs: rules,
    /// policies, users of the proxy, the exit's `allow`, `deny`, `allow_private` and
    /// `max_associations_per_entry`, and the times of flows. `ronproxy reload` does the same.
    ///
    /// Returns what has changed, by section or key: what is in force, and what needs a restart.
    ///
    /// # Errors
    /// [`Error::Config`] when it has a mistake, or cannot be read: then nothing has changed. Also when the
    /// program has given the configuration ([`Builder::config`]), or the node is in memory;
    /// [`Error::Stopped`].
    pub fn reload(&self) -> Result<Changes, Error> {
        self.reload_from(None)
    }

    /// The same with this text instead of the file.
    ///
    /// # Errors
    /// As for [`reload`](Self::reload).
    pub fn reload_with(&self, config: &str) -> Result<Changes, Error> {
        self.reload_from(Some(config))
    }

    fn reload_from(&self, text: Option<&str>) -> Result<Changes, Error> {
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        let in_memory = || Error::Config("a node in memory has no configuration".to_owned());
        let folder = self.inner.folder.as_ref().ok_or_else(in_memory)?;
        folder.reloader.reload(text).map_err(Error::Config)
    }

    /// Stops the node: open streams fail with [`ConnectionAborted`](std::io::ErrorKind::ConnectionAborted),
    /// and other nodes are told. It takes a second at most, and with a local proxy up to ten seconds more,
    /// in which the proxy's connections may end. To stop it again does nothing.
    ///
    /// The folder is free afterwards. The UDP port stays taken until the last handle and stream is dropped;
    /// with [`Builder::listen`] at port 0 the folder can be opened again before.
    ///
    /// What was written to a stream has arrived at the exit once its `shutdown().await` is `Ok`.
    pub async fn stop(&self) {
        self.inner.stop().await;
    }

    /// Resolves when the node has stopped, by [`stop`](Self::stop) or by `ronproxy stop`.
    pub async fn stopped(&self) {
        self.inner.node.stopped().cancelled().await;
    }
}

impl Inner {
    async fn stop(&self) {
        if let Some(folder) = &self.folder {
            folder.serving.cancel();
            MemberKeeper::new(folder.dir.clone(), (*self.view).clone()).save();
        }
        self.node.stop().await;
        if let Some(folder) = &self.folder {
            // From now on another process may open the folder.
            drop(folder.socket.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", self.name()).finish_non_exhaustive()
    }
}
