// The command palette: Cmd/Ctrl-K, fuzzy filter, arrow keys. An ARIA combobox; options are links by address.
let entries = null;
let shown = [];
let index = 0;

// Every letter in order; runs of letters and starts of words weigh more. Returns null or {score, marks}.
function match(query, text) {
  const haystack = text.toLowerCase();
  const marks = [];
  let from = 0;
  let score = 0;
  for (const letter of query) {
    const at = haystack.indexOf(letter, from);
    if (at < 0) return null;
    score += at === from ? 3 : 1;
    if (at === 0 || /[\s\-_/·]/.test(haystack[at - 1])) score += 4;
    marks.push(at);
    from = at + 1;
  }
  return { score: score - haystack.length / 100, marks };
}

function labelled(text, marks) {
  const label = document.createElement("span");
  let buffer = "";
  [...text].forEach((letter, at) => {
    if (!marks.includes(at)) { buffer += letter; return; }
    if (buffer) label.append(buffer);
    buffer = "";
    const mark = document.createElement("mark");
    mark.textContent = letter;
    label.append(mark);
  });
  label.append(buffer);
  return label;
}

function drawIcon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `${document.body.dataset.icons}#${name}`);
  svg.append(use);
  return svg;
}

function select(dialog, next) {
  const options = [...dialog.querySelectorAll("[role=option]")];
  if (!options.length) return;
  index = (next + options.length) % options.length;
  options.forEach((option, at) => option.setAttribute("aria-selected", String(at === index)));
  dialog.querySelector("input").setAttribute("aria-activedescendant", options[index].id);
  options[index].scrollIntoView({ block: "nearest" });
}

// `keep`: the address whose option stays selected, wherever it stands now; the first is, when it is not there.
function draw(dialog, keep) {
  const input = dialog.querySelector("input");
  const list = dialog.querySelector("ul");
  const query = input.value.trim().toLowerCase().replaceAll(/\s+/g, "");
  shown = (entries ?? [])
    .map((entry, order) => {
      const hit = match(query, entry.label);
      const other = hit ? null : match(query, `${entry.group ?? ""} ${entry.hint ?? ""}`);
      return { entry, order, score: hit ? hit.score + 20 : other?.score, marks: hit?.marks ?? [] };
    })
    .filter((found) => found.score !== undefined)
    .sort((a, b) => (query ? b.score - a.score : 0) || a.order - b.order)
    .slice(0, 40);
  list.replaceChildren();
  let group = null;
  shown.forEach((found, at) => {
    if (!query && found.entry.group && found.entry.group !== group) {
      group = found.entry.group;
      const head = document.createElement("li");
      head.setAttribute("role", "presentation");
      head.textContent = group;
      list.append(head);
    }
    const option = document.createElement("li");
    option.id = `palette-option-${at}`;
    option.setAttribute("role", "option");
    option.append(drawIcon(found.entry.icon || "arrow-right"), labelled(found.entry.label, found.marks));
    const hint = found.entry.hint || (query ? found.entry.group : "");
    if (hint) {
      const note = document.createElement("span");
      note.className = "hint";
      note.textContent = hint;
      option.append(note);
    }
    list.append(option);
  });
  dialog.querySelector(".palette-none").hidden = shown.length > 0 || entries === null;
  input.setAttribute("aria-expanded", String(shown.length > 0));
  input.removeAttribute("aria-activedescendant");
  select(dialog, Math.max(0, shown.findIndex((found) => found.entry.url === keep)));
}

async function open(dialog) {
  if (dialog.open) return;
  dialog.querySelector("input").value = "";
  dialog.showModal();
  draw(dialog);
  try {
    const answer = await fetch(dialog.dataset.src, { headers: { Accept: "application/json" } });
    if (answer.ok) entries = (await answer.json()).entries;
  } catch { /* keep what was known; the pages stay reachable by the rail */ }
  entries ??= [...document.querySelectorAll(".rail-link")].map((link) => ({ label: link.textContent.trim(), url: link.href, group: "Pages" }));
  draw(dialog, shown[index]?.entry.url); // the answer may come after somebody has begun to choose
}

export function start() {
  const dialog = document.querySelector("[data-palette]");
  if (!dialog) return;
  if (/Mac|iPhone|iPad/.test(navigator.platform)) document.querySelectorAll("[data-mod-key]").forEach((key) => { key.textContent = "⌘K"; });
  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() === "k" && (event.metaKey || event.ctrlKey) && !event.altKey && !event.shiftKey) {
      event.preventDefault();
      if (dialog.open) dialog.close(); else open(dialog);
    }
  });
  document.addEventListener("click", (event) => { if (event.target.closest("[data-palette-open]")) open(dialog); });
  const go = () => { if (shown[index]) { dialog.close(); location.assign(shown[index].entry.url); } };
  dialog.addEventListener("input", () => draw(dialog));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") { event.preventDefault(); select(dialog, index + 1); }
    else if (event.key === "ArrowUp") { event.preventDefault(); select(dialog, index - 1); }
    else if (event.key === "Enter") { event.preventDefault(); go(); }
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) { dialog.close(); return; }
    const option = event.target.closest("[role=option]");
    if (option) { select(dialog, [...dialog.querySelectorAll("[role=option]")].indexOf(option)); go(); }
  });
}
