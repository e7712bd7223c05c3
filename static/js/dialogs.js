// Dialogs stand open as plain sections in the page without scripts; here they close, and [data-dialog-open="id"] opens them on top.
function prepare(scope) {
  const found = scope.matches?.("dialog[data-dialog]") ? [scope] : scope.querySelectorAll("dialog[data-dialog]");
  for (const dialog of found) {
    if (dialog.hasAttribute("data-ready")) continue;
    dialog.close();
    dialog.setAttribute("data-ready", "");
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    if (dialog.hasAttribute("data-dialog-now")) dialog.showModal();
  }
}

function gate(input) {
  const verb = input.form.querySelector("[type=submit]");
  verb.disabled = input.value.trim() !== input.dataset.confirmText;
}

export function start() {
  prepare(document);
  document.querySelectorAll("[data-confirm-text]").forEach(gate);
  document.addEventListener("htmx:load", (event) => {
    prepare(event.target);
    event.target.querySelectorAll("[data-confirm-text]").forEach(gate);
  });
  document.addEventListener("input", (event) => { if (event.target.matches("[data-confirm-text]")) gate(event.target); });
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-dialog-open]");
    if (opener) {
      const dialog = document.getElementById(opener.dataset.dialogOpen);
      if (!dialog) return;
      event.preventDefault();
      opener.closest("details.menu")?.removeAttribute("open");
      dialog.showModal();
      dialog.querySelector("textarea, input:not([type=hidden]), select")?.focus();
    }
    event.target.closest("[data-dialog-close]")?.closest("dialog").close();
  });
  // A link from elsewhere (the palette, a notice) may name the dialog to open.
  const named = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named && named.matches("dialog[data-ready]:not([open])")) named.showModal();
}
