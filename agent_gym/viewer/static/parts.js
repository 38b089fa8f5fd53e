"use strict";
// Small pieces that several pages are made of.

(() => {
  const { h, href, format } = gym;

  /** How an episode ended: a word with a colour and a sign, so that neither alone has to be seen. */
  function outcome(row) {
    if (row.error) return h("span", { class: "badge failed", title: row.error }, "! failed");
    if (row.success) return h("span", { class: "badge success" }, "✓ success");
    if (row.truncated_by)
      return h("span", { class: "badge cut", title: "no success: ended by a limit" }, `○ limit: ${format.words(row.truncated_by)}`);
    return h("span", { class: "badge wrong" }, "× no success");
  }

  /** A label with its value. */
  const fact = (name, ...value) => h("div", { class: "fact" }, h("dt", null, name), h("dd", null, ...value));

  /** Labels with values; those without a value are left out. */
  const facts = (...pairs) =>
    h(
      "dl",
      { class: "facts" },
      pairs
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([name, value]) => fact(name, value)),
    );

  /** A sentence where there is nothing to show. */
  const empty = (...sentence) => h("p", { class: "empty" }, ...sentence);

  /** A page's title with what stands beside it. */
  const heading = (title, ...beside) => h("div", { class: "heading" }, h("h1", null, title), ...beside);

  /** Links from the run down to where the reader is. */
  function trail(...steps) {
    const items = steps.map(([text, to]) =>
      h("li", null, to ? h("a", { href: to }, text) : h("span", { "aria-current": "page" }, text)),
    );
    return h("nav", { class: "trail", "aria-label": "Where you are" }, h("ol", null, items));
  }

  /** A text, folded where it is long. */
  function long(text, { length = 1200, className = "text" } = {}) {
    const value = String(text ?? "");
    if (value.length <= length) return h("div", { class: className }, value);
    const body = h("div", { class: className }, value.slice(0, length) + " …");
    let open = false;
    const label = () => (open ? "Fold" : `Show all ${format.count(value.length)} characters`);
    const button = h("button", { type: "button", class: "link", "aria-expanded": "false" }, label());
    button.addEventListener("click", () => {
      open = !open;
      body.textContent = open ? value : value.slice(0, length) + " …";
      button.textContent = label();
      button.setAttribute("aria-expanded", String(open));
    });
    return h("div", { class: "long" }, body, button);
  }

  /** Something foldable whose content is made when it is first opened. */
  function fold(title, content, { open = false, className = "", id = null } = {}) {
    const body = h("div", { class: "fold-body" });
    const details = h("details", { class: `fold ${className}`, open, id }, h("summary", null, title), body);
    const fillOnce = () => {
      if (details.open && !body.hasChildNodes()) gym.append(body, [content()]);
    };
    details.addEventListener("toggle", fillOnce);
    fillOnce();
    return details;
  }

  /** Any JSON value as indented text. */
  const json = (value) => h("pre", { class: "json", tabindex: "0" }, JSON.stringify(value, null, 2));

  /**
   * A table that turns into cards on narrow screens.
   * @param columns {title, cell(row), number?: bool, className?} each; rows with `href` can be opened with Enter.
   */
  function table(columns, rows, { caption, link } = {}) {
    const head = h(
      "thead",
      null,
      h(
        "tr",
        null,
        columns.map((c) => h("th", { scope: "col", class: c.number ? "number" : c.className }, c.title)),
      ),
    );
    const body = h(
      "tbody",
      null,
      rows.map((row) => tableRow(columns, row, link)),
    );
    return h(
      "div",
      { class: "table-scroll" },
      h("table", { class: "cards" }, caption && h("caption", { class: "unseen" }, caption), head, body),
    );
  }

  /** What stands in a cell; one without anything stays empty, and is left out of cards. */
  function cellOf(content) {
    const some = [content].flat(Infinity).some((one) => one !== null && one !== undefined && one !== false && one !== "");
    return some ? h("div", { class: "cell" }, content) : null;
  }

  function tableRow(columns, row, link) {
    const to = link?.(row);
    const cells = columns.map((column) => {
      const classes = [column.number ? "number" : "", column.className ?? ""].join(" ").trim();
      return h(
        "td",
        { class: classes || null, "data-title": column.title },
        cellOf(column.cell(row)),
      );
    });
    const attributes = to ? { "data-row": "", tabindex: "0", class: "opens", "data-href": to } : {};
    return h("tr", attributes, cells);
  }

  /** A select with a label. */
  function select(label, name, options, value, changed) {
    const list = h("select", { id: `field-${name}`, name, onchange: (event) => changed(event.target.value) });
    for (const [key, text] of options)
      list.append(h("option", { value: key, selected: String(key) === String(value ?? "") }, text));
    list.value = String(value ?? "");
    return h("label", { class: "field" }, h("span", null, label), list);
  }

  /** A text or number field with a label; `changed` is called when typing has paused. */
  function input(label, name, value, changed, { type = "text", placeholder = "", className = "", step = null } = {}) {
    const field = h("input", {
      id: `field-${name}`,
      name,
      type,
      placeholder,
      step,
      value: value ?? "",
      autocomplete: "off",
    });
    field.addEventListener(
      "input",
      gym.settle(250, () => changed(field.value)),
    );
    return h("label", { class: `field ${className}` }, h("span", null, label), field);
  }

  /** Rows that come a page at a time: more are asked for when the end comes into sight, or by a button. */
  function pager(load, show, next) {
    const button = h("button", { type: "button", class: "more" }, "Show more");
    let cursor = next;
    let busy = false;
    async function more() {
      if (busy || cursor === null) return;
      busy = true;
      button.textContent = "Loading …";
      try {
        const page = await load(cursor);
        cursor = page.next ?? null;
        show(page);
        button.textContent = "Show more";
      } catch (error) {
        button.textContent = error.message;
      }
      busy = false;
      button.hidden = cursor === null;
    }
    button.hidden = !cursor;
    cursor = cursor ?? null;
    button.addEventListener("click", more);
    new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && more(), {
      rootMargin: "400px",
    }).observe(button);
    return button;
  }

  /** Rows of a list's first page: as many as were there when it was left, so that one finds the place again. */
  const rowsAtOnce = () => {
    const left = gym.isOffline ? null : gym.rowsLeft();
    return left > 50 ? Math.min(left, 500) : null;
  };

  /** A link to an episode. */
  const episodeLink = (run, id, ...text) => h("a", { href: href("episode", { run, id }) }, text.length ? text : id);

  gym.parts = {
    outcome,
    facts,
    empty,
    heading,
    trail,
    long,
    fold,
    json,
    table,
    tableRow,
    select,
    input,
    pager,
    rowsAtOnce,
    episodeLink,
  };
})();
