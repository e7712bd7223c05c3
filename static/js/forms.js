// Form niceties: JSON fields say where they break and can be formatted; a field with a limit counts its characters; the knob
// says what it will do; a form is sent once.
// Tab keeps moving the focus in JSON fields: a keyboard must be able to leave them.
function check(field) {
  const area = field.querySelector("textarea");
  const state = field.querySelector("[data-json-state]");
  let message = "";
  if (area.value.trim()) {
    try { JSON.parse(area.value); message = "Valid JSON"; } catch { message = where(area.value); }
  }
  const bad = message !== "" && message !== "Valid JSON";
  state.textContent = message;
  state.classList.toggle("is-bad", bad);
  area.setAttribute("aria-invalid", String(bad));
}

// Browsers word the error differently and some leave the place out: walk the text to the first character that cannot follow.
function firstBad(text) {
  let at = 0;
  const space = () => { while (/[ \t\r\n]/.test(text[at] ?? "")) at += 1; };
  const token = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found) at += found[0].length;
    return Boolean(found);
  };
  const string = () => token(/"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y);
  const members = (close, member) => {
    at += 1;
    space();
    if (text[at] === close) { at += 1; return true; }
    while (member()) {
      space();
      if (text[at] === close) { at += 1; return true; }
      if (text[at] !== ",") return false;
      at += 1;
      space();
    }
    return false;
  };
  const value = () => {
    space();
    if (text[at] === "{") return members("}", () => { if (!string()) return false; space(); if (text[at] !== ":") return false; at += 1; return value(); });
    if (text[at] === "[") return members("]", value);
    return string() || token(/-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y) || token(/true|false|null/y);
  };
  value();
  space();
  return at;
}

function where(text) {
  const position = firstBad(text);
  const reason = position >= text.length ? "ends too early" : `did not expect ${text[position]}`;
  const before = text.slice(0, position).split("\n");
  return `Line ${before.length}, column ${before.at(-1).length + 1}: ${reason}`;
}

function count(line) {
  const typed = [...(document.getElementById(line.dataset.countOf)?.value ?? "")].length; // as the server counts: not in halves
  line.textContent = `${typed} of ${line.dataset.most} characters`;
  line.classList.toggle("is-over", typed > Number(line.dataset.most));
}

function explainKnob(knob) {
  const chosen = knob.querySelector("input:checked");
  const effect = knob.querySelector("[data-knob-effect]");
  const submit = knob.querySelector("[data-knob-submit]");
  if (!effect || !submit) return;
  submit.dataset.verb ??= submit.textContent;
  const stays = !chosen || chosen.hasAttribute("data-current");
  const stop = chosen?.closest(".stop");
  submit.disabled = stays;
  submit.textContent = stays ? submit.dataset.verb : `${submit.dataset.verb} to ${stop.querySelector(".stop-share").textContent.trim()}`;
  effect.textContent = stays ? "Choose another stop to see who moves." : stop.querySelector(".stop-moves").textContent.trim();
}

function prepare(scope) {
  scope.querySelectorAll("[data-json]").forEach(check);
  scope.querySelectorAll("[data-count-of]").forEach(count);
  scope.querySelectorAll("[data-knob]").forEach(explainKnob);
}

export function start() {
  prepare(document);
  document.addEventListener("htmx:load", (event) => prepare(event.target));
  document.addEventListener("input", (event) => {
    const field = event.target.closest("[data-json]");
    if (field) check(field);
    const line = event.target.closest(".field")?.querySelector("[data-count-of]");
    if (line) count(line);
    const knob = event.target.closest("[data-knob]");
    if (knob) explainKnob(knob);
  });
  document.addEventListener("click", (event) => {
    const field = event.target.closest("[data-json-format]")?.closest("[data-json]");
    if (!field) return;
    const area = field.querySelector("textarea");
    try { area.value = JSON.stringify(JSON.parse(area.value), null, 2); } catch { area.focus(); }
    check(field);
  });
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" || event.defaultPrevented) return;
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "true";
    form.classList.add("is-busy");
  });
  // Back from the browser's cache: the form may be sent again.
  addEventListener("pageshow", () => document.querySelectorAll("form[data-sent]").forEach((form) => {
    delete form.dataset.sent;
    form.classList.remove("is-busy");
  }));
}
