// <time data-relative datetime="…">: "12 min ago", kept current; on hover the viewer's zone and UTC. [data-countdown]: seconds down to 0.
const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const zone = new Intl.DateTimeFormat(undefined, { timeZoneName: "short" });

function inWords(seconds) {
  const distance = Math.abs(seconds);
  if (distance < 5) return "just now";
  const [size, unit] = units.find(([limit]) => distance >= limit);
  const words = `${Math.floor(distance / size)} ${unit}`;
  return seconds < 0 ? `${words} ago` : `in ${words}`;
}

function exact(moment) {
  const name = zone.formatToParts(moment).find((piece) => piece.type === "timeZoneName")?.value ?? "local";
  return `${local.format(moment)} ${name}\n${moment.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export function refresh(scope = document) {
  for (const element of scope.querySelectorAll("time[data-relative]")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    const words = inWords((moment.getTime() - Date.now()) / 1000);
    if (element.textContent !== words) element.textContent = words;
    if (element.dataset.exact !== element.dateTime) {
      element.dataset.exact = element.dateTime;
      element.title = exact(moment);
    }
  }
  for (const element of scope.querySelectorAll("[data-countdown]")) {
    element.dataset.until ??= String(Date.now() + Number(element.dataset.countdown) * 1000);
    element.textContent = String(Math.max(0, Math.ceil((Number(element.dataset.until) - Date.now()) / 1000)));
  }
}

export function start() {
  refresh();
  setInterval(() => { if (!document.hidden) refresh(); }, 1000);
  document.addEventListener("htmx:load", (event) => refresh(event.target));
}
