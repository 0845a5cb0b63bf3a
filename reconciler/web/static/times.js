// Times that say how long ago, and durations of what still runs: as the daemon words them, going on by themselves.
import { put } from "./fragments.js";

export function ago(seconds) {
  for (const [size, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${name} ago`;
  }
  return seconds < 10 ? "just now" : `${Math.floor(seconds)} s ago`;
}

export function span(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  for (const [size, name, smallerSize, smaller] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / smallerSize);
      return `${Math.floor(whole / size)} ${name}${rest ? ` ${rest} ${smaller}` : ""}`;
    }
  }
  return `${whole} s`;
}

// The daemon's clock counts: its time is in the page, beside when the page came.
const skew = Date.now() - Number(document.body.dataset.now);

function since(moment) {
  return Math.max(0, (Date.now() - skew - Date.parse(moment)) / 1000);
}

export function tick() {
  for (const element of document.querySelectorAll("time[data-ago]")) put(element, ago(since(element.dateTime)));
  for (const element of document.querySelectorAll("[data-since]")) put(element, span(Math.floor(since(element.dataset.since))));
}

export function keepTime() {
  setInterval(() => { if (!document.hidden) tick(); }, 1000);
}
