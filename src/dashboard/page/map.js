// The overlay as this node sees it: itself on the left, exits on the right, the others between.

import { svg, el, put, mark, bytes, millis, percent, span, roles, keepFocus } from "./format.js";
import { figures, speeds, ask } from "./app.js";

// Above this loss a link is drawn as lossy: the paper calls a path with 30 % an outage, and 5 % hurt TCP.
const LOSSY = 5;
const W = 1000;
const graph = document.getElementById("graph");
// What is drawn anew, and what keeps the keyboard's focus meanwhile.
const drawing = svg("g");
const cuts = svg("g");
graph.append(drawing, cuts);
let drawn = "";

export function render(state) {
  const { now } = state;
  const { status } = now;
  const [up, down] = speeds();
  figures(document.getElementById("figures"), [
    ["Flows", String(status.flows), status.exit_flows ? `+ ${status.exit_flows} as exit` : ""],
    ["Links up", String(status.links_up), `of ${status.members}`],
    ["Sending", ...up.split(" ")],
    ["Receiving", ...down.split(" ")],
    ["Reroutes", String(state.events.filter((e) => e.kind === "rerouted").length), "today"],
    ["Forwarded", ...bytes(status.forwarded_bytes).split(" ")],
  ]);
  draw(state);
  steering(now);
  rules(now.steering.paused, now.status.version + now.status.pid + state.events.filter((e) => e.kind === "reloaded").length);
  lanes(now.lanes);
  links(now.links, now.steering.avoid);
}

const exitBox = document.getElementById("steer-exit");
const hintBox = document.getElementById("steer-hint");

export function start() {
  exitBox.addEventListener("change", () => steer("exit", exitBox.value));
  hintBox.addEventListener("change", () => steer("hint", hintBox.value));
}

async function steer(what, value) {
  const note = document.getElementById("steer-note");
  const save = document.getElementById("steer-save").checked;
  try {
    await ask(`/steer?${what}=${encodeURIComponent(value)}${save ? "&save=1" : ""}`, "POST");
    put(note, save ? "for new flows, saved" : "for new flows, until the node stops");
  } catch (error) {
    put(note, error.message || "the node does not answer");
  }
}

// What the rules on the page were read for: the process and its reloads, and what was paused then.
let rulesOf = "";

/// Reads the rules again when they may have changed.
async function rules(paused, node) {
  const key = JSON.stringify([node, paused]);
  if (key === rulesOf) return;
  rulesOf = key;
  try {
    const all = await ask("/rules");
    document.getElementById("rules-card").hidden = all.length === 0;
    const body = document.querySelector("#rules tbody");
    keepFocus(body, () => body.replaceChildren(...all.map((rule) => {
      const press = () => steer(rule.paused ? "unpause" : "pause", rule.id);
      const title = rule.paused ? "This rule decides nothing; press to put it into force" : "Let this rule decide nothing";
      return el("tr", {}, el("td", { class: "num" }, String(rule.rule)), el("td", {}, rule.text), el("td", {}, el("button", { class: "avoid", type: "button", title, "data-key": rule.id, "aria-label": `Pause rule ${rule.rule}`, "aria-pressed": String(rule.paused), on: { click: press } }, rule.paused ? "paused" : "pause")));
    })));
  } catch {
    rulesOf = "";
  }
}

/// Shows what is steered, unless somebody is choosing just now.
function steering({ steering, links, status }) {
  const exits = links.filter((link) => link.exit).map((link) => link.peer).concat(status.exit ? [status.name] : []).sort();
  const wanted = ["auto", ...new Set([...exits, ...(steering.exit ? [steering.exit] : [])])];
  if (document.activeElement !== exitBox) {
    if (exitBox.dataset.exits !== wanted.join()) {
      exitBox.dataset.exits = wanted.join();
      exitBox.replaceChildren(...wanted.map((exit) => el("option", { value: exit }, exit === "auto" ? "as the rules say" : exit)));
    }
    exitBox.value = steering.exit ?? "auto";
  }
  if (document.activeElement !== hintBox) {
    const hint = steering.hint ?? "auto";
    if (![...hintBox.options].some((option) => option.value === hint)) hintBox.append(el("option", {}, hint));
    hintBox.value = hint;
  }
}

/// Where each node stands: deterministic, so that nothing jumps.
function places(us, peers, height, scale) {
  const at = new Map([[us, { x: 95, y: height / 2 }]]);
  const exits = peers.filter((peer) => peer.exit);
  const others = peers.filter((peer) => !peer.exit);
  // Exits from the right edge on, the others in the middle, or as far to the right as exits leave room.
  const [left, right] = [300, W - 110];
  // A column has as many nodes as fit with their names.
  const rows = Math.floor(height / (44 * scale));
  const [outer, between] = [Math.ceil(exits.length / Math.max(9, rows)), Math.ceil(others.length / Math.max(8, rows))];
  const step = Math.min(Math.max(150, 60 * scale), (right - left) / Math.max(1, outer + between - 1));
  const start = Math.min(W / 2 - ((between - 1) / 2) * step, right - (outer + between - 1) * step);
  stand(at, exits, outer, height, (c) => right - c * step);
  stand(at, others, between, height, (c) => start + c * step);
  return at;
}

function stand(at, peers, columns, height, x) {
  const each = Math.ceil(peers.length / Math.max(1, columns));
  peers.forEach((peer, n) => {
    const c = Math.floor(n / each);
    const inColumn = Math.min(each, peers.length - c * each);
    // A single node between would lie on the direct path.
    const only = !peer.exit && peers.length === 1 ? -0.3 : 0;
    at.set(peer.peer, { x: x(c), y: height * (0.5 + only + ((n % each) - (inColumn - 1) / 2) / Math.max(inColumn, 1.75)) });
  });
}

function curve(a, b) {
  const bend = (b.x - a.x) * 0.42;
  return `M${a.x.toFixed(1)} ${a.y.toFixed(1)}C${(a.x + bend).toFixed(1)} ${a.y.toFixed(1)} ${(b.x - bend).toFixed(1)} ${b.y.toFixed(1)} ${b.x.toFixed(1)} ${b.y.toFixed(1)}`;
}

/// The point of a curve at a part of its way.
function within(a, b, t) {
  const u = 1 - t;
  const bend = (b.x - a.x) * 0.42;
  const mix = (p, q, r, s) => u * u * u * p + 3 * u * u * t * q + 3 * u * t * t * r + t * t * t * s;
  return { x: mix(a.x, a.x + bend, b.x - bend, b.x), y: mix(a.y, a.y, b.y, b.y) };
}

const loss = (link) => Math.max(link.loss_out_percent ?? 0, link.loss_in_percent ?? 0);
const look = (link) => (link.up ? (loss(link) >= LOSSY ? "lossy" : "up") : /down|recovering/.test(link.state ?? "down") ? "down" : "none");

function draw(state) {
  const { status, links, far_links, lanes } = state.now;
  const few = links.length <= 14;
  graph.classList.toggle("crowd", !few);
  const box = graph.getBoundingClientRect();
  const height = Math.max(360, Math.min(2400, (W * box.height) / Math.max(1, box.width)));
  // Letters that are large enough on a phone, and no larger than needed at 4K.
  const scale = Math.max(Math.min(1, 2100 / box.width), Math.min(2.8, (W / Math.max(1, box.width)) * 0.98));
  // The names of the lowest nodes stand below them.
  const at = places(status.name, links, height - letters(few, scale), scale);
  const used = routes(lanes, status.name);
  // Drawn anew only when something on it differs.
  const key = JSON.stringify([Math.round(height), scale.toFixed(1), links.map((l) => [l.peer, look(l), millis(l.rtt_ms), Math.round(loss(l)), l.exit]), used,
    few && far_links.map((l) => [l.from, l.to, l.up])]);
  if (key !== drawn) {
    drawn = key;
    mark(graph, "viewBox", `0 0 ${W} ${height.toFixed(0)}`);
    const named = names(links, at, used, status.name, few, scale);
    drawing.replaceChildren(...far(far_links, at), ...links.map((link) => near(link, at, status.name, few, scale)).flat(), ...used.flatMap((route) => along(route, at)),
      node(status.name, "us", at.get(status.name), scale, few, named, status.flows ? `${status.flows} flow${status.flows === 1 ? "" : "s"}` : "this node"),
      ...links.map((link) => node(link.peer, kind(link), at.get(link.peer), scale, few, named, roles(link))));
  }
  for (const event of state.fresh) {
    if (event.kind !== "rerouted") continue;
    const place = at.get(event.to.startsWith("via ") ? event.to.slice(4) : event.peer);
    if (!place) continue;
    const ring = svg("circle", { class: "ping", cx: place.x, cy: place.y, r: 16 * scale });
    // By time, as without motion no animation ends.
    setTimeout(() => ring.remove(), 1200);
    drawing.append(ring);
  }
  cuttable(state.now.paths, at);
  mark(graph, "aria-label", `${links.filter((l) => l.up).length} of ${links.length} links are up. ${used.map((r) => `${r.flows} lanes to ${r.path.at(-1)} ${r.text}`).join(". ")}`);
}

const kind = (link) => [link.exit && "exit", look(link) === "down" && "down"].filter(Boolean).join(" ") || "relay";

/// The routes that lanes take, each once.
function routes(lanes, us) {
  const found = new Map();
  for (const lane of lanes) {
    const relay = lane.route.startsWith("via ") ? [lane.route.slice(4)] : [];
    const path = [us, ...relay, lane.peer];
    const route = found.get(path.join(" ")) ?? { path, text: lane.route, flows: 0, still: false };
    route.flows += 1;
    route.still ||= lane.stands_still_seconds != null;
    found.set(path.join(" "), route);
  }
  return [...found.values()];
}

function far(links, at) {
  const seen = new Set();
  return links.flatMap((link) => {
    const pair = [link.from, link.to].sort().join(" ");
    const [a, b] = [at.get(link.from), at.get(link.to)];
    if (!a || !b || seen.has(pair) || !link.up) return [];
    seen.add(pair);
    return [svg("path", { class: "link far", d: a.x <= b.x ? curve(a, b) : curve(b, a) }, svg("title", {}, `${link.from} – ${link.to}: ${millis(link.rtt_ms)}`))];
  });
}

function near(link, at, us, few, scale) {
  const [a, b] = [at.get(us), at.get(link.peer)];
  const how = look(link);
  const text = how === "down" ? "down" : how === "lossy" ? `${millis(link.rtt_ms)}, ${percent(loss(link))} lost` : millis(link.rtt_ms);
  const path = svg("path", { class: `link ${how}`, "data-peer": link.peer, d: curve(a, b) }, svg("title", {}, `${link.peer}: ${link.state}, ${millis(link.rtt_ms)}, ${percent(loss(link))} lost`));
  if (!few) return [path];
  const spot = within(a, b, link.exit ? 0.3 : 0.46);
  const tag = svg("text", { class: `tag ${how === "down" ? "bad" : how}`, x: spot.x.toFixed(0), y: (spot.y - 9 * scale).toFixed(0), "text-anchor": "middle", "font-size": (13 * scale).toFixed(1) }, text);
  return [path, tag];
}

/// In the demo: each path is a button that cuts and heals it.
function cuttable(paths, at) {
  document.getElementById("cut-hint").hidden = !paths;
  if (!paths) return;
  mark(graph, "role", "group");
  while (cuts.children.length < paths.length) {
    const toggle = (event) => cut(event.currentTarget);
    const press = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(event); } };
    cuts.append(svg("path", { class: "cut", role: "button", tabindex: 0, on: { click: toggle, keydown: press } }));
  }
  paths.forEach(({ from, to, cut }, n) => {
    const [a, b] = [at.get(from), at.get(to)];
    if (!a || !b) return;
    const path = cuts.children[n];
    mark(path, "d", a.x <= b.x ? curve(a, b) : curve(b, a));
    mark(path, "data-cut", `${from} ${to}`);
    mark(path, "aria-pressed", String(cut));
    mark(path, "aria-label", `The path between ${from} and ${to}: ${cut ? "cut, press to heal it" : "press to cut it"}`);
  });
}

async function cut(path) {
  const [from, to] = path.dataset.cut.split(" ");
  const wanted = path.getAttribute("aria-pressed") !== "true";
  const hint = document.getElementById("cut-hint");
  try {
    await ask(`/path?from=${from}&to=${to}&cut=${wanted ? 1 : 0}`, "POST");
    put(hint, `The path between ${from} and ${to} is ${wanted ? "cut" : "healed"}.`);
  } catch (error) {
    put(hint, error.message || "the node does not answer");
  }
}

function along({ path, still }, at) {
  const points = path.map((name) => at.get(name));
  if (points.some((point) => !point)) return [];
  const d = points.slice(1).map((point, n) => curve(points[n], point)).join("");
  return [svg("path", { class: `route${still ? " still" : ""}`, "data-path": path.join(" "), d }), still ? null : svg("path", { class: "stream", d })].filter(Boolean);
}

const radius = (us, few, scale) => (us ? 20 : few ? 15 : 9) * scale;
const letters = (few, scale) => (few ? 15 : 11.5) * scale;

/// The names that are written: none lies over a node or another name. Where there is no room for all, as on a phone, this
/// node's, those on routes in use and those of links that are down come first. The table of links has all.
function names(links, at, used, us, few, scale) {
  const size = letters(few, scale);
  const nodes = [us, ...links.map((link) => link.peer)];
  const taken = nodes.map((name) => {
    const [{ x, y }, r] = [at.get(name), radius(name === us, few, scale)];
    return [x - r, x + r, y - r, y + r];
  });
  const first = [us, ...used.flatMap((route) => route.path), ...links.filter((link) => look(link) === "down").map((link) => link.peer)];
  const written = new Set();
  for (const name of new Set([...first.filter((name) => at.has(name)), ...nodes])) {
    const [{ x, y }, half] = [at.get(name), (name.length * size * 0.67) / 2];
    const top = y + radius(name === us, few, scale);
    const box = [x - half, x + half, top, top + size * (few ? 2.4 : 1.6)];
    if (taken.some(([left, right, above, below]) => box[0] < right && left < box[1] && box[2] < below && above < box[3])) continue;
    taken.push(box);
    written.add(name);
  }
  return written;
}

function node(name, role, { x, y }, scale, few, named, sub) {
  const r = radius(role === "us", few, scale);
  const size = letters(few, scale);
  return svg("g", { class: `node ${role}` },
    svg("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: r.toFixed(1) }, svg("title", {}, `${name} (${sub})`)),
    named.has(name) ? svg("text", { class: "title", x: x.toFixed(1), y: (y + r + size * 1.15).toFixed(1), "text-anchor": "middle", "font-size": size.toFixed(1) }, name) : null,
    few && named.has(name) ? svg("text", { class: "sub", x: x.toFixed(1), y: (y + r + size * 2.2).toFixed(1), "text-anchor": "middle", "font-size": (size * 0.8).toFixed(1) }, sub) : null);
}

function lanes(lanes) {
  const list = document.getElementById("lanes");
  if (!lanes.length) return list.replaceChildren(el("p", { class: "muted" }, "No lane is open. One opens with the first flow to an exit."));
  list.replaceChildren(...lanes.slice(0, 50).map((lane) => {
    const last = lane.history.at(-1);
    const moved = last ? `moved ${span(last.seconds_ago)} ago from ${last.from}: ${last.reason}${last.stall_ms == null ? ", still silent" : `, stall ${millis(last.stall_ms)}`}` : "never moved";
    const still = lane.stands_still_seconds != null ? el("span", { class: "pill bad" }, `stands still for ${span(lane.stands_still_seconds)}`) : null;
    return el("div", { class: "lane" }, el("header", {}, el("strong", {}, `${lane.end === "entry" ? "to" : "from"} ${lane.peer}`), el("span", { class: "pill good" }, lane.route), still, el("span", { class: "muted" }, [lane.hint, lane.rtt_ms && millis(lane.rtt_ms)].filter(Boolean).join(" · "))), el("p", {}, moved));
  }));
}

function links(links, avoided) {
  const body = document.querySelector("#links tbody");
  while (body.children.length > links.length) body.lastChild.remove();
  links.forEach((link, n) => {
    if (!body.children[n]) body.append(el("tr", {}, el("td"), el("td", {}, el("span")), el("td", { class: "num" }), el("td", { class: "num" }), el("td", { class: "num wide" }), el("td", { class: "num wide" }), el("td", {}, el("button", { class: "avoid", type: "button", on: { click: (event) => steer(event.target.getAttribute("aria-pressed") === "true" ? "unavoid" : "avoid", event.target.dataset.peer) } }))));
    const [peer, how, rtt, out, back, since, act] = body.children[n].children;
    put(peer, link.peer);
    put(how.firstChild, link.state);
    mark(how.firstChild, "class", `pill ${{ up: "good", lossy: "warn", down: "bad", none: "" }[look(link)]}`);
    put(rtt, millis(link.rtt_ms));
    put(out, percent(link.loss_out_percent));
    put(back, percent(link.loss_in_percent));
    put(since, span(link.since_seconds));
    const button = act.firstChild;
    const avoid = avoided.includes(link.peer);
    button.hidden = !link.relay && !avoid;
    button.dataset.peer = link.peer;
    mark(button, "aria-pressed", String(avoid));
    mark(button, "title", avoid ? "New flows keep off this relay; press to take that back" : "Keep new flows off this relay");
    mark(button, "aria-label", `Avoid the relay ${link.peer}`);
    put(button, avoid ? "avoided" : "avoid");
  });
}
