//! The full-screen view and its keyboard.

use std::{
    io,
    mem::ManuallyDrop,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::{
    DefaultTerminal, Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line as Row, Span},
    widgets::{Block, BorderType, Paragraph, Sparkline, Wrap},
};
use tokio::sync::mpsc;

use super::{
    commands::Command,
    map::{compact_map, map},
    pair::Graphs,
    text::{Line, Tone, folded},
    view,
    watch::Snapshot,
};

/// How often the keyboard thread looks whether it should end.
const POLL: Duration = Duration::from_millis(100);

/// The map's width with its borders.
const MAP_WIDTH: u16 = 76;

/// A terminal in full-screen mode. It is restored on drop, and by a hook on panic.
pub(super) struct Screen {
    /// Left to the end of the process: where the terminal has vanished, its own end would print an error, and panic.
    terminal: ManuallyDrop<DefaultTerminal>,
    stop: Arc<AtomicBool>,
    help: bool,
}

impl Screen {
    /// Takes over the terminal; the keys' commands go to `commands`.
    ///
    /// # Errors
    /// When the terminal cannot be set up.
    pub(super) fn open(commands: mpsc::Sender<Command>) -> io::Result<Self> {
        let terminal = ManuallyDrop::new(ratatui::try_init()?);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match next_command() {
                    Ok(Some(command)) => {
                        if commands.blocking_send(command).is_err() {
                            return;
                        }
                    }
                    Ok(None) => {}
                    // A terminal that is gone sends nothing any more.
                    Err(_) => return drop(commands.blocking_send(Command::Quit)),
                }
            }
        });
        Ok(Self { terminal, stop, help: false })
    }

    /// Draws the snapshot.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn draw(&mut self, scene: Scene<'_>) -> io::Result<()> {
        let scene = Scene { help: self.help, ..scene };
        self.terminal.draw(|frame| draw(frame, &scene)).map(drop)
    }

    /// Opens the help, or closes it.
    pub(super) fn toggle_help(&mut self) {
        self.help = !self.help;
    }

    /// Closes the help; false if it was not open.
    pub(super) fn close_help(&mut self) -> bool {
        std::mem::take(&mut self.help)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A terminal that has vanished needs nothing, and has no place for an error.
        let _ = ratatui::try_restore().and_then(|()| self.terminal.show_cursor());
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Screen")
    }
}

fn next_command() -> io::Result<Option<Command>> {
    if !event::poll(POLL)? {
        return Ok(None);
    }
    let event::Event::Key(key) = event::read()? else { return Ok(None) };
    Ok(command_of(key))
}

fn command_of(key: KeyEvent) -> Option<Command> {
    let interrupted = key.modifiers.contains(KeyModifiers::CONTROL)
        && matches!(key.code, KeyCode::Char('c' | 'd'));
    match key.code {
        _ if key.kind == KeyEventKind::Release => None,
        _ if interrupted => Some(Command::Quit),
        KeyCode::Char(letter) => Command::of_key(letter),
        KeyCode::Esc => Some(Command::Leave),
        _ => None,
    }
}

/// What the screen shows.
pub(super) struct Scene<'a> {
    /// What the nodes do.
    pub snapshot: &'a Snapshot,
    /// Where the proxy listens.
    pub proxy: SocketAddr,
    /// What happens now, in the demo that plays by itself.
    pub caption: Option<&'a str>,
    /// The download through the overlay and the one without it, if there are any.
    pub graphs: Option<Graphs>,
    /// Whether the help is open.
    pub help: bool,
}

/// Below this height some of what a large screen shows has no room.
const ROOMY: u16 = 32;

/// The map's columns with borders and a margin; below, a table of the paths takes its place.
const COMPACT_WIDTH: u16 = 76;

/// The smallest screen: the paths, two lines of keys and some events.
const LEAST: (u16, u16) = (40, 16);

/// The top of the graphs: what paths to ArosNet carry, in bits per second.
const FULL: u64 = 10_000_000;

fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>) {
    let area = frame.area();
    match () {
        () if area.width < LEAST.0 || area.height < LEAST.1 => too_small(frame),
        () if scene.help => {
            panel(frame, area, "Help", view::help(scene.snapshot, scene.proxy));
        }
        () if area.height < ROOMY || area.width < MAP_WIDTH + 30 => draw_small(frame, scene),
        () => draw_large(frame, scene),
    }
}

fn too_small(frame: &mut Frame<'_>) {
    let (width, height) = LEAST;
    let text = format!("Too small: enlarge to {width}x{height}, or start with --plain. q quits.");
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), frame.area());
}

/// The screen of a small terminal, 80×24 for one.
fn draw_small(frame: &mut Frame<'_>, scene: &Scene<'_>) {
    let Scene { snapshot, proxy, .. } = *scene;
    let width = frame.area().width;
    let keys = match scene.caption {
        Some(_) => vec![],
        None => keys_within(usize::from(width)),
    };
    let flows = match (&scene.graphs, frame.area().height) {
        // The graphs tell more, and leave no room.
        (Some(_), _) | (None, ..20) => None,
        (None, 20..) => Some(view::flows(snapshot)),
    };
    let rows = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX);
    let graphs = if scene.graphs.is_some() { graphs_height(frame.area().height) } else { 0 };
    let [said, pressed, top, middle, flow, log] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(rows(keys.len())),
        Constraint::Length(8),
        Constraint::Length(graphs),
        Constraint::Length(flows.as_ref().map_or(0, |flows| rows(flows.len()).min(2) + 2)),
        Constraint::Min(3),
    ])
    .areas(frame.area());
    let advice = scene.caption.map_or_else(
        || view::advice_in_a_line(snapshot),
        |caption| vec![(caption.to_owned(), Tone::Strong)],
    );
    frame.render_widget(Paragraph::new(row(advice)), said);
    frame.render_widget(Paragraph::new(keys.into_iter().map(row).collect::<Vec<_>>()), pressed);
    if width < COMPACT_WIDTH {
        panel(frame, top, "The paths (━ in use)", view::narrow_paths(snapshot));
    } else {
        let title = format!("The overlay (bold: the route in use), your proxy is {proxy}");
        panel(frame, top, &title, compact_map(snapshot));
    }
    draw_graphs(frame, middle, scene);
    if let Some(flows) = flows {
        panel(frame, flow, "Flows", flows);
    }
    draw_events(frame, log, snapshot);
}

/// The keys in as many lines as it takes.
fn keys_within(width: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = vec![vec![]];
    let wide = |line: &Line| line.iter().map(|(text, _)| text.chars().count()).sum::<usize>();
    for key in view::keys_in_a_line().chunks(2).map(<[_]>::to_vec) {
        let last = lines.last().map_or(0, wide);
        if last > 0 && 1 + last + wide(&key) > width + 2 {
            lines.push(vec![]);
        }
        lines.last_mut().into_iter().for_each(|line| line.extend(key.clone()));
    }
    lines
}

/// Rows of the graphs with borders: a quarter of a terminal of 24 rows or fewer, at most 12.
fn graphs_height(rows: u16) -> u16 {
    (rows / 3).clamp(4, 12)
}

/// The screen of a large terminal.
fn draw_large(frame: &mut Frame<'_>, scene: &Scene<'_>) {
    let Scene { snapshot, proxy, .. } = *scene;
    let lanes = view::lanes(snapshot);
    let flows = view::flows(snapshot);
    let height = |rows: usize, most: u16| u16::try_from(rows).unwrap_or(most).min(most) + 2;
    let graphs = if scene.graphs.is_some() { 9 } else { 0 };
    let trial = if scene.graphs.is_some() { 0 } else { 5 };
    let [title, top, middle, trial, lane, flow, log] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(12),
        Constraint::Length(graphs),
        Constraint::Length(trial),
        Constraint::Length(height(lanes.len(), 3)),
        Constraint::Length(height(flows.len(), if graphs > 0 { 2 } else { 5 })),
        Constraint::Min(3),
    ])
    .areas(frame.area());
    let [left, right] =
        Layout::horizontal([Constraint::Length(MAP_WIDTH), Constraint::Min(0)]).areas(top);
    let text = scene.caption.unwrap_or(
        "ronproxy demo: four nodes in this process, an emulated Internet between them, your traffic on top",
    );
    frame.render_widget(Paragraph::new(format!(" {text}")).style(Style::new().bold()), title);
    panel(frame, left, "The overlay (bold line: the route in use)", map(snapshot, proxy));
    panel(frame, right, "Keys", view::keys(snapshot));
    draw_graphs(frame, middle, scene);
    if trial.height > 0 {
        panel(frame, trial, "Try it", view::try_it(proxy));
    }
    panel(frame, lane, "Lanes: the tunnel your flows share", lanes);
    panel(frame, flow, "Flows: your connections, each with its label", flows);
    draw_events(frame, log, snapshot);
}

/// Both downloads, side by side.
fn draw_graphs(frame: &mut Frame<'_>, area: Rect, scene: &Scene<'_>) {
    let halves =
        Layout::horizontal([Constraint::Ratio(1, 2), Constraint::Ratio(1, 2)]).areas::<2>(area);
    let graphs = scene.graphs.iter().flatten();
    for ((area, (title, rates)), colour) in
        halves.into_iter().zip(graphs).zip([Color::Green, Color::Yellow])
    {
        let block = framed(title);
        let width = usize::from(block.inner(area).width);
        let shown = &rates[rates.len().saturating_sub(width)..];
        let graph = Sparkline::default().data(shown).max(FULL).style(Style::new().fg(colour));
        frame.render_widget(graph.block(block), area);
    }
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let rows = usize::from(area.height.saturating_sub(2));
    // The borders, and the space before each line.
    let width = usize::from(area.width.saturating_sub(3));
    let skipped = snapshot.events.len().saturating_sub(rows);
    let events = snapshot.events.iter().skip(skipped).map(view::event);
    let mut events: Vec<Line> = events.flat_map(|event| folded(event, width)).collect();
    let hidden = events.len().saturating_sub(rows);
    panel(frame, area, "Events", events.split_off(hidden));
}

fn panel(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line>) {
    let rows: Vec<Row<'_>> = lines.into_iter().map(row).collect();
    frame.render_widget(Paragraph::new(rows).block(framed(title)), area);
}

fn framed(title: &str) -> Block<'static> {
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().fg(Color::DarkGray))
        .title(Span::styled(format!(" {title} "), Style::new().fg(Color::Cyan)))
}

fn row(line: Line) -> Row<'static> {
    let mut spans = vec![Span::raw(" ")];
    spans.extend(line.into_iter().map(|(text, tone)| Span::styled(text, style(tone))));
    Row::from(spans)
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Dim => Style::new().fg(Color::DarkGray),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Warn => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Strong => Style::new().add_modifier(Modifier::BOLD),
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
