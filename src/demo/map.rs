//! The map of the four sites, drawn with characters. PURE.

use std::net::SocketAddr;

use super::{
    facts::Condition,
    paths::{PathId, Place},
    text::{Line, Tone, mbits},
    watch::{PathView, Snapshot},
};

/// The characters between the boxes of the entry and the exit.
const GAP: usize = 50;

/// The characters between one of these boxes and a relay's.
const LEG: usize = 19;

/// The inside of a box at the edge.
const EDGE: usize = 9;

/// Below this rate a path carries only probes, which the map does not show.
const QUIET: u64 = 100_000;

/// The map without the borders of the relays, for a small terminal: six lines of 72 characters.
#[must_use]
pub(super) fn compact_map(snapshot: &Snapshot) -> Vec<Line> {
    if snapshot.paths.len() < PathId::all().count() {
        return Vec::new();
    }
    let leg = |number: usize| edge(&snapshot.paths[number - 1], LEG);
    let relay = |place| {
        let tone = tone_of(snapshot, place);
        let name = if tone == Tone::Bad { "KILLED" } else { place.title() };
        (format!("[{name:^10}]"), tone)
    };
    let gap = || vec![(" ".repeat(GAP), Tone::Dim)];
    let rows: [(&str, &str, Line); 6] = [
        ("┌─────────┐", "┌─────────┐", gap()),
        ("entry", "exit", vec![edge(&snapshot.paths[0], GAP)]),
        ("ArosNet", "MIT", vec![leg(2), relay(Place::Utah), leg(3)]),
        ("", "", between_relays(&snapshot.paths[5])),
        ("", "", vec![leg(4), relay(Place::MediaOne), leg(5)]),
        ("└─────────┘", "└─────────┘", gap()),
    ];
    rows.into_iter().map(|row| between_edges(snapshot, row)).collect()
}

/// The path between the relays: its line stands under the middle of their boxes.
fn between_relays(path: &PathView) -> Line {
    let (label, tone) = label(path);
    let line = if path.linked { '│' } else { '╎' };
    let text = format!("     {line} {label}");
    vec![(" ".repeat(LEG), Tone::Dim), (format!("{text:<width$.width$}", width = 12 + LEG), tone)]
}

/// A row of the map: what is between the entry and the exit, with their boxes.
fn between_edges(snapshot: &Snapshot, (left, right, between): (&str, &str, Line)) -> Line {
    let mut line = vec![edge_box(snapshot, left, Place::ArosNet)];
    line.extend(between);
    line.push(edge_box(snapshot, right, Place::Mit));
    line
}

/// The map: ten lines of 72 characters.
#[must_use]
pub(super) fn map(snapshot: &Snapshot, proxy: SocketAddr) -> Vec<Line> {
    if snapshot.paths.len() < PathId::all().count() {
        return Vec::new();
    }
    let leg = |number: usize| edge(&snapshot.paths[number - 1], LEG);
    let space = |len: usize| (" ".repeat(len), Tone::Dim);
    let relay = |text: &str, place| relay_box(snapshot, text, place);
    let rows: [(&str, &str, Line); 9] = [
        ("┌─────────┐", "┌─────────┐", vec![space(GAP)]),
        ("entry", "exit", vec![edge(&snapshot.paths[0], GAP)]),
        ("ArosNet", "MIT", vec![space(LEG), relay("┌──────────┐", Place::Utah), space(LEG)]),
        ("", "", vec![leg(2), relay("│", Place::Utah), leg(3)]),
        ("", "", vec![space(LEG), relay("└────┬─────┘", Place::Utah), space(LEG)]),
        ("", "", between_relays(&snapshot.paths[5])),
        ("", "", vec![space(LEG), relay("┌────┴─────┐", Place::MediaOne), space(LEG)]),
        ("", "", vec![leg(4), relay("│", Place::MediaOne), leg(5)]),
        (
            "└─────────┘",
            "└─────────┘",
            vec![space(LEG), relay("└──────────┘", Place::MediaOne), space(LEG)],
        ),
    ];
    let you = format!("your proxy {proxy} ▾");
    let mut lines = vec![vec![
        (format!("{you:<44.44}"), Tone::Strong),
        (format!("{:>28}", "▾ http://campus.mit.test/"), Tone::Strong),
    ]];
    lines.extend(rows.into_iter().map(|row| between_edges(snapshot, row)));
    lines
}

fn tone_of(snapshot: &Snapshot, place: Place) -> Tone {
    let runs = Place::ALL.iter().position(|p| *p == place).is_some_and(|i| snapshot.running[i]);
    if runs { Tone::Plain } else { Tone::Bad }
}

/// A row of a box at the edge: a whole border, or a text between two.
fn edge_box(snapshot: &Snapshot, text: &str, place: Place) -> (String, Tone) {
    let tone = tone_of(snapshot, place);
    let border = text.starts_with(['┌', '└']);
    let text = match text {
        "exit" | "entry" if tone == Tone::Bad => "KILLED",
        text => text,
    };
    if border { (text.to_owned(), tone) } else { (format!("│{text:^EDGE$}│"), tone) }
}

fn relay_box(snapshot: &Snapshot, text: &str, place: Place) -> (String, Tone) {
    let tone = tone_of(snapshot, place);
    let name = if tone == Tone::Bad { "KILLED" } else { place.title() };
    let text = if text == "│" { format!("│{name:^10}│") } else { text.to_owned() };
    (text, tone)
}

/// A horizontal path: bold where a lane uses it, broken where it is cut.
fn edge(path: &PathView, width: usize) -> (String, Tone) {
    let (label, tone) = label(path);
    let line = match (path.condition, path.linked, path.in_use) {
        (Condition::Cut, ..) | (_, false, _) => '╌',
        (_, _, true) => '━',
        _ => '─',
    };
    let label: String = label.chars().take(width - 2).collect();
    let left = width - 2 - label.chars().count();
    let dash = |len: usize| line.to_string().repeat(len);
    (format!("{} {label} {}", dash(left / 2), dash(left - left / 2)), tone)
}

/// A path's number, round-trip time, and the most important thing about it.
fn label(path: &PathView) -> (String, Tone) {
    let number = path.path.number();
    let rtt = path.rtt.map_or_else(String::new, |rtt| format!(" {}ms", rtt.as_millis()));
    match path.condition {
        Condition::Cut => (format!("{number} ✂ CUT"), Tone::Bad),
        _ if !path.linked => (format!("{number} no link"), Tone::Bad),
        Condition::Lossy(rate) => {
            (format!("{number}{rtt} {:.0}% loss", rate.fraction() * 100.0), Tone::Warn)
        }
        Condition::Whole if path.rate >= QUIET => {
            let tone = if path.in_use { Tone::Good } else { Tone::Plain };
            (format!("{number}{rtt} {}", mbits(path.rate).replace(' ', "")), tone)
        }
        Condition::Whole => {
            (format!("{number}{rtt}"), if path.in_use { Tone::Good } else { Tone::Dim })
        }
    }
}
