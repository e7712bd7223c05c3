/* <script src="https://gateway.example/v1/status/banner.js" data-surface="web-chat" async></script> */
(function () {
  "use strict";
  var script = document.currentScript;
  if (!script) return;
  var EVERY = 3e4, LONGEST = 3e5, KEY = "ballast-closed";
  var given = script.dataset, url = new URL("../status", script.src);
  var asked = { surface: given.surface, tier: given.tier, locale: given.locale || document.documentElement.lang };
  for (var name in asked) if (asked[name]) url.searchParams.set(name, asked[name]);
  var dark = matchMedia("(prefers-color-scheme: dark)"), make = document.createElement.bind(document);
  var region = make("div"), bar = make("div"), text = make("span"), button = make("button");
  var shown, closed, asking, timer, wait = EVERY, last = 0;
  try { closed = sessionStorage.getItem(KEY); } catch (e) { /* then for this page only */ }

  function close(what) {
    closed = what;
    try { sessionStorage.setItem(KEY, what); } catch (e) { /* as above */ }
    bar.remove();
  }
  function paint() {
    bar.style.background = dark.matches ? "#3a2c10" : "#fff4d6";
    bar.style.color = dark.matches ? "#ffe2a8" : "#4a3200";
  }
  function show(surfaces) {
    var worst = surfaces.reduce(function (a, b) { return b.rung > a.rung ? b : a; }, { rung: 0 });
    if (!worst.rung) return close("");
    shown = worst.surface + worst.rung;
    if (shown === closed) return bar.remove();
    if (text.textContent !== worst.banner) text.textContent = worst.banner;
    text.lang = worst.locale;
    button.setAttribute("aria-label", /^de/i.test(worst.locale) ? "Schließen" : "Close");
    if (!bar.parentNode) region.append(bar);
  }
  function ask() {
    if (asking || document.hidden) return;
    asking = true;
    last = Date.now();
    fetch(url, { credentials: "omit" }).then(function (reply) {
      return reply.ok ? reply.json() : Promise.reject();
    }).then(function (told) {
      show(told.surfaces);
      wait = EVERY;
    }).catch(function () {
      wait = Math.min(wait * 2, LONGEST);
    }).then(function () {
      asking = false;
      later(wait * (0.9 + Math.random() / 5));
    });
  }
  function later(ms) { clearTimeout(timer); timer = setTimeout(ask, ms); }
  function begin() {
    region.setAttribute("role", "status");
    region.setAttribute("aria-live", "polite");
    button.textContent = "×";
    bar.style.cssText = "display:flex;justify-content:center;align-items:center;padding-left:9px;font:15px system-ui";
    button.style.cssText = "all:unset;padding:12px 16px;outline:revert";
    button.onclick = function () { close(shown); };
    bar.append(text, button);
    paint();
    dark.onchange = paint;
    (document.querySelector(given.target || "body") || document.body).prepend(region);
    document.addEventListener("visibilitychange", function () { later(Math.max(0, last + wait - Date.now())); });
    ask();
  }
  if (document.body) begin(); else document.addEventListener("DOMContentLoaded", begin);
})();
