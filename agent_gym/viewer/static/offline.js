"use strict";
// An offline report carries lists unfiltered: here they are filtered and sorted as the server would.

(() => {
  const ORDERS = {
    newest: (a, b) => b.step - a.step,
    oldest: (a, b) => a.step - b.step,
    reward: (a, b) => a.reward - b.reward,
    "-reward": (a, b) => b.reward - a.reward,
    turns: (a, b) => a.turns - b.turns,
    "-turns": (a, b) => b.turns - a.turns,
  };

  const differ = (row) => row.spread > 1e-9;

  const REWARDS = {
    any: () => true,
    differ,
    equal: (row) => !differ(row),
    won: (row) => row.successes === row.count,
    lost: (row) => row.successes === 0,
  };

  const within = (value, low, high) =>
    (low === undefined || low === "" || value >= Number(low)) &&
    (high === undefined || high === "" || value <= Number(high));

  function matches(row, wanted) {
    const equal = (name, value) => !wanted[name] || String(value ?? "") === String(wanted[name]);
    const flag = (name, value) =>
      wanted[name] === undefined || wanted[name] === "" || value === (String(wanted[name]) === "1");
    const text = [row.id, row.task_id, row.goal, row.error, row.answer].join("\n").toLowerCase();
    return (
      equal("phase", row.phase) &&
      equal("suite", row.suite) &&
      equal("step", row.step) &&
      equal("type", row.task_type) &&
      equal("task", row.task_id) &&
      equal("group", row.group_id) &&
      flag("success", Boolean(row.success)) &&
      flag("failed", Boolean(row.error)) &&
      (!wanted.q || text.includes(wanted.q.toLowerCase())) &&
      within(row.reward, wanted.min_reward, wanted.max_reward) &&
      within(row.turns, wanted.min_turns, wanted.max_turns)
    );
  }

  /** Answer a request for a list from the list without filters; undefined where the report does not hold it. */
  function answer(name, parameters, find) {
    const all = find(`/api/${name}?run=${parameters.run ?? 0}`);
    if (!all) return undefined;
    if (name === "episodes") {
      const rows = all.episodes.filter((row) => matches(row, parameters));
      if (parameters.order) rows.sort(ORDERS[parameters.order] ?? ORDERS.newest);
      return { episodes: rows, next: null, total: rows.length, total_is_exact: all.next === null };
    }
    if (name === "groups") {
      const rows = all.groups.filter(
        (row) =>
          matches({ ...row, id: row.group_id, reward: row.reward_mean }, parameters) &&
          REWARDS[parameters.rewards || "any"]?.(row),
      );
      return { groups: rows, next: null, total: rows.length };
    }
    return undefined;
  }

  gym.offline = { answer };
})();
