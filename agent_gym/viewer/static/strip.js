"use strict";
// All turns of an episode at a glance: a bar a turn, as high as what tokens are coloured by; marks for invalid actions
// and for rewards. It leads to any turn, also of an episode that is too long to be drawn at once.

(() => {
  const { h, s, format } = gym;
  const HEIGHT = 40;
  const MIDDLE = 20;
  const WIDTH = 10;

  /** Draw the strip; `go` is called with the number of a turn, from 1 on. */
  function strip(outline, name, go) {
    const values = outline.means[name] ?? outline.means.entropy;
    const scale = gym.colours.scaleOf(name, values);
    const picture = s("svg", {
      viewBox: `0 0 ${values.length * WIDTH} ${HEIGHT + 8}`,
      preserveAspectRatio: "none",
      class: "strip",
      role: "img",
      "aria-label": `${gym.colours.label(name)} of ${format.plural(values.length, "turn")}. ${said(outline)}`,
    });
    const invalid = new Set(outline.invalid);
    values.forEach((value, index) => {
      const turn = s("g", { class: "strip-turn", "data-strip": index + 1 });
      // The ground of the bar, which the pointer finds also where the value is small.
      turn.append(s("rect", { class: "strip-back", x: index * WIDTH, y: 0, width: WIDTH, height: HEIGHT + 8 }));
      turn.append(bar(scale, value, index));
      if (invalid.has(index)) turn.append(mark("strip-invalid", index));
      else if (outline.rewards[index]) turn.append(mark(outline.rewards[index] > 0 ? "strip-reward" : "strip-loss", index));
      picture.append(turn);
    });
    const numberOf = (event) => Number(event.target.closest?.("[data-strip]")?.dataset.strip);
    picture.addEventListener("click", (event) => numberOf(event) && go(numberOf(event)));
    picture.addEventListener("pointermove", (event) => {
      const number = numberOf(event);
      if (number) gym.showTip(event.clientX, event.clientY, told(outline, name, values, number - 1));
    });
    picture.addEventListener("pointerleave", gym.hideTip);
    return picture;
  }

  function bar(scale, value, index) {
    const shade = gym.colours.shade(scale, value) ?? { tone: "tone-none", strength: 0 };
    const reach = scale.kind === "two" ? MIDDLE : HEIGHT;
    const height = Math.max(1.5, shade.strength * reach);
    const top = scale.kind !== "two" ? HEIGHT - height : shade.tone === "tone-below" ? MIDDLE : MIDDLE - height;
    return s("rect", { class: `strip-bar ${shade.tone}`, x: index * WIDTH + 1, y: top, width: WIDTH - 2, height });
  }

  const mark = (kind, index) =>
    s("rect", { class: kind, x: index * WIDTH + 1, y: HEIGHT + 3, width: WIDTH - 2, height: 5 });

  function told(outline, name, values, index) {
    const more = [
      outline.invalid.includes(index) ? "invalid action" : "",
      outline.rewards[index] ? `reward ${format.signed(outline.rewards[index])}` : "",
    ].filter(Boolean);
    return [
      h("strong", null, `Turn ${index + 1}`),
      h("div", null, [`${gym.colours.label(name)} ${format.number(values[index])}`, ...more].join(" · ")),
    ];
  }

  /** The turns that one looks for first: where the model was least certain, where actions were invalid, rewards. */
  function found(outline) {
    const entropies = outline.means.entropy.map((value) => value ?? -1);
    const highest = entropies.reduce((best, value, index) => (value > entropies[best] ? index : best), 0);
    const rewarded = outline.rewards.flatMap((reward, index) => (reward ? [index] : []));
    return [
      entropies[highest] > 0
        ? [`highest entropy: ${format.number(entropies[highest])} in turn ${highest + 1}`, highest]
        : null,
      outline.invalid.length
        ? [
            `${format.plural(outline.invalid.length, "invalid action")}, first in turn ${outline.invalid[0] + 1}`,
            outline.invalid[0],
          ]
        : null,
      rewarded.length
        ? [`reward ${format.signed(outline.rewards[rewarded[0]])} in turn ${rewarded[0] + 1}`, rewarded[0]]
        : null,
    ].filter(Boolean);
  }

  const said = (outline) =>
    found(outline)
      .map(([text]) => text)
      .join("; ");

  /** The same as buttons. */
  const finds = (outline, go) =>
    h(
      "div",
      { class: "finds" },
      found(outline).map(([text, index]) =>
        h("button", { type: "button", class: "link", onclick: () => go(index + 1) }, text),
      ),
    );

  /** Mark the turn that is looked at. */
  function at(root, turn) {
    for (const one of root.querySelectorAll(".strip-turn"))
      one.classList.toggle("here", Number(one.dataset.strip) === turn);
  }

  gym.strip = { draw: strip, finds, at };
})();
