"use strict";
// Charts as Vega-Lite specifications. Colours are the page's CSS variables, so that a theme, and the printer, recolour
// what is drawn already.
const charts = (() => {
  const config = {
    background: null, font: "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif", aria: false,
    view: { stroke: null },
    axis: { labelColor: "var(--soft)", titleColor: "var(--soft)", domainColor: "var(--line)", tickColor: "var(--line)",
      gridColor: "var(--line)", labelFontSize: 11, titleFontSize: 12, titleFontWeight: 400, labelFontWeight: 400 },
    title: { color: "var(--ink)", fontSize: 12, fontWeight: 600, anchor: "start" },
    text: { fill: "var(--ink)" }, legend: { labelColor: "var(--ink)", titleColor: "var(--soft)" },
  };

  const draw = (element, spec) => {
    const inside = document.createElement("div"); // Vega gives it roles of its own, and the element has its words already
    inside.ariaHidden = "true";
    element.replaceChildren(inside);
    return vegaEmbed(inside, spec, { mode: "vega-lite", renderer: "svg", actions: false, config }).then((drawn) => {
      if (element.scrollWidth > element.clientWidth) element.tabIndex = 0; // whoever scrolls by keyboard
      return drawn;
    });
  };

  // The cells of a picture: base64 of one byte each, with the rows and columns that each covers.
  const cells = (picture) => {
    const bytes = atob(picture.cells), across = cuts(picture.columns, picture.width), down = cuts(picture.rows, picture.height);
    return Array.from(bytes, (letter, i) => {
      const row = Math.floor(i / picture.width), column = i % picture.width, byte = letter.charCodeAt(0);
      const value = picture.signed ? (byte - 128) / 127 : (byte ? (byte - 1) / 254 : 0);
      return { x: across[column], x2: across[column + 1], y: down[row], y2: down[row + 1], v: value, zero: byte === 0 && !picture.signed };
    });
  };
  const cuts = (length, parts) => {
    const [size, larger] = [Math.floor(length / parts), length % parts];
    return Array.from({ length: parts + 1 }, (_, i) => i * size + Math.min(i, larger));
  };

  const number = (value) => value === 0 ? "0" : Math.abs(value) >= 1e4 || Math.abs(value) < 1e-2 ? value.toExponential(2) : String(+value.toPrecision(3));
  const across = (field, domain, title, options = {}) => ({ field, type: "quantitative", scale: { domain, nice: false, zero: false, ...options.scale },
    axis: options.axis === null ? null : { title, grid: false, tickCount: 5, format: "d", ...options.axis } });
  const shade = { field: "v", type: "quantitative", legend: null, scale: { domain: [0, 1], range: [0.3, 1] } };

  // The norms of the blocks, with the sums of its rows and columns at the edges.
  const blockMap = (element, map, width) => {
    const { norms } = map, edge = 44;
    const side = Math.min(width - edge - 70, 420), height = Math.max(60, Math.min(460, side * norms.rows / norms.columns));
    const wide = height >= 460 ? Math.max(60, 460 * norms.columns / norms.rows) : side;
    const x = (axis) => across("x", [0, norms.columns], "block column j (inputs)", { axis }), y = (axis) => across("y", [0, norms.rows], "block row p (outputs)", { axis, scale: { reverse: true } });
    const values = cells(norms).map((cell) => ({ ...cell, said: `${span(cell.y, cell.y2, "row")}, ${span(cell.x, cell.x2, "column")}: ${cell.zero ? "zero" : "norm " + number(cell.v * norms.top)}` }));
    const sums = (numbers, length, word) => {
      const at = cuts(length, numbers.length);
      return numbers.map((sum, i) => ({ a: at[i], a2: at[i + 1], sum, said: `${span(at[i], at[i + 1], word)}: sum of norms ${number(sum)}` }));
    };
    draw(element, {
      spacing: 4, vconcat: [
        { width: wide, height: edge, data: { values: sums(map.column_sums, norms.columns, "column") }, mark: { type: "rect", color: "var(--accent)", opacity: 0.7 },
          encoding: { x: { field: "a", type: "quantitative", scale: { domain: [0, norms.columns], nice: false }, axis: null }, x2: { field: "a2" },
            y: { field: "sum", type: "quantitative", axis: { title: "sum", tickCount: 2, grid: false } }, y2: { datum: 0 }, tooltip: { field: "said" } } },
        { spacing: 4, hconcat: [
          { width: wide, height, data: { values }, layer: [
            { transform: [{ filter: "datum.zero" }], mark: { type: "rect", color: "var(--zero)" }, encoding: { x: x({}), x2: { field: "x2" }, y: y({}), y2: { field: "y2" }, tooltip: { field: "said" } } },
            { transform: [{ filter: "!datum.zero" }], mark: { type: "rect", color: "var(--accent)" }, encoding: { x: x({}), x2: { field: "x2" }, y: y({}), y2: { field: "y2" }, opacity: shade, tooltip: { field: "said" } } },
          ] },
          { width: edge, height, data: { values: sums(map.row_sums, norms.rows, "row") }, mark: { type: "rect", color: "var(--accent)", opacity: 0.7 },
            encoding: { y: { field: "a", type: "quantitative", scale: { domain: [0, norms.rows], reverse: true, nice: false }, axis: null }, y2: { field: "a2" },
              x: { field: "sum", type: "quantitative", axis: { title: "sum", tickCount: 2, grid: false } }, x2: { datum: 0 }, tooltip: { field: "said" } } },
        ] },
      ],
    });
  };
  const span = (from, to, word) => to - from > 1 ? `${word}s ${from}–${to - 1}` : `${word} ${from}`;

  // S, and terms of A and B: signed, each on its own scale.
  const factors = (element, pictures, width) => {
    const columns = width < 480 ? 2 : 4, side = Math.floor((width - 46 * columns) / columns);
    draw(element, {
      columns, spacing: 14, resolve: { scale: { x: "independent", y: "independent" } },
      concat: pictures.map((picture) => {
        const ratio = picture.rows / picture.columns;
        const size = { width: Math.max(24, Math.min(side, side / ratio)), height: Math.max(24, Math.min(side, side * ratio)) };
        const values = cells(picture).map((cell) => ({ ...cell, size: Math.abs(cell.v), said: `${span(cell.y, cell.y2, "row")}, ${span(cell.x, cell.x2, "column")}: ${number(cell.v * picture.top)}` }));
        return { ...size, title: { text: `${picture.name}  ${picture.rows} × ${picture.columns}`, subtitle: `±${number(picture.top)}`, subtitleColor: "var(--soft)" }, data: { values }, mark: "rect",
          encoding: { x: across("x", [0, picture.columns], picture.name[0] === "B" ? "k" : "j", { axis: { tickCount: 2 } }), x2: { field: "x2" },
            y: across("y", [0, picture.rows], picture.name[0] === "B" ? "q" : "p", { axis: { tickCount: 2, titleAngle: 0 }, scale: { reverse: true } }), y2: { field: "y2" },
            color: { condition: { test: "datum.v < 0", value: "var(--minus)" }, value: "var(--plus)" },
            opacity: { field: "size", type: "quantitative", legend: null, scale: { domain: [0, 1], range: [0, 1] } }, tooltip: { field: "said" } } };
      }),
    });
  };

  // A drawn graph: boxes one below the other, the shape of what goes along on each edge.
  const graph = (element, drawing, width) => {
    const xs = drawing.boxes.map((box) => box.x), low = Math.min(...xs), high = Math.max(...xs), rows = Math.max(...drawing.boxes.map((box) => box.y));
    const across = Math.max(104, Math.min(150, (width - 90) / Math.max(1, high - low))), down = 74, [w, h] = [82, 28];
    const at = Object.fromEntries(drawing.boxes.map((box) => [box.name, { x: (box.x - low) * across + w / 2 + 2, y: box.y * down + h / 2 + 2 }]));
    const edges = drawing.wires.map(([from, to, shape]) => {
      const mx = at[from].x * 0.62 + at[to].x * 0.38, my = (at[from].y + h / 2) * 0.62 + (at[to].y - h / 2) * 0.38, half = 3.2 * shape.length + 2;
      return { x: at[from].x, y: at[from].y + h / 2, x2: at[to].x, y2: at[to].y - h / 2 - 5, mx, my, l: mx - half, r: mx + half, t: my - 8, b: my + 8, shape };
    });
    const boxes = drawing.boxes.map((box) => ({ name: box.name, x: at[box.name].x - w / 2, x2: at[box.name].x + w / 2, y: at[box.name].y - h / 2, y2: at[box.name].y + h / 2, cx: at[box.name].x, cy: at[box.name].y, operation: /^(MatMul|Mul|Gather|Einsum|Conv)/.test(box.name) }));
    const size = { width: (high - low) * across + w + 4, height: rows * down + h + 4 };
    const place = (field, of) => ({ field, type: "quantitative", axis: null, scale: { domain: [0, of], nice: false, ...(of === size.height ? { reverse: true } : {}) } });
    const x = (field) => place(field, size.width), y = (field) => place(field, size.height);
    draw(element, { ...size, layer: [
      { data: { values: edges }, mark: { type: "rule", color: "var(--soft)" }, encoding: { x: x("x"), y: y("y"), x2: { field: "x2" }, y2: { field: "y2" } } },
      { data: { values: edges }, mark: { type: "point", shape: "triangle-down", filled: true, size: 36, color: "var(--soft)", opacity: 1 }, encoding: { x: x("x2"), y: y("y2") } },
      { data: { values: boxes }, mark: { type: "rect", cornerRadius: 6, fill: "var(--card)", strokeWidth: 1.2 }, encoding: { x: x("x"), x2: { field: "x2" }, y: y("y"), y2: { field: "y2" }, stroke: { condition: { test: "datum.operation", value: "var(--accent)" }, value: "var(--soft)" } } },
      { data: { values: boxes }, mark: { type: "text", fontSize: 12 }, encoding: { x: x("cx"), y: y("cy"), text: { field: "name" } } },
      { data: { values: edges }, mark: { type: "rect", fill: "var(--paper)", opacity: 1 }, encoding: { x: x("l"), x2: { field: "r" }, y: y("t"), y2: { field: "b" } } },
      { data: { values: edges }, mark: { type: "text", fontSize: 11, fill: "var(--soft)" }, encoding: { x: x("mx"), y: y("my"), text: { field: "shape" } } },
    ] });
  };

  // What raced: a bar a way and a number of rows.
  const race = (element, laps, winner, width) => draw(element, {
    data: { values: laps.map((lap) => ({ ...lap, ms: lap.seconds * 1e3, at: `${lap.rows} row${lap.rows === 1 ? "" : "s"}`, won: lap.way === winner })) },
    facet: { row: { field: "at", sort: null, header: { title: null, labelAngle: 0, labelAlign: "left", labelColor: "var(--soft)" } } },
    spec: { width: Math.max(120, width - 210), height: { step: 20 }, encoding: { y: { field: "way", type: "nominal", sort: null, axis: { title: null, domain: false, ticks: false, labelColor: "var(--ink)" } } }, layer: [
      { mark: { type: "bar", height: 13 }, encoding: { x: { field: "ms", type: "quantitative", axis: { title: "milliseconds, median", tickCount: 4 } }, color: { condition: { test: "datum.won", value: "var(--accent)" }, value: "var(--c0)" } } },
      { mark: { type: "text", align: "left", dx: 4, fontSize: 11 }, encoding: { x: { field: "ms", type: "quantitative" }, text: { field: "ms", format: ".3~g" } } },
    ] },
  });

  // Lines of a training over the optimizer's steps.
  const lines = (element, curves, title, format, width, strong) => {
    const values = curves.flatMap((curve) => curve.points.map(([step, value]) => ({ step, value, name: curve.name })));
    draw(element, { width: width - 70, height: 220, data: { values }, mark: { type: "line", tooltip: true, interpolate: "linear" },
      encoding: { x: { field: "step", type: "quantitative", axis: { title: "optimizer steps", grid: false, tickCount: 6 } }, y: { field: "value", type: "quantitative", axis: { title, format, tickCount: 5 } },
        detail: { field: "name" }, tooltip: [{ field: "name" }, { field: "step" }, { field: "value", format: ".3~g" }],
        color: { condition: { test: { field: "name", equal: strong }, value: "var(--accent)" }, value: "var(--c0)" },
        strokeWidth: { condition: { test: { field: "name", equal: strong }, value: 2.5 }, value: 1 }, opacity: { condition: { test: { field: "name", equal: strong }, value: 1 }, value: 0.55 } } });
  };

  // The network in order: a bar a layer, and what was before as an outline.
  const network = (element, values, title, colours, width, open) => {
    const room = width - 70, step = Math.min(Math.max(56, 200 / values.length), Math.max(2, room / values.length)), share = values.every((value) => value.is_share);
    const x = { field: "place", type: "ordinal", axis: { title: "layers, from input to output", labels: false, ticks: false }, scale: { paddingInner: values.length > 150 ? 0 : 0.15, paddingOuter: 0 } };
    const y = (field) => ({ field, type: "quantitative", axis: { title, format: share ? "%" : "~s", tickCount: 4 }, scale: { domainMin: 0 } });
    draw(element, { width: step * values.length, height: 150, data: { values }, encoding: { x, tooltip: { field: "said" } }, layer: [
      ...(values.some((value) => value.before != null) ? [{ mark: { type: "bar", color: "var(--zero)", cursor: "pointer" }, encoding: { y: y("before") } }] : []),
      { mark: { type: "bar", cursor: "pointer", minBandSize: 1 }, encoding: { y: y("value"), color: { field: "way", type: "nominal", legend: null, scale: { domain: Object.keys(colours), range: Object.values(colours) } } } },
    ] }).then(({ view }) => view.addEventListener("click", (_, item) => item?.datum?.place !== undefined && open(item.datum.place)));
  };

  return { blockMap, factors, graph, race, lines, network, number };
})();
