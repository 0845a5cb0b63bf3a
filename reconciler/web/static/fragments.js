// Pieces of HTML from the daemon, and putting them into the page so that focus, and what is unfolded, stay as they are.

export class Failed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function fetchFragment(url, signal) {
  const answer = await fetch(url, { signal, headers: { Accept: "text/html" } });
  if (answer.status === 401) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
    throw new Failed(401, "log in first");
  }
  const text = await answer.text();
  if (!answer.ok) throw new Failed(answer.status, text.slice(0, 300));
  const holder = document.createElement("template");
  holder.innerHTML = text;
  return holder.content;
}

export function part(fragment, name) {
  return fragment.querySelector(`[data-part="${name}"]`);
}

// Attributes that people change by using the page.
const THEIRS = new Set(["aria-expanded", "open", "tabindex"]);

// Make one piece like another, changing only what differs.
export function mend(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh.cloneNode(true));
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  mendAttributes(old, fresh);
  mendChildren(old, fresh);
}

export function mendAttributes(old, fresh) {
  for (const { name, value } of fresh.attributes) {
    if (!THEIRS.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!THEIRS.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
}

export function mendChildren(old, fresh) {
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, index) => {
    if (index < before.length) mend(before[index], node);
    else old.append(node.cloneNode(true));
  });
  before.slice(after.length).forEach((node) => node.remove());
}

const LOOK_AGAIN = 1000;

// Whether the daemon has read a batch that was put into its source a moment ago, once it has or patience (ms) is over.
export async function known(source, name, patience) {
  const until = Date.now() + patience;
  const fields = new URLSearchParams({ key: `${source}/${name}` });
  while (Date.now() < until) {
    if (!document.hidden) {
      const fresh = await fetchFragment(`/fragments/batches/changed?${fields}`);
      if (part(fresh, "rows").childElementCount > 0) return true;
    }
    await new Promise((resolve) => { setTimeout(resolve, LOOK_AGAIN); });
  }
  return false;
}

// What turns text around, or has no width, by its code.
const DOES_SOMETHING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

export function visible(text) {
  return text.replace(DOES_SOMETHING, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// Only what differs is written: what is read aloud is read once.
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

// Call at most once in a while, and once more after the last time that it was wanted.
export function throttled(wait, work) {
  let timer = null;
  let busy = false;
  let again = false;
  async function go() {
    timer = null;
    if (busy) { again = true; return; }
    busy = true;
    try { await work(); } catch (error) { if (error.name !== "AbortError" && !(error instanceof Failed) && !(error instanceof TypeError)) throw error; } finally { busy = false; }
    if (again) { again = false; ask(); }
  }
  function ask() {
    timer ??= setTimeout(go, typeof wait === "function" ? wait() : wait);
  }
  return ask;
}
