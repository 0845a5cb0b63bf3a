// Dialogs that ask for something: what is asked, why, and by whom.
import { call, logIn } from "./api.js";
import { fetchFragment, mend } from "./fragments.js";

const PATIENCE = 20000;
const LOOK_AGAIN = 400;

// A dialog whose form is sent by `send(fields, token)`. What that returns is shown as the answer. It opens empty each
// time, and keeps nothing once it is closed: least of all a token that was given for one thing.
export function dialogOf(dialog, send) {
  const form = dialog.querySelector("form");
  const error = dialog.querySelector("[data-error]");
  const answer = dialog.querySelector("[data-answer]");
  const go = dialog.querySelector("[data-go]");
  let opened = 0;
  let done = false;

  function begin() {
    form.reset();
    error.textContent = "";
    answer.textContent = "";
    go.disabled = false;
    done = false;
    for (const part of form.querySelectorAll("[data-who]")) part.hidden = false;
  }

  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    // The button that opened it can't be pressed any more, or is about to be drawn so: the focus would be nowhere.
    if (done || document.activeElement === document.body) document.getElementById("main").focus({ preventScroll: true });
    begin();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const mine = opened;
    const fields = new FormData(form);
    const token = (fields.get("token") ?? "").trim();
    error.textContent = "";
    answer.textContent = "Asked";
    go.disabled = true;
    try {
      if (token !== "" && fields.has("stay")) await stayLoggedIn(token);
      const said = await send(fields, token);
      if (mine !== opened || !dialog.open) return;
      answer.replaceChildren(said);
      done = true;
      for (const part of form.querySelectorAll("[data-who]")) part.hidden = true;
    } catch (problem) {
      if (mine !== opened || !dialog.open) return;
      answer.textContent = "";
      const over = problem.status === 401 && form.elements.token === undefined;
      error.textContent = over ? "You are logged in no more: log in again." : problem.message;
      go.disabled = false;
    }
  });
  return () => {
    opened += 1;
    begin();
    dialog.showModal();
  };
}

// The head says who it is from now on, and no dialog asks for a token, unless this one may not do what they are for.
async function stayLoggedIn(token) {
  await logIn(token);
  const page = await fetchFragment(location.href);
  mend(document.getElementById("account"), page.getElementById("account"));
  if (page.querySelector("dialog [data-who]") !== null) return;
  for (const part of document.querySelectorAll("dialog [data-who]")) part.remove();
}

export function askFor(batch, done) {
  const { source, name } = batch.dataset;
  const place = `/api/v1/batches/${encodeURIComponent(source)}/${encodeURIComponent(name)}`;
  for (const dialog of batch.querySelectorAll("dialog[data-kind]")) {
    const { kind } = dialog.dataset;
    const open = dialogOf(dialog, async (fields, token) => {
      const body = { reason: fields.get("reason").trim() };
      for (const field of ["which", "revision"]) if (fields.has(field)) body[field] = fields.get(field);
      const asked = await call("POST", `${place}/${kind}`, { body, token });
      const result = await resultOf(asked.request, token);
      done();
      return result;
    });
    // The button may be drawn anew, so the click is listened for where it bubbles to.
    batch.addEventListener("click", (event) => {
      if (event.target.closest(`[data-ask="${kind}"]`) !== null) open();
    });
  }
}

async function resultOf(request, token) {
  const until = Date.now() + PATIENCE;
  while (Date.now() < until) {
    const found = await call("GET", request, { token });
    if (found.result !== null) {
      if (found.result !== "accepted") throw new Error(`It was refused: ${found.result}`);
      return "Accepted";
    }
    await new Promise((resolve) => { setTimeout(resolve, LOOK_AGAIN); });
  }
  return "It is written down. The daemon has not looked at it yet";
}
