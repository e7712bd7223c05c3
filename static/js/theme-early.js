// Runs before the first paint (a small blocking file in <head>): no flash of the wrong theme, and CSS knows that scripts run.
(function () {
  var root = document.documentElement, choice = "system";
  root.classList.add("js");
  try { choice = localStorage.getItem("ballast-theme") || "system"; } catch (error) { /* storage refused: follow the system */ }
  if (choice === "system") { choice = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"; }
  root.setAttribute("data-bs-theme", choice);
})();
