// A page small enough to read, for the banner to run in: `node banner_page.js banner.js SCENARIO`, both as JSON, prints
// what stands after each step. A scenario: {"dataset", "lang", "src", "steps": [{"reply" | "fails" | "hides" | "shows" |
// "clicks" | "darkens"}]}.
"use strict";
const fs = require("fs");
const vm = require("vm");
const scenario = JSON.parse(process.argv[3]);

class Element {
  constructor(tag) {
    Object.assign(this, { tag, attributes: {}, children: [], style: {}, parentNode: null, lang: "", text: "" });
  }
  set textContent(value) { this.text = value; }
  get textContent() { return this.text; }
  set innerHTML(value) { throw new Error("markup was set: " + value); }
  setAttribute(name, value) { this.attributes[name] = value; }
  append(...children) { for (const child of children) { child.parentNode = this; this.children.push(child); } }
  prepend(child) { child.parentNode = this; this.children.unshift(child); }
  remove() {
    if (!this.parentNode) return;
    this.parentNode.children = this.parentNode.children.filter((one) => one !== this);
    this.parentNode = null;
  }
}

const listeners = {};
const asked = [];
const stored = {};
let timer = null;
let now = 1_000_000;
let next = null;
const body = new Element("body");
const document = {
  currentScript: { src: scenario.src, dataset: scenario.dataset || {} },
  documentElement: { lang: scenario.lang || "" },
  body,
  hidden: false,
  createElement: (tag) => new Element(tag),
  querySelector: (selector) => (selector === "body" ? body : null),
  addEventListener: (name, listener) => { listeners[name] = listener; },
};
const dark = { matches: false, onchange: null };
const sandbox = {
  document,
  matchMedia: () => dark,
  sessionStorage: { getItem: (key) => stored[key] ?? null, setItem: (key, value) => { stored[key] = value; } },
  fetch: (url, options) => {
    asked.push({ url: String(url), credentials: options.credentials });
    if (next.fails) return Promise.reject(new Error("away"));
    return Promise.resolve({ ok: !next.status, json: () => Promise.resolve(next.reply) });
  },
  setTimeout: (call, ms) => { timer = { call, at: now + ms, ms }; return timer; },
  clearTimeout: (one) => { if (one === timer) timer = null; },
  Date: { now: () => now },
  Math: Object.assign(Object.create(Math), { random: () => 0.5, min: Math.min, max: Math.max }),
  URL,
  Promise,
  Object,
};

function look() {
  const region = body.children[0];
  const bar = region.children[0];
  return {
    role: region.attributes.role,
    live: region.attributes["aria-live"],
    banner: bar ? bar.children[0].text : null,
    lang: bar ? bar.children[0].lang : null,
    close: bar ? bar.children[1].attributes["aria-label"] : null,
    background: bar ? bar.style.background : null,
    asked: asked.length,
    waits: timer ? Math.round(timer.ms) : null,
  };
}

async function main() {
  const seen = [];
  for (const [at, step] of scenario.steps.entries()) {
    next = step;
    if (at === 0) {
      vm.runInNewContext(fs.readFileSync(process.argv[2], "utf8"), sandbox);
    } else if (step.hides || step.shows) {
      document.hidden = Boolean(step.hides);
      now += step.after || 0;
      listeners.visibilitychange();
    } else if (step.clicks) {
      body.children[0].children[0].children[1].onclick();
    } else if (step.darkens) {
      dark.matches = true;
      dark.onchange();
    } else {
      const due = timer;
      timer = null;
      now = Math.max(now, due.at);
      due.call();
    }
    for (let turn = 0; turn < 20; turn += 1) await null;
    seen.push(look());
  }
  console.log(JSON.stringify({ seen, asked }));
}

main();
