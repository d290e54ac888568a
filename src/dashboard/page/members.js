// Who is a member, and inviting a node where this node may.

import { el, svg, put, mark, span, roles, keepFocus } from "./format.js";
import { ask } from "./app.js";

const EVERY = 5000;
// Modules of light around a QR code: readers need four.
const QUIET = 4;
const $ = (id) => document.getElementById(id);
let asked = -Infinity;
let drawn = "";

export function start() {
  $("invite").addEventListener("submit", (event) => {
    event.preventDefault();
    invite($("invite-name").value.trim());
  });
  $("copy").addEventListener("click", copy);
}

export function render(state) {
  const { status } = state.now;
  how(status);
  if (performance.now() - asked < EVERY) return;
  asked = performance.now();
  show(status);
}

/// Says who may invite; only where this node may, there is a form.
function how({ authority, invites }) {
  $("invite").hidden = !invites;
  $("invite-command").hidden = invites;
  put($("invite-where"), authority
    ? "The dashboard may not invite here. Run this on this machine, and send the line that it prints:"
    : "The node that has the overlay’s authority invites. Run this there, and send the line that it prints:");
  $("invite-allow").hidden = !authority;
}

async function show(status) {
  const note = $("members-note");
  try {
    const members = await ask("/members");
    note.hidden = true;
    put($("members-lead"), status.authority ? "All that were ever certified and are on the authority’s record." : "The members that this node knows, by the certificates that it has seen.");
    const key = JSON.stringify(members);
    if (key === drawn) return;
    drawn = key;
    keepFocus($("member-table"), () => document.querySelector("#member-table tbody").replaceChildren(...members.map(row)));
  } catch (error) {
    note.hidden = false;
    put(note, error.message || "the node does not answer");
  }
}

const LOOKS = { valid: "good", expired: "warn", revoked: "bad", unknown: "" };
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

function row(member) {
  const left = member.expires == null ? null : member.expires - Date.now() / 1000;
  const state = member.state === "revoked" && member.revoked ? `revoked ${day.format(member.revoked * 1000)}` : member.state;
  return el("tr", {}, el("th", { scope: "row" }, member.name), el("td", {}, el("span", { class: `pill ${LOOKS[member.state] ?? ""}` }, state)), el("td", {}, roles(member)), el("td", { class: "wide" }, member.groups?.join(", ") || "–"),
    el("td", { class: "num" }, left > 0 ? `in ${span(left)}` : "–"), el("td", { class: "num" }, member.seen_seconds_ago == null ? "–" : member.seen_seconds_ago === 0 ? "now" : `${span(member.seen_seconds_ago)} ago`), el("td", { class: "wide serial" }, member.serial ?? "–"));
}

async function invite(name) {
  const note = $("invite-note");
  $("invited").hidden = true;
  put(note, "");
  try {
    const given = await ask(`/invite?name=${encodeURIComponent(name)}`, "POST");
    put(note, `${given.name} can join with this line once, within ${span(given.expires - Date.now() / 1000 + 1)}. It is a secret until then.`);
    $("line").value = given.invitation;
    picture(given);
    $("invited").hidden = false;
    $("invite-name").value = "";
    $("line").focus();
    $("line").select();
    asked = -Infinity;
  } catch (error) {
    put(note, error.message || "the node does not answer");
  }
}

function picture({ qr, name }) {
  const box = $("qr");
  box.toggleAttribute("hidden", !qr);
  if (!qr) return;
  const side = qr.size + 2 * QUIET;
  mark(box, "viewBox", `${-QUIET} ${-QUIET} ${side} ${side}`);
  mark(box, "aria-label", `QR code of the invitation of ${name}`);
  box.replaceChildren(svg("rect", { x: -QUIET, y: -QUIET, width: side, height: side, fill: "#fff" }), svg("path", { d: qr.path, fill: "#000" }));
}

async function copy() {
  const note = $("copied");
  try {
    await navigator.clipboard.writeText($("line").value);
    put(note, "copied");
  } catch {
    // A browser that gives no access to the clipboard.
    $("line").focus();
    $("line").select();
    put(note, "press Ctrl+C");
  }
}
