"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent), { layers } = data, before = new Map(Object.entries(data.before));
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const counted = (value) => Math.round(value).toLocaleString("en");
  const percent = (value) => `${(100 * value).toFixed(1)}%`;

  // Theme: the system's, until a person chooses.
  $("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("kronfx-theme", theme); } catch { /* a page from a file may not keep anything */ }
  });

  // The network in order.
  const ways = [...new Set(layers.map((layer) => layer.runs_as))].sort((a, b) => (b === "linear" || b === "dense") - (a === "linear" || a === "dense"));
  const colours = Object.fromEntries(ways.map((way, i) => [way, `var(--c${way === "linear" || way === "dense" ? 0 : 1 + (i - ways.filter((w) => w === "linear" || w === "dense").length) % 5})`]));
  const METRICS = {
    cost: { name: "cost", title: "multiply-adds a row", of: (layer) => layer.work },
    bytes: { name: "bytes", title: "bytes in the file", of: (layer) => layer.bytes },
    entries: { name: "entries", title: "entries kept", of: (layer) => layer.stored || undefined },
    zeros: { name: "zeros", title: "zero blocks", of: (layer) => layer.blocks ? (layer.zero_blocks || 0) / layer.blocks : undefined, share: true },
  };
  const known = Object.keys(METRICS).filter((key) => layers[METRICS[key].share ? "some" : "every"]((layer) => METRICS[key].of(layer) !== undefined) && !(key === "entries" && layers.some((layer) => layer.bytes)));
  let metric = known[0];

  const drawNetwork = () => {
    const { of, title, share } = METRICS[metric], element = $("network");
    const whole = layers.reduce((sum, layer) => sum + (of(layer) || 0), 0) || 1;
    const was = layers.map((layer) => before.has(layer.site) ? of(before.get(layer.site)) : undefined);
    const scale = share ? 1 : was.some((value) => value !== undefined) ? was.reduce((sum, value) => sum + (value || 0), 0) || whole : whole;
    const values = layers.map((layer, place) => {
      const value = of(layer);
      const said = value === undefined ? "not known" : share ? `${percent(value)} zero blocks` : `${counted(value)} ${title}, ${percent(value / whole)} of all`;
      return { place, value: (value || 0) / scale, before: was[place] === undefined ? null : was[place] / scale, way: layer.runs_as, is_share: true, said: `${layer.site}: ${said}, ${layer.runs_as}` };
    });
    charts.network(element, values, share ? "zero blocks" : `share of ${METRICS[metric].name}`, colours, element.clientWidth - 24, open);
    const key = ways.map((way) => { const swatch = make("i"); swatch.style.background = colours[way]; return make("span", { className: "key" }, swatch, way); });
    if (was.some((value) => value !== undefined)) { const swatch = make("i"); swatch.style.background = "var(--zero)"; key.push(make("span", { className: "key" }, swatch, "before")); }
    $("network-caption").replaceChildren(...key, `A bar a layer, ${share ? "share of its blocks that are zero" : `its share of all ${title}${scale === whole ? "" : " before"}`}.`);
  };
  // Training curves.
  const training = $("training");
  const curve = (curves, title, format, strong, words) => {
    const chart = make("div", { className: "chart", role: "img", ariaLabel: words });
    training.append(make("figure", {}, chart, make("figcaption", {}, `${words} `, make("code", {}, "kx.train.History(path).lines()"))));
    return () => charts.lines(chart, curves, title, format, chart.clientWidth, strong);
  };
  if (training) {
    const last = data.curves[0].points.at(-1);
    const drawn = [curve(data.curves, "zero blocks", "%", "all layers", `Share of zero groups over the steps: all layers together (strong) and each; ${percent(last[1])} at step ${last[0]}.`)];
    for (const figure of data.figures) drawn.push(curve([figure], figure.name, ".3~g", figure.name, `${figure.name} over the steps, ${charts.number(figure.points.at(-1)[1])} at the end.`));
    for (const draw of drawn) draw(); // once all have their places
  }

  // The table: sort, filter, search.
  const table = $("layers");
  const body = table && table.tBodies[0], rows = table ? [...body.rows] : [];
  const sort = (column, header) => {
    const down = header.getAttribute("aria-sort") === "ascending", numeric = header.classList.contains("number");
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.key;
    const words = new Intl.Collator("en", { numeric: true });
    rows.sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      if (left === "" || right === "") return (left === "") - (right === "");
      return (down ? -1 : 1) * (numeric ? left - right : words.compare(left, right));
    });
    body.append(...rows);
  };
  const filter = () => {
    const wanted = $("search").value.trim().toLowerCase(), way = $("way") ? $("way").value : "", zeros = $("zeros-only").checked;
    let shown = 0;
    for (const row of rows) {
      const layer = layers[row.dataset.index];
      row.hidden = !(layer.site.toLowerCase().includes(wanted) && (!way || layer.runs_as === way) && (!zeros || layer.zero_blocks > 0));
      shown += !row.hidden;
    }
    $("count").textContent = shown === rows.length ? `${shown} layer${shown === 1 ? "" : "s"}` : `${shown} of ${rows.length}`;
  };
  if (table) {
    [...table.tHead.rows[0].cells].forEach((header, column) => header.firstChild.addEventListener("click", () => sort(column, header)));
    for (const control of ["search", "way", "zeros-only"]) $(control)?.addEventListener("input", filter);
    body.addEventListener("click", (event) => open(+event.target.closest("tr").dataset.index));
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && !/INPUT|SELECT/.test(document.activeElement.tagName) && !panel.open) { event.preventDefault(); $("search").focus(); }
    });
  }

  // The panel of a layer.
  const panel = $("panel"), inside = $("panel-body");
  let shown = 0;
  const figure = (label, caption, command, drawn, into = inside) => {
    const chart = make("div", { className: "chart", role: "img", ariaLabel: label });
    into.append(make("figure", {}, chart, make("figcaption", {}, ...[caption].flat(), " ", command ? make("code", {}, command) : null)));
    return () => drawn(chart, chart.clientWidth);
  };
  const heading = (text) => inside.append(make("h3", {}, text));
  const swatch = (colour, text, ramp) => { const mark = make("i", { className: ramp ? "ramp" : "" }); mark.style.background = colour; return make("span", { className: "key" }, mark, text); };

  const facts = (layer) => {
    const list = make("dl", { className: "facts" });
    const fact = (name, value) => value === undefined || value === null || list.append(make("div", {}, make("dt", {}, name), make("dd", {}, String(value))));
    fact("W", `${counted(layer.m)} × ${counted(layer.n)}${layer.stack > 1 ? `, ${layer.stack} of them` : ""}`);
    fact("state", layer.state);
    if (layer.shape) fact("blocks", `${layer.shape.m1} × ${layer.shape.n1} of ${layer.shape.m2} × ${layer.shape.n2}`);
    fact("rank", layer.rank);
    fact("runs as", layer.runs_as);
    if (layer.blocks) fact("zero blocks", `${counted(layer.zero_blocks || 0)} of ${counted(layer.blocks)}, ${percent((layer.zero_blocks || 0) / layer.blocks)}`);
    if (layer.stored) fact("entries", `${counted(layer.stored)} of ${counted(layer.dense)}`);
    if (layer.bytes !== undefined) fact("bytes", `${counted(layer.bytes)} of ${counted(layer.dense_bytes)}`);
    if (layer.work) fact("multiply-adds a row", `${counted(layer.work)} of ${counted(layer.dense_work)}`);
    if (layer.energy !== undefined) fact("energy kept", percent(layer.energy));
    return list;
  };
  const mapOf = (layer, when, command, into) => {
    const { norms } = layer.map, whole = norms.height === norms.rows && norms.width === norms.columns;
    const zeros = layer.blocks ? `${percent((layer.zero_blocks || 0) / layer.blocks)} of ${counted(layer.blocks)} blocks are exactly zero. ` : "";
    const scaled = whole ? "" : `Drawn at ${norms.height} × ${norms.width} cells, each the root mean square of those it covers, grey where all are zero. `;
    return figure(`Block map${when}: norms of ${norms.rows} by ${norms.columns} blocks, the largest ${charts.number(norms.top)}. ${zeros}`,
      [when ? make("strong", {}, `${when.trim()} `) : null, swatch("var(--zero)", "exactly zero"), swatch("linear-gradient(90deg, color-mix(in srgb, var(--accent) 30%, transparent), var(--accent))", `norm up to ${charts.number(norms.top)}`, true), zeros, scaled, "At the edges: sums of norms."],
      command, (chart, width) => charts.blockMap(chart, layer.map, width), into);
  };
  const timed = (layer) => {
    const list = [["predicted", layer.predicted], ["measured", layer.measured]].filter(([, seconds]) => seconds !== undefined).map(([way, seconds]) => ({ way, seconds, rows: 0 }));
    if (!list.length) return;
    heading("A training step of this layer");
    const said = list.map(({ way, seconds }) => `${way} ${(1e3 * seconds).toPrecision(3)} ms`);
    if (list.length === 2) said.push(`${percent(list[1].seconds / list[0].seconds - 1)} apart`);
    inside.append(make("p", { className: "prose" }, said.join(", ") + ". ", make("code", {}, "kx.plan(model), kx.tune(model, x)")));
  };

  const show = (index) => {
    shown = index;
    const layer = layers[index], earlier = before.get(layer.site);
    $("panel-title").textContent = layer.site;
    $("previous").disabled = index === 0;
    $("next").disabled = index === layers.length - 1;
    inside.replaceChildren(facts(layer));
    if (layer.map || (earlier && earlier.map)) {
      heading("Block map");
      const sides = make("div", { className: "sides" }), drawn = [];
      inside.append(sides);
      if (earlier && earlier.map) drawn.push(mapOf(earlier, " before", "kx.inspect(before)", sides));
      if (layer.map) drawn.push(mapOf(layer, earlier && earlier.map ? " after" : "", earlier ? "kx.inspect(after)" : "kx.inspect(model)", sides));
      for (const draw of drawn) draw();
    }
    heading("Products");
    const sides = make("div", { className: "sides" });
    inside.append(sides);
    const drawings = earlier && earlier.drawings.length > 1 ? [...earlier.drawings, ...layer.drawings.slice(1)] : layer.drawings;
    for (const drawing of drawings) {
      const words = drawing.wires.map(([from, to, shape]) => `${from} to ${to}, ${shape}`).join("; ");
      const chart = make("div", { className: "chart", role: "img", ariaLabel: `${drawing.caption}: ${words}` });
      const wide = Math.max(...drawing.boxes.map((box) => Math.abs(box.x))) > 1;
      sides.append(make("figure", { className: wide ? "whole" : "" }, chart, make("figcaption", {}, drawing.caption)));
      charts.graph(chart, drawing, chart.clientWidth);
    }
    const owner = layer.factors ? layer : earlier && earlier.factors ? earlier : null;
    if (owner) {
      heading("Factors");
      const reduced = owner.factors.some((picture) => picture.height < picture.rows || picture.width < picture.columns);
      figure(`Pictures of ${owner.factors.map((picture) => picture.name).join(", ")}: signed entries, each on its own scale.`,
        [swatch("var(--plus)", "positive"), swatch("var(--minus)", "negative"), `Stronger is larger, each on its own scale; block row p and column j, row q and column k of a block. ${owner.rank > 3 ? `The first 3 of ${owner.rank} terms. ` : ""}${reduced ? "Cells are means where there are more entries than cells." : ""}`],
        `kx.factors(model)[${JSON.stringify(owner.site)}]`, (chart, width) => charts.factors(chart, owner.factors, width))();
    }
    if (layer.why || layer.laps) {
      heading("How it runs, and what raced");
      if (layer.why) inside.append(make("p", { className: "prose" }, `${layer.why}.`));
      if (layer.laps) figure(layer.laps.map((lap) => `${lap.way} ${(1e3 * lap.seconds).toPrecision(3)} ms at ${lap.rows} rows`).join("; "), "Each way alone, in onnxruntime; the one that runs is coloured.", "report.timings", (chart, width) => charts.race(chart, layer.laps, layer.runs_as, width))();
    }
    timed(layer);
    if (layer.proof) {
      heading("The integer program");
      const { proof } = layer;
      inside.append(make("p", { className: "prose" }, `${proof.sentence}. `, make("code", {}, proof.command)));
      const rows = proof.ranked.map((one, place) => make("tr", { className: place ? "" : "won" }, make("td", {}, one.shape), make("td", { className: "number" }, counted(one.value))));
      inside.append(make("table", { className: "ranked" }, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "shape"), make("th", { scope: "col", className: "number" }, proof.unit))), make("tbody", {}, ...rows)));
    }
    panel.scrollTop = 0;
  };
  const open = (index) => {
    if (!panel.open) panel.showModal();
    show(index);
    $("panel-title").focus();
  };
  const step = (by) => layers[shown + by] && show(shown + by);
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => panel.close());
  panel.addEventListener("click", (event) => event.target === panel && panel.close());
  panel.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  if (layers.length && !known.length) $("network").closest("section").remove();
  if (layers.length && known.length) {
    for (const key of known) {
      const input = make("input", { type: "radio", name: "metric", value: key, checked: key === metric });
      input.addEventListener("change", () => { metric = key; drawNetwork(); });
      $("metrics").append(make("label", {}, input, METRICS[key].name));
    }
    $("metrics").hidden = known.length < 2;
    drawNetwork();
  }

  let waiting;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => { if (layers.length && known.length) drawNetwork(); if (panel.open) show(shown); }, 150); });
})();
