"use strict";
// The name that all scripts of the page share, and how elements are made. Text from a run goes into the page through
// text nodes alone, so that nothing in it is ever read as HTML.

const gym = {};

(() => {
  const SVG = "http://www.w3.org/2000/svg";

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "vars") for (const [key, to] of Object.entries(value)) node.style.setProperty(key, to);
      else if (name === "value" && "value" in node) node.value = value;
      else node.setAttribute(name, value === true ? "" : String(value));
    }
    append(node, children);
    return node;
  }

  function append(node, children) {
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      node.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
  }

  /** Make an HTML element: attributes by name, `on...` as listeners, `vars` as CSS variables, the rest as children. */
  const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

  /** Make an SVG element, likewise. */
  const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

  const RUNS = new Set(["run", "runs", "with"]);

  /** Runs by name, so that an address means the same when others have come or gone. */
  const keys = (value) =>
    value === null || value === undefined ? value : String(value).split(",").map(gym.runKey).join(",");

  /** Return the address of a page, without the parameters that are empty. */
  function href(page, parameters = {}) {
    const named = Object.entries(parameters).map(([name, value]) => [name, RUNS.has(name) ? keys(value) : value]);
    const query = encode(Object.fromEntries(named));
    return `#/${page}${query ? "?" + query : ""}`;
  }

  /** Return parameters as a query, sorted by name, without those that are empty. */
  function encode(parameters) {
    const given = Object.entries(parameters).filter(
      ([, value]) => value !== null && value !== undefined && value !== "",
    );
    given.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    return new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  }

  /** Return what the address bar says: the page's name and its parameters. */
  function place() {
    const hash = location.hash.replace(/^#\/?/, "");
    const [page, query = ""] = split(hash, "?");
    return { page: page || "overview", parameters: Object.fromEntries(new URLSearchParams(query)) };
  }

  function split(text, at) {
    const index = text.indexOf(at);
    return index < 0 ? [text] : [text.slice(0, index), text.slice(index + 1)];
  }

  /** Change some parameters of the page that is shown; `replace` leaves no entry in the history. */
  function change(parameters, { replace = true } = {}) {
    const here = place();
    const to = href(here.page, { ...here.parameters, ...parameters });
    if (to === location.hash) return;
    if (!replace) {
      location.hash = to;
      return;
    }
    history.replaceState(null, "", to);
    window.dispatchEvent(new Event("hashchange"));
  }

  /** Change parameters without drawing the page again: it shows them already. */
  function note(parameters) {
    const here = place();
    history.replaceState(null, "", href(here.page, { ...here.parameters, ...parameters }));
  }

  /** What was kept under a name by an earlier visit; null where nothing was, or where the browser keeps nothing. */
  function recall(name) {
    try {
      return localStorage.getItem(`agent-gym-${name}`);
    } catch {
      return null;
    }
  }

  /** Keep a text under a name for the next visit. */
  function remember(name, text) {
    try {
      localStorage.setItem(`agent-gym-${name}`, text);
    } catch {
      // A browser that keeps nothing for this page shows it as new next time.
    }
  }

  /** Call a function once the calls have stopped for so many milliseconds. */
  function settle(milliseconds, action) {
    let timer = 0;
    return (...values) => {
      clearTimeout(timer);
      timer = setTimeout(() => action(...values), milliseconds);
    };
  }

  /** Show a tooltip beside a point of the window; the content is nodes or text. */
  function showTip(x, y, ...content) {
    const tip = document.getElementById("tooltip");
    tip.replaceChildren();
    append(tip, content);
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = x + 14 + width > innerWidth ? Math.max(4, x - width - 14) : x + 14;
    const top = y + 14 + height > innerHeight ? Math.max(4, y - height - 14) : y + 14;
    tip.style.setProperty("--x", `${left}px`);
    tip.style.setProperty("--y", `${top}px`);
  }

  /** Hide the tooltip. */
  function hideTip() {
    document.getElementById("tooltip").hidden = true;
  }

  /** Show a tooltip while the pointer is on an element or it has the focus. */
  function tip(node, content) {
    const show = (x, y) => showTip(x, y, content());
    node.addEventListener("pointermove", (event) => show(event.clientX, event.clientY));
    node.addEventListener("pointerleave", hideTip);
    node.addEventListener("focus", () => {
      const box = node.getBoundingClientRect();
      show(box.right, box.bottom);
    });
    node.addEventListener("blur", hideTip);
    return node;
  }

  Object.assign(gym, {
    h,
    s,
    append,
    href,
    encode,
    place,
    change,
    note,
    recall,
    remember,
    settle,
    showTip,
    hideTip,
    tip,
    pages: {},
  });
})();
