"use strict";
// The overview: what a run is, and its curves, several runs laid over each other.

(() => {
  const { h, format, parts } = gym;
  const { colourOf } = gym.about;

  const share = { y: format.percent, domain: [0, 1] };

  /** The charts: which measures stand in which, how they are written. A measure is a path into a record. */
  const CHARTS = [
    { title: "Success", measures: { success_rate: "success" }, measured: "success_rate", ...share },
    { title: "Reward", measures: { reward: "reward" }, measured: "reward" },
    { title: "Entropy", measures: { entropy: "entropy" }, measured: "entropy", corridor: true, note: "nats a token" },
    {
      title: "KL divergence",
      measures: { kl: "to the sampling policy", kl_reference: "to the reference" },
      least: 1e-4,
      note: "nats a token",
    },
    {
      title: "Clip fraction",
      measures: { clip_fraction: "clipped", dual_clip_fraction: "dual clip" },
      y: format.percent,
      least: 0.01,
      note: "of tokens",
    },
    { title: "Turns", measures: { turns: "turns" }, measured: "turns", note: "an episode" },
    { title: "Tokens", measures: { tokens_per_episode: "tokens" }, note: "generated, an episode" },
    {
      title: "Throughput",
      measures: { "seconds.tokens_per_second": "tokens a second" },
      note: "tokens a second of rollout",
    },
    {
      title: "Time",
      measures: { "seconds.rollout": "rollout", "seconds.update": "update" },
      y: format.seconds,
      note: "a step",
    },
    { title: "Failures", measures: { failed: "failed episodes", retried: "retried" }, whole: true, note: "a step" },
    {
      title: "Invalid actions",
      measures: { invalid_actions: "invalid actions" },
      measured: "invalid_actions",
      note: "of turns",
      ...share,
    },
    {
      title: "Groups with signal",
      measures: { groups_with_signal: "groups" },
      note: "whose rewards differ",
      ...share,
    },
    { title: "Loss", measures: { loss: "loss" } },
    { title: "Gradient norm", measures: { grad_norm: "gradient norm" } },
  ];
  const BAND = new Set(["corridor_low", "corridor_high", "entropy_reference"]);
  const PLAIN = new Set(["step", "episodes", "successes", "generated_tokens", "seconds.total"]);
  const MEASURED = { before: "before", during: "during", after: "after" };

  const records = new Map();
  const read = new Map();

  /** Take in what a run has logged since it was last read. */
  async function load(run) {
    // A report holds the curves once, and nothing is added to them.
    if (gym.isOffline && records.has(run.index)) return;
    const { next, generation } = read.get(run.index) ?? {};
    const answer = await gym.get("metrics", {
      run: run.index,
      since: next || null,
      generation: next ? generation : null,
    });
    // A run that went back to a checkpoint has written its log anew: the answer then begins at its first line.
    const before = next && answer.since === next ? records.get(run.index) : [];
    records.set(run.index, [...before, ...answer.records.map(flat)]);
    read.set(run.index, answer);
  }

  /** A record with inner records lifted up ("seconds.rollout"), and what follows from it. */
  function flat(record) {
    const out = {};
    for (const [key, value] of Object.entries(record)) {
      if (value !== null && typeof value === "object" && !Array.isArray(value)) {
        for (const [inner, number] of Object.entries(value)) out[`${key}.${inner}`] = number;
      } else out[key] = value;
    }
    if (out.episodes && format.given(out.generated_tokens))
      out.tokens_per_episode = out.generated_tokens / out.episodes;
    return out;
  }

  const linesOf = (run) => records.get(run.index) ?? [];

  const points = (lines, name) =>
    lines.filter((line) => format.given(line[name])).map((line) => [line.step, line[name]]);

  /** The series of one chart over all chosen runs; those of nothing but zeros only where that says something. */
  function seriesOf(definition, runs) {
    const series = [];
    const bands = [];
    for (const run of runs) {
      const lines = linesOf(run);
      const trained = lines.filter((line) => line.phase === "train");
      const prefix = runs.length > 1 ? `${run.name} · ` : "";
      const names = Object.entries(definition.measures);
      names.forEach(([name, label], index) => {
        const found = points(trained, name);
        if (found.length)
          series.push({
            name: prefix + label,
            label,
            colour: colourOf(run),
            points: found,
            kind: "line",
            dash: index > 0,
            run: run.index,
          });
      });
      if (definition.measured) {
        const found = points(
          lines.filter((line) => line.phase in MEASURED),
          definition.measured,
        );
        if (found.length)
          series.push({
            name: `${prefix}held-out tasks`,
            label: "held-out tasks",
            colour: colourOf(run) + (runs.length > 1 ? 0 : 1),
            points: found,
            kind: "dots",
            run: run.index,
          });
      }
      if (definition.corridor) bands.push(...corridor(trained, run, prefix));
    }
    return { series, bands };
  }

  /** EPO's corridor as a band, and its middle as a dashed line of the same chart. */
  function corridor(lines, run, prefix) {
    const [low, high] = [points(lines, "corridor_low"), points(lines, "corridor_high")];
    return low.length && high.length
      ? [{ name: `${prefix}EPO's corridor`, label: "EPO's corridor", colour: colourOf(run), low, high }]
      : [];
  }

  /** What all charts share: one axis of steps, smoothing, and where a click on a step leads. */
  function shared(runs, weight) {
    const last = (run) => linesOf(run).reduce((most, line) => Math.max(most, line.step ?? 0), 0);
    const open = (step, one) => {
      // Measurements are groups, too, of another phase.
      const phase = one?.kind === "dots" ? "all" : null;
      location.hash = gym.href("groups", { run: one?.run ?? runs[0].index, step, phase });
    };
    return { weight, end: Math.max(1, ...runs.map(last)), open };
  }

  function charts(runs, weight) {
    const cards = [];
    for (const definition of CHARTS) {
      const { series, bands } = seriesOf(definition, runs);
      if (definition.corridor) series.push(...references(runs));
      if (series.length) cards.push(gym.chart(series, bands, { ...definition, ...shared(runs, weight) }));
    }
    return cards;
  }

  function references(runs) {
    return runs.flatMap((run) => {
      const found = points(
        linesOf(run).filter((line) => line.phase === "train"),
        "entropy_reference",
      );
      const prefix = runs.length > 1 ? `${run.name} · ` : "";
      return found.length
        ? [
            {
              name: `${prefix}corridor's reference`,
              label: "corridor's reference",
              colour: colourOf(run),
              points: found,
              kind: "line",
              dash: true,
              run: run.index,
            },
          ]
        : [];
    });
  }

  /** Whatever else the runs have logged. */
  function others(runs, weight) {
    const drawn = new Set([
      ...CHARTS.flatMap(({ measures }) => Object.keys(measures)),
      ...BAND,
      ...PLAIN,
      "tokens_per_episode",
    ]);
    const names = new Set();
    for (const run of runs) {
      for (const line of linesOf(run)) {
        if (line.phase === "train")
          for (const key of Object.keys(line)) if (format.given(line[key]) && !drawn.has(key)) names.add(key);
      }
    }
    return [...names].sort().map((name) => {
      const { series, bands } = seriesOf({ measures: { [name]: format.words(name) } }, runs);
      return gym.chart(series, bands, { title: format.words(name), ...shared(runs, weight) });
    });
  }

  // -- the page --------------------------------------------------------------------------------------------------

  function legend(runs, parameters) {
    const all = gym.runs();
    if (all.length < 2) return null;
    const shown = new Set(runs.map((run) => run.index));
    const toggle = (run) => {
      const next = all.filter((one) => (one.index === run.index ? !shown.has(one.index) : shown.has(one.index)));
      if (next.length) gym.change({ ...parameters, run: null, runs: next.map((one) => one.index).join(",") });
    };
    const chips = all.map((run) =>
      h(
        "button",
        { type: "button", class: "chip", "aria-pressed": String(shown.has(run.index)), onclick: () => toggle(run) },
        gym.swatch("line", colourOf(run)),
        run.name,
      ),
    );
    return h("div", { class: "legend", role: "group", "aria-label": "Runs shown" }, chips);
  }

  function smoothing(parameters) {
    const value = Number(parameters.smooth ?? 0);
    const slider = h("input", {
      type: "range",
      min: 0,
      max: 0.95,
      step: 0.05,
      value,
      id: "smooth",
      // The slider stays where it is: one that was made anew would let go of the pointer.
      oninput: (event) => {
        const weight = Number(event.target.value);
        said.textContent = word(weight);
        gym.note({ smooth: weight || null });
        document.getElementById("curves").replaceWith(curves(gym.place().parameters));
      },
    });
    const word = (weight) => (weight ? weight.toFixed(2) : "off");
    const said = h("output", { for: "smooth" }, word(value));
    return h("label", { class: "field inline" }, h("span", null, "Smoothing"), slider, said);
  }

  /** All charts, or a sentence where there are none. */
  function curves(parameters) {
    const runs = gym.chosenRuns(parameters);
    const weight = Number(parameters.smooth ?? 0);
    const cards = charts(runs, weight);
    const more = others(runs, weight);
    const trained = runs.some((run) => run.kind === "train" && !run.error);
    const nothing = runs.every((run) => run.error)
      ? null
      : trained
      ? parts.empty("No step is finished yet: the curves appear here as soon as one is.")
      : parts.empty(
          "An evaluation has no curves; its results stand under ",
          h("a", { href: gym.href("evaluation", { run: runs[0]?.index }) }, "Evaluation"),
          ".",
        );
    const moreOpen = document.getElementById("more-charts")?.open ?? false;
    return h(
      "div",
      { id: "curves" },
      cards.length ? h("div", { class: "charts" }, cards) : nothing,
      more.length
        ? parts.fold(`More measures (${more.length})`, () => h("div", { class: "charts" }, more), {
            id: "more-charts",
            open: moreOpen,
          })
        : null,
    );
  }

  function content(parameters) {
    const runs = gym.chosenRuns(parameters);
    return [
      parts.heading("Overview", h("div", { class: "tools" }, smoothing(parameters))),
      legend(runs, parameters),
      runs.length > 1 ? gym.about.table(runs, linesOf) : runs.map((run) => gym.about.card(run, linesOf(run))),
      curves(parameters),
    ];
  }

  gym.pages.overview = {
    title: "Overview",
    async load(parameters) {
      await Promise.all(gym.chosenRuns(parameters).map(load));
      return content(parameters);
    },
  };
})();
