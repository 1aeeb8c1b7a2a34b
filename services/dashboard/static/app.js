// Shows the page that the address names, and keeps it live.

import { h, setText } from "./dom.js";
import { fetchJson, headingOf, pageOf } from "./pages.js";

/** Records are asked for again this long after something has changed, so that a storm of changes is one question. */
const RECORDS_PAUSE_MS = 1000;
/** The spans that plots can show. */
const WINDOWS = [["5 min", 300000], ["15 min", 900000], ["1 h", 3600000]];

const main = document.getElementById("main");
const link = document.getElementById("link");
for (const anchor of document.querySelectorAll("nav a:not(.brand)")) {
  if (anchor.getAttribute("href") === location.pathname) anchor.setAttribute("aria-current", "page");
}

function state(name, text) {
  link.className = name;
  setText(link, text);
}

/** Says what is wrong in place of the page. */
function fail(error) {
  main.replaceChildren(h("h1", {}, "Nothing to show"), h("p", { class: "problem", role: "alert" }, error));
  document.title = "Nothing to show – gridfaas";
  state("", "");
}

function windowChoice(plots) {
  const choices = WINDOWS.map(([label, ms], i) => {
    const input = h("input", { type: "radio", name: "window" });
    input.checked = i === 0;
    const choose = () => plots.forEach(({ plot }) => {
      plot.window = ms;
      plot.draw();
    });
    input.addEventListener("change", choose);
    if (i === 0) choose();
    return h("label", {}, input, label);
  });
  return h("fieldset", { class: "windows" }, h("legend", {}, "Plots show the last"), ...choices);
}

/** What tells that the records have changed: everything but the time and the passing use of CPU. */
function mark({ users, functions }) {
  return JSON.stringify([users.map((user) => user.balance), functions.map(({ waiting, running }) => [waiting, running])]);
}

async function show() {
  const page = pageOf(location.pathname);
  if (!page) return fail("There is no such page.");
  document.title = `${page.title} – gridfaas`;
  const problem = h("p", { class: "problem", role: "alert" });
  const figures = [...page.plots.map(({ plot }) => plot.element), ...(page.extra ?? [])];
  const plots = h("div", { class: figures.length === 3 ? "plots" : "plots wide" }, ...figures);
  let first;
  try {
    first = await fetchJson(page.api);
  } catch (error) {
    return fail(error.message);
  }
  main.replaceChildren(headingOf(page), problem, page.tiles.element, windowChoice(page.plots), plots, ...page.parts);

  let known = null;
  let asked = false;
  async function askRecords() {
    if (!page.records || asked) return;
    asked = true;
    await new Promise((done) => setTimeout(done, known === null ? 0 : RECORDS_PAUSE_MS));
    asked = false;
    try {
      page.records(await fetchJson(`${page.api}/records`));
    } catch (error) {
      setText(problem, error.message);
    }
  }
  function update(now) {
    setText(problem, now.unknown.join(". "));
    page.tiles.update(now);
    page.update(now);
    page.plots.forEach((plot) => plot.push(now));
    if (mark(now) !== known) {
      askRecords();
      known = mark(now);
    }
  }
  if (first.at_ms > 0) update(first);

  const events = new EventSource(`${page.api}/live`);
  events.addEventListener("open", async () => {
    state("live", "Live");
    // Also after a connection was lost: what was missed is drawn.
    try {
      const history = await fetchJson(`${page.api}/history`);
      page.plots.forEach((plot) => plot.load(history));
    } catch (error) {
      setText(problem, error.message);
    }
  });
  events.addEventListener("message", (event) => {
    const now = JSON.parse(event.data);
    if (now.at_ms > 0) update(now);
  });
  events.addEventListener("error", () => {
    // A new start has a new key, and does not let this page in.
    const isOver = events.readyState === EventSource.CLOSED;
    state("lost", isOver ? "Closed: open the new address" : "Connection lost, trying again");
  });
}

show();
