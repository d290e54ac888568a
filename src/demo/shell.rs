//! The loop behind both views: commands in, observations out.

use std::{
    io::{self, BufRead},
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    DemoError, Options,
    auto::Auto,
    client::{Client, ClientError, Download},
    commands::{Command, HELP},
    map::map,
    out::{say, say_all},
    pair::{Graphs, Pair},
    screen::{Scene, Screen},
    site,
    stage::Stage,
    text::{Tone, bytes, flat, line},
    view,
    watch::Watch,
};
use crate::flow::BoxFuture;

/// How often the nodes are looked at: the resolution of the stalls that are shown.
const LOOK: Duration = Duration::from_millis(20);

/// A screen is drawn at every tenth look, 5 times a second; plain lines once a second.
const DRAW_EVERY: u32 = 10;
const PRINT_EVERY: u32 = 50;

/// How long the nodes may take to say goodbye to each other.
const GOODBYE: Duration = Duration::from_millis(500);

/// Commands and reports that wait for the loop; people type slower.
const QUEUE: usize = 32;

/// How the demo is shown.
enum Face {
    Screen(Box<Screen>),
    Plain(Plain),
}

/// What the plain view has printed already.
#[derive(Default)]
struct Plain {
    events: u64,
    shape: String,
    flows: Vec<String>,
}

struct Shell {
    stage: Stage,
    watch: Watch,
    auto: Option<Auto>,
    /// Downloads that a visitor of the screen began, the last one last.
    pairs: Vec<Pair>,
    reports: mpsc::Sender<String>,
}

/// Runs the demo until the visitor quits.
///
/// # Errors
/// When the terminal fails.
pub(super) async fn run(
    stage: Stage,
    options: &Options,
    full_screen: bool,
) -> Result<(), DemoError> {
    let (commands, mut asked) = mpsc::channel(QUEUE);
    let (reports, mut reported) = mpsc::channel(QUEUE);
    let mut face = if full_screen {
        Face::Screen(Box::new(Screen::open(commands)?))
    } else {
        greet(&stage, options);
        if options.auto.is_none() {
            read_lines(commands, options.exit_on_eof);
        }
        Face::Plain(Plain::default())
    };
    let start = Instant::now();
    let auto = options.auto.map(|beat| Auto::start(Client::new(stage.proxy()), start, beat));
    let mut shell = Shell { stage, watch: Watch::new(start), auto, pairs: Vec::new(), reports };
    shell.note_start(options);
    let mut signals = Signals::new()?;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut looks = 0;
    loop {
        tokio::select! {
            _ = look.tick() => {
                looks += 1;
                shell.watch.observe(Instant::now(), shell.stage.observe());
                shell.play(&mut face).await;
                shell.pairs.iter_mut().for_each(|pair| pair.look(Instant::now()));
                let has_ended = shell.auto.as_ref().is_some_and(Auto::has_ended);
                if !face.show(&shell, looks)? || has_ended {
                    break;
                }
            }
            Some(command) = asked.recv() => {
                if !shell.obey(command, &mut face).await {
                    break;
                }
            }
            Some(command) = shell.stage.clicked() => {
                shell.obey(command, &mut face).await;
            }
            Some(report) = reported.recv() => shell.note(report),
            () = signals.recv() => break,
        }
    }
    // The terminal is given back before the nodes take their time to stop.
    drop(face);
    let summary =
        shell.auto.take().filter(Auto::has_ended).map(|auto| auto.summary(Instant::now()));
    if let Some(summary) = summary {
        say(&summary.to_string());
    }
    // Nobody waits for the flows of a demo that was told to end.
    let _ = timeout(GOODBYE, shell.stage.stop()).await;
    match summary {
        Some(summary) if summary.lost > 0 => Err(DemoError::Lost(format!(
            "{} connections were lost; is this machine very busy?",
            summary.lost
        ))),
        _ => Ok(()),
    }
}

impl Shell {
    fn note(&mut self, text: String) {
        self.watch.note(Instant::now(), text);
    }

    fn note_start(&mut self, options: &Options) {
        let proxy = self.stage.proxy();
        self.note(format!("four nodes run and are linked; the proxy listens on {proxy}"));
        if options.listen.port() != 0 && proxy != options.listen {
            let taken = options.listen;
            self.note(format!("{taken} is in use by another program; the proxy is at {proxy}"));
        }
        self.note_dashboard();
    }

    fn note_dashboard(&mut self) {
        let link = self.stage.dashboard();
        self.note(link.map_or_else(
            || "no port for the dashboard could be had".to_owned(),
            |link| format!("dashboard, once: {link}"),
        ));
    }

    /// Does what the script of `--auto` says, if a step is due.
    async fn play(&mut self, face: &mut Face) {
        let Some(auto) = &mut self.auto else { return };
        let now = Instant::now();
        auto.look(now);
        let Some((caption, command)) = auto.due(now) else { return };
        self.note(format!("» {caption}"));
        if let Some(command) = command {
            self.obey(command, face).await;
        }
    }

    /// Does what was asked; false to end.
    async fn obey(&mut self, command: Command, face: &mut Face) -> bool {
        match self.stage.perform(&command).await {
            Ok(Some(done)) => {
                self.note(done);
                return true;
            }
            Ok(None) => {}
            Err(error) => {
                self.note(format!("that failed: {error}"));
                return true;
            }
        }
        match (command, face) {
            (Command::Quit | Command::Leave, Face::Plain(_)) | (Command::Quit, _) => return false,
            (Command::Leave, Face::Screen(screen)) => return screen.close_help(),
            (Command::Help, Face::Screen(screen)) => screen.toggle_help(),
            (Command::Get(path), Face::Screen(_)) => self.get_both(&path),
            (Command::Get(path), Face::Plain(_)) => self.get(path),
            (Command::Dashboard, _) => self.note_dashboard(),
            (Command::Status, Face::Plain(_)) => status(self),
            (Command::Help, Face::Plain(_)) => {
                say_all(HELP.map(str::to_owned));
            }
            _ => {}
        }
        true
    }

    /// Downloads in the background and reports the end.
    fn get(&mut self, path: String) {
        let (client, report) = (Client::new(self.stage.proxy()), self.report(&path));
        tokio::spawn(async move {
            report(client.download(site::HOSTS[0], &path, |_| {}).await).await;
        });
    }

    /// The same, with a second download beside it that is held to the direct path.
    fn get_both(&mut self, path: &str) {
        let (client, report) = (Client::new(self.stage.proxy()), self.report(path));
        self.pairs.retain(|pair| !pair.has_ended());
        self.pairs.push(Pair::start(client, path, Instant::now(), report));
    }

    /// Notes the begin of a download, and gives what notes its end.
    fn report(
        &mut self,
        path: &str,
    ) -> impl FnOnce(Result<Download, ClientError>) -> BoxFuture<'static, ()> + Send + use<> {
        self.note(format!("download of {path} begins"));
        let (path, reports) = (path.to_owned(), self.reports.clone());
        move |end| {
            let report = match end {
                Ok(done) => format!(
                    "download of {path} arrived: {} in {:.1} s, {:.1} Mbit/s, longest stall {} ms",
                    bytes(done.bytes),
                    done.took.as_secs_f64(),
                    done.mbit(),
                    done.stall.as_millis(),
                ),
                Err(error) => format!("download of {path} failed: {error}"),
            };
            // Nobody listens any more when the demo ends.
            Box::pin(async move { reports.send(report).await.unwrap_or_default() })
        }
    }

    /// What is downloaded now, as graphs.
    fn graphs(&self) -> Option<Graphs> {
        let pair = self.auto.as_ref().map(Auto::pair).or_else(|| self.pairs.last());
        pair.map(Pair::graphs)
    }
}

impl Face {
    /// Shows what is due at this look; false when nobody reads.
    fn show(&mut self, shell: &Shell, looks: u32) -> io::Result<bool> {
        match self {
            Self::Screen(screen) if looks.is_multiple_of(DRAW_EVERY) => {
                screen.draw(Scene {
                    snapshot: shell.watch.snapshot(),
                    proxy: shell.stage.proxy(),
                    caption: shell.auto.as_ref().map(Auto::caption),
                    graphs: shell.graphs(),
                    help: false,
                })?;
                Ok(true)
            }
            Self::Screen(_) => Ok(true),
            Self::Plain(plain) => Ok(plain.print(shell, looks.is_multiple_of(PRINT_EVERY))),
        }
    }
}

impl Plain {
    /// New events at once; paths and flows, if they changed, when `due`.
    fn print(&mut self, shell: &Shell, due: bool) -> bool {
        let mut heard = true;
        for event in shell.watch.since(self.events) {
            heard &= say(&flat(&view::event(event)));
        }
        self.events = shell.watch.count();
        if !due {
            return heard;
        }
        if let Some(auto) = &shell.auto {
            return heard & say(&format!("          {}", auto.pair().rates()));
        }
        let snapshot = shell.watch.snapshot();
        let shape = view::shape(snapshot);
        if shape != self.shape {
            self.shape = shape;
            heard &= say_all(view::paths(snapshot).iter().map(flat));
        }
        let flows: Vec<String> = snapshot.flows.iter().map(carried).collect();
        if flows != self.flows && !flows.is_empty() {
            heard &= say_all(view::flows(snapshot).iter().map(flat));
        }
        self.flows = flows;
        heard
    }
}

fn carried(flow: &super::watch::FlowView) -> String {
    format!("{} {} {}", flow.fact.label, flow.fact.sent, flow.fact.received)
}

fn greet(stage: &Stage, options: &Options) {
    let proxy = stage.proxy();
    say("ronproxy demo: four nodes in this process, an emulated Internet between them.");
    say(
        "ArosNet is the entry (your proxy), MIT the exit (the campus web site), Utah and MediaOne relay.",
    );
    say(&format!("The proxy (SOCKS5 and HTTP) listens on {proxy}. Try:"));
    say_all(view::try_it(proxy).iter().map(|line| format!("  {}", flat(line))));
    if options.auto.is_some() {
        return;
    }
    let end = if options.exit_on_eof { " The end of input ends the demo." } else { "" };
    say(&format!("Type help for what you can break, quit to end.{end}"));
}

fn status(shell: &Shell) {
    let snapshot = shell.watch.snapshot();
    let title = |text: &str| vec![line(text, Tone::Strong)];
    let parts = [
        map(snapshot, shell.stage.proxy()),
        title("paths"),
        view::paths(snapshot),
        title("lanes"),
        view::lanes(snapshot),
        title("flows"),
        view::flows(snapshot),
    ];
    say_all(parts.iter().flatten().map(flat));
}

/// Reads commands from standard input on a thread of its own, which ends with the process.
fn read_lines(commands: mpsc::Sender<Command>, exit_on_eof: bool) {
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if line.trim().is_empty() {
                continue;
            }
            match line.parse() {
                Ok(command) => {
                    if commands.blocking_send(command).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    say(&error.to_string());
                }
            }
        }
        if exit_on_eof {
            // Fails only when the demo has ended.
            let _ = commands.blocking_send(Command::Quit);
        }
    });
}

/// The signals that ask a program to end.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    #[cfg(not(unix))]
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(unix)]
    async fn recv(&mut self) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn recv(&mut self) {
        // Without the signal the visitor can still quit by key.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
