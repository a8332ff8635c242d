"use strict";
// Draws each chart when it comes into view, in the reader's colour scheme, and offers it as PNG and SVG.
(() => {
  const themes = JSON.parse(document.getElementById("chart-themes").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Nothing is ever fetched: a specification that names a file or an address gets an error instead.
  const refuse = () => Promise.reject(new Error("this page loads nothing"));
  const loader = { load: refuse, sanitize: refuse, http: refuse, file: refuse };
  // ast: expressions are interpreted, so that the page needs no permission to make code from text.
  const common = { mode: "vega-lite", ast: true, actions: false, defaultStyle: false, logLevel: 1, loader };

  const specOf = (figure) => JSON.parse(figure.querySelector("script.spec").textContent);

  // The chart library, unpacked when the first chart comes into view; the page's policy names it by its hash.
  let library;
  async function unpack() {
    const packed = Uint8Array.from(atob(document.getElementById("charts").textContent), (c) => c.charCodeAt(0));
    const code = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    document.head.append(Object.assign(document.createElement("script"), { textContent: code }));
  }
  const charts = () => (library ||= unpack());

  async function draw(figure) {
    const host = figure.querySelector(".live");
    const spec = specOf(figure);
    delete spec.title; // it stands in the caption
    const sets = figure.querySelector(".brush");
    const mark = { fill: "#5b9bd6", fillOpacity: 0.25, stroke: "#5b9bd6" };
    if (sets) spec.layer[0].params = [{ name: "brush", select: { type: "interval", encodings: ["x"], zoom: false, mark } }];
    try {
      await charts();
      figure.classList.add("is-live");
      const { view } = await vegaEmbed(host, spec, {
        ...common,
        renderer: "svg",
        config: themes[dark.matches ? "dark" : "light"],
        tooltip: { theme: dark.matches ? "dark" : "light" },
      });
      host.querySelector("svg").setAttribute("aria-hidden", "true"); // its host is the picture, and says what it shows
      figure.dispatchEvent(new CustomEvent("drawn", { detail: view }));
    } catch (error) {
      figure.classList.remove("is-live"); // the still picture comes back
      console.error(error);
    }
  }

  async function save(figure, kind) {
    await charts();
    const away = document.createElement("div");
    const spec = { ...specOf(figure), width: 640 };
    const { view } = await vegaEmbed(away, spec, { ...common, renderer: "canvas", config: themes.light });
    const link = document.createElement("a");
    link.href = await view.toImageURL(kind, 2);
    link.download = `${figure.dataset.name}.${kind}`;
    link.click();
    view.finalize();
  }

  const figures = [...document.querySelectorAll("figure.chart")];
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        seen.unobserve(target);
        draw(target);
      }
    }
  }, { rootMargin: "300px" });
  for (const figure of figures) {
    seen.observe(figure);
    for (const button of figure.querySelectorAll("[data-save]")) {
      button.hidden = false;
      button.addEventListener("click", () => save(figure, button.dataset.save));
    }
  }
  dark.addEventListener("change", () => figures.filter((f) => f.classList.contains("is-live")).forEach(draw));

  // A link to a report inside a closed section opens it.
  const open = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const closed = target && target.closest("details");
    if (closed) {
      closed.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", open);
  open();
  addEventListener("beforeprint", () => {
    document.querySelectorAll("main > .part > details.provenance").forEach((d) => { d.open = true; });
  });
})();
