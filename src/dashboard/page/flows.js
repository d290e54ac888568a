// Every connection through the proxy. Rows are kept and changed in place.

import { el, svg, put, mark, bytes, rate, span, keepFocus } from "./format.js";
import { ask } from "./app.js";

const POINTS = 30;
// Rows drawn until somebody asks for all: more than anybody reads at once, and drawn within a frame or two.
const FIRST = 100;
let limit = FIRST;
const COLUMNS = [
  ["target", "Destination", (f) => f.target], ["exit", "Exit", (f) => f.exit], ["route", "Route", (f) => f.route ?? "local"], ["hint", "Hint", (f) => f.hint],
  ["rate", "Rate", (f) => f.rate], ["sent", "Sent", (f) => f.sent], ["received", "Received", (f) => f.received], ["age", "Age", (f) => f.seconds], ["state", "State", (f) => f.quiet_seconds], ["act", ""],
];
const WIDTHS = { target: "auto", exit: "8%", route: "11%", hint: "8%", rate: "13%", sent: "7%", received: "7.5%", age: "8%", state: "13%", act: "3.2rem" };
const NUMBERS = ["sent", "received", "age"];
const order = { by: "age", up: false };
const rows = new Map();
const body = document.querySelector("#flow-table tbody");
let shown = "";
let redraw = () => {};

export function start() {
  const head = document.querySelector("#flow-table thead tr");
  for (const [key, name, value] of COLUMNS) {
    const th = el("th", { scope: "col", class: NUMBERS.includes(key) ? "num" : null }, value ? el("button", { type: "button", on: { click: () => sortBy(key) } }, name) : el("span", { class: "hidden" }, "Close"));
    th.style.width = WIDTHS[key];
    th.dataset.key = key;
    head.append(th);
  }
  document.getElementById("filter").addEventListener("input", () => redraw());
  document.getElementById("only-still").addEventListener("change", () => redraw());
  document.getElementById("all-flows").addEventListener("click", showAll);
  showOrder();
}

/// Shows all rows; who pressed the button, which goes, is at the first row that it added.
function showAll() {
  limit = Infinity;
  redraw();
  body.children[FIRST]?.querySelector("button").focus();
}

function sortBy(key) {
  order.up = order.by === key ? !order.up : key === "target" || key === "exit";
  order.by = key;
  showOrder();
  redraw();
}

function showOrder() {
  for (const th of document.querySelectorAll("#flow-table th")) {
    if (th.dataset.key === order.by) th.setAttribute("aria-sort", order.up ? "ascending" : "descending");
    else th.removeAttribute("aria-sort");
  }
}

export function render(state) {
  redraw = () => render({ ...state, again: true });
  keepFocus(body, () => draw(state));
}

function draw(state) {
  const { flows, at } = state.now;
  if (!flows) return;
  for (const flow of flows) measure(flow, at, state.again);
  const known = new Set(flows.map((flow) => flow.label));
  for (const [label, row] of rows) if (!known.has(label)) { row.tr.remove(); rows.delete(label); }
  const wanted = select(flows);
  const drawn = wanted.slice(0, limit);
  drawn.forEach(update);
  // Rows are moved only when their order differs.
  const now = drawn.map((flow) => flow.label).join();
  if (now !== shown) { shown = now; body.replaceChildren(...drawn.map((flow) => rows.get(flow.label).tr)); }
  const more = document.getElementById("all-flows");
  more.hidden = wanted.length <= limit;
  put(more, `Show all ${wanted.length}`);
  put(document.getElementById("flows-shown"), wanted.length === flows.length ? `${flows.length} flow${flows.length === 1 ? "" : "s"}` : `${wanted.length} of ${flows.length} flows`);
  document.getElementById("flows-empty").hidden = flows.length > 0;
}

/// Rates come from two answers.
function measure(flow, at, again) {
  let row = rows.get(flow.label);
  if (!row) rows.set(flow.label, (row = { ...make(flow), at, bytes: flow.sent + flow.received, rates: new Array(POINTS).fill(0) }));
  else if (!again && at > row.at) {
    const all = flow.sent + flow.received;
    row.rates.push(Math.max(0, all - row.bytes) * 8000 / (at - row.at));
    row.rates.shift();
    row.bytes = all;
    row.at = at;
  }
  flow.rate = row.rates[POINTS - 1];
}

function select(flows) {
  const text = document.getElementById("filter").value.trim().toLowerCase();
  const still = document.getElementById("only-still").checked;
  const value = COLUMNS.find(([key]) => key === order.by)[2];
  const found = flows.filter((flow) => (!still || flow.stands_still_seconds != null) && (!text || `${flow.target} ${flow.exit} ${flow.route ?? "local"} ${flow.hint}`.toLowerCase().includes(text)));
  const way = order.up ? 1 : -1;
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  return found.sort((a, b) => way * compare(value(a), value(b)) || a.label.localeCompare(b.label));
}

function make(flow) {
  const path = svg("path");
  const speed = el("span", { class: "muted" });
  const pill = el("span", { class: "pill" });
  const close = el("button", { class: "close", type: "button", title: "Close this flow", "aria-label": `Close the flow to ${flow.target}`, on: { click: () => end(flow, close) } }, "✕");
  const cells = {};
  for (const [key] of COLUMNS) cells[key] = el("td", { class: NUMBERS.includes(key) ? `num ${key}` : key });
  cells.rate.append(el("div", { class: "meter" }, svg("svg", { class: "spark", viewBox: `0 0 ${POINTS - 1} 20`, preserveAspectRatio: "none", "aria-hidden": "true" }, path), speed));
  cells.state.append(pill);
  cells.act.append(close);
  mark(cells.target, "title", `${flow.target}, ${flow.ingress}, from ${flow.client}, label ${flow.label}`);
  return { tr: el("tr", {}, ...Object.values(cells)), cells, path, speed, pill };
}

async function end(flow, button) {
  // A button that is disabled would lose the focus.
  if (button.getAttribute("aria-disabled") === "true") return;
  mark(button, "aria-disabled", "true");
  // One that has ended meanwhile is what was wanted.
  await ask(`/close?label=${encodeURIComponent(flow.label)}`, "POST").catch((error) => { if (error.status !== 404) throw error; });
}

function update(flow) {
  const row = rows.get(flow.label);
  const { cells } = row;
  put(cells.target, flow.target);
  put(cells.exit, flow.exit);
  put(cells.route, (flow.route ?? "local") + (flow.reroutes ? ` · ${flow.reroutes}×` : ""));
  put(cells.hint, flow.hint);
  put(cells.sent, bytes(flow.sent));
  put(cells.received, bytes(flow.received));
  put(cells.age, span(flow.seconds));
  put(row.speed, flow.rate ? rate(flow.rate) : "");
  const still = flow.stands_still_seconds != null;
  const held = flow.waits_for === "client" || flow.waits_for === "destination";
  const [text, look] = still ? [`stands still for ${span(flow.stands_still_seconds)}`, held ? "warn" : "bad"] : flow.state === "opening" ? ["opening", "warn"] : flow.quiet_seconds < 2 ? ["active", "good"] : [`quiet for ${span(flow.quiet_seconds)}`, ""];
  put(row.pill, text);
  mark(row.pill, "title", held ? `the ${flow.waits_for} takes no more bytes` : still ? "its lane hears nothing" : "");
  mark(row.pill, "class", `pill ${look}`);
  row.tr.classList.toggle("still", still);
  spark(row);
}

function spark(row) {
  const most = Math.max(...row.rates);
  if (most === row.drawn && most === 0) return;
  row.drawn = most;
  const points = row.rates.map((value, n) => `${n} ${(19 - (most ? value / most : 0) * 17).toFixed(1)}`);
  mark(row.path, "d", `M0 21L${points.join("L")}L${POINTS - 1} 21Z`);
}
