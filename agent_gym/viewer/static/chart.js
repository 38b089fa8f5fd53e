"use strict";
// Line charts: several series over the step, a band behind them, values on hover or with the arrow keys, a table for
// those who do not see them.

(() => {
  const { h, s, format } = gym;
  const WIDTH = 420;
  const HEIGHT = 220;
  const EDGE = { left: 46, right: 12, top: 10, bottom: 26 };

  /** Round numbers that divide a range, about `wanted` of them. */
  function ticks(low, high, wanted = 4) {
    const span = high - low || 1;
    const rough = span / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough) ?? rough;
    const found = [];
    for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++)
      found.push(index * step);
    return found;
  }

  /** A range that holds all values, with room around it. */
  function range(values, fixed, least = 0) {
    if (fixed) return fixed;
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (low > high) return [0, 1];
    // What is smaller than this is rounding, and must not look like a curve.
    if (least && Math.max(Math.abs(low), Math.abs(high)) < least) return low < 0 ? [-least, least] : [0, least];
    if (low === high) return low === 0 ? [0, 1] : [Math.min(0, low * 1.2), Math.max(0, low * 1.2)];
    // A range that nearly begins at zero begins there.
    if (low > 0 && low < 0.4 * high) low = 0;
    const room = (high - low) * 0.06;
    return [low === 0 ? 0 : low - room, high + room];
  }

  /** The exponential moving average of points, started without a bias. */
  function smooth(points, weight) {
    let mean = 0;
    let total = 0;
    return points.map(([x, y]) => {
      mean = weight * mean + (1 - weight) * y;
      total = weight * total + (1 - weight);
      return [x, mean / total];
    });
  }

  const MOST = 800;

  /** Points for drawing: of many, the lowest and the highest of each stretch. */
  function thin(points) {
    if (points.length <= MOST) return points;
    const kept = [];
    const size = Math.ceil(points.length / (MOST / 2));
    for (let start = 0; start < points.length; start += size) {
      const part = points.slice(start, start + size);
      const low = part.reduce((a, b) => (b[1] < a[1] ? b : a));
      const high = part.reduce((a, b) => (b[1] > a[1] ? b : a));
      kept.push(...(low[0] < high[0] ? [low, high] : low === high ? [low] : [high, low]));
    }
    return kept;
  }

  /**
   * Draw a chart.
   * @param series [{name, colour (number of the colour), points: [[x, y]...], kind: "line"|"dots", dash}]
   * @param bands [{name, colour, low: [[x, y]...], high: [[x, y]...]}]
   * @param options {title, note, y: format, domain: [low, high], least: the smallest reach of the axis, weight: of
   *   smoothing, whole: only whole numbers, end: the last step of the axis, open: (step, name of a series) => ...}
   */
  function chart(series, bands, options) {
    const { title, note = "", domain = null, least = 0, weight = 0, whole = false } = options;
    const written = options.y ?? format.number;
    const y = (value) => (value && Math.abs(value) < least / 100 ? "≈ 0" : written(value));
    const drawn = series.map((one) => ({
      ...one,
      shown: one.kind === "dots" || !weight ? one.points : smooth(one.points, weight),
    }));
    const all = [
      ...drawn.flatMap((one) => [...one.points, ...one.shown]),
      ...bands.flatMap((band) => [...band.low, ...band.high]),
    ];
    const xs = range(all.map(([x]) => x).concat(0));
    const view = {
      x: [0, Math.max(xs[1] / 1.06, options.end ?? 1, 1)],
      y: range(
        all.map((point) => point[1]),
        domain,
        least,
      ),
    };
    const at = {
      x: (value) => EDGE.left + ((value - view.x[0]) / (view.x[1] - view.x[0])) * (WIDTH - EDGE.left - EDGE.right),
      y: (value) =>
        HEIGHT - EDGE.bottom - ((value - view.y[0]) / (view.y[1] - view.y[0])) * (HEIGHT - EDGE.top - EDGE.bottom),
    };
    const id = `chart-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
    const picture = s("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-labelledby": id,
      tabindex: "0",
      class: "chart",
    });
    picture.append(s("title", { id }, `${title}: ${describe(drawn, y)}`), axes(view, at, y, whole));
    for (const band of bands) picture.append(area(band, at));
    for (const one of drawn) gym.append(picture, curve(one, at, weight));
    const cursor = s("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
    picture.append(cursor);
    listen(picture, cursor, { series: drawn, bands, at, y, open: options.open });
    const latest = h("span", { class: "latest" }, drawn.length ? y(drawn[0].shown.at(-1)?.[1]) : "");
    return h(
      "figure",
      { class: "chart-card", "data-chart": title },
      h(
        "figcaption",
        null,
        h("span", null, title, note && h("span", { class: "sub" }, ` ${note}`)),
        drawn.length === 1 ? latest : null,
      ),
      h("div", { class: "chart-frame" }, picture),
      keys(drawn, bands),
      gym.parts.fold("As a table", () => asTable(drawn, bands, y), { className: "small", id: `${id}-table` }),
    );
  }

  function describe(series, y) {
    const parts = series.map(({ name, points }) => `${name} from ${y(points[0]?.[1])} to ${y(points.at(-1)?.[1])}`);
    return parts.slice(0, 6).join(", ");
  }

  function axes(view, at, y, whole) {
    const group = s("g", { class: "axes" });
    for (const value of ticks(...view.y).filter((value) => !whole || Number.isInteger(value))) {
      group.append(s("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: at.y(value), y2: at.y(value) }));
      group.append(s("text", { x: EDGE.left - 7, y: at.y(value) + 4, "text-anchor": "end" }, y(value)));
    }
    for (const value of ticks(...view.x, 7).filter(Number.isInteger)) {
      group.append(s("text", { x: at.x(value), y: HEIGHT - 8, "text-anchor": "middle" }, format.number(value)));
    }
    group.append(s("text", { x: EDGE.left - 7, y: HEIGHT - 8, "text-anchor": "end" }, "step"));
    return group;
  }

  const path = (points, at) =>
    points.map(([x, y], index) => `${index ? "L" : "M"}${at.x(x).toFixed(1)} ${at.y(y).toFixed(1)}`).join("");

  function area(band, at) {
    const back = [...band.high].reverse();
    const outline = path(thin(band.low), at) + path(thin(back), at).replace("M", "L") + "Z";
    return s("path", { d: outline, class: `band series-${band.colour % 8}` }, s("title", null, band.name));
  }

  function curve(one, at, weight) {
    const colour = `series-${one.colour % 8}`;
    if (one.kind === "dots") {
      return one.points.map(([x, y]) =>
        s("circle", { cx: at.x(x), cy: at.y(y), r: 4, class: `dot ${colour}`, "data-name": one.name }),
      );
    }
    const parts = [];
    if (weight) parts.push(s("path", { d: path(thin(one.points), at), class: `curve faint ${colour}` }));
    parts.push(
      s("path", {
        d: path(thin(one.shown), at),
        class: `curve ${colour} ${one.dash ? "dash" : ""}`,
        "data-name": one.name,
      }),
    );
    if (one.points.length === 1)
      parts.push(s("circle", { cx: at.x(one.points[0][0]), cy: at.y(one.points[0][1]), r: 3, class: `dot ${colour}` }));
    return parts;
  }

  const swatch = (kind, colour, extra = "") =>
    s(
      "svg",
      { viewBox: "0 0 18 10", class: "swatch", "aria-hidden": "true" },
      {
        line: () => s("path", { d: "M0 5H18", class: `curve series-${colour % 8} ${extra}` }),
        dots: () => s("circle", { cx: 9, cy: 5, r: 3.6, class: `dot series-${colour % 8}` }),
        band: () => s("path", { d: "M0 0H18V10H0Z", class: `band series-${colour % 8}` }),
      }[kind](),
    );

  /** The legend of one chart, where there is more than one thing in it. */
  function keys(series, bands) {
    const known = new Map();
    for (const one of [...series, ...bands.map((band) => ({ ...band, kind: "band" }))]) {
      const label = one.label ?? one.name;
      known.set(label, [...(known.get(label) ?? []), one]);
    }
    if (known.size < 2) return null;
    // What all runs have is told once, in no run's colour: the colours are told at the top of the page.
    const entries = [...known].map(([label, [first, ...more]]) => [
      swatch(first.kind, more.length ? 7 : first.colour, first.dash ? "dash" : ""),
      label,
    ]);
    return h(
      "ul",
      { class: "keys" },
      entries.map(([picture, name]) => h("li", null, picture, name)),
    );
  }

  function listen(picture, cursor, { series, bands, at, y, open }) {
    const steps = [...new Set(series.flatMap((one) => one.points.map(([x]) => x)))].sort((a, b) => a - b);
    let chosen = steps.length - 1;
    const show = (index, x, top) => {
      chosen = Math.max(0, Math.min(steps.length - 1, index));
      const step = steps[chosen];
      if (step === undefined) return;
      cursor.setAttribute("x1", at.x(step));
      cursor.setAttribute("x2", at.x(step));
      cursor.setAttribute("visibility", "visible");
      gym.showTip(x, top, h("strong", null, `step ${step}`), values(series, bands, step, y), hint);
    };
    const hint = open ? h("div", { class: "sub" }, "click or Enter: the groups of this step") : null;
    const hide = () => {
      cursor.setAttribute("visibility", "hidden");
      gym.hideTip();
    };
    /** The series whose value at the chosen step is nearest to a height; the first one where there is no height. */
    const nearestTo = (height) => {
      const there = series
        .map((one) => [one, one.points.find(([x]) => x === steps[chosen])?.[1]])
        .filter(([, value]) => value !== undefined);
      const away = ([, value]) => (height === null ? 0 : Math.abs(at.y(value) - height));
      return there.sort((a, b) => away(a) - away(b))[0]?.[0];
    };
    const point = (event) => {
      const box = picture.getBoundingClientRect();
      const wanted = ((event.clientX - box.left) / box.width) * WIDTH;
      let nearest = 0;
      for (let i = 1; i < steps.length; i++)
        if (Math.abs(at.x(steps[i]) - wanted) < Math.abs(at.x(steps[nearest]) - wanted)) nearest = i;
      show(nearest, event.clientX, event.clientY);
      return ((event.clientY - box.top) / box.height) * HEIGHT;
    };
    if (open && steps.length) {
      picture.classList.add("opens");
      picture.addEventListener("click", (event) => {
        const height = point(event);
        // A finger that looks at a value has no other way to do so.
        if (event.pointerType !== "touch") open(steps[chosen], nearestTo(height));
      });
    }
    picture.addEventListener("pointermove", point);
    picture.addEventListener("pointerleave", hide);
    picture.addEventListener("blur", hide);
    picture.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && open && steps.length) open(steps[chosen], nearestTo(null));
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      const box = picture.getBoundingClientRect();
      show(chosen + move, box.left + box.width / 2, box.top + box.height / 2);
    });
  }

  function values(series, bands, step, y) {
    const lookUp = (points) => points.find(([x]) => x === step)?.[1];
    const rows = [];
    for (const one of series) {
      const value = lookUp(one.points);
      if (value !== undefined) rows.push([swatch(one.kind, one.colour, one.dash ? "dash" : ""), one.name, y(value)]);
    }
    for (const band of bands) {
      const [low, high] = [lookUp(band.low), lookUp(band.high)];
      if (low !== undefined && high !== undefined)
        rows.push([swatch("band", band.colour), band.name, `${y(low)} – ${y(high)}`]);
    }
    return h(
      "table",
      { class: "tip-table" },
      rows.map((cells) =>
        h(
          "tr",
          null,
          cells.map((cell) => h("td", null, cell)),
        ),
      ),
    );
  }

  function asTable(series, bands, y) {
    const columns = [
      ...series.map((one) => [one.name, one.points]),
      ...bands.flatMap((band) => [
        [`${band.name}, low`, band.low],
        [`${band.name}, high`, band.high],
      ]),
    ];
    const maps = columns.map(([, points]) => new Map(points));
    const steps = [...new Set(columns.flatMap(([, points]) => points.map(([x]) => x)))].sort((a, b) => a - b);
    const head = h(
      "tr",
      null,
      ["step", ...columns.map(([name]) => name)].map((name) => h("th", { scope: "col" }, name)),
    );
    const rows = steps.map((step) =>
      h(
        "tr",
        null,
        h("th", { scope: "row" }, step),
        maps.map((map) => h("td", { class: "number" }, map.has(step) ? y(map.get(step)) : "")),
      ),
    );
    return h(
      "div",
      { class: "table-scroll" },
      h("table", { class: "plain" }, h("thead", null, head), h("tbody", null, rows)),
    );
  }

  Object.assign(gym, { chart, ticks, swatch });
})();
