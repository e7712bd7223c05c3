// [data-copy="text"] copies it; [data-copy-from="#id"] copies that element's text. Says so for two seconds.
async function write(text) {
  if (navigator.clipboard && isSecureContext) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea"); // plain http on a LAN has no clipboard API
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

export function start() {
  const said = document.createElement("div");
  said.className = "visually-hidden";
  said.setAttribute("aria-live", "polite");
  document.body.append(said);
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy], [data-copy-from]");
    if (!button) return;
    await write(button.dataset.copy ?? document.querySelector(button.dataset.copyFrom)?.textContent ?? "");
    button.classList.add("is-copied");
    said.textContent = "Copied";
    setTimeout(() => { button.classList.remove("is-copied"); said.textContent = ""; }, 2000);
  });
}
