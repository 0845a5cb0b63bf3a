// One stream of events for the page. It is closed while nobody looks: browsers allow few connections to one host.

const LATER = 5000;

// `changed` is called with what is told, `everything` whenever something may have been missed: when the stream was away, and
// when it begins, for the page is older than that.
export function listen(query, changed, everything) {
  const sign = document.getElementById("live");
  const text = document.getElementById("live-text");
  let stream = null;
  let timer = null;

  function show(state, words) {
    sign.hidden = false;
    sign.dataset.state = state;
    text.textContent = words;
  }

  function open() {
    clearTimeout(timer);
    if (stream !== null || document.hidden) return;
    stream = new EventSource(`/api/v1/events${query}`);
    stream.addEventListener("hello", () => {
      show("on", "Live");
      everything();
    });
    stream.addEventListener("change", (event) => changed(JSON.parse(event.data)));
    stream.addEventListener("reset", everything);
    stream.addEventListener("error", () => {
      show("away", "Reconnecting");
      if (stream !== null && stream.readyState === EventSource.CLOSED) {
        close();
        timer = setTimeout(open, LATER);
      }
    });
  }

  function close() {
    if (stream !== null) stream.close();
    stream = null;
  }

  show("off", "Connecting");
  document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else open(); });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  open();
}
