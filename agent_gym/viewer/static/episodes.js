"use strict";
// The table of episodes: search, filters, order; what is chosen stands in the address.

(() => {
  const { h, href, format, parts } = gym;
  const { table, heading, empty, outcome, input, select } = parts;

  const ORDERS = [
    ["", "newest first"],
    ["oldest", "oldest first"],
    ["-reward", "highest reward"],
    ["reward", "lowest reward"],
    ["-turns", "most turns"],
    ["turns", "fewest turns"],
  ];
  const FILTERS = [
    "phase",
    "suite",
    "step",
    "success",
    "failed",
    "type",
    "task",
    "group",
    "q",
    "min_reward",
    "max_reward",
    "min_turns",
    "max_turns",
  ];

  /** The filters and the order that an address names. */
  const chosen = (parameters) =>
    Object.fromEntries(
      [...FILTERS, "order"].filter((name) => parameters[name]).map((name) => [name, parameters[name]]),
    );

  /** What of the address goes to the server. */
  const asked = (parameters, run) => ({ ...chosen(parameters), run: run.index });

  function columns(to, rows) {
    const many = (pick) => new Set(rows.map(pick).filter(Boolean)).size > 0;
    return [
      { title: "Episode", cell: (row) => h("a", { href: to(row) }, row.id), className: "id" },
      {
        title: "Task",
        cell: (row) => [
          h("div", null, format.shorten(row.goal || row.task_id, 140)),
          h(
            "div",
            { class: "sub" },
            format.shorten([row.task_type, row.goal ? row.task_id : ""].filter(Boolean).join(" · "), 90),
          ),
        ],
        className: "wide",
      },
      {
        title: "Outcome",
        cell: (row) => [outcome(row), row.error ? h("div", { class: "sub" }, format.shorten(row.error, 100)) : null],
      },
      { title: "Reward", cell: (row) => format.number(row.reward), number: true },
      { title: "Turns", cell: (row) => format.count(row.turns), number: true },
      { title: "Tokens", cell: (row) => format.count(row.generated_tokens), number: true },
      many((row) => row.tool_calls) && {
        title: "Tool calls",
        cell: (row) => format.count(row.tool_calls),
        number: true,
      },
      many((row) => row.entropy) && { title: "Entropy", cell: (row) => format.number(row.entropy), number: true },
      many((row) => row.cost) && { title: "Cost", cell: (row) => format.dollars(row.cost), number: true },
      many((row) => row.seconds) && { title: "Time", cell: (row) => format.seconds(row.seconds), number: true },
      { title: "Phase", cell: (row) => format.shorten(row.suite || row.phase, 40) },
      many((row) => row.step) && { title: "Step", cell: (row) => format.count(row.step), number: true },
    ].filter(Boolean);
  }

  function ending(parameters) {
    const value =
      parameters.failed === "1"
        ? "failed"
        : parameters.success === "1"
          ? "success"
          : parameters.success === "0"
            ? "wrong"
            : "";
    const to = { "": {}, success: { success: 1 }, wrong: { success: 0, failed: 0 }, failed: { failed: 1 } };
    const options = [
      ["", "any"],
      ["success", "success"],
      ["wrong", "no success"],
      ["failed", "failed to run"],
    ];
    return select("Outcome", "outcome", options, value, (chosen) =>
      gym.change({ success: null, failed: null, ...to[chosen] }),
    );
  }

  function filters(parameters, facets) {
    const all = (values) => [["", "all"], ...values.map((value) => [value, value])];
    const number = (label, name, step = 1) =>
      input(label, name, parameters[name], (value) => gym.change({ [name]: value }), {
        type: "number",
        step,
        className: "narrow",
      });
    const set = FILTERS.some((name) => parameters[name]);
    return h(
      "form",
      { class: "filters", onsubmit: (event) => event.preventDefault(), "aria-label": "Filters" },
      input("Search", "q", parameters.q, (q) => gym.change({ q }), {
        type: "search",
        placeholder: "task, goal, error, answer …",
        className: "grow",
      }),
      ending(parameters),
      facets.phases.length > 1
        ? select("Phase", "phase", all(facets.phases), parameters.phase, (phase) => gym.change({ phase }))
        : null,
      facets.suites.length
        ? select("Suite", "suite", all(facets.suites), parameters.suite, (suite) => gym.change({ suite }))
        : null,
      facets.types.length
        ? select("Kind of task", "type", all(facets.types), parameters.type, (type) => gym.change({ type }))
        : null,
      select("Order", "order", ORDERS, parameters.order, (order) => gym.change({ order })),
      number("Reward from", "min_reward", "any"),
      number("Reward to", "max_reward", "any"),
      number("Turns from", "min_turns"),
      number("Turns to", "max_turns"),
      facets.steps.max > 0 ? number("Step", "step") : null,
      set
        ? h(
            "button",
            {
              type: "button",
              class: "link",
              onclick: () => gym.change(Object.fromEntries(FILTERS.map((name) => [name, null]))),
            },
            "Clear all",
          )
        : null,
    );
  }

  /** Filters that have no field of their own. */
  function pinned(parameters) {
    const chips = ["task", "group"].filter((name) => parameters[name]);
    return chips.length
      ? h(
          "p",
          { class: "pinned" },
          chips.map((name) =>
            h(
              "button",
              {
                type: "button",
                class: "chip",
                title: "Take this filter away",
                onclick: () => gym.change({ [name]: null }),
              },
              `${name}: ${format.shorten(parameters[name], 60)} ×`,
            ),
          ),
        )
      : null;
  }

  async function list(parameters) {
    const run = gym.currentRun(parameters);
    const wanted = asked(parameters, run);
    const [page, facets] = await Promise.all([
      gym.get("episodes", { ...wanted, limit: parts.rowsAtOnce() }),
      gym.get("facets", { run: run.index }),
    ]);
    const total = `${page.total_is_exact === false ? "more than " : ""}${format.plural(page.total, "episode")}`;
    const head = [
      heading("Episodes", h("span", { class: "total" }, total)),
      filters(parameters, facets),
      pinned(parameters),
    ];
    if (!page.episodes.length) {
      const filtered = FILTERS.some((name) => parameters[name]);
      return [
        ...head,
        empty(
          filtered
            ? "No episode matches: take a filter away."
            : (page.note ?? "No episode is stored yet: they appear here as soon as one has ended."),
        ),
      ];
    }
    // The list goes along, so that the next episode is the next one of it.
    const to = (row) => href("episode", { ...chosen(parameters), run: run.index, id: row.id });
    const shown = columns(to, page.episodes);
    const list = table(shown, page.episodes, { caption: "Episodes", link: to });
    const body = list.querySelector("tbody");
    const more = parts.pager(
      (after) => gym.get("episodes", { ...wanted, after }),
      (next) => body.append(...next.episodes.map((row) => parts.tableRow(shown, row, to))),
      page.next,
    );
    return [...head, list, more];
  }

  gym.chosenFilters = chosen;
  gym.pages.episodes = { title: "Episodes", nav: "episodes", oneRun: true, isList: true, load: list };
})();
