// Tiles and table of a canary page: canary, control and their difference, replaced in place from live messages.
// Each states its measure, its scale (a share is 0..1 in messages, 0..100 on the page) and its digits.
const boards = [...document.querySelectorAll("[data-comparison]")];
const sparks = new Map(); // by chart: {x: [milliseconds], y: [[canary], [control]]}
const WIDTH = 120;
const HEIGHT = 28;

function plain(value, row) {
  if (value === null || value === undefined) return "–";
  const digits = Number(row.dataset.digits);
  return (value * Number(row.dataset.scale)).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function signed(canary, control, row) {
  if (row.dataset.compared !== "yes" || canary === null || control === null) return "–";
  const text = plain(Math.abs(canary - control), row);
  if (!Number(text.replaceAll(",", ""))) return text;
  return canary > control ? `+${text}` : `−${text}`;
}

function put(cell, text, { mark = true } = {}) {
  if (!cell || cell.textContent === text) return;
  cell.textContent = text;
  if (!mark) return;
  cell.classList.add("is-changed-now");
  clearTimeout(cell.ballastTimer);
  cell.ballastTimer = setTimeout(() => cell.classList.remove("is-changed-now"), 2000);
}

// The same picture as the server's first paint (the tag `polyline`): zero-based, one scale for both arms, gaps as gaps.
function lines(values, top) {
  const runs = [[]];
  values.forEach((value, at) => {
    if (value === null) { runs.push([]); return; }
    const y = 1 + (HEIGHT - 2) * (1 - Math.max(value, 0) / top);
    runs.at(-1).push(`${((at * WIDTH) / (values.length - 1)).toFixed(1)},${y.toFixed(1)}`);
  });
  return runs.filter((run) => run.length > 1).map((run) => run.join(" "));
}

function knownPoints(chart) {
  if (!sparks.has(chart)) {
    const figure = JSON.parse(document.getElementById(chart)?.querySelector('script[type="application/json"]')?.textContent ?? "null");
    const [canary, control] = (figure?.data ?? []).filter((trace) => trace.meta?.role !== "band");
    if (!control) return null;
    sparks.set(chart, { x: canary.x.map((at) => Date.parse(at)), y: [[...canary.y], [...control.y]] });
  }
  return sparks.get(chart);
}

function drawSpark(tile, update, windowSeconds) {
  const points = update && knownPoints(tile.dataset.spark);
  if (!points) return;
  update.x.map((at) => Date.parse(at)).forEach((at, index) => {
    let place = points.x.lastIndexOf(at); // the last bucket is sent again while it fills
    if (place < 0) place = points.x.push(at) - 1;
    points.y.forEach((line, arm) => { line[place] = update.y[arm]?.[index] ?? null; });
  });
  while (points.x[0] < points.x.at(-1) - windowSeconds * 1000) { points.x.shift(); points.y.forEach((line) => line.shift()); }
  const top = Math.max(0, ...points.y.flat().filter((value) => value !== null)) || 1;
  const made = [["spark-beside", points.y[1]], ["", points.y[0]]].flatMap(([name, values]) => lines(values, top).map((run) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", run);
    if (name) line.setAttribute("class", name);
    return line;
  }));
  tile.querySelector(".spark")?.replaceChildren(...made);
}

document.addEventListener("ballast:live", ({ detail: { topic, data } }) => {
  for (const board of boards) {
    if (topic !== board.dataset.comparison || !data.totals?.canary) continue;
    for (const row of board.querySelectorAll("[data-measure]")) {
      const canary = data.totals.canary[row.dataset.measure];
      const control = data.totals.control[row.dataset.measure];
      if (!canary || !control) continue;
      put(row.querySelector("[data-arm=canary]"), plain(canary.value, row));
      put(row.querySelector("[data-arm=control]"), plain(control.value, row));
      put(row.querySelector("[data-arm=difference]"), signed(canary.value, control.value, row));
      put(row.querySelector("[data-n=canary]"), canary.n.toLocaleString("en"), { mark: false });
      put(row.querySelector("[data-n=control]"), control.n.toLocaleString("en"), { mark: false });
      if (row.dataset.spark) drawSpark(row, data.charts?.[row.dataset.spark], data.window_seconds);
    }
  }
});
