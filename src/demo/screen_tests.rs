use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::demo::{facts::Condition, paths::PathId, watch::PathView};

fn snapshot() -> Snapshot {
    let path = |path: PathId| PathView {
        path,
        condition: if path == PathId::DIRECT { Condition::Cut } else { Condition::Whole },
        linked: path != PathId::DIRECT,
        rtt: Some(Duration::from_millis(97)),
        lost: None,
        rate: 9_440_000,
        in_use: path.number() == 2,
    };
    let paths = PathId::all().map(path).collect();
    Snapshot { running: [true; 4], paths, ..Snapshot::default() }
}

fn scene(snapshot: &Snapshot) -> Scene<'_> {
    let proxy = ([127, 0, 0, 1], 1080).into();
    Scene { snapshot, proxy, caption: None, graphs: None, help: false }
}

/// What a terminal of this size shows, a line each.
fn shown((width, height): (u16, u16), scene: &Scene<'_>) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, scene)).unwrap();
    let cells: Vec<&str> =
        terminal.backend().buffer().content().iter().map(ratatui::buffer::Cell::symbol).collect();
    cells.chunks(usize::from(width)).map(|row| row.concat()).collect()
}

#[test]
fn the_screen_is_drawn_at_any_size() {
    let (snapshot, graphs) = (snapshot(), || [("a".into(), vec![1]), ("b".into(), vec![])]);
    for size in [(200, 60), (110, 35), (80, 24), (60, 20), (40, 16), (39, 50), (20, 5), (1, 1)] {
        shown(size, &scene(&snapshot));
        shown(size, &Scene { help: true, ..scene(&snapshot) });
        shown(size, &Scene { graphs: Some(graphs()), ..scene(&snapshot) });
        let caption = Some("A path is cut.");
        shown(size, &Scene { caption, graphs: Some(graphs()), ..scene(&snapshot) });
    }
}

#[test]
fn all_keys_stand_on_one_line_beside_map_flows_and_events_at_80_by_24() {
    let snapshot = snapshot();
    let rows = shown((80, 24), &scene(&snapshot));
    let keys = rows.iter().find(|row| row.contains("1 cut")).unwrap();
    for key in ["2-6", "l lose", "u m", "h heal", "d download", "b page", "? help", "q quit"] {
        assert!(keys.contains(key), "{key}: {keys}");
    }
    let text = rows.join("\n");
    for part in ["1 ✂ CUT", "[   Utah   ]", "━ 2 97ms", "127.0.0.1:1080", "Flows", "Events"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (first, last) = (text.find("╭ Events").unwrap(), text.len());
    assert!(text[first..last].lines().count() >= 8, "six events have room: {text}");
}

#[test]
fn caption_map_both_graphs_and_events_are_seen_at_80_by_24() {
    let snapshot = snapshot();
    for size in [(80, 24), (160, 50)] {
        let rates = (0..90).map(|n| n * 100_000).collect::<Vec<u64>>();
        let graphs =
            [("With the overlay: 9.0 Mb/s".into(), rates), ("Without it: 0.0 Mb/s".into(), vec![])];
        let caption = Some("A path is cut.");
        let text =
            shown(size, &Scene { caption, graphs: Some(graphs), ..scene(&snapshot) }).join("\n");
        let parts = ["A path is cut.", "overlay: 9.0 Mb/s", "it: 0.0 Mb/s", "█", "Events", "✂ CUT"];
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[test]
fn a_terminal_of_40_columns_shows_paths_keys_and_whole_events() {
    let mut snapshot = snapshot();
    let text = "lane 1 REROUTED: direct → via utah (silent for 180 ms), stall 290 ms";
    snapshot.events.push_back(crate::demo::watch::Event { at: Duration::ZERO, text: text.into() });
    let text = shown((40, 20), &scene(&snapshot)).join("\n");
    for part in ["1   ArosNet–MIT", "CUT", "2 ━ ArosNet–Utah", "q quit", "? help", "stall 290 ms"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_terminal_of_20_by_5_says_what_to_do_in_a_sentence() {
    let snapshot = snapshot();
    let rows = shown((20, 5), &scene(&snapshot));
    let text = rows.iter().map(|row| row.trim_end()).collect::<Vec<_>>().join(" ");
    assert_eq!(text.trim_end(), "Too small: enlarge to 40x16, or start with --plain. q quits.");
}

#[test]
fn help_names_the_keys_and_fits_80_by_24() {
    let snapshot = snapshot();
    let text = shown((80, 24), &Scene { help: true, ..scene(&snapshot) }).join("\n");
    for part in ["1  cut the path in use", "curl --proxy", "Esc or ? goes back."] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn control_c_and_q_end_the_demo_and_escape_leaves_the_help_first() {
    let press = |code, modifiers| command_of(KeyEvent::new(code, modifiers));
    assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Command::Quit));
    assert_eq!(press(KeyCode::Char('q'), KeyModifiers::NONE), Some(Command::Quit));
    assert_eq!(press(KeyCode::Char('c'), KeyModifiers::NONE), None);
    assert_eq!(press(KeyCode::Esc, KeyModifiers::NONE), Some(Command::Leave));
    assert_eq!(press(KeyCode::Char('?'), KeyModifiers::SHIFT), Some(Command::Help));
}
