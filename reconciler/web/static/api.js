// Asking the daemon for something, by the session of this browser or by a token that is given for once.

export class Problem extends Error {
  constructor(status, detail, hint) {
    super(hint ? `${detail}. ${hint}` : detail);
    this.status = status;
  }
}

export async function call(method, path, { body, type = "application/json", token, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = type;
  if (token) headers.Authorization = `Bearer ${token}`;
  const sent = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: sent, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "the daemon does not answer");
  }
  if (answer.status === 204) return null;
  const document = await answer.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return {}; // whoever stands between may answer with something else
  });
  if (!answer.ok) throw new Problem(answer.status, document.detail ?? `it answered ${answer.status}`, document.hint);
  return document;
}

export function logIn(token) {
  return call("POST", "/api/v1/session", { body: { token } });
}

export function logOut() {
  return call("DELETE", "/api/v1/session");
}
