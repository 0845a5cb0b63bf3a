// One batch, as it changes.
import { refreshChildren, showChildren } from "./children.js";
import { askFor } from "./asking.js";
import { fetchFragment, known, mend, part, throttled } from "./fragments.js";
import { listen } from "./live.js";
import { announceState } from "./notices.js";

const SOON = 300;
const SETTLED = 1500;
const POLL = 5000;
const UNTIL_READ = 300000;

export function showBatch() {
  const batch = document.getElementById("batch");
  const { source, name } = batch.dataset;
  const holder = batch.querySelector("[data-children]");
  if (holder !== null) showChildren(holder);
  const refresh = throttled(SOON, () => refreshSections(batch));
  askFor(batch, refresh);
  loadRuns(batch);
  const fields = new URLSearchParams({ source, name });
  listen(
    `?${fields}`,
    () => { refresh(); setTimeout(refresh, SETTLED); },
    refresh,
  );
  setInterval(() => { if (!document.hidden && batch.querySelector("[data-since]") !== null) refresh(); }, POLL);
}

// A page of a batch that nobody knows: it may have been committed a moment ago.
export async function waitForBatch() {
  const { source, name } = document.getElementById("unknown")?.dataset ?? {};
  if (source && (await known(source, name, UNTIL_READ).catch(() => false))) location.reload();
}

async function refreshSections(batch) {
  const page = await fetchFragment(location.href);
  announceState(page);
  for (const old of document.querySelectorAll("[data-live]")) {
    const fresh = page.querySelector(`#${old.id}`);
    if (fresh !== null && !old.hasAttribute("data-grown")) mend(old, fresh);
  }
  const before = batch.querySelector("[data-children]");
  const now = page.querySelector("[data-children]");
  if (before === null && now !== null) {
    document.getElementById("children").replaceChildren(now);
    showChildren(now);
  } else if (before !== null && now !== null) {
    before.dataset.children = now.dataset.children;
    refreshChildren(before);
  }
}

function loadRuns(batch) {
  const section = document.getElementById("live-runs");
  section.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-more]");
    if (button === null) return;
    button.disabled = true;
    const fresh = await fetchFragment(button.dataset.more);
    // From now on it is longer than what a fresh page has.
    section.dataset.grown = "";
    part(section, "rows").append(...part(fresh, "rows").children);
    part(section, "more").replaceWith(part(fresh, "more"));
  });
}
