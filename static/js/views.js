// Choices of view that the page remembers: diff inline or side by side, fleet as grid or table.
function press(group, chosen) {
  for (const button of group.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button === chosen));
}

function setDiff(diff, mode) {
  diff.dataset.mode = mode;
  for (const button of diff.querySelectorAll("[data-diff-mode]")) button.setAttribute("aria-pressed", String(button.dataset.diffMode === mode));
}

function preferred() {
  if (innerWidth < 900) return "inline";
  try { return localStorage.getItem("ballast-diff") || "inline"; } catch { return "inline"; }
}

export function start() {
  const prepare = (scope) => scope.querySelectorAll("[data-diff]").forEach((diff) => setDiff(diff, preferred()));
  prepare(document);
  document.addEventListener("htmx:load", (event) => prepare(event.target));
  document.addEventListener("click", (event) => {
    const mode = event.target.closest("[data-diff-mode]");
    if (mode) {
      try { localStorage.setItem("ballast-diff", mode.dataset.diffMode); } catch { /* this page only */ }
      document.querySelectorAll("[data-diff]").forEach((diff) => setDiff(diff, mode.dataset.diffMode));
    }
    const view = event.target.closest("[data-view-set]");
    if (view) {
      view.closest("[data-view]").dataset.view = view.dataset.viewSet;
      press(view.parentElement, view);
    }
  });
}
