// The list of batches: rows that unfold, and change as the batches do.
import { loadChildren, refreshChildren, showChildren } from "./children.js";
import { announce, fetchFragment, mend, mendAttributes, part, throttled } from "./fragments.js";
import { listen } from "./live.js";
import { listing } from "./listing.js";

const SOON = 250;
// What a batch says of itself is written a moment after the event that it is about.
const SETTLED = 1500;
const POLL = 5000;
const MOST_KEYS = 100;
const GOES_ON = new Set(["Running", "Pending", "AwaitingApproval"]);

export function showBatches() {
  const list = listing({ path: "/", fragments: "/fragments/batches", arrived: showCounts });
  const { table, query } = list;
  const dirty = new Set();
  const flush = throttled(SOON, refresh);
  const onFirstPage = !new URLSearchParams(location.search).has("cursor");

  table.addEventListener("click", (event) => {
    const button = event.target.closest("[data-open]");
    if (button !== null) toggle(button);
  });

  async function refresh() {
    const keys = [...dirty];
    dirty.clear();
    if (keys.length === 0) return;
    if (keys.length > MOST_KEYS) {
      await list.load();
      return;
    }
    const fields = query();
    for (const key of keys) fields.append("key", key);
    const asked = String(query());
    const fresh = await fetchFragment(`/fragments/batches/changed?${fields}`);
    if (asked !== String(query())) return; // the list is another by now
    const rows = new Map([...part(fresh, "rows").querySelectorAll("tbody.entry")].map((row) => [row.dataset.key, row]));
    for (const key of keys) put(key, rows.get(key) ?? null);
    showCounts(fresh);
  }

  function put(key, fresh) {
    const old = list.find(key);
    if (fresh === null) {
      old?.remove();
    } else if (old === null) {
      table.querySelector("tbody.empty")?.remove();
      if (onFirstPage) table.tHead.after(fresh);
    } else {
      update(old, fresh);
    }
  }

  function update(old, fresh) {
    if (old.dataset.phase !== fresh.dataset.phase) {
      announce(`${fresh.dataset.name}: ${fresh.dataset.phase}, ${fresh.dataset.progress}`);
    }
    const another = old.dataset.run !== fresh.dataset.run;
    const newer = old.dataset.active < fresh.dataset.active;
    mendAttributes(old, fresh);
    mend(old.rows[0], fresh.rows[0]);
    const holder = old.querySelector("[data-children]");
    if (holder !== null && another) {
      holder.dataset.children = childrenOf(old);
      loadChildren(holder);
    } else if (holder !== null) {
      refreshChildren(holder);
    }
    if (newer && onFirstPage && !old.contains(document.activeElement)) table.tHead.after(old);
  }

  function wantAgain(keys) {
    for (const key of keys) dirty.add(key);
    flush();
  }

  listen(
    "",
    ({ source, name }) => {
      if (!source || !name) return;
      const key = `${source}/${name}`;
      wantAgain([key]);
      setTimeout(wantAgain, SETTLED, [key]);
    },
    () => wantAgain([...table.querySelectorAll("tbody.entry")].slice(0, MOST_KEYS).map((row) => row.dataset.key)),
  );
  setInterval(() => {
    if (document.hidden) return;
    const rows = [...table.querySelectorAll("tbody.entry")].filter((row) => GOES_ON.has(row.dataset.phase));
    wantAgain(rows.slice(0, MOST_KEYS).map((row) => row.dataset.key));
  }, POLL);
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
