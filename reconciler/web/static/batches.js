// The list of batches: rows that unfold, and change as the batches do.
import { loadChildren, refreshChildren, showChildren } from "./children.js";
import { announce, fetchFragment, mend, mendAttributes, part, throttled } from "./fragments.js";
import { listen } from "./live.js";
import { isUsed, listing } from "./listing.js";

const SOON = 250;
// What a batch says of itself is written a moment after the event that it is about.
const SETTLED = 1500;
const POLL = 5000;
const MOST_KEYS = 100;
const GOES_ON = new Set(["Running", "Pending", "AwaitingApproval"]);

export function showBatches() {
  const list = listing({ path: "/", fragments: "/fragments/batches", update, arrived: showCounts });
  const { table } = list;
  const dirty = new Set();
  const flush = throttled(SOON, refresh);
  let again = null;

  table.addEventListener("click", (event) => {
    const button = event.target.closest("[data-open]");
    if (button !== null) toggle(button);
  });

  async function refresh() {
    const keys = [...dirty];
    dirty.clear();
    if (keys.length > MOST_KEYS) await reload();
    else if (keys.length > 0) await list.turns.take((signal) => askFor(keys, signal), () => setTimeout(want, POLL, ...keys));
  }

  async function askFor(keys, signal) {
    const fields = list.shown();
    const asked = new URLSearchParams([...fields, ...keys.map((key) => ["key", key])]);
    const fresh = await fetchFragment(`/fragments/batches/changed?${asked}`, signal);
    const rows = [...part(fresh, "rows").querySelectorAll("tbody.entry")];
    const before = list.entries().length;
    const known = new Set(rows.map((row) => row.dataset.key));
    for (const row of rows) put(row);
    for (const key of keys) if (!known.has(key)) list.find(key)?.remove();
    showCounts(fresh);
    if (before > 0 && list.entries().length === 0) reload();
  }

  // Rows are sent that don't belong to the list any more, too: who is in one of them can go on reading.
  function put(fresh) {
    const old = list.find(fresh.dataset.key);
    const left = "left" in fresh.dataset;
    if (old === null) {
      if (!left) place(fresh);
    } else if (left && !isUsed(old)) {
      old.remove();
    } else {
      const newer = old.dataset.active < fresh.dataset.active;
      update(old, fresh);
      if (newer && !old.contains(document.activeElement)) place(old);
    }
  }

  // Where it belongs, if that is not before the first row of a list that begins later, or after the last one shown.
  function place(row) {
    const others = list.entries().filter((each) => each !== row);
    const next = others.find((each) => each.dataset.active < row.dataset.active);
    if (next !== undefined) {
      if (list.begins() || next !== others[0]) next.before(row);
    } else if (list.more.childElementCount === 0) {
      table.querySelector("tbody.empty")?.remove();
      table.append(row);
    }
  }

  async function reload() {
    clearTimeout(again);
    await list.reload(() => { again = setTimeout(reload, POLL); });
    want(...keysOf(list.entries().filter(isUsed)));
  }

  function want(...keys) {
    for (const key of keys) dirty.add(key);
    flush();
  }

  listen(
    "",
    ({ source, name }) => {
      if (!source || !name) return;
      const key = `${source}/${name}`;
      want(key);
      setTimeout(want, SETTLED, key);
    },
    reload,
  );
  setInterval(() => {
    if (document.hidden) return;
    const rows = list.entries().filter((row) => GOES_ON.has(row.dataset.phase) || "left" in row.dataset);
    want(...keysOf(rows));
  }, POLL);
}

function keysOf(rows) {
  return rows.slice(0, MOST_KEYS).map((row) => row.dataset.key);
}

function update(old, fresh) {
  if (old.dataset.phase !== fresh.dataset.phase) {
    announce(`${fresh.dataset.name}: ${fresh.dataset.phase}, ${fresh.dataset.progress}`);
  }
  const another = old.dataset.run !== fresh.dataset.run;
  mendAttributes(old, fresh);
  mend(old.rows[0], fresh.rows[0]);
  const holder = old.querySelector("[data-children]");
  if (holder === null) return;
  if (another) {
    holder.dataset.children = childrenOf(old);
    loadChildren(holder);
  } else {
    refreshChildren(holder);
  }
}

function childrenOf(entry) {
  return `/fragments/children?run=${encodeURIComponent(entry.dataset.run)}`;
}

function toggle(button) {
  const entry = button.closest("tbody");
  const open = button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", String(open));
  entry.querySelector("tr.detail")?.remove();
  if (!open) return;
  const row = document.createElement("tr");
  row.className = "detail";
  row.setAttribute("role", "row");
  const cell = document.createElement("td");
  cell.setAttribute("role", "cell");
  cell.colSpan = 9;
  const holder = document.createElement("div");
  holder.id = button.getAttribute("aria-controls");
  holder.dataset.children = childrenOf(entry);
  const loading = document.createElement("p");
  loading.className = "loading";
  loading.textContent = "Loading";
  holder.append(loading);
  cell.append(holder);
  row.append(cell);
  entry.append(row);
  showChildren(holder);
  loadChildren(holder);
}

function showCounts(fresh) {
  for (const each of fresh.querySelectorAll('[data-part="phases"] > li')) {
    const chip = document.querySelector(`.chip[data-phase="${each.dataset.phase}"]`);
    chip.hidden = each.dataset.offered !== "yes";
    chip.querySelector("[data-count]").textContent = each.textContent;
  }
}
