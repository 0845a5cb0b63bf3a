// A log: it grows while its job runs, and is searched without asking anybody.
import { Failed, fetchFragment, mend } from "./fragments.js";
import { tick } from "./times.js";

const POLL = 1000;
// Lines that are loaded without being asked for: a browser grows slow with many more.
const MOST = 20000;
const MOST_HITS = 5000;

export function showLog() {
  const sheet = document.getElementById("log");
  const lines = document.getElementById("lines");
  const end = document.getElementById("log-end");
  const follow = document.getElementById("log-follow");
  const search = searching(lines);
  const { job, attempt } = sheet.dataset;
  let allowed = MOST;

  function last() {
    return lines.lastElementChild.dataset;
  }

  async function load() {
    const { after, count } = last();
    const fields = new URLSearchParams({ job, after, count });
    if (attempt) fields.set("attempt", attempt);
    const fresh = (await fetchFragment(`/fragments/log?${fields}`)).firstElementChild;
    if (fresh.childElementCount > 0) {
      lines.append(fresh);
      search.look(fresh);
      if (follow.checked) window.scrollTo({ top: document.body.scrollHeight });
    } else {
      Object.assign(last(), { more: fresh.dataset.more, running: fresh.dataset.running });
    }
    showFailure(lines);
  }

  async function refreshHead() {
    const page = await fetchFragment(location.href);
    const fresh = page.querySelector("#live-log-head");
    if (fresh !== null) mend(document.getElementById("live-log-head"), fresh);
    tick();
  }

  function tell() {
    const { more, running } = last();
    const count = Number(last().count);
    end.replaceChildren();
    if (more === "yes") {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Load more";
      button.addEventListener("click", () => { allowed = count + MOST; go(); });
      end.append(`${count.toLocaleString("en")} lines are shown; the download has all. `, button);
    } else if (running === "yes") {
      end.textContent = count ? "It goes on" : "There is no line yet";
    } else if (!count) {
      end.textContent = "There is no line: nothing was said of it, or its log is older than what is kept";
    }
  }

  async function go() {
    const running = last().running;
    try {
      while (last().more === "yes" && Number(last().count) < allowed) await load();
      if (last().running === "yes" && !document.hidden) await load();
      if (running === "yes") await refreshHead();
    } catch (error) {
      if (!(error instanceof Failed) && !(error instanceof TypeError)) throw error;
    }
    tell();
    if (last().running === "yes") setTimeout(go, POLL);
  }

  document.getElementById("log-wrap").addEventListener("change", (event) => {
    lines.classList.toggle("wrap", event.target.checked);
  });
  document.getElementById("log-attempt")?.addEventListener("change", (event) => {
    location.search = event.target.value ? `?attempt=${event.target.value}` : "";
  });
  document.getElementById("log-failure").addEventListener("click", () => {
    const bad = lines.querySelector(".line-bad");
    bad.scrollIntoView({ block: "center" });
    search.mark(bad);
  });
  showFailure(lines);
  tell();
  go();
}

function showFailure(lines) {
  document.getElementById("log-failure").hidden = lines.querySelector(".line-bad") === null;
}

function searching(lines) {
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
    told.textContent = field.value === "" ? "" : `${place}${hits.length}${hits.length >= MOST_HITS ? " or more" : ""} ${lineOrLines}`;
  }

  function move(by) {
    at = (at + by + hits.length) % hits.length;
    hits[at].scrollIntoView({ block: "center" });
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
