"use strict";
// Groups: the list, and one group with its attempts side by side and its branch tree.

(() => {
  const { h, href, format, parts } = gym;
  const { table, heading, trail, empty, facts, outcome, input, select, episodeLink } = parts;

  // -- the list --------------------------------------------------------------------------------------------------

  /** Attempts of a group as a row of marks: filled where one succeeded, crossed out where one failed to run. */
  function marks(group) {
    const shown = Math.min(group.count, 24);
    const share = (count) => Math.round((count / Math.max(group.count, 1)) * shown);
    const [filled, broken] = [share(group.successes), share(group.failed)];
    const kind = (index) => (index < filled ? "mark full" : index >= shown - broken ? "mark broken" : "mark");
    const label = `${group.successes} of ${group.count} succeeded${group.failed ? `, ${group.failed} failed to run` : ""}`;
    return h(
      "span",
      { class: "marks", role: "img", "aria-label": label, title: label },
      Array.from({ length: shown }, (_, index) => h("i", { class: kind(index) })),
    );
  }

  /** What a group teaches: nothing where all rewards are equal. */
  const signal = (group) =>
    group.count > 1 && !(group.spread > 1e-9)
      ? h("span", { class: "badge", title: "All rewards are equal: no advantage comes of it" }, "= no signal")
      : format.number(group.spread);

  const COLUMNS = (run, all) => [
    {
      title: "Group",
      cell: (group) => h("a", { href: href("group", { run, id: group.group_id }) }, group.group_id),
      className: "id",
    },
    {
      title: "Task",
      cell: (group) => [
        h("div", null, format.shorten(group.goal || group.task_id, 160)),
        group.goal ? h("div", { class: "sub" }, format.shorten(group.task_id, 80)) : null,
      ],
      className: "wide",
    },
    all && { title: "Phase", cell: (group) => group.phase },
    { title: "Step", cell: (group) => format.count(group.step), number: true },
    {
      title: "Successes",
      cell: (group) => [marks(group), h("span", { class: "sub" }, ` ${group.successes}/${group.count}`)],
    },
    { title: "Mean reward", cell: (group) => format.number(group.reward_mean), number: true },
    { title: "Reward spread", cell: signal, className: "signal" },
  ].filter(Boolean);

  const REWARDS = [
    ["", "any"],
    ["differ", "differ: some signal"],
    ["equal", "all equal: no signal"],
    ["won", "all succeeded"],
    ["lost", "none succeeded"],
  ];

  const ALL = "all";

  /** How many groups there are; of those that are searched for, how many were found so far. */
  function totalOf(page) {
    if (page.searched !== undefined && page.next) {
      const found = format.plural(page.groups.length, "group");
      return `${found} among the newest ${format.count(page.searched)}`;
    }
    const total = page.total ?? page.groups.length;
    return `${page.total_is_exact === false ? "more than " : ""}${format.plural(total, "group")}`;
  }

  async function list(parameters) {
    const run = gym.currentRun(parameters);
    const facets = await gym.get("facets", { run: run.index });
    // Where there was training its groups come first: those of measurements have one attempt each.
    const phase = parameters.phase ?? (facets.phases.includes("train") ? "train" : ALL);
    const { step, q, rewards } = parameters;
    const asked = { run: run.index, phase: phase === ALL ? undefined : phase, step, q, rewards };
    const page = await gym.get("groups", { ...asked, limit: parts.rowsAtOnce() });
    const filters = h(
      "form",
      { class: "filters", onsubmit: (event) => event.preventDefault() },
      input("Search", "q", parameters.q, (q) => gym.change({ q }), {
        type: "search",
        placeholder: "task, goal …",
        className: "grow",
      }),
      select(
        "Phase",
        "phase",
        [[ALL, "all"], ...facets.phases.map((name) => [name, name])],
        phase,
        (chosen) => gym.change({ phase: chosen }),
      ),
      select("Rewards", "rewards", REWARDS, rewards, (chosen) => gym.change({ rewards: chosen })),
      input("Step", "step", step, (chosen) => gym.change({ step: chosen }), { type: "number", className: "narrow" }),
    );
    const filtered = q || parameters.phase || step || rewards;
    const head = [heading("Groups", h("span", { class: "total" }, totalOf(page))), filters];
    if (!page.groups.length && page.next) {
      head.push(h("p", { class: "note" }, `None among the newest ${format.count(page.searched)} groups.`));
    } else if (!page.groups.length) {
      return [
        ...head,
        empty(
          filtered
            ? "No group matches: take a filter away."
            : (page.note ?? "No group is stored yet: they appear here as soon as one is played."),
        ),
      ];
    }
    const columns = COLUMNS(run.index, phase === ALL);
    const to = (group) => href("group", { run: run.index, id: group.group_id });
    const shown = table(columns, page.groups, { caption: "Groups of attempts at one task", link: to });
    const body = shown.querySelector("tbody");
    const more = parts.pager(
      (after) => gym.get("groups", { ...asked, after }),
      (next) => body.append(...next.groups.map((group) => parts.tableRow(columns, group, to))),
      page.next,
    );
    return [...head, shown, more];
  }

  // -- one group -------------------------------------------------------------------------------------------------

  function column(run, episode, group) {
    const begin = episode.branch?.turn ?? 0;
    return h(
      "th",
      { scope: "col" },
      h(
        "div",
        null,
        episodeLink(
          run,
          episode.id,
          format.shorten(
            episode.id.startsWith(group.group_id) ? episode.id.slice(group.group_id.length) || episode.id : episode.id,
            24,
          ),
        ),
      ),
      h("div", null, outcome(episode)),
      h(
        "div",
        { class: "sub" },
        `reward ${format.number(episode.reward)} · ${format.plural(episode.turn_list.length, "turn")}`,
      ),
      begin > 0
        ? h(
            "div",
            { class: "sub" },
            `↳ from ${format.shorten(episode.branch.parent_id.split("/").at(-1), 16)} at turn ${begin + 1}`,
          )
        : null,
    );
  }

  function turnCell(run, episode, index) {
    const turn = episode.turn_list[index];
    if (!turn) return h("td", { class: "none" });
    const shared = index < (episode.branch?.turn ?? 0);
    return h(
      "td",
      { class: shared ? "shared" : null, title: shared ? "shared with its parent" : null },
      h(
        "a",
        { href: href("episode", { run, id: episode.id, turn: index + 1 }), class: "action" },
        format.shorten(turn.action.trim() || "(nothing)", 140),
      ),
      h(
        "div",
        { class: "sub" },
        turn.reward ? h("span", { class: "reward" }, `reward ${format.signed(turn.reward)} `) : null,
        turn.invalid ? h("span", { class: "invalid" }, "invalid ") : null,
        format.given(turn.entropy) ? `H ${format.number(turn.entropy)}` : "",
      ),
    );
  }

  /** The attempts as columns, turn by turn. */
  function sideBySide(run, group) {
    const turns = Math.max(0, ...group.episodes.map((episode) => episode.turn_list.length));
    const rows = Array.from({ length: turns }, (_, index) =>
      h(
        "tr",
        { "data-row": "", tabindex: "0" },
        h("th", { scope: "row" }, index + 1),
        group.episodes.map((episode) => turnCell(run, episode, index)),
      ),
    );
    const ends = h(
      "tr",
      { class: "ends" },
      h("th", { scope: "row" }, "end"),
      group.episodes.map((episode) =>
        h(
          "td",
          null,
          outcome(episode),
          episode.error ? h("div", { class: "sub" }, format.shorten(episode.error, 160)) : null,
        ),
      ),
    );
    return h(
      "div",
      { class: "table-scroll side-by-side", tabindex: "0", role: "region", "aria-label": "Attempts side by side" },
      h(
        "table",
        null,
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            h("th", { scope: "col" }, "Turn"),
            group.episodes.map((episode) => column(run, episode, group)),
          ),
        ),
        h("tbody", null, rows, ends),
      ),
    );
  }

  async function one(parameters) {
    const run = gym.currentRun(parameters);
    const group = await gym.get("group", { run: run.index, id: parameters.id });
    const successes = group.episodes.filter((episode) => episode.success).length;
    const forks = group.episodes.filter((episode) => episode.branch?.parent_id).length;
    const mean = group.episodes.reduce((sum, episode) => sum + episode.reward, 0) / Math.max(group.episodes.length, 1);
    return [
      trail(
        [run.name, href("overview", { run: run.index })],
        ["Groups", href("groups", { run: run.index })],
        [group.group_id],
      ),
      heading(group.goal || group.task_id),
      facts(
        ["Group", group.group_id],
        ["Task", group.task_id],
        ["Kind", group.task_type],
        ["Phase", group.phase],
        ["Step", format.count(group.step)],
        ["Successes", `${successes} of ${group.episodes.length}`],
        ["Mean reward", format.number(mean)],
        ["Branches", forks || null],
      ),
      group.cut ? h("p", { class: "note" }, group.cut) : null,
      h(
        "section",
        { class: "card" },
        h("h2", null, forks ? "Branch tree" : "Attempts"),
        treeKey(forks),
        gym.tree(group.episodes, (id) => (location.hash = href("episode", { run: run.index, id }))),
      ),
      h(
        "section",
        { class: "card" },
        h("h2", null, "Side by side"),
        h("p", { class: "note" }, "H is the entropy of a turn, in nats a token."),
        sideBySide(run.index, group),
      ),
    ];
  }

  const treeKey = (forks) =>
    h(
      "p",
      { class: "note" },
      "A line an attempt, a dot a turn (larger where the model was less certain, hollow where the action was invalid).",
      forks
        ? " ↳ marks where an attempt branched off, with the probability and the entropy, as the method measures it, " +
            "that caused it."
        : "",
      " Choose a leaf to open the episode.",
    );

  gym.pages.groups = { title: "Groups", nav: "groups", oneRun: true, isList: true, load: list };
  gym.pages.group = {
    title: "Group",
    nav: "groups",
    oneRun: true,
    load: one,
    up: (parameters) => href("groups", { run: parameters.run }),
  };
})();
