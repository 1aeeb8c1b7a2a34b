// Axes: round values to write beside them.

/** Round steps between two values, about `count` of them. */
export function ticks(min, max, count) {
  const span = max - min || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((step) => span / step <= count);
  const first = Math.ceil(min / step - 1e-9);
  const last = Math.floor(max / step + 1e-9);
  return { step, values: Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step) };
}

/** Decimals that tell steps of this width apart. */
export function decimals(step) {
  return Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
}

const TIME_STEPS = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600].map((s) => s * 1000);

/** Round times of day between two instants, at most `count` of them. */
export function timeTicks(begin, end, count) {
  const step = TIME_STEPS.find((step) => (end - begin) / step <= count) ?? 3600000;
  const shift = new Date(begin).getTimezoneOffset() * 60000;
  const first = Math.ceil((begin - shift) / step) * step + shift;
  const values = [];
  for (let at = first; at <= end; at += step) values.push(at);
  return { step, values };
}

/** A time of day, with seconds where the steps need them. */
export function timeOfDay(at, step = 1000) {
  const text = new Date(at).toLocaleTimeString("en-GB");
  return step % 60000 === 0 ? text.slice(0, 5) : text;
}
