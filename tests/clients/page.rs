//! The dashboard's page for every reader: contrast, keyboard, names, widths, fifty nodes; and its members view.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    cdp::Page,
    dashboard::{connect, demo_and_page},
    overlay::{Running, Site, configure, json},
    tools::have,
};

/// All views.
const VIEWS: [&str; 6] = ["map", "flows", "timeline", "errors", "why", "members"];

/// The texts and parts whose contrast is too low for WCAG 2 AA, and how many were looked at. Colours are read by
/// drawing them, and laid over what is behind them.
const POOR: &str = "(() => {
    const pixel = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const read = (colour) => {
        pixel.clearRect(0, 0, 1, 1);
        pixel.fillStyle = colour;
        pixel.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, under) => [0, 1, 2].map((n) => top[n] * top[3] + under[n] * (1 - top[3]));
    const chain = (element) => element ? [...chain(element.parentElement), element] : [];
    const behind = (element) => chain(element).reduce((at, one) => over(read(getComputedStyle(one).backgroundColor), at), [255, 255, 255]);
    const light = (colour) => {
        const [r, g, b] = colour.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (a, b) => { const [dark, bright] = [light(a), light(b)].sort((x, y) => x - y); return (bright + 0.05) / (dark + 0.05); };
    const faint = (element) => chain(element).reduce((all, one) => all * getComputedStyle(one).opacity, 1);
    const poor = [];
    let seen = 0;
    const judge = (what, colour, under, least, opacity) => {
        const [r, g, b, a] = read(colour);
        const found = ratio(over([r, g, b, a * opacity], under), under);
        seen += 1;
        if (found < least) poor.push(`${what}: ${found.toFixed(2)} of ${least}`);
    };
    const visible = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest('.hidden, .skip, noscript');
    const name = (element, text) => `${element.tagName} ${element.getAttribute('class') ?? ''} ${text.trim().slice(0, 30)}`;
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !visible(element) || element.closest('title')) continue;
        const style = getComputedStyle(element);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        const colour = element.namespaceURI.endsWith('svg') ? style.fill : style.color;
        judge(name(element, texts.currentNode.data), colour, behind(element), large ? 3 : 4.5, faint(element));
    }
    for (const box of document.querySelectorAll('input, select, textarea')) {
        if (!visible(box)) continue;
        judge(name(box, box.id + ' text'), getComputedStyle(box).color, behind(box), 4.5, 1);
        judge(name(box, box.id + ' placeholder'), getComputedStyle(box, '::placeholder').color, behind(box), 4.5, 1);
        if (box.type !== 'checkbox') judge(name(box, box.id + ' border'), getComputedStyle(box).borderTopColor, behind(box.parentElement), 3, 1);
    }
    // Lines that one has to tell apart to read the map and the rates.
    for (const line of document.querySelectorAll('.link:not(.far), .route, .spark path, .node circle, .key')) {
        if (!visible(line)) continue;
        const style = getComputedStyle(line);
        const html = !line.namespaceURI.endsWith('svg');
        judge(name(line, 'line'), html ? style.borderTopColor : style.stroke, behind(line), 3, faint(line));
    }
    judge('focus', getComputedStyle(document.documentElement).getPropertyValue('--accent').trim(), behind(document.body), 3, 1);
    return { poor, seen };
})()";

/// Opens a view and waits until it is drawn.
async fn view(page: &mut Page, name: &str) {
    page.eval(&format!("location.hash = '/{name}'")).await;
    page.until(&format!("!document.getElementById('{name}').hidden")).await;
    let renders = page.eval("+(document.documentElement.dataset.renders ?? 0)").await;
    page.until(&format!("document.documentElement.dataset.renders > {renders}")).await;
}

/// The page of a demo with flows, a refusal, a cut and an answered question, so that all kinds of text are there.
async fn busy() -> Option<(Site, crate::dashboard::Demo, Page, Vec<TcpStream>)> {
    let (site, mut demo, mut page) = demo_and_page(false).await?;
    page.until("document.querySelectorAll('#graph .node').length === 4").await;
    let flows = (0..6).map(|_| connect(demo.proxy, "campus.mit.test:80").unwrap()).collect();
    demo.say("get /big?mb=60");
    demo.say("cut arosnet mit");
    assert!(connect(demo.proxy, "nobody.mit.test:81").is_err());
    page.until("document.querySelector('#graph .link.down')").await;
    view(&mut page, "why").await;
    let ask = "document.getElementById('dest').value = 'http://campus.mit.test/'; \
        document.getElementById('ask').requestSubmit()";
    page.eval(ask).await;
    page.until("document.querySelectorAll('#answer tbody tr').length === 3").await;
    view(&mut page, "members").await;
    page.until("document.querySelectorAll('#member-table tbody tr').length === 4").await;
    Some((site, demo, page, flows))
}

#[tokio::test(flavor = "multi_thread")]
async fn all_text_has_the_contrast_of_wcag_aa_in_light_and_dark() {
    let Some((_site, _demo, mut page, _flows)) = busy().await else { return };
    let mut seen = 0;
    for dark in [false, true] {
        page.scheme(dark).await;
        for name in VIEWS {
            view(&mut page, name).await;
            let found = page.eval(POOR).await;
            assert_eq!(found["poor"], serde_json::json!([]), "{name}, dark: {dark}");
            seen += found["seen"].as_u64().unwrap();
            page.picture(&format!("{name}-{}", if dark { "dark-wcag" } else { "light-wcag" }))
                .await;
        }
    }
    println!("{seen} texts and lines have enough contrast");
    assert!(seen > 400, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_reaches_everything_and_keeps_its_place() {
    let Some((_site, _demo, mut page, _flows)) = busy().await else { return };
    view(&mut page, "flows").await;
    page.until("document.querySelectorAll('#flow-table tbody tr').length >= 6").await;
    // The first step leads over the navigation, and changes no view.
    page.eval("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
        .await;
    page.press("Tab").await;
    assert_eq!(page.eval("document.activeElement.className").await, "skip");
    page.press("Enter").await;
    page.until("document.activeElement.id === 'view' && location.hash === '#/flows'").await;
    // Each step from there shows where it is.
    let steps = "document.querySelectorAll('#flows :is(a[href], button, input, select):not([hidden])').length";
    for _ in 0..page.eval(steps).await.as_u64().unwrap() {
        page.press("Tab").await;
        let shown = "(() => { const style = getComputedStyle(document.activeElement); \
            return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 \
                && document.activeElement.closest('#flows') !== null; })()";
        let at = page.eval("document.activeElement.outerHTML.slice(0, 120)").await;
        assert_eq!(page.eval(shown).await, true, "{at}");
    }
    // A flow that is closed by the keyboard leaves the focus in the list, also when rows change places.
    let close = "document.querySelectorAll('#flow-table .close')[1]";
    let count = "document.querySelectorAll('#flow-table tbody tr').length";
    let before = page.eval(count).await.as_u64().unwrap();
    page.eval(&format!("{close}.focus()")).await;
    page.press("Enter").await;
    page.until(&format!("{count} < {before}")).await;
    assert_eq!(page.eval("document.activeElement.className").await, "close");
    page.eval("document.querySelector('#flow-table th button').focus()").await;
    for order in ["ascending", "descending"] {
        page.press("Enter").await;
        page.until(&format!("document.activeElement.closest('th').ariaSort === '{order}'")).await;
    }
    page.eval(&format!("{close}.focus(); window.held = document.activeElement")).await;
    page.eval("document.querySelector('#flow-table th button').click()").await;
    assert_eq!(page.eval("document.activeElement === window.held").await, true);

    view(&mut page, "map").await;
    for (button, key) in [("#rules button", " "), ("#links .avoid:not([hidden])", "Enter")] {
        let pressed = |state: &str| {
            format!("document.querySelector('{button}').getAttribute('aria-pressed') === '{state}'")
        };
        page.until(&format!("document.querySelector('{button}')")).await;
        page.eval(&format!("document.querySelector('{button}').focus()")).await;
        for state in ["true", "false"] {
            page.press(key).await;
            page.until(&pressed(state)).await;
            let here = format!("document.activeElement === document.querySelector('{button}')");
            assert_eq!(page.eval(&here).await, true, "{button}");
        }
    }
    view(&mut page, "errors").await;
    page.eval("document.querySelector('#error-list a').focus()").await;
    let shown = "document.querySelectorAll('#error-list article').length";
    let before = page.eval(shown).await.as_u64().unwrap();
    assert!(connect(_demo.proxy, "nobody.mit.test:82").is_err());
    page.until(&format!("{shown} > {before}")).await;
    assert_eq!(page.eval("document.activeElement.textContent").await, "Why this way?");
}

#[tokio::test(flavor = "multi_thread")]
async fn assistive_technology_is_told_names_and_roles_at_each_width() {
    let Some((_site, _demo, mut page, _flows)) = busy().await else { return };
    for (width, height) in [(1440, 900), (390, 844)] {
        page.resize(width, height).await;
        for name in VIEWS {
            view(&mut page, name).await;
            let tree = page.tree().await;
            for (role, label, focusable) in &tree {
                let needs =
                    *focusable && role != "RootWebArea" && role != "main" || role == "image";
                assert!(!needs || !label.is_empty(), "{name} at {width}: a {role} has no name");
            }
            let of = |wanted: &str| tree.iter().filter(|(role, ..)| role == wanted).count();
            for (role, count) in [("banner", 1), ("navigation", 1), ("main", 1), ("status", 1)] {
                assert!(of(role) >= count, "{name} at {width}: {role}");
            }
            let titles =
                "[...document.querySelectorAll('h1')].filter((h) => h.checkVisibility()).length";
            assert_eq!(page.eval(titles).await, 1, "{name}");
            match name {
                "flows" | "members" => {
                    assert!(
                        of("columnheader") >= 5 && of("row") > 4 && of("cell") >= 12,
                        "{name} at {width}: {tree:?}"
                    );
                }
                "map" => assert!(of("button") >= 6, "the paths of the demo"),
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_uses_a_screen_of_4k_and_fits_a_phone() {
    let Some((_site, _demo, mut page, _flows)) = busy().await else { return };
    for (what, width, height, least_text) in [("4k", 3840, 2160, 16.0), ("phone", 360, 740, 10.5)] {
        page.resize(width, height).await;
        for name in VIEWS {
            view(&mut page, name).await;
            let wide =
                "document.documentElement.scrollWidth > document.documentElement.clientWidth";
            assert_eq!(page.eval(wide).await, false, "{name} is wider than {width}");
            let used = format!(
                "Math.max(...[...document.querySelectorAll('#{name} .card')].map((card) => \
                 card.getBoundingClientRect().right)) - Math.min(...[...document.querySelectorAll('#{name} .card')]\
                 .map((card) => card.getBoundingClientRect().left))"
            );
            let used = page.eval(&used).await.as_f64().unwrap();
            assert!(used > 0.7 * f64::from(width), "{name}: {used} of {width}");
            let smallest = "(() => { const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); \
                let least = Infinity; while (texts.nextNode()) { const element = texts.currentNode.parentElement; \
                if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest('.hidden, .skip, title, noscript, script')) continue; \
                const scale = element.getScreenCTM?.()?.a ?? 1; \
                least = Math.min(least, parseFloat(getComputedStyle(element).fontSize) * scale); } return least; })()";
            let smallest = page.eval(smallest).await.as_f64().unwrap();
            assert!(smallest >= least_text, "{name} at {width}: text of {smallest} px");
            page.picture(&format!("{name}-{what}")).await;
        }
    }
}

/// Answers in the node's place, so that it has 49 neighbours.
const CROWD: &str = "(async () => {
    const ask = window.fetch;
    const first = await (await ask('/api/v1/overview?limit=1')).json();
    const links = Array.from({ length: 49 }, (_, n) => ({ ...first.links[0], peer: `node-${n + 10}`, exit: n % 4 === 0, relay: true,
        up: n % 9 !== 0, state: n % 9 === 0 ? 'down' : 'up', rtt_ms: 10 + n * 3 }));
    const lanes = [{ lane: 1, end: 'entry', peer: 'node-14', route: 'via node-11', hint: 'latency', rtt_ms: 20, bytes: [1, 1], history: [], stands_still_seconds: null }];
    window.fetch = async (path, options) => path.startsWith('/api/v1/overview')
        ? new Response(JSON.stringify({ ...first, links, lanes, far_links: [], paths: null, events: { ...first.events, events: [] } })) : ask(path, options);
})()";

/// The names that are not on the map.
const UNNAMED: &str = "[...document.querySelectorAll('#graph .node')].filter((node) => !node.querySelector('.title'))\
     .map((node) => node.querySelector('title').textContent.split(' ')[0])";

/// The names and nodes of the map that lie over one another, and those that are cut off.
const CROSSED: &str = "(() => {
    const stage = document.getElementById('graph').getBoundingClientRect();
    const boxes = [...document.querySelectorAll('#graph .node :is(.title, circle)')].map((part) => [part.tagName + part.parentElement.textContent, part.getBoundingClientRect()]);
    const wrong = boxes.filter(([, box]) => box.left < stage.left || box.right > stage.right || box.top < stage.top || box.bottom > stage.bottom).map(([name]) => name);
    boxes.forEach(([name, a], n) => boxes.slice(n + 1).forEach(([other, b]) => {
        if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) wrong.push(`${name} ${other}`);
    }));
    return wrong;
})()";

#[tokio::test(flavor = "multi_thread")]
async fn fifty_nodes_are_readable_on_the_map() {
    let Some((_site, _demo, mut page)) = demo_and_page(false).await else { return };
    page.until("document.querySelectorAll('#graph .node').length === 4").await;
    page.eval(CROWD).await;
    let wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
    let sizes =
        [("laptop", 1440, 900), ("4k", 3840, 2160), ("phone", 390, 844), ("small-phone", 320, 568)];
    for (what, width, height) in sizes {
        page.resize(width, height).await;
        page.until("document.querySelectorAll('#graph .node').length === 50").await;
        view(&mut page, "map").await;
        page.picture(&format!("map-50-nodes-{what}")).await;
        assert_eq!(page.eval(CROSSED).await, serde_json::json!([]), "{width}");
        assert_eq!(page.eval("document.querySelectorAll('#graph .route').length").await, 1);
        assert_eq!(page.eval(wide).await, false, "{width}");
        let unnamed = page.eval(UNNAMED).await;
        println!("{what}: {} nodes have no name on the map", unnamed.as_array().unwrap().len());
        if what != "small-phone" {
            assert_eq!(unnamed, serde_json::json!([]), "{width}");
        }
        // Names that have no room are left out, but not those that matter now.
        for name in ["arosnet", "node-11", "node-14", "node-10", "node-19", "node-28"] {
            assert!(!unnamed.as_array().unwrap().contains(&name.into()), "{name}: {unnamed}");
        }
    }
    let listed = "[...document.querySelectorAll('#links tbody tr')].filter((row) => row.checkVisibility()).length";
    assert_eq!(page.eval(listed).await, 49);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxys_page_about_a_failure_leads_to_the_errors() {
    if !have("chromium") {
        return;
    }
    let site = Site::new();
    let hub = site.hub();
    let node = Running::start(&hub, &[]);
    let mut page = of_node(&site, "hub").await;
    // The page that a browser gets from the proxy, served again as another site's.
    let mut proxy = TcpStream::connect(node.proxy()).unwrap();
    let request =
        "GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAccept: text/html\r\n\r\n";
    proxy.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    proxy.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(&format!("http://{}/#/errors", node.dashboard())), "{answer}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    page.go(&other).await;
    page.until("document.querySelector('a[href*=\"#/errors\"]')").await;
    page.eval("document.querySelector('a[href*=\"#/errors\"]').click()").await;
    page.until("document.querySelector('h1')?.textContent === 'This page is closed'").await;
    page.eval("document.getElementById('on').click()").await;
    page.until("document.querySelector('#error-list .cure')?.checkVisibility()").await;
}

/// The page of a running node.
pub async fn of_node(site: &Site, name: &str) -> Page {
    let dir = &site.dir(name);
    let link = json(dir, &["open"])["link"].as_str().unwrap().to_owned();
    let mut page = Page::open(&site.dir(&format!("profile-{name}")), (1440, 900), false).await;
    page.go(&link).await;
    page.until("document.querySelector('#graph .node')").await;
    page
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_invited_by_the_page_with_a_line_and_a_qr_code() {
    if !have("chromium") {
        return;
    }
    let site = Site::new();
    let hub = site.hub();
    configure(&hub, "invite_from_dashboard = false", "invite_from_dashboard = true");
    let _node = Running::start(&hub, &[]);
    let mut page = of_node(&site, "hub").await;
    view(&mut page, "members").await;
    page.until("document.querySelectorAll('#member-table tbody tr').length === 1").await;
    assert_eq!(page.eval("document.getElementById('invite-command').hidden").await, true);
    let invite = |name: &str| {
        format!(
            "document.getElementById('invite-name').value = '{name}'; \
             document.getElementById('invite').requestSubmit()"
        )
    };
    page.eval(&invite("hub")).await;
    page.until("document.getElementById('invite-note').textContent.includes('hub is taken')").await;
    page.eval(&invite("leaf")).await;
    page.until("!document.getElementById('invited').hidden").await;
    let line =
        page.eval("document.getElementById('line').value").await.as_str().unwrap().to_owned();
    assert!(line.starts_with("ron1:"), "{line}");
    assert_eq!(page.eval("document.activeElement.id").await, "line");
    assert_eq!(page.eval("getSelection().toString()").await, line.as_str(), "it is marked");
    let dark = "document.querySelector('#qr path').getAttribute('d').length";
    assert!(page.eval(dark).await.as_u64().unwrap() > 1000);
    page.eval("document.getElementById('copy').focus()").await;
    page.press("Enter").await;
    page.until("document.getElementById('copied').textContent").await;
    page.picture("members-invited-light").await;
    page.scheme(true).await;
    page.picture("members-invited-dark").await;
    page.resize(390, 844).await;
    page.picture("members-invited-phone").await;
    let wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(page.eval(wide).await, false);
    // The line works, and the new member is shown.
    site.join_by(&line, "leaf", &[]);
    page.until("[...document.querySelectorAll('#member-table th')].some((th) => th.textContent === 'leaf')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_may_not_invite_says_which_command_does() {
    if !have("chromium") {
        return;
    }
    let site = Site::new();
    let (_hub, _leaf) = site.pair(&[]);
    for (name, expected) in [("hub", "may not invite here"), ("leaf", "node that has the overlay")]
    {
        let mut page = of_node(&site, name).await;
        view(&mut page, "members").await;
        page.until("document.querySelectorAll('#member-table tbody tr').length === 2").await;
        assert_eq!(page.eval("document.getElementById('invite').hidden").await, true);
        let text = page.eval("document.getElementById('invite-command').innerText").await;
        let text = text.as_str().unwrap();
        assert!(text.contains(expected) && text.contains("ronproxy invite --name NAME"), "{text}");
        assert_eq!(text.contains("invite_from_dashboard = true"), name == "hub", "{text}");
        page.picture(&format!("members-{name}")).await;
    }
}
