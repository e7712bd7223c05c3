// One WebSocket per page. Topics come from [data-live-topic] and [data-live-refresh]; a message {topic, data} becomes the
// DOM event "ballast:live". When the socket is away, pages poll; the mark says live, polling, or stale since when.
// A page is live once the server said that its topics are joined: what happened before that is fetched then, once.
const POLL_MS = 5000;
const REFRESH_MS = 1000;
const CLICK_MS = 350;
const LEAVE_MS = 10_000;
let socket = null;
let attempt = 0;
let joined = false;
let subscribed = new Set();
let pollTimer = null;
let lastGood = Date.now();
let pointerDownIn = null;
let pointerUp = 0;
let leftAt = -Infinity;
const waiting = new Set(); // fragments by name, and so is when they were asked for: a swap may replace the element itself
const refreshed = new Map();

function topics() {
  const names = new Set();
  for (const element of document.querySelectorAll("[data-live-topic], [data-live-refresh]")) {
    for (const name of `${element.dataset.liveTopic ?? ""} ${element.dataset.liveRefresh ?? ""}`.split(/\s+/)) if (name) names.add(name);
  }
  return names;
}

function mark(state) {
  for (const element of document.querySelectorAll("[data-live-mark]")) {
    const text = state === "stale" ? `stale since ${new Date(lastGood).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}` : state;
    const label = element.querySelector("[data-live-mark-text]");
    element.hidden = false;
    if (element.dataset.state !== state) element.dataset.state = state;
    if (label.textContent !== text) label.textContent = text;
  }
}

function subscribe() {
  const wanted = topics();
  const fresh = [...wanted].filter((name) => !subscribed.has(name));
  if (socket?.readyState === WebSocket.OPEN && fresh.length) {
    socket.send(JSON.stringify({ subscribe: fresh }));
    fresh.forEach((name) => subscribed.add(name));
  }
}

function announce(topic, data) {
  document.dispatchEvent(new CustomEvent("ballast:live", { detail: { topic, data } }));
}

// --- numbers replaced in place ---
const formats = {
  integer: (value) => Math.round(value).toLocaleString("en"),
  percent: (value) => (100 * value).toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 }),
  decimal: (value) => value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 }),
  ms: (value) => Math.round(value).toLocaleString("en"),
  usd: (value) => value.toLocaleString("en", { maximumFractionDigits: 6 }),
};

function replaceNumbers({ topic, data }) {
  for (const element of document.querySelectorAll("[data-live-key]")) {
    const scope = element.closest("[data-live-topic]")?.dataset.liveTopic;
    if (scope && !scope.split(/\s+/).includes(topic)) continue;
    const value = element.dataset.liveKey.split(".").reduce((node, key) => node?.[key], data);
    if (value === undefined || typeof value === "object") continue;
    const format = formats[element.dataset.liveFormat];
    const text = typeof value === "number" && format ? format(value) : String(value);
    if (element.textContent === text) continue;
    element.textContent = text;
    if ("quiet" in element.dataset) continue; // it changes with every message; marking it would say nothing
    element.classList.add("is-changed-now");
    clearTimeout(element.ballastTimer);
    element.ballastTimer = setTimeout(() => element.classList.remove("is-changed-now"), 2000);
  }
}

// --- fragments refreshed by htmx, at most once a second, never under a pointer, around the focus or over a choice ---
const CHOSEN = "[data-knob] input:checked:not([data-current])"; // some browsers give no focus to what is clicked
function busy(element) {
  const focus = document.activeElement;
  return (pointerDownIn && element.contains(pointerDownIn)) || (focus && focus !== element && element.contains(focus)) || element.querySelector(`dialog[open], details[data-menu][open], ${CHOSEN}`);
}

const nameOf = (element) => element.id || element.getAttribute("hx-get");
const named = (name) => document.getElementById(name) ?? document.querySelector(`[hx-get="${CSS.escape(name)}"]`);

// Never lost: what is asked for while an answer is on its way is asked again after it, of whatever stands there by then.
export function refresh(element) {
  const name = nameOf(element);
  if (waiting.has(name)) return;
  const due = Math.max(0, (refreshed.get(name) ?? 0) + REFRESH_MS - Date.now());
  waiting.add(name);
  setTimeout(() => {
    waiting.delete(name);
    const now = named(name);
    if (!now) return;
    refreshed.set(name, Date.now());
    if (busy(now) || now.classList.contains("htmx-request")) { refresh(now); return; }
    globalThis.htmx?.trigger(now, "ballast:refresh");
  }, due);
}

function refreshFor(topic) {
  for (const element of document.querySelectorAll("[data-live-refresh]")) {
    if (topic === null || element.dataset.liveRefresh.split(/\s+/).includes(topic)) refresh(element);
  }
}

// --- polling, the floor ---
async function poll() {
  refreshFor(null);
  const urls = new Set([...document.querySelectorAll("[data-live-poll]")].map((element) => element.dataset.livePoll));
  for (const url of urls) {
    try {
      const answer = await fetch(url, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(String(answer.status));
      const { topic, data } = await answer.json();
      heard();
      announce(topic, data);
    } catch { failed(); }
  }
  if (!urls.size && !document.querySelector("[data-live-refresh]")) failed();
}

function heard() {
  lastGood = Date.now();
  mark(joined ? "live" : "polling");
}

function failed() {
  if (!joined && Date.now() - lastGood > 2 * POLL_MS) mark("stale");
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/ws/live/`);
  socket.addEventListener("open", () => {
    attempt = 0;
    subscribed = new Set();
    clearInterval(pollTimer);
    pollTimer = null;
    subscribe();
  });
  socket.addEventListener("message", (event) => {
    const { topic, data, subscribed: topics } = JSON.parse(event.data);
    if (topics) { joined = true; poll(); } // what happened while nobody listened
    heard();
    if (topic) announce(topic, data);
  });
  socket.addEventListener("close", (event) => {
    joined = false;
    if (event.code === 4401 || event.code === 4403) { mark("stale"); return; }
    if (!pollTimer) { pollTimer = setInterval(poll, POLL_MS); poll(); }
    failed();
    attempt += 1;
    const wait = Math.random() * Math.min(30_000, 500 * 2 ** attempt);
    setTimeout(connect, wait);
  });
}

export function start() {
  document.addEventListener("ballast:live", (event) => { replaceNumbers(event.detail); refreshFor(event.detail.topic); });
  document.addEventListener("htmx:load", subscribe);
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.elt?.matches?.("[data-live-refresh]")) { if (event.detail.successful) heard(); else failed(); }
  });
  // Somebody is on the way to another page: what arrives now, a reload above all, would take them back. A download leaves too.
  addEventListener("beforeunload", () => { leftAt = Date.now(); });
  document.addEventListener("htmx:beforeOnLoad", (event) => { if (Date.now() - leftAt < LEAVE_MS) event.preventDefault(); });
  // What was asked for before a finger came down may arrive while it is down: a tap must find what it was aimed at.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const element = event.detail.target?.closest?.("[data-live-refresh]");
    if (!element || !busy(element)) return;
    event.detail.shouldSwap = false;
    refresh(element);
  });
  // What comes along with a fragment waits for the next time; and what says of what it is a picture stays while it is one.
  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    const { target, fragment } = event.detail;
    const { picture } = target.dataset;
    const isSame = picture !== undefined && picture === fragment.firstElementChild?.dataset.picture;
    if (isSame || busy(target)) event.detail.shouldSwap = false;
  });
  addEventListener("pointerdown", (event) => { clearTimeout(pointerUp); pointerDownIn = event.target; }, true);
  for (const over of ["pointerup", "pointercancel"]) {
    addEventListener(over, () => {
      clearTimeout(pointerUp);
      pointerUp = setTimeout(() => { pointerDownIn = null; }, CLICK_MS); // the click of a tap comes after
    }, true);
  }
  addEventListener("offline", () => { socket?.close(); mark("stale"); });
  if (document.querySelector("[data-live-mark]") && (topics().size || document.querySelector("[data-live-poll]"))) connect();
}
