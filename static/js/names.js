// A field that is typed a name into, of which there may be thousands: the server is asked which hold what was typed, and
// the browser's own list offers them. Without this, the first few are offered, and any name can be typed.
const PAUSE = 150;
const asked = new WeakMap();

async function offer(field) {
  const part = field.value.trim();
  const answer = await fetch(`${field.dataset.names}?part=${encodeURIComponent(part)}`, { headers: { Accept: "application/json" } });
  if (!answer.ok || field.value.trim() !== part) return; // more was typed meanwhile
  const { names } = await answer.json();
  const list = field.list;
  if (names.join("\n") === [...list.options].map((option) => option.value).join("\n")) return;
  list.replaceChildren(...names.map((name) => {
    const option = document.createElement("option");
    option.value = name;
    return option;
  }));
}

export function start() {
  // What stands there already is a proposal: whoever types puts another in its place, and does not go on with it.
  document.addEventListener("focusin", (event) => {
    if (event.target.matches("input[data-names]")) event.target.select();
  });
  document.addEventListener("input", (event) => {
    const field = event.target.closest("input[data-names]");
    if (!field) return;
    clearTimeout(asked.get(field));
    asked.set(field, setTimeout(() => offer(field).catch(() => { /* what was offered stays; any name can be typed */ }), PAUSE));
  });
}
