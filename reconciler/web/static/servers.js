// The list of servers: a click on a tag filters by it.
import { listing } from "./listing.js";

export function showServers() {
  const { form, table, load } = listing({ path: "/servers", fragments: "/fragments/servers" });
  table.addEventListener("click", async (event) => {
    const badge = event.target.closest("a[data-tag]");
    if (badge === null || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const boxes = [...form.querySelectorAll('input[name="tag"]')];
    const box = boxes.find((each) => each.value === badge.dataset.tag);
    if (box === undefined) return;
    event.preventDefault();
    box.checked = !box.checked;
    await load();
    // Its row may not be in the list any more.
    if (!badge.isConnected && document.activeElement === document.body) box.focus();
  });
}
