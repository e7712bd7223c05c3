// The status sentence and the badges of the rail, on every page: fetched anew when the fleet or the reviews have moved.
// Messages come every second, pictures change rarely; so the fleet's picture decides whether there is anything to ask.
import { refresh } from "./live.js";

const REST_MS = 1000;
let asked = 0;
let timer = null;

function say({ status_text: text, tone, badges }) {
  for (const sentence of document.querySelectorAll("[data-house] .sentence")) {
    if (text !== undefined) sentence.querySelector("[data-live-key]").textContent = text;
    sentence.className = sentence.className.replace(/tone-\w+/, `tone-${tone}`);
  }
  for (const link of document.querySelectorAll("[data-room]")) {
    const count = badges[link.dataset.room];
    let badge = link.querySelector(".badge");
    if (!count) { badge?.remove(); continue; }
    if (!badge) {
      badge = document.createElement("span");
      badge.className = "badge";
      const words = document.createElement("span");
      words.className = "visually-hidden";
      words.textContent = " waiting";
      badge.append("", words);
      link.append(badge);
    }
    if (badge.firstChild.nodeType === Node.TEXT_NODE) badge.firstChild.data = String(count);
    else badge.prepend(String(count));
  }
}

function ask(url) {
  if (timer) return;
  timer = setTimeout(async () => {
    timer = null;
    asked = Date.now();
    try {
      const answer = await fetch(url, { headers: { Accept: "application/json" } });
      if (answer.ok) say((await answer.json()).data);
    } catch { /* the live mark says so */ }
  }, Math.max(0, asked + REST_MS - Date.now()));
}

export function start() {
  const frame = document.querySelector("[data-house]");
  if (!frame) return;
  let picture = frame.dataset.fleetPicture;
  document.addEventListener("ballast:live", ({ detail: { topic, data } }) => {
    if (topic === "status") { say(data); return; }
    if (topic === "fleet" && data.counts) {
      const moved = picture !== data.picture;
      picture = data.picture;
      if (!moved) return;
    } else if (!["reviews", "lanes", "ladders"].includes(topic)) return;
    ask(frame.dataset.house);
    document.querySelectorAll("[data-house-part]").forEach(refresh);
  });
}
