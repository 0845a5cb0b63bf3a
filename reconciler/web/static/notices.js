// What is told beside what is shown: of sources, above the list; of a batch, to who does not see its page.
import { Failed, announce, fetchFragment, mend } from "./fragments.js";
import { tick } from "./times.js";

const POLL = 10000;

// No event tells of a source, so it is asked for.
export function keepHeld() {
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const fresh = await fetchFragment("/fragments/held");
      mend(document.getElementById("held"), fresh.getElementById("held"));
      tick();
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
    }
  }, POLL);
}

// `page`: the page of a batch as it is now, before it is put into the one that is shown.
export function announceState(page) {
  const before = document.getElementById("live-head").dataset;
  const now = page.getElementById("live-head")?.dataset;
  if (now !== undefined && now.phase !== before.phase) announce(now.said);
}
