// One batch, as it changes.
import { refreshChildren, showChildren } from "./children.js";
import { askFor } from "./asking.js";
import { Failed, fetchFragment, known, loadOnce, mend, part, tell, throttled } from "./fragments.js";
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
  showMoreRuns();
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
    if (fresh === null) continue;
    if (old.id === "live-runs") keepOlder(old, fresh);
    mend(old, fresh);
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

// A fresh page has the newest runs only; older ones that were loaded stay, and going on from the last of them.
function keepOlder(old, fresh) {
  const rows = part(fresh, "rows");
  const newest = new Set([...rows.children].map((row) => row.dataset.key));
  const before = [...part(old, "rows").children];
  if (!before.some((row) => newest.has(row.dataset.key))) return;
  rows.append(...before.filter((row) => !newest.has(row.dataset.key)).map((row) => row.cloneNode(true)));
  part(fresh, "more").replaceWith(part(old, "more").cloneNode(true));
}

function showMoreRuns() {
  const section = document.getElementById("live-runs");
  section.addEventListener("click", (event) => {
    const button = event.target.closest("[data-more]");
    if (button !== null) loadOnce(button, loadRuns);
  });

  async function loadRuns() {
    const more = part(section, "more");
    try {
      const fresh = await fetchFragment(more.firstElementChild.dataset.more);
      const rows = [...part(fresh, "rows").children];
      part(section, "rows").append(...rows);
      part(section, "more").replaceWith(part(fresh, "more"));
      rows[0]?.querySelector("a")?.focus({ preventScroll: true });
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      tell(part(section, "more"), error);
    }
  }
}
