// Choosing servers: one by one, all that carry a tag, or what a search finds. What is chosen stays so whatever is shown.
import { Failed, Turns, fetchFragment, loadOnce, part, tell } from "./fragments.js";

const TYPING = 200;
const PAGE = 200;

// web-2 before web-10
const asPeopleCount = new Intl.Collator("en", { numeric: true });

export class Picking {
  // `changed` is called after each change of what is chosen.
  constructor(source, changed) {
    this.source = source;
    this.changed = changed;
    this.chosen = new Map();
    this.members = new Map();
    this.pressed = new Set();
    this.list = document.getElementById("c-picks");
    this.turns = new Turns((error) => { this.list.replaceChildren(); tell(this.list, error); });
    this.search = document.getElementById("c-search");
    this.listenToPage();
    this.show();
  }

  listenToPage() {
    let timer = null;
    this.search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => this.show(), TYPING); });
    this.search.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
    this.list.addEventListener("change", (event) => {
      this.put(serverOf(event.target.closest(".pick")), event.target.checked);
      this.changed();
    });
    this.list.addEventListener("click", (event) => {
      const more = event.target.closest("[data-more]");
      if (more !== null) loadOnce(more, () => this.showMore());
    });
    document.getElementById("c-tags")?.addEventListener("click", (event) => {
      const chip = event.target.closest("[data-tag]");
      if (chip !== null) this.press(chip);
    });
    document.getElementById("c-all").addEventListener("click", () => {
      for (const pick of this.list.querySelectorAll(".pick")) this.put(serverOf(pick), true);
      this.update();
    });
    document.getElementById("c-none").addEventListener("click", () => {
      this.chosen.clear();
      this.pressed.clear();
      this.update();
    });
  }

  put(server, on) {
    if (on) this.chosen.set(server.key, server);
    else this.chosen.delete(server.key);
  }

  update() {
    for (const pick of this.list.querySelectorAll(".pick")) pick.querySelector("input").checked = this.chosen.has(pick.dataset.key);
    for (const chip of document.querySelectorAll("#c-tags [data-tag]")) chip.setAttribute("aria-pressed", String(this.pressed.has(chip.dataset.tag)));
    this.changed();
  }

  // All with the tag are chosen; pressed again, those that no other pressed tag has are not any more.
  async press(chip) {
    const { tag } = chip.dataset;
    chip.setAttribute("aria-busy", "true");
    try {
      if (!this.members.has(tag)) this.members.set(tag, await this.all(tag));
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      tell(this.list, error);
      return;
    } finally {
      chip.removeAttribute("aria-busy");
    }
    const on = !this.pressed.has(tag);
    if (on) this.pressed.add(tag);
    else this.pressed.delete(tag);
    const kept = new Set([...this.pressed].flatMap((other) => this.members.get(other).map((server) => server.key)));
    for (const server of this.members.get(tag)) this.put(server, on || kept.has(server.key));
    this.update();
  }

  async all(tag) {
    const found = [];
    let url = this.address({ tag });
    while (url !== null) {
      const fragment = await fetchFragment(url);
      found.push(...[...fragment.querySelectorAll(".pick")].map(serverOf));
      url = part(fragment, "more").querySelector("[data-more]")?.dataset.more ?? null;
    }
    return found;
  }

  address(fields) {
    return `/fragments/pick?${new URLSearchParams({ source: this.source, limit: PAGE, ...fields })}`;
  }

  show() {
    return this.turns.begin(async (signal) => {
      this.list.replaceChildren(await fetchFragment(this.address({ text: this.search.value }), signal));
      this.mark();
    });
  }

  showMore() {
    return this.turns.take(async (signal) => {
      const button = this.list.querySelector("[data-more]");
      if (button === null) return;
      const fragment = await fetchFragment(button.dataset.more, signal);
      const rows = [...part(fragment, "rows").children];
      part(this.list, "rows").append(...rows);
      part(this.list, "more").replaceWith(part(fragment, "more"));
      tell(this.list, null);
      this.mark();
      rows[0]?.querySelector("input")?.focus({ preventScroll: true });
    }, (error) => tell(this.list, error));
  }

  mark() {
    for (const pick of this.list.querySelectorAll(".pick")) pick.querySelector("input").checked = this.chosen.has(pick.dataset.key);
  }

  get hosts() {
    return [...new Set([...this.chosen.values()].map((server) => server.name))].sort(asPeopleCount.compare);
  }

  get inventories() {
    return [...new Set([...this.chosen.values()].flatMap((server) => server.inventory.split(",")))].filter(Boolean);
  }

  // The tags that select exactly what is chosen; null: none do.
  get tags() {
    if (this.pressed.size === 0) return null;
    const keys = new Set([...this.pressed].flatMap((tag) => this.members.get(tag).map((server) => server.key)));
    const same = keys.size === this.chosen.size && [...keys].every((key) => this.chosen.has(key));
    return same ? [...this.pressed] : null;
  }
}

function serverOf(pick) {
  const { key, host, inventory } = pick.dataset;
  return { key, name: host, inventory };
}
