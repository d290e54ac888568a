use super::*;
use crate::{
    demo::{
        facts::{Condition, FlowFact, LaneFact},
        map::map,
        text::flat,
        watch::FlowView,
    },
    flow::Route,
};

fn proxy() -> SocketAddr {
    ([127, 0, 0, 1], 1080).into()
}

/// A download by way of Utah, after the direct path was cut.
fn snapshot() -> Snapshot {
    let view = |path: PathId| PathView {
        path,
        condition: Condition::Whole,
        linked: true,
        rtt: Some(Duration::from_millis(10 * path.number() as u64)),
        lost: None,
        rate: 0,
        in_use: false,
    };
    let mut paths: Vec<PathView> = PathId::all().map(view).collect();
    paths[0].condition = Condition::Cut;
    paths[0].linked = false;
    for used in [1, 2] {
        paths[used].in_use = true;
        paths[used].rate = 9_440_000;
    }
    let lane = LaneFact {
        lane: 1,
        peer: "mit".into(),
        route: Route::Via("utah".parse().unwrap()),
        hint: "latency".into(),
        rtt: Some(Duration::from_millis(68)),
        reroutes: 1,
        history: vec![],
    };
    let fact = FlowFact {
        label: "0000abcd".into(),
        target: "campus.mit.test:80".into(),
        route: Some("via utah".into()),
        reroutes: 1,
        last: Some(Change {
            from: "direct".into(),
            to: "via utah".into(),
            reason: "silent for 130 ms".into(),
            stall: Some(Duration::from_millis(290)),
        }),
        sent: 100,
        received: 5 << 20,
    };
    let flow = FlowView { fact, rate: 9_440_000, stalled: None };
    Snapshot {
        running: [true; 4],
        paths,
        lanes: vec![lane],
        flows: vec![flow],
        ..Default::default()
    }
}

fn text(lines: &[Line]) -> String {
    lines.iter().map(flat).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_map_shows_the_cut_and_the_way_around_it() {
    let map = map(&snapshot(), proxy());
    let expected = "\
your proxy 127.0.0.1:1080 ▾                    ▾ http://campus.mit.test/
┌─────────┐                                                  ┌─────────┐
│  entry  │╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ 1 ✂ CUT ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌│  exit   │
│ ArosNet │                   ┌──────────┐                   │   MIT   │
│         │━ 2 20ms 9.4Mb/s ━━│   Utah   │━ 3 30ms 9.4Mb/s ━━│         │
│         │                   └────┬─────┘                   │         │
│         │                        │ 6 60ms                  │         │
│         │                   ┌────┴─────┐                   │         │
│         │───── 4 40ms ──────│ MediaOne │───── 5 50ms ──────│         │
└─────────┘                   └──────────┘                   └─────────┘";
    assert_eq!(text(&map), expected);
}

#[test]
fn a_killed_node_and_a_lossy_path_say_so_on_the_map() {
    let mut snapshot = snapshot();
    snapshot.running[1] = false;
    snapshot.paths[1].linked = false;
    snapshot.paths[3].condition = Condition::Lossy(crate::emulator::LossRate::from_percent(30.0));
    let text = text(&map(&snapshot, proxy()));
    for piece in ["│  KILLED  │", "2 no link", "4 40ms 30% loss"] {
        assert!(text.contains(piece), "{piece} is not in\n{text}");
    }
}

#[test]
fn every_line_of_the_map_is_as_wide_as_the_others() {
    for rate in [0, 9_400_000, 123_400_000] {
        let mut snapshot = snapshot();
        snapshot.paths.iter_mut().for_each(|path| path.rate = rate);
        for line in map(&snapshot, proxy()) {
            let width: usize = line.iter().map(|(text, _)| text.chars().count()).sum();
            assert!(width == 72, "{width}: {}", flat(&line));
        }
    }
}

#[test]
fn the_advice_names_the_key_of_the_path_in_use() {
    let mut snapshot = snapshot();
    assert!(text(&keys(&snapshot)).contains("Press 1"));
    snapshot.flows.clear();
    assert!(text(&keys(&snapshot)).contains("h heals everything"));
    snapshot.paths[0].linked = true;
    assert!(text(&keys(&snapshot)).contains("Start with d"));
}

#[test]
fn a_flow_shows_its_label_its_rate_and_its_route_or_its_stall() {
    let mut snapshot = snapshot();
    let row = text(&flows(&snapshot));
    for piece in [
        "0000abcd",
        "campus.mit.test:80",
        "5.0 MiB in",
        "9.4 Mb/s",
        "via utah",
        "rerouted 1×, last: silent for 130 ms, stall 290 ms",
    ] {
        assert!(row.contains(piece), "{piece}: {row}");
    }
    snapshot.flows[0].stalled = Some(Duration::from_millis(840));
    assert!(text(&flows(&snapshot)).contains("STALLED 840 ms"));
    assert!(text(&keys(&snapshot)).contains("stands still"));
}

#[test]
fn the_commands_to_try_name_the_real_port() {
    let text = text(&try_it(([127, 0, 0, 1], 4321).into()));
    assert!(text.contains("curl --proxy socks5h://127.0.0.1:4321 http://campus.mit.test/"));
    assert!(text.contains("proxy 127.0.0.1:4321"));
}

#[test]
fn an_event_tells_its_time_since_the_start() {
    let happened = Event { at: Duration::from_millis(83_450), text: "everything healed".into() };
    assert_eq!(flat(&event(&happened)), "  1:23.4 everything healed");
}
