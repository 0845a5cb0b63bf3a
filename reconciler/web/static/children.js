// The child jobs of a run, loaded when they are asked for: by status, a page at a time.
import { fetchFragment, mend, part, throttled } from "./fragments.js";

const MOST = 200;
const FIRST = 50;

const refreshers = new WeakMap();

// `holder.dataset.children` is where they come from.
export function showChildren(holder) {
  if (refreshers.has(holder)) return;
  refreshers.set(holder, throttled(() => 500 + 5 * rowsOf(holder).length, () => refresh(holder)));
  holder.addEventListener("click", (event) => {
    const chip = event.target.closest("[data-status]");
    const more = event.target.closest("[data-more]");
    if (chip !== null) choose(holder, chip.dataset.status);
    else if (more !== null) loadMore(holder, more);
  });
}

export function refreshChildren(holder) {
  refreshers.get(holder)?.();
}

export async function loadChildren(holder) {
  try {
    const fresh = await fetchFragment(address(holder));
    holder.replaceChildren(fresh);
  } catch (error) {
    tell(holder, error);
  }
}

function address(holder, limit = FIRST) {
  const status = holder.dataset.wanted;
  return `${holder.dataset.children}${status ? `&status=${encodeURIComponent(status)}` : ""}&limit=${limit}`;
}

function rowsOf(holder) {
  const body = part(holder, "rows");
  return body === null ? [] : [...body.children];
}

async function choose(holder, status) {
  holder.dataset.wanted = status;
  await refresh(holder, FIRST);
}

async function loadMore(holder, button) {
  button.disabled = true;
  try {
    const fresh = await fetchFragment(button.dataset.more);
    const first = part(fresh, "rows").firstElementChild;
    part(holder, "rows").append(...part(fresh, "rows").children);
    part(holder, "more").replaceWith(part(fresh, "more"));
    first?.querySelector("a")?.focus({ preventScroll: true });
  } catch (error) {
    button.disabled = false;
    tell(holder, error);
  }
}

// As many rows as there are, as they are now.
async function refresh(holder, wanted = Math.max(rowsOf(holder).length, FIRST)) {
  if (!holder.isConnected) return;
  const fresh = await fetchFragment(address(holder, Math.min(wanted, MOST)));
  const rows = part(fresh, "rows");
  let more = part(fresh, "more");
  while (rows.children.length < wanted && more.firstElementChild !== null) {
    const next = await fetchFragment(`${more.firstElementChild.dataset.more}&limit=${MOST}`);
    rows.append(...part(next, "rows").children);
    more = part(next, "more");
  }
  part(fresh, "more").replaceWith(more);
  const now = part(holder, "children");
  if (now === null) holder.replaceChildren(fresh);
  else mend(now, part(fresh, "children"));
}

function tell(holder, error) {
  const line = document.createElement("p");
  line.className = "error loading";
  line.textContent = `It can't be shown: ${error.message}`;
  if (part(holder, "children") === null) holder.replaceChildren(line);
  else holder.append(line);
}
