// Composing a batch: each click changes the manifest, and the daemon says what it would come to.
import { call } from "./api.js";
import { dialogOf } from "./asking.js";
import { known, put, visible } from "./fragments.js";
import { manifestOf } from "./manifest.js";
import { Picking } from "./picking.js";

const FEWEST = 2;
const MANY = 10;
const SOON = 250;
const MOST_NAMES = 30;
const UNTIL_READ = 60000;

export function showComposer() {
  const form = document.getElementById("compose");
  if (form === null) return;
  const { source } = form.dataset;
  const fields = form.elements;
  const manifest = document.getElementById("c-manifest");
  const plan = document.getElementById("c-plan");
  const told = document.getElementById("c-plan-told");
  const commit = document.getElementById("c-commit");
  const copying = document.getElementById("c-copy");
  const downloading = document.getElementById("c-download");
  let ownName = false;
  let running = null;
  let timer = null;

  const picking = new Picking(source, changed);

  function chosen() {
    return {
      name: fields.name.value.trim(),
      playbook: fields.playbook.value,
      inventories: picking.inventories,
      hosts: picking.hosts,
      tags: fields.by.value === "tags" ? picking.tags : null,
      strategy: fields.strategy.value,
      limit: Number(fields.limit.value),
      stop: fields.stop.checked,
    };
  }

  function whatIsWrong() {
    if (!fields.playbook.value) return "The source has no playbook: commit one first.";
    return fields.name.value ? "The name may hold a-z, 0-9 and - only." : "Give it a name.";
  }

  function changed() {
    const count = picking.hosts.length;
    const { tags } = picking;
    const byTags = form.querySelector('input[name="by"][value="tags"]');
    byTags.disabled = tags === null;
    if (tags === null && byTags.checked) form.querySelector('input[name="by"][value="hosts"]').checked = true;
    write("c-by-tags", tags === null ? "(choose by tag, and nothing else)" : `(${tags.join(", ")})`);
    write("c-count", `${count} selected`);
    write("c-few", count === 1 ? `A batch has at least ${FEWEST} servers: choose one more.` : "");
    write("c-many", count > MANY ? `${count} servers are more than ${MANY}: is that what you mean?` : "");
    write("c-limit-shown", fields.limit.value);
    fields.limit.disabled = fields.strategy.value === "sequential";
    manifest.textContent = manifestOf(chosen());
    copying.disabled = downloading.disabled = count < FEWEST;
    // A plan that is on its way is one of something else by now: it must not allow to commit this.
    running?.abort();
    if (commit !== null) commit.disabled = true;
    clearTimeout(timer);
    timer = setTimeout(look, SOON);
  }

  async function look() {
    if (picking.hosts.length < FEWEST) {
      say("muted", `Choose at least ${FEWEST} servers.`);
      return;
    }
    if (!form.checkValidity()) {
      say("error", whatIsWrong());
      return;
    }
    running = new AbortController();
    try {
      const found = await call("POST", `/api/v1/plan?source=${encodeURIComponent(source)}`, {
        body: manifest.textContent, type: "application/yaml", signal: running.signal,
      });
      showPlan(found);
    } catch (error) {
      if (error.name !== "AbortError") say("error", error.message);
    }
  }

  function showPlan(found) {
    const wrong = found.problems.map((problem) => [problem.message, problem.hint].filter(Boolean).join(": "));
    if (found.exists) wrong.push(`A batch named ${found.name} is in the source already: give it another name.`);
    if (found.refusal !== null) wrong.push([found.refusal, found.hint].filter(Boolean).join(": "));
    if (wrong.length > 0) say("error", wrong.join("\n"));
    else say("muted", summaryOf(found));
    plan.replaceChildren(...found.warnings.map((text) => line("warning", text)), waves(found.waves));
    if (commit !== null) commit.disabled = wrong.length > 0;
  }

  function waves(found) {
    const list = document.createElement("ol");
    list.className = "plan-waves";
    list.tabIndex = 0;
    list.setAttribute("aria-label", "Waves");
    found.forEach((hosts, index) => {
      const item = document.createElement("li");
      const head = document.createElement("strong");
      head.textContent = `Wave ${index + 1}: ${counted(hosts.length, "host")}`;
      const names = hosts.slice(0, MOST_NAMES).map((host) => host.name).join(", ");
      item.append(head, line("", hosts.length > MOST_NAMES ? `${names} and ${hosts.length - MOST_NAMES} more` : names, "span"));
      list.append(item);
    });
    return list;
  }

  // In one sentence, which is all that is read aloud: what follows it is long, and changes with each click.
  function say(kind, text) {
    plan.replaceChildren();
    told.className = kind;
    put(told, visible(text));
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (event.target === fields.name) ownName = fields.name.value !== "";
    if (event.target.form !== form || event.target.closest("#c-picks") !== null || event.target.id === "c-search") return;
    if (event.target === fields.playbook && !ownName) fields.name.value = nameOf(fields.playbook.value);
    changed();
  });
  copying.addEventListener("click", () => copy(manifest));
  downloading.addEventListener("click", () => download(manifest.textContent, `${chosen().name || "batch"}.yaml`));
  if (commit !== null) commitBy(commit, form, chosen, manifest, source);
  if (!fields.name.value) fields.name.value = nameOf(fields.playbook.value);
  changed();
}

function commitBy(button, form, chosen, manifest, source) {
  const dialog = document.getElementById("ask-commit");
  const open = dialogOf(dialog, async (fields, token) => {
    const written = await call("POST", `/api/v1/manifests?source=${encodeURIComponent(source)}&wait=5`, {
      body: { manifest: manifest.textContent, message: fields.get("message").trim() }, token,
    });
    const said = written.commit === null ? `Written to ${written.path}. ` : `Committed as ${written.commit.id.slice(0, 8)}: ${written.path}. `;
    button.disabled = true;
    dialog.querySelector("[data-answer]").textContent = `${said}It is about to be read`;
    if (!(await known(written.source, written.name, UNTIL_READ).catch(() => false))) return `${said}It is not read yet`;
    const link = document.createElement("a");
    link.href = `/batches/${encodeURIComponent(written.source)}/${encodeURIComponent(written.name)}`;
    link.textContent = `Show ${written.name}`;
    const told = document.createElement("span");
    told.append(said, link);
    document.getElementById("c-answer").replaceChildren(told.cloneNode(true));
    return told;
  });
  button.addEventListener("click", () => {
    open();
    dialog.querySelector('[name="message"]').value = `Add the batch ${chosen().name}`;
  });
}

function summaryOf(found) {
  const hosts = found.waves.flat().length;
  const parts = [`${counted(hosts, "host")} in ${counted(found.waves.length, "wave")}`];
  if (found.warnings.length > 0) parts.push(counted(found.warnings.length, "warning"));
  return `${parts.join(", ")}.`;
}

function counted(count, what) {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

function nameOf(playbook) {
  const name = playbook.split("/").at(-1).replace(/\.ya?ml$/, "").toLowerCase();
  return name.replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 63);
}

function line(kind, text, element = "p") {
  const made = document.createElement(element);
  made.className = kind;
  made.textContent = visible(text);
  return made;
}

function write(id, text) {
  put(document.getElementById(id), text);
}

async function copy(manifest) {
  try {
    await navigator.clipboard.writeText(manifest.textContent);
    write("c-answer", "Copied.");
  } catch {
    // Where there is no clipboard to write to, it is selected for who copies it by hand.
    getSelection().selectAllChildren(manifest);
    write("c-answer", "It is selected: copy it.");
  }
}

function download(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/yaml" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
