// Figures as people read them. Amounts come as decimal strings and stay as they are.

export const grc = (amount) => `${amount} GRC`;

/** Millicores as cores, to the millicore. */
export const cores = (millicores) => `${(millicores / 1000).toFixed(3)} cores`;

/** Microseconds as seconds with three decimals, cut as in `gridfaas ps`. */
export function seconds(microseconds) {
  return `${(Math.floor(microseconds / 1000) / 1000).toFixed(3)} s`;
}

/** Milliseconds of wall time, in the two largest units. */
export function lasts(ms) {
  const s = Math.floor(ms / 1000);
  const units = [["d", Math.floor(s / 86400)], ["h", Math.floor(s / 3600) % 24], ["min", Math.floor(s / 60) % 60], ["s", s % 60]];
  const first = units.findIndex(([, count]) => count > 0);
  if (first < 0) return "0 s";
  return units.slice(first, first + 2).filter(([, count]) => count > 0).map(([unit, count]) => `${count} ${unit}`).join(" ");
}

/** An instant, in the reader's time zone: the time of a moment today, else with its day. */
export function when(instant) {
  const date = new Date(instant);
  const time = date.toLocaleTimeString("en-GB");
  if (date.toDateString() === new Date().toDateString()) return time;
  const two = (number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${time}`;
}

export const mebibytes = (count) => (count >= 10240 ? `${(count / 1024).toFixed(1)} GiB` : `${count} MiB`);
