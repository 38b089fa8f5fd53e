"use strict";
// The branch tree of a group: a line an episode, a dot a turn, forks where an episode left its parent, the reward at
// the leaf.

(() => {
  const { h, s, format } = gym;
  const ROW = 44;
  const TOP = 34;
  const LEFT = 34;
  const LEAF = 150;

  /** Order episodes so that each stands below what it branched from; give each its row. */
  function layout(episodes) {
    const byId = new Map(episodes.map((episode) => [episode.id, episode]));
    const parentOf = (episode) => byId.get(episode.branch?.parent_id ?? episode.parent_id);
    const children = new Map();
    for (const episode of episodes) {
      const parent = parentOf(episode);
      if (parent) children.set(parent.id, [...(children.get(parent.id) ?? []), episode]);
    }
    const rows = [];
    const visited = new Set();
    const visit = (episode) => {
      if (visited.has(episode.id)) return;
      visited.add(episode.id);
      rows.push({ episode, parent: parentOf(episode), row: rows.length });
      // The branch that left last comes first, so that no line crosses another.
      const sorted = [...(children.get(episode.id) ?? [])].sort((a, b) => turnOf(b) - turnOf(a));
      sorted.forEach(visit);
    };
    episodes.filter((episode) => !parentOf(episode)).forEach(visit);
    episodes.forEach(visit);
    return rows;
  }

  const turnOf = (episode) => episode.branch?.turn ?? episode.branch_turn ?? 0;

  /** What caused a fork, as one line. */
  function cause(branch) {
    if (!branch) return "";
    const parts = [];
    if (format.given(branch.probability)) parts.push(`p = ${format.number(branch.probability)}`);
    if (format.given(branch.entropy)) parts.push(`entropy ${format.number(branch.entropy)}`);
    if (format.given(branch.initial_entropy)) parts.push(`at first ${format.number(branch.initial_entropy)}`);
    return parts.join(", ");
  }

  /** Draw the tree; `open` is called with the id of a leaf that was chosen. */
  function tree(episodes, open) {
    const rows = layout(episodes);
    const turns = Math.max(1, ...episodes.map((episode) => episode.turn_list.length));
    // A long episode is drawn closer, so that its end and its reward are in sight.
    const step = Math.max(3.2, Math.min(64, 900 / turns));
    const size = Math.min(1, step / 7);
    const width = LEFT + turns * step + LEAF;
    const height = TOP + rows.length * ROW + 6;
    const at = { x: (turn) => LEFT + turn * step, y: (row) => TOP + row * ROW + ROW / 2 };
    const rowOf = new Map(rows.map((entry) => [entry.episode.id, entry.row]));
    const most = Math.max(1e-9, ...episodes.flatMap((episode) => episode.turn_list.map((turn) => turn.entropy ?? 0)));
    const picture = s("svg", {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      class: size < 1 ? "tree tight" : "tree",
      role: "group",
      "aria-label": describe(rows),
    });
    picture.append(scale(turns, at, height));
    const forks = rows.filter((entry) => entry.parent).map((entry) => fork(entry, rowOf.get(entry.parent.id), at));
    // Forks lie on the lines of what they leave, and must be reached by the pointer.
    gym.append(picture, [
      forks.map(({ way }) => way),
      rows.map((entry) => line(entry, { at, most, size, open })),
      forks.map(({ marker }) => marker),
    ]);
    return h("div", { class: "tree-scroll", tabindex: "0", role: "region", "aria-label": "Branch tree" }, picture);
  }

  function describe(rows) {
    const forks = rows.filter((entry) => entry.parent).length;
    return `Branch tree of ${rows.length} episodes, ${format.plural(forks, "fork")}`;
  }

  function scale(turns, at, height) {
    const group = s("g", { class: "tree-scale" });
    group.append(s("text", { x: 4, y: 18 }, "turn"));
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((size) => size >= turns / 16) ?? turns;
    // The first turn, and from there on round numbers.
    for (let turn = 1; turn <= turns; turn = turn === 1 && every > 1 ? every : turn + every) {
      group.append(s("line", { x1: at.x(turn - 0.5), x2: at.x(turn - 0.5), y1: TOP - 8, y2: height }));
      group.append(s("text", { x: at.x(turn - 0.5), y: 18, "text-anchor": "middle" }, turn));
    }
    return group;
  }

  function fork({ episode, parent, row }, parentRow, at) {
    const x = at.x(turnOf(episode));
    const [from, to] = [at.y(parentRow), at.y(row)];
    const bend = 10;
    const why = cause(episode.branch);
    const told = () => [
      h("strong", null, `Fork before turn ${turnOf(episode) + 1}`),
      h("div", null, `${format.shorten(episode.id, 60)} left ${format.shorten(parent.id, 60)}`),
      episode.branch &&
        h(
          "dl",
          { class: "tip-facts" },
          [
            ["branch probability", episode.branch.probability],
            ["entropy before it", episode.branch.entropy],
            ["entropy of the first turn", episode.branch.initial_entropy],
            ["shared tokens", episode.branch.offset],
          ]
            .filter(([, value]) => format.given(value))
            .map(([name, value]) => [h("dt", null, name), h("dd", null, format.number(value))]),
        ),
    ];
    const marker = s("circle", {
      class: "fork",
      cx: x,
      cy: from,
      r: 6,
      tabindex: "0",
      role: "img",
      "aria-label": `Fork before turn ${turnOf(episode) + 1}, ${why}`,
    });
    gym.tip(marker, told);
    const way = [
      s("path", { class: "tree-fork", d: `M${x} ${from}V${to - bend}Q${x} ${to} ${x + bend} ${to}` }),
      s("text", { class: "fork-text", x: x + 12, y: to - 10 }, why ? `↳ ${why}` : "↳"),
    ];
    return { way, marker };
  }

  function line({ episode, row }, { at, most, size, open }) {
    const begin = turnOf(episode);
    const count = episode.turn_list.length;
    const y = at.y(row);
    const kind = episode.error ? "failed" : episode.success ? "success" : "wrong";
    const end = at.x(Math.max(count, begin + 0.4));
    const parts = [
      s("line", { class: `tree-line ${kind}`, x1: at.x(begin) + (begin ? 10 : 0), x2: end, y1: y, y2: y }),
    ];
    episode.turn_list.slice(begin).forEach((turn, place) => {
      const index = begin + place;
      const share = Math.sqrt((turn.entropy ?? 0) / most);
      const dot = s("circle", {
        class: `tree-turn ${turn.invalid ? "invalid" : ""}`,
        cx: at.x(index + 0.5),
        cy: y,
        r: (2.5 + 3.5 * share) * size,
      });
      gym.tip(dot, () => [
        h("strong", null, `Turn ${index + 1}`),
        h("div", { class: "tip-text" }, format.shorten(turn.action, 200)),
        h(
          "div",
          null,
          `entropy ${format.number(turn.entropy)} · reward ${format.number(turn.reward)} · `,
          format.plural(turn.tokens ?? 0, "token"),
          turn.invalid ? " · invalid" : "",
        ),
      ]);
      parts.push(dot);
    });
    parts.push(leaf(episode, kind, end, y, open));
    return parts;
  }

  function leaf(episode, kind, x, y, open) {
    const sign = { success: "✓", failed: "!", wrong: "×" }[kind];
    const words = { success: "success", failed: "failed", wrong: "no success" }[kind];
    const mark = s(
      "g",
      {
        class: `leaf ${kind}`,
        tabindex: "0",
        role: "link",
        "aria-label": `Episode ${episode.id}: ${words}, reward ${format.number(episode.reward)}`,
        "data-leaf": episode.id,
        transform: `translate(${x + 14} ${y})`,
      },
      s("rect", { x: -6, y: -14, width: 130, height: 28, rx: 14, class: "leaf-back" }),
      s("circle", { r: 9, cx: 6 }),
      s("text", { class: "leaf-sign", y: 4.5, x: 6, "text-anchor": "middle" }, sign),
      s("text", { class: "leaf-text", x: 22, y: 4.5 }, `${format.number(episode.reward)}`),
      s("text", { class: "leaf-id", x: 54, y: 4.5 }, format.shorten(episode.id.split("/").at(-1), 9)),
    );
    mark.addEventListener("click", () => open(episode.id));
    mark.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        event.stopPropagation();
        open(episode.id);
      }
    });
    return gym.tip(mark, () => [
      h("strong", null, episode.id),
      h(
        "div",
        null,
        `${words}, reward ${format.number(episode.reward)}, ${format.plural(episode.turn_list.length, "turn")}`,
      ),
      episode.error && h("div", null, format.shorten(episode.error, 200)),
    ]);
  }

  Object.assign(gym, { tree, treeLayout: layout, forkCause: cause });
})();
