//! The full-screen view and its keyboard.

use std::{
    io,
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
    widgets::{Block, BorderType, Paragraph, Sparkline},
};
use tokio::sync::mpsc;

use super::{
    auto::Auto,
    commands::Command,
    map::map,
    text::{Line, Tone},
    view,
    watch::Snapshot,
};

/// How often the keyboard thread looks whether it should end.
const POLL: Duration = Duration::from_millis(100);

/// The map's width with its borders.
const MAP_WIDTH: u16 = 76;

/// A terminal in full-screen mode. It is restored on drop, and by a hook on panic.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    stop: Arc<AtomicBool>,
}

impl Screen {
    /// Takes over the terminal; the keys' commands go to `commands`.
    ///
    /// # Errors
    /// When the terminal cannot be set up.
    pub(super) fn open(commands: mpsc::Sender<Command>) -> io::Result<Self> {
        let terminal = ratatui::try_init()?;
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
        Ok(Self { terminal, stop })
    }

    /// Draws the snapshot.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn draw(
        &mut self,
        snapshot: &Snapshot,
        proxy: SocketAddr,
        auto: Option<&Auto>,
    ) -> io::Result<()> {
        let drawn = self.terminal.draw(|frame| match auto {
            Some(auto) => draw_auto(frame, snapshot, proxy, auto.caption(), &auto.graphs()),
            None => draw(frame, snapshot, proxy),
        });
        drawn.map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        ratatui::restore();
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
        KeyCode::Esc => Some(Command::Quit),
        _ => None,
    }
}

/// Below this height the map, the flows and the events fit, and the rest does not.
const ROOMY: u16 = 32;

/// The screen of a small terminal, 80×24 for one.
fn draw_small(frame: &mut Frame<'_>, snapshot: &Snapshot, proxy: SocketAddr) {
    let flows = view::flows(snapshot);
    let rows = u16::try_from(flows.len()).unwrap_or(2).min(2) + 2;
    let [advice, keys, top, flow, log] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(12),
        Constraint::Length(rows),
        Constraint::Min(3),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(row(view::advice_in_a_line(snapshot))), advice);
    frame.render_widget(Paragraph::new(row(view::keys_in_a_line())), keys);
    panel(frame, top, "The overlay (bold line: the route in use)", map(snapshot, proxy));
    panel(frame, flow, "Flows", flows);
    draw_events(frame, log, snapshot);
}

/// The top of the graphs: what paths to ArosNet carry, in bits per second.
const FULL: u64 = 10_000_000;

/// The screen of the demo that plays by itself.
fn draw_auto(
    frame: &mut Frame<'_>,
    snapshot: &Snapshot,
    proxy: SocketAddr,
    caption: &str,
    graphs: &[(String, Vec<u64>); 2],
) {
    let [said, top, middle, log] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(12),
        Constraint::Length(7),
        Constraint::Min(3),
    ])
    .areas(frame.area());
    let caption = vec![(caption.to_owned(), Tone::Strong)];
    frame.render_widget(Paragraph::new(row(caption)), said);
    panel(frame, top, "The overlay (bold line: the route in use)", map(snapshot, proxy));
    let halves =
        Layout::horizontal([Constraint::Ratio(1, 2), Constraint::Ratio(1, 2)]).areas::<2>(middle);
    for ((area, (title, rates)), colour) in
        halves.into_iter().zip(graphs).zip([Color::Green, Color::Yellow])
    {
        let block = framed(title);
        let width = usize::from(block.inner(area).width);
        let shown = &rates[rates.len().saturating_sub(width)..];
        let graph = Sparkline::default().data(shown).max(FULL).style(Style::new().fg(colour));
        frame.render_widget(graph.block(block), area);
    }
    draw_events(frame, log, snapshot);
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let rows = usize::from(area.height.saturating_sub(2));
    let skipped = snapshot.events.len().saturating_sub(rows);
    let events = snapshot.events.iter().skip(skipped).map(view::event).collect();
    panel(frame, area, "Events", events);
}

fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot, proxy: SocketAddr) {
    if frame.area().height < ROOMY || frame.area().width < MAP_WIDTH + 30 {
        return draw_small(frame, snapshot, proxy);
    }
    let lanes = view::lanes(snapshot);
    let flows = view::flows(snapshot);
    let height = |rows: usize, most: u16| u16::try_from(rows).unwrap_or(most).min(most) + 2;
    let [title, top, trial, lane, flow, log] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(12),
        Constraint::Length(5),
        Constraint::Length(height(lanes.len(), 3)),
        Constraint::Length(height(flows.len(), 5)),
        Constraint::Min(3),
    ])
    .areas(frame.area());
    let [left, right] =
        Layout::horizontal([Constraint::Length(MAP_WIDTH), Constraint::Min(0)]).areas(top);
    let text = " ronproxy demo: four nodes in this process, an emulated Internet between them, your traffic on top";
    frame.render_widget(Paragraph::new(text).style(Style::new().bold()), title);
    panel(frame, left, "The overlay (bold line: the route in use)", map(snapshot, proxy));
    panel(frame, right, "Keys", view::keys(snapshot));
    panel(frame, trial, "Try it", view::try_it(proxy));
    panel(frame, lane, "Lanes: the tunnel your flows share", lanes);
    panel(frame, flow, "Flows: your connections, each with its label", flows);
    draw_events(frame, log, snapshot);
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
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    #[test]
    fn the_screen_is_drawn_at_any_size() {
        for (width, height) in [(110, 35), (80, 24), (20, 5), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let proxy = ([127, 0, 0, 1], 1080).into();
            terminal.draw(|frame| draw(frame, &Snapshot::default(), proxy)).unwrap();
        }
    }

    #[test]
    fn all_keys_the_map_and_events_are_seen_at_80_by_24() {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let proxy = ([127, 0, 0, 1], 1080).into();
        let snapshot = Snapshot { running: [true; 4], ..Snapshot::default() };
        terminal.draw(|frame| draw(frame, &snapshot, proxy)).unwrap();
        let cells = terminal.backend().buffer().content().iter();
        let text: String = cells.map(ratatui::buffer::Cell::symbol).collect();
        for part in ["q quit", "b dashboard", "The overlay", "Flows", "Events", "Start with d"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn caption_and_both_graphs_are_seen_at_80_by_24() {
        let proxy = ([127, 0, 0, 1], 1080).into();
        let rates = (0..90).map(|n| n * 100_000).collect::<Vec<u64>>();
        let graphs = [("Left: 9.0 Mb/s".into(), rates), ("Right: 0.0 Mb/s".into(), vec![])];
        for (width, height) in [(80, 24), (160, 50), (20, 5), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let snapshot = Snapshot::default();
            terminal
                .draw(|frame| draw_auto(frame, &snapshot, proxy, "A path is cut.", &graphs))
                .unwrap();
            let cells = terminal.backend().buffer().content().iter();
            let text: String = cells.map(ratatui::buffer::Cell::symbol).collect();
            for part in ["A path is cut.", "Left: 9.0", "Right: 0.0", "█", "Events"] {
                assert!(width < 80 || text.contains(part), "{part}: {text}");
            }
        }
    }

    #[test]
    fn control_c_ends_the_demo() {
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(command_of(key), Some(Command::Quit));
        let plain = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::NONE);
        assert_eq!(command_of(plain), None);
    }
}
