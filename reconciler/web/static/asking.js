// Dialogs that ask for something: what is asked, why, and by whom.
import { call, logIn } from "./api.js";

const PATIENCE = 20000;
const LOOK_AGAIN = 400;

// A dialog whose form is sent by `send(fields, token)`. What that returns is shown as the answer.
export function dialogOf(dialog, send) {
  const form = dialog.querySelector("form");
  const error = dialog.querySelector("[data-error]");
  const answer = dialog.querySelector("[data-answer]");
  const go = dialog.querySelector("[data-go]");
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const fields = new FormData(form);
    const token = (fields.get("token") ?? "").trim();
    error.textContent = "";
    answer.textContent = "Asked";
    go.disabled = true;
    try {
      if (token && fields.get("stay")) await logIn(token);
      answer.replaceChildren(await send(fields, token));
      form.elements.token?.closest(".field").classList.add("unseen");
    } catch (problem) {
      answer.textContent = "";
      const over = problem.status === 401 && form.elements.token === undefined;
      error.textContent = over ? "You are logged in no more: log in again." : problem.message;
      go.disabled = false;
    }
  });
  return () => {
    error.textContent = "";
    answer.textContent = "";
    go.disabled = false;
    form.elements.token?.closest(".field").classList.remove("unseen");
    dialog.showModal();
  };
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
