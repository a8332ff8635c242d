// What can be touched: a null is brushed, heads are asked, tables are sorted.  The tables stand in the page; this only filters them.
(() => {
  const shown = (n) => Number(n.toPrecision(4));
  const made = (tag, text, parent) => parent.appendChild(Object.assign(document.createElement(tag), { textContent: text }));
  // "L1: 0 2; L2: 7" as L1H0, L1H2, L2H7
  const headsOf = (text) => text.split("; ").flatMap((part) => {
    const [layer, heads] = part.replace(/ *named$/, "").split(": ");
    return heads ? heads.split(" ").map((h) => `${layer}H${h}`) : [];
  });

  // While a null is brushed, the heads most often in its sets are outlined in the grid, in the null's colour.
  const outline = (heads) => document.querySelectorAll("section.heads").forEach((part) => {
    const links = [...part.querySelectorAll("a.head")];
    links.forEach((link) => link.classList.toggle("often", heads.includes(link.hash.split("-").pop())));
    part.querySelector(".often-key").hidden = !links.some((link) => link.classList.contains("often"));
  });

  for (const sets of document.querySelectorAll(".sets")) {
    const figure = sets.closest("figure");
    const [box, from, to, said] = [".brush", ".from", ".to", ".brushed"].map((c) => sets.querySelector(c));
    const rows = [...sets.querySelectorAll("tbody tr")].map((row) => ({
      row, value: Number(row.cells[0].textContent), heads: row.cells[1] ? headsOf(row.cells[1].textContent) : [],
    }));
    const bound = (input, other) => (input.value === "" ? other : Number(input.value));
    let view, drawing = false; // only a hand on the chart writes the numbers: not what was typed, not a chart drawn anew

    const tell = () => {
      const ends = [bound(from, -Infinity), bound(to, Infinity)];
      const [low, high] = [Math.min(...ends), Math.max(...ends)];
      const here = rows.filter((r) => (r.row.hidden = !(r.value >= low && r.value <= high)) === false);
      const often = new Map();
      here.forEach((r) => r.heads.forEach((h) => often.set(h, (often.get(h) || 0) + 1)));
      const every = here.length === rows.length, top = [...often].sort((a, b) => b[1] - a[1]).slice(0, 6);
      const most = top.map(([h, n]) => `${h} (${n})`);
      outline(every ? [] : top.map(([h]) => h));
      said.textContent = every ? "" : `${here.length} of ${rows.length} ${sets.dataset.unit} lie here.${most.length ? ` Heads most often in them: ${most.join(", ")}.` : ""}`;
      return every;
    };
    const typed = () => {
      drawing = false;
      const every = tell();
      if (!every) sets.querySelector("details").open = true;
      if (view) {
        const scale = view.scale("x");
        const [low, high] = scale.domain();
        const at = [bound(from, low), bound(to, high)].map((v) => scale(Math.min(high, Math.max(low, v))));
        view.signal("brush_x", every ? [] : at).runAsync();
      }
    };
    box.hidden = false;
    from.addEventListener("input", typed);
    to.addEventListener("input", typed);
    sets.querySelector(".clear").addEventListener("click", () => { from.value = to.value = ""; typed(); });
    figure.querySelector(".live").addEventListener("pointerdown", () => { drawing = true; });
    figure.addEventListener("drawn", ({ detail }) => {
      view = detail;
      drawing = false;
      view.addSignalListener("brush", (_, { bin }) => {
        if (!drawing) return;
        [from.value, to.value] = bin ? bin.map(shown) : ["", ""];
        if (!tell()) sets.querySelector("details").open = true;
      });
      if (from.value + to.value) typed();
    });
  }

  // A slider walks the steps of a curve: what every series is there, in words, in the table and as a line in the chart.
  for (const part of document.querySelectorAll(".steps")) {
    const figure = part.closest("figure"), slider = part.querySelector("input"), said = part.querySelector("output");
    const rows = [...part.querySelectorAll("tbody tr")], names = [...part.querySelectorAll("thead th")].map((c) => c.textContent);
    const line = document.createElement("div");
    let view;
    const tell = () => {
      const row = rows[slider.value], [x, ...cells] = [...row.cells].map((c) => c.textContent);
      rows.forEach((r) => r.removeAttribute("aria-current"));
      row.setAttribute("aria-current", "true");
      slider.setAttribute("aria-valuetext", x);
      said.textContent = `${x}: ${cells.map((c, i) => (cells.length > 1 ? `${names[i + 1]} ${c}` : c)).join("; ")}`;
      if (!view) return;
      const [left, top] = view.origin(), host = figure.querySelector(".live");
      line.className = "at-step";
      Object.assign(line.style, { left: `${left + view.scale("x")(Number(x)) + view.padding().left}px`, top: `${top + view.padding().top}px`, height: `${view.height()}px` });
      host.append(line);
    };
    part.querySelector(".slide").hidden = false;
    slider.addEventListener("input", tell);
    figure.addEventListener("drawn", ({ detail }) => { view = detail; if (said.textContent) tell(); });
  }

  // A heading sorts its column: up, down, and back to the groups as they stood.
  for (const table of document.querySelectorAll("table.sortable")) {
    const bodies = [...table.tBodies], before = bodies.map((b) => [...b.rows]);
    const rows = before.flat().filter((r) => !r.classList.contains("group"));
    const heads = [...table.tHead.rows[0].cells];
    const key = (row, i) => row.cells[i].innerText.trim();
    heads.forEach((th, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = th.textContent;
      th.replaceChildren(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: "" }[th.getAttribute("aria-sort")] ?? "ascending";
        heads.forEach((o) => o.removeAttribute("aria-sort"));
        bodies.forEach((b, n) => b.replaceChildren(...before[n]));
        if (!next) return;
        th.setAttribute("aria-sort", next);
        const turn = next === "ascending" ? 1 : -1;
        const sorted = rows.map((r) => [r, key(r, i)]).sort(([, a], [, b]) => {
          if (a === "–" || b === "–") return (a === "–") - (b === "–"); // what is not there stands last
          const [x, y] = [parseFloat(a), parseFloat(b)];
          return turn * (Number.isFinite(x) && Number.isFinite(y) ? x - y : a.localeCompare(b));
        });
        bodies.forEach((b) => b.replaceChildren());
        bodies[0].append(...sorted.map(([r]) => r));
      });
    });
  }

  // What a head attends to: the picture's pixels are the weights; a token that is chosen says where its attention goes.
  const visible = (text) => text.replaceAll(" ", "·").replaceAll("\n", "↵") || "∅";
  const percent = (w) => (w > 0.99 ? "over 99" : String(Math.round(100 * w))); // pixels know a weight to 0.2 %
  async function weightsOf(picture) {
    picture.loading = "eager";
    await picture.decode();
    const { naturalWidth: width, naturalHeight: height } = picture;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const paper = canvas.getContext("2d");
    paper.drawImage(picture, 0, 0);
    const { data } = paper.getImageData(0, 0, width, height);
    return Array.from({ length: height }, (_, q) => Array.from({ length: q + 1 }, (_, k) => 1 - data[4 * (q * width + k)] / 255));
  }
  function prompt(item, weights, words) {
    const tokens = [...item.querySelectorAll(".prompt-text > span:not(.read-here)")];
    const one = made("li", "", document.createElement("ul")), text = made("p", "", one), said = made("p", "", one);
    one.className = "prompt";
    one.prepend(...[...item.querySelectorAll("b, b + .quiet")].flatMap((e) => [e.cloneNode(true), " "]));
    text.className = "prompt-text";
    said.className = "quiet";
    const buttons = tokens.map((token) => Object.assign(made("button", token.textContent === "" ? "∅" : token.textContent, text), { type: "button", title: token.title }));
    tokens.forEach((token, k) => token.className && buttons[k].setAttribute("class", token.className));
    const from = (q) => {
      buttons.forEach((b, k) => {
        const share = k <= q ? weights[q][k] : 0, role = tokens[k].title;
        b.style.setProperty("--share", (0.45 * share).toFixed(3));
        b.tabIndex = k === q ? 0 : -1;
        b.setAttribute("aria-pressed", String(k === q));
        b.setAttribute("aria-label", `${visible(tokens[k].textContent)}${role && `, ${role}`}, ${percent(share)} percent`);
      });
      const most = weights[q].map((w, k) => [w, k]).sort((a, b) => b[0] - a[0]).slice(0, 3).filter(([w]) => w >= 0.005);
      said.textContent = `From “${visible(tokens[q].textContent)}” (${q}${q === tokens.length - 1 ? ", where the answer is read" : ""}): `
        + (q === tokens.length - 1 ? words : most.map(([w, k]) => `${percent(w)}% to “${visible(tokens[k].textContent)}” (${k})`).join(", "));
    };
    buttons.forEach((b, q) => {
      b.addEventListener("click", () => from(q));
      b.addEventListener("keydown", (event) => {
        const next = buttons[q + ({ ArrowLeft: -1, ArrowRight: 1 }[event.key] || NaN)];
        if (next) { event.preventDefault(); from(buttons.indexOf(next)); next.focus(); }
      });
    });
    from(tokens.length - 1);
    made("span", "▸", text).className = "read-here";
    return one;
  }
  async function attend(part, head) {
    const box = part.querySelector(".attends");
    if (!box) return;
    const row = part.querySelector(`.patterns tr[data-head="${head}"]`);
    box.dataset.head = head;
    box.hidden = !row;
    if (!row) return;
    const items = [...part.querySelectorAll(".patterns .tokens > li")], pictures = [...row.querySelectorAll("img")];
    const each = await Promise.all(pictures.map(weightsOf));
    if (box.dataset.head !== head) return; // another was chosen meanwhile
    box.replaceChildren();
    made("p", `What ${head} attends to; choose a token to ask from it.`, box);
    const list = made("ul", "", box);
    list.className = "sides";
    list.append(...items.map((item, i) => {
      const one = prompt(item, each[i], pictures[i].parentElement.textContent.trim());
      one.append(Object.assign(pictures[i].cloneNode(), { loading: "eager" }));
      return one;
    }));
  }

  for (const part of document.querySelectorAll("section.heads")) {
    const every = part.querySelector(".every-head"), told = part.querySelector(".told"), select = part.querySelector("select");
    const titles = [...every.tHead.rows[1].cells].map((c) => c.textContent);
    let first = 1; // of the row's cells, the head's name the 0th
    const groups = [...every.tHead.rows[0].cells].slice(1).map((cell) => {
      const group = { title: cell.textContent, first, columns: titles.slice(first - 1, first - 1 + cell.colSpan), shade: Number(cell.dataset.shade) };
      first += cell.colSpan;
      return group;
    });
    const links = [...part.querySelectorAll("a.head")];
    const rowOf = (link) => document.getElementById(link.hash.slice(1));
    const number = (text) => Number(text.replaceAll(",", "").replace("−", "-"));

    const tell = (link) => {
      links.forEach((l) => l.removeAttribute("aria-current"));
      link.setAttribute("aria-current", "true");
      told.replaceChildren();
      const row = rowOf(link);
      made("p", "", told).append(made("b", row.cells[0].textContent, told));
      attend(part, row.cells[0].textContent);
      for (const { title, first, columns } of groups) {
        const cells = columns.map((c, i) => [c, row.cells[first + i].textContent]).filter(([, text]) => text !== "–");
        if (cells.length < 2) continue;
        made("p", title, told).className = "quiet";
        const list = made("dl", "", told);
        list.className = "facts";
        for (const [name, text] of cells) {
          const one = made("div", "", list);
          made("dt", name, one);
          made("dd", text, one);
        }
      }
    };
    const colour = ({ first, columns, shade }) => {
      const values = links.map((l) => number(rowOf(l).cells[first + shade].textContent));
      const most = Math.max(...values.filter(Number.isFinite).map(Math.abs), 0);
      links.forEach((link, i) => {
        const row = rowOf(link), named = row.cells[first].textContent === "yes", value = values[i];
        const step = most ? Math.sign(value) * Math.round((4 * Math.abs(value)) / most) : 0;
        const known = Number.isFinite(value);
        link.className = `head ${!known ? "none" : step ? `${step > 0 ? "more" : "less"}-${Math.abs(step)}` : "same"}${named ? " named" : ""}${link.classList.contains("often") ? " often" : ""}`;
        link.textContent = known ? String(Number(value.toPrecision(2))) : "";
        link.setAttribute("aria-label", `${row.cells[0].textContent}${named ? ", named" : ""}${known ? `, ${columns[shade]} ${row.cells[first + shade].textContent}` : ""}`);
      });
    };
    if (select) {
      part.querySelector(".choose").hidden = false;
      part.querySelector(".what").hidden = true;
      select.addEventListener("change", () => colour(groups[select.selectedIndex]));
    }
    // One stop for the tab key; arrows go from head to head.
    links.forEach((link, i) => {
      link.tabIndex = i ? -1 : 0;
      link.setAttribute("role", "button");
      link.addEventListener("click", (event) => { event.preventDefault(); tell(link); });
      link.addEventListener("focus", () => links.forEach((l) => { l.tabIndex = l === link ? 0 : -1; }));
      link.addEventListener("keydown", (event) => {
        if (event.key === " " || event.key === "Enter") { event.preventDefault(); tell(link); return; }
        const cell = link.parentElement, row = cell.parentElement;
        const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
        if (!step) return;
        event.preventDefault();
        const rows = [...row.parentElement.rows];
        for (let y = rows.indexOf(row) + step[0], x = cell.cellIndex + step[1]; rows[y] && rows[y].cells[x]; y += step[0], x += step[1]) {
          const next = rows[y].cells[x].querySelector("a");
          if (next) { next.focus(); break; }
        }
      });
    });
  }
})();
