"use strict";
// Rates with their intervals as small pictures, and curves over k.

(() => {
  const { h, s, format } = gym;
  const WIDTH = 160;

  const place = (value, [low, high], width = WIDTH) => 4 + ((value - low) / (high - low)) * (width - 8);

  /** A rate as a bar with whiskers at the ends of its interval; marks for references. */
  function rateBar(entry, references = []) {
    const { rate, low, high } = entry;
    if (!format.given(rate)) return h("span", { class: "sub" }, "undefined");
    const x = (value) => place(value, [0, 1]);
    return s(
      "svg",
      {
        viewBox: `0 0 ${WIDTH} 22`,
        class: "whiskers",
        role: "img",
        "aria-label": `${format.percent(rate)}, 95% interval ${format.percent(low)} to ${format.percent(high)}`,
      },
      s("rect", { class: "whisker-track", x: 4, y: 8, width: WIDTH - 8, height: 6, rx: 3 }),
      s("rect", { class: "whisker-bar", x: 4, y: 8, width: Math.max(0, x(rate) - 4), height: 6, rx: 3 }),
      whisker(x(low), x(high), 11),
      s("circle", { class: "whisker-dot", cx: x(rate), cy: 11, r: 4 }),
      references
        .filter((reference) => format.given(reference.rate))
        .map((reference) =>
          s("path", { class: "reference", d: `M${x(reference.rate)} 2V20` }, s("title", null, reference.name)),
        ),
    );
  }

  function whisker(from, to, y) {
    return Number.isFinite(from) && Number.isFinite(to)
      ? s("path", { class: "whisker", d: `M${from} ${y - 6}V${y + 6}M${from} ${y}H${to}M${to} ${y - 6}V${y + 6}` })
      : null;
  }

  /** How far a scale around zero must go, so that all differences and their intervals fit. */
  const reachOf = (entries) =>
    1.08 *
    Math.max(0.05, ...entries.flatMap((one) => [one.difference, one.low, one.high].filter(format.given).map(Math.abs)));

  /** A difference with its interval around zero; a wide one says where the ends are. */
  function differenceBar(
    { difference, low, high },
    { width = WIDTH, reach = reachOf([{ difference, low, high }]) } = {},
  ) {
    if (!format.given(difference)) return h("span", { class: "sub" }, "undefined");
    const x = (value) => place(value, [-reach, reach], width);
    const clear = format.given(low) && (low > 0 || high < 0);
    return s(
      "svg",
      {
        viewBox: `0 0 ${width} ${width > WIDTH ? 40 : 22}`,
        class: `whiskers difference ${clear ? (difference > 0 ? "above" : "below") : ""}`,
        role: "img",
        "aria-label": `difference ${format.points(difference)}, ${format.points(low)} to ${format.points(high)}`,
      },
      s("path", { class: "zero", d: `M${x(0)} 1V21` }),
      format.given(low) ? whisker(x(low), x(high), 11) : null,
      s("circle", { class: "whisker-dot", cx: x(difference), cy: 11, r: 4.5 }),
      width > WIDTH ? ends(reach, x) : null,
    );
  }

  function ends(reach, x) {
    const labels = gym
      .ticks(-reach, reach, 6)
      .map((value) => s("text", { x: x(value), y: 36, "text-anchor": "middle" }, format.points(value)));
    return s("g", { class: "axes" }, labels);
  }

  /** Curves over k (pass@k and its kin): [{name, points: [[k, value]...]}]. */
  function overK(series) {
    const lines = series
      .filter((one) => one.points.length)
      .map((one, index) => ({ ...one, colour: index * 2, kind: "line" }));
    // One attempt a task says nothing about more of them.
    if (!lines.some((one) => one.points.length > 1)) return null;
    const ends = [420, 200];
    const ks = [...new Set(lines.flatMap((one) => one.points.map(([k]) => k)))].sort((a, b) => a - b);
    const x = (k) => 46 + (ks.length < 2 ? 0.5 : Math.log(k / ks[0]) / Math.log(ks.at(-1) / ks[0])) * (ends[0] - 70);
    const y = (value) => ends[1] - 28 - value * (ends[1] - 44);
    const picture = s("svg", {
      viewBox: `0 0 ${ends[0]} ${ends[1]}`,
      class: "chart",
      role: "img",
      "aria-label": lines
        .map((one) => `${one.name}: ${one.points.map(([k, v]) => `${format.percent(v)} at ${k}`).join(", ")}`)
        .join("; "),
    });
    const axes = s("g", { class: "axes" });
    for (const value of [0, 0.25, 0.5, 0.75, 1])
      axes.append(
        s("line", { x1: 46, x2: ends[0] - 16, y1: y(value), y2: y(value) }),
        s("text", { x: 40, y: y(value) + 4, "text-anchor": "end" }, format.percent(value)),
      );
    for (const k of ks) axes.append(s("text", { x: x(k), y: ends[1] - 8, "text-anchor": "middle" }, `k = ${k}`));
    picture.append(axes);
    for (const one of lines) {
      picture.append(
        s("path", {
          class: `curve series-${one.colour % 8}`,
          d: one.points.map(([k, value], index) => `${index ? "L" : "M"}${x(k)} ${y(value)}`).join(""),
        }),
      );
      for (const [k, value] of one.points) {
        const dot = s("circle", { class: `dot series-${one.colour % 8}`, cx: x(k), cy: y(value), r: 4, tabindex: "0" });
        picture.append(gym.tip(dot, () => `${one.name}, k = ${k}: ${format.percent(value)}`));
      }
    }
    return h(
      "figure",
      { class: "chart-card" },
      h("figcaption", null, "More attempts"),
      h("div", { class: "chart-frame" }, picture),
      h(
        "ul",
        { class: "keys" },
        lines.map((one) => h("li", null, gym.swatch("line", one.colour), one.name)),
      ),
    );
  }

  gym.whiskers = { rateBar, differenceBar, reachOf, overK };
})();
