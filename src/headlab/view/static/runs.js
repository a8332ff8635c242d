// The table of runs: filter by words, model and verdict; sort; choose two to compare.
"use strict";
(() => {
  const table = document.getElementById("runs");
  if (!table) return;
  const rows = [...table.tBodies[0].rows];
  const words = document.getElementById("words"), model = document.getElementById("model");
  const shown = document.getElementById("shown"), compare = document.getElementById("compare");
  const outcomes = [...document.querySelectorAll(".strip button")];
  document.querySelectorAll(".strip li").forEach((li) => { li.style.flexGrow = li.dataset.share; });

  function filter() {
    const wanted = words.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const pressed = outcomes.filter((b) => b.getAttribute("aria-pressed") === "true").map((b) => b.dataset.outcome);
    let n = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(wanted.every((w) => text.includes(w)) && (!model.value || row.dataset.model === model.value) &&
        (!pressed.length || pressed.includes(row.dataset.outcome)));
      n += row.hidden ? 0 : 1;
    }
    shown.textContent = n === rows.length ? "" : `${n} of ${rows.length} shown`;
  }
  words.addEventListener("input", filter);
  model.addEventListener("change", filter);
  for (const b of outcomes) b.addEventListener("click", () => {
    b.setAttribute("aria-pressed", String(b.getAttribute("aria-pressed") !== "true"));
    filter();
  });
  document.querySelector("form.filter").addEventListener("submit", (e) => e.preventDefault());

  for (const th of table.querySelectorAll("th[data-key]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = th.textContent;
    th.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = th.getAttribute("aria-sort") !== "ascending", key = th.dataset.key;
      table.querySelectorAll("th[aria-sort]").forEach((o) => o.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      rows.sort((a, b) => a.dataset[key].localeCompare(b.dataset[key]) * (up ? 1 : -1));
      table.tBodies[0].append(...rows);
    });
  }

  const boxes = [...table.querySelectorAll("input[type=checkbox]")];
  const chosen = () => boxes.filter((b) => b.checked);
  table.addEventListener("change", () => {
    const some = chosen();
    compare.disabled = some.length !== 2;
    for (const b of boxes) b.disabled = some.length >= 2 && !b.checked;
  });
  compare.addEventListener("click", () => {
    const [a, b] = chosen().map((box) => encodeURIComponent(box.value));
    location.assign(`/compare?a=${a}&b=${b}`);
  });
  filter();
})();
