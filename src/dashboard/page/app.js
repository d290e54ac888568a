// Asks the node for what it does, and shows the view that is open.

import { put, span, rate, el, roles } from "./format.js";
import * as map from "./map.js";
import * as flows from "./flows.js";
import * as timeline from "./timeline.js";
import * as why from "./why.js";
import * as members from "./members.js";

// Twice a second, so that a cut is seen within one; the node answers from memory.
const EVERY = 500;
// What a view keeps of the past: as many events as the node keeps of all classes.
const EVENTS_KEPT = 4096;

const views = { map: map.render, flows: flows.render, timeline: timeline.render, errors: timeline.renderErrors, why: why.render, members: members.render };
const $ = (id) => document.getElementById(id);

const state = { view: "map", now: null, before: null, events: [], dropped: 0, next: null, fresh: [] };

/// Asks the API; throws an Error with the node's own sentence.
export async function ask(path, method = "GET") {
  const response = await fetch(`/api/v1${path}`, { method, credentials: "same-origin", cache: "no-store" });
  if (!response.ok) {
    const error = new Error((await response.text()).trim());
    error.status = response.status;
    throw error;
  }
  return response.json();
}

function take(now) {
  const at = performance.now();
  state.before = state.now;
  state.now = { ...now, at };
  // A number that goes back is of another process: what is known of the old one is shown no more.
  if (state.next !== null && now.events.next < state.next) state.events = [];
  state.fresh = state.next === null ? [] : now.events.events;
  state.events.push(...now.events.events);
  if (state.events.length > EVENTS_KEPT) state.events.splice(0, state.events.length - EVENTS_KEPT);
  state.dropped += now.events.dropped;
  state.next = now.events.next;
}

function header() {
  const { status } = state.now;
  put($("name"), status.name);
  put($("roles"), `${roles(status)} · ${status.version}`);
  put($("state"), status.stopping ? "stopping" : `up ${span(status.up_seconds)}`);
  $("state").parentElement.classList.remove("lost");
  badge("count-flows", status.flows);
  badge("count-errors", timeline.recentErrors(state).length);
  document.title = `${status.name} – ronproxy`;
}

function badge(id, count) {
  $(id).hidden = count === 0;
  put($(id), String(count));
}

function draw() {
  if (!state.now) return;
  const start = performance.now();
  header();
  views[state.view](state);
  note(performance.now() - start);
}

// The slowest renders are told in the page, for tests and for whoever wonders.
const took = [];
function note(ms) {
  took.push(ms);
  if (took.length > 100) took.shift();
  const sorted = [...took].sort((a, b) => a - b);
  const data = document.documentElement.dataset;
  data.renders = String(Number(data.renders ?? 0) + 1);
  data.renderMs = sorted[Math.floor(sorted.length * 0.95)].toFixed(2);
}

async function tick() {
  try {
    const since = state.next === null ? `limit=${EVENTS_KEPT}` : `since=${state.next}`;
    take(await ask(`/overview?${since}${state.view === "flows" ? "&flows=1" : ""}`));
    draw();
  } catch (error) {
    const box = $("state").parentElement;
    box.classList.add("lost");
    put($("state"), error.status === 401 ? "session over: run `ronproxy open`" : error.status ? error.message : "the node does not answer");
  }
}

let timer = 0;
async function loop() {
  clearTimeout(timer);
  // A page that nobody sees asks for nothing.
  if (document.visibilityState === "visible") {
    await tick();
    clearTimeout(timer);
    timer = setTimeout(loop, EVERY);
  }
}

function open() {
  const [name, rest] = location.hash.replace(/^#\/?/, "").split("?");
  state.view = views[name] ? name : "map";
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== state.view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === state.view) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else link.removeAttribute("aria-current");
  }
  if (state.view === "why" && rest) why.askFor(new URLSearchParams(rest).get("dest"));
  scrollTo(0, 0);
  draw();
  loop();
}

export function figures(list, facts) {
  facts.forEach(([name, value, unit], at) => {
    let box = list.children[at];
    if (!box) list.append((box = el("div", {}, el("dt", {}, name), el("dd", {}, el("span", {}, ""), " ", el("small", {}, "")))));
    put(box.querySelector("span"), value);
    put(box.querySelector("small"), unit ?? "");
  });
}

/// Bytes per second through this entry, from the last two answers.
export function speeds() {
  const { now, before } = state;
  const sum = (answer) => (answer?.lanes ?? []).reduce((all, lane) => [all[0] + lane.bytes[0], all[1] + lane.bytes[1]], [0, 0]);
  if (!before) return ["–", "–"];
  const seconds = (now.at - before.at) / 1000;
  const [a, b] = [sum(now), sum(before)];
  return [0, 1].map((way) => rate(Math.max(0, a[way] - b[way]) * 8 / seconds));
}

addEventListener("hashchange", open);
document.addEventListener("visibilitychange", loop);
// The address names the view, so this is no jump to an anchor.
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("view").focus(); });
map.start();
flows.start();
timeline.start(() => draw());
why.start();
members.start();
open();
