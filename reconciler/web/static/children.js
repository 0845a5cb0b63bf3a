// The child jobs of a run, loaded when they are asked for: by status, a page at a time.
import { Turns, fetchFragment, loadOnce, mend, part, tell, throttled } from "./fragments.js";

const MOST = 200;
const FIRST = 50;

const turnsOf = new WeakMap();
const refreshers = new WeakMap();

// `holder.dataset.children` is where they come from.
export function showChildren(holder) {
  if (turnsOf.has(holder)) return;
  const turns = new Turns((error) => tell(holder, error));
  turnsOf.set(holder, turns);
  refreshers.set(holder, throttled(
    () => 500 + 5 * rowsOf(holder).length,
    () => turns.take((signal) => show(holder, rowsOf(holder).length, signal), () => {}),
  ));
  holder.addEventListener("click", (event) => {
    const chip = event.target.closest("[data-status]");
    const more = event.target.closest("[data-more]");
    if (chip !== null) choose(holder, chip.dataset.status);
    else if (more !== null) loadOnce(more, () => loadMore(holder));
  });
}

export function refreshChildren(holder) {
  refreshers.get(holder)();
}

export function loadChildren(holder) {
  return turnsOf.get(holder).begin((signal) => show(holder, FIRST, signal));
}

function choose(holder, status) {
  holder.dataset.wanted = status;
  loadChildren(holder);
}

function loadMore(holder) {
  return turnsOf.get(holder).take(async (signal) => {
    const button = part(holder, "more").firstElementChild;
    if (button === null) return;
    const fresh = await fetchFragment(button.dataset.more, signal);
    const first = part(fresh, "rows").firstElementChild;
    part(holder, "rows").append(...part(fresh, "rows").children);
    part(holder, "more").replaceWith(part(fresh, "more"));
    tell(holder, null);
    first?.querySelector("a")?.focus({ preventScroll: true });
  });
}

function address(holder, limit) {
  const status = holder.dataset.wanted;
  return `${holder.dataset.children}${status ? `&status=${encodeURIComponent(status)}` : ""}&limit=${limit}`;
}

function rowsOf(holder) {
  const body = part(holder, "rows");
  return body === null ? [] : [...body.children];
}

// That many rows, as they are now.
async function show(holder, count, signal) {
  if (!holder.isConnected) return;
  const wanted = Math.max(count, FIRST);
  const fresh = await fetchFragment(address(holder, Math.min(wanted, MOST)), signal);
  const rows = part(fresh, "rows");
  let more = part(fresh, "more");
  while (rows.children.length < wanted && more.firstElementChild !== null) {
    const next = await fetchFragment(`${more.firstElementChild.dataset.more}&limit=${MOST}`, signal);
    rows.append(...part(next, "rows").children);
    more = part(next, "more");
  }
  part(fresh, "more").replaceWith(more);
  const now = part(holder, "children");
  if (now === null) holder.replaceChildren(fresh);
  else mend(now, part(fresh, "children"));
  tell(holder, null);
}
