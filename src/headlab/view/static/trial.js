// The draft in words and YAML, and its trial.
"use strict";
(async () => {
  const at = (id) => document.getElementById(id);
  const here = `/bench/${at("trial").dataset.key}`;
  const HEADINGS = { claim: "Claim", method: "Method", predictions: "Upheld when", sets: "Heads", worlds: "Edits", controls: "Controls", "can be seen": "What so many prompts can show", chosen: "Chosen", model: "On this model" };
  let drawn = "", warned = "";
  const fail = (error) => { at("error").textContent = error.message; at("error").hidden = false; };

  function show(d) {
    at("heads").value = d.heads;
    if (d.write) at("write").value = d.write;
    at("words").value = d.words;
    const before = at("yaml").value;
    at("lost").hidden = before === drawn || before === d.yaml;
    at("back").onclick = () => { at("yaml").value = before; at("yaml").focus(); at("lost").hidden = true; };
    at("yaml").value = drawn = d.yaml;
    at("yaml").rows = Math.max(6, d.yaml.split("\n").length);
    at("looked").textContent = d.looked;
    opened(d.tried);
    at("empty").hidden = Boolean(d.yaml);
    at("register").disabled = !d.yaml;
    const parts = Object.entries(d.says).filter(([, lines]) => lines.length).map(([name, lines]) => [
      lab.el("h3", {}, HEADINGS[name] || name), lab.el("ul", {}, ...lines.map((line) => lab.el("li", {}, line)))]);
    const faults = d.faults.map((f) => lab.el("p", { class: "error" }, `Cannot be decided: ${f}`));
    at("says").replaceChildren(...faults, ...parts.flat());
  }

  const others = at("seal").dataset.own ? "give pairs of your own that are not among these." : "open another bench with another seed.";
  function opened(runs) {
    if (!runs.length) return;
    const links = runs.flatMap((id, i) => [i ? ", " : "", lab.el("a", { href: `/report/${encodeURIComponent(id)}` }, id)]);
    at("seal").replaceChildren(lab.el("b", {}, `These ${at("seal").dataset.n} test prompts were opened`), " by ", ...links,
      ". Another claim on them is another look: its record will say so. For prompts that nobody has seen, ", others);
  }

  async function draft(given) {
    at("error").hidden = true;
    try { show(await lab.job(`${here}/draft`, given)); } catch (error) { fail(error); at("register").disabled = true; }
  }
  at("yaml").addEventListener("input", () => { at("register").disabled = !at("yaml").value.trim(); });
  at("heads").addEventListener("change", () => draft({ heads: at("heads").value }));
  at("write").addEventListener("change", () => draft({ write: at("write").value }));
  at("words").addEventListener("change", () => draft({ words: at("words").value }));

  at("claim").addEventListener("submit", (event) => { event.preventDefault(); });
  at("register").addEventListener("click", () => lab.idle(at("register")) && tried((told) => lab.job(`${here}/register`, { yaml: at("yaml").value, anyway: warned === at("yaml").value }, told)));

  // A trial that was registered here, or that runs already: its progress, its verdict.
  async function tried(found) {
    at("error").hidden = true;
    at("verdict").hidden = true;
    lab.busy(at("register"), true);
    const told = lab.told(at("progress"), at("cancel"));
    try {
      found = await found((job) => {
        told(job);
        at("bar").hidden = !(job.total > 1);
        at("bar").value = job.total ? job.done / job.total : 0;
      });
      if (found.ask) {
        warned = at("yaml").value;
        throw new Error(`No outcome could decide it: ${found.ask.replace(/\.?$/, ".")} Nothing was opened. Register it once more to try it all the same.`);
      }
      at("outcome").className = `badge ${found.outcome || "none"}`;
      at("outcome").textContent = found.outcome || "no verdict";
      at("sentence").textContent = found.sentence;
      at("counted").textContent = found.looked;
      at("page").href = `/report/${encodeURIComponent(found.id)}`;
      at("verdict").className = `card verdict ${found.outcome}`;
      opened(found.tried);
      at("verdict").hidden = false;
      at("verdict").focus();
    } catch (error) {
      fail(error.message === "cancelled" ? new Error("Cancelled. What was computed is kept: the same claim, registered again, goes on where it stopped.") : error);
    } finally {
      lab.busy(at("register"), false);
      at("bar").hidden = true;
      at("progress").textContent = "";
      at("cancel").hidden = true;
    }
  }
  const fields = ["heads", "write", "words"].map(at); // what is typed before the first draft stands would be written over
  fields.forEach((f) => { f.disabled = true; });
  try {
    const state = await lab.ask(`${here}/state`);
    if (state.begun) at("seal").textContent = `These ${at("seal").dataset.n} test prompts were opened by a trial.`;
    if (state.trying) await tried((told) => lab.follow(state.trying, told));
  } catch (error) { fail(error); }
  try { show(await lab.job(`${here}/draft`, {})); } catch (error) { fail(error); }
  fields.forEach((f) => { f.disabled = false; });
})();
