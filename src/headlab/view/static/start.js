// Opening a bench: a model and prompts.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const form = at("open"), task = at("task"), shipped = at("shipped");
  let suffix = ".csv";
  const own = () => { at("own").hidden = task.value !== ""; };
  const fit = () => {
    const meant = shipped.selectedOptions[0]?.dataset.task;
    if (meant) task.value = meant;
    own();
  };
  shipped.addEventListener("change", () => { at("other").value = ""; fit(); });
  task.addEventListener("change", own);
  fit();

  at("file").addEventListener("change", async () => {
    const file = at("file").files[0];
    if (!file) return;
    suffix = file.name.endsWith(".jsonl") ? ".jsonl" : ".csv";
    at("text").value = await file.text();
  });
  at("text").addEventListener("input", () => { if (!at("text").value.trimStart().startsWith("{")) suffix = ".csv"; });

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("[type=submit]");
    if (!lab.idle(button)) return;
    at("error").hidden = true;
    lab.busy(button, true);
    try {
      const number = (id) => Number(at(id).value);
      const asked = {
        model: at("other").value.trim() || shipped.value, task: task.value, text: task.value ? "" : at("text").value, suffix,
        looked_at: number("looked_at"), pairs: number("pairs"), seed: number("seed"),
      };
      const made = await lab.job("/bench", asked, lab.told(at("progress"), at("cancel")));
      location.assign(`/bench/${made.key}`);
    } catch (error) {
      at("error").textContent = error.message;
      at("error").hidden = false;
    } finally {
      lab.busy(button, false);
      at("cancel").hidden = true;
      at("progress").textContent = "";
    }
  });
})();
