"use strict";
// What a run is: one in a card, several in a table.

(() => {
  const { h, format, parts } = gym;

  /** The number of a run's colour: every second one where there is one run, whose measurements take the next. */
  const colourOf = (run) => run.index * (gym.runs().length > 1 ? 1 : 2);

  /** Success on tasks that were not trained on, before and now. */
  function successOf(run, lines) {
    const last = (phase) => lines.filter((line) => line.phase === phase).at(-1);
    const result = run.kind === "eval" ? last("eval") : (last("after") ?? last("during"));
    const before = last("before");
    return result && format.given(result.success_rate)
      ? (before ? `${format.percent(before.success_rate)} → ` : "") + format.percent(result.success_rate)
      : before && `${format.percent(before.success_rate)} before training`;
  }

  const stepsOf = (run) =>
    run.kind === "train" && !run.error
      ? format.count(run.step) + (format.given(run.total_steps) ? ` of ${format.count(run.total_steps)}` : "")
      : null;

  const begun = (run) => run.created?.replace("T", " ").replace("+00:00", " UTC");

  const progress = (run) =>
    run.kind === "train" && format.given(run.total_steps) && run.total_steps > 0
      ? h("progress", { max: run.total_steps, value: run.step ?? 0, "aria-label": "Steps done" })
      : null;

  const episodesOf = (run) => h("a", { href: gym.href("episodes", { run: run.index }) }, format.count(run.episodes));

  const kindOf = (run) => (run.kind === "eval" ? "evaluation" : "training");

  const broken = (run) => run.error && h("p", { class: "error-box" }, run.error);

  /** Several runs in a table, a line each. */
  function table(runs, linesOf) {
    const columns = [
      {
        title: "Run",
        cell: (run) => [
          h(
            "div",
            { class: "run-title" },
            gym.swatch("line", colourOf(run)),
            h("a", { href: gym.href("overview", { runs: run.index }) }, run.name),
            run.live && h("span", { class: "live" }, "live"),
          ),
          broken(run),
        ],
        className: "wide",
      },
      { title: "Kind", cell: (run) => (run.error ? null : [kindOf(run), h("div", { class: "sub" }, run.algorithm ?? "")]) },
      { title: "Environment", cell: (run) => format.shorten(run.suites?.join(", ") || run.env || "", 60) },
      {
        title: "Model",
        cell: (run) => h("span", { title: run.model }, format.shorten(String(run.model ?? "").split("/").at(-1), 60)),
      },
      { title: "Steps", cell: (run) => [stepsOf(run), progress(run)], number: true },
      { title: "Held-out success", cell: (run) => successOf(run, linesOf(run)) || null, number: true },
      { title: "Episodes", cell: (run) => (run.error ? null : episodesOf(run)), number: true },
      { title: "Begun", cell: (run) => h("span", { title: begun(run) }, begun(run)?.slice(0, 16)), className: "begun" },
    ];
    return h("div", { class: "run-table" }, parts.table(columns, runs, { caption: "Runs" }));
  }

  /** What a run is, in one card. */
  function card(run, lines) {
    const success = successOf(run, lines);
    return h(
      "section",
      { class: "run-card", "aria-label": run.name },
      h(
        "div",
        { class: "run-title" },
        gym.swatch("line", colourOf(run)),
        h("h2", null, run.name),
        h("span", { class: "kind" }, kindOf(run)),
        run.live && h("span", { class: "live" }, "live"),
      ),
      progress(run),
      broken(run),
      parts.facts(
        ["Environment", run.env],
        ["Split", run.split],
        ["Suites", run.suites?.join(", ")],
        ["Algorithm", run.algorithm],
        ["Model", run.model],
        ["Steps", stepsOf(run)],
        ["Success on held-out tasks", run.kind === "train" ? success : null],
        ["Success", run.kind === "eval" ? success : null],
        ["Episodes", run.error ? null : episodesOf(run)],
        ["Begun", begun(run)],
      ),
      !run.error && parts.fold("Configuration", () => parts.json({ config: run.config, versions: run.versions }), {
        className: "small",
        id: `config-${run.index}`,
      }),
    );
  }

  gym.about = { colourOf, card, table };
})();
