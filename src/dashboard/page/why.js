// Why a flow would go where it goes.

import { el, millis, percent, rate, span } from "./format.js";
import { ask } from "./app.js";

const $ = (id) => document.getElementById(id);

export function start() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    explain();
  });
}

export function render() {}

export function askFor(dest) {
  if (!dest) return;
  $("dest").value = dest;
  explain();
}

async function explain() {
  const hint = $("hint").value;
  const query = `dest=${encodeURIComponent($("dest").value.trim())}${hint ? `&hint=${hint}` : ""}`;
  try {
    $("answer").replaceChildren(...tell(await ask(`/why?${query}`)));
  } catch (error) {
    $("answer").replaceChildren(el("p", { class: "note", role: "alert" }, error.message || "the node does not answer"));
  }
}

function tell(why) {
  const rule = why.rule == null ? "No rule matches: the node decides." : `Rule ${why.rule} of the configuration decides.`;
  const head = el("div", { class: "card why-exit" }, el("h2", {}, why.target), el("p", { class: "muted" }, rule), why.refused ? el("p", { class: "note" }, `Refused: ${why.refused}`) : el("p", {}, `Exits, in the order in which they are tried: ${why.exits.map((exit) => exit.exit).join(", ")}`));
  return [head, ...why.exits.map(exit)];
}

function exit(choice) {
  const title = el("h3", {}, `${choice.exit} `, el("span", { class: choice.route ? "pill good" : "pill bad" }, choice.route ?? "no route"), " ", el("span", { class: "pill" }, choice.hint));
  const lane = choice.lane == null ? "A new lane would be opened." : `Lane ${choice.lane} is open.${choice.since_seconds == null ? "" : ` Its route is this one since ${span(choice.since_seconds)}.`}`;
  const policy = choice.policy && el("p", { class: "policy" }, el("span", { class: `pill ${PILLS[choice.policy.answer] ?? ""}` }, "its policy"), ` ${said(choice.policy)}`);
  const rows = choice.candidates.map((c) => el("tr", {}, el("td", {}, c.route), el("td", { class: "num" }, millis(c.rtt_ms)), el("td", { class: "num" }, percent(c.loss_out_percent)), el("td", { class: "num wide" }, percent(c.loss_in_percent)), el("td", { class: "num wide" }, c.delivered_bps ? rate(c.delivered_bps) : "–"),
    el("td", {}, el("span", { class: `pill ${c.verdict === "excluded" ? "bad" : c.route === choice.route ? "good" : ""}` }, c.verdict), " ", el("span", { class: "muted" }, c.reason))));
  const table = rows.length ? el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "Route"), el("th", { class: "num" }, el("abbr", { title: "round trip" }, "RTT")), el("th", { class: "num" }, "Loss out"), el("th", { class: "num wide" }, "Loss in"), el("th", { class: "num wide" }, "Delivered"), el("th", {}, "Verdict"))), el("tbody", {}, ...rows))) : null;
  return el("div", { class: "card why-exit" }, title, el("p", { class: "muted" }, lane), policy, table);
}

const PILLS = { allowed: "good", refused: "bad" };

// What the exit says of the flow, by its own policy.
function said(policy) {
  switch (policy.answer) {
    case "allowed": return "allows it.";
    case "depends-on-address": return "decides by the address that the name has there.";
    case "refused": return `refuses it (${policy.refusal}): ${policy.reason}.`;
    default: return `is unknown: ${policy.reason}.`;
  }
}
