"use strict";
// Numbers and names as people read them.

(() => {
  const given = (value) => typeof value === "number" && Number.isFinite(value);

  /** A number with three significant digits; a dash where there is none. */
  function number(value) {
    if (!given(value)) return "–";
    const size = Math.abs(value);
    if (size === 0) return "0";
    return (value < 0 ? "\u2212" : "") + digits(size);
  }

  function digits(size) {
    if (Number.isInteger(size) && size < 1e5) return String(size);
    if (size >= 1e6) return `${trim((size / 1e6).toFixed(2))}M`;
    if (size >= 1e4) return `${trim((size / 1e3).toFixed(1))}k`;
    if (size < 1e-3) return size.toExponential(1).replace(".0e", "e").replace("-", "\u2212");
    if (size >= 1000) return size.toFixed(0);
    return trim(size.toPrecision(3));
  }

  const trim = (text) => (text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text);

  /** A whole number with thin spaces between thousands. */
  const count = (value) =>
    given(value)
      ? Math.round(value)
          .toString()
          .replace(/\B(?=(\d{3})+$)/g, "\u202f")
      : "–";

  /** A share as a percentage. */
  const percent = (value) => (given(value) ? `${value < 0 ? "\u2212" : ""}${share(Math.abs(value) * 100)}%` : "–");

  const share = (size) => (size === 0 ? "0" : size < 0.01 ? "< 0.01" : trim(size < 1 ? size.toFixed(2) : size.toFixed(1)));

  /** A signed number. */
  const signed = (value) => (value > 0 ? "+" : "") + number(value);

  /** A sentence of the server with minus signs before its numbers. */
  const minus = (sentence) => sentence.replace(/(^|[\s(])-(?=\d)/g, "$1\u2212");

  /** Percentage points with their sign. */
  const points = (value) =>
    given(value) ? `${value > 0 ? "+" : ""}${trim((value * 100).toFixed(1))}`.replaceAll("-", "\u2212") : "–";

  /** A time span. */
  function seconds(value) {
    if (!given(value)) return "–";
    if (value === 0) return "0 s";
    if (value < 1e-3) return `${Math.round(value * 1e6)} µs`;
    if (value < 1) return `${number(value * 1e3)} ms`;
    if (value < 120) return `${number(value)} s`;
    if (value < 7200) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
    return `${number(value / 3600)} h`;
  }

  /** Dollars. */
  const dollars = (value) => (given(value) ? `$${number(value)}` : "–");

  /** One word of several, as English has it. */
  const plural = (amount, one, many = one + "s") => `${count(amount)} ${amount === 1 ? one : many}`;

  /** A name of the code as words. */
  const words = (name) => String(name).replaceAll("_", " ");

  /** A text's beginning. */
  const shorten = (text, length = 120) => (text.length > length ? text.slice(0, length - 1) + "…" : text);

  gym.format = { given, number, count, percent, signed, minus, points, seconds, dollars, plural, words, shorten };
})();
