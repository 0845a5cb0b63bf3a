// Light or dark, before anything is drawn: as this browser was told here, else as it likes itself.
(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const said = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const shown = () => root.dataset.theme || (dark.matches ? "dark" : "light");

  function show() {
    const theme = said();
    if (theme === "light" || theme === "dark") root.dataset.theme = theme; else delete root.dataset.theme;
    root.dataset.shown = shown();
    const button = document.getElementById("theme");
    if (button) {
      button.hidden = false;
      button.setAttribute("aria-label", `Switch to ${shown() === "dark" ? "light" : "dark"} colours`);
    }
  }

  show();
  dark.addEventListener("change", show);
  window.addEventListener("storage", show);
  document.addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme").addEventListener("click", () => {
      const other = shown() === "dark" ? "light" : "dark";
      try { localStorage.setItem("theme", other); } catch { /* it holds for this page then */ }
      root.dataset.theme = other;
      show();
      root.dataset.theme = other;
      root.dataset.shown = other;
    });
  });
})();
