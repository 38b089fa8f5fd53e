"use strict";
// Which page is shown, and when it is drawn anew.

(() => {
  const { h, href, place, parts } = gym;
  const NAV = [
    ["overview", "Overview"],
    ["groups", "Groups"],
    ["episodes", "Episodes"],
    ["evaluation", "Evaluation"],
  ];
  const main = document.getElementById("main");

  let drawing = 0;
  let shownAt = "";
  const leftAt = new Map();

  // -- dark and light ----------------------------------------------------------------------------------------------

  const isDark = () =>
    (document.documentElement.dataset.theme ??
      (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

  /** Change between dark and light; the choice is remembered. */
  gym.toggleTheme = () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    gym.remember("theme", theme);
  };

  function recallTheme() {
    const theme = gym.recall("theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  }

  // -- the frame -----------------------------------------------------------------------------------------------------

  /** Go to a page about the run that is looked at now. */
  gym.goTo = (page) => (location.hash = addressOf(page, place().parameters));

  /** Go to what the page is a part of. */
  gym.goUp = () => {
    const { page, parameters } = place();
    const up =
      gym.pages[page]?.up?.(parameters, main) ?? (page === "overview" ? null : addressOf("overview", parameters));
    if (up) location.hash = up;
  };

  function addressOf(page, parameters) {
    const run = parameters.run ?? parameters.runs?.split(",")[0];
    return page === "overview"
      ? href(page, { runs: parameters.runs ?? null })
      : href(page, { run: run ?? gym.runs()[0]?.index });
  }

  function frame(page, parameters) {
    const definition = gym.pages[page];
    const current = definition?.nav ?? page;
    document
      .getElementById("nav")
      .replaceChildren(
        ...NAV.map(([name, title]) =>
          h("a", { href: addressOf(name, parameters), "aria-current": name === current ? "page" : null }, title),
        ),
      );
    const choice = document.getElementById("run-choice");
    choice.hidden = !definition?.oneRun || gym.runs().length < 2;
    const list = document.getElementById("run-select");
    list.replaceChildren(...gym.runs().map((run) => h("option", { value: run.index }, run.name)));
    const run = gym.currentRun(parameters);
    list.value = String(run?.index ?? "");
    const shown = definition?.oneRun ? [run].filter(Boolean) : gym.chosenRuns(parameters);
    document.getElementById("live").hidden = !shown.some((one) => one.live) || gym.isOffline;
    document.title = [parameters.id, definition?.title, run?.name, "agent-gym"].filter(Boolean).join(" · ");
  }

  function chooseRun(event) {
    const { page } = place();
    const list = gym.pages[page].nav ?? page;
    location.hash = href(list, { run: event.target.value });
  }

  // -- drawing ----------------------------------------------------------------------------------------------------

  /** Draw the page that the address names; `again` where something was written to the run that it shows. */
  async function draw({ again = false } = {}) {
    const mine = ++drawing;
    const { page, parameters } = place();
    const slow = setTimeout(() => (document.getElementById("progress").hidden = false), 200);
    let content;
    try {
      content = await contentOf(page, parameters);
    } catch (error) {
      if (!(error instanceof gym.Unavailable)) throw error;
      content = [
        parts.heading(gym.pages[page]?.title ?? "Not found"),
        h("div", { class: "error-box", role: "alert" }, error.message),
      ];
    } finally {
      clearTimeout(slow);
      if (mine === drawing) document.getElementById("progress").hidden = true;
    }
    if (mine !== drawing) return;
    put(page, parameters, content, again);
  }

  async function contentOf(page, parameters) {
    if (!gym.pages[page]) throw new gym.Unavailable("There is no such page: choose one above.");
    if (!gym.runs().length) throw new gym.Unavailable("There is no run to show.");
    const missing = gym.chosenRuns(parameters).length ? null : (parameters.runs ?? parameters.run);
    if (missing) throw new gym.Unavailable(`There is no run ${missing} here (any more): choose another one.`);
    return gym.pages[page].load(parameters);
  }

  function put(page, parameters, content, again) {
    const here = page + (parameters.id ?? "") + (parameters.run ?? "");
    const same = here === shownAt;
    const first = !shownAt;
    const kept = same ? keep() : null;
    gym.hideTip();
    main.replaceChildren();
    gym.append(main, [content]);
    main.dataset.page = page;
    frame(page, parameters);
    shownAt = here;
    if (kept) restore(kept);
    else arrive(page, parameters, first);
    main.dataset.drawn = String(Number(main.dataset.drawn ?? 0) + 1);
    if (again) main.dataset.updated = String(Number(main.dataset.updated ?? 0) + 1);
  }

  /** Begin at the top, or, in a list that one comes back to, at the row that one left it from. */
  function arrive(page, parameters, first) {
    const left = gym.pages[page]?.isList ? leftAt.get(location.hash) : null;
    // Those who read with their ears or by keyboard go on in what is new; at the very first the browser has its say.
    if (!first) main.focus({ preventScroll: true });
    scrollTo(0, left?.scroll ?? 0);
    if (left?.row) main.querySelector(`[data-href="${CSS.escape(left.row)}"]`)?.focus({ preventScroll: true });
    if (!left) gym.pages[page]?.shown?.(parameters);
  }

  /** Remember where a list is left, so that one comes back to the same place. */
  function leave({ oldURL, newURL }) {
    if (!oldURL || !gym.pages[main.dataset.page]?.isList) return;
    const rows = main.querySelectorAll("[data-row]").length;
    leftAt.set(new URL(oldURL).hash, { scroll: scrollY, rows, row: new URL(newURL).hash });
  }

  /** How many rows of a list were shown when it was left; null where it was not, or is seen for the first time. */
  gym.rowsLeft = () => (main.dataset.page === place().page ? null : (leftAt.get(location.hash)?.rows ?? null));

  /** What a reader would miss if the page were simply replaced: focus, what is typed, what is unfolded, the place. */
  function keep() {
    const active = document.activeElement;
    const inside = active && main.contains(active);
    return {
      scroll: scrollY,
      open: [...main.querySelectorAll("details[id][open]")].map((details) => details.id),
      id: inside ? active.id : "",
      row: inside ? [...main.querySelectorAll("[data-row]")].indexOf(active) : -1,
      value:
        inside && "selectionStart" in active && active.type !== "number"
          ? [active.value, active.selectionStart, active.selectionEnd]
          : null,
      typed: inside && active.tagName === "INPUT" ? active.value : null,
    };
  }

  function restore({ scroll, open, id, row, value, typed }) {
    for (const name of open) {
      const details = document.getElementById(name);
      if (details) details.open = true;
    }
    const focused = id ? document.getElementById(id) : row >= 0 ? main.querySelectorAll("[data-row]")[row] : null;
    focused?.focus({ preventScroll: true });
    if (focused && typed !== null) focused.value = typed;
    if (focused && value?.[1] !== null && value) focused.setSelectionRange?.(value[1], value[2]);
    scrollTo(0, scroll);
  }

  async function changed(fresh) {
    const { page, parameters } = place();
    await gym.loadRuns();
    const looked = page === "overview" ? gym.chosenRuns(parameters) : [gym.currentRun(parameters)].filter(Boolean);
    if (gym.pages[page]?.still || !looked.some((run) => fresh.has(run.index))) frame(page, parameters);
    // Rows that one reads must not move away: those that are new wait until they are asked for.
    else if (gym.pages[page]?.isList && scrollY > 120) offer(page, parameters);
    else await draw({ again: true });
  }

  function offer(page, parameters) {
    frame(page, parameters);
    if (document.getElementById("fresh")) return;
    const show = () => {
      scrollTo(0, 0);
      draw({ again: true });
    };
    main.append(h("button", { type: "button", class: "button fresh", id: "fresh", onclick: show }, "↑ Show what is new"));
  }

  async function start() {
    recallTheme();
    document.getElementById("theme-button").addEventListener("click", gym.toggleTheme);
    document.getElementById("run-select").addEventListener("change", chooseRun);
    document.querySelector("[data-skip]").addEventListener("click", (event) => {
      event.preventDefault();
      main.focus();
    });
    gym.keyboard.listen();
    try {
      await gym.loadRuns();
      await gym.noteVersions();
    } catch (error) {
      if (!(error instanceof gym.Unavailable)) throw error;
      gym.append(main, [h("div", { class: "error-box", role: "alert" }, error.message)]);
      return;
    }
    addEventListener("hashchange", (event) => {
      leave(event);
      draw();
    });
    await draw();
    gym.watch(changed);
  }

  start();
})();
