// A threshold as it is typed: its line moves over what was measured, and a changed number asks where it comes from.
import { typeThreshold } from "./charts.js";

const read = (text) => (text.trim() === "" ? null : Number.parseFloat(text)); // empty: the threshold is not set

function follow(input) {
  const name = input.dataset.threshold;
  const typed = read(input.value);
  const source = document.querySelector(`[data-threshold-source="${CSS.escape(name)}"]`);
  const chart = document.querySelector(`[data-threshold-name="${CSS.escape(name)}"]`);
  const changed = !Number.isNaN(typed) && typed !== read(input.dataset.inForce);
  input.closest(".threshold").classList.toggle("is-changed", changed);
  if (changed && typed !== null && source) source.open = true; // never closed again: something may stand in it
  if (!chart) return;
  const { thresholdChart: id, thresholdScale: scale, thresholdUnit: unit } = chart.dataset;
  typeThreshold(id, changed && typed > 0 ? { value: typed * Number(scale), label: `typed: ${typed} ${unit}` } : null);
}

for (const input of document.querySelectorAll("input[data-threshold]")) {
  follow(input);
  input.addEventListener("input", () => follow(input));
}
