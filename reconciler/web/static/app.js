// What a page does beside being read. Each page names itself; nothing here is needed to read one.
import { logOut } from "./api.js";
import { showBatch, waitForBatch } from "./batch.js";
import { showBatches } from "./batches.js";
import { showComposer } from "./compose.js";
import { showLog } from "./log.js";
import { showLogin } from "./login.js";
import { keepHeld } from "./notices.js";
import { showServers } from "./servers.js";
import { keepTime } from "./times.js";

const pages = {
  batches: () => {
    showBatches();
    keepHeld();
  },
  batch: showBatch,
  log: showLog,
  login: showLogin,
  new: showComposer,
  problem: waitForBatch,
  servers: showServers,
};

keepTime();
// Who is logged in may become another without the page being loaded anew: what is clicked is looked up then.
document.getElementById("account").addEventListener("click", async (event) => {
  if (event.target.closest("#log-out") === null) return;
  await logOut();
  location.reload();
});
const login = document.getElementById("log-in");
if (login !== null && location.pathname !== "/login") {
  login.href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
}
pages[document.body.dataset.page]?.();
