// Menus (<details data-menu>) close on Escape and on a click elsewhere; the phone's "More" opens the rail.
function closeMenus(except) {
  for (const menu of document.querySelectorAll("details[data-menu][open]")) {
    if (menu !== except) menu.removeAttribute("open");
  }
}

export function start() {
  const toggle = document.querySelector("[data-rail-toggle]");
  const rail = document.getElementById("rail");
  const setRail = (open) => {
    rail.classList.toggle("is-open", open);
    toggle.setAttribute("aria-expanded", String(open));
    if (open) rail.querySelector(".rail-link")?.focus();
  };
  toggle?.addEventListener("click", () => setRail(!rail.classList.contains("is-open")));
  document.addEventListener("click", (event) => closeMenus(event.target.closest("details[data-menu]")));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const open = document.querySelector("details[data-menu][open]");
    if (open) { closeMenus(); open.querySelector("summary").focus(); }
    if (rail?.classList.contains("is-open")) { setRail(false); toggle.focus(); }
  });
  document.addEventListener("click", (event) => event.target.closest("[data-toast-close]")?.closest("[data-toast]").remove());
  // Good news leaves by itself; anything else waits to be read.
  for (const toast of document.querySelectorAll(".toast.tone-good")) setTimeout(() => toast.remove(), 8000);
}
