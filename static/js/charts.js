// Charts: Plotly from our own files, loaded by the first chart. One template per theme, one x range and one hover per page.
// A figure stands in the page (application/json in the <figure>) or comes from data-chart-src. A live message for the chart's topic
// may carry {charts: {"<id>": {x: […], y: [[…], …]}}} (points to append, one list of y per line, bands left out) or {charts: {"<id>": figure}};
// any other message makes the chart fetch its source again, at most every two seconds.
const REFETCH_MS = 2000;
const MAX_POINTS = 2000;
const files = document.body.dataset; // where Plotly, its style and our templates lie: their names carry digests
let ready = null;
let templates = null;
const charts = new Map();

function load() {
  ready ??= Promise.all([
    fetch(files.chartTemplates).then((answer) => answer.json()).then((json) => { templates = json; }),
    new Promise((resolve, reject) => {
      // Plotly would insert its rules as a <style>, which style-src 'self' refuses; this class tells it that a file has them.
      const style = Object.assign(document.createElement("link"), { rel: "stylesheet", id: "plotly.js-style-global", className: "no-inline-styles", href: files.plotlyStyle });
      const script = Object.assign(document.createElement("script"), { src: files.plotly, onload: resolve, onerror: reject });
      document.head.append(style, script);
    }),
  ]);
  return ready;
}

// Plotly shows the time it is given and knows no zones: hand it the viewer's own wall clock. A whole day is the same in every zone.
function toLocal(text) {
  if (typeof text !== "string" || !text.includes("T")) return text;
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return text;
  return new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 23);
}

function localise(figure) {
  const { data, layout } = structuredClone(figure);
  for (const trace of data) trace.x = trace.x.map(toLocal);
  for (const shape of layout.shapes ?? []) if (shape.xref !== "paper") { shape.x0 = toLocal(shape.x0); shape.x1 = toLocal(shape.x1); }
  for (const note of layout.annotations ?? []) if (note.xref !== "paper") note.x = toLocal(note.x);
  if (layout.xaxis?.range) layout.xaxis.range = layout.xaxis.range.map(toLocal);
  return { data, layout };
}

function themed({ data, layout }) {
  const template = templates[document.documentElement.dataset.bsTheme] ?? templates.light;
  const colors = template.layout.meta;
  const paint = (item, key) => ({ ...item, [key]: { ...item[key], color: colors[item.name] ?? colors.release } });
  return {
    data: [...data],
    layout: {
      ...layout,
      template,
      title: undefined,
      shapes: (layout.shapes ?? []).map((shape) => paint(shape, "line")),
      annotations: (layout.annotations ?? []).map((note) => paint(note, "font")),
    },
  };
}

function sharedRange() {
  let low = null;
  let high = null;
  for (const chart of charts.values()) {
    const fixed = chart.figure.layout.xaxis?.range;
    const xs = fixed ?? chart.figure.data.flatMap((trace) => (trace.x.length ? [trace.x[0], trace.x.at(-1)] : []));
    for (const x of xs) {
      if (low === null || x < low) low = x;
      if (high === null || x > high) high = x;
    }
  }
  return low === null ? undefined : [low, high];
}

// A threshold that somebody is typing: a line beside the one in force, and always inside the picture.
const typed = new Map(); // by chart id
function withTyped({ data, layout }, line) {
  if (!line) return { data, layout };
  const words = { name: "threshold", text: line.label, showarrow: false, xref: "paper", x: 0, xanchor: "left", yanchor: "bottom", y: line.value, font: { size: 11 } };
  const shape = { type: "line", name: "threshold", xref: "paper", x0: 0, x1: 1, y0: line.value, y1: line.value, line: { width: 2 } };
  const [low, high] = layout.yaxis?.range ?? [0, 0];
  return { data, layout: { ...layout, shapes: [...(layout.shapes ?? []), shape], annotations: [...(layout.annotations ?? []), words], yaxis: { ...layout.yaxis, range: [low, Math.max(high, 1.15 * line.value)] } } };
}

export function typeThreshold(id, line) {
  if (line) typed.set(id, line); else if (!typed.delete(id)) return;
  for (const chart of charts.values()) if (chart.root.id === id) draw(chart);
}

async function draw(chart) {
  const plot = chart.root.querySelector("[data-chart-plot]");
  const { data, layout } = themed(withTyped(chart.figure, typed.get(chart.root.id)));
  const missing = shortage(chart);
  if (missing) {
    data.length = 0; // two points are not a trend; the words say so instead
    layout.shapes = layout.annotations = [];
    // No title either: narrow charts have no room for it beside the words.
    layout.yaxis = { ...layout.yaxis, type: "linear", range: [0, 1], showticklabels: false, showgrid: false, zeroline: false, title: { text: "" } };
  }
  const range = chart.zoom ?? sharedRange();
  layout.xaxis = { ...layout.xaxis, ...(range ? { range: [...range], autorange: false } : {}) };
  await globalThis.Plotly.react(plot, data, layout, { displayModeBar: false, responsive: true, displaylogo: false, doubleClick: false });
  if (!chart.wired) wire(chart, plot);
  const empty = chart.root.querySelector("[data-chart-empty]");
  empty.textContent = missing;
  empty.hidden = !missing;
  key(chart);
  if (!chart.root.querySelector("[data-chart-table]").hidden) table(chart);
}

// The same words as the server's first paint (charts.py), counted anew as points arrive.
function shortage(chart) {
  const needed = chart.figure.layout.meta?.minimum_points ?? 0;
  const have = Math.max(0, ...visible(chart).map((trace) => trace.y.filter((value) => value !== null).length));
  if (have >= needed) return "";
  return have ? `${have} of ${needed} points so far: ${needed - have} more to draw a line` : `No data yet: ${needed === 1 ? "1 point is" : `${needed} points are`} needed to draw a line`;
}

function visible(chart) {
  return chart.figure.data.filter((trace) => trace.meta?.role !== "band");
}

function key(chart) {
  const place = chart.root.querySelector("[data-chart-key]");
  place.replaceChildren(...visible(chart).map((trace) => {
    const item = document.createElement("span");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    svg.setAttribute("viewBox", "0 0 14 3");
    svg.setAttribute("aria-hidden", "true");
    for (const [name, value] of Object.entries({ width: 14, height: 3, rx: 1.5, fill: trace.line?.color ?? "currentColor" })) line.setAttribute(name, value);
    svg.append(line);
    item.append(svg, trace.name);
    return item;
  }));
}

function table(chart) {
  const series = visible(chart);
  const rows = new Map();
  series.forEach((trace, column) => trace.x.forEach((x, at) => {
    if (!rows.has(x)) rows.set(x, []);
    rows.get(x)[column] = trace.y[at];
  }));
  const made = document.createElement("table");
  made.className = "table";
  const head = made.createTHead().insertRow();
  const cell = (row, tag, text, numeric) => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (numeric) element.className = "num";
    if (tag === "th") element.scope = row === head ? "col" : "row";
    row.append(element);
  };
  cell(head, "th", "Time");
  const unit = chart.figure.layout.meta?.unit;
  series.forEach((trace) => cell(head, "th", unit ? `${trace.name}, ${unit}` : trace.name, true));
  const body = made.createTBody();
  for (const x of [...rows.keys()].sort().reverse().slice(0, 500)) {
    const row = body.insertRow();
    cell(row, "th", x.slice(0, 19).replace("T", " "));
    series.forEach((_, column) => {
      const value = rows.get(x)[column];
      cell(row, "td", value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: 4 }), true);
    });
  }
  chart.root.querySelector("[data-chart-table]").replaceChildren(made);
}

// --- one hover and one zoom for all charts of the page ---
let relaying = false;
function wire(chart, plot) {
  chart.wired = true;
  const others = () => [...charts.values()].filter((other) => other !== chart && other.root.isConnected && !other.root.querySelector("[data-chart-plot]").hidden && !shortage(other));
  plot.on("plotly_hover", (event) => {
    if (relaying) return;
    relaying = true;
    const at = event.xvals[0]; // Plotly tells the place as a date and takes it as milliseconds
    const xval = typeof at === "string" ? Date.parse(`${at.replace(" ", "T")}Z`) : at;
    for (const other of others()) globalThis.Plotly.Fx.hover(other.root.querySelector("[data-chart-plot]"), { xval }, ["xy"]);
    relaying = false;
  });
  plot.on("plotly_unhover", () => {
    if (relaying) return;
    relaying = true;
    for (const other of others()) globalThis.Plotly.Fx.unhover(other.root.querySelector("[data-chart-plot]"));
    relaying = false;
  });
  plot.on("plotly_relayout", (change) => {
    const range = change["xaxis.range[0]"] ? [change["xaxis.range[0]"], change["xaxis.range[1]"]] : change["xaxis.range"];
    if (!range || relaying) return;
    zoomAll(range);
  });
  plot.on("plotly_doubleclick", () => zoomAll(null));
}

async function zoomAll(range) {
  relaying = true;
  for (const chart of charts.values()) { chart.zoom = range; await draw(chart); }
  relaying = false;
}

// --- live ---
function append(chart, { x, y }) {
  const series = visible(chart);
  const local = x.map(toLocal);
  series.forEach((trace, at) => {
    if (!y[at]) return;
    local.forEach((moment, index) => {
      const known = trace.x.lastIndexOf(moment); // the last bucket is sent again while it fills
      if (known >= 0) trace.y[known] = y[at][index]; else { trace.x.push(moment); trace.y.push(y[at][index]); }
    });
    trace.x.splice(0, trace.x.length - MAX_POINTS);
    trace.y.splice(0, trace.y.length - MAX_POINTS);
  });
  const fixed = chart.figure.layout.xaxis?.range;
  if (fixed && local.at(-1) > fixed[1]) {
    const width = new Date(fixed[1]) - new Date(fixed[0]);
    chart.figure.layout.xaxis.range = [toLocal(new Date(new Date(local.at(-1)) - width).toISOString()), local.at(-1)];
  }
}

// Never lost: what is asked for while an answer is on its way is asked again after it.
async function refetch(chart) {
  if (!chart.src) return;
  chart.wanted = true;
  if (chart.pending) return;
  chart.pending = true;
  try {
    while (chart.wanted) {
      await new Promise((resolve) => { setTimeout(resolve, Math.max(0, (chart.fetchedAt ?? 0) + REFETCH_MS - Date.now())); });
      chart.wanted = false;
      const answer = await fetch(chart.src, { headers: { Accept: "application/json" } });
      if (answer.ok) { chart.figure = localise(await answer.json()); chart.fetchedAt = Date.now(); await draw(chart); }
    }
  } finally { chart.pending = false; }
}

async function onLive({ detail: { topic, data } }) {
  let moved = false;
  for (const chart of charts.values()) {
    if (!chart.root.isConnected) { charts.delete(chart.root); continue; }
    const named = chart.root.closest("[data-live-topic]")?.dataset.liveTopic?.split(/\s+/) ?? [];
    if (!named.includes(topic)) continue;
    const update = data?.charts?.[chart.root.id];
    if (update?.layout) { chart.figure = localise(update); moved = true; }
    else if (update?.x) { append(chart, update); moved = true; }
    else refetch(chart);
  }
  if (moved) for (const chart of charts.values()) await draw(chart);
}

async function begin(root) {
  const chart = { root, src: root.dataset.chartSrc, figure: { data: [], layout: {} }, zoom: null, wired: false };
  const block = root.querySelector('script[type="application/json"]');
  if (block) chart.figure = localise(JSON.parse(block.textContent));
  else if (chart.src) {
    const answer = await fetch(chart.src, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    chart.figure = localise(await answer.json());
    chart.fetchedAt = Date.now();
  }
  charts.set(root, chart);
}

let listening = false;
export async function start(scope) {
  const found = [...scope.querySelectorAll("[data-chart]")].filter((root) => !charts.has(root));
  if (!found.length) return;
  await load();
  await Promise.all(found.map(begin));
  for (const chart of charts.values()) if (chart.root.isConnected) await draw(chart);
  if (listening) return;
  listening = true;
  document.addEventListener("ballast:live", onLive);
  document.addEventListener("ballast:theme", () => charts.forEach((chart) => draw(chart)));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-chart-toggle]");
    const chart = button && charts.get(button.closest("[data-chart]"));
    if (!chart) return;
    const showing = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(showing));
    chart.root.querySelector("[data-chart-table]").hidden = !showing;
    chart.root.querySelector("[data-chart-plot]").hidden = showing;
    if (showing) table(chart); else draw(chart);
  });
}
