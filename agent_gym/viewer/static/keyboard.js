"use strict";
// Everything by keyboard: through rows and turns, between pages, to the search field.

(() => {
  const { h } = gym;

  const KEYS = [
    ["j / k", "next / previous row or turn"],
    ["← / →", "next / previous token of a turn, or step of a chart"],
    ["Enter", "open"],
    ["u", "up: to the group or the list"],
    ["n / p", "next / previous episode"],
    ["/", "search"],
    ["g then o", "overview"],
    ["g then g", "groups"],
    ["g then e", "episodes"],
    ["g then v", "evaluation"],
    ["d", "dark or light"],
    ["?", "this help"],
    ["Esc", "close, or leave a field"],
  ];
  const PAGES = { o: "overview", g: "groups", e: "episodes", v: "evaluation" };

  let waiting = 0;

  const rows = () => [...document.querySelectorAll("#main [data-row]")];

  function move(by) {
    const all = rows();
    if (!all.length) return;
    const here = all.indexOf(document.activeElement?.closest?.("[data-row]"));
    const next = all[Math.max(0, Math.min(all.length - 1, here < 0 ? (by > 0 ? 0 : all.length - 1) : here + by))];
    next.focus({ preventScroll: true });
    next.scrollIntoView({
      block: "nearest",
      behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
    });
  }

  function open(row) {
    if (row?.dataset.href) location.hash = row.dataset.href;
    else row?.querySelector("a")?.click();
  }

  function help() {
    const dialog = document.getElementById("help");
    if (dialog.open) {
      dialog.close();
      return;
    }
    const list = KEYS.map(([key, what]) => [h("dt", null, h("kbd", null, key)), h("dd", null, what)]);
    dialog.replaceChildren(
      h("h2", { id: "help-title" }, "Keyboard"),
      h("dl", { class: "key-list" }, list),
      h("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Close"),
    );
    dialog.showModal();
  }

  const actions = {
    j: () => move(1),
    k: () => move(-1),
    u: () => gym.goUp(),
    n: () => document.querySelector('#main [data-step="n"][href]')?.click(),
    p: () => document.querySelector('#main [data-step="p"][href]')?.click(),
    d: () => gym.toggleTheme(),
    "?": help,
    "/": () => {
      const field = document.querySelector('#main input[type="search"]');
      if (field) field.focus();
      else gym.goTo("episodes");
    },
    g: (event) => (waiting = event.timeStamp),
  };

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest?.("input, select, textarea");
    if (field) {
      if (event.key === "Escape") field.blur();
      return;
    }
    if (document.getElementById("help").open && event.key !== "?") return;
    if (waiting && event.timeStamp - waiting < 1200 && event.key in PAGES) {
      waiting = 0;
      event.preventDefault();
      gym.goTo(PAGES[event.key]);
      return;
    }
    if (event.key === "Enter" && event.target.matches?.("[data-row]")) {
      event.preventDefault();
      open(event.target);
      return;
    }
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action(event);
  }

  /** Listen to the keyboard, and let a click anywhere in a row open it. */
  function listen() {
    document.addEventListener("keydown", pressed);
    document.getElementById("help-button").addEventListener("click", help);
    document.getElementById("main").addEventListener("click", (event) => {
      const row = event.target.closest("[data-href]");
      const busy = event.target.closest("a, button, summary, input") || String(getSelection());
      if (row && !busy) open(row);
    });
  }

  gym.keyboard = { listen };
})();
