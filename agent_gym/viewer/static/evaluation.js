"use strict";
// What an evaluation came to: rates with intervals, by kind of task, over several attempts, beside published numbers.

(() => {
  const { h, href, format, parts } = gym;
  const { heading, empty, facts } = parts;

  /** A number, or the number inside an object that also has its interval. */
  const valueOf = (entry) =>
    entry !== null && typeof entry === "object" ? (entry.value ?? entry.rate ?? entry.mean) : entry;

  /** {k: value} as points, in order; what is undefined is left out. */
  function overK(table) {
    const entries = Array.isArray(table)
      ? table.map((entry) => [entry.k, valueOf(entry)])
      : Object.entries(table ?? {}).map(([k, entry]) => [Number(k), valueOf(entry)]);
    return entries.filter(([k, value]) => format.given(k) && format.given(value)).sort(([a], [b]) => a - b);
  }

  const interval = (entry) =>
    format.given(entry.low) ? `${format.percent(entry.low)} – ${format.percent(entry.high)}` : "–";
  const nameOf = (entry) => entry.task_type ?? entry.type ?? entry.name ?? "";

  function references(suite) {
    return (suite.references ?? []).map((reference) => {
      const value = [reference.value, reference.score, reference.rate].find(format.given);
      const name =
        [reference.model ?? reference.name, reference.method].filter(Boolean).join(", ") ||
        reference.source ||
        "reference";
      return { ...reference, name, value, rate: format.given(value) && value > 1 ? value / 100 : value };
    });
  }

  /** The episodes that a row of the table speaks of. */
  function episodesOf(run, suite, more = {}) {
    const named = (run.suites ?? []).includes(suite.suite);
    const measured = run.kind === "train";
    return href("episodes", {
      run: run.index,
      suite: named ? suite.suite : null,
      phase: measured ? suite.phase : null,
      step: measured ? suite.step : null,
      ...more,
    });
  }

  function rates(run, suite) {
    const beside = references(suite);
    const rows = [
      ["all tasks", suite.overall, ""],
      ...(suite.by_type ?? []).map((entry) => [nameOf(entry) || "(no kind)", entry, nameOf(entry)]),
    ];
    const line = ([name, entry, type], index) =>
      h(
        "tr",
        {
          class: index ? "opens" : "opens overall",
          "data-row": "",
          tabindex: "0",
          "data-href": episodesOf(run, suite, { type }),
        },
        h("th", { scope: "row" }, h("a", { href: episodesOf(run, suite, { type }) }, name)),
        h("td", { class: "number", "data-title": "Success" }, format.percent(entry.rate)),
        h(
          "td",
          { class: "bar-cell", "data-title": "Rate and interval" },
          gym.whiskers.rateBar(entry, index ? [] : beside),
        ),
        h("td", { class: "number", "data-title": "95% interval" }, interval(entry)),
        h(
          "td",
          { class: "number", "data-title": "Attempts" },
          `${format.count(entry.attempts)} at ${format.plural(entry.tasks ?? 0, "task")}`,
        ),
        h(
          "td",
          { class: "number", "data-title": "Failed" },
          entry.failed
            ? h("a", { href: episodesOf(run, suite, { type, failed: 1 }) }, format.count(entry.failed))
            : "0",
        ),
      );
    const head = ["Kind of task", "Success", "Rate and interval", "95% interval", "Attempts", "Failed"];
    return h(
      "div",
      { class: "table-scroll" },
      h(
        "table",
        { class: "cards rates" },
        h("caption", { class: "unseen" }, "Success by kind of task"),
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            head.map((title, index) =>
              h("th", { scope: "col", class: [1, 3, 4, 5].includes(index) ? "number" : null }, title),
            ),
          ),
        ),
        h("tbody", null, rows.map(line)),
      ),
    );
  }

  function published(suite) {
    const rows = references(suite);
    if (!rows.length) return null;
    return h(
      "section",
      { class: "card" },
      h("h3", null, "Published beside it"),
      h(
        "div",
        { class: "table-scroll" },
        h(
          "table",
          { class: "plain" },
          h(
            "tbody",
            null,
            rows.map((row) =>
              h(
                "tr",
                null,
                h("th", { scope: "row" }, row.name),
                h("td", { class: "number" }, format.number(row.value)),
                h("td", { class: "sub" }, row.source ?? ""),
              ),
            ),
          ),
        ),
      ),
    );
  }

  const WRITTEN = { seconds: format.seconds, cost: format.dollars };

  function perEpisode(suite) {
    const entries = Object.entries(suite.per_episode ?? {}).filter(([, value]) => format.given(valueOf(value)));
    return entries.length
      ? h(
          "section",
          { class: "card" },
          h("h3", null, "An episode takes"),
          facts(
            ...entries.map(([name, value]) => [format.words(name), (WRITTEN[name] ?? format.number)(valueOf(value))]),
          ),
        )
      : null;
  }

  function further(suite) {
    const known = new Set([
      "suite",
      "metric",
      "references",
      "overall",
      "by_type",
      "pass_at_k",
      "pass_hat_k",
      "maj_at_k",
      "best_of_k",
      "per_episode",
      "warnings",
      "phase",
      "step",
    ]);
    const more = Object.entries(suite).filter(([name, value]) => !known.has(name) && value !== null);
    return more.length ? parts.fold("More", () => parts.json(Object.fromEntries(more)), { className: "small" }) : null;
  }

  function suiteCard(run, suite) {
    const { overall } = suite;
    const curves = gym.whiskers.overK([
      { name: "pass@k", points: overK(suite.pass_at_k) },
      { name: "pass^k", points: overK(suite.pass_hat_k) },
      { name: "maj@k", points: overK(suite.maj_at_k) },
      { name: "best of k", points: overK(suite.best_of_k) },
    ]);
    const when = { before: "before training", during: `at step ${suite.step}`, after: "after training" }[suite.phase];
    const title = [suite.suite || run.env, when].filter(Boolean).join(", ");
    return h(
      "section",
      { class: "suite", "aria-label": title },
      h(
        "div",
        { class: "suite-head" },
        h("h2", null, title),
        h(
          "p",
          { class: "headline" },
          h("strong", null, format.percent(overall.rate)),
          h(
            "span",
            { class: "sub" },
            ` 95% interval ${interval(overall)}${overall.method ? `, ${overall.method}` : ""}`,
          ),
        ),
      ),
      (suite.warnings ?? []).map((warning) =>
        h("p", { class: "warning" }, typeof warning === "string" ? warning : JSON.stringify(warning)),
      ),
      rates(run, suite),
      h("div", { class: "charts" }, curves, perEpisode(suite), published(suite)),
      further(suite),
    );
  }

  function compareWith(run, parameters) {
    const others = gym.runs().filter((other) => other.index !== run.index);
    if (!others.length) return null;
    const options = [["", "no other run"], ...others.map((other) => [other.index, other.name])];
    return parts.select("Compare with", "with", options, gym.findRun(parameters.with)?.index, (other) =>
      gym.change({ with: other }, { replace: false }),
    );
  }

  async function load(parameters) {
    const run = gym.currentRun(parameters);
    if (parameters.left || parameters.right) return gym.comparison.pair(run, parameters);
    const compared = parameters.with !== undefined;
    const [answer, comparison] = await Promise.all([
      gym.get("evaluation", { run: run.index }),
      compared ? gym.comparison.load(run, parameters) : null,
    ]);
    const head = heading("Evaluation", h("div", { class: "tools" }, compareWith(run, parameters)));
    if (!answer.suites.length && !compared) {
      return [
        head,
        empty(
          answer.note ??
            "Nothing was evaluated in this run yet: agent-gym eval does, and training does before and after.",
        ),
      ];
    }
    return [head, comparison, answer.suites.map((suite) => suiteCard(run, suite))];
  }

  gym.pages.evaluation = { title: "Evaluation", nav: "evaluation", oneRun: true, load };
})();
