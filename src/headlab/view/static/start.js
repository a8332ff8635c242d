// Opening a bench: a model and prompts.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const form = at("open"), task = at("task"), shipped = at("shipped");
  let suffix = ".csv";
  // How many are looked at and how many sealed, of prompts of one's own: what patching needs is sealed, where there are so many.
  const NEEDED = 100;
  let parted = ["60", "200"];
  function part() {
    const lines = at("text").value.split("\n").filter((line) => line.trim()).length, n = lines - (suffix === ".csv" ? 1 : 0);
    const mine = ["looked_at", "pairs"].map((id) => at(id).value).join() !== parted.join(); // set by hand
    const look = Math.max(2, Math.min(60, Math.floor(n / 4), n > NEEDED + 1 ? n - NEEDED : 60)), few = task.value === "" && n >= 4 && n < 260;
    if (!mine) { parted = few ? [look, n - look].map(String) : ["60", "200"]; [at("looked_at").value, at("pairs").value] = parted; }
    at("counted").textContent = !mine && few ? `Of ${n} prompts, ${look} to look at and ${n - look} sealed.${n - look < NEEDED ? ` Fewer than ${NEEDED} sealed pairs: a claim tried by patching cannot be decided; one tried by ablations can.` : ""}` : "";
  }

  const own = () => { at("own").hidden = task.value !== ""; part(); };
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
    part();
  });
  at("text").addEventListener("input", () => { if (!at("text").value.trimStart().startsWith("{")) suffix = ".csv"; part(); });

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
