//! The dashboard in a real browser, before the four nodes of the demo.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, ChildStdin, Stdio},
    thread::spawn,
    time::{Duration, Instant},
};

use crate::{
    cdp::Page,
    overlay::{PATIENCE, Site, ronproxy},
    tools::have,
};

/// Processor time that the page may take for one render, at the 95th percentile: three frames.
const RENDER_MS: f64 = 50.0;

/// A move of a lane is on the page within this time. The page asks every half second.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// An HTTP tunnel through `proxy` to `target`, a name and a port.
pub fn connect(proxy: SocketAddr, target: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    if head.starts_with(b"HTTP/1.1 200 ") {
        return Ok(stream);
    }
    Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()))
}

/// The running demo.
pub struct Demo {
    child: Child,
    input: ChildStdin,
    pub proxy: SocketAddr,
    link: String,
}

impl Demo {
    fn start(dir: &Path) -> Self {
        let mut child = ronproxy(dir)
            .args(["demo", "--plain", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut after = |mark: &str| {
            lines.find_map(|line| {
                let (_, rest) = line.split_once(mark)?;
                Some(rest.split_whitespace().next().unwrap().to_owned())
            })
        };
        let proxy = after("the proxy listens on ").unwrap().parse().unwrap();
        let link = after("dashboard, once: ").unwrap();
        // What it prints further is read, so that it never waits for a reader.
        spawn(move || lines.for_each(drop));
        Self { input: child.stdin.take().unwrap(), child, proxy, link }
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One render with layout that turns the order of the rows round.
const RENDER: &str =
    "document.querySelector('#flow-table th button').click(); document.body.offsetHeight";

/// Tells when the page shows another route than the one given.
const WATCH: &str = "new MutationObserver(() => {
    const path = document.querySelector('#graph .route')?.dataset.path;
    if (!window.seen && path && path !== window.route) window.seen = Date.now();
}).observe(document.getElementById('graph'), { childList: true, subtree: true })";

/// How long after the lane's move the page showed it, in milliseconds; negative until it is known.
const LAG: &str =
    "fetch('/api/v1/events?class=reroutes').then((answer) => answer.json()).then((page) => {
    const moved = page.events.find((event) => event.end === 'entry');
    return moved && window.seen ? window.seen - moved.at_ms : -1;
})";

const ROUTE: &str = "document.querySelector('#graph .route')?.dataset.path";

/// The running demo, and its dashboard in a browser, in the dark or not; `None`: there is no Chromium.
pub async fn demo_and_page(dark: bool) -> Option<(Site, Demo, Page)> {
    if !have("chromium") {
        return None;
    }
    let site = Site::new();
    let demo = Demo::start(&site.dir("demo"));
    let mut page = Page::open(&site.dir("profile"), (1440, 900), dark).await;
    page.go(&demo.link).await;
    Some((site, demo, page))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_view_renders_and_a_cut_is_seen_within_a_second() {
    let Some((_site, mut demo, mut page)) = demo_and_page(false).await else { return };
    page.until("document.querySelectorAll('#graph .node').length === 4").await;
    page.until("[...document.querySelectorAll('#links .pill')].length === 3").await;
    assert_eq!(page.eval("location.pathname").await, "/");
    assert_eq!(page.eval("document.cookie").await, "", "no script reads the cookie");

    demo.say("get /big?mb=60");
    page.until(ROUTE).await;
    let route = page.eval(ROUTE).await.as_str().unwrap().to_owned();
    page.eval(&format!("window.route = '{route}'; {WATCH}")).await;
    demo.say(&format!("cut arosnet {}", route.split(' ').nth(1).unwrap()));
    page.until(&format!("{LAG}.then((lag) => lag >= 0)")).await;
    let lag = Duration::from_millis(page.eval(LAG).await.as_u64().unwrap());
    println!("the page showed the lane's move after {lag:?}");
    assert!(lag < SEEN_WITHIN, "{lag:?}");
    page.until("document.querySelector('#graph .link.down')").await;
    page.picture("map-light").await;

    page.eval("location.hash = '/flows'").await;
    page.until(
        "document.querySelector('#flow-table .target')?.textContent === 'campus.mit.test:80'",
    )
    .await;
    page.until("/\\d×/.test(document.querySelector('#flow-table td.route').textContent)").await;
    page.eval("location.hash = '/timeline'").await;
    page.until("document.querySelector('#event-list li[data-kind=rerouted] .stall')").await;
    page.until("document.querySelector('#event-list li[data-kind=link-down]')").await;
    page.picture("timeline-light").await;

    assert!(connect(demo.proxy, "nobody.mit.test:81").is_err());
    page.eval("location.hash = '/errors'").await;
    page.until("document.querySelector('#error-list .cure')").await;
    page.picture("errors-light").await;
    page.eval("location.hash = '/why'").await;
    for (url, says) in [
        ("http://nobody.mit.test/", "refuses it (name-not-found): nobody.mit.test does not exist"),
        ("http://campus.mit.test/", "allows it"),
    ] {
        let ask = "document.getElementById('ask').requestSubmit()";
        page.eval(&format!("document.getElementById('dest').value = '{url}'; {ask}")).await;
        let policy = "document.querySelector('#answer .policy')?.textContent";
        // In five seconds of each minute the demo's direct path loses a fifth, and an exit has a second to answer.
        let again = format!("{policy}?.includes('does not answer') && {ask}");
        page.until(&format!("({again}, {policy}?.includes('{says}'))")).await;
    }
    page.until("document.querySelectorAll('#answer tbody tr').length === 3").await;
    page.picture("why-light").await;
    page.resize(390, 844).await;
    for view in ["map", "flows", "timeline", "why"] {
        page.eval(&format!("location.hash = '/{view}'")).await;
        page.until(&format!("!document.getElementById('{view}').hidden")).await;
        let wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
        assert_eq!(page.eval(wide).await, false, "{view} is wider than a phone");
        page.picture(&format!("{view}-phone")).await;
    }
}

/// Notes each pulse on the map: where it is, whether it moves, and the route that is drawn then.
const PULSES: &str = "(() => {
    window.pulses = [];
    new MutationObserver((changes) => {
        for (const ring of changes.flatMap((change) => [...change.addedNodes])) {
            if (!ring.matches?.('.ping')) continue;
            window.pulses.push({ x: ring.cx.baseVal.value, y: ring.cy.baseVal.value, moves: ring.getAnimations().length,
                path: document.querySelector('#graph .route')?.dataset.path });
        }
    }).observe(document.getElementById('graph'), { childList: true, subtree: true });
})()";

/// The last pulse, and the node at which it was.
const PULSED: &str = "(() => {
    const pulse = window.pulses.at(-1);
    const node = [...document.querySelectorAll('#graph .node')].find((node) => {
        const { cx, cy } = node.querySelector('circle');
        return Math.hypot(cx.baseVal.value - pulse?.x, cy.baseVal.value - pulse?.y) < 1;
    });
    return { ...pulse, at: node?.querySelector('.title').textContent };
})()";

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_moves_pulses_at_the_node_of_its_new_route() {
    let Some((_site, mut demo, mut page)) = demo_and_page(false).await else { return };
    page.until("document.querySelectorAll('#graph .node').length === 4").await;
    demo.say("get /big?mb=60");
    page.until(ROUTE).await;
    let route = page.eval(ROUTE).await.as_str().unwrap().to_owned();
    page.eval(PULSES).await;
    demo.say(&format!("cut arosnet {}", route.split(' ').nth(1).unwrap()));
    // A move is told when bytes pass again, so the pulse of an earlier one may come first.
    let moved = format!(
        "(({{ path, at }}) => path && path !== '{route}' && at === path.split(' ')[1])({PULSED})"
    );
    page.until(&moved).await;
    assert_eq!(page.eval(PULSED).await["moves"], 1, "it is animated");
    page.until("!document.querySelector('#graph .ping')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_page_about_a_failure_leads_to_its_dashboard() {
    let site = Site::new();
    let demo = Demo::start(&site.dir("demo"));
    let mut proxy = TcpStream::connect(demo.proxy).unwrap();
    proxy.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "GET http://nobody.mit.test/ HTTP/1.1\r\nHost: nobody.mit.test\r\nAccept: text/html\r\n\r\n";
    proxy.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    proxy.read_to_string(&mut answer).unwrap();
    let dashboard = demo.link.split('/').take(3).collect::<Vec<_>>().join("/");
    assert!(answer.contains(&format!("{dashboard}/#/errors")), "{dashboard}: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_of_the_demo_are_cut_and_healed_by_click_and_by_keyboard() {
    let Some((_site, _demo, mut page)) = demo_and_page(false).await else { return };
    page.until("document.querySelectorAll('#graph .cut').length === 6").await;
    assert_eq!(page.eval("document.getElementById('cut-hint').hidden").await, false);
    // The demo has one rule, which holds flows to the direct path.
    let rule = "document.querySelector('#rules button')";
    page.until(&format!("{rule}?.getAttribute('aria-pressed') === 'false'")).await;
    for wanted in ["true", "false"] {
        page.eval(&format!("{rule}.click()")).await;
        page.until(&format!("{rule}.getAttribute('aria-pressed') === '{wanted}'")).await;
    }
    let path = "document.querySelector('#graph [data-cut=\"arosnet mit\"]')";
    let down = "document.querySelector('#graph .link.down[data-peer=mit]')";
    page.click(path).await;
    page.until(&format!("{path}.getAttribute('aria-pressed') === 'true'")).await;
    page.until(down).await;
    page.picture("map-cut-by-click").await;
    page.eval(&format!("{path}.focus()")).await;
    page.press("Enter").await;
    page.until(&format!("{path}.getAttribute('aria-pressed') === 'false'")).await;
    page.until(&format!("!{down}")).await;
    assert_eq!(page.eval(&format!("document.activeElement === {path}")).await, true);
    // A path between two others, which this node only hears of.
    let far = "document.querySelector('#graph [data-cut=\"utah mediaone\"]')";
    page.eval(&format!("{far}.focus()")).await;
    page.press("Enter").await;
    page.until(&format!("{far}.getAttribute('aria-pressed') === 'true'")).await;
}

/// Makes the page ask without a pause, and answers in the node's place: in each answer other flows, and 20
/// events more.
const HURRY: &str = "(async () => {
    const ask = window.fetch, later = window.setTimeout;
    const first = await (await ask('/api/v1/overview?flows=1&limit=1')).json();
    let id = first.events.next;
    window.polls = 0;
    window.setTimeout = (run, ms) => later(run, ms === 500 ? 0 : ms / 100);
    window.fetch = async (path, options) => {
        if (!path.startsWith('/api/v1/overview')) return ask(path, options);
        window.polls += 1;
        const stamp = { at_ms: Date.now(), exit: 'mit' };
        const flow = (n) => ({ label: (id + n).toString(16), target: `h${id + n}.test:80`, exit: 'mit', lane: 1,
            route: 'direct', reroutes: 0, history: [], hint: 'latency', state: 'open', seconds: 1, sent: id, received: n,
            quiet_seconds: 0, stands_still_seconds: null });
        const flows = Array.from({ length: 20 }, (_, n) => flow(n));
        const refused = (n) => ({ ...stamp, id: ++id, kind: 'flow-refused', target: `h${id}.test:80`,
            reason: 'timed-out', why: 'it did not answer', cure: `wait ${n}` });
        const events = Array.from({ length: 19 }, (_, n) => refused(n));
        events.push({ ...stamp, id: ++id, kind: 'rerouted', lane: 1, end: 'entry', peer: 'mit', from: 'direct',
            to: 'via utah', reason: 'silent', why: 'silent for 130 ms', stall_ms: 130 });
        if (window.polls % 20 === 0) location.hash = ['/map', '/flows', '/timeline', '/errors'][window.polls / 20 % 4];
        return new Response(JSON.stringify({ ...first, flows, events: { events, dropped: 0, next: id } }));
    };
})()";

/// Elements of the page.
const ELEMENTS: &str = "document.querySelectorAll('*').length";

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_left_open_does_not_grow() {
    let Some((_site, _demo, mut page)) = demo_and_page(false).await else { return };
    page.until("document.querySelectorAll('#graph .node').length === 4").await;
    page.eval(HURRY).await;
    // The views have gone round, and events of a day are there: 4,096 of them.
    page.until("window.polls > 220 && location.hash === '#/map'").await;
    let (before, elements) = (page.heap().await, page.eval(ELEMENTS).await.as_u64().unwrap());
    page.until("window.polls > 470 && location.hash === '#/map'").await;
    let (after, more) = (page.heap().await, page.eval(ELEMENTS).await.as_u64().unwrap());
    println!(
        "after 4,800 and 9,600 events: {before} and {after} bytes, {elements} and {more} elements"
    );
    assert!(after < before + (2 << 20), "{before} and {after} bytes");
    assert!(more < elements + 200, "{elements} and {more} elements");
}

/// The 95th percentile of the processor time of a render, in milliseconds.
async fn p95(page: &mut Page) -> f64 {
    let mut took = Vec::new();
    for _ in 0..40 {
        let before = page.busy().await;
        page.eval(RENDER).await;
        took.push(page.busy().await - before);
    }
    took.sort_by(f64::total_cmp);
    took[37] * 1e3
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_flows_are_drawn_within_three_frames() {
    let Some((_site, demo, mut page)) = demo_and_page(true).await else { return };
    page.until("document.querySelectorAll('#graph .node').length === 4").await;
    let proxy = demo.proxy;
    let open = move || (0..20).map(move |_| connect(proxy, "campus.mit.test:80").unwrap());
    let opening: Vec<_> = (0..25).map(|_| spawn(move || open().collect::<Vec<_>>())).collect();
    let mut flows: Vec<TcpStream> =
        opening.into_iter().flat_map(|flows| flows.join().unwrap()).collect();
    page.eval("location.hash = '/flows'").await;
    page.until("document.getElementById('flows-shown').textContent === '500 flows'").await;
    // Some of them move, so that rows change.
    for flow in flows.iter_mut().take(50) {
        write!(flow, "GET /big?mb=1 HTTP/1.1\r\nHost: campus.mit.test\r\n\r\n").unwrap();
    }
    page.until("document.querySelector('#flow-table .pill.good')").await;
    let first = p95(&mut page).await;
    page.eval("document.getElementById('all-flows').click()").await;
    page.until("document.querySelectorAll('#flow-table tbody tr').length === 500").await;
    let all = p95(&mut page).await;
    println!(
        "a render of 500 flows took {first:.1} ms at the 95th percentile, with all rows {all:.1} ms"
    );
    assert!(first < RENDER_MS && all < RENDER_MS, "{first} {all}");
    page.picture("flows-dark").await;
    let label = "document.querySelector('#flow-table tbody tr .close')";
    page.eval(&format!("{label}.click()")).await;
    let started = Instant::now();
    page.until("document.querySelectorAll('#flow-table tbody tr').length === 499").await;
    assert!(started.elapsed() < PATIENCE);
    page.eval("location.hash = '/map'").await;
    page.until("document.querySelector('#graph .route')").await;
    page.picture("map-dark").await;
}
