"use strict";
// One turn of an episode: what the agent saw, wrote and did, its tokens coloured, and what the method made of it.

(() => {
  const { h, format, parts } = gym;

  /** The tokens of a stretch as spans; what a span stands for is found again through `meaning`. */
  const meaning = new WeakMap();

  function tokenSpan(token, values, place) {
    const classes = [
      "token",
      token.m ? "own" : "context",
      token.s ? "special" : "",
      token.t.trim() ? "" : "blank",
    ].filter(Boolean);
    const span = h("span", { class: classes.join(" ") }, token.t);
    meaning.set(span, { token, values, place });
    return span;
  }

  /**
   * The tokens of a stretch; what the model did not write is dimmed. Most tokens of an episode are context: where it is
   * not asked for it is not made, either.
   */
  function tokens(part, context = true) {
    if (part.prompt_text) return parts.long(part.prompt_text, { className: "text tokens" });
    const block = h("div", { class: "tokens" });
    meaning.set(block, part);
    fill(block, context);
    return block;
  }

  function fill(block, context) {
    const part = meaning.get(block);
    const left = `… ${format.plural(part.tokens_left_out ?? 0, "token")} before are not shown …`;
    block.replaceChildren();
    gym.append(block, [
      context && part.tokens_left_out ? h("span", { class: "token context" }, left) : null,
      (part.tokens ?? []).map((token, place) =>
        token.m || context ? tokenSpan(token, part.values ?? {}, place) : null,
      ),
    ]);
  }

  /** Show the context of all turns below an element, or leave it out. */
  function showContext(root, context) {
    for (const block of root.querySelectorAll(".turn .tokens")) if (meaning.has(block)) fill(block, context);
  }

  /** The token after (or before) the one that the keyboard stands on, in a turn. */
  function step(turn, by) {
    const own = [...turn.querySelectorAll(".token.own")];
    const here = own.findIndex((span) => span.classList.contains("at"));
    own[here]?.classList.remove("at");
    const next = own[Math.max(0, Math.min(own.length - 1, here < 0 ? (by > 0 ? 0 : own.length - 1) : here + by))];
    next?.classList.add("at");
    return next;
  }

  /** Colour the spans below an element by a value; an empty name takes the colours away. */
  function paint(root, name, scale) {
    for (const span of root.querySelectorAll(".token.own")) {
      span.classList.remove("tone-one", "tone-below", "tone-above", "tone-none");
      const { values, place } = meaning.get(span) ?? { values: {} };
      const shade = name ? gym.colours.shade(scale, values[name]?.[place]) : null;
      if (!shade) continue;
      span.classList.add(shade.tone);
      span.style.setProperty("--strength", shade.strength.toFixed(3));
    }
  }

  /** What the pointer is on: the token, its id and all its values. */
  function explain(span) {
    const found = meaning.get(span);
    if (!found) return null;
    const { token, values, place } = found;
    const rows = Object.entries(values)
      .filter(([, list]) => format.given(list?.[place]))
      .map(([name, list]) => [gym.colours.label(name), format.number(list[place])]);
    return [
      h("strong", { class: "mono" }, JSON.stringify(token.t)),
      h(
        "div",
        null,
        `token ${token.i ?? "–"} at ${token.o} · ${token.m ? "written by the model (mask 1)" : "context (mask 0)"}`,
      ),
      h(
        "dl",
        { class: "tip-facts" },
        rows.map(([name, value]) => [h("dt", null, name), h("dd", null, value)]),
      ),
    ];
  }

  // -- what the method did -----------------------------------------------------------------------------------------

  /** A bar from zero in one direction or in two. */
  function bar(label, value, reach, { signed = false, tone = "one", from = null, least = 0 } = {}) {
    if (!format.given(value)) return null;
    const tiny = Math.abs(value) < least / 10 && value !== 0;
    const written = tiny ? "≈ 0" : signed ? format.signed(value) : format.number(value);
    const place = from === null ? null : 0.5 + Math.max(-0.5, Math.min(0.5, from / (reach || 1) / 2));
    const share = Math.min(1, Math.abs(value) / (reach || 1));
    const direction = signed && value < 0 ? "below" : signed ? "above" : tone;
    return h(
      "div",
      { class: `measure ${signed ? "two" : ""}` },
      h("span", null, label),
      h(
        "span",
        { class: "measure-track" },
        h("span", { class: `measure-bar ${direction}`, vars: { "--share": share.toFixed(3) } }),
        place === null ? null : h("span", { class: "measure-from", vars: { "--share": place.toFixed(3) } }),
      ),
      h("span", { class: "measure-value" }, from === null ? written : `${format.signed(from)} → ${written}`),
    );
  }

  /** Mean entropy, advantage before and after the method, weight, and so on, of one turn. */
  function measures(turn, reach) {
    const means = turn.means ?? {};
    const signed = /advantage|log_ratio|^kl$|^value$/;
    // The reward stands at the turn's last token alone: a mean would say nothing, and the turn's head says it.
    const [base, final] = [means.base_advantage, means.advantage];
    const changed = format.given(base) && format.given(final) && Math.abs(base - final) > 1e-6;
    // What the method began with is marked on the bar of what it came to.
    const told = (name) => name === "reward" || (name === "base_advantage" && format.given(final));
    const names = Object.keys(means).filter((name) => !told(name) && format.given(means[name]));
    const before = (name) => (name.startsWith("base") ? 0 : name === "advantage" ? 1 : name === "weight" ? 2 : 3);
    names.sort((a, b) => before(a) - before(b) || (a < b ? -1 : 1));
    const bars = [
      turn.generated_tokens ? bar("entropy", turn.entropy, reach.entropy) : null,
      ...names.map((name) =>
        bar(gym.colours.label(name), means[name], reach[groupOf(name)], {
          signed: signed.test(name),
          tone: "weight",
          from: name === "advantage" && changed ? base : null,
          least: gym.colours.LEAST[name],
        }),
      ),
    ].filter(Boolean);
    return bars.length
      ? h("div", { class: "measures", role: "group", "aria-label": "What the method did to this turn" }, bars)
      : null;
  }

  const groupOf = (name) => (name.includes("advantage") ? "advantage" : name);

  /** The largest size of each value over all turns, which bars are drawn against. */
  function reachOf(turns) {
    // Below a thousandth a ratio is the rounding of two computations, and not worth a bar.
    const reach = { entropy: 0, log_ratio: 1e-3, kl: 1e-3 };
    for (const turn of turns) {
      reach.entropy = Math.max(reach.entropy, turn.entropy ?? 0);
      for (const [name, value] of Object.entries(turn.means ?? {})) {
        if (format.given(value)) reach[groupOf(name)] = Math.max(reach[groupOf(name)] ?? 0, Math.abs(value));
      }
    }
    return reach;
  }

  // -- the turn ----------------------------------------------------------------------------------------------------

  function speech(who, ...content) {
    return h("div", { class: `speech ${who}` }, h("div", { class: "who" }, who), ...content);
  }

  function badges(turn) {
    return [
      turn.invalid ? h("span", { class: "badge wrong" }, "× invalid action") : null,
      turn.reward
        ? h("span", { class: `badge ${turn.reward > 0 ? "success" : "wrong"}` }, `reward ${format.signed(turn.reward)}`)
        : null,
      turn.tool_calls ? h("span", { class: "badge" }, format.plural(turn.tool_calls, "tool call")) : null,
      turn.finish_reason && turn.finish_reason !== "stop"
        ? h("span", { class: "badge cut" }, `ended by ${turn.finish_reason}`)
        : null,
      turn.shared ? h("span", { class: "badge" }, "↳ shared with its parent") : null,
    ];
  }

  function timings(turn) {
    const times = [
      `${format.count(turn.prompt_tokens)} tokens in, ${format.count(turn.generated_tokens)} out`,
      turn.engine_seconds ? `model ${format.seconds(turn.engine_seconds)}` : null,
      turn.env_seconds ? `environment ${format.seconds(turn.env_seconds)}` : null,
      turn.engine_version ? `weights ${turn.engine_version}` : null,
    ];
    return h("div", { class: "timings" }, times.filter(Boolean).join(" · "));
  }

  /** Draw a turn. `reach` comes from `reachOf`. */
  function turnCard(turn, reach) {
    const own = (turn.tokens ?? []).some((token) => token.m);
    const text = own ? null : parts.long(turn.text || "(nothing)", { className: "text" });
    // The action is worth a line of its own only where it is not what the model wrote.
    const action =
      turn.action.trim() === turn.text.trim()
        ? null
        : h(
            "div",
            { class: "action-line" },
            h("span", null, "action"),
            parts.long(turn.action, { length: 600, className: "text mono" }),
          );
    return h(
      "article",
      {
        class: `turn ${turn.shared ? "shared" : ""}`,
        "data-row": "",
        tabindex: "0",
        "data-turn": turn.index + 1,
        id: `turn-${turn.index + 1}`,
        "aria-label": `Turn ${turn.index + 1}`,
      },
      h("div", { class: "turn-head" }, h("h3", null, `Turn ${turn.index + 1}`), badges(turn), timings(turn)),
      speech("environment", parts.long(turn.observation, { length: 1500 })),
      speech("model", own ? tokens(turn, false) : text, action),
      measures(turn, reach),
    );
  }

  gym.turns = { tokens, paint, explain, showContext, step, turnCard, reachOf };
})();
