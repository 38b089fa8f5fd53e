"use strict";
// One episode: its turns as a conversation, its tokens coloured, the state of the environment beside it.

(() => {
  const { h, href, format, parts, turns: pieces } = gym;
  const { trail, heading, facts, outcome, fold, json, select, episodeLink } = parts;

  /** All values of one name over what is shown of an episode. */
  const valuesOf = (episode, name) =>
    [...episode.prompt, ...episode.turns, ...(episode.rest ?? [])].flatMap((part) => part.values?.[name] ?? []);

  function title(row, episode, listed) {
    const run = gym.currentRun();
    const to = (id) => (id ? href("episode", { ...listed, run: run.index, id }) : null);
    const step = (label, id, key) =>
      h(
        "a",
        {
          class: `button ${id ? "" : "off"}`,
          href: to(id),
          "aria-disabled": id ? null : "true",
          "data-step": key,
          title: `${label} episode (${key})`,
        },
        key === "p" ? `‹ ${label}` : `${label} ›`,
      );
    return heading(
      row.goal || row.task_id,
      outcome(row),
      h("div", { class: "tools" }, step("previous", episode.previous, "p"), step("next", episode.next, "n")),
    );
  }

  function branches(run, row, episode) {
    const branch = episode.branch;
    const why = branch ? gym.forkCause(branch) : "";
    const items = [];
    if (branch)
      items.push(
        h(
          "li",
          null,
          `Left `,
          episodeLink(run.index, branch.parent_id),
          ` before turn ${(branch.turn ?? 0) + 1}`,
          why ? ` (${why})` : "",
          ".",
        ),
      );
    for (const child of episode.branches ?? []) {
      items.push(
        h(
          "li",
          null,
          episodeLink(run.index, child.id),
          ` left it before turn ${(child.turn ?? 0) + 1}: ${child.success ? "success" : "no success"}, `,
          `reward ${format.number(child.reward)}.`,
        ),
      );
    }
    return items.length ? h("ul", { class: "branches" }, items) : null;
  }

  // -- the state of the environment --------------------------------------------------------------------------------

  const ADMISSIBLE = /(?:^|\n)Admissible actions: ?([\s\S]*)$/;

  /** What stands now, after a turn: what the environment answered, the score so far, what may be done. */
  function state(episode, turn) {
    const row = episode.episode;
    const last = turn >= episode.turn_count;
    const following = episode.turns[turn - (episode.turns[0]?.index ?? 0)];
    const now = last ? episode.final_observation : (following?.observation ?? "");
    const [, listed] = now.match(ADMISSIBLE) ?? [];
    const actions = listed?.split(/,\s*/).filter(Boolean) ?? [];
    const score = episode.turns.filter((one) => one.index < turn).reduce((sum, one) => sum + one.reward, 0);
    return [
      h("h2", null, "Environment", h("span", { class: "sub" }, last ? " at the end" : ` after turn ${turn}`)),
      facts(
        ["Goal", row.goal],
        ["Reward so far", format.number(score)],
        last ? ["Score", format.number(row.score)] : ["", null],
        last ? ["Answer", row.answer] : ["", null],
      ),
      h("h3", null, "Observation now"),
      parts.long(listed ? now.replace(ADMISSIBLE, "") : now || "(nothing)", { length: 900 }),
      actions.length
        ? [
            h("h3", null, `Admissible actions (${actions.length})`),
            h(
              "ul",
              { class: "admissible" },
              actions.slice(0, 200).map((action) => h("li", null, action)),
            ),
          ]
        : null,
    ];
  }

  // -- the page ------------------------------------------------------------------------------------------------------

  function toolbar(episode, root, parameters, go) {
    const counted = episode.signals.filter((name) => valuesOf(episode, name).some(format.given));
    if (!counted.length) {
      const drawn = episode.turns.some((turn) => turn.tokens?.length);
      const why = drawn ? "No values were recorded for these tokens." : "Shown as text, without its tokens.";
      return h("div", { class: "toolbar" }, h("span", { class: "note" }, why));
    }
    const wanted = parameters.colour ?? gym.recall("colour") ?? "entropy";
    const legend = h("div", { class: "legend-slot", "aria-live": "polite" });
    const show = (name) => {
      const scale = gym.colours.scaleOf(name, name ? valuesOf(episode, name) : []);
      pieces.paint(root, name, scale);
      legend.replaceChildren(...(name ? [gym.colours.legend(name, scale)] : []));
      glance.replaceChildren(...(outline ? [gym.strip.draw(outline, name || "entropy", go)] : []));
      gym.strip.at(glance, Number(gym.place().parameters.turn));
      root.dataset.colour = name;
    };
    const outline = episode.turn_count > 1 ? episode.outline : null;
    const glance = h("div", { class: "glance", vars: { "--turns": episode.turn_count } });
    const options = [...counted.map((name) => [name, gym.colours.label(name)]), ["none", "nothing"]];
    const first = options.some(([name]) => name === wanted) ? wanted : counted[0];
    const choose = (name) => {
      gym.remember("colour", name);
      gym.note({ colour: name });
      show(name === "none" ? "" : name);
    };
    const list = select("Colour tokens by", "colour", options, first, choose);
    queueMicrotask(() => show(first === "none" ? "" : first));
    const context = h(
      "label",
      { class: "field inline" },
      h("input", {
        type: "checkbox",
        id: "field-context",
        onchange: (event) => {
          pieces.showContext(root, event.target.checked);
          show(root.dataset.colour);
        },
      }),
      h("span", null, "Context tokens"),
    );
    return h(
      "div",
      { class: "toolbar", role: "group", "aria-label": "Colours" },
      list,
      legend,
      context,
      h(
        "span",
        { class: "mask-key" },
        h("span", { class: "token own" }, "model"),
        " mask 1 ",
        h("span", { class: "token context" }, "context"),
        " mask 0",
      ),
      // On a line of their own, and of one height: what is below must not move when the colour changes.
      outline && h("div", { class: "turns-at-a-glance" }, glance, gym.strip.finds(outline, go)),
    );
  }

  /** What a token is and has, told to the pointer, to a finger, and to the arrow keys in a turn. */
  function explained(root) {
    const tell = (event) => {
      const span = event.target.closest?.(".token");
      const content = span && pieces.explain(span);
      if (content) gym.showTip(event.clientX, event.clientY, content);
      else gym.hideTip();
    };
    root.addEventListener("pointermove", tell);
    root.addEventListener("click", tell);
    root.addEventListener("pointerleave", gym.hideTip);
    root.addEventListener("focusout", gym.hideTip);
    root.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") gym.hideTip();
      if (!by || !event.target.matches(".turn")) return;
      event.preventDefault();
      const span = pieces.step(event.target, by);
      if (!span) return;
      span.scrollIntoView({ block: "nearest" });
      const box = span.getBoundingClientRect();
      gym.showTip(box.right, box.bottom, pieces.explain(span));
    });
  }

  const isWhole = (episode) => episode.next_turn === null || episode.next_turn === undefined;

  /** An episode with the turns that follow those which it has. */
  async function withMore(episode, run) {
    const { prompt, turns, outline, next_turn: from_turn } = episode;
    const more = await gym.get("episode", { run: run.index, id: episode.episode.id, from_turn });
    const neighbours = { previous: episode.previous, next: episode.next };
    return { ...more, ...neighbours, prompt, outline, turns: [...turns, ...more.turns] };
  }

  /** An episode with as many turns as are needed for one of them to be there. */
  async function upTo(turn, episode, run) {
    let found = episode;
    while (turn > found.turns.length && !isWhole(found)) found = await withMore(found, run);
    return found;
  }

  /** Turns that did not fit into the first answer. */
  function rest(episode, run, redraw) {
    if (isWhole(episode)) return null;
    const button = h("button", { type: "button", class: "more" }, "Show the turns that follow");
    button.addEventListener("click", async () => {
      button.textContent = "Loading …";
      try {
        redraw(await withMore(episode, run));
      } catch (error) {
        button.textContent = error.message;
      }
    });
    return h("div", { class: "cut-off" }, episode.cut ? h("p", { class: "note" }, episode.cut) : null, button);
  }

  function about(run, row, episode) {
    return facts(
      ["Reward", format.number(row.reward)],
      ["Turns", format.count(row.turns)],
      ["Tokens", `${format.count(row.generated_tokens)} generated, ${format.count(episode.token_count)} in all`],
      ["Tool calls", row.tool_calls || null],
      ["Invalid actions", row.invalid_actions || null],
      ["Time", row.seconds ? format.seconds(row.seconds) : null],
      ["Cost", row.cost === null ? null : format.dollars(row.cost)],
      ["Task", h("a", { href: href("episodes", { run: run.index, task: row.task_id }) }, row.task_id)],
      ["Kind", row.task_type],
      [
        "Group",
        row.group_id ? h("a", { href: href("group", { run: run.index, id: row.group_id }) }, row.group_id) : null,
      ],
      ["Episode", row.id],
      ["Phase", `${row.suite || row.phase}, step ${row.step}`],
    );
  }

  function draw(parameters, run, episode) {
    const row = episode.episode;
    const listed = gym.chosenFilters(parameters);
    const reach = pieces.reachOf(episode.turns);
    const root = h("div", { class: "conversation" });
    const panel = h("aside", { class: "state", "aria-label": "Environment" });
    const look = (turn) => panel.replaceChildren(...state(episode, turn).flat().filter(Boolean));
    const redraw = (more) => {
      const main = document.getElementById("main");
      main.replaceChildren();
      gym.append(main, draw(parameters, run, more));
    };
    const go = async (turn) => {
      if (turn > episode.turns.length) redraw(await upTo(turn, episode, run));
      show(turn);
    };
    const prompts = episode.prompt.filter((part) => part.tokens?.length || part.prompt_text);
    gym.append(root, [
      prompts.length
        ? h(
            "div",
            { class: "prompt-tokens" },
            fold("Prompt as the model read it", () => h("div", null, prompts.map(pieces.tokens)), {
              className: "small",
            }),
          )
        : null,
      episode.turns.map((turn) => pieces.turnCard(turn, reach)),
      rest(episode, run, redraw),
      episode.turn_count ? null : parts.empty("It ended before its first turn."),
      h(
        "div",
        { class: "speech environment final" },
        h("div", { class: "who" }, "environment, at the end"),
        parts.long(episode.final_observation || "(nothing)", { length: 1500 }),
      ),
    ]);
    explained(root);
    root.addEventListener("focusin", (event) => {
      const card = event.target.closest("[data-turn]");
      if (!card) return;
      look(Number(card.dataset.turn));
      gym.note({ turn: card.dataset.turn });
      gym.strip.at(document.getElementById("main"), Number(card.dataset.turn));
    });
    look(Number(parameters.turn) || episode.turn_count);
    return [
      trail(
        [run.name, href("overview", { run: run.index })],
        row.group_id && !Object.keys(listed).length
          ? [row.group_id, href("group", { run: run.index, id: row.group_id })]
          : ["Episodes", href("episodes", { ...listed, run: run.index })],
        [row.id],
      ),
      title(row, episode, listed),
      about(run, row, episode),
      row.error
        ? h("div", { class: "error-box" }, h("strong", null, "The episode failed: "), parts.long(row.error))
        : null,
      branches(run, row, episode),
      toolbar(episode, root, parameters, go),
      h("div", { class: "with-side" }, root, panel),
      fold("Metadata", () => json({ ...row, ...episode.metadata }), { id: "metadata" }),
    ];
  }

  /** Bring a turn into sight, and put the focus on it. */
  function show(turn) {
    const card = document.getElementById(`turn-${turn}`);
    if (!card) return;
    card.scrollIntoView({ block: "center" });
    card.focus({ preventScroll: true });
  }

  gym.pages.episode = {
    title: "Episode",
    nav: "episodes",
    oneRun: true,
    still: true,
    async load(parameters) {
      const run = gym.currentRun(parameters);
      // A report holds an episode once, whichever list it is looked at in.
      const listed = gym.isOffline ? {} : gym.chosenFilters(parameters);
      const episode = await gym.get("episode", { ...listed, run: run.index, id: parameters.id });
      return draw(parameters, run, await upTo(Number(parameters.turn) || 0, episode, run));
    },
    shown: (parameters) => show(Number(parameters.turn)),
    up: (parameters, main) =>
      main.querySelector(".trail li:nth-child(2) a")?.getAttribute("href") ?? href("episodes", { run: parameters.run }),
  };
})();
