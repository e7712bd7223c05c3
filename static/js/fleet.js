// The fleet converges before the reader's eyes: cells and rows replaced in place by the worker's name, new ones added.
// What the server words (who was refused and why, the list of releases) is fetched anew once the picture has changed.
import { refresh } from "./live.js";

const looks = {
  "in-sync": { tone: "good", icon: "check-circle-fill", word: "in sync" },
  behind: { tone: "watch", icon: "hourglass-split", word: "behind" },
  refused: { tone: "bad", icon: "x-circle-fill", word: "refused" },
  silent: { tone: "off", icon: "wifi-off", word: "silent" },
  stopped: { tone: "off", icon: "stop-fill", word: "stopped" },
};
const latencies = new Map(); // of the current release, by worker
let picture = document.querySelector("[data-fleet-refresh]")?.dataset.fleetPicture;

function drawIcon(name, label) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  if (label) { svg.setAttribute("role", "img"); svg.setAttribute("aria-label", label); } else svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `${document.body.dataset.icons}#${name}`);
  svg.append(use);
  return svg;
}

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function put(cell, text) {
  if (cell.textContent === text) return;
  cell.textContent = text;
  cell.classList.add("is-changed-now");
  clearTimeout(cell.ballastTimer);
  cell.ballastTimer = setTimeout(() => cell.classList.remove("is-changed-now"), 2000);
}

const revision = (worker, none) => (worker.revision ? `r${worker.revision}` : none);
const milliseconds = (value) => (value === null ? "–" : value < 10_000 ? `${Math.round(value).toLocaleString("en")} ms` : `${(value / 1000).toFixed(1)} s`);

function drawCell(cell, worker) {
  const look = looks[worker.state] ?? looks.silent;
  cell.title = `${worker.name}: ${worker.state}${worker.reason ? `, ${worker.reason}` : ""}`;
  if (!cell.classList.contains(`is-${worker.state}`)) {
    cell.className = `cell is-${worker.state}`;
    cell.querySelector(".icon").replaceWith(drawIcon(look.icon, look.word));
  }
  put(cell.querySelector(".cell-rev"), revision(worker, "none"));
}

function newCell(worker) {
  const cell = element("li", "cell", element("span", "cell-top", drawIcon("wifi-off"), element("span", "cell-rev")), element("span", "cell-name", worker.name));
  cell.dataset.worker = worker.name;
  return cell;
}

function drawRow(row, worker) {
  const look = looks[worker.state] ?? looks.silent;
  const cell = (name) => row.querySelector(`[data-cell=${name}]`);
  if (cell("state").textContent.trim() !== look.word) cell("state").replaceChildren(element("span", `pill pill-${look.tone}`, drawIcon(look.icon), element("span", "", look.word)));
  put(cell("revision"), revision(worker, "–"));
  put(cell("ack"), milliseconds(worker.ack_ms));
  if (cell("reason").textContent !== worker.reason) cell("reason").textContent = worker.reason;
  const seen = cell("seen").querySelector("time");
  if (seen) seen.dateTime = worker.seen_at;
  const digest = cell("digest").querySelector("button");
  if (digest && worker.digest && digest.dataset.copy !== worker.digest) {
    digest.dataset.copy = digest.title = worker.digest;
    digest.setAttribute("aria-label", `Copy digest ${worker.digest.slice(0, 8)}`);
    digest.firstChild.data = worker.digest.slice(0, 8);
  }
}

function newRow(worker) {
  const header = element("th", "", worker.name);
  header.scope = "row";
  const cells = ["state", "revision", "digest", "ack", "seen", "reason"].map((name) => {
    const cell = element("td", name === "revision" || name === "ack" ? "num" : "");
    cell.dataset.cell = name;
    return cell;
  });
  const time = element("time");
  time.dataset.relative = "";
  time.dateTime = worker.seen_at;
  cells[4].append(time);
  cells[2].textContent = worker.digest ? worker.digest.slice(0, 8) : "–";
  const row = element("tr", "", header, ...cells);
  row.dataset.worker = worker.name;
  return row;
}

function place(fleet, worker) {
  for (const [list, make, draw] of [[fleet.querySelector(".fleet-grid"), newCell, drawCell], [fleet.querySelector("tbody"), newRow, drawRow]]) {
    let found = list.querySelector(`[data-worker="${CSS.escape(worker.name)}"]`);
    if (!found) {
      found = make(worker);
      const next = [...list.children].find((other) => other.dataset.worker > worker.name);
      list.insertBefore(found, next ?? null);
    }
    draw(found, worker);
  }
}

function reached(data) {
  const times = [...latencies.values()].filter((value) => value !== null);
  const whole = data.counts.expected > 0 && data.counts.in_sync === data.counts.expected;
  for (const place of document.querySelectorAll("[data-fleet-reached]")) {
    if (times.length) put(place, milliseconds(Math.max(...times)));
    const note = place.closest(".metric")?.querySelector(".metric-foot span");
    if (note && times.length) put(note, whole ? "click to last ACK" : "so far; workers are on their way");
  }
}

document.addEventListener("ballast:live", ({ detail: { topic, data } }) => {
  if (topic !== "fleet" || !data.counts) return;
  if (picture?.split("/")[0] !== data.picture.split("/")[0]) latencies.clear();
  for (const worker of data.workers) {
    const fleet = document.querySelector(`[data-fleet="${worker.kind === "gateway" ? "gateway" : "agent"}"]`);
    if (fleet) place(fleet, worker);
    if (worker.kind === "gateway" && worker.state !== "stopped") latencies.set(worker.name, worker.ack_ms);
  }
  reached(data);
  if (picture !== data.picture) document.querySelectorAll("[data-fleet-refresh]").forEach(refresh);
  picture = data.picture;
});
