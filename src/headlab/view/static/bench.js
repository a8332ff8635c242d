// The bench: a grid of heads, the pattern of one, edits read on every prompt, the claim that fills itself.
"use strict";
(async () => {
  const at = (id) => document.getElementById(id);
  const key = at("bench").dataset.key, here = `/bench/${key}`;
  const NAMES = {
    attribution: "effect of patching, estimated", patch: "effect of patching", zero: "effect of zeroing", mean: "effect of the mean",
    resample: "effect of another prompt's", direct: "direct effect on the answer", previous: "attention to the token before",
    sink: "attention to the first token", induction: "induction", duplicate: "attention to the same token before", norm: "norm of what it writes", successor: "successor: the next day, number, letter", copying: "copying",
    probe: "tells the two runs apart",
  };
  const WRITES = { zero: "zero", mean: "the mean", resample: "another prompt's", patch: "the clean run's" };
  const known = new Map();
  let state, head = null, asked = 0, reading = null, going = "";

  const fail = (error) => { at("error").textContent = error.message; at("error").hidden = false; };
  const well = () => { at("error").hidden = true; };
  const chosen = () => at("heads").value.split(/[\s,]+/).filter(Boolean);

  // -- the grid ------------------------------------------------------------------------------------------------
  function paint(cell, share) {
    const colour = share < 0 ? "var(--less)" : "var(--more)";
    cell.style.backgroundColor = `rgb(${colour} / ${Math.min(1, Math.abs(share)).toFixed(3)})`;
  }

  function draw(grid) {
    known.set(grid.name, grid);
    at("grid").style.setProperty("--n", state.heads);
    const by = new Map(grid.rows.map((r) => [`L${r.layer}H${r.head}`, r]));
    const most = Math.max(...grid.rows.map((r) => Math.abs(r.value))) || 1;
    const columns = lab.el("tr", {}, lab.el("td"), ...Array.from({ length: state.heads }, (_, h) => lab.el("th", { scope: "col" }, `${h}`)));
    const body = lab.el("tbody");
    for (const layer of state.layers) {
      const row = lab.el("tr", {}, lab.el("th", { scope: "row" }, `L${layer}`));
      for (let h = 0; h < state.heads; h += 1) {
        const name = `L${layer}H${h}`, r = by.get(name);
        const words = r ? `${name}: ${lab.estimate(r)} ${grid.unit}` : name;
        const button = lab.el("button", { type: "button", class: "cell", "data-head": name, "data-words": words, title: words, tabindex: "-1", onclick: () => open(name) });
        if (r) paint(button, r.value / most);
        row.append(lab.el("td", { role: "gridcell" }, button));
      }
      body.append(row);
    }
    at("grid").replaceChildren(at("grid").caption, lab.el("thead", {}, columns), body);
    at("grid-words").textContent = `${NAMES[grid.name] || grid.name}, in ${grid.unit}; the strongest colour is ${lab.number(most)}` +
      (grid.rows.some((r) => r.value < 0) ? ", blue above nothing, orange below." : ".");
    const largest = [...grid.rows].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, 6);
    at("largest").replaceChildren(...largest.map((r) => {
      const name = `L${r.layer}H${r.head}`;
      return lab.el("li", {}, lab.el("button", { type: "button", onclick: () => open(name) }, name), ` ${lab.estimate(r)}`);
    }));
    mark();
    measured();
  }

  // What every grid that was drawn says of the head that is open.
  function measured() {
    const said = [...known.values()].map((g) => [g, g.rows.find((r) => `L${r.layer}H${r.head}` === head)]).filter(([, r]) => r);
    at("measured").textContent = said.map(([g, r]) => `${NAMES[g.name] || g.name} ${lab.estimate(r)}`).join(" · ");
  }

  function mark() {
    const set = new Set(chosen());
    const cells = [...at("grid").querySelectorAll(".cell")];
    for (const cell of cells) {
      cell.classList.toggle("chosen", set.has(cell.dataset.head));
      cell.parentElement.setAttribute("aria-selected", String(set.has(cell.dataset.head)));
      cell.setAttribute("aria-label", `${cell.dataset.words}${set.has(cell.dataset.head) ? ", chosen" : ""}`);
      cell.classList.toggle("open", cell.dataset.head === head);
      cell.setAttribute("aria-current", String(cell.dataset.head === head));
      cell.tabIndex = -1;
    }
    const first = cells.find((c) => c.dataset.head === head) || cells[0];
    if (first) first.tabIndex = 0;
    at("add").setAttribute("aria-pressed", String(set.has(head)));
    at("add").textContent = set.has(head) ? "Chosen: take it out" : "Choose it";
  }

  // One of many is reached by Tab; the arrows, Home and End go on from it.
  function walk(place, inside, across, taken) {
    at(place).addEventListener("keydown", (event) => {
      const all = [...at(place).querySelectorAll(inside)], now = all.indexOf(document.activeElement);
      if (now < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
      const n = across() || all.length, first = now - (now % n), last = Math.min(first + n, all.length) - 1;
      const to = { ArrowLeft: Math.max(first, now - 1), ArrowRight: Math.min(last, now + 1), ArrowUp: now - n, ArrowDown: now + n, Home: first, End: last }[event.key];
      if (event.key === " " && taken) { event.preventDefault(); taken(all[now]); }
      if (to === undefined) return;
      event.preventDefault();
      if (!all[to]) return; // at an edge of the grid the page stays, too
      all[now].tabIndex = -1;
      all[to].tabIndex = 0;
      all[to].focus();
    });
    if (taken) at(place).addEventListener("keyup", (event) => { if (event.key === " ") event.preventDefault(); });
  }
  walk("grid", ".cell", () => state.heads, (cell) => take(cell.dataset.head));
  walk("tokens", ".token", () => 0);

  async function measure() {
    well();
    try {
      draw(await lab.job(`${here}/grid`, { name: at("score").value }, lab.told(at("progress"), at("cancel"))));
    } catch (error) { fail(error); }
    at("progress").textContent = "";
    draft({});
  }

  // -- a head --------------------------------------------------------------------------------------------------
  async function open(name) {
    head = name;
    mark();
    well();
    at("head-title").textContent = `Head ${name}`;
    at("nothing").hidden = true;
    at("head").hidden = false;
    try {
      if (reading) await lab.ask(`/jobs/${reading}/cancel`, {});
      pattern(await lab.job(`${here}/pattern`, { head: name, prompt: Number(at("prompt").value), run: at("run").value, text: at("own").value }));
      await direct(name);
    } catch (error) { fail(error); at("tokens").replaceChildren(); at("matrix").replaceChildren(); }
  }

  // What it writes straight into the answer of each prompt.  The first costs passes: another head's pattern does not wait for them.
  async function direct(name) {
    if (name !== head) return;
    const said = at("direct"), told = lab.told(said);
    if (said.dataset.head !== name) { said.textContent = ""; at("directs").hidden = true; }
    try {
      const d = await lab.job(`${here}/direct`, { head: name }, (job) => {
        reading = job.state === "waiting" || job.state === "running" ? job.id : null;
        if (name === head) told(job);
      });
      if (name !== head) return;
      said.dataset.head = name;
      const nth = Number(at("prompt").value);
      said.textContent = d.why ? `No direct effect on the answer: ${d.why}.`
        : `Writes straight into the answer's lead: ${lab.estimate(d.mean)} ${d.unit}, the mean over ${d.mean.n} clean prompts; ${lab.number(d.values[nth])} on prompt ${nth + 1}.`;
      at("directs").hidden = Boolean(d.why);
      at("directs").ontoggle = () => at("directs").open && !d.why && each(d.values);
      at("directs").ontoggle();
    } catch (error) { if (error.message !== "cancelled") fail(error); }
  }

  function each(values) {
    const most = Math.max(...values.map(Math.abs)) || 1;
    at("each").replaceChildren(...values.map((v, i) => {
      const p = state.prompts[i], svg = lab.svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
      svg.append(lab.svg("line", { x1: 50, x2: 50, y1: 0, y2: 10, class: "zero" }), lab.svg("line", { x1: 50, x2: 50 + (48 * v) / most, y1: 5, y2: 5, class: v < 0 ? "down" : "up" }));
      return lab.el("li", { class: "line" }, lab.el("span", { class: "prompt", title: p.clean }, p.clean), lab.el("span", { class: "answer" }, p.answer), svg, lab.el("span", { class: "from-to" }, lab.number(v)));
    }));
  }

  function pattern(p) {
    if (p.head !== head) return;
    measured();
    const text = (t) => (t === "" ? "∅" : t.replaceAll(" ", "·").replaceAll("\n", "↵"));
    const buttons = p.tokens.map((t, q) => lab.el("button", { type: "button", class: "token", onclick: () => from(q) }, text(t)));
    function from(q) {
      buttons.forEach((b, k) => {
        const w = k <= q ? p.weights[q][k] : 0;
        paint(b, w * 0.75);
        b.setAttribute("aria-pressed", String(k === q));
        b.tabIndex = k === q ? 0 : -1;
        b.title = `${(100 * w).toFixed(1)} % of the attention from ${text(p.tokens[q])}`;
        b.setAttribute("aria-label", `${p.tokens[k]}: ${(100 * w).toFixed(1)} percent`);
      });
      const strong = p.weights[q].map((w, k) => [w, k]).sort((a, b) => b[0] - a[0]).slice(0, 3).filter(([w]) => w > 0.005);
      at("from").textContent = `From ${q !== p.read ? "" : p.next.length ? "the last token, " : "the token where the answer is read, "}“${text(p.tokens[q])}” (token ${q}): ` +
        strong.map(([w, k]) => `${(100 * w).toFixed(0)} % to “${text(p.tokens[k])}” (${k})`).join(", ");
      at("writes").textContent = p.writes.length
        ? `Where it attends to “${text(p.tokens[q])}”, its weights write toward ${p.writes[q].map((t) => `“${text(t)}”`).join(", ")} (the token alone, straight into the logits).`
        : p.why;
    }
    const held = at("tokens").contains(document.activeElement);
    at("tokens").replaceChildren(...buttons);
    if (held) buttons[p.read].focus();
    at("next").textContent = p.next.length ? `Next: ${p.next.map((r) => `“${text(r.token)}” ${(100 * r.probability).toFixed(1)} %`).join(", ")}` : "";
    from(p.read);
    const n = p.tokens.length, size = Math.max(6, Math.min(16, Math.floor(340 / n)));
    const svg = lab.svg("svg", { width: n * size, height: n * size, viewBox: `0 0 ${n} ${n}`, role: "img", "aria-label": `Attention of ${p.head}: each token, from above, to those before it, from the left` });
    svg.append(lab.svg("rect", { width: n, height: n, class: "back" }));
    p.weights.forEach((row, q) => row.forEach((w, k) => {
      if (w >= 0.005) svg.append(lab.svg("rect", { x: k, y: q, width: 1, height: 1, class: "weight", "fill-opacity": w.toFixed(3) }));
    }));
    at("matrix").replaceChildren(svg);
  }

  at("prompt").addEventListener("change", () => head && open(head));
  at("run").addEventListener("change", () => head && open(head));
  at("own").addEventListener("change", () => head && open(head));
  at("add").addEventListener("click", () => take(head));
  function take(name) {
    const set = chosen();
    at("heads").value = (set.includes(name) ? set.filter((h) => h !== name) : [...set, name]).join(" ");
    changed();
  }

  // -- edits ---------------------------------------------------------------------------------------------------
  function changed() {
    mark();
    if (at("live").checked && chosen().length) edit();
    else draft({ heads: chosen().join(" ") });
  }

  async function edit() {
    const now = `${chosen().join(" ")} ${at("write").value}`;
    if (now === going) return; // Enter in the field: it has changed, and the form is sent
    going = now;
    const mine = (asked += 1);
    well();
    try {
      const found = await lab.job(`${here}/edit`, { heads: chosen().join(" "), write: at("write").value }, lab.told(at("editing")));
      if (mine !== asked) return;
      read(found);
    } catch (error) { if (mine === asked) fail(error); }
    if (mine === asked) { at("editing").textContent = ""; going = ""; draft({}); }
  }

  // What a trial will ask of the model's own answers, where they fall short of it on these prompts.
  function unanswered(f) {
    const [least, most] = state.eligible, percent = (x) => `${(100 * x).toFixed(0)} %`;
    const right = (run) => f.rows.filter((r) => (run === f.edited ? r.before : r.other) > 0).length / f.rows.length;
    const clean = right("clean"), corrupted = state.paired ? right("corrupted") : 0, patch = f.write === "patch";
    if (clean >= least && !(patch && corrupted > most)) return "";
    return `A trial asks that at least ${percent(least)} of the clean prompts are answered rightly${patch ? ` and at most ${percent(most)} of the corrupted ones` : ""}; of these it is ${percent(clean)}` +
      `${state.paired ? ` and ${percent(corrupted)}` : ""}.${corrupted > clean ? " Are clean and corrupted the wrong way round?" : ""}`;
  }

  function read(f) {
    const share = f.share === null ? "" : f.write === "patch" ? ` (${(100 * f.share).toFixed(0)} % of the way to the clean run)` : ` (${(100 * f.share).toFixed(0)} % of the way to the corrupted run)`;
    at("answered").textContent = f.right ? unanswered(f) : "";
    at("answered").hidden = !at("answered").textContent;
    const what = f.unit === "nats" ? "log probability" : "lead";
    const right = f.right ? `; right on ${f.right[0]} of ${f.mean.n} prompts before, ${f.right[1]} after` : "";
    at("effect").textContent = `${f.heads}, ${WRITES[f.write]} written in the ${f.edited} run: the answer's ${what} changes by ${lab.estimate(f.mean)} ${f.unit}${share}${right}.`;
    const all = f.rows.flatMap((r) => [r.before, r.after, state.paired ? r.other : 0, 0]);
    const low = Math.min(...all), high = Math.max(...all), x = (v) => (100 * (v - low)) / (high - low || 1);
    const line = (r, i) => {
      const p = state.prompts[i], text = f.edited === "clean" ? p.clean : p.corrupted;
      const words = `${what} of ${p.answer}${p.wrong ? ` over ${p.wrong}` : ""}: ${lab.number(r.before)} before, ${lab.number(r.after)} after`;
      const svg = lab.svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": words });
      svg.append(
        lab.svg("line", { x1: x(0), x2: x(0), y1: 0, y2: 10, class: "zero" }),
        lab.svg("line", { x1: x(r.before), x2: x(r.after), y1: 5, y2: 5, class: r.after < r.before ? "down" : "up" }),
        lab.svg("line", { x1: x(r.before), x2: x(r.before), y1: 1, y2: 9, class: "before" }),
        lab.svg("line", { x1: x(r.after), x2: x(r.after), y1: 0, y2: 10, class: "after" }));
      return lab.el("div", { class: "line" }, lab.el("span", { class: "prompt", title: text }, text), lab.el("span", { class: "answer" }, p.answer), svg,
        lab.el("span", { class: "from-to" }, `${lab.number(r.before)} → ${lab.number(r.after)}`));
    };
    const few = 8;
    at("readout").replaceChildren(...f.rows.slice(0, few).map(line));
    at("more").hidden = f.rows.length <= few;
    at("more").textContent = `Show all ${f.rows.length} prompts`;
    at("more").onclick = () => { at("readout").replaceChildren(...f.rows.map(line)); at("readout").focus(); at("more").hidden = true; };
  }

  at("edit").addEventListener("submit", (event) => { event.preventDefault(); mark(); edit(); });
  at("heads").addEventListener("change", changed);
  at("write").addEventListener("change", () => { if (at("live").checked && chosen().length) edit(); else draft({ write: at("write").value }); });

  // -- the claim -----------------------------------------------------------------------------------------------
  async function draft(given) {
    try {
      const d = await lab.job(`${here}/draft`, given);
      at("claim").textContent = d.yaml ? d.says.claim[0] : "No heads chosen yet.";
      at("asked").replaceChildren(...(d.yaml ? d.says.predictions : []).map((p) => lab.el("li", {}, p)),
        ...d.faults.map((f) => lab.el("li", { class: "error" }, `Cannot be decided: ${f}`)));
      at("looked").textContent = d.looked;
    } catch (error) { fail(error); }
  }

  const fields = [...at("edit").elements]; // an edit that is asked before it is known what can be written would be refused
  fields.forEach((f) => { f.disabled = true; });
  try {
    state = await lab.ask(`${here}/state`);
    const group = (label, names) => lab.el("optgroup", { label }, ...names.map((n) => lab.el("option", { value: n }, NAMES[n] || n)));
    at("score").append(group("what editing it does", state.effects), ...(state.direct.length ? [group("what it writes", state.direct)] : []), group("how it attends", state.scores));
    at("score").addEventListener("change", measure);
    at("write").append(...state.writes.map((w) => lab.el("option", { value: w }, WRITES[w])));
    if (state.writes.includes(state.write)) at("write").value = state.write;
    at("heads").value = state.chosen.join(" ");
    at("prompt").append(...state.prompts.map((p, i) => lab.el("option", { value: i }, `${i + 1}: ${p.clean.length > 48 ? `…${p.clean.slice(-47)}` : p.clean}`)));
    at("runs").hidden = !state.paired;
    fields.forEach((f) => { f.disabled = false; });
    await measure();
  } catch (error) { fail(error); }
})();
