// The comparison table of a canary page: canary, control and their difference, replaced in place from live messages.
// A row states its measure, its scale (a share is 0..1 in messages, 0..100 on the page) and its digits.
const table = document.querySelector("[data-comparison]");

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

function put(cell, text) {
  if (!cell || cell.textContent === text) return;
  cell.textContent = text;
  cell.classList.add("is-changed-now");
  clearTimeout(cell.ballastTimer);
  cell.ballastTimer = setTimeout(() => cell.classList.remove("is-changed-now"), 2000);
}

if (table) {
  document.addEventListener("ballast:live", ({ detail: { topic, data } }) => {
    if (topic !== table.dataset.comparison || !data.totals?.canary) return;
    for (const row of table.querySelectorAll("[data-measure]")) {
      const canary = data.totals.canary[row.dataset.measure];
      const control = data.totals.control[row.dataset.measure];
      if (!canary || !control) continue;
      put(row.querySelector("[data-arm=canary]"), plain(canary.value, row));
      put(row.querySelector("[data-arm=control]"), plain(control.value, row));
      put(row.querySelector("[data-arm=difference]"), signed(canary.value, control.value, row));
      put(row.querySelector("[data-n=canary]"), canary.n.toLocaleString("en"));
      put(row.querySelector("[data-n=control]"), control.n.toLocaleString("en"));
    }
  });
}
