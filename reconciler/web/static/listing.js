// A list with filters: they are kept in the address, and change the list without loading the page anew.
import { Failed, announce, fetchFragment, part } from "./fragments.js";

const TYPING = 250;

// `path` of the page, `fragments` of its rows. `arrived` is called with each fragment of the first page of the list.
export function listing({ path, fragments, arrived = () => {} }) {
  const form = document.getElementById("filters");
  const table = document.getElementById("rows");
  const more = document.getElementById("more");
  let running = null;
  let timer = null;

  function query() {
    const fields = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value.trim() !== "") fields.append(name, value);
    return fields;
  }

  async function load() {
    clearTimeout(timer);
    running?.abort();
    running = new AbortController();
    const fields = query();
    const tail = fields.size ? `?${fields}` : "";
    history.replaceState(null, "", `${path}${tail}`);
    try {
      const fresh = await fetchFragment(`${fragments}${tail}`, running.signal);
      for (const body of [...table.tBodies]) body.remove();
      table.append(...part(fresh, "rows").querySelectorAll("tbody"));
      more.replaceChildren(...part(fresh, "more").childNodes);
      arrived(fresh);
      const count = table.querySelectorAll("tbody.entry").length;
      announce(`${count}${more.childElementCount ? " or more" : ""} in the list`);
    } catch (error) {
      if (error instanceof Failed) announce(error.message);
      else if (error.name !== "AbortError" && !(error instanceof TypeError)) throw error;
    }
  }

  async function loadMore(link) {
    if (link.hasAttribute("aria-busy")) return;
    link.setAttribute("aria-busy", "true");
    try {
      const fresh = await fetchFragment(link.dataset.more);
      const bodies = [...part(fresh, "rows").querySelectorAll("tbody")].filter((body) => find(body.dataset.key) === null);
      table.append(...bodies);
      more.replaceChildren(...part(fresh, "more").childNodes);
      bodies[0]?.querySelector("a")?.focus({ preventScroll: true });
    } catch (error) {
      link.removeAttribute("aria-busy");
      if (error instanceof Failed) announce(error.message);
    }
  }

  function find(key) {
    return [...table.tBodies].find((body) => body.dataset.key === key) ?? null;
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); load(); });
  form.addEventListener("change", load);
  form.addEventListener("input", (event) => {
    if (event.target.type !== "search" && event.target.type !== "text") return;
    clearTimeout(timer);
    timer = setTimeout(load, TYPING);
  });
  more.addEventListener("click", (event) => {
    const link = event.target.closest("[data-more]");
    if (link === null) return;
    event.preventDefault();
    loadMore(link);
  });
  return { form, table, query, load, find };
}
