// Tables and lists that are kept up to date in place.

import { h, keyed, setText } from "./dom.js";

/**
 * A table with a heading. `columns` are `{ label, text, href, mark, number }`: the last three are optional and make a link,
 * a coloured mark of that name, and a figure that is set flush right.
 */
export class Table {
  constructor({ title, columns, key, empty, note }) {
    Object.assign(this, { columns, key });
    const id = `table-${title.toLowerCase().replace(/\W+/g, "-")}`;
    const heading = columns.map(({ label, number }) => h("th", { scope: "col", class: number ? "number" : null }, label));
    this.body = h("tbody");
    this.table = h("table", { "aria-labelledby": id }, h("thead", {}, h("tr", {}, ...heading)), this.body);
    this.empty = h("p", { class: "note" }, empty);
    this.note = h("p", { class: "note" }, note ?? "");
    this.sheet = h("div", { class: "sheet" }, this.table);
    this.element = h("section", { "aria-labelledby": id }, h("h2", { id }, title), this.note, this.empty, this.sheet);
    this.update([]);
  }

  /** `more` tells what is not listed. */
  update(rows, more = null) {
    this.empty.hidden = rows.length > 0;
    this.sheet.hidden = rows.length === 0;
    if (more !== null) setText(this.note, more);
    this.note.hidden = this.note.textContent === "";
    keyed(this.body, rows, this.key, () => this.#row(), (row, data) => this.#fill(row, data));
  }

  #row() {
    const cells = this.columns.map(({ label, number, href, mark }) => {
      const inner = href ? h("a") : mark ? h("span", { class: "mark" }) : null;
      return h("td", { "data-label": label, class: number ? "number" : null }, inner);
    });
    return h("tr", {}, ...cells);
  }

  #fill(row, data) {
    this.columns.forEach(({ text, href, mark }, i) => {
      const cell = row.cells[i];
      const inner = cell.firstElementChild ?? cell;
      setText(inner, String(text(data)));
      if (href) {
        const to = href(data);
        if (to) inner.setAttribute("href", to);
        else inner.removeAttribute("href");
      }
      if (mark) inner.className = `mark ${mark(data)}`;
    });
  }
}

/** Names with one value each. `entries` are `{ label, text, href, mark, wide, small }`. */
export class Tiles {
  constructor(entries) {
    this.entries = entries;
    this.values = entries.map(({ href, mark }) => (href ? h("a") : mark ? h("span", { class: "mark" }) : h("span")));
    this.element = h("dl", { class: "tiles" }, ...entries.map(({ label, wide, small }, i) =>
      h("div", { class: wide ? "wide" : null }, h("dt", {}, label), h("dd", { class: small ? "small" : null }, this.values[i]))));
  }

  update(now) {
    this.entries.forEach(({ text, href, mark }, i) => {
      setText(this.values[i], String(text(now)));
      if (href) this.values[i].setAttribute("href", href(now));
      if (mark) this.values[i].className = `mark ${mark(now)}`;
    });
  }
}

/** What failed, each with the end of its log, which is fetched when it is opened. */
export class Failures {
  constructor({ title, empty, summary, key, load }) {
    Object.assign(this, { summary, key, load });
    this.empty = h("p", { class: "note" }, empty);
    this.list = h("div");
    this.element = h("section", { "aria-labelledby": "failures" }, h("h2", { id: "failures" }, title), this.empty, this.list);
  }

  update(rows) {
    this.empty.hidden = rows.length > 0;
    keyed(this.list, rows, this.key, (row) => this.#entry(row), (entry, row) => setText(entry.firstElementChild, this.summary(row)));
  }

  #entry(row) {
    const log = h("pre", { tabindex: "0", "aria-label": "End of the log" }, "…");
    const entry = h("details", {}, h("summary"), log);
    entry.addEventListener("toggle", async () => {
      if (entry.open) setText(log, await this.load(row));
    });
    return entry;
  }
}
