// What every page needs: asking the server, and waiting for a job with its progress shown.
"use strict";
const lab = {
  csrf: document.querySelector('meta[name="csrf"]').content,

  async ask(path, body) {
    const how = body === undefined ? {} : {
      method: "POST",
      headers: { "content-type": "application/json", "x-headlab": lab.csrf },
      body: JSON.stringify(body),
    };
    let answer;
    try {
      answer = await fetch(path, { ...how, credentials: "same-origin", redirect: "error" });
    } catch (_) {
      throw new Error("the server does not answer; was `headlab view` ended?");
    }
    const text = await answer.text();
    let data;
    try { data = JSON.parse(text); } catch (_) { data = { error: text.trim() || answer.statusText }; }
    if (!answer.ok) throw new Error(data.error || answer.statusText);
    return data;
  },

  // Post, and wait until the job that it began has ended.  `told(job)` is called while it runs.
  async job(path, body, told) {
    if (told) told({ state: "sent" });
    return lab.follow(await lab.ask(path, body), told);
  },

  // Wait until a job has ended, as it stands or by its id.
  async follow(job, told) {
    if (typeof job === "string") job = await lab.ask(`/jobs/${job}`);
    while (job.state === "waiting" || job.state === "running") {
      if (told) told(job);
      await new Promise((go) => setTimeout(go, 400));
      job = await lab.ask(`/jobs/${job.id}`);
    }
    if (told) told(job);
    if (job.state === "cancelled") throw new Error("cancelled");
    if (job.state === "failed") throw new Error(job.error);
    return job.result;
  },

  // An element: lab.el("p", {class: "quiet", onclick: f}, "text", child).  Text is text, whatever stands in it.
  el(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === false || value === null || value === undefined) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((c) => c !== null && c !== undefined));
    return node;
  },

  svg(name, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    node.append(...children);
    return node;
  },
};

// Shows a job's progress as words in `place`; `cancel` is a button that ends it.
lab.told = (place, cancel) => (job) => {
  const counted = job.total > 1 ? ` ${job.done} of ${job.total}` : "";
  if (job.state === "sent") { place.textContent = "…"; return; }
  place.textContent = job.state === "waiting" ? "waiting for what runs before it …" : `${job.step || job.what}${counted} …`;
  const going = job.state === "waiting" || job.state === "running";
  if (!going) place.textContent = "";
  if (!cancel) return;
  const shown = (yes) => {
    const before = cancel.previousElementSibling; // where the keyboard goes on when its button is gone
    if (!yes && document.activeElement === cancel) (before.querySelector("select") || before).focus();
    cancel.hidden = !yes;
  };
  shown(going);
  cancel.onclick = () => { shown(false); lab.ask(`/jobs/${job.id}/cancel`, {}); };
};

// A button whose work goes on: nothing happens when it is pressed, and the keyboard stays on it (a disabled one would lose it).
lab.busy = (button, on) => { button.disabled = false; button.setAttribute("aria-disabled", String(on)); };
lab.idle = (button) => button.getAttribute("aria-disabled") !== "true";

// A number with three figures; its interval behind it.
lab.number = (x) => (x === null || x === undefined || Number.isNaN(x) ? "undefined" : Number(x.toPrecision(3)).toString());
lab.estimate = (r) => lab.number(r.value) + (r.low === undefined || r.low === null ? "" : ` [${lab.number(r.low)}, ${lab.number(r.high)}]`);
