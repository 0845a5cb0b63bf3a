// A list with filters: they are kept in the address, and change the list without loading the page anew.
import { Turns, announce, arrange, fetchFragment, loadOnce, mend, mendChildren, part, tell } from "./fragments.js";

const TYPING = 250;
const FIRST = 50;
const MOST = 200;
const TYPED = new Set(["search", "text"]);

// `path` of the page, `fragments` of its rows. `update` makes a row like a fresh one; `arrived` is called with each fragment
// that the list is made of.
export function listing({ path, fragments, update = mend, arrived = () => {} }) {
  const form = document.getElementById("filters");
  const table = document.getElementById("rows");
  const more = document.getElementById("more");
  const turns = new Turns((error) => announce(error.message));
  // What the list is of: as the address says, for a form has no option for a source that is gone.
  let shown = new URLSearchParams(location.search);
  // Where it begins, for who came by a link that goes on where another page ended.
  let cursor = shown.get("cursor");
  shown.delete("cursor");
  let timer = null;

  function query() {
    const fields = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value.trim() !== "") fields.append(name, value);
    return fields;
  }

  function address(limit) {
    return `${fragments}?${new URLSearchParams([...shown, ...(cursor ? [["cursor", cursor]] : []), ["limit", limit]])}`;
  }

  // The list that the filters ask for, from its beginning.
  function load() {
    clearTimeout(timer);
    shown = query();
    cursor = null;
    history.replaceState(null, "", shown.size ? `${path}?${shown}` : path);
    return turns.begin(async (signal) => {
      const fresh = await fetchFragment(address(FIRST), signal);
      put(fresh, () => false);
      const count = entries().length;
      announce(`${count}${more.childElementCount ? " or more" : ""} in the list`);
    });
  }

  // The same list as it is now, with as many rows. Rows that somebody is in stay, even if it has not got them any more.
  function reload(failed) {
    return turns.take(async (signal) => {
      const wanted = Math.max(entries().length, FIRST);
      const fresh = await fetchFragment(address(Math.min(wanted, MOST)), signal);
      const rows = part(fresh, "rows");
      for (let link = next(fresh); link !== null && rows.tBodies.length < wanted; link = next(fresh)) {
        const further = await fetchFragment(`${link.dataset.more}&limit=${MOST}`, signal);
        rows.append(...part(further, "rows").tBodies);
        part(fresh, "more").replaceWith(part(further, "more"));
      }
      put(fresh, isUsed);
    }, failed);
  }

  function next(fragment) {
    return part(fragment, "more").querySelector("[data-more]");
  }

  function put(fresh, isKept) {
    const rows = [...part(fresh, "rows").tBodies];
    const keys = new Set(rows.map((row) => row.dataset.key));
    const before = [...table.tBodies].filter((row) => keys.has(row.dataset.key) || !isKept(row));
    arrange(table, before, rows, update);
    mendChildren(more, part(fresh, "more"));
    arrived(fresh);
  }

  function loadMore() {
    return turns.take(async (signal) => {
      const link = more.querySelector("[data-more]");
      if (link === null) return;
      const fresh = await fetchFragment(link.dataset.more, signal);
      const bodies = [...part(fresh, "rows").tBodies].filter((body) => find(body.dataset.key) === null);
      table.append(...bodies);
      more.replaceChildren(...part(fresh, "more").childNodes);
      bodies[0]?.querySelector("a")?.focus({ preventScroll: true });
    }, (error) => tell(more, error));
  }

  function entries() {
    return [...table.querySelectorAll("tbody.entry")];
  }

  function find(key) {
    return entries().find((body) => body.dataset.key === key) ?? null;
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); load(); });
  // What is typed was loaded as it was: that its field is left changes nothing.
  form.addEventListener("change", (event) => { if (!TYPED.has(event.target.type)) load(); });
  form.addEventListener("input", (event) => {
    if (!TYPED.has(event.target.type)) return;
    clearTimeout(timer);
    timer = setTimeout(load, TYPING);
  });
  more.addEventListener("click", (event) => {
    const link = event.target.closest("[data-more]");
    if (link === null) return;
    event.preventDefault();
    loadOnce(link, loadMore);
  });
  return { form, table, more, turns, entries, find, load, reload, shown: () => shown, begins: () => cursor === null };
}

// Whether somebody reads in it, or has the focus there.
export function isUsed(row) {
  return row.querySelector('[aria-expanded="true"]') !== null || row.contains(document.activeElement);
}
