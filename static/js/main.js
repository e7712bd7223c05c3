// The console's scripts. Pages work without them; each module adds one thing.
import * as copy from "./copy.js";
import * as dialogs from "./dialogs.js";
import * as forms from "./forms.js";
import * as house from "./house.js";
import * as live from "./live.js";
import * as menu from "./menu.js";
import * as names from "./names.js";
import * as palette from "./palette.js";
import * as theme from "./theme.js";
import * as times from "./times.js";
import * as views from "./views.js";

for (const module of [theme, menu, dialogs, copy, times, views, forms, names, palette, house, live]) module.start();

async function charts(scope) {
  if (!scope.querySelector("[data-chart]")) return; // Plotly is heavy; it comes only where a chart is
  const module = await import("./charts.js");
  module.start(scope);
}
charts(document);
document.addEventListener("htmx:load", (event) => charts(event.target.parentElement ?? document));
