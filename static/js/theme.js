// The theme switch. Fires "ballast:theme" on document after each change, for charts.
const system = matchMedia("(prefers-color-scheme: dark)");

function stored() {
  try { return localStorage.getItem("ballast-theme") || "system"; } catch { return "system"; }
}

function apply(choice) {
  const theme = choice === "system" ? (system.matches ? "dark" : "light") : choice;
  if (document.documentElement.dataset.bsTheme !== theme) {
    document.documentElement.dataset.bsTheme = theme;
    document.dispatchEvent(new CustomEvent("ballast:theme", { detail: { theme } }));
  }
  for (const button of document.querySelectorAll("[data-theme-set]")) {
    button.setAttribute("aria-pressed", String(button.dataset.themeSet === choice));
  }
}

export function start() {
  apply(stored());
  system.addEventListener("change", () => apply(stored()));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-theme-set]");
    if (!button) return;
    const choice = button.dataset.themeSet;
    try { localStorage.setItem("ballast-theme", choice); } catch { /* kept by the cookie alone */ }
    document.cookie = `ballast_theme=${choice};path=/;max-age=31536000;samesite=lax`;
    apply(choice);
    button.closest("details")?.removeAttribute("open");
  });
}
