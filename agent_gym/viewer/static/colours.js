"use strict";
// Colours for values of tokens: from nothing to full for one sign, blue to orange around zero for two.

(() => {
  const { h, format } = gym;

  const NAMES = {
    "log-probability": "log-probability",
    base_advantage: "base advantage",
    log_ratio: "log-ratio",
    kl: "KL",
  };
  const SIGNED = /advantage|log_ratio|^kl$|^reward$|^value$/;

  /** Below this a value is the rounding of two computations, and must not look like more. */
  const LEAST = { log_ratio: 1e-3, kl: 1e-3 };

  /** What a value is called. */
  const label = (name) => NAMES[name] ?? format.words(name);

  /** The scale of a value over all tokens shown: {kind, low, high, middle}. */
  function scaleOf(name, values) {
    const known = values.filter(format.given);
    if (!known.length) return { kind: "none", low: 0, high: 0, middle: 0 };
    const sorted = [...known].sort((a, b) => a - b);
    // One token far out must not turn all others pale.
    const [low, high] = [sorted[Math.floor((sorted.length - 1) * 0.01)], sorted[Math.ceil((sorted.length - 1) * 0.99)]];
    // A factor of one changes nothing.
    const around = name === "weight" || name === "importance" ? 1 : 0;
    if (around || SIGNED.test(name) || (low < 0 && high > 0)) {
      const reach = Math.max(Math.abs(low - around), Math.abs(high - around), LEAST[name] ?? 0);
      return { kind: "two", low: around - reach, high: around + reach, middle: around };
    }
    // Certainty is the ground state: log-probabilities near zero are pale.
    if (high <= 0) return { kind: "one", low: 0, high: low, middle: 0 };
    return { kind: "one", low: 0, high, middle: 0 };
  }

  /** Where a value stands on a scale: the class of its hue, and how strong it is, from 0 to 1. */
  function shade(scale, value) {
    if (scale.kind === "none" || !format.given(value)) return null;
    const reach = scale.high - scale.middle;
    if (!reach) return { tone: "tone-none", strength: 0 };
    const share = Math.max(-1, Math.min(1, (value - scale.middle) / reach));
    if (scale.kind === "one") return { tone: "tone-one", strength: Math.abs(share) };
    return { tone: share < 0 ? "tone-below" : "tone-above", strength: Math.abs(share) };
  }

  /** The legend: a bar with the ends of the scale written beside it. */
  function legend(name, scale) {
    if (scale.kind === "none") return h("span", { class: "scale" }, "nothing recorded");
    if (scale.high === scale.middle) return h("span", { class: "scale" }, `all ${format.number(scale.middle)}`);
    const middle = scale.kind === "two" ? h("span", null, format.number(scale.middle)) : null;
    return h(
      "span",
      {
        class: "scale",
        role: "img",
        "aria-label": `Colour scale of ${label(name)} from ${format.number(scale.low)} to ${format.number(scale.high)}`,
      },
      h("span", null, format.number(scale.low)),
      h("span", { class: `scale-bar ${scale.kind}` }),
      middle && h("span", { class: "scale-middle" }, `middle ${format.number(scale.middle)}`),
      h("span", null, format.number(scale.high)),
    );
  }

  gym.colours = { LEAST, label, scaleOf, shade, legend };
})();
