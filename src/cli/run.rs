//! `ronproxy run`

use std::{
    fs, io,
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use super::{
    CliError,
    confine::{Confinement, confine},
    dashboard,
    folder::Folder,
    log,
    notify::Notify,
    output::print,
    signer, units, wait,
};
use crate::{
    admin::{self, Admin, ExitFlows, Reload, RunFacts},
    app::Node,
    config::{Config, Log},
    dashboard::Dashboard,
    identity::NodeFile,
    node::{
        ControlSocket, EventsFile, ListWatch, MemberKeeper, Reloader,
        members::{Here, membership},
        settings::{self, NoSocket, Sockets},
        steering,
    },
    quantity::parse_listen,
    signer::{AuthorityClient, Started},
};

/// File descriptors asked for: two per flow, for the 4,096 connections that an entry serves by
/// default and as many at an exit, with room.
const FILE_LIMIT: u64 = 32_768;

/// Exit code after a second signal, as a shell reports an interrupted program.
const INTERRUPTED: u8 = 130;

/// Run the node, until a signal or `ronproxy stop`
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Where the local proxy listens, instead of what the configuration says
    #[arg(long, value_name = "IP:PORT", value_parser = parse_listen)]
    proxy: Option<SocketAddr>,
    /// Where the dashboard listens, instead of what the configuration says
    #[arg(long, value_name = "IP:PORT", value_parser = parse_listen)]
    dashboard: Option<SocketAddr>,
    /// How long open flows may go on when the node is told to stop [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    drain: Option<Duration>,
    /// Print the line that says it is ready as JSON
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn run(self, folder: &Folder, verbose: u8) -> Result<ExitCode, CliError> {
        let read = folder.config()?;
        let config = self.overridden(read.clone())?;
        let log = log::start(verbose, &config.log)?;
        folder.bring_up_to_date()?;
        let claimed = claim(folder)?;
        // Before the confinement: the signer reads what this process must not.
        let signer = if folder.dir.has_authority() {
            let program = signer::program(folder, verbose, &["signer"])?;
            let started = program.start().map_err(CliError::Runtime)?;
            Some(without_threads(async { Ok(started.having_started_a_spare().await?) })?)
        } else {
            None
        };
        // Before the confinement, which may keep the process from the manager's socket.
        let notify = Arc::new(Notify::from_environment());
        // Before there are threads: each inherits it.
        let confinement = confine(folder, &config);
        match &confinement {
            Confinement::Failed(error) => tracing::warn!(error, "this node is not confined"),
            known => tracing::info!(enforced = %known, "confinement"),
        }
        wait(self.serve(folder, (config, read), (log, notify), confinement, claimed, signer))
    }

    async fn serve(
        self,
        folder: &Folder,
        (mut config, read): (Config, Config),
        (log, notify): (log::Filter, Arc<Notify>),
        confinement: Confinement,
        (socket, listener): (ControlSocket, std::os::unix::net::UnixListener),
        signer: Option<Started>,
    ) -> Result<ExitCode, CliError> {
        let mut signals = Signals::new().map_err(CliError::Runtime)?;
        let listener = UnixListener::from_std(listener).map_err(CliError::Runtime)?;
        raise_file_limit();
        let credentials = settings::credentials(&folder.dir)?;
        let Sockets { udp, listen, streams } = bind(&config, folder)?;
        let (uses_udp, streams_at) =
            (streams.udp, streams.listener.as_ref().and_then(|tcp| tcp.local_addr().ok()));
        let dashboard = dashboard::open(folder, &config).await;
        config.entry.dashboard = dashboard.as_ref().map(Dashboard::listen);
        let (keeps_events, destinations) = (config.events.on_disk, config.log.destinations);
        let invites = signer.is_some() && config.authority.invite_from_dashboard;
        let authority = signer.map(AuthorityClient::process);
        let here = authority.clone().map(|authority| Here { authority, node: config.node.clone() });
        let (settings, exit) =
            settings::node(&folder.dir, config, credentials, (listen, streams), authority);
        let node = Node::start(settings, udp, self.drain.unwrap_or(settings::DRAIN)).await?;
        node.watch_network();
        let log_lines = log.lines();
        let (shows, shown) = (Arc::new(AtomicBool::new(destinations)), exit.clone());
        let may_show = shows.clone();
        let exit_flows: ExitFlows = Arc::new(move || shown.flows(may_show.load(Ordering::Relaxed)));
        let reload_log = move |next: &Log| {
            log.reload(next).map_err(|error| error.to_string())?;
            shows.store(next.destinations, Ordering::Relaxed);
            Ok(())
        };
        let reloader = Reloader::new(&folder.dir, read, node.view(), exit);
        let reloader = reloader.with_log(Box::new(reload_log));
        let told = notify.clone();
        let reload: Reload = Arc::new(move |text: Option<&str>| {
            told.reloading();
            let reloaded = reloader.reload(text);
            told.ready();
            reloaded
        });
        node.view().resume(steering::load(&folder.dir));
        let admin = Arc::new(Admin {
            view: node.view(),
            run: RunFacts {
                pid: std::process::id(),
                listen,
                authority: folder.dir.has_authority(),
                invites,
                confinement: confinement.to_string(),
            },
            started: Instant::now(),
            stop: CancellationToken::new(),
            links: dashboard.as_ref().map(Dashboard::links),
            reload: Some(reload.clone()),
            exit_flows: Some(exit_flows),
            logs: Some(log_lines),
            save: Some(steering::saver(&folder.dir)),
            membership: membership(&node, here),
            playground: None,
        });
        let events = time_line(folder, keeps_events, &node);
        let serving = CancellationToken::new();
        let commands = tokio::spawn(admin::serve(listener, admin.clone(), serving.clone()));
        let udp = uses_udp.then_some(listen);
        self.report(&node, (udp, streams_at), dashboard.as_ref().map(Dashboard::listen))?;
        if let Some(dashboard) = dashboard {
            tokio::spawn(dashboard.serve(admin.clone(), serving.clone()));
        }
        signals.reload = Some(reload);
        notify.ready();
        let code = until_told((node, events), folder, &mut signals, &admin.stop, &notify).await;
        serving.cancel();
        let _ = commands.await;
        drop(socket);
        Ok(code)
    }

    /// The configuration with what the command line says instead.
    fn overridden(&self, mut config: Config) -> Result<Config, CliError> {
        if let Some(proxy) = self.proxy {
            config.entry.enabled = true;
            config.entry.listen = proxy;
            config.entry.check().map_err(|error| CliError::say(error.to_string()))?;
        }
        if let Some(listen) = self.dashboard {
            config.dashboard.enabled = Some(true);
            config.dashboard.listen = listen;
            config.dashboard.check().map_err(CliError::say)?;
        }
        Ok(config)
    }

    fn report(
        &self,
        node: &Node,
        (udp, streams): (Option<SocketAddr>, Option<SocketAddr>),
        dashboard: Option<SocketAddr>,
    ) -> Result<(), CliError> {
        let (status, proxy) = (node.status(), node.proxy());
        if self.json {
            let facts = serde_json::json!({
                "name": status.name, "pid": std::process::id(), "listen": udp, "proxy": proxy,
                "dashboard": dashboard, "streams": streams,
            });
            return print(facts);
        }
        let proxy = proxy.map_or_else(
            || "no local proxy".to_owned(),
            |proxy| format!("proxy at {proxy} (SOCKS5 and HTTP)"),
        );
        let dashboard = dashboard.map_or_else(String::new, |at| format!(", dashboard at {at}"));
        let udp = udp.map_or_else(|| ", no UDP".to_owned(), |at| format!(", UDP at {at}"));
        let streams = streams.map_or_else(String::new, |at| format!(", streams at {at}"));
        print(format_args!("{} is ready: {proxy}{dashboard}{udp}{streams}", status.name))
    }
}

/// Does something before the confinement: threads of a runtime would not be confined.
pub(super) fn without_threads<T>(
    doing: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(CliError::Runtime)?.block_on(doing)
}

/// Takes the folder's socket, which is also its lock, first of all.
fn claim(folder: &Folder) -> Result<(ControlSocket, std::os::unix::net::UnixListener), CliError> {
    without_threads(async {
        let (socket, listener) = ControlSocket::claim(&folder.socket()).await?;
        Ok((socket, listener.into_std().map_err(CliError::Runtime)?))
    })
}

/// Lets the node run until a signal or `stop`, and stops it in order unless there is a second one.
async fn until_told(
    (node, mut events): (Node, Option<EventsFile>),
    folder: &Folder,
    signals: &mut Signals,
    stop: &CancellationToken,
    notify: &Notify,
) -> ExitCode {
    let mut keeper = MemberKeeper::new(folder.dir.clone(), node.view());
    let lists = ListWatch::new(&folder.dir, node.credentials().clone());
    tokio::select! {
        () = lists.run() => {}
        () = keeper.run() => {}
        () = live(notify) => {}
        () = keep_events(&mut events) => {}
        name = signals.next() => tracing::info!(signal = name, "stopping"),
        () = stop.cancelled() => tracing::info!("stopping, as asked"),
    }
    stop.cancel();
    notify.stopping();
    keeper.save();
    let code = tokio::select! {
        () = node.stop() => ExitCode::SUCCESS,
        name = signals.next() => {
            tracing::warn!(signal = name, "ended at once by a second signal");
            ExitCode::from(INTERRUPTED)
        }
    };
    // The flows that ended last are in it.
    if let Some(events) = &mut events {
        events.save();
    }
    code
}

/// The time line on disk, if it is kept there.
fn time_line(folder: &Folder, on_disk: bool, node: &Node) -> Option<EventsFile> {
    let path = folder.dir.path(NodeFile::Events);
    if !on_disk {
        EventsFile::remove(&path);
        return None;
    }
    Some(EventsFile::open(path, node.view().events().clone()))
}

/// Writes what happens, if that is kept on disk; never ends.
async fn keep_events(events: &mut Option<EventsFile>) {
    match events {
        Some(events) => events.run().await,
        None => std::future::pending().await,
    }
}

/// Tells the manager that the node lives; never ends.
async fn live(notify: &Notify) {
    notify.watchdog().await;
    std::future::pending().await
}

/// Opens the node's sockets towards other nodes.
fn bind(config: &Config, folder: &Folder) -> Result<Sockets, CliError> {
    settings::open_sockets(&config.node).map_err(|NoSocket { protocol, address, error }| {
        let file = folder.dir.path(NodeFile::Config);
        match (protocol, error.kind()) {
            ("UDP", io::ErrorKind::AddrInUse) => CliError::PortTaken(address, file),
            ("UDP", _) => CliError::Udp(address, error),
            _ => CliError::Streams(address, error, file),
        }
    })
}

/// The system's soft limit is often 1,024, for programs that use `select`.
fn raise_file_limit() {
    match rlimit::increase_nofile_limit(FILE_LIMIT) {
        Ok(limit) => tracing::debug!(limit, "the limit of open files was set"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

/// The signals that stop the node. SIGHUP, which comes too when the terminal is closed, reads the
/// configuration again; it stays ignored where it was ignored at the start, as by `nohup`.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
    reload: Option<Reload>,
}

/// Whether SIGHUP was ignored when the process started: the first bit of the mask in proc(5).
fn is_hangup_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 != 0)
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: (!is_hangup_ignored()).then(|| signal(SignalKind::hangup())).transpose()?,
            reload: None,
        })
    }

    /// Reads the configuration again, at SIGHUP.
    fn read_again(&self) {
        let Some(reload) = &self.reload else { return };
        if let Err(error) = reload(None) {
            tracing::warn!(error, "SIGHUP: the configuration stays as it is");
        }
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                () = hung_up(&mut self.hangup) => self.read_again(),
            }
        }
    }
}

/// Waits for SIGHUP, if that is not ignored.
async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}
