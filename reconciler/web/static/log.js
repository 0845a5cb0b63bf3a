// A log: it grows while its job runs, and is searched without asking anybody.
import { Failed, fetchFragment, mend, put } from "./fragments.js";
import { tick } from "./times.js";

const POLL = 1000;
// Lines that are loaded without being asked for: a browser grows slow with many more.
const MOST = 20000;
const AT_ONCE = 1000;
const MOST_HITS = 5000;
// Pixels from the end of the page that still are the end.
const NEAR = 40;

export function showLog() {
  const sheet = document.getElementById("log");
  const lines = document.getElementById("lines");
  const end = document.getElementById("log-end");
  const more = document.getElementById("log-more");
  const follow = following(() => last().running === "yes");
  const search = searching(lines, follow.show);
  const { job, attempt } = sheet.dataset;
  const wasRunning = last().running === "yes";
  let allowed = MOST;
  let busy = false;
  let timer = null;

  function last() {
    return lines.lastElementChild.dataset;
  }

  function room() {
    return Math.min(AT_ONCE, Math.max(0, allowed - Number(last().count)));
  }

  // What has come meanwhile, as far as there is room for it, and how the job stands.
  async function load() {
    const { after, count } = last();
    const fields = new URLSearchParams({ job, after, count, limit: room() });
    if (attempt) fields.set("attempt", attempt);
    const fragment = await fetchFragment(`/fragments/log?${fields}`);
    mend(document.getElementById("live-log-head"), fragment.getElementById("live-log-head"));
    tick();
    const fresh = fragment.querySelector(".chunk");
    if (fresh.childElementCount > 0) {
      lines.append(fresh);
      search.look(fresh);
      follow.toEnd();
    } else {
      Object.assign(last(), { more: fresh.dataset.more, running: fresh.dataset.running });
    }
    showFailure(lines);
  }

  function tell() {
    const count = Number(last().count);
    const isMore = last().more === "yes";
    const running = last().running === "yes";
    let text = "";
    if (isMore) text = `${count.toLocaleString("en")} lines are shown; the download has all.`;
    else if (running) text = count ? "It goes on" : "There is no line yet";
    else if (!count) text = "There is no line: nothing was said of it, or its log is older than what is kept";
    else if (wasRunning) text = "It has ended";
    put(end, text);
    if (!isMore && document.activeElement === more) lines.focus({ preventScroll: true });
    more.hidden = !isMore;
  }

  // One at a time, whoever wants it: two would ask for the same lines, and show them twice.
  async function go() {
    if (busy) return;
    clearTimeout(timer);
    busy = true;
    try {
      if (last().running === "yes" && !document.hidden) await load();
      while (last().more === "yes" && room() > 0) await load();
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
    } finally {
      busy = false;
    }
    tell();
    if (last().running === "yes") timer = setTimeout(go, POLL);
  }

  more.addEventListener("click", () => {
    if (room() === 0) allowed += MOST;
    go();
  });
  document.getElementById("log-wrap").addEventListener("change", (event) => {
    lines.classList.toggle("wrap", event.target.checked);
  });
  document.getElementById("log-failure").addEventListener("click", () => {
    const bad = lines.querySelector(".line-bad");
    follow.show(bad);
    search.mark(bad);
  });
  showFailure(lines);
  go();
}

// Along with the end of a log that grows, until somebody looks at something else; again once they are back at the end.
function following(grows) {
  const box = document.getElementById("log-follow");
  const page = document.documentElement;
  let at = window.scrollY;
  let height = page.scrollHeight;
  let ours = false;
  if (location.hash !== "") box.checked = false;

  function toEnd() {
    if (box.checked) window.scrollTo({ top: page.scrollHeight });
  }

  function show(line) {
    box.checked = false;
    const before = window.scrollY;
    line.scrollIntoView({ block: "center" });
    ours = window.scrollY !== before;
  }

  window.addEventListener("scroll", () => {
    const by = window.scrollY - at;
    // A page that has become shorter moves by itself.
    const shorter = page.scrollHeight < height;
    at = window.scrollY;
    height = page.scrollHeight;
    if (ours) ours = false;
    else if (by < -1 && !shorter) box.checked = false;
    else if (by > 0 && grows() && at + window.innerHeight >= height - NEAR) box.checked = true;
  }, { passive: true });
  return { toEnd, show };
}

function showFailure(lines) {
  document.getElementById("log-failure").hidden = lines.querySelector(".line-bad") === null;
}

function searching(lines, show) {
  const field = document.getElementById("log-search");
  const told = document.getElementById("log-hits");
  const previous = document.getElementById("log-previous");
  const next = document.getElementById("log-next");
  let hits = [];
  let at = -1;
  let timer = null;

  function look(within) {
    const wanted = field.value.toLowerCase();
    if (wanted === "") return;
    for (const line of within.querySelectorAll(".line")) {
      if (hits.length < MOST_HITS && light(line, wanted)) hits.push(line);
    }
    tell();
  }

  function lookAgain() {
    for (const line of hits) {
      line.textContent = line.textContent;
      line.classList.remove("hit");
    }
    hits = [];
    at = -1;
    mark(null);
    look(lines);
    tell();
    if (hits.length) move(1);
  }

  function tell() {
    previous.disabled = next.disabled = hits.length === 0;
    const place = at >= 0 ? `${at + 1} of ` : "";
    const lineOrLines = hits.length === 1 ? "line" : "lines";
    const found = `${place}${hits.length}${hits.length >= MOST_HITS ? " or more" : ""} ${lineOrLines}`;
    put(told, field.value === "" ? "" : found);
  }

  function move(by) {
    at = (at + by + hits.length) % hits.length;
    show(hits[at]);
    mark(hits[at]);
    tell();
  }

  function mark(line) {
    lines.querySelector(".line.at")?.classList.remove("at");
    line?.classList.add("at");
  }

  field.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(lookAgain, 150); });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && hits.length) { event.preventDefault(); move(event.shiftKey ? -1 : 1); }
  });
  previous.addEventListener("click", () => move(-1));
  next.addEventListener("click", () => move(1));
  document.getElementById("log-only").addEventListener("change", (event) => {
    lines.classList.toggle("only-matches", event.target.checked);
  });
  return { look, mark };
}

// Mark what is found in a line. It is put together from text, so that nothing in it is taken for markup.
function light(line, wanted) {
  const text = line.textContent;
  const lower = text.toLowerCase();
  let found = lower.indexOf(wanted);
  if (found < 0) return false;
  const pieces = [];
  let from = 0;
  while (found >= 0) {
    const mark = document.createElement("mark");
    mark.textContent = text.slice(found, found + wanted.length);
    pieces.push(text.slice(from, found), mark);
    from = found + wanted.length;
    found = lower.indexOf(wanted, from);
  }
  pieces.push(text.slice(from));
  line.replaceChildren(...pieces);
  line.classList.add("hit");
  return true;
}
