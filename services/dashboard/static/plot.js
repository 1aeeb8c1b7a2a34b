// Plots over time, and bars, as SVG.

import { h, setText, svg } from "./dom.js";
import { decimals, ticks, timeOfDay, timeTicks } from "./scale.js";

/** As far back as the server tells. */
const REACH_MS = 3600000;
/** The shortest span that is drawn, so that a plot does not begin as a wall. */
const SPAN_MIN_MS = 60000;

/**
 * Step lines over time. `series` are `{ key, label, colour }`; a value holds until the next, and null is a gap.
 * With the pointer, or with the arrow keys, a moment can be chosen whose values the legend then shows.
 */
export class Plot {
  constructor({ title, unit, series, show, whole = false }) {
    Object.assign(this, { title, unit, series, show, whole });
    this.points = [];
    this.window = REACH_MS;
    this.cursor = null;
    this.moment = h("span", { class: "moment" });
    this.values = series.map(() => h("b"));
    const entries = series.map(({ label, colour }, i) =>
      h("li", {}, swatch(colour), label, this.values[i]));
    this.svg = svg("svg", { class: "plot", tabindex: "0", role: "slider", "aria-label": `${title}, ${unit}: moment`, "aria-valuemin": "0" });
    this.element = h("figure", {}, h("figcaption", {}, h("h2", {}, title), this.moment, h("ul", { class: "legend" }, ...entries)), this.svg);
    this.svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.#choose(null));
    this.svg.addEventListener("blur", () => this.#choose(null));
    this.svg.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  /** Begins with columns as the server keeps them. */
  load(columns) {
    this.points = columns.at_ms.map((at, i) => ({ at, values: this.series.map(({ key }) => number(columns[key][i])) }));
    this.draw();
  }

  /** Adds a moment; without values it is one of which nothing is known. */
  push(at, values) {
    const last = this.points.at(-1);
    if (last && last.at >= at) return;
    this.points.push({ at, values: this.series.map(({ key }) => number(values?.[key])) });
    const begin = at - REACH_MS;
    while (this.points.length > 1 && this.points[1].at <= begin) this.points.shift();
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth;
    const height = this.svg.clientHeight;
    if (!width || !height) return;
    const end = this.points.at(-1)?.at ?? Date.now();
    const first = Math.max(this.points[0]?.at ?? end, end - this.window);
    const begin = Math.min(first, end - SPAN_MIN_MS);
    const seen = this.points.filter((point, i) => point.at >= begin || (this.points[i + 1]?.at ?? end) > begin);
    const known = seen.flatMap((point) => point.values).filter((value) => value !== null);
    const y = this.#axis(Math.min(0, ...known), Math.max(0, ...known));
    const left = 10 + 6.6 * Math.max(...y.labels.map((label) => label.length));
    const frame = { left, right: width - 8, top: 24, bottom: height - 20 };
    this.frame = { ...frame, begin, end };
    const toX = (at) => frame.left + ((Math.max(at, begin) - begin) / (end - begin)) * (frame.right - frame.left);
    const toY = (value) => frame.bottom - ((value - y.min) / (y.max - y.min)) * (frame.bottom - frame.top);
    this.toX = toX;
    const x = timeTicks(begin, end, Math.max(2, Math.floor(width / 90)));
    const parts = [svg("text", { x: 0, y: 10 }, this.unit)];
    y.values.forEach((value, i) => {
      const at = toY(value).toFixed(1);
      parts.push(svg("path", { class: value === 0 ? "grid zero" : "grid", d: `M${frame.left} ${at}H${frame.right}` }));
      parts.push(svg("text", { class: "y", x: frame.left - 6, y: Number(at) + 4 }, y.labels[i]));
    });
    for (const at of x.values) {
      const place = toX(at);
      parts.push(svg("path", { class: "grid", d: `M${place.toFixed(1)} ${frame.bottom}v4` }));
      if (place > frame.left + 10 && place < frame.right - 18) {
        parts.push(svg("text", { class: "x", x: place.toFixed(1), y: height - 5 }, timeOfDay(at, x.step)));
      }
    }
    this.series.forEach(({ colour }, i) => parts.push(svg("path", { class: `line ${colour}`, d: steps(seen, i, toX, toY, frame.right) })));
    this.mark = svg("path", { class: "cursor" });
    this.svg.replaceChildren(...parts, this.mark);
    this.#tell();
  }

  #axis(least, most) {
    const top = most === least ? least + 1 : most + (most - least) * 0.06;
    const bottom = least < 0 ? least - (most - least) * 0.06 : 0;
    let { step, values } = ticks(bottom, top, 5);
    if (this.whole && step < 1) ({ step, values } = ticks(bottom, Math.max(top, 4), 4));
    return { min: bottom, max: this.whole ? Math.max(top, 1.06) : top, values, labels: values.map((value) => value.toFixed(decimals(step))) };
  }

  #point(x) {
    if (!this.frame) return;
    const { left, right, begin, end } = this.frame;
    this.#choose(begin + ((Math.min(Math.max(x, left), right) - left) / (right - left)) * (end - begin));
  }

  #key(event) {
    if (!this.frame) return;
    const { begin, end } = this.frame;
    const now = this.cursor ?? end;
    const step = Math.max(1000, (end - begin) / 60);
    const moves = { ArrowLeft: now - step, ArrowDown: now - step, ArrowRight: now + step, ArrowUp: now + step, Home: begin, End: end, Escape: null };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const to = moves[event.key];
    this.#choose(to === null ? null : Math.min(Math.max(to, begin), end));
  }

  #choose(at) {
    this.cursor = at;
    this.#tell();
  }

  /** Writes the values of the chosen moment, or of the last one, into the legend and for a screen reader. */
  #tell() {
    if (!this.frame) return;
    const at = this.cursor ?? this.frame.end;
    const point = this.points.findLast((point) => point.at <= at);
    const told = this.series.map((_, i) => {
      const value = point?.values[i] ?? null;
      return value === null ? "–" : this.show(value);
    });
    told.forEach((text, i) => setText(this.values[i], text));
    const moment = this.cursor === null ? "now" : timeOfDay(at);
    setText(this.moment, moment);
    const { begin, end, top, bottom } = this.frame;
    const place = this.toX(at).toFixed(1);
    this.mark.setAttribute("d", this.cursor === null ? "" : `M${place} ${top}V${bottom}`);
    this.svg.setAttribute("aria-valuemax", Math.round((end - begin) / 1000));
    this.svg.setAttribute("aria-valuenow", Math.round((at - begin) / 1000));
    this.svg.setAttribute("aria-valuetext", `${moment}: ${this.series.map(({ label }, i) => `${label} ${told[i]}`).join(", ")}`);
  }
}

function number(value) {
  return value === null || value === undefined ? null : Number(value);
}

/** The path of one series: level until the next point, and with gaps where nothing is known. */
function steps(points, i, toX, toY, right) {
  let path = "";
  let drawing = false;
  points.forEach((point, n) => {
    const value = point.values[i];
    if (value === null) {
      drawing = false;
      return;
    }
    const [x, y] = [toX(point.at).toFixed(1), toY(value).toFixed(1)];
    path += drawing ? `V${y}` : `M${x} ${y}`;
    const next = points[n + 1];
    path += `H${next ? toX(next.at).toFixed(1) : right}`;
    drawing = true;
  });
  return path;
}

function swatch(colour) {
  return svg("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" }, svg("path", { class: `line ${colour}`, d: "M0 5h22" }));
}

/** One bar for each value, `{ value, bad }`, from the left. */
export class Bars {
  constructor({ title, unit, describe }) {
    Object.assign(this, { unit, describe });
    this.bars = [];
    this.svg = svg("svg", { class: "plot", role: "img" });
    this.note = h("span", { class: "moment" });
    this.element = h("figure", {}, h("figcaption", {}, h("h2", {}, title), this.note), this.svg);
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  set(bars) {
    this.bars = bars;
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth;
    const height = this.svg.clientHeight;
    if (!width || !height) return;
    const most = Math.max(...this.bars.map(({ value }) => value), 0) || 1;
    const { step, values } = ticks(0, most * 1.06, 5);
    const labels = values.map((value) => value.toFixed(decimals(step)));
    const left = 10 + 6.6 * Math.max(...labels.map((label) => label.length));
    const [right, top, bottom] = [width - 8, 24, height - 8];
    const toY = (value) => bottom - (value / (most * 1.06)) * (bottom - top);
    const parts = [svg("text", { x: 0, y: 10 }, this.unit)];
    values.forEach((value, i) => {
      parts.push(svg("path", { class: value === 0 ? "grid zero" : "grid", d: `M${left} ${toY(value).toFixed(1)}H${right}` }));
      parts.push(svg("text", { class: "y", x: left - 6, y: toY(value) + 4 }, labels[i]));
    });
    const pitch = Math.min(28, (right - left) / Math.max(1, this.bars.length));
    this.bars.forEach(({ value, bad, label }, i) => {
      const bar = { class: bad ? "bar bad" : "bar", x: (left + i * pitch + pitch * 0.1).toFixed(1), y: toY(value).toFixed(1), width: (pitch * 0.8).toFixed(1), height: Math.max(0.5, bottom - toY(value)).toFixed(1) };
      parts.push(svg("rect", bar, svg("title", {}, label)));
    });
    this.svg.replaceChildren(...parts);
    const text = this.describe(this.bars);
    setText(this.note, text);
    this.svg.setAttribute("aria-label", text);
  }
}
