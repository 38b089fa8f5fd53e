"use strict";
// Two runs on the same tasks: whether they differ, by how much, and where.

(() => {
  const { h, href, format, parts } = gym;
  /** Rows that are shown before more are asked for: what stands below them should be seen, too. */
  const FIRST = 10;

  function numbers(answer, runs) {
    const side = (values, run, letter) => [
      `${letter}: ${run.name}`,
      `${format.percent(values?.rate)} of ${format.plural(values?.attempts ?? answer.pairs, "attempt")}`,
    ];
    return parts.facts(
      side(answer.a, runs[0], "A"),
      side(answer.b, runs[1], "B"),
      ["Difference, B less A", `${format.points(answer.difference)} points`],
      [
        "95% interval",
        format.given(answer.low) ? `${format.points(answer.low)} to ${format.points(answer.high)} points` : "undefined",
      ],
      [
        "p-value",
        format.given(answer.p_value) ? (answer.p_value < 0.001 ? "< 0.001" : format.number(answer.p_value)) : null,
      ],
      ["Test", answer.test],
      ["Tasks in both", format.count(answer.pairs)],
    );
  }

  function byType(answer) {
    if (!answer.by_type?.length) return null;
    const reach = gym.whiskers.reachOf(answer.by_type);
    const columns = [
      { title: "Kind of task", cell: (row) => row.task_type ?? row.type ?? row.name ?? "" },
      { title: "Tasks", cell: (row) => format.count(row.pairs ?? row.n), number: true },
      { title: "A", cell: (row) => format.percent(row.a?.rate ?? row.a_rate ?? row.a), number: true },
      { title: "B", cell: (row) => format.percent(row.b?.rate ?? row.b_rate ?? row.b), number: true },
      {
        title: "Difference and interval",
        cell: (row) => gym.whiskers.differenceBar(row, { reach }),
        className: "bar-cell",
      },
      { title: "Points", cell: (row) => format.points(row.difference), number: true },
    ];
    return parts.table(columns, answer.by_type, { caption: "Difference by kind of task" });
  }

  /** The tasks that one run solved and the other did not, with a way to look at both attempts. */
  function differing(answer, runs, asked) {
    const only = { a: `only ${runs[0].name}`, b: `only ${runs[1].name}` };
    const links = (run, ids) =>
      (ids ?? []).slice(0, 4).map((id, index) => [index ? " " : "", parts.episodeLink(run.index, id, `#${index + 1}`)]);
    const both = (row) =>
      href("evaluation", { run: runs[0].index, with: runs[1].index, left: row.a?.[0], right: row.b?.[0] });
    const columns = [
      {
        title: "Task",
        cell: (row) => [
          h("div", null, format.shorten(row.goal || row.task_id, 140)),
          h("div", { class: "sub" }, [row.task_type, row.goal ? row.task_id : ""].filter(Boolean).join(" · ")),
        ],
        className: "wide",
      },
      { title: "Solved by", cell: (row) => solvedBy(row, only) },
      { title: runs[0].name, cell: (row) => links(runs[0], row.a) },
      { title: runs[1].name, cell: (row) => links(runs[1], row.b) },
      { title: "Look", cell: (row) => h("a", { href: both(row) }, "side by side") },
    ];
    if (!answer.differing?.length) return parts.empty("There is no task on which they differ.");
    const list = parts.table(columns, answer.differing.slice(0, FIRST), {
      caption: "Tasks on which the runs differ",
      link: both,
    });
    const body = list.querySelector("tbody");
    const add = (rows) => body.append(...rows.map((row) => parts.tableRow(columns, row, both)));
    const button = h(
      "button",
      { type: "button", class: "more", hidden: answer.differing.length <= FIRST },
      "Show more",
    );
    button.addEventListener("click", () => {
      add(answer.differing.slice(FIRST));
      button.replaceWith(
        parts.pager(
          (after) => gym.get("comparison", { ...asked, after }),
          (page) => add(page.differing),
          answer.next,
        ),
      );
    });
    return [list, button];
  }

  function solvedBy(row, only) {
    const [a, b] = [Number(row.a_success), Number(row.b_success)];
    const share = Number.isInteger(a) && Number.isInteger(b) ? "" : ` (${format.percent(a)} and ${format.percent(b)})`;
    return (a > b ? only.a : only.b) + share;
  }

  // -- two episodes side by side -----------------------------------------------------------------------------------

  /** The page that shows the attempts of two runs at one task beside each other. */
  async function pair(run, parameters) {
    const runs = [run, gym.findRun(parameters.with) ?? run];
    const ids = [parameters.left, parameters.right];
    const found = await Promise.all(
      ids.map((id, index) => (id ? gym.get("episode", { run: runs[index].index, id }) : null)),
    );
    const columns = found.map((episode, index) => episode && column(runs[index], episode));
    const back = href("evaluation", { run: runs[0].index, with: runs[1].index });
    return [
      parts.trail([runs[0].name, href("overview", { run: runs[0].index })], ["Comparison", back], ["Side by side"]),
      parts.heading(found.find(Boolean)?.episode.goal || found.find(Boolean)?.episode.task_id || "Two episodes"),
      h("div", { class: "pair" }, columns),
    ];
  }

  function column(run, episode) {
    const row = episode.episode;
    const lines = episode.turns.map((turn) =>
      h(
        "li",
        null,
        h("div", { class: "pair-seen" }, parts.long(turn.observation, { length: 300 })),
        h(
          "div",
          { class: "pair-done" },
          h("span", { class: "arrow", "aria-hidden": "true" }, "› "),
          format.shorten(turn.action, 300),
          turn.reward ? h("span", { class: "reward" }, ` ${format.signed(turn.reward)}`) : null,
        ),
      ),
    );
    return h(
      "section",
      { class: "card", "aria-label": run.name },
      h("h2", null, run.name),
      h("p", null, parts.outcome(row), " ", parts.episodeLink(run.index, row.id, "open the episode")),
      row.error ? h("p", { class: "error-box" }, format.shorten(row.error, 400)) : null,
      h("ol", { class: "pair-turns" }, lines),
      h("div", { class: "pair-seen" }, parts.long(episode.final_observation, { length: 600 })),
    );
  }

  // -- the section ---------------------------------------------------------------------------------------------------

  async function load(run, parameters) {
    const other = gym.findRun(parameters.with);
    if (!other) return parts.empty("There is no such run to compare with.");
    const runs = [run, other];
    const asked = { run: run.index, with: other.index, suite: parameters.suite };
    const answer = await gym.get("comparison", asked);
    const sentence = answer.sentence ?? "";
    return h(
      "section",
      { class: "card comparison", "aria-label": "Comparison" },
      h("h2", null, "A: ", run.name, h("span", { class: "sub" }, " and "), "B: ", other.name),
      h("p", { class: "sentence" }, format.minus(sentence)),
      (answer.warnings ?? []).map((warning) => h("p", { class: "warning" }, warning)),
      h("div", { class: "difference-line" }, gym.whiskers.differenceBar(answer, { width: Math.min(560, innerWidth - 70) })),
      numbers(answer, runs),
      byType(answer),
      h(
        "h3",
        null,
        `Tasks where they differ (${format.count(answer.differing_count ?? answer.differing?.length ?? 0)})`,
      ),
      differing(answer, runs, asked),
    );
  }

  gym.comparison = { load, pair };
})();
