// Pieces of HTML from the daemon, and putting them into the page so that focus, and what is unfolded, stay as they are.

export class Failed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function fetchFragment(url, signal) {
  let answer;
  let text;
  try {
    answer = await fetch(url, { signal, headers: { Accept: "text/html" } });
    text = await answer.text();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failed(0, "the daemon does not answer");
  }
  if (answer.status === 401) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
    throw new Failed(401, "log in first");
  }
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
  arrange(old, [...old.childNodes], [...fresh.childNodes]);
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

// Make the nodes `before` of a parent like the nodes `after`. Those with a data-key are the same if that is; others, if
// they are as far down. What has the focus keeps it: a button must not become that of another row under somebody's finger.
export function arrange(parent, before, after, update = mend) {
  const focused = document.activeElement;
  const keys = new Set(after.map(keyOf));
  const known = new Map();
  const plain = [];
  for (const node of before) {
    const key = keyOf(node);
    if (key === null) plain.push(node);
    else if (keys.has(key)) known.set(key, node);
    else node.remove();
  }
  const left = new Set([...known.values(), ...plain]);
  let at = before.find((node) => left.has(node)) ?? null;
  for (const node of after) {
    while (at !== null && !left.has(at)) at = at.nextSibling;
    const key = keyOf(node);
    const old = key === null ? plain.shift() : known.get(key);
    known.delete(key);
    left.delete(old);
    if (old === undefined) {
      parent.insertBefore(node, at);
    } else {
      if (old !== at) parent.insertBefore(old, at);
      else at = at.nextSibling;
      update(old, node);
    }
  }
  for (const node of left) node.remove();
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

const LOOK_AGAIN = 1000;

// Whether the daemon has read a batch that was put into its source a moment ago, once it has or patience (ms) is over.
export async function known(source, name, patience) {
  const until = Date.now() + patience;
  const fields = new URLSearchParams({ key: `${source}/${name}` });
  while (Date.now() < until) {
    if (!document.hidden) {
      const fresh = await fetchFragment(`/fragments/batches/changed?${fields}`);
      if (part(fresh, "rows").querySelector(".entry:not([data-left])") !== null) return true;
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

// Says in a place what could not be done there; null: it can again.
export function tell(place, error) {
  place.querySelector(":scope > .error")?.remove();
  if (error === null) return;
  const line = document.createElement("p");
  line.className = "error loading";
  line.setAttribute("role", "alert");
  line.textContent = `It can't be shown: ${error.message}`;
  place.append(line);
}

// What is asked about one list, one after the other, so that no late answer undoes what somebody did meanwhile.
export class Turns {
  // `failed` is called with what is Failed.
  constructor(failed) {
    this.failed = failed;
    this.asked = new AbortController();
    this.last = Promise.resolve();
  }

  // `work` gets the signal that ends it.
  take(work, failed = this.failed) {
    const { signal } = this.asked;
    const go = async () => {
      if (signal.aborted) return;
      try {
        await work(signal);
      } catch (error) {
        if (error instanceof Failed) failed(error);
        else if (error.name !== "AbortError") throw error;
      }
    };
    this.last = this.last.then(go, go);
    return this.last;
  }

  // The list is to be another one: what was asked about the one before is of no use.
  begin(work) {
    this.asked.abort();
    this.asked = new AbortController();
    return this.take(work);
  }
}

// A button that loads more does so once at a time. It stays enabled: disabled, it would lose the focus.
export async function loadOnce(button, work) {
  if (button.hasAttribute("aria-busy")) return;
  button.setAttribute("aria-busy", "true");
  await work();
  button.removeAttribute("aria-busy");
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
    try { await work(); } catch (error) { if (!(error instanceof Failed)) throw error; } finally { busy = false; }
    if (again) { again = false; ask(); }
  }
  function ask() {
    timer ??= setTimeout(go, typeof wait === "function" ? wait() : wait);
  }
  return ask;
}
