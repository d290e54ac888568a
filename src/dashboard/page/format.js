// From figures to what people read, and from text to elements. Text of others is only ever set as text.

export const bytes = (n) => scaled(n, ["B", "kB", "MB", "GB", "TB"], 1000);
export const rate = (bitsPerSecond) => scaled(bitsPerSecond, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"], 1000);

function scaled(n, units, base) {
  let at = 0;
  while (n >= base && at < units.length - 1) { n /= base; at += 1; }
  return `${at === 0 ? Math.round(n) : n.toFixed(n < 10 ? 1 : 0)} ${units[at]}`;
}

/// A time span, as the commands write it.
export function span(seconds) {
  if (seconds == null) return "–";
  const s = Math.floor(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h${two(Math.floor(s / 60) % 60)}m`;
  return `${Math.floor(s / 86400)}d${two(Math.floor(s / 3600) % 24)}h`;
}

/// A node's roles, as the commands write them.
export const roles = ({ exit, relay }) => (exit == null ? "–" : [exit && "exit", relay && "relay"].filter(Boolean).join("+") || "entry");

export const millis = (ms) => (ms == null ? "–" : ms < 10 ? `${ms.toFixed(1)} ms` : ms < 9999 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
export const percent = (p) => (p == null ? "–" : `${p < 10 ? p.toFixed(1) : Math.round(p)} %`);

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
export const time = (ms) => clock.format(ms);
export const moment = (ms) => date.format(ms);

/// An element with attributes and children; strings become text.
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/// The same of SVG.
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [kind, listener] of Object.entries(value)) element.addEventListener(kind, listener);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/// Sets text only where it differs: the browser then has nothing to do.
export function put(element, text) {
  if (element.firstChild?.nodeType === 3 && element.childNodes.length === 1) {
    if (element.firstChild.data !== text) element.firstChild.data = text;
  } else if (element.textContent !== text) element.textContent = text;
}

/// Makes a change that may replace what has the keyboard's focus in a box, and keeps the focus: on the same
/// element, else on its successor by `data-key`, else on what is at its place then.
export function keepFocus(box, change) {
  const inside = () => [...box.querySelectorAll("a[href], button:not([hidden])")];
  const had = box.contains(document.activeElement) ? document.activeElement : null;
  const at = had ? inside().indexOf(had) : -1;
  change();
  if (at < 0 || document.activeElement === had) return;
  const now = inside();
  const next = now.includes(had) ? had : now.find((other) => had.dataset.key && other.dataset.key === had.dataset.key) ?? now[Math.min(at, now.length - 1)];
  (next ?? document.querySelector("main")).focus({ preventScroll: true });
}

export function mark(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}
