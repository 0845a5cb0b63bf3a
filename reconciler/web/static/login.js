// Logging in: the token is sent once, and a cookie stands for it that no script can read.
import { logIn } from "./api.js";

export function showLogin() {
  const form = document.getElementById("login");
  const error = document.getElementById("login-error");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    error.textContent = "";
    try {
      await logIn(form.elements.token.value.trim());
      location.assign(form.dataset.next);
    } catch (problem) {
      error.textContent = problem.message;
      form.elements.token.select();
    }
  });
}
