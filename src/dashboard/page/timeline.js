// What happened, newest first; and what failed, with its cure.

import { el, svg, put, time, moment, millis, span, bytes, keepFocus } from "./format.js";

const SHOWN = 300;
// Errors older than this are not counted in the badge.
const RECENT = 10 * 60 * 1000;
const CLASSES = { reroutes: "Reroutes", overlay: "Links and members", refusals: "Refusals", flows: "Flows" };
const chosen = new Set(["reroutes", "overlay", "refusals"]);
let drawn = "";
let drawnErrors = "";

const classOf = (event) => (event.kind === "rerouted" ? "reroutes" : event.kind === "flow-refused" ? "refusals" : event.kind.startsWith("flow-") ? "flows" : "overlay");

export function start(redraw) {
  const box = document.getElementById("classes");
  for (const [name, text] of Object.entries(CLASSES)) {
    const chip = el("button", { class: "chip", type: "button", "aria-pressed": String(chosen.has(name)), on: { click: () => {
      chosen.has(name) ? chosen.delete(name) : chosen.add(name);
      chip.setAttribute("aria-pressed", String(chosen.has(name)));
      redraw();
    } } }, text);
    box.append(chip);
  }
}

export function render(state) {
  const events = state.events.filter((event) => chosen.has(classOf(event))).slice(-SHOWN).reverse();
  const key = `${[...chosen]} ${events[0]?.id} ${events.length}`;
  const dropped = document.getElementById("dropped");
  dropped.hidden = state.dropped === 0;
  put(dropped, `${state.dropped} events came too fast and are not shown.`);
  if (key === drawn) return;
  drawn = key;
  document.getElementById("event-list").replaceChildren(...(events.length ? events.map(row) : [el("li", {}, el("span"), el("span"), el("span", { class: "muted" }, "Nothing has happened yet."))]));
}

function row(event) {
  const [look, mark, what, why, extra] = tell(event);
  return el("li", { class: look, "data-kind": event.kind }, el("time", { datetime: new Date(event.at_ms).toISOString(), title: moment(event.at_ms) }, time(event.at_ms)),
    el("span", { class: "mark", "aria-hidden": "true" }, mark), el("div", {}, el("div", { class: "what" }, what), why ? el("div", { class: "why" }, why) : null), extra ?? null);
}

function tell(event) {
  switch (event.kind) {
    case "rerouted": return ["moved", "↷", `${event.end === "entry" ? "The lane to" : "A lane from"} ${event.peer} moved from ${event.from} to ${event.to}`, event.why, stall(event.stall_ms)];
    case "link-up": return ["good", "▲", `The link to ${event.peer} is up`];
    case "link-down": return ["bad", "▼", `The link to ${event.peer} is down`];
    case "member-joined": return ["good", "+", `${event.name} is a member`];
    case "member-left": return ["bad", "−", `${event.name} counts no more`, event.why === "forgotten" ? "it was silent for too long" : "its certificate has ended"];
    case "member-revoked": return ["bad", "✕", `${event.name} was revoked by the authority`];
    case "certificate-renewed": return ["good", "✓", "This node's certificate was renewed", `valid until ${moment(event.expires * 1000)}`];
    case "steered": return ["", "⇄", `New flows: exit ${event.exit ?? "as the rules say"}, hint ${event.hint ?? "as the rules say"}`, [event.avoid.length && `not by ${event.avoid.join(", ")}`, event.paused.length && `without the rules ${event.paused.join(", ")}`].filter(Boolean).join("; ")];
    case "reloaded": return ["", "⟳", "The configuration was read again", `new in force: ${event.live.join(", ") || "nothing"}${event.restart.length ? `; a restart is needed for: ${event.restart.join(", ")}` : ""}`];
    case "flow-opened": return ["", "→", `Flow to ${event.target}`, `by exit ${event.exit}, ${event.route ?? "local"}, open after ${millis(event.opened_ms)}`];
    case "flow-closed": return ["", "·", `Flow to ${event.target} ended`, `after ${span(event.seconds)}: ${bytes(event.sent)} sent, ${bytes(event.received)} received`];
    case "flow-refused": return ["bad", "!", `No flow to ${event.target}: ${event.reason}`, event.why];
    default: return ["", "·", event.kind];
  }
}

/// A bar: full is one second.
function stall(ms) {
  if (ms == null) return el("span", { class: "stall" }, "never resumed");
  const width = Math.min(100, Math.max(2, ms / 10));
  return el("span", { class: `stall${ms > 500 ? " long" : ""}` }, svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { class: "back", width: 100, height: 8, rx: 4 }), svg("rect", { width, height: 8, rx: 4 })), `stall ${millis(ms)}`);
}

const refused = (state) => state.events.filter((event) => event.kind === "flow-refused");
export const recentErrors = (state) => refused(state).filter((event) => Date.now() - event.at_ms < RECENT);

export function renderErrors(state) {
  const groups = new Map();
  for (const event of refused(state)) {
    const key = `${event.target} ${event.reason} ${event.exit}`;
    const group = groups.get(key) ?? { count: 0 };
    groups.delete(key);
    groups.set(key, { event, count: group.count + 1 });
  }
  const list = [...groups.values()].reverse().slice(0, 100);
  const key = list.map(({ event, count }) => `${event.id}x${count}`).join();
  if (key === drawnErrors && key) return;
  drawnErrors = key;
  const box = document.getElementById("error-list");
  const empty = () => el("div", { class: "card" }, el("p", { class: "empty" }, "No flow was refused. That is how it should be."));
  keepFocus(box, () => box.replaceChildren(...(list.length ? list.map(card) : [empty()])));
}

function card({ event, count }) {
  return el("article", { class: "card error" },
    el("header", {}, el("strong", {}, event.target), el("span", { class: "pill bad" }, event.reason), count > 1 ? el("span", { class: "pill" }, `${count} times`) : null, el("span", { class: "muted" }, `${time(event.at_ms)}${event.exit ? ` · exit ${event.exit}` : ""}`)),
    el("p", {}, event.why), el("p", { class: "cure" }, event.cure), el("p", {}, el("a", { href: `#/why?dest=${encodeURIComponent(event.target)}`, "data-key": `${event.target} ${event.reason}` }, "Why this way?")));
}
